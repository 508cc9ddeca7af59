"""Cost of converting and reading a corpus the size of CMU-MOSEI.

    python -m training.benchmarks.cost.converters --folder scratch --tokenizer .cache/assets/SmolLM2-135M-Instruct

Writes a feature pickle with as many examples as MMSA's pickle of MOSEI, each with 500 audio vectors of width 74 and
375 video vectors of width 35, without any padding. Converts it in a separate process whose memory is monitored, and
reads one epoch of the training split through `EGMFDataset` and the collator. Most examples have the same vectors as
some others: shared within the pickle (the default) or, with `--layout arrays`, repeated in complete arrays as in the
release. Prints JSON, and writes it with --output.
"""

import pickle
import resource
import subprocess
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

from ...cli import CommandParser, command_errors, output_file
from ...data.collator import SampleCollator
from ...data.dataset import EGMFDataset
from ...data.parquet import load_converted
from ...paths import python_command
from ...records import print_record, versions
from ..option_ranges import COUNT, check_ranges
from .utterances import WORDS


COUNTS = {"train": 16_326, "valid": 1_871, "test": 4_659}
AUDIO = (500, 74)
VIDEO = (375, 35)
SECONDS_BETWEEN_SAMPLES = 0.05


def write_release(path: Path, counts: dict[str, int], distinct: int, layout: str) -> Path:
    """Write the pickle.

    Args:
        path: the file.
        counts: split -> examples.
        distinct: number of distinct examples.
        layout: `rows`, lists in which the same arrays recur, or `arrays`, one array per column and split.
    """
    rng = np.random.default_rng(0)
    audio = rng.standard_normal((distinct, *AUDIO), dtype=np.float32)
    video = rng.standard_normal((distinct, *VIDEO), dtype=np.float32)
    columns = {"audio": audio, "vision": video}
    if layout == "rows":
        columns = {name: list(array) for name, array in columns.items()}
    release: dict[str, dict[str, Any]] = {}
    for split, count in counts.items():
        indices = rng.integers(0, distinct, count)
        release[split] = {
            "id": [f"{split}{i // 7}$_${i % 7}" for i in range(count)],
            "raw_text": [" ".join(rng.choice(WORDS, 20)) for _ in range(count)],
            "regression_labels": rng.integers(-9, 10, count).astype(np.float32) / 3,
            "audio_lengths": [AUDIO[0]] * count,
            "vision_lengths": [VIDEO[0]] * count,
        }
        for name, column in columns.items():
            release[split][name] = [column[i] for i in indices] if layout == "rows" else column[indices]
    with path.open("wb") as file:
        pickle.dump(release, file, protocol=4)
    return path


def convert(source: Path, destination: Path, num_workers: int) -> dict[str, float]:
    """Seconds, and the peak memory in GB of converter and workers together, with shared pages counted once."""
    command = python_command("converters.mmsa", source, destination, "--corpus", "mosei")
    command += ["--num_workers", str(num_workers), "--no_progress"]
    started = time.perf_counter()
    peak = 0
    process = subprocess.Popen(command)
    while process.poll() is None:
        peak = max(peak, memory_of_family(process.pid))
        time.sleep(SECONDS_BETWEEN_SAMPLES)
    if process.returncode:
        raise OSError(f"The converter failed with exit status {process.returncode}; see its message above.")
    return {"seconds": time.perf_counter() - started, "peak_gb": peak / 1e9}


def memory_of_family(pid: int) -> int:
    """Bytes of a process and its children; 0 if one of them has just ended."""
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
        return sum(member.memory_full_info().pss for member in family)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0


def read_epoch(folder: Path, tokenizer: str, num_workers: int, batch_size: int) -> dict[str, float]:
    """Samples per second through the collator, once the dataset is open.

    Measured in wall-clock time, and in CPU time of this process and its workers, which other load does not change.
    """
    started = time.perf_counter()
    examples = [example for example in load_converted(folder) if example["split"] == "train"]
    open_seconds = time.perf_counter() - started
    processor = EGMFProcessor(
        AutoTokenizer.from_pretrained(tokenizer),
        audio_input="features",
        audio_feature_size=AUDIO[1],
        video_input="features",
        video_feature_size=VIDEO[1],
    )
    loader = DataLoader(
        EGMFDataset(examples, processor, with_labels=True),
        batch_size=batch_size,
        shuffle=True,
        num_workers=num_workers,
        collate_fn=SampleCollator(processor),
    )
    started = time.perf_counter()
    processor_started = _processor_seconds()
    samples = sum(len(batch["input_ids"]) for batch in loader)
    seconds = time.perf_counter() - started
    processor_seconds = _processor_seconds() - processor_started
    return {
        "open_seconds": open_seconds,
        "samples": samples,
        "seconds": seconds,
        "samples_per_second": samples / seconds,
        "processor_seconds": processor_seconds,
        "samples_per_processor_second": samples / processor_seconds,
    }


def _processor_seconds() -> float:
    """CPU time of this process and its finished children, in user and system mode."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def make_parser() -> CommandParser:
    parser = CommandParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="scratch folder; needs up to 15 GB")
    parser.add_argument("--tokenizer", required=True, help="folder or Hub id of a tokenizer")
    parser.add_argument("--layout", choices=["rows", "arrays"], default="rows", help="layout of the pickle")
    parser.add_argument("--distinct", type=int, default=200, help="number of distinct examples")
    parser.add_argument("--share", type=float, default=1.0, help="share of MOSEI's examples, for a quick test")
    parser.add_argument(
        "--num_workers", type=int, default=2, help="worker processes of the converter and of the data loader"
    )
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--output", type=output_file, help="also write the record to this JSON file")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    with command_errors():
        arguments = make_parser().parse_args(argv)
        ranges = {"distinct": (1, 10_000), "share": (1e-6, 1.0), "num_workers": (0, 1024), "batch_size": COUNT}
        check_ranges(arguments, ranges)
        folder = arguments.folder.resolve()
        folder.mkdir(parents=True, exist_ok=True)
        datasets.config.HF_DATASETS_CACHE = folder / "cache"
        counts = {split: max(1, round(count * arguments.share)) for split, count in COUNTS.items()}
        source = write_release(folder / "unaligned_50.pkl", counts, arguments.distinct, arguments.layout)
        record = {
            "examples": counts,
            "layout": arguments.layout,
            "distinct_examples": arguments.distinct,
            "pickle_gb": source.stat().st_size / 1e9,
            "processes": arguments.num_workers,
            "convert": convert(source, folder / "mosei", arguments.num_workers),
            "read": read_epoch(folder / "mosei", arguments.tokenizer, arguments.num_workers, arguments.batch_size),
            "versions": versions(),
        }
        print_record(record, arguments.output)


if __name__ == "__main__":
    main()
