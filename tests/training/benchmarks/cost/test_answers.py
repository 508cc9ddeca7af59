"""The benchmark of answers runs with a small language model that is scored as a tree, and refuses any other."""

import copy

import pytest

from tests.helpers.corpus_files import tiny_llama, write_language_model
from training.benchmarks.cost.answers import main, render_table
from training.model.backbones.small_configs import build_small_model, small_config
from training.records import read_json


@pytest.mark.integration
def test_benchmark_runs_with_a_tiny_language_model(trained_tokenizer, tmp_path, capsys):
    tokenizer = copy.deepcopy(trained_tokenizer)
    folder = write_language_model(tmp_path / "llm", tiny_llama(tokenizer), tokenizer)
    output = tmp_path / "answers.json"
    options = ["--text_model_name_or_path", str(folder), "--batch_sizes", "1", "3", "--repeats", "2"]
    main([*options, "--output", str(output)])
    record = read_json(output)
    assert '"recompute"' in capsys.readouterr().out
    cases = record["cases"]
    assert [(case["answers"], case["batch_size"]) for case in cases] == [(7, 1), (7, 3), (61, 1), (61, 3)]
    for case in cases:
        assert min(case["median_s"].values()) > 0
        for ratio in case["ratios"].values():
            assert 0 < ratio["low"] <= ratio["median"] <= ratio["high"]
    table = output.with_suffix(".md").read_text()
    assert table == render_table(record)
    assert table.count("\n| 61 | ") == 2


@pytest.mark.integration
def test_other_language_models_are_refused(trained_tokenizer, tmp_path):
    tokenizer = copy.deepcopy(trained_tokenizer)
    mistral = build_small_model(small_config("mistral", vocab_size=len(tokenizer)))
    folder = write_language_model(tmp_path / "llm", mistral, tokenizer)
    with pytest.raises(SystemExit, match="'mistral' models are not scored as a tree"):
        main(["--text_model_name_or_path", str(folder), "--repeats", "1"])
