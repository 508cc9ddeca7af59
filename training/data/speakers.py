"""Per-speaker normalization: each speaker's recordings get the mean and deviation of the whole training set.

    one speaker's features or cached encoder outputs, all clips ─► mean m, deviation s of each column
    a clip x of the speaker ─► (x - m) / s * std + mean          mean, std: of the training set (feature_stats.py)

Voices and faces differ more between people than between the moods of one person. The normalization needs no labels,
but other recordings of the same speaker: of the split that is used, which holds for test speakers as well. Because the
result has the training set's scale, the model also takes a clip that is not normalized, as if its speaker were an
average one; it is then less accurate.
"""

# T steps  F width of features or of encoder outputs

import logging
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.preprocessing import StandardScaler
from torch import nn
from tqdm import tqdm

from modeling_egmf import EGMFForConditionalGeneration

from .dataset import EGMFDataset
from .examples import list_first, speaker_of
from .feature_stats import clip_weights, deviations, standardizers
from .tables import SPEAKER
from .text_files import shorten


FEW_CLIPS = 5  # too few for the statistics of a speaker

logger = logging.getLogger(__name__)


class Moments(NamedTuple):
    """Mean and deviation of each column over a speaker's clips, float32 (F,)."""

    mean: torch.Tensor
    std: torch.Tensor


class SpeakerNormalization:
    """Normalizes the features and encoder outputs of the examples of one dataset.

    Args:
        model: gives the statistics of the training set; they are read when a clip is normalized.
        dataset: its examples need the column `speaker`; audio and video need features or an encoder cache. An
            `EGMFDataset`, or anything that has its `examples`, `processor`, `encoder_cache` and `load_vectors`.
        progress: show a progress bar.

    Raises:
        ValueError: an example has no speaker, or nothing of the model can be normalized.
    """

    def __init__(self, model: EGMFForConditionalGeneration, dataset: EGMFDataset, progress: bool = True):
        self.targets: dict[str, nn.Module] = normalizable(model, dataset)
        check_speakers(dataset.examples)
        self.moments = measure_speakers(dataset, list(self.targets), progress)

    def __call__(
        self, speaker: str | None, media: dict[str, np.ndarray], states: dict[str, torch.Tensor]
    ) -> tuple[dict[str, np.ndarray], dict[str, torch.Tensor]]:
        """A speaker's decoded media and cached encoder outputs -> the same, its features and outputs normalized."""
        media = dict(media)
        states = dict(states)
        for modality in self.targets:
            features = f"{modality}_features"
            if features in media:
                media[features] = self._normalize(speaker, modality, torch.from_numpy(media[features])).numpy()
            if modality in states:
                states[modality] = self._normalize(speaker, modality, states[modality])
        return media, states

    def _normalize(self, speaker: str | None, modality: str, values: torch.Tensor) -> torch.Tensor:
        """values (T, F) -> float32 (T, F)."""
        moments = self.moments[speaker, modality]
        target = self.targets[modality]
        normalized = (values.float() - moments.mean) / moments.std
        return normalized * target.std.cpu() + target.mean.cpu()


def normalizable(model: EGMFForConditionalGeneration, dataset: EGMFDataset) -> dict[str, nn.Module]:
    """Modality -> the part of the model with its statistics, for features and cached encoder outputs.

    Raises:
        ValueError: there is none, or a pretrained encoder's outputs are not cached.
    """
    modules = standardizers(model)
    inputs = {"audio": dataset.processor.audio_input, "video": dataset.processor.video_input}
    cached = dataset.encoder_cache.stems if dataset.encoder_cache is not None else ()
    uncached = [modality for modality in modules if inputs[modality] != "features" and modality not in cached]
    if uncached:
        raise ValueError(
            f"--speaker_normalization needs all outputs of the {uncached[0]} encoder of a speaker at once. "
            "Give --encoder_cache, a folder for them."
        )
    if not modules:
        raise ValueError(
            "--speaker_normalization is for features and for pretrained encoders whose layers are weighted, and this "
            "model has neither. Leave it out."
        )
    return modules


def check_speakers(examples: list[dict[str, Any]]) -> None:
    """Refuse examples without a speaker, and warn of speakers with few clips."""
    missing = [example["id"] for example in examples if speaker_of(example) is None]
    if missing:
        raise ValueError(
            f"--speaker_normalization needs a column {SPEAKER!r}, and {len(missing)} of {len(examples)} examples have "
            f"none: {list_first([shorten(name) for name in missing])}. Add it, or leave the option out."
        )
    counts: dict[str, int] = {}
    for example in examples:
        counts[speaker_of(example)] = counts.get(speaker_of(example), 0) + 1
    alike: dict[str, list[str]] = {}
    for speaker in counts:
        alike.setdefault(speaker.casefold(), []).append(shorten(speaker))
    for names in alike.values():
        if len(names) > 1:
            logger.warning(f"The speakers {' and '.join(names)} differ only in case, and are normalized apart.")
    few = [shorten(speaker) for speaker, count in counts.items() if count < FEW_CLIPS]
    if few:
        logger.warning(
            f"{len(few)} of {len(counts)} speakers have fewer than {FEW_CLIPS} clips ({list_first(few)}): their mean "
            "and deviation also hold what distinguishes single clips, which normalization then removes."
        )


def measure_speakers(dataset: EGMFDataset, modalities: list[str], progress: bool) -> dict[tuple[str, str], Moments]:
    """(speaker, modality) -> mean and deviation over the speaker's clips, each with the same weight."""
    scalers: dict[tuple[str, str], StandardScaler] = {}
    for index in tqdm(range(len(dataset)), desc="measuring speakers", unit="example", disable=not progress):
        speaker = speaker_of(dataset.examples[index])
        for modality, values in dataset.load_vectors(index).items():
            if modality in modalities and len(values):
                # A column that never changes has a scale of 1, so it stays at the training set's mean.
                scaler = scalers.setdefault((speaker, modality), StandardScaler())
                scaler.partial_fit(values, sample_weight=clip_weights(values))
    return {
        key: Moments(torch.from_numpy(scaler.mean_).float(), torch.from_numpy(deviations(scaler)).float())
        for key, scaler in scalers.items()
    }
