"""Paired differences over seeds and examples, and verdicts."""

import dataclasses

import numpy as np
import pytest

from processing_egmf import BUILT_IN_TASKS
from training.experiments import statistics
from training.experiments.statistics import Cell, Resampler, are_comparable, read_cell, resample, verdict


MOOD = BUILT_IN_TASKS["emotion"]
SCORE = BUILT_IN_TASKS["mosei"]
SEEDS = 3


def difference(better, worse, metric, resamples=2000):
    return Resampler(resamples).difference(better, worse, metric)


def make_cell(accuracy, num_examples=400, seed=0, seeds=range(SEEDS), group=""):
    """Predictions that are right with a probability, independently for each seed."""
    generator = np.random.default_rng(seed)
    labels = list(MOOD.labels)
    truth = generator.integers(len(labels), size=num_examples)
    predictions = {}
    for run in seeds:
        right = generator.random(num_examples) < accuracy
        predicted = np.where(right, truth, (truth + 1) % len(labels))
        predictions[run] = tuple(labels[i] for i in predicted)
    ids = tuple(f"clip {group}{i}" for i in range(num_examples))
    return Cell(f"{accuracy}{group}", MOOD, "corpus", ids, tuple(labels[i] for i in truth), predictions)


def test_difference_of_a_better_variant():
    better, worse = make_cell(0.9), make_cell(0.7)
    found = difference(better, worse, "accuracy", resamples=500)
    assert found.mean == pytest.approx(np.mean(better.values("accuracy")) - np.mean(worse.values("accuracy")))
    assert found.low < found.mean < found.high
    assert 0.1 < found.low < found.high < 0.3
    assert (found.seeds, found.examples) == (SEEDS, 400)
    assert verdict(found) == verdict(found, by=0.05) == "yes"
    assert verdict(found, by=0.5) == "no"
    assert verdict(found, by=found.mean) == "undecided"
    assert verdict(dataclasses.replace(found, seeds=1)) == "undecided"
    assert verdict(difference(worse, better, "accuracy", resamples=100)) == "no"


def test_lower_likelihoods_are_worse():
    cell = make_cell(0.8)
    sure = dataclasses.replace(cell, surprisals=dict.fromkeys(range(SEEDS), (0.2,) * 400))
    unsure = dataclasses.replace(cell, surprisals=dict.fromkeys(range(SEEDS), (0.7,) * 400), name="unsure")
    found = difference(sure, unsure, "negative_log_likelihood", resamples=10)
    assert (found.mean, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))


@pytest.mark.slow
def test_interval_covers_the_truth_as_often_as_it_says():
    """Over 25 pairs of variants with the same accuracy, about 95% of the intervals contain 0."""
    contained = 0
    for number in range(25):
        first = make_cell(0.8, 100, seed=number, seeds=range(1))
        right = np.random.default_rng(1000 + number).random(100) < 0.8
        wrong = ["joy" if label != "joy" else "fear" for label in first.references]
        predicted = tuple(np.where(right, first.references, wrong).tolist())
        second = Cell("second", MOOD, "corpus", first.ids, first.references, {0: predicted})
        found = difference(first, second, "accuracy", resamples=200)
        contained += found.low <= 0 <= found.high
    assert 21 <= contained <= 25


def test_examples_are_paired():
    """Two variants that differ in 8 of 400 examples differ by less than either's own uncertainty."""
    cell = make_cell(0.7)
    improved = {seed: (*cell.references[:8], *predictions[8:]) for seed, predictions in cell.predictions.items()}
    better = Cell("better", MOOD, "corpus", cell.ids, cell.references, improved)
    found = difference(better, cell, "accuracy", resamples=500)
    assert found.high - found.low < 0.03


def test_lower_errors_are_better():
    truth = tuple(np.linspace(-3, 3, 61).round(1).tolist())
    ids = tuple(map(str, range(61)))
    close = Cell("close", SCORE, "", ids, truth, {0: tuple(np.clip(np.array(truth) + 0.1, -3, 3).tolist())})
    far = Cell("far", SCORE, "", ids, truth, {0: tuple(np.clip(np.array(truth) + 1.0, -3, 3).tolist())})
    found = difference(close, far, "mae")
    assert found.low > 0.5
    assert difference(close, far, "correlation").mean == pytest.approx(
        close.values("correlation")[0] - far.values("correlation")[0]
    )


def test_only_what_both_have():
    first, second = make_cell(0.9), make_cell(0.9)
    found = difference(first.only(first.ids[:100], [0, 1]), second.only(second.ids[50:], [1, 2]), "accuracy")
    assert (found.seeds, found.examples) == (1, 50)
    with pytest.raises(ValueError, match="no seed or no example in common"):
        difference(first.only(first.ids[:10], [0]), second.only(second.ids[10:], [0]), "accuracy")
    elsewhere = dataclasses.replace(second, dataset="another corpus")  # with the same ids
    assert are_comparable(first, second)
    assert not are_comparable(first, elsewhere)
    with pytest.raises(ValueError, match="no seed or no example in common"):
        difference(first, elsewhere, "accuracy")


def test_a_difference_that_is_larger_than_another():
    """The same 8 points in two groups of other examples, and 20 points in a third."""
    groups = {
        group: (make_cell(0.9, 300, 1, group=group), make_cell(worse, 300, 2, group=group))
        for group, worse in (("zh", 0.82), ("en", 0.82), ("es", 0.7))
    }
    resampler = Resampler(400)
    equal = resampler.contrast(groups["zh"], groups["en"], "accuracy")
    assert equal.mean == pytest.approx(0, abs=1e-9)
    assert verdict(equal) == "undecided"
    larger = resampler.contrast(groups["es"], groups["zh"], "accuracy")
    assert (larger.seeds, larger.examples) == (SEEDS, 300)
    assert verdict(larger) == "yes"
    assert verdict(resampler.contrast(groups["zh"], groups["es"], "accuracy")) == "no"
    assert verdict(resampler.contrast(groups["es"], groups["es"], "accuracy")) == "undecided"


def test_a_cell_is_resampled_once(monkeypatch):
    calls = []
    monkeypatch.setattr(statistics, "resample", lambda cell, *rest: calls.append(cell.name) or resample(cell, *rest))
    resampler = Resampler(50)
    reference = make_cell(0.9, 40)
    for accuracy in (0.5, 0.6, 0.7):
        resampler.difference(make_cell(accuracy, 40), reference, "accuracy")
    assert sorted(calls) == ["0.5", "0.6", "0.7", "0.9"]


def test_cell_of_results_files():
    def results(labels):
        rest = dict.fromkeys(MOOD.labels, 0.0)
        predictions = [
            {
                "id": str(i),
                "truth": "joy",
                "label": label,
                "probabilities": {**rest, "joy": 0.25, "anger": 0.15, label: 0.6},
                "columns": {"year": 2000 + i},
            }
            for i, label in enumerate(labels)
        ]
        return {
            "tasks": {"emotion": MOOD.to_dict()},
            "subsets": {"text": {"tasks": {"emotion": {"predictions": predictions}}}},
        }

    cell = read_cell({0: results(["joy", "fear"]), 5: results(["fear", "joy", "joy"])}, "text", "emotion")
    assert cell.ids == ("0", "1")
    assert cell.predictions == {0: ("joy", "fear"), 5: ("fear", "joy")}
    assert cell.values("accuracy") == [0.5, 0.5]
    expected = -(np.log(0.6) + np.log(0.25)) / 2
    assert cell.values("negative_log_likelihood") == pytest.approx([expected, expected])
    only = cell.only(["1"], [5])
    assert only.values("negative_log_likelihood") == pytest.approx([-np.log(0.6)])
    drawn = resample(cell, "negative_log_likelihood", np.array([[0, 0], [1, 1], [0, 1]]))
    np.testing.assert_allclose(drawn[0], [-np.log(0.6), -np.log(0.25), expected])
    assert read_cell({0: results(["joy"])}, "audio", "emotion") is None
    of_year = read_cell({0: results(["joy", "fear"])}, "text", "emotion", group=("year", "2001"))
    assert of_year.predictions == {0: ("fear",)}
    assert read_cell({0: results(["joy"])}, "text", "emotion", group=("year", "1999")) is None
