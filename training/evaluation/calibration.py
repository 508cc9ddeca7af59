"""Calibration: three numbers per task and subset of the modalities, and the figures before and after.

    predictions on validation ─► fit_calibration ─► {"text": {"temperature", "exponent", "uniform_weight"}, ...}
    predictions on test, these numbers ─► calibration_figures ─► figures before and after, and what chance gives

Log-probabilities are divided by a temperature; above 1 it makes a model less confident. Their gaps to the highest one
are raised to an exponent: above 1 it brings answers closer together that are close, and leaves those far behind where
they are, for a model that is too sure where two cues contradict each other and not where they agree. Equal
probabilities of all labels are then mixed in, with the uniform weight: a cue that misleads in some clips, and shows in
none of them that it does, bounds what any answer can be worth, which no temperature can say. For labels the three
maximize the likelihood of the true ones (temperature and weight as in Zhang et al., 2020, Mix-n-Match, without its
third term). For scores, whose distributions it widens, the temperature gives intervals their nominal coverage, the
exponent is 1 and the weight 0. Dividing by T widens a normal distribution by a factor of sqrt(T), the width.
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
EXPONENTS = np.array([0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.5, 3.0])
UNIFORM_WEIGHTS = np.linspace(0, 0.7, 29)
POOLED = 30  # examples that all subsets together count for in the fit of each subset

# Modalities -> temperature, exponent and uniform_weight. Without an exponent, as older checkpoints have it, it is 1.
Calibration = Mapping[str, Mapping[str, float]]


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


def gaps_to_highest(probabilities: np.ndarray) -> np.ndarray:
    """How far each log-probability of distributions (N, A) is below the highest, (N, A), at least 0."""
    logarithms = np.log(np.clip(probabilities, 1e-30, None))
    return logarithms.max(axis=1, keepdims=True) - logarithms


def scale_gaps(
    probabilities: np.ndarray, temperature: float | np.ndarray, exponent: float | np.ndarray = 1.0
) -> np.ndarray:
    """Distributions (N, A) whose log-probabilities' gaps to the highest are divided by a temperature and raised to an
    exponent, each one for all or (N,)."""
    gaps = gaps_to_highest(probabilities) / np.reshape(temperature, (-1, 1))
    powers = np.exp(-(gaps ** np.reshape(exponent, (-1, 1))))
    return powers / powers.sum(axis=1, keepdims=True)


def apply_calibration(
    probabilities: np.ndarray,
    temperature: float | np.ndarray,
    uniform_weight: float | np.ndarray,
    exponent: float | np.ndarray = 1.0,
) -> np.ndarray:
    """Calibrated distributions (N, A), with numbers for all or (N,)."""
    weight = np.reshape(uniform_weight, (-1, 1))
    return (1 - weight) * scale_gaps(probabilities, temperature, exponent) + weight / probabilities.shape[1]


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


def calibrate_predictions(predictions: Sequence[Mapping[str, Any]], calibration: Calibration) -> np.ndarray | None:
    """Calibrated probabilities (N, A) of a results file's predictions; None if some modalities have no calibration."""
    names = ["+".join(entry["modalities"]) for entry in predictions]
    if not set(names) <= set(calibration):
        return None
    temperatures = np.array([calibration[name]["temperature"] for name in names])
    weights = np.array([calibration[name]["uniform_weight"] for name in names])
    exponents = np.array([calibration[name].get("exponent", 1.0) for name in names])
    return apply_calibration(read_distributions(predictions)[0], temperatures, weights, exponents)


def calibration_figures(
    predictions: Sequence[Mapping[str, Any]], calibration: Calibration
) -> dict[str, dict[str, float]]:
    """Figures of one task and subset before and, if its modalities are calibrated, after calibration.

    Args:
        predictions: from a results file, as the model gave them.
        calibration: the task's.

    Returns:
        `before` and `after`, as from `distribution_figures`.
    """
    probabilities, truth = read_distributions(predictions)
    has_labels = is_classification(predictions)
    figures = {"before": distribution_figures(probabilities, truth, has_labels)}
    calibrated = calibrate_predictions(predictions, calibration)
    if calibrated is not None:
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


def label_losses(probabilities: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Negative log-likelihoods (temperatures, exponents, weights) of the true labels (N,), summed over distributions
    (N, A)."""
    losses = np.empty((len(TEMPERATURES), len(EXPONENTS), len(UNIFORM_WEIGHTS)))
    rows = np.arange(len(truth))
    gaps = gaps_to_highest(probabilities)
    for j, exponent in enumerate(EXPONENTS):
        raised = gaps**exponent  # once for all temperatures, which divide it as in `scale_gaps`
        for i, temperature in enumerate(TEMPERATURES):
            powers = np.exp(-raised / temperature**exponent)
            of_truth = (powers[rows, truth] / powers.sum(axis=1))[:, None]  # (N, 1)
            mixed = (1 - UNIFORM_WEIGHTS) * of_truth + UNIFORM_WEIGHTS / probabilities.shape[1]  # (N, weights)
            losses[i, j] = -np.log(np.clip(mixed, 1e-30, None)).sum(axis=0)
    return losses


def score_losses(probabilities: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """How far the coverage of intervals is from their levels, (temperatures,), squared and summed over levels; of
    distributions (N, A) with true answers (N,), and times N."""
    losses = np.zeros(len(TEMPERATURES))
    rows = np.arange(len(truth))
    for i, temperature in enumerate(TEMPERATURES):
        widened = scale_gaps(probabilities, temperature)
        reached = np.cumsum(widened, axis=1)[rows, truth]
        below = reached - widened[rows, truth]
        for level in LEVELS:
            # As `quantile_index` finds the bounds of an interval: the first answers at which its tails are reached.
            inside = (reached >= (1 - level) / 2 - 1e-9) & (below < (1 + level) / 2 - 1e-9)
            losses[i] += len(truth) * (inside.mean() - level) ** 2
    return losses


def fit(losses: np.ndarray) -> dict[str, float]:
    """The numbers with the smallest of losses, (temperatures, exponents, weights) or of temperatures alone; the middle
    one if several are as good."""
    best = np.argwhere(np.isclose(losses, losses.min(), rtol=0, atol=1e-9))
    found = best[len(best) // 2]
    numbers = {"temperature": float(TEMPERATURES[found[0]]), "exponent": 1.0, "uniform_weight": 0.0}
    if losses.ndim > 1:
        numbers["exponent"] = float(EXPONENTS[found[1]])
        numbers["uniform_weight"] = float(UNIFORM_WEIGHTS[found[2]])
    return numbers


def fit_calibration(subsets: Mapping[str, Any], task: str) -> dict[str, dict[str, float]]:
    """Temperature, exponent and uniform weight for each combination of modalities that a task's answers are based on.

    With few examples they are uncertain, so all combinations together count as `POOLED` examples in each fit.

    Args:
        subsets: `subsets` of a results file. An example without audio, in the subset of all modalities, counts for
            text+video.
        task: the task's name.

    Returns:
        Modalities -> `temperature` from 0.25 to 8, `exponent` from 0.6 to 3 (1 for scores) and `uniform_weight` from 0
        to 0.7 (0 for scores); empty if the task was not evaluated.
    """
    groups: dict[str, dict[str, Mapping[str, Any]]] = {}
    for part in subsets.values():
        for prediction in part["tasks"].get(task, {}).get("predictions", ()):
            # The same example may have been predicted with the same modalities twice.
            groups.setdefault("+".join(prediction["modalities"]), {})[prediction["id"]] = prediction
    if not groups:
        return {}
    every = [prediction for group in groups.values() for prediction in group.values()]
    find_losses = label_losses if is_classification(every) else score_losses
    pooled = find_losses(*read_distributions(every)) * POOLED / len(every)
    return {name: fit(find_losses(*read_distributions([*group.values()])) + pooled) for name, group in groups.items()}
