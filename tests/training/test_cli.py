"""The command `egmf`: subcommands, spelling mistakes, errors in one line, the log."""

import errno
import io
import logging
import multiprocessing
import signal
import subprocess
import sys
import types
import warnings
from pathlib import Path

import pytest

from training import cli


LIGHT = """
import sys
from training.cli import main
for command in sys.argv[1:]:
    for option in ("--help", "--lerning_rate=1"):
        try:
            main([command, option])
        except SystemExit as exit:
            print(exit.code, sorted({"torch", "transformers", "datasets"} & set(sys.modules)))
for line in WRONG:
    try:
        main(line.split())
    except SystemExit as exit:
        print(str(exit.code)[:9], sorted({"torch", "transformers", "datasets"} & set(sys.modules)))
"""
WRONG = [
    "train",
    "train --dataset nowhere",
    "evaluate --model_name_or_path . --dataset ./nowhere",
    "evaluate --model_name_or_path ./no/such/run --dataset .",
    "evaluate --model_name_or_path . --dataset . --subsets smell",
    "predict --model_name_or_path ./no/such/run --text hi",
    "predict --model_name_or_path . --dataset nowhere",
    "train --dataset . --backbone smollm2-135m --distillation true --label_smoothing_factor 0.1",
    "train --dataset . --backbone smollm2-135m --fp16 true --use_cpu true",
    "predict --model_name_or_path . --text hi --top_k -1",
    "predict --model_name_or_path . --text hi --window_hop 0",
    "evaluate --model_name_or_path . --dataset . --batch_size 0",
    "evaluate --model_name_or_path . --dataset . --seeds 1 -1",
    "experiment lora --jobs 0",
    "calibrate . --batch_size -2",
]


@pytest.fixture
def called(monkeypatch):
    """Replaces every command's module by one that records the arguments of `main`."""
    calls = []

    def import_module(name, package):
        return types.SimpleNamespace(main=lambda argv: calls.append((name, argv)))

    monkeypatch.setattr(cli.importlib, "import_module", import_module)
    monkeypatch.setattr(cli.sys, "argv", ["egmf"])
    return calls


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["train", "--seed", "3"], (".train", ["--seed", "3"])),
        (["evaluate", "--help"], (".run_eval", ["--help"])),
        (["convert", "folder", "a", "b"], (".converters.folder", ["a", "b"])),
        (["demo"], (".demo.__main__", [])),
    ],
)
def test_subcommands_are_the_modules(called, arguments, expected):
    cli.main(arguments)
    assert called == [expected]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "There is no command trian. Did you mean train?"),
        (["convert", "fodler"], "There is no corpus fodler. Did you mean folder?"),
        (["xyz"], "Choose from train, evaluate"),
        ([], "usage: egmf COMMAND"),
        (["convert"], "usage: egmf convert CORPUS"),
    ],
)
def test_wrong_subcommand(called, arguments, message, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
    assert not called


@pytest.mark.parametrize(("arguments", "names"), [(["--help"], cli.COMMANDS), (["convert", "-h"], cli.CORPORA)])
def test_help_lists_every_choice(arguments, names, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 0
    printed = capsys.readouterr().out
    assert all(f"\n  {name} " in printed for name in names)


def make_parser():
    parser = cli.CommandParser(prog="egmf evaluate")
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--text", group=parser.add_argument_group("Inputs"))
    parser.add_argument("rest", nargs="*")
    return parser


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--datset", "x"], "egmf evaluate: error: There is no option --datset. Did you mean --dataset?"),
        (["--datset=x"], "There is no option --datset. Did you mean --dataset?"),
        (["--data", "x"], "There is no option --data. Did you mean --dataset?"),
        (["--dataset", "x", "--txt", "x"], "Did you mean --text?"),
        (["--zzz"], "There is no option --zzz.\n"),
        ([], "required: --dataset"),
    ],
)
def test_misspelled_option_names_the_nearest(arguments, message, capsys):
    with pytest.raises(SystemExit) as caught:
        make_parser().parse_args(arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_options_can_be_given_with_dashes():
    parser = cli.CommandParser()
    parser.add_argument("--dry_run", action="store_true")
    parser.add_argument("--max_samples")
    parser.add_argument("rest", nargs="*")
    arguments = parser.parse_args(["--dry-run", "--max-samples=a-b", "--", "--dry-run"])
    assert (arguments.dry_run, arguments.max_samples, arguments.rest) == (True, "a-b", ["--dry-run"])


def test_only_one_spelling_of_an_option_is_suggested():
    assert cli.did_you_mean("--num-train_epoch", ["--num_train_epochs", "--num-train-epochs"]) == (
        " Did you mean --num_train_epochs?"
    )


def test_valid_options_pass():
    arguments = make_parser().parse_args(["--dataset=x", "--text", "-1", "--", "--other"])
    assert (arguments.dataset, arguments.text, arguments.rest) == ("x", "-1", ["--other"])


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError("no such split"), "error: no such split"),
        (FileNotFoundError(2, "No such file", "a.json"), "error: [Errno 2] No such file: 'a.json'"),
        (
            OSError(errno.ENOSPC, "No space left on device", "a.json"),
            "error: [Errno 28] No space left on device: 'a.json'. The disk is full, or your quota is used up: free "
            "some space. Run the same command again.",
        ),
        (KeyboardInterrupt(), 130),
    ],
)
def test_user_errors_end_in_one_line(error, code):
    with pytest.raises(SystemExit) as caught, cli.command_errors():
        raise error
    assert caught.value.code == code


@pytest.fixture
def interruptible():
    """SIGINT interrupts, as in a terminal: in a process that a shell starts in the background it is ignored."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


def interrupt_in_import():
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt as error:
        raise ImportError("numpy failed to import") from error


@pytest.mark.parametrize("work", [lambda: signal.raise_signal(signal.SIGINT), interrupt_in_import])
def test_interruption_is_one_line(work, interruptible, capsys, monkeypatch):
    for rank, expected in (("0", "\ninterrupted: Shards are kept.\n"), ("1", "")):
        monkeypatch.setenv("LOCAL_RANK", rank)
        with pytest.raises(SystemExit) as caught, cli.command_errors("Shards are kept."):
            work()
        assert caught.value.code == 130
        assert capsys.readouterr().err == expected
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_interruption_ends_the_workers_of_a_pool(interruptible):
    context = multiprocessing.get_context("fork")
    pipe, end = context.Pipe()
    worker = context.Process(target=pipe.recv, daemon=False)
    worker.start()
    try:
        with pytest.raises(SystemExit), cli.command_errors():
            signal.raise_signal(signal.SIGINT)
        worker.join(timeout=60)
        assert worker.exitcode == -signal.SIGKILL
    finally:
        worker.kill()
        end.close()


def test_names_that_the_terminal_cannot_show_do_not_end_a_command(monkeypatch):
    """They used to lose the results of an evaluation whose task had such a name."""
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    with cli.command_errors():
        print("情绪", flush=True)
    assert terminal.buffer.getvalue() == b"\\u60c5\\u7eea\n"


def test_bugs_keep_their_traceback():
    with pytest.raises(KeyError), cli.command_errors():
        raise KeyError("x")


def test_log_is_on_stderr_while_a_command_runs(capsys):
    logger = logging.getLogger("training.something")
    with cli.command_errors():
        with cli.command_errors():  # a command that calls another one
            logger.info("reading")
        logger.warning("no audio")
    logger.info("after it")
    captured = capsys.readouterr()
    assert captured.err == "reading\nwarning: no audio\n"
    assert captured.out == ""
    assert not logging.getLogger("training").handlers


def test_paths_begin_at_the_home_folder(tmp_path, monkeypatch):
    """A shell leaves `--output=~/answers.json` as it is, and a folder called `~` would be made."""
    monkeypatch.setenv("HOME", str(tmp_path))
    parser = cli.CommandParser()
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--output", type=cli.output_file)
    parser.add_argument("--results", type=Path, nargs="+", group=parser.add_argument_group("results"))
    parsed = parser.parse_args(["--folder=~/runs", "--output=~/answers.json", "--results", "~/a.json", "b~.json"])
    assert parsed.folder == tmp_path / "runs"
    assert parsed.output == tmp_path / "answers.json"
    assert parsed.results == [tmp_path / "a.json", Path("b~.json")]


def test_output_file_is_checked_before_any_work(tmp_path):
    assert cli.output_file(str(tmp_path / "new/results.json")).name == "results.json"
    with pytest.raises(cli.argparse.ArgumentTypeError, match="is a folder"):
        cli.output_file(str(tmp_path))


def test_help_and_misspelled_options_do_not_import_torch():
    commands = ["train", "evaluate", "predict", "push", "report", "memory", "demo"]
    process = [sys.executable, "-c", f"WRONG = {WRONG}\n{LIGHT}", *commands]
    finished = subprocess.run(process, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    endings = [line for line in finished.stdout.splitlines() if line[:2] in ("0 ", "2 ")]
    assert endings == ["0 []", "2 []"] * len(commands)
    assert finished.stdout.splitlines()[-len(WRONG) :] == ["error: Gi []"] + ["error: -- []"] * 2 + [
        "error: Th []",
        "error: -- []",
        "error: Th []",
        *["error: -- []"] * 9,
    ]
    assert [command for command in commands if f"usage: egmf {command}" not in finished.stdout] == []
    assert finished.stderr.count("There is no option --lerning_rate") == len(commands)


def test_a_current_folder_that_was_deleted_is_named(tmp_path, monkeypatch):
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    with pytest.raises(SystemExit, match="error: The current folder no longer exists. Change to another one"):
        cli.main(["experiment", "gating", "--dry_run"])


@pytest.mark.filterwarnings("error")
def test_a_warning_that_is_an_error_ends_a_command_in_one_line():
    with pytest.raises(SystemExit, match=r"error: Odd figures. \(a warning; Python was told to stop at warnings"):
        with cli.command_errors():
            warnings.warn("Odd figures.", stacklevel=1)
