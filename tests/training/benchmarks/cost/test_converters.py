"""The benchmark of converting and reading, on a small share of the examples."""

import pickle

import datasets
import pytest

from training.benchmarks.cost import converters
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
def test_benchmark_runs(tmp_path, trained_tokenizer, monkeypatch, capsys):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", datasets.config.HF_DATASETS_CACHE)
    trained_tokenizer.save_pretrained(tmp_path / "tokenizer")
    output = tmp_path / "results.json"
    paths = ["--folder", str(tmp_path / "scratch"), "--tokenizer", str(tmp_path / "tokenizer")]
    converters.main([*paths, "--output", str(output), "--share", "0.002", "--num_workers", "1"])
    record = read_json(output)
    assert record["examples"] == {"train": 33, "valid": 4, "test": 9}
    assert record["read"]["samples"] == 33
    assert record["read"]["samples_per_second"] > 0
    assert 0.05 < record["convert"]["peak_gb"] < 3
    assert (tmp_path / "scratch/cache").is_dir()
    assert "samples_per_second" in capsys.readouterr().out
