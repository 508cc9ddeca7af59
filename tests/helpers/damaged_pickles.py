"""Damaged pickles and .npy files, for damage.py."""

import io
import math
import os
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import processing_egmf.media_egmf  # noqa: F401, which reading a placeholder imports
from tests.helpers.damage import Case, damage_file
from training.converters.core.arrays import load_npy
from training.converters.core.conversion_report import ConversionReport
from training.converters.core.pickle_spans import Span
from training.converters.core.pickles import PickledArray, read_pickle


class MakesFolder:
    """Creates a folder when a plain `pickle.load` reads it."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple:
        return os.mkdir, (self.path,)


VALUE = {
    "train": {
        "id": ["a$_$1", "b$_$2"],
        "audio": np.arange(600.0).reshape(2, 300),
        "n": [{1}, (2, "x"), 3.5, None, True, 2**40, b"bytes"],
        "annotations": np.array(["Positive", "Negative"], dtype=object),
        "regression_labels": np.float32(0.5),
    }
}
NPY = np.linspace(-1, 1, 20, dtype=np.float32).reshape(5, 4)
ALLOWED = ("_reconstruct", "ndarray", "dtype", "scalar", "_frombuffer", "encode", "set")


def make_inputs(folder: Path) -> Callable[[int, random.Random | None, Path], Case]:
    originals = {}
    for protocol in range(6):
        originals[f"plain{protocol}.pkl"] = pickle.dumps(VALUE, protocol)
    for protocol in range(6):
        originals[f"crafted{protocol}.pkl"] = pickle.dumps([VALUE, MakesFolder(folder / "ran")], protocol)
    npy = io.BytesIO()
    np.save(npy, NPY)
    originals["a.npy"] = npy.getvalue()
    names = [*originals, "a.npy", "a.npy", *list(originals)[:6]]

    def damaged(index: int, rng: random.Random | None, place: Path) -> Case:
        path = place / names[index % len(names)]
        path.write_bytes(originals[path.name])
        leaves_value = rng is not None and index % 7 == 0
        if leaves_value:
            way = "bytes at the end"
            path.write_bytes(originals[path.name] + rng.randbytes(20))
        else:
            way = damage_file(path, rng)
        if path.suffix == ".npy":
            return Case(
                f"{path.name} {way}", (path.name,), lambda: read_npy(path), lambda *found: compare_npy(path, *found)
            )

        def compare(value: Any, _: str) -> str:
            if (folder / "ran").exists():
                return "code run"
            if path.name.startswith("plain") and same(value, VALUE):
                return "right"
            if leaves_value:
                return f"other value {str(value)[:200]}"
            expected = PlainUnpickler(io.BytesIO(path.read_bytes())).load()
            return "as written" if same(value, expected) else f"other value {str(value)[:200]}"

        return Case(f"{path.name} {way}", (path.name,), lambda: as_plain(read_pickle(path)), compare)

    return damaged


class PlainUnpickler(pickle.Unpickler):
    """Python's own unpickler, for arrays and builtin containers."""

    def find_class(self, module: str, name: str) -> Any:
        if name not in ALLOWED:
            raise ValueError(f"{module}.{name}")
        return super().find_class(module, name)


def as_plain(value: Any) -> Any:
    """A value with all its arrays read."""
    if isinstance(value, PickledArray):
        return np.asarray(value)
    if isinstance(value, Span):
        return value.read(0, value.decoded_size)
    if isinstance(value, dict):
        return {key: as_plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(as_plain, value))
    return value


def same(first: Any, second: Any) -> bool:
    """Whether two values are equal; NaN equals NaN, and a NumPy scalar its number."""
    if isinstance(first, np.ndarray) or isinstance(second, np.ndarray):
        first, second = np.asarray(first), np.asarray(second)
        if first.shape != second.shape or first.dtype.kind != second.dtype.kind:
            return False
        return all(map(same, first.ravel().tolist(), second.ravel().tolist()))
    if isinstance(first, dict) and isinstance(second, dict):
        return same(list(first.items()), list(second.items()))
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    if isinstance(first, float | np.floating) and isinstance(second, float | np.floating):
        return float(first) == float(second) or (math.isnan(first) and math.isnan(second))
    return bool(first == second)


def read_npy(path: Path) -> np.ndarray:
    """Read a .npy file; what the converters report and leave out is an error here."""
    report = ConversionReport()
    values = load_npy(path, path.name, "audio", report)
    if values is None:
        raise ValueError(f"{path.name}: {', '.join(report.reasons['repaired'])}")
    return values


def compare_npy(path: Path, values: np.ndarray, _: str) -> str:
    if same(values, NPY):
        return "right"
    return "as written" if same(values, np.load(path, allow_pickle=False)) else f"other value {str(values)[:200]}"
