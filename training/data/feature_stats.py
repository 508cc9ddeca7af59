"""Mean and standard deviation of precomputed features, from the training rows.

The columns of released features differ in scale by orders of magnitude (pitch in Hz beside probabilities), so the
encoder standardizes them. What it standardizes by is measured once, before the first step, and lies in the checkpoint.
"""

import torch
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm

from modeling_egmf import EGMFForConditionalGeneration
from modeling_egmf.encoders_egmf import EGMFFeatureStem

from .dataset import EGMFDataset


def set_feature_stats(model: EGMFForConditionalGeneration, rows: EGMFDataset, progress: bool = True) -> list[str]:
    """Set `mean` and `std` of every feature encoder over all vectors of all rows; a constant column keeps a std of 1.

    Args:
        model: a new model; one that has learned already keeps what it learned with.
        rows: the training set.
        progress: show a bar.

    Returns:
        The modalities that were set; one that no row has keeps 0 and 1.
    """
    encoder = model.egmf.audio_visual_encoder
    stems = {
        name: part.stem
        for name, part in (("audio", encoder.audio), ("video", encoder.video))
        if part is not None and isinstance(part.stem, EGMFFeatureStem)
    }
    scalers = {name: StandardScaler() for name in stems}
    if stems:
        for index in tqdm(range(len(rows)), desc="measuring features", unit="row", disable=not progress):
            media = rows[index]["media"]
            for name, scaler in scalers.items():
                if f"{name}_features" in media:
                    scaler.partial_fit(media[f"{name}_features"])
    found = [name for name, scaler in scalers.items() if hasattr(scaler, "scale_")]
    for name in found:
        stems[name].mean.copy_(torch.from_numpy(scalers[name].mean_))
        stems[name].std.copy_(torch.from_numpy(scalers[name].scale_))
    return found
