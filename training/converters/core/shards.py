"""From planned rows to a data set on disk: Parquet shards, made in parallel, whole or not at all.

    a converter's plan: light rows of every split ─► shards of up to `ROWS_PER_SHARD` rows
    worker: finish each row (read its arrays, look at its clip) ─► .tmp ─► shard + record of what became of its rows
    end: manifests, conversion.json, README.md ─► the hidden folder beside DEST is renamed to DEST

A shard that is there with its record is not made again, so a conversion that was stopped goes on where it was. Memory
holds the plan and, in each worker, `BYTES_PER_GROUP` of finished rows.
"""

import fcntl
import hashlib
import json
import multiprocessing
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from ...records import versions, write_json
from .cards import write_card
from .conversion_report import ConversionReport
from .splits import official, unique_rows, video_disjoint


CONVERTER_VERSION = 2  # one more whenever the same files and options give something else
RECORD = "conversion.json"  # marks a folder as one that a converter made
ROWS_PER_SHARD = 1000
BYTES_PER_SHARD = 256 << 20
BYTES_PER_GROUP = 32 << 20


@dataclass
class Corpus:
    """What a converter has planned.

    Args:
        name: how the corpus is called in its card.
        rows: split -> light rows in order: values, and where arrays and clips lie. Each has `id`.
        finish: a module's function that makes a light row into the final one, or None if nothing of it can be used;
            it gets the row and a report.
        columns: the data set's typed columns.
        report: what the plan has repaired, dropped and noted, and how many rows of each split were read.
        bytes_per_row: about how large a finished row is.
        card: `language`, `task_categories` and `text` of the card.
        settings: the options that the result depends on.
        sources: files whose size and time of change stand for the content of the release.
        files: clips and features that the rows name, there or not; theirs count too.
        disjoint: also write a video-disjoint manifest, from the rows' `video_id`.
    """

    name: str
    rows: dict[str, list[dict[str, Any]]]
    finish: Callable[[dict[str, Any], ConversionReport], dict[str, Any] | None]
    columns: datasets.Features
    report: ConversionReport
    bytes_per_row: int
    card: dict[str, Any]
    settings: dict[str, Any]
    sources: list[Path] = field(default_factory=list)
    files: Iterable[str | Path] = ()
    disjoint: bool = False


class _Shard(NamedTuple):
    rows: list[dict[str, Any]]
    finish: Callable
    columns: datasets.Features
    parquet: str | None  # None: only look
    record: str | None


def convert(
    corpus: Corpus,
    dest: str | Path | None,
    check: bool = False,
    num_proc: int = 1,
    overwrite: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Convert a planned corpus, or with `check` only find out what would become of its rows.

    Args:
        corpus: the plan.
        dest: folder to make; not needed to check.
        check: write nothing.
        num_proc: processes; the result does not depend on it.
        overwrite: replace a converted corpus that is there.
        progress: show a progress bar.

    Returns:
        What `conversion.json` holds.

    Raises:
        FileExistsError: DEST holds something else, or the corpus with other settings; or a conversion is under way.
        ValueError: no row can be used.
    """
    corpus.rows = {split: rows for split, rows in unique_rows(corpus.rows, corpus.report).items() if rows}
    if not corpus.rows:
        raise ValueError(f"No row of {corpus.name} can be used.\n{corpus.report.table()}")
    shards = _cut_into_shards(corpus)
    if check:
        jobs = [_Shard(rows, corpus.finish, corpus.columns, None, None) for _, _, rows in shards]
        return _summary(corpus, _run(jobs, num_proc, progress, corpus.name))
    dest = Path(dest).expanduser().resolve()
    fingerprint = _fingerprint(corpus)
    found = _found(dest, fingerprint, overwrite)
    if found is not None:
        return found
    partial = partial_folder(dest)
    with _locked(dest):
        _prepare(partial, fingerprint)
        totals = {split: sum(name == split for name, _, _ in shards) for split in corpus.rows}
        jobs, records = [], []
        for split, number, rows in shards:
            parquet = partial / f"data/{split}-{number:05d}-of-{totals[split]:05d}.parquet"
            record = partial / f"work/{split}-{number:05d}.json"
            records.append(record)
            if not (parquet.is_file() and record.is_file()):
                jobs.append(_Shard(rows, corpus.finish, corpus.columns, str(parquet), str(record)))
        if len(jobs) < len(shards):
            print(
                f"Going on with a conversion that was stopped: {len(shards) - len(jobs)} of {len(shards)} are there."
            )
        _run(jobs, num_proc, progress, corpus.name)
        summary = _summary(corpus, [json.loads(path.read_text(encoding="utf-8")) for path in records])
        summary["fingerprint"] = fingerprint
        _complete(partial, dest, corpus, summary)
    return summary


# --- the plan in shards ----------------------------------------------------------------------------------------------


def _cut_into_shards(corpus: Corpus) -> list[tuple[str, int, list[dict[str, Any]]]]:
    """(split, number, rows) of every shard."""
    size = max(1, min(ROWS_PER_SHARD, BYTES_PER_SHARD // max(1, corpus.bytes_per_row)))
    return [
        (split, number, rows[start : start + size])
        for split, rows in corpus.rows.items()
        for number, start in enumerate(range(0, len(rows), size))
    ]


def _fingerprint(corpus: Corpus) -> str:
    """Changes with the rows, the options, the columns and the files of the release."""
    digest = hashlib.sha256()
    stats = [_stat(path) for path in (*corpus.sources, *sorted(map(str, corpus.files)))]
    head = [CONVERTER_VERSION, corpus.name, corpus.settings, str(corpus.columns), stats, ROWS_PER_SHARD]
    digest.update(json.dumps(head, default=str, sort_keys=True).encode())
    for split, rows in corpus.rows.items():
        for row in rows:
            digest.update(f"{split}{row!r}".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _stat(path: str | Path) -> tuple[str, int | None, int | None]:
    """Name, size and time of change; without the latter two if it is not there."""
    try:
        found = os.stat(path)
    except OSError:
        return os.path.basename(path), None, None
    return os.path.basename(path), found.st_size, found.st_mtime_ns


# --- one shard -------------------------------------------------------------------------------------------------------


def _make_shard(shard: _Shard) -> dict[str, Any]:
    """Finish the rows and write them; what became of them, with the ids that were kept."""
    report, kept = ConversionReport(), []
    temporary = f"{shard.parquet}.{os.getpid()}.tmp"
    schema = shard.columns.arrow_schema
    writer = pq.ParquetWriter(temporary, schema, compression="zstd", use_dictionary=False) if shard.parquet else None
    waiting: list[dict[str, Any]] = []
    size = 0
    for row in shard.rows:
        finished = shard.finish(row, report)
        if finished is None:
            continue
        kept.append(finished["id"])
        if writer is not None:
            waiting.append(finished)
            size += sum(_size(value) for value in finished.values())
        if size >= BYTES_PER_GROUP:
            writer.write_table(_table(waiting, schema))
            waiting, size = [], 0
    record = {"kept": kept, "report": report.to_dict()}
    if writer is not None:
        if waiting:
            writer.write_table(_table(waiting, schema))
        writer.close()
        os.replace(temporary, shard.parquet)
        write_json(shard.record, record)
    return record


def _size(value: Any) -> int:
    if isinstance(value, np.ndarray):
        return value.nbytes
    return len(value["bytes"]) if isinstance(value, dict) else 64


def _table(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    columns = []
    for column in schema:
        values = [row.get(column.name) for row in rows]
        if any(isinstance(value, np.ndarray) for value in values):
            columns.append(_sequences(values, column.type))
        else:
            columns.append(pa.array(values, type=column.type))
    return pa.Table.from_arrays(columns, schema=schema)


def _sequences(values: list[np.ndarray | None], kind: pa.DataType) -> pa.Array:
    """(steps, F) float32 arrays as lists of vectors, without going through Python's numbers."""
    there = [value for value in values if value is not None]
    vectors = pa.FixedSizeListArray.from_arrays(
        pa.array(np.concatenate(there).reshape(-1), pa.float32()), type=kind.value_type
    )
    ends = np.cumsum([0] + [0 if value is None else len(value) for value in values], dtype=np.int32)
    missing = pa.array([value is None for value in values])
    return pa.ListArray.from_arrays(pa.array(ends), vectors, type=kind, mask=missing)


# --- many shards -----------------------------------------------------------------------------------------------------


def _run(jobs: list[_Shard], num_proc: int, progress: bool, name: str) -> list[dict[str, Any]]:
    """Make the shards; their records in order."""
    with tqdm(total=sum(len(job.rows) for job in jobs), desc=name, unit="row", disable=not progress) as bar:
        records = []
        if num_proc == 1 or len(jobs) < 2:
            found: Iterator[dict[str, Any]] = map(_make_shard, jobs)
            for job, record in zip(jobs, found, strict=True):
                records.append(record)
                bar.update(len(job.rows))
            return records
        # Forked, because a new interpreter takes seconds to import what the workers need. Nothing runs beside us yet.
        context = multiprocessing.get_context("fork")
        with ProcessPoolExecutor(min(num_proc, len(jobs)), context, _end_with_parent) as pool:
            for job, record in zip(jobs, pool.map(_make_shard, jobs), strict=True):
                records.append(record)
                bar.update(len(job.rows))
        return records


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for work forever."""

    def watch() -> None:
        wait([multiprocessing.parent_process().sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _summary(corpus: Corpus, records: list[dict[str, Any]]) -> dict[str, Any]:
    """Plan and shards together.

    Raises:
        ValueError: nothing was kept.
    """
    total = ConversionReport()
    total.add(corpus.report)
    kept: set[str] = set()
    for record in records:
        total.add(ConversionReport.from_dict(record["report"]))
        kept.update(record["kept"])
    ids = {split: [row["id"] for row in rows if row["id"] in kept] for split, rows in corpus.rows.items()}
    repaired = {name for names in total.reasons["repaired"].values() for name in names}
    for split, names in ids.items():
        total.kept[split] = len(names)
        total.mended[split] = sum(name in repaired for name in names)
    if not kept:
        raise ValueError(f"No row of {corpus.name} can be used.\n{total.table()}")
    manifests = [official(ids)]
    if corpus.disjoint:
        labeled = [row for rows in corpus.rows.values() for row in rows if row["answer"] is not None]
        manifests.append(video_disjoint(ids, {row["id"]: str(row["video_id"]) for row in labeled}))
        for split, names in manifests[-1]["splits"].items():
            if ids[split] and not names:
                total.note("too few videos: nothing in this split of video_disjoint", split)
    return {
        "corpus": corpus.name,
        "settings": corpus.settings,
        "table": total.to_dict(),
        "manifests": {manifest["name"]: manifest for manifest in manifests},
    }


# --- the folder ------------------------------------------------------------------------------------------------------


def _found(dest: Path, fingerprint: str, overwrite: bool) -> dict[str, Any] | None:
    """The record of this very conversion, if it is there already."""
    if not dest.exists() or (dest.is_dir() and not any(dest.iterdir())):
        return None
    if not (dest / RECORD).is_file():
        raise FileExistsError(f"{dest} is there and holds something else. Choose another DEST.")
    found = json.loads((dest / RECORD).read_text(encoding="utf-8"))
    if overwrite:
        return None
    if found["fingerprint"] != fingerprint:
        raise FileExistsError(
            f"{dest} holds a corpus that was converted from other files or with other options, or by another version. "
            "Use --overwrite to replace it, or choose another DEST."
        )
    for split, counts in found["table"]["rows"].items():
        there = sum(_count(path) for path in dest.glob(f"data/{split}-*.parquet"))
        if there != counts["kept"]:
            raise FileExistsError(
                f"{dest} is not whole: its data/ holds {there} of the {counts['kept']} rows of {split}. Use "
                "--overwrite to make it again."
            )
    print(f"{dest} holds this very conversion already.")
    manifests = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in dest.glob("splits/*.json")}
    return found | {"manifests": manifests}


def _count(path: Path) -> int:
    """Rows of a shard; 0 if it is damaged."""
    try:
        return pq.read_metadata(path).num_rows
    except (OSError, ValueError):
        return 0


def partial_folder(dest: Path) -> Path:
    """Where an unfinished conversion lies."""
    return dest.with_name(f".{dest.name}.partial")


@contextmanager
def _locked(dest: Path) -> Iterator[None]:
    """No two conversions into one folder; the lock goes with the process, however it ends."""
    dest.parent.mkdir(parents=True, exist_ok=True)
    path = dest.with_name(f".{dest.name}.lock")
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise FileExistsError(f"Another conversion into {dest} is under way.") from error
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _prepare(partial: Path, fingerprint: str) -> None:
    """The hidden folder of an unfinished conversion; one of something else is thrown away."""
    note = partial / "work/fingerprint.json"
    if partial.exists() and not (note.is_file() and json.loads(note.read_text()) == fingerprint):
        print(f"Throwing away {partial}, an unfinished conversion of other files or with other options.")
        shutil.rmtree(partial)
    for name in ("data", "work"):
        (partial / name).mkdir(parents=True, exist_ok=True)
    for leftover in partial.glob("*/*.tmp"):
        leftover.unlink()
    write_json(note, fingerprint)


def _complete(partial: Path, dest: Path, corpus: Corpus, summary: dict[str, Any]) -> None:
    manifests = summary["manifests"]
    for name, manifest in manifests.items():
        write_json(partial / f"splits/{name}.json", manifest)
    for path in partial.glob("data/*.parquet"):
        if pq.read_metadata(path).num_rows == 0:
            path.unlink()  # `load_dataset` stumbles over it
    write_card(partial / "README.md", corpus.name, corpus.card, corpus.columns, summary["table"], list(manifests))
    stored = {key: value for key, value in summary.items() if key != "manifests"}
    write_json(partial / RECORD, stored | {"converter_version": CONVERTER_VERSION, "versions": versions()})
    shutil.rmtree(partial / "work")
    given_up = dest.with_name(f".{dest.name}.old")
    shutil.rmtree(given_up, ignore_errors=True)
    if dest.exists():
        os.replace(dest, given_up)  # empty, or a corpus that --overwrite gave up
    os.replace(partial, dest)
    shutil.rmtree(given_up, ignore_errors=True)
