"""Audio and video encoders of a new model: for raw media or precomputed features, or pretrained ones from the Hub."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoModel,
    AutoVideoProcessor,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import MODEL_MAPPING

from modeling_egmf import EGMFEncoderConfig
from modeling_egmf.backbones_egmf import EGMFPretrainedStem, backbone_width, clip_layout
from modeling_egmf.parts_egmf import sum_of_bits
from processing_egmf.frontends_egmf import encode_frames, encode_waveform

from ..data.locations import refuse_file
from ..options import ModelArguments
from .language_model import absolute_id, describe_hub_error
from .presets import RAW_INPUTS, check_encoder_name, explain_download, locate_preset, preset_names


# Names of an encoder's first argument.
ENCODER_INPUTS = {"audio": ("input_values", "input_features"), "video": ("pixel_values", "pixel_values_videos")}
# Families of pretrained encoders that work, for messages.
KNOWN_ENCODERS = {
    "audio": "Wav2Vec2, HuBERT, WavLM, Whisper, Wav2Vec2-BERT or AST",
    "video": "ViT, CLIP, DINOv2, SigLIP, ConvNeXt, ResNet, VideoMAE or V-JEPA 2",
}
FRONTEND_CLASSES = {
    "audio": {"feature_extractor": AutoFeatureExtractor},
    "video": {"image_processor": AutoImageProcessor, "video_processor": AutoVideoProcessor},
}
# Weights that a checkpoint may lack: only classifiers and pretraining use them.
UNUSED_WEIGHTS = ("pooler", "masked_spec_embed")
MIN_CHUNK_SECONDS = 1.0
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Encoder(NamedTuple):
    """An encoder to build.

    Args:
        config: its configuration; None if the model does not take the modality.
        backbone: the pretrained encoder, if there is one.
        frontend: feature extractor, image processor or video processor of the pretrained encoder.
        frontend_name: the processor's argument that takes it, such as `feature_extractor`.
        num_frames: number of frames that a pretrained encoder of whole clips takes; None for any other encoder.
    """

    config: EGMFEncoderConfig | None = None
    backbone: PreTrainedModel | None = None
    frontend: Any = None
    frontend_name: str | None = None
    num_frames: int | None = None


def build_encoder(arguments: ModelArguments, modality: str) -> Encoder:
    """The encoder that `--audio` or `--video` names.

    Args:
        arguments: options of the model.
        modality: `audio` or `video`.

    Raises:
        ValueError: the option does not name an encoder, or the width of the features is missing.
    """
    kind = arguments.audio if modality == "audio" else arguments.video
    feature_size = arguments.audio_feature_size if modality == "audio" else arguments.video_feature_size
    raw_input = RAW_INPUTS[modality]
    shared = shared_settings(arguments)
    check_encoder_name(modality, kind, feature_size)
    if kind in (None, "none"):
        return Encoder()
    if kind == "features":
        pooling = arguments.encoder_pooling or "attention"
        return Encoder(EGMFEncoderConfig(input_type="features", feature_size=feature_size, pooling=pooling, **shared))
    if kind == raw_input:
        return Encoder(EGMFEncoderConfig(input_type=raw_input, **shared))
    return load_pretrained_encoder(arguments, modality, kind)


def without_untrained_encoders(arguments: ModelArguments, modalities: Sequence[str] | None) -> ModelArguments:
    """Options of a new model without encoders for the modalities that it is not trained with.

    Such an encoder would keep its random weights, and the model would answer from them. A checkpoint keeps its own.

    Args:
        arguments: options of the model.
        modalities: the modalities to train with; None for all.
    """
    if modalities is None or arguments.model_name_or_path is not None:
        return arguments
    unused = {modality: "none" for modality in ("audio", "video") if modality not in modalities}
    return dataclasses.replace(arguments, **unused)


def shared_settings(arguments: ModelArguments) -> dict[str, Any]:
    """Fields of `EGMFEncoderConfig` that audio and video have in common."""
    return {
        "sequence_encoder": arguments.sequence_encoder,
        "hidden_size": arguments.encoder_hidden_size,
        "num_layers": arguments.encoder_layers,
        "dropout": arguments.encoder_dropout,
        "conv_channels": arguments.conv_channels,
        "frame_height": arguments.frame_size,
        "frame_width": arguments.frame_size,
    }


def load_pretrained_encoder(arguments: ModelArguments, modality: str, model_id: str) -> Encoder:
    """Load a pretrained encoder; of a model with several parts, such as CLIP, only the part for the modality.

    Args:
        arguments: options of the model.
        modality: `audio` or `video`.
        model_id: name of a preset, folder or Hub id.

    Raises:
        ValueError: the encoder does not exist, lacks weights, or cannot encode the modality.
    """
    check_pretrained_options(arguments)
    refuse_file(model_id)
    option = f"--{modality} {model_id}"
    name = model_id
    model_id = locate_preset(name, modality)
    backbone_config = read_backbone_config(option, modality, model_id, explain_download(name))
    check_architecture(option, modality, backbone_config)
    frontend_name, frontend = load_frontend(option, modality, model_id)
    max_seconds = vars(frontend).get("chunk_length")  # of Whisper
    if modality == "audio" and max_seconds is not None and arguments.max_clip_seconds > max_seconds:
        raise ValueError(f"{option} takes at most {max_seconds} s of audio; set --max_clip_seconds {max_seconds}.")

    try:
        # In float32 by default, whatever the checkpoint's precision.
        backbone, info = AutoModel.from_pretrained(
            model_id, config=backbone_config, dtype=DTYPES[arguments.pretrained_dtype], output_loading_info=True
        )
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{option}: its weights cannot be loaded ({reason}).{explain_download(name)}") from error
    missing = [key for key in info["missing_keys"] if not any(name in key for name in UNUSED_WEIGHTS)]
    if missing:
        raise ValueError(
            f"{option}: the checkpoint has no weights for {sorted(missing)[:3]} ({len(missing)}) of a "
            f"{backbone_config.model_type} encoder. Give a checkpoint of the encoder itself."
        )
    layers = arguments.pretrained_layers or ("weighted" if has_layers(backbone.config) else "last")
    if layers == "weighted" and not has_layers(backbone.config):
        raise ValueError(f"{option} has no layers of one width to weight. Leave out --pretrained_layers weighted.")
    config = EGMFEncoderConfig(
        input_type=RAW_INPUTS[modality],
        backbone_config=backbone.config,
        backbone_id=absolute_id(model_id),
        backbone_checksum=sum_of_bits(backbone, excluded=info["missing_keys"]),
        backbone_trainable=arguments.train_backbones,
        backbone_pooler=not any("pooler" in key for key in info["missing_keys"]),
        backbone_layers=layers,
        backbone_dtype=arguments.pretrained_dtype,
        pooling=arguments.encoder_pooling or "statistics",
        **shared_settings(arguments),
    )
    layout = clip_layout(backbone_config)
    num_frames = layout.num_frames if layout is not None else None
    encoder = Encoder(config, backbone, frontend, frontend_name, num_frames)
    steps_per_second = check_output(option, modality, encoder)
    if modality == "audio" and arguments.pretrained_chunk_seconds is not None:
        config.backbone_chunk_steps = round(arguments.pretrained_chunk_seconds * steps_per_second)
    return encoder


def has_layers(config: PreTrainedConfig) -> bool:
    """Whether a pretrained encoder has layers of one width, which can be weighted; convolutional ones have stages."""
    try:
        return config.num_hidden_layers > 0  # of some models another name for an attribute
    except AttributeError:
        return False


def check_pretrained_options(arguments: ModelArguments) -> None:
    """Refuse chunks of `--pretrained_chunk_seconds` that are too short."""
    seconds = arguments.pretrained_chunk_seconds
    if seconds is not None and seconds < MIN_CHUNK_SECONDS:
        raise ValueError(
            f"--pretrained_chunk_seconds is {seconds:g}; it must be at least {MIN_CHUNK_SECONDS:g}, because an "
            "encoder needs the surroundings of each moment."
        )


def read_backbone_config(option: str, modality: str, model_id: str, advice: str) -> PreTrainedConfig:
    """The configuration of the encoder, or of the encoder of a model with several parts."""
    try:
        config = AutoConfig.from_pretrained(model_id)
    except (OSError, ValueError) as error:
        if isinstance(error.__cause__, LocalEntryNotFoundError):
            raise ValueError(f"{option} is not a folder here, and {describe_hub_error(error)}{advice}") from error
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"{option} is neither a folder with an encoder nor a model on the Hub ({reason}).{advice}"
        ) from error
    part_name = "vision_config" if modality == "video" else "audio_config"
    return getattr(config, part_name, None) or config


def check_architecture(option: str, modality: str, config: PreTrainedConfig) -> None:
    """Refuse a model that cannot encode the modality, before its weights are loaded.

    Raises:
        ValueError: it takes another kind of input, whole clips in a way that is not supported, or gives no sequence.
    """
    if type(config) not in MODEL_MAPPING:
        raise ValueError(f"{option}: transformers has no encoder for {config.model_type!r}. Give another encoder.")
    model_class = MODEL_MAPPING[type(config)]
    if isinstance(model_class, tuple):
        model_class = model_class[0]
    accepted = ENCODER_INPUTS[modality]
    if model_class.main_input_name not in accepted:
        raise ValueError(
            f"{option}: {model_class.__name__} takes {model_class.main_input_name!r}, "
            f"not {' or '.join(accepted)}; it cannot encode {modality}."
        )
    media = model_class.input_modalities  # a name or several
    media = (media,) if isinstance(media, str) else media
    takes_clips = model_class.main_input_name == "pixel_values_videos" or ("video" in media and "image" not in media)
    space_only = config.model_type == "timesformer" and config.attention_type == "space_only"
    if space_only or (takes_clips and clip_layout(config) is None):
        raise ValueError(
            f"{option}: {model_class.__name__} takes whole clips in a way that EGMF does not support. Give VideoMAE, "
            "ViViT, TimeSformer with attention over time, V-JEPA 2, or an image encoder."
        )
    try:
        backbone_width(config)
    except ValueError as error:
        raise ValueError(f"{option}: {error}") from error


def load_frontend(option: str, modality: str, model_id: str) -> tuple[str, Any]:
    """The encoder's own feature extractor, image processor or video processor, with the processor's name for it."""
    reasons = []
    for name, frontend_class in FRONTEND_CLASSES[modality].items():
        try:
            return name, frontend_class.from_pretrained(model_id)
        except (OSError, ValueError, ImportError) as error:
            reasons.append(str(error).strip().splitlines()[0])
    raise ValueError(f"{option}: its preprocessing cannot be loaded ({'; '.join(reasons)}).")


@torch.no_grad()
def check_output(option: str, modality: str, encoder: Encoder) -> float:
    """Encode a short clip of noise, so that an encoder of another design is refused before training.

    Returns:
        Its input steps per second of audio.

    Raises:
        ValueError: it cannot be encoded, or the output is not a sequence of vectors of the expected width.
    """
    rng = np.random.default_rng(0)
    stem = EGMFPretrainedStem(encoder.config, encoder.backbone).eval()
    try:
        if modality == "audio":
            rate = encoder.frontend.sampling_rate
            waveform = rng.uniform(-0.1, 0.1, rate // 2).astype(np.float32)
            inputs = encode_waveform(waveform, rate, encoder.frontend)
        else:
            frames = rng.integers(0, 256, (3, 48, 64, 3), dtype=np.uint8)
            inputs = encode_frames(frames, encoder.frontend, "full")
        values = inputs[f"{modality}_values"][None]
        states, mask = stem.run_backbone(values, inputs[f"{modality}_mask"][None])
        twice, _ = stem.run_backbone(values.repeat_interleave(2, 0), inputs[f"{modality}_mask"][None].expand(2, -1))
        shape = tuple(states.shape)
        # More than 16 bits round.
        if (twice - states).abs().mean() > 0.05 * states.abs().mean():
            raise ValueError("its output is random, or depends on the other clips of a batch")
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        name = type(encoder.backbone).__name__
        raise ValueError(
            f"{option}: {name} cannot be used as the {modality} encoder ({reason}). Give an encoder such as "
            f"{KNOWN_ENCODERS[modality]}, or one of {', '.join(preset_names(modality))}."
        ) from error
    expected = (*mask.shape, stem.output_size)
    if shape != expected:
        name = type(encoder.backbone).__name__
        raise ValueError(f"{option}: {name} gives states of shape {shape}, not {expected} (batch, steps, width).")
    return 2.0 * inputs[f"{modality}_mask"].shape[0]
