"""Store results of experiments, and write their tables into training/experiments/README.md between markers.

    python -m training.experiments.readme runs/experiments/gating.json ...

    results files ─► training/results/experiments/ ─► a block of README.md each: tables and verdicts
    training/results/gates/NAME-seedN.json ─────────► the block on the experts' weights

What the paper says, what was found and what it means is written by hand above each block; the figures are only in the
JSON files. Without arguments, the blocks are written anew from what is stored.
"""

from collections.abc import Sequence
from pathlib import Path

from ..cli import CommandParser, command_errors
from ..evaluation.tables import markdown_table, markers, replace_block
from ..paths import RESULTS
from ..records import read_json, write_json, write_text
from .report import render_results


STORED = RESULTS / "experiments"
GATES = RESULTS / "gates"  # of training.experiments.gates, one file per run
GATES_BLOCK = "gates"
PAGE = Path(__file__).with_name("README.md")
MAX_BYTES = 200_000  # of one results file
TABLE_LEVEL = 4  # of the headings within a block


def store_results(path: Path, folder: Path = STORED) -> Path:
    """Copy a results file of `egmf experiment` into the repository. Returns the copy's path.

    Raises:
        ValueError: it is not such a file, or too large.
    """
    record = read_json(path)
    missing = [key for key in ("plan", "question", "variants", "checks") if key not in record]
    if missing:
        raise ValueError(f"{path} is not a results file of egmf experiment: it has no {', '.join(missing)}.")
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ValueError(
            f"{path} has {size:,} bytes; at most {MAX_BYTES:,} are stored. Take fewer variants or subsets."
        )
    return write_json(folder / path.name, record)


def render_block(path: Path) -> str:
    """The tables of a stored results file."""
    return "\n".join(render_results(read_json(path), TABLE_LEVEL))


def render_gates(folder: Path = GATES) -> str:
    """Share of each expert's variance that a property of the sample explains, by property and run."""
    rows: dict[str, list[list[str]]] = {}
    experts: list[str] = []
    for path in sorted(folder.glob("*.json")):
        for task, analysis in read_json(path)["tasks"].items():
            experts = analysis["experts"]
            for factor, measured in analysis["factors"].items():
                shares = [f"{share:.0%}" for share in measured["explained"]]
                row = [factor, task, path.stem, *shares, f"{measured['p_value']:.2g}"]
                rows.setdefault(factor, []).append(row)
    header = ("depends on", "task", "run", *experts, "p")
    return "\n".join(markdown_table(header, [row for of_factor in rows.values() for row in of_factor]))


def update_page(text: str, folder: Path = STORED) -> str:
    """The page with the blocks of all stored results; those without a section get one at the end."""
    for path in sorted(folder.glob("*.json")):
        start, end = markers(path.stem)
        if start not in text:
            record = read_json(path)
            text += f"\n## {record['question']}\n\nThe paper: {record['claim']}\n\n{start}\n{end}\n"
        text = replace_block(text, path.stem, render_block(path))
    if markers(GATES_BLOCK)[0] in text:
        text = replace_block(text, GATES_BLOCK, render_gates())
    return text


def make_parser() -> CommandParser:
    parser = CommandParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", nargs="*", type=Path, help="results files of egmf experiment to store first")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    with command_errors():
        for path in make_parser().parse_args(argv).results:
            print(f"stored: {store_results(path)}")
        print(f"page: {write_text(PAGE, update_page(PAGE.read_text(encoding='utf-8')))}")


if __name__ == "__main__":
    main()
