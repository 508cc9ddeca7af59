"""Names and values of arguments: unknown names are refused with a suggestion, long values are shortened in messages.

A typo must never change an answer in silence, so every public function refuses names that it does not know.
"""

import difflib
import functools
import inspect
import re
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import numpy as np
from transformers.utils import logging


CHOICES = {
    "audio_input": ("waveform", "features", None),
    "video_input": ("frames", "features", None),
    "frames": ("full", "center", "face"),
    "image_backend": ("torchvision", "pil", None),
    "transcript_in_prompt": (True, False),
}
COUNTS = ("num_pseudo_tokens", "sampling_rate", "num_frames", "frame_height", "frame_width", "max_length")
FEATURE_SIZES = ("audio_feature_size", "video_feature_size")
LIMITS = ("max_clip_seconds", "max_decode_seconds")
# Keywords of a call that may also be in a dict for one kind of input, as in other processors.
NESTED_KEYWORDS = {
    "text_kwargs": ("padding", "truncation", "max_length", "return_tensors"),
    "audio_kwargs": ("sampling_rate", "return_tensors"),
    **dict.fromkeys(("videos_kwargs", "images_kwargs", "common_kwargs"), ("return_tensors",)),
}
Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

# Of all files of the processor.
logger = logging.get_logger(__name__)
_short_repr = reprlib.Repr()
_short_repr.maxlevel = 3
_short_repr.maxstring = 120
_short_repr.maxother = 120


def shorten(value: Any) -> str:
    """A value for a message: at most a few hundred characters, however deep, long or large it is."""
    try:
        return _short_repr.repr(value)
    # A whole number of more than 4,300 digits.
    except (ValueError, RecursionError):
        return f"a value of type {type(value).__name__} that is too large to show"


def printable(text: str) -> str:
    """The beginning of a text, with unprintable characters escaped."""
    return text[:200].encode("utf-8", "backslashreplace").decode("utf-8")


def show_path(path: str) -> str:
    """A path for a message, or the beginning of a `data:` URI, without its content."""
    return printable(re.sub(r"(?is)^(\s*data:[^,]*?)(;base64)?,.*", r"\1", path))


def has_half_character(text: str) -> bool:
    """Whether a text contains a lone surrogate, which cannot be written as UTF-8."""
    return any("\ud800" <= character <= "\udfff" for character in text)


@contextmanager
def errors_named(name: str) -> Iterator[None]:
    """Errors of a block begin with a sample's name, if they do not yet."""
    try:
        yield
    except (ValueError, TypeError, FileNotFoundError) as error:
        if not str(error).startswith((f"{name}: ", f"{name} (", f"{name}, ")):
            error.args = (f"{name}: {error}",)
        raise


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


def refuses_unknown_arguments(method: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Decorator: a keyword that the method does not name is refused with a suggestion."""
    known = [name for name in inspect.signature(method).parameters if name != "self"]

    @functools.wraps(method)
    def checked(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        refuse_unknown(kwargs, known, f"{method.__qualname__}: unknown arguments")
        return method(*args, **kwargs)

    return checked


def takes_keywords_of_other_processors(method: Callable[..., Result]) -> Callable[..., Result]:
    """Decorator of `EGMFProcessor.__call__`: `videos` is `video`, and keywords may be in `text_kwargs` and the like.

    Raises:
        TypeError: `images`, or a nested keyword that is none of a call.
        ValueError: a keyword is given twice, with different values.
    """

    @functools.wraps(method)
    def translated(processor: Any, *args: Any, **kwargs: Any) -> Result:
        if kwargs.pop("images", None) is not None:
            raise TypeError("EGMFProcessor takes no `images`. Give a picture as `video`.")
        nested = [("videos", "video", kwargs.pop("videos", None))]
        for group, known in NESTED_KEYWORDS.items():
            keywords = kwargs.pop(group, None) or {}
            if not isinstance(keywords, Mapping):
                raise TypeError(f"`{group}` is {shorten(keywords)}; give a dict.")
            refuse_unknown(keywords, known, f"`{group}` has unknown keys, or settings of the processor:")
            nested += [(group, name, value) for name, value in keywords.items()]
        for group, name, value in nested:
            if value is not None and kwargs.get(name) is not None:
                raise ValueError(f"`{name}` is given twice, the second time by `{group}`. Give it once.")
            if value is not None:
                kwargs[name] = value
        return method(processor, *args, **kwargs)

    return translated


def check_text_options(padding: Any, truncation: Any, max_length: Any, num_samples: int) -> None:
    """Refuse what prompts cannot do: to be a batch without padding, or not to be shortened."""
    needs_padding = num_samples > 1 or padding not in (False, "do_not_pad")
    if needs_padding and padding not in (True, "longest", "max_length"):
        raise ValueError(f"`padding` is {shorten(padding)}; a batch is padded: use True, 'longest' or 'max_length'.")
    if truncation not in (True, "longest_first"):
        raise ValueError(
            f"`truncation` is {shorten(truncation)}, but too long a prompt is always shortened. "
            "Leave truncation out, and raise max_length."
        )
    check_count("max_length", max_length)


def check_count(name: str, value: Any, least: int = 1) -> None:
    """Refuse an argument that is neither None nor a whole number of at least `least`."""
    if value is not None and not is_count(value, least):
        raise ValueError(f"`{name}` is {shorten(value)}; give a whole number, at least {least}.")


def check_choice(name: str, value: Any, choices: Iterable[Any]) -> None:
    """Refuse an argument that is none of the values that it may have."""
    if value not in choices:
        raise ValueError(f"`{name}` is {shorten(value)}; use one of {', '.join(map(repr, choices))}.")


def check_settings(processor: Any) -> None:
    """Check the fields of an `EGMFProcessor`.

    Raises:
        ValueError: a field of the wrong type, or out of range.
    """
    for name, value in vars(processor).items():
        given = f"`{name}` is {shorten(value)}"
        if name in CHOICES:
            check_choice(name, value, CHOICES[name])
        if name in COUNTS and not is_count(value):
            raise ValueError(f"{given}; give a whole number, at least 1.")
        if name in FEATURE_SIZES and not (value is None or is_count(value)):
            raise ValueError(f"{given}; give a whole number, at least 1, or None for any.")
        if name in LIMITS and not (value is None or (is_number(value) and value > 0)):
            raise ValueError(f"{given}; give a number above 0, or None for no limit.")
        if name == "placeholder_token" and not (
            isinstance(value, str) and value.strip() and printable(value) == value
        ):
            raise ValueError(f"{given}; give a short text that no transcript contains.")


def is_number(value: Any) -> bool:
    """Whether a value is a number, and not True or False."""
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def is_count(value: Any, least: int = 1) -> bool:
    """Whether a value is a whole number, at least `least`."""
    return is_number(value) and isinstance(value, int | np.integer) and value >= least
