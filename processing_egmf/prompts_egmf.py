"""Prompts: a task, the earlier turns and the transcript as token ids, shortened to the length limit.

    beginning │ context │ prefix <|egmf|> x P │ suffix │ transcript │ prompt ─► answer
      <s>       turns     ────── slots ──────            utterance    question

Without text, context, suffix and transcript are left out. `text_mask` marks them, so that the model can hide them.
Prompt and answer are tokenized separately and joined, so that the loss mask is exact. The texts of a task are in
tasks_egmf.py; the processor (processing_egmf.py) adds masks and labels.
"""

# P pseudo tokens

import os
import re
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from .arguments_egmf import shorten
from .tasks_egmf import EGMFTask


MEDIA_NAME = re.compile(
    r"(?i)\.(mp4|mkv|mov|avi|webm|m4v|flv|3gp|mpe?g|wmv|wav|flac|ogg|mp3|m4a|opus|aac|amr|wma|aiff|caf|jpe?g|png)$"
)

logger = logging.get_logger(__name__)


@dataclass
class PromptTokens:
    """Token ids of the parts of one prompt, in order."""

    beginning: list[int]
    context: list[list[int]]  # one list per turn, oldest first
    slots: list[int]
    suffix: list[int]
    transcript: list[int]
    question: list[int]

    @property
    def parts(self) -> list[tuple[str, list[int]]]:
        """Name and token ids of each part, in order."""
        return [
            ("beginning", self.beginning),
            ("context", [token for turn in self.context for token in turn]),
            ("slots", self.slots),
            ("suffix", self.suffix),
            ("transcript", self.transcript),
            ("question", self.question),
        ]

    @property
    def input_ids(self) -> list[int]:
        return [token for _, ids in self.parts for token in ids]

    @property
    def utterance_mask(self) -> list[int]:
        """1 on the tokens of the transcript."""
        return self._mask_of("transcript")

    @property
    def text_mask(self) -> list[int]:
        """1 on every token that is there because of the text: earlier turns, suffix and transcript."""
        return self._mask_of("context", "suffix", "transcript")

    def _mask_of(self, *names: str) -> list[int]:
        return [int(name in names) for name, ids in self.parts for _ in ids]

    def shorten(self, max_length: int, answer_length: int, task: str, sample: str) -> None:
        """Remove the oldest turns, then the end of the transcript, until prompt and answer fit into `max_length`.

        Args:
            max_length: limit on the tokens of prompt and answer.
            answer_length: number of tokens of the longest answer.
            task, sample: names for messages.

        Raises:
            ValueError: `max_length` is too short even without a transcript.
        """
        fixed_parts = (self.beginning, self.slots, self.suffix, self.question)
        fixed = sum(len(part) for part in fixed_parts) + answer_length
        if fixed + min(len(self.transcript), 1) > max_length:
            raise ValueError(
                f"{sample}: max_length {max_length} is too short for the task {task!r}, "
                f"which needs {fixed} tokens without a transcript. Raise max_length."
            )
        available = max_length - fixed
        self._drop_oldest_turns(available, max_length, sample)
        if len(self.transcript) > available:
            logger.warning(
                f"{sample}: the transcript of {len(self.transcript)} tokens was shortened "
                f"to its first {available}, because max_length is {max_length}."
            )
            self.transcript = self.transcript[:available]

    def _drop_oldest_turns(self, available: int, max_length: int, sample: str) -> None:
        num_turns = len(self.context)
        length = len(self.transcript) + sum(len(turn) for turn in self.context)
        while self.context and length > available:
            length -= len(self.context.pop(0))
        num_dropped = num_turns - len(self.context)
        if num_dropped:
            logger.warning(
                f"{sample}: the oldest {num_dropped} of {num_turns} turns of context were left out, "
                f"because max_length is {max_length}."
            )


def tokenize_prompt(
    tokenizer: PreTrainedTokenizerBase,
    task: EGMFTask,
    text: str,
    context: list | tuple,
    placeholders: list[int],
    sample: str,
) -> PromptTokens:
    """The prompt of one sample.

    Args:
        tokenizer: the language model's tokenizer.
        task: gives the text around the pseudo tokens and the transcript.
        text: the transcript; empty if missing, and then the suffix is left out too.
        context: earlier turns, oldest first: text, or (speaker, text).
        placeholders: ids of the slots of the pseudo tokens, (P,).
        sample: the sample's name in error messages.
    """
    return PromptTokens(
        beginning=beginning_ids(tokenizer),
        context=[tokenize(tokenizer, format_turn(turn, sample) + "\n", sample) for turn in context],
        slots=tokenize(tokenizer, task.prefix) + placeholders,
        suffix=tokenize(tokenizer, task.suffix) if text else [],
        transcript=tokenize(tokenizer, text, sample) if text else [],
        question=tokenize(tokenizer, task.prompt),
    )


def tokenize(tokenizer: PreTrainedTokenizerBase, text: str, name: str = "the task") -> list[int]:
    """Token ids of a text; special tokens that a user has spelled out are treated as plain text."""
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError(f"{name}: the text contains a lone surrogate, half a character. Decode it as UTF-8 again.")
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


def beginning_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The special tokens that the tokenizer puts before every text (bos, or [gMASK] sop)."""
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    with_special_tokens = tokenizer("a", add_special_tokens=True)["input_ids"]
    for start in range(len(with_special_tokens)):
        if with_special_tokens[start : start + len(plain)] == plain:
            return with_special_tokens[:start]
    return []


def tokenize_answers(tokenizer: PreTrainedTokenizerBase, task: EGMFTask) -> list[list[int]]:
    """Token ids of every answer as the continuation of the task's prompt, in the order of `task.answers`.

    Raises:
        ValueError: the tokenizer merges the end of the prompt with the beginning of an answer.
    """
    prompt = tokenize(tokenizer, task.prompt)
    answer_ids = []
    for answer in task.answers:
        joined = tokenize(tokenizer, task.prompt + task.separator + answer)
        if joined[: len(prompt)] != prompt or len(joined) == len(prompt):
            raise ValueError(
                f"Task {task.name!r}: this tokenizer merges the end of the prompt with the answer {answer!r}. "
                "End the prompt with a word or punctuation mark that is its own token."
            )
        answer_ids.append(joined[len(prompt) :])
    if _one_begins_another(answer_ids):
        return [[*ids, tokenizer.eos_token_id] for ids in answer_ids]
    return answer_ids


def _one_begins_another(sequences: list[list[int]]) -> bool:
    for first in sequences:
        for second in sequences:
            if first != second and second[: len(first)] == first:
                return True
    return False


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
