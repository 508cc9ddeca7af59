"""Runs that are killed: the same line goes on from the last whole checkpoint and ends at the same numbers."""

import copy
import errno
import json
import multiprocessing
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.helpers.corpus_files import tiny_llama, write_corpus, write_language_model
from tests.helpers.run_files import SMALL_RUN as SMALL
from training import records
from training.arguments import parse_arguments
from training.records import check_writable
from training.train import main, train
from training.trainer import checkpointing as resuming
from training.trainer import trainer
from training.trainer.checkpointing import check_disk_space, defect, last_complete_checkpoint, resolve_output_dir


pytestmark = pytest.mark.integration
REPOSITORY = Path(__file__).parents[3]

# Everything that draws at random, checkpoints in the middle of an epoch, and means of losses that span them.
RESTLESS = {
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 1,
    "max_steps": 8,
    "save_steps": 2,
    "eval_steps": 2,
    "logging_steps": 3,
    "fusion_pretraining_epochs": 1,
    "fusion_pretraining_batch_size": 3,
    "modality_dropout": 0.5,
    "augmentation": "true",
    "lora_dropout": 0.2,
    "load_best_model_at_end": "true",
    "metric_for_best_model": "eval_loss",
    "greater_is_better": "false",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory, trained_tokenizer):
    folder = tmp_path_factory.mktemp("place")
    write_corpus(folder / "corpus")
    tokenizer = copy.deepcopy(trained_tokenizer)
    write_language_model(folder / "llm", tiny_llama(tokenizer), tokenizer)
    return folder


def line(place, name, **changes):
    """The command line of a run, as words."""
    settings = {
        "dataset": place / "corpus",
        "text_model_name_or_path": place / "llm",
        "output_dir": place / "runs" / name,
    }
    words = ["--use_cpu"]
    for key, value in {**settings, **SMALL, **RESTLESS, **changes}.items():
        words += [f"--{key}", *map(str, value if isinstance(value, list) else [value])]
    return words


def run(place, name, **changes):
    return train(*parse_arguments(line(place, name, **changes)))


def curve(folder):
    """What a run has logged, without how long it took."""
    history = json.loads((folder / "training.json").read_text())["log_history"]
    names = {"step", "epoch", "loss", "grad_norm", "learning_rate", "eval_loss", "eval_emotion_accuracy"}
    return [{name: entry[name] for name in names & set(entry)} for entry in history if "train_runtime" not in entry]


def assert_equal_runs(folder, whole):
    assert curve(folder) == curve(whole)
    left, right = (load_file(path / "model.safetensors") for path in (folder, whole))
    assert set(left) == set(right)
    assert not [name for name in left if not torch.equal(left[name], right[name])]
    assert {path.name for path in folder.glob("checkpoint-*")} == {path.name for path in whole.glob("checkpoint-*")}
    assert not (folder / ".partial/checkpoint-8").exists()


@pytest.fixture(scope="module")
def whole(place):
    """An uninterrupted run."""
    run(place, "whole")
    return place / "runs/whole"


def test_uninterrupted_run_logs_where_it_saves(whole):
    steps = [entry["step"] for entry in curve(whole) if "loss" in entry]
    assert steps == [2, 3, 4, 6, 8]
    assert [entry["step"] for entry in curve(whole) if "eval_loss" in entry] == [2, 4, 6, 8]
    assert not (whole / "fusion_pretraining.safetensors").exists()


# ---- killed in one process, at a chosen moment ---------------------------------------------------------------


class Killed(BaseException):
    """Nothing catches it, as nothing catches SIGKILL."""


def kill_at_call(monkeypatch, module, name, number, before=lambda *_: None):
    """Die in the so-manieth call of a function, after `before` did half of its work."""
    original, calls = getattr(module, name), []

    def dies(*args, **kwargs):
        calls.append(args)
        if len(calls) == number:
            before(*args)
            raise Killed
        return original(*args, **kwargs)

    monkeypatch.setattr(module, name, dies)


def half_written(_, path, *__):
    Path(path).write_bytes(b"PK\x03\x04 and no more")


MOMENTS = {
    "in the warm-up": (resuming, "pretrained_weights", 1),
    "before any checkpoint": (trainer.EGMFTrainer, "_save_checkpoint", 1),
    "in the middle of an epoch": (trainer.EGMFTrainer, "training_step", 6),
    "at the border of an epoch": (trainer.EGMFTrainer, "training_step", 4),
    "while the weights are written": (trainer.EGMFTrainer, "_save", 2),
    "while the optimizer is written": (torch, "save", 5),
    "before the checkpoint is renamed": (trainer, "publish", 3),
    "while old checkpoints are deleted": (trainer, "rotate_checkpoints", 3),
    "after the last step": (trainer.EGMFTrainer, "_finalize_training", 1),
    "while the result is written": (trainer.EGMFTrainer, "_save", 5),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_run_ends_where_an_uninterrupted_one_does(place, whole, monkeypatch, moment):
    name = moment.replace(" ", "-")
    module, function, number = MOMENTS[moment]
    with monkeypatch.context() as patched:
        if module is resuming:
            module = sys.modules["training.train"]
        kill_at_call(patched, module, function, number, half_written if function == "save" else lambda *_: None)
        with pytest.raises(Killed):
            run(place, name)
    folder = place / "runs" / name
    assert not (folder / "training.json").exists()
    assert all(defect(path) is None for path in folder.glob("checkpoint-*"))
    steps = []
    with monkeypatch.context() as patched:
        original = trainer.EGMFTrainer.training_step
        patched.setattr(
            trainer.EGMFTrainer, "training_step", lambda *args, **kw: steps.append(1) or original(*args, **kw)
        )
        run(place, name)
    assert_equal_runs(folder, whole)
    record = json.loads((folder / "training.json").read_text())
    before = {"in the warm-up": None, "before any checkpoint": "fusion_pretraining.safetensors"}
    last = 8 - len(steps)
    assert record["resumed_from"] == before.get(moment, str(folder / f"checkpoint-{last}"))
    assert (last == 0) == (moment in before)


def test_killed_after_the_last_step_of_a_broken_epoch_takes_no_further_step(place, monkeypatch):
    """The last checkpoint lies in the middle of an epoch, where `Trainer` alone would take one step more."""
    for name in ("short", "short-killed"):
        with monkeypatch.context() as patched:
            if name == "short-killed":
                kill_at_call(patched, trainer.EGMFTrainer, "_finalize_training", 1)
                with pytest.raises(Killed):
                    run(place, name, max_steps=2)
        run(place, name, max_steps=2)
    assert_equal_runs(place / "runs/short-killed", place / "runs/short")


def test_run_stopped_early_stays_stopped(place, monkeypatch):
    changes = {"learning_rate": 0, "fusion_pretraining_epochs": 0, "early_stopping_patience": 1, "max_steps": 20}
    run(place, "early", **changes)
    with monkeypatch.context() as patched:
        kill_at_call(patched, trainer.EGMFTrainer, "_finalize_training", 1)
        with pytest.raises(Killed):
            run(place, "early-killed", **changes)
    run(place, "early-killed", **changes)
    assert curve(place / "runs/early")[-1]["step"] == 4
    assert_equal_runs(place / "runs/early-killed", place / "runs/early")


# ---- killed by the system, at random moments -----------------------------------------------------------------


def main_as_launched(words):
    """With workers that are forked, as they are where the forkserver does not stand above."""
    multiprocessing.set_start_method("fork", force=True)
    main(words)


def start(words):
    """`main` in a process of its own, forked from one that has imported everything and computed nothing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["training.train"])
    process = context.Process(target=main_as_launched, args=(words,))
    process.start()
    return process


def kill_and_repeat(place, count, **changes):
    """So many runs, each killed once at a random moment, then started again to their end."""
    started = time.monotonic()
    process = start(line(place, "calm", **changes))
    process.join()
    assert process.exitcode == 0
    seconds, rng = time.monotonic() - started, random.Random(0)
    for number in range(count):
        words, killed = line(place, f"killed-{number}", **changes), False
        while not killed:
            process = start(words)
            process.join(rng.uniform(0.1, 0.95) * seconds)
            process.kill()
            process.join()
            finished = (place / f"runs/killed-{number}/training.json").exists()
            killed = process.exitcode == -signal.SIGKILL and not finished
            if not killed:  # it was faster than the first one
                shutil.rmtree(place / f"runs/killed-{number}")
        process = start(words)
        process.join()
        assert process.exitcode == 0
        assert_equal_runs(place / f"runs/killed-{number}", place / "runs/calm")


def test_two_runs_killed_at_random_end_equal(place, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    kill_and_repeat(place, 2)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_ten_runs_killed_at_random_end_equal(place, monkeypatch, workers, tmp_path):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for name in ("corpus", "llm"):
        (tmp_path / name).symlink_to(place / name)
    kill_and_repeat(tmp_path, 10, max_steps=16, dataloader_num_workers=workers)


# ---- checkpoints that are not whole --------------------------------------------------------------------------

PARTS = ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "config.json"]


DAMAGE = [(part, damage) for part in PARTS for damage in ("cut", "gone", "empty")]


@pytest.mark.parametrize(("part", "damage"), [pair for pair in DAMAGE if pair != ("config.json", "gone")])
def test_half_written_checkpoint_is_recognized_and_skipped(whole, tmp_path, capsys, part, damage):
    for number in (2, 3):
        shutil.copytree(whole / "checkpoint-8", tmp_path / f"checkpoint-{number}")
    path = tmp_path / "checkpoint-3" / part
    data = path.read_bytes()
    path.unlink()
    if damage != "gone":
        path.write_bytes(data[: len(data) // 2] if damage == "cut" else b"")
    assert defect(tmp_path / "checkpoint-2") is None
    assert last_complete_checkpoint(tmp_path) == tmp_path / "checkpoint-2"
    said = capsys.readouterr().out
    assert f"{tmp_path / 'checkpoint-3'} is skipped: " in said
    assert part in said or "are missing" in said
    words = ["--output_dir", str(tmp_path), "--resume_from_checkpoint", str(tmp_path / "checkpoint-3"), "--use_cpu"]
    with pytest.raises(ValueError, match=r"checkpoint-3 cannot be resumed from: .*Give an earlier checkpoint"):
        resolve_output_dir(parse_arguments(words)[2])


def test_run_without_a_whole_checkpoint_begins_again(tmp_path, capsys):
    (tmp_path / "checkpoint-2").mkdir()
    (tmp_path / "settings.json").write_text("{}")
    assert resolve_output_dir(parse_arguments(["--output_dir", str(tmp_path), "--use_cpu"])[2]) is None
    assert "going on from its beginning" in capsys.readouterr().out


# ---- refused before hours are spent --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"learning_rate": 0.5}, r"learning_rate was 0.01 and is 0.5"),
        ({"seed": 4}, "seed was 3 and is 4"),
        ({"fusion_hidden_size": 32}, "fusion_hidden_size was 16 and is 32"),
        ({"max_train_samples": 5}, "max_train_samples was None and is 5; train_rows was"),
        ({"modality_dropout": 0.1}, "modality_dropout was 0.5 and is 0.1"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_checkpoint_from_other_settings_is_refused(place, whole, tmp_path, changes, said):
    folder = place / "runs/unfinished"
    shutil.copytree(whole, folder, ignore=shutil.ignore_patterns("training.json"), dirs_exist_ok=True)
    before = sorted(folder.rglob("*"))
    for how in ({}, {"resume_from_checkpoint": "true"}, {"resume_from_checkpoint": folder / "checkpoint-8"}):
        with pytest.raises(ValueError, match=rf"unfinished was begun with other settings: .*{said}"):
            run(place, "unfinished", **changes, **how)
    assert sorted(folder.rglob("*")) == before


def test_other_answers_of_a_task_are_refused(place, tmp_path):
    """Even the same ones in another order."""
    said = 'emotion: {kind: classification, labels: [%s], prompt: "\\nIt is"}\n'
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    labels = ["neutral", "surprise", "fear", "sadness", "joy", "disgust", "anger"]
    first.write_text(said % ", ".join(labels))
    second.write_text(said % ", ".join(reversed(labels)))
    run(place, "own-task", max_steps=2, tasks_file=first)
    (place / "runs/own-task/training.json").unlink()
    with pytest.raises(ValueError, match="own-task was begun with other settings: tasks was"):
        run(place, "own-task", max_steps=2, tasks_file=second)


def test_run_of_a_moved_corpus_goes_on_and_one_of_other_clips_does_not(place, whole, tmp_path):
    folder = place / "runs/moved"
    shutil.copytree(whole, folder, ignore=shutil.ignore_patterns("training.json"))
    shutil.copytree(place / "corpus", tmp_path / "deep/corpus")
    (tmp_path / "corpus").symlink_to("deep/corpus")
    rows = (tmp_path / "deep/corpus/metadata.jsonl").read_text()
    (tmp_path / "deep/corpus/metadata.jsonl").write_text(rows.replace("clips/8.mp4", "clips/6.mp4"))
    with pytest.raises(ValueError, match=r"moved was begun with other settings: eval_media was '\w+' and is '\w+'\."):
        run(place, "moved", data=tmp_path / "corpus")
    (tmp_path / "deep/corpus/metadata.jsonl").write_text(rows)
    run(place, "moved", data=tmp_path / "corpus")
    assert curve(folder) == curve(whole)


def test_settings_that_change_no_number_may_change(place, whole):
    folder = place / "runs/elsewhere"
    shutil.copytree(whole, folder, ignore=shutil.ignore_patterns("training.json"))
    run(place, "elsewhere", save_total_limit=3, cache_media="false", per_device_eval_batch_size=4)
    assert curve(folder) == curve(whole)


def test_finished_run_is_left_alone(place, whole):
    with pytest.raises(ValueError, match="already holds a run"):
        run(place, "whole")


def test_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(ValueError, match=r"Nothing can be written into .*/file \(Not a directory\)"):
        check_writable(tmp_path / "file/run")
    check_writable(tmp_path / "to/be/made")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_read_only_folder_is_refused(tmp_path, monkeypatch):
    def refuse(**_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(records.tempfile, "TemporaryFile", refuse)
    words = ["--output_dir", str(tmp_path), "--use_cpu"]
    with pytest.raises(ValueError, match=r"Read-only file system\). Give another folder"):
        resolve_output_dir(parse_arguments(words)[2])


def test_disk_without_room_is_refused(tmp_path, make_model, monkeypatch):
    model = make_model()
    model.config.text_model_id = "llm"
    trained = sum(p.numel() * 4 for p in model.parameters() if p.requires_grad)
    statistics = sum(b.numel() * 4 for name, b in model.egmf.named_buffers())
    needed = 3 * (3 * trained + statistics) + trained + statistics
    for free, fine in ((needed, True), (needed - 1, False)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: shutil._ntuple_diskusage(0, 0, free))
        if fine:
            check_disk_space(tmp_path, model, 3)
            continue
        with pytest.raises(ValueError, match=r"has room for .* MiB, but 3 checkpoints .* take .*--save_total_limit"):
            check_disk_space(tmp_path, model, 3)


@pytest.mark.parametrize("kind", ["torch", "safetensors"])
def test_full_disk_leaves_the_earlier_checkpoint_whole(place, whole, monkeypatch, kind):
    name, calls = f"full-{kind}", []
    module, function = (torch, "save") if kind == "torch" else (trainer.EGMFTrainer, "_save")
    original = getattr(module, function)

    def fails(*args, **kwargs):
        calls.append(1)
        if len(calls) == (4 if kind == "safetensors" else 12):
            if kind == "safetensors":
                raise resuming.SafetensorError("I/O error: No space left on device (os error 28)")
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(*args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(module, function, fails)
        with pytest.raises(OSError, match=r"could not be written into .*No space left.*goes on from .*/checkpoint-\d"):
            run(place, name)
    folder = place / "runs" / name
    assert not (folder / ".partial").exists()
    assert last_complete_checkpoint(folder) is not None
    run(place, name)
    assert_equal_runs(folder, whole)


@pytest.mark.slow
def test_really_full_disk(place, tmp_path):
    """A file system of one and a half checkpoints, in a mount of its own."""
    small = tmp_path / "small"
    small.mkdir()
    words = line(place, "unused", output_dir=small / "run", save_total_limit=20, eval_strategy="no", save_steps=1)
    words += ["--load_best_model_at_end", "false"]
    code = "import sys, training.train as t; t.check_disk_space = lambda *_: None; t.main(sys.argv[1:])"
    script = f'mount -t tmpfs -o size=2m none {small} && {sys.executable} -c "{code}" "$@"; echo; find {small}'
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, "sh", *words], cwd=REPOSITORY, capture_output=True, text=True
    )
    if "mount:" in done.stderr or "unshare:" in done.stderr:
        pytest.skip("this machine lets nobody mount")
    assert "could not be written into" in done.stderr, done.stderr[-2000:]
    assert "No space left" in done.stderr or "PytorchStreamWriter" in done.stderr
    assert "checkpoint-1/trainer_state.json" in done.stdout
    assert ".partial" not in done.stdout
