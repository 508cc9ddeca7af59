"""Inputs of a model for a converted RAVDESS: audio, and faces as landmarks or as videos.

conversion.json, examples ─► ModelInputs ─► options of training.train
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..data.dataset import load_examples


VIDEO_PRESET = "clip-vit-base"  # for faces in videos; landmarks need no encoder
MIN_SHARE = 0.5  # of the examples that must have a face


class ModelInputs(NamedTuple):
    """The modalities of a model.

    Args:
        has_audio: whether the examples have audio.
        video: `features`, a preset or encoder, or `none`.
        video_feature_size: width of the landmark features; None without them.
    """

    has_audio: bool
    video: str
    video_feature_size: int | None = None

    @property
    def modalities(self) -> list[str]:
        names = ["audio"] if self.has_audio else []
        return names if self.video == "none" else [*names, "video"]

    def options(self) -> list[str]:
        """Options of training.train."""
        options = ["--video", self.video, "--modalities", *self.modalities]
        if self.video_feature_size is not None:
            options += ["--video_feature_size", str(self.video_feature_size)]
        if not self.has_audio:
            options += ["--audio", "none"]
        return options


def choose_inputs(corpus: Path, faces: str = "auto", video_encoder: str = VIDEO_PRESET) -> ModelInputs:
    """The inputs of a model for a corpus: landmarks rather than videos, for they are smaller and say more.

    Args:
        corpus: converted by `training.converters.ravdess`.
        faces: `auto`, `landmarks`, `videos` or `none`.
        video_encoder: pretrained encoder for videos.

    Raises:
        ValueError: the corpus lacks the `faces` that were chosen, or has neither audio nor faces.
    """
    examples = load_examples(corpus)
    shares = {column: _share(examples, column) for column in ("audio", "video", "video_features")}
    has_audio = max(shares["audio"], shares["video"]) >= MIN_SHARE
    names = {"landmarks": "video_features", "videos": "video"}
    if faces in names and shares[names[faces]] < MIN_SHARE:
        raise ValueError(
            f"--faces {faces}: only {shares[names[faces]]:.0%} of the examples of {corpus} have them. Give the folder "
            "that has them, or --faces none."
        )
    if faces in ("auto", "landmarks") and shares["video_features"] >= MIN_SHARE:
        return ModelInputs(has_audio, "features", _width(examples))
    if faces in ("auto", "videos") and shares["video"] >= MIN_SHARE:
        return ModelInputs(has_audio, video_encoder)
    if not has_audio:
        raise ValueError(f"Fewer than half of the examples of {corpus} have audio, and faces are not used.")
    return ModelInputs(has_audio, "none")


def _share(examples: list[dict[str, Any]], column: str) -> float:
    """Share of the examples that have a value."""
    return float(np.mean([example.get(column) is not None for example in examples]))


def _width(examples: Iterable[dict[str, Any]]) -> int:
    features = next(example["video_features"] for example in examples if example.get("video_features") is not None)
    return np.asarray(features).shape[1]
