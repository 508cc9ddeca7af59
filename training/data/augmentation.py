"""What a camera, a room and a microphone change about a clip without changing how the person feels."""

import numpy as np
import torch
from scipy.fft import irfft, next_fast_len, rfft
from torchaudio.functional import phase_vocoder


MAX_GAIN_DECIBELS = 3.0
NOISE_DECIBELS = (-70.0, -45.0)  # below full scale
MAX_VOICE_CHANGE = 0.1  # of pitch and of tempo
TIMBRE_DECIBELS = 3.0  # standard deviation of the level in each of six bands
FFT_LENGTH = 512  # of the phase vocoder


def augment_frames(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """frames (T, y, x, 3) uint8 -> mirrored or not, in other light; the same change for the whole clip."""
    if rng.random() < 0.5:
        frames = frames[:, :, ::-1]
    contrast, brightness = rng.uniform(0.85, 1.2), rng.uniform(-15, 15)
    tint = rng.uniform(0.92, 1.08, 3)
    return np.clip(((frames.astype(np.float32) - 128) * contrast + 128 + brightness) * tint, 0, 255).astype(np.uint8)


def augment_sound(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """samples (S,) float32 -> a little louder or softer, in some noise."""
    gain = 10 ** (rng.uniform(-MAX_GAIN_DECIBELS, MAX_GAIN_DECIBELS) / 20)
    noise = 10 ** (rng.uniform(*NOISE_DECIBELS) / 20)
    return (samples * gain + rng.standard_normal(len(samples), dtype=np.float32) * noise).astype(np.float32)


def augment_voice(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """samples (S,) float32 -> (S',) as if another had said it: faster or slower, higher or lower, in another timbre.

    Speed perturbation (Ko et al. 2015), a random equaliser and a phase vocoder, which makes the tempo another one than
    the speed does: for corpora of few speakers. What is shorter than two windows of the vocoder stays as it is.
    """
    if len(samples) < 2 * FFT_LENGTH:
        return samples
    tempo, speed = rng.uniform(1 - MAX_VOICE_CHANGE, 1 + MAX_VOICE_CHANGE, 2)
    levels = rng.normal(0, TIMBRE_DECIBELS, 6)
    padded = next_fast_len(len(samples), real=True)
    spectrum = rfft(samples, padded)
    # Bands are as wide as the ear's: narrow where tones are low.
    places = np.log1p(np.linspace(0, 13, len(spectrum)))
    decibels = np.interp(places, np.linspace(0, places[-1], len(levels)), levels)
    # More or fewer samples of the same spectrum are the same sound, played at another speed.
    length = round(padded / speed)
    changed = irfft(spectrum * 10 ** (decibels.astype(np.float32) / 20), length) * (length / padded)
    changed = changed[: len(samples) * length // padded].astype(np.float32)
    return _at_tempo(changed, tempo / speed)


def _at_tempo(samples: np.ndarray, rate: float) -> np.ndarray:
    """samples (S,) -> (S / rate,) at the same pitch."""
    framing = {"n_fft": FFT_LENGTH, "hop_length": FFT_LENGTH // 4, "window": torch.hann_window(FFT_LENGTH)}
    spectrum = torch.stft(torch.from_numpy(samples), **framing, pad_mode="constant", return_complex=True)
    advance = torch.linspace(0, torch.pi * framing["hop_length"], len(spectrum))[:, None]
    return torch.istft(phase_vocoder(spectrum, rate, advance), **framing, length=round(len(samples) / rate)).numpy()


def augment_features(features: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """features (T, F) -> with a tenth of its steps set to their mean, where there are enough of them."""
    hidden = rng.random(len(features)) < 0.1
    if len(features) < 4 or not hidden.any():
        return features
    return np.where(hidden[:, None], features.mean(axis=0, keepdims=True), features).astype(np.float32)


AUGMENTATIONS = {
    "audio": augment_sound,
    "video": augment_frames,
    "audio_features": augment_features,
    "video_features": augment_features,
}


def augment(media: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Every stream of a decoded clip, changed at random."""
    return {name: AUGMENTATIONS[name](values, rng) for name, values in media.items()}
