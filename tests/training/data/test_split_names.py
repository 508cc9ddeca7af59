"""Names of splits that are probably typos."""

import pytest

from training.data.split_names import misspelled_splits


@pytest.mark.parametrize(
    ("split", "meant"),
    [
        ("trian", "train"),
        ("Tarin_2", "train"),
        ("trainn", "train"),
        ("vaildation", "validation"),
        ("validaton", "validation"),
        ("tset", "test"),
        ("vla", "validation"),
        ("vaild", "validation"),
    ],
)
def test_typos(split, meant):
    assert misspelled_splits(["train", split]) == {split: meant}


def test_names_that_are_no_typos():
    usual = [
        "train",
        "Train",
        "training",
        "validation",
        "valid",
        "val",
        "dev",
        "eval",
        "evaluation",
        "test",
        "testing",
    ]
    others = ["test_2", "test_a", "train-clean-100", "2", "fold_1", "unlabeled", "trainval", "Session1", "rest", "all"]
    others += ["strain-data/train.parquet", "latest/test", "invalid", "retest"]
    assert misspelled_splits(usual + others) == {}
