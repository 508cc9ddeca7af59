"""Write the report of an evaluated run: a table of all subsets of modalities, plots, confusion matrices.

    egmf report --run runs/demo --dataset data/demo

The work is done in evaluation/report.py.
"""

from collections.abc import Sequence
from pathlib import Path

from .cli import CommandParser, command_errors


def make_parser() -> CommandParser:
    parser = CommandParser(prog="egmf report", description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True, help="folder of a finished and evaluated run")
    parser.add_argument("--dataset", type=Path, required=True, help="dataset folder of the run")
    parser.add_argument("--results", type=Path, help="results file; default: RUN/results-test.json")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    with command_errors():
        arguments = make_parser().parse_args(argv)
        from .evaluation.report import write_report  # imports torch

        print(f"report: {write_report(arguments.run, arguments.dataset, arguments.results)}")


if __name__ == "__main__":
    main()
