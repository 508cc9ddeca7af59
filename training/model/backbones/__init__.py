"""Language models to build on: their configurations, as in `config.json`, and their training options.

backbone_config("glm3-6b")                             # a `transformers` configuration, without network access
backbone_config("glm3-6b", num_hidden_layers=2)        # the same with two layers
backbone_settings("glm3-6b")                           # training options, see training/options.py
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from transformers import PreTrainedConfig


FOLDER = Path(__file__).parent
SETTINGS = "training"  # the block of a file with training options instead of fields of config.json


def backbone_names() -> list[str]:
    """Names of the YAML files in this folder."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def backbone_path(backbone: str | Path) -> Path:
    """The YAML file of a name from `backbone_names`; anything else is returned as a path."""
    if str(backbone) in backbone_names():
        return FOLDER / f"{backbone}.yaml"
    return Path(backbone)


def read_backbone(backbone: str | Path) -> dict[str, Any]:
    """Content of a backbone's YAML file.

    Raises:
        ValueError: there is no such file, or it has no `model_type`.
    """
    path = backbone_path(backbone)
    if path.suffix != ".yaml" or not path.is_file():
        raise ValueError(
            f"There is no backbone {str(backbone)!r}. Choose from {', '.join(backbone_names())}, or give a YAML file "
            "of the same format or a folder with a config.json."
        )
    from ...records import read_yaml  # imports NumPy, which `--help` must not wait for

    fields = read_yaml(path)
    if not isinstance(fields, dict) or "model_type" not in fields:
        raise ValueError(f"{path} must hold the fields of a config.json, including `model_type`.")
    return fields


def backbone_config(backbone: str | Path, **changes: Any) -> "PreTrainedConfig":
    """The configuration of a language model.

    Args:
        backbone: a name from `backbone_names`, a YAML file of the same format, or a folder with a `config.json`.
        changes: fields to replace.

    Raises:
        ValueError: there is no such backbone, or its file has no `model_type`.
    """
    from transformers import AutoConfig  # imports torch, which parsing the options must not do

    path = backbone_path(backbone)
    if (path / "config.json").is_file():
        fields = AutoConfig.from_pretrained(path).get_text_config().to_dict()
    else:
        fields = read_backbone(backbone)
        fields.pop(SETTINGS, None)
    return AutoConfig.for_model(**{**fields, **changes})


def backbone_settings(backbone: str | Path) -> dict[str, Any]:
    """Training options from `training:` in a backbone's file; for a folder with a `config.json`, its path.

    Raises:
        ValueError: there is no such backbone, or its file has no `model_type`.
    """
    path = backbone_path(backbone)
    if (path / "config.json").is_file():
        return {"text_model_name_or_path": str(path)}
    return dict(read_backbone(backbone).get(SETTINGS) or {})
