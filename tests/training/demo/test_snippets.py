"""The rated sentences: only the expected archive is read; each sentence is cleaned and used once."""

import numpy as np
import pytest

from training.demo.snippets import VADER_FILE, clean_snippet, read_vader_snippets, score_of_rating, select_snippets


def test_missing_archive_says_how_to_download_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="pip download vaderSentiment==3.3.2"):
        read_vader_snippets(tmp_path)


def test_unknown_archive_is_refused(tmp_path):
    (tmp_path / VADER_FILE).write_bytes(b"something else")
    with pytest.raises(ValueError, match="sha256"):
        read_vader_snippets(tmp_path)


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("@user @anonymous so happy for you! http://t.co/abc #blessed", "So happy for you! blessed"),
        ("good food &amp; good wine", "Good food & good wine"),
        ("told @user about the film", None),
        ("too short", None),
        ("caf\xe9 was closed today", None),
    ],
)
def test_clean_snippet(raw, clean):
    assert clean_snippet(raw) == clean


def test_score_of_rating():
    assert [score_of_rating(rating) for rating in (-4, -2, 0, 1.5, 4, 4.4)] == [-3.0, -1.5, 0.0, 1.1, 3.0, 3.0]


def test_duplicate_snippets_are_used_once(snippets):
    duplicates = [(rating, text.upper() + " !!") for rating, text in snippets]
    counts = {"train": 30, "validation": 10, "test": 20}
    splits = select_snippets([*snippets, *duplicates], counts, np.random.default_rng(0))
    keys = ["".join(filter(str.isalnum, text.lower())) for members in splits.values() for _, text in members]
    assert len(keys) == len(set(keys)) == 60


def test_too_few_snippets_are_refused(snippets):
    counts = {"train": 61, "validation": 0, "test": 0}
    with pytest.raises(ValueError, match="needs 61 snippets but only 60 of 60 are usable"):
        select_snippets(snippets, counts, np.random.default_rng(0))
