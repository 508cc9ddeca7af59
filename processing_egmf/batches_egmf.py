"""Batches: the arguments of a call split by sample, and prepared samples collated into padded tensors.

    processor(text=[...], video=[...], task="meld") ─► split_arguments ─► {"text", "video", "task"} per sample
    prepared samples ─► collate_samples: prompts padded on the left, media on the right

Used by processing_egmf.py only.
"""

# B batch  S prompt tokens  T samples or frames  A answers  L tokens of an answer

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import BatchFeature
from transformers.image_utils import is_pil_image

from .arguments_egmf import is_number, refuse_unknown, shorten, show_path
from .media_egmf import ARRAYS, TENSORS, is_recording


MODALITIES = ("text", "audio", "video")
CONTENT = ("text", "audio", "video", "audio_features", "video_features")
RATES = {"sampling_rate": "audio", "fps": "video"}
MEDIA_VALUES = ("audio_values", "video_values")
MEDIA_INPUTS = ("audio_values", "audio_mask", "video_values", "video_mask")
IGNORE_INDEX = -100
SINGLE_SEQUENCES = str | bytes | bytearray | memoryview | list | tuple


class EGMFBatch(BatchFeature):
    """The processor's output. `to(device, dtype)` keeps audio and video in float32, in which the model reads them:
    features beyond 65504 would be infinite in float16, and a waveform in bfloat16 is full of noise."""

    def to(self, *args: Any, **kwargs: Any) -> "EGMFBatch":
        media = {name: self[name] for name in MEDIA_VALUES if isinstance(self.get(name), torch.Tensor)}
        super().to(*args, **kwargs)
        for name, values in media.items():
            self[name] = values.to(self[name].device)
        return self


# ---- arguments -----------------------------------------------------------------------------------------------


def split_arguments(arguments: dict[str, Any]) -> list[dict[str, Any]]:
    """Split the arguments of `EGMFProcessor.__call__` into those of `prepare` for each sample.

    Lists with one entry per sample are split. Any other value is shared by all samples, but a single text or clip for
    a batch of several samples is an error.

    Raises:
        ValueError: lists of different lengths, an empty batch, one text or clip for several samples, or a sampling
            rate or frame rate that no sample uses.
    """
    arguments = {name: read_column(value) for name, value in arguments.items()}
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
        sample = {**arguments, **{name: arguments[name][i] for name in batched}}
        name = sample.pop("sample_names")
        if name is not None and not isinstance(name, str):
            raise TypeError(f"sample {i}: sample_names must be strings, not {shorten(name)}.")
        sample["name"] = name or numbered_name("sample", i, [sample["video"], sample["audio"]])
        samples.append(sample)
    check_rates(arguments, set().union(*map(rates_needed, samples)))
    return samples


def read_column(value: Any) -> Any:
    """A column of `datasets` as a list; one of pandas as an array of its numbers or a list, None where a value is
    missing. Any other value is returned unchanged.

    Raises:
        TypeError: a table with more than numbers, or a set.
    """
    if isinstance(value, set | frozenset):
        raise TypeError("a set has no order. Give a list.")
    # By its method, because pandas need not be installed.
    if not callable(getattr(value, "to_numpy", None)):
        is_column = isinstance(value, Sequence) and not isinstance(value, SINGLE_SEQUENCES)
        return list(value) if is_column else value
    array = value.to_numpy()
    if array.dtype.kind not in "OUT":
        return array
    if array.ndim > 1:
        raise TypeError("a table with more than numbers. Give its rows: `table.to_dict('records')`.")
    return [None if isinstance(entry, float) and entry != entry else entry for entry in array]


def rates_needed(sample: Mapping[str, Any]) -> set[str]:
    """Which of `sampling_rate` and `fps` a sample needs: those of its arrays, because files state their own."""
    needed = set()
    for name, modality in RATES.items():
        source = sample.get(modality)
        if isinstance(source, dict):
            source = source.get("array")
        # What is no recording at all is refused by its type.
        if isinstance(source, TENSORS) or not is_recording(source):
            needed.add(name)
    return needed


def check_rates(arguments: Mapping[str, Any], needed: set[str]) -> None:
    """Refuse a rate that no sample needs."""
    for name, modality in RATES.items():
        if arguments.get(name) is not None and name not in needed:
            raise ValueError(
                f"{name} is {shorten(arguments[name])}, but no sample has {modality} as an array, and files state "
                f"their own. Leave {name} out."
            )


def numbered_name(kind: str, number: int, sources: list[Any]) -> str:
    """The name of a sample in messages: its number, with the path of its clip if it has one, or its media type."""
    paths = [os.fsdecode(source) for source in sources if isinstance(source, str | os.PathLike)]
    return f"{kind} {number} ({show_path(paths[0])})" if paths else f"{kind} {number}"


def holds_a_batch(name: str, value: Any) -> bool:
    """Whether an argument has one entry per sample, rather than a single sample's value."""
    if isinstance(value, TENSORS):
        return (name == "answer" and value.ndim > 0) or (name.endswith("_features") and value.ndim == 3)
    if not isinstance(value, list | tuple) or (name in ("audio", "video") and is_recording(value)):
        return False
    if len(value) == 0:
        return name != "modalities"
    # A list of names is one sample's.
    if name == "modalities":
        return not isinstance(value[0], str)
    # A list of numbers is one waveform.
    if name == "audio":
        return not is_number(value[0])
    first = next((entry for entry in value if entry is not None), None)
    # A list of frames is one video.
    if name == "video":
        is_array = isinstance(first, TENSORS)
        return first.ndim == 4 if is_array else not is_pil_image(first)
    # A list of vectors is one sequence.
    if name.endswith("_features"):
        return first is None or _is_matrix(first)
    return True


def _is_matrix(value: Any) -> bool:
    """Whether a value has rows: an array (T, F), or a list of vectors."""
    if isinstance(value, TENSORS):
        return value.ndim == 2
    return isinstance(value, list | tuple) and len(value) > 0 and isinstance(value[0], ARRAYS)


def check_modalities(modalities: Any, available: Sequence[str]) -> Sequence[str]:
    """Chosen modalities, checked against those that the model has."""
    if not isinstance(modalities, list | tuple):
        raise TypeError(f"modalities must be a list of {', '.join(available)}, not {shorten(modalities)}.")
    if len(modalities) == 0:
        raise ValueError(f"no chosen modalities. Give at least one of {', '.join(available)}, or None for all.")
    refuse_unknown(modalities, available, "this model does not have the modalities", ValueError)
    return modalities


def check_not_empty(
    has_content: bool, name: str, modalities: Sequence[str] | None, accepted: Sequence[str] = CONTENT
) -> None:
    if not has_content:
        chosen = "" if modalities is None else f" among the chosen modalities {list(modalities)}"
        raise ValueError(
            f"{name} has neither text nor audio nor video{chosen}; digital silence, frames of one color and less than "
            f"0.025 s count as none. Give at least one of {', '.join(accepted)}."
        )


# ---- tensors -------------------------------------------------------------------------------------------------


def modalities_of(sample: Mapping[str, Any]) -> list[str]:
    """The modalities that a prepared sample has; earlier turns count as text."""
    text = ["text"] if any(sample["text_mask"]) else []
    return text + [modality for modality in ("audio", "video") if f"{modality}_values" in sample]


def collate_samples(
    samples: list[dict[str, Any]], pad_token_id: int, return_tensors: str | None, min_length: int
) -> EGMFBatch:
    """Prepared samples as the inputs of the model, padded; prompts to at least `min_length` tokens."""
    without_answer = [sample["name"] for sample in samples if sample["labels"] is None]
    if without_answer and len(without_answer) < len(samples):
        raise ValueError(
            "Some samples of the batch have an answer and some do not; give all or none. "
            f"Without one: {', '.join(without_answer[:5])} ({len(without_answer)})."
        )
    batch = _collate_prompts(samples, pad_token_id, min_length, with_labels=not without_answer)
    batch |= _collate_media(samples)
    is_present = [[modality in modalities_of(sample) for modality in MODALITIES] for sample in samples]
    batch["modality_mask"] = torch.tensor(is_present)  # (B, M)
    batch["task_ids"] = torch.tensor([sample["task_id"] for sample in samples])
    if without_answer:
        batch["answer_ids"] = collate_answer_ids(samples)
    return EGMFBatch(batch, tensor_type=return_tensors)


def _collate_prompts(
    samples: list[dict[str, Any]], pad_token_id: int, min_length: int, with_labels: bool
) -> dict[str, torch.Tensor]:
    """input_ids, attention_mask, utterance_mask, text_mask and, with answers, labels: (B, S), padded on the left."""
    padding = {"input_ids": pad_token_id, "attention_mask": 0, "utterance_mask": 0, "text_mask": 0}
    if with_labels:
        padding["labels"] = IGNORE_INDEX
    tensors = {}
    for name, filler in padding.items():
        rows = [torch.tensor(sample[name]) for sample in samples]
        padded = pad_sequence(rows, batch_first=True, padding_value=filler, padding_side="left")
        missing = max(0, min_length - padded.shape[1])
        tensors[name] = torch.nn.functional.pad(padded, (missing, 0), value=filler)
    return tensors


def _collate_media(samples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
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
                "Use clips of one size, or one clip at a time."
            )
        if present:
            missing = next(iter(present.values()))[:0]
            tensors[name] = pad_sequence([sample.get(name, missing) for sample in samples], batch_first=True)
    return tensors


def collate_answer_ids(samples: list[dict[str, Any]]) -> torch.Tensor:
    """Token ids of the answers of each sample's task, (B, A, L) padded with -1."""
    answers = [sample["answer_ids"] for sample in samples]
    length = max(len(ids) for own_answers in answers for ids in own_answers)
    rows = [torch.tensor([ids + [-1] * (length - len(ids)) for ids in own_answers]) for own_answers in answers]
    return pad_sequence(rows, batch_first=True, padding_value=-1)
