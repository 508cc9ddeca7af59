"""Calibration: a temperature per task and subset of the modalities, and the figures before and after.

    predictions on validation ─► fit_temperatures ─► {"text": 1.7, "text+audio": 1.5, ...} ─► the checkpoint's task
    predictions on test, temperatures ─► calibration_figures ─► figures before and after, and what chance gives

Dividing log-probabilities by a temperature above 1 makes a model less confident. For labels, the temperature maximizes
the likelihood of the true ones; for scores, whose distributions it widens, it gives intervals their nominal coverage.
Dividing by T widens a normal distribution by a factor of sqrt(T), the width.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from processing_egmf.tasks_egmf import quantile_index

from .metrics import CALIBRATION_BINS, INTERVAL, interval_coverage, negative_log_likelihood, summarize_metrics


# N examples  A answers

DRAWS = 500  # of answers that a calibrated model could have given
LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9)  # probabilities of the intervals whose coverage is fitted
TEMPERATURES = np.exp(np.linspace(np.log(0.25), np.log(8), 81))
POOLED = 30  # examples that the temperature of all subsets together counts for in that of each subset


# ---- distributions --------------------------------------------------------------------------------------------


def is_classification(predictions: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the predictions of a results file are labels, not scores."""
    return "label" in predictions[0]


def read_distributions(predictions: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (N, A) of a results file's predictions, and the indices (N,) of the true answers."""
    keys = list(predictions[0]["probabilities"])
    probabilities = np.array([[entry["probabilities"][key] for key in keys] for entry in predictions])
    if is_classification(predictions):
        truth = np.array([keys.index(entry["truth"]) for entry in predictions])
    else:
        rated = np.array([float(entry["truth"]) for entry in predictions])
        truth = np.abs(np.array(keys, dtype=float) - rated[:, None]).argmin(axis=1)
    return probabilities, truth


def apply_temperature(probabilities: np.ndarray, temperature: float | np.ndarray) -> np.ndarray:
    """Distributions (N, A) with their log-probabilities divided by a temperature, one for all or (N,)."""
    logarithms = np.log(np.clip(probabilities, 1e-30, None)) / np.reshape(temperature, (-1, 1))
    powers = np.exp(logarithms - logarithms.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


# ---- figures --------------------------------------------------------------------------------------------------


def calibration_error(confidence: np.ndarray, correct: np.ndarray) -> float:
    """Expected calibration error over `CALIBRATION_BINS` bins, as egmf_erc's. confidence, correct (N,)"""
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    gaps = np.bincount(bins, weights=correct - confidence, minlength=CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / len(confidence))


def calibration_noise(confidence: np.ndarray) -> tuple[float, float]:
    """The error that a calibrated model with these confidences (N,) is measured to have, for lack of examples.

    Returns:
        Mean and 95% quantile over simulated answers that are right as often as their confidence says.
    """
    generator = np.random.default_rng(0)
    errors = [calibration_error(confidence, generator.random(len(confidence)) < confidence) for _ in range(DRAWS)]
    return float(np.mean(errors)), float(np.quantile(errors, 0.95))


def distribution_figures(probabilities: np.ndarray, truth: np.ndarray, has_labels: bool) -> dict[str, float]:
    """Figures of distributions (N, A) with true answers (N,).

    Returns:
        `negative_log_likelihood`; for labels `accuracy`, `confidence` (mean probability of the answer), `error`
        (calibration error) and `error_by_chance`, `error_by_chance_95` (as from `calibration_noise`); for scores
        `coverage` of the 90% interval, `coverage_deviation` (its standard error) and `interval_width`, in steps.
    """
    figures = {"negative_log_likelihood": negative_log_likelihood(probabilities, truth)}
    if has_labels:
        confidence = probabilities.max(axis=1)
        correct = probabilities.argmax(axis=1) == truth
        noise, noise_95 = calibration_noise(confidence)
        return figures | {
            "accuracy": float(correct.mean()),
            "confidence": float(confidence.mean()),
            "error": calibration_error(confidence, correct),
            "error_by_chance": noise,
            "error_by_chance_95": noise_95,
        }
    low = quantile_index(probabilities, (1 - INTERVAL) / 2)
    high = quantile_index(probabilities, (1 + INTERVAL) / 2)
    return figures | {
        "coverage": interval_coverage(probabilities, truth),
        "coverage_deviation": float(np.sqrt(INTERVAL * (1 - INTERVAL) / len(truth))),
        "interval_width": float((high - low).mean()),
    }


def temperatures_of(predictions: Sequence[Mapping[str, Any]], calibration: Mapping[str, float]) -> np.ndarray | None:
    """The temperature (N,) of each prediction by its modalities; None if any has none."""
    names = ["+".join(entry["modalities"]) for entry in predictions]
    if not set(names) <= set(calibration):
        return None
    return np.array([calibration[name] for name in names])


def calibration_figures(
    predictions: Sequence[Mapping[str, Any]], calibration: Mapping[str, float]
) -> dict[str, dict[str, float]]:
    """Figures of one task and subset before and, if every prediction has a temperature, after calibration.

    Args:
        predictions: from a results file, as the model gave them.
        calibration: the task's, modalities -> temperature.

    Returns:
        `before` and `after`, as from `distribution_figures`.
    """
    probabilities, truth = read_distributions(predictions)
    has_labels = is_classification(predictions)
    figures = {"before": distribution_figures(probabilities, truth, has_labels)}
    temperatures = temperatures_of(predictions, calibration)
    if temperatures is not None:
        calibrated = apply_temperature(probabilities, temperatures)
        figures["after"] = distribution_figures(calibrated, truth, has_labels)
    return figures


def summarize_calibration(runs: Sequence[Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Summaries over runs, each with subset -> figures as from `calibration_figures`.

    Returns:
        Subset -> `before` and `after` -> figure -> as from `summarize`; empty if the runs have no subsets.
    """
    return {
        subset: {when: summarize_metrics([run[subset][when] for run in runs]) for when in figures}
        for subset, figures in runs[0].items()
    }


# ---- fitting --------------------------------------------------------------------------------------------------


def _misfit(probabilities: np.ndarray, truth: np.ndarray, has_labels: bool) -> float:
    if has_labels:
        return negative_log_likelihood(probabilities, truth)
    cumulative = np.cumsum(probabilities, axis=1)
    rows = np.arange(len(truth))
    reached = cumulative[rows, truth]
    below = reached - probabilities[rows, truth]
    misses = 0.0
    for level in LEVELS:
        # As `quantile_index` finds the bounds of an interval: the first answers at which its tails are reached.
        inside = (reached >= (1 - level) / 2 - 1e-9) & (below < (1 + level) / 2 - 1e-9)
        misses += (inside.mean() - level) ** 2
    return misses


def fit_temperature(probabilities: np.ndarray, truth: np.ndarray, has_labels: bool) -> float:
    """The temperature that fits distributions (N, A) to the true answers (N,) best, from 0.25 to 8."""
    misfits = [
        _misfit(apply_temperature(probabilities, temperature), truth, has_labels) for temperature in TEMPERATURES
    ]
    best = np.flatnonzero(np.isclose(misfits, np.min(misfits), rtol=0, atol=1e-12))
    return float(TEMPERATURES[best[len(best) // 2]])


def fit_temperatures(subsets: Mapping[str, Any], task: str) -> dict[str, float]:
    """A temperature for each combination of modalities that a task's answers are based on.

    With few examples a temperature is uncertain, so each is drawn toward that of all combinations together, in
    proportion to `POOLED`. The value was chosen by cross-validation on the demo's validation split.

    Args:
        subsets: `subsets` of a results file. An example without audio, in the subset of all modalities, counts for
            text+video.
        task: the task's name.

    Returns:
        Modalities -> temperature; empty if the task was not evaluated.
    """
    groups: dict[str, dict[str, Mapping[str, Any]]] = {}
    for part in subsets.values():
        for prediction in part["tasks"].get(task, {}).get("predictions", ()):
            # The same example may have been predicted with the same modalities twice.
            groups.setdefault("+".join(prediction["modalities"]), {})[prediction["id"]] = prediction
    if not groups:
        return {}
    every = [prediction for group in groups.values() for prediction in group.values()]
    has_labels = is_classification(every)
    of_all = fit_temperature(*read_distributions(every), has_labels)
    temperatures = {}
    for name, group in groups.items():
        own = fit_temperature(*read_distributions([*group.values()]), has_labels)
        weight = len(group) / (len(group) + POOLED)
        temperatures[name] = own**weight * of_all ** (1 - weight)
    return temperatures
