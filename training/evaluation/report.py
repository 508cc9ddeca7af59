"""Write the report of a run, of any corpus and tasks: `report.md` with its pictures, and `report.html`, one file.

    egmf report runs/demo
    python -m training.evaluation.report runs/mine --results runs/mine/results-validation.json

results-test.json, training.json, processor_config.json ─► report_files.py ─► report_sections.py ─► report_blocks.py

Tables of every subset of the modalities, confidence next to accuracy, the gate, scores by speaker, the worst mistakes,
and learning curves. Figures of the demo are shown next to the best possible ones.
"""

from collections.abc import Sequence
from pathlib import Path

from ..cli import CommandParser, command_errors


def write_report(run: Path, dataset: Path | None = None, results_file: Path | None = None) -> Path:
    """Write `report.md`, its pictures and `report.html` into the run's folder. Returns the path of `report.md`.

    Args:
        run: folder of the run.
        dataset: folder of the demo corpus, for its `ceilings.json`, if the run's folder has none.
        results_file: results of another evaluation; None for those in the run's folder.

    Raises:
        ValueError, OSError: as for `report_files.read_run`.
    """
    from ..records import check_writable, write_text
    from .report_blocks import to_html, to_markdown
    from .report_files import read_run
    from .report_sections import write_sections

    files = read_run(run, dataset, results_file)
    check_writable(run)
    blocks = write_sections(files)
    write_text(run / "report.html", to_html(blocks, run))
    return write_text(run / "report.md", to_markdown(blocks))


def make_parser() -> CommandParser:
    parser = CommandParser(prog="egmf report", description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of a run")
    parser.add_argument("--dataset", type=Path, help="folder of the demo corpus, for its best possible figures")
    parser.add_argument("--results", type=Path, help="results file; default: RUN/results-test.json, else the newest")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    with command_errors():
        arguments = make_parser().parse_args(argv)
        path = write_report(arguments.run, arguments.dataset, arguments.results)
        print(f"report: {path}, and as one file {path.with_suffix('.html')}")


if __name__ == "__main__":
    main()
