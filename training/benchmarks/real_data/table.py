"""The Markdown table of real_data.py, from its results file."""

from typing import Any

from .corpora import REPORTED


def render(results: dict[str, Any]) -> str:
    """Markdown from `real_data.json`."""
    parts = results["pieces"].values()
    lines = [
        "# Real data",
        "",
        "Made by `python -m training.benchmarks.real_data` from `real_data.json`, with "
        f"{', '.join(dict.fromkeys(part.get('text_model', results['text_model']) for part in parts))}.",
        "The constant answers the mean or the most frequent label. Intervals: 95 %, bootstrap over the rows, of the "
        "first seed. The baseline saw every row of train, EGMF those named below. Settings were chosen on rows of "
        "train, but what earlier ones gave on the reported rows of MOSI and RAVDESS was known by then (`training/LOG.md`).",
        "",
        "| data | figure | constant | baseline | EGMF | interval | aim |",
        "|---|---|---|---|---|---|---|",
    ]
    for part in parts:
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
                "" if aim is None else _aim(aim),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "## What stands behind each"]
    for part in parts:
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
                name = part.get("named", {}).get(subset, subset.replace("+", " + "))
                name = "words alone" if name == "text" else name
                lines.append(f"| {name} | {' | '.join(_spread(figures[figure]) for figure in shown)} |")
    return "\n".join(lines) + "\n"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _aim(aim: dict[str, Any]) -> str:
    asked = f"above {_number(aim['above'])}" + (f", at least {aim['at_least']:.3f}" if aim["at_least"] else "")
    return f"{asked}: {'reached' if aim['reached'] else '**not reached**'}"


def _spread(summary: dict[str, Any]) -> str:
    return _number(summary["mean"]) + (f" ± {summary['std']:.3f}" if summary["std"] is not None else "")
