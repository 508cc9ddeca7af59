"""Weights split over processes by FSDP2: gathers only what an adapter checkpoint holds.

A checkpoint is the same file whether or not the weights were split: float32, the names of our own state dict, the
frozen language model left out and never gathered.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager

import torch
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from modeling_egmf.checkpoints_egmf import keys_stored_elsewhere


def num_elements(parameter: torch.nn.Parameter) -> int:
    """How many numbers a parameter holds, also where two of them share a byte in 4 bit."""
    packed = type(parameter).__name__ == "Params4bit" and parameter.dtype == torch.uint8
    return parameter.numel() * (2 if packed else 1)


def zero_through_all(model: PreTrainedModel) -> torch.Tensor:
    """0, computed from every trained parameter in front of the language model.

    An encoder is not used where a batch lacks its modality, but processes that split weights must exchange the same
    gradients.
    """
    return sum(parameter.sum() for parameter in model.egmf.parameters() if parameter.requires_grad) * 0


def widen_scalars(model: PreTrainedModel) -> set[str]:
    """Give parameters of no dimension one, because FSDP2 splits no scalars; sums and products do not change.

    Returns:
        their names.
    """
    scalars = {name: parameter for name, parameter in model.named_parameters() if parameter.ndim == 0}
    for name, parameter in scalars.items():
        module, _, own_name = name.rpartition(".")
        wide = torch.nn.Parameter(parameter.detach().reshape(1), requires_grad=parameter.requires_grad)
        setattr(model.get_submodule(module), own_name, wide)
    return set(scalars)


def gather_adapter_state(model: PreTrainedModel, scalars: Collection[str], keep: bool) -> dict[str, torch.Tensor]:
    """What a checkpoint of the model holds, each tensor complete and on the CPU. Every process must call this.

    Args:
        model: split by FSDP2.
        scalars: from `widen_scalars`.
        keep: whether this process needs the tensors; the others help to gather them and get an empty dict.
    """
    stored_elsewhere = keys_stored_elsewhere(model)
    state = {}
    for name, value in model.state_dict(keep_vars=True).items():
        if name in stored_elsewhere:
            continue
        gathered = value.full_tensor() if isinstance(value, DTensor) else value
        if keep:
            tensor = gathered.detach().to("cpu", copy=True)
            state[name] = tensor.reshape(()) if name in scalars else tensor
    return state


def load_adapter_state(model: PreTrainedModel, scalars: Collection[str], state: dict[str, torch.Tensor]) -> None:
    """Load an adapter checkpoint into a model, split by FSDP2 or not; every process passes the same state.

    Args:
        model: the model.
        scalars: from `widen_scalars`; empty where nothing is split.
        state: weights by the names of our state dict.

    Raises:
        ValueError: a name is missing or unexpected.
    """
    expected = set(model.state_dict()) - keys_stored_elsewhere(model)
    missing = sorted(expected - set(state))
    unexpected = sorted(set(state) - expected)
    if missing or unexpected:
        raise ValueError(
            f"The checkpoint does not fit the model. Missing: {missing[:5]}, unexpected: {unexpected[:5]}. "
            "Resume with the settings that it was trained with."
        )
    state = {name: tensor.reshape(1) if name in scalars else tensor for name, tensor in state.items()}
    if isinstance(model, FSDPModule):
        options = StateDictOptions(full_state_dict=True, strict=False)
        set_model_state_dict(model, state, options=options)
    else:
        model.load_state_dict(state, strict=False)


@contextmanager
def unwrapped_class(model: torch.nn.Module) -> Iterator[None]:
    """FSDP2 gives a model a class of its own; a saved model must name ours."""
    wrapped = type(model)
    if isinstance(model, FSDPModule):
        model.__class__ = next(base for base in wrapped.__mro__ if not issubclass(base, FSDPModule))
    try:
        yield
    finally:
        model.__class__ = wrapped
