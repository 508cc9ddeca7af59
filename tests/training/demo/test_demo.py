"""`make demo`: what it does with a run that is there, which clips it judges, and the judge in a fresh process."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.corpus_files import write_corpus
from training.demo.__main__ import choose_clips, run_stage, training_flags
from training.demo.fresh_prediction import SourceTreeOutOfReach
from training.records import write_json


ROOT = Path(__file__).parents[3]
OVERWRITE = ["--overwrite", "true"]


# ---- a run that is there -------------------------------------------------------------------------------------


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
def test_run_that_is_there(tmp_path, files, flags):
    folder = tmp_path / "run"
    folder.mkdir()
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    assert training_flags(folder) == flags


def test_run_that_is_not_there(tmp_path):
    assert training_flags(tmp_path / "absent") == []


# ---- stages --------------------------------------------------------------------------------------------------


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


def test_stage_that_fails_ends_the_demo():
    timings = {}
    with pytest.raises(SystemExit, match=r"The stage 'breaking' failed \(exit 3\)"):
        run_stage("breaking", [sys.executable, "-c", "raise SystemExit(3)"], timings)
    assert "breaking" in timings


# ---- the clips that are judged -------------------------------------------------------------------------------


def rows():
    kinds = [("emotion", "zh"), ("sentiment", "en"), ("emotion", "en"), ("emotion", "zh"), ("sentiment", "en")]
    for split in ("train", "test"):
        for i, (task, language) in enumerate(kinds):
            answer = "joy" if task == "emotion" else 0.5
            yield {
                "id": f"{split}_{i}",
                "split": split,
                "task": task,
                "language": language,
                "text": f"words of {split}_{i}",
                "video": f"clips/{split}_{i}.mp4",
                "answer": answer,
            }


def test_clips_of_the_evaluated_split_are_chosen(tmp_path):
    lines = [json.dumps(row) for row in rows()]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    found = choose_clips({"split": "test"}, tmp_path)
    assert [Path(clip["video"]).stem for clip in found] == ["test_2", "test_0", "test_1"]
    assert [clip["task"] for clip in found] == ["emotion", "emotion", "sentiment"]
    assert [clip["truth"] for clip in found] == ["joy", "joy", 0.5]
    assert [clip["text"] for clip in found] == ["words of test_2", "words of test_0", "words of test_1"]
    assert all(Path(clip["video"]).parent == Path("clips") for clip in found)


# ---- judging in a fresh process ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["modeling_egmf", "processing_egmf.processing_egmf", "training", "training.benchmarks.cost.speed"]
)
def test_source_tree_is_out_of_reach(name):
    with pytest.raises(ImportError, match=f"{name} is out of reach here on purpose"):
        SourceTreeOutOfReach().find_spec(name)


@pytest.mark.parametrize(
    "name", ["torch", "transformers_modules.x.modeling_egmf", "modeling_egmf_of_another", "trainings"]
)
def test_everything_else_is_within_reach(name):
    assert SourceTreeOutOfReach().find_spec(name) is None


def test_import_is_refused_before_any_other_finder_is_asked(monkeypatch):
    monkeypatch.setattr(sys, "meta_path", [SourceTreeOutOfReach(), *sys.meta_path])
    monkeypatch.delitem(sys.modules, "training.evaluation.metrics", raising=False)
    with pytest.raises(ImportError, match="out of reach here on purpose"):
        importlib.import_module("training.evaluation.metrics")


@pytest.mark.integration
def test_clips_are_judged_with_the_checkpoints_own_code(make_model, make_processor, tmp_path):
    corpus = write_corpus(tmp_path / "corpus")
    make_model("waveform", "frames", lora=None).save_pretrained(tmp_path / "checkpoint")
    make_processor("waveform", "frames").save_pretrained(tmp_path / "checkpoint")
    clips = [
        {"text": "word 0", "video": "clips/0.mp4", "task": "emotion", "truth": "joy"},
        {"text": None, "video": "clips/1.mp4", "task": "sentiment", "truth": -1.5},
    ]
    write_json(tmp_path / "clips.json", clips)
    (tmp_path / "empty").mkdir()
    command = [sys.executable, "-I", str(ROOT / "training/demo/fresh_prediction.py")]
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [*command, str(tmp_path / "checkpoint"), str(tmp_path / "clips.json"), str(corpus)],
        cwd=tmp_path / "empty",
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "loaded EGMFForConditionalGeneration from transformers_modules." in done.stdout
    first, second = done.stdout.split("clip      ")[1:]
    assert first.startswith(clips[0]["video"])
    assert "true: joy" in first
    assert "used      text, audio, video" in first
    assert "90 % in [" in second
    assert "true: -1.5" in second
    assert "used      audio, video" in second
    assert list((tmp_path / "empty").iterdir()) == []
