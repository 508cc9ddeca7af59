"""Predictions in a fresh process, with nothing but the checkpoint's own code."""

import importlib
import subprocess
import sys

import pytest

from tests.helpers.corpus_files import write_corpus
from training.demo.__main__ import FRESH_PREDICTION
from training.demo.fresh_prediction import SourceTreeOutOfReach
from training.records import write_json


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
def test_clips_are_predicted_with_the_code_of_the_checkpoint(make_model, make_processor, tmp_path):
    corpus = write_corpus(tmp_path / "corpus")
    checkpoint = tmp_path / "checkpoint"
    make_model("waveform", "frames", lora=None).save_pretrained(checkpoint)
    make_processor("waveform", "frames").save_pretrained(checkpoint)
    clips = [
        {"text": "word 0", "video": "clips/0.mp4", "task": "emotion", "truth": "joy"},
        {"text": None, "video": "clips/1.mp4", "task": "sentiment", "truth": -1.5},
    ]
    clips_file = write_json(tmp_path / "clips.json", clips)
    empty = tmp_path / "empty"
    empty.mkdir()
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    completed = subprocess.run(
        [sys.executable, "-I", str(FRESH_PREDICTION), str(checkpoint), str(clips_file), str(corpus)],
        cwd=empty,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == 0, completed.stderr[-3000:]
    assert "loaded EGMFForConditionalGeneration from transformers_modules." in completed.stdout
    first, second = completed.stdout.split("clip      ")[1:]
    assert first.startswith(clips[0]["video"])
    assert "true: joy" in first
    assert "used      text, audio, video" in first
    assert "90 % in [" in second
    assert "true: -1.5" in second
    assert "used      audio, video" in second
    assert list(empty.iterdir()) == []
