"""Pickles of strangers: numpy arrays, scalars and builtin containers, and nothing else.

`pickle.load` runs whatever a file asks for. Here every name that a file may ask for stands in `ADMITTED` below and
leads to a function of this module; any other is refused by name. Arrays are not read: what comes back knows where in
the file their numbers lie, so a file of any size is opened with little memory, and rows are read one at a time.

    read_pickle(path) ─► dicts, lists, words, numbers, and PickledArray ─► array[i] reads one row from the file
"""

import math
import os
import pickle
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


LONG = 4096  # bytes; what is longer stays in the file
MARK_EVERY = 1 << 20  # bytes of encoded text between two marks


class Span(NamedTuple):
    """Bytes in a file, or in memory if there are few.

    `marks` is there for bytes that protocols 0 to 2 wrote as text: entry k counts the decoded bytes before encoded
    byte k * MARK_EVERY, with the number of all at the end.
    """

    path: str
    offset: int
    size: int
    data: bytes | None = None
    marks: np.ndarray | None = None

    def read(self, start: int, stop: int) -> bytes:
        """Bytes start to stop."""
        if self.data is not None:
            return self.data[start:stop]
        if self.marks is not None:
            return self._read_text(start, stop)
        with open(self.path, "rb") as file:
            file.seek(self.offset + start)
            return file.read(stop - start)

    def __str__(self) -> str:
        """Words, if it was words that were so long."""
        return self.read(0, self.size).decode("utf-8", "replace")

    def _read_text(self, start: int, stop: int) -> bytes:
        first = int(np.searchsorted(self.marks[:-1], start, side="right")) - 1
        last = int(np.searchsorted(self.marks, stop, side="left"))
        begin, end = first * MARK_EVERY, min(last * MARK_EVERY + 1, self.size)  # one more: the end of a character
        with open(self.path, "rb") as file:
            file.seek(self.offset + begin)
            encoded = np.frombuffer(file.read(end - begin), np.uint8)
        starts = np.flatnonzero(encoded & 0xC0 != 0x80)  # of characters
        chosen = starts[start - int(self.marks[first]) : stop - int(self.marks[first]) + 1]
        until = chosen[-1] if len(chosen) > stop - start else len(encoded)
        return encoded[chosen[0] : until].tobytes().decode("utf-8").encode("latin-1") if stop > start else b""


class PickledArray:
    """A numpy array still in its file: `array[i]` reads entry i of its first axis, `np.asarray` all of it."""

    def __init__(self) -> None:
        self.span: Span | None = None
        self.items: list[Any] | None = None  # of an array of objects
        self.shape: tuple[int, ...] = ()
        self.dtype = np.dtype("O")
        self.fortran = False
        self.whole: np.ndarray | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "whole": None}

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        place = f"{os.path.basename(self.span.path)}:{self.span.offset}" if self.span else repr(self.items)
        return f"PickledArray({self.shape}, {self.dtype.str}, {place})"

    def __getitem__(self, index: int) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(index)
        if self.items is not None and len(self.shape) == 1:
            return self.items[index]
        if self.items is not None or self.fortran:
            if self.whole is None:
                self.whole = np.asarray(self)  # its rows do not lie together: read once
            return self.whole[index]
        row = self.dtype.itemsize * math.prod(self.shape[1:])
        values = np.frombuffer(self.span.read(index * row, (index + 1) * row), self.dtype)
        return values.reshape(self.shape[1:]) if len(self.shape) > 1 else values[0].item()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if self.items is not None:
            values = np.empty(len(self.items), object)
            values[:] = self.items
        else:
            values = np.frombuffer(self.span.read(0, self.span_size), self.dtype)
        values = values.reshape(self.shape, order="F" if self.fortran else "C")
        return values if dtype is None else values.astype(dtype)

    @property
    def span_size(self) -> int:
        """How many bytes the numbers take."""
        return self.dtype.itemsize * math.prod(self.shape)

    def build(self, span: Any, dtype: np.dtype, shape: Any, fortran: bool) -> "PickledArray":
        """Fill in what the file says."""
        if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape) or not shape:
            if shape != ():
                raise ValueError(f"an array has the shape {shape!r}")
            shape = (1,)  # a number in an array's clothes
        self.dtype, self.shape, self.fortran = dtype, shape, bool(fortran) and len(shape) > 1
        if dtype.kind == "O":
            if not isinstance(span, list) or len(span) != math.prod(shape):
                raise ValueError("an array of objects without its objects")
            self.items = span
            return self
        if isinstance(span, str):  # Python 2 wrote its bytes as text
            span = span.encode("utf-8", "surrogateescape")
        if isinstance(span, bytes | bytearray):
            span = Span("", 0, len(span), bytes(span))
        held = int(span.marks[-1]) if isinstance(span, Span) and span.marks is not None else getattr(span, "size", -1)
        if not isinstance(span, Span) or held != self.span_size:
            raise ValueError(f"an array of shape {shape} and type {dtype} holds {held} bytes, not {self.span_size}")
        self.span = span
        return self

    def set_state(self, state: Any) -> None:
        """What numpy writes behind an array: version, shape, type, order, bytes."""
        _, shape, dtype, fortran, data = state
        self.build(data, dtype.found, shape, fortran)


class _DType:
    """A numpy type of numbers, text or objects; structures are refused."""

    def __init__(self, name: Any, align: Any = False, copy: Any = False) -> None:
        if not isinstance(name, str) or not re.fullmatch(r"[<>=|]?[fiubUSO]\d*", name):
            raise ValueError(f"an array of type {name!r}; numbers and text are read")
        self.found = np.dtype(name)

    def set_state(self, state: Any) -> None:
        """Only the order of bytes is of use."""
        if state[1] in ("<", ">"):
            self.found = self.found.newbyteorder(state[1])


def _reconstruct(kind: Any, shape: Any, code: Any) -> PickledArray:
    if kind is not _array_type:
        raise ValueError("an array of an unknown kind")
    return PickledArray()


def _array_type(*_: Any) -> None:
    raise ValueError("an array that is made in an unusual way")


def _scalar(dtype: Any, data: Any) -> Any:
    if dtype.found.kind == "O":
        raise ValueError("a numpy scalar that is an object")
    return PickledArray().build(data, dtype.found, (1,), False)[0]


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> PickledArray:
    return PickledArray().build(data, dtype.found, shape, order == "F")


def _encode(text: Any, encoding: Any) -> bytes | Span:
    if encoding not in ("latin1", "latin-1"):
        raise ValueError(f"bytes written as {encoding!r}")
    return _mark(text) if isinstance(text, Span) else text.encode("latin-1")


def _mark(span: Span) -> Span:
    """Count characters, so that any part of a long text can be found without reading what is before it."""
    marks = [0]
    with open(span.path, "rb") as file:
        file.seek(span.offset)
        for begin in range(0, span.size, MARK_EVERY):
            part = np.frombuffer(file.read(min(MARK_EVERY, span.size - begin)), np.uint8)
            marks.append(marks[-1] + int(np.count_nonzero(part & 0xC0 != 0x80)))
    return span._replace(marks=np.array(marks))


def _no_bytes() -> bytes:
    return b""


def _set(items: Any = ()) -> set:
    return set(items)


def _frozenset(items: Any = ()) -> frozenset:
    return frozenset(items)


ADMITTED: dict[tuple[str, str], Callable] = {
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _reconstruct for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _from_buffer for core in ("core", "_core")},
    ("numpy", "ndarray"): _array_type,
    ("numpy", "dtype"): _DType,
    ("_codecs", "encode"): _encode,
    **{(module, "set"): _set for module in ("builtins", "__builtin__")},
    **{(module, "frozenset"): _frozenset for module in ("builtins", "__builtin__")},
    **{(module, "bytes"): _no_bytes for module in ("builtins", "__builtin__")},
}


class _RefusedError(ValueError):
    """The file asks for something that is not admitted."""


class _File:
    """A file that says when it ends too early."""

    def __init__(self, path: Path) -> None:
        self.path = str(path.resolve())
        self.file = path.open("rb")
        self.size = path.stat().st_size

    def read(self, count: int) -> bytes:
        found = self.file.read(count)
        if len(found) < count:
            raise EOFError(f"it ends after {self.size} bytes")
        return found

    def readline(self) -> bytes:
        return self.file.readline()

    def skip(self, count: int) -> Span:
        offset = self.file.tell()
        if count < 0 or offset + count > self.size:
            raise EOFError(f"it ends after {self.size} bytes, before an array does")
        self.file.seek(count, os.SEEK_CUR)
        return Span(self.path, offset, count)


class _Unpickler(pickle._Unpickler):
    """The unpickler of the standard library that is written in Python, with its doors closed.

    Every callable that can come onto its stack is one of `ADMITTED`; state is given to arrays and their types alone.
    """

    dispatch = dict(pickle._Unpickler.dispatch)

    def __init__(self, file: _File) -> None:
        # Text that Python 2 wrote comes back as it was, if it was UTF-8 and if it was not.
        super().__init__(file, encoding="utf-8", errors="surrogateescape")
        self.source = file

    def find_class(self, module: str, name: str) -> Callable:
        if (module, name) not in ADMITTED:
            raise _RefusedError(f"it tries to load {module}.{name}")
        return ADMITTED[module, name]

    def _load_bytes(self, form: str) -> None:
        size = struct.unpack(form, self.read(struct.calcsize(form)))[0]
        self.append(self.source.skip(size) if size >= LONG else self.read(size))

    def _load_text(self, form: str) -> None:
        size = struct.unpack(form, self.read(struct.calcsize(form)))[0]
        # Text this long is an array of protocol 2; should it be words after all, `str` reads them.
        self.append(self.source.skip(size) if size >= LONG else str(self.read(size), "utf-8", "surrogatepass"))

    def _load_frame(self) -> None:
        self.read(8)  # frames only say how much to read ahead

    def _load_build(self) -> None:
        state = self.stack.pop()
        if not isinstance(self.stack[-1], PickledArray | _DType):
            raise _RefusedError(f"it sets the state of a {type(self.stack[-1]).__name__}")
        self.stack[-1].set_state(state)

    def _load_extension(self) -> None:
        raise _RefusedError("it tries to load a registered extension")

    dispatch[pickle.BINBYTES[0]] = lambda self: self._load_bytes("<I")
    dispatch[pickle.BINBYTES8[0]] = lambda self: self._load_bytes("<Q")
    dispatch[pickle.BYTEARRAY8[0]] = lambda self: self._load_bytes("<Q")
    dispatch[pickle.BINUNICODE[0]] = lambda self: self._load_text("<I")
    dispatch[pickle.BINUNICODE8[0]] = lambda self: self._load_text("<Q")
    dispatch[pickle.FRAME[0]] = _load_frame
    dispatch[pickle.BUILD[0]] = _load_build
    for _code in (pickle.EXT1, pickle.EXT2, pickle.EXT4):
        dispatch[_code[0]] = _load_extension


def read_pickle(path: str | Path) -> Any:
    """Open a pickle without running anything that it holds.

    Args:
        path: the file; any protocol, written by Python 2 or 3.

    Returns:
        What was pickled; every numpy array is a `PickledArray`, numpy scalars are Python's.

    Raises:
        ValueError: it asks for anything but numpy arrays, scalars and builtin containers (the message names what), is
            cut off, or is no pickle.
        FileNotFoundError: it is not there.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    file = _File(path)
    with file.file:
        try:
            return _Unpickler(file).load()
        except _RefusedError as error:
            raise ValueError(
                f"{path} is refused: {error}. Only numpy arrays, scalars and builtin containers are read from a "
                "pickle, because anything else can run code. If you trust its source, write it again as plain arrays."
            ) from error
        except (
            pickle.UnpicklingError, EOFError, AttributeError, LookupError, TypeError, ValueError, struct.error,
        ) as error:  # fmt: skip
            raise ValueError(f"{path} is no readable pickle, or cut off: {error}. Copy it again.") from error
