"""Limits on what a pickle may build: a file of a few hundred bytes can ask for more than a computer holds.

keys     scalars and flat tuples: the hash of nested tuples takes exponential time, or overflows the stack
steps    opcodes of the file, and the entries that its sets copy
shapes   an array without data has few rows
result   no cycles, few levels, and not many entries even if shared lists are counted wherever they occur
"""

import math
from collections.abc import Callable, Collection
from typing import Any


MAX_STEPS = 1_000_000
BYTES_PER_STEP = 8  # a larger file may take more steps
COPY_STEPS = 4  # for each entry that is copied
MAX_LINE_BYTES = 64 << 20  # of protocol 0, which writes arrays as text
MAX_AXES = 32
MAX_EMPTY_ROWS = 1_000_000
MAX_LEVELS = 64
MAX_ENTRIES = 50_000_000

SCALARS = (str, bytes, int, float, bool, type(None))


def check_key(key: Any) -> None:
    """Check a key of a dict or an element of a set.

    Raises:
        ValueError: it is neither a scalar nor a tuple of scalars.
    """
    parts = key if type(key) is tuple else (key,)
    if not all(type(part) in SCALARS for part in parts):
        raise ValueError(f"a key that is not text, a number or a tuple of them, but a {type(key).__name__}")


def check_elements(items: Any) -> list[Any] | tuple[Any, ...]:
    """The elements of a set, unchanged.

    Raises:
        ValueError: they are not in a list or a tuple, or one of them may not be in a set.
    """
    if type(items) not in (list, tuple):
        raise ValueError(f"a set of the elements of a {type(items).__name__}")
    for item in items:
        check_key(item)
    return items


def check_shape(shape: tuple[int, ...], item_bytes: int) -> None:
    """Check that an array does not claim many rows without data.

    Raises:
        ValueError: too many axes, or too many rows without a byte.
    """
    if len(shape) > MAX_AXES:
        raise ValueError(f"an array with {len(shape)} axes")
    is_empty = item_bytes * math.prod(shape) == 0
    if is_empty and math.prod(size for size in shape if size) > MAX_EMPTY_ROWS:
        raise ValueError("an array with many rows and no data")


def check_result(value: Any, children_of: Callable[[Any], Collection[Any]]) -> None:
    """Check the value of a pickle: every container is measured once, after those in it.

    Args:
        value: what was read.
        children_of: the values in a container; empty for anything else.

    Raises:
        ValueError: a container contains itself, or there are too many levels or entries.
    """
    measured: dict[int, int] = {}  # id -> entries
    path: set[int] = set()  # ids of the containers that are being measured
    stack = [value]
    while stack:
        container = stack[-1]
        inner = [child for child in children_of(container) if children_of(child)]
        if id(container) not in measured and id(container) not in path:
            path.add(id(container))
            if len(path) > MAX_LEVELS:
                raise ValueError(f"lists or dicts nested more than {MAX_LEVELS} deep")
            if any(id(child) in path for child in inner):
                raise ValueError("a list or dict that contains itself")
            stack += [child for child in inner if id(child) not in measured]
            continue
        stack.pop()
        path.discard(id(container))
        entries = len(children_of(container)) + sum(measured[id(child)] for child in inner)
        if entries > MAX_ENTRIES:
            raise ValueError(f"more than {MAX_ENTRIES} entries, where a shared list counts each time")
        measured[id(container)] = entries
