"""The benchmark of converting and reading, on a small share of the examples."""

import pickle
import subprocess
import sys

import datasets
import pytest

from training.benchmarks.cost import converters
from training.paths import python_command
from training.records import read_json


@pytest.fixture(autouse=True)
def small_features(monkeypatch):
    monkeypatch.setattr(converters, "AUDIO", (6, 4))
    monkeypatch.setattr(converters, "VIDEO", (5, 3))


@pytest.mark.parametrize("layout", ["rows", "arrays"])
def test_both_layouts_hold_the_same_examples(tmp_path, layout):
    counts = {"train": 9, "valid": 3, "test": 2}
    path = converters.write_release(tmp_path / "a.pkl", counts, distinct=4, layout=layout)
    train = pickle.loads(path.read_bytes())["train"]  # noqa: S301
    assert len(train["audio"]) == len(train["id"]) == len(set(train["id"])) == 9
    assert train["vision"][8].shape == (5, 3)
    assert len({audio.tobytes() for audio in train["audio"]}) <= 4


@pytest.mark.integration
def test_benchmark_runs(tmp_path, trained_tokenizer, monkeypatch, capsys, warm_training_python):
    monkeypatch.setattr(
        converters, "python_command", lambda *words: [warm_training_python, *python_command(*words)[1:]]
    )
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", datasets.config.HF_DATASETS_CACHE)
    trained_tokenizer.save_pretrained(tmp_path / "tokenizer")
    output = tmp_path / "results.json"
    paths = ["--folder", str(tmp_path / "scratch"), "--tokenizer", str(tmp_path / "tokenizer")]
    converters.main([*paths, "--output", str(output), "--share", "0.002", "--num_workers", "1"])
    record = read_json(output)
    assert record["examples"] == {"train": 33, "valid": 4, "test": 9}
    assert record["read"]["samples"] == 33
    assert record["read"]["samples_per_second"] > 0
    assert record["convert"]["seconds"] > 0
    assert record["convert"]["peak_gb"] > 0
    assert (tmp_path / "scratch/cache").is_dir()
    assert "samples_per_second" in capsys.readouterr().out


FAMILY = "import os, sys; os.fork(); data = b'x' * 60_000_000; print(flush=True); sys.stdin.read()"


def test_memory_counts_a_process_and_its_children():
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", FAMILY], **pipes) as process:
        for _ in range(2):
            process.stdout.readline()
        assert 120e6 < converters.memory_of_family(process.pid) < 240e6
        process.stdin.close()
    assert converters.memory_of_family(process.pid) == 0
