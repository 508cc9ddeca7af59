"""The files of a stored processor: what `from_pretrained` accepts, its sub-processors, and which file is damaged.

`transformers` reads these files without naming them in its errors. A tokenizer with another vocabulary, other merges
or another chat template would even load, and give the model other tokens than it was trained on, so
processor_config.json holds checksums of its own fields and of the tokenizer's files.
"""

import inspect
import json
import os
import zlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from copy import copy
from pathlib import Path
from typing import Any

import transformers
from transformers import PreTrainedTokenizerBase, ProcessorMixin
from transformers.utils import PushToHubMixin, cached_file

from .arguments_egmf import printable, refuse_unknown
from .media_egmf import check_content


# Files that decide the token ids of a prompt, beside those that the tokenizer itself names.
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
# The others of a processor; the loader of tokenizers reads config.json as well.
OTHER_FILES = ("config.json", "processor_config.json", "special_tokens_map.json", "added_tokens.json")
# Keywords of `from_pretrained` that neither the processor nor the signature of `transformers` names.
LOADING_ARGUMENTS = ("code_revision", "proxies", "return_unused_kwargs", "subfolder", "trust_remote_code", "use_fast")

# Name in processor_config.json -> endings of class names. `transformers` is renaming FeatureExtractor to
# AudioProcessor.
SUB_PROCESSORS = {
    "feature_extractor": ("FeatureExtractor", "AudioProcessor"),
    "image_processor": ("ImageProcessor",),
    "video_processor": ("VideoProcessor",),
}
# Of processor_config.json: the model's inputs do not depend on them, or they have checks of their own. Earlier
# checkpoints have a `vocabulary`.
UNRELATED = {"auto_map", "processor_class", "chat_template", "vocabulary", "tokenizer_checksum", "max_decode_seconds"}


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


def settings_checksums(fields: Mapping[str, Any]) -> dict[str, str]:
    """Name of each field of processor_config.json on which the model's inputs depend -> checksum of its value."""
    checksums = {}
    for name in sorted(fields.keys() - UNRELATED):
        content = json.dumps(fields[name], sort_keys=True)
        checksums[name] = f"{zlib.crc32(content.encode()):08x}"
    return checksums


def tokenizer_checksums(folder: str | os.PathLike, names: Iterable[str]) -> dict[str, str]:
    """Name of each of a tokenizer's files in a folder -> checksum of its content, whatever the line ends.

    Args:
        names: of further files than `TOKENIZER_FILES`.
    """
    paths = [Path(folder, name) for name in {*TOKENIZER_FILES, *names}]
    contents = {path.name: path.read_bytes().replace(b"\r\n", b"\n") for path in paths if path.is_file()}
    return {name: f"{zlib.crc32(content):08x}" for name, content in contents.items()}


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
    # The name of `frames` in older checkpoints.
    if "frame_fit" in fields:
        fields["frames"] = "center" if fields.pop("frame_fit") == "crop" else "full"
    names = _changed_names(checksums if recorded is None else recorded, checksums)
    if names:
        raise OSError(
            f"The processor_config.json of {checkpoint} was saved with another value of {names}. Download it again. "
            "To keep the edit, delete `settings_checksum`; for a change in memory only, pass it to from_pretrained()."
        )


def check_tokenizer_files(
    recorded: Mapping[str, str] | None,
    checkpoint: Any,
    load_kwargs: Mapping[str, Any],
) -> None:
    """Refuse a tokenizer that was loaded from other files than those that were saved with the processor.

    Args:
        recorded: name of each file -> checksum; None to accept any.
        checkpoint: folder or id.
        load_kwargs: keywords of `from_pretrained`.

    Raises:
        OSError: the message names the files.
    """
    if recorded is None:
        return
    folder = _stored_files(checkpoint, load_kwargs)["processor_config.json"].parent
    names = _changed_names(recorded, tokenizer_checksums(folder, recorded))
    if names:
        raise OSError(
            f"{names} of {checkpoint} differs from the file saved with the processor, "
            "so prompts may differ from those of training. Download it again. "
            "To keep the edit, pass tokenizer_checksum=None, or delete it from processor_config.json."
        )


def _changed_names(recorded: Mapping[str, str], current: Mapping[str, str]) -> str:
    """The first names whose checksums differ, for a message; empty if none do."""
    return ", ".join(sorted({name for name, _ in recorded.items() ^ current.items()})[:8])


def build_sub_processor(name: str, fields: dict[str, Any], image_backend: str | None) -> Any:
    """A feature extractor, image processor or video processor from its stored fields.

    Raises:
        ValueError: they name no class, or one that `transformers` does not have.
    """
    endings = SUB_PROCESSORS[name]
    type_keys = (f"{name}_type", "audio_processor_type")
    class_name = next((fields[key] for key in type_keys if key in fields), "")
    stem = class_name.removesuffix("Fast")
    if stem.endswith(endings):
        candidates = [stem.replace(old, new) for old in endings for new in endings]
        if image_backend == "pil":
            candidates.insert(0, stem + "Pil")
        for candidate in candidates:
            if hasattr(transformers, candidate):
                arguments = {key: value for key, value in fields.items() if key not in type_keys}
                return getattr(transformers, candidate)(**arguments)
    raise ValueError(f"`{name}` is of the class {class_name!r}, which is not {' or '.join(endings)} of transformers.")


def _stored_files(checkpoint: Any, load_kwargs: Mapping[str, Any]) -> dict[str, Path]:
    """Paths of the processor's files that a checkpoint has, in its folder or in the cache, by their names."""
    where = {name: load_kwargs.get(name) for name in ("cache_dir", "revision", "subfolder")}
    paths = {}
    for name in (*TOKENIZER_FILES, *OTHER_FILES):
        with suppress(OSError):
            path = cached_file(checkpoint, name, local_files_only=True, **where)
            if path is not None:
                paths[name] = Path(path)
    return paths


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
        raise OSError(f"{path} is not {kind} in UTF-8 ({len(content)} bytes). Copy or download it again.")


def prepare_tokenizer(tokenizer: PreTrainedTokenizerBase, placeholder_token: str) -> None:
    """Add the placeholder to a tokenizer, and make it pad on the left.

    Raises:
        ValueError: it has no token to pad with.
    """
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


class EGMFStoredProcessorMixin:
    """The methods of `EGMFProcessor` that load and save it."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, *args: Any, **kwargs: Any) -> Any:
        """Load a processor; keywords of its constructor replace the stored fields.

        Errors of the Hub and of missing packages are clear, so they stay; the others name the damaged file.

        Raises:
            TypeError: a keyword that is neither a field nor an argument of loading.
            OSError: a file is missing, empty, cut off, not a JSON object or not the one that was saved, or was given
                instead of its folder.
            ValueError: one is a placeholder; the files contradict one another or have fields of the wrong type.
        """
        checkpoint = pretrained_model_name_or_path
        if os.path.isfile(checkpoint):
            raise OSError(f"{checkpoint} is a file: give its folder.")
        kwargs = check_loading_arguments(cls, kwargs)
        # Else, loading the tokenizer asks to import this code.
        kwargs.setdefault("trust_remote_code", False)
        try:
            processor = super().from_pretrained(checkpoint, *args, **kwargs)
            check_tokenizer_files(processor.tokenizer_checksum, checkpoint, kwargs)
        # Of many types, if a file is damaged.
        except Exception as error:
            paths = _stored_files(checkpoint, kwargs)
            for path in paths.values():
                _check_file(path)
            if isinstance(error, OSError | ImportError):
                raise
            raise ValueError(
                f"The processor of {checkpoint} could not be loaded "
                f"({type(error).__name__}: {printable(str(error))}). "
                f"Check the fields of {', '.join(paths)}, or copy these files and tokenizer.json again. "
                "If this code is of another version, renew the checkpoint: training/PYTHON_API.md."
            ) from error
        return processor

    @classmethod
    def get_processor_dict(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any) -> tuple[dict, dict]:
        """The stored fields, which are checked, with the sub-processors instead of their fields."""
        fields, unused = super().get_processor_dict(pretrained_model_name_or_path, **kwargs)
        check_stored_fields(fields, pretrained_model_name_or_path)
        for name in SUB_PROCESSORS:
            if fields.get(name) is not None:
                fields[name] = build_sub_processor(name, fields[name], fields.get("image_backend"))
        return fields, unused

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> Any:
        """As of any processor; `kwargs` are those of `push_to_hub`.

        Raises:
            TypeError: a keyword that it does not have.
        """
        known = inspect.signature(PushToHubMixin.push_to_hub).parameters
        refuse_unknown(kwargs, known, "save_pretrained: unknown arguments")
        return super().save_pretrained(save_directory, push_to_hub, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """The fields as they are saved: tasks as a list, and the name of the face detector."""
        stored = copy(self)
        if self.face_detector is not None:
            stored.face_detector = getattr(self.face_detector, "__name__", type(self.face_detector).__name__)
        fields = {**super(EGMFStoredProcessorMixin, stored).to_dict(), "tasks": self.tasks}
        return {**fields, "settings_checksum": settings_checksums(fields)}

    def to_json_file(self, json_file_path: str | os.PathLike) -> None:
        """Write processor_config.json, with checksums of the tokenizer's files, which are saved before."""
        names = self.tokenizer.vocab_files_names.values()
        self.tokenizer_checksum = tokenizer_checksums(os.path.dirname(json_file_path), names)
        super().to_json_file(json_file_path)

    def __repr__(self) -> str:
        """The settings; tasks by name, tokenizer and other sub-processors by class. `to_dict` has everything."""
        fields = {**vars(self), "tasks": list(self.task_objects)[:20]}
        lines = []
        for name in inspect.signature(type(self)).parameters:
            if name in fields:
                value = fields[name]
                shown = type(value).__name__ if isinstance(value, PushToHubMixin) else repr(value)
                lines.append(f"  {name}={shown[:500]}")
        return "\n".join([f"{type(self).__name__}(", *lines, ")"])
