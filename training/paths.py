"""Locations of our own files and commands that start our own modules, in a clone and after `pip install`.

clone:      training/         hub_cards/
installed:  egmf_training/    egmf_hub_cards/
"""

import sys
from pathlib import Path
from typing import Any


PACKAGE_FOLDER = Path(__file__).resolve().parent
CONFIGS = PACKAGE_FOLDER / "configs"
RESULTS = PACKAGE_FOLDER / "results"
HUB_CARDS = PACKAGE_FOLDER.with_name(PACKAGE_FOLDER.name.replace("training", "hub_cards"))


def python_command(module: str, *options: Any) -> list[str]:
    """The command that runs a module of this package in a new process.

    Args:
        module: name within the package, such as `train` or `converters.folder`.
        options: its command-line arguments; each is converted to a string.
    """
    return [sys.executable, "-m", f"{__package__}.{module}", *map(str, options)]
