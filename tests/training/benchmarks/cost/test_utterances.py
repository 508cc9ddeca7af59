"""Synthetic utterances: as long as MELD's, and reproducible."""

import numpy as np
import pytest

from training.benchmarks.cost.utterances import MELD_MAX_WORDS, MELD_MEAN_WORDS, make_utterances


def test_lengths_follow_the_stated_distribution():
    utterances = make_utterances(20_000, np.random.default_rng(0))
    lengths = np.array([len(text.split()) for text in utterances])
    assert lengths.mean() == pytest.approx(MELD_MEAN_WORDS, abs=0.25)
    assert lengths.min() >= 1
    assert lengths.max() <= MELD_MAX_WORDS
    assert np.percentile(lengths, 95) > 2 * np.median(lengths)  # a long tail


def test_utterances_depend_only_on_the_seed():
    first, again, other = (make_utterances(20, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert first == again
    assert first != other
