"""Conversion of MMSA's feature pickles: examples, quirks of the releases, and refused layouts."""

import json
import re

import datasets
import numpy as np
import pytest

from tests.helpers.release_files import (
    AUDIO_WIDTH,
    REAL,
    STEPS,
    VIDEO_WIDTH,
    mmsa,
    mmsa_split,
    reasons,
    write_pickle,
)
from training.converters import mmsa as mmsa_converter


QUIET = ["--no_progress", "--num_workers", "1"]


def pickled(tmp_path, value, protocol=4):
    return write_pickle(tmp_path / "source/a.pkl", value, protocol)


@pytest.mark.parametrize(
    ("corpus", "task", "dtype", "protocol"),
    [
        ("mosi", "sentiment", "float32", 2),
        ("mosei", "mosei", "float64", 4),
        ("sims_v2", "sims_v2", "float32", 5),
    ],
)
def test_mmsa_rows(tmp_path, convert, corpus, task, dtype, protocol):
    release = mmsa(dtype=dtype)
    found, table = convert(mmsa_converter, pickled(tmp_path, release, protocol), "--corpus", corpus)
    assert {split: len(rows) for split, rows in found.items()} == {
        "train": 6,
        "validation": 3,
        "test": 4,
    }
    for split, released in (("train", "train"), ("validation", "valid"), ("test", "test")):
        for i, row in enumerate(found[split]):
            columns = release[released]
            assert (row["id"], row["text"], row["task"]) == (
                columns["id"][i],
                columns["raw_text"][i],
                task,
            )
            assert (row["video_id"], row["clip_id"]) == tuple(columns["id"][i].split("$_$"))
            assert row["answer"] == pytest.approx(columns["regression_labels"][i], abs=1e-6)
            for name, column in (("audio_features", "audio"), ("video_features", "vision")):
                assert np.array_equal(np.float32(row[name]), columns[column][i, :REAL].astype(np.float32))
    assert table["rows"]["train"] == {"read": 6, "kept": 6, "repaired": 0, "dropped": 0}
    assert table["repaired"] == table["dropped"] == {}


def test_mmsa_columns_are_typed(tmp_path, convert):
    convert(mmsa_converter, pickled(tmp_path, mmsa()), "--corpus", "mosei")
    features = datasets.load_dataset(str(tmp_path / "made/dest"), cache_dir=str(tmp_path / "cache"))["train"].features
    vectors = {name: datasets.List(datasets.List(datasets.Value("float32"), length=width))
               for name, width in (("audio_features", AUDIO_WIDTH), ("video_features", VIDEO_WIDTH))}  # fmt: skip
    strings = dict.fromkeys(("id", "task", "text", "video_id", "clip_id"), datasets.Value("string"))
    assert features == {**strings, **vectors, "answer": datasets.Value("float64")}


def test_mmsa_quirks_are_repaired_and_reported(tmp_path, convert):
    release = mmsa(train=12)
    train = release["train"]
    test = release["test"]
    train["audio"][0, 1, 2] = -np.inf
    train["vision"][1, 0] = np.nan
    train["vision"][2, 3, 0] = -np.inf
    train["audio"][3, 2] = 0
    train["audio_lengths"][3] = 2  # derived as the first zero row
    train["vision"][4] = 0
    train["vision_lengths"][4] = 1  # 0 forced to 1
    train["vision"][5, :, 3] = 2e4
    train["vision"][5, REAL:] = 0
    train["regression_labels"][6] = 1.4
    train["regression_labels"][7] = np.nan
    test["regression_labels"][1] = -0.1
    train["id"][9] = train["id"][8]
    train["id"][10] = test["id"][0]
    names = dict(enumerate(train["id"]))
    found, table = convert(mmsa_converter, pickled(tmp_path, release), "--corpus", "sims_v2")
    assert reasons(table, "repaired") == {
        "audio features with NaN or infinite values: set to 0": [names[0]],
        "audio features cut at a zero vector by their stated length: length corrected": [names[3]],
        "score between the steps of 0.2: rounded to the nearest": [test["id"][1]],
        "video features with NaN or infinite values: set to 0": [names[1], names[2]],
        "video features are all padding: left out": [names[4]],
        "video features with values beyond 10000: clipped": [names[5]],
    }
    assert table["repaired"]["video features with NaN or infinite values: set to 0"]["values"] == VIDEO_WIDTH + 1
    assert table["repaired"]["video features with values beyond 10000: clipped"]["values"] == REAL
    assert reasons(table, "dropped") == {
        "also in split test: left out of train": [names[10]],
        "repeated id: the first example kept": [names[9]],
        "no score": [names[7]],
        "score outside [-1, 1]": [names[6]],
    }
    assert table["rows"]["train"] == {"read": 12, "kept": 8, "repaired": 6, "dropped": 4}
    assert table["rows"]["test"] == {"read": 4, "kept": 4, "repaired": 1, "dropped": 0}
    rows = {row["id"]: row for split in found.values() for row in split}
    assert len(rows) == 15
    assert rows[names[0]]["audio_features"][1][2] == 0
    assert len(rows[names[3]]["audio_features"]) == REAL
    assert rows[names[4]]["video_features"] is None
    assert len(rows[names[4]]["audio_features"]) == REAL
    assert rows[test["id"][1]]["answer"] == -0.2
    assert np.float32(rows[names[5]]["video_features"])[:, 3].tolist() == [1e4] * REAL


def test_mmsa_lengths_are_optional(tmp_path, convert):
    release = mmsa()
    for columns in release.values():
        del columns["audio_lengths"], columns["vision_lengths"]
    release["train"]["audio"][0] = release["train"]["audio"][0, ::-1]  # padded in front
    found, table = convert(mmsa_converter, pickled(tmp_path, release), "--corpus", "mosi")
    assert {len(row["audio_features"]) for rows in found.values() for row in rows} == {REAL}
    assert list(table["repaired"]) == ["audio features padded at the start: zeros removed"]


def test_mmsa_arrays_of_objects_and_lists_of_arrays(tmp_path, convert):
    """Arrays of different shapes, some of them shared, and one of another width."""
    release = mmsa()
    expected = release["train"]["audio"].astype(np.float32)
    for columns in release.values():
        columns["raw_text"] = columns["raw_text"].astype(object)
        columns["id"] = np.array(columns["id"])
        columns["audio"] = list(columns["audio"])
        columns["regression_labels"] = columns["regression_labels"].reshape(-1, 1)
    release["train"]["audio"][4] = release["train"]["audio"][3]
    release["train"]["audio"][5] = np.ones((STEPS, AUDIO_WIDTH + 1))
    found, table = convert(mmsa_converter, pickled(tmp_path, release), "--corpus", "mosi")
    rows = found["train"]
    for i, same in ((0, 0), (3, 3), (4, 3)):
        assert np.array_equal(np.float32(rows[i]["audio_features"]), expected[same, :REAL])
    assert rows[5]["audio_features"] is None
    assert reasons(table, "repaired") == {
        f"audio features whose width is not {AUDIO_WIDTH}: left out": [release["train"]["id"][5]]
    }


def test_mmsa_single_labels_of_sims(tmp_path, convert):
    release = mmsa()
    for columns in release.values():
        for letter, value in zip("TAV", (-0.4, 0.2, 1), strict=True):
            columns[f"regression_labels_{letter}"] = np.full(len(columns["id"]), value, np.float32)
    row = convert(mmsa_converter, pickled(tmp_path, release), "--corpus", "sims")[0]["test"][0]
    labels = [row[name] for name in ("label_text", "label_audio", "label_video")]
    assert labels == pytest.approx([-0.4, 0.2, 1])
    manifest = json.loads((tmp_path / "made/dest/splits/video_disjoint.json").read_text(encoding="utf-8"))
    official = json.loads((tmp_path / "made/dest/splits/official.json").read_text(encoding="utf-8"))
    assert {name for names in manifest["splits"].values() for name in names} == {
        name for names in official["splits"].values() for name in names
    }
    homes = {}
    for split, names in manifest["splits"].items():
        for name in names:
            assert homes.setdefault(name.split("$_$")[0], split) == split


def test_mmsa_semi_supervised_file(tmp_path, convert):
    release = mmsa()
    mixed = mmsa_split(10, "train_")
    for name in ("audio", "vision", "raw_text"):
        mixed[name][:6] = release["train"][name]
    mixed["id"] = [
        *release["train"]["id"],
        "u1$_$0001",
        "u2$_$0002",
        release["test"]["id"][0],
        "u3$_$0003",
    ]
    mixed["mask"] = np.array([1] * 6 + [0] * 4)
    mixed["regression_labels"][6:] = np.nan
    del mixed["raw_text"]
    found, table = convert(mmsa_converter, pickled(tmp_path, {**release, "train_mix": mixed}), "--corpus", "sims_v2")
    assert [(row["id"], row["answer"]) for row in found["unlabeled"]] == [
        ("u1$_$0001", None), ("u2$_$0002", None), ("u3$_$0003", None),
    ]  # fmt: skip
    assert len(found["train"]) == 6
    splits = json.loads((tmp_path / "made/dest/splits/video_disjoint.json").read_text(encoding="utf-8"))["splits"]
    assert splits["unlabeled"] == ["u1$_$0001", "u2$_$0002", "u3$_$0003"]
    for split in ("train", "validation", "test"):
        assert abs(len(splits[split]) - len(found[split])) <= 2  # a video has two clips
    assert np.array_equal(
        np.float32(found["unlabeled"][0]["audio_features"]), mixed["audio"][6, :REAL].astype(np.float32)
    )
    assert reasons(table, "dropped") == {"also in split test: left out of unlabeled": [release["test"]["id"][0]]}
    assert reasons(table, "notes") == {"labeled row of train_mix that is also in train": release["train"]["id"]}


def test_mmsa_plan_grows_linearly_with_the_rows(tmp_path):
    """A planned example holds its entry of a column, not the column: plan and jobs must not grow quadratically."""
    sizes = []
    for count in (50, 200):
        release = mmsa(train=count)
        release["train"]["audio"] = list(release["train"]["audio"])
        path = pickled(tmp_path, release)
        parser = mmsa_converter.make_parser("", "")
        parser.add_argument("--corpus")
        corpus = mmsa_converter.plan(parser.parse_args([str(path), "--check", "--corpus", "mosi"]))
        sizes.append(len(repr(corpus.examples["train"])))
    assert sizes[1] < 5 * sizes[0]


def test_mmsa_arrays_in_columns(tmp_path, convert):
    release = mmsa()
    for columns in release.values():
        columns["audio"] = np.asfortranarray(columns["audio"])
    found, _ = convert(mmsa_converter, pickled(tmp_path, release), "--corpus", "mosi")
    for i, row in enumerate(found["train"]):
        expected = release["train"]["audio"][i, :REAL].astype(np.float32)
        assert np.array_equal(np.float32(row["audio_features"]), expected)


def test_mmsa_sentence_vectors(tmp_path, convert):
    """One vector per row is one step."""
    release = mmsa()
    for columns in release.values():
        columns["audio"] = columns["audio"][:, 0]
    found, _ = convert(mmsa_converter, pickled(tmp_path, release), "--corpus", "mosi")
    expected = release["train"]["audio"][0].astype(np.float32)
    assert np.array_equal(np.float32(found["train"][0]["audio_features"]), expected[None])


def test_mmsa_ids_in_other_forms(tmp_path, convert):
    release = mmsa()
    release["train"]["id"] = np.array([f"v{i // 2}/{i}" for i in range(5)] + ["alone"])
    found, table = convert(mmsa_converter, pickled(tmp_path, release), "--corpus", "sims")
    assert [(row["video_id"], row["clip_id"]) for row in found["train"]] == [
        ("v0", "0"), ("v0", "1"), ("v1", "2"), ("v1", "3"), ("v2", "4"), ("alone", None),
    ]  # fmt: skip
    assert reasons(table, "notes") == {"id without a video: treated as a video of its own": ["alone"]}


def without(release, split, column):
    del release[split][column]


def shorter(release, split, column):
    release[split][column] = release[split][column][:-1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda release: release.pop("valid"),
            "has the splits train, test; expected train, valid, test",
        ),
        (lambda release: release.update(extra={}), "has the splits train, valid, test, extra"),
        (
            lambda release: without(release, "test", "vision"),
            r"split 'test': no vision\. It has raw_text, audio",
        ),
        (
            lambda release: without(release, "train", "regression_labels"),
            "split 'train': no regression_labels",
        ),
        (
            lambda release: shorter(release, "train", "audio"),
            "columns of different lengths: .*'audio': 5",
        ),
        (
            lambda release: shorter(release, "valid", "audio_lengths"),
            "split 'valid': columns of different lengths",
        ),
        (
            lambda release: release.update(train=[]),
            "split 'train': must hold a dict of columns, not list",
        ),
        (lambda release: release.update(test=mmsa_split(0)), "split 'test': has no rows"),
        (lambda release: release["train"].update(id="abc"), "id is a str, not a list or an array"),
        (
            lambda release: release["test"].update(id=[["a"]] * 4),
            r"split 'test': the id of row 0 is \['a'\]; it must be",
        ),
        (
            lambda release: release["test"].update(id=["a$_$1", " ", "b", "c"]),
            "the id of row 1 is ' '; it must be text",
        ),
        (
            lambda release: [columns.update(vision=[1.0] * len(columns["id"])) for columns in release.values()],
            "vision holds no vectors",
        ),
    ],
)
def test_mmsa_bad_layout_is_refused(tmp_path, refuse, change, message):
    release = mmsa()
    change(release)
    said = refuse(mmsa_converter, pickled(tmp_path, release), "--corpus", "mosi")
    assert re.search(message, said), said


def test_mmsa_without_usable_rows_is_refused(tmp_path, refuse):
    release = mmsa()
    for columns in release.values():
        columns["regression_labels"][:] = 9
    said = refuse(mmsa_converter, pickled(tmp_path, release), "--corpus", "mosi")
    assert "13 of 13 labels of CMU-MOSI, among them all of train, validation, test, are not those of the task" in said
    assert "(score outside [-3, 3]: 13)" in said


class Crafted:
    def __reduce__(self):
        return exec, ("raise SystemExit(99)",)


def test_mmsa_refuses_the_labels_of_another_corpus(tmp_path, convert, refuse):
    source = pickled(tmp_path, mmsa(train=11, valid=11, test=11, low=-3, high=3))
    assert "24 of 33 labels of CH-SIMS are not those of the task" in refuse(mmsa_converter, source, "--corpus", "sims")
    assert convert(mmsa_converter, source, "--corpus", "mosei")[1]["dropped"] == {}


def test_crafted_pickle_is_refused(tmp_path, refuse):
    release = mmsa()
    release["train"]["annotations"] = Crafted()
    assert "it tries to load builtins.exec" in refuse(mmsa_converter, pickled(tmp_path, release), "--corpus", "mosi")


def test_truncated_pickle_is_refused(tmp_path, refuse):
    path = pickled(tmp_path, mmsa(train=200))
    path.write_bytes(path.read_bytes()[:-3000])
    assert "not a readable pickle, or was cut off" in refuse(mmsa_converter, path, "--corpus", "mosi")


def test_mmsa_absurd_values_are_reported(tmp_path, convert):
    """Infinite lengths, labels of one modality off the scale, transcripts that are no text, a mask of another file."""
    release = mmsa()
    train = release["train"]
    for columns in release.values():
        columns["regression_labels_T"] = np.zeros(len(columns["id"]))
    train["audio_lengths"] = [np.inf] + [REAL] * 5
    train["regression_labels_T"][:3] = [np.nan, np.inf, 40]
    train["raw_text"] = ["a", ["b"], "c", "d", "e", "f"]
    train["mask"] = [0] * 6
    found, table = convert(mmsa_converter, pickled(tmp_path, release), "--corpus", "sims")
    assert len(found["train"]) == 6 and all(row["answer"] is not None for row in found["train"])
    assert [row["label_text"] for row in found["train"][:4]] == [None, None, None, 0.0]
    assert reasons(table, "repaired") == {
        "invalid stated length: taken from the vectors": train["id"][:1],
        "label_text is not a score of the task: left out": train["id"][:3],
        "transcript that is not text: left out": train["id"][1:2],
    }
