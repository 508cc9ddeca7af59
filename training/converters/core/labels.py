"""Labels, scores and transcripts as the releases write them, checked and cleaned."""

import difflib
import math
import re
import unicodedata
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

from ...data.csv_tables import parse_number, tidy_name
from ...data.examples import is_missing_value, label_text
from ...data.text_files import shorten
from .conversion_report import ConversionReport


if TYPE_CHECKING:
    from processing_egmf import EGMFTask


CLAMPED = 0.5
WRONG_LABELS = ("unknown label", "no score", "score outside")  # the reasons of `check_label` begin like this
SURROGATES = re.compile("[\ud800-\udfff]")
PAUSES = re.compile(r"(?<!\S)sp(?!\S)")


def find_blind_splits(
    labels: Iterable[tuple[str, Any]], report: ConversionReport, names: Collection[str] = ()
) -> set[str]:
    """The splits, except train, without any label, as the test splits of shared tasks. Their examples are kept, and
    have no answer.

    Args:
        labels: split and label of every row of the release.
        report: notes these splits.
        names: labels of the tasks, which are never taken for missing ones.
    """
    is_blind: dict[str, bool] = {}
    for split, label in labels:
        is_blind[split] = is_blind.get(split, True) and label not in names and _is_missing(label)
    blind = {split for split in is_blind if is_blind[split] and split != "train"}
    if not all(is_blind.values()):
        for split in sorted(blind):
            report.note("split without labels: kept for egmf predict", split)
        return blind
    return set()


def _is_missing(label: Any) -> bool:
    if isinstance(label, float):
        return math.isnan(label)
    return label is None or is_missing_value(label) or (isinstance(label, str) and not label.strip())


def check_label(
    task: "EGMFTask",
    label: Any,
    example_id: str,
    report: ConversionReport,
    step: float | None = None,
    clamp: bool = False,
) -> str | float | None:
    """A label of the task by its name, or a score on its scale; None if the example has to be dropped.

    Args:
        task: has the labels, or the scale.
        label: the value in the release.
        example_id: for the report.
        report: counts what is dropped and repaired.
        step: distance between the corpus's scores. A score between two steps moves to the one that `EGMFTask.index`
            chooses: with steps of 0.2, -0.1 becomes -0.2, which the field's metrics put into the same classes.
        clamp: move a score that is at most `CLAMPED` beyond the scale to its end; CMU's means of raters reach 3.3333.
    """
    if task.kind == "classification":
        return _check_class(task, label, example_id, report)
    score = _as_number(label)
    if not math.isfinite(score):
        report.drop("no score", example_id)
        return None
    if clamp and (task.low - CLAMPED <= score < task.low - 1e-6 or task.high + 1e-6 < score <= task.high + CLAMPED):
        report.repair(f"score slightly outside [{task.low:g}, {task.high:g}]: clamped", example_id)
        score = min(max(score, task.low), task.high)
    if not task.low - 1e-6 <= score <= task.high + 1e-6:
        report.drop(f"score outside [{task.low:g}, {task.high:g}]", example_id)
        return None
    if step is not None:
        nearest = round(score / step) * step
        if abs(score - nearest) > step / 100:
            nearest = task.values[task.index(score)]
            report.repair(f"score between the steps of {step:g}: rounded to the nearest", example_id)
        score = nearest
    return round(score, 6) + 0.0  # never -0.0


def _check_class(task: "EGMFTask", label: Any, example_id: str, report: ConversionReport) -> str | None:
    label = label_text(label)
    name = tidy_name(clean_text(label)).casefold()
    for known in task.labels:
        if tidy_name(known).casefold() == name:
            return known
    similar = difflib.get_close_matches(name[:40], task.labels, n=1, cutoff=0.7)
    hint = f" (did you mean {similar[0]!r}?)" if similar else ""
    report.drop(f"unknown label {clean_text(label)[:40]!r}{hint}", example_id)
    return None


def check_single_label(
    task: "EGMFTask", label: Any, column: str, example_id: str, report: ConversionReport
) -> float | None:
    """The score of one modality, which is stored in a column of its own; None if it is empty, or, with an entry in
    the report, not on the scale of the task."""
    if label is None or (isinstance(label, str) and not label.strip()):
        return None
    score = _as_number(label)
    if task.low - 1e-6 <= score <= task.high + 1e-6:
        return score
    report.repair(f"{column} is not a score of the task: left out", example_id)
    return None


def _as_number(value: Any) -> float:
    """A number, or a string that holds one; NaN for anything else."""
    if isinstance(value, bool):
        return math.nan
    if isinstance(value, str):
        number = parse_number(value)
        return math.nan if number is None else number
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def read_transcript(value: Any, example_id: str, report: ConversionReport) -> str:
    """A transcript of a pickle or a JSON file, cleaned; empty, with an entry in the report, if it is not text."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "surrogateescape")
    if value is not None and (isinstance(value, bool) or not isinstance(value, str | int | float)):
        report.repair("transcript that is not text: left out", example_id)
        return ""
    if isinstance(value, str) and SURROGATES.search(value):
        report.repair("transcript with bytes that are not UTF-8: spaces instead", example_id)
    return clean_text(value)


def parse_whole(text: str, low: int, high: int) -> int | None:
    """A whole number in a cell; None if it is none, or outside of [low, high]. `3.0` is one, as pandas writes it."""
    number = parse_number(text)
    if number is None or not low <= number <= high or not number.is_integer():
        return None
    return int(number)


def remove_pauses(text: str, example_id: str, report: ConversionReport) -> str:
    """A transcript without the tokens `sp`, which CMU's alignment puts where the speaker pauses."""
    if PAUSES.search(text) is None:
        return text
    report.repair("transcript with `sp` tokens for pauses: removed", example_id)
    return " ".join(PAUSES.sub(" ", text).split())


def clean_text(text: Any) -> str:
    """A transcript without surrounding whitespace, control characters and surrogates; empty for None and NaN.

    Quotes and characters of every script are kept.
    """
    if text is None or (isinstance(text, float) and math.isnan(text)):
        return ""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    is_container = type(text) in (list, tuple, dict, set, frozenset)
    text = shorten(text) if is_container or isinstance(text, int) else str(text)
    characters = [" " if unicodedata.category(character) in ("Cc", "Cs") else character for character in text]
    return "".join(characters).strip().strip("\ufeff").strip()
