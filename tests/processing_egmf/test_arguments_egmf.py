"""Unknown names are refused with a suggestion, and odd values are shown cut short."""

import numpy as np
import pytest

from processing_egmf.arguments_egmf import errors_named, refuse_unknown, refuses_unknown_arguments, shorten
from tests.helpers.media_files import sine
from tests.helpers.processor_outputs import PROMPT_KEYS, assert_same


def test_unknown_names_are_listed_with_suggestions():
    message = (
        r"Unknown arguments \['audios', 'q'\]; use any of audio, text\. Did you mean 'audio' instead of 'audios'\?$"
    )
    with pytest.raises(TypeError, match=message):
        refuse_unknown(["q", "text", "audios"], ["audio", "text"], "Unknown arguments")
    refuse_unknown(["text"], ["audio", "text"], "Unknown arguments")


def test_a_decorated_method_refuses_unknown_keywords():
    class Ear:
        @refuses_unknown_arguments
        def hear(self, audio=None, *, rate=1):
            """Docs."""
            return audio, rate

    assert Ear().hear("a", rate=2) == ("a", 2)
    assert Ear.hear.__doc__ == "Docs."
    with pytest.raises(TypeError, match="hear: unknown arguments .*Did you mean 'rate' instead of 'rat'"):
        Ear().hear("a", rat=2)


@pytest.mark.parametrize("depth", [1, 100_000])
def test_values_are_shown_cut_short(depth):
    nested = []
    for _ in range(depth):
        nested = [nested]
    for value in (nested, 10**5000, "a" * 10**6, "\ud800", {"a": list(range(10**5))}, b"x" * 10**6):
        shown = shorten(value)
        assert len(shown) < 1000
        shown.encode()


NOT_SETTINGS = [
    ("frames", "squeeze", "`frames` is 'squeeze'; use one of 'full', 'center', 'face'"),
    ("num_frames", 0, "`num_frames` is 0; give a whole number, at least 1"),
    ("max_length", "512", "`max_length` is '512'; give a whole number"),
    ("num_pseudo_tokens", True, "`num_pseudo_tokens` is True"),
    ("sampling_rate", float("nan"), "`sampling_rate` is nan"),
    ("audio_feature_size", 0, "`audio_feature_size` is 0; give a whole number, at least 1, or None for any"),
    ("image_backend", "opencv", "`image_backend` is 'opencv'; use one of 'torchvision', 'pil', None"),
    ("max_clip_seconds", -1, "`max_clip_seconds` is -1; give a number above 0, or None"),
    ("transcript_in_prompt", "no", "`transcript_in_prompt` is 'no'; use one of True, False"),
    ("placeholder_token", "\ud800", "`placeholder_token` is"),
    ("audio_input", ["waveform"], r"`audio_input` is \['waveform'\]; use one of 'waveform', 'features', None"),
]


@pytest.mark.parametrize(("name", "value", "message"), NOT_SETTINGS)
def test_settings_of_the_wrong_type_or_range_are_refused(make_processor, name, value, message):
    with pytest.raises(ValueError, match=message):
        make_processor(**{name: value})


def test_tensor_types(make_processor):
    processor = make_processor()
    assert isinstance(processor(text="a", return_tensors="np")["input_ids"], np.ndarray)
    with pytest.raises(ValueError, match="tf is not a valid TensorType, please select one of .*pt"):
        processor(text="a", return_tensors="tf")


# ---- keywords of other processors ------------------------------------------------------------------------------


def test_keywords_mean_what_they_mean_elsewhere(raw, clips):
    batch = raw(text=["I'm fine.", "No."], video=[clips["both"], None], task="emotion")
    same = {
        "truncation": True,
        "images": None,
        "text_kwargs": {"padding": "longest"},
        "common_kwargs": {"return_tensors": "pt"},
    }
    assert_same(raw(text=["I'm fine.", "No."], videos=[clips["both"], None], task="emotion", **same), batch)
    assert_same(raw(text=["I'm fine.", "No."], videos=[[clips["both"]], None], task="emotion", **same), batch)
    tone = sine(300, 0.1, 16_000)
    nested = raw(audio=tone, audio_kwargs={"sampling_rate": 16_000}, text_kwargs=None)
    assert_same(nested, raw(audio=tone, sampling_rate=16_000))
    assert_same(raw(text="a", padding=False), raw(text="a", padding=True))
    padded = raw(text=["I'm fine.", "No."], video=[clips["both"], None], task="emotion", padding="max_length")
    length = batch["input_ids"].shape[1]
    assert padded["input_ids"].shape == (2, raw.max_length)
    assert not padded["attention_mask"][:, :-length].any()
    for name in PROMPT_KEYS:
        assert padded[name][:, -length:].tolist() == batch[name].tolist()
    assert raw(text="a", padding="max_length", max_length=80)["text_mask"].shape == (1, 80)


def test_max_length_holds_for_one_call(features, caplog):
    words = "word and word again " * 100
    assert features(text=words, max_length=110, task="emotion", answer="joy")["input_ids"].shape[1] <= 110
    assert "shortened" in caplog.text
    sample = features.prepare(text=words, max_length=110, name="a")
    assert features.encode_prompt(**sample["prompt"], name="a")["input_ids"] == sample["input_ids"]
    assert features(text=words)["input_ids"].shape[1] > 400


NOT_KEYWORDS = [
    ({"audios": ["a.wav"]}, r"unknown arguments \['audios'\].*Did you mean 'audio' instead of 'audios'"),
    ({"images": ["a.png"]}, "takes no `images`. Give a picture as `video`"),
    ({"video": "a.mp4", "videos": "a.mp4"}, "`video` is given twice, the second time by `videos`"),
    ({"videos": [["a.mp4", "b.mp4"]]}, "sample 0: 2 files for one sample. Give one clip, or its frames as PIL images"),
    (
        {"max_length": 9, "text_kwargs": {"max_length": 8}},
        "`max_length` is given twice, the second time by `text_kwargs`",
    ),
    (
        {"videos_kwargs": {"num_frames": 4}},
        r"`videos_kwargs` has unknown keys, or settings of the processor.*\['num_frames'\]",
    ),
    ({"text_kwargs": 5}, "`text_kwargs` is 5; give a dict"),
    ({"padding": "left"}, "`padding` is 'left'; a batch is padded: use True, 'longest' or 'max_length'"),
    ({"truncation": False}, "`truncation` is False, but .*Leave truncation out, and raise max_length"),
    ({"max_length": 0}, "`max_length` is 0; give a whole number, at least 1"),
]


@pytest.mark.parametrize(("keywords", "message"), NOT_KEYWORDS)
def test_keywords_that_cannot_be_followed_are_refused(features, keywords, message):
    with pytest.raises((ValueError, TypeError), match=message):
        features(text="a", **keywords)
    with pytest.raises(ValueError, match="`padding` is False; a batch is padded"):
        features(text=["a", "b"], padding=False)


def test_numpy_batches_stay_where_they_are(raw):
    batch = raw(audio=sine(300, 0.1, 16_000), sampling_rate=16_000, return_tensors="np")
    assert isinstance(batch.to("cpu")["audio_values"], np.ndarray)


@pytest.mark.parametrize(
    ("message", "named"),
    [
        ("clip 0, message 1 has the role 'system'", "clip 0, message 1 has the role 'system'"),
        ("clip 0: text is 5", "clip 0: text is 5"),
        ("clip 01 is 5", "clip 0: clip 01 is 5"),
    ],
)
def test_errors_have_the_name_of_a_sample_once(message, named):
    with pytest.raises(ValueError, match=f"^{named}$"), errors_named("clip 0"):
        raise ValueError(message)
