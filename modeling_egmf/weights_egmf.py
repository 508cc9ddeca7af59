"""The files that hold a checkpoint's weights: finding and reading them, and checks of what they hold.

    model.safetensors                        one file, or
    model.safetensors.index.json             the shards, named model-00001-of-00003.safetensors and so on
    model.fp16.safetensors                   the same with variant="fp16"
    default/adapter_model.safetensors        those of the adapter "default"

Every error names the file or the weight. checkpoints_egmf.py says which weights a checkpoint must hold.
"""

import hashlib
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers.utils import cached_file
from transformers.utils.hub import get_checkpoint_shard_files

from .fields_egmf import did_you_mean


# Arguments of `from_pretrained` to suggest instead of an unknown one.
COMMON_ARGUMENTS = ("attn_implementation", "device_map", "dtype", "revision", "subfolder")

# Of errors that come from an argument, not from a file.
ARGUMENT_ERRORS = re.compile("_implementation|_to_save|(?<!on )device|driver|CUDA|quant")


@contextmanager
def explain_loading_errors(name: str, remedy: str = "Download or save it again.") -> Iterator[None]:
    """Turn the error of a missing, truncated or damaged file into one that names it and says what to do.

    Args:
        name: what is being loaded; it starts the message.
        remedy: what the user can do about it.

    Raises:
        OSError: instead of the error of the library that reads the file.
        TypeError: no class that the library builds knows a keyword argument of `from_pretrained`.
    """
    try:
        yield
    except (ImportError, MemoryError, torch.OutOfMemoryError):
        raise
    # Of any kind: damaged content can make the libraries raise anything.
    except Exception as error:
        problem = str(error) or type(error).__name__
        problem = problem.replace("header too large", "header too large, as in a Git LFS pointer")
        if "unexpected keyword argument" in problem:
            name = problem.split("'")[1]
            hint = did_you_mean(name, COMMON_ARGUMENTS) or " Leave it out."
            raise TypeError(f"from_pretrained() got an unexpected keyword argument {name!r}.{hint}") from error
        remedy = "Check" if ARGUMENT_ERRORS.search(problem) else f"{remedy} Or check"
        raise OSError(f"{name} could not be loaded ({problem}). {remedy} the arguments.") from error


# ---- files ----------------------------------------------------------------------------------------------------------


def weights_name(variant: str | None = None, stem: str = "model", ending: str = "safetensors") -> str:
    """The name of an unsharded checkpoint's weights; `stem` is "adapter_model" for those of an adapter."""
    return f"{stem}.{variant}.{ending}" if variant else f"{stem}.{ending}"


def find_weights(
    checkpoint: str | os.PathLike,
    variant: str | None = None,
    **hub_kwargs: Any,
) -> list[str]:
    """Paths of the file or the shards with a checkpoint's weights, downloaded if necessary.

    Args:
        checkpoint: folder or Hub id.
        variant: as in `from_pretrained`.
        hub_kwargs: `subfolder`, `revision`, `token` and the like.

    Raises:
        OSError: there are none, or the index of the shards is damaged or names absent files.
    """
    try:
        return [cached_file(checkpoint, weights_name(variant), **hub_kwargs)]
    except OSError as error:
        no_single_file = error
    try:
        index = cached_file(checkpoint, weights_name(variant, "model.safetensors.index", "json"), **hub_kwargs)
    except OSError:
        raise no_single_file from None
    with explain_loading_errors(index):
        paths, _ = get_checkpoint_shard_files(checkpoint, index, **hub_kwargs)
    return paths


def stored_weights(paths: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
    """Name and value of every weight in the files, one at a time, without a copy."""
    for path in paths:
        with explain_loading_errors(path), safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118, not a dict
                yield name, file.get_tensor(name)


def checksum(weights: Iterable[tuple[str, Tensor]]) -> str:
    """A checksum of names, types, shapes and values, independent of their order and of how they are sharded."""
    lines = []
    for name, weight in weights:
        content = weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        lines.append(f"{name} {weight.dtype} {tuple(weight.shape)} {zlib.crc32(content):08x}")
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:16]


# ---- weights in memory ----------------------------------------------------------------------------------------------


def in_memory(module: nn.Module) -> AbstractContextManager:
    """Bring the weights of a module that was offloaded by a device map to the device that it computes on."""
    try:
        from accelerate.utils import align_module_device
    except ImportError:
        # Only accelerate offloads.
        return nullcontext()
    return align_module_device(module)


def not_finite(weights: Mapping[str, Tensor]) -> list[str]:
    """Names of the floating-point weights with NaN or infinite values; offloaded weights are not checked."""
    names = []
    for name, weight in weights.items():
        if weight.is_meta or not weight.is_floating_point() or weight.numel() == 0:
            continue
        # 8-bit floats have no minimum and maximum of their own.
        if weight.itemsize == 1:
            weight = weight.bfloat16()
        # NaN if any value is: ten times faster than `isfinite`.
        minimum, maximum = weight.detach().aminmax()
        if not (minimum.isfinite() and maximum.isfinite()):
            names.append(name)
    return names


def wrong_types(stored: Iterable[tuple[str, Tensor]], expected: Mapping[str, Tensor]) -> list[str]:
    """Names of weights that are floats in the model but stored as integers, booleans or 8-bit floats, or reversed."""
    names = []
    for name, weight in stored:
        is_float = weight.is_floating_point() and weight.itemsize > 1
        if name in expected and is_float != expected[name].is_floating_point():
            names.append(f"{name} ({weight.dtype})")
    return names


def load_weights(
    source: str | os.PathLike,
    module: nn.Module,
    keys: Mapping[str, str],
    weights: Mapping[str, Tensor],
) -> None:
    """Copy stored weights into a module: exactly those that are expected.

    Args:
        source: checkpoint or file, for the message.
        module: whose weights are in memory.
        keys: name in the file -> name in the module's state dict, of every expected weight.
        weights: name in the file -> value.

    Raises:
        ValueError: weights are missing, unexpected, of the wrong shape or type, not finite, or not in memory.
    """
    state = module.state_dict()
    expected = {name: state[key] for name, key in keys.items()}
    common = weights.keys() & expected.keys()
    mistakes = {
        "missing keys": expected.keys() - common,
        "unexpected keys": weights.keys() - common,
        "wrong shapes": [name for name in common if weights[name].shape != expected[name].shape],
        "wrong types": wrong_types(weights.items(), expected),
    }
    check_weights(source, mistakes, weights)
    with torch.no_grad():
        for name, weight in weights.items():
            expected[name].copy_(weight)
    not_in_memory = [name for name, weight in expected.items() if weight.is_meta]
    # Again: values that overflow the model's type, and weights that were not copied.
    check_weights(source, {"not in memory": not_in_memory}, expected)


def check_weights(
    checkpoint: str | os.PathLike,
    mistakes: Mapping[str, Iterable],
    weights: Mapping[str, Tensor],
) -> None:
    """Reject a checkpoint with wrong keys or with non-finite weights.

    Args:
        checkpoint: for the message.
        mistakes: kind of mistake -> names, as in the loading info of `from_pretrained`.
        weights: name -> tensor.

    Raises:
        ValueError: `mistakes` holds any name, or a weight is NaN or infinite.
    """
    infinite = not_finite(weights)
    kinds = []
    for kind, names in {**mistakes, "NaN or infinite": infinite}.items():
        if names:
            kinds.append(f"{kind}: {sorted(map(str, names))[:5]} ({len(names)})")
    if not kinds:
        return
    remedy = "Download or save it again. "
    if any(weights[name].dtype == torch.float16 for name in infinite):
        remedy = "They overflow float16: load with dtype=torch.bfloat16, or save it again. "
    raise ValueError(
        f"The weights of {checkpoint} do not match the model: {', '.join(kinds)}. {remedy}"
        "Is it an adapter checkpoint whose `text_model_id` was removed, or the other way round?"
    )
