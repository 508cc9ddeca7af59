"""Rows to one processor call, and modality dropout."""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature

from processing_egmf import EGMFProcessor
from processing_egmf.processing_egmf import MODALITIES

from .augmentation import augment, augment_voice
from .dataset import MEDIA


SUBSETS: tuple[tuple[str, ...], ...] = tuple(
    subset for size in range(1, len(MODALITIES) + 1) for subset in combinations(MODALITIES, size)
)


def available(row: dict[str, Any]) -> list[str]:
    """The modalities that a row really has."""
    there = {name.removesuffix("_features") for name in (*row["media"], *row.get("states", ()))}
    if (row["text"] or "").strip():
        there.add("text")
    return [name for name in MODALITIES if name in there]


def draws(row: dict[str, Any]) -> np.random.Generator:
    """What chance does to a row: seeded by its `draw` in training (see sharding.py), else by torch, whose seed differs
    in every worker."""
    seed = row.get("draw")
    return np.random.default_rng(int(torch.randint(2**31, ())) if seed is None else seed)


class EGMFDataCollator:
    """Called by the data loader with the rows of one batch.

    Args:
        processor: the one hop from rows to tensors.
        with_labels: put the answer behind the prompt and return `labels` (training), or return `answer_ids` to
            score and `label_index` (B,) to compare with (evaluation).
        modalities: use these alone; None for all.
        modality_dropout: how often a sample loses a random part of what it has, never all of it.
        augmentation: change sound and pictures at random, see training/data/augmentation.py.
        voice_augmentation: change pitch, tempo and timbre of sound at random.
    """

    def __init__(
        self,
        processor: EGMFProcessor,
        with_labels: bool,
        modalities: Sequence[str] | None = None,
        modality_dropout: float = 0.0,
        augmentation: bool = False,
        voice_augmentation: bool = False,
    ):
        if not 0 <= modality_dropout <= 1:
            raise ValueError(f"`modality_dropout` is {modality_dropout}; it must lie in [0, 1].")
        self.processor = processor
        self.with_labels = with_labels
        self.modalities = list(modalities) if modalities is not None else list(MODALITIES)
        unknown = [name for name in self.modalities if name not in MODALITIES]
        if unknown or not self.modalities:
            raise ValueError(f"`modalities` is {self.modalities}; use any of {', '.join(MODALITIES)}.")
        self.modality_dropout = modality_dropout
        self.augmentation, self.voice_augmentation = augmentation, voice_augmentation

    def _choose(self, row: dict[str, Any], rng: np.random.Generator) -> list[str]:
        there = [name for name in available(row) if name in self.modalities]
        if not there:
            raise ValueError(
                f"Row {row['id']!r} has none of {', '.join(self.modalities)}; it has {', '.join(available(row))}."
            )
        if len(there) > 1 and rng.random() < self.modality_dropout:
            parts = [part for size in range(1, len(there)) for part in combinations(there, size)]
            return list(parts[rng.integers(len(parts))])
        return there

    def __call__(self, rows: list[dict[str, Any]]) -> BatchFeature:
        media, rngs = [row["media"] for row in rows], [draws(row) for row in rows]
        modalities = [self._choose(row, rng) for row, rng in zip(rows, rngs, strict=True)]
        if self.voice_augmentation:
            media = [
                {**clip, "audio": augment_voice(clip["audio"], rng)} if "audio" in clip else clip
                for clip, rng in zip(media, rngs, strict=True)
            ]
        if self.augmentation:
            media = [augment(clip, rng) for clip, rng in zip(media, rngs, strict=True)]
        if any(row.get("states") for row in rows):
            return self._with_states(rows, media, modalities)
        batch = self.processor(
            text=[row["text"] for row in rows],
            **{name: [clip.get(name) for clip in media] for name in MEDIA},
            context=[row["context"] for row in rows],
            task=[row["task"] for row in rows],
            answer=[row["answer"] for row in rows] if self.with_labels else None,
            modalities=modalities,
            sampling_rate=self.processor.sampling_rate,
            sample_names=[f"row {row['id']!r}" for row in rows],
        )
        if not self.with_labels:
            batch["label_index"] = torch.tensor([row["label_index"] for row in rows])
        return batch

    def _with_states(
        self, rows: list[dict[str, Any]], media: list[dict[str, np.ndarray]], modalities: list[list[str]]
    ) -> BatchFeature:
        """The same batch, with what a frozen encoder gave in the place of what it is given."""
        samples = []
        for row, clip, chosen in zip(rows, media, modalities, strict=True):
            name = f"row {row['id']!r}"
            sample = self.processor.encode_prompt(
                (row["text"] or "").strip() if "text" in chosen else "",
                row["context"],
                self.processor.task_objects[row["task"]],
                row["answer"] if self.with_labels else None,
                name,
            )
            kept = {key: values for key, values in clip.items() if key.removesuffix("_features") in chosen}
            sample |= {"name": name, **self.processor.encode_media(kept)}
            for modality, values in row["states"].items():
                if modality in chosen:
                    sample[f"{modality}_values"] = values
                    sample[f"{modality}_mask"] = torch.ones(len(values), dtype=torch.bool)
            samples.append(sample)
        batch = self.processor.collate(samples)
        if not self.with_labels:
            batch["label_index"] = torch.tensor([row["label_index"] for row in rows])
        return batch
