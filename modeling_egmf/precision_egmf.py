"""Precision: EGMF's own modules and the answers' logits are in float32, whatever the language model's precision.

    model.half(), model.to(torch.bfloat16) ─► the language model is cast, an `EGMFFloat32Module` is not
    torch.autocast ─────────────────────────► off inside methods with `@in_float32`
    inputs.to(device, model.dtype) ─────────► cast back to float32
    float32_logits ─────────────────────────► a hook of the output layer computes its 16-bit logits again

The modules are small, so 16 bits would save next to nothing, and they have steps that 16 bits break: a silent
spectrogram is log(0) in float16, which cannot hold the statistics of features either.

In 16 bits, the logits of different answers round to the same number, and to a different one in another batch. The
output layer is therefore computed in float32 from the last hidden states, a few rows of its weights at a time. What
the model does with its logits afterwards, such as scaling or capping them, still applies. Quantized and sharded output
layers keep their own computation.
"""

# D width of the language model  V vocabulary

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils.generic import maybe_autocast

from .weights_egmf import in_memory


SIXTEEN_BITS = (torch.float16, torch.bfloat16)
# Elements of a large matrix that are processed at a time.
CHUNK_ELEMENTS = 2**24
CPU_CHUNK_ELEMENTS = 2**18


class EGMFFloat32Module(nn.Module):
    """A module whose weights, in float32 or of a frozen backbone in 16 bits, are moved between devices, never cast."""

    def _apply(
        self,
        fn: Callable[[Tensor], Tensor],
        recurse: bool = True,
    ) -> "EGMFFloat32Module":
        def keep_precision(tensor: Tensor) -> Tensor:
            applied = fn(tensor)
            if tensor.itemsize <= 4 and applied.dtype != tensor.dtype:
                return tensor.to(applied.device)
            return applied

        return super()._apply(keep_precision, recurse)


def in_float32(method: Callable[..., Any]) -> Callable[..., Any]:
    """Run a method of tensors in float32: without autocast, and with tensors of other precisions cast to float32."""

    @wraps(method)
    def run(module: nn.Module, *tensors: Tensor) -> Any:
        widened = [tensor.float() if tensor.is_floating_point() else tensor for tensor in tensors]
        with maybe_autocast(widened[0].device.type, enabled=False):
            return method(module, *widened)

    return run


# ---- logits --------------------------------------------------------------------------------------------------------


def float32_chunks(matrix: Tensor) -> Iterator[Tensor]:
    """Consecutive rows of a matrix in float32, few enough at a time to stay in a CPU's cache."""
    chunk_elements = CPU_CHUNK_ELEMENTS if matrix.device.type == "cpu" else CHUNK_ELEMENTS
    rows_per_chunk = max(chunk_elements // matrix.shape[1], 1)
    for chunk in matrix.split(rows_per_chunk):
        yield chunk.float()


def float32_linear(states: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """states (..., D), weight (V, D), bias (V,) -> (..., V), without a float32 copy of the whole weight.

    The logits are written into one tensor: joining chunks would take their memory twice.
    """
    with torch.autocast(states.device.type, enabled=False):
        states = states.float()
        logits = states.new_empty(*states.shape[:-1], len(weight))
        start = 0
        for rows in float32_chunks(weight):
            logits[..., start : start + len(rows)] = nn.functional.linear(states, rows)
            start += len(rows)
    return logits if bias is None else logits.add_(bias)


@contextmanager
def float32_logits(language_model: PreTrainedModel) -> Iterator[None]:
    """Within the context, this thread's calls of the language model compute 16-bit logits again in float32.

    Args:
        language_model: a model without an output layer keeps its own computation.
    """
    owner = threading.get_ident()

    def widen(layer: nn.Linear, inputs: tuple[Tensor], logits: Tensor) -> Tensor:
        if threading.get_ident() != owner or logits.dtype not in SIXTEEN_BITS:
            return logits
        # A device map may have offloaded them.
        with in_memory(layer):
            return float32_linear(inputs[0], layer.weight, layer.bias)

    output_layer = language_model.get_output_embeddings()
    layers = output_layer.modules() if output_layer is not None else ()
    # An adapter's own layers come after the one that it adapts.
    linear = next((layer for layer in layers if isinstance(layer, nn.Linear)), None)
    hook = nullcontext()
    # Quantized and sharded weights have types of their own.
    if type(linear) is nn.Linear and type(linear.weight) is nn.Parameter:
        hook = linear.register_forward_hook(widen)
    with hook:
        yield
