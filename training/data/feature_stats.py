"""Mean and standard deviation of features, and of the states of pretrained encoders, over the training examples.

    audio_features, video_features (T, F) ─────────────┐
    encoder cache, or the encoder run over some clips ─┴─► mean, std ─► buffers of the encoder's stem
    standardized features ─► mean and deviation over time of each clip ─► mean, std ─► buffers of the encoder

The columns of released features differ in scale by orders of magnitude (pitch in Hz next to probabilities), and so do
the layers of a pretrained encoder, so the model standardizes them. What it pools of features over time
(`pooling="statistics"`) differs again: faces differ far more than they move. A weighted sum of layers is pooled as it
is: with pooled values of one size, the weights hardly learn (training/log/encoders.md). The statistics are measured
once, before the first step, and stored in the checkpoint.
"""

# T steps  F feature width

import numpy as np
import torch
from sklearn.preprocessing import StandardScaler
from torch import nn
from tqdm import tqdm

from modeling_egmf import EGMFForConditionalGeneration
from modeling_egmf.encoders_egmf import EGMFFeatureStem, EGMFModalityEncoder, mean_and_deviation

from .dataset import EGMFDataset
from .encoder_cache import condense, encode_clip, pretrained_stems
from .examples import speaker_of


MAX_ENCODED = 512  # clips that a pretrained encoder is run over if its outputs are not cached


def standardizers(model: EGMFForConditionalGeneration) -> dict[str, nn.Module]:
    """Modality -> the module of its encoder that has the statistics as `mean` and `std`, where there is one."""
    encoder = model.egmf.audio_visual_encoder
    modules: dict[str, nn.Module] = {}
    for modality, part in (("audio", encoder.audio), ("video", encoder.video)):
        if part is not None and isinstance(part.stem, EGMFFeatureStem):
            modules[modality] = part.stem
    for modality, stem in pretrained_stems(model).items():
        if stem.layer_sum is not None:
            modules[modality] = stem.layer_sum
    return modules


def pooling_encoders(model: EGMFForConditionalGeneration) -> dict[str, EGMFModalityEncoder]:
    """Modality -> its encoder, where that pools mean and deviation over time of features."""
    encoders = {}
    for modality, stem in standardizers(model).items():
        encoder = model.egmf.audio_visual_encoder.get_submodule(modality)
        if isinstance(stem, EGMFFeatureStem) and encoder.pooling == "statistics":
            encoders[modality] = encoder
    return encoders


def set_feature_stats(model: EGMFForConditionalGeneration, dataset: EGMFDataset, progress: bool = True) -> list[str]:
    """Set `mean` and `std` of every encoder that has them over the vectors of all examples.

    Every example has the same weight, however many vectors it has. A constant column keeps a std of 1. What is pooled
    is measured with the features normalized by speaker if the dataset does that.

    Args:
        model: a new model; a trained checkpoint must keep the statistics that it was trained with.
        dataset: the training set.
        progress: show a progress bar.

    Returns:
        The modalities whose statistics were set; one that no example has keeps mean 0 and std 1.
    """
    modules = standardizers(model)
    if not modules:
        return []
    encoders = pooling_encoders(model)
    scalers: dict[str, StandardScaler] = {}
    clips: dict[str, list[tuple[int, torch.Tensor]]] = {modality: [] for modality in encoders}
    for index in tqdm(range(len(dataset)), desc="measuring features", unit="example", disable=not progress):
        for modality, values in read_vectors(model, dataset, index, list(modules)).items():
            scaler = scalers.setdefault(modality, StandardScaler())
            scaler.partial_fit(values, sample_weight=clip_weights(values))
            if modality in encoders:
                # Two steps with the clip's mean and deviation instead of all.
                clips[modality].append((index, condense(torch.as_tensor(values), num_layers=1)))
    for modality, scaler in scalers.items():
        _set(modules[modality], scaler)
        if modality in encoders:
            _set(encoders[modality], _measure_pooled(encoders[modality], modality, clips[modality], dataset))
    return [modality for modality in modules if modality in scalers]


@torch.no_grad()
def _measure_pooled(
    encoder: EGMFModalityEncoder, modality: str, clips: list[tuple[int, torch.Tensor]], dataset: EGMFDataset
) -> StandardScaler:
    """Mean and variance of what an encoder pools, over (index of the example, features (T, F)) of clips."""
    scaler = StandardScaler()
    for index, values in clips:
        if dataset.speaker_normalization is not None:
            speaker = speaker_of(dataset.examples[index])
            _, normalized = dataset.speaker_normalization(speaker, {}, {modality: values})
            values = normalized[modality]
        values = values[None].to(encoder.mean.device)
        states, mask = encoder.stem(values, torch.ones_like(values[..., 0], dtype=torch.bool))
        scaler.partial_fit(mean_and_deviation(states, mask).cpu().numpy())
    return scaler


def _set(module: nn.Module, scaler: StandardScaler) -> None:
    module.mean.copy_(torch.from_numpy(scaler.mean_))
    module.std.copy_(torch.from_numpy(deviations(scaler)))


def deviations(scaler: StandardScaler) -> np.ndarray:
    """(F,) standard deviation of each column, 1 for one that is constant to the precision of float32."""
    scales = np.sqrt(scaler.var_)
    return np.where(scales <= 1e-6 * np.abs(scaler.mean_), 1.0, scales)


def clip_weights(values: np.ndarray | torch.Tensor) -> np.ndarray:
    """values (T, F) -> (T,) that sum to 1: every clip counts the same, long or short, cached as it is or condensed."""
    return np.full(len(values), 1 / len(values))


@torch.no_grad()
def read_vectors(
    model: EGMFForConditionalGeneration, dataset: EGMFDataset, index: int, modalities: list[str]
) -> dict[str, np.ndarray | torch.Tensor]:
    """Modality -> features or states (T, F) of an example, for the modalities that it has and that are measured."""
    vectors = dataset.load_vectors(index)
    is_encoded = index % -(-len(dataset) // MAX_ENCODED) == 0
    example = dataset.examples[index]
    for modality, stem in pretrained_stems(model).items():
        is_cached = modality in example.get("state_keys", {})
        if modality in modalities and not is_cached and is_encoded:
            arrays = dataset.decode(example, (modality,))
            vectors[modality] = encode_clip(stem, dataset.processor, modality, arrays, example["id"])
    return {modality: values for modality, values in vectors.items() if modality in modalities and len(values)}
