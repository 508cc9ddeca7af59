"""Sentiment scores: accuracies, F1 and errors of MOSI, MOSEI, SIMS and SIMS v2, under names that say which they are.

    add_batch ─► checked float32 rows ─► _compute ─► figures by scikit-learn, scipy ─┬─► result
                                                └─► the same on resampled rows ──────┘   with intervals

A module of `evaluate` that stands alone: this file is all that a Space needs. The card beside it tells more.
"""

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import evaluate
import numpy as np
from scipy.stats import pearsonr
from sklearn.metrics import accuracy_score, f1_score, mean_absolute_error, r2_score


# N rows  R resamples

_DESCRIPTION = """
Metrics of multimodal sentiment analysis, in the two conventions of the field: that of CMU-MOSI and CMU-MOSEI (scores
in [-3, 3]) and that of CH-SIMS and CH-SIMS v2 (scores in [-1, 1]), with bootstrap intervals and the rate of answers
that could not be read. An accuracy or F1 over two classes always says which two.
"""

_CITATION = ""

_KWARGS_DESCRIPTION = """
Args:
    predictions (`list` of `float`): (N,) scores, read as float32. `None` is an answer that could not be read: it
        counts as wrong in every accuracy and F1, and in the errors and the correlation as the end of the scale that
        lies farther from the truth (at the middle, the upper one). It is never taken for 0.
    references (`list` of `float`): (N,) true scores, read as float32.
    out_of_range (`str`): what a score beyond the scale is: `"error"` (default), or `"toolkits"`, which accepts it
        and does what the public toolkits do: MOSI's errors and correlation take it as it is, SIMS' take it clipped.
    decimals (`int`, *optional*): round every figure to so many decimals; the toolkits print 4. Default: no rounding.
    bootstrap (`int`): number of resamples for `confidence_intervals`; 0 (default) for none, 1000 is usual.
    confidence (`float`): level of the intervals, between 0 and 1. Default 0.95.
    seed (`int`): seed of the resampling. Default 0.

Returns:
    `dict`. Accuracies, F1 and rates are in [0, 1], every F1 is weighted by how often each class is true.
    `evaluate.load(path)`, or with `"mosi"` or `"mosei"`:
    - acc2_has0, f1_has0: negative against non-negative, truths of 0 kept.
    - acc2_non0, f1_non0: negative against positive, truths of 0 left out; a prediction of exactly 0 is negative.
    - acc5, acc7: scores clipped to [-2, 2] or [-3, 3] and rounded, halves to the even neighbor.
    - mae: mean absolute error. correlation: Pearson's, in [-1, 1]. Of scores as they are.
    `evaluate.load(path, "sims")` or `"sims_v2"`; predictions and truths are clipped to [-1, 1] first:
    - acc2_sims, f1_sims: non-positive against positive.
    - acc2_weak: the accuracy of acc2_sims over truths in [-0.4, 0.4].
    - acc3: classes cut at -0.1 and 0.1; acc5_sims: at -0.7, -0.1, 0.1 and 0.7. A cut belongs to the class below it.
    - mae, correlation as above, r2: coefficient of determination, at most 1. Of clipped scores.
    Always:
    - unreadable_rate: share of the answers that could not be read.
    - out_of_range_rate: share of the answers that are beyond the scale.
    - largest_predicted_share: share of the readable answers that say the most frequent score; nan if there are none.
    - confidence_intervals: `{figure: [low, high]}`, percentile bootstrap over rows, only with `bootstrap`.
    What is not defined is nan, with a warning that says why: acc2_non0 and f1_non0 if all truths are 0, acc2_weak if
    none is weak, correlation if predictions or truths are constant or there is one row, r2 if there is one row.
    In a run of several processes, process 0 gets the dict and the others `None`.

Raises:
    `ValueError`: no rows, different lengths, a score that is no finite number, a truth that is missing, a score beyond
        the scale, an unknown configuration, or an option outside its range.

Conventions:
    The values are those of the public toolkits (MSE-Adapter and MMSA), to 1e-6 relative. They call the figures
    `Has0_acc_2`, `Non0_F1_score`, `Mult_acc_7`, `Mult_acc_2_weak`, `R_squre` and so on. Where conventions differ, both
    can be had:
    - with or without the truths of 0: `_has0` and `_non0` are both given, and no figure is called `acc2` or `f1`;
    - MOSI's or SIMS' reading of the same scores: by the configuration;
    - rounded to 4 decimals (MMSA; MSE-Adapter for MOSI) or not (MSE-Adapter for SIMS): `decimals=4`, or None;
    - scores are compared in float32, as in the toolkits: in float64, 0.1, 0.4 and 0.7 would fall into other classes.
    Where the toolkits break off (all truths 0, scores that are nan), this metric says what is wrong.

Examples:

    >>> import evaluate
    >>> metric = evaluate.load("hub_cards/metrics/egmf_msa", "mosei")
    >>> predictions = [2.4, -1.6, 0.0, 0.2, None, 1.0]
    >>> references = [3.0, -1.0, 0.0, -0.4, 1.2, 0.6]
    >>> found = metric.compute(predictions=predictions, references=references)
    >>> for name, value in found.items():
    ...     print(name, round(value, 4))
    acc2_has0 0.6667
    f1_has0 0.7222
    acc2_non0 0.6
    f1_non0 0.6667
    acc5 0.6667
    acc7 0.5
    mae 1.0667
    correlation 0.4653
    unreadable_rate 0.1667
    out_of_range_rate 0.0
    largest_predicted_share 0.2

    The reading of SIMS, with intervals:

    >>> metric = evaluate.load("hub_cards/metrics/egmf_msa", "sims_v2")
    >>> found = metric.compute(
    ...     predictions=[0.9, -0.6, 0.1, 0.3], references=[0.8, -0.8, 0.0, -0.2], decimals=4, bootstrap=1000
    ... )
    >>> {name: found[name] for name in ("acc2_sims", "f1_sims", "acc2_weak", "acc3", "acc5_sims", "mae", "r2")}
    {'acc2_sims': 0.5, 'f1_sims': 0.5, 'acc2_weak': 0.0, 'acc3': 0.75, 'acc5_sims': 0.5, 'mae': 0.225, 'r2': 0.7634}
    >>> [round(bound, 4) for bound in found["confidence_intervals"]["mae"]]
    [0.1, 0.4]

    Several processes: each adds its own rows (an empty list if it has none), process 0 gathers. For another round
    all wait for one another first, or load the metric with another `experiment_id`.

    >>> metric = evaluate.load(
    ...     "hub_cards/metrics/egmf_msa", "mosi", num_process=1, process_id=0, experiment_id="run-1"
    ... )
    >>> metric.add_batch(predictions=[1.0, -0.8], references=[1.2, 0.4])
    >>> metric.add_batch(predictions=[0.6], references=[1.0])
    >>> round(metric.compute()["mae"], 4)
    0.6
"""

CONVENTIONS = {"default": "mosi", "mosi": "mosi", "mosei": "mosi", "sims": "sims", "sims_v2": "sims"}
SCALE_END = {"mosi": 3.0, "sims": 1.0}  # the scale is symmetric
RANGE_TOLERANCE = 1e-6
SWALLOWED_SHARE = 0.95
FEW = 20  # rows from which on a share is worth a warning
UNREADABLE = 9  # a code that is no class of any figure


class Figure(NamedTuple):
    """Classes of every row, as one accuracy (and F1) sees them."""

    accuracy: str
    f1: str | None  # name of the weighted F1 over the same classes
    truth: np.ndarray  # (N,)
    said: np.ndarray  # (N,) with UNREADABLE among them
    kept: np.ndarray  # (N,) rows that count
    why_none: str = ""


@dataclass(frozen=True)
class EGMFMsaOptions:
    """The options of `compute`, checked before any row is given away."""

    out_of_range: str = "error"
    decimals: int | None = None
    bootstrap: int = 0
    confidence: float = 0.95
    seed: int = 0

    def __post_init__(self):
        if self.out_of_range not in ("error", "toolkits"):
            raise ValueError(f"`out_of_range` is {self.out_of_range!r}; use 'error' or 'toolkits'.")
        if self.decimals is not None and (not isinstance(self.decimals, int) or self.decimals < 0):
            raise ValueError(f"`decimals` is {self.decimals!r}; use a whole number from 0, or None not to round.")
        _check_bootstrap(self.bootstrap, self.confidence, self.seed)


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class EGMFMsa(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        if self.config_name not in CONVENTIONS:
            raise ValueError(
                f"egmf_msa has no configuration {self.config_name!r}. Load it with 'mosi', 'mosei', 'sims' or "
                "'sims_v2', or without one, which is 'mosi'."
            )
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {"predictions": datasets.Value("float32"), "references": datasets.Value("float32")}
            ),
            license="Apache-2.0",
            reference_urls=["https://github.com/thuiar/MMSA", "https://github.com/thuiar/ch-sims-v2"],
        )

    def add_batch(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> None:
        """Add rows, checked; an empty list where a process has none."""
        super().add_batch(**self._checked(predictions, references), **kwargs)

    def add(self, *, prediction: Any = None, reference: Any = None, **kwargs: Any) -> None:
        """Add one row, checked."""
        row = self._checked([prediction], [reference])
        super().add(prediction=row["predictions"][0], reference=row["references"][0], **kwargs)

    def compute(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> dict[str, Any] | None:
        """All figures over the rows that were added, or over those given here."""
        _check_known(kwargs, EGMFMsaOptions)
        EGMFMsaOptions(**kwargs)
        self.file_paths = self.filelocks = None
        try:
            return super().compute(predictions=predictions, references=references, **kwargs)
        except ValueError:
            # evaluate would keep the files of a failed call, and their locks, until this object goes.
            for path, lock in zip(self.file_paths or (), self.filelocks or (), strict=True):
                Path(path).unlink(missing_ok=True)
                lock.release()
            raise

    def _checked(self, predictions: Any, references: Any) -> dict[str, Any]:
        columns = {"predictions": _scores("predictions", predictions), "references": _scores("references", references)}
        for row, score in enumerate(columns["references"]):
            if score is None:
                raise ValueError(f"references[{row}] is None: only a prediction may be unreadable. Leave out the row.")
        return _same_length(columns)

    def _compute(
        self, predictions: Sequence[float | None], references: Sequence[float], **options: Any
    ) -> dict[str, Any]:
        return compute_figures(predictions, references, self.config_name, **options)


def compute_figures(
    predictions: Sequence[float | None], references: Sequence[float], corpus: str = "default", **options: Any
) -> dict[str, Any]:
    """The figures of `compute`, of rows that are known to be valid: without copies, files or processes.

    Args:
        predictions: (N,) scores; None where the answer could not be read.
        references: (N,) true scores.
        corpus: a name of `CONVENTIONS`, as `evaluate.load` takes it.
        options: `out_of_range`, `bootstrap` and the others of `compute`.
    """
    chosen = EGMFMsaOptions(**options)
    if not len(references):
        raise ValueError("There are no rows. Add predictions and references before `compute`.")
    convention, end = CONVENTIONS[corpus], SCALE_END[CONVENTIONS[corpus]]
    readable = np.array([score is not None for score in predictions])  # (N,)
    said = np.array([math.nan if score is None else score for score in predictions], dtype=np.float32)
    truth = np.array(references, dtype=np.float32)
    beyond = np.abs(said) > end + RANGE_TOLERANCE  # nan is not
    if chosen.out_of_range == "error":
        _refuse_beyond("predictions", said, beyond, convention)
        _refuse_beyond("references", truth, np.abs(truth) > end + RANGE_TOLERANCE, convention)
    if corpus == "default" and len(truth) >= FEW and np.abs(truth).max() <= SCALE_END["sims"]:
        warnings.warn(
            "All true scores lie within [-1, 1] but are judged on MOSI's scale of [-3, 3]. If they are those of "
            "SIMS, load the metric with 'sims' or 'sims_v2'; if they are not, load it with 'mosi'.",
            stacklevel=5,
        )
    if convention == "sims":
        said, truth = np.clip(said, -end, end), np.clip(truth, -end, end)
    values = np.where(readable, said, np.where(truth > 0, -end, end)).astype(np.float64)
    true_values = truth.astype(np.float64)
    figures = _figures(np.where(readable, said, 0), truth, readable, convention)
    result = _point_figures(figures, true_values, values, convention)
    result["unreadable_rate"] = float((~readable).mean())
    result["out_of_range_rate"] = float(beyond.mean())
    result["largest_predicted_share"] = _warn_of_one_class(said[readable], figures[-1], readable)
    _warn_of_nan(result, figures, true_values, values)
    if chosen.decimals is not None:
        result = {name: round(value, chosen.decimals) for name, value in result.items()}
    if chosen.bootstrap:
        result["confidence_intervals"] = _bootstrap_intervals(
            lambda rows: _resampled(rows, figures, true_values, values, readable, convention), len(truth), chosen
        )
    return result


# ---- the rows ------------------------------------------------------------------------------------------------------


def _listed(values: Iterable[Any], most: int = 5) -> str:
    values = list(values)
    return ", ".join(repr(value) for value in values[:most]) + (
        f" and {len(values) - most} more" if values[most:] else ""
    )


def _scores(column: str, values: Any) -> list[float | None]:
    """A column of scores -> list of finite floats and None."""
    if values is None or isinstance(values, str):
        raise ValueError(f"`{column}` is {values!r}; give a list with one score a row.")
    found: list[float | None] = []
    for row, value in enumerate(values):
        if value is None:
            found.append(None)
            continue
        if isinstance(value, str | bytes | dict | list | tuple) or np.ndim(value):
            raise ValueError(
                f"{column}[{row}] is {value!r}; give one number a row, such as 0.4"
                + (", or None for an answer that could not be read." if column == "predictions" else ".")
                + " A table of one column needs .squeeze(-1)."
            )
        score = float(value)
        if not math.isfinite(score):
            raise ValueError(
                f"{column}[{row}] is {score}; finite numbers are accepted"
                + (", and None for an answer that could not be read." if column == "predictions" else ".")
                + " Find out where it came from: no figure can be given for it."
            )
        found.append(score)
    return found


def _same_length(columns: dict[str, Any]) -> dict[str, Any]:
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{length} {name}" for name, length in lengths.items())
        raise ValueError(f"The columns differ in length: {shown}. Give one of each a row, in the same order.")
    return columns


def _refuse_beyond(column: str, scores: np.ndarray, beyond: np.ndarray, convention: str) -> None:
    if beyond.any():
        rows = np.flatnonzero(beyond)
        where = ", ".join(f"{scores[row]:g} (row {row})" for row in rows[:5])
        end = SCALE_END[convention]
        other = "If the scores are MOSI's or MOSEI's, load the metric with 'mosi'. " if convention == "sims" else ""
        raise ValueError(
            f"{len(rows)} of the {column} lie beyond the scale [{-end:g}, {end:g}]: {where}. Bring them to "
            f"that scale. {other}To judge them as the public toolkits do, say out_of_range='toolkits'."
        )


def _warn_of_one_class(said: np.ndarray, finest: Figure, readable: np.ndarray) -> float:
    """Share of the most frequent readable score, with a warning if one class swallows the others. said (<= N,)"""
    if not len(said):
        warnings.warn("No answer could be read: every row counts as wrong. Look at the raw answers.", stacklevel=6)
        return math.nan
    share = float(np.unique(said, return_counts=True)[1].max() / len(said))
    classes, counts = np.unique(finest.said[readable], return_counts=True)
    most, class_share = classes[counts.argmax()], counts.max() / len(said)
    true_share = float((finest.truth == most).mean())
    if len(said) > 1 and share == 1 and np.ptp(finest.truth):
        swallowed = f"All {len(said)} readable predictions are {said[0]:g}"
    elif len(said) >= FEW and class_share >= SWALLOWED_SHARE and class_share > true_share:
        swallowed = (
            f"{class_share:.1%} of the {len(said)} readable predictions fall into one class of {finest.accuracy}, "
            f"which is true for {true_share:.1%} of the rows"
        )
    else:
        return share
    warnings.warn(
        f"{swallowed}. A model that learned nothing or a parser that falls back to one score gives such figures: look "
        "at the raw answers.",
        stacklevel=6,
    )
    return share


# ---- the figures ---------------------------------------------------------------------------------------------------


def _figures(said: np.ndarray, truth: np.ndarray, readable: np.ndarray, convention: str) -> list[Figure]:
    """The classes of each convention, the finest last. said, truth (N,) float32; SIMS' are clipped."""

    def figure(
        accuracy: str,
        f1: str | None,
        classes: Callable[[np.ndarray], np.ndarray],
        kept: np.ndarray | None = None,
        why_none: str = "",
    ) -> Figure:
        answers = np.where(readable, classes(said), UNREADABLE).astype(np.int64)
        kept = np.ones(len(truth), dtype=bool) if kept is None else kept
        return Figure(accuracy, f1, classes(truth).astype(np.int64), answers, kept, why_none)

    if convention == "mosi":
        return [
            figure("acc2_has0", "f1_has0", lambda scores: scores >= 0),
            figure("acc2_non0", "f1_non0", lambda scores: scores > 0, truth != 0, "every true score is 0"),
            figure("acc5", None, lambda scores: np.round(np.clip(scores, -2, 2))),
            figure("acc7", None, lambda scores: np.round(np.clip(scores, -3, 3))),
        ]
    weak = np.abs(truth) <= np.float32(0.4)
    return [
        figure("acc2_sims", "f1_sims", lambda scores: scores > 0),
        figure("acc2_weak", None, lambda scores: scores > 0, weak, "no true score lies within [-0.4, 0.4]"),
        figure("acc3", None, lambda scores: _cut(scores, (-0.1, 0.1))),
        figure("acc5_sims", None, lambda scores: _cut(scores, (-0.7, -0.1, 0.1, 0.7))),
    ]


def _cut(scores: np.ndarray, cuts: Sequence[float]) -> np.ndarray:
    """Number of the interval of each score, in float32; a cut belongs to the interval below it."""
    return np.digitize(scores, np.array(cuts, dtype=np.float32), right=True)


def _point_figures(
    figures: Sequence[Figure], truth: np.ndarray, values: np.ndarray, convention: str
) -> dict[str, float]:
    result = {}
    for accuracy, f1, true, said, kept, _ in figures:
        result[accuracy] = float(accuracy_score(true[kept], said[kept])) if kept.any() else math.nan
        if f1 is not None:
            weighted = {"average": "weighted", "zero_division": 0}
            result[f1] = float(f1_score(true[kept], said[kept], **weighted)) if kept.any() else math.nan
    result["mae"] = float(mean_absolute_error(truth, values))
    result["correlation"] = correlation(truth, values)
    if convention == "sims":
        # In float32, as the toolkits: near 0 it cancels, and the sixth digit differs from float64's.
        result["r2"] = (
            float(r2_score(truth.astype(np.float32), values.astype(np.float32))) if len(truth) > 1 else math.nan
        )
    return result


def correlation(truth: np.ndarray, values: np.ndarray) -> float:
    """Pearson's r; nan where either is constant. truth, values (N,)"""
    varied = len(truth) > 1 and np.ptp(truth) > 0 and np.ptp(values) > 0
    return float(pearsonr(truth, values)[0]) if varied else math.nan


def _warn_of_nan(result: dict[str, float], figures: Sequence[Figure], truth: np.ndarray, values: np.ndarray) -> None:
    """One warning for all figures that are not defined here, each with its reason."""
    reasons = {}
    for figure in figures:
        if not figure.kept.any():
            reasons[" and ".join(filter(None, figure[:2]))] = figure.why_none
    if len(truth) < 2:
        reasons["correlation and r2" if "r2" in result else "correlation"] = "there is one row only"
    elif np.isnan(result["correlation"]):
        reasons["correlation"] = f"all {'true scores' if not np.ptp(truth) else 'predictions'} are alike"
    if reasons:
        shown = "; ".join(f"{names}, because {reason}" for names, reason in reasons.items())
        warnings.warn(f"Not defined here, and therefore nan: {shown}.", stacklevel=6)


# ---- intervals -----------------------------------------------------------------------------------------------------


def _resampled(
    rows: np.ndarray,
    figures: Sequence[Figure],
    truth: np.ndarray,
    values: np.ndarray,
    readable: np.ndarray,
    convention: str,
) -> dict[str, np.ndarray]:
    """Every figure of every resample; nan where it is not defined. rows (R, N) -> (R,) each."""
    found = {"unreadable_rate": (~readable)[rows].mean(axis=1)}
    with np.errstate(divide="ignore", invalid="ignore"):
        for accuracy, f1, true, said, kept, _ in figures:
            total = kept[rows].sum(axis=1)
            found[accuracy] = ((true == said) & kept)[rows].sum(axis=1) / total
            if f1 is not None:
                found[f1] = np.zeros(len(rows))
                for value in (0, 1):
                    support = ((true == value) & kept)[rows].sum(axis=1)
                    answered = ((said == value) & kept)[rows].sum(axis=1)
                    right = ((true == value) & (said == value) & kept)[rows].sum(axis=1)
                    found[f1] += support / total * 2 * right / np.maximum(support + answered, 1)
        true_rows, value_rows = truth[rows], values[rows]  # (R, N) each
        found["mae"] = np.abs(truth - values)[rows].mean(axis=1)
        true_spread = true_rows - true_rows.mean(axis=1, keepdims=True)
        value_spread = value_rows - value_rows.mean(axis=1, keepdims=True)
        varied = (np.ptp(true_rows, axis=1) > 0) & (np.ptp(value_rows, axis=1) > 0)
        true_square, value_square = (true_spread**2).sum(axis=1), (value_spread**2).sum(axis=1)
        correlation = (true_spread * value_spread).sum(axis=1) / np.sqrt(true_square * value_square)
        found["correlation"] = np.where(varied, correlation, np.nan)
        if convention == "sims":
            r2 = 1 - ((truth - values) ** 2)[rows].sum(axis=1) / true_square
            found["r2"] = np.where(np.ptp(true_rows, axis=1) > 0, r2, np.nan)
    return found


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
