"""Chats: conversations in the format of `transformers` as the arguments of `EGMFProcessor.__call__`.

    [{"role": "assistant", "content": "How are you?"},                               ─► context: earlier turns
     {"role": "user", "content": [{"type": "video", "path": "clip.mp4"},             ─► video
                                  {"type": "text", "text": "I'm fine."}]}]           ─► text

Items in the formats of OpenAI are read as well: `{"type": "audio_url", "audio_url": {"url": ...}}`, also of video and
image; `{"type": "input_audio", "input_audio": {"data": ..., "format": "wav"}}`; and of responses, `{"type":
"input_text", "text": ...}` and `{"type": "input_image", "image_url": ...}`. `format` and `detail` change nothing.

A system message is refused: the prompt is the task's, and what is not followed must not be accepted in silence.

The last message, the user's, is the sample; its clip and its text are what the task asks about. Of earlier messages,
the text is read, with `name` or `role` as the speaker. Used by `EGMFProcessor.apply_chat_template`, and so by
`pipeline("any-to-any", model=model, processor=processor)`, which generates text. `transformers serve` loads only
architectures of `transformers` itself, so no EGMF checkpoint; hub_cards/endpoint answers over HTTP.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from transformers.image_utils import is_pil_image

from .arguments_egmf import errors_named, refuse_unknown, shorten
from .media_egmf import DATA_URI, TENSORS
from .prompts_egmf import MEDIA_NAME, read_text
from .tasks_egmf import find_task


# Types of items, those of OpenAI's chats and responses included. An image is a video of one frame.
TEXT_TYPES = ("text", "input_text", "output_text")
MEDIA_TYPES = ("audio", "video", "image", "audio_url", "video_url", "image_url", "input_audio", "input_image")
# Keys of the place of a clip, or of its content in base64: of an item, or of a dict in it.
SOURCE_KEYS = ("path", "url", "base64", "data")
# They change nothing: the content decides the format, and the processor the size of frames.
HINTS = ("format", "detail")
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
    with errors_named(name):
        text = read_text(sample.get("text"))
        task = find_task(options.get("task"), processor.task_objects)
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
    role = message.get("role") if isinstance(message, Mapping) else None
    if role in ("system", "developer"):
        raise ValueError(
            f"{name} has the role {role!r}, but EGMF only asks the question of its task. Use task= (an EGMFTask has "
            "a prompt of its own), or an earlier message of the role user with `name` for what was said."
        )
    if role not in ("user", "assistant"):
        raise ValueError(f"{name} is {shorten(message)}; give a dict with `content` and the `role` user or assistant.")
    refuse_unknown(message, ("role", "content", "name"), f"{name} has unknown keys", ValueError)
    items = message.get("content")
    if isinstance(items, str):
        items = [{"type": "text", "text": items}]
    if not isinstance(items, list | tuple):
        raise ValueError(f"{name} has the content {shorten(items)}; give text or a list of items.")
    content: dict[str, Any] = {}
    for item in items:
        argument, value = _read_item(item, name)
        if argument in content:
            raise ValueError(f"{name} has {shorten(list(items))}; give one {argument}.")
        content[argument] = value
    return content


def _read_item(item: Any, name: str) -> tuple[str, Any]:
    """The argument of the processor that an item is for, and its value: a list of one frame for an image."""
    given = item.get("type") if isinstance(item, Mapping) else None
    refuse_unknown([given], (*TEXT_TYPES, *MEDIA_TYPES), f"{name} has an item of unknown type", ValueError)
    name = f"{name} has an item of type {given!r}"
    if given in TEXT_TYPES:
        return "text", _read_value(item, ("text",), name)
    kind = given.removeprefix("input_").removesuffix("_url")
    value = _read_value(item, (kind, *SOURCE_KEYS, f"{kind}_url", f"input_{kind}"), name)
    if kind != "image":
        return kind, value
    is_media = isinstance(value, str) and MEDIA_NAME.search(value)
    if is_media and not value.lower().endswith((".jpg", ".jpeg", ".png")):
        raise ValueError(f"{name}: {shorten(value)}. Give it as an item of type video or audio.")
    is_frame = isinstance(value, TENSORS) or is_pil_image(value)
    return "video", [value] if is_frame else value


def _read_value(given: Mapping[str, Any], keys: Sequence[str], name: str) -> Any:
    """The value of an item, or of the dict in it that says where its content is."""
    refuse_unknown(given, ("type", *keys, *HINTS), f"{name} with unknown keys", ValueError)
    present = [key for key in keys if given.get(key) is not None]
    if len(present) != 1:
        raise ValueError(f"{name} with {', '.join(present) or 'no content'}; give one of {', '.join(keys)}.")
    key = present[0]
    value = given[key]
    is_nested = isinstance(value, Mapping) and key not in ("text", *SOURCE_KEYS)
    if is_nested and not {"array", "bytes"} & value.keys():
        return _read_value(value, SOURCE_KEYS, name)
    is_base64 = key in ("base64", "data") and not DATA_URI.match(str(value))
    return f"data:;base64,{value}" if is_base64 else value
