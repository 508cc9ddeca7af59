"""The Markdown table of real_data.py, from its results file."""

from typing import Any

from .real_corpora import REPORTED


def render(results: dict[str, Any]) -> str:
    """Markdown from `real_data.json`."""
    lines = [
        "# Real data",
        "",
        f"Made by `python -m training.benchmarks.real_data` from `real_data.json`; {results['text_model']}, on a CPU.",
        "The constant answers the mean or the most frequent label. Intervals: 95 %, bootstrap over the rows of seed "
        f"{next(iter(results['pieces'].values()))['egmf']['seeds'][0]}. The baseline saw every row of train, "
        "EGMF those named below.",
        "",
        "| data | figure | constant | baseline | EGMF | interval | aim |",
        "|---|---|---|---|---|---|---|",
    ]
    for part in results["pieces"].values():
        ours, base = part["egmf"], part["baseline"]
        for place, figure in enumerate(part["shown"]):
            low, high = ours["confidence_intervals"][figure]
            aim = part["aims"].get(figure)
            cells = [
                part["title"] if place == 0 else "",
                figure,
                _number(base["constant"][figure]),
                _number(base["figures"][figure]),
                _spread(ours["subsets"][ours["everything"]][figure]),
                f"{_number(low)} to {_number(high)}",
                "" if aim is None else "reached" if aim["reached"] else "**not reached**",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "## What stands behind each"]
    for part in results["pieces"].values():
        rows, ours, base = part["rows"], part["egmf"], part["baseline"]
        unused = f" ({rows['unused']} of train not used)" if rows["unused"] else ""
        chosen = f"epoch chosen on {rows['inner']}" if rows["inner"] else "to the last epoch"
        minutes = ", ".join(f"{value:.0f}" for value in ours["minutes"])
        lines += [
            "",
            f"**{part['title']}.** {part['about']} Trained on {rows['train']} rows{unused}, {chosen}, "
            f"judged on {rows[REPORTED]}; {len(ours['seeds'])} seed(s), {minutes} minutes, "
            f"{ours['trained_parameters']:,} parameters trained. Baseline: {base['name']}, fitted on {base['rows']} "
            "rows.",
        ]
        if len(ours["subsets"]) > 1:
            shown = part["shown"]
            lines += ["", f"| asked with | {' | '.join(shown)} |", f"|{'---|' * (len(shown) + 1)}"]
            for subset, figures in ours["subsets"].items():
                name = "words alone" if subset == "text" else subset.replace("+", " + ")
                lines.append(f"| {name} | {' | '.join(_spread(figures[figure]) for figure in shown)} |")
    return "\n".join(lines) + "\n"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _spread(summary: dict[str, Any]) -> str:
    return _number(summary["mean"]) + (f" ± {summary['std']:.3f}" if summary["std"] is not None else "")
