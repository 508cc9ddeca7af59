"""Analysis of the gate: what the expert weights of an evaluated run depend on.

    python -m training.experiments.gates runs/demo
    python -m training.experiments.gates runs/meld --columns speaker dialogue_position

Reads `results-test.json`; writes `gates.json`, `gates.md` and `gates-by-group.png` next to it. For each task: the
weights by true label, by intensity and polarity of a true score, by subset of the modalities, and by other columns of
the table; how much of each expert's variance that explains, with the p-value of a permutation test. The analysis is
in evaluation/gate_factors.py; the report of a run contains it.
"""

from collections.abc import Sequence
from pathlib import Path

from ..cli import CommandParser, command_errors
from ..records import check_replaceable, write_json, write_text


def make_parser() -> CommandParser:
    parser = CommandParser(prog="python -m training.experiments.gates", description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of an evaluated run, or a results file")
    parser.add_argument("--columns", nargs="+", help="columns to analyze; default: all of numbers or few values")
    parser.add_argument("--output", type=Path, help="JSON file; default: gates.json next to the results")
    return parser


def write_analysis(results_file: Path, output: Path, columns: Sequence[str] | None, run: Path | None = None) -> str:
    """Write the analysis as JSON, Markdown and a picture. Returns the Markdown.

    Args:
        results_file: from `egmf evaluate`.
        output: JSON file.
        columns: to analyze; None for all of numbers or few values.
        run: the checkpoint that the results must be of; None for any.

    Raises:
        ValueError: no results, of another checkpoint, without weights of experts, or without the columns.
    """
    import matplotlib as mpl

    mpl.use("Agg")  # draws into files, without a display
    from ..evaluation.gate_factors import analyze, describe_gate, weights_by_group
    from ..evaluation.plots import plot_weights_by_group
    from ..evaluation.report_blocks import Heading, to_markdown
    from ..evaluation.run_records import read_results

    record = analyze(read_results(results_file, run), columns)
    if not record["tasks"]:
        raise ValueError(f"{results_file} has no weights of experts: its model answers without a gate.")
    blocks = [Heading(f"What the expert weights depend on: {record['model']}", 1)]
    for task, part in record["tasks"].items():
        blocks += [Heading(f"{task}, {part['examples']} examples, {record['subset']}"), *describe_gate(part)]
    write_json(output, record)
    text = to_markdown(blocks)
    write_text(output.with_suffix(".md"), text)
    plot_weights_by_group(weights_by_group(record), output.with_name(f"{output.stem}-by-group.png"))
    return text


def main(argv: Sequence[str] | None = None) -> None:
    with command_errors():
        arguments = make_parser().parse_args(argv)
        run = arguments.run if arguments.run.is_dir() else None
        path = arguments.run if run is None else run / "results-test.json"
        if not path.is_file():
            raise ValueError(f"{path} does not exist. Evaluate the run first: egmf evaluate.")
        output = arguments.output or path.with_name("gates.json")
        check_replaceable(output, {"subset": None}, "an analysis of a gate")
        print(f"{write_analysis(path, output, arguments.columns, run)}\nresults: {output}")


if __name__ == "__main__":
    main()
