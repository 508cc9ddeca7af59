"""Markdown table of the benchmark on real data, rendered from its results file."""

from typing import Any

from ...evaluation.tables import format_mean_std, format_number, format_subset, markdown_table
from .corpora import REPORTED


HEADER = ("data", "figure", "constant", "baseline", "EGMF", "interval", "aim")
CALIBRATION_HEADER = ("data", "evaluated with", "figure", "before", "after", "calibrated by chance")


def render(results: dict[str, Any]) -> str:
    """Markdown from `real_data.json`."""
    benchmarks = list(results["benchmarks"].values())
    text_models = dict.fromkeys(benchmark.get("text_model", results["text_model"]) for benchmark in benchmarks)
    rows = [row for benchmark in benchmarks for row in _figure_rows(benchmark)]
    lines = [
        "# Real data",
        "",
        f"Rendered by `python -m training.benchmarks.real_data` from `real_data.json`, with {', '.join(text_models)}.",
        "The constant predicts the mean or the most frequent label. Intervals: 95%, bootstrap over the examples, of "
        "the first seed. The baseline was fitted on all training examples, EGMF on the number given below. Settings "
        "were chosen on training examples, but the results of earlier settings on the reported examples of MOSI and "
        "RAVDESS were already known (`training/LOG.md`).",
        "",
        *markdown_table(HEADER, rows),
        "",
        *_calibration(benchmarks),
        "## Details of each corpus",
    ]
    for benchmark in benchmarks:
        lines += ["", _describe(benchmark)]
        if len(benchmark["egmf"]["subsets"]) > 1:
            lines += ["", *_subset_table(benchmark)]
    return "\n".join(lines) + "\n"


def _figure_rows(benchmark: dict[str, Any]) -> list[list[str]]:
    """A row of the table for each figure; the corpus is named in the first."""
    egmf = benchmark["egmf"]
    baseline = benchmark["baseline"]
    rows = []
    for figure in benchmark["shown"]:
        low, high = egmf["confidence_intervals"][figure]
        rows.append(
            [
                "" if rows else benchmark["title"],
                figure,
                format_number(baseline["constant"][figure]),
                format_number(baseline["figures"][figure]),
                format_mean_std(egmf["subsets"][egmf["everything"]][figure]),
                f"{format_number(low)} to {format_number(high)}",
                _format_aim(benchmark["aims"].get(figure)),
            ]
        )
    return rows


def _calibration(benchmarks: list[dict[str, Any]]) -> list[str]:
    """A section with the calibration error before and after calibration; empty where it was not measured."""
    rows = []
    for benchmark in benchmarks:
        for subset, figures in benchmark["egmf"].get("calibration", {}).items():
            before, after = figures["before"], figures["after"]
            name = "error" if "error" in before else "coverage"
            title = "calibration error" if name == "error" else "coverage of 90% intervals"
            values = [format_mean_std(before[name]), format_mean_std(after[name])]
            chance = format_mean_std(after["error_by_chance"]) if name == "error" else "–"
            rows.append([benchmark["title"], _subset_title(benchmark, subset), title, *values, chance])
    if not rows:
        return []
    return [
        "## Calibration",
        "",
        "Before and after calibration (`egmf calibrate`), fitted on the examples of train that the epoch was chosen "
        "on. *Calibrated by chance*: the mean error that a calibrated model with the same probabilities is measured "
        "to have on as many examples.",
        "",
        *markdown_table(CALIBRATION_HEADER, rows),
        "",
    ]


def _subset_title(benchmark: dict[str, Any], subset: str) -> str:
    title = "text only" if subset == "text" else format_subset(subset)
    return benchmark.get("subset_titles", {}).get(subset, title)


def _format_aim(aim: dict[str, Any] | None) -> str:
    if aim is None:
        return ""
    text = f"above {format_number(aim['above'])}"
    if aim["at_least"]:
        text += f", at least {format_number(aim['at_least'])}"
    return f"{text}: {'reached' if aim['reached'] else '**not reached**'}"


def _describe(benchmark: dict[str, Any]) -> str:
    counts = benchmark["examples"]
    egmf = benchmark["egmf"]
    baseline = benchmark["baseline"]
    unused = f" ({counts['unused']} of train not used)" if counts["unused"] else ""
    epoch = f"best epoch chosen on {counts['inner']}" if counts["inner"] else "to the last epoch"
    minutes = ", ".join(f"{value:.0f}" for value in egmf["minutes"])
    return (
        f"**{benchmark['title']}.** {benchmark['about']} Trained on {counts['train']} examples{unused}, {epoch}, "
        f"evaluated on {counts[REPORTED]}; {len(egmf['seeds'])} seed(s), {minutes} minutes, "
        f"{egmf['trained_parameters']:,} parameters trained. Baseline: {baseline['name']}, fitted on "
        f"{baseline['examples']} examples."
    )


def _subset_table(benchmark: dict[str, Any]) -> list[str]:
    rows = []
    for subset, figures in benchmark["egmf"]["subsets"].items():
        title = _subset_title(benchmark, subset)
        rows.append([title, *[format_mean_std(figures[figure]) for figure in benchmark["shown"]]])
    return markdown_table(["evaluated with", *benchmark["shown"]], rows)
