"""The command line that all converters share."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from .clips import MEDIA_CHOICES
from .conversion_report import ConversionReport
from .shards import RECORD, Corpus, convert


def make_parser(description: str, source: str, media: bool = False) -> argparse.ArgumentParser:
    """Options of every converter.

    Args:
        description: first line of the help.
        source: what SOURCE is.
        media: the release has clips.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("source", type=Path, metavar="SOURCE", help=source)
    parser.add_argument("dest", type=Path, nargs="?", metavar="DEST", help="folder to make; not needed with --check")
    parser.add_argument("--check", action="store_true", help="only inspect; write nothing but --report")
    parser.add_argument(
        "--num_workers",
        type=int,
        default=len(os.sched_getaffinity(0)),
        help="processes (default: one a core); the result does not depend on it",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a converted corpus that is there")
    parser.add_argument("--report", type=Path, help="also write the table of rows to this JSON file")
    parser.add_argument("--task", help="name of the task that the rows get, if not the corpus's built-in one")
    if media:
        parser.add_argument(
            "--media",
            choices=MEDIA_CHOICES,
            default="paths",
            help="clips as paths relative to DEST, embedded, or none",
        )
    parser.add_argument("--no_progress", action="store_true", help="show no progress bar")
    return parser


def dest_of(arguments: argparse.Namespace) -> str | None:
    """DEST as an absolute path; None where nothing is written."""
    return None if arguments.check else str(arguments.dest.expanduser().resolve())


def run(
    parser: argparse.ArgumentParser,
    plan: Callable[[argparse.Namespace], Corpus],
    argv: Sequence[str] | None = None,
) -> None:
    """Plan, convert, print the table. Bad input ends with status 2 and a message; nothing is then left in DEST."""
    arguments = parser.parse_args(argv)
    if arguments.dest is None and not arguments.check:
        parser.error("give DEST, the folder to make, or --check.")
    if arguments.report is not None and (arguments.report.is_dir() or not arguments.report.absolute().parent.is_dir()):
        parser.error(f"--report {arguments.report}: give a file in a folder that is there.")
    if arguments.num_workers < 1:
        parser.error(f"--num_workers is {arguments.num_workers}; give at least 1.")
    try:
        found = convert(
            plan(arguments), arguments.dest, arguments.check, arguments.num_workers, arguments.overwrite,
            not arguments.no_progress,
        )  # fmt: skip
    except (OSError, ValueError) as error:
        parser.exit(2, f"error: {error}\n")
    except BrokenProcessPool:
        parser.exit(
            3, "error: a worker was ended from outside, perhaps for lack of memory. Run the same line again.\n"
        )
    print(ConversionReport.from_dict(found["table"]).table())
    if arguments.report is not None:
        arguments.report.write_text(json.dumps(found["table"], indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if arguments.check:
        print("Only inspected; nothing was written.")
    else:
        print(f"{arguments.dest} is ready; {RECORD} in it names every row of the table.")
    read, dropped = (sum(row[what] for row in found["table"]["rows"].values()) for what in ("read", "dropped"))
    if 2 * dropped > read:
        print(
            f"warning: {dropped} of {read} rows were dropped, for the reasons in the table. Is it this corpus, and "
            "are the options right?",
            file=sys.stderr,
        )
