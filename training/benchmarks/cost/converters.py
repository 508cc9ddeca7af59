"""What converting and reading a corpus of the size of CMU-MOSEI costs.

    python -m training.benchmarks.cost.converters --folder scratch --tokenizer .cache/assets/SmolLM2-135M-Instruct

Writes a feature pickle with as many rows as MMSA's of MOSEI, each 500 audio vectors of width 74 and 375 video vectors
of width 35 without any padding, converts it in a process of its own while its memory is watched, and reads one epoch
of the training split through `EGMFDataset` and the collator. Most rows share their numbers with others: in the pickle
itself (the default), or, with `--layout arrays`, in whole arrays as in the release. Prints JSON, and writes it with
--output.
"""

import argparse
import json
import pickle
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import psutil
from torch.utils.data import DataLoader
from transformers import AutoTokenizer

from processing_egmf import EGMFProcessor

from ...cli import output_file
from ...data.collator import EGMFDataCollator
from ...data.dataset import EGMFDataset
from ...data.parquet import load_converted
from ...records import versions, write_json
from .speed import WORDS


COUNTS = {"train": 16_326, "valid": 1_871, "test": 4_659}
AUDIO, VIDEO = (500, 74), (375, 35)


def write_release(path: Path, counts: dict[str, int], distinct: int, layout: str) -> Path:
    """The pickle. `rows`: lists in which the same arrays come again; `arrays`: one array a column and split."""
    rng = np.random.default_rng(0)
    shapes = {"audio": AUDIO, "vision": VIDEO}
    pools = {name: rng.standard_normal((distinct, *shape), dtype=np.float32) for name, shape in shapes.items()}
    rows = {name: list(pool) for name, pool in pools.items()}
    release: dict[str, dict[str, Any]] = {}
    for split, count in counts.items():
        chosen = rng.integers(0, distinct, count)
        release[split] = {
            "id": [f"{split}{i // 7}$_${i % 7}" for i in range(count)],
            "raw_text": [" ".join(rng.choice(WORDS, 20)) for _ in range(count)],
            "regression_labels": rng.integers(-9, 10, count).astype(np.float32) / 3,
            "audio_lengths": [AUDIO[0]] * count,
            "vision_lengths": [VIDEO[0]] * count,
            **{name: [rows[name][i] for i in chosen] if layout == "rows" else pools[name][chosen] for name in shapes},
        }
    with path.open("wb") as file:
        pickle.dump(release, file, protocol=4)
    return path


def convert(source: Path, dest: Path, num_proc: int) -> dict[str, float]:
    """Seconds, and the most memory that the converter and its workers held together, in GB (shared pages once)."""
    command = [sys.executable, "-m", "training.converters.mmsa", str(source), str(dest), "--corpus", "mosei"]
    started, most = time.perf_counter(), 0
    process = subprocess.Popen([*command, "--num_workers", str(num_proc), "--no_progress"])
    watched = psutil.Process(process.pid)
    while process.poll() is None:
        try:
            family = [watched, *watched.children(recursive=True)]
            most = max(most, sum(member.memory_full_info().pss for member in family))
        except (psutil.NoSuchProcess, psutil.AccessDenied):  # one that has just ended
            continue
        time.sleep(0.05)
    if process.returncode:
        raise RuntimeError(f"The converter ended with status {process.returncode}.")
    return {"seconds": time.perf_counter() - started, "peak_gb": most / 1e9}


def read_epoch(folder: Path, tokenizer: str, num_workers: int, batch_size: int) -> dict[str, float]:
    """Samples a second through the collator, after the data set was opened; by the clock, and by the time that the
    processor gave to us and the workers, which a busy machine does not change."""
    started = time.perf_counter()
    rows = [row for row in load_converted(folder) if row["split"] == "train"]
    opened = time.perf_counter() - started
    processor = EGMFProcessor(
        AutoTokenizer.from_pretrained(tokenizer),
        audio_input="features",
        audio_feature_size=AUDIO[1],
        video_input="features",
        video_feature_size=VIDEO[1],
    )
    loader = DataLoader(
        EGMFDataset(rows, processor, with_labels=True),
        batch_size=batch_size,
        shuffle=True,
        num_workers=num_workers,
        collate_fn=EGMFDataCollator(processor),
    )
    started, worked, samples = time.perf_counter(), _processor_seconds(), 0
    for batch in loader:
        samples += len(batch["input_ids"])
    seconds, work = time.perf_counter() - started, _processor_seconds() - worked
    return {
        "open_seconds": opened,
        "samples": samples,
        "seconds": seconds,
        "samples_per_second": samples / seconds,
        "processor_seconds": work,
        "samples_per_processor_second": samples / work,
    }


def _processor_seconds() -> float:
    """Of this process and its ended children, in user and system mode."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(entry.ru_utime + entry.ru_stime for entry in used)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="scratch folder; takes up to 15 GB")
    parser.add_argument("--tokenizer", required=True, help="folder or Hub id of a tokenizer")
    parser.add_argument("--layout", choices=["rows", "arrays"], default="rows")
    parser.add_argument("--distinct", type=int, default=200, help="rows that differ from one another")
    parser.add_argument("--share", type=float, default=1.0, help="take this share of MOSEI's rows, for a quick try")
    parser.add_argument("--num_workers", type=int, default=2, help="processes of the converter, workers of the loader")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--output", type=output_file, help="write the results to this JSON file")
    arguments = parser.parse_args(argv)
    folder = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    datasets.config.HF_DATASETS_CACHE = folder / "cache"
    counts = {split: max(1, round(count * arguments.share)) for split, count in COUNTS.items()}
    source = write_release(folder / "unaligned_50.pkl", counts, arguments.distinct, arguments.layout)
    results = {
        "rows": counts,
        "layout": arguments.layout,
        "distinct_rows": arguments.distinct,
        "pickle_gb": source.stat().st_size / 1e9,
        "processes": arguments.num_workers,
        "convert": convert(source, folder / "mosei", arguments.num_workers),
        "read": read_epoch(folder / "mosei", arguments.tokenizer, arguments.num_workers, arguments.batch_size),
        "versions": versions(),
    }
    print(json.dumps(results, indent=1))
    if arguments.output is not None:
        print(f"results: {write_json(arguments.output, results)}")


if __name__ == "__main__":
    main()
