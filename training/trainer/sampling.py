"""Rows over processes: what each one trains on, and what each one judges.

    training     order of an epoch ─► global batches ─► this process's part of each
    evaluation   rows index, index + processes, ... ─► judged ─► a Parquet file a process ─► merged in order

Which rows meet in a step, and what dropout of modalities and augmentation do to a row, follow from the seed, the epoch
and the row alone: however many processes share a global batch, it is the same batch.
"""

import json
import os
import shutil
import zlib
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import PartialState
from torch.utils.data import Dataset, RandomSampler, Sampler
from transformers import BatchFeature
from transformers.trainer_pt_utils import LengthGroupedSampler

from ..data.collator import EGMFDataCollator


class SampleIndex(NamedTuple):
    """Where a row stands in training."""

    index: int  # of the row
    epoch: int
    weight: float  # of this process's mean loss in the mean over processes; 1 but in a batch that does not divide


class EpochBatchSampler(Sampler[list[SampleIndex]]):
    """This process's part of every global batch, each epoch in an order that its seed and number decide.

    A last batch that does not divide is shared out as evenly as it goes. A process that is left without a row takes
    one at weight 0, so that all of them make as many steps.

    Args:
        sampler: which orders rows, by a generator that is set here.
        batch_size: rows of a process.
        drop_last: leave out a last batch that is not whole.
    """

    def __init__(
        self,
        sampler: RandomSampler | LengthGroupedSampler | Sampler,
        batch_size: int,
        processes: int,
        process: int,
        seed: int,
        drop_last: bool = False,
    ):
        self.sampler, self.seed, self.epoch, self.drop_last = sampler, seed, 0, drop_last
        self.processes, self.process, self.size = processes, process, batch_size * processes

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        rows = len(self.sampler)
        return rows // self.size if self.drop_last else -(-rows // self.size)

    def __iter__(self) -> Iterator[list[SampleIndex]]:
        if isinstance(self.sampler, RandomSampler | LengthGroupedSampler):
            self.sampler.generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = list(self.sampler)
        for number in range(len(self)):
            batch = order[number * self.size : (number + 1) * self.size]
            first, end = (len(batch) * place // self.processes for place in (self.process, self.process + 1))
            weight = (end - first) * self.processes / len(batch)
            yield [SampleIndex(index, self.epoch, weight) for index in batch[first:end] or batch[:1]]


class IndexedDataset(Dataset):
    """A data set by `SampleIndex`: each row with what seeds its draws, and the weight of its batch."""

    def __init__(self, dataset: Dataset, seed: int):
        self.dataset, self.seed = dataset, seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, place: SampleIndex) -> dict[str, Any]:
        row = self.dataset[place.index]
        draw = (self.seed, place.epoch, zlib.crc32(str(row["id"]).encode()))
        return {**row, "draw": draw, "loss_weight": place.weight}


class IndexedCollator:
    """A collator whose batches carry `loss_weight` ()."""

    def __init__(self, collator: EGMFDataCollator):
        self.collator = collator

    def __call__(self, rows: list[dict[str, Any]]) -> BatchFeature:
        batch = self.collator(rows)
        batch["loss_weight"] = torch.tensor(rows[0]["loss_weight"])
        return batch


def processes(device: str) -> PartialState:
    """The processes that a launcher has started; one, if none has. A process may wait hours for another's rows."""
    return PartialState(cpu=torch.device(device).type == "cpu", timeout=timedelta(days=1))


def require_examples(rows: int, processes: int, what: str) -> None:
    """
    Raises:
        ValueError: more processes than rows.
    """
    if processes > rows:
        raise ValueError(f"There are {processes} processes but {rows} {what}. Start at most {rows} (--num_processes).")


def own_part(rows: Sequence[Any], state: PartialState) -> tuple[list[int], list[Any]]:
    """Places and rows that this process judges: every n-th, because neighbors are often alike in length."""
    places = list(range(state.process_index, len(rows), state.num_processes))
    return places, [rows[place] for place in places]


def merge_over_processes(
    state: PartialState, records: Iterable[dict[str, Any]], target: str | Path, key: Sequence[str]
) -> list[dict[str, Any]] | None:
    """Records of all processes in the order of their keys, on the main process; None on the others.

    With several processes each writes its records beside `target`, as a Parquet file of one JSON text a record, which
    keeps every number bit for bit; the main process reads and removes them.

    Args:
        records: of this process, each with the fields of `key`.
        target: the file that comes of it; the folder of the parts is `.NAME.parts` beside it.
        key: fields that order the records.

    Raises:
        ValueError: two records have one key.
    """
    merged = list(records)
    if state.num_processes > 1:
        import pyarrow as pa
        import pyarrow.parquet as pq

        folder = Path(target).with_name(f".{Path(target).name}.parts")
        if state.is_main_process:
            shutil.rmtree(folder, ignore_errors=True)  # of a run that was stopped
            folder.mkdir(parents=True)
        state.wait_for_everyone()
        path = folder / f"part-{state.process_index:05d}-of-{state.num_processes:05d}.parquet"
        texts = [json.dumps(record, ensure_ascii=False) for record in merged]
        pq.write_table(pa.table({"record": pa.array(texts, pa.string())}), path.with_suffix(".part"))
        os.replace(path.with_suffix(".part"), path)
        print(f"process {state.process_index} of {state.num_processes} ({os.getpid()}): {len(texts)} records")
        state.wait_for_everyone()
        if not state.is_main_process:
            return None
        parts = [f"part-{i:05d}-of-{state.num_processes:05d}.parquet" for i in range(state.num_processes)]
        texts = [text for part in parts for text in pq.read_table(folder / part)["record"].to_pylist()]
        merged = [json.loads(text) for text in texts]
        shutil.rmtree(folder)
    keyed = {tuple(record[name] for name in key): record for record in merged}
    if len(keyed) != len(merged):
        raise ValueError(f"{len(merged) - len(keyed)} of {len(merged)} records stand twice for one {', '.join(key)}.")
    return [keyed[place] for place in sorted(keyed)]


def require_all(places: Iterable[int], count: int) -> None:
    """
    Raises:
        ValueError: a row is missing, or is there that should not be.
    """
    wrong = set(places) ^ set(range(count))
    if wrong:
        raise ValueError(f"Rows {sorted(wrong)[:20]} of {count} were lost or made up on the way between processes.")
