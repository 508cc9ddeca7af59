"""Subsets of the modalities: which of text, audio and video a model is evaluated with.

text, audio, video, text+audio, text+video, audio+video, text+audio+video

Only the modalities that a model has and was trained on are evaluated, and shown in tables and cards.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from processing_egmf import MODALITIES

from ..data.collator import SUBSETS
from ..records import check_shape, read_json
from .run_records import read_training


SUBSET_NAMES = ["+".join(subset) for subset in SUBSETS]
ALL_MODALITIES = SUBSET_NAMES[-1]


def subset_name(subset: Sequence[str]) -> str:
    """`("text", "audio")` -> `text+audio`."""
    return "+".join(subset)


def parse_subsets(names: Sequence[str], modalities: Sequence[str] = MODALITIES) -> list[tuple[str, ...]]:
    """`all`, `every`, or names such as `text+audio` -> subsets in their usual order, each once.

    Args:
        names: `all` is one subset, that of all modalities; `every` is each of the subsets.
        modalities: those that the model has and was trained on.

    Raises:
        ValueError: a name is unknown, or has a modality that the model does not have.
    """
    available = [subset for subset in SUBSETS if set(subset) <= set(modalities)]
    named = {subset_name(subset): subset for subset in available}
    known = {"all": available[-1:], "every": available, **{name: [subset] for name, subset in named.items()}}
    chosen: set[tuple[str, ...]] = set()
    for name in names:
        if name in known:
            chosen.update(known[name])
        elif name in SUBSET_NAMES:
            raise ValueError(
                f"--subsets {name}: the model was built or trained without "
                f"{' and '.join(sorted(set(name.split('+')) - set(modalities)))}. Use any of {', '.join(known)}."
            )
        else:
            raise ValueError(f"Unknown subset {name!r}; use any of {', '.join(known)}.")
    return [subset for subset in SUBSETS if subset in chosen]


def trained_modalities(run: Path, modalities: Sequence[str]) -> tuple[str, ...]:
    """The model's modalities that its run was trained with, according to `training.json`; all if there is none."""
    chosen = (read_training(run).get("data_arguments") or {}).get("modalities")
    return tuple(modality for modality in modalities if chosen is None or modality in chosen)


def modalities_of_run(run: Path) -> tuple[str, ...]:
    """The modalities that a run has and was trained on, according to its files; all if it has none."""
    if not (run / "config.json").is_file():
        return MODALITIES
    config = read_json(run / "config.json")
    check_shape(config, dict, run / "config.json", "It is not the configuration of a model. Copy it again.")
    return trained_modalities(run, modalities_of_config(config))


def modalities_of_config(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The modalities of a model's configuration, as a dict; those that it does not mention count as present."""
    missing = [name for name in ("audio", "video") if config.get(f"{name}_config", ()) is None]
    return tuple(modality for modality in MODALITIES if modality not in missing)


def full_subset(results: Mapping[str, Any]) -> str:
    """The name of the subset of all modalities that the evaluated model has, from its results file."""
    return subset_name(results.get("modalities") or modalities_of_config(results.get("config") or {}))
