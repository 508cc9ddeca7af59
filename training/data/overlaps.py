"""Speakers and clips that are in more than one split: a model is then evaluated on what it was trained on, and its
figures are inflated.

examples ─► warn_of_overlaps, in training      planned examples ─► note_overlaps, in egmf convert folder
"""

import logging
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..records import digest_of_file, read_json
from .examples import MISSING_VALUES, speaker_of
from .parquet import RECORD
from .tables import MEDIA
from .text_files import shorten


CLIPS = ("audio", "video")
NOBODY = (*MISSING_VALUES, "na", "n/a", "none", "unknown", "?")  # not the name of a speaker
OWN_CONVERTER = "folder"  # the others are for benchmarks, whose official splits are not the user's choice

logger = logging.getLogger(__name__)


def warn_of_overlaps(examples: Iterable[dict[str, Any]], dataset: str | Path) -> None:
    """Warn of speakers and media files that are in more than one split. Speakers that the official splits of a
    converted benchmark share are only mentioned.

    Args:
        examples: of all splits, with media as absolute paths.
        dataset: the corpus, for the message.
    """
    splits = _by_split(examples)
    speakers = _shared_speakers(splits)
    folder = f"{os.path.realpath(dataset)}/"
    files = {path.removeprefix(folder): found for path, found in _shared_files(splits).items()}
    if speakers and _is_benchmark(Path(dataset)):
        logger.info(f"{dataset}: its splits share {_describe(speakers, 'speaker')}.")
        speakers = {}
    parts = [_describe(names, noun) for names, noun in ((speakers, "speaker"), (files, "media file")) if names]
    if parts:
        logger.warning(
            f"{dataset}: in more than one split are {' and '.join(parts)}. Figures on these splits are inflated: they "
            "do not hold for new speakers and clips. Put all clips of a speaker into the same split."
        )


def note_overlaps(splits: Mapping[str, Iterable[dict[str, Any]]], note: Callable[[str, str], None]) -> None:
    """Note the speakers and clips that are in more than one split; clips also by their content.

    Args:
        splits: split -> planned examples, with media as absolute paths.
        note: of the conversion report.
    """
    found = {name: list(examples) for name, examples in splits.items()}
    for speaker, names in _shared_speakers(found).items():
        note("speaker in more than one split: figures on these splits are inflated", _place(speaker, names))
    for path, names in _shared_files(found, _first_copies(found)).items():
        note("clip in more than one split: figures on these splits are inflated", _place(path, names))


def _by_split(examples: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    splits: dict[str, list[dict[str, Any]]] = {}
    for example in examples:
        if example.get("split") is not None:
            splits.setdefault(example["split"], []).append(example)
    return splits


def _shared(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """(name, split) of everything -> name -> its splits, of the names with more than one."""
    splits: dict[str, dict[str, None]] = {}
    for name, split in pairs:
        splits.setdefault(name, {})[split] = None
    return {name: list(found) for name, found in splits.items() if len(found) > 1}


def _shared_speakers(splits: dict[str, list[dict[str, Any]]]) -> dict[str, list[str]]:
    pairs = [(speaker_of(example), split) for split, examples in splits.items() for example in examples]
    return _shared((name, split) for name, split in pairs if name is not None and name.casefold() not in NOBODY)


def _paths(splits: dict[str, list[dict[str, Any]]], columns: Iterable[str]) -> list[tuple[str, str]]:
    """(path, split) of every file; paths as given."""
    return [
        (example[column], split)
        for split, examples in splits.items()
        for example in examples
        for column in columns
        if isinstance(example.get(column), str)
    ]


def _shared_files(
    splits: dict[str, list[dict[str, Any]]], first_copies: Mapping[str, str] = MappingProxyType({})
) -> dict[str, list[str]]:
    """Media files that are the same one, also by links, or copies: path of a file -> path of the one it equals."""
    if len(splits) < 2:
        return {}
    pairs = [(os.path.realpath(path), split) for path, split in _paths(splits, MEDIA)]
    return _shared((first_copies.get(path, path), split) for path, split in pairs)


def _first_copies(splits: dict[str, list[dict[str, Any]]]) -> dict[str, str]:
    """Path of a clip -> path of the first one with the same content. Only clips of a size that several splits have are
    read."""
    pairs = [(os.path.realpath(path), split) for path, split in _paths(splits, CLIPS) if _is_readable(path)]
    sizes = {path: str(os.path.getsize(path)) for path, _ in pairs}
    repeated = _shared((sizes[path], split) for path, split in pairs)
    first: dict[str, str] = {}
    return {path: first.setdefault(digest_of_file(path), path) for path, size in sizes.items() if size in repeated}


def _is_readable(path: str) -> bool:
    return os.path.isfile(path) and os.access(path, os.R_OK)


def _is_benchmark(dataset: Path) -> bool:
    """Whether the converter of a benchmark made it."""
    if not (dataset / RECORD).is_file():
        return False
    record = read_json(dataset / RECORD)
    return record.get("settings", {}).get("converter", OWN_CONVERTER) != OWN_CONVERTER


def _describe(shared: dict[str, list[str]], noun: str) -> str:
    """`2 speakers, such as 'ann' (train, test)`"""
    name, splits = next(iter(shared.items()))
    plural = "" if len(shared) == 1 else "s"
    return f"{len(shared)} {noun}{plural}, such as {_place(shorten(name), splits)}"


def _place(name: str, splits: Iterable[str]) -> str:
    return f"{name} ({', '.join(splits)})"
