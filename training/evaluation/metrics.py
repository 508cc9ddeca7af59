"""Numbers from distributions over answers, each named so that nobody has to ask which one it is."""

import statistics
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from scipy.stats import pearsonr
from sklearn.metrics import accuracy_score, f1_score, mean_absolute_error

from processing_egmf import EGMFTask


def expected_calibration_error(probabilities: np.ndarray, truth: np.ndarray, bins: int = 10) -> float:
    """Mean gap between confidence and accuracy over equal-width bins. probabilities (N, A), truth (N,) -> [0, 1]."""
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    places = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [
        (places == b).mean() * abs(confidence[places == b].mean() - right[places == b].mean())
        for b in range(bins)
        if (places == b).any()
    ]
    return float(sum(gaps))


def median_index(probabilities: np.ndarray) -> np.ndarray:
    """probabilities (N, A) -> (N,) index of each row's median."""
    cumulative = np.cumsum(probabilities, axis=1) / probabilities.sum(axis=1, keepdims=True)
    return np.minimum((cumulative < 0.5 - 1e-9).sum(axis=1), probabilities.shape[1] - 1)


def classification_metrics(probabilities: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """probabilities (N, A), truth (N,) indices -> accuracy, weighted and macro F1, calibration error, likelihood."""
    said = probabilities.argmax(axis=1)
    labels = list(range(probabilities.shape[1]))
    return {
        "accuracy": float(accuracy_score(truth, said)),
        "weighted_f1": float(f1_score(truth, said, labels=labels, average="weighted", zero_division=0)),
        "macro_f1": float(f1_score(truth, said, labels=labels, average="macro", zero_division=0)),
        "calibration_error": expected_calibration_error(probabilities, truth),
        "negative_log_likelihood": _negative_log_likelihood(probabilities, truth),
        "largest_predicted_share": float(np.bincount(said).max() / len(said)),
    }


def regression_metrics(
    probabilities: np.ndarray, truth: np.ndarray, values: np.ndarray, scores: np.ndarray | None = None
) -> dict[str, float]:
    """probabilities (N, A), truth (N,) indices, values (A,) of the scale -> errors and correlation.

    `scores` (N,) are the truths as they were rated, which may lie between two steps of the scale; without them the
    steps themselves are the truth. The prediction is the median; `correlation` is Pearson's, of the means, nan where
    they are constant. `acc2_non0` leaves out truths of 0 and asks for the sign.
    """
    true, said = values[truth] if scores is None else scores, values[median_index(probabilities)]
    means = probabilities @ values / probabilities.sum(axis=1)
    signed = true != 0
    lower, upper = _interval(probabilities, 0.9)
    return {
        "mae": float(mean_absolute_error(true, said)),
        "correlation": float(pearsonr(true, means)[0]) if len(true) > 1 and np.ptp(means) and np.ptp(true) else np.nan,
        "acc2_non0": float(((said > 0) == (true > 0))[signed].mean()) if signed.any() else np.nan,
        "interval_coverage": float(((truth >= lower) & (truth <= upper)).mean()),
        "negative_log_likelihood": _negative_log_likelihood(probabilities, truth),
        "largest_predicted_share": float(np.unique(said, return_counts=True)[1].max() / len(said)),
    }


def _negative_log_likelihood(probabilities: np.ndarray, truth: np.ndarray) -> float:
    return float(-np.log(np.clip(probabilities[np.arange(len(truth)), truth], 1e-12, None)).mean())


def _interval(probabilities: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
    cumulative = np.cumsum(probabilities, axis=1) / probabilities.sum(axis=1, keepdims=True)
    last = probabilities.shape[1] - 1
    return tuple(
        np.minimum((cumulative < bound - 1e-9).sum(axis=1), last) for bound in ((1 - share) / 2, (1 + share) / 2)
    )


def task_metrics(
    task: EGMFTask, probabilities: np.ndarray, truth: np.ndarray, scores: np.ndarray | None = None
) -> dict[str, float]:
    """The metrics of a task's kind: probabilities (N, >= A), truth (N,) indices of answers, scores (N,) as rated."""
    probabilities = probabilities[:, : task.num_answers].astype(np.float64)
    if task.kind == "classification":
        return classification_metrics(probabilities, truth)
    return regression_metrics(probabilities, truth, np.array(task.values), scores)


CORPORA = {(-3.0, 3.0): "mosei", (-1.0, 1.0): "sims_v2"}  # a scale -> the convention of egmf_msa that it is judged by


@contextmanager
def _warnings_of(*names: str | None) -> Iterator[None]:
    """Warnings that are given inside say these names first."""
    with warnings.catch_warnings(record=True) as caught:
        yield
    for warning in caught:
        warnings.warn(f"{', '.join(filter(None, names))}: {warning.message}", warning.category, stacklevel=4)


def published_metrics(
    task: EGMFTask, answers: Sequence[dict[str, Any]], bootstrap: int = 1000, subset: str | None = None
) -> dict[str, Any]:
    """The figures that papers print, with intervals, by the metrics of `hub_cards/metrics`: none are defined here.

    Args:
        answers: one a row, with `truth` and `label` or `score`, as `predict_probabilities` gives them; of a
            classification with `probabilities` too.
        bootstrap: resamples; 0 for no intervals.
        subset: which modalities were asked, to be named in warnings.

    Returns:
        What egmf_erc or egmf_msa return; `{"skipped": reason}` where `evaluate` is not installed, or for a scale that
        is neither MOSI's nor SIMS'.
    """
    try:
        from hub_cards.metrics.egmf_erc.egmf_erc import EGMFErc  # evaluate takes seconds to import
        from hub_cards.metrics.egmf_msa.egmf_msa import EGMFMsa
    except ModuleNotFoundError as error:
        if error.name not in ("evaluate", "datasets"):
            raise
        return {"skipped": f"the package {error.name} is not installed: pip install evaluate datasets"}
    truth = [answer["truth"] for answer in answers]
    with _warnings_of(task.name, subset), tempfile.TemporaryDirectory() as cache:
        if task.kind == "classification":
            labels = list(task.labels)
            return EGMFErc("probabilities", keep_in_memory=True, cache_dir=cache).compute(
                predictions=[answer["label"] for answer in answers],
                references=truth,
                probabilities=[[answer["probabilities"][label] for label in labels] for answer in answers],
                labels=labels,
                bootstrap=bootstrap,
            )
        corpus = CORPORA.get((task.low, task.high))
        if corpus is None:
            return {"skipped": f"no published metric is defined on the scale [{task.low:g}, {task.high:g}]"}
        # A truth may lie half a step beyond the scale; hours of answers must not be lost over it.
        return EGMFMsa(corpus, keep_in_memory=True, cache_dir=cache).compute(
            predictions=[answer["score"] for answer in answers],
            references=[float(value) for value in truth],
            out_of_range="toolkits",
            bootstrap=bootstrap,
        )


def add_published(results: dict[str, dict[str, Any]], tasks: dict[str, EGMFTask], bootstrap: int = 1000) -> None:
    """Put `published` beside `metrics` for every subset and task of what `run_eval.evaluate` returns."""
    skipped = set()
    for subset, found in results.items():
        for name, part in found["tasks"].items():
            part["published"] = published_metrics(tasks[name], part["predictions"], bootstrap, subset)
            skipped.add(part["published"].get("skipped"))
    for reason in sorted(skipped - {None}):
        print(f"Published metrics left out: {reason}.")


def summarize(values: Sequence[float]) -> dict[str, Any]:
    """n, mean and sample standard deviation (None for one run) of a number over seeds."""
    return {
        "n": len(values),
        "mean": statistics.fmean(values) if values else None,
        "std": statistics.stdev(values) if len(values) > 1 else None,
        "values": list(values),
    }
