"""Predictions in a fresh process, with only the checkpoint's own code."""

import subprocess

import pytest

from tests.helpers.corpus_files import write_corpus
from training.demo.__main__ import FRESH_PREDICTION
from training.records import write_json


@pytest.mark.integration
def test_clips_are_predicted_with_the_code_of_the_checkpoint(make_model, make_processor, tmp_path, warm_python):
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
        [warm_python, "-I", str(FRESH_PREDICTION), str(checkpoint), str(clips_file), str(corpus)],
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
    assert "90% in [" in second
    assert "true: -1.5" in second
    assert "used      audio, video" in second
    assert list(empty.iterdir()) == []
