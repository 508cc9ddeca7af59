"""Random changes to a training example: modality dropout, and the variation that cameras, rooms and microphones cause
without changing how the person feels.

One generator makes all choices for a sample, in this order: the modalities to keep, the voice, then each stream. The
same seed gives the same sample; see `EGMFDataset`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from scipy.fft import irfft, next_fast_len, rfft
from torchaudio.functional import phase_vocoder

from processing_egmf.frames_egmf import is_blank, resize

from .faces import FACE_SHARE


MAX_GAIN_DECIBELS = 3.0
MAX_FACE_SHIFT = 0.03  # of a crop's side: several times the usual error of a detector
MAX_FACE_GROWTH = 0.05
MIN_FACE_DETAIL = 0.4  # of the crop's pixels along a side, as in a face that is small in the frame
NOISE_DECIBELS = (-70.0, -45.0)  # below full scale
MAX_VOICE_CHANGE = 0.1  # of pitch and of tempo
TIMBRE_DECIBELS = 3.0  # standard deviation of the level in each of six bands
TIMBRE_BANDS = 6
FFT_LENGTH = 512  # of the phase vocoder
HOP_LENGTH = FFT_LENGTH // 4


@dataclass(frozen=True)
class AugmentationSettings:
    """Which random changes a dataset makes.

    Args:
        modality_dropout: probability that a sample loses a random subset of its modalities, never all of them.
        augmentation: change audio, frames and features with `augment`.
        voice_augmentation: change pitch, tempo and timbre with `augment_voice`.
        voice_copies: how many copies with another voice the encoder cache has of each clip; see voice_copies.py.
        seed: of these copies.
    """

    modality_dropout: float = 0.0
    augmentation: bool = False
    voice_augmentation: bool = False
    voice_copies: int = 0
    seed: int = 0

    def __post_init__(self):
        if not 0 <= self.modality_dropout <= 1:
            raise ValueError(f"--modality_dropout is {self.modality_dropout}; it must be in [0, 1].")
        if self.voice_copies < 0:
            raise ValueError(f"--voice_copies is {self.voice_copies}; it must be at least 0.")

    @classmethod
    def from_arguments(cls, arguments: Any, seed: int) -> "AugmentationSettings":
        """The settings of `DataArguments`, with the run's seed."""
        return cls(
            arguments.modality_dropout,
            arguments.augmentation,
            arguments.voice_augmentation,
            arguments.voice_copies,
            seed,
        )


def choose_modalities(present: Sequence[str], dropout: float, rng: np.random.Generator) -> list[str]:
    """The modalities to keep: all, or with probability `dropout` a random nonempty proper subset."""
    if len(present) > 1 and rng.random() < dropout:
        subsets = [subset for size in range(1, len(present)) for subset in combinations(present, size)]
        return list(subsets[rng.integers(len(subsets))])
    return list(present)


def augment_frames(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """frames (T, y, x, 3) uint8 -> possibly mirrored, with different lighting; one change for the entire clip.

    A clip so dark or bright that its frames would become one color, which counts as no video, keeps its lighting.
    """
    if rng.random() < 0.5:
        frames = frames[:, :, ::-1]
    contrast = rng.uniform(0.85, 1.2)
    brightness = rng.uniform(-15, 15)
    tint = rng.uniform(0.92, 1.08, 3)
    changed = ((frames.astype(np.float32) - 128) * contrast + 128 + brightness) * tint
    changed = np.clip(changed, 0, 255).astype(np.uint8)
    return np.ascontiguousarray(frames) if is_blank(changed) else changed


def augment_face(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A cropped face (T, y, x, 3) uint8 -> elsewhere in its crop, larger or smaller, and half of the time less sharp.

    The same face gets another box wherever it is in the frame, and has fewer pixels if it is far from the camera.
    """
    shift_x, shift_y = 2 * rng.uniform(-MAX_FACE_SHIFT, MAX_FACE_SHIFT, 2)  # affine_grid's side is 2
    growth = 1 + rng.uniform(-MAX_FACE_GROWTH, MAX_FACE_GROWTH)
    detail = rng.uniform(MIN_FACE_DETAIL, 2 - MIN_FACE_DETAIL)
    size = frames.shape[1:3]
    if detail < 1:
        reduced = (max(1, round(detail * size[0])), max(1, round(detail * size[1])))
        frames = resize(resize(frames, reduced), size)
    images = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float()  # (T, 3, y, x)
    affine = torch.tensor([[growth, 0, shift_x], [0, growth, shift_y]], dtype=torch.float32)
    grid = torch.nn.functional.affine_grid(affine.expand(len(images), 2, 3), list(images.shape), align_corners=False)
    moved = torch.nn.functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    return np.ascontiguousarray(moved.round().to(torch.uint8).permute(0, 2, 3, 1).numpy())


def augment_audio(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """samples (S,) float32 -> a little louder or softer, with some noise."""
    gain = 10 ** (rng.uniform(-MAX_GAIN_DECIBELS, MAX_GAIN_DECIBELS) / 20)
    noise = 10 ** (rng.uniform(*NOISE_DECIBELS) / 20)
    return (samples * gain + rng.standard_normal(len(samples), dtype=np.float32) * noise).astype(np.float32)


def augment_voice(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """samples (S,) float32 -> (S',) as if spoken by someone else: with a different tempo, pitch and timbre.

    Speed perturbation (Ko et al. 2015), a random equalizer, and a phase vocoder that makes the tempo independent of
    the speed: for corpora with few speakers. Audio shorter than two windows of the vocoder is returned unchanged.
    """
    if len(samples) < 2 * FFT_LENGTH:
        return samples
    tempo, speed = rng.uniform(1 - MAX_VOICE_CHANGE, 1 + MAX_VOICE_CHANGE, 2)
    levels = rng.normal(0, TIMBRE_DECIBELS, TIMBRE_BANDS)
    padded_length = next_fast_len(len(samples), real=True)
    spectrum = rfft(samples, padded_length)
    # The bands follow the ear: narrow at low frequencies.
    positions = np.log1p(np.linspace(0, 13, len(spectrum)))
    decibels = np.interp(positions, np.linspace(0, positions[-1], len(levels)), levels)
    spectrum = spectrum * 10 ** (decibels.astype(np.float32) / 20)
    # Inverting the same spectrum to more or fewer samples changes the speed of the sound.
    length = round(padded_length / speed)
    changed = irfft(spectrum, length) * (length / padded_length)
    changed = changed[: len(samples) * length // padded_length].astype(np.float32)
    return _change_tempo(changed, tempo / speed)


def _change_tempo(samples: np.ndarray, rate: float) -> np.ndarray:
    """samples (S,) -> (S / rate,) at the same pitch."""
    framing = {"n_fft": FFT_LENGTH, "hop_length": HOP_LENGTH, "window": torch.hann_window(FFT_LENGTH)}
    spectrum = torch.stft(torch.from_numpy(samples), **framing, pad_mode="constant", return_complex=True)
    phase_advance = torch.linspace(0, torch.pi * HOP_LENGTH, len(spectrum))[:, None]
    stretched = phase_vocoder(spectrum, rate, phase_advance)
    return torch.istft(stretched, **framing, length=round(len(samples) / rate)).numpy()


def augment_features(features: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """features (T, F) -> with a tenth of the steps replaced by the mean, unless there are too few."""
    hidden = rng.random(len(features)) < 0.1
    if len(features) < 4 or not hidden.any():
        return features
    return np.where(hidden[:, None], features.mean(axis=0, keepdims=True), features).astype(np.float32)


AUGMENTATIONS = {
    "audio": augment_audio,
    "video": augment_frames,
    "audio_features": augment_features,
    "video_features": augment_features,
}


def augment(media: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Randomly change every stream of a decoded clip; the rest, such as `face_share`, stays.

    A face that was found is also moved; a whole frame is not.
    """
    if media.get(FACE_SHARE):
        media = {**media, "video": augment_face(media["video"], rng)}
    changed = {name: AUGMENTATIONS[name](values, rng) for name, values in media.items() if name in AUGMENTATIONS}
    return {**media, **changed}
