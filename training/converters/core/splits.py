"""Splits: the official ones without repeated examples, and video-disjoint ones, which share no video.

A manifest is JSON: `{"name", "about", "splits": {split: [ids]}}`.
"""

from typing import Any

from ...data.split_names import SPLIT_NAMES
from ...data.text_files import shorten
from ...records import digest_of_bytes
from .conversion_report import ConversionReport


OFFICIAL = ("train", "validation", "test")
# Of an example that is in several splits, the copy in the first of these is kept: evaluation comes before training.
PRECEDENCE = ("test", "validation", "train")
INCOMPLETE = "split with fewer examples than the complete release"


def read_split(mode: str, ids: tuple[str, str], report: ConversionReport) -> str | None:
    """The split of a row in one of MMSA's tables of labels; None if the row is dropped.

    Args:
        mode: as the table names the split.
        ids: `video_id` and `clip_id`.
        report: counts the row as read, and says why it is dropped.
    """
    split = SPLIT_NAMES.get(mode.strip().casefold())
    report.read[split or "unknown"] += 1
    if split is None:
        report.drop(f"unknown mode {shorten(mode)}", "$_$".join(ids))
        return None
    if not all(ids):
        report.drop("no video_id or clip_id", "$_$".join(ids))
        return None
    return split


def note_sizes(sizes: dict[str, int], report: ConversionReport) -> None:
    """Note the splits of which only a part was read, because a table was cut off between two lines for example.

    Args:
        sizes: split -> examples in the complete release.
        report: of the plan.
    """
    for split, size in sizes.items():
        if report.read[split] < size:
            report.note(INCOMPLETE, f"{split}: {report.read[split]} of {size}")


def unique_examples(
    examples: dict[str, list[dict[str, Any]]], report: ConversionReport
) -> dict[str, list[dict[str, Any]]]:
    """Keep every id once: its first example in a split, and the first split in the order of `PRECEDENCE`.

    Args:
        examples: split -> examples with `id`.
        report: counts the dropped examples.
    """
    split_of: dict[str, str] = {}
    kept: dict[str, list[dict[str, Any]]] = {split: [] for split in examples}
    first = [split for split in PRECEDENCE if split in examples]
    others = [split for split in examples if split not in PRECEDENCE]
    for split in first + others:
        for example in examples[split]:
            known = split_of.get(example["id"])
            if known is None:
                split_of[example["id"]] = split
                kept[split].append(example)
            elif known == split:
                report.drop("repeated id: the first example kept", example["id"])
            else:
                report.drop(f"also in split {known}: left out of {split}", example["id"])
    return kept


def official_manifest(ids: dict[str, list[str]]) -> dict[str, Any]:
    """The splits of the release."""
    return {"name": "official", "about": "The splits of the release.", "splits": ids}


def video_disjoint_manifest(ids: dict[str, list[str]], videos: dict[str, str]) -> dict[str, Any]:
    """Split of the same examples in which all labeled clips of a video are in one split.

    Examples without a label keep their split. Videos are assigned in the order of a hash of their names, each to the
    split that is least full, so that the splits become about as large as the official ones. The same examples give the
    same splits everywhere.

    Args:
        ids: official split -> ids.
        videos: id of a labeled example -> its video.
    """
    clips: dict[str, list[str]] = {}  # video -> ids
    sizes: dict[str, int] = {}  # split -> labeled examples
    splits: dict[str, list[str]] = {}
    for split, names in ids.items():
        splits[split] = [name for name in names if name not in videos]
        for name in names:
            if name in videos:
                clips.setdefault(videos[name], []).append(name)
                sizes[split] = sizes.get(split, 0) + 1
    filled = dict.fromkeys(sizes, 0)
    for video in sorted(clips, key=lambda name: digest_of_bytes(name.encode())):
        split = max(sizes, key=lambda name: 1 - filled[name] / sizes[name])
        splits[split] += clips[video]
        filled[split] += len(clips[video])
    about = "All clips of a video are in one split; in the official splits most test videos are in train as well."
    return {"name": "video_disjoint", "about": about, "splits": splits}
