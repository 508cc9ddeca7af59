"""What a camera, a room and a microphone change about a clip without changing how the person feels."""

import numpy as np


MAX_GAIN_DECIBELS = 3.0
NOISE_DECIBELS = (-70.0, -45.0)  # below full scale


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
