"""Inputs and outputs of an exported program: names, shapes, types, meaning, and random values to try it with.

describe_inputs ─► TensorSpec per input ─┬─► dynamic_shapes ─► torch.export
                                         ├─► random_inputs ─► the check of the written file
                                         └─► export.json and README.md
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modeling_egmf import EGMFEncoderConfig, EGMFModel
from modeling_egmf.backbones_egmf import backbone_width, clip_layout
from modeling_egmf.encoders_egmf import EGMFWaveformStem
from processing_egmf import EGMFProcessor


MODALITIES = ("text", "audio", "video")


@dataclass(frozen=True)
class TensorSpec:
    """One input or output.

    Args:
        name: its name in the file.
        dtype: its type.
        shape: numbers, and names of dimensions that may have any length.
        meaning: one line for the documentation.
    """

    name: str
    dtype: torch.dtype
    shape: tuple[int | str, ...]
    meaning: str

    @property
    def type_name(self) -> str:
        """The type as NumPy calls it."""
        return str(self.dtype).removeprefix("torch.")


# ---- inputs and outputs ---------------------------------------------------------------------------------------


def describe_inputs(model: EGMFModel, processor: EGMFProcessor) -> list[TensorSpec]:
    """The inputs of a model's exported program, those of the processor wherever it makes them."""
    text_shape = ("batch", "text_length")
    specs = [
        TensorSpec(
            "text_embeds",
            torch.float32,
            (*text_shape, model.pseudo_tokens.width),
            "the language model's embeddings of the transcript's tokens, or of the whole prompt",
        ),
        TensorSpec(
            "utterance_mask",
            torch.int64,
            text_shape,
            "1 on the transcript's tokens; zeros for a sample without text",
        ),
        TensorSpec(
            "modality_mask",
            torch.bool,
            ("batch", len(MODALITIES)),
            "false switches off text, audio or video, in this order",
        ),
    ]
    for modality, config in (("audio", model.config.audio_config), ("video", model.config.video_config)):
        if config is not None:
            specs += describe_media(modality, config, processor)
    return specs


def describe_media(modality: str, config: EGMFEncoderConfig, processor: EGMFProcessor) -> list[TensorSpec]:
    """Values and mask of audio or video."""
    if takes_encoder_outputs(config):
        width = (backbone_width(config.backbone_config),)
        meaning = (
            f"the last hidden states of the {config.backbone_config.model_type!r} encoder, which is not in the file, "
            "of each clip alone, without padding"
        )
    elif config.input_type == "features":
        width = (config.feature_size,)
        meaning = "precomputed features"
    elif config.input_type == "waveform":
        width = ()
        meaning = f"samples of one channel in [-1, 1] at {config.sampling_rate} Hz"
    else:
        gray_frame = np.full((1, processor.frame_height, processor.frame_width, 3), 127, np.uint8)
        width = tuple(processor.encode_media({"video": gray_frame})["video_values"].shape[1:])
        meaning = "frames as the processor normalizes them"
    steps = ("batch", f"{modality}_length")
    return [
        TensorSpec(f"{modality}_values", torch.float32, (*steps, *width), f"{meaning}; zeros as padding at the end"),
        TensorSpec(
            f"{modality}_mask",
            torch.bool,
            steps,
            f"true on real steps, which come first; all false for a sample without {modality}",
        ),
    ]


def takes_encoder_outputs(config: EGMFEncoderConfig) -> bool:
    """Whether the pretrained encoder stays outside of the program.

    Those of audio and of whole clips encode clips of each length in a call of its own, which a program cannot do.
    Those of images take one frame at a time.
    """
    if config.backbone_config is None:
        return False
    return config.input_type != "frames" or clip_layout(config.backbone_config) is not None


def describe_outputs(model: EGMFModel) -> list[TensorSpec]:
    """The outputs, in their order."""
    tokens = model.pseudo_tokens
    experts = ("batch", len(model.config.experts))
    names = ", ".join(model.config.expert_names)
    return [
        TensorSpec(
            "pseudo_tokens",
            torch.float32,
            ("batch", tokens.num_tokens, tokens.width),
            "soft tokens for the prompt",
        ),
        TensorSpec(
            "fused",
            torch.float32,
            ("batch", model.config.fusion_hidden_size),
            "f_enhanced, the fused vector after the experts",
        ),
        TensorSpec("expert_weights", torch.float32, experts, f"alpha, the share of each expert: {names}"),
        TensorSpec("gate_weights", torch.float32, experts, "w, the first stage of the gate"),
        TensorSpec("residual_weight", torch.float32, ("batch",), "beta, the weight of the fused vector"),
        TensorSpec(
            "used_modalities",
            torch.bool,
            ("batch", len(MODALITIES)),
            "which of text, audio and video were there and on; where all are false, the other outputs mean nothing",
        ),
    ]


# ---- lengths ----------------------------------------------------------------------------------------------------


def shortest_lengths(model: EGMFModel) -> dict[str, int]:
    """Name of each dynamic dimension -> the smallest length that the program takes."""
    shortest = {"batch": 1, "text_length": 1}
    encoder = model.audio_visual_encoder
    if encoder.audio is not None:
        shortest["audio_length"] = 1
        stem = encoder.audio.stem
        if isinstance(stem, EGMFWaveformStem):
            # Two steps after the convolutions, each of which halves the frame rate: export takes 1 for a constant.
            shortest["audio_length"] = stem.hop_length * 2 ** len(stem.convolutions)
    if encoder.video is not None:
        config = model.config.video_config
        takes_frames = config.input_type == "frames" and not takes_encoder_outputs(config)
        shortest["video_length"] = 2 if takes_frames else 1  # for the same reason
    return shortest


def dynamic_shapes(specs: Sequence[TensorSpec], shortest: dict[str, int]) -> dict[str, dict[int, Any]]:
    """The argument of `torch.export.export`: name of an input -> its dynamic dimensions."""
    dimensions = {}
    for name, length in shortest.items():
        # A minimum of 1 would be a condition that the program checks; there is no tensor of length 0 here.
        dimensions[name] = torch.export.Dim(name, min=length) if length > 1 else torch.export.Dim(name)
    shapes = {}
    for spec in specs:
        names = enumerate(spec.shape)
        shapes[spec.name] = {axis: dimensions[name] for axis, name in names if isinstance(name, str)}
    return shapes


# ---- values -----------------------------------------------------------------------------------------------------


def random_inputs(specs: Sequence[TensorSpec], lengths: dict[str, int], seed: int = 0) -> dict[str, Tensor]:
    """Random inputs in which every sample has everything; those after the first are shorter.

    Args:
        specs: from `describe_inputs`.
        lengths: name of each dynamic dimension -> its length.
        seed: of the random numbers.
    """
    generator = torch.Generator().manual_seed(seed)
    inputs = {}
    for spec in specs:
        shape = [lengths.get(size, size) for size in spec.shape]
        if spec.dtype == torch.float32:
            inputs[spec.name] = torch.rand(shape, generator=generator) * 2 - 1
        elif spec.name == "modality_mask":
            inputs[spec.name] = torch.ones(shape, dtype=torch.bool)
        else:
            inputs[spec.name] = shortened_mask(*shape).to(spec.dtype)
    for modality in ("audio", "video"):
        if f"{modality}_values" in inputs:
            mask = inputs[f"{modality}_mask"]
            values = inputs[f"{modality}_values"]
            values.mul_(mask.view(*mask.shape, *[1] * (values.ndim - mask.ndim)))
    return inputs


def shortened_mask(batch_size: int, length: int) -> Tensor:
    """(B, length) bool: each row is shorter than the one before, the last has at least one step."""
    real = torch.tensor([max(length - (i * length) // (batch_size + 1), 1) for i in range(batch_size)])
    return torch.arange(length)[None, :] < real[:, None]
