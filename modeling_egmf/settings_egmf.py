"""The fields of config.json and adapter_config.json on which answers depend, and their checksums.

    config.json ─────────► without `UNRELATED` ─► settings_checksums ─► recorded in it as `config_checksum`
    adapter_config.json ─► without `UNRELATED` ─► settings_checksum ──► recorded beside those of the weights

Many a field changes the answers but no shape of a weight, so that a checkpoint with another value would load. What is
recorded is compared with the file as it is read: keywords of `from_pretrained` change the configuration in memory.
"""

import json
import zlib
from collections.abc import Mapping
from typing import Any


# Names, places, versions and descriptions; what whoever loads a checkpoint chooses, such as its precision; settings
# of training and of free text; what has checks of its own.
UNRELATED = """
architectures auto_map custom_pipelines transformers_version
name_or_path _name_or_path _commit_hash _attn_implementation
text_model_id text_model_revision backbone_id backbone_revision
text_model_fingerprint text_model_checksum backbone_checksum weights_checksum
dtype torch_dtype quantization_config use_cache initializer_range
id2label label2id num_labels problem_type
bos_token_id eos_token_id pad_token_id
base_model_name_or_path revision peft_version inference_mode
""".split()  # noqa: SIM905


def answer_settings(fields: Any) -> Any:
    """The content of a file without unrelated fields, those of nested configurations included."""
    if not isinstance(fields, Mapping):
        return fields
    return {name: answer_settings(value) for name, value in fields.items() if name not in UNRELATED}


def settings_checksum(value: Any) -> str:
    """A checksum of a field, or of a file's content, without unrelated fields."""
    content = json.dumps(answer_settings(value), sort_keys=True)
    return f"{zlib.crc32(content.encode()):08x}"


def settings_checksums(fields: Mapping[str, Any]) -> dict[str, str]:
    """Name of each field of a config.json on which answers depend -> checksum of its value.

    Of the adapters, only their names count, not which ones are active.
    """
    settings = answer_settings({**fields, "adapters": sorted(fields.get("adapters") or ())})
    return {name: settings_checksum(value) for name, value in settings.items()}


def check_settings(fields: dict[str, Any]) -> None:
    """Refuse the content of a config.json that is not as it was saved, and take its checksums out.

    Raises:
        ValueError: a field has another value, is missing or was added; the message names it.
    """
    recorded = fields.pop("config_checksum", None)
    actual = settings_checksums(fields)
    changed = {name for name, _ in actual.items() ^ (recorded or actual).items()}
    if changed:
        raise ValueError(
            f"config.json was saved with another value of {', '.join(sorted(changed)[:5])}. Download it again. "
            "To keep the edit, delete `config_checksum`; for this time only, pass it to from_pretrained()."
        )
