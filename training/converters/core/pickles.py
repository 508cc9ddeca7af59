"""Pickles from untrusted sources: NumPy arrays, scalars and builtin containers, and nothing else.

`pickle.load` runs whatever a file asks for. Here a file may ask only for the names in `ADMITTED` below, each of which
maps to a function of this module; any other name is refused. Array data is not read: a `PickledArray` knows where its
data is in the file, so a file of any size is opened with little memory, and rows are read one at a time.

    read_pickle(path) ─► dicts, lists, strings, numbers, and PickledArray ─► array[i] reads one row from the file
"""

import math
import os
import pickle
import re
import struct
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np

from ...data.text_files import shorten, shorten_path
from ...records import check_placeholder
from .pickle_limits import (
    BYTES_PER_STEP,
    COPY_STEPS,
    MAX_LINE_BYTES,
    MAX_STEPS,
    check_elements,
    check_key,
    check_result,
    check_shape,
)
from .pickle_spans import LONG, Span, mark_characters


class PickledArray:
    """A NumPy array left in its file: `array[i]` reads entry i of the first axis, `np.asarray` all of it."""

    def __init__(self) -> None:
        self.span: Span | None = None
        self.items: list[Any] | None = None  # only for an array of objects
        self.shape: tuple[int, ...] = ()
        self.dtype = np.dtype("O")
        self.fortran = False
        self.loaded: np.ndarray | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "loaded": None}

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        if self.span is None:
            return f"PickledArray({self.shape}, {self.dtype.str}, {shorten(self.items)})"
        place = f"{os.path.basename(self.span.path)}:{self.span.offset}"
        return f"PickledArray({self.shape}, {self.dtype.str}, {place})"

    def __getitem__(self, index: int) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(index)
        if self.items is not None and len(self.shape) == 1:
            return self.items[index]
        if self.items is not None or self.fortran:
            if self.loaded is None:
                self.loaded = np.asarray(self)  # its rows are not contiguous: read once
            return self.loaded[index]
        row_bytes = self.dtype.itemsize * math.prod(self.shape[1:])
        data = self.span.read(index * row_bytes, (index + 1) * row_bytes)
        values = np.frombuffer(data, self.dtype)
        if len(self.shape) == 1:
            return values[0].item()
        return values.reshape(self.shape[1:])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if self.items is not None:
            values = np.empty(len(self.items), object)
            values[:] = self.items
        else:
            values = np.frombuffer(self.span.read(0, self.num_bytes), self.dtype)
        values = values.reshape(self.shape, order="F" if self.fortran else "C")
        return values if dtype is None else values.astype(dtype)

    @property
    def num_bytes(self) -> int:
        """Size of the array's data."""
        return self.dtype.itemsize * math.prod(self.shape)

    def build(self, data: Any, dtype: np.dtype, shape: Any, fortran: bool) -> "PickledArray":
        """Fill in type, shape and data as stated by the file.

        Raises:
            ValueError: the shape is invalid or does not fit the data.
        """
        shape = _check_shape(shape)
        check_shape(shape, dtype.itemsize)
        self.dtype = dtype
        self.shape = shape
        self.fortran = bool(fortran) and len(shape) > 1
        if dtype.kind == "O":
            if not isinstance(data, list) or len(data) != math.prod(shape):
                raise ValueError("an array of objects without its objects")
            self.items = data
            return self
        if isinstance(data, str):  # Python 2 wrote its bytes as text
            data = data.encode("utf-8", "surrogateescape")
        if isinstance(data, bytes | bytearray):
            data = Span("", 0, len(data), bytes(data))
        num_bytes = data.decoded_size if isinstance(data, Span) else -1
        if num_bytes != self.num_bytes:
            raise ValueError(
                f"an array of shape {shorten(shape)} and type {dtype} has {num_bytes} bytes, "
                f"not {shorten(self.num_bytes)}"
            )
        self.span = data
        return self

    def set_state(self, state: Any) -> None:
        """The state that NumPy writes after an array: version, shape, type, order, bytes."""
        _, shape, dtype, fortran, data = state
        self.build(data, dtype.numpy_dtype, shape, fortran)


def _check_shape(shape: Any) -> tuple[int, ...]:
    if shape == ():
        return (1,)  # an array that holds a single number
    if not isinstance(shape, tuple) or not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError(f"an array has the invalid shape {shorten(shape)}")
    return shape


def array_shape(values: Any) -> tuple[int, ...]:
    """Shape of nested lists, or of a pickled array without reading its data; () for anything else."""
    if isinstance(values, PickledArray):
        return values.shape
    try:
        return np.shape(values)
    except ValueError:  # lists of different lengths
        return ()


class _DType:
    """A NumPy dtype of numbers, text or objects; structured dtypes are refused."""

    def __init__(self, name: Any, align: Any = False, copy: Any = False) -> None:
        if not isinstance(name, str) or not re.fullmatch(r"[<>=|]?[fiubUSO][0-9]{0,9}", name):
            raise ValueError(f"an array of type {shorten(name)}; only numbers and text are read")
        self.numpy_dtype = np.dtype(name)

    def set_state(self, state: Any) -> None:
        """Apply the byte order; nothing else in the state is needed."""
        byte_order = state[1]
        if byte_order in ("<", ">"):
            self.numpy_dtype = self.numpy_dtype.newbyteorder(byte_order)


def _reconstruct(kind: Any, shape: Any, code: Any) -> PickledArray:
    if kind is not _array_type:
        raise ValueError("an array of an unknown kind")
    return PickledArray()


def _array_type(*_: Any) -> None:
    raise ValueError("an array that is built in an unusual way")


def _scalar(dtype: Any, data: Any) -> Any:
    if dtype.numpy_dtype.kind == "O":
        raise ValueError("a numpy scalar that is an object")
    return PickledArray().build(data, dtype.numpy_dtype, (1,), False)[0]


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> PickledArray:
    return PickledArray().build(data, dtype.numpy_dtype, shape, order == "F")


def _encode(text: Any, encoding: Any) -> bytes | Span:
    if encoding not in ("latin1", "latin-1"):
        raise ValueError(f"bytes written as {shorten(encoding)}")
    return mark_characters(text) if isinstance(text, Span) else text.encode("latin-1")


def _no_bytes() -> bytes:
    return b""


def _set(items: Any = ()) -> set:
    return set(check_elements(items))


def _frozenset(items: Any = ()) -> frozenset:
    return frozenset(check_elements(items))


def child_values(value: Any) -> Collection[Any]:
    """The values in a container; its keys, and the elements of sets, are scalars or tuples of scalars."""
    if isinstance(value, dict):
        return value.values()
    if isinstance(value, PickledArray):
        return value.items or ()
    return value if type(value) in (list, tuple) else ()


# (module, name) in the file -> the function called for it. NumPy 2 renamed `core`, Python 3 renamed `__builtin__`.
ADMITTED: dict[tuple[str, str], Callable] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("numpy._core.numeric", "_frombuffer"): _from_buffer,
    ("numpy", "ndarray"): _array_type,
    ("numpy", "dtype"): _DType,
    ("_codecs", "encode"): _encode,
    ("builtins", "set"): _set,
    ("__builtin__", "set"): _set,
    ("builtins", "frozenset"): _frozenset,
    ("__builtin__", "frozenset"): _frozenset,
    ("builtins", "bytes"): _no_bytes,
    ("__builtin__", "bytes"): _no_bytes,
}


class _RefusedError(ValueError):
    """The file asks for something that is not in `ADMITTED`."""


class _File:
    """A file that raises EOFError when it ends too early."""

    def __init__(self, path: Path) -> None:
        self.path = str(path.resolve())
        self.file = path.open("rb")
        self.size = path.stat().st_size
        self.steps = 0
        self.max_steps = MAX_STEPS + self.size // BYTES_PER_STEP

    def count_steps(self, count: int) -> None:
        self.steps += count
        if self.steps > self.max_steps:
            raise ValueError(f"more than {self.max_steps} steps")

    def read(self, count: int) -> bytes:
        self.count_steps(1)  # the unpickler reads each opcode on its own
        data = self.file.read(count)
        if len(data) < count:
            raise EOFError(f"it ends after {self.size} bytes")
        return data

    def readline(self) -> bytes:
        line = self.file.readline(MAX_LINE_BYTES)
        if len(line) == MAX_LINE_BYTES:
            raise ValueError(f"a line of more than {MAX_LINE_BYTES} bytes")
        return line

    def skip(self, count: int) -> Span:
        """Skip the next bytes without reading them."""
        offset = self.file.tell()
        if count < 0 or offset + count > self.size:
            raise EOFError(f"it ends after {self.size} bytes, before an array does")
        self.file.seek(count, os.SEEK_CUR)
        return Span(self.path, offset, count)


class _Unpickler(pickle._Unpickler):
    """The standard library's unpickler in Python, restricted.

    Every callable that can reach its stack is in `ADMITTED`; only arrays and their dtypes have their state set.
    """

    dispatch = dict(pickle._Unpickler.dispatch)

    def __init__(self, file: _File) -> None:
        # Strings of Python 2 come back unchanged, whether or not they were UTF-8.
        super().__init__(file, encoding="utf-8", errors="surrogateescape")
        self.source = file

    def find_class(self, module: str, name: str) -> Callable:
        if (module, name) not in ADMITTED:
            raise _RefusedError(f"it tries to load {shorten_path(f'{module}.{name}')}")
        return ADMITTED[module, name]

    def _load_bytes(self, form: str) -> None:
        size = struct.unpack(form, self.read(struct.calcsize(form)))[0]
        self.append(self.source.skip(size) if size >= LONG else self.read(size))

    def _load_text(self, form: str) -> None:
        size = struct.unpack(form, self.read(struct.calcsize(form)))[0]
        # Text of this length is usually an array written by protocol 2; if it really is text, `str` reads it.
        self.append(self.source.skip(size) if size >= LONG else str(self.read(size), "utf-8", "surrogatepass"))

    def _load_frame(self) -> None:
        self.read(8)  # a frame's header only tells how much to read ahead

    def _load_reduce(self) -> None:
        """Call an admitted function; what it copies or reads again counts as steps."""
        for argument in self.stack[-1]:
            if isinstance(argument, Span):
                self.source.count_steps(argument.size // LONG)
            elif isinstance(argument, list | tuple):
                self.source.count_steps(COPY_STEPS * len(argument))
        self.load_reduce()

    def _load_dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        self._set_items(items)

    def _load_set_item(self) -> None:
        value = self.stack.pop()
        key = self.stack.pop()
        self._set_items([key, value])

    def _load_set_items(self) -> None:
        self._set_items(self.pop_mark())

    def _set_items(self, items: list[Any]) -> None:
        """Keys and values in turn, into the dict on top of the stack."""
        entries = self.stack[-1]
        if type(entries) is not dict or len(items) % 2:
            raise ValueError(f"entries of a dict in a {type(entries).__name__}, or a key without a value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            check_key(key)
            entries[key] = value

    def _load_add_items(self) -> None:
        items = self.pop_mark()
        elements = self.stack[-1]
        if type(elements) is not set:
            raise ValueError(f"elements of a set in a {type(elements).__name__}")
        elements.update(check_elements(items))

    def _load_frozenset(self) -> None:
        items = self.pop_mark()
        self.append(_frozenset(items))

    def _load_append(self) -> None:
        value = self.stack.pop()
        self._extend([value])

    def _load_appends(self) -> None:
        self._extend(self.pop_mark())

    def _extend(self, items: list[Any]) -> None:
        values = self.stack[-1]
        if type(values) is not list:
            raise ValueError(f"entries of a list in a {type(values).__name__}")
        values.extend(items)

    def _load_object(self) -> None:
        raise _RefusedError("it tries to build an object")

    def _load_build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if not isinstance(target, PickledArray | _DType):
            raise _RefusedError(f"it sets the state of a {type(target).__name__}")
        target.set_state(state)

    def _load_extension(self) -> None:
        raise _RefusedError("it tries to load a registered extension")

    dispatch[pickle.BINBYTES[0]] = lambda self: self._load_bytes("<I")
    dispatch[pickle.BINBYTES8[0]] = lambda self: self._load_bytes("<Q")
    dispatch[pickle.BYTEARRAY8[0]] = lambda self: self._load_bytes("<Q")
    dispatch[pickle.BINUNICODE[0]] = lambda self: self._load_text("<I")
    dispatch[pickle.BINUNICODE8[0]] = lambda self: self._load_text("<Q")
    dispatch[pickle.FRAME[0]] = _load_frame
    dispatch[pickle.BUILD[0]] = _load_build
    dispatch[pickle.REDUCE[0]] = _load_reduce
    dispatch[pickle.DICT[0]] = _load_dict
    dispatch[pickle.SETITEM[0]] = _load_set_item
    dispatch[pickle.SETITEMS[0]] = _load_set_items
    dispatch[pickle.ADDITEMS[0]] = _load_add_items
    dispatch[pickle.FROZENSET[0]] = _load_frozenset
    dispatch[pickle.APPEND[0]] = _load_append
    dispatch[pickle.APPENDS[0]] = _load_appends
    for _code in (pickle.INST, pickle.OBJ, pickle.NEWOBJ, pickle.NEWOBJ_EX):
        dispatch[_code[0]] = _load_object
    for _code in (pickle.EXT1, pickle.EXT2, pickle.EXT4):
        dispatch[_code[0]] = _load_extension


# Exceptions that an unpickler raises on a damaged file.
BROKEN = (
    pickle.UnpicklingError,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    RecursionError,
    SystemError,
    TypeError,
    ValueError,
    struct.error,
)


def read_pickle(path: str | Path) -> Any:
    """Read a pickle without running anything in it, and within the limits of pickle_limits.py.

    Args:
        path: the file; any protocol, written by Python 2 or 3.

    Returns:
        The pickled value; every NumPy array is a `PickledArray`, NumPy scalars are Python numbers.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it asks for anything but NumPy arrays, scalars and builtin containers (the message names it), is
            truncated, exceeds a limit, or is not a pickle.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist, or is not a file. Check the path.")
    check_placeholder(path)
    file = _File(path)
    with file.file:
        try:
            value = _Unpickler(file).load()
            check_result(value, child_values)
        except _RefusedError as error:
            raise ValueError(
                f"{path} is refused: {error}. Only NumPy arrays, scalars and builtin containers are read from a "
                "pickle, because anything else can run code. If you trust its source, save it again as plain arrays."
            ) from error
        except BROKEN as error:
            reason = shorten_path(str(error)) or type(error).__name__
            raise ValueError(
                f"{path} is not a readable pickle, or was cut off: {reason} (at byte {file.file.tell()}). "
                "Copy it again."
            ) from error
    return value
