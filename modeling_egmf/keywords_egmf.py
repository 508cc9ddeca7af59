"""Keyword arguments of `forward`, `score_answers` and `generate`: a misspelled one is an error."""

from collections.abc import Iterable

from transformers import PreTrainedModel
from transformers.utils import TransformersKwargs

from .configuration_egmf import did_you_mean
from .decoders_egmf import argument_names


def check_keywords(
    function: str,
    given: Iterable[str],
    known: Iterable[str],
    language_model: PreTrainedModel | None = None,
) -> None:
    """Reject arguments that a function does not know, instead of ignoring them in silence.

    Args:
        function: its name, for the message.
        given: names of the arguments that were passed.
        known: names of the function's arguments.
        language_model: to whose forward pass the function passes further arguments, if it does.

    Raises:
        TypeError: with the name that was probably meant.
    """
    known = set(known) - {"self", "args", "kwargs"}
    if language_model is not None:
        known |= argument_names(type(language_model))
        known |= set(TransformersKwargs.__optional_keys__) | {"cache_position", "return_dict"}
    for name in given:
        if name not in known:
            hint = did_you_mean(name, sorted(known)) or " Leave it out."
            raise TypeError(f"{function}() got an unexpected keyword argument {name!r}.{hint}")
