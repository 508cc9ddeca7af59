"""The files of a stored processor: what `from_pretrained` accepts, its sub-processors, and which file is damaged.

`transformers` reads these files without naming them in its errors. A tokenizer of another vocabulary would even load,
and give the model other tokens than it was trained on, so processor_config.json holds a checksum of the vocabulary.
"""

import inspect
import json
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import transformers
from transformers import PreTrainedTokenizerBase, ProcessorMixin
from transformers.utils import PushToHubMixin, cached_file

from .arguments_egmf import printable, refuse_unknown
from .media_egmf import check_content


FILES = (
    "config.json",  # which the loader of tokenizers reads
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)
# Keywords of `from_pretrained` that neither the processor nor the signature of `transformers` names.
LOADING_ARGUMENTS = ("code_revision", "proxies", "return_unused_kwargs", "subfolder", "trust_remote_code", "use_fast")

# Name in processor_config.json -> keys of the class name, and endings of class names. `transformers` is renaming
# FeatureExtractor to AudioProcessor.
SUB_PROCESSORS = {
    "feature_extractor": (
        ("feature_extractor_type", "audio_processor_type"),
        ("FeatureExtractor", "AudioProcessor"),
    ),
    "image_processor": (("image_processor_type",), ("ImageProcessor",)),
    "video_processor": (("video_processor_type",), ("VideoProcessor",)),
}
# Of processor_config.json: the model's inputs do not depend on them, or they have checks of their own.
UNRELATED_FIELDS = {"auto_map", "processor_class", "chat_template", "vocabulary", "max_decode_seconds"}
OLD_FRAME_FITS = {"letterbox": "full", "crop": "center"}


def check_loading_arguments(processor_class: type, arguments: dict[str, Any]) -> dict[str, Any]:
    """Refuse a keyword of `from_pretrained` that is neither a field of the processor nor an argument of loading.

    `transformers.pipeline` also passes the model's keywords, which the model checks. They are left out: a `dtype`
    could not be saved with the tokenizer. Names that begin with an underscore are passed from one part of
    `transformers` to another.
    """
    fields = inspect.signature(processor_class).parameters
    of_transformers = inspect.signature(ProcessorMixin.from_pretrained).parameters
    known = {*fields, *of_transformers, *LOADING_ARGUMENTS}
    known -= {"tokenizer", "pretrained_model_name_or_path", "kwargs"}
    own = {name: value for name, value in arguments.items() if name in known or name.startswith("_")}
    if "_from_pipeline" not in arguments:
        unknown = set(arguments) - set(own)
        refuse_unknown(unknown, sorted(known), f"{processor_class.__name__}.from_pretrained: unknown arguments")
    return own


def build_sub_processors(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a processor with its feature extractor and image or video processor instead of their fields.

    Raises:
        ValueError: they name no class, or one that `transformers` does not have.
    """
    built = dict(fields)
    for name in SUB_PROCESSORS:
        if fields.get(name) is not None:
            built[name] = _build_sub_processor(name, fields[name], fields.get("image_backend"))
    return built


def settings_checksums(fields: Mapping[str, Any]) -> dict[str, str]:
    """Name of each field of processor_config.json on which the model's inputs depend -> checksum of its value."""
    checksums = {}
    for name in fields.keys() - UNRELATED_FIELDS:
        content = json.dumps(fields[name], sort_keys=True)
        checksums[name] = f"{zlib.crc32(content.encode()):08x}"
    return checksums


def check_stored_fields(fields: dict[str, Any], checkpoint: Any) -> None:
    """Refuse stored fields that are not as they were saved, and take their checksums out.

    Args:
        checkpoint: folder or id, for the message.

    Raises:
        OSError: they are none of an EGMFProcessor: without processor_config.json they would silently be the defaults;
            or one has another value.
    """
    if "tasks" not in fields:
        raise OSError(
            f"{checkpoint} has no processor_config.json with the fields of an EGMFProcessor. Give the folder or id of "
            "an EGMF checkpoint, or its `subfolder`."
        )
    recorded = fields.pop("settings_checksum", None)
    checksums = settings_checksums(fields)
    if "frame_fit" in fields:  # the name of `frames` in older checkpoints
        fields["frames"] = OLD_FRAME_FITS.get(fields.pop("frame_fit"))
    if recorded is None:
        return
    changed = {name for name, _ in checksums.items() ^ recorded.items()}
    if changed:
        raise OSError(
            f"The processor_config.json of {checkpoint} was saved with another value of "
            f"{', '.join(sorted(changed)[:5])}. Download it again. To keep the edit, delete `settings_checksum`; to "
            "change a value in memory only, pass it to from_pretrained()."
        )


def _build_sub_processor(name: str, fields: dict[str, Any], image_backend: str | None) -> Any:
    type_keys, endings = SUB_PROCESSORS[name]
    class_name = next((fields[key] for key in type_keys if key in fields), "")
    stem = class_name.removesuffix("Fast")
    if stem.endswith(endings):
        candidates = [stem]
        for ending in endings:
            stem = stem.removesuffix(ending)
        candidates += [stem + ending for ending in endings]
        if image_backend == "pil":
            candidates.insert(0, candidates[0] + "Pil")
        for candidate in candidates:
            if hasattr(transformers, candidate):
                arguments = {key: value for key, value in fields.items() if key not in type_keys}
                return getattr(transformers, candidate)(**arguments)
    raise ValueError(f"`{name}` is of the class {class_name!r}, which is not {' or '.join(endings)} of transformers.")


def explain_failure(error: Exception, checkpoint: Any, loading_arguments: Mapping[str, Any]) -> None:
    """Raise an error that names the damaged file of a checkpoint that cannot be loaded.

    Args:
        error: what `transformers` raised. Errors of the Hub and of missing packages are clear, so nothing is raised.
        checkpoint: folder or id.
        loading_arguments: keywords of `from_pretrained`.

    Raises:
        OSError: one file is empty, cut off, or not a JSON object.
        ValueError: one is a placeholder; the files contradict one another or have fields of the wrong type.
    """
    where = {name: loading_arguments.get(name) for name in ("cache_dir", "revision")}
    where["subfolder"] = loading_arguments.get("subfolder", "")
    paths = {}
    for name in FILES:
        with suppress(OSError):
            paths[name] = cached_file(checkpoint, name, local_files_only=True, **where)
    present = [name for name, path in paths.items() if path is not None]
    for name in present:
        _check_file(Path(paths[name]))
    if not isinstance(error, OSError | ImportError):
        raise ValueError(
            f"The processor of {checkpoint} could not be loaded ({type(error).__name__}: {printable(str(error))}). "
            f"Check the fields of {', '.join(present)}, or copy these files and tokenizer.json again."
        ) from error


def _check_file(path: Path) -> None:
    content = path.read_bytes()
    check_content(content, str(path))
    try:
        is_readable = path.suffix != ".json" or isinstance(json.loads(content), dict)
        content.decode("utf-8")
    except (ValueError, RecursionError):
        is_readable = False
    if not is_readable:
        kind = "a JSON object" if path.suffix == ".json" else "text"
        raise OSError(f"{path} is not {kind} in UTF-8; it has {len(content)} bytes. Copy or download it again.")


def prepare_tokenizer(tokenizer: PreTrainedTokenizerBase, placeholder_token: str, recorded: str | None) -> str:
    """Add the placeholder to a tokenizer, and make it pad on the left.

    Args:
        recorded: checksum of the vocabulary when the processor was saved; None to accept any.

    Returns:
        Checksum of the tokens and their ids, without those that were added past the vocabulary.

    Raises:
        ValueError: it is not the one that was recorded, or has no token to pad with.
    """
    vocabulary = sorted((i, token) for token, i in tokenizer.get_vocab().items() if i < tokenizer.vocab_size)
    checksum = f"{zlib.crc32(json.dumps(vocabulary).encode()):08x}"
    if recorded not in (None, checksum):
        raise ValueError(
            f"The checksum of the tokenizer's vocabulary is {checksum}, but was {recorded!r} when "
            "the processor was saved: it is another tokenizer, or tokenizer.json is damaged."
        )
    if tokenizer.convert_tokens_to_ids(placeholder_token) in (None, tokenizer.unk_token_id):
        tokenizer.add_special_tokens({"additional_special_tokens": [placeholder_token]})
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token is None:
        raise ValueError(
            "The tokenizer has neither a padding nor an end token. Set `tokenizer.pad_token`; if it was saved with "
            "one, its tokenizer_config.json is missing or damaged."
        )
    tokenizer.padding_side = "left"
    return checksum


def describe_processor(processor: Any) -> str:
    """The settings of a processor; tasks by name, tokenizer and other sub-processors by class."""
    fields = {**vars(processor), "tasks": list(processor.task_objects)[:20]}
    lines = []
    for name in inspect.signature(type(processor)).parameters:
        if name in fields:
            value = fields[name]
            shown = type(value).__name__ if isinstance(value, PushToHubMixin) else repr(value)
            lines.append(f"  {name}={shown[:500]}")
    return "\n".join([f"{type(processor).__name__}(", *lines, ")"])
