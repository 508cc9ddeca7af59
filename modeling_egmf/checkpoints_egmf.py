"""Adapter and standalone checkpoints of EGMF.

    adapter:     config.text_model_id names the language model; model.safetensors holds fusion and trained encoders
    standalone:  config.text_model_id is None; model.safetensors holds everything but PEFT adapters that are not merged

Both load with `EGMFForConditionalGeneration.from_pretrained`, which takes the same keywords for both and checks every
weight, so that none silently keeps its random initialization.

    from_pretrained ─┬─► load_adapter_checkpoint ─┬─ load_text_model        the language model that it names
                     │                            ├─ load_backbone          frozen pretrained encoders that it names
                     │                            └─ load_weights           its own files
                     ├─► load_standalone_checkpoint   as any model of `transformers`, then checked
                     └─► load_adapters                PEFT adapters of the language model, each from its own folder

Next: loading_egmf.py for the keywords, weights_egmf.py for the files and their checks, adapters_egmf.py for LoRA.
"""

import copy
import hashlib
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from torch import Tensor
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedModel
from transformers.integrations.accelerate import load_offloaded_parameter
from transformers.utils import logging

from .adapters_egmf import adapter_configs
from .configuration_egmf import EGMFConfig, EGMFEncoderConfig
from .loading_egmf import (
    HUB_ARGUMENTS,
    file_arguments,
    full_device_map,
    text_model_arguments,
    text_model_device_map,
)
from .weights_egmf import (
    check_weights,
    checksum,
    explain_loading_errors,
    find_weights,
    in_memory,
    load_weights,
    stored_weights,
    weights_name,
    wrong_types,
)


logger = logging.get_logger(__name__)

# A language model that differs in any of these is not the one that the checkpoint was trained with.
TEXT_MODEL_SIZES = ("model_type", "hidden_size", "num_hidden_layers", "vocab_size")


# ---- contents of a checkpoint ---------------------------------------------------------------------------------------


def keys_stored_elsewhere(model: PreTrainedModel) -> set[str]:
    """State-dict keys that an adapter checkpoint omits, because the configuration says where to load them from."""
    if model.config.text_model_id is None:
        return set()
    prefixes = ["language_model"]
    if is_stored_elsewhere(model.config.audio_config):
        prefixes.append("egmf.audio_visual_encoder.audio.stem.backbone")
    if is_stored_elsewhere(model.config.video_config):
        prefixes.append("egmf.audio_visual_encoder.video.stem.backbone")
    keys = {key for key in model.state_dict() if key.startswith(tuple(prefixes))}
    for adapter_keys in model.adapter_keys().values():
        keys -= set(adapter_keys.values())
    return keys


def is_stored_elsewhere(config: EGMFEncoderConfig | None) -> bool:
    """Whether an encoder has a frozen backbone that is loaded from `backbone_id`."""
    return config is not None and config.backbone_id is not None and not config.backbone_trainable


def fingerprint(language_model: PreTrainedModel) -> str:
    """A hash of part of the embedding matrix in bfloat16, independent of the precision it was loaded in."""
    embeddings = language_model.get_input_embeddings()
    with in_memory(embeddings):
        piece = embeddings.weight.detach()[:64, :64].to("cpu", torch.bfloat16)
    return hashlib.sha256(piece.float().numpy().tobytes()).hexdigest()[:16]


def split_weights(
    model: PreTrainedModel, state_dict: dict[str, Tensor] | None
) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
    """The weights of model.safetensors, and those of each PEFT adapter's file, by their names in the file.

    Args:
        model: to be saved.
        state_dict: its weights, if they are not to be taken from the model itself.
    """
    weights = dict(model.state_dict() if state_dict is None else state_dict)
    adapters = {}
    for name, keys in model.adapter_keys().items():
        adapters[name] = {stored: weights.pop(key) for stored, key in keys.items()}
    for key in keys_stored_elsewhere(model) & weights.keys():
        del weights[key]
    own_weights = {}
    for key, weight in weights.items():
        plain_key = key.replace(".base_layer.", ".")  # as without adapters
        if weight.is_meta and plain_key != key:
            weight = load_offloaded_parameter(model, key)
        own_weights[plain_key] = weight
    return own_weights, adapters


def save_adapters(
    folder: str | os.PathLike,
    model: PreTrainedModel,
    weights: dict[str, dict[str, Tensor]],
    variant: str | None = None,
) -> None:
    """Write the PEFT adapters into a checkpoint's folder, and record them and all checksums in its config.json.

    Args:
        weights: name of the adapter -> its weights, from `split_weights`.
    """
    config = copy.copy(model.config)
    own_weights = stored_weights(find_weights(folder, variant))
    config.weights_checksum = {weights_name(variant): checksum(own_weights)}
    config.lora = None  # from now on, adapter_config.json says it
    config.adapters = {}
    for name, peft_config in adapter_configs(model.language_model).items():
        peft_config = copy.copy(peft_config)
        peft_config.base_model_name_or_path = config.text_model_id
        peft_config.revision = config.text_model_revision
        if isinstance(peft_config.target_modules, set):
            peft_config.target_modules = sorted(peft_config.target_modules)
        peft_config.save_pretrained(os.path.join(folder, name))
        file_name = f"{name}/{weights_name(variant, 'adapter_model')}"
        adapter_weights = {}
        for key, weight in weights[name].items():
            adapter_weights[key] = weight.detach().cpu().contiguous()
        save_torch_state_dict(
            adapter_weights,
            os.path.join(folder, name),
            filename_pattern=weights_name(variant, "adapter_model{suffix}"),
            max_shard_size=sys.maxsize,  # peft reads a single file
        )
        config.weights_checksum[file_name] = checksum(adapter_weights.items())
        config.adapters[name] = name in model.active_adapters()
    config.to_json_file(os.path.join(folder, "config.json"))


def compare_checksum(
    checkpoint: str | os.PathLike,
    config: EGMFConfig,
    file_name: str,
    weights: Iterable[tuple[str, Tensor]],
) -> None:
    """Reject weights that changed after they were saved; nothing is read if the configuration has no checksum.

    Raises:
        ValueError: a file was damaged, or edited without saving the model.
    """
    expected = (config.weights_checksum or {}).get(file_name)
    if expected is None:
        return
    actual = checksum(weights)
    if actual != expected:
        raise ValueError(
            f"The weights of {checkpoint} ({file_name}) are not those that were saved: their checksum "
            f"is {actual}, but config.json has {expected}. Download or save the checkpoint again. "
            "If you edited the weights on purpose, remove `weights_checksum` from config.json."
        )


# ---- the parts that an adapter checkpoint names ---------------------------------------------------------------------


def check_text_model(
    path: str,
    language_model: PreTrainedModel,
    checkpoint: str,
    config: EGMFConfig,
) -> None:
    """Reject a language model of a different size than the one in training; warn if only its weights differ."""
    loaded_config = language_model.config.get_text_config()
    trained_config = config.text_config.get_text_config()
    for name in TEXT_MODEL_SIZES:
        loaded = getattr(loaded_config, name)
        trained = getattr(trained_config, name)
        if loaded != trained:
            raise ValueError(
                f"The language model at {path} has {name}={loaded}, but {checkpoint} was trained with one "
                f"that has {trained}. Point `text_model_id` to the original model or a copy of it."
            )
    if config.text_model_fingerprint not in (None, fingerprint(language_model)):
        logger.warning(
            f"The language model at {path} has different weights from the one {checkpoint} was trained with: "
            "the answers will differ, and may be poor."
        )


def locate_part(model_id: str, checkpoint: str | os.PathLike) -> str:
    """The location of a language model or a backbone.

    Args:
        model_id: a Hub id, a path, or a path relative to the checkpoint's folder or to the folder above it (the
            run's folder, if the checkpoint is a run's checkpoint-N).
        checkpoint: folder or Hub id of the EGMF checkpoint.

    Returns:
        The path if it is relative to the checkpoint, else `model_id` unchanged.
    """
    if os.path.isdir(checkpoint) and not os.path.isabs(model_id):
        for folder in (checkpoint, os.path.join(checkpoint, os.pardir)):
            path = os.path.normpath(os.path.join(folder, model_id))
            if os.path.isfile(os.path.join(path, "config.json")):
                return path
    return model_id


def load_text_model(
    checkpoint: str | os.PathLike,
    config: EGMFConfig,
    **kwargs: Any,
) -> PreTrainedModel:
    """The language model that `config.text_model_id` names, by default in the precision it was trained in.

    Args:
        checkpoint: folder or Hub id of the EGMF checkpoint.
        config: its configuration.
        kwargs: passed to `AutoModelForCausalLM.from_pretrained`.

    Raises:
        OSError: it cannot be found or read.
        ValueError: it is not the one of the training, or its weights are incomplete or not finite.
    """
    path = locate_part(config.text_model_id, checkpoint)
    if kwargs.get("dtype") in (None, "auto"):
        kwargs["dtype"] = config.text_config.dtype or "auto"
    if kwargs.get("attn_implementation") is None and config._attn_implementation is not None:
        kwargs["attn_implementation"] = config._attn_implementation  # AutoConfig has taken the argument
    kwargs["revision"] = config.text_model_revision or "main"
    with explain_loading_errors(
        f"{checkpoint} is an adapter checkpoint: its language model {config.text_model_id!r}",
        "Point to a copy with from_pretrained(..., text_model_id='/path/to/the/language/model').",
    ):
        language_model, info = AutoModelForCausalLM.from_pretrained(path, output_loading_info=True, **kwargs)
    check_weights(path, info, dict(language_model.named_parameters()))
    check_text_model(path, language_model, checkpoint, config)
    return language_model


def load_backbone(
    checkpoint: str | os.PathLike,
    encoder: EGMFEncoderConfig | None,
    modality: str,
    **kwargs: Any,
) -> PreTrainedModel | None:
    """The frozen backbone that `encoder.backbone_id` names, or None if the checkpoint holds the encoder's weights.

    Args:
        checkpoint: folder or Hub id of the EGMF checkpoint.
        encoder: configuration of the modality's encoder.
        modality: "audio" or "video".
        kwargs: passed to `AutoModel.from_pretrained`.
    """
    if not is_stored_elsewhere(encoder):
        return None
    path = locate_part(encoder.backbone_id, checkpoint)
    revision = encoder.backbone_revision or "main"
    with explain_loading_errors(
        f"{checkpoint} is an adapter checkpoint: its {modality} encoder {encoder.backbone_id!r}",
        f"Set config.{modality}_config.backbone_id to a local copy.",
    ):
        return AutoModel.from_pretrained(
            path, config=encoder.backbone_config, revision=revision, dtype=torch.float32, **kwargs
        )


# ---- loading --------------------------------------------------------------------------------------------------------


def load_adapter_checkpoint(
    model_class: type[PreTrainedModel],
    checkpoint: str | os.PathLike,
    config: EGMFConfig,
    **kwargs: Any,
) -> tuple[PreTrainedModel, dict]:
    """Build the model around the language model that the configuration names, and load the trained weights.

    Args:
        model_class: `EGMFForConditionalGeneration`.
        checkpoint: folder or Hub id.
        config: its configuration, with a `text_model_id`.
        kwargs: those of `from_pretrained`.

    Returns:
        The model in evaluation mode, and the loading info.
    """
    hub_kwargs = {name: kwargs[name] for name in HUB_ARGUMENTS if name in kwargs}
    text_kwargs = text_model_arguments(kwargs)
    if "device_map" in text_kwargs:
        text_kwargs["device_map"] = text_model_device_map(text_kwargs["device_map"])

    paths = find_weights(checkpoint, kwargs.get("variant"), **file_arguments(kwargs))
    weights = dict(stored_weights(paths))
    language_model = load_text_model(checkpoint, config, **hub_kwargs, **text_kwargs)
    config.text_config.dtype = language_model.dtype
    audio_backbone = load_backbone(checkpoint, config.audio_config, "audio", **hub_kwargs)
    video_backbone = load_backbone(checkpoint, config.video_config, "video", **hub_kwargs)
    with explain_loading_errors(str(checkpoint)):
        model = model_class(config, language_model, audio_backbone, video_backbone)
    keys = model.state_dict().keys() - (keys_stored_elsewhere(model) - weights.keys())
    load_weights(checkpoint, model, {key: key for key in keys}, weights)
    compare_checksum(checkpoint, config, weights_name(kwargs.get("variant")), weights.items())

    embeddings = language_model.get_input_embeddings()
    with in_memory(embeddings):
        device = embeddings.weight.device
    model.egmf.to(device)
    device_map = vars(language_model).get("hf_device_map")  # set if accelerate split or offloaded the language model
    if device_map is not None:
        text_device_map = {f"language_model.{name}".rstrip("."): place for name, place in device_map.items()}
        model.hf_device_map = {"egmf": device, **text_device_map}
    model.name_or_path = str(checkpoint)
    model.eval()
    kinds = ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")
    return model, {kind: [] for kind in kinds}  # anything else has raised an error


def load_standalone_checkpoint(
    load: Callable[..., tuple[PreTrainedModel, dict]],
    checkpoint: str | os.PathLike,
    config: EGMFConfig,
    **kwargs: Any,
) -> tuple[PreTrainedModel, dict]:
    """Load a checkpoint that holds everything.

    Args:
        load: `PreTrainedModel.from_pretrained` of the model class.
        checkpoint: folder or Hub id.
        config: its configuration, without a `text_model_id`.
        kwargs: those of `from_pretrained`.

    Returns:
        The model in evaluation mode, and the loading info.
    """
    paths = []
    if "state_dict" not in kwargs:
        paths = find_weights(checkpoint, kwargs.get("variant"), **file_arguments(kwargs))
    if "device_map" in kwargs:
        kwargs["device_map"] = full_device_map(kwargs["device_map"])
    kwargs["output_loading_info"] = True
    kwargs["ignore_mismatched_sizes"] = True  # check_weights reports them with all other mismatches
    with explain_loading_errors(str(checkpoint)):
        model, info = load(checkpoint, config=config, **kwargs)
    weights = model.state_dict()
    mistakes = dict(info)
    if "quantization_config" not in vars(model.config):
        mistakes["wrong types"] = wrong_types(stored_weights(paths), weights)
    check_weights(checkpoint, mistakes, weights)
    compare_checksum(checkpoint, config, weights_name(kwargs.get("variant")), stored_weights(paths))
    offloaded = [name for name, weight in weights.items() if weight.is_meta and name.startswith("egmf.")]
    if offloaded:
        raise ValueError(
            f"`device_map` offloads {offloaded[0]} of {checkpoint}; only the language model can be offloaded. "
            'Map "egmf" to a device, or raise `max_memory`.'
        )
    return model, info


def load_adapters(
    checkpoint: str | os.PathLike,
    model: PreTrainedModel,
    config: EGMFConfig,
    **kwargs: Any,
) -> None:
    """Add the checkpoint's PEFT adapters to the language model, and activate those that were active.

    Afterwards the model's configuration has neither their names nor checksums, which belong to the files.

    Args:
        checkpoint: folder or Hub id.
        config: its configuration.
        kwargs: those of `from_pretrained`.

    Raises:
        OSError, ValueError: files of an adapter are missing, damaged or changed; by name.
    """
    recorded = [path for path in config.weights_checksum or () if "/" in path]
    if config.adapters is None and recorded:
        raise ValueError(
            f"The config.json of {checkpoint} has the checksum of {recorded[0]}, but no `adapters`. "
            "Download or save the checkpoint again."
        )
    adapters = config.adapters or {}
    variant = kwargs.get("variant")
    hub_kwargs = file_arguments(kwargs)
    for name in adapters:
        hub_kwargs["subfolder"] = os.path.join(kwargs.get("subfolder", ""), name)
        weights = model.load_adapter(checkpoint, name, variant, **hub_kwargs)
        file_name = f"{name}/{weights_name(variant, 'adapter_model')}"
        compare_checksum(checkpoint, config, file_name, weights.items())
    if adapters:
        model.set_adapter([name for name, is_active in adapters.items() if is_active])
    model.config.adapters = None
    model.config.weights_checksum = None
