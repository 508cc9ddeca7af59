"""Metrics against values worked out by hand."""

import builtins
import warnings

import numpy as np
import pytest

from processing_egmf import BUILT_IN_TASKS, EGMFTask
from processing_egmf.tasks_egmf import quantile_index
from training.evaluation.metrics import (
    answer_metrics,
    interval_coverage,
    load_metric_module,
    logged_warnings,
    negative_log_likelihood,
    summarize_metrics,
    task_metrics,
    training_metrics,
)


pytestmark = pytest.mark.filterwarnings("ignore:Undefined, and therefore nan", "ignore:All .* readable predictions")
LABELS = EGMFTask("tone", "classification", labels=["good", "bad", "even"], prompt="\nIs")
SCALE = EGMFTask("mood", "regression", low=-1, high=1, step=1, prompt="\nMood:")  # of SIMS: -1, 0, 1


def test_classification_by_hand():
    # predicted 0, 0, 1, 2; true 0, 1, 1, 2
    probabilities = np.array([[0.8, 0.1, 0.1], [0.6, 0.4, 0.0], [0.2, 0.5, 0.3], [0.0, 0.1, 0.9]])
    metrics = task_metrics(LABELS, probabilities, np.array([0, 1, 1, 2]))
    f1 = np.array([2 / 3, 2 / 3, 1.0])  # precision 1/2, 1, 1; recall 1, 1/2, 1
    assert metrics["accuracy"] == pytest.approx(3 / 4)
    assert metrics["macro_f1"] == pytest.approx(f1.mean())
    assert metrics["weighted_f1"] == pytest.approx((f1 * [1, 2, 1]).sum() / 4)
    assert metrics["per_class_f1"] == pytest.approx(dict(zip(LABELS.labels, f1)))
    assert metrics["negative_log_likelihood"] == pytest.approx(-np.log([0.8, 0.4, 0.5, 0.9]).mean())
    assert metrics["largest_predicted_share"] == pytest.approx(2 / 4)
    # bins of width 1/15: the confidences 0.8, 0.6, 0.5, 0.9 are in different ones
    assert metrics["calibration_error"] == pytest.approx((0.2 + 0.6 + 0.5 + 0.1) / 4)


def test_class_that_never_occurs_counts_as_zero_in_macro_f1():
    metrics = task_metrics(LABELS, np.array([[0.9, 0.1, 0.0], [0.9, 0.1, 0.0]]), np.array([0, 0]))
    assert metrics["macro_f1"] == pytest.approx(1 / 3)
    assert metrics["weighted_f1"] == pytest.approx(1.0)


def test_regression_by_hand():
    probabilities = np.array(
        [
            [0.6, 0.3, 0.1],  # median -1, mean -0.5
            [0.2, 0.2, 0.6],  # median 1, mean 0.4
            [0.3, 0.4, 0.3],  # median 0, mean 0
            [0.0, 0.1, 0.9],  # median 1, mean 0.9
        ]
    )
    truth = np.array([0, 1, 2, 2])  # -1, 0, 1, 1
    metrics = task_metrics(SCALE, probabilities, truth)
    assert metrics["mae"] == pytest.approx((0 + 1 + 1 + 0) / 4)
    assert metrics["acc2_non0"] == pytest.approx(2 / 3)  # a truth of 0 is left out; a prediction of 0 is not positive
    assert metrics["correlation"] == pytest.approx(np.corrcoef([-1, 0, 1, 1], [-1, 1, 0, 1])[0, 1])
    assert metrics["correlation_of_mean"] == pytest.approx(np.corrcoef([-1, 0, 1, 1], [-0.5, 0.4, 0.0, 0.9])[0, 1])
    # 90% from the 5th to the 95th percentile: -1..1, -1..1, -1..1, 0..1
    assert metrics["interval_coverage"] == 1
    assert metrics["negative_log_likelihood"] == pytest.approx(-np.log([0.6, 0.2, 0.3, 0.9]).mean())
    assert metrics["largest_predicted_share"] == pytest.approx(2 / 4)


def test_truths_outside_the_interval_are_misses():
    probabilities = np.array([[0.0, 0.02, 0.98], [1.0, 0.0, 0.0]])
    assert interval_coverage(probabilities, np.array([0, 0])) == 0.5


@pytest.mark.parametrize("probabilities", [[[0.2, 0.6, 0.2]] * 3, [[0.5, 0.0, 0.5]] * 3])
def test_constant_predictions_have_no_correlation(probabilities):
    metrics = task_metrics(SCALE, np.array(probabilities), np.array([0, 1, 2]))
    assert np.isnan(metrics["correlation"])
    assert np.isnan(metrics["correlation_of_mean"])


def test_binary_accuracy_needs_a_nonzero_truth():
    assert np.isnan(task_metrics(SCALE, np.array([[0.2, 0.6, 0.2]]), np.array([1]))["acc2_non0"])


@pytest.mark.parametrize(
    ("probabilities", "index"),
    [
        ([0.5, 0.5, 0.0], 0),
        ([0.49, 0.02, 0.49], 1),
        ([0.0, 0.0, 1.0], 2),
        ([2.0, 1.0, 3.0], 1),
        ([0.1] * 10, 4),
    ],
)
def test_median_index(probabilities, index):
    assert quantile_index(np.array([probabilities]), 0.5).tolist() == [index]


def test_median_minimizes_the_expected_absolute_error():
    rng = np.random.default_rng(0)
    values = np.linspace(-3, 3, 61)
    for probabilities in rng.dirichlet(np.full(61, 0.3), size=20):
        errors = [(probabilities * abs(values - value)).sum() for value in values]
        assert errors[quantile_index(probabilities[None], 0.5)[0]] == pytest.approx(min(errors))


def test_zero_probability_keeps_the_likelihood_finite():
    assert np.isfinite(negative_log_likelihood(np.array([[1.0, 0.0]]), np.array([1])))


def test_padding_after_a_tasks_answers_is_ignored():
    padded = np.zeros((2, 61))
    padded[:, :3] = [[0.9, 0.1, 0.0], [0.2, 0.8, 0.0]]
    assert task_metrics(LABELS, padded, np.array([0, 1])) == task_metrics(LABELS, padded[:, :3], np.array([0, 1]))


def test_scores_may_be_rated_between_two_steps():
    metrics = task_metrics(SCALE, np.eye(3), np.arange(3), scores=np.array([-0.75, 0.25, 1.0]))
    assert metrics["mae"] == pytest.approx(0.5 / 3)


@pytest.mark.parametrize(
    ("name", "figure"),
    [("mosei", "acc2_non0"), ("sims_v2", "acc2_sims"), ("sentiment", "f1_has0")],
)
def test_scores_are_compared_on_their_own_scale(name, figure):
    metrics = answer_metrics(BUILT_IN_TASKS[name], [0.8, -0.4, 0.2], [1.0, -1.0, -0.2])
    assert figure in metrics
    assert metrics["mae"] == pytest.approx((0.2 + 0.6 + 0.4) / 3)


def test_other_scales_have_only_the_figures_without_classes():
    task = EGMFTask("stars", "regression", low=1, high=5, step=1, prompt="\nStars:")
    metrics = answer_metrics(task, [2, 2, 4], [3, 1, 5])
    assert metrics == {
        "mae": 1,
        "correlation": pytest.approx(0.866, abs=1e-3),
        "largest_predicted_share": 2 / 3,
    }
    assert "interval_coverage" in task_metrics(task, np.eye(5), np.arange(5))


def test_emotions_are_compared_with_intervals():
    task = BUILT_IN_TASKS["meld"]
    metrics = answer_metrics(task, ["joy", "anger", "joy", "joy"], ["joy", "anger", "anger", "joy"], bootstrap=20)
    assert metrics["accuracy"] == 0.75
    assert metrics["weighted_f1"] == pytest.approx(0.5 * 0.8 + 0.5 * 2 / 3)
    assert set(metrics["confidence_intervals"]) >= {"accuracy", "weighted_f1"}


def test_training_logs_only_numbers_and_no_warning(recwarn):
    rng = np.random.default_rng(0)
    for task in (BUILT_IN_TASKS["meld"], BUILT_IN_TASKS["mosei"]):
        probabilities = rng.dirichlet(np.ones(task.num_answers), size=4)
        truth = rng.integers(task.num_answers, size=4)
        metrics = training_metrics(task, probabilities, truth)
        assert all(isinstance(value, float) for value in metrics.values())
        expected = task_metrics(task, probabilities, truth)
        assert metrics == {name: expected[name] for name in metrics}
        recwarn.clear()
        assert training_metrics(task, np.eye(task.num_answers)[[1, 1, 1]], np.array([1, 2, 2]))
        assert not list(recwarn)


@pytest.mark.parametrize("action", ["default", "error"])
def test_warning_names_the_task_and_the_subset(action, caplog):
    """Also if Python was told to stop at warnings: predictions of hours must not be lost to one."""
    with warnings.catch_warnings():
        warnings.simplefilter(action)
        with logged_warnings("meld", "text+audio"):
            metrics = answer_metrics(BUILT_IN_TASKS["meld"], ["joy"] * 3, ["joy", "anger", "anger"])
    assert metrics["accuracy"] == pytest.approx(1 / 3)
    (message,) = caplog.messages
    assert message.startswith("meld, text+audio: All 3 readable predictions are 'joy'")


def test_missing_package_is_named(monkeypatch):
    real_import = builtins.__import__

    def import_without_evaluate(name, *arguments, **options):
        if name == "evaluate":
            raise ModuleNotFoundError("No module named 'evaluate'", name="evaluate")
        return real_import(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", import_without_evaluate)
    load_metric_module.cache_clear()
    with pytest.raises(ValueError, match=r"the package evaluate, which is not installed. Run `pip install"):
        answer_metrics(BUILT_IN_TASKS["meld"], ["joy"], ["joy"])


def test_metrics_of_several_runs():
    runs = [
        {"accuracy": 0.5, "mae": None, "per_class_f1": {"joy": 1.0}},
        {"accuracy": 0.7, "mae": 2.0, "per_class_f1": {"joy": 0.0}},
    ]
    assert summarize_metrics(runs) == {
        "accuracy": {
            "n": 2,
            "mean": pytest.approx(0.6),
            "std": pytest.approx(0.1 * 2**0.5),
            "values": [0.5, 0.7],
        },
        "mae": {"n": 1, "mean": 2.0, "std": None, "values": [2.0]},
    }
