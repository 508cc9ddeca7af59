"""Adapter and standalone checkpoints of EGMF, and LoRA inside the language model.

    adapter:     config.text_model_id names the language model; model.safetensors holds only what was trained
    standalone:  config.text_model_id is None; model.safetensors holds everything, LoRA merged

Both load with `EGMFForConditionalGeneration.from_pretrained`, which checks every key, so that no weight silently
keeps its random initialization.

    load_adapter_checkpoint ─┬─ load_text_model      the language model that the configuration names
                             ├─ load_backbone        frozen pretrained encoders that it names
                             ├─ read_trained_state   model.safetensors, keys and shapes checked
                             └─ check_weights        no missing, unexpected, misshapen or non-finite weights
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.modeling_utils import load_state_dict
from transformers.utils import cached_file, logging

from .configuration_egmf import EGMFConfig, EGMFEncoderConfig


logger = logging.get_logger(__name__)

HUB_ARGUMENTS = ("token", "cache_dir", "local_files_only", "force_download", "proxies")
# Fusion and encoders are never cast, quantized or split: these arguments go only to the language model.
TEXT_MODEL_ARGUMENTS = (
    "dtype",
    "device_map",
    "max_memory",
    "offload_folder",
    "low_cpu_mem_usage",
    "quantization_config",
    "attn_implementation",
)
# A language model that differs in any of these is not the one that the checkpoint was trained with.
TEXT_MODEL_SIZES = ("model_type", "hidden_size", "num_hidden_layers", "vocab_size")


# ---- LoRA -----------------------------------------------------------------------------------------------------------


def inject_lora(language_model: PreTrainedModel, lora: dict) -> None:
    """Inject LoRA layers into the language model, in place.

    Args:
        language_model: of any dtype; the LoRA matrices A and B stay in float32.
        lora: keyword arguments of `peft.LoraConfig`.
    """
    try:
        import peft
    except ImportError as error:
        raise ImportError("This model has LoRA in its language model, which needs: pip install peft") from error
    peft.inject_adapter_in_model(peft.LoraConfig(**lora), language_model)
    for name, module in language_model.named_modules():
        if "lora_" in name:
            module.float()
            module._is_hf_initialized = True  # so post_init keeps peft's values, with no effect yet


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
    return {key for key in model.state_dict() if key.startswith(tuple(prefixes)) and "lora_" not in key}


def is_stored_elsewhere(config: EGMFEncoderConfig | None) -> bool:
    """Whether an encoder has a frozen backbone that is loaded from `backbone_id`."""
    return config is not None and config.backbone_id is not None and not config.backbone_trainable


def fingerprint(language_model: PreTrainedModel) -> str:
    """A hash of part of the embedding matrix in bfloat16, independent of the precision it was loaded in."""
    weight = language_model.get_input_embeddings().weight.detach()
    piece = weight[:64, :64].to("cpu", torch.bfloat16)
    return hashlib.sha256(piece.float().numpy().tobytes()).hexdigest()[:16]


# ---- checks ---------------------------------------------------------------------------------------------------------


@contextmanager
def explain_loading_errors(name: str, remedy: str = "Download or save it again.") -> Iterator[None]:
    """Turn the error of a missing, truncated or damaged file into one that names it and says what to do.

    Args:
        name: what is being loaded; it starts the message.
        remedy: what the user can do about it.

    Raises:
        OSError: instead of the error of the library that reads the file.
    """
    try:
        from safetensors import SafetensorError
    except ImportError as error:
        raise ImportError("Loading a checkpoint needs: pip install safetensors") from error
    try:
        yield
    except (OSError, ValueError, SafetensorError) as error:
        raise OSError(f"{name} could not be loaded ({error}). {remedy}") from error


def check_weights(
    path: str | os.PathLike,
    wrong_keys: Mapping[str, Iterable],
    weights: Mapping[str, Tensor],
) -> None:
    """Reject a checkpoint with wrong keys or with non-finite weights.

    Args:
        path: of the checkpoint.
        wrong_keys: kind of mistake -> names, as in the loading info of `from_pretrained`.
        weights: name -> tensor.

    Raises:
        ValueError: `wrong_keys` names any key, or a weight is NaN or infinite.
    """
    not_finite = []
    for name, weight in weights.items():
        is_quantized = weight.itemsize == 1
        if not is_quantized and not weight.is_meta and not weight.isfinite().all():
            not_finite.append(name)

    mistakes = []
    for kind, names in {**wrong_keys, "NaN or infinite": not_finite}.items():
        if names:
            mistakes.append(f"{kind}: {sorted(map(str, names))[:5]} ({len(names)})")
    if mistakes:
        raise ValueError(
            f"The weights of {path} do not match the model: {', '.join(mistakes)}. Download or save it again. "
            "Is it an adapter checkpoint whose `text_model_id` was removed from config.json?"
        )


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
            f"The language model at {path} has different weights than the one {checkpoint} was trained with: "
            "the answers will differ, and may be poor."
        )


# ---- loading --------------------------------------------------------------------------------------------------------


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


def load_text_model(checkpoint: str | os.PathLike, config: EGMFConfig, **kwargs: Any) -> PreTrainedModel:
    """The language model that `config.text_model_id` names, by default in the precision it was trained in.

    Args:
        checkpoint: folder or Hub id of the EGMF checkpoint.
        config: its configuration.
        kwargs: passed to `AutoModelForCausalLM.from_pretrained`.
    """
    path = locate_part(config.text_model_id, checkpoint)
    if kwargs.get("dtype") in (None, "auto"):
        kwargs["dtype"] = config.text_config.dtype or "auto"
    kwargs["revision"] = config.text_model_revision or "main"
    with explain_loading_errors(
        f"{checkpoint} is an adapter checkpoint: its language model {config.text_model_id!r}",
        "Point to a copy with from_pretrained(..., text_model_id='/path/to/the/language/model').",
    ):
        language_model, info = AutoModelForCausalLM.from_pretrained(path, output_loading_info=True, **kwargs)
    check_weights(path, info, {})
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


def load_config(
    config_class: type[PreTrainedConfig],
    config: PreTrainedConfig | str | os.PathLike | None,
    checkpoint: Any,
    kwargs: dict,
) -> PreTrainedConfig:
    """The configuration passed to `from_pretrained`, or else the checkpoint's."""
    if isinstance(config, PreTrainedConfig):
        return config
    names = ("revision", "token", "cache_dir", "local_files_only")
    hub_kwargs = {name: kwargs[name] for name in names if name in kwargs}
    return config_class.from_pretrained(config or checkpoint, **hub_kwargs)


def load_adapter_checkpoint(
    model_class: type[PreTrainedModel],
    checkpoint: str | os.PathLike,
    config: EGMFConfig,
    **kwargs: Any,
) -> PreTrainedModel | tuple[PreTrainedModel, dict]:
    """Build the model around the language model that the configuration names, and load the trained weights.

    Args:
        model_class: `EGMFForConditionalGeneration`.
        checkpoint: folder or Hub id.
        config: its configuration, with a `text_model_id`.
        kwargs: those of `from_pretrained`.

    Returns:
        The model in evaluation mode, with only the trained weights unfrozen; and the info, with `output_loading_info`.
    """
    hub_kwargs = {name: kwargs[name] for name in HUB_ARGUMENTS if kwargs.get(name) is not None}
    kwargs["dtype"] = kwargs.get("dtype") or kwargs.get("torch_dtype")
    text_kwargs = {name: kwargs[name] for name in TEXT_MODEL_ARGUMENTS if kwargs.get(name) is not None}

    path = cached_file(checkpoint, "model.safetensors", revision=kwargs.get("revision") or "main", **hub_kwargs)
    language_model = load_text_model(checkpoint, config, **hub_kwargs, **text_kwargs)
    config.text_config.dtype = language_model.dtype
    audio_backbone = load_backbone(checkpoint, config.audio_config, "audio", **hub_kwargs)
    video_backbone = load_backbone(checkpoint, config.video_config, "video", **hub_kwargs)

    model = model_class(config, language_model, audio_backbone, video_backbone)
    model.load_state_dict(read_trained_state(path, model), strict=False)
    model.egmf.to(language_model.device)
    model.name_or_path = str(checkpoint)
    model.freeze()
    model.eval()
    if kwargs.get("output_loading_info"):
        # Any mismatch has raised an error above.
        return model, {"missing_keys": set(), "unexpected_keys": set(), "mismatched_keys": set(), "error_msgs": []}
    return model


def read_trained_state(path: str, model: PreTrainedModel) -> dict[str, Tensor]:
    """Read model.safetensors of an adapter checkpoint: exactly the weights that are not stored elsewhere."""
    with explain_loading_errors(path):
        state = load_state_dict(path)
    expected = model.state_dict()
    wrong_keys = {
        "missing keys": set(expected) - keys_stored_elsewhere(model) - set(state),
        "unexpected keys": set(state) - set(expected),
        "wrong shapes": [k for k in set(state) & set(expected) if state[k].shape != expected[k].shape],
    }
    check_weights(path, wrong_keys, state)
    return state
