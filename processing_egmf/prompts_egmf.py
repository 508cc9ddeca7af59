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
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from .arguments_egmf import errors_named, has_half_character, is_count, logger, refuse_unknown, shorten
from .batches_egmf import IGNORE_INDEX
from .tasks_egmf import EGMFTask, find_task, number_task


MEDIA_NAME = re.compile(
    r"(?i)\.(mp4|mkv|mov|avi|webm|m4v|flv|3gp|mpe?g|wmv|wav|flac|ogg|mp3|m4a|opus|aac|amr|wma|aiff|caf|jpe?g|png)$"
)
# Spaces, control characters and those that Unicode calls ignorable: no width, or a blank.
INVISIBLE = re.compile(
    r"[\s\x00-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    r"\u2060-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001d173-\U0001d17a\U000e0000-\U000e0fff]*"
)

# Of texts that are tokenized whole.
CHARACTERS_PER_TOKEN = 64
# Stands for a message while a chat template is rendered.
MESSAGE = "THEMESSAGE"
# Variables of chat templates: no reasoning before the answer, and no date of the day, which would change the prompt.
TEMPLATE_VARIABLES = {"enable_thinking": False, "date_string": "26 Jul 2024"}


def fit_prompt(
    parts: dict[str, list], max_length: int, answer_length: int, task: str, sample: str
) -> dict[str, list[int]]:
    """The parts of a prompt, without the oldest turns and then the end of the transcript if they do not fit.

    Args:
        parts: from `EGMFPromptMixin._tokenize_prompt`.
        max_length: limit on the tokens of prompt and answer.
        answer_length: number of tokens of the longest answer.
        task: its name for messages.
        sample: its name for warnings.

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
            f"max_length {max_length} is too short for the task {task!r}, "
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
            f"{sample}: the transcript of at least {len(transcript)} tokens was shortened "
            f"to its first {available}, because max_length is {max_length}."
        )
    context = [token for turn in context[num_dropped:] for token in turn]
    return {**parts, "context": context, "transcript": transcript[:available]}


def mask_of(parts: dict[str, list[int]], *names: str) -> list[int]:
    """1 on the tokens of the named parts."""
    return [int(name in names) for name, ids in parts.items() for _ in ids]


def encode_parts(
    parts: dict[str, list[int]], target: list[int], read: Mapping[str, Collection[int]]
) -> dict[str, Any]:
    """Token ids, masks and labels of a prompt, as lists.

    Args:
        parts: from `fit_prompt`.
        target: token ids of the true answer; empty without one, and then `labels` is None.
        read: which tokens of a part the language model reads, from 0; all of those that are not named.
    """
    prompt_ids = [token for ids in parts.values() for token in ids]
    utterance_mask = mask_of(parts, "transcript") + [0] * len(target)
    attention_mask = []
    for name, ids in parts.items():
        columns = range(len(ids))
        attention_mask += [int(i in read.get(name, columns)) for i in columns]
    return {
        "input_ids": prompt_ids + target,
        "attention_mask": attention_mask + [1] * len(target),
        "utterance_mask": utterance_mask,
        "text_mask": mask_of(parts, "context", "suffix", "transcript") + [0] * len(target),
        "labels": [IGNORE_INDEX] * len(prompt_ids) + target if target else None,
    }


def read_task_slots(task_slots: Any, tasks: Iterable[str], num_pseudo_tokens: int) -> dict[str, list[int]]:
    """Each task's slots, checked against the names of all tasks and the number of slots."""
    if not isinstance(task_slots, Mapping):
        raise TypeError(f"`task_slots` is {shorten(task_slots)}; give a dict: name of a task -> list of its slots.")
    refuse_unknown(task_slots, tasks, "`task_slots` has unknown tasks", ValueError)
    known = range(num_pseudo_tokens)
    for name, slots in task_slots.items():
        is_list = isinstance(slots, list | tuple) and slots
        if not is_list or not all(is_count(slot, 0) and slot in known for slot in slots):
            wanted = f"give some of the slots 0 to {known[-1]}"
            raise ValueError(f"`task_slots` of {name!r} is {shorten(slots)}; {wanted}.")
    return {name: list(slots) for name, slots in task_slots.items()}


def is_blank(text: str) -> bool:
    """Whether nothing of a text can be seen, such as a zero-width space or the mark of a file's encoding."""
    return INVISIBLE.fullmatch(text) is not None


def read_text(text: Any) -> str:
    """The transcript without surrounding spaces, empty for None.

    Raises:
        TypeError: it is not a string.
        ValueError: it is the name of a media file, given in the wrong place.
    """
    if text is None:
        return ""
    if not isinstance(text, str):
        raise TypeError(f"text must be a string or None, not {type(text).__name__}.")
    text = "" if is_blank(text) else text.strip()
    # With a space in it, it may be a sentence, so only an existing file is refused.
    if MEDIA_NAME.search(text) and (len(text.split()) == 1 or os.path.isfile(text)):
        raise ValueError(
            f"text is {shorten(text)}, the name of a media file, not a transcript. Give it as video or audio instead."
        )
    return text


def read_context(context: Any) -> list[Any]:
    """The earlier turns as a list, without empty ones; empty for None."""
    if context is None:
        return []
    if not isinstance(context, list | tuple):
        raise TypeError(f"context must be a list of turns, not {type(context).__name__}.")
    turns = []
    for turn in context:
        words = turn[-1] if isinstance(turn, list | tuple) and turn else turn
        if not isinstance(words, str) or not is_blank(words):
            turns.append(turn)
    return turns


def format_turn(turn: Any) -> str:
    """One earlier turn as a line of text."""
    if isinstance(turn, str):
        return turn
    if isinstance(turn, list | tuple) and len(turn) == 2 and all(isinstance(part, str) for part in turn):
        speaker, words = turn
        return f"{speaker}: {words}"
    raise TypeError(f"a turn of the context must be a string or a pair (speaker, text), not {shorten(turn)}.")


class EGMFPromptMixin:
    """The methods of `EGMFProcessor` that make the token ids of prompts and answers."""

    def encode_prompt(
        self, text: str, context: Sequence, task: EGMFTask, answer: Any, name: str, max_length: int | None = None
    ) -> dict[str, Any]:
        """Token ids and masks of one prompt, and labels if there is an answer; as lists."""
        answer_ids = self.answer_token_ids(task)
        longest_answer = max(len(ids) for ids in answer_ids) + 1  # with the end token
        target = []
        with errors_named(name):
            if answer is not None:
                target = answer_ids[task.index(answer)]
                if target[-1] != self.tokenizer.eos_token_id:
                    target = [*target, self.tokenizer.eos_token_id]
            max_length = max_length or self.max_length
            parts = self._tokenize_prompt(task, text, context, max_length)
            parts = fit_prompt(parts, max_length, longest_answer, task.name, name)
        read = {} if self.transcript_in_prompt else {"transcript": ()}
        if task.name in self.task_slots:
            read["slots"] = self.task_slots[task.name]
        return {
            **encode_parts(parts, target, read),
            "answer_ids": answer_ids,
            "task_id": number_task(task, self.numbered_tasks, self._call_tasks),
        }

    def _tokenize_prompt(self, task: EGMFTask, text: str, context: Sequence, max_length: int) -> dict[str, list]:
        """Token ids of the parts of one prompt, in order; of the context, one list per turn.

        Args:
            task: gives the text around the pseudo tokens and the transcript.
            text: the transcript; empty if missing, and then the suffix is left out too.
            context: earlier turns, oldest first: text, or (speaker, text).
            max_length: tokens of the transcript and of each turn that matter.
        """
        if task.prompt_format == "chat":
            beginning, ending = map(self._tokenize_template, self._split_chat_template(task))
        else:
            beginning = self._beginning_ids()
            ending = []
        return {
            "beginning": beginning,
            "context": [self._tokenize_beginning(format_turn(turn) + "\n", max_length) for turn in context],
            "prefix": self._tokenize(task.prefix),
            "slots": [self.placeholder_token_id] * self.num_pseudo_tokens,
            "suffix": self._tokenize(task.suffix) if text else [],
            "transcript": self._tokenize_beginning(text, max_length) if text else [],
            "question": self._tokenize(task.prompt),
            "ending": ending,
        }

    def answer_token_ids(self, task: str | EGMFTask | dict | None = None) -> list[list[int]]:
        """Token ids of every answer as the continuation of the task's prompt, in the order of the answers."""
        task = find_task(task, self.task_objects)
        key = task.name if task.name in self.task_objects else None
        if key not in self._answer_ids or self._answer_ids[key][0] != task:
            self._answer_ids[key] = (task, self._tokenize_answers(task))
        return self._answer_ids[key][1]

    def _tokenize_answers(self, task: EGMFTask) -> list[list[int]]:
        """Token ids of every answer as the continuation of the task's prompt, in the order of `task.answers`.

        Raises:
            ValueError: the tokenizer merges the end of the prompt with the beginning of an answer.
        """
        encode = self._tokenize
        ending = task.prompt
        separator = task.separator
        if task.prompt_format == "chat":
            encode = self._tokenize_template
            _, ending = self._split_chat_template(task)
            separator = ""
        prompt = encode(ending)
        answer_ids = []
        for answer in task.answers:
            joined = encode(ending + separator + answer)
            if joined[: len(prompt)] != prompt or len(joined) == len(prompt):
                raise ValueError(
                    f"Task {task.name!r}: this tokenizer merges the end of the prompt with the answer {answer!r}. "
                    "End it with a word or punctuation mark that is its own token; instead of 'chat', use 'plain'."
                )
            answer_ids.append(joined[len(prompt) :])
        # An answer that begins another comes right before one that it begins.
        ascending = sorted(answer_ids)
        if any(first != second and second[: len(first)] == first for first, second in pairwise(ascending)):
            return [[*ids, self.tokenizer.eos_token_id] for ids in answer_ids]
        return answer_ids

    def check_prompt_format(self, tasks: Iterable[EGMFTask]) -> None:
        """Refuse tasks in the format of a chat if the tokenizer's chat template cannot be used."""
        for task in tasks:
            if task.prompt_format == "chat":
                self._split_chat_template(task)

    def _split_chat_template(self, task: EGMFTask) -> tuple[str, str]:
        """What the tokenizer's chat template puts before a message of the user, and between it and the reply.

        Raises:
            ValueError: the tokenizer has no template, or it does not repeat the message once, as it is.
        """
        if self.tokenizer.chat_template is None:
            raise ValueError(
                f"Task {task.name!r} has prompt_format 'chat', but the language model's tokenizer has no chat "
                "template. Use prompt_format 'plain', or a model that is tuned for chats."
            )
        messages = [{"role": "user", "content": MESSAGE}]
        rendered = self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, **TEMPLATE_VARIABLES
        )
        if rendered.count(MESSAGE) != 1:
            raise ValueError(
                f"Task {task.name!r}: the chat template of the language model has a user's message "
                f"{rendered.count(MESSAGE)} times instead of once. Use prompt_format 'plain'."
            )
        before, _, after = rendered.partition(MESSAGE)
        return before, after

    def _tokenize(self, text: str) -> list[int]:
        """Token ids of a text; special tokens that a user has spelled out are treated as plain text."""
        if has_half_character(text):
            raise ValueError("the text contains a lone surrogate, half a character. Decode it as UTF-8 again.")
        return self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]

    def _tokenize_beginning(self, text: str, max_length: int) -> list[int]:
        """The first `max_length` token ids of a text, and more: a megabyte of text takes seconds to tokenize.

        What follows a token may change it, but not from `max_length` tokens away.
        """
        length = CHARACTERS_PER_TOKEN * max_length
        ids = self._tokenize(text[:length])
        is_enough = len(text) <= length or len(ids) >= 2 * max_length
        return ids if is_enough else self._tokenize(text)

    def _tokenize_template(self, text: str) -> list[int]:
        """Token ids of a part of a chat template, which spells out its special tokens."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _beginning_ids(self) -> list[int]:
        """The special tokens that the tokenizer puts before every text (bos, or [gMASK] sop)."""
        plain = self.tokenizer("a", add_special_tokens=False)["input_ids"]
        ids = self.tokenizer("a", add_special_tokens=True)["input_ids"]
        starts = [start for start in range(len(ids)) if ids[start : start + len(plain)] == plain]
        return ids[: starts[0]] if starts else []
