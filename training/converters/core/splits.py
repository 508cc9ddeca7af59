"""Splits: the official ones without rows that are there twice, and one in which no video is on two sides.

A manifest is JSON: `{"name", "about", "splits": {split: [ids]}}`.
"""

import hashlib
from typing import Any

from .conversion_report import ConversionReport


SPLIT_NAMES = {
    "train": "train",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "validation": "validation",
    "test": "test",
}
OFFICIAL = ("train", "validation", "test")
# Which copy of a row stays: that of the split that is measured on.
PRECEDENCE = ("test", "validation", "train")


def unique_rows(rows: dict[str, list[dict[str, Any]]], report: ConversionReport) -> dict[str, list[dict[str, Any]]]:
    """Every id once: the first of a split, and of several splits that of test, then validation, then the others.

    Args:
        rows: split -> rows with `id`.
        report: takes the rows that go.
    """
    home: dict[str, str] = {}
    kept: dict[str, list[dict[str, Any]]] = {split: [] for split in rows}
    rank = {split: place for place, split in enumerate(PRECEDENCE)}
    for split in sorted(rows, key=lambda split: rank.get(split, len(rank))):
        for row in rows[split]:
            found = home.get(row["id"])
            if found is None:
                home[row["id"]] = split
                kept[split].append(row)
            elif found == split:
                report.drop("id is there twice: the first row kept", row["id"])
            else:
                report.drop(f"also in split {found}: left out of {split}", row["id"])
    return kept


def official(ids: dict[str, list[str]]) -> dict[str, Any]:
    """The manifest of the splits as released."""
    return {"name": "official", "about": "The splits of the release.", "splits": ids}


def video_disjoint(ids: dict[str, list[str]], videos: dict[str, str]) -> dict[str, Any]:
    """A manifest over the same rows in which all labeled clips of a video are in one split.

    Rows without a label stay where they are. Videos come in the order of a hash of their names, and each goes where
    most is missing, so that the splits are about as large as the official ones. The same rows give the same splits
    everywhere.

    Args:
        ids: official split -> ids.
        videos: id of a labeled row -> video.
    """
    clips: dict[str, list[str]] = {}
    wanted: dict[str, int] = {}
    chosen: dict[str, list[str]] = {}
    for split, names in ids.items():
        chosen[split] = [name for name in names if name not in videos]
        for name in names:
            if name in videos:
                clips.setdefault(videos[name], []).append(name)
                wanted[split] = wanted.get(split, 0) + 1
    filled = dict.fromkeys(wanted, 0)
    for video in sorted(clips, key=lambda video: hashlib.sha256(video.encode("utf-8")).hexdigest()):
        split = max(wanted, key=lambda split: 1 - filled[split] / wanted[split])
        chosen[split] += clips[video]
        filled[split] += len(clips[video])
    about = "All clips of a video are in one split; in the official splits most test videos are in train as well."
    return {"name": "video_disjoint", "about": about, "splits": chosen}
