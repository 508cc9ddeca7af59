"""The results of an experiment: a JSON file, and Markdown and a picture made from it.

Runner.results ─► summarize_experiment ─► NAME.json ─┬─► render_experiment ─► NAME.md
                                                     └─► plot_experiment ───► NAME.png
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..evaluation.gates import gate_spread
from ..evaluation.metrics import summarize, summarize_metrics
from ..evaluation.subsets import full_subset
from ..evaluation.tables import MISSING, format_mean_std, format_number, format_subset, markdown_table
from ..records import commit, read_json, versions, write_json, write_text
from .plan import LOWER_IS_BETTER, Check, Plan
from .runner import Runner
from .statistics import Cell, Difference, difference, read_cell, verdict


Results = Mapping[str, Mapping[int, Mapping[str, Any]]]  # variant -> seed -> results file


# ---- figures ----------------------------------------------------------------------------------------------------


def find_subset(results: Mapping[int, Mapping[str, Any]], name: str) -> str:
    """The subset that a plan calls `all`: every modality that the model has; any other name unchanged."""
    return full_subset(next(iter(results.values()))) if name == "all" else name


def find_cell(results: Results, cell: str, task: str) -> Cell | None:
    """The predictions of `VARIANT` (with all of its modalities) or `VARIANT/SUBSET`; None if there are none."""
    variant, _, subset = cell.partition("/")
    if variant not in results:
        return None
    return read_cell(results[variant], find_subset(results[variant], subset or "all"), task)


def decide(check: Check, results: Results, tasks: Mapping[str, str], plan: Plan) -> dict[str, Any]:
    """Whether a claim held, for each task.

    Args:
        tasks: name -> kind.

    Returns:
        The check's fields, and `tasks`: name -> the difference and its `verdict`.
    """
    decisions = {}
    for task, kind in tasks.items():
        if check.tasks is not None and task not in check.tasks:
            continue
        better = find_cell(results, check.better, task)
        worse = find_cell(results, check.worse, task)
        if better is None or worse is None:
            continue
        found = difference(better, worse, plan.metrics[kind])
        by = check.by if kind == "classification" else 0.0
        decisions[task] = found.to_dict() | {"verdict": verdict(found, by)}
    return {
        "claim": check.claim,
        "better": check.better,
        "worse": check.worse,
        "by": check.by,
        "tasks": decisions,
    }


def compare_with_reference(
    results: Results, variant: str, subset: str, task: str, plan: Plan, kind: str
) -> Difference | None:
    """How much better a cell is than the reference: with the same subset if both have it, else with all modalities."""
    cell = find_cell(results, f"{variant}/{subset}", task)
    reference = find_cell(results, f"{plan.reference}/{subset}", task) or find_cell(results, plan.reference, task)
    if cell is None or reference is None:
        return None
    return difference(cell, reference, plan.metrics[kind])


def summarize_variant(results: Results, variant: str, plan: Plan, kinds: Mapping[str, str]) -> dict[str, Any]:
    """Figures of a variant over its seeds: metrics by subset and task, differences from the reference, gates."""
    of_seeds = results[variant]
    subsets: dict[str, Any] = {}
    for name in next(iter(of_seeds.values()))["subsets"]:
        subsets[name] = {}
        for task, kind in kinds.items():
            parts = [result["subsets"].get(name, {}).get("tasks", {}).get(task) for result in of_seeds.values()]
            if None in parts:
                continue
            found = None
            if (variant, name) != (plan.reference, find_subset(results[plan.reference], "all")):
                found = compare_with_reference(results, variant, name, task, plan, kind)
            subsets[name][task] = {
                "examples": parts[0]["examples"],
                "metrics": summarize_metrics([part["metrics"] for part in parts]),
                "difference": None if found is None else found.to_dict(),
                "gate_spread": _summarize_gates([part["predictions"] for part in parts]),
            }
    return {
        "note": plan.variants[variant].note,
        "train": plan.variants[variant].train,
        "evaluate": plan.variants[variant].evaluate,
        "seeds": list(of_seeds),
        "subsets": subsets,
    }


def _summarize_gates(runs: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Expert -> its spread over the examples, summarized over seeds."""
    spreads = [gate_spread(predictions) for predictions in runs]
    return {expert: summarize([spread[expert] for spread in spreads]) for expert in spreads[0]}


def summarize_experiment(runner: Runner) -> dict[str, Any]:
    """All figures of an experiment.

    Raises:
        ValueError: nothing was evaluated yet, or the reference was not.
    """
    plan = runner.plan
    results = runner.results()
    if plan.reference not in results:
        raise ValueError(f"The reference {plan.reference} of the plan {plan.name} has not been evaluated yet.")
    first = next(iter(results[plan.reference].values()))
    kinds = {name: fields["kind"] for name, fields in first["tasks"].items()}
    variants = {}
    for variant in plan.variants:
        if variant not in results:
            continue
        variants[variant] = summarize_variant(results, variant, plan, kinds)
        records = [
            read_json(runner.evaluations[variant, seed].run.folder / "training.json") for seed in results[variant]
        ]
        variants[variant]["parameters"] = records[0]["parameters"]
        variants[variant]["minutes"] = [
            record["seconds"]["all"] / 60 for record in records if not record.get("resumed_from")
        ]
        variants[variant]["commits"] = sorted({record["commit"] for record in records})
    return {
        "plan": plan.name,
        "question": plan.question,
        "claim": plan.claim,
        "recipe": plan.recipe,
        "protocol": plan.protocol,
        "reference": plan.reference,
        "seeds": runner.seeds,
        "tasks": kinds,
        "metrics": plan.metrics,
        "versions": versions(),
        "commit": commit(),
        "variants": variants,
        "checks": [decide(check, results, kinds, plan) for check in plan.checks],
    }


# ---- pages ------------------------------------------------------------------------------------------------------


def format_difference(found: Mapping[str, Any] | None) -> str:
    """`+0.012 (-0.003 to +0.027)`; a dash for None."""
    if found is None:
        return MISSING
    return f"{found['mean']:+.3f} ({found['low']:+.3f} to {found['high']:+.3f})"


def render_experiment(record: Mapping[str, Any]) -> str:
    """An experiment's results as Markdown.

    Args:
        record: from `summarize_experiment`.
    """
    protocol = f", protocol `{record['protocol']}`" if record["protocol"] else ""
    seeds = ", ".join(map(str, record["seeds"]))
    lines = [
        f"# {record['question']}",
        "",
        f"The paper: {record['claim']}",
        "",
        f"Plan `{record['plan']}`, recipe `{record['recipe']}`{protocol}, seeds {seeds}. Differences are from "
        f"`{record['reference']}`, positive where the variant is better, with bootstrap intervals over examples and "
        "seeds (95%).",
    ]
    for task, kind in record["tasks"].items():
        lines += ["", f"## {task}", "", *_results_table(record, task, record["metrics"][kind])]
    if record["checks"]:
        lines += ["", "## Did the claims hold?", "", *_checks_table(record["checks"])]
    return "\n".join(lines) + "\n"


def _results_table(record: Mapping[str, Any], task: str, metric: str) -> list[str]:
    rows = []
    for name, variant in record["variants"].items():
        for subset, tasks in variant["subsets"].items():
            if task not in tasks:
                continue
            cell = tasks[task]
            spread = max(entry["mean"] for entry in cell["gate_spread"].values())
            rows.append(
                [
                    name,
                    format_subset(subset),
                    len(variant["seeds"]),
                    format_mean_std(cell["metrics"][metric]),
                    format_difference(cell["difference"]),
                    format_number(spread),
                ]
            )
    direction = "lower is better" if metric in LOWER_IS_BETTER else "higher is better"
    header = ["variant", "modalities", "n", f"{metric} ({direction})", "difference", "largest gate spread"]
    return markdown_table(header, rows)


def _checks_table(checks: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = []
    for check in checks:
        for task, found in check["tasks"].items():
            margin = f" by {check['by']:g}" if check["by"] else ""
            comparison = f"{check['better']} better than {check['worse']}{margin}"
            rows.append([check["claim"], comparison, task, format_difference(found), f"**{found['verdict']}**"])
        if not check["tasks"]:
            rows.append([check["claim"], f"{check['better']}, {check['worse']}", MISSING, MISSING, "not evaluated"])
    return markdown_table(["claim", "comparison", "task", "difference", "held"], rows)


def write_experiment(runner: Runner, output: Path) -> Path:
    """Write the JSON file, the Markdown page and the picture next to it. Returns the JSON file's path."""
    record = summarize_experiment(runner)
    path = write_json(output, record)
    write_text(path.with_suffix(".md"), render_experiment(record))
    plot_experiment(record, path.with_suffix(".png"))
    return path


def plot_experiment(record: Mapping[str, Any], path: Path) -> str:
    """Metric of every variant and subset, one panel per task. Returns the name of the picture."""
    import matplotlib as mpl

    mpl.use("Agg")  # draws into files, without a display
    from ..evaluation.plots import plot_variants

    panels = {}
    for task, kind in record["tasks"].items():
        metric = record["metrics"][kind]
        bars = {}
        for name, variant in record["variants"].items():
            for subset, tasks in variant["subsets"].items():
                if task in tasks:
                    bars[f"{name}\n{format_subset(subset)}"] = tasks[task]["metrics"][metric]
        panels[f"{task}: {metric}"] = bars
    return plot_variants(panels, path)
