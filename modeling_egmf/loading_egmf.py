"""The keyword arguments of `from_pretrained`: the part of the model that each is for, and their checks; device maps.

They are those of `transformers`, the same for adapter and standalone checkpoints, and the fields of `EGMFConfig`.
Fusion and encoders are never cast, quantized or split: what is not listed here goes only to the language model. The
class of the model refuses an unknown one, so that a typo never changes an answer.
"""

import copy
import os
from contextlib import suppress
from typing import Any

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.utils import cached_file

from .configuration_egmf import EGMFConfig
from .fields_egmf import (
    attention_of_parts,
    check_dtypes,
    field_names,
    name_unknown,
    refuse_typos,
    ties_word_embeddings,
)
from .weights_egmf import check_weights, explain_loading_errors, in_memory


HUB_ARGUMENTS = ("token", "cache_dir", "local_files_only", "force_download", "proxies")
# Where the files of a checkpoint are; a language model or a backbone elsewhere has a revision and folder of its own.
FILE_ARGUMENTS = (*HUB_ARGUMENTS, "revision", "subfolder")
# Arguments for weights that are not in the checkpoint's files, or not all of them, or split over processes.
STANDALONE_ARGUMENTS = (
    "state_dict",
    "key_mapping",
    "fusion_config",
    "distributed_config",
    "device_mesh",
    "tp_plan",
    "tp_size",
)
# For the checkpoint's own files and code, not those of the language model.
OTHER_ARGUMENTS = (
    "variant",
    "use_safetensors",
    "ignore_mismatched_sizes",
    "output_loading_info",
    "trust_remote_code",
    "adapter_kwargs",
)


def load_config(
    config: PreTrainedConfig | str | os.PathLike | None,
    checkpoint: str | os.PathLike,
    kwargs: dict[str, Any],
) -> tuple[EGMFConfig, dict[str, Any]]:
    """The configuration, passed to `from_pretrained` or else the checkpoint's, and the arguments that are left.

    Args:
        config: that of `from_pretrained`.
        checkpoint: folder or Hub id.
        kwargs: those of `from_pretrained`, among them fields of the configuration.

    Raises:
        TypeError: an argument is nearly the name of a field, or a field of the language model.
        OSError: config.json is missing or damaged, or `checkpoint` is a file.
        ValueError: config.json is not valid, or an argument would leave weights unchecked.
    """
    if os.path.isfile(checkpoint or ""):
        raise OSError(f"{checkpoint} is a file: give its folder.")
    fields = field_names(EGMFConfig) - {"dtype", "tie_word_embeddings"}
    refuse_typos(EGMFConfig, kwargs)
    # The checkpoint's own.
    unset = {name for name in ("text_model_id", "adapters") if kwargs.get(name) is None}
    changes = {name: kwargs[name] for name in (fields - unset) & kwargs.keys()}
    kwargs = {name: value for name, value in kwargs.items() if name not in fields and value is not None}
    if "torch_dtype" in kwargs:
        kwargs.setdefault("dtype", kwargs.pop("torch_dtype"))
    if isinstance(config, PreTrainedConfig):
        if changes:
            raise TypeError(f"Set {', '.join(sorted(changes))} in the `config` that you pass.")
        config = copy.deepcopy(config)
    else:
        config = EGMFConfig.from_pretrained(config or checkpoint, **file_arguments(kwargs), **changes)
    own = {*dir(config.text_config)} - {"dtype", "quantization_config", "_commit_hash"}
    for name in sorted(own & kwargs.keys()):
        raise TypeError(f"Not an argument: {name}. Set model.config.text_config.{name}.")
    check_arguments(checkpoint, config, kwargs)
    attention = kwargs.pop("attn_implementation", None)
    config._attn_implementation = attention_of_parts(attention, config)
    if config.adapters is None:
        read_adapters(config, checkpoint, file_arguments(kwargs))
    return config, kwargs


def read_adapters(config: EGMFConfig, checkpoint: str | os.PathLike, hub_kwargs: dict[str, Any]) -> None:
    """Give a configuration without names of adapters, such as that of a model in memory, those of the checkpoint.

    They are those in its config.json; if that has none either, the one that new models have, if it is stored.
    """
    with suppress(OSError):
        config.adapters = EGMFConfig.get_config_dict(checkpoint, **hub_kwargs)[0].get("adapters")
    if config.adapters is None:
        with suppress(OSError):
            cached_file(checkpoint, "default/adapter_config.json", **hub_kwargs)
            config.adapters = {"default": True}
    if config.adapters:
        config.lora = None


def load_new_text_model(path: str, **kwargs: Any) -> PreTrainedModel:
    """The language model of a new model.

    Args:
        path: folder or Hub id.
        kwargs: passed to `AutoModelForCausalLM.from_pretrained`; a device map may have the names of the whole model.

    Raises:
        TypeError, ValueError: an argument is unknown, or would leave weights unloaded.
        OSError, ValueError: the language model cannot be found, or its weights are incomplete or not finite.
    """
    location = file_arguments(kwargs, (*FILE_ARGUMENTS, "trust_remote_code", "gguf_file"))
    text_config = AutoConfig.from_pretrained(path, **location)
    check_arguments(path, EGMFConfig(text_config=text_config), kwargs)
    kwargs["device_map"] = text_model_device_map(kwargs.get("device_map"))
    with explain_loading_errors(path):
        language_model, info = AutoModelForCausalLM.from_pretrained(path, output_loading_info=True, **kwargs)
    check_weights(path, info, dict(language_model.named_parameters()))
    check_device_names(kwargs["device_map"], language_model)
    return language_model


def file_arguments(kwargs: dict[str, Any], names: tuple[str, ...] = FILE_ARGUMENTS) -> dict[str, Any]:
    """Those of the arguments that say where the checkpoint's files are, or others by their names."""
    return {name: kwargs[name] for name in names if name in kwargs}


def text_model_arguments(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Those of the arguments that are for the language model, with a device map by its own names."""
    others = {*FILE_ARGUMENTS, *STANDALONE_ARGUMENTS, *OTHER_ARGUMENTS}
    arguments = {name: kwargs[name] for name in kwargs if name not in others}
    arguments["device_map"] = text_model_device_map(kwargs.get("device_map"))
    return arguments


def check_arguments(
    checkpoint: str | os.PathLike,
    config: EGMFConfig,
    kwargs: dict[str, Any],
) -> None:
    """Refuse arguments that would leave weights unchecked.

    Raises:
        ValueError: the message says what to do instead.
    """
    if kwargs.get("dtype") != "auto":
        check_dtypes(kwargs)
    if isinstance(kwargs.get("quantization_config"), str | bool):
        raise TypeError("`quantization_config`: give a BitsAndBytesConfig.")
    if kwargs.get("use_safetensors") is False:
        raise ValueError("EGMF reads only safetensors files: leave out use_safetensors=False.")
    if kwargs.get("ignore_mismatched_sizes"):
        raise ValueError("Weights would stay untrained: leave out ignore_mismatched_sizes=True.")
    for name in ("adapter_name", "code_revision"):
        if kwargs.get(name) is not None:
            raise TypeError(f"`{name}` has no effect: leave it out.")
    device_map = kwargs.get("device_map")
    devices = device_map if isinstance(device_map, dict) else {"": device_map}
    is_known = isinstance(device_map, dict | str | int | torch.device | None)
    if not is_known or not all(isinstance(name, str) for name in devices):
        raise TypeError(f"`device_map` is {device_map!r}; give a dict by names of modules.")
    if "meta" in map(str, devices.values()):
        raise ValueError("On the meta device a model has no weights: give another `device_map`.")
    check_tied_layers(text_model_device_map(device_map), config.text_config)
    unsupported = sorted(set(kwargs) & set(STANDALONE_ARGUMENTS))
    if unsupported and config.text_model_id is not None:
        raise ValueError(
            f"{checkpoint} is an adapter checkpoint, which does not take {', '.join(unsupported)}. "
            "Make it standalone (training/model/export.py), or leave them out."
        )


def check_device_names(device_map: Any, model: PreTrainedModel) -> None:
    """Refuse a device map with names that a model does not have, which would have no effect.

    Raises:
        ValueError: the message suggests the name of a module.
    """
    if not isinstance(device_map, dict):
        return
    known = {*dict(model.named_modules()), *model.state_dict()}
    unknown = device_map.keys() - known
    if unknown:
        raise ValueError(name_unknown("`device_map`: there is no module", unknown, known))


def check_tied_layers(device_map: Any, text_config: PreTrainedConfig) -> None:
    """Refuse a device map that offloads one of two layers with the same weights, which cannot be loaded then.

    Args:
        device_map: by the names of the language model.
        text_config: of the language model; of remote code, it is not known which layers are tied.

    Raises:
        ValueError: the message names both layers.
    """
    if not isinstance(device_map, dict) or not ties_word_embeddings(text_config):
        return
    model_class = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(text_config), PreTrainedModel)
    for weights in (model_class._tied_weights_keys or {}).items():
        devices = {}
        for name, device in sorted(device_map.items()):
            if any(weight.startswith(f"{name}.") for weight in weights):
                devices[name] = str(device)
        different = set(devices.values())
        if len(different) > 1 and different & {"cpu", "disk"}:
            names = " and ".join(devices)
            raise ValueError(f"`device_map` separates {names}, which share weights: map both alike.")


def full_device_map(device_map: Any) -> Any:
    """A device map by the names of the whole model, with EGMF's own layers on a device.

    Args:
        device_map: a dict by the names of the whole model, {"language_model.model.layers.0": "disk", ...}, or by those
            of the language model, {"model.layers.0": "disk", ...}; anything else is returned unchanged.

    Raises:
        ValueError: a module and a part of it are both named, which would leave weights unloaded.
    """
    if not isinstance(device_map, dict):
        return device_map
    full_map = {}
    for name, device in device_map.items():
        is_full = name.partition(".")[0] in ("language_model", "egmf")
        full_map[name if is_full else f"language_model.{name}".rstrip(".")] = device
    for name in full_map:
        parts = [part for part in full_map if part.startswith(f"{name}.")]
        if parts:
            raise ValueError(f"`device_map` names {name} and its part {parts[0]}; name only the parts.")
    if all(name.startswith("language_model") for name in full_map):
        devices = [device for device in full_map.values() if device not in ("cpu", "disk")]
        full_map = {"egmf": devices[0] if devices else "cpu", **full_map}
    return full_map


def text_model_device_map(device_map: Any) -> Any:
    """The part of a device map for the language model, by the language model's own names."""
    full_map = full_device_map(device_map)
    if not isinstance(full_map, dict):
        return full_map
    own_map = {name.partition(".")[2]: place for name, place in full_map.items() if name[:4] != "egmf"}
    # Without any, the library chooses.
    return own_map or None


def place_with_language_model(model: PreTrainedModel) -> None:
    """Put EGMF's own layers on the device of the embeddings, and complete the device map of the language model."""
    embeddings = model.get_input_embeddings()
    with in_memory(embeddings):
        device = embeddings.weight.device
    model.egmf.to(device)
    # Set if accelerate split or offloaded the language model.
    device_map = vars(model.language_model).get("hf_device_map")
    if device_map is not None:
        model.hf_device_map = {"egmf": device}
        for name, place in device_map.items():
            model.hf_device_map[f"language_model.{name}".rstrip(".")] = place
