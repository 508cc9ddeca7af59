"""Markdown tables, and the formatting of the numbers in them.

markdown_table(["modalities", "accuracy"], [["text", format_mean_std(summary)]])
->  | modalities | accuracy |
    |---|---|
    | text | 0.596 ± 0.011 |
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any


MISSING = "–"


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """The lines of a Markdown table.

    Args:
        header: names of the columns.
        rows: one cell per column, each written as `str` does.
    """
    lines = [_table_row(header), "|" + "---|" * len(header)]
    lines += [_table_row(row) for row in rows]
    return lines


def _table_row(cells: Sequence[object]) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def format_number(value: float | None, decimals: int = 3) -> str:
    """A number with a fixed number of decimals; a dash for None."""
    return MISSING if value is None else f"{value:.{decimals}f}"


def format_mean_std(summary: dict[str, Any] | None, decimals: int = 3) -> str:
    """`mean ± std` of a summary from `summarize`; only the mean for a single run, a dash for None."""
    if summary is None:
        return MISSING
    text = format_number(summary["mean"], decimals)
    if summary["std"] is None:
        return text
    return f"{text} ± {summary['std']:.{decimals}f}"


def format_subset(subset: str) -> str:
    """`text+audio` -> `text + audio`."""
    return subset.replace("+", " + ")


# ---- blocks of a page -------------------------------------------------------------------------------------------


def markers(name: str) -> tuple[str, str]:
    """The comments that enclose a block."""
    return f"<!-- {name}:start -->", f"<!-- {name}:end -->"


def replace_block(text: str, name: str, block: str) -> str:
    """Replace the text between the markers of a block.

    Raises:
        ValueError: a marker is missing.
    """
    start, end = markers(name)
    if start not in text or end not in text:
        raise ValueError(f"The page has no {start} ... {end}.")
    return re.sub(f"{re.escape(start)}.*{re.escape(end)}", lambda _: f"{start}\n{block}\n{end}", text, flags=re.DOTALL)
