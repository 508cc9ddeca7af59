"""Finished runs shared by several test modules, which must not change them."""

import pytest

from tests.helpers.training_runs import PRETRAINING, RESTLESS, run, write_place


@pytest.fixture(scope="session")
def place(tmp_path_factory, trained_tokenizer):
    """A folder with `corpus`, `llm`, and `runs` for the runs; every module uses its own names for runs."""
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
