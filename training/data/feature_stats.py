"""Mean and standard deviation of precomputed features, over the training examples.

The columns of released features differ in scale by orders of magnitude (pitch in Hz next to probabilities), so the
encoder standardizes them. The statistics are measured once, before the first step, and stored in the checkpoint.
"""

import torch
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm

from modeling_egmf import EGMFForConditionalGeneration
from modeling_egmf.encoders_egmf import EGMFFeatureStem

from .dataset import EGMFDataset


def set_feature_stats(model: EGMFForConditionalGeneration, dataset: EGMFDataset, progress: bool = True) -> list[str]:
    """Set `mean` and `std` of every feature encoder over all vectors of all examples; a constant column keeps a std of
    1.

    Args:
        model: a new model; a trained checkpoint must keep the statistics that it was trained with.
        dataset: the training set.
        progress: show a progress bar.

    Returns:
        The modalities whose statistics were set; one that no example has keeps mean 0 and std 1.
    """
    encoder = model.egmf.audio_visual_encoder
    stems = {}
    for modality, part in (("audio", encoder.audio), ("video", encoder.video)):
        if part is not None and isinstance(part.stem, EGMFFeatureStem):
            stems[modality] = part.stem
    if not stems:
        return []
    scalers: dict[str, StandardScaler] = {}
    for index in tqdm(range(len(dataset)), desc="measuring features", unit="example", disable=not progress):
        media = dataset.load_media(index)
        for modality in stems:
            if f"{modality}_features" in media:
                scaler = scalers.setdefault(modality, StandardScaler())
                scaler.partial_fit(media[f"{modality}_features"])
    for modality, scaler in scalers.items():
        stems[modality].mean.copy_(torch.from_numpy(scaler.mean_))
        stems[modality].std.copy_(torch.from_numpy(scaler.scale_))
    return [modality for modality in stems if modality in scalers]
