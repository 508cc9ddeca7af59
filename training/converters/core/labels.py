"""Labels, scores and transcripts as the releases write them."""

import math
import unicodedata
from typing import Any

from processing_egmf import EGMFTask

from .conversion_report import ConversionReport


def check_answer(
    task: EGMFTask, answer: Any, name: str, report: ConversionReport, grid: float | None = None
) -> str | float | None:
    """A label of the task by its name, or a score within its scale; None where the row has to go.

    Args:
        task: names the labels, or the scale.
        answer: what the release says.
        name: the row, for the report.
        report: takes what is dropped and repaired.
        grid: the steps on which the corpus's scores lie. A score between two goes to that which `EGMFTask.index`
            chooses: -0.1 on steps of 0.2 becomes -0.2, which the field's metrics put into the same classes.
    """
    if task.kind == "classification":
        label = str(answer).strip()
        label = next((known for known in task.labels if known.casefold() == label.casefold()), None)
        if label is None:
            report.drop(f"unknown label {str(answer)[:40]!r}", name)
        return label
    try:
        score = math.nan if isinstance(answer, bool) else float(answer)
    except (TypeError, ValueError, OverflowError):
        score = math.nan
    if not math.isfinite(score):
        report.drop("no score", name)
        return None
    if not task.low - 1e-6 <= score <= task.high + 1e-6:
        report.drop(f"score outside [{task.low:g}, {task.high:g}]", name)
        return None
    if grid is not None:
        step = round(score / grid) * grid
        if abs(score - step) > grid / 100:
            step = task.values[task.index(score)]
            report.repair(f"score between the steps of {grid:g}: moved to the nearest", name)
        score = step
    return round(score, 6) + 0.0


def clean_text(text: Any) -> str:
    """Words as they are, quotes and signs of every script included; blanks around them, control characters and what is
    no text (None, NaN, halves of characters) go."""
    if text is None or (isinstance(text, float) and math.isnan(text)):
        return ""
    words = text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
    plain = "".join(" " if unicodedata.category(sign) in ("Cc", "Cs") else sign for sign in words)
    return plain.strip().strip("\ufeff").strip()
