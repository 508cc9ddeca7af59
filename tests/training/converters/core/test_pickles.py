"""Pickles from untrusted sources: admitted values, lazy reading, and refusals."""

import collections
import datetime
import io
import os
import pickle
import struct

import numpy as np
import pytest

from training.converters.core import pickle_spans
from training.converters.core.pickles import PickledArray, read_pickle


def same(found, expected):
    """Whether the value read equals the pickled value, with arrays compared by content."""
    if isinstance(expected, np.ndarray):
        if not isinstance(found, PickledArray):
            return False
        values = np.asarray(found)
        return values.dtype == expected.dtype and np.array_equal(values, expected)
    if isinstance(expected, np.generic):
        expected = expected.item()
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(same(found[key], expected[key]) for key in expected)
    if isinstance(expected, list | tuple):
        return type(found) is type(expected) and all(same(a, b) for a, b in zip(found, expected, strict=True))
    return type(found) is type(expected) and found == expected


NUMBERS = np.random.default_rng(0).integers(0, 256, size=(50, 40, 7))
VALUES = {
    "float64": NUMBERS / 7,
    "float32": (NUMBERS / 7).astype(np.float32),
    "float16": (NUMBERS[0] / 7).astype(np.float16),
    "int64": NUMBERS[0],
    "uint8": NUMBERS.astype(np.uint8),
    "bool": NUMBERS[0] > 5,
    "big endian": (NUMBERS / 7).astype(">f4"),
    "columns first": np.asfortranarray(NUMBERS[0] / 7),
    "part of an array": (NUMBERS / 7)[::2, 1:],
    "words": np.array(["“Hi”", "", "好"]),
    "objects": np.array(["a", 3, None], dtype=object),
    "scalars": [np.float32(0.5), np.int64(-3), np.bool_(True), np.str_("好"), 1.5, None, True, 2**80],
    "containers": [{1, 2}, frozenset("a"), (1, [2, {"a": b"", "b": b"\xff" * 50}])],
    "empty": np.zeros((0, 3), np.float32),
    "a long word": "好" * 5000,
}


@pytest.fixture
def write(tmp_path):
    def write(value, protocol=4, name="a.pkl"):
        path = tmp_path / name
        path.write_bytes(value if isinstance(value, bytes) else pickle.dumps(value, protocol=protocol))
        return path

    return write


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("name", [name for name in VALUES if name != "a long word"])
def test_admitted_values_round_trip(write, name, protocol, monkeypatch):
    monkeypatch.setattr(pickle_spans, "MARK_EVERY", 1000)  # so that text is found by its marks
    assert same(read_pickle(write(VALUES[name], protocol)), VALUES[name])


@pytest.mark.parametrize("protocol", range(6))
def test_long_text_stays_text(write, protocol):
    assert str(read_pickle(write(VALUES["a long word"], protocol))) == VALUES["a long word"]


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("name", ["float64", "float32", "uint8", "big endian", "part of an array"])
def test_rows_are_read_one_at_a_time(write, name, protocol, monkeypatch):
    monkeypatch.setattr(pickle_spans, "MARK_EVERY", 777)
    found = read_pickle(write(VALUES[name], protocol))
    assert len(found) == len(VALUES[name])
    for index in range(len(found)):
        assert np.array_equal(found[index], VALUES[name][index])
    with pytest.raises(IndexError):
        found[len(found)]


@pytest.mark.parametrize("protocol", range(6))
def test_shared_arrays_are_read_once(write, protocol):
    row = np.arange(4000, dtype=np.float32).reshape(-1, 4)
    found = read_pickle(write([row, {"a": row}, row], protocol))
    assert found[0] is found[2] is found[1]["a"]
    assert np.array_equal(np.asarray(found[0]), row)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_long_arrays_stay_in_the_file(write, protocol):
    path = write({"a": np.random.default_rng(0).normal(size=(100, 1000))}, protocol)
    found = read_pickle(path)["a"]
    assert found.span.data is None
    sent = pickle.dumps(found)  # to a worker
    assert len(sent) < 2000
    there = pickle.loads(sent)  # noqa: S301
    assert np.array_equal(there[7], np.asarray(found)[7])
    assert np.array_equal(there[7], np.random.default_rng(0).normal(size=(100, 1000))[7])


def test_damage_in_a_long_array_is_named_when_its_rows_are_read(write):
    """Protocol 2 writes bytes as text, which stays in the file: damage is seen only where it is read."""
    path = write(NUMBERS.astype(np.uint8), 2)
    content = bytearray(path.read_bytes())
    first = next(place for place in range(6000, 7000) if content[place] in (0xC2, 0xC3))
    content[first] = 0xE6  # begins a character of three bytes
    path.write_bytes(bytes(content))
    found = read_pickle(path)
    with pytest.raises(ValueError, match=rf"{path.name} is damaged after byte \d+ .*Copy it again"):
        [found[row] for row in range(len(found))]


def test_python_2_pickle_is_read(write):
    """Python 2 pickles store both bytes and text as strings."""
    numbers = np.array([[1.5, -2.0], [0.25, 300.0]])
    made = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
    dtype = b"cnumpy\ndtype\n(S'f8'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntb"
    state = b"(I1\n(I2\nI2\nt" + dtype + b"I00\nS" + repr(numbers.tobytes())[1:].encode() + b"\ntb."
    assert np.array_equal(np.asarray(read_pickle(write(made + state))), numbers)
    assert read_pickle(write(b"(dS'id'\n(lp0\nS'\\xe5\\xa5\\xbd'\nas.")) == {"id": ["好"]}


# ---- refused -------------------------------------------------------------------------------------------------


class Runs:
    """Creates a file when unpickled with `pickle.load`."""

    def __init__(self, function, *arguments):
        self.made = function, arguments

    def __reduce__(self):
        return self.made


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    ("value", "name"),
    [
        (Runs(os.system, "true"), "(posix|nt).system"),
        (Runs(eval, "1"), r"(builtins|__builtin__)\.eval"),
        (Runs(getattr, "a", "b"), r"(builtins|__builtin__)\.getattr"),
        (Runs(np.load, "x"), r"numpy.*load"),
        (Runs(bytearray, 10), r"(builtins|__builtin__)\.bytearray"),
        (collections.OrderedDict(a=1), r"collections\.OrderedDict"),
        (datetime.date(2020, 1, 1), r"datetime\.date"),
        (np.random.default_rng(0), r"numpy\.random"),
        (io.StringIO, r"_?io\.StringIO"),
        (np.zeros(2, dtype=[("a", "f4")]), "an array of type"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_anything_else_is_refused_by_name(write, value, name, protocol):
    with pytest.raises(ValueError, match=f"a.pkl .*(tries to load )?{name}"):
        read_pickle(write({"train": {"audio": [1, value]}}, protocol))


def test_crafted_code_does_not_run(write, tmp_path):
    target = tmp_path / "ran"
    path = write({"id": Runs(os.mkdir, str(target))})
    with pytest.raises(ValueError, match=r"is refused: it tries to load (posix|nt).mkdir. Only NumPy arrays"):
        read_pickle(path)
    assert not target.exists()
    pickle.loads(path.read_bytes())  # noqa: S301
    assert target.exists()  # the file would have run


@pytest.mark.parametrize(
    "content",
    [
        b"cnumpy\nndarray\n)R.",
        b"cnumpy\nndarray\n)\x81.",
        b"cnumpy\nndarray\n}(S'__class__'\nI1\nub.",
        b"]}(S'a'\nI1\nub.",
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\ndtype\n(I0\ntS'b'\ntR.",
        b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(S'O8'\nI0\nI1\ntRS'12345678'\ntR.",
        b"\x82\x01.",
        b"cos\nsystem\n.",
        b"(S'true'\nios\nsystem\n.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
        b"P1\n.",
        b"S'a'\nQ.",
        b"\x80\x05\x97.",
        b"\x80\x05\x98.",
    ],
)
def test_crafted_pickles_are_errors(write, content):
    with pytest.raises(ValueError, match="a.pkl is (refused|not a readable pickle)"):
        read_pickle(write(content))


def test_only_arrays_have_their_state_set(write):
    with pytest.raises(ValueError, match="it sets the state of a"):
        read_pickle(write(b"cnumpy\nndarray\n}(S'__class__'\nI1\nub."))


@pytest.mark.parametrize("shape", [(3,), (2, 2), (-4,), (2**32, 2**32), ("a",), "ab"])
def test_array_with_a_wrong_shape_is_refused(shape):
    with pytest.raises(ValueError, match="an array"):
        PickledArray().build(bytes(40), np.dtype("f8"), shape, False)


@pytest.mark.parametrize("protocol", range(6))
def test_every_truncated_file_is_reported(write, protocol):
    whole = pickle.dumps(
        {"id": ["a", "b"], "audio": np.random.default_rng(0).normal(size=(30, 40))}, protocol=protocol
    )
    for end in (0, 1, 5, len(whole) // 10, len(whole) // 2, len(whole) - 1):
        with pytest.raises(ValueError, match="a.pkl is not a readable pickle, or was cut off"):
            read_pickle(write(whole[:end]))


@pytest.mark.parametrize("content", [b"", b"no pickle", b"PK\x03\x04", struct.pack("<Q", 2**63), b"\x80\x04]\x94e."])
def test_files_that_are_not_pickles(write, content):
    with pytest.raises(ValueError, match="a.pkl is not a readable pickle"):
        read_pickle(write(content))


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a\.pkl does not exist"):
        read_pickle(tmp_path / "a.pkl")
