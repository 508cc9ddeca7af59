"""Sentiment scores: accuracies, F1 and errors of MOSI, MOSEI, SIMS and SIMS v2, under names that say which they are.

    add_batch ─► validated float32 scores ─► _compute ─► figures by scikit-learn, scipy ─┬─► result
                                                    └─► the same for each resample ──────┘   with intervals

A module of `evaluate` that needs no other file. Next: `EGMFMsa` (every argument and figure), then `compute_figures`.
"""

import inspect
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, SupportsFloat

import datasets
import evaluate
import numpy as np
from scipy.stats import pearsonr
from sklearn.metrics import accuracy_score, f1_score, mean_absolute_error, r2_score


# N examples  R resamples

CONVENTIONS = {"default": "mosi", "mosi": "mosi", "mosei": "mosi", "sims": "sims", "sims_v2": "sims"}
SCALE_END = {"mosi": 3.0, "sims": 1.0}  # the scale is symmetric
RANGE_TOLERANCE = 1e-6
MAX_SCORE = 3.4e38  # of float32
DOMINANT_SHARE = 0.95  # share of the predictions from which one class is reported as dominant
MIN_EXAMPLES = 20  # a share of fewer examples says too little for a warning
UNREADABLE = 9  # the class of an unreadable answer; no score belongs to it


@dataclass(frozen=True)
class EGMFMsaOptions:
    """The options of `compute`, which `EGMFMsa` describes. Validated before any example is consumed."""

    out_of_range: str = "error"
    decimals: int | None = None
    bootstrap: int = 0
    confidence: float = 0.95
    seed: int = 0

    def __post_init__(self):
        if self.out_of_range not in ("error", "toolkits"):
            raise ValueError(f"`out_of_range` is {self.out_of_range!r}; use 'error' or 'toolkits'.")
        if self.decimals is not None and (type(self.decimals) is not int or self.decimals < 0):
            raise ValueError(f"`decimals` is {self.decimals!r}; pass a whole number, or None for no rounding.")
        _check_bootstrap(self.bootstrap, self.confidence, self.seed)


class EGMFMsa(evaluate.Metric):
    """Accuracies, weighted F1, errors and correlation in the conventions of MOSI and MOSEI, or SIMS and SIMS v2.

    Args:
        predictions (`list` of `float`): (N,) scores, read as float32. `None` is an unreadable answer: it counts as
            wrong in every accuracy and F1, and in the errors and the correlation as the end of the scale that is
            farther from the truth (the upper one if the truth is in the middle). It is never taken for 0.
        references (`list` of `float`): (N,) true scores, read as float32.
        out_of_range (`str`): how to treat a score outside the scale: `"error"` (default), or `"toolkits"`, which does
            what the public toolkits do: MOSI's errors and correlation take it as it is, those of SIMS clip it.
        decimals (`int`, *optional*): round every figure to this many decimals; the toolkits print 4. Default: none.
        bootstrap (`int`): number of resamples for `confidence_intervals`; 0 (default) for none, 1000 is usual.
        confidence (`float`): level of the intervals, between 0 and 1. Default 0.95.
        seed (`int`): seed of the resampling. Default 0.

    Returns:
        `dict`. Accuracies, F1 and rates are in [0, 1], every F1 is weighted by class frequency.
        `evaluate.load(path)`, or with `"mosi"` or `"mosei"`:
        - acc2_has0, f1_has0: negative against non-negative, true scores of 0 included.
        - acc2_non0, f1_non0: negative against positive, true scores of 0 excluded; a prediction of 0 is negative.
        - acc5, acc7: scores clipped to [-2, 2] or [-3, 3] and rounded, halves to the even neighbor.
        - mae: mean absolute error; correlation: Pearson's, in [-1, 1]. Of the scores as they are.
        `evaluate.load(path, "sims")` or `"sims_v2"`; all scores are clipped to [-1, 1] first:
        - acc2_sims, f1_sims: non-positive against positive.
        - acc2_weak: the accuracy of acc2_sims over true scores in [-0.4, 0.4].
        - acc3: classes cut at -0.1 and 0.1; acc5_sims: at -0.7, -0.1, 0.1 and 0.7. A cut belongs to the class below.
        - mae, correlation as above; r2: coefficient of determination, at most 1. Of the clipped scores.
        Always:
        - unreadable_rate: share of unreadable answers.
        - out_of_range_rate: share of answers outside the scale.
        - largest_predicted_share: share of the most frequent score among the readable answers; nan if there are none.
        - confidence_intervals: `{figure: [low, high]}`, percentile bootstrap over examples. Only with `bootstrap`.
        An undefined figure is nan, with a warning that gives the reason: acc2_non0 and f1_non0 if every true score is
        0, acc2_weak if none is weak, correlation if either side is constant, r2 if there is one example.
        In a distributed run, process 0 gets the dict and the others get `None`.

    Raises:
        `ValueError`: no examples, columns of different lengths, a score that is not a finite number, a missing
            reference, a score outside the scale, an unknown configuration, or an option out of range.

    Examples:
        >>> import evaluate
        >>> metric = evaluate.load("hub_cards/metrics/egmf_msa", "mosei")
        >>> predictions = [2.4, -1.6, 0.0, 0.2, None, 1.0]
        >>> references = [3.0, -1.0, 0.0, -0.4, 1.2, 0.6]
        >>> result = metric.compute(predictions=predictions, references=references)
        >>> for name in ("acc2_has0", "f1_has0", "acc2_non0", "f1_non0", "acc7"):
        ...     print(name, round(result[name], 4))
        acc2_has0 0.6667
        f1_has0 0.7222
        acc2_non0 0.6
        f1_non0 0.6667
        acc7 0.5
        >>> [round(result[name], 4) for name in ("acc5", "mae", "correlation")]
        [0.6667, 1.0667, 0.4653]
        >>> [round(result[name], 4) for name in ("unreadable_rate", "out_of_range_rate", "largest_predicted_share")]
        [0.1667, 0.0, 0.2]

        The convention of SIMS, with intervals:
        >>> metric = evaluate.load("hub_cards/metrics/egmf_msa", "sims_v2")
        >>> result = metric.compute(
        ...     predictions=[0.9, -0.6, 0.1, 0.3], references=[0.8, -0.8, 0.0, -0.2], decimals=4, bootstrap=1000
        ... )
        >>> [result[name] for name in ("acc2_sims", "f1_sims", "acc2_weak", "acc3", "acc5_sims", "mae", "r2")]
        [0.5, 0.5, 0.0, 0.75, 0.5, 0.225, 0.7634]
        >>> [round(bound, 4) for bound in result["confidence_intervals"]["mae"]]
        [0.1, 0.4]
    """

    def _info(self) -> evaluate.MetricInfo:
        if self.config_name not in CONVENTIONS:
            raise ValueError(
                f"egmf_msa has no configuration {self.config_name!r}. "
                "Load it with 'mosi' (the default), 'mosei', 'sims' or 'sims_v2'."
            )
        features = {"predictions": datasets.Value("float32"), "references": datasets.Value("float32")}
        return evaluate.MetricInfo(
            description="Accuracies, F1 and errors of sentiment scores.",
            citation="",
            inputs_description=inspect.getdoc(EGMFMsa),
            features=datasets.Features(features),
            license="Apache-2.0",
            reference_urls=["https://github.com/thuiar/MMSA", "https://github.com/thuiar/ch-sims-v2"],
        )

    def add_batch(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> None:
        """Validate and add examples; pass empty lists where a process has none."""
        predictions = _scores("predictions", predictions)
        references = _scores("references", references)
        if None in references:
            raise ValueError(
                f"references[{references.index(None)}] is None: only a prediction may be unreadable. "
                "Leave out the examples without a reference."
            )
        columns = {"predictions": predictions, "references": references}
        _check_lengths(columns)
        super().add_batch(**columns, **kwargs)

    def add(self, *, prediction: Any = None, reference: Any = None, **kwargs: Any) -> None:
        """Validate and add one example, which `evaluate.combine` passes as `predictions` and `references`."""
        example = {"predictions": prediction, "references": reference, **kwargs}
        self.add_batch(**{name: [value] for name, value in example.items()})

    def compute(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> dict | None:
        """All figures over the examples that were added, or over those passed here."""
        _check_known(kwargs, EGMFMsaOptions)
        EGMFMsaOptions(**kwargs)
        if self.keep_in_memory and self.writer is None and predictions is references is None:
            raise ValueError("There are no examples. Add predictions and references first.")
        self.file_paths = None
        self.filelocks = None
        try:
            return super().compute(predictions=predictions, references=references, **kwargs)
        except ValueError:
            _release_files(self)
            raise

    def _compute(self, predictions: Any, references: Any, **options: Any) -> dict[str, Any]:
        return compute_figures(predictions, references, self.config_name, **options)


def compute_figures(
    predictions: Sequence[float | None],
    references: Sequence[float],
    corpus: str = "default",
    resamples: np.ndarray | None = None,
    **options: Any,
) -> dict[str, Any]:
    """The figures of `EGMFMsa.compute`, of examples that are known to be valid: no copies, no files.

    Args:
        predictions: (N,) scores; None for an unreadable answer.
        references: (N,) true scores.
        corpus: a key of `CONVENTIONS`, as for `evaluate.load`.
        resamples: (R, N) examples of each resample; adds `resampled`, every figure of each of them.
        options: the fields of `EGMFMsaOptions`.
    """
    settings = EGMFMsaOptions(**options)
    if not len(references):
        raise ValueError("There are no examples. Add predictions and references first.")
    convention = CONVENTIONS[corpus]
    end = SCALE_END[convention]
    readable = np.array([score is not None for score in predictions])  # (N,)
    predicted = np.array([score or 0.0 for score in predictions], dtype=np.float32)  # (N,)
    truth = np.array(references, dtype=np.float32)  # (N,)
    if settings.out_of_range == "error":
        _check_scale("predictions", predicted, convention)
        _check_scale("references", truth, convention)
    out_of_range_rate = float(_out_of_range(predicted, convention).mean())
    if corpus == "default" and len(truth) >= MIN_EXAMPLES and np.abs(truth).max() <= SCALE_END["sims"]:
        warnings.warn(
            "All true scores are within [-1, 1] but are evaluated on MOSI's scale of [-3, 3]. "
            "For scores of SIMS, load the metric with 'sims' or 'sims_v2'; otherwise load it with 'mosi'.",
            stacklevel=5,
        )
    if convention == "sims":
        predicted = np.clip(predicted, -end, end)
        truth = np.clip(truth, -end, end)
    classifications = _classifications(predicted, truth, readable, convention)
    scores = np.where(readable, predicted, np.where(truth > 0, -end, end)).astype(np.float64)  # (N,)
    true_scores = truth.astype(np.float64)  # (N,)
    result = _point_figures(classifications, scores, true_scores, convention)
    result["unreadable_rate"] = float((~readable).mean())
    result["out_of_range_rate"] = out_of_range_rate
    result["largest_predicted_share"] = _largest_share(predicted, readable, classifications[-1])
    _warn_of_undefined(result, classifications, true_scores)
    if settings.decimals is not None:
        result = {name: round(value, settings.decimals) for name, value in result.items()}
    statistics = partial(_resampled, classifications, scores, true_scores, readable, convention)
    if resamples is not None:
        result["resampled"] = statistics(resamples)
    if settings.bootstrap:
        result["confidence_intervals"] = _bootstrap_intervals(statistics, len(truth), settings)
    return result


def _listed(values: Iterable[Any], max_values: int = 5) -> str:
    values = list(values)
    more = f" and {len(values) - max_values} more" if len(values) > max_values else ""
    return ", ".join(map(repr, values[:max_values])) + more


def _scores(column: str, values: Any) -> list[float | None]:
    """A column of scores as a list of finite floats and None."""
    if values is None or isinstance(values, str | Mapping | Set) or type(values).__name__ == "DataFrame":
        raise ValueError(f"`{column}` is {values!r}; pass a list with one score per example.")
    hint = " Pass None for an unreadable answer." if column == "predictions" else ""
    scores = list(values)
    for index, value in enumerate(scores):
        if value is None:
            continue
        if hasattr(value, "item") and not np.ndim(value) and value is not np.ma.masked:
            value = value.item()  # of an array or a tensor
        if not isinstance(value, SupportsFloat) or isinstance(value, bool) or np.ndim(value):
            raise ValueError(
                f"{column}[{index}] is {value!r}; pass one number per example. "
                f"A table of one column needs .squeeze(-1).{hint}"
            )
        if not abs(value) <= MAX_SCORE:
            shown = "huge" if isinstance(value, int) else value
            message = f"{column}[{index}] is {shown}; scores must be finite. Check where it comes from: "
            raise ValueError(f"{message}no figure is defined for it.{hint}")
        scores[index] = float(value)
    return scores


def _check_lengths(columns: dict[str, Any]) -> None:
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{length} {name}" for name, length in lengths.items())
        raise ValueError(f"The columns differ in length: {counts}. Pass one of each per example.")


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


def _out_of_range(scores: np.ndarray, convention: str) -> np.ndarray:
    return np.abs(scores) > SCALE_END[convention] + RANGE_TOLERANCE


def _check_scale(column: str, scores: np.ndarray, convention: str) -> None:
    outside = np.flatnonzero(_out_of_range(scores, convention))
    if len(outside):
        end = SCALE_END[convention]
        shown = ", ".join(f"{scores[index]:g} at index {index}" for index in outside[:5])
        raise ValueError(
            f"{len(outside)} of the {column} are outside the scale [{-end:g}, {end:g}]: {shown}. "
            "Rescale them, load the metric with the corpus they belong to ('mosi', 'mosei', 'sims', 'sims_v2'), "
            "or pass out_of_range='toolkits' to treat them as the public toolkits do."
        )


class Classification(NamedTuple):
    """Scores as classes, from which one accuracy (and one F1) is computed."""

    accuracy: str  # name of the accuracy
    f1: str | None  # name of the weighted F1 over the same classes
    truth: np.ndarray  # (N,) classes
    predicted: np.ndarray  # (N,) classes, UNREADABLE among them
    included: np.ndarray  # (N,) bool: examples that count
    reason: str  # why none counts, where that is so


def _classifications(
    predicted: np.ndarray, truth: np.ndarray, readable: np.ndarray, convention: str
) -> list[Classification]:
    """The classes of a convention, the finest last. predicted, truth (N,) float32, those of SIMS clipped"""

    def classified(accuracy, f1, to_classes, included=None, reason=""):
        if included is None:
            included = np.ones(len(truth), dtype=bool)
        true_classes = to_classes(truth).astype(np.int64)
        predicted_classes = np.where(readable, to_classes(predicted), UNREADABLE).astype(np.int64)
        return Classification(accuracy, f1, true_classes, predicted_classes, included, reason)

    if convention == "mosi":
        return [
            classified("acc2_has0", "f1_has0", lambda scores: scores >= 0),
            classified("acc2_non0", "f1_non0", lambda scores: scores > 0, truth != 0, "every true score is 0"),
            classified("acc5", None, lambda scores: np.round(np.clip(scores, -2, 2))),
            classified("acc7", None, lambda scores: np.round(np.clip(scores, -3, 3))),
        ]
    is_weak = np.abs(truth) <= np.float32(0.4)
    return [
        classified("acc2_sims", "f1_sims", lambda scores: scores > 0),
        classified("acc2_weak", None, lambda scores: scores > 0, is_weak, "no true score is within [-0.4, 0.4]"),
        classified("acc3", None, lambda scores: _cut(scores, (-0.1, 0.1))),
        classified("acc5_sims", None, lambda scores: _cut(scores, (-0.7, -0.1, 0.1, 0.7))),
    ]


def _cut(scores: np.ndarray, cuts: Sequence[float]) -> np.ndarray:
    """Index of the interval of each score, in float32; a cut belongs to the interval below it."""
    return np.digitize(scores, np.array(cuts, dtype=np.float32), right=True)


def _point_figures(
    classifications: Sequence[Classification], scores: np.ndarray, true_scores: np.ndarray, convention: str
) -> dict[str, float]:
    """scores, true_scores (N,) float64"""
    result = {}
    for item in classifications:
        is_defined = item.included.any()
        truth = item.truth[item.included]
        predicted = item.predicted[item.included]
        result[item.accuracy] = float(accuracy_score(truth, predicted)) if is_defined else math.nan
        if item.f1 is not None:
            f1 = partial(f1_score, average="weighted", zero_division=0)
            result[item.f1] = float(f1(truth, predicted)) if is_defined else math.nan
    result["mae"] = float(mean_absolute_error(true_scores, scores))
    result["correlation"] = correlation(true_scores, scores)
    if convention == "sims":
        # In float32, as in the toolkits: cancellation near 0 changes the sixth digit.
        result["r2"] = math.nan
        if len(scores) > 1:
            result["r2"] = float(r2_score(true_scores.astype(np.float32), scores.astype(np.float32)))
    return result


def correlation(truth: np.ndarray, values: np.ndarray) -> float:
    """Pearson's r; nan where either is constant. truth, values (N,)"""
    is_defined = len(truth) > 1 and np.ptp(truth) > 0 and np.ptp(values) > 0
    return float(pearsonr(truth, values)[0]) if is_defined else math.nan


def _largest_share(predicted: np.ndarray, readable: np.ndarray, finest: Classification) -> float:
    """Share of the most frequent prediction. Warns if all are equal or one class dominates. predicted (N,)"""
    scores = predicted[readable]  # (<= N,)
    if not len(scores):
        warnings.warn("No answer is readable: all count as wrong. Look at the raw answers.", stacklevel=6)
        return math.nan
    share = float(np.unique(scores, return_counts=True)[1].max() / len(scores))
    classes, counts = np.unique(finest.predicted[readable], return_counts=True)
    class_share = counts.max() / len(scores)
    true_share = float((finest.truth == classes[counts.argmax()]).mean())
    if len(scores) > 1 and share == 1 and np.ptp(finest.truth):
        problem = f"All {len(scores)} readable predictions are {scores[0]:g}"
    elif len(scores) >= MIN_EXAMPLES and class_share >= DOMINANT_SHARE and class_share > true_share:
        problem = (
            f"{class_share:.1%} of the {len(scores)} readable predictions fall into one class of "
            f"{finest.accuracy}, which is true for {true_share:.1%} of the examples"
        )
    else:
        return share
    advice = "A model that learned nothing, or a parser that falls back to one score, gives such figures"
    warnings.warn(f"{problem}. {advice}: look at the raw answers.", stacklevel=6)
    return share


def _warn_of_undefined(
    result: dict[str, float], classifications: Sequence[Classification], true_scores: np.ndarray
) -> None:
    """One warning for all undefined figures, each with its reason."""
    reasons = {}
    for item in classifications:
        if not item.included.any():
            names = item.accuracy if item.f1 is None else f"{item.accuracy} and {item.f1}"
            reasons[names] = item.reason
    if len(true_scores) < 2:
        reasons["correlation and r2" if "r2" in result else "correlation"] = "there is only one example"
    elif np.isnan(result["correlation"]):
        constant = "predictions" if np.ptp(true_scores) else "true scores"
        reasons["correlation"] = f"all {constant} are equal"
    if reasons:
        text = "; ".join(f"{names}, because {reason}" for names, reason in reasons.items())
        warnings.warn(f"Undefined, and therefore nan: {text}.", stacklevel=6)


def _resampled(
    classifications: Sequence[Classification],
    scores: np.ndarray,
    true_scores: np.ndarray,
    readable: np.ndarray,
    convention: str,
    indices: np.ndarray,
) -> dict[str, np.ndarray]:
    """Every figure of every resample; nan where it is undefined. indices (R, N) -> (R,) each"""
    figures = {"unreadable_rate": (~readable)[indices].mean(axis=1)}
    with np.errstate(divide="ignore", invalid="ignore"):
        for item in classifications:
            figures |= _resampled_classification(item, indices)
        figures |= _resampled_errors(scores, true_scores, indices)
    if convention != "sims":
        del figures["r2"]
    return figures


def _resampled_classification(item: Classification, indices: np.ndarray) -> dict[str, np.ndarray]:
    included = item.included
    total = included[indices].sum(axis=1)  # (R,)
    is_correct = (item.truth == item.predicted) & included  # (N,)
    figures = {item.accuracy: is_correct[indices].sum(axis=1) / total}
    if item.f1 is not None:
        weighted_f1 = np.zeros(len(indices))
        for label in (0, 1):
            is_true = (item.truth == label) & included
            is_predicted = (item.predicted == label) & included
            support = is_true[indices].sum(axis=1)
            num_predicted = is_predicted[indices].sum(axis=1)
            num_correct = (is_true & is_predicted)[indices].sum(axis=1)
            weighted_f1 += support / total * 2 * num_correct / np.maximum(support + num_predicted, 1)
        figures[item.f1] = weighted_f1
    return figures


def _resampled_errors(scores: np.ndarray, true_scores: np.ndarray, indices: np.ndarray) -> dict[str, np.ndarray]:
    truth = true_scores[indices]  # (R, N)
    values = scores[indices]  # (R, N)
    errors = true_scores - scores  # (N,)
    truth_centered = truth - truth.mean(axis=1, keepdims=True)
    values_centered = values - values.mean(axis=1, keepdims=True)
    truth_squares = (truth_centered**2).sum(axis=1)  # (R,)
    values_squares = (values_centered**2).sum(axis=1)  # (R,)
    correlations = (truth_centered * values_centered).sum(axis=1) / np.sqrt(truth_squares * values_squares)
    r2 = 1 - (errors**2)[indices].sum(axis=1) / truth_squares
    truth_varies = np.ptp(truth, axis=1) > 0
    values_vary = np.ptp(values, axis=1) > 0
    return {
        "mae": np.abs(errors)[indices].mean(axis=1),
        "correlation": np.where(truth_varies & values_vary, correlations, np.nan),
        "r2": np.where(truth_varies, r2, np.nan),
    }


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
