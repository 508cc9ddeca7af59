"""The `egmf` command, and the parser, error handling and logging that all commands share.

    egmf train --config my.yaml ─► training/train.py: main(["--config", "my.yaml"])
    egmf convert folder clips/ corpus/ ─► training/converters/folder.py: main(["clips/", "corpus/"])

In a clone `python -m training.train` does the same as `egmf train`. Nothing heavy is imported here, and every command
parses its options before it imports torch, so `--help` and misspelled options are answered immediately.

A command's `main` looks like this:

    def main(argv: Sequence[str] | None = None) -> None:
        with command_errors():
            arguments = make_parser().parse_args(argv)
            from .evaluation.evaluator import evaluate  # imports torch

            evaluate(arguments)

Results are printed; progress and warnings go to a logger, which writes to stderr: `logging.getLogger(__name__)`, or
`accelerate.logging.get_logger(__name__)` if several processes may run and only the main one should log.
"""

import argparse
import difflib
import errno
import importlib
import io
import logging
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn


COMMANDS = {  # name -> (module with `main(argv)`, one line of help)
    "train": ("train", "train a model, or fine-tune a checkpoint"),
    "evaluate": ("run_eval", "evaluate a checkpoint on a dataset"),
    "predict": ("predict", "predict one clip, every clip in a folder, or a dataset"),
    "experiment": ("run_experiment", "run experiment plans: train, evaluate, test their claims"),
    "calibrate": ("calibrate", "calibrate a run on its validation split, for calibrated=True"),
    "report": ("evaluation.report", "write the report of a run: report.md and report.html"),
    "export": ("export.__main__", "export encoders, fusion and experts to ONNX or torch.export"),
    "push": ("push_to_hub", "push a run to the Hugging Face Hub"),
    "push-metrics": ("push_metrics", "publish the metrics as Spaces, for evaluate.load"),
    "convert": (None, "convert a corpus, or your own folder, to Parquet"),
    "memory": ("benchmarks.cost.memory", "estimate the GPU memory that a configuration needs"),
    "demo": ("demo.__main__", "build the demo corpus, train on it, evaluate"),
    "real": ("real.__main__", "train on RAVDESS, evaluate on unseen speakers, predict a clip"),
}
CORPORA = {  # argument of `egmf convert` -> one line of help; the module is converters/<name>.py
    "folder": "your own clips with a table metadata.csv or metadata.jsonl",
    "meld": "MELD, raw",
    "ravdess": "RAVDESS: audio, videos, face landmarks",
    "crema_d": "CREMA-D: audio, videos, all raters",
    "iemocap": "IEMOCAP: utterances, dialogues, all raters",
    "mosei": "CMU-MOSEI, raw",
    "sims": "CH-SIMS and CH-SIMS v2.0, raw",
    "cherma": "CHERMA",
    "mmsa": "MMSA's feature files for CMU-MOSI, CMU-MOSEI, CH-SIMS",
    "processed": "MELD and CHERMA as feature pickles, as released with MSE-Adapter",
}


# ---- options --------------------------------------------------------------------------------------------------


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """` Did you mean --dataset?`, or an empty string if no known name is similar."""
    names: dict[str, str] = {}
    for entry in known:
        names.setdefault(_plain(entry), entry)  # of two spellings of an option, only the first
    similar = difflib.get_close_matches(_plain(name), names, n=3, cutoff=0.65)
    if not similar:
        return ""
    return f" Did you mean {', '.join(names[entry] for entry in similar)}?"


def _plain(name: str) -> str:
    """A name without leading dashes, which would make every option similar, and with underscores."""
    return name.lstrip("-").replace("-", "_")


class HelpInColumns(argparse.HelpFormatter):
    """Shows options of up to 36 characters on the same line as their description."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=40)


class CommandParser(argparse.ArgumentParser):
    """`argparse.ArgumentParser` that first checks for misspelled options and suggests the closest match. `--dry-run`
    is `--dry_run`.

    Args:
        options: keyword arguments of `argparse.ArgumentParser`.
    """

    def __init__(self, **options: Any):
        self.option_names: list[str] = []
        self.minimums: dict[str, float] = {}
        options.setdefault("allow_abbrev", False)
        options.setdefault("formatter_class", HelpInColumns)
        super().__init__(**options)

    def add_argument(
        self, *names: str, group: Any = None, minimum: float | None = None, **options: Any
    ) -> argparse.Action:
        """As in argparse; `group` (from `add_argument_group`) is the section of the help that lists the option.

        Args:
            minimum: smallest number of an option, or of each of its numbers.
        """
        if options.get("type") is Path:
            options["type"] = home_path
        container = super() if group is None else group
        action = container.add_argument(*names, **options)
        self.option_names += action.option_strings
        if minimum is not None:
            self.minimums[action.dest] = minimum
        return action

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> argparse.Namespace:
        arguments = self.with_underscores(sys.argv[1:] if args is None else args)
        self.check_option_names(arguments)
        parsed = super().parse_args(arguments, namespace)
        for name, minimum in self.minimums.items():
            check_minimum(name, getattr(parsed, name), minimum)
        return parsed

    def with_underscores(self, arguments: Sequence[str]) -> list[str]:
        """The arguments, with the names of options as the parser knows them."""
        changed = list(arguments)
        end = changed.index("--") if "--" in changed else len(changed)
        for index, argument in enumerate(changed[:end]):
            name, separator, value = argument.partition("=")
            option = f"--{_plain(name)}"
            if name.startswith("--") and name not in self.option_names and option in self.option_names:
                changed[index] = f"{option}{separator}{value}"
        return changed

    def check_option_names(self, arguments: Sequence[str]) -> None:
        """Exit with status 2 at the first `--name` that is not an option."""
        for argument in arguments:
            if argument == "--":
                return
            name = argument.partition("=")[0]
            if name.startswith("--") and " " not in name and name not in self.option_names:
                self.error(f"There is no option {name}.{did_you_mean(name, self.option_names)}")

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\nAll options: {self.prog} --help\n")


def check_minimum(name: str, value: Any, minimum: float) -> None:
    """Refuse an option whose number, or one of whose numbers, is too small or no number; None is not checked."""
    values = value if isinstance(value, list) else [value]
    for number in values:
        if number is not None and not number >= minimum:
            raise ValueError(f"--{name} is {number}; it must be at least {minimum:g}.")


def home_path(name: str) -> Path:
    """argparse `type` of a path: `~` at its beginning is the home folder also after `=`, where a shell leaves it."""
    return Path(os.path.expanduser(name))


def output_file(name: str) -> Path:
    """argparse `type` of an output file: a path that cannot be written is refused before any work is done."""
    from .records import check_writable

    path = home_path(name)
    try:
        check_writable(path.parent)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{path} is a folder. Give the name of a file.")
    return path


# ---- errors and log -------------------------------------------------------------------------------------------


RUN_AGAIN = "Run the same command again."


@contextmanager
def command_errors(when_interrupted: str = RUN_AGAIN) -> Iterator[None]:
    """Wraps the body of a command's `main`: a user error becomes one line on stderr and exit status 1.

    Args:
        when_interrupted: what is complete after Ctrl-C, and how to resume. It is printed as one line, with exit status
            130, even if Ctrl-C came during imports (which may raise another error) or while worker processes ran.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        with suppress(OSError):  # of some pipes, which then stay as they are
            sys.stdout.reconfigure(errors="backslashreplace")  # a name that it cannot show must not end the command
    with log_to_stderr(), watch_for_interrupt() as interruption:
        try:
            check_current_folder()
            yield
        except KeyboardInterrupt as error:
            exit_interrupted(when_interrupted, error)
        except (ValueError, OSError) as error:
            sys.exit(f"error: {error}{free_space(error, when_interrupted)}")
        except Warning as error:
            sys.exit(f"error: {error} (a warning; Python was told to stop at warnings: -W error or PYTHONWARNINGS)")
        except Exception as error:
            if not interruption.is_set():
                raise
            exit_interrupted(when_interrupted, error)


def free_space(error: Exception, how_to_resume: str) -> str:
    """What to do about a full disk; empty for another error."""
    is_full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return f". The disk is full, or your quota is used up: free some space. {how_to_resume}" if is_full else ""


def check_current_folder() -> None:
    """Refuse to run in a folder that was deleted, in which paths and libraries fail without its name."""
    try:
        os.getcwd()
    except FileNotFoundError as error:
        raise ValueError("The current folder no longer exists. Change to another one, and run it again.") from error


def exit_interrupted(advice: str, error: BaseException) -> NoReturn:
    """Print one line, in only one of several processes, and exit."""
    traceback.clear_frames(error.__traceback__)  # releases data loaders, which then stop their workers
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(f"\ninterrupted: {advice}", file=sys.stderr)
    sys.exit(130)


@contextmanager
def watch_for_interrupt() -> Iterator[threading.Event]:
    """Yields an event that Ctrl-C sets.

    The terminal sends Ctrl-C to worker processes as well. Forked workers ignore it: this process kills those of a
    process pool, and a data loader stops its own.
    """
    event = threading.Event()
    owner = os.getpid()

    def handle(number: int, frame: Any) -> None:
        if os.getpid() != owner:
            return
        signal.signal(signal.SIGINT, signal.default_int_handler)
        event.set()
        for worker in multiprocessing.active_children():
            if not worker.daemon:
                worker.kill()
        raise KeyboardInterrupt

    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield event  # another command called this one, or a program that handles Ctrl-C itself
        return
    signal.signal(signal.SIGINT, handle)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


class LogFormatter(logging.Formatter):
    """Plain messages; from level WARNING up, with the level as a prefix: `warning: ...`."""

    def format(self, record: logging.LogRecord) -> str:
        message = super().format(record)
        if record.levelno < logging.WARNING:
            return message
        return f"{record.levelname.lower()}: {message}"


@contextmanager
def log_to_stderr() -> Iterator[None]:
    """Show this package's log messages of level INFO and above while a command runs."""
    package_logger = logging.getLogger(__package__)
    if package_logger.handlers:  # this command was called by another one
        yield
        return
    handler = logging.StreamHandler()
    handler.setFormatter(LogFormatter())
    level = package_logger.level
    package_logger.addHandler(handler)
    package_logger.setLevel(logging.INFO)
    package_logger.propagate = False
    try:
        yield
    finally:
        package_logger.removeHandler(handler)
        package_logger.setLevel(level)
        package_logger.propagate = True


# ---- the egmf command -----------------------------------------------------------------------------------------


def table_of(choices: dict[str, str]) -> str:
    """Names and descriptions in two columns, for a help text."""
    width = max(map(len, choices))
    return "\n".join(f"  {name:{width}}  {text}" for name, text in choices.items())


def choose(prog: str, kind: str, choices: dict[str, str], arguments: Sequence[str]) -> tuple[str, list[str]]:
    """Split off the first argument, which must be one of the choices.

    Args:
        prog: the command so far, such as `egmf convert`.
        kind: noun for the choices, such as `corpus`.
        choices: name -> one line of help.
        arguments: command-line arguments that follow `prog`.

    Returns:
        The chosen name, and the remaining arguments.

    Raises:
        SystemExit: help was requested (status 0), or the name is missing or unknown (status 2).
    """
    help_text = (
        f"usage: {prog} {kind.upper()} [options]\n\n{table_of(choices)}\n\nOptions: {prog} {kind.upper()} --help"
    )
    if arguments and arguments[0] in ("-h", "--help"):
        print(help_text)
        sys.exit(0)
    if not arguments:
        print(help_text, file=sys.stderr)
        sys.exit(2)
    name, *rest = arguments
    if name not in choices:
        print(f"{prog}: error: There is no {kind} {name}.{did_you_mean(name, choices)}", file=sys.stderr)
        print(f"Choose from {', '.join(choices)}.", file=sys.stderr)
        sys.exit(2)
    return name, rest


def main(argv: Sequence[str] | None = None) -> int | None:
    arguments = list(sys.argv[1:] if argv is None else argv)
    descriptions = {name: text for name, (_, text) in COMMANDS.items()}
    command, rest = choose("egmf", "command", descriptions, arguments)
    module, _ = COMMANDS[command]
    prog = f"egmf {command}"
    if command == "convert":
        corpus, rest = choose(prog, "corpus", CORPORA, rest)
        module = f"converters.{corpus}"
        prog = f"{prog} {corpus}"
    sys.argv[0] = prog  # argparse shows it in "usage:" and in errors
    with command_errors():
        run = importlib.import_module(f".{module}", __package__).main
    return run(rest)


if __name__ == "__main__":
    main()
