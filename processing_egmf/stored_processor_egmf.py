"""The files of a stored processor: what `from_pretrained` accepts, and which file is damaged if it fails.

`transformers` reads these files without naming them in its errors. A tokenizer of another vocabulary would even load,
and give the model other tokens than it was trained on, so processor_config.json holds a checksum of the vocabulary.
"""

import inspect
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase, ProcessorMixin
from transformers.utils import cached_file

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


def explain_failure(
    error: Exception,
    checkpoint: Any,
    loading_arguments: Mapping[str, Any],
) -> None:
    """Raise an error that names the damaged file of a checkpoint that cannot be loaded.

    Args:
        error: what `transformers` raised. Errors of the Hub and of missing packages are clear, so nothing is raised.
        checkpoint: folder or id.
        loading_arguments: keywords of `from_pretrained`.

    Raises:
        OSError: one file is empty, cut off, or not a JSON object.
        ValueError: the files contradict one another or have fields of the wrong type.
    """
    where = {name: loading_arguments.get(name) for name in ("cache_dir", "revision")}
    where["subfolder"] = loading_arguments.get("subfolder", "")
    present = []
    for name in FILES:
        try:
            path = cached_file(checkpoint, name, local_files_only=True, **where)
        except OSError:
            path = None
        if path is not None:
            present.append(name)
            _check_file(Path(path))
    if not isinstance(error, OSError | ImportError):
        raise ValueError(
            f"The processor of {checkpoint} could not be loaded ({type(error).__name__}: {printable(str(error))}). "
            f"Check the fields of {', '.join(present)}, or copy these files and tokenizer.json again."
        ) from error


def _check_file(path: Path) -> None:
    content = path.read_bytes()
    try:
        check_content(content, str(path))
    except ValueError as error:
        raise OSError(str(error)) from None
    try:
        is_readable = path.suffix != ".json" or isinstance(json.loads(content), dict)
        content.decode("utf-8")
    except (ValueError, RecursionError):
        is_readable = False
    if not is_readable:
        kind = "a JSON object" if path.suffix == ".json" else "text"
        raise OSError(f"{path} is not {kind} in UTF-8; it has {len(content)} bytes. Copy or download it again.")


def vocabulary_checksum(tokenizer: PreTrainedTokenizerBase) -> str:
    """Checksum of the tokens of a tokenizer and their ids, without those that were added past its vocabulary."""
    vocabulary = sorted((i, token) for token, i in tokenizer.get_vocab().items() if i < tokenizer.vocab_size)
    return f"{zlib.crc32(json.dumps(vocabulary).encode()):08x}"
