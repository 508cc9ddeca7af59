"""Custom tasks from a YAML file, in addition to the built-in ones of `processing_egmf`.

arousal:
  kind: regression
  prefix: "Listen to the speaker."
  prompt: "How aroused does the speaker sound, from 1 to 9? Answer with a number."
  low: 1
  high: 9
  step: 0.5
"""

import dataclasses
from pathlib import Path
from typing import Any

import yaml

from processing_egmf import BUILT_IN_TASKS, EGMFTask


# Fields of other types are checked by EGMFTask.
FIELD_TYPES = {str: (str, "text, in quotes"), float: (int | float, "a number")}


def read_tasks(path: str | Path | None) -> dict[str, EGMFTask]:
    """The built-in tasks and those of a YAML file (name -> fields); a custom task replaces a built-in one by name.

    Args:
        path: the YAML file; None for only the built-in tasks.

    Raises:
        ValueError: there is no such file, or a task in it is not valid.
    """
    tasks = dict(BUILT_IN_TASKS)
    if path is None:
        return tasks
    if not Path(path).is_file():
        raise ValueError(f"--tasks_file {path}: there is no such file.")
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not a YAML file: {error}") from error
    if not isinstance(content, dict) or not all(isinstance(fields, dict) for fields in content.values()):
        raise ValueError(f"{path} must hold `name:` blocks with the fields of a task under each.")
    for name, fields in content.items():
        check_fields(fields, name, path)
        tasks[name] = EGMFTask.from_dict(fields, name)
    return tasks


def check_fields(fields: dict[str, Any], task: str, path: str | Path) -> None:
    """Check that text fields hold text and number fields numbers: YAML reads `yes` as true and `1` as a number.

    Raises:
        ValueError: a field has the wrong type.
    """
    for field in dataclasses.fields(EGMFTask):
        if field.name not in fields or field.type not in FIELD_TYPES:
            continue
        value = fields[field.name]
        accepted, description = FIELD_TYPES[field.type]
        if isinstance(value, bool) or not isinstance(value, accepted):
            raise ValueError(f"{path}: {field.name} of the task {task!r} is {value!r}; give {description}.")
