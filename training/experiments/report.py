"""The results of an experiment: a JSON file, and Markdown and a picture made from it.

summarize_experiment (figures.py) ─► NAME.json ─┬─► render_experiment ─► NAME.md, README.md
                                                └─► plot_experiment ───► NAME.png
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..evaluation.tables import MISSING, format_mean_std, format_number, format_subset, markdown_table
from ..records import short_commit, write_json, write_text
from .figures import summarize_experiment
from .plan import LOWER_IS_BETTER
from .runner import Runner


# Shown beside a metric that says little by itself.
BESIDE = {"negative_log_likelihood": ("accuracy", "calibration error")}


def format_difference(found: Mapping[str, Any] | None) -> str:
    """`+0.012 (-0.003 to +0.027)`; a dash for None."""
    if found is None:
        return MISSING
    return f"{found['mean']:+.3f} ({found['low']:+.3f} to {found['high']:+.3f})"


def render_experiment(record: Mapping[str, Any]) -> str:
    """An experiment's results as a Markdown page.

    Args:
        record: from `summarize_experiment`.
    """
    lines = [f"# {record['question']}", "", f"The paper: {record['claim']}", "", *render_results(record)]
    return "\n".join(lines) + "\n"


def render_results(record: Mapping[str, Any], level: int = 2) -> list[str]:
    """The lines of an experiment's tables: metrics, groups, cost, diagnosis, claims.

    Args:
        record: from `summarize_experiment`.
        level: of their headings.
    """
    heading = "#" * level
    protocol = f", protocol `{record['protocol']}`" if record["protocol"] else ""
    seeds = ", ".join(map(str, record["seeds"]))
    lines = [
        f"Plan `{record['plan']}`, recipe `{record['recipe']}`{protocol}, seeds {seeds}. Differences are from "
        f"`{record['reference']}`, positive where the variant is better, with bootstrap intervals over examples and "
        "seeds (95%)."
    ]
    commits = sorted({commit for variant in record["variants"].values() for commit in variant["commits"]})
    if len(commits) > 1:
        shown = ", ".join(map(short_commit, commits))
        lines += ["", f"The runs were trained by {len(commits)} versions of the code, which may differ: {shown}."]
    if record["left_out"]:
        lines += ["", f"Left out: {'; '.join(record['left_out'])}."]
    for task in record["tasks"]:
        lines += ["", f"{heading} {task}", "", *_results_table(record, task)]
        if record["groups"]:
            lines += ["", f"{heading} {task} by {record['groups']}", "", *_groups_table(record, task)]
    if any("cost" in variant for variant in record["variants"].values()):
        lines += ["", f"{heading} Cost", "", *_cost_table(record), "", *_generated_table(record)]
    if record["diagnosis"]:
        name = record["diagnosis"]["language_model"]
        table = diagnosis_table(record["diagnosis"])
        lines += ["", f"{heading} The language model {name} before training", "", *table]
    if record["checks"]:
        lines += ["", f"{heading} Did the claims hold?", "", *_checks_table(record["checks"])]
    return lines


def _cells(record: Mapping[str, Any], task: str) -> list[tuple[str, str, Mapping[str, Any]]]:
    """Variant, subset and figures of every cell of a task."""
    return [
        (name, subset, tasks[task])
        for name, variant in record["variants"].items()
        for subset, tasks in variant["subsets"].items()
        if task in tasks
    ]


def _direction(metric: str) -> str:
    return f"{metric} ({'lower' if metric in LOWER_IS_BETTER else 'higher'} is better)"


def _results_table(record: Mapping[str, Any], task: str) -> list[str]:
    metric = record["metrics"][task]
    beside = BESIDE.get(metric, ())
    rows = []
    for name, subset, cell in _cells(record, task):
        spread = max(entry["mean"] for entry in cell["gate_spread"].values())
        seeds = len(record["variants"][name]["seeds"])
        value = format_mean_std(cell["metrics"].get(metric))
        difference = format_difference(cell["difference"])
        others = [format_mean_std(cell["metrics"].get(other.replace(" ", "_"))) for other in beside]
        rows.append([name, format_subset(subset), seeds, value, difference, *others, format_number(spread)])
    header = ["variant", "modalities", "n", _direction(metric), "difference", *beside, "largest gate spread"]
    return markdown_table(header, rows)


def _groups_table(record: Mapping[str, Any], task: str) -> list[str]:
    cells = _cells(record, task)
    groups = list(dict.fromkeys(group for *_, cell in cells for group in cell["groups"]))
    rows = []
    for name, subset, cell in cells:
        row = [name, format_subset(subset)]
        for group in groups:
            found = cell["groups"].get(group)
            row.append(format_mean_std(found["metric"]) if found else MISSING)
            row.append(format_difference(found["difference"]) if found else MISSING)
        rows.append(row)
    header = ["variant", "modalities"]
    for group in groups:
        header += [group, "difference"]
    return markdown_table(header, rows)


def _cost_table(record: Mapping[str, Any]) -> list[str]:
    rows = []
    for name, variant in record["variants"].items():
        cost = variant.get("cost")
        if cost is None:
            continue
        minutes = variant["minutes"]
        peaks = variant["peak_gib"]
        rows.append(
            [
                name,
                f"{variant['parameters']['all'] / 1e6:.1f} M",
                f"{variant['parameters']['trained'] / 1e6:.2f} M",
                f"{cost['flops']['answer'] / 1e9:.2f}",
                f"{cost['flops']['training'] / 1e9:.2f}",
                format_number(cost["seconds"]["answer"]["median_s"], 4),
                format_number(cost["seconds"]["generate"]["median_s"], 4)
                if "generate" in cost["seconds"]
                else MISSING,
                format_number(sum(minutes) / len(minutes), 1) if minutes else MISSING,
                format_number(max(peaks), 2) if peaks else MISSING,
                format_number(cost["peak_gib"], 2) if cost["peak_gib"] else MISSING,
            ]
        )
    header = ["variant", "parameters", "trained", "GFLOPs per answer", "GFLOPs per training example"]
    header += ["s per answer", "s per `generate`", "minutes of training", "GiB training", "GiB answering"]
    return markdown_table(header, rows)


def _generated_table(record: Mapping[str, Any]) -> list[str]:
    """Answers of `generate` next to the scored ones, on the same examples."""
    rows = []
    for name, variant in record["variants"].items():
        for task, figures in variant.get("generated", {}).items():
            cells = [format_mean_std(figures[column]) for column in ("scored", "generated", "unreadable")]
            rows.append([name, task, figures["metric"], *cells])
    header = ["variant", "task", "metric", "scored answers", "generated answers", "unreadable share"]
    return markdown_table(header, rows) if rows else []


def diagnosis_table(diagnosis: Mapping[str, Any]) -> list[str]:
    """What diagnosis.py found about a language model, one row per task and group."""
    rows = []
    for task, groups in diagnosis["tasks"].items():
        for group, figures in groups.items():
            rows.append(
                [
                    task,
                    group,
                    figures["examples"],
                    format_number(figures["tokens_per_character"], 2),
                    format_number(figures["bits_per_character"], 2),
                    format_number(figures["probability"]),
                    format_number(figures["chance"]),
                    format_number(figures["right"]),
                    format_number(figures["unreadable"]),
                ]
            )
    header = ["task", "group", "n", "tokens per character", "bits per character", "probability of the right answer"]
    header += ["chance", "right", "unreadable share of `generate`"]
    return markdown_table(header, rows)


def _checks_table(checks: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = []
    for check in checks:
        margin = f" by {check['by']:g}" if check["by"] else ""
        comparison = f"{check['better']} better than {check['worse']}{margin}"
        if check["than"]:
            comparison += f", more so than {check['than'][0]} than {check['than'][1]}"
        for task, found in check["tasks"].items():
            difference = format_difference(found)
            rows.append([check["claim"], comparison, task, found["metric"], difference, f"**{found['verdict']}**"])
        if not check["tasks"]:
            rows.append([check["claim"], comparison, MISSING, MISSING, MISSING, "not evaluated"])
    return markdown_table(["claim", "comparison", "task", "metric", "difference", "held"], rows)


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
    for task, metric in record["metrics"].items():
        panels[f"{task}: {metric}"] = {
            f"{name}\n{format_subset(subset)}": cell["metrics"][metric]
            for name, subset, cell in _cells(record, task)
            if metric in cell["metrics"]
        }
    return plot_variants({title: bars for title, bars in panels.items() if bars}, path)
