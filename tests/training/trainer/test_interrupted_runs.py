"""Runs that are killed: the same command resumes from the last complete checkpoint and ends with the same numbers."""

import errno
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from tests.helpers.training_runs import RESTLESS, assert_same_run, command_line, curve_of, record_of
from tests.helpers.training_runs import run as run_plain
from training.trainer import run as run_module
from training.trainer import trainer
from training.trainer.checkpointing import find_defect, last_complete_checkpoint


pytestmark = pytest.mark.integration
REPOSITORY = Path(__file__).parents[3]


def run(place, name, **changes):
    return run_plain(place, name, **{**RESTLESS, **changes})


def test_uninterrupted_run_logs_at_its_checkpoints(uninterrupted):
    curve = curve_of(uninterrupted)
    assert [entry["step"] for entry in curve if "loss" in entry] == [2, 3, 4, 6]
    assert [entry["step"] for entry in curve if "eval_loss" in entry] == [2, 4, 6]
    assert not (uninterrupted / "fusion_pretraining.safetensors").exists()


# ---- killed at a chosen moment --------------------------------------------------------------------------------

# The n-th call of a function. The optimizer's is half done.
MOMENTS = {
    "in the fusion pretraining": (run_module, "pretrained_weights", 1),
    "before any checkpoint": (trainer.EGMFTrainer, "_save_checkpoint", 1),
    "in the middle of an epoch": (trainer.EGMFTrainer, "training_step", 6),
    "at the end of an epoch": (trainer.EGMFTrainer, "training_step", 4),
    "while the weights are written": (trainer.EGMFTrainer, "save_model", 2),
    "while the optimizer is written": (torch, "save", 4),
    "before the checkpoint is renamed": (trainer, "finalize_checkpoint", 3),
    "while old checkpoints are deleted": (trainer, "rotate_checkpoints", 3),
    "after the last step": (trainer.EGMFTrainer, "_finalize_training", 1),
    "while the result is written": (trainer.EGMFTrainer, "save_model", 4),
}
WITHOUT_CHECKPOINT = {
    "in the fusion pretraining": None,
    "before any checkpoint": "fusion_pretraining.safetensors",
}


def before_calls(monkeypatch, owner, name, act):
    """Call `act(number, *arguments)` before the n-th call of a function."""
    original = getattr(owner, name)
    numbers = itertools.count(1)

    def acts_first(*args, **kwargs):
        act(next(numbers), *args)
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, acts_first)


@pytest.fixture(scope="module")
def snapshots(place):
    """A folder with copies of `runs/killed` by moment: all that a process killed at that moment leaves behind."""
    folder = place / "snapshots"
    taken = {}
    for moment, (owner, name, number) in MOMENTS.items():
        taken.setdefault((owner, name), {})[number] = moment

    def copy(moments, number, *args):
        if number not in moments:
            return
        if moments[number] == "while the optimizer is written":
            Path(args[1]).write_bytes(b"PK\x03\x04 and no more")
        shutil.copytree(place / "runs/killed", folder / moments[number])

    with pytest.MonkeyPatch.context() as patched:
        for (owner, name), moments in taken.items():
            before_calls(patched, owner, name, partial(copy, moments))
        run(place, "killed")
    return folder


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_run_ends_like_an_uninterrupted_one(place, snapshots, uninterrupted, monkeypatch, moment):
    folder = place / "runs/killed"
    shutil.rmtree(folder)
    shutil.copytree(snapshots / moment, folder)
    assert not (folder / "training.json").exists()
    assert all(find_defect(path) is None for path in folder.glob("checkpoint-*"))
    steps = []
    before_calls(monkeypatch, trainer.EGMFTrainer, "training_step", lambda number, *_: steps.append(number))
    run(place, "killed")
    assert_same_run(folder, uninterrupted)
    last = RESTLESS["max_steps"] - len(steps)
    assert record_of(folder)["resumed_from"] == WITHOUT_CHECKPOINT.get(moment, str(folder / f"checkpoint-{last}"))
    assert (last == 0) == (moment in WITHOUT_CHECKPOINT)


class Killed(BaseException):
    """Cannot be caught, like SIGKILL."""


def kill(*_):
    raise Killed


def test_killed_after_the_last_step_of_a_broken_epoch_takes_no_further_step(place, monkeypatch):
    """The last checkpoint is in the middle of an epoch, from where `Trainer` would take one more step."""
    run(place, "short", max_steps=2)
    with monkeypatch.context() as patched:
        before_calls(patched, trainer.EGMFTrainer, "_finalize_training", kill)
        with pytest.raises(Killed):
            run(place, "short-killed", max_steps=2)
    run(place, "short-killed", max_steps=2)
    assert_same_run(place / "runs/short-killed", place / "runs/short")


def test_run_stopped_early_stays_stopped(place, monkeypatch):
    changes = {
        "learning_rate": 0,
        "fusion_pretraining_epochs": 0,
        "early_stopping_patience": 1,
        "max_steps": 20,
    }
    run(place, "early", **changes)
    with monkeypatch.context() as patched:
        before_calls(patched, trainer.EGMFTrainer, "_finalize_training", kill)
        with pytest.raises(Killed):
            run(place, "early-killed", **changes)
    run(place, "early-killed", **changes)
    assert curve_of(place / "runs/early")[-1]["step"] == 4
    assert_same_run(place / "runs/early-killed", place / "runs/early")


# ---- killed by the system, at random moments -----------------------------------------------------------------


TRAIN = """
import os, sys
from training.train import main
sys.stdout.reconfigure(line_buffering=True)
print(os.getpid())
main(sys.argv[1:])
"""


def start(python, words):
    """A run in a separate process. Returns the process that waits for it, and its own id."""
    process = subprocess.Popen([python, "-c", TRAIN, *words], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
    return process, int(process.stdout.readline())


def end(process):
    """Wait for a run. Returns its exit code."""
    process.communicate()
    return process.returncode


def kill_and_repeat(python, place, count, **changes):
    """Runs that are each killed once at a random moment and then restarted until they finish."""

    def words_of(name):
        return command_line(place, name, **{**RESTLESS, **changes})

    calm, _ = start(python, words_of("calm"))
    started = time.monotonic()
    assert end(calm) == 0
    seconds = time.monotonic() - started
    rng = random.Random(0)
    for number in range(count):
        folder = place / f"runs/killed-{number}"
        killed = False
        while not killed:
            process, process_id = start(python, words_of(folder.name))
            with suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=rng.uniform(0.1, 0.95) * seconds)
            if process.returncode is None:
                os.kill(process_id, signal.SIGKILL)
            killed = end(process) != 0 and not (folder / "training.json").exists()
            if not killed:  # it was faster than the first one
                shutil.rmtree(folder)
        resumed, _ = start(python, words_of(folder.name))
        assert end(resumed) == 0
        assert_same_run(folder, place / "runs/calm")


def test_run_killed_by_the_system_ends_equal(place, uninterrupted, warm_training_python):
    """After its first step."""
    words = command_line(place, "killed-by-the-system", **RESTLESS)
    process, process_id = start(warm_training_python, words)
    while "'loss'" not in process.stdout.readline():
        assert process.poll() is None
    os.kill(process_id, signal.SIGKILL)
    assert end(process) == 128 + signal.SIGKILL
    folder = place / "runs/killed-by-the-system"
    assert not (folder / "training.json").exists()
    resumed, _ = start(warm_training_python, words)
    assert end(resumed) == 0
    assert_same_run(folder, uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "count"), [(0, 7), (2, 3)])
def test_ten_runs_killed_at_random_end_equal(place, warm_training_python, workers, count, tmp_path):
    for name in ("corpus", "llm"):
        (tmp_path / name).symlink_to(place / name)
    python = sys.executable if workers else warm_training_python
    kill_and_repeat(python, tmp_path, count, max_steps=16, dataloader_num_workers=workers)


# ---- Ctrl-C ---------------------------------------------------------------------------------------------------

INTERRUPTIBLE = """
import os, signal, sys
from training.train import main
os.setpgid(0, 0)
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.stdout.reconfigure(line_buffering=True)
print(os.getpid())
main(sys.argv[1:])
"""


def test_interruption_says_how_to_resume(place, warm_training_python):
    """Workers of the data loader get the signal as well, as in a terminal."""
    changes = {
        "max_steps": 1000,
        "save_steps": 1,
        "logging_steps": 1,
        "eval_strategy": "no",
        "dataloader_num_workers": 2,
    }
    words = command_line(place, "interrupted", **{**RESTLESS, **changes, "load_best_model_at_end": "false"})
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([warm_training_python, "-c", INTERRUPTIBLE, *words], cwd=REPOSITORY, **pipes) as process:
        group = int(process.stdout.readline())
        watchdog = threading.Timer(240, os.killpg, (group, signal.SIGKILL))
        watchdog.daemon = True
        watchdog.start()
        while "'loss'" not in process.stdout.readline():
            assert process.poll() is None
        os.killpg(group, signal.SIGINT)
        _, errors = process.communicate()
        watchdog.cancel()
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert "Exception" not in errors
    assert errors.splitlines()[-1].startswith(
        "interrupted: Complete checkpoints are kept in --output_dir; run the same"
    )


@pytest.mark.slow
def test_interruption_of_two_processes_is_one_line(place, tmp_path):
    """The one traceback is that of torchrun itself."""
    changes = {"max_steps": 1000, "save_steps": 5, "logging_steps": 1, "eval_strategy": "no"}
    words = command_line(place, "two", **{**RESTLESS, **changes, "load_best_model_at_end": "false"})
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    with (tmp_path / "errors").open("w") as errors:
        process = subprocess.Popen(
            [*launcher, "-m", "training.train", *words],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
        while "'loss'" not in process.stdout.readline():
            assert process.poll() is None
        os.killpg(process.pid, signal.SIGINT)
        process.communicate()
    printed = (tmp_path / "errors").read_text()
    assert printed.count("interrupted: ") == 1
    assert printed.count("Traceback") == printed.count("SignalException: ") == 1


# ---- a full disk ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["torch", "safetensors"])
def test_full_disk_leaves_the_earlier_checkpoint_complete(place, uninterrupted, monkeypatch, kind):
    name = f"full-{kind}"
    calls = []
    owner, function = (torch, "save") if kind == "torch" else (trainer.EGMFTrainer, "save_model")
    original = getattr(owner, function)

    def fails(*args, **kwargs):
        calls.append(1)
        if len(calls) == (3 if kind == "safetensors" else 8):
            if kind == "safetensors":
                raise SafetensorError("I/O error: No space left on device (os error 28)")
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(*args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(owner, function, fails)
        message = r"could not be written to .*No space left.*resumes from .*/checkpoint-\d"
        with pytest.raises(OSError, match=message):
            run(place, name)
    folder = place / "runs" / name
    assert not (folder / ".partial").exists()
    assert last_complete_checkpoint(folder) is not None
    run(place, name)
    assert_same_run(folder, uninterrupted)


@pytest.mark.slow
def test_really_full_disk(place, tmp_path):
    """A separate file system with space for one and a half checkpoints."""
    small = tmp_path / "small"
    small.mkdir()
    changes = {
        "save_total_limit": 20,
        "eval_strategy": "no",
        "save_steps": 1,
        "load_best_model_at_end": "false",
    }
    words = command_line(place, "unused", **{**RESTLESS, **changes, "output_dir": small / "run"})
    code = "import sys, training.trainer.run as run, training.train as t; run.check_disk_space = lambda *_: None; "
    code += "t.main(sys.argv[1:])"
    script = f'mount -t tmpfs -o size=2m none {small} && {sys.executable} -c "{code}" "$@"; echo; find {small}'
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, "sh", *words],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    if "mount:" in done.stderr or "unshare:" in done.stderr:
        pytest.skip("mounting is not permitted on this machine")
    assert "could not be written to" in done.stderr, done.stderr[-2000:]
    assert "No space left" in done.stderr or "PytorchStreamWriter" in done.stderr
    assert "checkpoint-1/trainer_state.json" in done.stdout
    assert ".partial" not in done.stdout
