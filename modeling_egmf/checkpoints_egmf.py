"""Light and full checkpoints, and LoRA inside the language model.

    light: config.text_model_id names the language model; model.safetensors holds what was trained
    full:  config.text_model_id is None; model.safetensors holds everything, LoRA merged

Both are plain safetensors. Every key of either is checked at load: nothing is ever left random in silence.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedModel
from transformers.modeling_utils import load_state_dict
from transformers.utils import cached_file, logging

from .configuration_egmf import EGMFConfig, EGMFEncoderConfig


logger = logging.get_logger(__name__)

HUB_ARGUMENTS = ("token", "cache_dir", "local_files_only", "force_download", "proxies")
# Ours are never cast, quantized or split; these go to the language model alone.
LOADING_ARGUMENTS = ("dtype", "device_map", "max_memory", "offload_folder", "low_cpu_mem_usage")
TEXT_MODEL_ARGUMENTS = (*LOADING_ARGUMENTS, "quantization_config", "attn_implementation")


def inject_lora(language_model: PreTrainedModel, lora: dict) -> None:
    """Put LoRA layers into the language model in place; A and B stay in float32 whatever the model's dtype is."""
    try:
        import peft
    except ImportError as error:
        raise ImportError("This model has LoRA in its language model, which needs: pip install peft") from error
    peft.inject_adapter_in_model(peft.LoraConfig(**lora), language_model)
    for name, module in language_model.named_modules():
        if "lora_" in name:
            module.float()
            module._is_hf_initialized = True  # peft's start, at which LoRA has no effect, is kept by post_init


@contextmanager
def loading(what: str, remedy: str = "Download or save it again.") -> Iterator[None]:
    """Say what cannot be loaded: not found, cut off, damaged."""
    try:
        from safetensors import SafetensorError
    except ImportError as error:
        raise ImportError("Loading a checkpoint needs: pip install safetensors") from error
    try:
        yield
    except (OSError, ValueError, SafetensorError) as error:
        raise OSError(f"{what} could not be loaded ({error}). {remedy}") from error


def check_weights(
    where: str | os.PathLike, wrong_keys: Mapping[str, Iterable], weights: Mapping[str, torch.Tensor]
) -> None:
    """Refuse a checkpoint with wrong keys, of any kind, or with weights that are NaN or infinite."""
    here = [name for name, weight in weights.items() if weight.itemsize > 1 and not weight.is_meta]
    wrong = {**wrong_keys, "NaN or infinite": [name for name in here if not weights[name].isfinite().all()]}
    told = [f"{kind}: {sorted(map(str, keys))[:5]} ({len(keys)})" for kind, keys in wrong.items() if keys]
    if told:
        remedy = "Download or save it again. Is it a light checkpoint whose `text_model_id` was removed?"
        raise ValueError(f"{where} is not whole: {', '.join(told)}. {remedy}")


def fingerprint(language_model: PreTrainedModel) -> str:
    """A hash over a piece of the embedding matrix in bfloat16, the same in whichever precision it was loaded."""
    piece = language_model.get_input_embeddings().weight.detach()[:64, :64].to("cpu", torch.bfloat16)
    return hashlib.sha256(piece.float().numpy().tobytes()).hexdigest()[:16]


def keys_stored_elsewhere(model: PreTrainedModel) -> set[str]:
    """Names in the state dict that a light checkpoint leaves out, because the configuration says where they lie."""
    if model.config.text_model_id is None:
        return set()
    apart = ["language_model"]
    for name in ("audio", "video"):
        if _is_apart(getattr(model.config, f"{name}_config")):
            apart.append(f"egmf.audio_visual_encoder.{name}.stem.backbone")
    return {key for key in model.state_dict() if key.startswith(tuple(apart)) and "lora_" not in key}


def _is_apart(config: EGMFEncoderConfig | None) -> bool:
    return config is not None and config.backbone_id is not None and not config.backbone_trainable


def locate_part(model_id: str, checkpoint: str | os.PathLike) -> str:
    """A path relative to the checkpoint's folder or, for a run's checkpoint-N, to the run's; else the id as it is."""
    if os.path.isdir(checkpoint) and not os.path.isabs(model_id):
        for folder in (checkpoint, os.path.join(checkpoint, os.pardir)):
            beside = os.path.normpath(os.path.join(folder, model_id))
            if os.path.isfile(os.path.join(beside, "config.json")):
                return beside
    return model_id


def load_text_model(checkpoint: str | os.PathLike, config: EGMFConfig, **kwargs: Any) -> PreTrainedModel:
    """The language model that `config.text_model_id` names, in the precision that it was trained beside."""
    where = locate_part(config.text_model_id, checkpoint)
    if kwargs.get("dtype") in (None, "auto"):
        kwargs["dtype"] = config.text_config.dtype or "auto"
    kwargs |= {"revision": config.text_model_revision or "main", "output_loading_info": True}
    remedy = "Point at a copy with from_pretrained(..., text_model_id='/path/to/the/language/model')."
    with loading(f"{checkpoint} is a light checkpoint: its language model {config.text_model_id!r}", remedy):
        language_model, info = AutoModelForCausalLM.from_pretrained(where, **kwargs)
    check_weights(where, info, {})
    theirs, ours = language_model.config.get_text_config(), config.text_config.get_text_config()
    for name in ("model_type", "hidden_size", "num_hidden_layers", "vocab_size"):
        if getattr(theirs, name) != getattr(ours, name):
            said = f"The language model at {where} has {name}={getattr(theirs, name)}, but {checkpoint} was trained"
            raise ValueError(
                f"{said} on one with {getattr(ours, name)}. Point `text_model_id` at that, or a copy of it."
            )
    if config.text_model_fingerprint not in (None, fingerprint(language_model)):
        said = f"The language model at {where} has other weights than the one {checkpoint} was trained on"
        logger.warning(f"{said}: the answers will differ, and may be poor.")
    return language_model


def _load_backbone(checkpoint: str | os.PathLike, config: EGMFConfig, name: str, **hub: Any) -> PreTrainedModel | None:
    encoder = getattr(config, f"{name}_config")
    if not _is_apart(encoder):
        return None
    where, revision = locate_part(encoder.backbone_id, checkpoint), encoder.backbone_revision or "main"
    remedy = f"Set config.{name}_config.backbone_id to a local copy."
    with loading(f"{checkpoint} is a light checkpoint: its {name} encoder {encoder.backbone_id!r}", remedy):
        return AutoModel.from_pretrained(where, config=encoder.backbone_config, revision=revision, **hub)


def load_adapter_checkpoint(
    cls: type[PreTrainedModel], checkpoint: str | os.PathLike, config: EGMFConfig, **kwargs: Any
) -> PreTrainedModel:
    """Build the model around its language model, load what was trained, and check it: see `from_pretrained`."""
    hub = {name: kwargs[name] for name in HUB_ARGUMENTS if kwargs.get(name) is not None}
    kwargs["dtype"] = kwargs.get("dtype") or kwargs.get("torch_dtype")
    text = {name: kwargs[name] for name in TEXT_MODEL_ARGUMENTS if kwargs.get(name) is not None}
    path = cached_file(checkpoint, "model.safetensors", revision=kwargs.get("revision") or "main", **hub)
    language_model = load_text_model(checkpoint, config, **hub, **text)
    config.text_config.dtype = language_model.dtype
    model = cls(config, language_model, *(_load_backbone(checkpoint, config, n, **hub) for n in ("audio", "video")))
    with loading(path):
        state = load_state_dict(path)
    expected = model.state_dict()
    wrong = {
        "missing keys": set(expected) - keys_stored_elsewhere(model) - set(state),
        "unexpected keys": set(state) - set(expected),
        "of another shape": [k for k in set(state) & set(expected) if state[k].shape != expected[k].shape],
    }
    check_weights(path, wrong, state)
    model.load_state_dict(state, strict=False)
    model.egmf.to(language_model.device)
    model.name_or_path = str(checkpoint)
    model.freeze()
    model.eval()
    if kwargs.get("output_loading_info"):
        return model, {"missing_keys": set(), "unexpected_keys": set(), "mismatched_keys": set(), "error_msgs": []}
    return model
