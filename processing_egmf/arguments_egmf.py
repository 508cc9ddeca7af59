"""Names and values of arguments: unknown names are refused with a suggestion, long values are shortened in messages.

A typo must never change an answer in silence, so every public function refuses names that it does not know.
"""

import difflib
import functools
import inspect
import reprlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np


# Keywords of `from_pretrained` that say where the files are, besides the fields of the processor.
LOADING_ARGUMENTS = (
    "cache_dir",
    "code_revision",
    "force_download",
    "local_files_only",
    "proxies",
    "return_unused_kwargs",
    "revision",
    "subfolder",
    "token",
    "trust_remote_code",
    "use_fast",
)

COUNTS = ("num_pseudo_tokens", "sampling_rate", "num_frames", "frame_height", "frame_width", "max_length")
TENSOR_TYPES = ("pt", "np", "mlx", None)

_short_repr = reprlib.Repr()
_short_repr.maxlevel = 3
_short_repr.maxstring = 120
_short_repr.maxother = 120


def shorten(value: Any) -> str:
    """A value for a message: at most a few hundred characters, however deep, long or large it is."""
    try:
        return _short_repr.repr(value)
    except (ValueError, RecursionError):  # a whole number of more than 4,300 digits
        return f"a value of type {type(value).__name__} that is too large to show"


def printable(text: str) -> str:
    """The beginning of a text, with unprintable characters escaped."""
    return text[:200].encode("utf-8", "backslashreplace").decode("utf-8")


def refuse_unknown(
    names: Iterable[Any], known: Iterable[str], beginning: str, error: type[Exception] = TypeError
) -> None:
    """Refuse names that are not known.

    Args:
        names: the names given.
        known: the names accepted.
        beginning: of the message, e.g. `"Unknown arguments"`.
        error: the exception to raise.
    """
    known = list(known)
    names = [name if isinstance(name, str) else shorten(name) for name in names]
    unknown = sorted({printable(name) for name in names if name not in known})
    if not unknown:
        return
    matches = {name: difflib.get_close_matches(name, known, n=1) for name in unknown}
    hints = [f" Did you mean {similar[0]!r} instead of {name!r}?" for name, similar in matches.items() if similar]
    raise error(f"{beginning} {shorten(unknown)}; use any of {', '.join(known)}.{''.join(hints)}")


def refuses_unknown_arguments(method: Callable) -> Callable:
    """Decorator: a keyword that the method does not name is refused with a suggestion."""
    known = [name for name in inspect.signature(method).parameters if name != "self"]

    @functools.wraps(method)
    def checked(*args: Any, **kwargs: Any) -> Any:
        refuse_unknown(kwargs, known, f"{method.__qualname__}: unknown arguments")
        return method(*args, **kwargs)

    return checked


@contextmanager
def checked_loading(processor_class: type, location: Any, kwargs: dict[str, Any]) -> Iterator[None]:
    """Around `from_pretrained`: a keyword must be a field of the processor or an argument of loading, and the error of
    a damaged file names the checkpoint.

    Raises:
        TypeError: an unknown keyword. Names that begin with an underscore are passed from one part of `transformers`
            to another.
        ValueError: a file of the checkpoint is damaged.
    """
    if "_from_pipeline" not in kwargs:  # `transformers.pipeline` also passes the model's keywords, which it checks
        fields = [name for name in inspect.signature(processor_class).parameters if name != "tokenizer"]
        public_names = [name for name in kwargs if not name.startswith("_")]
        known = [*fields, *LOADING_ARGUMENTS]
        refuse_unknown(public_names, known, f"{processor_class.__name__}.from_pretrained: unknown arguments")
    try:
        yield
    except (ImportError, MemoryError, OSError):
        raise
    except Exception as error:  # of any kind: tokenizers raises `Exception` itself
        raise ValueError(
            f"The processor of {location} could not be loaded ({error}). Download or save the checkpoint again."
        ) from error


def check_settings(processor: Any) -> None:
    """Check the fields of an `EGMFProcessor`.

    Raises:
        ValueError: a field of the wrong type, or out of range.
    """
    for name, kinds in (("audio_input", ("waveform", "features")), ("video_input", ("frames", "features"))):
        value = getattr(processor, name)
        if value is not None and not (isinstance(value, str) and value in kinds):
            raise ValueError(f"`{name}` is {shorten(value)}; use {kinds[0]!r}, {kinds[1]!r} or None.")
    for name in COUNTS:
        if not is_count(getattr(processor, name)):
            raise ValueError(f"`{name}` is {shorten(getattr(processor, name))}; give a whole number, at least 1.")
    for name in ("audio_feature_size", "video_feature_size"):
        value = getattr(processor, name)
        if value is not None and not is_count(value):
            raise ValueError(f"`{name}` is {shorten(value)}; give a whole number, at least 1, or None for any.")
    for name in ("audio_frontend", "video_frontend"):
        value = getattr(processor, name)
        if value is not None and not isinstance(value, dict):
            raise ValueError(f"`{name}` is {shorten(value)}; give the to_dict() of a front end, or None.")
    seconds = processor.max_clip_seconds
    is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if seconds is not None and not (is_number and seconds > 0):
        raise ValueError(f"`max_clip_seconds` is {shorten(seconds)}; give a number above 0, or None for no limit.")
    if not isinstance(processor.transcript_in_prompt, bool):
        raise ValueError(f"`transcript_in_prompt` is {shorten(processor.transcript_in_prompt)}; use True or False.")
    token = processor.placeholder_token
    if not isinstance(token, str) or not token.strip() or printable(token) != token:
        raise ValueError(f"`placeholder_token` is {shorten(token)}; give a short text that no transcript contains.")


def is_count(value: Any) -> bool:
    """Whether a value is a whole number, at least 1."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and value >= 1


def check_tensor_type(return_tensors: Any) -> None:
    if not (return_tensors is None or isinstance(return_tensors, str)) or return_tensors not in TENSOR_TYPES:
        raise ValueError(f"`return_tensors` is {shorten(return_tensors)}; use 'pt', 'np', 'mlx' or None.")
