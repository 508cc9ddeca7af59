"""Command line of all converters: plan the corpus, convert it, print the conversion report.

Only lightweight modules are imported here, so that `--help` and mistyped options respond at once.
"""

import argparse
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...cli import CommandParser, command_errors, output_file
from ...data.split_names import misspelled_splits
from ...records import expand_home, real_path, write_json
from .clips import MEDIA_CHOICES
from .conversion_report import ConversionReport


if TYPE_CHECKING:
    from .corpus import Corpus


logger = logging.getLogger(__name__)


def make_parser(description: str, source: str, media: bool = False) -> CommandParser:
    """Parser with the options of every converter.

    Args:
        description: of the command.
        source: help text of SOURCE.
        media: whether the release has clips.
    """
    parser = CommandParser(description=description)
    parser.add_argument("source", type=Path, metavar="SOURCE", help=source)
    parser.add_argument("dest", type=Path, nargs="?", metavar="DEST", help="folder to create; not needed with --check")
    parser.add_argument("--check", action="store_true", help="only inspect; write nothing except --report")
    parser.add_argument(
        "--num_workers",
        type=int,
        default=len(os.sched_getaffinity(0)),
        help="worker processes (default: one per CPU core); the result does not depend on it",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a corpus that was converted before")
    parser.add_argument("--report", type=output_file, metavar="FILE", help="JSON file for the conversion report")
    parser.add_argument("--task", help="task of the examples (default: the corpus's built-in one)")
    if media:
        parser.add_argument(
            "--media",
            choices=MEDIA_CHOICES,
            default="paths",
            help="store clips as paths relative to DEST (default), embedded, or not at all",
        )
    parser.add_argument("--no_progress", action="store_true", help="hide the progress bar")
    return parser


def dest_path(arguments: argparse.Namespace) -> str | None:
    """DEST as an absolute path; None if nothing is written."""
    return None if arguments.check else str(real_path(expand_home(arguments.dest)))


def run(
    parser: CommandParser,
    plan: "Callable[[argparse.Namespace], Corpus]",
    argv: Sequence[str] | None = None,
) -> None:
    """Run a converter. An error ends it with a one-line message and leaves DEST unchanged."""
    with command_errors("DEST was not changed; finished shards are kept next to it. Run the same command to resume."):
        arguments = parser.parse_args(argv)
        if arguments.dest is None and not arguments.check:
            parser.error("give DEST, the folder to create, or --check.")
        if arguments.num_workers < 1:
            parser.error(f"--num_workers is {arguments.num_workers}; give at least 1.")
        from .conversion import convert_corpus

        corpus = plan(arguments)
        result = convert_corpus(
            corpus,
            arguments.dest,
            check=arguments.check,
            num_workers=arguments.num_workers,
            overwrite=arguments.overwrite,
            progress=not arguments.no_progress,
        )
        show_result(result["table"], arguments)


def show_result(table: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Print the conversion report, write it to `--report`, and warn of misspelled splits and many dropped examples."""
    print(ConversionReport.from_dict(table).table())
    if arguments.report is not None:
        write_json(arguments.report, table)
    if arguments.check:
        print("Inspected only; nothing was written.")
    else:
        print(f"{arguments.dest} is ready; its conversion.json lists every id in this report.")
    for split, meant in misspelled_splits(table["rows"]).items():
        logger.warning(
            f"The split {split!r} may be a typo of {meant!r}; its examples are not used under that name. Correct it "
            "and convert the corpus again."
        )
    num_read = sum(counts["read"] for counts in table["rows"].values())
    num_dropped = sum(counts["dropped"] for counts in table["rows"].values())
    if 2 * num_dropped > num_read:
        logger.warning(
            f"{num_dropped} of {num_read} examples were dropped, for the reasons above. Is this the right corpus, and "
            "are the options right?"
        )
