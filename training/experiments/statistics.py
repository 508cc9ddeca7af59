"""Statistics of an experiment: paired differences with bootstrap intervals, and whether a claim held.

    results files of one variant, one per seed ─► Cell: predictions (seeds x examples) of a subset and a task
    Cell, Cell ─► Resampler.difference ─► Difference: mean, interval ─► verdict: yes, no, undecided
    (Cell, Cell), (Cell, Cell) ─► Resampler.contrast: how much larger the first difference is

A bootstrap resample draws seeds and, for all of them, the same examples, both with replacement; the two cells of a
difference are computed on the same draw. Differences are positive where the first cell is better, whatever the metric.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from processing_egmf import EGMFTask

from ..evaluation.calibration import read_distributions
from ..evaluation.metrics import answer_metrics, quiet, resampled_metrics, surprisals
from .plan import LOWER_IS_BETTER


# S seeds  N examples  R resamples

RESAMPLES = 2000
CONFIDENCE = 0.95
CHUNK = 1_000_000  # examples times resamples that are in memory at once
LIKELIHOOD = "negative_log_likelihood"  # of the probabilities; all other metrics are of the answers


@dataclass(frozen=True)
class Cell:
    """Predictions of one variant for one subset of the modalities and one task.

    Args:
        name: identifies the cell within an experiment.
        task: the task.
        dataset: that the examples are from; the same id in two datasets is not the same example.
        ids: (N,) of the examples.
        references: (N,) true labels or scores.
        predictions: seed -> (N,) predicted labels or scores.
        surprisals: seed -> (N,) -log of the true answer's probability.
    """

    name: str
    task: EGMFTask
    dataset: str
    ids: tuple[str, ...]
    references: tuple[str | float, ...]
    predictions: dict[int, tuple[str | float, ...]]
    surprisals: dict[int, tuple[float, ...]] = field(default_factory=dict)

    def only(self, ids: Sequence[str], seeds: Sequence[int]) -> "Cell":
        """The same for some of the examples and seeds."""
        index = {example: position for position, example in enumerate(self.ids)}
        chosen = [index[example] for example in ids]
        predictions = {seed: tuple(self.predictions[seed][i] for i in chosen) for seed in seeds}
        surprisals = {seed: tuple(self.surprisals[seed][i] for i in chosen) for seed in seeds if self.surprisals}
        references = tuple(self.references[i] for i in chosen)
        return replace(self, ids=tuple(ids), references=references, predictions=predictions, surprisals=surprisals)

    def values(self, metric: str) -> list[float]:
        """The metric of each seed, in the order of `predictions`."""
        if metric == LIKELIHOOD:
            return [float(np.mean(self.surprisals[seed])) for seed in self.predictions]
        with quiet():  # its evaluation has warned already
            return [
                answer_metrics(self.task, list(predictions), list(self.references))[metric]
                for predictions in self.predictions.values()
            ]


@dataclass(frozen=True)
class Difference:
    """How much better one cell is than another, or how much larger one such difference is; positive if it is.

    Args:
        metric: the metric compared.
        mean: mean over the seeds.
        low, high: bounds of the bootstrap interval, `confidence` wide.
        seeds: number of seeds that all cells have.
        examples: number of examples that both cells have; of two differences, the smaller one.
    """

    metric: str
    mean: float
    low: float
    high: float
    seeds: int
    examples: int
    confidence: float = CONFIDENCE

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def read_cell(
    results: Mapping[int, Mapping[str, Any]],
    subset: str,
    task: str,
    name: str = "",
    group: tuple[str, str] | None = None,
) -> Cell | None:
    """The predictions of a variant.

    Args:
        results: seed -> content of its results file.
        subset: name such as `text+audio`.
        task: name.
        name: of the cell.
        group: column and value of the examples; None for all examples.

    Returns:
        Examples that every seed answered; None if a seed has no results for the subset and the task, or if there are
        no such examples.
    """
    answers: dict[int, dict[str, Mapping[str, Any]]] = {}
    for seed, result in results.items():
        part = result["subsets"].get(subset, {}).get("tasks", {}).get(task)
        if part is None:
            return None
        predictions = part["predictions"]
        if group is not None:
            predictions = [prediction for prediction in predictions if group_of(prediction, group[0]) == group[1]]
        answers[seed] = {prediction["id"]: prediction for prediction in predictions}
    if not all(answers.values()) or not answers:
        return None
    first, *others = answers.values()
    ids = tuple(example for example in first if all(example in other for other in others))
    any_result = next(iter(results.values()))
    definition = EGMFTask.from_dict(any_result["tasks"][task], task)
    return Cell(
        name,
        definition,
        any_result.get("dataset", ""),
        ids,
        tuple(first[example]["truth"] for example in ids),
        {
            seed: tuple(predicted_answer(of_seed[example], definition) for example in ids)
            for seed, of_seed in answers.items()
        },
        {
            seed: tuple(surprisals(*read_distributions([of_seed[example] for example in ids])).tolist())
            for seed, of_seed in answers.items()
        },
    )


def predicted_answer(prediction: Mapping[str, Any], task: EGMFTask) -> str | float:
    """The label, or the score, of a prediction of a results file."""
    return prediction["label"] if task.kind == "classification" else prediction["median"]


def group_of(prediction: Mapping[str, Any], column: str) -> str | None:
    """The value of a column of the dataset, as text; None if the example has none."""
    value = prediction.get("columns", {}).get(column)
    return None if value is None else str(value)


def comparable_metrics(cell: Cell) -> set[str]:
    """Names of the metrics that differences can be computed of."""
    predictions = next(iter(cell.predictions.values()))
    with quiet():
        resampled = resampled_metrics(cell.task, predictions, cell.references, np.arange(len(cell.ids))[None])
    return {LIKELIHOOD, *(name for name in resampled if isinstance(name, str))}  # F1 of a class has a tuple as name


def are_comparable(first: Cell, second: Cell) -> bool:
    """Whether two cells have seeds and examples in common."""
    same_seeds = first.predictions.keys() & second.predictions.keys()
    return first.dataset == second.dataset and bool(same_seeds) and not set(first.ids).isdisjoint(second.ids)


class Resampler:
    """Differences between the cells of an experiment. A cell is resampled once for all that it is compared with.

    Args:
        resamples: of each bootstrap.
    """

    def __init__(self, resamples: int = RESAMPLES):
        self.resamples = resamples
        self.resampled: dict[tuple[Any, ...], np.ndarray] = {}

    def difference(self, better: Cell, worse: Cell, metric: str) -> Difference:
        """How much better the first cell is, over the seeds and examples that both have.

        Raises:
            ValueError: they have no seed or no example in common.
            KeyError: the metric is not one of the task's.
        """
        seeds = [seed for seed in better.predictions if seed in worse.predictions]
        drawn, mean, examples = self._compare(better, worse, metric, seeds, 0)
        return _summarize(metric, mean, drawn, len(seeds), examples)

    def contrast(self, first: tuple[Cell, Cell], second: tuple[Cell, Cell], metric: str) -> Difference:
        """How much larger the first difference is than the second, which may be over other examples.

        Raises:
            ValueError, KeyError: as for `difference`.
        """
        seeds = [seed for seed in first[0].predictions if all(seed in cell.predictions for cell in (*first, *second))]
        same_examples = set(first[0].ids) == set(second[0].ids)
        drawn, mean, examples = self._compare(*first, metric, seeds, 0)
        # Other examples are drawn independently of these.
        others = self._compare(*second, metric, seeds, 0 if same_examples else 1)
        return _summarize(metric, mean - others[1], drawn - others[0], len(seeds), min(examples, others[2]))

    def _compare(
        self, better: Cell, worse: Cell, metric: str, seeds: Sequence[int], draw: int
    ) -> tuple[np.ndarray, float, int]:
        """Differences of the resamples (R,), their value for all examples, and how many there are."""
        of_worse = set(worse.ids)
        ids = tuple(example for example in better.ids if example in of_worse)
        if not seeds or not ids or better.dataset != worse.dataset:
            raise ValueError("The two variants have no seed or no example in common. Evaluate both on the same split.")
        pair = (better.only(ids, seeds), worse.only(ids, seeds))
        sign = -1 if metric in LOWER_IS_BETTER else 1
        means = [float(np.mean(cell.values(metric))) for cell in pair]
        resampled = [self._resample(cell, metric, draw) for cell in pair]  # (S, R) each
        differences = sign * (resampled[0] - resampled[1])
        draws = np.random.default_rng(len(seeds)).integers(len(seeds), size=differences.shape)
        drawn = np.take_along_axis(differences, draws, axis=0).mean(axis=0)  # (R,)
        return drawn, sign * (means[0] - means[1]), len(ids)

    def _resample(self, cell: Cell, metric: str, draw: int) -> np.ndarray:
        """The metric of each seed and resample, (S, R). The examples drawn depend only on their number and `draw`."""
        key = (cell.name, metric, draw, cell.ids, tuple(cell.predictions))
        if key not in self.resampled:
            size = (self.resamples, len(cell.ids))
            indices = np.random.default_rng(draw).integers(len(cell.ids), size=size)
            self.resampled[key] = resample(cell, metric, indices)
        return self.resampled[key]


def _summarize(metric: str, mean: float, drawn: np.ndarray, seeds: int, examples: int) -> Difference:
    drawn = drawn[~np.isnan(drawn)]
    tails = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)
    low, high = np.quantile(drawn, tails).tolist()
    return Difference(metric, mean + 0.0, low, high, seeds, examples)  # + 0.0: no negative zero


def resample(cell: Cell, metric: str, indices: np.ndarray) -> np.ndarray:
    """The metric of each seed and resample. indices (R, N) -> (S, R)"""
    if metric == LIKELIHOOD:
        return np.stack([np.array(cell.surprisals[seed])[indices].mean(axis=1) for seed in cell.predictions])
    step = max(1, CHUNK // indices.shape[1])
    rows = []
    for predictions in cell.predictions.values():
        with quiet():
            chunks = [
                resampled_metrics(cell.task, predictions, cell.references, indices[start : start + step])[metric]
                for start in range(0, len(indices), step)
            ]
        rows.append(np.concatenate(chunks))
    return np.stack(rows)


def verdict(found: Difference, by: float = 0.0) -> str:
    """Whether a claim held: `yes` if the interval lies above `by`, `no` if below, otherwise `undecided`.

    The interval of a single seed does not cover how much runs differ, so that one run decides nothing.
    """
    if found.seeds < 2:
        return "undecided"
    if found.low > by:
        return "yes"
    return "no" if found.high < by else "undecided"
