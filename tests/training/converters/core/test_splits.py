"""Splits: every id once, and all clips of a video in one split."""

from training.converters.core.conversion_report import ConversionReport
from training.converters.core.splits import read_split, unique_examples, video_disjoint_manifest


def rows(*ids):
    return [{"id": name, "n": number} for number, name in enumerate(ids)]


def test_rows_are_counted_and_dropped_by_reason():
    report = ConversionReport()
    rows = [("train", "v", "1"), (" Valid", "v", "2"), ("extra", "v", "3"), ("", "", "4"), ("test", "", "5")]
    splits = [read_split(mode, tuple(ids), report) for mode, *ids in rows]
    assert splits == ["train", "validation", None, None, None]
    assert dict(report.read) == {"train": 1, "validation": 1, "unknown": 2, "test": 1}
    assert report.reasons["dropped"] == {
        "unknown mode 'extra'": ["v$_$3"],
        "unknown mode ''": ["$_$4"],
        "no video_id or clip_id": ["$_$5"],
    }


def test_duplicates_and_overlaps_are_dropped_and_reported():
    report = ConversionReport()
    found = unique_examples(
        {
            "train": rows("a", "b", "a", "t", "v"),
            "validation": rows("v", "t"),
            "test": rows("t", "t"),
            "x": rows("a"),
        },
        report,
    )
    assert {split: [(row["id"], row["n"]) for row in part] for split, part in found.items()} == {
        "train": [("a", 0), ("b", 1)],
        "validation": [("v", 0)],
        "test": [("t", 0)],
        "x": [],
    }
    assert report.reasons["dropped"] == {
        "repeated id: the first example kept": ["t", "a"],
        "also in split test: left out of validation": ["t"],
        "also in split test: left out of train": ["t"],
        "also in split validation: left out of train": ["v"],
        "also in split train: left out of x": ["a"],
    }


def test_video_disjoint_splits():
    ids = {"train": [f"{v}/{c}" for v in range(40) for c in range(5)], "validation": [], "test": []}
    ids["validation"] = [f"{v}/v{c}" for v in range(20) for c in range(2)]
    ids["test"] = [f"{v}/t{c}" for v in range(40) for c in range(2)]
    videos = {name: name.split("/")[0] for names in ids.values() for name in names}
    found = video_disjoint_manifest(ids, videos)["splits"]
    assert sorted(name for names in found.values() for name in names) == sorted(videos)
    held = {split: {videos[name] for name in names} for split, names in found.items()}
    assert not held["train"] & held["test"] and not held["train"] & held["validation"]
    assert not held["validation"] & held["test"]
    for split, names in ids.items():
        assert abs(len(found[split]) - len(names)) <= 9  # the largest video has 9 clips
    shuffled = {split: names[::-1] for split, names in ids.items()}
    again = video_disjoint_manifest(shuffled, videos)["splits"]
    assert {split: sorted(names) for split, names in again.items()} == {s: sorted(n) for s, n in found.items()}
    unlabeled = [f"{v}/u{c}" for v in range(40) for c in range(9)]
    assert video_disjoint_manifest(ids | {"unlabeled": unlabeled}, videos)["splits"] == found | {
        "unlabeled": unlabeled
    }
