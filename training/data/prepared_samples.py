"""Keeps prepared samples in memory, as far as there is room: after the first epoch, nothing is read or tokenized."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.utils.data import get_worker_info


MAX_BYTES = 2**28
ITEM_BYTES = 32  # of a number in a list, or of anything else


class PreparedSamples(dict):
    """Index of an example, and number of its voice copy or 0 -> what was prepared for it.

    Worker processes keep nothing, because each would keep all of it. The limit is that of one dataset: a training set
    has one for pretraining and one for training.

    Args:
        max_bytes: what does not fit is not kept.
    """

    def __init__(self, max_bytes: int = MAX_BYTES):
        super().__init__()
        self.bytes_left = max_bytes

    def keep(self, use: tuple[int, int], prepared: tuple[list[str], dict[str, Any]]) -> None:
        """Keep a sample if there is room. Nobody may change it afterwards."""
        if get_worker_info() is not None:
            return
        size = size_of(prepared)
        if size <= self.bytes_left:
            self.bytes_left -= size
            self[use] = prepared


def size_of(value: Any) -> int:
    """Approximate bytes of nested lists, dicts, arrays and tensors."""
    if isinstance(value, (np.ndarray, torch.Tensor)):
        return value.nbytes
    if isinstance(value, str):
        return ITEM_BYTES + len(value)
    if isinstance(value, Mapping):
        return sum(size_of(name) + size_of(entry) for name, entry in value.items())
    if isinstance(value, (list, tuple)):
        return ITEM_BYTES + sum(map(size_of, value))
    return ITEM_BYTES
