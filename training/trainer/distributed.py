"""Weights sharded by FSDP2: gathers only the weights of an adapter checkpoint.

A checkpoint file is the same whether or not the weights were sharded: float32, with the names of our own state dict.
The frozen language model is left out and never gathered.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager

import torch
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from transformers import PreTrainedConfig, PreTrainedModel

from modeling_egmf.checkpoints_egmf import keys_stored_elsewhere
from modeling_egmf.decoders_egmf import describe_decoder


def num_elements(parameter: torch.nn.Parameter) -> int:
    """Number of elements of a parameter, also of 4-bit weights, which store two per byte."""
    packed = type(parameter).__name__ == "Params4bit" and parameter.dtype == torch.uint8
    return parameter.numel() * (2 if packed else 1)


def zero_through_all(model: PreTrainedModel) -> torch.Tensor:
    """A zero that depends on every trained parameter outside the language model.

    A batch without a modality does not use its encoder, but with sharded weights, all processes must exchange
    gradients of the same parameters.
    """
    return sum(parameter.sum() for parameter in model.egmf.parameters() if parameter.requires_grad) * 0


def check_sharded_decoder(config: PreTrainedConfig) -> None:
    """Refuse a language model that is called a different number of times by each process.

    With sharded weights, all processes must run the same layers; otherwise they would wait for each other forever.

    Args:
        config: of the language model.

    Raises:
        ValueError: its batches are scored by rows, or split into groups of equal length.
    """
    support = describe_decoder(config)
    if support.scoring != "tree":
        raise ValueError(
            f"FSDP cannot shard a {config.model_type!r}: its answers are scored by {support.scoring}, with a "
            "different number of forward passes in each process. Use DDP (training/accelerate_configs/ddp.yaml), or "
            "another language model."
        )


def widen_scalars(model: PreTrainedModel) -> set[str]:
    """Reshape scalar parameters to one dimension, because FSDP2 cannot shard scalars; the results do not change.

    Returns:
        The names of these parameters.
    """
    scalars = {name: parameter for name, parameter in model.named_parameters() if parameter.ndim == 0}
    for name, parameter in scalars.items():
        module, _, own_name = name.rpartition(".")
        wide = torch.nn.Parameter(parameter.detach().reshape(1), requires_grad=parameter.requires_grad)
        setattr(model.get_submodule(module), own_name, wide)
    return set(scalars)


def gather_adapter_state(model: PreTrainedModel, scalars: Collection[str], keep: bool) -> dict[str, torch.Tensor]:
    """The tensors of the model's checkpoint, complete and on the CPU. Every process must call this.

    Args:
        model: sharded by FSDP2.
        scalars: from `widen_scalars`.
        keep: whether this process needs the tensors; the others only take part in gathering and get an empty dict.
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
    """Load an adapter checkpoint into a model, sharded or not; every process passes the same state.

    Args:
        model: the model.
        scalars: from `widen_scalars`; empty if nothing is sharded.
        state: weights by their names in our state dict.

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
    """Restores a model's own class for saving; FSDP2 replaces it, but a saved model must name ours."""
    wrapped = type(model)
    if isinstance(model, FSDPModule):
        model.__class__ = next(base for base in wrapped.__mro__ if not issubclass(base, FSDPModule))
    try:
        yield
    finally:
        model.__class__ = wrapped
