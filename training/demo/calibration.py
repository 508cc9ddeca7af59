"""Accuracy and calibration of the demo's runs, on many new clips drawn as its own were.

    python -m training.demo.corpus --output data/demo-new --sources .cache/assets --seed 2 --phrase_seed 0 \
        --train 5 --validation 5 --test 2000
    python -m training.demo.calibration runs/study/egmf-*   # writes training/results/demo_calibration.json

On the demo's own 240 test clips even a calibrated model is measured to have an error of 0.05 to 0.07, and accuracies
are uncertain by 0.03. Calibration is fitted on the validation split of each run's own corpus; it does not enter its
checkpoint, where `egmf calibrate` stores it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..cli import CommandParser, command_errors
from ..evaluation.calibration import calibration_figures, fit_calibration, summarize_calibration
from ..evaluation.evaluator import EvaluationOptions, evaluate_checkpoint
from ..paths import RESULTS
from ..records import check_writable, commit, digest_of_bytes, read_json, versions, write_json
from .ideal import ideal_accuracies, read_settings


TASK = "emotion"
FITTED_ON = "validation"


def evaluate(
    run: Path, dataset: str, split: str, output: Path, batch_size: int, only_tasks: list[str] | None = None
) -> dict[str, Any]:
    """Results of a run on a split with every subset of the modalities; existing ones are reused."""
    if not output.is_file():
        evaluate_checkpoint(
            EvaluationOptions(
                model_name_or_path=str(run),
                dataset=dataset,
                split=split,
                subsets=["every"],
                only_tasks=only_tasks,
                output=output,
                batch_size=batch_size,
            )
        )
    return read_json(output)


def find_corpus(runs: Sequence[Path]) -> Path:
    """The demo corpus that runs were trained on.

    Raises:
        ValueError: a run is not finished, or given twice; or they were trained on several corpora.
    """
    for run in runs:
        if not (run / "training.json").is_file():
            raise ValueError(f"{run} is not a finished run: it has no training.json. `make demo-study` makes some.")
    if len({run.resolve() for run in runs}) < len(runs):
        raise ValueError("A run is given twice. Give runs that differ in their seed.")
    corpora = {str(read_json(run / "training.json")["data_arguments"]["dataset"]) for run in runs}
    if len(corpora) > 1:
        raise ValueError(f"The runs were trained on {', '.join(sorted(corpora))}. Give runs on one corpus.")
    return Path(corpora.pop())


def measure(run: Path, own: Path, dataset: Path, batch_size: int) -> dict[str, dict[str, dict[str, float]]]:
    """Subset of the modalities -> `before` and `after` -> figures, as from `calibration_figures`.

    Raises:
        ValueError: the run or the corpus has no emotions.
    """
    fitted_on = evaluate(run, str(own), FITTED_ON, run / f"results-{FITTED_ON}.json", batch_size)
    digest = digest_of_bytes(repr(sorted(read_settings(dataset).items())).encode())[:8]
    results = evaluate(run, str(dataset), "test", run / f"results-new-{digest}.json", batch_size, [TASK])
    for part in (*fitted_on["subsets"].values(), *results["subsets"].values()):
        if TASK not in part["tasks"]:
            raise ValueError(f"{run} was evaluated without the task {TASK!r}: give a run and a corpus of the demo.")
    calibration = fit_calibration(fitted_on["subsets"], TASK)
    return {
        subset: calibration_figures(part["tasks"][TASK]["predictions"], calibration)
        for subset, part in results["subsets"].items()
    }


def make_parser() -> CommandParser:
    parser = CommandParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+", help="folders of finished runs that differ in their seed")
    parser.add_argument("--dataset", type=Path, default=Path("data/demo-new"), help="folder of a demo corpus")
    parser.add_argument("--batch_size", type=int, default=16, help="examples per batch; default: 16")
    parser.add_argument("--output", type=Path, default=RESULTS / "demo_calibration.json", help="JSON file to write")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    with command_errors("Finished evaluations are kept. Run the same command again."):
        arguments = make_parser().parse_args(argv)
        check_writable(arguments.output.parent)
        own = find_corpus(arguments.runs)
        settings = read_settings(arguments.dataset)
        ideal = ideal_accuracies(own, arguments.dataset)
        records = [read_json(run / "training.json") for run in arguments.runs]
        figures = [measure(run, own, arguments.dataset, arguments.batch_size) for run in arguments.runs]
        result = {
            "command": "python -m training.demo.calibration",
            "corpus": settings,
            "seeds": [record["seed"] for record in records],
            "commits": sorted({record["commit"] for record in records}),
            "commit": commit(),
            "versions": versions(),
            "subsets": summarize_calibration(figures),
            **ideal,
        }
        print(f"results: {write_json(arguments.output, result)}")


if __name__ == "__main__":
    main()
