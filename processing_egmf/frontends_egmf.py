"""Front ends: from decoded audio and frames to the values and masks that an encoder takes.

    waveform (samples,) ─► [feature extractor] ─► audio_values (T, ...), audio_mask (T,)
    frames (T, y, x, 3) ─► [image processor], or scaled to [-1, 1] ─► video_values (T, 3, y, x), video_mask (T,)
    features (T, F), stored encoder outputs (T, width) ─► checked, with a mask

A pretrained encoder has its own feature extractor or image processor, whose fields are saved with the processor.
"""

# T samples, steps or frames  y, x height and width  F feature size

from typing import Any

import numpy as np
import torch
import transformers

from .arguments_egmf import printable


FRONTEND_TYPES = ("FeatureExtractor", "ImageProcessor", "ImageProcessorFast")


def build_frontend(fields: dict[str, Any] | None, type_key: str) -> Any:
    """The feature extractor or image processor of a pretrained encoder.

    Args:
        fields: its `to_dict()`; None for no front end.
        type_key: the key of its class name: `"feature_extractor_type"` or `"image_processor_type"`.
    """
    if fields is None:
        return None
    if type_key not in fields:
        raise ValueError(
            f"The front end has no {type_key!r}, only {sorted(fields)}. "
            "Give the to_dict() of a transformers feature extractor or image processor."
        )
    class_name = fields[type_key]
    frontend_class = getattr(transformers, class_name, None)
    if frontend_class is None or not class_name.endswith(FRONTEND_TYPES):
        raise ValueError(f"{class_name!r} is not a feature extractor or image processor of transformers.")
    arguments = {key: value for key, value in fields.items() if key != type_key}
    return frontend_class(**arguments)


def encode_waveform(waveform: np.ndarray, sampling_rate: int, feature_extractor: Any) -> dict[str, torch.Tensor]:
    """Audio inputs from a waveform, float32 (samples,), which is unchanged without a feature extractor."""
    if feature_extractor is None:
        return with_full_mask("audio", torch.from_numpy(waveform))
    extracted = feature_extractor(
        waveform, sampling_rate=sampling_rate, return_attention_mask=True, return_tensors="pt"
    )
    values = extracted[feature_extractor.model_input_names[0]][0].float()
    inputs = with_full_mask("audio", values)
    if "attention_mask" in extracted and extracted["attention_mask"].shape[-1] != len(values):
        # An extractor that pads to a fixed length (Whisper): values (mel bands, T) with a mask over T.
        inputs["audio_mask"] = extracted["attention_mask"][0].bool()
    return inputs


def encode_frames(frames: np.ndarray, image_processor: Any) -> dict[str, torch.Tensor]:
    """Video inputs from frames, uint8 (T, y, x, 3)."""
    if image_processor is None:
        values = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 127.5 - 1.0  # (T, 3, y, x)
    else:
        values = image_processor(list(frames), return_tensors="pt")["pixel_values"].float()
    return with_full_mask("video", values)


def with_full_mask(modality: str, values: torch.Tensor) -> dict[str, torch.Tensor]:
    """Inputs without padding: every step is real."""
    return {
        f"{modality}_values": values,
        f"{modality}_mask": torch.ones(len(values), dtype=torch.bool),
    }


def check_input_kind(modality: str, kind: str, accepted: str | None, name: str) -> None:
    if accepted is None:
        raise ValueError(f"{name}: this model takes no {modality}. Leave {modality} out.")
    if kind != accepted:
        argument = f"{modality}_features" if accepted == "features" else modality
        raise ValueError(f"{name}: this model takes {modality} as {accepted}, not as {kind}. Give `{argument}`.")


def read_features(modality: str, features: Any, feature_size: int | None, name: str) -> np.ndarray:
    """Precomputed features as float32 (T, F), checked."""
    try:
        values = np.asarray(features, dtype=np.float32)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"{name}: {modality}_features cannot be read as an array of numbers (steps, width): "
            f"{printable(str(error))}. "
            "Give a numeric array, a tensor or a list of equally long vectors."
        ) from error
    if values.ndim != 2 or len(values) == 0:
        raise ValueError(
            f"{name}: {modality}_features have shape {values.shape}; "
            f"expected (steps, {feature_size or 'width'}) with at least one step."
        )
    if feature_size and values.shape[1] != feature_size:
        raise ValueError(
            f"{name}: {modality}_features are {values.shape[1]} wide, "
            f"but this model was trained on {feature_size}. "
            "Use the same extractor, or train a model with that feature size."
        )
    if not np.isfinite(values).all():
        raise ValueError(f"{name}: {modality}_features contain NaN or infinite values. Replace them, e.g. with 0.")
    return values


def encode_states(states: dict[str, torch.Tensor | np.ndarray], name: str) -> dict[str, torch.Tensor]:
    """Values and masks from stored encoder outputs, modality -> (T, encoder width); empty ones are left out."""
    inputs = {}
    for modality, values in states.items():
        if values.ndim != 2:
            raise ValueError(
                f"{name}: {modality}_states have shape {tuple(values.shape)}; expected (steps, encoder width)."
            )
        if len(values) > 0:
            inputs |= with_full_mask(modality, torch.as_tensor(values))
    return inputs
