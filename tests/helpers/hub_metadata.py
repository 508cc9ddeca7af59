"""Metadata of model, dataset and Space cards, checked as the Hub checks it when a card is pushed.

text of README.md ─► card_metadata ─► fields      metadata_errors(text, repo_type) ─► what the Hub would reject
"""

import json
import re
from collections.abc import Iterator
from typing import Any

import yaml


LICENSES = (
    "apache-2.0",
    "bsd-3-clause",
    "cc-by-4.0",
    "cc-by-nc-4.0",
    "cc-by-sa-4.0",
    "gpl-3.0",
    "mit",
    "other",
    "unknown",
)
SPACE_SDKS = ("gradio", "streamlit", "docker", "static")
# What a result of `model-index` must have: a part, and a field of it.
RESULT_FIELDS = (("task", "type"), ("dataset", "type"), ("dataset", "name"), ("metrics", None))


def card_metadata(text: str) -> dict[str, Any]:
    """The YAML at the top of a card; {} if there is none."""
    match = re.match(r"---\n(.*?\n)---\n", text, re.DOTALL)
    metadata = yaml.safe_load(match[1]) if match else {}
    if not isinstance(metadata, dict):
        return {}
    return json.loads(json.dumps(metadata, default=str))


def metadata_errors(text: str, repo_type: str) -> list[str]:
    """What the Hub would reject: unknown licenses and languages, wrong types, incomplete results."""
    try:
        metadata = card_metadata(text)
    except yaml.YAMLError as error:
        return [f"The metadata is not YAML: {error}"]
    errors = [
        *_license_errors(metadata),
        *_language_errors(metadata),
        *_list_errors(metadata),
        *_repo_id_errors(metadata),
        *_result_errors(metadata),
        *_widget_errors(metadata),
    ]
    if repo_type == "space" and metadata.get("sdk") not in SPACE_SDKS:
        errors.append(f'"sdk" must be one of {SPACE_SDKS}')
    return errors


def _license_errors(metadata: dict[str, Any]) -> Iterator[str]:
    license = metadata.get("license")
    if license is not None and license not in LICENSES:
        yield f'"license" must be one of {LICENSES}'


def _language_errors(metadata: dict[str, Any]) -> Iterator[str]:
    for language in _as_list(metadata.get("language")):
        if not re.fullmatch(r"[a-z]{2,3}|code|multilingual", str(language)):
            yield f'"language" {language!r} is not an ISO 639 code'


def _list_errors(metadata: dict[str, Any]) -> Iterator[str]:
    for key in ("tags", "datasets", "metrics"):
        value = metadata.get(key)
        if value is None:
            continue
        if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
            yield f'"{key}" must be a list of strings'


def _repo_id_errors(metadata: dict[str, Any]) -> Iterator[str]:
    for key in ("base_model", "datasets"):
        for name in _as_list(metadata.get(key)):
            if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(name)):
                yield f'"{key}" {name!r} is not a repo id'


def _result_errors(metadata: dict[str, Any]) -> Iterator[str]:
    for model in metadata.get("model-index") or []:
        for result in model.get("results") or []:
            for part, field in RESULT_FIELDS:
                value = result.get(part)
                if not value or (field and field not in value):
                    name = f"{part}.{field}" if field else part
                    yield f'"model-index": a result lacks {name}'
            for metric in result.get("metrics") or []:
                if not {"type", "value"} <= set(metric):
                    yield '"model-index": a metric lacks type or value'


def _widget_errors(metadata: dict[str, Any]) -> Iterator[str]:
    for example in metadata.get("widget") or []:
        if not isinstance(example, dict) or not {"text", "src", "messages"} & set(example):
            yield '"widget": an example needs text or src'


def _as_list(value: Any) -> list[Any]:
    if not value:
        return []
    return [value] if isinstance(value, str) else value
