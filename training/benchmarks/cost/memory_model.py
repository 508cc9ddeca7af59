"""The model of a memory estimate, built on the meta device; its parameters and bytes are counted part by part.

No weights are loaded or downloaded. Activations that encoders and fusion keep for the backward pass are counted while
running one sample on the CPU, because these parts are small.
"""

from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig

from modeling_egmf import EGMFConfig, EGMFEncoderConfig, EGMFForConditionalGeneration, EGMFModel
from modeling_egmf.fields_egmf import embedding_width

from ...model.builder import fusion_settings
from ...model.encoders import RAW_INPUTS, shared_settings
from ...options import ModelArguments
from .memory_formulas import Adapters, Batch, four_bit_bytes


PARTS = {  # prefix of a parameter's name -> part of the model
    "egmf.audio_visual_encoder.": "encoders",
    "egmf.fusion.": "fusion",
    "egmf.experts.": "experts",
    "egmf.pseudo_tokens.": "pseudo tokens",
}
PART_NAMES = ("language model", "LoRA", *PARTS.values())
AUDIO_FEATURES_PER_SECOND = 50


class Load(NamedTuple):
    """The input of one step."""

    batch: Batch
    seconds: float  # of each clip
    words: int  # tokens of each transcript, which the fusion reads


# ---- the model ------------------------------------------------------------------------------------------------


def meta_model(arguments: ModelArguments, text_config: PreTrainedConfig) -> EGMFForConditionalGeneration:
    """The model that `training.model.builder` would build from these options, without any weights.

    Args:
        arguments: options of the model; the language model's name is ignored.
        text_config: configuration of the language model.

    Raises:
        ValueError: the width of the features is missing.
    """
    config = EGMFConfig(
        text_config=text_config,
        audio_config=encoder_config(arguments, "audio"),
        video_config=encoder_config(arguments, "video"),
        placeholder_token_id=text_config.vocab_size,
        **fusion_settings(arguments),
    )
    with torch.device("meta"):
        language_model = AutoModelForCausalLM.from_config(text_config, dtype=text_dtype(arguments, text_config))
        return EGMFForConditionalGeneration(config, language_model)


def text_dtype(arguments: ModelArguments, text_config: PreTrainedConfig) -> torch.dtype:
    """Dtype of the language model: as in the options, or as in its config, or bfloat16."""
    if arguments.text_model_dtype != "auto":
        return getattr(torch, arguments.text_model_dtype)
    return text_config.dtype or torch.bfloat16


def encoder_config(arguments: ModelArguments, modality: str) -> EGMFEncoderConfig | None:
    """The configuration of an encoder; a pretrained encoder is configured without loading its weights."""
    kind = arguments.audio if modality == "audio" else arguments.video
    feature_size = arguments.audio_feature_size if modality == "audio" else arguments.video_feature_size
    shared = shared_settings(arguments)
    if kind in (None, "none"):
        return None
    if kind == "features":
        if feature_size is None:
            raise ValueError(
                f"--{modality} features needs --{modality}_feature_size, the width of one feature vector."
            )
        return EGMFEncoderConfig(input_type="features", feature_size=feature_size, **shared)
    if kind == RAW_INPUTS[modality]:
        return EGMFEncoderConfig(input_type=kind, **shared)
    model_config = AutoConfig.from_pretrained(kind)
    part_name = "vision_config" if modality == "video" else "audio_config"
    return EGMFEncoderConfig(
        input_type=RAW_INPUTS[modality],
        backbone_config=getattr(model_config, part_name, None) or model_config,
        backbone_trainable=arguments.train_backbones,
        **shared,
    )


# ---- parameters and weights -----------------------------------------------------------------------------------


def part_of(name: str) -> str:
    """The part of the model that a parameter belongs to."""
    if name.startswith("language_model."):
        return "LoRA" if "lora_" in name else "language model"
    return next(part for prefix, part in PARTS.items() if name.startswith(prefix))


def parameters_by_part(model: nn.Module) -> dict[str, dict[str, int]]:
    """Part -> number of its parameters, and of those that are trained."""
    counts = {part: {"total": 0, "trainable": 0} for part in PART_NAMES}
    for name, parameter in model.named_parameters():
        part = counts[part_of(name)]
        part["total"] += parameter.numel()
        if parameter.requires_grad:
            part["trainable"] += parameter.numel()
    return counts


def weight_bytes(model: EGMFForConditionalGeneration) -> dict[str, int]:
    """Part -> bytes of its parameters and buffers."""
    sizes = dict.fromkeys(PART_NAMES, 0)
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        sizes[part_of(name)] += value.numel() * value.element_size()
    return sizes


def quantized_layers(model: EGMFForConditionalGeneration) -> list[nn.Linear]:
    """The language model's linear layers that 4-bit loading quantizes: all but LoRA's and the output matrix."""
    output = model.get_output_embeddings()
    layers = []
    for name, module in model.language_model.named_modules():
        if isinstance(module, nn.Linear) and "lora_" not in name and module is not output:
            layers.append(module)
    return layers


def saved_in_four_bit(model: EGMFForConditionalGeneration, double_quantization: bool = True) -> int:
    """Bytes saved by loading the weights in 4 bits."""
    saved = 0
    for layer in quantized_layers(model):
        weight = layer.weight
        saved += weight.numel() * weight.element_size() - four_bit_bytes(weight.numel(), double_quantization)
    return saved


def adapters_of(model: EGMFForConditionalGeneration) -> Adapters:
    """Total inputs and ranks of all LoRA layers."""
    inputs = 0
    ranks = 0
    for name, parameter in model.language_model.named_parameters():
        if "lora_A" in name:
            ranks += parameter.shape[0]
            inputs += parameter.shape[1]
    dropout = (model.config.lora or {}).get("lora_dropout", 0.0)
    return Adapters(inputs, ranks, dropout)


# ---- activations of encoders and fusion -----------------------------------------------------------------------


def egmf_activations(config: EGMFConfig, load: Load, num_frames: int) -> int:
    """Bytes that encoders, fusion and experts keep for the backward pass of one sample.

    Audio features are assumed to have a rate of 50 per second. A pretrained encoder is left out: if frozen, it keeps
    nothing, and its outputs are counted as features; if trained, it keeps more than is counted here.

    Args:
        config: configuration of the model.
        load: length of clip and transcript.
        num_frames: frames per video.
    """
    config = EGMFConfig.from_dict(config.to_dict())
    media = {}
    for modality, encoder in (("audio", config.audio_config), ("video", config.video_config)):
        if encoder is None:
            continue
        if encoder.backbone_config is not None:
            _replace_backbone_by_features(encoder)
        shape = _clip_shape(encoder, modality, load.seconds, num_frames)
        media[f"{modality}_values"] = torch.zeros(1, *shape)
        media[f"{modality}_mask"] = torch.ones(1, shape[0], dtype=torch.bool)
    num_words = max(load.words, 1)
    text = torch.zeros(1, num_words, embedding_width(config.text_config))
    return _kept_bytes(EGMFModel(config).train(), text, torch.ones(1, num_words), media)


def _replace_backbone_by_features(encoder: EGMFEncoderConfig) -> None:
    backbone = encoder.backbone_config
    encoder.feature_size = getattr(backbone, "hidden_size", None) or backbone.hidden_sizes[-1]
    encoder.input_type = "features"
    encoder.backbone_config = None


def _clip_shape(encoder: EGMFEncoderConfig, modality: str, seconds: float, num_frames: int) -> tuple[int, ...]:
    """Shape of one clip, time first."""
    if encoder.input_type == "waveform":
        return (round(seconds * encoder.sampling_rate),)
    if encoder.input_type == "frames":
        return (num_frames, 3, encoder.frame_height, encoder.frame_width)
    num_steps = round(seconds * AUDIO_FEATURES_PER_SECOND) if modality == "audio" else num_frames
    return (num_steps, encoder.feature_size)


def _kept_bytes(model: EGMFModel, text: torch.Tensor, text_mask: torch.Tensor, media: dict[str, Any]) -> int:
    """Bytes of the tensors that a forward pass keeps for its backward pass, without the weights."""
    own = {value.untyped_storage().data_ptr() for value in (*model.parameters(), *model.buffers())}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(value: torch.Tensor) -> torch.Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        output = model(text, text_mask, **media)
    del output
    return sum(storage.nbytes() for storage in kept.values())
