"""Every wrong number of a new model is refused with its name, all of them at once."""

import pytest

from modeling_egmf import EGMFConfig, EGMFEncoderConfig
from training.arguments import ModelArguments
from training.model.builder import build
from training.model.check_config import check_config


EXPERT = {"name": "one", "bottleneck_ratio": 2, "activation": "gelu"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"fusion_hidden_size": 30, "fusion_attention_heads": 4}, "`fusion_hidden_size` 30 is no multiple"),
        ({"fusion_attention_heads": 0}, "`fusion_attention_heads` is 0; it must be at least 1"),
        ({"fusion_hidden_size": 0}, "`fusion_hidden_size` is 0; it must be at least 1"),
        ({"fusion_dropout": 1.0}, r"`fusion_dropout` is 1.0; it must lie in \[0, 1\)"),
        ({"fusion_dropout": -0.1}, "`fusion_dropout` is -0.1"),
        ({"num_pseudo_tokens": 0}, "`num_pseudo_tokens` is 0; it must be at least 1"),
        ({"experts": []}, "`experts` is empty"),
        ({"experts": [EXPERT, EXPERT]}, "Two experts share a name"),
        ({"experts": [{**EXPERT, "activation": "swoosh"}]}, "Unknown activation 'swoosh'"),
        ({"experts": [{**EXPERT, "bottleneck_ratio": 0}]}, "must lie in"),
        ({"experts": [{**EXPERT, "bottleneck_ratio": 257}]}, r"must lie in \[1, 256\]"),
        ({"experts": [{**EXPERT, "width": 3}]}, "exactly name, bottleneck_ratio and activation"),
        ({"experts": [{"name": "one"}]}, "exactly name, bottleneck_ratio and activation"),
        (
            {"audio_config": {"input_type": "frames"}},
            "`audio_config.input_type` is 'frames'; use 'features' or 'waveform'",
        ),
        (
            {"video_config": {"input_type": "waveform"}},
            "`video_config.input_type` is 'waveform'; use 'features' or 'frames'",
        ),
    ],
)
def test_wrong_value_is_named(fields, message):
    with pytest.raises(ValueError, match=message):
        check_config(EGMFConfig(**fields))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"feature_size": 0}, "`feature_size` is 0; it must be at least 1"),
        ({"hidden_size": 0}, "`hidden_size` is 0"),
        ({"num_layers": 0}, "`num_layers` is 0"),
        ({"num_attention_heads": 0}, "`num_attention_heads`"),
        ({"hidden_size": 10, "num_attention_heads": 4}, "no multiple of `num_attention_heads` 4"),
        ({"hidden_size": 9, "num_attention_heads": 3, "sequence_encoder": "gru"}, "`hidden_size`"),
        ({"num_mel_bins": 0}, "`num_mel_bins` is 0"),
        ({"sampling_rate": 0}, "`sampling_rate` is 0"),
        ({"frame_height": 0}, "`frame_height` is 0"),
        ({"frame_width": 0}, "`frame_width` is 0"),
        ({"hop_seconds": 0.0}, "`hop_seconds`"),
        ({"window_seconds": 0.0}, "`window_seconds`"),
        ({"dropout": 1.5}, "`dropout`"),
        ({"backbone_config": {"model_type": "vit"}}, "Precomputed features take no backbone"),
    ],
)
def test_wrong_encoder_value_is_named(fields, message):
    with pytest.raises(ValueError, match=message):
        check_config(EGMFConfig(audio_config=EGMFEncoderConfig(**fields)))


def test_everything_wrong_is_told_at_once():
    audio = EGMFEncoderConfig(hop_seconds=0.0, dropout=2.0)
    with pytest.raises(
        ValueError, match=r"(?s)`fusion_dropout`.*audio_config: `hop_seconds`.*audio_config: `dropout`"
    ):
        check_config(EGMFConfig(fusion_dropout=2.0, audio_config=audio))


def test_what_can_be_built_passes(make_config):
    check_config(EGMFConfig())
    check_config(make_config("waveform", "frames"))
    check_config(make_config(None, None))


def test_a_new_model_is_checked(make_language_model, trained_tokenizer, tmp_path):
    make_language_model().save_pretrained(tmp_path)
    trained_tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="`fusion_hidden_size` 30 is no multiple of `fusion_attention_heads` 4"):
        build(ModelArguments(text_model_name_or_path=str(tmp_path), fusion_hidden_size=30))
