"""Chats: conversations in the format of `transformers` as the arguments of `EGMFProcessor.__call__`.

    [{"role": "assistant", "content": "How are you?"},                               ─► context: earlier turns
     {"role": "user", "content": [{"type": "video", "path": "clip.mp4"},             ─► video
                                  {"type": "text", "text": "I'm fine."}]}]           ─► text

Items in the format of OpenAI are read as well: `{"type": "audio_url", "audio_url": {"url": ...}}`, also of video and
image, and `{"type": "input_audio", "input_audio": {"data": ..., "format": "wav"}}`.

The last message, the user's, is the sample; its clip and its text are what the task asks about. Of earlier messages,
the text is read, with `name` or `role` as the speaker. Used by `EGMFProcessor.apply_chat_template`, and so by
`pipeline("any-to-any", model=model, processor=processor)`, which generates text. `transformers serve` loads only
architectures of `transformers` itself, so no EGMF checkpoint; hub_cards/endpoint answers over HTTP.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from transformers.image_utils import is_pil_image

from .arguments_egmf import refuse_unknown, shorten
from .media_egmf import DATA_URI
from .prompts_egmf import MEDIA_NAME, read_text
from .tasks_egmf import find_task


# Type of an item -> keys that may hold its value. An image is a video of one frame.
ITEM_KEYS = {
    "text": ("text",),
    **{kind: (kind, "path", "url", "base64") for kind in ("audio", "video", "image")},
}
# Types of OpenAI, whose value is in the key of this name.
OPENAI_TYPES = ("input_audio", "audio_url", "video_url", "image_url")
# Options of `apply_chat_template` that change nothing here: the prompt always ends where the answer begins, the audio
# track of a video is read, and special tokens in a message are plain text.
ALWAYS_SO = ("add_generation_prompt", "load_audio_from_video", "sanitize_control_tokens")
REFUSED = {
    "chat_template": "the prompt is the task's: for the language model's template, use a task with "
    "prompt_format='chat'",
    "tools": "the model calls no tools",
    "documents": "their text belongs into earlier messages",
    "continue_final_message": "the answer is one of the task's: end with a message of the user",
    "return_assistant_tokens_mask": "the processor returns `labels` if it gets `answer`",
}


def read_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of `apply_chat_template` without those that are none of the processor's.

    Raises:
        ValueError: an option that the processor cannot follow.
    """
    for name, reason in REFUSED.items():
        if options.get(name) not in (None, False):
            raise ValueError(f"apply_chat_template: {name} is {shorten(options[name])}, but {reason}.")
    return {name: value for name, value in options.items() if name not in (*ALWAYS_SO, *REFUSED)}


def is_conversation(value: Any) -> bool:
    """Whether a value is a list of messages."""
    first = value[0] if isinstance(value, list | tuple) and value else None
    return isinstance(first, Mapping) and "role" in first


def render_prompt(processor: Any, sample: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    """The prompt of a conversation as text, with its special tokens; media are not read."""
    refuse_unknown(options, ("task",), "apply_chat_template with tokenize=False: unknown arguments")
    name = "the conversation"
    text = read_text(sample.get("text"), name)
    task = find_task(options.get("task"), processor.task_objects, name)
    encoded = processor.encode_prompt(text, sample.get("context", []), task, None, name)
    return processor.tokenizer.decode(encoded["input_ids"], clean_up_tokenization_spaces=False)


def read_conversation(messages: Any, name: str) -> dict[str, Any]:
    """The arguments `text`, `audio`, `video` and `context`, those that a conversation has.

    Raises:
        TypeError: not a list of messages.
        ValueError: a message that cannot be read; it is named.
    """
    if not isinstance(messages, list | tuple) or len(messages) == 0:
        raise TypeError(f"{name} is {shorten(messages)}; give a list of messages.")
    contents = [_read_message(message, f"{name}, message {i}") for i, message in enumerate(messages)]
    if messages[-1]["role"] != "user":
        raise ValueError(f"{name}: the last message must be the user's, about whom the task asks.")
    context = []
    for message, content in zip(messages[:-1], contents):
        if list(content) != ["text"]:
            raise ValueError(
                f"{name}: an earlier message has {list(content)}; only its text is read. Put clips into the last."
            )
        context.append((message.get("name") or message["role"], content["text"]))
    return {**contents[-1], "context": context} if context else contents[-1]


def _read_message(message: Any, name: str) -> dict[str, Any]:
    """The `text`, `audio` and `video` of a message, those that it has."""
    if not isinstance(message, Mapping) or message.get("role") not in ("user", "assistant"):
        raise ValueError(f"{name} is {shorten(message)}; give a dict with `content` and the `role` user or assistant.")
    refuse_unknown(message, ("role", "content", "name"), f"{name} has unknown keys", ValueError)
    items = message.get("content")
    if isinstance(items, str):
        items = [{"type": "text", "text": items}]
    if not isinstance(items, list | tuple):
        raise ValueError(f"{name} has the content {shorten(items)}; give text or a list of items.")
    content: dict[str, Any] = {}
    for item in items:
        kind = item.get("type") if isinstance(item, Mapping) else None
        refuse_unknown([kind], (*ITEM_KEYS, *OPENAI_TYPES), f"{name} has an item of unknown type", ValueError)
        if kind in OPENAI_TYPES:
            item = _from_openai(item, name)
        argument = "video" if item["type"] == "image" else item["type"]
        keys = ITEM_KEYS[item["type"]]
        refuse_unknown(item, ("type", *keys), f"{name} has an item of type {kind!r} with unknown keys", ValueError)
        values = [item[key] for key in keys if item.get(key) is not None]
        if len(values) != 1 or argument in content:
            raise ValueError(f"{name} has {shorten(list(items))}; give one {argument}, as {' or '.join(keys)}.")
        content[argument] = values[0] if argument == "text" else _read_media(item, values[0], name)
    return content


def _from_openai(item: Mapping[str, Any], name: str) -> dict[str, Any]:
    """An item of `OPENAI_TYPES` as one of `ITEM_KEYS`."""
    kind = item["type"]
    value = item.get(kind)
    given = value if isinstance(value, Mapping) else {"url": value}
    known = ("type", kind, "url", "detail", "data", "format")
    refuse_unknown([*item, *given], known, f"{name} has an item of type {kind!r} with unknown keys", ValueError)
    kind = kind.removeprefix("input_").removesuffix("_url")
    return {"type": kind, "url": given.get("url"), "base64": given.get("data")}


def _read_media(item: Mapping[str, Any], value: Any, name: str) -> Any:
    """The value of an item as an argument of the processor: a list of one frame for an image."""
    if item.get("base64") is not None and not DATA_URI.match(str(value)):
        return f"data:;base64,{value}"
    if item["type"] != "image":
        return value
    is_media = isinstance(value, str) and MEDIA_NAME.search(value)
    if is_media and not value.lower().endswith((".jpg", ".jpeg", ".png")):
        raise ValueError(f"{name} has {shorten(value)} as an image. Give it as an item of type video or audio.")
    return [value] if isinstance(value, np.ndarray | torch.Tensor) or is_pil_image(value) else value
