"""The figures of an experiment: what its results file holds.

Laboratory ─► results files ─► summarize_experiment ─┬─ variants: metrics by subset, task and group, differences, cost
                                                     └─ checks: differences and verdicts
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..evaluation.gates import gate_spread
from ..evaluation.metrics import summarize, summarize_metrics
from ..evaluation.run_records import read_training
from ..evaluation.subsets import full_subset
from ..records import commit, read_json, versions
from .plan import Check, Plan, split_cell
from .runner import Runner
from .runs import Diagnosis
from .statistics import (
    Cell,
    Difference,
    Resampler,
    are_comparable,
    comparable_metrics,
    group_of,
    read_cell,
    verdict,
)


Results = Mapping[str, Mapping[int, Mapping[str, Any]]]  # variant -> seed -> results file

# Metrics that are kept next to the one that decides.
KEPT_METRICS = (
    "accuracy",
    "weighted_f1",
    "macro_f1",
    "mae",
    "correlation",
    "f1_non0",
    "f1_sims",
    "calibration_error",
    "negative_log_likelihood",
)
DECIMALS = 5


class ExperimentFigures:
    """The figures of a plan's finished evaluations.

    Args:
        runner: the plan with its runs.

    Raises:
        ValueError: nothing was evaluated yet, or the reference was not.
    """

    def __init__(self, runner: Runner):
        self.runner = runner
        self.plan: Plan = runner.plan
        self.results: Results = runner.results()
        if self.plan.reference not in self.results:
            raise ValueError(
                f"The reference {self.plan.reference} of the plan {self.plan.name} has not been evaluated yet."
            )
        self.kinds: dict[str, str] = {}
        for of_seeds in self.results.values():
            for name, fields in next(iter(of_seeds.values()))["tasks"].items():
                self.kinds.setdefault(name, fields["kind"])
        self.metrics = {task: self.plan.metric_of(task, kind) for task, kind in self.kinds.items()}
        self.resampler = Resampler()
        self.check_metrics()
        self.check_groups()

    def check_metrics(self) -> None:
        """Refuse metrics that cannot be compared."""
        for task, metric in self.metrics.items():
            cell = self.find_cell(self.plan.reference, task)
            if cell is not None and metric not in comparable_metrics(cell):
                known = ", ".join(sorted(comparable_metrics(cell)))
                raise ValueError(
                    f"The plan {self.plan.name} compares {task} by {metric!r}, of which there are no differences. Use "
                    f"one of {known} in its `metrics`. The runs are kept: run the same command again."
                )

    def check_groups(self) -> None:
        """Refuse a column for groups that no example has."""
        column = self.plan.groups
        if column is None:
            return
        subsets = next(iter(self.results[self.plan.reference].values()))["subsets"].values()
        predictions = [entry for part in subsets for task in part["tasks"].values() for entry in task["predictions"]]
        if all(group_of(prediction, column) is None for prediction in predictions):
            known = dict.fromkeys(name for prediction in predictions for name in prediction.get("columns") or {})
            raise ValueError(
                f"The plan {self.plan.name} has the groups of a column {column!r}, which no example has; the columns "
                f"are {', '.join(known) or 'none'}. Correct it. The runs are kept: run the same command again."
            )

    # ---- cells ---------------------------------------------------------------------------------------------------

    def subset_named(self, variant: str, name: str) -> str:
        """The subset that a plan calls `all`: every modality that the model has; any other name unchanged."""
        return full_subset(next(iter(self.results[variant].values()))) if name == "all" else name

    def find_cell(self, cell: str, task: str) -> Cell | None:
        """The predictions of a cell as a plan names it; None if there are none."""
        variant, subset, group = split_cell(cell)
        if variant not in self.results:
            return None
        subset = self.subset_named(variant, subset)
        name = f"{variant}/{subset}@{group}:{task}"
        column = None if group is None else (self.plan.groups, group)
        return read_cell(self.results[variant], subset, task, name, column)

    def compare_with_reference(self, variant: str, subset: str, task: str, group: str | None) -> Difference | None:
        """How much better a cell is than the reference: with the same subset if both have it, else with all
        modalities. None for the reference itself, and where they have no example in common."""
        reference = self.plan.reference
        if (variant, subset) == (reference, self.subset_named(reference, "all")):
            return None
        suffix = "" if group is None else f"@{group}"
        cell = self.find_cell(f"{variant}/{subset}{suffix}", task)
        other = self.find_cell(f"{reference}/{subset}{suffix}", task)
        if other is None or variant == reference:
            other = self.find_cell(f"{reference}{suffix}", task)
        if cell is None or other is None or not are_comparable(cell, other):
            return None
        return self.resampler.difference(cell, other, self.metrics[task])

    # ---- variants ------------------------------------------------------------------------------------------------

    def summarize_variant(self, variant: str) -> dict[str, Any]:
        """Figures of a variant over its seeds: metrics by subset and task, differences from the reference, gates, and
        what its runs took."""
        of_seeds = self.results[variant]
        subsets: dict[str, Any] = {}
        for subset in next(iter(of_seeds.values()))["subsets"]:
            subsets[subset] = {}
            for task in self.kinds:
                parts = [result["subsets"].get(subset, {}).get("tasks", {}).get(task) for result in of_seeds.values()]
                if None not in parts:
                    subsets[subset][task] = self.summarize_cell(variant, subset, task, parts)
        definition = self.plan.variants[variant]
        return {
            "note": definition.note,
            "train": definition.train,
            "evaluate": definition.evaluate,
            "starts_from": definition.starts_from,
            "language_model": definition.language_model,
            "seeds": list(of_seeds),
            "subsets": subsets,
            **self.describe_runs(variant),
        }

    def summarize_cell(
        self, variant: str, subset: str, task: str, parts: Sequence[Mapping[str, Any]]
    ) -> dict[str, Any]:
        found = self.compare_with_reference(variant, subset, task, None)
        metrics = summarize_metrics([part["metrics"] for part in parts])
        kept = dict.fromkeys([self.metrics[task], *KEPT_METRICS])
        summary = {
            "examples": parts[0]["examples"],
            "metrics": {name: metrics[name] for name in kept if name in metrics},
            "difference": None if found is None else found.to_dict(),
            "gate_spread": _summarize_gates([part["predictions"] for part in parts]),
        }
        if self.plan.groups is not None:
            summary["groups"] = self.summarize_groups(variant, subset, task, parts)
        return summary

    def summarize_groups(
        self, variant: str, subset: str, task: str, parts: Sequence[Mapping[str, Any]]
    ) -> dict[str, Any]:
        """Group -> the metric that decides, and its difference from the reference."""
        values = {group_of(prediction, self.plan.groups) for prediction in parts[0]["predictions"]}
        groups = {}
        for group in sorted(value for value in values if value is not None):
            cell = self.find_cell(f"{variant}/{subset}@{group}", task)
            if cell is None:
                continue
            found = self.compare_with_reference(variant, subset, task, group)
            groups[group] = {
                "examples": len(cell.ids),
                "metric": summarize(cell.values(self.metrics[task])),
                "difference": None if found is None else found.to_dict(),
            }
        return groups

    def describe_runs(self, variant: str) -> dict[str, Any]:
        """Parameters, minutes and memory of the trainings, and their measurements."""
        runs = [self.runner.evaluations[variant, seed].run for seed in self.results[variant]]
        records = [read_training(run.folder, for_report=True) for run in runs]
        described = {
            "parameters": records[0]["parameters"],
            "minutes": [record["seconds"]["all"] / 60 for record in records if not record.get("resumed_from")],
            "peak_gib": [record["peak_gib"] for record in records if record.get("peak_gib")],
            "commits": sorted({record["commit"] for record in records}),
        }
        measured = [self.runner.measurements.get((variant, seed)) for seed in self.results[variant]]
        costs = [read_json(entry.output) for entry in measured if entry is not None and entry.is_finished]
        if costs:
            described["cost"] = costs[0]
            described["generated"] = _summarize_generated(costs)
        return described

    # ---- claims --------------------------------------------------------------------------------------------------

    def decide(self, check: Check) -> dict[str, Any]:
        """Whether a claim held: the check's fields, and `tasks`: name -> the difference and its `verdict`."""
        decisions = {}
        for task, kind in self.kinds.items():
            if check.kind not in (None, kind) or (check.tasks is not None and task not in check.tasks):
                continue
            found = self.compare(check, task)
            if found is not None:
                decisions[task] = found.to_dict() | {"verdict": verdict(found, check.by)}
        return {
            "claim": check.claim,
            "better": check.better,
            "worse": check.worse,
            "than": check.than,
            "by": check.by,
            "tasks": decisions,
        }

    def compare(self, check: Check, task: str) -> Difference | None:
        """The difference that a check is about; None if it was not evaluated, or the task has no such metric."""
        cells = [self.find_cell(cell, task) for cell in check.cells]
        if None in cells:
            return None
        better, worse, *others = cells
        known = next(iter(self.results[split_cell(check.better)[0]].values()))["subsets"]
        figures = known[self.subset_named(*split_cell(check.better)[:2])]["tasks"][task]["metrics"]
        comparable = comparable_metrics(better) & figures.keys()
        metric = next((name for name in check.metric or [self.metrics[task]] if name in comparable), None)
        pairs = [(better, worse), tuple(others)] if others else [(better, worse)]
        if metric is None or not all(are_comparable(*pair) for pair in pairs):
            return None
        if others:
            return self.resampler.contrast(*pairs, metric)
        return self.resampler.difference(better, worse, metric)


def _summarize_gates(runs: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Expert -> its spread over the examples, summarized over seeds."""
    spreads = [gate_spread(predictions) for predictions in runs]
    return {expert: summarize([spread[expert] for spread in spreads]) for expert in spreads[0]}


def _summarize_generated(costs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Task -> figures of the answers of `generate` and of the scored ones, over seeds."""
    summary = {}
    for task, first in costs[0]["generated"].items():
        runs = [cost["generated"][task] for cost in costs if task in cost["generated"]]
        summary[task] = {
            name: value if isinstance(value, str) else summarize([run[name] for run in runs])
            for name, value in first.items()
        }
    return summary


def rounded(value: Any) -> Any:
    """A JSON value with its floats rounded, so that files stay small."""
    if isinstance(value, float):
        return round(value, DECIMALS)
    if isinstance(value, Mapping):
        return {key: rounded(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(entry) for entry in value]
    return value


def describe_diagnosis(diagnosis: Diagnosis | None) -> dict[str, Any] | None:
    """A diagnosis with names instead of paths, which are those of a machine; None if there is none."""
    if diagnosis is None or not diagnosis.is_finished:
        return None
    names = {"language_model": Path(diagnosis.text_model).name, "dataset": Path(diagnosis.dataset).name}
    return read_json(diagnosis.output) | names


def summarize_experiment(runner: Runner) -> dict[str, Any]:
    """All figures of an experiment.

    Raises:
        ValueError: nothing was evaluated yet, or the reference was not.
    """
    figures = ExperimentFigures(runner)
    plan = runner.plan
    record = {
        "plan": plan.name,
        "question": plan.question,
        "claim": plan.claim,
        "recipe": plan.recipe_name,
        "protocol": plan.protocol_name,
        "reference": plan.reference,
        "seeds": runner.seeds,
        "tasks": figures.kinds,
        "metrics": figures.metrics,
        "groups": plan.groups,
        "left_out": plan.left_out,
        "versions": versions(),
        "commit": commit(),
        "diagnosis": describe_diagnosis(runner.diagnosis),
        "variants": {name: figures.summarize_variant(name) for name in plan.variants if name in figures.results},
        "checks": [figures.decide(check) for check in plan.checks],
    }
    return rounded(record)
