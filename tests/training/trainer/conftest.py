"""Runs that several modules look at; none of them changes these."""

import pytest

from tests.helpers.training_runs import PRETRAINING, RESTLESS, run, write_place


@pytest.fixture(scope="session")
def place(tmp_path_factory, trained_tokenizer):
    """A folder with `corpus` and `llm`, where runs go to `runs`; each module names its runs differently."""
    return write_place(tmp_path_factory.mktemp("place"), trained_tokenizer)


@pytest.fixture(scope="session")
def finished(place):
    """The trainer of an uninterrupted run with fusion pretraining, in `runs/finished`."""
    return run(place, "finished", **PRETRAINING)


@pytest.fixture(scope="session")
def uninterrupted(place):
    """The folder of an uninterrupted run with the options `RESTLESS`."""
    run(place, "uninterrupted", **RESTLESS)
    return place / "runs/uninterrupted"
