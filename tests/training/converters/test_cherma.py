"""Conversion of CHERMA's JSON lists and .npy files: examples, quirks and refused layouts."""

import json

import numpy as np
import pytest

from tests.helpers.release_files import AUDIO_WIDTH, VIDEO_WIDTH, reasons, write_json
from training.converters import cherma


def cherma_entry(name, label="高兴", **changes):
    entry = {
        "audio_file": f"{name}.wav",
        "video_file": f"{name}.mp4",
        "txt_label": "平静",
        "audio_label": "愤怒",
    }
    return entry | {"visual_label": label, "video_label": label} | changes


def write_cherma(folder, splits):
    rng = np.random.default_rng(0)
    for split, entries in splits.items():
        write_json(folder / f"{split}.json", entries)
        for entry in entries:
            name = entry["audio_file"].removesuffix(".wav")
            for kind, ending, width in (
                ("text", "", 7),
                ("audio", "", AUDIO_WIDTH),
                ("visual", ".mp4", VIDEO_WIDTH),
            ):
                path = folder / kind / split / f"{name}{ending}.npy"
                path.parent.mkdir(parents=True, exist_ok=True)
                np.save(path, rng.normal(size=(4, width)).astype(np.float32))


@pytest.fixture
def cherma_folder(tmp_path):
    folder = tmp_path / "CHERMA0723"
    labels = ["惊奇", "悲伤", "平静", "高兴", "恐惧", "厌恶", "愤怒"]
    write_cherma(
        folder,
        {
            "train": [cherma_entry(f"00{i}", label) for i, label in enumerate(labels)],
            "dev": [cherma_entry("v1"), cherma_entry("v2")],
            "test": [cherma_entry("t1")],
        },
    )
    return folder


def test_cherma_rows(convert, cherma_folder):
    found, table = convert(cherma, cherma_folder)
    assert [(row["id"], row["answer"]) for row in found["train"]] == [
        (f"00{i}", label) for i, label in enumerate(["惊奇", "悲伤", "平静", "高兴", "恐惧", "厌恶", "愤怒"])
    ]
    row = found["test"][0]
    assert (row["label_text"], row["label_audio"], row["label_video"]) == ("平静", "愤怒", "高兴")
    assert (row["text"], row["task"], row["audio_file"]) == (None, "cherma", "t1.wav")
    assert np.array_equal(np.float32(row["audio_features"]), np.load(cherma_folder / "audio/test/t1.npy"))
    assert np.array_equal(np.float32(row["video_features"]), np.load(cherma_folder / "visual/test/t1.mp4.npy"))
    assert "text_features" not in row
    assert table["repaired"] == table["dropped"] == {}


def test_cherma_text_features(convert, cherma_folder):
    row = convert(cherma, cherma_folder, "--text_features")[0]["validation"][1]
    assert np.array_equal(np.float32(row["text_features"]), np.load(cherma_folder / "text/dev/v2.npy"))


def test_cherma_quirks(convert, cherma_folder):
    audio = cherma_folder / "audio/train"
    visual = cherma_folder / "visual/train"
    (audio / "000.npy").write_bytes((audio / "000.npy").read_bytes()[:-7])
    (visual / "001.mp4.npy").unlink()
    np.save(audio / "002.npy", np.ones((3, AUDIO_WIDTH + 1)))
    np.save(visual / "003.mp4.npy", np.zeros((3, VIDEO_WIDTH)))
    np.save(audio / "004.npy", np.ones(AUDIO_WIDTH))  # one vector
    for path in (audio / "005.npy", visual / "005.mp4.npy"):
        path.unlink()
    entries = json.loads((cherma_folder / "train.json").read_text(encoding="utf-8"))
    entries[6]["video_label"] = "快乐"
    entries[4]["txt_label"] = "unsure"
    write_json(cherma_folder / "train.json", [*entries, cherma_entry("t1")])
    found, table = convert(cherma, cherma_folder)
    assert [row["id"] for row in found["train"]] == ["000", "001", "002", "003", "004"]
    assert len(found["test"]) == 1
    assert reasons(table, "repaired") == {
        "audio features cannot be read: left out": ["000"],
        "audio features missing: left out": ["005"],
        f"audio features whose width is not {AUDIO_WIDTH}: left out": ["002"],
        "label_text is not a label of the task: left out": ["004"],
        "video features are all padding: left out": ["003"],
        "video features missing: left out": ["001", "005"],
    }
    assert reasons(table, "dropped") == {
        "also in split test: left out of train": ["t1"],
        "no usable features": ["005"],
        "unknown label '快乐'": ["006"],
    }
    assert table["rows"]["train"] == {"read": 8, "kept": 5, "repaired": 5, "dropped": 3}
    assert found["train"][4]["audio_features"] == [[1.0] * AUDIO_WIDTH]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "dev.json").unlink(), "has no valid.json or val.json or dev.json"),
        (
            lambda folder: (folder / "test.json").write_text('[{"audio_file": "x'),
            "test.json is not JSON, or was cut off",
        ),
        (
            lambda folder: write_json(folder / "test.json", [{"audio_file": "x.wav"}]),
            "entry 0: no video_file, txt_label",
        ),
        (
            lambda folder: write_json(folder / "test.json", [cherma_entry("a"), cherma_entry("a", audio_file=None)]),
            "test.json, entry 1: audio_file is None; it must be the name of a file",
        ),
        (lambda folder: write_json(folder / "test.json", []), "test.json has no entries. Download it again"),
        (
            lambda folder: write_json(folder / "dev.json", json.loads((folder / "test.json").read_text("utf-8"))),
            "have the same content, so two splits would have the same examples",
        ),
    ],
)
def test_cherma_bad_layout_is_refused(refuse, cherma_folder, change, message):
    change(cherma_folder)
    assert message in refuse(cherma, cherma_folder)


def test_cherma_names_that_no_file_can_have(convert, cherma_folder):
    entries = [cherma_entry("x" * 5000), cherma_entry("t1", video_file="t2.mp4")]
    write_json(cherma_folder / "test.json", entries)
    found, table = convert(cherma, cherma_folder)
    assert [row["id"] for row in found["test"]] == ["t1"]
    assert reasons(table, "dropped") == {"no usable features": ["x" * 5000]}
    assert reasons(table, "notes") == {
        "video_file of another name than audio_file, by which the features are found": ["t1"]
    }
