"""Repairs of feature sequences, and reading of .npy files."""

import numpy as np
import pytest

from training.converters.core.arrays import LIMIT, common_width, load_npy, npy_width, repair_sequence
from training.converters.core.conversion_report import ConversionReport


def sequence(steps=6, padding=3, width=4, seed=0):
    """(steps + padding, width) with zeros at its end."""
    values = np.random.default_rng(seed).normal(size=(steps, width))
    return np.concatenate([values, np.zeros((padding, width))])


def repair(values, length=None, **options):
    """The repaired sequence, and reason -> ids."""
    report = ConversionReport()
    found = repair_sequence(values, length, "r", "audio", report, **options)
    return found, {reason: (names, report.num_values[reason]) for reason, names in report.reasons["repaired"].items()}


@pytest.mark.parametrize("length", [None, 6])
def test_only_padding_is_removed(length):
    found, done = repair(sequence(), length)
    assert found.dtype == np.float32
    assert np.array_equal(found, sequence()[:6].astype(np.float32))
    assert done == {}


def test_zeros_within_the_stated_length_are_kept():
    """A stated length beyond the last nonzero vector is trusted."""
    found, done = repair(sequence(), 8)
    assert found.shape == (8, 4)
    assert done == {}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_nonfinite_values_become_zero(value):
    values = sequence()
    values[1, 2] = values[3, 0] = value
    found, done = repair(values, 6)
    assert found[1, 2] == found[3, 0] == 0
    assert np.count_nonzero(found) == 22
    assert done == {"audio features with NaN or infinite values: set to 0": (["r"], 2)}


def test_infinity_at_the_end_is_not_padding():
    values = sequence()
    values[5] = -np.inf
    assert repair(values)[0].shape == (6, 4)


@pytest.mark.parametrize("length", [1, 3])
def test_length_cut_at_a_zero_vector_is_corrected(length):
    values = sequence()
    values[length] = 0  # the first whose sum is 0
    found, done = repair(values, length)
    assert np.array_equal(found, values[:6].astype(np.float32))
    assert list(done) == ["audio features cut at a zero vector by their stated length: length corrected"]


def test_leading_zero_vector_within_the_stated_length_is_kept():
    values = sequence()
    values[0] = 0
    found, done = repair(values, 6)
    assert found.shape == (6, 4)
    assert done == {}


@pytest.mark.parametrize("length", [None, 0, 1])
def test_leading_padding_is_removed(length):
    values = sequence()[::-1]
    found, done = repair(values, length)
    assert np.array_equal(found, values[3:].astype(np.float32))
    assert list(done) == ["audio features padded at the start: zeros removed"]


def test_length_beyond_the_array_is_corrected():
    found, done = repair(sequence(), 20)
    assert found.shape == (9, 4)
    assert list(done) == ["audio features shorter than their stated length: length corrected"]


@pytest.mark.parametrize("values", [np.zeros((5, 4)), np.full((5, 4), np.nan), np.zeros((0, 4)), []])
@pytest.mark.parametrize("length", [None, 1])
def test_all_padding_is_left_out(values, length):
    found, done = repair(values, length, width=4)
    assert found is None
    assert "audio features are all padding: left out" in done


def test_values_that_overflow_half_precision_are_clipped():
    values = sequence()
    values[0, :3] = 3e5, -7e4, 9999
    found, done = repair(values, 6)
    assert found[0, :3].tolist() == [LIMIT, -LIMIT, 9999]
    assert np.isfinite(found.astype(np.float16)).all()
    assert done == {"audio features with values beyond 10000: clipped": (["r"], 2)}


def test_sequence_of_another_width_is_left_out():
    found, done = repair(sequence(width=3), width=4)
    assert found is None
    assert list(done) == ["audio features whose width is not 4: left out"]
    assert repair(np.zeros((2, 2, 4)), width=4)[0] is None


@pytest.mark.parametrize("values", [[["a"]], [[1, 2], [3]], {"a": 1}])
def test_nonnumeric_values_are_left_out(values):
    found, done = repair(values)
    assert found is None
    assert list(done) == ["audio features are not numbers: left out"]


def test_single_vector_is_one_step():
    assert repair(np.ones(4))[0].tolist() == [[1.0] * 4]


def test_the_pickled_array_is_not_changed():
    values = sequence().astype(np.float32)
    values[0, 0] = np.nan
    before = values.copy()
    repair(values, 6)
    assert np.array_equal(values, before, equal_nan=True)


def test_common_width():
    assert common_width([4, 5, 5, None]) == 5
    assert common_width([4, 5]) == 4
    assert common_width([None]) is None


# ---- npy -----------------------------------------------------------------------------------------------------


def test_npy_files(tmp_path):
    report = ConversionReport()
    good = tmp_path / "a.npy"
    np.save(good, np.ones((3, 4)))
    assert npy_width(good) == 4
    assert load_npy(good, "a", "video", report).shape == (3, 4)
    assert report.reasons["repaired"] == {}
    whole = good.read_bytes()
    for number, content in enumerate((whole[:-5], whole[:40], b"", b"no array")):
        path = tmp_path / f"{number}.npy"
        path.write_bytes(content)
        assert load_npy(path, str(number), "video", report) is None
        assert npy_width(path) is None
    np.save(tmp_path / "4.npy", np.array([{}], dtype=object), allow_pickle=True)
    assert load_npy(tmp_path / "4.npy", "4", "video", report) is None
    assert load_npy(tmp_path / "5.npy", "5", "video", report) is None
    assert report.reasons["repaired"] == {
        "video features cannot be read: left out": ["0", "1", "2", "3", "4"],
        "video features missing: left out": ["5"],
    }


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"'shape': (3, 4), }", b"'shape': (3, 4 , }"),  # an open bracket
        (b"'shape': (3, 4), }", b"'shape': (3  4), }"),
        (b"(3, 4), }             ", b"(99999999999999, 4), }"),  # more than any memory
        (b"'<f8'", b"'<q8'"),
        (b"\x93NUMPY", b"PK\x03\x04PY"),  # an archive by its first bytes
        (b"NUMPY\x01", b"NUMPY\x09"),
    ],
)
def test_damaged_npy_header(tmp_path, old, new):
    path = tmp_path / "a.npy"
    report = ConversionReport()
    np.save(path, np.ones((3, 4)))
    whole = path.read_bytes()
    assert old in whole
    path.write_bytes(whole.replace(old, new))
    assert npy_width(path) is None
    assert load_npy(path, "a", "audio", report) is None
    assert report.reasons["repaired"] == {"audio features cannot be read: left out": ["a"]}
