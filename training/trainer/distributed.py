"""Weights that are split over processes (FSDP2, DeepSpeed ZeRO-3): gather what a light checkpoint holds, and no more.

A checkpoint is the same file whichever way it was trained: float32, the names of our own state dict, the frozen
language model left out and never gathered.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager

import torch
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel
from transformers.integrations import is_deepspeed_zero3_enabled

from modeling_egmf.checkpoints_egmf import keys_stored_elsewhere


@contextmanager
def whole(*parameters: torch.nn.Parameter) -> Iterator[None]:
    """These parameters undivided on every process, where ZeRO-3 has split them; all processes must come here."""
    if not is_deepspeed_zero3_enabled():
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(list(parameters)):
        yield


def num_elements(parameter: torch.nn.Parameter) -> int:
    """How many numbers a parameter holds, also where it is split by ZeRO-3 or two of them share a byte in 4 bit."""
    if is_deepspeed_zero3_enabled():
        return getattr(parameter, "ds_numel", parameter.numel())
    packed = type(parameter).__name__ == "Params4bit" and parameter.dtype == torch.uint8
    return parameter.numel() * (2 if packed else 1)


def zero_through_all(model: PreTrainedModel) -> torch.Tensor:
    """0, by way of every trained parameter in front of the language model.

    An encoder rests where a batch lacks its modality, and processes that split weights must send the same gradients.
    """
    return sum(parameter.sum() for parameter in model.egmf.parameters() if parameter.requires_grad) * 0


def widen_scalars(model: PreTrainedModel) -> set[str]:
    """Give parameters of no dimension one, because FSDP2 splits no scalars; in sums and products it is the same.

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
    """What a checkpoint of the model holds, each tensor whole and on the CPU; all processes must come here.

    Args:
        model: as FSDP2 or DeepSpeed left it.
        scalars: from `widen_scalars`.
        keep: whether this process wants the tensors; the others help to gather them and get an empty dict.
    """
    elsewhere, found = keys_stored_elsewhere(model), {}
    for name, value in model.state_dict(keep_vars=True).items():
        if name not in elsewhere:
            gathered = _gathered(value)
            if keep:
                tensor = gathered.detach().to("cpu", copy=True)
                found[name] = tensor.reshape(()) if name in scalars else tensor
    return found


def _gathered(value: torch.Tensor) -> torch.Tensor:
    if isinstance(value, DTensor):
        return value.full_tensor()
    if is_deepspeed_zero3_enabled() and hasattr(value, "ds_id"):
        from deepspeed.utils import safe_get_full_fp32_param

        whole_value = safe_get_full_fp32_param(value) if value.requires_grad else None
        if whole_value is not None:
            return whole_value
        with whole(value):
            return value.detach().clone()
    return value


def load_adapter_state(model: PreTrainedModel, scalars: Collection[str], state: dict[str, torch.Tensor]) -> None:
    """Put a light checkpoint into a model that FSDP2 has split; every process gives the same state.

    Raises:
        ValueError: a name is missing or unexpected.
    """
    wrong = (set(model.state_dict()) - keys_stored_elsewhere(model)) ^ set(state)
    if wrong:
        raise ValueError(
            f"The checkpoint does not fit the model: {sorted(wrong)[:5]} are in one of them alone. Resume with the "
            "settings that it was trained with."
        )
    wide = {name: tensor.reshape(1) if name in scalars else tensor for name, tensor in state.items()}
    set_model_state_dict(model, wide, options=StateDictOptions(full_state_dict=True, strict=False))


@contextmanager
def unwrapped_class(model: torch.nn.Module) -> Iterator[None]:
    """FSDP2 makes a class of its own of each model's; what is saved must name ours."""
    theirs = type(model)
    if isinstance(model, FSDPModule):
        model.__class__ = next(base for base in theirs.__mro__ if not issubclass(base, FSDPModule))
    try:
        yield
    finally:
        model.__class__ = theirs
