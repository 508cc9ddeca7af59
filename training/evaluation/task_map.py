"""Evaluation on a corpus whose task the model does not have, by mapping it to one of the model's tasks.

    egmf evaluate --model_name_or_path runs/meld --dataset data/cherma --task_map meld_to_cherma.yaml

    cherma:                       # task of the corpus
      task: meld                  # task of the model
      labels:                     # label of the corpus: label of the model
        高兴: joy
        其他: null                # examples with this label are left out, and counted

    sims_v2: {task: mosei, scale: 3.0}        # scores: [-1, 1] times 3
    sentiment: null                           # examples of this task are left out, and counted

The same as JSON may be given inline. Labels that are the same in both need not be listed.
"""

import json
import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from processing_egmf import EGMFTask

from ..cli import did_you_mean
from ..data.csv_tables import compose
from ..records import parse_yaml


FIELDS = ("task", "labels", "scale")

logger = logging.getLogger(__name__)


class TaskMapEntry(NamedTuple):
    """What becomes of a task of the corpus.

    Args:
        task: the model's task; None to leave the examples out.
        labels: label of the corpus -> label of the model, or None to leave the examples out.
        scale: factor of the scores.
    """

    task: str | None
    labels: dict[str, str | None]
    scale: float


def read_task_map(value: str | Path | None) -> dict[str, TaskMapEntry]:
    """Task of the corpus -> entry.

    Args:
        value: a YAML file, or JSON text; None for an empty map.

    Raises:
        ValueError: it cannot be read, or has other fields.
    """
    if value is None:
        return {}
    text = str(value)
    is_inline = text.lstrip().startswith("{")
    try:
        written = compose(text if is_inline else Path(text).read_text(encoding="utf-8"))
        content = json.loads(written, object_pairs_hook=_unique_keys) if is_inline else parse_yaml(written)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"--task_map {text} is neither a readable YAML file nor a JSON object ({reason}).") from error
    if not isinstance(content, dict) or not all(isinstance(fields, dict | None) for fields in content.values()):
        raise ValueError(f"--task_map {text} must hold a block for each task of the corpus: its `task`, and `labels`.")
    return {str(name): _read_entry(str(name), fields) for name, fields in content.items()}


def _unique_keys(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    repeated = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
    if repeated:
        raise ValueError(f"the key {repeated[0]!r} appears twice")
    return dict(pairs)


def _read_entry(name: str, fields: Mapping[str, Any] | None) -> TaskMapEntry:
    if fields is None or fields.get("task", "") is None:
        return TaskMapEntry(None, {}, 1.0)
    for field in fields:
        if field not in FIELDS:
            raise ValueError(f"--task_map: {name} has no field {field!r}.{did_you_mean(str(field), FIELDS)}")
    if not isinstance(fields.get("task"), str):
        raise ValueError(f"--task_map: {name} needs `task`, the name of a task of the model.")
    labels = fields.get("labels") or {}
    if not isinstance(labels, dict) or not all(isinstance(label, str | None) for label in labels.values()):
        raise ValueError(
            f"--task_map: `labels` of {name} must map labels of the corpus to labels of the model, or null."
        )
    scale = fields.get("scale", 1.0)
    is_number = isinstance(scale, int | float) and not isinstance(scale, bool)
    if not is_number or scale == 0 or not math.isfinite(scale):
        raise ValueError(f"--task_map: `scale` of {name} is {scale!r}; it must be a number other than 0.")
    return TaskMapEntry(fields["task"], {str(label): new for label, new in labels.items()}, float(scale))


def describe_task_map(task_map: Mapping[str, TaskMapEntry]) -> dict[str, dict[str, Any]]:
    """As in the file, for a results file."""
    return {name: entry._asdict() for name, entry in task_map.items()}


def apply_task_map(
    examples: Sequence[dict[str, Any]], task_map: Mapping[str, TaskMapEntry], tasks: Mapping[str, EGMFTask]
) -> list[dict[str, Any]]:
    """The examples with the model's tasks and labels. Those whose label is mapped to null are left out and counted.

    Args:
        examples: of the corpus. An example that names no task has the corpus's only one, if the map has one entry.
        task_map: from `read_task_map`.
        tasks: the model's, by name.

    Raises:
        ValueError: the map names a task or label that the model does not have, or no example has; or a label of the
            corpus is neither mapped nor one of the model's.
    """
    for name, entry in task_map.items():
        _check_entry(name, entry, tasks)
    only_task = next(iter(task_map)) if len(task_map) == 1 else None
    mapped = []
    left_out: Counter[str] = Counter()
    unmapped: dict[str, Counter[str]] = {name: Counter() for name in task_map}
    unused = set(task_map)
    found: dict[str, set[str]] = {name: set() for name in task_map}
    for example in examples:
        name = example.get("task") or only_task
        if name not in task_map:
            mapped.append(example)
            continue
        unused.discard(name)
        entry = task_map[name]
        if entry.task is None:
            left_out[f"all of {name}"] += 1
            continue
        answer = _map_answer(example["answer"], entry, tasks[entry.task])
        label = str(example["answer"])
        found[name].add(label)
        if answer is not None:
            mapped.append({**example, "task": entry.task, "answer": answer})
        elif label in entry.labels:
            left_out[label] += 1
        else:
            unmapped[name][label] += 1
    _report_mistakes(unmapped, unused, task_map, tasks)
    _warn_of_unused_labels(found, task_map)
    if left_out:
        counts = ", ".join(f"{label} ({count})" for label, count in left_out.items())
        logger.warning(f"--task_map leaves out {left_out.total()} of {len(examples)} examples: {counts}.")
    if not mapped:
        raise ValueError("--task_map leaves out every example. Map at least one label to a label of the model.")
    return mapped


def _check_entry(name: str, entry: TaskMapEntry, tasks: Mapping[str, EGMFTask]) -> None:
    if entry.task is None:
        return
    if entry.task not in tasks:
        raise ValueError(
            f"--task_map: the model has no task {entry.task!r} for {name}.{did_you_mean(entry.task, tasks)} "
            f"Its tasks are {', '.join(tasks)}."
        )
    task = tasks[entry.task]
    if task.kind == "regression" and entry.labels:
        raise ValueError(f"--task_map: {entry.task} has scores, so {name} takes `scale` and no `labels`.")
    if task.kind == "classification" and entry.scale != 1:
        raise ValueError(f"--task_map: {entry.task} has labels, so {name} takes `labels` and no `scale`.")
    for label in entry.labels.values():
        if label is not None and label not in task.labels:
            raise ValueError(
                f"--task_map: {entry.task} has no label {label!r}.{did_you_mean(label, task.labels)} "
                f"Its labels are {', '.join(task.labels)}."
            )


def _map_answer(answer: Any, entry: TaskMapEntry, task: EGMFTask) -> str | float | None:
    """The answer in the model's task; None if the map leaves it out or does not know it."""
    if task.kind == "regression":
        try:
            score = float(answer) * entry.scale
        except (TypeError, ValueError):
            return None
        return score if math.isfinite(score) and not isinstance(answer, bool) else None
    label = str(answer)
    return entry.labels.get(label, label if label in task.labels and label not in entry.labels else None)


def _warn_of_unused_labels(found: Mapping[str, set[str]], task_map: Mapping[str, TaskMapEntry]) -> None:
    """Name labels that the map has and no example: in a small split they may be missing, or they are misspelled."""
    for name, entry in task_map.items():
        labels = [label for label in entry.labels if label not in found[name]]
        if labels:
            hints = [did_you_mean(label, found[name]) for label in labels]
            logger.warning(
                f"--task_map: no example of {name} has these labels: {', '.join(labels)}."
                f"{''.join(dict.fromkeys(hints))}"
            )


def _report_mistakes(
    unmapped: Mapping[str, Counter[str]],
    unused: set[str],
    task_map: Mapping[str, TaskMapEntry],
    tasks: Mapping[str, EGMFTask],
) -> None:
    for name, labels in unmapped.items():
        if labels:
            entry = task_map[name]
            answers = ", ".join(f"{label} ({count} examples)" for label, count in labels.items())
            expected = ", ".join(tasks[entry.task].labels) or "numbers"
            raise ValueError(
                f"--task_map: {name} has labels without a counterpart in {entry.task}: {answers}. Map each to one of "
                f"{expected}, or to null to leave its examples out."
            )
    if unused:
        raise ValueError(f"--task_map names {', '.join(sorted(unused))}, which is the task of no example.")
