"""Bad input: each error names the sample and the remedy, for one sample and in a batch."""

import builtins

import numpy as np
import pytest
import torch
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from processing_egmf import EGMFProcessor


RATE = 16_000
TONE = np.ones(999, np.float32)
NAN_AUDIO = np.array([0.0, np.nan, 0.1], np.float32)
INF_AUDIO = np.array([0.0, np.inf], np.float32)
FRAMES = np.zeros((2, 8, 8, 3), np.uint8)


def audio(samples, sampling_rate=RATE):
    return {"audio": samples, "sampling_rate": sampling_rate}


def answer(task, value):
    return {"text": "a", "task": task, "answer": value}


CONTENT_ERRORS = {
    "nothing at all": ({}, "Give at least one"),
    "earlier turns alone": ({"text": " ", "context": ["He left."]}, "has neither text nor audio.*Give at least one"),
    "empty text": ({"text": " "}, "Give at least one"),
    "text of another type": ({"text": 5}, "text must be a string or None, not int"),
    "text as bytes": ({"text": b"a"}, "text must be a string or None, not bytes"),
    "media file as text": ({"text": "clips/a.mp4"}, "the name of a media file, not a transcript. Give it as video"),
    "half a character": ({"text": "a\ud800"}, "a lone surrogate, half a character. Decode"),
    "half a character of context": (
        {"text": "a", "context": ["b", ("Ann", "a\ud800")]},
        "a lone surrogate, half",
    ),
    "chosen modality is missing": (
        {"text": "a", "modalities": ["audio"]},
        "chosen modalities.*Give at least one",
    ),
    "no chosen modality": (
        {"text": "a", "modalities": []},
        "no chosen modalities. Give at least one of text, audio, video, or None for all",
    ),
    "unknown modality": (
        {"text": "a", "modalities": ["smell"]},
        r"does not have the modalities \['smell'\]; use any of text",
    ),
    "modalities as a string": (
        {"text": "a", "modalities": "text"},
        "must be a list of text, audio, video, not 'text'",
    ),
    "modalities as a number": (
        {"text": "a", "modalities": 5},
        "must be a list of text, audio, video, not 5",
    ),
    "unknown task": (
        {"text": "a", "task": "emotions"},
        "nknown task .*emotion, meld.* Did you mean 'emotion' instead of 'emotions'",
    ),
    "task of another type": ({"text": "a", "task": 3}, "A task is a dict of fields .*, not 3"),
    "task as fields": (
        {"text": "a", "task": {"name": "emotion"}},
        "Task 'emotion': `kind` is None; use one of 'classification', 'regression'",
    ),
    "unknown label": (answer("emotion", "angry"), "unknown label for task 'emotion': .*neutral.*mean 'anger'"),
    "label as a dict": (answer("emotion", {"joy": 1}), "unknown label .*'joy': 1.*; use any of neutral"),
    "score out of range": (answer("mosei", 4), r"score 4 is outside the range \[-3.0, 3.0\]"),
    "score of 5000 digits": (answer("mosei", 10**5000), "too large to show is outside the range"),
    "several scores": (answer("mosei", ((1, 2),)), "needs a number"),
    "score as a word": (answer("mosei", "good"), "needs a number"),
    "NaN score": (answer("mosei", float("nan")), "needs a number"),
}
MEDIA_ERRORS = {
    "masked audio": (audio(np.ma.masked_array(TONE, TONE > 0)), "a masked array, whose masked values would be read"),
    "masked frames": ({"video": np.ma.masked_array(FRAMES, FRAMES == 0)}, "a masked array, whose masked values would"),
    "rate of a file": ({"audio": "a.wav", "sampling_rate": RATE}, "files state their own. Leave sampling_rate out"),
    "rate without audio": ({"text": "a", "sampling_rate": RATE}, "no sample has audio as an array"),
    "frame rate of a file": ({"video": "a.mp4", "fps": 25}, "no sample has video as an array.*Leave fps out"),
    "zero-length audio": (audio(np.zeros(0, np.float32)), "zero length.*Leave it out"),
    "NaN samples": (audio(NAN_AUDIO), "NaN or infinite samples. Repair"),
    "infinite samples": (audio(INF_AUDIO), "NaN or infinite samples. Repair"),
    "sampling rate 0": (audio(TONE, 0), "sampling_rate is 0"),
    "negative rate": (audio(TONE, -1), "sampling_rate is -1"),
    "half a hertz": (audio(TONE, 0.5), "is 0.5 Hz; an array needs sampling_rate, in Hz, a number from 1"),
    "rate of yes": (audio(TONE, True), "is True Hz; an array needs sampling_rate, in Hz, a number from 1"),
    "no sampling rate": ({"audio": TONE}, "needs sampling_rate"),
    "rate of another type": (audio(TONE, "16k"), "sampling_rate"),
    "one sample of audio": (audio(np.zeros(1, np.float32)), "neither text.*less than 0.025 s"),
    "audio of another type": ({"audio": 5}, "cannot read media from int"),
    "audio of strings": (audio(np.array(["a"])), "whose range is unknown"),
    "video of another type": ({"video": 5}, "cannot read media from int"),
    "no frames": ({"video": FRAMES[:0]}, "no frames.*Leave it out"),
    "NaN frames": (
        {"video": np.full_like(FRAMES, np.nan, float)},
        r"expected \[0, 1\].*replace NaN",
    ),
    "fps as a word": ({"video": FRAMES, "fps": "fast"}, "fps is 'fast'; give the frames per"),
    "fps 0": ({"video": FRAMES, "fps": 0}, "fps is 0"),
    "features for a model that takes waveforms": (
        {"audio_features": np.ones((2, 6))},
        "takes audio as waveform, not as features",
    ),
    "url": ({"video": "https://example.org/a.mp4"}, "download the file first"),
}
FILE_ERRORS = {
    "absent": "does not exist.*Check the path",
    "empty": r"/empty.mp4\): empty, 0 bytes. Copy or download it again",
    "words": r"/words.mp4\): not a readable media file, .*Convert it",
    "cut": r"/cut.mp4\): not a readable media file, or cut off",
    "folder": "is a directory .*Give the path",
}
FEATURE_ERRORS = {
    "masked": (np.ma.masked_array(np.ones((2, 6)), np.eye(2, 6)), "a masked array, whose masked values would be read"),
    "complex": (np.ones((2, 6), np.complex64), "audio_features are of type complex64. Give plain real numbers"),
    "times": (np.zeros((2, 6), "M8[s]"), r"are of type datetime64\[s\]. Give plain real numbers"),
    "on the meta device": (torch.zeros(2, 6, device="meta"), "cannot be read as an array .*meta tensor"),
    "other width": (np.ones((3, 7)), r"shape \(3, 7\); expected \(steps, 6\).*Use the same extractor"),
    "NaN": (np.full((2, 6), np.nan), "NaN or infinite values. Replace"),
    "infinite": (np.full((2, 6), np.inf), "NaN or infinite values. Replace"),
    "no steps": (np.ones((0, 6)), r"shape \(0, 6\); expected"),
    "one vector": (np.ones(6), r"shape \(6,\); expected"),
    "string": ("features.npy", "audio_features"),
    "ragged": ([[1.0] * 6, [1.0] * 5], "audio_features"),
    "object": (object(), "audio_features"),
}
# Within a list, these look like a batch or a sequence.
ONLY_SINGLE = ("one vector", "string", "ragged", "object")


def assert_refused(processor, message, only_single=False, **arguments):
    """The call fails with the sample's name, both as a single sample and as the second of two."""
    with pytest.raises((ValueError, TypeError, FileNotFoundError), match=message) as caught:
        processor(**arguments, sample_names="row 'x7'")
    if "no sample has" in str(caught.value):  # of the call, not of one sample
        return
    assert "row 'x7'" in str(caught.value)
    if only_single:
        return
    good = {"text": "fine", "task": "emotion", "answer": "joy"}
    columns = {name: [good.get(name), value] for name, value in arguments.items()}
    columns.setdefault("text", ["fine", None])
    with pytest.raises((ValueError, TypeError, FileNotFoundError), match=message) as caught:
        processor(**columns, sample_names=["row 'good'", "row 'x7'"])
    assert "row 'x7'" in str(caught.value)
    assert "row 'good'" not in str(caught.value)


@pytest.mark.parametrize("case", [*CONTENT_ERRORS, *MEDIA_ERRORS])
def test_bad_input_names_the_sample_and_the_remedy(raw, case):
    arguments, message = {**CONTENT_ERRORS, **MEDIA_ERRORS}[case]
    assert_refused(raw, f"(?s){message}", case in ONLY_SINGLE, **arguments)


@pytest.mark.parametrize("kind", ["audio", "video"])
@pytest.mark.parametrize("case", FILE_ERRORS)
def test_bad_file_names_the_sample_and_the_remedy(raw, clips, case, kind):
    assert_refused(raw, f"(?s){FILE_ERRORS[case]}", **{kind: clips[case]})


@pytest.mark.parametrize("case", FEATURE_ERRORS)
def test_bad_features_name_the_sample_and_the_remedy(features, case):
    values, message = FEATURE_ERRORS[case]
    assert_refused(features, f"(?s){message}", case in ONLY_SINGLE, audio_features=values)


@pytest.mark.parametrize("kind", ["audio", "video"])
def test_raw_media_for_a_model_that_takes_features(features, clips, kind):
    assert_refused(features, f"takes {kind} as features", **{kind: clips["both"]})


@pytest.mark.parametrize("modality", ["audio", "video"])
def test_a_modality_that_the_model_does_not_have_is_refused(make_processor, modality):
    without = make_processor(**{modality: None})
    other = "video" if modality == "audio" else "audio"
    assert without.modalities == ("text", other)
    assert_refused(
        without,
        rf"this model does not have the modalities \['{modality}'\]; use any of text, {other}",
        True,
        text="a",
        modalities=["text", modality],
    )


@pytest.mark.parametrize(
    ("audio", "video", "sources"),
    [
        ("waveform", "frames", "text, audio, video"),
        ("features", None, "text, audio_features"),
        (None, "features", "text, video_features"),
        (None, None, "text"),
    ],
)
def test_a_sample_without_content_is_told_only_what_the_model_takes(make_processor, audio, video, sources):
    processor = make_processor(audio, video)
    assert_refused(processor, rf"Give at least one of {sources}\.", True, text=" ")
    names = ", ".join(processor.modalities)
    assert_refused(processor, f"Give at least one of {names}, or None for all", True, text="a", modalities=[])


def test_a_clip_next_to_its_features_is_refused(features):
    assert_refused(
        features,
        "both audio and audio_features are given; give one",
        audio="a.wav",
        audio_features=np.ones((2, 6)),
    )


def test_text_with_a_space_is_a_file_only_if_it_exists(features, clips, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert features(text="I sent you the video.mp4")["modality_mask"].tolist() == [[True, False, False]]
    (tmp_path / "my clip.mp4").touch()
    with pytest.raises(ValueError, match="text is 'my clip.mp4', the name of a media file"):
        features(text="my clip.mp4")


def test_unknown_keywords_are_refused_with_a_suggestion(features):
    for call, message in (
        (lambda: features(texts="a"), "__call__: unknown arguments.*Did you mean 'text' instead of 'texts'"),
        (lambda: features.prepare(audio_feature=1), "prepare: .*Did you mean 'audio_features'"),
        (lambda: features.post_process_answers(None, topk=1), "post_process_answers: .*Did you mean 'top_k'"),
    ):
        with pytest.raises(TypeError, match=message):
            call()


@pytest.mark.parametrize(("kind", "arguments"), [("audio", {"audio": "a.wav"}), ("video", {"video": "a.mp4"})])
def test_media_for_a_model_without_them(make_processor, kind, arguments):
    assert_refused(make_processor(None, None), f"takes no {kind}", **arguments)


def test_loading_does_not_ask_in_the_terminal_and_names_a_damaged_checkpoint(
    make_model, make_processor, tmp_path, monkeypatch
):
    make_model().save_pretrained(tmp_path)
    make_processor().save_pretrained(tmp_path)
    monkeypatch.delitem(CONFIG_MAPPING._extra_content, "egmf", raising=False)
    monkeypatch.setattr(builtins, "input", lambda *_: pytest.fail("asked whether to run the checkpoint's code"))
    assert EGMFProcessor.from_pretrained(tmp_path).num_pseudo_tokens == 3
    for name, content in (("tokenizer.json", '{"model": 1}'), ("tokenizer_config.json", "{"), ("config.json", "\xff")):
        (tmp_path / name).write_bytes(content.encode("latin-1"))
        with pytest.raises((ValueError, OSError), match=str(tmp_path)):
            EGMFProcessor.from_pretrained(tmp_path)
