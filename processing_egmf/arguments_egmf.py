"""Names and values of arguments: unknown names are refused with a suggestion, odd values are shown cut short.

A typo must never change an answer in silence, so every public function refuses names that it does not know.
"""

import difflib
import functools
import inspect
import reprlib
from collections.abc import Callable, Iterable
from typing import Any


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
    unknown = sorted({str(name) for name in names if name not in known})
    if not unknown:
        return
    matches = {name: difflib.get_close_matches(name, known, n=1) for name in unknown}
    hints = [f" Did you mean {similar[0]!r} instead of {name!r}?" for name, similar in matches.items() if similar]
    raise error(f"{beginning} {shorten(unknown)}; known are {', '.join(known)}.{''.join(hints)}")


def refuses_unknown_arguments(method: Callable) -> Callable:
    """Decorator: a keyword that the method does not name is refused with a suggestion."""
    known = [name for name in inspect.signature(method).parameters if name != "self"]

    @functools.wraps(method)
    def checked(*args: Any, **kwargs: Any) -> Any:
        refuse_unknown(kwargs, known, f"{method.__qualname__}: unknown arguments")
        return method(*args, **kwargs)

    return checked


def check_loading_arguments(processor_class: type, names: Iterable[str]) -> None:
    """Refuse a keyword of `from_pretrained` that is neither a field of the processor nor an argument of loading.

    Names that begin with an underscore are passed from one part of `transformers` to another.
    """
    fields = [name for name in inspect.signature(processor_class).parameters if name != "tokenizer"]
    public_names = [name for name in names if not name.startswith("_")]
    known = [*fields, *LOADING_ARGUMENTS]
    refuse_unknown(public_names, known, f"{processor_class.__name__}.from_pretrained: unknown arguments")
