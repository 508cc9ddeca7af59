"""Labels by name, scores on their scale, and clean transcripts."""

import math

import numpy as np
import pytest

from processing_egmf import BUILT_IN_TASKS
from training.converters.core.conversion_report import ConversionReport
from training.converters.core.labels import (
    check_label,
    check_single_label,
    clean_text,
    parse_whole,
    read_transcript,
)


@pytest.mark.parametrize(
    ("task", "answer", "grid", "expected", "kind", "reason"),
    [
        ("meld", "joy", None, "joy", None, None),
        ("meld", " Joy ", None, "joy", None, None),
        ("cherma", "高兴", None, "高兴", None, None),
        ("meld", "happy", None, None, "dropped", "unknown label 'happy'"),
        ("meld", 4, None, None, "dropped", "unknown label '4'"),
        ("meld", "", None, None, "dropped", "unknown label ''"),
        ("mosei", "-0.33333334", None, -0.333333, None, None),
        ("mosei", 3.0, None, 3.0, None, None),
        ("mosei", 3.2, None, None, "dropped", "score outside [-3, 3]"),
        ("sims_v2", -1.2, 0.2, None, "dropped", "score outside [-1, 1]"),
        ("mosei", float("nan"), None, None, "dropped", "no score"),
        ("mosei", "good", None, None, "dropped", "no score"),
        ("mosei", None, None, None, "dropped", "no score"),
        ("mosei", True, None, None, "dropped", "no score"),
        ("mosei", 10**400, None, None, "dropped", "no score"),
        ("sims_v2", np.float32(0.6), 0.2, 0.6, None, None),
        ("sims_v2", -0.0, 0.2, 0.0, None, None),
        (
            "sims_v2",
            "-0.1",
            0.2,
            -0.2,
            "repaired",
            "score between the steps of 0.2: rounded to the nearest",
        ),
        ("sims_v2", 0.35, 0.2, 0.4, "repaired", "score between the steps of 0.2: rounded to the nearest"),
    ],
)
def test_answers(task, answer, grid, expected, kind, reason):
    report = ConversionReport()
    found = check_label(BUILT_IN_TASKS[task], answer, "r", report, grid)
    assert found == expected
    assert str(found) != "-0.0"
    happened = {k: names for k, names in report.reasons.items() if names}
    assert happened == ({kind: {reason: ["r"]}} if kind else {})


def test_labels_are_matched_by_name_not_by_index():
    """Toolkits number the labels differently, so a number is not a label."""
    for label in BUILT_IN_TASKS["meld"].labels:
        assert check_label(BUILT_IN_TASKS["meld"], label, "r", ConversionReport()) == label
    report = ConversionReport()
    assert [check_label(BUILT_IN_TASKS["meld"], n, "r", report) for n in range(7)] == [None] * 7


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" “It’s”… ", "“It’s”…"),
        ("a\x00b\nc\t", "a b c"),
        ("\ufeff好\u3000吗", "好\u3000吗"),
        ("👩‍👧", "👩‍👧"),
        (None, ""),
        (float("nan"), ""),
        ("好".encode(), "好"),
        ("a\udcffb", "a b"),
        (3, "3"),
    ],
)
def test_text_is_cleaned_without_changing_words(text, expected):
    assert clean_text(text) == expected


@pytest.mark.parametrize(
    ("value", "expected", "reason"),
    [
        (" Hi. ", "Hi.", None),
        ("好".encode(), "好", None),
        (None, "", None),
        (7, "7", None),
        (b"caf\xe9!", "caf !", "transcript with bytes that are not UTF-8: spaces instead"),
        ("caf\udce9", "caf", "transcript with bytes that are not UTF-8: spaces instead"),
        (["a", "b"], "", "transcript that is not text: left out"),
        (True, "", "transcript that is not text: left out"),
    ],
)
def test_transcripts_that_are_not_text_are_reported(value, expected, reason):
    report = ConversionReport()
    assert read_transcript(value, "r", report) == expected
    assert report.reasons["repaired"] == ({} if reason is None else {reason: ["r"]})


@pytest.mark.parametrize(
    ("text", "expected"),
    [("7", 7), (" 7.0 ", 7), ("007", 7), ("7.5", None), ("1_0", None), ("\u00b2", None), ("-1", None), ("", None),
     ("9" * 5000, None), ("11", None)],
)  # fmt: skip
def test_whole_numbers(text, expected):
    assert parse_whole(text, 0, 10) == expected


@pytest.mark.parametrize(
    ("label", "expected"),
    [("0,4", 0.4), (0.4, 0.4), ("", None), (None, None), ("nan", math.nan), ("inf", math.nan), ("2", math.nan)],
)
def test_labels_of_one_modality_are_on_the_scale(label, expected):
    report = ConversionReport()
    found = check_single_label(BUILT_IN_TASKS["sims_v2"], label, "label_text", "r", report)
    is_wrong = expected is not None and math.isnan(expected)
    assert found == (None if is_wrong else expected)
    assert report.reasons["repaired"] == (
        {"label_text is not a score of the task: left out": ["r"]} if is_wrong else {}
    )
