"""Selects the examples of a run, and checks that they have the inputs that its model takes.

load_examples ─► select_split ─► select_values (of columns) ─► select_examples (tasks, sample) ─┐
                                                                  remove_unusable ◄─ EGMFDataset ◄─┘
"""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from processing_egmf import EGMFProcessor, EGMFTask
from processing_egmf.prompts_egmf import is_blank

from .csv_tables import compose, parse_number, tidy_name
from .dataset import SOURCES, EGMFDataset
from .examples import describe_assumed_task, label_text
from .tables import MEDIA
from .text_files import shorten


MAX_SHOWN_IDS = 20
SAMPLE_SEED = 0  # of the sample that --max_train_samples and --max_eval_samples draw
MAX_STRATA = 30  # different scores of a task; more are put into bins
SCORE_BINS = 7

logger = logging.getLogger(__name__)


def used_tasks(tasks: dict[str, EGMFTask], examples: list[dict[str, Any]]) -> dict[str, EGMFTask]:
    """The tasks that the examples name, in the order of `tasks`; `EGMFDataset` reports unknown names.

    Raises:
        ValueError: no example names its task, and the labels are not those of the first one.
    """
    default = next(iter(tasks))
    names = {example.get("task") or default for example in examples}
    assumed = describe_assumed_task(tasks, (example.get("task") for example in examples))
    if assumed:
        known = {tidy_name(label) for label in tasks[default].labels}
        answers = [example.get("answer") for example in examples]
        wrong = [answer for answer in answers if tidy_name(str(answer)) not in known]
        if wrong:
            raise ValueError(
                f"{len(wrong)} of {len(examples)} answers, such as {shorten(wrong[0])}, are not labels of the task "
                f"{default!r}. {assumed}"
            )
    used = {name: task for name, task in tasks.items() if name in names}
    return used or tasks


def select_values(
    examples: list[dict[str, Any]], conditions: Sequence[str] | None, split: str
) -> list[dict[str, Any]]:
    """The examples with some values of columns.

    Args:
        examples: of a split.
        conditions: COLUMN=VALUE each; an example must have one of the values of every column that is named. None for
            all examples.
        split: its name, for messages.

    Raises:
        ValueError: a condition has another form, no example has its column, or none is left.
    """
    for column, values in _read_conditions(conditions).items():
        found = {_column_value(example, column) for example in examples}
        examples = [example for example in examples if _column_value(example, column) in values]
        if not examples:
            shown = ", ".join(sorted(value for value in found if value is not None)[:MAX_SHOWN_IDS])
            raise ValueError(
                f"--where {column}={' or '.join(sorted(values))}: no example of split {split!r} has it. "
                f"Values of the column {column}: {shown or 'there is no such column'}."
            )
    return examples


def with_values(examples: list[dict[str, Any]], conditions: Sequence[str] | None) -> list[dict[str, Any]]:
    """`select_values` over all splits, of which some may have none."""
    wanted = _read_conditions(conditions).items()
    return [example for example in examples if all(_column_value(example, name) in values for name, values in wanted)]


def _read_conditions(conditions: Sequence[str] | None) -> dict[str, set[str]]:
    """Column -> the values of which an example must have one."""
    wanted: dict[str, set[str]] = {}
    for condition in conditions or ():
        column, separator, value = compose(condition).partition("=")
        if not separator or not column:
            raise ValueError(f"--where {condition} is not COLUMN=VALUE, such as language=es.")
        wanted.setdefault(column, set()).add(value)
    return wanted


def _column_value(example: dict[str, Any], column: str) -> str | None:
    """The value of a column as text, whether training reads the column or not; None if there is none."""
    value = example.get(column, (example.get("extra") or {}).get(column))
    return None if value is None else str(value)


def select_split(examples: list[dict[str, Any]], split: str, dataset: str, option: str) -> list[dict[str, Any]]:
    """The examples of a split.

    Args:
        examples: of all splits.
        split: its name, of `option`.
        dataset: for the message.
        option: `--train_split` or `--eval_split`.

    Raises:
        ValueError: there are none.
    """
    of_split = [example for example in examples if example.get("split") == tidy_name(split)]
    if of_split:
        return of_split
    splits = sorted({str(example["split"]) for example in examples if example.get("split") is not None})
    if not splits:
        raise ValueError(
            f"{dataset} has no column `split`, so it has no split {split!r}. "
            f"Add it, with the values train, validation and test, or give {option}."
        )
    raise ValueError(
        f"{dataset} has no split {split!r}. Its splits are {', '.join(splits)}: give --train_split and --eval_split."
    )


def select_examples(
    examples: list[dict[str, Any]],
    only_tasks: Sequence[str] | None,
    max_samples: int | None,
    default_task: str,
) -> list[dict[str, Any]]:
    """Select examples by task, and a stratified sample of them if there are too many.

    Args:
        examples: of one split.
        only_tasks: names of the tasks to keep; None for all.
        max_samples: number of examples to keep; None for all.
        default_task: the task of an example that names none.

    Raises:
        ValueError: no example is left, or `max_samples` is below 1.
    """
    if max_samples is not None and max_samples < 1:
        raise ValueError(f"max_train_samples and max_eval_samples must be at least 1, not {max_samples}.")
    if only_tasks is not None:
        tasks = [example.get("task") or default_task for example in examples]
        chosen = {tidy_name(name) for name in only_tasks}
        examples = [example for example, task in zip(examples, tasks, strict=True) if task in chosen]
        if not examples:
            wanted = ", ".join(only_tasks)
            found = ", ".join(dict.fromkeys(tasks))
            raise ValueError(f"No example has a task of --only_tasks {wanted}. Their tasks are {found}.")
    if max_samples is None or max_samples >= len(examples):
        return examples
    return draw_sample(examples, max_samples, default_task)


def draw_sample(examples: list[dict[str, Any]], count: int, default_task: str) -> list[dict[str, Any]]:
    """A random sample, stratified by task and label, in the order of the examples; always the same one, whatever the
    seed of the run. Every label is represented if there is room.
    """
    groups: dict[tuple[str, Any], list[int]] = {}
    for index, (task, answer) in enumerate(zip(*_strata(examples, default_task), strict=True)):
        groups.setdefault((task, answer), []).append(index)
    rng = np.random.default_rng(SAMPLE_SEED)
    chosen: list[int] = []
    for indices, size in zip(groups.values(), _share_out([*map(len, groups.values())], count), strict=True):
        chosen += rng.permutation(indices)[:size].tolist()
    return [examples[index] for index in sorted(chosen)]


def _strata(examples: list[dict[str, Any]], default_task: str) -> tuple[list[str], list[Any]]:
    """Task and answer of every example; scores of many values are put into bins."""
    tasks = [example.get("task") or default_task for example in examples]
    answers = [example.get("answer") for example in examples]
    for task in dict.fromkeys(tasks):
        indices = [index for index, name in enumerate(tasks) if name == task]
        numbers = [_as_number(answers[index]) for index in indices]
        if None in numbers or len(set(numbers)) <= MAX_STRATA:
            continue
        edges = np.linspace(min(numbers), max(numbers), SCORE_BINS + 1)[1:-1]
        for index, bin_number in zip(indices, np.digitize(numbers, edges), strict=True):
            answers[index] = int(bin_number)
    return tasks, [str(answer) for answer in answers]


def _as_number(answer: Any) -> float | None:
    if isinstance(answer, str):
        return parse_number(answer)
    return float(answer) if isinstance(answer, float) or (isinstance(answer, int) and abs(answer) < 1e9) else None


def _share_out(sizes: list[int], count: int) -> list[int]:
    """Divide `count` in proportion to the sizes, by largest remainders; each gets at least one if there is room."""
    total = sum(sizes)
    least = 1 if count >= len(sizes) else 0
    exact = [count * size / total for size in sizes]
    shares = [max(least, int(share)) for share in exact]
    while sum(shares) != count:
        step = 1 if sum(shares) < count else -1
        allowed = [i for i, share in enumerate(shares) if (share < sizes[i] if step > 0 else share > least)]
        best = max(allowed, key=lambda i: step * (exact[i] - shares[i]))
        shares[best] += step
    return shares


def warn_of_missing_labels(examples: list[dict[str, Any]], tasks: dict[str, EGMFTask], split: str) -> None:
    """Name the labels of each task that no example of a split has, and the tasks that it lacks altogether.

    Args:
        examples: those of the split.
        tasks: the tasks in use.
        split: its name.
    """
    default = next(iter(tasks))
    answers: dict[str, set[Any]] = {name: set() for name in tasks}
    for example in examples:
        name = example.get("task") or default
        if name in answers and isinstance(example["answer"], str | int | float):
            answers[name].add(label_text(example["answer"]))
    for name, task in tasks.items():
        missing = [label for label in task.labels if label not in answers[name]]
        if not answers[name]:
            logger.warning(f"split {split!r} has no example of the task {name!r}.")
        elif missing:
            logger.warning(
                f"split {split!r} has no example with the labels {', '.join(missing)} of the task {name!r}."
            )


def warn_of_shared_examples(train: list[dict[str, Any]], evaluated: list[dict[str, Any]], split: str) -> None:
    """Warn of examples that are both trained and evaluated on: by their ids, or their task, text and files.

    Args:
        train: the training examples.
        evaluated: those of the evaluation during training.
        split: its name.
    """
    known = {mark for example in train for mark in _marks(example)}
    shared = [example["id"] for example in evaluated if not known.isdisjoint(_marks(example))]
    if shared:
        logger.warning(
            f"{len(shared)} of {len(evaluated)} examples of --eval_split {split} are also trained on, such as "
            f"{shared[0]!r}: the evaluation, and the choice of a checkpoint by it, tell nothing about new clips. Give "
            "another --eval_split, or --eval_strategy no."
        )


def _marks(example: dict[str, Any]) -> list[tuple]:
    """What makes two examples the same one; texts alone do not, because many clips say "Okay."."""
    files = tuple(example[column] for column in MEDIA if isinstance(example.get(column), str))
    by_content = [(example.get("task"), example.get("text"), *files)] if files else []
    return [(example["id"],), *by_content]


def check_encoder_inputs(examples: list[dict[str, Any]], processor: EGMFProcessor, modalities: Sequence[str]) -> None:
    """Check that some example has each modality in use, in the form that its encoder takes.

    Args:
        examples: the training examples.
        processor: has the encoders' input types.
        modalities: the modalities in use.

    Raises:
        ValueError: no example has a modality, or an encoder takes features and the examples have clips, or the other
            way round.
    """
    inputs = {"audio": processor.audio_input, "video": processor.video_input}
    for modality, input_type in inputs.items():
        if input_type is None or modality not in modalities:
            continue
        available = [form for form, columns in SOURCES[modality].items() if _has_any(examples, columns)]
        if input_type in available:
            continue
        if available:
            raise ValueError(
                f"The model takes --{modality} {input_type}, but the training examples have {modality} only as "
                f"{available[0]}. Give --{modality} {available[0]} or none, or the dataset that the recipe is for."
            )
        others = " ".join(name for name in modalities if name != modality)
        columns = " or ".join(f"`{column}`" for column in SOURCES[modality][input_type])
        raise ValueError(
            f"No training example has {modality}, which the model takes (--{modality} {input_type}). Fill in the "
            f"column {columns}, or train without it: --{modality} none, or --modalities {others} for a trained model."
        )
    others = " ".join(modality for modality in modalities if modality != "text")
    if "text" in modalities and all(is_blank(example.get("text") or "") for example in examples):
        raise ValueError(
            f"No training example has text. Fill in the column `text`, or train without it: --modalities {others}."
        )


def warn_of_unread_modalities(examples: Sequence[dict[str, Any]], processor: EGMFProcessor, show: bool) -> None:
    """Warn of a modality that no example has in the form that the model takes: answers are then not based on it.

    Args:
        examples: of an evaluation.
        processor: has the encoders' input types.
        show: whether this process warns.
    """
    inputs = {"audio": processor.audio_input, "video": processor.video_input}
    for modality, input_type in inputs.items():
        if input_type is None or not show:
            continue
        forms = [form for form, columns in SOURCES[modality].items() if _has_any(examples, columns)]
        if input_type not in forms:
            has = f"have {modality} only as {forms[0]}" if forms else f"have no {modality}"
            logger.warning(
                f"The model takes {modality} as {input_type}, but the examples {has}: {modality} is not read, and "
                "subsets with it are those without it."
            )


def _has_any(examples: Sequence[dict[str, Any]], columns: Sequence[str]) -> bool:
    return any(example.get(column) is not None for example in examples for column in columns)


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
