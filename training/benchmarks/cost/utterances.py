"""Synthetic utterances whose lengths are distributed like MELD's."""

import numpy as np


WORDS = "i you know it was not what to do about this that we were going so well now and then she said no".split()  # noqa: SIM905
MELD_MEAN_WORDS = 8.0  # per utterance, as published
MELD_MAX_WORDS = 69
SPREAD = 0.75  # standard deviation of the log lengths


def make_utterances(count: int, rng: np.random.Generator) -> list[str]:
    """Utterances with a log-normal number of words, 8 on average and at most 69."""
    mean = np.log(MELD_MEAN_WORDS) - SPREAD**2 / 2
    lengths = rng.lognormal(mean, SPREAD, count).round().clip(1, MELD_MAX_WORDS)
    return [" ".join(rng.choice(WORDS, int(length))) for length in lengths]
