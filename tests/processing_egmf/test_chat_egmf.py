"""Conversations: the tensors of the plain call, the prompt as text, refusals, and the any-to-any pipeline."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers import pipeline

from tests.helpers.media_files import sine
from tests.helpers.processor_outputs import assert_same


FULL = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
EARLIER = [
    {"role": "assistant", "content": "How are you?"},
    {"role": "user", "name": "Ann", "content": [{"type": "text", "text": "Well."}]},
]
CONTEXT = [("assistant", "How are you?"), ("Ann", "Well.")]


BUFFER = io.BytesIO()
Image.effect_mandelbrot((16, 16), (-2, -1.5, 1, 1.5), 50).save(BUFFER, "PNG")
PNG = BUFFER.getvalue()


def message(*items):
    return {"role": "user", "content": list(items)}


def text(value="I'm fine."):
    return {"type": "text", "text": value}


@pytest.mark.parametrize("key", ["video", "path", "url"])
def test_a_conversation_gives_the_tensors_of_the_plain_call(raw, clips, key):
    conversation = [*EARLIER, message({"type": "video", key: clips["both"]}, text())]
    inputs = raw.apply_chat_template(conversation, task="emotion", add_generation_prompt=True, **FULL)
    assert_same(inputs, raw(text="I'm fine.", video=clips["both"], context=CONTEXT, task="emotion"))


def test_conversations_give_the_tensors_of_the_batch(raw, clips):
    tone = sine(300, 0.1, 16_000)
    conversations = [
        [message({"type": "audio", "audio": tone})],
        [*EARLIER, message(text())],
        [message({"type": "image", "image": np.eye(8, dtype=np.uint8)[..., None].repeat(3, 2) * 255}, text("No."))],
    ]
    inputs = raw.apply_chat_template(conversations, processor_kwargs={"sampling_rate": 16_000}, **FULL)
    picture = conversations[2][0]["content"][0]["image"]
    expected = raw(
        text=[None, "I'm fine.", "No."],
        audio=[tone, None, None],
        video=[None, None, picture[None]],
        context=[None, CONTEXT, None],
        sampling_rate=16_000,
    )
    assert_same(inputs, expected)
    texts = raw.apply_chat_template(conversations)
    rows = [ids[mask.bool()] for ids, mask in zip(expected["input_ids"], expected["attention_mask"])]
    assert texts == raw.tokenizer.batch_decode(rows)


def test_items_of_openai_give_the_tensors_of_the_plain_call(raw, clips):
    encoded = base64.b64encode(Path(clips["audio"]).read_bytes()).decode()
    uri = f"data:audio/wav;base64,{encoded}"
    expected = raw(text="I'm fine.", audio=clips["audio"])
    for item in (
        {"type": "input_audio", "input_audio": {"data": encoded, "format": "wav"}},
        {"type": "audio_url", "audio_url": {"url": uri}},
        {"type": "audio_url", "audio_url": clips["audio"]},
        {"type": "audio", "base64": encoded},
        {"type": "audio", "base64": uri},
        {"type": "audio", "audio": {"url": clips["audio"]}},
        {"type": "audio", "audio": {"path": clips["audio"]}},
        {"type": "audio", "audio": {"data": encoded, "format": "wav"}},
        {"type": "audio", "audio": {"bytes": None, "path": clips["audio"]}},  # as in `datasets`
    ):
        assert_same(raw.apply_chat_template([message(text(), item)], **FULL), expected)
    for kind in ("video", "image"):
        item = {"type": f"{kind}_url", f"{kind}_url": {"url": clips["both"]}}
        if kind == "image":
            item["image_url"] = {"url": f"data:;base64,{base64.b64encode(PNG).decode()}", "detail": "low"}
        inputs = raw.apply_chat_template([message(text(), item)], **FULL)
        assert_same(inputs, raw(text="I'm fine.", video=PNG if kind == "image" else clips["both"]))


def test_items_of_openai_responses_give_the_tensors_of_the_plain_call(raw):
    uri = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
    conversation = [
        {"role": "assistant", "content": [{"type": "output_text", "text": "How are you?"}]},
        EARLIER[1],
        message(
            {"type": "input_text", "text": "I'm fine."}, {"type": "input_image", "image_url": uri, "detail": "auto"}
        ),
    ]
    inputs = raw.apply_chat_template(conversation, **FULL)
    assert_same(inputs, raw(text="I'm fine.", video=PNG, context=CONTEXT))


@pytest.mark.parametrize("value", [{"url": "a.mp4"}, {"path": "a.mp4"}])
def test_place_of_a_clip_in_a_dict(raw, clips, value):
    value = dict.fromkeys(value, clips["both"])
    inputs = raw.apply_chat_template([message({"type": "video", "video": value}, text())], **FULL)
    assert_same(inputs, raw(text="I'm fine.", video=clips["both"]))


def test_only_token_ids_or_only_text(raw):
    conversation = [message({"type": "video", "path": "absent.mp4"}, text())]  # it is not read
    prompt = raw.apply_chat_template(conversation, task="mosei")
    ids = raw(text="I'm fine.", task="mosei")["input_ids"]
    assert prompt == raw.tokenizer.decode(ids[0])
    given = raw.apply_chat_template([message(text())], task="mosei", tokenize=True)
    assert given.tolist() == ids.tolist()


REFUSED = {
    "give a list of messages": "I'm fine.",
    r"conversation 1 is \[\]; give a list": [[message(text())], []],
    "message 0 has the role 'system', but .*Use task= .*EGMFTask.*earlier message of the role user with `name`": [
        {"role": "system", "content": "Be kind."},
        message(text()),
    ],
    "message 1 has the role 'developer', but EGMF only asks the question of its task": [
        EARLIER[0],
        {"role": "developer", "content": "Be kind."},
        message(text()),
    ],
    "message 0 is .*'tool'.*role` user or assistant": [{"role": "tool", "content": "3"}],
    r"unknown keys \['tool_calls'\]": [{**message(text()), "tool_calls": []}],
    "has the content None; give text or": [{"role": "user", "content": None}],
    "the last message must be the user's": EARLIER[:1],
    r"an earlier message has \['video'\]; only its text": [
        message({"type": "video", "path": "a.mp4"}),
        message(text()),
    ],
    r"of unknown type \['smell'\]; use any of text, input_text, output_text, audio": [message({"type": "smell"})],
    r"an item of unknown type \['\[\]'\]; use any of text": [message({"type": []})],
    r"an item of unknown type \['None'\]; use any of text": [message("I'm fine.")],
    r"item of type 'video' with unknown keys \['fps'\]": [message({"type": "video", "path": "a.mp4", "fps": 2})],
    "item of type 'audio' with no content; give one of audio, path, url, base64": [message({"type": "audio"})],
    "'input_audio' with no content; give one of audio, path.*input_audio": [message({"type": "input_audio"})],
    "'input_text' with no content; give one of text": [message({"type": "input_text"})],
    r"'input_image' with unknown keys \['file_id'\]": [message({"type": "input_image", "file_id": "a"})],
    "item of type 'video' with video, url; give one": [message({"type": "video", "video": "a.mp4", "url": "b.mp4"})],
    "text must be a string": [message({"type": "text", "text": {"value": "a"}})],
    "a dict with keys .*has no media": [message({"type": "video", "url": {"url": {"url": "a.mp4"}}})],
    r"item of type 'video_url' with unknown keys \['fps'\]": [
        message({"type": "video_url", "video_url": {"url": "a.mp4", "fps": 2}})
    ],
    r"sample 0 \(data:\).*not valid base64": [message({"type": "input_audio", "input_audio": {"data": "U"}})],
    "give one video": [message({"type": "video", "path": "a"}, {"type": "image", "path": "b"})],
    "item of type 'image': 'a.mp4'. Give it as an item of type video": [message({"type": "image", "path": "a.mp4"})],
    "this code opens no connections": [message({"type": "video", "url": "https://example.org/a.mp4"})],
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_cannot_be_read_is_named(raw, reason):
    with pytest.raises((ValueError, TypeError), match=reason):
        raw.apply_chat_template(REFUSED[reason], **FULL)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (
            {"chat_template": "{{ messages }}"},
            "chat_template is .*, but the prompt is the task's.*prompt_format='chat'",
        ),
        ({"tools": [{}]}, "tools is .*, but the model calls no tools"),
        ({"continue_final_message": True}, "end with a message of the user"),
        ({"num_frames": 32}, r"unknown arguments \['num_frames'\]"),
        ({"tokenize": False, "video": "a.mp4"}, r"tokenize=False: unknown arguments \['video'\]"),
    ],
)
def test_options_that_cannot_be_followed_are_named(raw, options, reason):
    with pytest.raises((ValueError, TypeError), match=reason):
        raw.apply_chat_template([message(text())], **{**FULL, **options})


def test_any_to_any_pipeline(make_model, raw, clips):
    model = make_model("waveform", "frames")
    pipe = pipeline("any-to-any", model=model, processor=raw, device="cpu")
    conversation = [message({"type": "video", "path": clips["both"]}, text())]
    greedy = {"max_new_tokens": 3, "do_sample": False}
    options = {"generate_kwargs": greedy}
    expected = model.generate(**raw(text="I'm fine.", video=clips["both"], task="mosei"), **greedy)
    expected = raw.batch_decode(expected, skip_special_tokens=True)[0]
    (answer,) = pipe(text=conversation, task="mosei", return_full_text=False, **options)
    prompt = raw.tokenizer.decode(raw(text="I'm fine.", task="mosei")["input_ids"][0], skip_special_tokens=True)
    assert expected in (answer["generated_text"], prompt + answer["generated_text"])
    (answer,) = pipe(text="I'm fine.", videos=clips["both"], audio=clips["audio"], **options)
    assert answer["input_text"] == "I'm fine."
    with pytest.raises(TypeError, match="EGMFProcessor takes no `images`. Give a picture as `video`"):
        pipe(text="I'm fine.", images="a.png")
    with pytest.raises(ValueError, match="continue_final_message is True, but .*end with a message of the user"):
        pipe(text=[*conversation, EARLIER[0]])
