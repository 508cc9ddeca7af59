"""Fields of configurations: their names, nested configurations, and checks that several classes share.

Next: configuration_egmf.py, which uses them.
"""

import dataclasses
import difflib
import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from transformers import CONFIG_MAPPING, AutoConfig, GenerationConfig, PreTrainedConfig


# Keywords of configurations that are no fields: settings of `generate` and those of encoders and decoders used to be.
LIBRARY_KEYWORDS = {
    *vars(GenerationConfig()),
    *("torch_dtype", "transformers_version", "attn_implementation", "experts_implementation"),
    *("auto_map", "custom_pipelines", "tokenizer_class", "sep_token_id", "decoder_start_token_id"),
    *("is_decoder", "is_encoder_decoder", "add_cross_attention", "tie_encoder_decoder"),
}

# Above the similarity of `sep_token_id` and `pad_token_id`: older fields that `transformers` still takes.
LIBRARY_CUTOFF = 0.92
DTYPES = ("None", "float16", "bfloat16", "float32", "float64")
# In every configuration that was written to a file, which may have fields of other versions and descriptions.
WRITTEN_FIELDS = {"architectures", "transformers_version"}
NAMES = list | tuple | set
# Annotation of a field of peft -> types of its values.
ADAPTER_TYPES = {
    "bool": bool,
    "int": int,
    "float": int | float,
    "Optional[list[str]]": NAMES | None,
    "Optional[Union[list[str], str]]": NAMES | str | None,
}


class UnknownFieldError(TypeError):
    """A configuration does not have a field of this name; the message suggests one that it has."""


class RegisteredPipelines(dict):
    """The `custom_pipelines` of a process whose registry has the task: `pipeline` reads only its name here.

    `pipeline` takes the name of a model's task from these keys, and loads the code that is stored with the checkpoint
    for any task that it finds in them. For a folder, no other place tells it the name without the code.
    """

    def __contains__(self, task: object) -> bool:
        return False


def field_names(config_class: type[PreTrainedConfig]) -> set[str]:
    """Fields of a configuration class, those of `PreTrainedConfig` included."""
    return {field.name for field in dataclasses.fields(config_class)}


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The question "Did you mean ...?" with the most similar name, if there is one, else an empty string."""
    similar = difflib.get_close_matches(name, known, n=1)
    return f" Did you mean `{similar[0]}`?" if similar else ""


def name_unknown(start: str, names: Iterable[str], known: Iterable[str]) -> str:
    """A sentence for each unknown name, with the most similar known one."""
    known = sorted(known)
    return " ".join(f"{start} {name!r}.{did_you_mean(name, known)}" for name in sorted(names))


def unknown_fields(owner: str, names: Iterable[str], known: Iterable[str]) -> UnknownFieldError:
    """The error of a configuration without such fields."""
    return UnknownFieldError(name_unknown(f"{owner} has no field", names, known))


def refuse_typos(
    config_class: type[PreTrainedConfig],
    kwargs: dict[str, Any],
    field_name: str = "",
    cutoff: float = 0.8,
    stored: dict[str, Any] | None = None,
) -> None:
    """Refuse a keyword that is nearly the name of a field, also in the dict of a nested configuration.

    `transformers` keeps any others as attributes, and has some that are no fields. In a dict for one of its classes
    that was not read from a file, keywords that have no effect are refused as well, such as another class's name for
    the same field.

    Args:
        field_name: of the nested configuration that has the class.
        cutoff: how similar the name of a field must be; 0 to refuse any unknown keyword.
        stored: fields of a checkpoint that the keywords replace; equal ones are not checked.

    Raises:
        UnknownFieldError: the message suggests the field.
    """
    stored = stored or {}
    known = field_names(config_class)
    own_fields = known - field_names(PreTrainedConfig)
    # Among the class's attributes are properties that can be set.
    known |= {*dir(config_class), *config_class.attribute_map, *LIBRARY_KEYWORDS}
    is_own = cutoff != LIBRARY_CUTOFF
    changed = {name for name, value in kwargs.items() if name not in stored or stored[name] != value}
    unknown = {name for name in changed - known if not name.startswith("_")}
    if unknown and not is_own:
        with suppress(Exception):  # some have no defaults
            unknown -= vars(config_class()).keys()
    is_from_file = not stored and not WRITTEN_FIELDS.isdisjoint(kwargs)
    refused = []
    for name in unknown:
        is_typo = difflib.get_close_matches(name, own_fields, n=1, cutoff=cutoff)
        is_accepted = is_own or is_from_file or is_read(config_class, {**stored, **kwargs}, name)
        if is_typo or not is_accepted:
            refused.append(name)
    if refused:
        owner = f"`{field_name}`" if field_name else config_class.__name__
        raise unknown_fields(owner, refused, own_fields)
    for name, sub_class in config_class.sub_configs.items():
        value = kwargs.get(name)
        if not isinstance(value, dict):
            continue
        if sub_class is not AutoConfig:
            refuse_typos(sub_class, value, name, 0.0 if is_own else cutoff, stored.get(name))
        elif value.get("model_type") in CONFIG_MAPPING:
            sub_class = CONFIG_MAPPING[value["model_type"]]
            refuse_typos(sub_class, value, name, LIBRARY_CUTOFF, stored.get(name))


def check_fields(config: PreTrainedConfig, kwargs: dict[str, Any]) -> bool:
    """Check the fields of a new configuration of our own, and say whether they are those of a config.json.

    Args:
        kwargs: those that its class does not declare.

    Raises:
        UnknownFieldError: as `refuse_typos`, if they are of a config.json; else for any unknown field.
        ValueError: a precision does not exist.
    """
    is_stored = kwargs.pop("_is_stored", False)
    fields = kwargs if is_stored else {**vars(config), **kwargs}
    refuse_typos(type(config), fields, cutoff=0.8 if is_stored else 0.0)
    check_dtypes(vars(config))
    return is_stored


def check_dtypes(fields: Mapping[str, Any]) -> None:
    """Refuse a configuration with a precision that does not exist, in the dicts of nested configurations too.

    Raises:
        ValueError: the message says which ones do.
    """
    dtype = fields.get("dtype")
    name = dtype if isinstance(dtype, str) else str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise ValueError(f"`dtype` is {dtype!r}; use one of {', '.join(DTYPES[1:])}.")
    for value in fields.values():
        if isinstance(value, Mapping) and "model_type" in value:
            check_dtypes(value)


def check_adapter_fields(config_class: type, fields: Mapping[str, Any]) -> None:
    """Refuse values with which peft fails without the field's name, saves what cannot be loaded, or trains nothing.

    Args:
        config_class: a configuration of peft.

    Raises:
        TypeError, ValueError: the message names the field.
    """
    for field in dataclasses.fields(config_class):
        if field.name not in fields:
            continue
        value = fields[field.name]
        problem = f"`{field.name}` of an adapter is {value!r}"
        kind = getattr(field.type, "__name__", field.type)
        is_alpha = field.name.endswith("alpha")
        types = ADAPTER_TYPES.get("float" if is_alpha else kind, object)
        if not isinstance(value, types) or (kind in ("int", "float") and isinstance(value, bool)):
            raise TypeError(f"{problem}; its type is {kind}.")
        try:
            json.dumps(value, default=str, allow_nan=False)
        except ValueError as error:
            raise ValueError(f"{problem}; numbers must be finite.") from error
        if field.name.endswith("dropout") and not 0 <= value < 1:
            raise ValueError(f"{problem}; it must be at least 0 and below 1.")
        if is_alpha and value == 0:
            raise ValueError(f"{problem}, which has no effect: give another number.")


def check_attention(value: Any, config: PreTrainedConfig, owner: str = "`attn_implementation`") -> None:
    """Refuse an `attn_implementation`, also a nested one, for parts that a configuration does not have.

    Raises:
        TypeError: it is neither a name nor a dict.
        UnknownFieldError: there is no such part; the message suggests one.
    """
    if value is None or isinstance(value, str):
        return
    if not isinstance(value, Mapping):
        raise TypeError(f"{owner} is {value!r}; give a name, or a dict by part of the model.")
    for part, choice in value.items():
        if part not in ("", *config.sub_configs):
            raise unknown_fields(owner, [part], config.sub_configs)
        nested = getattr(config, part, None) if part else PreTrainedConfig()
        if nested is not None:
            check_attention(choice, nested, f"{owner} of `{part}`")


def attention_of_parts(value: Any, config: PreTrainedConfig) -> dict:
    """An `attn_implementation` as a dict by part of the model: without a part's name, it is for the language model.

    Args:
        value: a name, or a dict of names as `transformers` takes it.
        config: of the model; nested ones without a name keep their own.

    Raises:
        TypeError, UnknownFieldError: as `check_attention`.
    """
    check_attention(value, config)
    names = {"": value} if isinstance(value, str) else value or {}
    # Nested configurations keep their own, with which models were loaded; `None` would be passed down.
    kept = {part: {} for part in config.sub_configs}
    return {**kept, "text_config": names.get("", {}), **names}


def read_changes(part: str, changes: dict[str, Any], stored: dict[str, Any]) -> dict[str, Any]:
    """The fields of a nested configuration that a dict changes.

    Args:
        part: name of the nested configuration.
        stored: its fields in config.json.

    Raises:
        ValueError: an encoder gets the precision of a language model.
    """
    changes = dict(changes)
    if "torch_dtype" in changes:
        # The library would prefer the stored `dtype`.
        changes["dtype"] = changes.pop("torch_dtype")
    is_text = part == "text_config"
    if not is_text and changes.get("dtype") not in (None, "float32", stored.get("dtype")):
        raise ValueError(f"`{part}` has no `dtype`, only `backbone_dtype`.")
    dtype = stored.get("backbone_dtype", "float32")
    if changes.get("backbone_dtype", dtype) != dtype:
        # The stored one is that of the weights in another precision.
        changes.setdefault("backbone_checksum", None)
    return changes


def is_read(config_class: type[PreTrainedConfig], fields: dict[str, Any], name: str) -> bool:
    """Whether a class of `transformers` reads a keyword for which it has no field, such as `rope_theta`."""
    fields = {key: field for key, field in fields.items() if key != "model_type"}
    value = fields[name]
    other = not value if isinstance(value, bool | int | float) else None
    contents = []
    try:
        for choice in (value, other):
            config = config_class(**{**fields, name: choice})
            contents.append({**config.to_dict(), name: None})
    # Of many types: its own errors say what is wrong.
    except Exception:
        return True
    return value is None or contents[0] != contents[1]


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
