"""Sequences of feature vectors: the defects of the public releases and their repairs.

Every repair is counted in the conversion report under its example's id.
"""

# T steps of the array, padding included  F feature width

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ...records import check_placeholder
from .conversion_report import ConversionReport


LIMIT = 1e4  # beyond it, sums over a vector overflow half precision


def repair_sequence(
    values: Any,
    length: int | None,
    example_id: str,
    modality: str,
    report: ConversionReport,
    width: int | None = None,
) -> np.ndarray | None:
    """One example's vectors without padding, finite and within `LIMIT`.

    - NaN and infinite numbers become 0.
    - Numbers beyond `LIMIT` are clipped.
    - A stated length that ends before the last nonzero vector was derived from a zero vector in the middle, and is
      corrected. Without a stated length, the sequence ends at its last nonzero vector.
    - Leading zeros (padding at the wrong end) are removed, unless the stated length shows that they are data.
    - A sequence that is all zeros, not numeric, or of a different width than the corpus is left out.

    Args:
        values: (T, F), or (F,) for a single vector.
        length: stated number of steps without padding, or None.
        example_id: for the report.
        modality: `audio` or `video`, for the report.
        report: counts every repair.
        width: F of the corpus, or None for any.

    Returns:
        (steps, F) float32 with 1 <= steps <= T, or None.
    """
    what = f"{modality} features"
    values = _as_float32(values)
    if values is None:
        report.repair(f"{what} are not numbers: left out", example_id)
        return None
    if values.ndim != 2 or (width is not None and values.size and values.shape[1] != width):
        report.repair(f"{what} whose width is not {width}: left out", example_id)
        return None
    if not values.any():  # NaN counts as nonzero
        report.repair(f"{what} are all padding: left out", example_id)
        return None
    values = _remove_padding(values, length, example_id, what, report)
    broken = ~np.isfinite(values)
    if broken.any():
        report.repair(f"{what} with NaN or infinite values: set to 0", example_id, int(broken.sum()))
        values = np.where(broken, np.float32(0), values)
        if not values.any():
            report.repair(f"{what} are all padding: left out", example_id)
            return None
    too_large = np.abs(values) > LIMIT
    if too_large.any():
        report.repair(f"{what} with values beyond {LIMIT:g}: clipped", example_id, int(too_large.sum()))
        values = np.clip(values, -LIMIT, LIMIT)
    return np.ascontiguousarray(values, dtype=np.float32)


def _as_float32(values: Any) -> np.ndarray | None:
    try:
        with np.errstate(over="ignore"):
            return np.atleast_2d(np.asarray(values, dtype=np.float32))
    except (TypeError, ValueError, OverflowError):
        return None


def _remove_padding(
    values: np.ndarray, length: int | None, example_id: str, what: str, report: ConversionReport
) -> np.ndarray:
    """(T, F) → (steps, F)"""
    nonzero = np.flatnonzero((values != 0).any(axis=1))
    first = int(nonzero[0])
    end = int(nonzero[-1]) + 1
    start = first if length is None or length <= first else 0
    if start:
        report.repair(f"{what} padded at the start: zeros removed", example_id)
    if length is not None and length > len(values):
        report.repair(f"{what} shorter than their stated length: length corrected", example_id)
        length = len(values)
    if length is not None and length < end and not start:
        report.repair(f"{what} cut at a zero vector by their stated length: length corrected", example_id)
    return values[start : max(end, length or 0)]


def common_width(widths: Iterable[int | None]) -> int | None:
    """The most frequent width, or the first of those that tie; None if there is none."""
    counts = Counter(width for width in widths if width)
    if not counts:
        return None
    (width, _), *_ = counts.most_common(1)
    return width


# ---- .npy files -----------------------------------------------------------------------------------------------


def npy_width(path: Path) -> int | None:
    """Size of the last axis of a .npy file's array, without reading its data; None if the file cannot be opened."""
    values = _open_npy(path)
    if values is None or values.ndim == 0:
        return None
    return values.shape[-1]


def load_npy(path: Path, example_id: str, modality: str, report: ConversionReport) -> np.ndarray | None:
    """The numbers in a .npy file; None, with an entry in the report, if it is missing, damaged or holds objects."""
    if not os.path.isfile(path):
        report.repair(f"{modality} features missing: left out", example_id)
        return None
    values = _open_npy(path)
    if values is None:
        reason = _placeholder(path) or "cannot be read"
        report.repair(f"{modality} features {reason}: left out", example_id)
        return None
    return np.array(values)


def _placeholder(path: Path) -> str | None:
    """A description for the report if the file is only a placeholder."""
    try:
        check_placeholder(path)
    except ValueError as error:
        return "that are a web page" if "web page" in str(error) else "that are Git LFS or git-annex pointers"
    except OSError:
        pass
    return None


def _open_npy(path: Path) -> np.ndarray | None:
    """Map the file into memory, so that its header cannot claim more data than the file holds."""
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception:  # the type depends on the damage: NumPy parses the header as Python
        return None
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiub":
        return None
    return values
