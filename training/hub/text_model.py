"""The language model that an adapter checkpoint names: a Hub repo with the weights that the run was trained with.

run's config.json ─► a Hub id, or --text_model_name_or_path ─► uploaded first, on request ─► checked ─► id and commit
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi, ModelInfo
from huggingface_hub.errors import (
    EntryNotFoundError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from modeling_egmf.parts_egmf import locate_part

from ..records import check_shape, read_json
from .errors import PushError, hub_errors
from .options import PushOptions


# Weights, configurations, files of tokenizers; not what else lies in the folder, such as data or access tokens.
TEXT_MODEL_FILES = (
    *("model*.safetensors", "model*.safetensors.index.json", "config.json", "generation_config.json"),
    *("tokenizer*.json", "special_tokens_map.json", "added_tokens.json", "chat_template.json", "*.jinja"),
    *("vocab.json", "vocab.txt", "merges.txt", "normalizer.json", "tekken.json", "*.tiktoken", "*.model"),
    *("LICENSE*", "README.md"),
)
SHAPE = ("model_type", "hidden_size", "num_hidden_layers")  # entries of config.json that must be equal


def choose_text_model(
    api: HfApi | None, options: PushOptions, report: Callable[[str], None] = print
) -> tuple[str, str | None] | None:
    """Id and commit of the language model that the adapter checkpoint will name; None if the run names none.

    Args:
        api: None to work without network access; the commit is then unknown.
        options: options of the push; `upload_text_model` uploads the run's language model first.
        report: called with progress lines.

    Raises:
        PushError: the run names a local folder and no id is given, or the id's repo cannot be read, is not visible to
            everyone who may load the checkpoint, or holds a different language model.
    """
    path = options.run / "config.json"
    config = read_json(path)
    shape = {"text_model_id?": str, "text_model_revision?": str, "text_config": dict}
    check_shape(config, shape, path, "It is not the configuration of an EGMF model. Copy it again.")
    if config.get("text_model_id") is None:
        return None
    located = locate_part(config["text_model_id"], options.run)
    text_model = _chosen_id(config["text_model_id"], located, options)
    of_run = options.text_model_name_or_path is None
    pinned = config.get("text_model_revision") if of_run else None
    if api is None:
        return text_model, pinned
    if options.upload_text_model:
        upload_text_model(api, text_model, Path(located), report)
    info, hub_config = _look_up(api, text_model, pinned)
    _check_shape(text_model, hub_config, config["text_config"])
    if options.public and info.private:
        raise PushError(
            f"The language model {text_model} is private, so no one else could load a public checkpoint that names "
            "it. Make it public first, name a public --text_model_name_or_path, or push with --standalone."
        )
    return text_model, info.sha


def _chosen_id(named: str, located: str, options: PushOptions) -> str:
    """The id given as an option, or the one that the run names."""
    text_model = options.text_model_name_or_path
    if text_model is None and os.path.isdir(located):
        raise PushError(
            f"An adapter checkpoint names its language model, but this one names a folder, {named!r}, which no one "
            "else has. Give --text_model_name_or_path ORG/NAME, a repo with the same weights (--upload_text_model "
            "uploads them), or --standalone."
        )
    text_model = text_model or named
    if text_model == options.repo_id:
        raise PushError(
            f"--text_model_name_or_path is {text_model}, which is also the repo to push to: a language model needs "
            "its own repo. Name another."
        )
    try:
        validate_repo_id(text_model)
    except HFValidationError as error:
        raise PushError(f"--text_model_name_or_path {text_model!r} is not a Hub id: {error}") from error
    return text_model


def _look_up(api: HfApi, text_model: str, revision: str | None) -> tuple[ModelInfo, dict[str, Any]]:
    """The repo of a language model, and its config.json."""
    with hub_errors(f"looking up the language model {text_model}", text_model):
        try:
            info = api.model_info(text_model, revision=revision)
            path = api.hf_hub_download(text_model, "config.json", revision=info.sha)
        except EntryNotFoundError as error:
            raise PushError(
                f"{text_model} has no config.json, so it is not a language model. Name another."
            ) from error
        except (RepositoryNotFoundError, RevisionNotFoundError) as error:
            raise PushError(
                f"The language model {text_model} is not on the Hub, or not visible with this token. Upload it with "
                "--upload_text_model, name another --text_model_name_or_path, or push with --standalone."
            ) from error
        hub_config = read_json(path)
        if not isinstance(hub_config, dict):
            raise PushError(f"The config.json of {text_model} is not that of a language model. Name another.")
        return info, hub_config


def _check_shape(text_model: str, config: dict[str, Any], trained: dict[str, Any]) -> None:
    differences = []
    for name in SHAPE:
        if name in trained and config.get(name, trained[name]) != trained[name]:
            differences.append(f"{name} {config[name]}, not {trained[name]}")
    if differences:
        raise PushError(
            f"{text_model} is not what this run was trained on: it has {', '.join(differences)}. Name another."
        )


def upload_text_model(api: HfApi, repo_id: str, folder: Path, report: Callable[[str], None] = print) -> None:
    """Upload a language model to a private repo; a repo that already holds one stays unchanged.

    Raises:
        PushError: there is no language model in the folder, or the Hub refused.
    """
    if not (folder / "config.json").is_file():
        raise PushError(f"There is no language model in {folder} to upload.")
    with hub_errors(f"uploading the language model to {repo_id}", repo_id):
        if api.repo_exists(repo_id) and api.file_exists(repo_id, "config.json"):
            report(f"language   {repo_id} already exists and stays unchanged")
            return
        api.create_repo(repo_id, private=True, exist_ok=True)
        paths = sorted({path for pattern in TEXT_MODEL_FILES for path in folder.glob(pattern)})
        size = sum(path.stat().st_size for path in paths)
        report(f"language   {len(paths)} files, {size / 1e6:.1f} MB, to {repo_id} (private)")
        others = sorted(path.name for path in folder.iterdir() if path not in paths)
        if others:
            report(f"           not sent: {', '.join(others)}")
        # In one commit, unlike upload_folder, so that a repo with a config.json is complete.
        operations = [CommitOperationAdd(path.name, path) for path in paths]
        api.create_commit(repo_id, operations, commit_message="The language model of an EGMF checkpoint")
