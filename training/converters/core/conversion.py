"""Conversion of a planned corpus into a folder, which appears complete or not at all.

    Corpus ─► fingerprint ─► .DEST.partial: shards and their records ─► manifests, conversion.json, README.md ─► DEST

A shard whose file and record exist is not made again, so an interrupted conversion resumes where it stopped. shards.py
makes the shards.
"""

import json
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from ...data.manifest import FILES, check_files, describe_files, read_record
from ...data.parquet import RECORD
from ...records import (
    digest_of_chunks,
    new_folder,
    only_writer,
    read_json,
    sync_folder,
    versions,
    write_json,
    write_text,
)
from .conversion_report import ConversionReport
from .corpus import Corpus
from .folds import SpeakerFolds
from .labels import WRONG_LABELS
from .shards import ROWS_PER_SHARD, make_shards, plan_shards
from .splits import official_manifest, unique_examples, video_disjoint_manifest


logger = logging.getLogger(__name__)

SUBFOLDERS = ("data", "splits", "clips")
TASKS_FILE = "tasks.yaml"
CONVERTER_VERSION = 5  # raised whenever the same files and options give a different result


def convert_corpus(
    corpus: Corpus,
    dest: str | Path | None,
    check: bool = False,
    num_workers: int = 1,
    overwrite: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Convert a planned corpus, or with `check` only report what would happen to its examples.

    Args:
        corpus: the plan.
        dest: folder to create; not needed with `check`.
        check: write nothing.
        num_workers: worker processes; the result does not depend on it.
        overwrite: replace a converted corpus.
        progress: show a progress bar.

    Returns:
        The content of `conversion.json`, plus `manifests`.

    Raises:
        ChildProcessError: a worker was killed.
        FileExistsError: DEST holds something else or the corpus with other settings, or is being written.
        ValueError: no example can be used, or most labels are not those of the task.
    """
    check_labels(corpus)
    unique = unique_examples(corpus.examples, corpus.report)
    corpus.examples = {split: examples for split, examples in unique.items() if examples}
    if not corpus.examples:
        raise ValueError(f"No example of {corpus.name} can be used.\n{corpus.report.table()}")
    if check:
        return _summary(corpus, make_shards(plan_shards(corpus, None), num_workers, progress, corpus.name))
    dest = new_folder(dest)
    fingerprint = corpus_fingerprint(corpus)
    existing = find_conversion(dest, fingerprint, overwrite)
    if existing is not None:
        return existing
    with only_writer(dest, "conversion", "DEST"):
        folder = partial_folder(dest)
        prepare_partial_folder(folder, fingerprint)
        shards = plan_shards(corpus, folder)
        missing = [shard for shard in shards if not shard.is_written]
        if len(missing) < len(shards):
            num_written = len(shards) - len(missing)
            logger.info(f"Resuming an interrupted conversion: {num_written} of {len(shards)} shards exist.")
        make_shards(missing, num_workers, progress, corpus.name)
        summary = _summary(corpus, [read_json(shard.record) for shard in shards])
        summary["fingerprint"] = fingerprint
        complete_folder(folder, dest, corpus, summary)
    return summary


def check_labels(corpus: Corpus) -> None:
    """Refuse a release whose labels are not those of the task: it is that of another corpus, or columns are swapped.

    Raises:
        ValueError: more than half of the examples, or all of a split, have no label of the task.
    """
    num_read = corpus.report.read
    num_wrong, shown = corpus.report.dropped_for(*WRONG_LABELS)
    num_others = corpus.report.dropped_for("")[0] - num_wrong
    lost = [split for split, examples in corpus.examples.items() if not examples and num_read[split] > num_others]
    if 2 * num_wrong > num_read.total() or lost:
        usual = "Is this the right corpus, are the options right, and is each column under its name?"
        of_splits = f", among them all of {', '.join(lost)}," if lost else ""
        raise ValueError(
            f"{num_wrong} of {num_read.total()} labels of {corpus.name}{of_splits} are not those of the task "
            f"({shown}). {corpus.advice or usual}"
        )


def corpus_fingerprint(corpus: Corpus) -> str:
    """Digest of the examples, the options, the columns and the state of the release's files."""
    return digest_of_chunks(_fingerprint_chunks(corpus))


def _fingerprint_chunks(corpus: Corpus) -> Iterator[bytes]:
    files = [*corpus.sources, *sorted(map(str, corpus.files))]
    head = [
        CONVERTER_VERSION,
        corpus.name,
        corpus.settings,
        corpus.finish_options,
        str(corpus.columns),
        [_file_state(path) for path in files],
        ROWS_PER_SHARD,
    ]
    yield json.dumps(head, default=str, sort_keys=True).encode()
    for split, examples in corpus.examples.items():
        for example in examples:
            yield f"{split}{example!r}".encode("utf-8", "surrogatepass")


def _file_state(path: str | Path) -> tuple[str, int | None, int | None]:
    """Name, size and modification time; the latter two are None if there is no such file."""
    name = os.path.basename(path)
    try:
        status = os.stat(path)
    except OSError:
        return name, None, None
    return name, status.st_size, status.st_mtime_ns


def _summary(corpus: Corpus, records: list[dict[str, Any]]) -> dict[str, Any]:
    """Totals of the plan and all shards.

    Raises:
        ValueError: nothing was kept.
    """
    total = ConversionReport()
    total.add(corpus.report)
    kept: set[str] = set()
    for record in records:
        total.add(ConversionReport.from_dict(record["report"]))
        kept.update(record["kept"])
    repaired = {name for ids in total.reasons["repaired"].values() for name in ids}
    ids: dict[str, list[str]] = {}
    for split, examples in corpus.examples.items():
        ids[split] = [example["id"] for example in examples if example["id"] in kept]
        total.kept[split] = len(ids[split])
        total.repaired[split] = sum(name in repaired for name in ids[split])
    if not kept:
        raise ValueError(f"No example of {corpus.name} can be used.\n{total.table()}")
    manifests = _manifests(corpus, ids, total)
    return {
        "corpus": corpus.name,
        "settings": corpus.settings,
        "table": total.to_dict(),
        "manifests": {manifest["name"]: manifest for manifest in manifests},
    }


def _manifests(corpus: Corpus, ids: dict[str, list[str]], report: ConversionReport) -> list[dict[str, Any]]:
    manifests = [official_manifest(ids)]
    if corpus.folds is not None:
        return _fold_manifests(corpus, corpus.folds, ids)
    if not corpus.disjoint:
        return manifests
    videos = {}
    for examples in corpus.examples.values():
        for example in examples:
            if example["answer"] is not None:
                videos[example["id"]] = str(example["video_id"])
    disjoint = video_disjoint_manifest(ids, videos)
    for split, names in disjoint["splits"].items():
        if ids[split] and not names:
            report.note("too few videos: this split of video_disjoint is empty", split)
    return [*manifests, disjoint]


def _fold_manifests(corpus: Corpus, folds: SpeakerFolds, ids: dict[str, list[str]]) -> list[dict[str, Any]]:
    kept = {name for names in ids.values() for name in names}
    groups = {
        example["id"]: example[folds.column]
        for examples in corpus.examples.values()
        for example in examples
        if example["id"] in kept
    }
    official = official_manifest(ids)
    official["about"] = f"Fold {folds.chosen} of {len(folds.groups)} by {folds.column}: the release has no splits."
    return [official, *folds.manifests(groups)]


# ---- folders --------------------------------------------------------------------------------------------------


def find_conversion(dest: Path, fingerprint: str, overwrite: bool) -> dict[str, Any] | None:
    """The result of an identical conversion if DEST already holds it; None if DEST may be written.

    Raises:
        FileExistsError: DEST holds something else, other settings, or not all of its shards.
    """
    if not dest.exists() or (dest.is_dir() and not any(dest.iterdir())):
        return None
    if not (dest / RECORD).is_file():
        raise FileExistsError(f"{dest} already exists and is not a converted corpus. Choose another DEST.")
    if overwrite:
        return None
    record = read_record(dest / RECORD)
    if record.get("fingerprint") != fingerprint:
        raise FileExistsError(
            f"{dest} holds a corpus converted from different files, with different options or by another version. "
            "Use --overwrite to replace it, or choose another DEST."
        )
    try:
        check_files(dest, record, SUBFOLDERS)
    except ValueError as error:
        raise FileExistsError(str(error)) from error
    logger.info(f"{dest} already holds this conversion.")
    manifests = {path.stem: read_json(path) for path in dest.glob("splits/*.json")}
    return record | {"manifests": manifests}


def partial_folder(dest: Path) -> Path:
    """The hidden folder of an unfinished conversion."""
    return dest.with_name(f".{dest.name}.partial")


def prepare_partial_folder(folder: Path, fingerprint: str) -> None:
    """Create the hidden folder, or keep it if it belongs to the same conversion."""
    marker = folder / "work/fingerprint.json"
    if folder.exists() and not (marker.is_file() and read_json(marker) == fingerprint):
        logger.info(f"Removing {folder}: an unfinished conversion of different files or with different options.")
        shutil.rmtree(folder)
    for name in ("data", "work"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob("*/*.tmp"):
        leftover.unlink()
    write_json(marker, fingerprint)


def complete_folder(folder: Path, dest: Path, corpus: Corpus, summary: dict[str, Any]) -> None:
    """Add manifests, record and card to the shards, and rename the hidden folder to DEST."""
    from .cards import write_card

    stored = dict(summary)
    manifests = stored.pop("manifests")
    for name, manifest in manifests.items():
        write_json(folder / f"splits/{name}.json", manifest)
    for path in folder.glob("data/*.parquet"):
        if pq.read_metadata(path).num_rows == 0:
            path.unlink()  # `load_dataset` fails on an empty file
    write_card(folder / "README.md", corpus, summary["table"], list(manifests))
    stored[FILES] = describe_files(folder, SUBFOLDERS)
    write_json(folder / RECORD, stored | {"converter_version": CONVERTER_VERSION, "versions": versions()})
    if corpus.tasks:
        write_text(folder / TASKS_FILE, yaml.safe_dump(corpus.tasks, allow_unicode=True, sort_keys=False))
    shutil.rmtree(folder / "work")
    sync_folder(folder)
    replaced = dest.with_name(f".{dest.name}.old")
    shutil.rmtree(replaced, ignore_errors=True)
    if dest.exists():
        os.replace(dest, replaced)  # an empty folder, or a corpus that --overwrite replaces
    os.replace(folder, dest)
    sync_folder(dest.parent)
    shutil.rmtree(replaced, ignore_errors=True)
