"""Sequences of feature vectors: what is wrong with those of the public releases, and how it is mended."""

# T steps of the array, padding included  F feature width

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from .conversion_report import ConversionReport


LIMIT = 1e4  # beyond it, sums over a vector overflow half precision


def repair_sequence(
    values: Any, length: int | None, name: str, modality: str, report: ConversionReport, width: int | None = None
) -> np.ndarray | None:
    """One sample's vectors without padding, finite and within `LIMIT`.

    - NaN and infinite numbers become 0.
    - Numbers beyond LIMIT are clipped to it.
    - A length that ends before the last vector that is not zero was taken from a zero vector in the middle: it is put
      right. Without a length, the last vector that is not zero ends the sequence.
    - Zeros in front (padding at the wrong end) go, where no length says that they are meant.
    - Nothing but zeros, no numbers, or another width than the corpus has: the sequence is left out.

    Args:
        values: (T, F), or (F,) for a single vector.
        length: steps that are no padding, or None.
        name: the row, for the report.
        modality: `audio` or `video`, for the report.
        report: takes every repair.
        width: F of the corpus, or None for any.

    Returns:
        (steps, F) float32 with 1 <= steps <= T, or None.
    """
    what = f"{modality} features"
    try:
        with np.errstate(over="ignore"):
            values = np.atleast_2d(np.asarray(values, dtype=np.float32))
    except (TypeError, ValueError):
        report.repair(f"{what} are no numbers: left out", name)
        return None
    if values.ndim != 2 or (width is not None and values.size and values.shape[1] != width):
        report.repair(f"{what} of another width than {width}: left out", name)
        return None
    real = np.flatnonzero((values != 0).any(axis=1))  # NaN counts as something
    if len(real) == 0:
        report.repair(f"{what} are all padding: left out", name)
        return None
    first, last = int(real[0]), int(real[-1]) + 1
    start = first if length is None or length <= first else 0
    if start:
        report.repair(f"{what} padded in front: zeros removed", name)
    if length is not None and length > len(values):
        report.repair(f"{what} shorter than their stated length: the array's own taken", name)
        length = len(values)
    if length is not None and length < last and not start:
        report.repair(f"{what} cut at a zero vector by their stated length: length put right", name)
    values = values[start : max(last, length or 0)]
    broken = ~np.isfinite(values)
    if broken.any():
        report.repair(f"{what} NaN or infinite: set to 0", name, int(broken.sum()))
        values = np.where(broken, np.float32(0), values)
        if not values.any():
            report.repair(f"{what} are all padding: left out", name)
            return None
    large = np.abs(values) > LIMIT
    if large.any():
        report.repair(f"{what} beyond {LIMIT:g}: clipped", name, int(large.sum()))
        values = np.clip(values, -LIMIT, LIMIT)
    return np.ascontiguousarray(values, dtype=np.float32)


def common_width(widths: Iterable[int | None]) -> int | None:
    """The width that most rows have, the first of them if they are equally many; None if there is none."""
    counted = Counter(width for width in widths if width)
    return counted.most_common(1)[0][0] if counted else None


def npy_width(path: Path) -> int | None:
    """Last axis of a .npy file of numbers, which are not read; None if it cannot be opened."""
    values = _open_npy(path)
    return values.shape[-1] if values is not None and values.ndim else None


def load_npy(path: Path, name: str, modality: str, report: ConversionReport) -> np.ndarray | None:
    """A .npy file of numbers; one that is missing, damaged or holds objects is told to the report, and None."""
    if not path.is_file():
        report.repair(f"{modality} features missing: left out", name)
        return None
    values = _open_npy(path)
    if values is None:
        report.repair(f"{modality} features cannot be read: left out", name)
        return None
    return np.array(values)


def _open_npy(path: Path) -> np.ndarray | None:
    """The file mapped into memory, so that no header can ask for more than the file holds."""
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception:  # what numpy raises depends on the damage: a damaged header is parsed as Python
        return None
    return values if isinstance(values, np.ndarray) and values.dtype.kind in "fiub" else None
