"""Emotion recognition: accuracy, F1 under names that say how it is averaged, calibration, and unreadable answers.

    add_batch ─► validated label names ─► _compute ─► figures by scikit-learn ──────────┬─► result
                                                 └─► confusion counts of each resample ─┘   with intervals

A module of `evaluate` that stands alone: a Space needs no other file. Next: `EGMFErc`, which documents every argument
and figure, then `compute_figures`. The README lists the conventions.
"""

import inspect
import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import evaluate
import numpy as np
from sklearn.metrics import accuracy_score, f1_score


# N examples  C labels  R resamples

DOMINANT_SHARE = 0.95  # share of the predictions from which one label is reported as dominant
SUM_TOLERANCE = 1e-3  # of the probabilities of one example


@dataclass(frozen=True)
class EGMFErcOptions:
    """The options of `compute`, which `EGMFErc` describes. Validated before any example is consumed."""

    labels: Sequence[str] | None = None
    unknown_predictions: str = "error"
    bootstrap: int = 0
    confidence: float = 0.95
    seed: int = 0
    calibration_bins: int = 10

    def __post_init__(self):
        if self.labels is not None:
            _check_labels(self.labels)
        if self.unknown_predictions not in ("error", "unreadable"):
            raise ValueError(f"`unknown_predictions` is {self.unknown_predictions!r}; use 'error' or 'unreadable'.")
        if type(self.calibration_bins) is not int or self.calibration_bins < 1:
            raise ValueError(f"`calibration_bins` is {self.calibration_bins!r}; use a whole number of at least 1.")
        _check_bootstrap(self.bootstrap, self.confidence, self.seed)


class EGMFErc(evaluate.Metric):
    """Accuracy, weighted, macro and per-class F1, calibration error and rate of unreadable answers.

    Args:
        predictions (`list` of `str`): (N,) label names. `None` and `""` are unreadable answers: they count as wrong,
            belong to no class, and are never mistaken for "neutral" or for the first label.
        references (`list` of `str`): (N,) names of the true labels.
        probabilities (`list` of `list` of `float`): (N, C) in the order of `labels`, each in [0, 1], with a sum of 1
            per example to within 0.001. Only in `evaluate.load(..., "probabilities")`, and required there.
        labels (`list` of `str`, *optional*): all classes. With it, `macro_f1` and `per_class_f1` cover all of them
            (one that never occurs scores 0), and any other name is an error. Without it they cover the labels that
            occur among predictions or references, which is scikit-learn's default.
        unknown_predictions (`str`): how to treat a prediction outside `labels`: `"error"` (default), or
            `"unreadable"`, which counts it as wrong, as the public toolkits do.
        bootstrap (`int`): number of resamples for `confidence_intervals`; 0 (default) for none, 1000 is usual.
        confidence (`float`): level of the intervals, between 0 and 1. Default 0.95.
        seed (`int`): seed of the resampling. Default 0.
        calibration_bins (`int`): number of bins of `calibration_error`. Default 10; 15 is also common.

    Returns:
        `dict`, every figure in [0, 1]:
        - accuracy: share of correct predictions.
        - weighted_f1: F1 averaged over classes, weighted by class frequency. The headline figure of MELD and CHERMA.
        - macro_f1: unweighted mean of F1 over classes.
        - per_class_f1: `{label: F1}`; 0 for a class that is neither true nor predicted.
        - unreadable_rate: share of unreadable answers.
        - largest_predicted_share: share of the readable answers that name the most frequent label; nan if none is
          readable.
        - calibration_error: expected calibration error (Guo et al., 2017) of the most probable label, over bins of
          equal width that include their lower edge. Only with probabilities.
        - confidence_intervals: `{figure: [low, high]}`, percentile bootstrap over examples. Only with `bootstrap`.
        In a distributed run, process 0 gets the dict and the others get `None`.

    Raises:
        `ValueError`: no examples, columns of different lengths, an unknown label or one that is not a string, a
            missing reference, probabilities that are not a distribution over `labels`, or an option out of range.

    Examples:
        >>> import evaluate
        >>> metric = evaluate.load("hub_cards/metrics/egmf_erc")
        >>> labels = ["neutral", "joy", "anger", "sadness"]
        >>> predictions = ["neutral", "joy", "anger", "anger", None, "neutral"]
        >>> references = ["neutral", "joy", "anger", "joy", "neutral", "neutral"]
        >>> result = metric.compute(predictions=predictions, references=references, labels=labels)
        >>> for name in ("accuracy", "weighted_f1", "macro_f1", "unreadable_rate", "largest_predicted_share"):
        ...     print(name, round(result[name], 4))
        accuracy 0.6667
        weighted_f1 0.7333
        macro_f1 0.5333
        unreadable_rate 0.1667
        largest_predicted_share 0.4
        >>> {label: round(value, 4) for label, value in result["per_class_f1"].items()}
        {'neutral': 0.8, 'joy': 0.6667, 'anger': 0.6667, 'sadness': 0.0}

        Intervals, and calibration from probabilities in the order of `labels`:
        >>> metric = evaluate.load("hub_cards/metrics/egmf_erc", "probabilities")
        >>> result = metric.compute(
        ...     predictions=["joy", "anger", "joy", "anger"],
        ...     references=["joy", "anger", "anger", "anger"],
        ...     probabilities=[[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7]],
        ...     labels=["joy", "anger"],
        ...     bootstrap=1000,
        ... )
        >>> round(result["calibration_error"], 4)
        0.3
        >>> result["confidence_intervals"]["accuracy"]
        [0.25, 1.0]
    """

    def _info(self) -> evaluate.MetricInfo:
        features = {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
        if self.config_name == "probabilities":
            features["probabilities"] = datasets.Sequence(datasets.Value("float64"))
        elif self.config_name != "default":
            raise ValueError(
                f"egmf_erc has no configuration {self.config_name!r}. Load it without one, or with 'probabilities'."
            )
        return evaluate.MetricInfo(
            description="Accuracy, F1 and calibration of emotion labels.",
            citation="",
            inputs_description=inspect.getdoc(EGMFErc),
            features=datasets.Features(features),
            license="Apache-2.0",
            reference_urls=[
                "https://scikit-learn.org/stable/modules/generated/sklearn.metrics.f1_score.html",
                "https://arxiv.org/abs/1706.04599",
            ],
        )

    def add_batch(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> None:
        """Validate and add examples; pass empty lists where a process has none."""
        super().add_batch(**self._validated(predictions, references, kwargs))

    def add(self, *, prediction: Any = None, reference: Any = None, **kwargs: Any) -> None:
        """Validate and add one example, which `evaluate.combine` passes as `predictions` and `references`."""
        example = {"predictions": prediction, "references": reference, **kwargs}
        self.add_batch(**{name: [value] for name, value in example.items()})

    def compute(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> dict | None:
        """All figures over the examples that were added, or over those passed here."""
        self._check_configuration(kwargs)
        options = {name: value for name, value in kwargs.items() if name not in self.features}
        _check_known(options, EGMFErcOptions)
        EGMFErcOptions(**options)
        if self.keep_in_memory and self.writer is None and predictions is references is None:
            raise ValueError("There are no examples. Add predictions and references first.")
        self.file_paths = None
        self.filelocks = None
        try:
            return super().compute(predictions=predictions, references=references, **kwargs)
        except ValueError:
            _release_files(self)
            raise

    def _check_configuration(self, columns: dict[str, Any]) -> None:
        if "probabilities" in columns and "probabilities" not in self.features:
            raise ValueError(
                "`probabilities` were passed, but this metric was loaded without them. "
                'Load it with `evaluate.load(..., "probabilities")`.'
            )

    def _validated(self, predictions: Any, references: Any, others: dict[str, Any]) -> dict[str, Any]:
        self._check_configuration(others)
        predictions = _label_names("predictions", predictions)
        references = _label_names("references", references)
        for index, name in enumerate(references):
            if not name:
                raise ValueError(
                    f"references[{index}] is {name!r}: only a prediction may be unreadable. "
                    "Leave out the examples without a reference."
                )
        predictions = [name or "" for name in predictions]  # a column of strings has no None
        columns = {"predictions": predictions, "references": references, **others}
        if "probabilities" in self.features:
            if columns.get("probabilities") is None:
                raise ValueError(
                    'This metric was loaded with "probabilities", but none were passed. '
                    "Pass them for every example, or load the metric without."
                )
            columns["probabilities"] = _distributions(columns["probabilities"])
        _check_lengths(columns)
        return columns

    def _compute(self, **inputs: Any) -> dict[str, Any]:
        return compute_figures(**inputs)


def compute_figures(
    predictions: Sequence[str | None],
    references: Sequence[str],
    probabilities: Sequence[Sequence[float]] | np.ndarray | None = None,
    resamples: np.ndarray | None = None,
    **options: Any,
) -> dict[str, Any]:
    """The figures of `EGMFErc.compute`, of examples that are known to be valid: no copies, no files.

    Args:
        predictions: (N,) label names; None or "" for an unreadable answer.
        references: (N,) names of the true labels.
        probabilities: (N, C) in the order of `labels`.
        resamples: (R, N) examples of each resample; adds `resampled`, every figure of each of them.
        options: the fields of `EGMFErcOptions`.
    """
    settings = EGMFErcOptions(**options)
    if not len(references):
        raise ValueError("There are no examples. Add predictions and references first.")
    labels = _classes(predictions, references, settings)
    label_index = {name: index for index, name in enumerate(labels)}
    unreadable = len(labels)
    truth = np.array([label_index[name] for name in references])  # (N,) in 0 .. C - 1
    predicted = np.array([label_index.get(name, unreadable) for name in predictions])  # (N,) in 0 .. C
    result = _point_figures(predicted, truth, labels)
    result["largest_predicted_share"] = _largest_share(predicted[predicted < unreadable], truth, labels)
    calibration = None
    if probabilities is not None:
        calibration = _calibration(probabilities, truth, predicted, labels, settings)
        bin_sums = np.bincount(calibration.bins, calibration.gaps, minlength=settings.calibration_bins)
        result["calibration_error"] = float(np.abs(bin_sums).sum() / len(truth))
    if resamples is not None:
        result["resampled"] = _resampled(predicted, truth, labels, calibration, resamples)
    if settings.bootstrap:
        result["confidence_intervals"] = _intervals(predicted, truth, labels, calibration, settings)
    return result


def _listed(values: Iterable[Any], max_values: int = 5) -> str:
    values = list(values)
    more = f" and {len(values) - max_values} more" if len(values) > max_values else ""
    return ", ".join(map(repr, values[:max_values])) + more


def _check_labels(labels: Any) -> None:
    has_order = isinstance(labels, Iterable) and not isinstance(labels, str | set | frozenset)
    names = list(labels) if has_order else []
    are_names = all(isinstance(name, str) and name for name in names)
    if not names or not are_names:
        raise ValueError(f"`labels` is {labels!r}; pass a list of names, such as ['joy', 'anger'].")
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise ValueError(f"`labels` contains {_listed(repeated)} more than once; name every class once.")


def _label_names(column: str, values: Any) -> list[str | None]:
    """A column of label names as a list, in which None stands for blank names too."""
    if values is None or isinstance(values, str | Mapping | Set) or type(values).__name__ == "DataFrame":
        raise ValueError(f"`{column}` is {values!r}; pass a list with one label name per example.")
    names = list(values)
    for index, name in enumerate(names):
        if name is not None and not isinstance(name, str):
            hint = ", or None for an unreadable prediction" if column == "predictions" else ""
            raise ValueError(
                f"{column}[{index}] is {name!r}, of type {type(name).__name__}; labels are names, "
                "because toolkits number the same emotions differently. "
                f"Pass [labels[i] for i in indices]{hint}."
            )
    return [name if name is not None and name.strip() else None for name in names]


def _check_lengths(columns: dict[str, Any]) -> None:
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{length} {name}" for name, length in lengths.items())
        raise ValueError(f"The columns differ in length: {counts}. Pass one of each per example.")


def _distributions(probabilities: Any) -> list[list[float]]:
    """(N, C) probabilities as lists of floats, each checked to be a distribution."""
    distributions = []
    for index, values in enumerate(probabilities):
        if np.ndim(values) != 1:
            raise ValueError(f"probabilities[{index}] is {values!r}; pass one number per label.")
        distribution = [float(value) for value in values]
        if not all(math.isfinite(value) and 0 <= value <= 1 for value in distribution):
            raise ValueError(
                f"probabilities[{index}] is {_listed(distribution, 10)}; "
                "each must be a number in [0, 1]. Apply a softmax to logits."
            )
        total = math.fsum(distribution)
        if abs(total - 1) > SUM_TOLERANCE:
            raise ValueError(
                f"The sum of probabilities[{index}] is {total:.6g}; it must be 1 to within "
                f"{SUM_TOLERANCE}. Pass all labels' probabilities, or divide them by their sum."
            )
        distributions.append(distribution)
    return distributions


def _classes(predictions: Sequence[str], references: Sequence[str], settings: EGMFErcOptions) -> list[str]:
    """All classes, in order. Raises for names outside them unless the settings accept these."""
    if settings.labels is None:
        names = sorted(set(references) | {name for name in predictions if name})
        if len({" ".join(name.casefold().split()) for name in names}) < len(names):
            warnings.warn(f"Labels that differ only in case or spaces are counted apart: {names}.", stacklevel=6)
        return names
    labels = list(settings.labels)
    _check_names("references", references, labels, "Add them to `labels`, or leave out these examples.")
    if settings.unknown_predictions == "error":
        readable = [name or labels[0] for name in predictions]
        hint = "To count them as wrong, pass unknown_predictions='unreadable'."
        _check_names("predictions", readable, labels, hint)
    return labels


def _check_names(column: str, names: Sequence[str], labels: Sequence[str], hint: str) -> None:
    known = set(labels)
    unknown = [name for name in dict.fromkeys(names) if name not in known]
    if unknown:
        shown = [f"{name!r} at index {list(names).index(name)}" for name in unknown[:5]]
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        raise ValueError(
            f"`{column}` contains labels that are not among `labels`: {', '.join(shown)}{more}. "
            f"Accepted, spelled exactly like this: {_listed(labels, 20)}. {hint}"
        )


def _check_known(names: Iterable[str], options_class: type) -> None:
    known = [field.name for field in fields(options_class)]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise TypeError(f"`compute` has no option {_listed(unknown)}; use one of {', '.join(known)}.")


def _check_bootstrap(bootstrap: int, confidence: float, seed: int) -> None:
    if type(bootstrap) is not int or bootstrap < 0:
        raise ValueError(f"`bootstrap` is {bootstrap!r}; pass a number of resamples, or 0 for none.")
    if not isinstance(confidence, int | float) or not 0 < confidence < 1:
        raise ValueError(f"`confidence` is {confidence!r}; pass a number between 0 and 1.")
    if type(seed) is not int or seed < 0:
        raise ValueError(f"`seed` is {seed!r}; pass a whole number of at least 0.")


def _release_files(metric: evaluate.Metric) -> None:
    """Remove the files of a failed `compute` with their locks: evaluate keeps them as long as the metric exists."""
    for path, lock in zip(metric.file_paths or (), metric.filelocks or (), strict=True):
        Path(path).unlink(missing_ok=True)
        lock.release()


def _point_figures(predicted: np.ndarray, truth: np.ndarray, labels: Sequence[str]) -> dict[str, Any]:
    """predicted (N,) in 0 .. C, where C is unreadable, truth (N,) in 0 .. C - 1"""
    f1 = partial(f1_score, truth, predicted, labels=list(range(len(labels))), zero_division=0)
    per_class = f1(average=None)  # (C,)
    return {
        "accuracy": float(accuracy_score(truth, predicted)),
        "weighted_f1": float(f1(average="weighted")),
        "macro_f1": float(f1(average="macro")),
        "per_class_f1": dict(zip(labels, per_class.tolist(), strict=True)),
        "unreadable_rate": float((predicted == len(labels)).mean()),
    }


def _largest_share(readable: np.ndarray, truth: np.ndarray, labels: Sequence[str]) -> float:
    """Share of the most frequent prediction. Warns if it dominates them but not the truth. readable (<= N,)"""
    if not len(readable):
        warnings.warn("No answer is readable: all figures are 0. Look at the raw answers.", stacklevel=6)
        return math.nan
    counts = np.bincount(readable, minlength=len(labels))
    dominant = int(counts.argmax())
    share = counts[dominant] / len(readable)
    true_share = float((truth == dominant).mean())
    if len(readable) > 1 and share >= DOMINANT_SHARE and share > true_share:
        amount = "All" if share == 1 else f"{share:.1%} of the"
        warnings.warn(
            f"{amount} {len(readable)} readable predictions are {labels[dominant]!r}, "
            f"which is true for {true_share:.1%} of the examples. A model that learned nothing, "
            "or a parser that falls back to one label, gives such figures: look at the raw answers.",
            stacklevel=6,
        )
    return float(share)


class Calibration(NamedTuple):
    """The most probable label of each example."""

    bins: np.ndarray  # (N,) bin of its probability
    gaps: np.ndarray  # (N,) its probability, minus 1 where it is true


def _calibration(
    probabilities: Sequence[Sequence[float]],
    truth: np.ndarray,
    predicted: np.ndarray,
    labels: Sequence[str],
    settings: EGMFErcOptions,
) -> Calibration:
    if settings.labels is None:
        raise ValueError("`probabilities` need `labels`. Pass the names of their columns, in order.")
    widths = Counter(len(distribution) for distribution in probabilities)
    if set(widths) != {len(labels)}:
        raise ValueError(
            f"`probabilities` have {_listed(sorted(widths))} numbers per example "
            f"but there are {len(labels)} labels. "
            f"Pass one for each of {_listed(labels, 20)}, in this order."
        )
    table = np.array(probabilities, dtype=np.float64)  # (N, C)
    confidence = table.max(axis=1)  # (N,)
    most_probable = table.argmax(axis=1)  # (N,)
    readable = predicted < len(labels)
    if readable.any() and (predicted != most_probable)[readable].mean() > 0.5:
        warnings.warn(
            "Most predictions are not the most probable label of their example. "
            f"Are the columns of `probabilities` in the order of `labels` ({_listed(labels, 20)})?",
            stacklevel=6,
        )
    num_bins = settings.calibration_bins
    bins = np.minimum((confidence * num_bins).astype(int), num_bins - 1)
    return Calibration(bins, confidence - (most_probable == truth))


def _intervals(
    predicted: np.ndarray,
    truth: np.ndarray,
    labels: Sequence[str],
    calibration: Calibration | None,
    settings: EGMFErcOptions,
) -> dict[str, Any]:
    statistics = partial(_resampled, predicted, truth, labels, calibration)
    intervals = _bootstrap_intervals(statistics, len(truth), settings)
    per_class = {name: intervals.pop(("per_class_f1", name)) for name in labels}
    return {**intervals, "per_class_f1": per_class}


def _resampled(
    predicted: np.ndarray,
    truth: np.ndarray,
    labels: Sequence[str],
    calibration: Calibration | None,
    indices: np.ndarray,
) -> dict[Any, np.ndarray]:
    """Every figure of every resample, from its confusion counts. indices (R, N) -> (R,) each"""
    num_labels = len(labels)
    num_examples = indices.shape[1]
    pairs = truth * (num_labels + 1) + predicted  # (N,) one code for each (truth, prediction)
    counts = _counts(pairs[indices], num_labels * (num_labels + 1))
    confusion = counts.reshape(-1, num_labels, num_labels + 1)  # (R, C, C + 1)
    correct = np.diagonal(confusion, axis1=1, axis2=2)  # (R, C)
    true_counts = confusion.sum(axis=2)  # (R, C)
    predicted_counts = confusion.sum(axis=1)[:, :num_labels]  # (R, C)
    f1 = 2 * correct / np.maximum(true_counts + predicted_counts, 1)
    figures: dict[Any, np.ndarray] = {
        "accuracy": correct.sum(axis=1) / num_examples,
        "weighted_f1": (f1 * true_counts).sum(axis=1) / num_examples,
        "macro_f1": f1.mean(axis=1),
        "unreadable_rate": confusion[:, :, num_labels].sum(axis=1) / num_examples,
    }
    for index, name in enumerate(labels):
        figures["per_class_f1", name] = f1[:, index]
    if calibration is not None:
        num_bins = int(calibration.bins.max()) + 1
        bin_sums = _counts(calibration.bins[indices], num_bins, calibration.gaps[indices])
        figures["calibration_error"] = np.abs(bin_sums).sum(axis=1) / num_examples
    return figures


def _counts(codes: np.ndarray, num_codes: int, weights: np.ndarray | None = None) -> np.ndarray:
    """Occurrences of each code per resample, or the sum of their weights. codes (R, N) -> (R, num_codes)"""
    offsets = np.arange(len(codes))[:, None] * num_codes
    flat_codes = (codes + offsets).ravel()
    flat_weights = None if weights is None else weights.ravel()
    counts = np.bincount(flat_codes, flat_weights, minlength=len(codes) * num_codes)
    return counts.reshape(-1, num_codes)


def _bootstrap_intervals(
    statistics: Callable[[np.ndarray], dict[Any, np.ndarray]], num_examples: int, options: Any
) -> dict[Any, list[float]]:
    """Percentile intervals of statistics over resamples; a resample where a statistic is nan is left out of it.

    Args:
        statistics: indices (R, N) of resampled examples -> {name: (R,)}.
        options: the options of `compute`.
    """
    generator = np.random.default_rng(options.seed)
    chunk_size = max(1, 1_000_000 // num_examples)  # resamples at once, which bounds the memory
    chunks = []
    for start in range(0, options.bootstrap, chunk_size):
        num_resamples = min(chunk_size, options.bootstrap - start)
        indices = generator.integers(num_examples, size=(num_resamples, num_examples))
        chunks.append(statistics(indices))
    tails = [(1 - options.confidence) / 2, (1 + options.confidence) / 2]
    intervals = {}
    for name in chunks[0]:
        values = np.concatenate([chunk[name] for chunk in chunks])
        defined = values[~np.isnan(values)]
        intervals[name] = np.quantile(defined, tails).tolist() if len(defined) else [math.nan, math.nan]
    return intervals
