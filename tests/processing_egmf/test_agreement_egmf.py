"""A processor that prepares other inputs than the model was trained on is refused, by the names of the settings."""

import pytest

from modeling_egmf import EGMFConfig
from processing_egmf.agreement_egmf import check_agreement


def test_processor_that_fits(make_config, make_processor):
    for audio, video in (("features", "features"), ("waveform", "frames"), (None, "frames"), ("waveform", None)):
        check_agreement(make_config(audio, video), make_processor(audio, video))


@pytest.mark.parametrize(
    ("inputs", "settings"),
    [
        (("features", "features"), {"num_pseudo_tokens": 7}),
        (("features", "features"), {"audio_feature_size": 9}),
        (("features", "features"), {"video_feature_size": 9}),
        (("waveform", "frames"), {"sampling_rate": 8000}),
        (("waveform", "frames"), {"frame_height": 32}),
        (("waveform", "frames"), {"frame_width": 32}),
        (("waveform", "frames"), {"audio_input": None}),
        (("waveform", "frames"), {"video_input": "features"}),
    ],
)
def test_processor_that_does_not_fit(make_config, make_processor, inputs, settings):
    (name,) = settings
    with pytest.raises(ValueError, match=f"does not fit the model: {name} is"):
        check_agreement(make_config(*inputs), make_processor(*inputs, **settings))


def test_another_placeholder(make_config, make_processor):
    config: EGMFConfig = make_config(placeholder_token_id=3)
    with pytest.raises(ValueError, match=r"placeholder_token_id is \d+ in the processor and 3 in the model"):
        check_agreement(config, make_processor())
