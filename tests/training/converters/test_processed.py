"""Conversion of the processed pickles of MELD and CHERMA: examples, quirks and refused layouts."""

import numpy as np
import pytest

from tests.helpers.release_files import AUDIO_WIDTH, REAL, STEPS, VIDEO_WIDTH, reasons, write_pickle
from training.converters import processed


def processed_entries(labels, seed=0):
    rng = np.random.default_rng(seed)
    entries = []
    for number, label in enumerate(labels):
        audio = rng.normal(size=(STEPS, AUDIO_WIDTH))
        video = rng.normal(size=(STEPS, VIDEO_WIDTH))
        audio[REAL:] = video[4:] = 0
        features = {
            "text": f"say “{number}”",
            "audio": audio.astype(np.float32),
            "video": video,
            "audio_len": REAL,
        }
        entries.append({"label": label, "features": features | {"video_len": np.int64(4)}})
    return entries


@pytest.mark.parametrize(
    ("corpus", "labels"),
    [
        ("meld", ["neutral", "surprise", "fear", "sadness", "joy", "disgust", "anger"]),
        ("cherma", ["愤怒", "厌恶", "恐惧", "高兴", "平静", "悲伤", "惊奇"]),
    ],
)
def test_processed_rows(tmp_path, convert, corpus, labels):
    entries_of = {}
    for seed, split in enumerate(("train", "validation", "test")):
        entries_of[split] = processed_entries(labels[::-1], seed)
        name = {"validation": "valid"}.get(split, split)
        write_pickle(tmp_path / f"source/{corpus.upper()}/{corpus}_{name}.pkl", entries_of[split])
    found, table = convert(processed, tmp_path / "source", "--corpus", corpus)
    assert set(found) == {"train", "validation", "test"}
    for split, rows in found.items():
        assert [row["answer"] for row in rows] == labels[::-1]
        for number, row in enumerate(rows):
            features = entries_of[split][number]["features"]
            assert (row["id"], row["text"], row["task"]) == (
                f"{split}_{number:05d}",
                features["text"],
                corpus,
            )
            assert np.array_equal(np.float32(row["audio_features"]), features["audio"][:REAL])
            assert np.array_equal(np.float32(row["video_features"]), features["video"][:4].astype(np.float32))
    assert table["repaired"] == table["dropped"] == {}


def test_processed_quirks(tmp_path, convert):
    entries = processed_entries(["joy", "happy", "anger", "fear", "fear", "fear"])
    entries[2]["features"]["audio"][:] = 0
    entries[3]["features"]["video"] = np.ones((4, VIDEO_WIDTH + 2))
    entries[4]["features"].update(audio_len=-1, text="")
    entries[5]["features"].update(text=" ", audio=np.zeros((2, AUDIO_WIDTH)), video=np.zeros((2, VIDEO_WIDTH)))
    for split in ("train", "valid", "test"):
        chosen = {"train": entries, "valid": entries[:1], "test": processed_entries(["joy"], seed=1)}[split]
        write_pickle(tmp_path / f"source/meld_{split}.pkl", chosen)
    found, table = convert(processed, tmp_path / "source", "--corpus", "meld")
    assert [row["id"] for row in found["train"]] == [
        "train_00000",
        "train_00002",
        "train_00003",
        "train_00004",
    ]
    assert reasons(table, "dropped") == {
        "neither text nor features": ["train_00005"], "unknown label 'happy'": ["train_00001"],
    }  # fmt: skip
    assert reasons(table, "repaired") == {
        "audio features are all padding: left out": ["train_00002", "train_00005"],
        "invalid stated length: taken from the vectors": ["train_00004"],
        "video features are all padding: left out": ["train_00005"],
        f"video features whose width is not {VIDEO_WIDTH}: left out": ["train_00003"],
    }
    assert table["rows"]["train"] == {"read": 6, "kept": 4, "repaired": 3, "dropped": 2}
    assert len(found["train"][3]["audio_features"]) == REAL


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": 1}, "must hold a list, not a dict"),
        ([], "meld_train.pkl has no entries. Download it again"),
        ([{"label": "joy"}], "entry 0: no text, audio, video, audio_len, video_len"),
        (
            [{"features": dict.fromkeys(("text", "audio", "video", "audio_len", "video_len"))}],
            "entry 0: no label",
        ),
        ([3], "entry 0: no text"),
        (
            [
                {
                    "label": "joy",
                    "features": {"text": "a", "audio": 1, "video": 2, "audio_len": 1, "video_len": 1},
                }
            ],
            "audio holds no vectors",
        ),
    ],
)
def test_processed_bad_layout_is_refused(tmp_path, refuse, value, message):
    for split in ("train", "valid", "test"):
        write_pickle(tmp_path / f"source/meld_{split}.pkl", value)
    assert message in refuse(processed, tmp_path / "source", "--corpus", "meld")


def test_missing_processed_file_is_named(tmp_path, refuse):
    write_pickle(tmp_path / "source/meld_train.pkl", processed_entries(["joy"]))
    assert "has no meld_valid.pkl" in refuse(processed, tmp_path / "source", "--corpus", "meld")


def test_processed_split_that_is_another_one_is_refused(tmp_path, refuse):
    for split in ("train", "valid", "test"):
        write_pickle(tmp_path / f"source/meld_{split}.pkl", processed_entries(["joy"], seed=int(split == "train")))
    said = refuse(processed, tmp_path / "source", "--corpus", "meld")
    assert "meld_valid.pkl and" in said and "have the same content" in said


def test_processed_transcripts_that_are_not_text(tmp_path, convert):
    entries = processed_entries(["joy", "fear", "anger"])
    entries[0]["features"]["text"] = np.zeros(3)
    entries[1]["features"]["text"] = b"caf\xe9"
    for number, split in enumerate(("train", "valid", "test")):
        chosen = entries if split == "train" else processed_entries(["joy"], seed=number)
        write_pickle(tmp_path / f"source/meld_{split}.pkl", chosen)
    found, table = convert(processed, tmp_path / "source", "--corpus", "meld")
    assert [row["text"] for row in found["train"]] == ["", "caf", "say “2”"]
    assert reasons(table, "repaired") == {
        "transcript that is not text: left out": ["train_00000"],
        "transcript with bytes that are not UTF-8: spaces instead": ["train_00001"],
    }
