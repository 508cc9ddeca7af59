"""Precision: what EGMF adds to the language model stays in float32, whatever precision the language model has.

    model.half(), model.to(torch.bfloat16) ─► the language model is cast, an `EGMFFloat32Module` is not
    torch.autocast ─────────────────────────► off inside methods with `@in_float32`
    inputs.to(device, model.dtype) ─────────► cast back to float32

These modules are small, so 16 bits would save next to nothing, and they have steps that 16 bits break: a silent
spectrogram is log(0) in float16, which cannot hold the statistics of features either.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils.generic import maybe_autocast


SIXTEEN_BITS = (torch.float16, torch.bfloat16)


class EGMFFloat32Module(nn.Module):
    """A module whose float32 parameters and buffers are moved between devices, but never cast to 16 bits."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "EGMFFloat32Module":
        def keep_precision(tensor: Tensor) -> Tensor:
            applied = fn(tensor)
            if tensor.dtype == torch.float32 and applied.dtype in SIXTEEN_BITS:
                return tensor.to(applied.device)
            return applied

        return super()._apply(keep_precision, recurse)


def in_float32(method: Callable[..., Any]) -> Callable[..., Any]:
    """Run a method of tensors in float32: without autocast, and with 16-bit tensors cast to float32."""

    @wraps(method)
    def run(module: nn.Module, *tensors: Tensor) -> Any:
        widened = [tensor.float() if tensor.dtype in SIXTEEN_BITS else tensor for tensor in tensors]
        with maybe_autocast(widened[0].device.type, enabled=False):
            return method(module, *widened)

    return run
