"""A tiny demo corpus, built once, and its rated sentences."""

import itertools

import numpy as np
import pytest

from training.demo.corpus import CorpusOptions, build_corpus


NUMBERS = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"


@pytest.fixture(scope="session")
def snippets():
    """60 pairs of rating and text, with the ratings evenly spread."""
    ratings = np.linspace(-3.8, 3.8, 60).tolist()
    names = itertools.product(NUMBERS.split(), ("small", "large", "red", "blue"))
    return [
        (rating, f"The {size} parcel number {number} came today")
        for rating, (number, size) in zip(ratings, names, strict=True)
    ]


@pytest.fixture(scope="session")
def options():
    return CorpusOptions(num_train=6, num_validation=2, num_test=4, frame_size=48)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory, options, snippets):
    """A corpus of 12 clips that tests must not change."""
    folder = tmp_path_factory.mktemp("demo") / "corpus"
    return build_corpus(folder, options, snippets=snippets, num_workers=1, show_progress=False)
