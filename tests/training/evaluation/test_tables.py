"""Markdown tables and the figures in them."""

import pytest

from training.evaluation.tables import (
    format_mean_std,
    format_number,
    format_subset,
    markdown_table,
    markers,
    replace_block,
)


def test_table_has_one_cell_per_column():
    assert markdown_table(["a", "b"], [["x", 1], ["–", 0.5]]) == [
        "| a | b |",
        "|---|---|",
        "| x | 1 |",
        "| – | 0.5 |",
    ]
    assert markdown_table(["a"], []) == ["| a |", "|---|"]


@pytest.mark.parametrize(
    ("value", "decimals", "text"),
    [(0.12346, 3, "0.123"), (0.12346, 4, "0.1235"), (1, 1, "1.0"), (None, 3, "–")],
)
def test_numbers(value, decimals, text):
    assert format_number(value, decimals) == text


@pytest.mark.parametrize(
    ("summary", "text"),
    [
        ({"mean": 0.5, "std": 0.25}, "0.500 ± 0.250"),
        ({"mean": 0.5, "std": None}, "0.500"),
        ({"mean": None, "std": None}, "–"),
        (None, "–"),
    ],
)
def test_mean_and_standard_deviation(summary, text):
    assert format_mean_std(summary) == text


def test_subsets_are_spaced():
    assert format_subset("text+audio") == "text + audio"


def test_only_the_block_is_replaced():
    start, end = markers("results")
    text = f"before\n{start}\nold \\1 figures\n{end}\nafter {{}}\n"
    block = "new figures \\g<0>"
    replaced = replace_block(text, "results", block)
    assert replaced == f"before\n{start}\n{block}\n{end}\nafter {{}}\n"
    assert replace_block(replaced, "results", block) == replaced
    with pytest.raises(ValueError, match="The page has no <!-- other:start -->"):
        replace_block(text, "other", block)
