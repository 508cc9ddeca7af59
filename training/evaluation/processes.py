"""Evaluation and prediction in several processes: each takes its part, and the main process merges the records.

examples index, index + processes, ... ─► records ─► one Parquet file per process ─► merged in order
"""

import json
import os
import shutil
from collections.abc import Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState


def choose_device(name: str | None) -> str:
    """The device of `--device`; for None, CUDA if there is a GPU.

    Raises:
        ValueError: there is no such device.
    """
    has_gpu = torch.cuda.is_available()
    if name is None:
        return "cuda" if has_gpu else "cpu"
    try:
        kind = torch.device(name).type
    except RuntimeError as error:
        raise ValueError(f"--device is {name!r}; give cpu or cuda.") from error
    if kind == "cuda" and not has_gpu:
        raise ValueError(f"--device is {name!r}, but torch finds no GPU here. Give cpu.")
    return name


def processes(device: str) -> PartialState:
    """The processes that a launcher has started, or only this one. One may wait hours for the records of another."""
    return PartialState(cpu=torch.device(device).type == "cpu", timeout=timedelta(days=1))


def require_examples(count: int, processes: int, name: str) -> None:
    """Check that each process gets at least one example.

    Raises:
        ValueError: more processes than examples.
    """
    if processes > count:
        raise ValueError(
            f"There are {processes} processes but only {count} {name}. Start at most {count} (--num_processes)."
        )


def own_part(examples: Sequence[Any], state: PartialState) -> tuple[list[int], list[Any]]:
    """Indices and examples of this process: every n-th, because neighbors often have similar lengths."""
    indices = list(range(state.process_index, len(examples), state.num_processes))
    return indices, [examples[index] for index in indices]


def merge_over_processes(
    state: PartialState, records: Iterable[dict[str, Any]], target: str | Path, key: Sequence[str]
) -> list[dict[str, Any]] | None:
    """Records of all processes in the order of their keys, on the main process; None on the others.

    With several processes, each writes its records next to `target`, as a Parquet file with one JSON text per record,
    which keeps every number bit for bit; the main process reads the files and removes them.

    Args:
        state: the processes.
        records: this process's records, each with the fields of `key`.
        target: the file that will be written; the folder of the parts is `.NAME.parts` next to it.
        key: fields that order the records.

    Raises:
        ValueError: two records have the same key.
    """
    merged = list(records)
    if state.num_processes > 1:
        folder = Path(target).with_name(f".{Path(target).name}.parts")
        _write_part(state, merged, folder)
        if not state.is_main_process:
            return None
        merged = _read_parts(state, folder)
        shutil.rmtree(folder)
    keyed = {tuple(record[name] for name in key): record for record in merged}
    if len(keyed) != len(merged):
        repeated = len(merged) - len(keyed)
        raise ValueError(f"{repeated} of {len(merged)} records repeat the {', '.join(key)} of another.")
    return [keyed[place] for place in sorted(keyed)]


def _part_name(process: int, processes: int) -> str:
    return f"part-{process:05d}-of-{processes:05d}.parquet"


def _write_part(state: PartialState, records: list[dict[str, Any]], folder: Path) -> None:
    """Write this process's records, and wait until all have written theirs."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if state.is_main_process:
        shutil.rmtree(folder, ignore_errors=True)  # left by a run that was stopped
        folder.mkdir(parents=True)
    state.wait_for_everyone()
    path = folder / _part_name(state.process_index, state.num_processes)
    texts = [json.dumps(record, ensure_ascii=False) for record in records]
    partial = path.with_suffix(".partial")
    pq.write_table(pa.table({"record": pa.array(texts, pa.string())}), partial)
    os.replace(partial, path)
    print(f"process {state.process_index} of {state.num_processes} ({os.getpid()}): {len(texts)} records")
    state.wait_for_everyone()


def _read_parts(state: PartialState, folder: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    records = []
    for process in range(state.num_processes):
        table = pq.read_table(folder / _part_name(process, state.num_processes))
        records += [json.loads(text) for text in table["record"].to_pylist()]
    return records


def require_all(indices: Iterable[int], count: int) -> None:
    """Check that the merged records are those of all examples.

    Raises:
        ValueError: an example is missing or unexpected.
    """
    wrong = set(indices) ^ set(range(count))
    if wrong:
        raise ValueError(
            f"Examples {sorted(wrong)[:20]} of {count} are missing or unexpected after merging the processes. "
            "Run the same command again in another folder."
        )
