"""Checks the metadata of model, dataset and Space cards, without network access."""

import re
from typing import Any

from huggingface_hub import DatasetCard, ModelCard, SpaceCard
from huggingface_hub.utils import validate_repo_id


CARDS = {"model": ModelCard, "dataset": DatasetCard, "space": SpaceCard}
REQUIRED = {
    "model": ("license", "library_name", "pipeline_tag", "tags"),
    "dataset": ("license", "tags"),
    "space": ("license", "tags", "title", "emoji", "colorFrom", "colorTo", "sdk", "sdk_version", "app_file"),
}
SPACE_COLORS = ("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray")
SPACE_SDKS = ("gradio", "docker", "static")
SHORT_DESCRIPTION = 60  # characters


def check_card(text: str, repo_type: str = "model") -> ModelCard | DatasetCard | SpaceCard:
    """Read a card as `huggingface_hub` does, and check for anything that the Hub would refuse.

    Args:
        text: content of README.md, with its metadata.
        repo_type: `"model"`, `"dataset"` or `"space"` (also for metrics).

    Raises:
        ValueError: the metadata is not YAML, lacks a field, or has a value that the Hub does not accept.
    """
    card = CARDS[repo_type](text)
    errors = [f"`{name}` is missing" for name in REQUIRED[repo_type] if not card.data.get(name)]
    errors += _check_codes(card.data)
    errors += _check_repo_ids(card.data)
    errors += _check_entries(card.data)
    if repo_type == "space":
        errors += _check_space(card.data)
    if errors:
        raise ValueError(f"The card's metadata cannot be published: {'; '.join(errors)}.")
    return card


def _check_codes(data: Any) -> list[str]:
    """Languages and the license."""
    errors = []
    for code in data.get("language", []):
        if not re.fullmatch(r"[a-z]{2,3}|multilingual", code):
            errors.append(f"language {code!r} is not an ISO 639 code")
    if not re.fullmatch(r"[a-z0-9.-]+", str(data.get("license", ""))):
        errors.append(f"license {data.get('license')!r} is not a license id from the Hub's list")
    return errors


def _check_repo_ids(data: Any) -> list[str]:
    """Models and datasets that the card refers to."""
    base_model = data.get("base_model") or []
    repo_ids = [base_model] if isinstance(base_model, str) else list(base_model)
    for name in ("datasets", "models"):
        repo_ids += data.get(name) or []
    errors = []
    for repo_id in repo_ids:
        try:
            validate_repo_id(repo_id)
        except ValueError as error:
            errors.append(str(error))
    return errors


def _check_entries(data: Any) -> list[str]:
    """Results and configurations."""
    errors = []
    for result in data.get("eval_results", []):
        if not isinstance(result.metric_value, int | float):
            value = f"{result.metric_type} of {result.dataset_name}"
            errors.append(f"{value} is {result.metric_value!r}, not a number")
    for entry in data.get("configs", []):
        if not entry.get("config_name") or not entry.get("data_files"):
            errors.append(f"config {entry} needs config_name and data_files")
    return errors


def _check_space(data: Any) -> list[str]:
    errors = []
    for name in ("colorFrom", "colorTo"):
        if data.get(name) not in SPACE_COLORS:
            errors.append(f"{name} {data.get(name)!r} is not one of {', '.join(SPACE_COLORS)}")
    if data.get("sdk") not in SPACE_SDKS:
        errors.append(f"sdk {data.get('sdk')!r} is not one of {', '.join(SPACE_SDKS)}")
    if len(data.get("short_description", "")) > SHORT_DESCRIPTION:
        errors.append(f"short_description has more than {SHORT_DESCRIPTION} characters")
    return errors
