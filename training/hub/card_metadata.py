"""What the Hub would refuse of a card's metadata, found without a network: cards of models, data sets and Spaces."""

import re

from huggingface_hub import DatasetCard, ModelCard, SpaceCard
from huggingface_hub.utils import validate_repo_id


CARDS = {"model": ModelCard, "dataset": DatasetCard, "space": SpaceCard}
NEEDED = {
    "model": ("license", "library_name", "pipeline_tag", "tags"),
    "dataset": ("license", "tags"),
    "space": ("license", "tags", "title", "emoji", "colorFrom", "colorTo", "sdk", "sdk_version", "app_file"),
}
SPACE_COLOURS = ("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray")
SHORT_DESCRIPTION = 60  # characters


def check_card(text: str, repo_type: str = "model") -> ModelCard | DatasetCard | SpaceCard:
    """Read a card back as `huggingface_hub` does, and check what the Hub would refuse; without a network.

    Args:
        repo_type: `"model"`, `"dataset"`, or `"space"`, which metrics are as well.

    Raises:
        ValueError: the metadata is no YAML, lacks something, or names what cannot be.
    """
    card = CARDS[repo_type](text)
    data, wrong = card.data, []
    wrong += [f"`{name}` is missing" for name in NEEDED[repo_type] if not data.get(name)]
    for code in data.get("language", []):
        if not re.fullmatch(r"[a-z]{2,3}|multilingual", code):
            wrong.append(f"language {code!r} is no ISO 639 code")
    if not re.fullmatch(r"[a-z0-9.-]+", str(data.get("license", ""))):
        wrong.append(f"license {data.get('license')!r} is no id of the Hub's list")
    base = data.get("base_model", [])
    named = [data.get(name) or [] for name in ("datasets", "models")]
    for repo_id in [*([base] if isinstance(base, str) else base), *named[0], *named[1]]:
        try:
            validate_repo_id(repo_id)
        except ValueError as error:
            wrong.append(str(error))
    for example in data.get("widget", []):
        if not {"text", "src"} & set(example):
            wrong.append(f"widget example {example} has neither text nor src")
    for result in data.get("eval_results", []):
        if not isinstance(result.metric_value, int | float):
            wrong.append(f"{result.metric_type} of {result.dataset_name} is {result.metric_value!r}, no number")
    for entry in data.get("configs", []):
        if not entry.get("config_name") or not entry.get("data_files"):
            wrong.append(f"config {entry} needs config_name and data_files")
    if repo_type == "space":
        wrong += [
            f"{name} {data.get(name)!r} is none of {', '.join(SPACE_COLOURS)}"
            for name in ("colorFrom", "colorTo")
            if data.get(name) not in SPACE_COLOURS
        ]
        if data.get("sdk") not in ("gradio", "docker", "static"):
            wrong.append(f"sdk {data.get('sdk')!r} is none of gradio, docker, static")
        if len(data.get("short_description", "")) > SHORT_DESCRIPTION:
            wrong.append(f"short_description has more than {SHORT_DESCRIPTION} characters")
    if wrong:
        raise ValueError(f"The card's metadata cannot be published: {'; '.join(wrong)}.")
    return card
