"""The speed benchmark: what it times, how, and that it runs with any language model."""

import copy
import json

import numpy as np
import pytest
import torch

from tests.helpers.corpus_files import tiny_llama, write_language_model
from training.benchmarks.cost.speed import MELD_LONGEST, MELD_MEAN_WORDS, main, utterances
from training.benchmarks.cost.timing import timed


CPU = torch.device("cpu")


def test_utterances_are_as_long_as_they_say():
    lengths = np.array([len(words.split()) for words in utterances(20_000, np.random.default_rng(0))])
    assert lengths.mean() == pytest.approx(MELD_MEAN_WORDS, abs=0.25)
    assert lengths.min() >= 1
    assert lengths.max() <= MELD_LONGEST
    assert np.percentile(lengths, 95) > 2 * np.median(lengths)  # a long tail


def test_utterances_follow_the_seed():
    first, again, other = (utterances(20, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert first == again != other


@pytest.fixture
def clock(monkeypatch):
    """A clock that moves only when told to."""

    class Clock:
        now = 100.0

        def __call__(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr("training.benchmarks.cost.timing.time.perf_counter", clock)
    return clock


def test_medians_by_hand(clock):
    order = []
    seconds = {"slow": iter([90.0, 1.0, 5.0, 2.0]), "fast": iter([80.0, 0.5, 0.25, 0.75])}

    def call(name):
        order.append(name)
        clock.now += next(seconds[name])

    found = timed({name: lambda name=name: call(name) for name in seconds}, repeats=3, device=CPU)
    assert order == ["slow", "fast"] * 4  # by turns; the first round is not counted
    assert found["slow"] == {"median_s": 2.0, "min_s": 1.0, "max_s": 5.0}
    assert found["fast"] == {"median_s": 0.5, "min_s": 0.25, "max_s": 0.75}


@pytest.mark.integration
@pytest.mark.parametrize("media", ["raw", "features"])
def test_benchmark_runs_with_a_tiny_language_model(trained_tokenizer, tmp_path, capsys, media):
    tokenizer = copy.deepcopy(trained_tokenizer)
    folder = write_language_model(tmp_path / "llm", tiny_llama(tokenizer), tokenizer)
    argv = ["--text_model_name_or_path", str(folder), "--media", media, "--batch_size", "2", "--repeats", "2"]
    main([*argv, "--output", str(tmp_path / "speed.json")])
    record = json.loads(capsys.readouterr().out)
    assert set(record["ratios"]) == {"training_step", "score_answers"}
    step, answering = record["training_step"], record["answering"]
    medians = {name: part["median_s"] for name, part in {**step, **answering}.items()}
    assert all(value > 0 for value in medians.values())
    assert record["ratios"]["training_step"] == pytest.approx(medians["egmf"] / medians["language_model"])
    assert record["ratios"]["score_answers"] == pytest.approx(medians["score_answers"] / medians["prefill"])
    assert record["answering_s_per_sample"] == pytest.approx(medians["score_answers"] / 2)
    assert record["answers"] == 7
    assert record["settings"]["media"] == media
    assert 0 < record["tokens"]["real"] <= 2 * record["tokens"]["per_sequence"]
    assert record["parameters"]["egmf"] > record["parameters"]["language_model"] > 0
    assert json.loads((tmp_path / "speed.json").read_text(encoding="utf-8")) == record
