"""Front ends: from a clip to the values and masks that the encoders take.

    audio, video, features ─► load_media ─► arrays ─► encode_media ─► values and masks of audio and video

    waveform (samples,) ─► [feature extractor] ─► audio_values (T, ...), audio_mask (T,)
    frames (T, y, x, 3) ─► [image processor], or scaled to [-1, 1] ─► video_values (T, 3, y, x), video_mask (T,)
    features (T, F), stored encoder outputs (T, width) ─► checked, with a mask

A pretrained encoder has its own feature extractor or image processor, a sub-processor of the processor.
"""

# T samples, steps or frames  y, x height and width  F feature size

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from .arguments_egmf import errors_named, logger, printable
from .audio_egmf import load_audio
from .batches_egmf import MODALITIES
from .faces_egmf import FACE_FRAME, crop_main_face
from .frames_egmf import NEUTRAL, pad_frames, scale_frames
from .media_egmf import media_kind, take_from_list, to_numpy
from .video_egmf import load_video


class EGMFMediaMixin:
    """The methods of `EGMFProcessor` that decode and encode clips."""

    def load_media(
        self,
        *,
        audio: Any = None,
        video: Any = None,
        audio_features: Any = None,
        video_features: Any = None,
        modalities: Sequence[str] = MODALITIES,
        sampling_rate: int | None = None,
        fps: float | None = None,
        name: str = "the sample",
    ) -> dict[str, np.ndarray]:
        """Decode a clip. The processor takes the arrays instead of the clip, with the same result.

        Returns:
            Those that the clip has: `audio` (samples,) float32 at `self.sampling_rate`, `video` (T, height, width, 3)
            uint8, and `audio_features`, `video_features` (T, F) float32.
        """
        limits = {"max_seconds": self.max_clip_seconds, "max_decode_seconds": self.max_decode_seconds}
        arrays = {}
        with errors_named(name):
            audio = take_from_list(audio)
            video = take_from_list(video)
            may_have_track = audio is None and media_kind(video) is None and self.audio_input == "waveform"
            sources = {"audio": (audio, audio_features), "video": (None if may_have_track else video, video_features)}
            for modality, (clip, features) in sources.items():
                if clip is not None and features is not None:
                    raise ValueError(f"both {modality} and {modality}_features are given; give one of them.")
                if modality in modalities and features is not None:
                    check_input_kind(modality, "features", getattr(self, f"{modality}_input"))
                    feature_size = getattr(self, f"{modality}_feature_size")
                    arrays[f"{modality}_features"] = read_features(modality, features, feature_size)
            recording = video if may_have_track else audio
            if "audio" in modalities and audio_features is None and recording is not None:
                check_input_kind("audio", "waveform", self.audio_input)
                options = {"name": name, "missing_ok": may_have_track, **limits}
                arrays["audio"] = load_audio(recording, sampling_rate, self.sampling_rate, **options)
            if "video" in modalities and video_features is None and video is not None:
                check_input_kind("video", "frames", self.video_input)
                size = FACE_FRAME if self.frames == "face" else encoder_size(self)
                options = {"name": name, "size": size, "view": self.frames, **limits}
                arrays["video"] = load_video(video, self.num_frames, fps, **options)
        return {key: values for key, values in arrays.items() if values is not None}

    def encode_media(self, arrays: dict[str, np.ndarray], name: str = "the sample") -> dict[str, torch.Tensor]:
        """Arrays from `load_media` as the values and masks of one sample, without a batch dimension.

        For `frames="face"`, also `face_share`: the share of the frames in which the face was found.
        """
        inputs = {}
        if "audio" in arrays:
            extractor = vars(self).get("feature_extractor")
            inputs |= encode_waveform(arrays["audio"], self.sampling_rate, extractor, name)
        if "video" in arrays:
            frames = arrays["video"]
            if self.frames == "face":
                size = encoder_size(self)
                frames, inputs["face_share"] = crop_main_face(frames, self.face_detector, name)
                frames = pad_frames(scale_frames(frames, size, "full"), size)
            inputs |= encode_frames(frames, self.frame_processor, self.frames)
        for modality in ("audio", "video"):
            if f"{modality}_features" in arrays:
                inputs |= with_full_mask(modality, torch.from_numpy(arrays[f"{modality}_features"]))
        return inputs


def encoder_size(processor: Any) -> tuple[int, int] | None:
    """Height and width of the encoder's frames; None for an image processor, which resizes them itself."""
    if processor.frame_processor is not None:
        return None
    return processor.frame_height, processor.frame_width


def check_image_backend(recorded: str | None, image_processor: Any) -> str | None:
    """The library that frames are resized with in training, `"torchvision"` or `"pil"`; None where it is not known.

    Without torchvision, `transformers` resizes with Pillow, and pixels differ a little. A recorded library is kept; if
    it is not the one in use, a warning says so.
    """
    # A few processors have only one, and no such attribute.
    backend = getattr(image_processor, "backend", None)
    if backend is not None and recorded not in (None, backend):
        logger.warning(
            f"The model was trained on frames resized by {recorded}, but here they are resized by {backend}: "
            f"probabilities may differ by a few thousandths. Install {recorded} for the same answers."
        )
    return backend if recorded is None else recorded


def encode_waveform(
    waveform: np.ndarray, sampling_rate: int, extractor: Any, name: str = "the sample"
) -> dict[str, torch.Tensor]:
    """Audio inputs from a waveform, float32 (samples,), which is unchanged without a feature extractor.

    Padding that the extractor adds, such as Whisper's to 30 seconds, is cut off again.
    """
    if extractor is None:
        return with_full_mask("audio", torch.from_numpy(waveform))
    seconds = len(waveform) / sampling_rate
    max_seconds = longest_recording(extractor)
    if seconds > max_seconds + 0.01:  # a frame
        logger.warning(
            f"{name}: the audio has {seconds:.2f} s, but {type(extractor).__name__} takes {max_seconds:g} s; "
            "only its beginning is used. Cut it into shorter clips."
        )
    options = {"sampling_rate": sampling_rate, "return_attention_mask": True, "return_tensors": "pt"}
    is_whisper = type(extractor).__name__.startswith("Whisper")
    if is_whisper:
        # It would compute 30 seconds. The zeros keep the last frames as they would be.
        options["max_length"] = min(len(waveform) + extractor.n_fft, extractor.n_samples)
    extracted = extractor(waveform, **options)
    values = extracted[extractor.model_input_names[0]][0].float()
    mask_name = next((name for name in extracted if name.endswith("mask")), None)
    if mask_name is not None:
        mask = extracted[mask_name][0].bool()
        # At least one step of a very short clip.
        mask[:1] = True
        # Whisper's values are (mel bands, T), also where these are as many.
        if is_whisper or len(mask) != len(values):
            values = values.transpose(0, 1)
        values = values[mask]
    # Extractors that standardize each band over time turn a single step, whose deviation is 0, into NaN.
    return with_full_mask("audio", values.nan_to_num())


def longest_recording(extractor: Any) -> float:
    """Seconds after which a feature extractor silently cuts a recording off; infinite if it does not."""
    if type(extractor).__name__.startswith("AST"):
        return vars(extractor)["max_length"] / 100  # frames of 10 ms
    # Of Whisper.
    return vars(extractor).get("n_samples", math.inf) / extractor.sampling_rate


def encode_frames(frames: np.ndarray, image_processor: Any, view: str) -> dict[str, torch.Tensor]:
    """Video inputs from frames, uint8 (T, y, x, 3). To letterbox them, they get bars before the image processor."""
    if image_processor is None:
        values = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 127.5 - 1.0  # (T, 3, y, x)
    else:
        if view != "center":
            frames = _letterbox(frames, image_processor)
        processed = image_processor(list(frames), return_tensors="pt")
        values = processed[image_processor.model_input_names[0]].float()
        # Processors of video encoders return a batch of one clip.
        if values.ndim == 5:
            values = values[0]
    return with_full_mask("video", values)


def _letterbox(frames: np.ndarray, image_processor: Any) -> np.ndarray:
    """Frames in the proportions of the image processor's output, so that it neither crops nor squeezes them."""
    fields = image_processor.to_dict()
    size = fields["crop_size"] if fields.get("do_center_crop") else fields.get("size")
    if not size or not size.get("height") or not size.get("width"):
        # They keep their proportions.
        return frames
    color = (NEUTRAL,) * 3
    if fields.get("do_normalize") and fields.get("image_mean"):
        # 0 after the normalization.
        color = tuple(round(255 * mean) for mean in fields["image_mean"])
    scale = max(frames.shape[1] / size["height"], frames.shape[2] / size["width"])
    return pad_frames(frames, (round(size["height"] * scale), round(size["width"] * scale)), color)


def with_full_mask(modality: str, values: torch.Tensor) -> dict[str, torch.Tensor]:
    """Inputs without padding: every step is real."""
    return {f"{modality}_values": values, f"{modality}_mask": torch.ones(len(values), dtype=torch.bool)}


def check_input_kind(modality: str, kind: str, accepted: str | None) -> None:
    if accepted is None:
        raise ValueError(f"this model takes no {modality}. Leave {modality} out.")
    if kind != accepted:
        argument = f"{modality}_features" if accepted == "features" else modality
        raise ValueError(f"this model takes {modality} as {accepted}, not as {kind}. Give `{argument}`.")


def read_features(modality: str, features: Any, feature_size: int | None) -> np.ndarray:
    """Precomputed features as float32 (T, F), checked."""
    try:
        array = to_numpy(features)
        values = np.require(array, np.float32, "CW")
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"{modality}_features cannot be read as an array of numbers (steps, width): "
            f"{printable(str(error))}. Give an array, as of `np.load`, or a list of vectors of one length."
        ) from error
    if array.dtype.kind not in "fiubOU":
        raise ValueError(f"{modality}_features are of type {array.dtype}. Give plain real numbers.")
    if values.ndim != 2 or len(values) == 0 or (feature_size and values.shape[1] != feature_size):
        raise ValueError(
            f"{modality}_features have shape {values.shape}; expected (steps, {feature_size or 'width'}) with "
            "at least one step. Use the same extractor as in training."
        )
    if not np.isfinite(values).all():
        raise ValueError(f"{modality}_features contain NaN or infinite values. Replace them, e.g. with 0.")
    return values


def encode_states(states: dict[str, torch.Tensor | np.ndarray]) -> dict[str, torch.Tensor]:
    """Values and masks from stored encoder outputs, modality -> (T, encoder width); empty ones are left out."""
    inputs = {}
    for modality, values in states.items():
        if values.ndim != 2:
            raise ValueError(f"{modality}_states have shape {tuple(values.shape)}; expected (steps, encoder width).")
        values = torch.as_tensor(values)
        if not values.isfinite().all():
            raise ValueError(f"{modality}_states contain NaN or infinite values. Encode the clip again.")
        if len(values) > 0:
            inputs |= with_full_mask(modality, values)
    return inputs
