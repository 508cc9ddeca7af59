"""Crafted pickles that ask for more than a computer holds: each is an error within a second and a few megabytes."""

import contextlib
import pickle
import random

import numpy as np
import pytest

from training.converters.core import pickle_limits
from training.converters.core.pickle_limits import check_key, check_result, check_shape
from training.converters.core.pickles import child_values, read_pickle


DTYPE = b"cnumpy\ndtype\n(S'f4'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntb"
ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"


def shared(depth, last):
    """A tuple that holds another one twice, `depth` times over: 2 ** depth entries."""
    return b")" + b"2\x86" * depth + last


def array(shape):
    return ARRAY + b"(I1\n(" + b"".join(b"I%d\n" % size for size in shape) + b"t" + DTYPE + b"I00\nS''\ntb."


CRAFTED = {
    "nested tuples": b")" + b"\x85" * 50_000 + b".",
    "nested tuples as a key": b"})" + b"\x85" * 50_000 + b"Ns.",
    "shared tuples as a key": b"}" + shared(60, b"Ns."),
    "shared tuples as an element": b"\x80\x04\x8f(" + shared(60, b"\x90."),
    "shared tuples in a frozenset": b"\x80\x04(" + shared(60, b"\x91."),
    "set of shared tuples": b"cbuiltins\nset\n(](" + shared(60, b"etR."),
    "shared tuples": shared(60, b"."),
    "nested lists": b"]" * 20_000 + b"a" * 19_999 + b".",
    "nested dicts": b"}" + b"I1\n}" * 5000 + b"s" * 5000 + b".",
    "list in itself": b"]q\x00h\x00a.",
    "dict in itself": b"}q\x00I1\nh\x00s.",
    "many rows without data": array((10**8, 0)),
    "many rows of an empty type": array((10**8, 0)).replace(b"S'f4'", b"S'S0'"),
    "many axes": array((1,) * 99 + (0,)),
    "negative size": array((-1, 0)),
    "huge size": array((10**300, 0)),
    "set of an array": b"cbuiltins\nset\n(" + array((10**6, 0))[:-1] + b"tR.",
    "large copies": b"](" + b"I1\n" * 9999 + b"eq\x000(" + b"cbuiltins\nset\n(h\x00tR" * 3000 + b"l.",
    "long number": b"I" + b"9" * 5000 + b"\n.",
    "long name": b"c" + b"x" * 100_000 + b"\ny\n.",
    "huge number as a size": b"\x80\x04\x8e" + b"\xff" * 8 + b".",
    "object": b"(cbuiltins\nset\no.",
    "list that is called": b"](I1\ntR.",
    "state of a type": DTYPE[:-1] + b"]b.",
}


@pytest.mark.parametrize("name", CRAFTED)
def test_crafted_pickles_are_refused(tmp_path, name):
    path = tmp_path / "a.pkl"
    path.write_bytes(CRAFTED[name])
    with pytest.raises(ValueError, match="a.pkl is (refused|not a readable pickle)") as error:
        read_pickle(path)
    assert len(str(error.value)) < 1000


def test_number_of_steps_is_limited(tmp_path, monkeypatch):
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(list(range(1000)), protocol=2))
    assert len(read_pickle(path)) == 1000
    monkeypatch.setattr("training.converters.core.pickles.MAX_STEPS", 0)
    with pytest.raises(ValueError, match=r"more than \d+ steps \(at byte"):
        read_pickle(path)


def test_lines_are_limited(tmp_path, monkeypatch):
    monkeypatch.setattr("training.converters.core.pickles.MAX_LINE_BYTES", 100)
    path = tmp_path / "a.pkl"
    path.write_bytes(b"S'" + b"a" * 200 + b"'\n.")
    with pytest.raises(ValueError, match="a line of more than 100 bytes"):
        read_pickle(path)


def test_shared_lists_are_allowed_and_counted(monkeypatch):
    row = [1, 2, 3]
    check_result({"a": [row, row], "b": row}, child_values)
    monkeypatch.setattr(pickle_limits, "MAX_ENTRIES", 12)
    check_result([row, row, row], child_values)
    with pytest.raises(ValueError, match="more than 12 entries"):
        check_result([row, row, row, row], child_values)


def test_keys_are_scalars_or_flat_tuples():
    for key in ("a", 1, 2.5, None, True, b"a", ("a", 1), ()):
        check_key(key)
    for key in ((("a",),), frozenset("a"), [1]):
        with pytest.raises(ValueError, match="a key that is not"):
            check_key(key)


def test_shapes_without_data():
    check_shape((0, 3), 4)
    check_shape((20_000, 50, 0), 4)
    with pytest.raises(ValueError, match="many rows and no data"):
        check_shape((20_000, 51, 0), 4)


def test_flipped_bits_are_read_or_refused(tmp_path):
    rng = random.Random(0)
    value = {"id": ["a$_$1", "b"], "x": np.arange(12.0).reshape(3, 4), "n": [1, 2.5, None, {"a": (1, 2)}, {3}]}
    path = tmp_path / "a.pkl"
    accepted = 0
    for number in range(150):
        data = bytearray(pickle.dumps(value, protocol=number % 6))
        for _ in range(rng.randint(1, 3)):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        with contextlib.suppress(ValueError):  # anything else is an error of ours
            read_pickle(path)
            accepted += 1
    assert 0 < accepted < 100
