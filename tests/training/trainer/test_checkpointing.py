"""Resuming: usable checkpoints, matching settings, and early refusals."""

import errno
import os
import shutil

import pytest

from tests.helpers.training_runs import RESTLESS, curve_of
from tests.helpers.training_runs import run as run_plain
from training import records
from training.arguments import parse_arguments
from training.records import check_writable
from training.trainer.checkpointing import (
    check_disk_space,
    finalize_checkpoint,
    find_defect,
    last_complete_checkpoint,
    move_aside,
    read_pretraining,
    require_same_settings,
    resolve_output_dir,
)


pytestmark = pytest.mark.integration


def run(place, name, **changes):
    return run_plain(place, name, **{**RESTLESS, **changes})


def options_of(folder, *words):
    return parse_arguments(["--output_dir", str(folder), "--use_cpu", *map(str, words)])[2]


def copy_unfinished(run, target):
    shutil.copytree(run, target, ignore=shutil.ignore_patterns("training.json"), dirs_exist_ok=True)
    return target


# ---- incomplete checkpoints ----------------------------------------------------------------------------------

PARTS = [
    "model.safetensors",
    "default/adapter_model.safetensors",
    "optimizer.pt",
    "scheduler.pt",
    "rng_state.pth",
    "trainer_state.json",
    "config.json",
]
DAMAGE = [(part, damage) for part in PARTS for damage in ("cut", "gone", "empty")]


@pytest.mark.parametrize(("part", "damage"), [pair for pair in DAMAGE if pair != ("config.json", "gone")])
def test_half_written_checkpoint_is_recognized_and_skipped(uninterrupted, tmp_path, capsys, part, damage):
    for number in (2, 3):
        shutil.copytree(uninterrupted / "checkpoint-6", tmp_path / f"checkpoint-{number}")
    path = tmp_path / "checkpoint-3" / part
    data = path.read_bytes()
    path.unlink()
    if damage != "gone":
        path.write_bytes(data[: len(data) // 2] if damage == "cut" else b"")
    assert find_defect(tmp_path / "checkpoint-2") is None
    assert last_complete_checkpoint(tmp_path) == tmp_path / "checkpoint-2"
    output = capsys.readouterr().out
    assert f"{tmp_path / 'checkpoint-3'} is skipped: " in output
    assert part.rpartition("/")[2] in output or "it has no " in output
    with pytest.raises(ValueError, match=r"checkpoint-3 cannot be resumed from: .*Give an earlier checkpoint"):
        resolve_output_dir(options_of(tmp_path, "--resume_from_checkpoint", tmp_path / "checkpoint-3"))


@pytest.mark.parametrize("part", ["trainer_state.json", "config.json"])
def test_a_checkpoint_with_a_record_of_another_kind_is_skipped(uninterrupted, tmp_path, part):
    folder = shutil.copytree(uninterrupted / "checkpoint-6", tmp_path / "checkpoint-6")
    for content in ("[]", '{"adapters": 5}' if part == "config.json" else '{"global_step": 6}'):
        (folder / part).write_text(content)
        assert f"{part} cannot be read ({part}" in find_defect(folder)


def test_records_of_a_run_of_another_kind_are_named(tmp_path):
    for content in ("[]", "{}", '{"seed": "x"}'):
        (tmp_path / "settings.json").write_text(content)
        with pytest.raises(ValueError, match=r"settings.json.* It is not the settings.json of a run, or damaged"):
            require_same_settings(tmp_path, {"seed": 1})
        (tmp_path / "fusion_pretraining.json").write_text(content)
        with pytest.raises(ValueError, match="fusion_pretraining.json.* It is not the record of a fusion pretraining"):
            read_pretraining(tmp_path / "fusion_pretraining.json")


def test_run_without_a_complete_checkpoint_restarts(tmp_path, capsys):
    (tmp_path / "checkpoint-2").mkdir()
    (tmp_path / "settings.json").write_text("{}")
    assert resolve_output_dir(options_of(tmp_path)) is None
    assert "resuming from its beginning" in capsys.readouterr().out


@pytest.mark.parametrize("resume", ["true", "runs/nowhere/checkpoint-2"])
def test_nothing_to_resume_is_an_error(tmp_path, resume):
    with pytest.raises(ValueError, match=r"no checkpoint to resume from .*Leave out --resume_from_checkpoint"):
        resolve_output_dir(options_of(tmp_path / "nothing", "--resume_from_checkpoint", resume))


@pytest.mark.parametrize("resume", [["--resume_from_checkpoint", "false"], []])
def test_not_resuming_is_possible(tmp_path, resume):
    assert resolve_output_dir(options_of(tmp_path / "nothing", *resume)) is None


# ---- other settings ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": 0.5}, r"learning_rate was 0.01 and is 0.5"),
        ({"seed": 4}, "seed was 3 and is 4"),
        ({"fusion_hidden_size": 32}, "fusion_hidden_size was 16 and is 32"),
        ({"max_train_samples": 5}, "max_train_samples was None and is 5; train_examples was"),
        ({"modality_dropout": 0.1}, "modality_dropout was 0.5 and is 0.1"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_checkpoint_from_other_settings_is_refused(place, uninterrupted, changes, message):
    folder = copy_unfinished(uninterrupted, place / "runs/unfinished")
    before = sorted(folder.rglob("*"))
    resumptions = (None, "true", folder / "checkpoint-6") if "seed" in changes else (None,)
    for resume in resumptions:
        with pytest.raises(ValueError, match=rf"unfinished was started with other settings: .*{message}"):
            run(place, "unfinished", **changes, resume_from_checkpoint=resume)
    assert sorted(folder.rglob("*")) == before


def test_other_labels_of_a_task_are_refused(place, tmp_path):
    """Even the same labels in another order are refused."""
    task = 'emotion: {kind: classification, labels: [%s], prompt: "\\nIt is"}\n'
    first = tmp_path / "first.yaml"
    second = tmp_path / "second.yaml"
    labels = ["neutral", "surprise", "fear", "sadness", "joy", "disgust", "anger"]
    first.write_text(task % ", ".join(labels))
    second.write_text(task % ", ".join(reversed(labels)))
    run(place, "custom-task", max_steps=2, tasks_file=first)
    (place / "runs/custom-task/training.json").unlink()
    with pytest.raises(ValueError, match="custom-task was started with other settings: tasks was"):
        run(place, "custom-task", max_steps=2, tasks_file=second)


def test_run_resumes_on_a_moved_corpus_but_not_on_other_clips(place, uninterrupted, tmp_path):
    folder = copy_unfinished(uninterrupted, place / "runs/moved")
    shutil.copytree(place / "corpus", tmp_path / "deep/corpus")
    (tmp_path / "corpus").symlink_to("deep/corpus")
    table = (tmp_path / "deep/corpus/metadata.jsonl").read_text()
    (tmp_path / "deep/corpus/metadata.jsonl").write_text(table.replace("clips/8.mp4", "clips/6.mp4"))
    with pytest.raises(
        ValueError, match=r"moved was started with other settings: eval_media was '\w+' and is '\w+'\."
    ):
        run(place, "moved", dataset=tmp_path / "corpus")
    (tmp_path / "deep/corpus/metadata.jsonl").write_text(table)
    run(place, "moved", dataset=tmp_path / "corpus")
    assert curve_of(folder) == curve_of(uninterrupted)


def test_settings_without_effect_on_results_may_change(place, uninterrupted):
    folder = copy_unfinished(uninterrupted, place / "runs/elsewhere")
    run(place, "elsewhere", save_total_limit=3, cache_media="false", per_device_eval_batch_size=4)
    assert curve_of(folder) == curve_of(uninterrupted)


# ---- folders and disks ---------------------------------------------------------------------------------------


def test_finished_run_is_left_alone(place, uninterrupted):
    before = {path: path.stat().st_mtime_ns for path in uninterrupted.rglob("*")}
    with pytest.raises(ValueError, match=r"already holds a run.*--resume_from_checkpoint true.*--overwrite"):
        run(place, "uninterrupted")
    assert {path: path.stat().st_mtime_ns for path in uninterrupted.rglob("*")} == before


def test_overwrite_moves_the_run_aside(tmp_path):
    folder = tmp_path / "old"
    folder.mkdir()
    (folder / "precious.txt").write_text("kept")
    assert resolve_output_dir(options_of(folder, "--overwrite", "true")) is None
    assert (folder / "precious.txt").is_file()  # nothing moves before everything has been checked
    move_aside(folder)
    (renamed,) = tmp_path.glob("old.*")
    assert [path.read_text() for path in renamed.iterdir()] == ["kept"]
    assert not folder.exists()


def test_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ValueError, match=r"file is not writable \(Not a directory\)"):
        check_writable(tmp_path / "file/run")
    check_writable(tmp_path / "to/be/made")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_read_only_folder_is_refused(tmp_path, monkeypatch):
    def refuse(**_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(records.tempfile, "TemporaryFile", refuse)
    with pytest.raises(ValueError, match=r"Read-only file system\). Give another folder"):
        resolve_output_dir(options_of(tmp_path))


def test_checkpoint_is_flushed_to_disk_before_it_is_renamed(tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: flushed.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    (tmp_path / "new").mkdir()
    (tmp_path / "new/optimizer.pt").write_text("x")
    finalize_checkpoint(tmp_path / "new", tmp_path / "checkpoint-2")
    assert flushed == [str(tmp_path / "new/optimizer.pt")]
    assert [path.name for path in tmp_path.rglob("*")] == ["checkpoint-2", "optimizer.pt"]


def test_too_little_disk_space_is_refused(tmp_path, make_model, monkeypatch):
    model = make_model()
    model.config.text_model_id = "llm"
    trained = sum(p.numel() * 4 for p in model.parameters() if p.requires_grad)
    statistics = sum(b.numel() * 4 for name, b in model.egmf.named_buffers())
    needed = 3 * (3 * trained + statistics) + trained + statistics
    for free, fits in ((needed, True), (needed - 1, False)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: shutil._ntuple_diskusage(0, 0, free))
        if fits:
            check_disk_space(tmp_path, model, 3)
            continue
        with pytest.raises(ValueError, match=r"has room for .* MiB, but 3 checkpoints .* take .*--save_total_limit"):
            check_disk_space(tmp_path, model, 3)
