"""The complete demo (`make demo`): build a corpus, then train, evaluate and save a model, and predict clips with it.

    python -m training.demo [--output runs/demo] [--seed 0] [-- any option of training.train]

    assets -> corpus -> training -> calibration -> evaluation of every subset of modalities -> report, model card
                                                -> three predictions in a fresh process

Each stage runs in a process of its own; its duration and peak memory are written to `timings.json`. An interrupted
demo resumes with the same command: existing assets, clips and a finished training are kept, and an interrupted one
continues from its last checkpoint. With other options, a finished run is moved aside, never overwritten.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..cli import CommandParser, command_errors
from ..paths import CONFIGS, python_command
from ..recipes import chosen_options, read_settings
from ..records import check_writable, digest_of_bytes, read_json, weight_files, write_json
from .assets import fetch_assets, prepare_language_model
from .stages import TIMINGS, run_stage, train_once


FRESH_PREDICTION = Path(__file__).with_name("fresh_prediction.py")
SHOWN_CLIPS = (("emotion", "en"), ("emotion", "zh"), ("sentiment", "en"))  # task and language


def training_options(arguments: argparse.Namespace, language_model: Path) -> list[str]:
    """The arguments of the training command, without the folder of the run."""
    options = ["--config", str(arguments.config), "--dataset", str(arguments.dataset)]
    options += ["--text_model_name_or_path", str(language_model)]
    return [*options, "--seed", str(arguments.seed), *arguments.options]


def check_options(arguments: argparse.Namespace) -> None:
    """Refuse wrong options before anything is downloaded.

    Raises:
        SystemExit, ValueError: as `parse_arguments`, or a folder cannot be written.
    """
    for folder in (arguments.output, arguments.dataset, arguments.cache):
        check_writable(folder)
    options = ["--output_dir", str(arguments.output), *training_options(arguments, arguments.cache)]
    chosen_options(options, read_settings(options))
    from ..arguments import parse_arguments  # imports torch

    parse_arguments(options)


def train_and_evaluate(arguments: argparse.Namespace, language_model: Path, timings: dict[str, Any]) -> None:
    """Build the corpus, train on it, and evaluate every subset of modalities."""
    output = arguments.output
    corpus = python_command("demo.corpus", "--output", arguments.dataset, "--sources", arguments.cache)
    run_stage("corpus", corpus, timings)
    from ..data.dataset import BUILD_RECORD  # imports torch

    clips = [digest_of_bytes((arguments.dataset / name).read_bytes()) for name in ("metadata.jsonl", BUILD_RECORD)]
    train_once(training_options(arguments, language_model), arguments.config, clips, output, timings)
    run_stage("calibration", python_command("calibrate", output), timings)
    evaluate = python_command("run_eval", "--model_name_or_path", output, "--dataset", arguments.dataset)
    evaluate += ["--subsets", "every", "--seed", str(arguments.seed), "--overwrite"]
    run_stage("evaluation", evaluate, timings)


def write_documents(output: Path, dataset: Path) -> dict[str, Path]:
    """Write the report with its plots, and the model card."""
    from ..evaluation.report import write_report
    from ..hub.model_card import write_card
    from .preview import write_preview

    shutil.copy2(dataset / "ceilings.json", output)  # so that the run's card does not need the corpus
    write_preview(dataset, output / "faces.png")
    return {"report": write_report(output, dataset), "model card": write_card(output)}


def choose_clips(results: dict[str, Any], dataset: Path) -> list[dict[str, Any]]:
    """Three clips to predict: an English emotion, a Chinese emotion and a sentiment.

    Args:
        results: results of the evaluation; their `split` is used.
        dataset: folder of the corpus, to which the clips' paths are relative.
    """
    lines = (dataset / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    examples = [json.loads(line) for line in lines]
    clips = []
    for task, language in SHOWN_CLIPS:
        fitting = [
            example
            for example in examples
            if example["split"] == results["split"]
            if example["task"] == task
            if example["language"] == language
        ]
        example = fitting[0]
        clips.append(
            {
                "text": example["text"],
                "video": example["video"],
                "task": example["task"],
                "truth": example["answer"],
            }
        )
    return clips


def predict_in_fresh_process(output: Path, dataset: Path, timings: dict[str, Any]) -> None:
    """Load the checkpoint without the source tree, from an empty folder, and print three predictions."""
    results = read_json(output / "results-test.json")
    clips = write_json(output / "predicted-clips.json", choose_clips(results, dataset))
    command = [sys.executable, "-I", str(FRESH_PREDICTION)]
    command += [str(path.resolve()) for path in (output, clips, dataset)]
    with tempfile.TemporaryDirectory() as empty_folder:
        run_stage("three predictions in a fresh process", command, timings, Path(empty_folder))


def make_parser() -> CommandParser:
    parser = CommandParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("runs/demo"), help="folder for the run")
    parser.add_argument(
        "--dataset", type=Path, default=Path("data/demo"), help="folder of the corpus, built if missing"
    )
    parser.add_argument("--cache", type=Path, default=Path(".cache/assets"), help="folder for downloaded assets")
    parser.add_argument("--config", type=Path, default=CONFIGS / "demo.yaml", help="YAML file with training options")
    parser.add_argument("--seed", type=int, minimum=0, default=0)
    parser.add_argument("options", nargs="*", help="options for training.train, after --")
    return parser


def print_summary(arguments: argparse.Namespace, language_model: Path, paths: dict[str, Path]) -> None:
    output = arguments.output
    megabytes = sum(path.stat().st_size for path in weight_files(output)) / 1e6
    print("== done ==")
    print(f"checkpoint  {output}  (adapter checkpoint: {megabytes:.1f} MB of weights; the language model stays in")
    print(f"            {language_model})")
    for name, path in paths.items():
        print(f"{name:<11} {path}")
    print(f"results     {output / 'results-test.json'}")
    print(f"corpus      {arguments.dataset}")


def main(argv: Sequence[str] | None = None) -> None:
    with command_errors():
        arguments = make_parser().parse_args(argv)
        check_options(arguments)
        started = time.time()
        timings: dict[str, Any] = {}
        fetch_assets(arguments.cache)
        language_model = prepare_language_model(arguments.cache)
        timings["assets"] = {"seconds": round(time.time() - started, 1)}
        train_and_evaluate(arguments, language_model, timings)
        paths = write_documents(arguments.output, arguments.dataset)
        predict_in_fresh_process(arguments.output, arguments.dataset, timings)
        seconds = time.time() - started
        peak_gib = max(stage.get("peak_gib", 0.0) for stage in timings.values())
        timings["all"] = {"seconds": round(seconds, 1), "peak_gib": peak_gib}
        write_json(arguments.output / TIMINGS, timings)
        print_summary(arguments, language_model, paths)
        print(f"took        {seconds / 60:.1f} minutes, peak {peak_gib:.1f} GiB")


if __name__ == "__main__":
    main()
