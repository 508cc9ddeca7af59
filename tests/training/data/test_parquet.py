"""Converted corpora as examples: values in memory, arrays and clips on disk, and the same samples as from files."""

import json
import pickle
import re
from pathlib import Path

import datasets
import numpy as np
import pytest
from torch.utils.data import DataLoader

from tests.helpers.media_files import gray_frames, sine, write_video
from tests.helpers.release_files import (
    REAL,
    mmsa,
    mmsa_split,
    sims_row,
    write_clip,
    write_csv,
    write_pickle,
)
from training.converters import folder as folder_converter
from training.converters import mmsa as mmsa_converter
from training.converters import sims
from training.converters.core import shards
from training.data.collator import SampleCollator
from training.data.dataset import EGMFDataset, load_examples
from training.data.parquet import StoredFeatures, StoredMedia, is_converted, load_converted
from training.trainer.checkpointing import media_digest


QUIET = ("--no_progress", "--num_workers", "1")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def release(tmp_path, monkeypatch):
    """A converted corpus in several shards and row groups, and its original columns."""
    monkeypatch.setattr(shards, "ROWS_PER_SHARD", 4)
    monkeypatch.setattr(shards, "BYTES_PER_GROUP", 1000)
    values = mmsa(train=11, valid=4, test=5)
    values["train"]["vision"][2] = 0
    mixed = mmsa_split(3, "u")
    mixed["mask"] = [0] * 3
    mixed["regression_labels"][:] = np.nan
    source = write_pickle(tmp_path / "a.pkl", values | {"train_mix": mixed})
    mmsa_converter.main([str(source), str(tmp_path / "dest"), "--corpus", "sims_v2", *QUIET])
    return tmp_path / "dest", values


def test_examples_match_the_release(release, caplog):
    folder, values = release
    caplog.set_level("INFO")
    rows = load_examples(folder)
    assert "3 examples without an `answer` are left out, all of split unlabeled." in caplog.text
    assert len(load_examples(folder, "unlabeled", with_answers=False)) == 3
    assert [row["id"] for row in rows] == [name for split in values.values() for name in split["id"]]
    assert {row["split"] for row in rows} == {"train", "validation", "test"}
    for row, i in zip(rows, range(11), strict=False):
        assert row["text"] == values["train"]["raw_text"][i]
        assert row["answer"] == pytest.approx(values["train"]["regression_labels"][i], abs=1e-6)
        for name, column in (("audio_features", "audio"), ("video_features", "vision")):
            if (name, i) == ("video_features", 2):
                assert row[name] is None
                continue
            assert isinstance(row[name], StoredFeatures)
            found = np.asarray(row[name], dtype=np.float32)
            assert np.array_equal(found, values["train"][column][i, :REAL].astype(np.float32))
            found[:] = 0  # a copy: the file cannot be written to
            assert np.asarray(row[name]).any()


@pytest.mark.parametrize("media", ["paths", "embed"])
def test_media_digest_depends_on_content_not_location(tmp_path, media):
    """The same media in another folder give the same digest."""

    def mark(place, steps=4, name="a"):
        source = tmp_path / place / "source"
        dest = tmp_path / place / "corpus"
        source.mkdir(parents=True)
        write_video(source / f"{name}.mp4", gray_frames(3, 16, 16), audio=sine(200, 0.24, 16_000))
        np.save(source / "a.npy", np.ones((steps, 3), np.float32))
        row = {"id": "a", "split": "train", "task": "sentiment", "text": "fine", "answer": 1.0}
        row |= {"video": f"{name}.mp4", "audio_features": "a.npy"}
        (source / "metadata.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
        folder_converter.main([str(source), str(dest), "--media", media, *QUIET])
        return media_digest(load_examples(dest), dest)

    first = mark("first")
    assert mark("second") == first
    assert mark("steps", steps=5) != first
    assert mark("name", name="b") != first


def test_examples_can_be_sent_to_workers(release):
    rows = load_converted(release[0])
    again = pickle.loads(pickle.dumps(rows))  # noqa: S301
    for row, other in zip(rows, again, strict=True):
        assert np.array_equal(np.asarray(row["audio_features"]), np.asarray(other["audio_features"]))
    assert len(pickle.dumps(rows)) < 200_000


def test_other_manifest(release):
    folder, _ = release
    wanted = json.loads((folder / "splits/video_disjoint.json").read_text(encoding="utf-8"))["splits"]
    for row in load_converted(folder, "video_disjoint"):
        assert row["id"] in wanted[row["split"]]
    with pytest.raises(ValueError, match="no split manifest 'x'. Use one of official, video_disjoint"):
        load_converted(folder, "x")
    (folder / "splits/official.json").write_text('{"splits": {"train": []}}')
    with pytest.raises(ValueError, match="is not in splits/official.json. Convert it again"):
        load_converted(folder)


def test_is_converted(release, tmp_path):
    assert is_converted(release[0])
    assert not is_converted(tmp_path)


@pytest.mark.parametrize("workers", [0, 2])
def test_collator_gives_the_same_for_a_corpus_and_arrays(release, make_processor, workers):
    folder, values = release
    processor = make_processor()
    rows = [row for row in load_converted(folder) if row["split"] == "train"]
    collator = SampleCollator(processor)
    dataset = EGMFDataset(rows, processor, with_labels=True)
    assert dataset.ids_without(["video"]) == [rows[2]["id"]]
    loader = DataLoader(dataset, batch_size=11, collate_fn=collator, num_workers=workers)
    found = next(iter(loader))
    train = values["train"]
    plain = [
        {
            **{name: row[name] for name in ("id", "split", "task", "text", "answer")},
            "audio_features": train["audio"][i, :REAL],
            "video_features": train["vision"][i, :REAL] if i != 2 else None,
        }
        for i, row in enumerate(rows)
    ]
    plain_set = EGMFDataset(plain, processor, with_labels=True)
    expected = collator([plain_set[i] for i in range(len(plain))])
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert (found[name] == value).all(), name


def test_paths_are_absolute(tmp_path):
    clip = write_clip(tmp_path / "SIMS/Raw/v/1.mp4")
    write_csv(tmp_path / "SIMS/meta.csv", [sims_row("v", "1"), sims_row("v", "2")])
    sims.main([str(tmp_path / "SIMS"), str(tmp_path / "dest"), "--corpus", "sims_v2", *QUIET])
    rows = load_converted(tmp_path / "dest")
    assert Path(rows[0]["video"]).is_absolute() and Path(rows[0]["video"]).samefile(clip)
    assert rows[1]["video"] is None


def test_embedded_clips_are_read_on_demand(tmp_path):
    clip = write_clip(tmp_path / "SIMS/Raw/v/1.mp4")
    write_csv(tmp_path / "SIMS/meta.csv", [sims_row("v", "1"), sims_row("v", "2")])
    arguments = ["--corpus", "sims_v2", "--media", "embed", *QUIET]
    sims.main([str(tmp_path / "SIMS"), str(tmp_path / "dest"), *arguments])
    rows = load_converted(tmp_path / "dest")
    assert isinstance(rows[0]["video"], StoredMedia) and rows[1]["video"] is None
    assert rows[0]["video"].read() == clip.read_bytes()


def test_turns_without_a_speaker(tmp_path):
    (tmp_path / "mine").mkdir()
    row = {"text": "a", "answer": "joy", "context": [["Ann", "Hi."], "Well"]}
    (tmp_path / "mine/metadata.jsonl").write_text(json.dumps(row))
    folder_converter.main([str(tmp_path / "mine"), str(tmp_path / "dest"), *QUIET])
    assert load_converted(tmp_path / "dest")[0]["context"] == [["Ann", "Hi."], "Well"]


def test_corpora_of_the_same_name_are_not_confused(tmp_path):
    """A corpus that was converted again is read again, not from a cache by the folder's name."""

    def convert(place, answer):
        source = tmp_path / f"{place}-{answer}"
        source.mkdir()
        row = {"id": "a", "split": "train", "task": "sentiment", "text": "fine", "answer": answer}
        (source / "metadata.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
        dest = tmp_path / place / "corpus"
        dest.parent.mkdir(exist_ok=True)
        folder_converter.main([str(source), str(dest), "--overwrite", *QUIET])
        (code,) = re.findall(r"```python\n(.*?)```", (dest / "README.md").read_text(encoding="utf-8"), re.DOTALL)
        read = {}
        exec(code.replace("path/to/this/folder", str(dest)), read)  # noqa: S102
        assert [row["answer"] for row in read["dataset"]["train"]] == [answer]
        return [row["answer"] for row in load_converted(dest)]

    assert convert("here", 1.0) == [1.0]
    assert convert("there", 2.0) == [2.0]
    assert convert("here", 3.0) == [3.0]
