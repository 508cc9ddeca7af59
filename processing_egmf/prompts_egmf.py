"""Prompts: a task, the earlier turns and the transcript as token ids, shortened to the length limit.

    beginning │ context │ prefix <|egmf|> x P │ suffix │ transcript │ prompt ─► answer
      <s>       turns     ────── slots ──────            utterance    question

Without text, context, suffix and transcript are left out. `text_mask` marks them, so that the model can hide them.
Prompt and answer are tokenized separately and joined, so that the loss mask is exact. With `prompt_format="chat"`, the
language model's chat template gives another beginning, and an ending between prompt and answer. The texts of a task
are in tasks_egmf.py.
"""

# P pseudo tokens

import os
import re
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from .arguments_egmf import has_half_character, shorten
from .batches_egmf import IGNORE_INDEX
from .tasks_egmf import EGMFTask


MEDIA_NAME = re.compile(
    r"(?i)\.(mp4|mkv|mov|avi|webm|m4v|flv|3gp|mpe?g|wmv|wav|flac|ogg|mp3|m4a|opus|aac|amr|wma|aiff|caf|jpe?g|png)$"
)

# Variables of chat templates: no reasoning before the answer, and no date of the day, which would change the prompt.
MESSAGE = "THEMESSAGE"  # stands for it while a chat template is rendered
TEMPLATE_VARIABLES = {"enable_thinking": False, "date_string": "26 Jul 2024"}

logger = logging.get_logger(__name__)


def tokenize_prompt(
    tokenizer: PreTrainedTokenizerBase, task: EGMFTask, text: str, context: list, sample: str
) -> dict[str, list]:
    """Token ids of the parts of one prompt, in order; of the context, one list per turn. The slots are empty.

    Args:
        tokenizer: the language model's tokenizer.
        task: gives the text around the pseudo tokens and the transcript.
        text: the transcript; empty if missing, and then the suffix is left out too.
        context: earlier turns, oldest first: text, or (speaker, text).
        sample: the sample's name in error messages.
    """
    if task.prompt_format == "chat":
        beginning, ending = [tokenize_template(tokenizer, part) for part in split_chat_template(tokenizer, task)]
    else:
        beginning = beginning_ids(tokenizer)
        ending = []
    return {
        "beginning": beginning,
        "context": [tokenize(tokenizer, format_turn(turn, sample) + "\n", sample) for turn in context],
        "prefix": tokenize(tokenizer, task.prefix),
        "slots": [],
        "suffix": tokenize(tokenizer, task.suffix) if text else [],
        "transcript": tokenize(tokenizer, text, sample) if text else [],
        "question": tokenize(tokenizer, task.prompt),
        "ending": ending,
    }


def fit_prompt(
    parts: dict[str, list], max_length: int, answer_length: int, task: str, sample: str
) -> dict[str, list[int]]:
    """The parts of a prompt, without the oldest turns and then the end of the transcript if they do not fit.

    Args:
        parts: from `tokenize_prompt`.
        max_length: limit on the tokens of prompt and answer.
        answer_length: number of tokens of the longest answer.
        task, sample: names for messages.

    Returns:
        Token ids of each part, in order.

    Raises:
        ValueError: `max_length` is too short even without a transcript.
    """
    context = parts["context"]
    transcript = parts["transcript"]
    fixed = answer_length + sum(map(len, parts.values())) - len(context) - len(transcript)
    if fixed + min(len(transcript), 1) > max_length:
        raise ValueError(
            f"{sample}: max_length {max_length} is too short for the task {task!r}, "
            f"which needs {fixed} tokens without a transcript. Raise max_length."
        )
    available = max_length - fixed
    num_dropped = 0
    length = len(transcript) + sum(map(len, context))
    while length > available and num_dropped < len(context):
        length -= len(context[num_dropped])
        num_dropped += 1
    if num_dropped:
        logger.warning(
            f"{sample}: the oldest {num_dropped} of {len(context)} turns of context were left out, "
            f"because max_length is {max_length}."
        )
    if len(transcript) > available:
        logger.warning(
            f"{sample}: the transcript of {len(transcript)} tokens was shortened "
            f"to its first {available}, because max_length is {max_length}."
        )
    context = [token for turn in context[num_dropped:] for token in turn]
    return {**parts, "context": context, "transcript": transcript[:available]}


def mask_of(parts: dict[str, list[int]], *names: str) -> list[int]:
    """1 on the tokens of the named parts."""
    return [int(name in names) for name, ids in parts.items() for _ in ids]


def encode_parts(parts: dict[str, list[int]], target: list[int], transcript_in_prompt: bool) -> dict[str, Any]:
    """Token ids, masks and labels of a prompt, as lists.

    Args:
        parts: from `fit_prompt`.
        target: token ids of the true answer; empty without one, and then `labels` is None.
        transcript_in_prompt: whether the language model reads the transcript.
    """
    prompt_ids = [token for ids in parts.values() for token in ids]
    utterance_mask = mask_of(parts, "transcript") + [0] * len(target)
    attention_mask = [1] * len(utterance_mask)
    if not transcript_in_prompt:
        attention_mask = [1 - is_utterance for is_utterance in utterance_mask]
    return {
        "input_ids": prompt_ids + target,
        "attention_mask": attention_mask,
        "utterance_mask": utterance_mask,
        "text_mask": mask_of(parts, "context", "suffix", "transcript") + [0] * len(target),
        "labels": [IGNORE_INDEX] * len(prompt_ids) + target if target else None,
    }


def split_chat_template(tokenizer: PreTrainedTokenizerBase, task: EGMFTask) -> tuple[str, str]:
    """What the tokenizer's chat template puts before a message of the user, and between it and the reply.

    Raises:
        ValueError: the tokenizer has no template, or it does not repeat the message once, as it is.
    """
    if tokenizer.chat_template is None:
        raise ValueError(
            f"Task {task.name!r} has prompt_format 'chat', but the language model's tokenizer has no chat template. "
            "Use prompt_format 'plain', or a language model that is tuned for chats."
        )
    message = {"role": "user", "content": MESSAGE}
    rendered = tokenizer.apply_chat_template(
        [message], tokenize=False, add_generation_prompt=True, **TEMPLATE_VARIABLES
    )
    if rendered.count(MESSAGE) != 1:
        raise ValueError(
            f"Task {task.name!r}: the chat template of the language model has a user's message "
            f"{rendered.count(MESSAGE)} times instead of once. Use prompt_format 'plain'."
        )
    before, _, after = rendered.partition(MESSAGE)
    return before, after


def check_prompt_format(tokenizer: PreTrainedTokenizerBase, tasks: Iterable[EGMFTask]) -> None:
    """Refuse tasks in the format of a chat for a tokenizer whose chat template cannot be used."""
    for task in tasks:
        if task.prompt_format == "chat":
            split_chat_template(tokenizer, task)


def tokenize_template(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a part of a chat template, which spells out its special tokens."""
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def tokenize(tokenizer: PreTrainedTokenizerBase, text: str, name: str = "the task") -> list[int]:
    """Token ids of a text; special tokens that a user has spelled out are treated as plain text."""
    if has_half_character(text):
        raise ValueError(f"{name}: the text contains a lone surrogate, half a character. Decode it as UTF-8 again.")
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


def beginning_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The special tokens that the tokenizer puts before every text (bos, or [gMASK] sop)."""
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    ids = tokenizer("a", add_special_tokens=True)["input_ids"]
    starts = [start for start in range(len(ids)) if ids[start : start + len(plain)] == plain]
    return ids[: starts[0]] if starts else []


def tokenize_answers(tokenizer: PreTrainedTokenizerBase, task: EGMFTask) -> list[list[int]]:
    """Token ids of every answer as the continuation of the task's prompt, in the order of `task.answers`.

    Raises:
        ValueError: the tokenizer merges the end of the prompt with the beginning of an answer.
    """
    ending = task.prompt
    separator = task.separator
    encode = tokenize
    if task.prompt_format == "chat":
        _, ending = split_chat_template(tokenizer, task)
        separator = ""
        encode = tokenize_template
    prompt = encode(tokenizer, ending)
    answer_ids = []
    for answer in task.answers:
        joined = encode(tokenizer, ending + separator + answer)
        if joined[: len(prompt)] != prompt or len(joined) == len(prompt):
            raise ValueError(
                f"Task {task.name!r}: this tokenizer merges the end of the prompt with the answer "
                f"{answer!r}. End the prompt with a word or punctuation mark that is its own token; with "
                "prompt_format 'chat', use 'plain'."
            )
        answer_ids.append(joined[len(prompt) :])
    # An answer that begins another comes right before one that it begins.
    ascending = sorted(answer_ids)
    if any(first != second and second[: len(first)] == first for first, second in pairwise(ascending)):
        return [[*ids, tokenizer.eos_token_id] for ids in answer_ids]
    return answer_ids


def read_text(text: Any, sample: str) -> str:
    """The transcript without surrounding spaces, empty for None.

    Raises:
        TypeError: it is not a string.
        ValueError: it is the name of a media file, given in the wrong place.
    """
    if text is None:
        return ""
    if not isinstance(text, str):
        raise TypeError(f"{sample}: text must be a string or None, not {type(text).__name__}.")
    text = text.strip()
    # With a space in it, it may be a sentence, so only an existing file is refused.
    if MEDIA_NAME.search(text) and (len(text.split()) == 1 or os.path.isfile(text)):
        raise ValueError(
            f"{sample}: text is {shorten(text)}, the name of a media file, not a transcript. "
            "Give it as video or audio instead."
        )
    return text


def read_context(context: Any, sample: str) -> list[Any]:
    """The earlier turns as a list, empty for None."""
    if context is None:
        return []
    if not isinstance(context, list | tuple):
        raise TypeError(f"{sample}: context must be a list of turns, not {type(context).__name__}.")
    return list(context)


def format_turn(turn: Any, sample: str) -> str:
    """One earlier turn as a line of text."""
    if isinstance(turn, str):
        return turn
    if isinstance(turn, list | tuple) and len(turn) == 2 and all(isinstance(part, str) for part in turn):
        speaker, words = turn
        return f"{speaker}: {words}"
    raise TypeError(
        f"{sample}: a turn of the context must be a string or a pair (speaker, text), not {shorten(turn)}."
    )
