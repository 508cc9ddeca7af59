"""Fields of configurations: their names, nested configurations, and checks that several classes share.

Next: configuration_egmf.py, which uses them.
"""

import dataclasses
import difflib
from collections.abc import Iterable
from typing import Any

from transformers import AutoConfig, PreTrainedConfig


# Of `PreTrainedConfig`, and nearly the name of a field.
LIBRARY_KEYWORDS = {"num_labels"}


def field_names(config_class: type[PreTrainedConfig]) -> set[str]:
    """Fields of a configuration class, those of `PreTrainedConfig` included."""
    return {field.name for field in dataclasses.fields(config_class)}


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The question "Did you mean ...?" with the most similar name, if there is one, else an empty string."""
    similar = difflib.get_close_matches(name, known, n=1)
    return f" Did you mean `{similar[0]}`?" if similar else ""


def refuse_typos(config_class: type[PreTrainedConfig], kwargs: dict[str, Any]) -> None:
    """Refuse a keyword that is nearly the name of a field; `transformers` keeps any others as attributes.

    Raises:
        TypeError: the message suggests the field.
    """
    own_fields = field_names(config_class) - field_names(PreTrainedConfig)
    for name in set(kwargs) - own_fields - LIBRARY_KEYWORDS:
        if difflib.get_close_matches(name, own_fields, n=1, cutoff=0.8):
            hint = did_you_mean(name, own_fields)
            raise TypeError(f"{config_class.__name__} has no field {name!r}.{hint}")


def as_sub_config(value: Any, field_name: str) -> PreTrainedConfig | None:
    """A nested configuration, built from its dict in config.json if necessary.

    The local path it was loaded from is dropped, so that it is not written into config.json and published.
    """
    if isinstance(value, dict):
        if "model_type" not in value:
            raise ValueError(f"`{field_name}` has no `model_type`. Pass a configuration of `transformers`.")
        value = AutoConfig.for_model(**value)
    if isinstance(value, PreTrainedConfig):
        value._name_or_path = ""
    return value


def ties_word_embeddings(text_config: PreTrainedConfig) -> bool:
    """Whether the language model's output layer has the weights of its embeddings."""
    return bool(text_config.get_text_config().to_dict().get("tie_word_embeddings"))


def embedding_width(text_config: PreTrainedConfig) -> int:
    """Width of the language model's embeddings, which some project to their hidden size."""
    text_config = text_config.get_text_config()
    names = ("word_embed_proj_dim", "input_embedding_size", "embedding_size")
    own_widths = filter(None, map(text_config.to_dict().get, names))
    return next(own_widths, text_config.hidden_size)


def validate_attention_width(config: PreTrainedConfig, width_name: str, heads_name: str) -> None:
    """Every attention head has the same width."""
    width = getattr(config, width_name)
    heads = getattr(config, heads_name)
    if width % heads:
        raise ValueError(f"`{width_name}` is {width}, which is not a multiple of `{heads_name}` ({heads}).")
