"""Factors that the weights of the experts depend on, over the examples of a results file.

predictions ─► find_factors ─► measure_dependence: share of the variance explained, p-value of a permutation test
                          └─► group_means: weights by label, polarity, speaker, ...
analyze: all of it for every task of a results file ─► describe_gate: blocks of a report
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from .gates import expert_weights, find_collapse, gate_figures
from .report_blocks import Block, Heading, Paragraph, Table
from .subsets import full_subset
from .tables import MISSING, format_number


# N examples  E experts

PERMUTATIONS = 2000
MAX_GROUPS = 20  # a text column with more different values is not analyzed unless it is named
MIN_GROUP = 2  # examples
QUARTERS = (0, 0.25, 0.5, 0.75, 1)
LARGEST_NUMBER = 1e100  # whose squares can be summed; columns with larger ones are groups
OWN_FACTORS = ("label", "intensity", "polarity", "modalities")


# ---- what weights may depend on ---------------------------------------------------------------------------------


def find_factors(
    predictions: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None
) -> dict[str, list[Any]]:
    """Properties of the examples, one value each: label, or intensity and polarity of a score, and columns.

    Args:
        predictions: of one task and subset, from a results file.
        columns: names of the table's columns; None for all of numbers or of few different values.

    Raises:
        ValueError: there is no such column.
    """
    truths = [prediction["truth"] for prediction in predictions]
    if isinstance(truths[0], str):
        factors: dict[str, list[Any]] = {"label": truths}
    else:
        polarities = np.sign(truths).astype(int).tolist()
        names = {-1: "negative", 0: "zero", 1: "positive"}
        factors = {"intensity": [abs(truth) for truth in truths], "polarity": [names[sign] for sign in polarities]}
    table = [prediction.get("columns") or {} for prediction in predictions]
    available = list(dict.fromkeys(name for row in table for name in row))
    for name in available if columns is None else columns:
        if name not in available:
            raise ValueError(f"The results have no column {name!r}. They have {', '.join(available) or 'none'}.")
        values = [row.get(name) for row in table]
        if columns is not None or is_number_column(values) or 1 < len(set(map(str, values))) <= MAX_GROUPS:
            factors[factor_name(name)] = values
    return factors


def factor_name(column: str) -> str:
    """The name of a column among the factors, which is not one of those that are no columns."""
    return f"column {column}" if column in OWN_FACTORS else column


def is_number_column(values: Sequence[Any]) -> bool:
    """Whether all values that there are are numbers, and not all the same."""
    numbers = [value for value in values if value is not None]
    return len(set(map(str, numbers))) > 1 and all(
        isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST_NUMBER
        for value in numbers
    )


# ---- dependence -------------------------------------------------------------------------------------------------


def explained_share(weights: np.ndarray, groups: np.ndarray, num_groups: int) -> np.ndarray:
    """Share of the variance of each expert's weight that lies between groups (eta squared).

    Args:
        weights: (N, E).
        groups: (N,) in 0 .. num_groups - 1.

    Returns:
        (E,) in [0, 1]; 0 for a weight that does not vary.
    """
    centered = weights - weights.mean(axis=0)
    total = (centered**2).sum(axis=0)  # (E,)
    sums = np.zeros((num_groups, weights.shape[1]))
    np.add.at(sums, groups, centered)
    counts = np.bincount(groups, minlength=num_groups)[:, None]
    between = (sums**2 / np.maximum(counts, 1)).sum(axis=0)
    return np.divide(between, total, out=np.zeros_like(total), where=total > 1e-12)


def squared_correlation(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Squared correlation of each expert's weight (N, E) with numbers (N,) -> (E,)."""
    centered = weights - weights.mean(axis=0)
    deviations = values - values.mean()
    largest = np.abs(deviations).max()
    if largest > 0:
        deviations = deviations / largest  # whatever the unit
    products = deviations @ centered
    scale = (centered**2).sum(axis=0) * (deviations**2).sum()
    return np.divide(products**2, scale, out=np.zeros_like(scale), where=scale > 1e-12)


def measure_dependence(weights: np.ndarray, values: Sequence[Any], permutations: int | None = None) -> dict[str, Any]:
    """How much the weights depend on a property, with the p-value of a permutation test.

    Args:
        weights: (N, E).
        values: (N,) numbers, or names of groups; None where there is none, which leaves the example out.
        permutations: shuffles of the values; None for `PERMUTATIONS`.

    Returns:
        `kind`: `number` or `group`; `examples`; `explained`: (E,) shares of the variance; `p_value` of the largest of
        them. Empty if fewer than two groups have `MIN_GROUP` examples.
    """
    known = np.array([value is not None for value in values])
    weights = weights[known]
    present = [value for value in values if value is not None]
    generator = np.random.default_rng(0)
    permutations = PERMUTATIONS if permutations is None else permutations
    if is_number_column(present):
        kind = "number"
        coded = np.array(present, dtype=float)
        measure = squared_correlation
    else:
        names, coded, counts = np.unique([str(value) for value in present], return_inverse=True, return_counts=True)
        if (counts >= MIN_GROUP).sum() < 2:
            return {}
        kind = "group"

        def measure(weights: np.ndarray, groups: np.ndarray) -> np.ndarray:
            return explained_share(weights, groups, len(names))

    explained = measure(weights, coded)
    shuffled = [measure(weights, generator.permutation(coded)).max() for _ in range(permutations)]
    p_value = (1 + sum(value >= explained.max() for value in shuffled)) / (1 + permutations)
    return {"kind": kind, "examples": len(present), "explained": explained.tolist(), "p_value": float(p_value)}


def group_means(weights: np.ndarray, values: Sequence[Any]) -> dict[str, dict[str, Any]]:
    """Group -> number of examples, means (E,) and standard deviations (E,).

    Numbers of more than four values are in four groups of nearly equal size, as far as equal numbers allow it.
    """
    codes = [None if value is None else str(value) for value in values]
    names = {code: code for code in codes if code is not None}
    if is_number_column(values):
        codes, names = number_groups([None if value is None else float(value) for value in values])
    groups = {}
    for code, name in names.items():
        chosen = weights[[other == code for other in codes]]
        groups[name] = {
            "examples": len(chosen),
            "mean": chosen.mean(axis=0).tolist(),
            "std": chosen.std(axis=0).tolist(),
        }
    return groups


def number_groups(values: Sequence[float | None]) -> tuple[list[float | None], dict[float, str]]:
    """The smallest possible number of each value's group, and the groups' names by it, in ascending order."""
    present = np.array([value for value in values if value is not None])
    starts = np.unique(present)
    is_single = len(starts) < len(QUARTERS)
    if not is_single:
        starts = np.unique(np.quantile(present, QUARTERS))
    # As many digits as it takes to tell them apart.
    digits = next(n for n in range(6, 18) if len({f"{start:.{n}g}" for start in starts}) == len(starts))
    shown = [f"{start:.{digits}g}" for start in starts]
    if not is_single:
        starts = starts[:-1]
        shown = [f"{low} to {high}" for low, high in pairwise(shown)]
    places = [None if value is None else np.searchsorted(starts, value, side="right") - 1 for value in values]
    codes = [None if place is None else float(starts[place]) for place in places]
    return codes, dict(zip(starts.tolist(), shown, strict=True))


# ---- a run ------------------------------------------------------------------------------------------------------


def analyze(results: Mapping[str, Any], columns: Sequence[str] | None = None) -> dict[str, Any]:
    """Task -> figures of the gate with all modalities, dependence on every factor, and shares by subset.

    Args:
        results: content of a results file.
        columns: names of the table's columns; None for all of numbers or of few different values.

    Raises:
        ValueError: there is no such column, or no group of examples to compare in it.
    """
    full = full_subset(results)
    if full not in results["subsets"]:
        full = max(results["subsets"], key=lambda name: name.count("+"))
    gate = (results.get("config") or {}).get("gate", "two_stage")
    parts = results["subsets"][full]["tasks"]
    tasks = {task: _analyze_task(results, task, full, columns) for task, part in parts.items() if has_experts(part)}
    for name in columns or () if tasks else ():
        if not any(factor_name(name) in part["factors"] for part in tasks.values()):
            raise ValueError(
                f"The column {name!r} has nothing to compare: its numbers are all equal, or it has no two values with "
                f"{MIN_GROUP} examples each."
            )
    for part in tasks.values():
        part["collapse"] = find_collapse(part["figures"], part["examples"], gate)
    return {"model": results["model"], "subset": full, "tasks": tasks}


def has_experts(part: Mapping[str, Any]) -> bool:
    """Whether the predictions of a task have the weights of the experts."""
    return bool(part["predictions"]) and "experts" in part["predictions"][0]


def _analyze_task(results: Mapping[str, Any], task: str, full: str, columns: Sequence[str] | None) -> dict[str, Any]:
    predictions = results["subsets"][full]["tasks"][task]["predictions"]
    weights, names = expert_weights(predictions)
    factors = {}
    for name, values in find_factors(predictions, columns).items():
        found = measure_dependence(weights, values)
        if found:
            factors[name] = {**found, "groups": group_means(weights, values)}
    of_subsets = {
        subset: expert_weights(part["tasks"][task]["predictions"])[0]
        for subset, part in results["subsets"].items()
        if task in part["tasks"] and has_experts(part["tasks"][task])
    }
    if len(of_subsets) > 1:  # every example as often as there are subsets
        values = [subset for subset, rows in of_subsets.items() for _ in rows]
        together = np.concatenate(list(of_subsets.values()))
        found = measure_dependence(together, values)
        if found:
            factors["modalities"] = {**found, "groups": group_means(together, values)}
    return {
        "experts": names,
        "examples": len(predictions),
        "figures": gate_figures(weights, names),
        "factors": factors,
        "subsets": {subset: gate_figures(rows, names) for subset, rows in of_subsets.items()},
    }


def describe_gate(part: Mapping[str, Any]) -> list[Block]:
    """The analysis of one task as blocks of a report."""
    experts = part["experts"]
    blocks: list[Block] = []
    if part["collapse"]:
        blocks.append(Paragraph(part["collapse"], warning=True))
    header = ["modalities", "entropy", *[f"{name}, share ± spread" for name in experts]]
    rows = []
    for subset, figures in part["subsets"].items():
        shares = [f"{figures['share'][name]:.3f} ± {figures['spread'][name]:.3f}" for name in experts]
        rows.append([subset, format_number(figures["entropy"]), *shares])
    blocks.append(Table(header, rows))
    header = ["depends on", "examples", *[f"variance of {name} explained" for name in experts], "p"]
    rows = []
    for name, factor in part["factors"].items():
        explained = [f"{share:.1%}" for share in factor["explained"]]
        rows.append([name, factor["examples"], *explained, f"{factor['p_value']:.4f}"])
    blocks.append(Table(header, rows or [[MISSING] * len(header)]))
    for name, factor in part["factors"].items():
        rows = []
        for group, entry in factor["groups"].items():
            weights = [f"{mean:.3f} ± {std:.3f}" for mean, std in zip(entry["mean"], entry["std"], strict=True)]
            rows.append([group, entry["examples"], *weights])
        blocks += [Heading(f"Weights by {name}", 4), Table([name, "examples", *experts], rows)]
    return blocks


def weights_by_group(record: Mapping[str, Any]) -> dict[str, dict[str, dict[str, float]]]:
    """Panels of `plot_weights_by_group`: task and factor -> group -> expert -> mean weight."""
    panels = {}
    for task, part in record["tasks"].items():
        for name, factor in part["factors"].items():
            panels[f"{task} by {name}"] = {
                group: dict(zip(part["experts"], entry["mean"], strict=True))
                for group, entry in factor["groups"].items()
            }
    return panels
