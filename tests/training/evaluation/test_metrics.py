"""Metrics against values worked out by hand."""

import numpy as np
import pytest

from processing_egmf import BUILT_IN_TASKS, EGMFTask
from training.evaluation.metrics import (
    classification_metrics,
    expected_calibration_error,
    median_index,
    regression_metrics,
    task_metrics,
)


VALUES = np.array([-1.0, 0.0, 1.0])


def test_classification_by_hand():
    # said 0, 0, 1, 2; true 0, 1, 1, 2
    probabilities = np.array([[0.8, 0.1, 0.1], [0.6, 0.4, 0.0], [0.2, 0.5, 0.3], [0.0, 0.1, 0.9]])
    found = classification_metrics(probabilities, np.array([0, 1, 1, 2]))
    f1 = np.array([2 / 3, 2 / 3, 1.0])  # precision 1/2, 1, 1; recall 1, 1/2, 1
    assert found["accuracy"] == pytest.approx(3 / 4)
    assert found["macro_f1"] == pytest.approx(f1.mean())
    assert found["weighted_f1"] == pytest.approx((f1 * [1, 2, 1]).sum() / 4)
    assert found["negative_log_likelihood"] == pytest.approx(-np.log([0.8, 0.4, 0.5, 0.9]).mean())
    assert found["largest_predicted_share"] == pytest.approx(2 / 4)
    # bins of width 0.1: confidences 0.8, 0.6, 0.5, 0.9 lie apart
    assert found["calibration_error"] == pytest.approx((0.2 + 0.6 + 0.5 + 0.1) / 4)


def test_class_that_never_occurs_counts_as_zero_in_macro_f1():
    found = classification_metrics(np.array([[0.9, 0.1, 0.0], [0.9, 0.1, 0.0]]), np.array([0, 0]))
    assert found["macro_f1"] == pytest.approx(1 / 3)
    assert found["weighted_f1"] == pytest.approx(1.0)


def test_calibration_error_by_hand():
    # one bin: confidence 0.75 on average, half of them right
    probabilities = np.array([[0.7, 0.3], [0.8, 0.2]])
    assert expected_calibration_error(probabilities, np.array([0, 1]), bins=2) == pytest.approx(0.25)
    assert expected_calibration_error(np.array([[1.0, 0.0]]), np.array([0])) == 0


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
    found = regression_metrics(probabilities, truth, VALUES)
    assert found["mae"] == pytest.approx((0 + 1 + 1 + 0) / 4)
    assert found["acc2_non0"] == pytest.approx(2 / 3)  # the truth of 0 is left out; a prediction of 0 is not positive
    assert found["correlation"] == pytest.approx(np.corrcoef([-1, 0, 1, 1], [-0.5, 0.4, 0.0, 0.9])[0, 1])
    # 90 % from the 5th to the 95th percentile: -1..1, -1..1, -1..1, 0..1
    assert found["interval_coverage"] == 1
    assert found["negative_log_likelihood"] == pytest.approx(-np.log([0.6, 0.2, 0.3, 0.9]).mean())
    assert found["largest_predicted_share"] == pytest.approx(2 / 4)


def test_interval_misses_what_lies_outside():
    found = regression_metrics(np.array([[0.0, 0.02, 0.98], [1.0, 0.0, 0.0]]), np.array([0, 0]), VALUES)
    assert found["interval_coverage"] == 0.5


@pytest.mark.parametrize("probabilities", [[[0.2, 0.6, 0.2]] * 3, [[0.5, 0.0, 0.5]] * 3])
def test_constant_predictions_have_no_correlation(probabilities):
    assert np.isnan(regression_metrics(np.array(probabilities), np.array([0, 1, 2]), VALUES)["correlation"])


def test_no_signed_truth_has_no_binary_accuracy():
    assert np.isnan(regression_metrics(np.array([[0.2, 0.6, 0.2]]), np.array([1]), VALUES)["acc2_non0"])


@pytest.mark.parametrize(
    ("probabilities", "place"),
    [([0.5, 0.5, 0.0], 0), ([0.49, 0.02, 0.49], 1), ([0.0, 0.0, 1.0], 2), ([2.0, 1.0, 3.0], 1), ([0.1] * 10, 4)],
)
def test_median_index(probabilities, place):
    assert median_index(np.array([probabilities])).tolist() == [place]


def test_median_minimizes_the_expected_absolute_error():
    rng = np.random.default_rng(0)
    values = np.linspace(-3, 3, 61)
    for probabilities in rng.dirichlet(np.full(61, 0.3), size=20):
        errors = [(probabilities * abs(values - value)).sum() for value in values]
        assert errors[median_index(probabilities[None])[0]] == pytest.approx(min(errors))


def test_zero_probability_keeps_the_likelihood_finite():
    found = classification_metrics(np.array([[1.0, 0.0]]), np.array([1]))
    assert np.isfinite(found["negative_log_likelihood"])


def test_task_metrics_leave_out_the_padding():
    task = EGMFTask("tone", "classification", labels=["good", "bad"], prompt="\nIs")
    padded = np.zeros((2, 61))
    padded[:, :2] = [[0.9, 0.1], [0.2, 0.8]]
    assert task_metrics(task, padded, np.array([0, 1])) == classification_metrics(padded[:, :2], np.array([0, 1]))


def test_task_metrics_choose_by_kind():
    probabilities = np.eye(61)[[0, 30, 60]]
    found = task_metrics(BUILT_IN_TASKS["mosei"], probabilities, np.array([0, 30, 60]))
    assert (found["mae"], found["acc2_non0"]) == (0, 1)
    assert found["correlation"] == pytest.approx(1)
    assert "accuracy" in task_metrics(BUILT_IN_TASKS["meld"], np.eye(7), np.arange(7))
