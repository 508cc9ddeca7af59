"""The metrics of an evaluation, each defined once.

    answers            ─► hub_cards/metrics (egmf_erc, egmf_msa): accuracy, F1, MAE, correlation, intervals
    probabilities      ─► here: negative log-likelihood, coverage of the intervals, correlation of the mean
                          └─► `task_metrics`: one flat set per task

The metric modules are the ones that `evaluate.load` loads from the Hub. They are imported from their files when the
first metric is computed, because importing `evaluate` takes seconds.
"""

import functools
import importlib.util
import logging
import math
import statistics
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np

from processing_egmf import EGMFTask
from processing_egmf.tasks_egmf import quantile_index

from ..paths import HUB_CARDS


# N examples  A answers

METRICS_FOLDER = HUB_CARDS / "metrics"
CORPORA = {(-3.0, 3.0): "mosei", (-1.0, 1.0): "sims_v2"}  # a scale -> the corpus whose classes egmf_msa uses
INTERVAL = 0.9  # probability inside an interval
CALIBRATION_BINS = 15  # of equal width, over confidences from 0 to 1

logger = logging.getLogger(__name__)


@functools.cache
def load_metric_module(name: str) -> ModuleType:
    """`egmf_erc` or `egmf_msa`, from its file.

    Raises:
        ValueError: a package that it imports is not installed.
    """
    spec = importlib.util.spec_from_file_location(name, METRICS_FOLDER / name / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"Metrics need the package {error.name}, which is not installed. Run `pip install 'egmf[training]'`."
        ) from error
    return module


# ---- metrics of the answers -------------------------------------------------------------------------------------


def answer_metrics(
    task: EGMFTask,
    predictions: Sequence[str | float],
    references: Sequence[str | float],
    probabilities: np.ndarray | None = None,
    bootstrap: int = 0,
) -> dict[str, Any]:
    """The metrics that papers report, computed by the metric modules.

    Args:
        task: selects the module: egmf_erc for labels, egmf_msa for scores on the scale of MOSI or SIMS.
        predictions: (N,) labels or scores.
        references: (N,) true labels or scores.
        probabilities: (N, A), for `calibration_error` of a classification.
        bootstrap: resamples for `confidence_intervals`; 0 for none.
    """
    if task.kind == "classification":
        module = load_metric_module("egmf_erc")
        labels = list(task.labels)
        options = {"labels": labels, "calibration_bins": CALIBRATION_BINS, "bootstrap": bootstrap}
        return module.compute_figures(predictions, references, probabilities, **options)
    module = load_metric_module("egmf_msa")
    corpus = CORPORA.get((task.low, task.high))
    if corpus is None:
        return _metrics_of_another_scale(module, np.array(references, float), np.array(predictions, float))
    # A true score may be half a step outside the scale; that must not abort hours of evaluation.
    return module.compute_figures(predictions, references, corpus, out_of_range="toolkits", bootstrap=bootstrap)


def resampled_metrics(
    task: EGMFTask,
    predictions: Sequence[str | float],
    references: Sequence[str | float],
    indices: np.ndarray,
) -> dict[str, np.ndarray]:
    """Metrics of `answer_metrics` over resamples of the examples.

    Args:
        task: selects the module.
        predictions: (N,) labels or scores.
        references: (N,) true labels or scores.
        indices: (R, N) examples of each resample.

    Returns:
        Name -> (R,).
    """
    if task.kind == "classification":
        module = load_metric_module("egmf_erc")
        options = {"labels": list(task.labels), "resamples": indices}
        return module.compute_figures(predictions, references, **options)["resampled"]
    corpus = CORPORA.get((task.low, task.high))
    if corpus is None:
        errors = np.abs(np.array(predictions, float) - np.array(references, float))
        return {"mae": errors[indices].mean(axis=1)}
    module = load_metric_module("egmf_msa")
    options = {"out_of_range": "toolkits", "resamples": indices}
    return module.compute_figures(predictions, references, corpus, **options)["resampled"]


def _metrics_of_another_scale(module: ModuleType, truth: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """The metrics that need no classes. truth, scores (N,)"""
    counts = np.unique(scores, return_counts=True)[1]
    return {
        "mae": float(np.abs(truth - scores).mean()),
        "correlation": module.correlation(truth, scores),
        "largest_predicted_share": float(counts.max() / len(scores)),
    }


# ---- metrics of the distributions -------------------------------------------------------------------------------


def surprisals(probabilities: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """-log p(true answer), p at least 1e-12, (N,). probabilities (N, A), truth (N,) indices"""
    likelihood = probabilities[np.arange(len(truth)), truth]
    return -np.log(np.clip(likelihood, 1e-12, None))


def negative_log_likelihood(probabilities: np.ndarray, truth: np.ndarray) -> float:
    """Mean of `surprisals`."""
    return float(surprisals(probabilities, truth).mean())


def interval_coverage(probabilities: np.ndarray, truth: np.ndarray) -> float:
    """Share of the true answers inside the central interval. probabilities (N, A), truth (N,) indices"""
    low = quantile_index(probabilities, (1 - INTERVAL) / 2)
    high = quantile_index(probabilities, (1 + INTERVAL) / 2)
    return float(((truth >= low) & (truth <= high)).mean())


# ---- all metrics of a task --------------------------------------------------------------------------------------


def task_metrics(
    task: EGMFTask,
    probabilities: np.ndarray,
    truth: np.ndarray,
    scores: np.ndarray | None = None,
    bootstrap: int = 0,
) -> dict[str, Any]:
    """All metrics of a task, from distributions over its answers.

    Args:
        probabilities: (N, >= A); columns beyond the task's answers are padding.
        truth: (N,) indices of the true answers.
        scores: (N,) true scores as they were rated, which may lie between steps of the scale; None to use the steps.
        bootstrap: resamples for `confidence_intervals`; 0 for none.

    Returns:
        The metric module's metrics, `negative_log_likelihood`, and for regression `interval_coverage`,
        `correlation_of_mean` (Pearson's r of the distributions' means; `correlation` is that of the scores, which are
        medians) and `acc2_non0` on every scale.
    """
    probabilities = probabilities[:, : task.num_answers].astype(np.float64)
    if task.kind == "classification":
        labels = list(task.labels)
        predictions = [labels[index] for index in probabilities.argmax(axis=1)]
        references = [labels[index] for index in truth]
        metrics = answer_metrics(task, predictions, references, probabilities, bootstrap)
    else:
        metrics = _regression_metrics(task, probabilities, truth, scores, bootstrap)
    metrics["negative_log_likelihood"] = negative_log_likelihood(probabilities, truth)
    return metrics


def _regression_metrics(
    task: EGMFTask, probabilities: np.ndarray, truth: np.ndarray, scores: np.ndarray | None, bootstrap: int
) -> dict[str, Any]:
    values = np.array(task.values)  # (A,)
    true_scores = values[truth] if scores is None else scores  # (N,)
    medians = values[quantile_index(probabilities, 0.5)]  # (N,)
    means = probabilities @ values / probabilities.sum(axis=1)  # (N,)
    metrics = answer_metrics(task, medians.tolist(), true_scores.tolist(), bootstrap=bootstrap)
    if "acc2_non0" not in metrics:
        metrics["acc2_non0"] = _sign_accuracy(true_scores, medians)
    metrics["interval_coverage"] = interval_coverage(probabilities, truth)
    metrics["correlation_of_mean"] = load_metric_module("egmf_msa").correlation(true_scores, means)
    return metrics


def _sign_accuracy(truth: np.ndarray, scores: np.ndarray) -> float:
    """Share of scores with the sign of the truth, among truths other than 0. truth, scores (N,)"""
    signed = truth != 0
    if not signed.any():
        return math.nan
    return float(((scores > 0) == (truth > 0))[signed].mean())


def training_metrics(task: EGMFTask, probabilities: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """The numbers among `task_metrics`, without warnings: an untrained model gives one label for all examples."""
    with quiet():
        return numbers_of(task_metrics(task, probabilities, truth))


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings of metrics."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def numbers_of(metrics: dict[str, Any]) -> dict[str, float]:
    """The metrics that are single numbers, without `per_class_f1`, `confidence_intervals` and undefined ones."""
    return {name: value for name, value in metrics.items() if isinstance(value, int | float)}


@contextmanager
def logged_warnings(*names: str) -> Iterator[None]:
    """Logs warnings from the block with these names: `meld, text+audio: All 3 readable predictions ...`.

    Even if Python was told to stop at warnings: those of a metric must not cost hours of predictions.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        warnings.filters[:] = [("default" if kind == "error" else kind, *rest) for kind, *rest in warnings.filters]
        yield
    for message in dict.fromkeys(str(warning.message) for warning in caught):
        logger.warning(f"{', '.join(names)}: {message}")


# ---- over several predictions or runs ---------------------------------------------------------------------------


def summarize(values: Sequence[float]) -> dict[str, Any]:
    """n, mean and sample standard deviation (None for one run) of a metric over seeds."""
    return {
        "n": len(values),
        "mean": statistics.fmean(values) if values else None,
        "std": statistics.stdev(values) if len(values) > 1 else None,
        "values": list(values),
    }


def summarize_metrics(runs: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """`metrics` of several runs -> each metric as `summarize` returns it; runs without the metric are not counted."""
    summaries = {}
    for name, first in runs[0].items():
        values = [run[name] for run in runs if run.get(name) is not None]
        if values and not isinstance(first, dict):
            summaries[name] = summarize(values)
    return summaries
