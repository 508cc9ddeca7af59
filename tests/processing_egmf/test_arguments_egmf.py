"""Unknown names are refused with a suggestion, and odd values are shown cut short."""

import numpy as np
import pytest

from processing_egmf.arguments_egmf import refuse_unknown, refuses_unknown_arguments, shorten


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
    ("num_frames", 0, "`num_frames` is 0; give a whole number, at least 1"),
    ("max_length", "512", "`max_length` is '512'; give a whole number"),
    ("num_pseudo_tokens", True, "`num_pseudo_tokens` is True"),
    ("sampling_rate", float("nan"), "`sampling_rate` is nan"),
    ("audio_feature_size", 0, "`audio_feature_size` is 0; give a whole number, at least 1, or None for any"),
    ("audio_frontend", "whisper", r"`audio_frontend` is 'whisper'; give the to_dict\(\) of a front end"),
    ("max_clip_seconds", -1, "`max_clip_seconds` is -1; give a number above 0, or None"),
    ("transcript_in_prompt", "no", "`transcript_in_prompt` is 'no'; use True or False"),
    ("placeholder_token", "\ud800", "`placeholder_token` is"),
    ("audio_input", ["waveform"], r"`audio_input` is \['waveform'\]; use 'waveform', 'features' or None"),
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
