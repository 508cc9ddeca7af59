"""Collates the samples of `EGMFDataset` into a batch: first modality dropout as the dataset drew it, then padding.

Sizes and masks are the same as in one processor call on the same inputs.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import torch
from transformers import BatchFeature

from processing_egmf import MODALITIES, EGMFDataCollator, EGMFProcessor
from processing_egmf.arguments_egmf import errors_named
from processing_egmf.batches_egmf import check_modalities as check_sample_modalities
from processing_egmf.batches_egmf import check_not_empty, modalities_of


# Every nonempty subset of the modalities, from the single ones to all of them.
SUBSETS: tuple[tuple[str, ...], ...] = tuple(
    subset for size in range(1, len(MODALITIES) + 1) for subset in combinations(MODALITIES, size)
)


def check_modalities(modalities: Sequence[str] | None) -> tuple[str, ...]:
    """The modalities to use; None stands for all.

    Raises:
        ValueError: the list is empty, or names an unknown modality.
    """
    if modalities is None:
        return MODALITIES
    if not modalities or not set(modalities) <= set(MODALITIES):
        raise ValueError(f"--modalities is {list(modalities)}; use any of {', '.join(MODALITIES)}.")
    return tuple(modalities)


def drop_modalities(processor: EGMFProcessor, sample: dict[str, Any], keep: Sequence[str]) -> dict[str, Any]:
    """A prepared sample with only the modalities `keep`, equal to `processor.prepare(..., modalities=keep)`.

    Args:
        processor: the processor that prepared the sample.
        sample: from `prepare`; it is not modified. Keys that the caller has added are kept.
        keep: any of text, audio and video.

    Raises:
        ValueError: an unknown modality, or a sample that has none of `keep`.
    """
    name = sample["name"]
    with errors_named(name):
        check_sample_modalities(keep, processor.modalities)
    reduced = dict(sample)
    for modality in ("audio", "video"):
        if modality not in keep:
            reduced.pop(f"{modality}_values", None)
            reduced.pop(f"{modality}_mask", None)
    if "video" not in keep:
        reduced.pop("face_share", None)
    if "text" not in keep and any(sample["text_mask"]):
        reduced["prompt"] = {**sample["prompt"], "text": "", "context": []}
        reduced |= processor.encode_prompt(**reduced["prompt"], name=name)
    check_not_empty(bool(modalities_of(reduced)), name, keep)
    return reduced


class SampleCollator(EGMFDataCollator):
    """The data collator of our own training and evaluation, for the samples of `EGMFDataset`.

    Each sample keeps the modalities that the dataset drew for it (`sample["modalities"]`). A batch without labels gets
    `label_index` (B,), the true answer's index in the answer set; a training batch has `loss_weight` ().

    Args:
        processor: the processor that prepared the samples.
        modalities: the modalities to keep, for evaluation on a subset; None for all.
    """

    def __init__(self, processor: EGMFProcessor, modalities: Sequence[str] | None = None):
        super().__init__(processor, score_answers=False)  # evaluation has samples without labels
        self.modalities = check_modalities(modalities)

    def __call__(self, samples: list[dict[str, Any]]) -> BatchFeature:
        batch = super().__call__(samples)
        if "labels" not in batch:
            batch["label_index"] = torch.tensor([sample["label_index"] for sample in samples])
        if "loss_weight" in samples[0]:
            batch["loss_weight"] = torch.tensor(samples[0]["loss_weight"])
        return batch

    def prepare(self, sample: dict[str, Any], number: int) -> dict[str, Any]:
        """A sample with the modalities to keep."""
        kept = [modality for modality in sample["modalities"] if modality in self.modalities]
        if not kept:
            present = ", ".join(sample["modalities"]) or "none that the dataset uses"
            raise ValueError(
                f"Example {sample['id']!r} has none of {', '.join(self.modalities)}; it has {present}. "
                "Leave it out of the batch, or use other modalities."
            )
        return drop_modalities(self.processor, sample, kept)
