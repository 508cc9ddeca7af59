"""Clips and features of an example as the processor takes them: from disk, an Arrow file, or unchanged."""

from typing import Any

import numpy as np

from ..records import check_placeholder
from .parquet import StoredMedia


def load_features(features: Any, name: str) -> Any:
    """Return an array unchanged; load the .npy file that a string names."""
    if not isinstance(features, str):
        return features
    try:
        check_placeholder(features)
        return np.load(features, allow_pickle=False)
    except Exception as error:  # numpy raises many types: it parses a damaged header as Python
        raise ValueError(
            f"{name}: {features} is not a readable .npy file of numbers ({error}). Write it with numpy.save."
        ) from error


def read_stored(clip: Any) -> Any:
    """Return a clip unchanged, or its bytes if it is embedded in a converted corpus."""
    return clip.read() if isinstance(clip, StoredMedia) else clip
