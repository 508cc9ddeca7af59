"""Language models that EGMF is used with: shapes, as their own `config.json` gives them, and settings for training.

backbone_config("glm3-6b")                             # a `transformers` configuration, without a network
backbone_config("glm3-6b", num_hidden_layers=2)        # the same in small
backbone_settings("glm3-6b")                           # options of training/arguments.py that go with it
"""

from pathlib import Path
from typing import Any

import yaml
from transformers import AutoConfig, PreTrainedConfig


FOLDER = Path(__file__).parent
SETTINGS = "training"  # the block of a file that is no field of config.json


def backbone_names() -> list[str]:
    """Names of the YAML files beside this one."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def backbone_path(backbone: str | Path) -> Path:
    """The YAML file of a name from `backbone_names`; anything else is a path."""
    return FOLDER / f"{backbone}.yaml" if str(backbone) in backbone_names() else Path(backbone)


def _fields(backbone: str | Path) -> dict[str, Any]:
    path = backbone_path(backbone)
    if path.suffix != ".yaml" or not path.is_file():
        raise ValueError(
            f"There is no backbone {str(backbone)!r}. Shipped are {', '.join(backbone_names())}; a YAML file of the "
            "same form or a folder with a config.json will do as well."
        )
    fields = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(fields, dict) or "model_type" not in fields:
        raise ValueError(f"{path} must hold the fields of a config.json, `model_type` among them.")
    return fields


def backbone_config(backbone: str | Path, **changes: Any) -> PreTrainedConfig:
    """The configuration of a language model.

    Args:
        backbone: a name from `backbone_names`, a YAML file of the same form, or a folder with a `config.json`.
        changes: fields that are to be others.

    Raises:
        ValueError: there is nothing of that name, or the file names no model type.
    """
    path = backbone_path(backbone)
    if (path / "config.json").is_file():
        fields = AutoConfig.from_pretrained(path).get_text_config().to_dict()
    else:
        fields = _fields(backbone)
        fields.pop(SETTINGS, None)
    return AutoConfig.for_model(**{**fields, **changes})


def backbone_settings(backbone: str | Path) -> dict[str, Any]:
    """The options under `training:` in a backbone's file; a folder with a `config.json` is itself the language model.

    Raises:
        ValueError: as `backbone_config`.
    """
    path = backbone_path(backbone)
    if (path / "config.json").is_file():
        return {"text_model_name_or_path": str(path)}
    return dict(_fields(backbone).get(SETTINGS) or {})
