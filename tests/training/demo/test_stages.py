"""Stages of the demo: timing, failure, and the options for a folder that may hold a run."""

import contextlib
import sys

import pytest

from training.demo import stages
from training.demo.stages import run_stage, train_once, training_flags


OVERWRITE = ["--overwrite", "true"]


@pytest.mark.parametrize(
    ("files", "flags"),
    [
        ([], []),
        (["settings.json", "checkpoint-2/trainer_state.json"], []),
        (["settings.json"], []),
        (["checkpoint-2/config.json"], OVERWRITE),
        (["settings.json", "training.json", "checkpoint-2/trainer_state.json"], OVERWRITE),
    ],
    ids=["empty", "interrupted", "interrupted before its first checkpoint", "not ours", "finished"],
)
def test_existing_run_is_resumed_or_moved_aside(tmp_path, files, flags):
    for name in files:
        path = tmp_path / "run" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    assert training_flags(tmp_path / "run") == flags


def test_new_run_needs_no_flags(tmp_path):
    assert training_flags(tmp_path / "absent") == []
    assert training_flags(tmp_path) == []


def test_a_finished_training_is_kept_until_something_changes(tmp_path, monkeypatch, capsys):
    started = []

    def finish(name, command, timings, offline):
        started.append(command)
        run.mkdir(exist_ok=True)
        (run / "training.json").write_text("{}")

    monkeypatch.setattr(stages, "run_stage", finish)
    run = tmp_path / "run"
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("lora_r: 8")
    train_once(["--seed", "0"], recipe, "corpus", run, {})
    assert started[0][-4:] == ["--seed", "0", "--output_dir", str(run)]
    train_once(["--seed", "0"], recipe, "corpus", run, {})
    assert len(started) == 1
    assert "run is trained with these options; it is kept" in capsys.readouterr().out
    train_once(["--seed", "1"], recipe, "corpus", run, {})
    train_once(["--seed", "1"], recipe, "another corpus", run, {})
    recipe.write_text("lora_r: 4")
    train_once(["--seed", "1"], recipe, "another corpus", run, {})
    assert len(started) == 4
    assert all(command[-2:] == OVERWRITE for command in started[1:])
    (run / "training.json").unlink()  # interrupted
    train_once(["--seed", "1"], recipe, "another corpus", run, {})
    assert len(started) == 5
    train_once(["--seed", "1", "--overwrite", "true"], recipe, "another corpus", run, {})
    train_once(["--seed", "1", "--overwrite", "true"], recipe, "another corpus", run, {})
    assert len(started) == 7
    (run / stages.TIMINGS).write_text('{"training": {"seconds": 5.0}}')
    train_once(["--seed", "1"], recipe, "another corpus", run, {})
    timings = {}
    train_once(["--seed", "1"], recipe, "another corpus", run, timings)
    assert timings == {"training": {"seconds": 5.0}}


def test_a_training_that_ends_after_its_parent_is_not_repeated(tmp_path, monkeypatch):
    """`make demo` was killed while the training wrote its last files, and trained again."""
    started = []
    run = tmp_path / "run"
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("lora_r: 8")

    def train(seed, ends, is_killed):
        def stage(name, command, timings, offline):
            started.append(seed)
            if ends:
                run.mkdir(exist_ok=True)
                (run / stages.TRAINED_WITH).unlink(missing_ok=True)  # moved aside with the old run
                (run / "training.json").write_text(f'{{"number": {len(started)}}}')
            if is_killed:
                raise SystemExit("killed")

        monkeypatch.setattr(stages, "run_stage", stage)
        with contextlib.suppress(SystemExit):
            train_once(["--seed", seed], recipe, "corpus", run, {})

    train("0", ends=True, is_killed=True)
    train("0", ends=True, is_killed=False)  # is kept
    assert started == ["0"]
    train("1", ends=False, is_killed=True)
    train("1", ends=True, is_killed=False)  # the run in the folder is the old one
    assert started == ["0", "1", "1"]
    train("2", ends=True, is_killed=True)
    train("3", ends=True, is_killed=False)
    train("3", ends=True, is_killed=False)
    assert started == ["0", "1", "1", "2", "3"]


def test_stage_is_timed(tmp_path, capfd):
    timings = {}
    code = "import os, time; print(os.getcwd(), os.environ['HF_HUB_OFFLINE']); time.sleep(0.3)"
    run_stage("resting", [sys.executable, "-c", code], timings, cwd=tmp_path)
    assert set(timings) == {"resting"}
    assert 0.3 <= timings["resting"]["seconds"] < 30
    assert 0 <= timings["resting"]["peak_gib"] < 1
    out = capfd.readouterr().out
    assert "== resting ==" in out
    assert f"{tmp_path} 1" in out


def test_failing_stage_ends_the_demo():
    timings = {}
    with pytest.raises(SystemExit, match=r"The stage 'breaking' failed \(exit 3\)"):
        run_stage("breaking", [sys.executable, "-c", "raise SystemExit(3)"], timings)
    assert "breaking" in timings


def test_stage_may_download(capfd, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    code = "import os; print(os.environ.get('HF_HUB_OFFLINE'))"
    run_stage("fetching", [sys.executable, "-c", code], {}, offline=False)
    assert "None" in capfd.readouterr().out
