"""The command of the benchmark on real data: refusals, and merging of results."""

import pytest

from tests.helpers.benchmark_results import made_up_benchmark
from training.benchmarks.real_data.__main__ import main, merge_results
from training.records import read_json


def test_missing_corpus_is_named(tmp_path):
    paths = ["--work", str(tmp_path / "work"), "--text_model_name_or_path", str(tmp_path)]
    with pytest.raises(SystemExit, match=r"has no folder meld_text/.*'meld'"):
        main(["--dataset", str(tmp_path), "--only", "meld", *paths, "--output", str(tmp_path / "real.json")])


def test_missing_language_model_is_reported_before_any_work(tmp_path):
    paths = ["--work", str(tmp_path / "work"), "--text_model_name_or_path", str(tmp_path / "nowhere")]
    with pytest.raises(SystemExit, match="nowhere"):
        main(["--dataset", str(tmp_path), *paths])
    assert not (tmp_path / "work").exists()


def test_merging_keeps_other_benchmarks(tmp_path):
    path = tmp_path / "real.json"
    for name in ("meld", "mosi"):
        merge_results(path, tmp_path / "lock", name, made_up_benchmark(), "llm")
    assert list(read_json(path)["benchmarks"]) == ["mosi", "meld"]
    assert "| Title |" in path.with_suffix(".md").read_text(encoding="utf-8")
