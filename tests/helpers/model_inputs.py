"""Inputs of the model's tests: samples with fewer modalities, and the media among a batch's tensors."""

import torch


MODALITIES = ("text", "audio", "video")
INPUT_TYPES = [("features", "features"), ("waveform", "frames")]  # of audio and video
ARGUMENTS = {
    "text": ("text",),
    "audio": ("audio_features", "audio", "sampling_rate"),
    "video": ("video_features", "video", "fps"),
}


def keep_modalities(sample: dict, modalities: set[str]) -> dict:
    """The processor's arguments for one sample, without those of its other modalities."""
    kept = {name for modality in modalities for name in ARGUMENTS[modality]}
    return {name: value for name, value in sample.items() if name in kept}


def media_of(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Audio and video values and masks of a batch."""
    return {name: value for name, value in inputs.items() if name.startswith(("audio_", "video_"))}


def assert_close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)
