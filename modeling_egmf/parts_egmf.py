"""The parts that an adapter checkpoint names but does not hold: its language model, and frozen pretrained encoders.

    in config.json                                in memory
    "ORG/NAME"         a Hub id            ◄────► the same
    "../llm"           a path that starts  ◄────► its absolute path
                       at the checkpoint

The path is written anew whenever a checkpoint is saved, so that it holds from the new folder. It is absolute only
where there is no other, from one drive of Windows to another. For a checkpoint that was moved or copied without its
parts, they are searched for: see `find_moved_part`. They must have the weights that the checkpoint was trained with.
"""

import copy
import glob
import hashlib
import itertools
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants
from torch import Tensor
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from .configuration_egmf import EGMFConfig, EGMFEncoderConfig
from .settings_egmf import settings_checksums
from .weights_egmf import check_weights, explain_loading_errors, in_memory


logger = logging.get_logger(__name__)

# Precisions in which a copy of the language model may be stored, and in which it may be loaded.
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Weights that are rounded at once.
PIECE = 2**24


# ---- where they are -------------------------------------------------------------------------------------------------


def named_parts(config: EGMFConfig) -> Iterator[tuple[PreTrainedConfig, str, str]]:
    """Every part that an adapter checkpoint names: the configuration with its field, and the field's full name."""
    if config.text_model_id is None:
        return
    yield config, "text_model_id", "text_model_id"
    for name in ("audio_config", "video_config"):
        encoder = getattr(config, name)
        if is_stored_elsewhere(encoder):
            yield encoder, "backbone_id", f"{name}.backbone_id"


def is_stored_elsewhere(config: EGMFEncoderConfig | None) -> bool:
    """Whether an encoder has a frozen backbone that is loaded from `backbone_id`."""
    return config is not None and config.backbone_id is not None and not config.backbone_trainable


def is_local(model_id: str) -> bool:
    """Whether it is a folder or has the form of a path, unlike a Hub id."""
    has_form = model_id.startswith((os.curdir, os.sep)) or model_id.count("/") > 1
    return has_form or os.path.isabs(model_id) or os.path.isdir(model_id)


def with_located_parts(config: EGMFConfig, checkpoint: str | os.PathLike, subfolder: str = "") -> EGMFConfig:
    """A copy of a checkpoint's configuration that names its local parts by their absolute paths."""
    config = copy.deepcopy(config)
    for owner, field, _ in named_parts(config):
        setattr(owner, field, locate_part(getattr(owner, field), checkpoint, subfolder))
    return config


def with_relative_parts(config: EGMFConfig, folder: str | os.PathLike) -> EGMFConfig:
    """A copy of the configuration that names its local parts by their paths from a folder."""
    config = copy.deepcopy(config)
    for owner, field, _ in named_parts(config):
        path = getattr(owner, field)
        if os.path.isabs(path):
            # On another drive, there is none.
            with suppress(ValueError):
                setattr(owner, field, os.path.relpath(path, folder))
    return config


def locate_part(model_id: str, checkpoint: str | os.PathLike, subfolder: str = "") -> str:
    """The location of a language model or a backbone.

    Args:
        model_id: a Hub id; a path; or a path from the checkpoint's folder, from the folder above it (a run's, if the
            checkpoint is its checkpoint-N) or from the working directory.
        checkpoint: folder or Hub id of the EGMF checkpoint.
        subfolder: folder in it that holds config.json.

    Returns:
        The absolute path if there is one, else a Hub id, or `model_id` unchanged if there is nothing.
    """
    folder = os.path.abspath(os.path.join(checkpoint, subfolder))
    places = (folder, os.path.dirname(folder)) if os.path.isdir(checkpoint) else ()
    for place in (*places, os.curdir):
        path = os.path.abspath(os.path.join(place, model_id))
        if os.path.isfile(os.path.join(path, "config.json")):
            return path
    return find_moved_part(model_id, checkpoint) if is_local(model_id) else model_id


def find_moved_part(path: str, checkpoint: str | os.PathLike) -> str:
    """Another location of a part that is not where the checkpoint names it, or `path` unchanged.

    It is searched for in every folder above the checkpoint, by its path without leading `..`, and in the Hub cache,
    by its last name.
    """
    names = [name for name in Path(path).parts if name not in (os.pardir, os.curdir, Path(path).anchor)]
    if not names:
        return path
    folder = Path(checkpoint)
    places = (*folder.absolute().parents, *folder.resolve().parents) if folder.is_dir() else ()
    configs = [place.joinpath(*names, "config.json") for place in places]
    cached = f"models--*--{glob.escape(names[-1])}/snapshots/*/config.json"
    configs += sorted(Path(constants.HF_HUB_CACHE).glob(cached))
    candidates = [str(config.parent) for config in configs if config.is_file()]
    if not candidates:
        return path
    logger.warning(f"{path}, which {checkpoint} names, does not exist: {candidates[0]} is loaded instead.")
    return candidates[0]


@contextmanager
def loading_part(part: str, path: str, checkpoint: str | os.PathLike, remedy: str) -> Iterator[None]:
    """Explain errors of loading a part, and refuse a path without a model; a Hub id is looked up when it is loaded.

    Args:
        part: what is being loaded, for the message.
        remedy: what the user can do about it.

    Raises:
        OSError: it cannot be read, or is not where it was expected; the message says where that is.
    """
    name = f"{checkpoint} is an adapter checkpoint: its {part} {path!r}"
    if is_local(path) and not os.path.isfile(os.path.join(path, "config.json")):
        start = checkpoint if os.path.isdir(checkpoint) else os.curdir
        expected = os.path.abspath(os.path.join(start, path))
        raise OSError(f"{name} was not found at {expected}, in a folder above it or in the Hub cache. {remedy}")
    with explain_loading_errors(name, remedy):
        yield


# ---- whether they are the right ones --------------------------------------------------------------------------------


def fingerprint(language_model: PreTrainedModel) -> str:
    """A hash of part of the embedding matrix in bfloat16, independent of the precision it was loaded in."""
    embeddings = language_model.get_input_embeddings()
    with in_memory(embeddings):
        piece = embeddings.weight.detach()[:64, :64].to("cpu", torch.bfloat16)
    return hashlib.sha256(piece.float().numpy().tobytes()).hexdigest()[:16]


def floating_weights(model: PreTrainedModel, excluded: Collection[str] = ()) -> set[Tensor]:
    """Parameters and stored buffers, those that are tied once, without the names in `excluded`."""
    weights = model.state_dict(keep_vars=True).items()
    return {weight for name, weight in weights if weight.is_floating_point() and name not in excluded}


def sum_of_bits(model: PreTrainedModel, *roundings: torch.dtype, excluded: Collection[str] = ()) -> str:
    """The sum of the bits of all weights, eight bytes at a time, after rounding them to other precisions in turn.

    A single changed bit changes it; names, order and shards do not.
    """
    total = 0
    for weight in floating_weights(model, excluded):
        for piece in weight.detach().flatten().split(PIECE):
            for dtype in roundings:
                piece = piece.to(dtype)
            # Eight bytes at a time are read only from a multiple of eight.
            if piece.storage_offset() * piece.itemsize % 8:
                piece = piece.clone()
            content = piece.view(torch.uint8)
            end = len(content) // 8 * 8
            total += int(content[:end].view(torch.int64).sum())
            total += sum(content[end:].tolist())
    return f"{total % 2**64:016x}"


def can_be_summed(language_model: PreTrainedModel) -> bool:
    """Whether all weights are in memory and not quantized."""
    if "quantization_config" in vars(language_model.config):
        return False
    return all(weight.itemsize > 1 and not weight.is_meta for weight in floating_weights(language_model))


def text_model_checksum(language_model: PreTrainedModel) -> dict[str, str] | None:
    """`EGMFConfig.text_model_checksum`: the sum of the bits in every precision that a copy may have.

    Returns:
        "stored, loaded" -> sum, of `PRECISIONS`; None for a language model that is quantized or offloaded.
    """
    if not can_be_summed(language_model):
        return None
    sums = {}
    for stored, loaded in itertools.product(PRECISIONS, repeat=2):
        sums[f"{stored}, {loaded}"] = sum_of_bits(language_model, PRECISIONS[stored], PRECISIONS[loaded])
    return sums


def check_text_model(
    path: str,
    language_model: PreTrainedModel,
    checkpoint: str | os.PathLike,
    config: EGMFConfig,
) -> None:
    """Reject a language model with other settings or weights than the one in training, in any precision up to its own.

    Without `text_model_checksum`, and where weights cannot be compared (quantized, offloaded, or only some of them
    rounded to another precision), other embeddings only warn.
    """
    loaded = language_model.config.to_dict()
    trained = config.text_config.to_dict()
    trained_checksums = settings_checksums(trained)
    for name, checksum in settings_checksums(loaded).items():
        if trained_checksums.get(name, checksum) != checksum:
            raise ValueError(
                f"The language model at {path} has {name}={loaded[name]}, but {checkpoint} was trained with one "
                f"that has {trained[name]}. Point `text_model_id` to the original or a copy. "
                f"To keep the edit, pass text_config={{{name!r}: {loaded[name]!r}}}."
            )
    trained_dtype = config.text_config.dtype or language_model.dtype
    num_dtypes = len({weight.dtype for weight in floating_weights(language_model)})
    is_comparable = num_dtypes == 1 or language_model.dtype == trained_dtype
    if config.text_model_checksum and is_comparable and can_be_summed(language_model):
        expected = config.text_model_checksum.values()
        sums = (sum_of_bits(language_model, *dtypes) for dtypes in ((), (trained_dtype,)))
        if not any(total in expected for total in sums):
            raise ValueError(
                f"The checksum of the language model at {path} is not that of the one {checkpoint} was "
                "trained with. Download it again, or point `text_model_id` to a true copy. "
                "To keep the edit, pass text_model_checksum=None."
            )
    elif config.text_model_fingerprint not in (None, fingerprint(language_model)):
        logger.warning(
            f"The language model at {path} has different weights from the one {checkpoint} was trained with: "
            "the answers will differ."
        )


# ---- loading --------------------------------------------------------------------------------------------------------


def load_text_model(
    checkpoint: str | os.PathLike,
    config: EGMFConfig,
    **kwargs: Any,
) -> PreTrainedModel:
    """The language model that `config.text_model_id` names, by default in the precision it was trained in.

    Args:
        checkpoint: folder or Hub id of the EGMF checkpoint.
        config: its configuration, with located parts.
        kwargs: passed to `AutoModelForCausalLM.from_pretrained`.

    Raises:
        OSError: it cannot be found or read.
        ValueError: it is not the one of the training, or its weights are incomplete or not finite.
    """
    path = config.text_model_id
    remedy = (
        "Point to a copy: from_pretrained(..., text_model_id='/a/copy'), "
        "pipeline(..., model_kwargs={'text_model_id': ...}) or --text_model_name_or_path."
    )
    if kwargs.get("dtype") in (None, "auto"):
        kwargs["dtype"] = config.text_config.dtype or "auto"
    kwargs["attn_implementation"] = config.text_config._attn_implementation
    kwargs["revision"] = config.text_model_revision or "main"
    with loading_part("language model", path, checkpoint, remedy):
        language_model, info = AutoModelForCausalLM.from_pretrained(path, output_loading_info=True, **kwargs)
    check_weights(path, info, dict(language_model.named_parameters()))
    check_text_model(path, language_model, checkpoint, config)
    return language_model


def load_backbone(
    checkpoint: str | os.PathLike,
    config: EGMFConfig,
    modality: str,
    **kwargs: Any,
) -> PreTrainedModel | None:
    """The frozen backbone that a modality's `backbone_id` names, or None if the checkpoint holds its weights.

    Args:
        checkpoint: folder or Hub id of the EGMF checkpoint.
        config: its configuration, with located parts.
        modality: "audio" or "video".
        kwargs: passed to `AutoModel.from_pretrained`.

    Raises:
        OSError: it cannot be found or read.
        ValueError: it has other weights than in training, unless its `backbone_checksum` is None, which is set.
    """
    encoder = getattr(config, f"{modality}_config")
    if not is_stored_elsewhere(encoder):
        return None
    path = encoder.backbone_id
    remedy = f"Point to a copy: from_pretrained(..., {modality}_config={{'backbone_id': '/a/copy'}})."
    with loading_part(f"{modality} encoder", path, checkpoint, remedy):
        backbone, info = AutoModel.from_pretrained(
            path,
            config=encoder.backbone_config,
            revision=encoder.backbone_revision or "main",
            dtype=getattr(torch, encoder.backbone_dtype),
            output_loading_info=True,
            **kwargs,
        )
    # Those would be random.
    checksum = sum_of_bits(backbone, excluded=info["missing_keys"])
    if encoder.backbone_checksum not in (None, checksum):
        raise ValueError(
            f"The {modality} encoder at {path} has other weights than {checkpoint} was trained with. "
            f"{remedy} To keep the edit, pass {modality}_config={{'backbone_checksum': None}}."
        )
    encoder.backbone_checksum = checksum
    return backbone
