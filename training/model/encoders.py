"""Audio and video encoders of a new model: for raw media or precomputed features, or pretrained ones from the Hub."""

import dataclasses
import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from transformers import AutoConfig, AutoFeatureExtractor, AutoImageProcessor, AutoModel, PreTrainedModel

from modeling_egmf import EGMFEncoderConfig

from ..options import ModelArguments
from .language_model import portable_id


RAW_INPUTS = {"audio": "waveform", "video": "frames"}


class Encoder(NamedTuple):
    """An encoder to build.

    Args:
        config: its configuration; None if the model does not take the modality.
        backbone: the pretrained encoder, if there is one.
        frontend: preprocessing settings of the pretrained encoder, which the processor applies.
    """

    config: EGMFEncoderConfig | None = None
    backbone: PreTrainedModel | None = None
    frontend: dict[str, Any] | None = None


def build_encoder(arguments: ModelArguments, modality: str, output_dir: str | Path) -> Encoder:
    """The encoder that `--audio` or `--video` names.

    Args:
        arguments: options of the model.
        modality: `audio` or `video`.
        output_dir: folder of the run; a local pretrained encoder is stored relative to it.

    Raises:
        ValueError: the option does not name an encoder, or the width of the features is missing.
    """
    kind = arguments.audio if modality == "audio" else arguments.video
    feature_size = arguments.audio_feature_size if modality == "audio" else arguments.video_feature_size
    raw_input = RAW_INPUTS[modality]
    shared = shared_settings(arguments)
    if kind in (None, "none"):
        return Encoder()
    if kind == "features":
        if feature_size is None:
            raise ValueError(
                f"--{modality} features needs --{modality}_feature_size, the width of one feature vector."
            )
        return Encoder(EGMFEncoderConfig(input_type="features", feature_size=feature_size, **shared))
    if kind == raw_input:
        return Encoder(EGMFEncoderConfig(input_type=raw_input, **shared))
    similar = difflib.get_close_matches(kind, (raw_input, "features", "none"), n=1, cutoff=0.7)
    if similar and not Path(kind).exists():
        raise ValueError(f"--{modality} {kind} is not an encoder. Did you mean {similar[0]}?")
    return load_pretrained_encoder(arguments, modality, kind, output_dir)


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


def load_pretrained_encoder(
    arguments: ModelArguments, modality: str, model_id: str, output_dir: str | Path
) -> Encoder:
    """Load a pretrained encoder; of a model with several parts, such as CLIP, only the part for the modality."""
    model_config = AutoConfig.from_pretrained(model_id)
    part_name = "vision_config" if modality == "video" else "audio_config"
    part_config = getattr(model_config, part_name, None) or model_config
    backbone = AutoModel.from_pretrained(model_id, config=part_config)
    frontend_class = AutoImageProcessor if modality == "video" else AutoFeatureExtractor
    config = EGMFEncoderConfig(
        input_type=RAW_INPUTS[modality],
        backbone_config=backbone.config,
        backbone_id=portable_id(model_id, output_dir),
        backbone_trainable=arguments.train_backbones,
        **shared_settings(arguments),
    )
    return Encoder(config, backbone, frontend_class.from_pretrained(model_id).to_dict())
