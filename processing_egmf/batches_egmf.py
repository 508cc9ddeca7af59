"""Batches: the arguments of a call split by sample, and prepared samples collated into padded tensors.

    processor(text=[...], video=[...], task="meld") ─► split_arguments ─► {"text", "video", "task"} per sample
    prepared samples ─► collate_prompts (padded on the left), collate_media (on the right), collate_answer_ids

Used by processing_egmf.py only.
"""

# B batch  S prompt tokens  T samples or frames  A answers  L tokens of an answer

from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers.image_utils import is_pil_image


MODALITIES = ("text", "audio", "video")
CONTENT = ("text", "audio", "video", "audio_features", "video_features")
MEDIA_INPUTS = ("audio_values", "audio_mask", "video_values", "video_mask")
IGNORE_INDEX = -100


# ---- arguments -----------------------------------------------------------------------------------------------


def split_arguments(arguments: dict[str, Any]) -> list[dict[str, Any]]:
    """Split the arguments of `EGMFProcessor.__call__` into those of each sample.

    Lists with one entry per sample are split. Any other value is shared by all samples, but a single text or clip for
    a batch of several samples is an error.

    Raises:
        ValueError: lists of different lengths, an empty batch, or one text or clip for several samples.
    """
    batched = [name for name in arguments if name != "context" and holds_a_batch(name, arguments[name])]
    # A single sample's context is a list of turns; in a batch, each sample has such a list.
    if batched and isinstance(arguments["context"], list | tuple):
        batched.append("context")
    lengths = {name: len(arguments[name]) for name in batched}
    if len(set(lengths.values())) > 1:
        raise ValueError(
            f"The lists have different lengths: {lengths}. Give one entry per sample, None where it is missing."
        )
    size = next(iter(lengths.values()), 1)
    if size == 0:
        raise ValueError("The batch is empty; give at least one sample.")
    shared = [name for name in CONTENT if name not in batched and arguments[name] is not None]
    if size > 1 and shared:
        raise ValueError(
            f"{', '.join(shared)} is a single value, but the batch has {size} samples; give a list with one for each."
        )
    samples = []
    for i in range(size):
        own = {name: arguments[name][i] for name in batched}
        samples.append({**arguments, **own})
    return samples


def holds_a_batch(name: str, value: Any) -> bool:
    """Whether an argument has one entry per sample, rather than a single sample's value."""
    if isinstance(value, np.ndarray | torch.Tensor):
        return name == "answer" or (name.endswith("_features") and value.ndim == 3)
    if not isinstance(value, list | tuple):
        return False
    if len(value) == 0:
        return name != "modalities"
    if name == "modalities":  # a list of names is one sample's
        return not isinstance(value[0], str)
    if name == "audio":  # a list of numbers is one waveform
        return not isinstance(value[0], int | float | np.number)
    first = next((entry for entry in value if entry is not None), None)
    if name == "video":  # a list of frames is one video
        is_array = isinstance(first, np.ndarray | torch.Tensor)
        return first.ndim == 4 if is_array else not is_pil_image(first)
    if name.endswith("_features"):  # a list of vectors is one sequence
        return first is None or np.ndim(first) == 2
    return True


def check_modalities(modalities: Any, name: str) -> None:
    accepted = ", ".join(MODALITIES)
    if not isinstance(modalities, list | tuple):
        raise TypeError(f"{name}: modalities must be a list of {accepted}, not {modalities!r}.")
    for modality in modalities:
        if modality not in MODALITIES:
            raise ValueError(f"{name}: unknown modality {modality!r}; use any of {accepted}.")


def check_not_empty(has_content: bool, name: str, modalities: list[str] | tuple[str, ...] | None) -> None:
    if not has_content:
        chosen = "" if modalities is None else f" among the chosen modalities {list(modalities)}"
        raise ValueError(
            f"{name} has neither text nor audio nor video{chosen}. "
            "Give at least one of text, audio, video, audio_features, video_features."
        )


# ---- tensors -------------------------------------------------------------------------------------------------


def collate_prompts(samples: list[dict[str, Any]], pad_token_id: int, with_labels: bool) -> dict[str, torch.Tensor]:
    """input_ids, attention_mask, utterance_mask, text_mask and, with answers, labels: (B, S), padded on the left."""
    padding = {"input_ids": pad_token_id, "attention_mask": 0, "utterance_mask": 0, "text_mask": 0}
    if with_labels:
        padding["labels"] = IGNORE_INDEX
    length = max(len(sample["input_ids"]) for sample in samples)
    tensors = {}
    for name, filler in padding.items():
        rows = [[filler] * (length - len(sample[name])) + sample[name] for sample in samples]
        tensors[name] = torch.tensor(rows)
    return tensors


def collate_media(samples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Values (B, T, ...) and masks (B, T) of audio and video, padded with zeros on the right.

    A sample without a modality is all zeros; a modality that no sample has is left out.
    """
    tensors = {}
    for name in MEDIA_INPUTS:
        present = {sample["name"]: sample[name] for sample in samples if name in sample}
        shapes = {sample_name: tuple(values.shape[1:]) for sample_name, values in present.items()}
        if len(set(shapes.values())) > 1:
            raise ValueError(
                f"`{name}` cannot be batched, because their shapes differ: {shapes}. "
                "Use clips of the same size, or process them one at a time."
            )
        if present:
            missing = next(iter(present.values()))[:0]
            values = [sample.get(name, missing) for sample in samples]
            tensors[name] = pad_sequence(values, batch_first=True)
    return tensors


def collate_answer_ids(samples: list[dict[str, Any]]) -> torch.Tensor:
    """Token ids of the answers of each sample's task, (B, A, L) padded with -1."""
    answers_of_task = {sample["task_id"]: sample["answer_ids"] for sample in samples}
    num_answers = max(len(answers) for answers in answers_of_task.values())
    length = max(len(ids) for answers in answers_of_task.values() for ids in answers)
    padded = {}
    for task_id, answers in answers_of_task.items():
        padded[task_id] = torch.full((num_answers, length), -1)
        for i, ids in enumerate(answers):
            padded[task_id][i, : len(ids)] = torch.tensor(ids)
    return torch.stack([padded[sample["task_id"]] for sample in samples])
