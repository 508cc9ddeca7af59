"""Custom tasks from a YAML file, in addition to the built-in ones of `processing_egmf`.

arousal:
  kind: regression
  prefix: "Listen to the speaker."
  prompt: "How aroused does the speaker sound, from 1 to 9? Answer with a number."
  low: 1
  high: 9
  step: 0.5
"""

from pathlib import Path
from typing import Any

import yaml

from processing_egmf import BUILT_IN_TASKS, EGMFTask

from ..data.csv_tables import compose
from ..records import parse_yaml


def read_tasks(path: str | Path | None) -> dict[str, EGMFTask]:
    """The built-in tasks and those of a YAML file (name -> fields); a custom task replaces a built-in one by name.

    Args:
        path: the YAML file; None for only the built-in tasks.

    Raises:
        ValueError: the file does not exist, or a task in it is not valid.
    """
    tasks = dict(BUILT_IN_TASKS)
    if path is None:
        return tasks
    if not Path(path).is_file():
        raise ValueError(f"--tasks_file {path} does not exist, or is not a file. Give the path of a YAML file.")
    content = _read_yaml(Path(path))
    if not isinstance(content, dict) or not all(isinstance(fields, dict) for fields in content.values()):
        raise ValueError(f"--tasks_file {path} must hold `name:` blocks with the fields of a task under each.")
    for name, fields in content.items():
        try:
            tasks[name] = EGMFTask.from_dict(fields, name)
        except ValueError as error:
            raise ValueError(f"--tasks_file {path}: {error}") from error
    return tasks


def _read_yaml(path: Path) -> Any:
    """The content of a YAML file.

    Raises:
        ValueError: it is not text in UTF-8, not YAML, nested too deeply, or holds a number with thousands of digits.
    """
    try:
        return parse_yaml(compose(path.read_text(encoding="utf-8-sig")))
    except (yaml.YAMLError, ValueError, OSError) as error:
        raise ValueError(f"--tasks_file {path} cannot be read as YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise ValueError(f"--tasks_file {path} is nested too deeply for a tasks file.") from error
