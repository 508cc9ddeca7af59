"""What the expert weights of an evaluated run depend on.

    python -m training.experiments.gates runs/demo
    python -m training.experiments.gates runs/meld --columns speaker dialogue_position

Reads `results-test.json`; writes `gates.json`, `gates.md` and `gates.png` next to it. For each task: the weights by
true label, by intensity and polarity of a true score, by subset of the modalities, and by other columns of the table;
how much of each expert's variance that explains, with the p-value of a permutation test.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..cli import CommandParser, command_errors
from ..evaluation.gates import expert_weights, find_collapse, gate_figures
from ..evaluation.subsets import full_subset
from ..evaluation.tables import MISSING, format_number, markdown_table
from ..records import read_json, write_json, write_text


# N examples  E experts

PERMUTATIONS = 2000
MAX_GROUPS = 20  # a text column with more different values is not analyzed unless it is named
MIN_GROUP = 2  # examples


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
            factors[name] = values
    return factors


def is_number_column(values: Sequence[Any]) -> bool:
    """Whether all values that there are are numbers, and not all the same."""
    numbers = [value for value in values if value is not None]
    return len(set(map(str, numbers))) > 1 and all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in numbers
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
    products = deviations @ centered
    scale = (centered**2).sum(axis=0) * (deviations**2).sum()
    return np.divide(products**2, scale, out=np.zeros_like(scale), where=scale > 1e-12)


def measure_dependence(weights: np.ndarray, values: Sequence[Any], permutations: int = PERMUTATIONS) -> dict[str, Any]:
    """How much the weights depend on a property, with the p-value of a permutation test.

    Args:
        weights: (N, E).
        values: (N,) numbers, or names of groups; None where there is none, which leaves the example out.
        permutations: shuffles of the values.

    Returns:
        `kind`: `number` or `group`; `examples`; `explained`: (E,) shares of the variance; `p_value` of the largest of
        them. Empty if fewer than two groups have `MIN_GROUP` examples.
    """
    known = np.array([value is not None for value in values])
    weights = weights[known]
    present = [value for value in values if value is not None]
    generator = np.random.default_rng(0)
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
    """Group -> number of examples, means (E,) and standard deviations (E,); numbers in four groups of equal size."""
    names = [None if value is None else str(value) for value in values]
    if is_number_column(values):
        numbers = np.array([np.nan if value is None else float(value) for value in values])
        edges = np.unique(np.nanquantile(numbers, [0, 0.25, 0.5, 0.75, 1]))
        bins = np.clip(np.searchsorted(edges, numbers, side="right") - 1, 0, max(len(edges) - 2, 0))
        last = len(edges) - 1
        names = [
            None if np.isnan(number) else f"{edges[bin]:g} to {edges[min(bin + 1, last)]:g}"
            for number, bin in zip(numbers, bins, strict=True)
        ]
    groups = {}
    for name in dict.fromkeys(name for name in names if name is not None):
        chosen = weights[[other == name for other in names]]
        groups[name] = {
            "examples": len(chosen),
            "mean": chosen.mean(axis=0).tolist(),
            "std": chosen.std(axis=0).tolist(),
        }
    return groups


# ---- a run ------------------------------------------------------------------------------------------------------


def analyze(results: Mapping[str, Any], columns: Sequence[str] | None = None) -> dict[str, Any]:
    """Task -> figures of the gate with all modalities, dependence on every factor, and shares by subset."""
    full = full_subset(results)
    gate = results.get("config", {}).get("gate", "two_stage")
    tasks = {}
    for task, part in results["subsets"][full]["tasks"].items():
        predictions = part["predictions"]
        weights, names = expert_weights(predictions)
        figures = gate_figures(weights, names)
        factors = {}
        for name, values in find_factors(predictions, columns).items():
            found = measure_dependence(weights, values)
            if found:
                factors[name] = {**found, "groups": group_means(weights, values)}
        subsets = {}
        for subset, other in results["subsets"].items():
            if task in other["tasks"]:
                subsets[subset] = gate_figures(*expert_weights(other["tasks"][task]["predictions"]))
        tasks[task] = {
            "experts": names,
            "examples": len(predictions),
            "figures": figures,
            "collapse": find_collapse(figures, len(predictions), gate),
            "factors": factors,
            "subsets": subsets,
        }
    return {"model": results["model"], "subset": full, "tasks": tasks}


def render(record: Mapping[str, Any]) -> str:
    """The analysis as Markdown."""
    lines = [f"# What the expert weights depend on: {record['model']}"]
    for task, part in record["tasks"].items():
        experts = part["experts"]
        lines += ["", f"## {task}, {part['examples']} examples, {record['subset']}", ""]
        if part["collapse"]:
            lines += [f"**{part['collapse']}**", ""]
        header = ["modalities", "entropy", *[f"{name}, share ± spread" for name in experts]]
        rows = []
        for subset, figures in part["subsets"].items():
            shares = [f"{figures['share'][name]:.3f} ± {figures['spread'][name]:.3f}" for name in experts]
            rows.append([subset, format_number(figures["entropy"]), *shares])
        lines += [*markdown_table(header, rows), ""]
        header = ["depends on", "examples", *[f"variance of {name} explained" for name in experts], "p"]
        rows = []
        for name, factor in part["factors"].items():
            explained = [f"{share:.1%}" for share in factor["explained"]]
            rows.append([name, factor["examples"], *explained, f"{factor['p_value']:.4f}"])
        lines += markdown_table(header, rows or [[MISSING] * len(header)])
        for name, factor in part["factors"].items():
            rows = [
                [group, entry["examples"], *[f"{m:.3f} ± {s:.3f}" for m, s in zip(entry["mean"], entry["std"])]]
                for group, entry in factor["groups"].items()
            ]
            lines += ["", *markdown_table([name, "examples", *experts], rows)]
    return "\n".join(lines) + "\n"


def plot(record: Mapping[str, Any], path: Path) -> str:
    """Mean expert weights by group, one row of panels per task. Returns the name of the picture."""
    import matplotlib as mpl

    mpl.use("Agg")  # draws into files, without a display
    from ..evaluation.plots import plot_weights_by_group

    panels = {}
    for task, part in record["tasks"].items():
        for name, factor in part["factors"].items():
            groups = {group: dict(zip(part["experts"], entry["mean"])) for group, entry in factor["groups"].items()}
            panels[f"{task} by {name}"] = groups
    return plot_weights_by_group(panels, path)


def make_parser() -> CommandParser:
    parser = CommandParser(prog="python -m training.experiments.gates", description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of an evaluated run, or a results file")
    parser.add_argument("--columns", nargs="+", help="columns of the table; default: all of numbers or few values")
    parser.add_argument("--output", type=Path, help="JSON file; default: gates.json next to the results")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    with command_errors():
        arguments = make_parser().parse_args(argv)
        path = arguments.run / "results-test.json" if arguments.run.is_dir() else arguments.run
        if not path.is_file():
            raise ValueError(f"{path} does not exist. Evaluate the run first: egmf evaluate.")
        record = analyze(read_json(path), arguments.columns)
        output = write_json(arguments.output or path.with_name("gates.json"), record)
        text = render(record)
        write_text(output.with_suffix(".md"), text)
        plot(record, output.with_suffix(".png"))
        print(f"{text}\nresults: {output}")


if __name__ == "__main__":
    main()
