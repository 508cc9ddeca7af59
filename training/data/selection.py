"""Selects the examples of a run, and checks that they have the inputs that its model takes.

load_examples ─► select_examples (tasks, number) ─► EGMFDataset ─► remove_unusable
"""

import logging
from collections.abc import Sequence
from typing import Any

from processing_egmf import EGMFProcessor, EGMFTask

from .dataset import SOURCES, EGMFDataset


MAX_SHOWN_IDS = 20

logger = logging.getLogger(__name__)


def used_tasks(tasks: dict[str, EGMFTask], examples: list[dict[str, Any]]) -> dict[str, EGMFTask]:
    """The tasks that the examples name, in the order of `tasks`; `EGMFDataset` reports unknown names."""
    default = next(iter(tasks))
    names = {example.get("task") or default for example in examples}
    used = {name: task for name, task in tasks.items() if name in names}
    return used or tasks


def select_examples(
    examples: list[dict[str, Any]], only_tasks: Sequence[str] | None, max_samples: int | None, default_task: str
) -> list[dict[str, Any]]:
    """Select examples by task, up to a maximum number.

    Args:
        examples: of one split.
        only_tasks: names of the tasks to keep; None for all.
        max_samples: number of examples to keep, from the start; None for all.
        default_task: the task of an example that names none.

    Raises:
        ValueError: no example is left, or `max_samples` is below 1.
    """
    if max_samples is not None and max_samples < 1:
        raise ValueError(f"max_train_samples and max_eval_samples must be at least 1, not {max_samples}.")
    if only_tasks is not None:
        tasks = [example.get("task") or default_task for example in examples]
        examples = [example for example, task in zip(examples, tasks, strict=True) if task in only_tasks]
        if not examples:
            raise ValueError(f"No example has a task of --only_tasks {', '.join(only_tasks)}.")
    return examples[:max_samples]


def check_encoder_inputs(
    examples: list[dict[str, Any]], processor: EGMFProcessor, modalities: Sequence[str], show: bool
) -> None:
    """Check that the examples have audio and video in the form that the encoders take. A modality that no example has
    gets a warning.

    Args:
        examples: the training examples.
        processor: has the encoders' input types.
        modalities: the modalities in use.
        show: log the warning.

    Raises:
        ValueError: an encoder takes features and the examples have clips, or the other way round.
    """
    inputs = {"audio": processor.audio_input, "video": processor.video_input}
    for modality, input_type in inputs.items():
        if input_type is None or modality not in modalities:
            continue
        available = [
            form
            for form, columns in SOURCES[modality].items()
            if any(example.get(column) is not None for example in examples for column in columns)
        ]
        if input_type in available:
            continue
        if available:
            raise ValueError(
                f"The model takes --{modality} {input_type}, but the training examples have {modality} only as "
                f"{available[0]}. Give --{modality} {available[0]} or none, or the dataset of the recipe."
            )
        if show:
            logger.warning(f"no training example has {modality}: its encoder will not be trained.")


def remove_unusable(dataset: EGMFDataset, split: str, show: bool) -> None:
    """Remove the examples that have none of the dataset's modalities, and list them.

    Raises:
        ValueError: no example is left.
    """
    unusable = dataset.ids_without(dataset.modalities)
    modalities = ", ".join(dataset.modalities)
    if len(unusable) == len(dataset):
        raise ValueError(
            f"No example of split {split!r} has any of the modalities {modalities}. Choose others with --modalities."
        )
    if unusable and show:
        shown = ", ".join(unusable[:MAX_SHOWN_IDS])
        more = ", ..." if len(unusable) > MAX_SHOWN_IDS else ""
        print(
            f"Split {split!r}: left out {len(unusable)} of {len(dataset)} examples "
            f"without {modalities}: {shown}{more}."
        )
    dataset.remove(unusable)
