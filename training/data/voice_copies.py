"""Voice augmentation for frozen encoders: copies of every training clip with another voice, encoded once.

    a clip ─┬─────────────────► frozen encoder ─► outputs 0 ─┐
            ├─ augment_voice ─► frozen encoder ─► outputs 1 ─┼─► one of them in each epoch
            └─ augment_voice ─► frozen encoder ─► outputs N ─┘

A clip that changes every time it is used would run through the encoder in every epoch. Instead, the encoder cache has
the outputs of a few changed copies. Which is used depends on the seed, the epoch and the example, as for all
augmentation; validation, evaluation and prediction use the clip itself, and so do the statistics of features and
speakers. training/log/ravdess.md has the figures.
"""

from typing import Any

import numpy as np

from ..records import digest_of_json
from .augmentation import augment_voice


# Incremented when `augment_voice` changes, so that copies of an older version are computed again.
COPIES_VERSION = 1


def copy_key(key: str, seed: int, number: int) -> str:
    """Key of a voice copy in the encoder cache.

    Args:
        key: of the clip itself.
        seed: of the run.
        number: of the copy, from 1.
    """
    return digest_of_json([COPIES_VERSION, key, seed, number])


def change_voice(arrays: dict[str, Any], key: str, max_samples: int) -> dict[str, Any]:
    """The decoded media of a clip with another voice.

    Args:
        arrays: from `EGMFDataset.decode`; without audio, they stay unchanged.
        key: of the copy; the same one makes the same voice.
        max_samples: what a slower copy has beyond these is cut off.
    """
    if "audio" not in arrays:
        return arrays
    changed = augment_voice(arrays["audio"], np.random.default_rng(int(key, 16)))
    return {**arrays, "audio": changed[:max_samples]}
