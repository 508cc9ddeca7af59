"""Front ends: from decoded audio and frames to the values and masks that an encoder takes.

    waveform (samples,) ─► [feature extractor] ─► audio_values (T, ...), audio_mask (T,)
    frames (T, y, x, 3) ─► [image processor], or scaled to [-1, 1] ─► video_values (T, 3, y, x), video_mask (T,)
    features (T, F), stored encoder outputs (T, width) ─► checked, with a mask

A pretrained encoder has its own feature extractor or image processor, whose fields are saved with the processor.
"""

# T samples, steps or frames  y, x height and width  F feature size

import math
from typing import Any

import numpy as np
import torch
import transformers
from transformers.utils import logging

from .arguments_egmf import printable
from .frames_egmf import NEUTRAL, pad_to_aspect


logger = logging.get_logger(__name__)

# Keys of the class name in a front end's `to_dict()`; `transformers` is renaming FeatureExtractor to AudioProcessor.
TYPE_KEYS = {
    "audio": ("feature_extractor_type", "audio_processor_type"),
    "video": ("image_processor_type", "video_processor_type"),
}
CLASS_SUFFIXES = {
    "audio": ("FeatureExtractor", "AudioProcessor"),
    "video": ("ImageProcessor", "ImageProcessorPil", "VideoProcessor"),
}
BACKEND_KEY = "image_backend"  # our own key in the fields of an image processor


def build_frontend(fields: dict[str, Any] | None, modality: str) -> Any:
    """The feature extractor or image processor of a pretrained encoder.

    Args:
        fields: its `to_dict()`; None for no front end.
        modality: `"audio"` or `"video"`.

    Raises:
        ValueError: the fields name no class, or one that `transformers` does not have.
    """
    if fields is None:
        return None
    keys = TYPE_KEYS[modality]
    class_name = next((fields[key] for key in keys if key in fields), None)
    if class_name is None:
        raise ValueError(
            f"The front end has neither {keys[0]!r} nor {keys[1]!r}, only {sorted(fields)}. "
            "Give the to_dict() of a transformers feature extractor or image processor."
        )
    frontend_class = find_frontend_class(class_name, modality, fields.get(BACKEND_KEY))
    if frontend_class is None:
        raise ValueError(f"{class_name!r} is not a feature extractor or image processor of transformers.")
    arguments = {key: value for key, value in fields.items() if key not in (*keys, BACKEND_KEY)}
    return frontend_class(**arguments)


def find_frontend_class(
    class_name: str,
    modality: str,
    image_backend: str | None,
) -> type | None:
    """The class of `transformers` with this name, or with the name that another version gives it; None without one."""
    class_name = class_name.removesuffix("Fast")
    if not class_name.endswith(CLASS_SUFFIXES[modality]):
        return None
    names = [class_name]
    if modality == "audio":
        stem = class_name.removesuffix("FeatureExtractor").removesuffix("AudioProcessor")
        names += [stem + suffix for suffix in CLASS_SUFFIXES["audio"]]
    elif image_backend == "pil":
        names.insert(0, class_name + "Pil")
    for name in names:
        if hasattr(transformers, name):
            return getattr(transformers, name)
    return None


def record_image_backend(fields: dict[str, Any] | None, image_processor: Any) -> dict[str, Any] | None:
    """The fields of an image processor with the library that it resizes with, `"torchvision"` or `"pil"`.

    Without torchvision, `transformers` resizes with Pillow, and pixels differ a little. Fields that name a library
    keep it; if it is not the one in use, a warning says so.
    """
    backend = getattr(image_processor, "backend", None)  # a few processors have only one, and no such attribute
    if backend is None:
        return fields
    recorded = fields.get(BACKEND_KEY, backend)
    if backend != recorded:
        logger.warning(
            f"The model was trained on frames resized by {recorded}, but here they are resized by {backend}: "
            f"probabilities may differ by a few thousandths. Install {recorded} for the same answers."
        )
    return {**fields, BACKEND_KEY: recorded}


def encode_waveform(
    waveform: np.ndarray, sampling_rate: int, feature_extractor: Any, name: str = "the sample"
) -> dict[str, torch.Tensor]:
    """Audio inputs from a waveform, float32 (samples,), which is unchanged without a feature extractor.

    Padding that the extractor adds, such as Whisper's to 30 seconds, is cut off again.
    """
    if feature_extractor is None:
        return with_full_mask("audio", torch.from_numpy(waveform))
    seconds = len(waveform) / sampling_rate
    max_seconds = longest_recording(feature_extractor)
    if seconds > max_seconds + 0.01:  # a frame
        logger.warning(
            f"{name}: the audio has {seconds:.2f} s, but {type(feature_extractor).__name__} takes {max_seconds:g} s; "
            "only its beginning is used. Cut it into shorter clips."
        )
    extracted = feature_extractor(
        waveform, sampling_rate=sampling_rate, return_attention_mask=True, return_tensors="pt"
    )
    values = extracted[feature_extractor.model_input_names[0]][0].float()
    mask_name = next((name for name in extracted if name.endswith("mask")), None)
    if mask_name is not None:
        mask = extracted[mask_name][0].bool()
        mask[:1] = True  # at least one step of a very short clip
        if len(mask) != len(values):  # Whisper's values are (mel bands, T)
            values = values.transpose(0, 1)
        values = values[mask]
    # Extractors that standardize each band over time turn a single step, whose deviation is 0, into NaN.
    return with_full_mask("audio", values.nan_to_num())


def longest_recording(feature_extractor: Any) -> float:
    """Seconds after which a feature extractor silently cuts a recording off; infinite if it does not."""
    fields = vars(feature_extractor)
    if type(feature_extractor).__name__.startswith("AST"):
        return fields["max_length"] / 100  # frames of 10 ms
    num_samples = fields.get("n_samples", fields.get("nb_max_samples"))  # of Whisper, of CLAP
    return math.inf if num_samples is None else num_samples / feature_extractor.sampling_rate


def encode_frames(
    frames: np.ndarray,
    image_processor: Any,
    frame_fit: str,
) -> dict[str, torch.Tensor]:
    """Video inputs from frames, uint8 (T, y, x, 3). To letterbox them, they get bars before the image processor."""
    if image_processor is None:
        values = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 127.5 - 1.0  # (T, 3, y, x)
    else:
        if frame_fit == "letterbox":
            frames = _letterbox(frames, image_processor)
        processed = image_processor(list(frames), return_tensors="pt")
        values = processed[image_processor.model_input_names[0]].float()
        if values.ndim == 5:  # processors of video encoders return a batch of one clip
            values = values[0]
    return with_full_mask("video", values)


def _letterbox(frames: np.ndarray, image_processor: Any) -> np.ndarray:
    """Frames in the proportions of the image processor's output, so that it neither crops nor squeezes them."""
    fields = image_processor.to_dict()
    size = fields["crop_size"] if fields.get("do_center_crop") else fields.get("size")
    if not size or not size.get("height") or not size.get("width"):
        return frames  # they keep their proportions
    color = (NEUTRAL,) * 3
    if fields.get("do_normalize") and fields.get("image_mean"):
        color = tuple(round(255 * mean) for mean in fields["image_mean"])  # 0 after the normalization
    return pad_to_aspect(frames, (size["height"], size["width"]), color)


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


def read_features(
    modality: str,
    features: Any,
    feature_size: int | None,
    name: str,
) -> np.ndarray:
    """Precomputed features as float32 (T, F), checked."""
    try:
        values = np.asarray(features, dtype=np.float32)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"{name}: {modality}_features cannot be read as an array of numbers (steps, width): "
            f"{printable(str(error))}. "
            "Give a numeric array, a tensor or a list of equally long vectors."
        ) from error
    if values.ndim != 2 or len(values) == 0 or (feature_size and values.shape[1] != feature_size):
        raise ValueError(
            f"{name}: {modality}_features have shape {values.shape}; expected (steps, {feature_size or 'width'}) with "
            "at least one step. Use the same extractor as in training, or train a model with another feature size."
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
        values = torch.as_tensor(values)
        if not values.isfinite().all():
            raise ValueError(f"{name}: {modality}_states contain NaN or infinite values. Encode the clip again.")
        if len(values) > 0:
            inputs |= with_full_mask(modality, values)
    return inputs
