"""Benchmark on real data: EGMF with a small language model and a plain scikit-learn baseline on five public corpora.

    python -m training.benchmarks.real_data --dataset DATA --only mosi ravdess

DATA holds any of `meld_text/`, `ch_sims_v2_text/`, `emotiontalk_text/`, `cmu_mosi_trimodal/`, `ravdess_speech_16k/`;
no data comes with this project. Each benchmark is converted, split, trained on, evaluated and compared separately:

    release ─► converters ─► examples, split by speaker/video ──┬─► train ─► evaluator ──────────────┬─► real_data.json
                                                                └─► scikit-learn ─► the same metrics ┘   and .md

The baseline chooses its regularization by cross-validation over groups. Existing corpora and runs are reused. The
results hold only figures: no texts, no ids. Options that are not listed here are passed to training.train.

Next: `benchmarks.py` defines the benchmarks, `measure.py` runs them.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from ...cli import command_errors
from ...model.language_model import check_model_location
from ...paths import RESULTS
from ...records import check_writable, commit, read_json, write_json, write_text
from ..option_ranges import check_ranges
from .benchmarks import BENCHMARKS
from .measure import BenchmarkOptions, measure
from .table import render


def merge_results(path: Path, lock: Path, name: str, result: dict[str, Any], text_model: str) -> None:
    """Put one benchmark into the results file and rerender the table.

    Args:
        path: the results file; the table is next to it, with the suffix `.md`.
        lock: lock file, because several benchmarks may run at once.
        name: name of the benchmark.
        result: result of `measure`.
        text_model: name of the language model.
    """
    with FileLock(lock):
        benchmarks = read_json(path)["benchmarks"] if path.is_file() else {}
        benchmarks[name] = result
        ordered = {key: benchmarks[key] for key in BENCHMARKS if key in benchmarks}
        write_json(path, {"text_model": text_model, "commit": commit(), "benchmarks": ordered})
        write_text(path.with_suffix(".md"), render(read_json(path)))


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], epilog="Other options are passed to training.train.", allow_abbrev=False
    )
    parser.add_argument("--dataset", type=Path, required=True, help="folder that holds the releases' folders")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=list(BENCHMARKS),
        default=list(BENCHMARKS),
        help="benchmarks to run (default: all)",
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="one run per seed")
    parser.add_argument(
        "--all_examples", action="store_true", help="train on all examples, even where the default is a part of them"
    )
    parser.add_argument(
        "--text_model_name_or_path", default=".cache/assets/SmolLM2-135M-Instruct", help="folder or Hub id"
    )
    parser.add_argument(
        "--work", type=Path, default=Path("runs/real_data"), help="folder in which corpora and runs are kept"
    )
    parser.add_argument(
        "--output", type=Path, default=RESULTS / "real_data.json", help="results file (default: the project's own)"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    with command_errors():
        arguments, training_options = make_parser().parse_known_args(argv)
        check_ranges(arguments, {"seeds": (0, 2**32 - 1)})
        if not arguments.dataset.is_dir():
            raise ValueError(f"--dataset {arguments.dataset} is not a folder. Give the folder of the releases.")
        check_model_location(arguments.text_model_name_or_path)
        check_writable(arguments.output.parent)
        options = BenchmarkOptions(
            dataset=arguments.dataset,
            text_model_name_or_path=arguments.text_model_name_or_path,
            work=arguments.work,
            seeds=arguments.seeds,
            all_examples=arguments.all_examples,
            training_options=training_options,
        )
        text_model = Path(options.text_model_name_or_path).name
        for name in arguments.only:
            result = measure(name, options)
            merge_results(arguments.output, options.work / "results.lock", name, result, text_model)
            print(f"{name}: results in {arguments.output} and {arguments.output.with_suffix('.md')}", flush=True)


if __name__ == "__main__":
    main()
