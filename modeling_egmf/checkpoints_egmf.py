"""Light and full checkpoints, and LoRA inside the language model.

    light: config.text_model_id names the language model; model.safetensors holds what was trained
    full:  config.text_model_id is None; model.safetensors holds everything, LoRA merged

Both are plain safetensors. Every key of either is checked at load: nothing is ever left random in silence.
"""

import hashlib
import os
from typing import Any

import torch
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedModel
from transformers.utils import cached_file, logging

from .configuration_egmf import EGMFConfig, EGMFEncoderConfig


logger = logging.get_logger(__name__)

HUB_ARGUMENTS = ("token", "cache_dir", "local_files_only", "force_download", "proxies")
# Ours are never cast, quantised or split; these go to the language model alone.
LOADING_ARGUMENTS = ("dtype", "device_map", "max_memory", "offload_folder", "low_cpu_mem_usage")
TEXT_MODEL_ARGUMENTS = (*LOADING_ARGUMENTS, "quantization_config", "attn_implementation")


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise ImportError("This model has LoRA in its language model, which needs: pip install peft") from error
    return peft


def inject_lora(language_model: PreTrainedModel, lora: dict) -> None:
    """Put LoRA layers into the language model in place; A and B stay in float32 whatever the model's dtype is."""
    peft = _peft()
    peft.inject_adapter_in_model(peft.LoraConfig(**lora), language_model)
    for name, module in language_model.named_modules():
        if "lora_" in name:
            module.float()
            module._is_hf_initialized = True  # peft's start, at which LoRA has no effect, is kept by post_init


def merge_lora(language_model: PreTrainedModel) -> None:
    """Add LoRA's product to the weights and take its layers out."""
    layers = _peft().tuners.tuners_utils.BaseTunerLayer
    for name, module in list(language_model.named_modules()):
        if isinstance(module, layers):
            module.merge()
            parent, _, child = name.rpartition(".")
            setattr(language_model.get_submodule(parent), child, module.get_base_layer())


def fingerprint(language_model: PreTrainedModel) -> str:
    """A hash over a piece of the embedding matrix in bfloat16, the same in whichever precision it was loaded."""
    piece = language_model.get_input_embeddings().weight.detach()[:64, :64].to("cpu", torch.bfloat16)
    return hashlib.sha256(piece.float().numpy().tobytes()).hexdigest()[:16]


def keys_stored_elsewhere(model: PreTrainedModel) -> set[str]:
    """Names in the state dict that a light checkpoint leaves out, because the configuration says where they lie."""
    if model.config.text_model_id is None:
        return set()
    keys = {f"language_model.{name}" for name in model.language_model.state_dict() if "lora_" not in name}
    for name in ("audio", "video"):
        config = getattr(model.config, f"{name}_config")
        if config is not None and config.backbone_id is not None and not config.backbone_trainable:
            prefix = f"egmf.audio_visual_encoder.{name}.stem.backbone"
            keys |= {f"{prefix}.{key}" for key in model.get_submodule(prefix).state_dict()}
    return keys


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
    try:
        language_model, info = AutoModelForCausalLM.from_pretrained(where, **kwargs)
    except (OSError, ValueError) as error:
        raise OSError(
            f"{checkpoint} is a light checkpoint: its language model is stored apart, as {config.text_model_id!r}, "
            f"which could not be loaded ({error}). Point at a copy with "
            f"from_pretrained(..., text_model_id='/path/to/the/language/model')."
        ) from error
    wrong = {name: sorted(map(str, keys)) for name, keys in info.items() if keys}
    if wrong:
        raise ValueError(f"The language model at {where} is not whole: {wrong}. Fetch or save it again.")
    theirs, ours = language_model.config.get_text_config(), config.text_config.get_text_config()
    for name in ("model_type", "hidden_size", "num_hidden_layers", "vocab_size"):
        if getattr(theirs, name) != getattr(ours, name):
            raise ValueError(
                f"The language model at {where} has {name}={getattr(theirs, name)}, but {checkpoint} was trained on "
                f"one with {getattr(ours, name)}. Point `text_model_id` at {config.text_model_id!r} or a copy of it."
            )
    if config.text_model_fingerprint not in (None, fingerprint(language_model)):
        logger.warning(
            f"The language model at {where} has other weights than the one {checkpoint} was trained on: the answers "
            "will differ, and may be poor."
        )
    return language_model


def _load_backbone(
    config: EGMFEncoderConfig | None, name: str, checkpoint: str | os.PathLike, **kwargs: Any
) -> PreTrainedModel | None:
    if config is None or config.backbone_id is None or config.backbone_trainable:
        return None
    where, revision = locate_part(config.backbone_id, checkpoint), config.backbone_revision or "main"
    try:
        return AutoModel.from_pretrained(where, config=config.backbone_config, revision=revision, **kwargs)
    except (OSError, ValueError) as error:
        raise OSError(
            f"The {name} encoder {config.backbone_id!r} of this light checkpoint could not be loaded ({error}). "
            f"Set config.{name}_config.backbone_id to a local copy."
        ) from error


def load_light(
    cls: type[PreTrainedModel], checkpoint: str | os.PathLike, config: EGMFConfig, **kwargs: Any
) -> PreTrainedModel:
    """Build the model around its language model, load what was trained, and check every key.

    Raises:
        OSError: the checkpoint or what it names cannot be found.
        ValueError: a key is missing, unexpected or of another shape.
    """
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise ImportError("Loading this checkpoint needs: pip install safetensors") from error
    hub = {name: kwargs[name] for name in HUB_ARGUMENTS if kwargs.get(name) is not None}
    kwargs["dtype"] = kwargs.get("dtype") or kwargs.get("torch_dtype")
    text = {name: kwargs[name] for name in TEXT_MODEL_ARGUMENTS if kwargs.get(name) is not None}
    path = cached_file(checkpoint, "model.safetensors", revision=kwargs.get("revision") or "main", **hub)
    language_model = load_text_model(checkpoint, config, **hub, **text)
    config.text_config.dtype = language_model.dtype
    model = cls(
        config,
        language_model=language_model,
        audio_backbone=_load_backbone(config.audio_config, "audio", checkpoint, **hub),
        video_backbone=_load_backbone(config.video_config, "video", checkpoint, **hub),
    )
    state = load_file(path)
    expected, elsewhere = model.state_dict(), keys_stored_elsewhere(model)
    wrong = {
        "missing": sorted(set(expected) - elsewhere - set(state)),
        "unexpected": sorted(set(state) - set(expected)),
        "of another shape": sorted(k for k in set(state) & set(expected) if state[k].shape != expected[k].shape),
    }
    if any(wrong.values()):
        told = ", ".join(f"{kind}: {keys[:5]} ({len(keys)})" for kind, keys in wrong.items())
        raise ValueError(
            f"{path} does not fit its configuration. Keys {told}. Nothing is used, because the rest would stay random."
        )
    model.load_state_dict(state, strict=False)
    model.egmf.to(language_model.device)
    model.name_or_path = str(checkpoint)
    model.freeze()
    model.eval()
    if kwargs.get("output_loading_info"):
        return model, {"missing_keys": set(), "unexpected_keys": set(), "mismatched_keys": set(), "error_msgs": []}
    return model
