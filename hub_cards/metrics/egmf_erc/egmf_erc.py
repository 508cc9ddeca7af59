"""Emotion recognition: accuracy, F1 with its average in the name, calibration, and what could not be read.

    add_batch ─► checked rows (label names) ─► _compute ─► figures by scikit-learn ─┬─► result
                                                   └─► resampled confusion counts ──┘   with intervals

A module of `evaluate` that stands alone: this file is all that a Space needs. The card beside it tells more.
"""

import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import datasets
import evaluate
import numpy as np
from sklearn.metrics import accuracy_score, f1_score


# N rows  C labels  R resamples

_DESCRIPTION = """
Metrics of emotion recognition (MELD, CHERMA and any other closed set of labels): accuracy, weighted F1, macro F1 and
F1 of each class, with bootstrap intervals, the rate of answers that could not be read, and calibration error.
"""

_CITATION = ""

_KWARGS_DESCRIPTION = """
Args:
    predictions (`list` of `str`): (N,) names of labels. `None` and `""` are answers that could not be read: they
        count as wrong, belong to no class, and are never taken for "neutral" or for the first label.
    references (`list` of `str`): (N,) names of the true labels.
    probabilities (`list` of `list` of `float`): (N, C) in the order of `labels`, each row in [0, 1] with a sum of 1 to
        within 0.001. Only in `evaluate.load(..., "probabilities")`, and needed there.
    labels (`list` of `str`, *optional*): all classes that can be answered. With it, `macro_f1` and `per_class_f1` run
        over all of them (one that never occurs has 0), and any other name is an error. Without it they run over the
        labels that occur among predictions or references, as scikit-learn's do by default.
    unknown_predictions (`str`): what a prediction outside `labels` is: `"error"` (default), or `"unreadable"`, which
        counts it as the public toolkits do, as wrong.
    bootstrap (`int`): number of resamples for `confidence_intervals`; 0 (default) for none, 1000 is usual.
    confidence (`float`): level of the intervals, between 0 and 1. Default 0.95.
    seed (`int`): seed of the resampling. Default 0.
    calibration_bins (`int`): number of bins of `calibration_error`. Default 10; 15 is usual elsewhere.

Returns:
    `dict`, every figure in [0, 1]:
    - accuracy: share of right answers.
    - weighted_f1: F1 of the classes, averaged by how often each is true. The headline figure of MELD and CHERMA.
    - macro_f1: plain mean of the F1 of the classes.
    - per_class_f1: `{label: F1}`; 0 for a class that is neither true nor predicted.
    - unreadable_rate: share of the answers that could not be read.
    - largest_predicted_share: share of the readable answers that name the most frequent label; nan if there are none.
    - calibration_error: expected calibration error (Guo et al., 2017) of the most probable label, over bins of equal
      width that include their lower edge. Only with probabilities.
    - confidence_intervals: `{figure: [low, high]}`, percentile bootstrap over rows, only with `bootstrap`.
    In a run of several processes, process 0 gets the dict and the others `None`.

Raises:
    `ValueError`: no rows, different lengths, a label that is unknown or no string, a truth that is missing,
        probabilities that are no distribution over `labels`, or an option outside its range.

Conventions:
    Accuracy and weighted F1 are those of MSE-Adapter's evaluation to the last digit: scikit-learn's, where a
    prediction that is no class takes no weight. Where papers and toolkits differ, both can be had:
    - macro F1 over all classes (give `labels`), or over those that occur (leave it out);
    - a prediction that is no class is an error, or wrong: `unknown_predictions`;
    - calibration error over 10 bins, or 15: `calibration_bins`.
    Indices are refused, because toolkits order the same emotions differently: write `[labels[i] for i in indices]`.

Examples:

    >>> import evaluate
    >>> metric = evaluate.load("hub_cards/metrics/egmf_erc")
    >>> labels = ["neutral", "joy", "anger", "sadness"]
    >>> predictions = ["neutral", "joy", "anger", "anger", None, "neutral"]
    >>> references = ["neutral", "joy", "anger", "joy", "neutral", "neutral"]
    >>> found = metric.compute(predictions=predictions, references=references, labels=labels)
    >>> for name in ("accuracy", "weighted_f1", "macro_f1", "unreadable_rate", "largest_predicted_share"):
    ...     print(name, round(found[name], 4))
    accuracy 0.6667
    weighted_f1 0.7333
    macro_f1 0.5333
    unreadable_rate 0.1667
    largest_predicted_share 0.4
    >>> {label: round(value, 4) for label, value in found["per_class_f1"].items()}
    {'neutral': 0.8, 'joy': 0.6667, 'anger': 0.6667, 'sadness': 0.0}

    Macro F1 over the labels that occur, as scikit-learn's default:

    >>> found = metric.compute(predictions=predictions, references=references)
    >>> round(found["macro_f1"], 4)
    0.7111

    Intervals, and calibration from probabilities in the order of `labels`:

    >>> metric = evaluate.load("hub_cards/metrics/egmf_erc", "probabilities")
    >>> found = metric.compute(
    ...     predictions=["joy", "anger", "joy", "anger"],
    ...     references=["joy", "anger", "anger", "anger"],
    ...     probabilities=[[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7]],
    ...     labels=["joy", "anger"],
    ...     bootstrap=1000,
    ... )
    >>> round(found["calibration_error"], 4)
    0.3
    >>> found["confidence_intervals"]["accuracy"]
    [0.25, 1.0]

    Several processes: each adds its own rows (an empty list if it has none), process 0 gathers. For another round
    all wait for one another first, or load the metric with another `experiment_id`.

    >>> metric = evaluate.load("hub_cards/metrics/egmf_erc", num_process=1, process_id=0, experiment_id="run-1")
    >>> metric.add_batch(predictions=["joy", "anger"], references=["joy", "joy"])
    >>> metric.add_batch(predictions=["joy"], references=["anger"])
    >>> round(metric.compute()["accuracy"], 4)
    0.3333
"""

SWALLOWED_SHARE = 0.95
SUM_TOLERANCE = 1e-3


@dataclass(frozen=True)
class EGMFErcOptions:
    """The options of `compute`, checked before any row is given away."""

    labels: Sequence[str] | None = None
    unknown_predictions: str = "error"
    bootstrap: int = 0
    confidence: float = 0.95
    seed: int = 0
    calibration_bins: int = 10

    def __post_init__(self):
        if self.labels is not None:
            labels = self.labels if isinstance(self.labels, str) else list(self.labels)
            if isinstance(labels, str) or not labels or not all(isinstance(name, str) and name for name in labels):
                raise ValueError(f"`labels` is {self.labels!r}; give a list of names, such as ['joy', 'anger'].")
            twice = [name for name, count in Counter(labels).items() if count > 1]
            if twice:
                raise ValueError(f"`labels` names {_listed(twice)} more than once; name every class once.")
        if self.unknown_predictions not in ("error", "unreadable"):
            raise ValueError(f"`unknown_predictions` is {self.unknown_predictions!r}; use 'error' or 'unreadable'.")
        if not isinstance(self.calibration_bins, int) or self.calibration_bins < 1:
            raise ValueError(f"`calibration_bins` is {self.calibration_bins!r}; use a whole number from 1.")
        _check_bootstrap(self.bootstrap, self.confidence, self.seed)


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class EGMFErc(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        features = {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
        if self.config_name == "probabilities":
            features["probabilities"] = datasets.Sequence(datasets.Value("float64"))
        elif self.config_name != "default":
            raise ValueError(
                f"egmf_erc has no configuration {self.config_name!r}. Load it without one, or with 'probabilities'."
            )
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(features),
            license="Apache-2.0",
            reference_urls=[
                "https://scikit-learn.org/stable/modules/generated/sklearn.metrics.f1_score.html",
                "https://arxiv.org/abs/1706.04599",
            ],
        )

    def add_batch(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> None:
        """Add rows, checked; an empty list where a process has none."""
        super().add_batch(**self._checked(predictions, references, kwargs))

    def add(self, *, prediction: Any = None, reference: Any = None, **kwargs: Any) -> None:
        """Add one row, checked."""
        kwargs = {name: [value] for name, value in kwargs.items()}
        row = {name: column[0] for name, column in self._checked([prediction], [reference], kwargs).items()}
        super().add(prediction=row.pop("predictions"), reference=row.pop("references"), **row)

    def compute(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> dict[str, Any] | None:
        """All figures over the rows that were added, or over those given here."""
        self._check_configuration(kwargs)
        options = {name: value for name, value in kwargs.items() if name not in self.features}
        _check_known(options, EGMFErcOptions)
        EGMFErcOptions(**options)
        self.file_paths = self.filelocks = None
        try:
            return super().compute(predictions=predictions, references=references, **kwargs)
        except ValueError:
            # evaluate would keep the files of a failed call, and their locks, until this object goes.
            for path, lock in zip(self.file_paths or (), self.filelocks or (), strict=True):
                Path(path).unlink(missing_ok=True)
                lock.release()
            raise

    def _check_configuration(self, given: dict[str, Any]) -> None:
        if "probabilities" in given and "probabilities" not in self.features:
            raise ValueError(
                'This metric was loaded without probabilities. Load it by `evaluate.load(..., "probabilities")`.'
            )

    def _checked(self, predictions: Any, references: Any, others: dict[str, Any]) -> dict[str, Any]:
        self._check_configuration(others)
        columns = {
            "predictions": [name or "" for name in _names("predictions", predictions)],
            "references": _names("references", references),
        }
        for row, name in enumerate(columns["references"]):
            if not name:
                raise ValueError(
                    f"references[{row}] is {name!r}: only a prediction may be unreadable. Leave out the row."
                )
        if "probabilities" in self.features:
            if others.get("probabilities") is None:
                raise ValueError(
                    'This metric was loaded with "probabilities": give them for every row, or load it without.'
                )
            others = {**others, "probabilities": _distributions(others["probabilities"])}
        return _same_length({**columns, **others})

    def _compute(
        self,
        predictions: Sequence[str],
        references: Sequence[str],
        probabilities: Sequence[Sequence[float]] | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        return compute_figures(predictions, references, probabilities, **options)


def compute_figures(
    predictions: Sequence[str | None],
    references: Sequence[str],
    probabilities: Sequence[Sequence[float]] | np.ndarray | None = None,
    **options: Any,
) -> dict[str, Any]:
    """The figures of `compute`, of rows that are known to be valid: without copies, files or processes.

    Args:
        predictions: (N,) names of labels; None or "" where the answer could not be read.
        references: (N,) names of the true labels.
        probabilities: (N, C) in the order of `labels`.
        options: `labels`, `bootstrap` and the others of `compute`.
    """
    chosen = EGMFErcOptions(**options)
    if not len(references):
        raise ValueError("There are no rows. Add predictions and references before `compute`.")
    labels = _labels(predictions, references, chosen)
    place = {name: index for index, name in enumerate(labels)}
    unreadable = len(labels)
    truth = np.array([place[name] for name in references])  # (N,) in 0 .. C - 1
    said = np.array([place.get(name, unreadable) for name in predictions])  # (N,) in 0 .. C, C for unreadable
    codes = list(range(len(labels)))
    per_class = f1_score(truth, said, labels=codes, average=None, zero_division=0)
    result = {
        "accuracy": float(accuracy_score(truth, said)),
        "weighted_f1": float(f1_score(truth, said, labels=codes, average="weighted", zero_division=0)),
        "macro_f1": float(f1_score(truth, said, labels=codes, average="macro", zero_division=0)),
        "per_class_f1": {name: float(value) for name, value in zip(labels, per_class, strict=True)},
        "unreadable_rate": float((said == unreadable).mean()),
        "largest_predicted_share": _warn_of_one_class(said[said < unreadable], truth, labels),
    }
    calibration = None
    if probabilities is not None:
        calibration = _calibration(probabilities, truth, said, labels, chosen)
        bins, gaps = calibration
        sums = np.bincount(bins, gaps, minlength=chosen.calibration_bins)
        result["calibration_error"] = float(np.abs(sums).sum() / len(truth))
    if chosen.bootstrap:
        names = list(result["per_class_f1"])
        intervals = _bootstrap_intervals(
            lambda rows: _resampled(rows, truth, said, names, calibration), len(truth), chosen
        )
        result["confidence_intervals"] = {
            **{name: interval for name, interval in intervals.items() if not isinstance(name, tuple)},
            "per_class_f1": {name: intervals["per_class_f1", name] for name in names},
        }
    return result


# ---- the rows ------------------------------------------------------------------------------------------------------


def _listed(values: Iterable[Any], most: int = 5) -> str:
    values = list(values)
    return ", ".join(repr(value) for value in values[:most]) + (
        f" and {len(values) - most} more" if values[most:] else ""
    )


def _names(column: str, values: Any) -> list[str | None]:
    """A column of label names -> list; blank ones and None become None."""
    if values is None or isinstance(values, str):
        raise ValueError(f"`{column}` is {values!r}; give a list with the name of one label a row.")
    names = list(values)
    for row, name in enumerate(names):
        if name is not None and not isinstance(name, str):
            raise ValueError(
                f"{column}[{row}] is {name!r}, of type {type(name).__name__}; labels are names, because "
                f"toolkits number the same emotions differently. Write [labels[i] for i in indices]"
                + (", and None for an answer that could not be read." if column == "predictions" else ".")
            )
    return [name if name is not None and name.strip() else None for name in names]


def _same_length(columns: dict[str, Any]) -> dict[str, Any]:
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{length} {name}" for name, length in lengths.items())
        raise ValueError(f"The columns differ in length: {shown}. Give one of each a row, in the same order.")
    return columns


def _distributions(rows: Any) -> list[list[float]]:
    """(N, C) probabilities -> lists of floats, each a distribution."""
    found = []
    for number, row in enumerate(rows):
        if np.ndim(row) != 1:
            raise ValueError(f"probabilities[{number}] is {row!r}; give a list with one number a label.")
        values = [float(value) for value in row]
        if not all(math.isfinite(value) and 0 <= value <= 1 for value in values):
            raise ValueError(
                f"probabilities[{number}] is {_listed(values, 10)}; each must be a number in [0, 1]. Logits need "
                "a softmax."
            )
        if abs(math.fsum(values) - 1) > SUM_TOLERANCE:
            raise ValueError(
                f"probabilities[{number}] sum to {math.fsum(values):.6g}; a sum of 1 to within {SUM_TOLERANCE} is "
                "accepted. Give the probabilities of all labels, or divide each row by its sum."
            )
        found.append(values)
    return found


def _labels(predictions: Sequence[str], references: Sequence[str], options: EGMFErcOptions) -> list[str]:
    """All classes, in order; unknown names are refused as the options say."""
    if options.labels is None:
        return sorted(set(references) | {name for name in predictions if name})
    labels = list(options.labels)
    checked = {"references": references}
    if options.unknown_predictions == "error":
        checked["predictions"] = [name or labels[0] for name in predictions]
    for column, names in checked.items():
        strange = {name: row for row, name in reversed(list(enumerate(names))) if name not in set(labels)}
        if strange:
            first = sorted(strange.items(), key=lambda pair: pair[1])[:5]
            where = ", ".join(f"{name!r} (row {row})" for name, row in first)
            more = f" and {len(strange) - len(first)} more" if len(strange) > len(first) else ""
            raise ValueError(
                f"`{column}` hold labels that are not among `labels`: {where}{more}. Accepted, letter by "
                f"letter, are {_listed(labels, 20)}."
                + (
                    " To count others as wrong, say unknown_predictions='unreadable'."
                    if column == "predictions"
                    else " Add them to `labels`, or leave out the rows."
                )
            )
    return labels


def _warn_of_one_class(said: np.ndarray, truth: np.ndarray, labels: Sequence[str]) -> float:
    """Share of the most frequent readable answer, with a warning if it swallows the others. said (<= N,)"""
    if not len(said):
        warnings.warn("No answer could be read: all figures are 0. Look at the raw answers.", stacklevel=6)
        return math.nan
    counts = np.bincount(said, minlength=len(labels))
    most = int(counts.argmax())
    share, true_share = counts[most] / len(said), float((truth == most).mean())
    if len(said) > 1 and share >= SWALLOWED_SHARE and share > true_share:
        warnings.warn(
            f"{'All' if share == 1 else f'{share:.1%} of the'} {len(said)} readable predictions are {labels[most]!r}, "
            f"which is true for {true_share:.1%} of the rows. A model that learned nothing or a parser that "
            "falls back to one label gives such figures: look at the raw answers.",
            stacklevel=6,
        )
    return float(share)


# ---- calibration ---------------------------------------------------------------------------------------------------


def _calibration(
    probabilities: Sequence[Sequence[float]],
    truth: np.ndarray,
    said: np.ndarray,
    labels: Sequence[str],
    options: EGMFErcOptions,
) -> tuple[np.ndarray, np.ndarray]:
    """-> bins (N,) of the highest probability, gaps (N,): that probability minus 1 if its label is true."""
    if options.labels is None:
        raise ValueError("Probabilities need `labels`: the names of their columns, in order.")
    widths = Counter(len(row) for row in probabilities)
    if set(widths) != {len(labels)}:
        raise ValueError(
            f"`probabilities` have rows of {_listed(sorted(widths))} numbers but there are {len(labels)} labels. Give "
            f"one for each of {_listed(labels, 20)}, in this order."
        )
    table = np.array(probabilities, dtype=np.float64)  # (N, C)
    confidence, likeliest = table.max(axis=1), table.argmax(axis=1)
    readable = said < len(labels)
    if readable.any() and (said != likeliest)[readable].mean() > 0.5:
        warnings.warn(
            "Most predictions are not the most probable label of their row. Are the columns of `probabilities` in the "
            f"order of `labels` ({_listed(labels, 20)})?",
            stacklevel=6,
        )
    bins = np.minimum((confidence * options.calibration_bins).astype(int), options.calibration_bins - 1)
    return bins, confidence - (likeliest == truth)


# ---- intervals -----------------------------------------------------------------------------------------------------


def _resampled(
    rows: np.ndarray,
    truth: np.ndarray,
    said: np.ndarray,
    labels: Sequence[str],
    calibration: tuple[np.ndarray, np.ndarray] | None,
) -> dict[Any, np.ndarray]:
    """Every figure of every resample, from its confusion counts. rows (R, N) -> (R,) each."""
    size = len(labels)
    confusion = _counts((truth * (size + 1) + said)[rows], size * (size + 1)).reshape(-1, size, size + 1)
    right = np.diagonal(confusion, axis1=1, axis2=2)  # (R, C)
    true, predicted = confusion.sum(axis=2), confusion.sum(axis=1)[:, :size]  # (R, C) each
    f1 = 2 * right / np.maximum(true + predicted, 1)
    found: dict[Any, np.ndarray] = {
        "accuracy": right.sum(axis=1) / rows.shape[1],
        "weighted_f1": (f1 * true).sum(axis=1) / rows.shape[1],
        "macro_f1": f1.mean(axis=1),
        "unreadable_rate": confusion[:, :, size].sum(axis=1) / rows.shape[1],
        **{("per_class_f1", name): f1[:, index] for index, name in enumerate(labels)},
    }
    if calibration is not None:
        bins, gaps = calibration
        sums = _counts(bins[rows], int(bins.max()) + 1, gaps[rows])
        found["calibration_error"] = np.abs(sums).sum(axis=1) / rows.shape[1]
    return found


def _counts(codes: np.ndarray, size: int, weights: np.ndarray | None = None) -> np.ndarray:
    """How often each code stands in each row, or the sum of its weights. codes (R, N) in 0 .. size - 1 -> (R, size)"""
    offsets = np.arange(len(codes))[:, None] * size
    flat = None if weights is None else weights.ravel()
    return np.bincount((codes + offsets).ravel(), flat, minlength=len(codes) * size).reshape(-1, size)


def _check_known(given: dict[str, Any], options: type) -> None:
    known = [field.name for field in fields(options)]
    unknown = [name for name in given if name not in known]
    if unknown:
        raise TypeError(f"`compute` has no option {_listed(unknown)}; it has {', '.join(known)}.")


def _check_bootstrap(bootstrap: int, confidence: float, seed: int) -> None:
    if not isinstance(bootstrap, int) or bootstrap < 0:
        raise ValueError(f"`bootstrap` is {bootstrap!r}; give the number of resamples, such as 1000, or 0 for none.")
    if not isinstance(confidence, int | float) or not 0 < confidence < 1:
        raise ValueError(f"`confidence` is {confidence!r}; it must lie between 0 and 1, such as 0.95.")
    if not isinstance(seed, int) or seed < 0:
        raise ValueError(f"`seed` is {seed!r}; use a whole number from 0.")


def _bootstrap_intervals(
    statistics: Callable[[np.ndarray], dict[Any, np.ndarray]], count: int, options: Any
) -> dict[Any, list[float]]:
    """Percentile intervals of statistics over resampled rows; where one is undefined, its resample is left out.

    statistics: rows (R, N), indices in 0 .. count - 1 -> {name: (R,)}.
    """
    generator = np.random.default_rng(options.seed)
    step = max(1, 1_000_000 // count)  # resamples at once: bounds the memory
    parts = [
        statistics(generator.integers(count, size=(min(step, options.bootstrap - start), count)))
        for start in range(0, options.bootstrap, step)
    ]
    tails = [(1 - options.confidence) / 2, (1 + options.confidence) / 2]
    intervals = {}
    for name in parts[0]:
        values = np.concatenate([part[name] for part in parts])
        values = values[~np.isnan(values)]
        intervals[name] = np.quantile(values, tails).tolist() if len(values) else [math.nan, math.nan]
    return intervals
