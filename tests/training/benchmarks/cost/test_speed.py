"""The speed benchmark runs with any language model, and its ratios are ratios of medians."""

import copy

import pytest

from tests.helpers.corpus_files import tiny_llama, write_language_model
from training.benchmarks.cost.speed import main
from training.records import read_json


@pytest.mark.integration
@pytest.mark.parametrize("media", ["raw", "features"])
def test_benchmark_runs_with_a_tiny_language_model(trained_tokenizer, tmp_path, capsys, media):
    tokenizer = copy.deepcopy(trained_tokenizer)
    folder = write_language_model(tmp_path / "llm", tiny_llama(tokenizer), tokenizer)
    output = tmp_path / "speed.json"
    options = ["--media", media, "--batch_size", "2", "--repeats", "2", "--output", str(output)]
    main(["--text_model_name_or_path", str(folder), *options])
    record = read_json(output)
    assert '"training_step"' in capsys.readouterr().out
    seconds = {name: times["median_s"] for name, times in {**record["training_step"], **record["answering"]}.items()}
    assert min(seconds.values()) > 0
    assert record["ratios"] == {
        "training_step": pytest.approx(seconds["egmf"] / seconds["language_model"]),
        "score_answers": pytest.approx(seconds["score_answers"] / seconds["prefill"]),
    }
    assert record["answering_s_per_sample"] == pytest.approx(seconds["score_answers"] / 2)
    assert record["answers"] == 7
    assert record["settings"]["media"] == media
    assert 0 < record["tokens"]["real"] <= 2 * record["tokens"]["per_sequence"]
    assert record["parameters"]["egmf"] > record["parameters"]["language_model"] > 0
