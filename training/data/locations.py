"""Where datasets and checkpoints are: a path here, or an id on the Hub. Nothing here imports torch.

The commands call the checks before they import anything heavy, so that a misspelled path is answered immediately.
"""

import re
from pathlib import Path

from ..records import read_json


HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
ADAPTER_WEIGHTS = "adapter_model*.safetensors"
NEEDS_DATASET = "Give --dataset, the folder of a corpus or the id of a dataset on the Hub."


def is_hub_id(location: str | Path) -> bool:
    """Whether it is the id of a repo on the Hub. `data/typo` is a path if there is a folder `data`."""
    path = Path(location)
    return HUB_ID.fullmatch(str(location)) is not None and not path.exists() and not path.parent.is_dir()


def check_dataset(dataset: str | Path | None) -> None:
    """Refuse a dataset that is nowhere.

    Raises:
        ValueError: there is none, or it is a path that does not exist.
    """
    if dataset is None or not str(dataset).strip():
        raise ValueError(NEEDS_DATASET)
    if not is_hub_id(dataset) and not Path(dataset).exists():
        raise ValueError(f"--dataset {dataset} does not exist. Check the path.")


def refuse_file(model: str | Path) -> None:
    """Refuse a model that is a file, such as its config.json.

    Raises:
        ValueError: it is one; the message names its folder.
    """
    path = Path(model)
    if path.is_file():
        raise ValueError(f"{model} is a file. Give the folder that it is in: {path.parent}")


def check_checkpoint(checkpoint: str | Path) -> None:
    """Refuse a checkpoint that is a path, but not that of a folder, and a folder without weights; ids on the Hub are
    not looked up.

    Raises:
        ValueError: it is neither a folder nor an id, or its weights are missing.
    """
    refuse_file(checkpoint)
    path = Path(checkpoint)
    is_path = len(path.parts) > 1 and not is_hub_id(checkpoint)
    if is_path and not path.is_dir():
        raise ValueError(f"There is no folder {checkpoint}, and it is not a Hub id (ORG/NAME). Check the path.")
    check_weights(path)


def check_weights(checkpoint: Path) -> None:
    """Refuse the folder of a checkpoint that was not copied completely; one without a configuration is not checked.

    Raises:
        ValueError: the weights of the model, or of one of its adapters, are missing.
    """
    if not (checkpoint / "config.json").is_file():
        return
    config = read_json(checkpoint / "config.json")
    if not isinstance(config, dict) or config.get("model_type") != "egmf":
        return
    missing = [] if any((checkpoint / name).is_file() for name in WEIGHTS) else [WEIGHTS[0]]
    adapters = config.get("adapters")
    for name in adapters if isinstance(adapters, dict) else ():
        if not any((checkpoint / name).glob(ADAPTER_WEIGHTS)):
            missing.append(f"{name}/{ADAPTER_WEIGHTS.replace('*', '')}")
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise ValueError(
            f"{checkpoint} has no weights ({' and '.join(missing)} {verb} missing): copy the whole folder again."
        )
