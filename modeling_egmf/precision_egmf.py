"""Logits in float32, whatever the precision of the language model.

In 16 bits, the logits of different answers round to the same number, and to a different one in another batch. The
output layer is therefore computed in float32 from the last hidden states, a few rows of its weights at a time:

    float32_logits ─► hooks of the output layer ─► Float32Projection ─► project_in_float32

What the model does with its logits afterwards, such as scaling or capping them, still applies. Quantized and sharded
output layers keep their own computation.
"""

# R rows  D width of the language model  V vocabulary

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel


CHUNK_ELEMENTS = 2**24  # elements of a large matrix that are processed at a time
CPU_CHUNK_ELEMENTS = 2**18


def float32_chunks(matrix: Tensor) -> Iterator[Tensor]:
    """Consecutive rows of a matrix in float32, few enough at a time to stay in a CPU's cache."""
    chunk_elements = CPU_CHUNK_ELEMENTS if matrix.device.type == "cpu" else CHUNK_ELEMENTS
    rows_per_chunk = max(chunk_elements // matrix.shape[1], 1)
    for chunk in matrix.split(rows_per_chunk):
        yield chunk.float()


class Float32Projection(TorchFunctionMode):
    """While it is active, linear layers with ordinary 16-bit weights give float32; autocast does not apply to them."""

    def __torch_function__(
        self,
        function: Callable,
        types: tuple[type, ...],
        args: tuple = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if function is nn.functional.linear:
            return self.project(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))

    def project(self, states: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """states (..., D), weight (V, D), bias (V,) -> (..., V)."""
        is_ordinary = type(weight) in (Tensor, nn.Parameter)  # quantized and sharded weights have types of their own
        if not is_ordinary or weight.dtype not in (torch.float32, torch.bfloat16, torch.float16):
            return nn.functional.linear(states, weight, bias)
        with torch.autocast(states.device.type, enabled=False):
            if weight.dtype == torch.float32:
                return nn.functional.linear(states.float(), weight, bias)
            logits = project_in_float32(states.flatten(0, -2), weight)
            if bias is not None:
                logits += bias
        return logits.view(*states.shape[:-1], len(weight))


def project_in_float32(states: Tensor, weight: Tensor) -> Tensor:
    """states (R, D), weight (V, D) -> (R, V) in float32, without a float32 copy of the whole weight."""
    states = states.float()
    logits = states.new_empty(len(states), len(weight))
    start = 0
    for chunk in float32_chunks(weight):
        logits[:, start : start + len(chunk)] = states @ chunk.T
        start += len(chunk)
    return logits


@contextmanager
def float32_logits(language_model: PreTrainedModel) -> Iterator[None]:
    """Within the context, this thread's calls of the language model compute their logits in float32.

    Args:
        language_model: a model without an output layer keeps its own computation.
    """
    output_layer = language_model.get_output_embeddings()
    if output_layer is None:
        yield
        return
    projection = Float32Projection()
    owner = threading.get_ident()

    def enter(*_: Any) -> None:
        if threading.get_ident() == owner:
            projection.__enter__()

    def leave(*_: Any) -> None:
        if threading.get_ident() == owner:
            projection.__exit__(None, None, None)

    with output_layer.register_forward_pre_hook(enter), output_layer.register_forward_hook(leave, always_call=True):
        yield
