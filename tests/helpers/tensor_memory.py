"""Count what tensors take in real runs: the peak of allocated bytes, and what a forward keeps for its backward pass.

with TensorMemory() as memory:
    model(**inputs).loss.backward()
memory.peak
"""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class TensorMemory(TorchDispatchMode):
    """Bytes of the tensors created inside the block: `current`, those alive now, and `peak`."""

    def __init__(self):
        super().__init__()
        self.alive: dict[int, int] = {}
        self.current = 0
        self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        outputs = func(*args, **(kwargs or {}))
        inputs = {
            value.untyped_storage()._cdata for value in tree_iter((args, kwargs)) if isinstance(value, torch.Tensor)
        }
        for value in tree_iter(outputs):
            if isinstance(value, torch.Tensor) and value.untyped_storage()._cdata not in inputs:
                self.add(value.untyped_storage())
        return outputs

    def add(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self.alive:
            return
        self.alive[key] = storage.nbytes()
        self.current += storage.nbytes()
        self.peak = max(self.peak, self.current)
        weakref.finalize(storage, self.remove, key)

    def remove(self, key: int) -> None:
        self.current -= self.alive.pop(key)


def kept_bytes(call: Callable[[], Any], model: nn.Module) -> int:
    """Bytes that `call()` keeps for its backward pass, without the weights of the model."""
    weights = {value.untyped_storage().data_ptr() for value in (*model.parameters(), *model.buffers())}
    kept = {}

    def keep(value):
        storage = value.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        result = call()
    del result
    return sum(storage.nbytes() for storage in kept.values())
