"""The benchmark of converting and reading: a small share of it, from the pickle to the rate."""

import json
import pickle

import datasets
import pytest

from training.benchmarks.cost import converters as conversion


@pytest.mark.parametrize("layout", ["rows", "arrays"])
def test_both_layouts_hold_the_same(tmp_path, layout, monkeypatch):
    monkeypatch.setattr(conversion, "AUDIO", (6, 4))
    monkeypatch.setattr(conversion, "VIDEO", (5, 3))
    path = conversion.write_release(tmp_path / "a.pkl", {"train": 9, "valid": 3, "test": 2}, 4, layout)
    found = pickle.loads(path.read_bytes())["train"]  # noqa: S301
    assert len(found["audio"]) == len(found["id"]) == len(set(found["id"])) == 9
    assert found["vision"][8].shape == (5, 3)
    assert len({row.tobytes() for row in found["audio"]}) <= 4


@pytest.mark.integration
def test_benchmark_runs(tmp_path, trained_tokenizer, monkeypatch, capsys):
    monkeypatch.setattr(conversion, "AUDIO", (6, 4))
    monkeypatch.setattr(conversion, "VIDEO", (5, 3))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", datasets.config.HF_DATASETS_CACHE)
    trained_tokenizer.save_pretrained(tmp_path / "tokenizer")
    output = tmp_path / "results.json"
    places = {"folder": tmp_path / "scratch", "tokenizer": tmp_path / "tokenizer", "output": output}
    arguments = [part for name, path in places.items() for part in (f"--{name}", str(path))]
    conversion.main([*arguments, "--share", "0.002", "--num_workers", "1"])
    results = json.loads(output.read_text(encoding="utf-8"))
    assert results["rows"] == {"train": 33, "valid": 4, "test": 9}
    assert results["read"]["samples"] == 33
    assert results["read"]["samples_per_second"] > 0
    assert 0.05 < results["convert"]["peak_gb"] < 3
    assert (tmp_path / "scratch/cache").is_dir()
    assert "samples_per_second" in capsys.readouterr().out
