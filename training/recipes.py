"""YAML files with training options: recipes, and the settings of a backbone. Nothing here imports torch.

    egmf train --config my.yaml --learning_rate 3e-4

    training/model/backbones/NAME.yaml (`training:`) ─► my.yaml ─► command line       later ones override earlier ones

The keys are the option names, which options.py lists.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from .cli import CommandParser, did_you_mean
from .model.backbones import backbone_path, backbone_settings
from .options import Option, make_parser, option_names, training_options
from .paths import CONFIGS


# As `transformers.HfArgumentParser` reads them.
TRUTH_VALUES = {
    **dict.fromkeys(("yes", "true", "t", "y", "1"), True),
    **dict.fromkeys(("no", "false", "f", "n", "0"), False),
}


def read_settings(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Read the backbone's file and the `--config` file, which overrides it; check the command line's option names.

    Args:
        argv: command-line arguments without the program name; None for those of this process.

    Raises:
        ValueError: an unknown key in a file, or a value of the wrong type.
        SystemExit: help was requested (status 0), or an option does not exist (status 2).
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    show_all = "--help_all" in arguments
    parser = make_parser(show_all)
    if show_all or "--help" in arguments or "-h" in arguments:
        parser.print_help()
        sys.exit(0)
    parser.check_option_names(arguments)
    files = CommandParser(prog=parser.prog, add_help=False)
    files.add_argument("--config", type=Path)
    files.add_argument("--backbone")
    named, _ = files.parse_known_args(arguments)
    options = training_options()
    settings = read_recipe(named.config, options) if named.config is not None else {}
    backbone = named.backbone or settings.get("backbone")
    if backbone is None:
        return settings
    defaults = check_settings(backbone_settings(backbone), options, backbone_path(backbone))
    return {**defaults, **settings}


def chosen_options(argv: Sequence[str] | None, settings: dict[str, Any]) -> SimpleNamespace:
    """All options by name: those of the command line, or else of the files, or else the defaults.

    Raises:
        ValueError: a value of the command line has the wrong type; the message names the option.
    """
    parser = CommandParser(prog="egmf train", add_help=False, argument_default=argparse.SUPPRESS)
    options = training_options()
    for option in options.values():
        parser.add_argument(*option_names(option)[:2], dest=option.name, nargs="*")
    given, _ = parser.parse_known_args(argv)
    values = {name: option.default_value for name, option in options.items()} | settings
    for name, texts in vars(given).items():
        values[name] = read_value(texts, options[name])
    return SimpleNamespace(**values)


def read_value(texts: list[str], option: Option) -> Any:
    """The value of an option on the command line; of several kinds, true or false if it is one of these.

    Raises:
        ValueError: it has the wrong type.
    """
    name = f"--{option.name}"
    if option.is_list and texts:
        return check_value(texts, option, name)
    if "bool" in option.kinds and not texts:
        return True
    if len(texts) != 1:
        given = " ".join(texts) or "nothing"
        raise ValueError(f"{name} is {given}; it takes {'values' if option.is_list else 'one value'}.")
    if "bool" in option.kinds and texts[0].lower() in TRUTH_VALUES:
        return TRUTH_VALUES[texts[0].lower()]
    if option.kinds == ["bool"]:
        raise ValueError(f"{name} is {texts[0]!r}; it takes true or false.")
    return check_value(texts[0], option, name)


def read_recipe(path: Path, options: dict[str, Option]) -> dict[str, Any]:
    """Read the settings of a YAML file and check them."""
    if not path.is_file():
        raise ValueError(f"--config {path} does not exist, or is not a file. The project's recipes are in {CONFIGS}.")
    from .records import read_yaml  # imports NumPy, which `--help` must not wait for

    values = read_yaml(path) or {}
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold `name: value` lines, not a {type(values).__name__}.")
    return check_settings(values, options, path)


def check_settings(values: dict[str, Any], options: dict[str, Option], path: Path) -> dict[str, Any]:
    """Check the settings of a file, and convert each value to its option's type.

    Raises:
        ValueError: an unknown key (the message suggests similar ones), or a value of the wrong type.
    """
    checked = {}
    for key, value in values.items():
        if key not in options:
            raise ValueError(f"{path}: unknown key {key!r}.{did_you_mean(str(key), options)}")
        checked[key] = check_value(value, options[key], f"{path}: {key}")
    return checked


def check_value(value: Any, option: Option, name: str) -> Any:
    """Convert a YAML value to its option's type: a list or one value."""
    if value is None:
        return None
    if option.choices and value not in option.choices:
        hint = did_you_mean(str(value), option.choices)
        raise ValueError(f"{name} is {value!r}; use one of {', '.join(option.choices)}.{hint}")
    if option.is_list:
        entries = value if isinstance(value, list) else [value]
        return [check_scalar(entry, option.scalar_type, name) for entry in entries]
    return check_scalar(value, option.scalar_type, name)


def check_scalar(value: Any, scalar_type: type | None, name: str) -> Any:
    """Convert one value to `int`, `float` or `str` if the option has such a type.

    Raises:
        ValueError: the value has the wrong type.
    """
    if isinstance(value, list):
        raise ValueError(f"{name} is {value!r}; it takes one value, not a list.")
    if scalar_type is str and not isinstance(value, str):
        raise ValueError(f"{name} is {value!r}; it takes text. Put it in quotes.")
    if scalar_type not in (int, float):
        return value
    kind = "an integer" if scalar_type is int else "a number"
    if isinstance(value, bool):
        raise ValueError(f"{name} is {value!r}; it takes {kind}.")
    try:
        return scalar_type(str(value))
    except ValueError as error:
        raise ValueError(f"{name} is {value!r}; it takes {kind}.") from error
