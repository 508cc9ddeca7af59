"""Statistics of an experiment: paired differences with bootstrap intervals, and whether a claim held.

    results files of one variant, one per seed ─► Cell: predictions (seeds x examples) of a subset and a task
    Cell, Cell ─► difference ─► Difference: mean, interval ─► verdict: yes, no, undecided

A bootstrap resample draws seeds and, for all of them, the same examples, both with replacement; the two cells of a
difference are computed on the same draw. Differences are positive where the first cell is better, whatever the metric.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from processing_egmf import EGMFTask

from ..evaluation.metrics import answer_metrics, quiet, resampled_metrics
from .plan import LOWER_IS_BETTER


# S seeds  N examples  R resamples

RESAMPLES = 2000
CONFIDENCE = 0.95
CHUNK = 1_000_000  # examples times resamples that are in memory at once


@dataclass(frozen=True)
class Cell:
    """Predictions of one variant for one subset of the modalities and one task.

    Args:
        task: the task.
        ids: (N,) of the examples.
        references: (N,) true labels or scores.
        predictions: seed -> (N,) predicted labels or scores.
    """

    task: EGMFTask
    ids: tuple[str, ...]
    references: tuple[str | float, ...]
    predictions: dict[int, tuple[str | float, ...]]

    def only(self, ids: Sequence[str], seeds: Sequence[int]) -> "Cell":
        """The same for some of the examples and seeds."""
        index = {example: position for position, example in enumerate(self.ids)}
        chosen = [index[example] for example in ids]
        predictions = {seed: tuple(self.predictions[seed][i] for i in chosen) for seed in seeds}
        return Cell(self.task, tuple(ids), tuple(self.references[i] for i in chosen), predictions)

    def values(self, metric: str) -> list[float]:
        """The metric of each seed, in the order of `predictions`."""
        with quiet():  # its evaluation has warned already
            return [
                answer_metrics(self.task, list(predictions), list(self.references))[metric]
                for predictions in self.predictions.values()
            ]


@dataclass(frozen=True)
class Difference:
    """How much better one cell is than another; positive if it is.

    Args:
        metric: the metric compared.
        mean: mean over the seeds.
        low, high: bounds of the bootstrap interval, `confidence` wide.
        seeds: number of seeds that both have.
        examples: number of examples that both have.
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


def read_cell(results: Mapping[int, Mapping[str, Any]], subset: str, task: str) -> Cell | None:
    """The predictions of a variant.

    Args:
        results: seed -> content of its results file.
        subset: name such as `text+audio`.
        task: name.

    Returns:
        Examples that every seed answered; None if a seed has no results for the subset and the task.
    """
    answers: dict[int, dict[str, Mapping[str, Any]]] = {}
    for seed, result in results.items():
        part = result["subsets"].get(subset, {}).get("tasks", {}).get(task)
        if part is None:
            return None
        answers[seed] = {prediction["id"]: prediction for prediction in part["predictions"]}
    if not answers:
        return None
    first, *others = answers.values()
    ids = tuple(example for example in first if all(example in other for other in others))
    fields = next(iter(results.values()))["tasks"][task]
    definition = EGMFTask.from_dict(fields, task)
    return Cell(
        definition,
        ids,
        tuple(first[example]["truth"] for example in ids),
        {
            seed: tuple(predicted_answer(of_seed[example], definition) for example in ids)
            for seed, of_seed in answers.items()
        },
    )


def predicted_answer(prediction: Mapping[str, Any], task: EGMFTask) -> str | float:
    """The label, or the score, of a prediction of a results file."""
    return prediction["label"] if task.kind == "classification" else prediction["median"]


def difference(better: Cell, worse: Cell, metric: str, resamples: int = RESAMPLES) -> Difference:
    """How much better the first cell is, over the seeds and examples that both have.

    Raises:
        ValueError: they have no seed or no example in common, or the metric is not one of the task's.
    """
    seeds = [seed for seed in better.predictions if seed in worse.predictions]
    of_worse = set(worse.ids)
    ids = [example for example in better.ids if example in of_worse]
    if not seeds or not ids:
        raise ValueError("The two variants have no seed or no example in common. Evaluate both on the same split.")
    pair = (better.only(ids, seeds), worse.only(ids, seeds))
    sign = -1 if metric in LOWER_IS_BETTER else 1
    means = [float(np.mean(cell.values(metric))) for cell in pair]
    indices, draws = _draw(len(ids), len(seeds), resamples)
    resampled = [_resample(cell, metric, indices) for cell in pair]  # (S, R) each
    differences = sign * (resampled[0] - resampled[1])
    drawn = np.take_along_axis(differences, draws, axis=0).mean(axis=0)  # (R,)
    drawn = drawn[~np.isnan(drawn)]
    tails = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)
    low, high = np.quantile(drawn, tails).tolist()
    mean = sign * (means[0] - means[1]) + 0.0  # no negative zero
    return Difference(metric, mean, low, high, len(seeds), len(ids))


def _draw(num_examples: int, num_seeds: int, resamples: int) -> tuple[np.ndarray, np.ndarray]:
    """Examples (R, N) and seeds (S, R) of each resample; always the same ones."""
    generator = np.random.default_rng(0)
    indices = generator.integers(num_examples, size=(resamples, num_examples))
    return indices, generator.integers(num_seeds, size=(num_seeds, resamples))


def _resample(cell: Cell, metric: str, indices: np.ndarray) -> np.ndarray:
    """The metric of each seed and resample. indices (R, N) -> (S, R)"""
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
    """Whether a claim held: `yes` if the interval lies above `by`, `no` if below, otherwise `undecided`."""
    if found.low > by:
        return "yes"
    return "no" if found.high < by else "undecided"
