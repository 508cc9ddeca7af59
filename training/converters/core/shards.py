"""Parquet shards of a planned corpus, made in parallel.

    Corpus ─► plan_shards ─► make_shards ─► worker: finish each example, write groups ─► .tmp ─► shard + record

Memory holds the plan and, in each worker, `BYTES_PER_GROUP` of finished examples. A record lists which examples of its
shard were kept, and holds the worker's conversion report. conversion.py combines the shards.
"""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from ...data.text_files import shorten
from ...records import replacing, write_json
from .conversion_report import ConversionReport
from .corpus import Corpus


if TYPE_CHECKING:
    import datasets


ROWS_PER_SHARD = 1000
BYTES_PER_SHARD = 256 << 20
BYTES_PER_GROUP = 32 << 20
UNFIT = (pa.ArrowException, OverflowError, TypeError, ValueError)  # of a value that has another type than its column


class Shard(NamedTuple):
    """Examples that go into one Parquet file.

    Args:
        examples: planned examples.
        finish, finish_options, columns: as in `Corpus`.
        parquet: the file to write; None to inspect only.
        record: JSON file for the result; None to inspect only.
    """

    examples: list[dict[str, Any]]
    finish: Callable[..., dict[str, Any] | None]
    finish_options: dict[str, Any]
    columns: "datasets.Features"
    parquet: Path | None
    record: Path | None

    @property
    def is_written(self) -> bool:
        return self.parquet.is_file() and self.record.is_file()


def plan_shards(corpus: Corpus, folder: Path | None) -> list[Shard]:
    """The shards of a corpus, in order.

    Args:
        corpus: the plan.
        folder: shards go into its `data/`, records into its `work/`; None to inspect only.
    """
    size = max(1, min(ROWS_PER_SHARD, BYTES_PER_SHARD // max(1, corpus.bytes_per_example)))
    shards = []
    for split, examples in corpus.examples.items():
        starts = range(0, len(examples), size)
        for number, start in enumerate(starts):
            parquet = record = None
            if folder is not None:
                parquet = folder / f"data/{split}-{number:05d}-of-{len(starts):05d}.parquet"
                record = folder / f"work/{split}-{number:05d}.json"
            part = examples[start : start + size]
            shards.append(Shard(part, corpus.finish, corpus.finish_options, corpus.columns, parquet, record))
    return shards


# ---- one shard ------------------------------------------------------------------------------------------------


def make_shard(shard: Shard) -> dict[str, Any]:
    """Finish the examples and write them.

    Returns:
        `kept`: the ids of the examples that were kept. `report`: the conversion report as a dict.
    """
    report = ConversionReport()
    kept = []
    with open_writer(shard) as writer:
        for example in shard.examples:
            finished = shard.finish(example, report, **shard.finish_options)
            if finished is None:
                continue
            kept.append(finished["id"])
            if writer is not None:
                writer.add(finished)
    record = {"kept": kept, "report": report.to_dict()}
    if shard.record is not None:
        write_json(shard.record, record)
    return record


@contextmanager
def open_writer(shard: Shard) -> Iterator["GroupWriter | None"]:
    """A writer for the shard's file, which gets its final name once complete; None to inspect only."""
    if shard.parquet is None:
        yield None
        return
    schema = shard.columns.arrow_schema
    with replacing(shard.parquet) as temporary:
        with pq.ParquetWriter(temporary, schema, compression="zstd", use_dictionary=False) as file:
            writer = GroupWriter(file, schema)
            yield writer
            writer.write_group()


class GroupWriter:
    """Writes examples in groups of about `BYTES_PER_GROUP`."""

    def __init__(self, file: pq.ParquetWriter, schema: pa.Schema) -> None:
        self.file = file
        self.schema = schema
        self.examples: list[dict[str, Any]] = []
        self.num_bytes = 0

    def add(self, example: dict[str, Any]) -> None:
        self.examples.append(example)
        self.num_bytes += sum(num_bytes(value) for value in example.values())
        if self.num_bytes >= BYTES_PER_GROUP:
            self.write_group()

    def write_group(self) -> None:
        if self.examples:
            self.file.write_table(arrow_table(self.examples, self.schema))
        self.examples = []
        self.num_bytes = 0


def num_bytes(value: Any) -> int:
    """Approximate size of a cell."""
    if isinstance(value, np.ndarray):
        return value.nbytes
    if isinstance(value, dict):
        return len(value["bytes"])
    return 64


def arrow_table(examples: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """Finished examples as a table.

    Raises:
        ValueError: a value does not fit its column.
    """
    columns = []
    for column in schema:
        values = [example.get(column.name) for example in examples]
        if any(isinstance(value, np.ndarray) for value in values):
            columns.append(_arrow_sequences(values, column.type))
        else:
            columns.append(_arrow_array(values, column, examples))
    return pa.Table.from_arrays(columns, schema=schema)


def _arrow_array(values: list[Any], column: pa.Field, examples: list[dict[str, Any]]) -> pa.Array:
    try:
        return pa.array(values, type=column.type)
    except UNFIT:
        for example, value in zip(examples, values, strict=True):
            try:
                pa.array([value], type=column.type)
            except UNFIT as error:
                raise ValueError(
                    f"Example {shorten(example['id'])}: {column.name} is {shorten(value)}, which cannot be stored as "
                    f"{column.type}. Correct it in the release."
                ) from error
        raise


def _arrow_sequences(values: list[np.ndarray | None], dtype: pa.DataType) -> pa.Array:
    """(steps, F) float32 arrays as lists of vectors, without a Python object for each number."""
    numbers = np.concatenate([value for value in values if value is not None]).reshape(-1)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(numbers, pa.float32()), type=dtype.value_type)
    lengths = [0 if value is None else len(value) for value in values]
    offsets = np.cumsum([0, *lengths], dtype=np.int32)
    missing = pa.array([value is None for value in values])
    return pa.ListArray.from_arrays(pa.array(offsets), vectors, type=dtype, mask=missing)


# ---- many shards ----------------------------------------------------------------------------------------------


def make_shards(shards: list[Shard], num_workers: int, progress: bool, name: str) -> list[dict[str, Any]]:
    """Make the shards and return the results of `make_shard` in order.

    Args:
        shards: from `plan_shards`.
        num_workers: worker processes; the result does not depend on it.
        progress: show a progress bar.
        name: of the corpus, for the progress bar.

    Raises:
        ChildProcessError: a worker was killed.
    """
    if num_workers == 1 or len(shards) < 2:
        return _collect(map(make_shard, shards), shards, progress, name)
    # Forked, because a new interpreter would take seconds to import everything. No other threads are running yet.
    context = multiprocessing.get_context("fork")
    try:
        with ProcessPoolExecutor(min(num_workers, len(shards)), context, _exit_with_parent) as pool:
            return _collect(pool.map(make_shard, shards), shards, progress, name)
    except BrokenProcessPool as error:
        raise ChildProcessError(
            "A worker process was killed, perhaps for lack of memory. Run the same command again: it resumes."
        ) from error


def _collect(
    results: Iterable[dict[str, Any]], shards: list[Shard], progress: bool, name: str
) -> list[dict[str, Any]]:
    records = []
    total = sum(len(shard.examples) for shard in shards)
    with tqdm(total=total, desc=name, unit="example", disable=not progress) as bar:
        for shard, record in zip(shards, results, strict=True):
            records.append(record)
            bar.update(len(shard.examples))
    return records


def _exit_with_parent() -> None:
    """Run in each worker: without it, a worker whose parent was killed would wait for work forever."""

    def watch() -> None:
        wait([multiprocessing.parent_process().sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
