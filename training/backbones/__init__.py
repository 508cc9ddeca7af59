"""Shapes of language models that EGMF is used with, as their own `config.json` gives them, without a network.

backbone_config("glm3-6b")                             # a `transformers` configuration
backbone_config("glm3-6b", num_hidden_layers=2)        # the same in small
"""

from pathlib import Path
from typing import Any

import yaml
from transformers import AutoConfig, PreTrainedConfig


FOLDER = Path(__file__).parent


def backbone_names() -> list[str]:
    """Names of the YAML files beside this one."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def backbone_config(backbone: str | Path, **changes: Any) -> PreTrainedConfig:
    """The configuration of a language model.

    Args:
        backbone: a name from `backbone_names`, a YAML file of the same form, or a folder with a `config.json`.
        changes: fields that are to be others.

    Raises:
        ValueError: there is nothing of that name, or the file names no model type.
    """
    path = FOLDER / f"{backbone}.yaml"
    if str(backbone) not in backbone_names():
        path = Path(backbone)
        if (path / "config.json").is_file():
            config = AutoConfig.from_pretrained(path).get_text_config()
            return AutoConfig.for_model(**{**config.to_dict(), **changes})
    if path.suffix != ".yaml" or not path.is_file():
        raise ValueError(
            f"There is no backbone {str(backbone)!r}. Shipped are {', '.join(backbone_names())}; a YAML file of the "
            "same form or a folder with a config.json will do as well."
        )
    fields = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(fields, dict) or "model_type" not in fields:
        raise ValueError(f"{path} must hold the fields of a config.json, `model_type` among them.")
    return AutoConfig.for_model(**{**fields, **changes})
