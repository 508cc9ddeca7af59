"""What has the wrong type is refused with its name, and what is stored comes back."""

import json

import pytest
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, LlamaConfig, ViTConfig

from modeling_egmf import EGMFConfig, EGMFEncoderConfig


EXPERT = {"name": "one", "bottleneck_ratio": 2, "activation": "gelu"}


@pytest.mark.parametrize(
    ("config", "fields"),
    [(EGMFConfig, {"text_config": {"hidden_size": 8}}), (EGMFEncoderConfig, {"backbone_config": {"hidden_size": 8}})],
)
def test_nested_configuration_without_its_type_is_refused(config, fields):
    with pytest.raises(ValueError, match=f"`{next(iter(fields))}` has no `model_type`"):
        config(**fields)


@pytest.mark.parametrize(
    ("config", "fields"),
    [
        (EGMFConfig, {"num_pseudo_tokens": "four"}),
        (EGMFConfig, {"text_model_id": 3}),
        (EGMFEncoderConfig, {"hidden_size": 8.5}),
        (EGMFEncoderConfig, {"backbone_trainable": "yes"}),
        (EGMFConfig, {"pseudo_token_projection": "twice"}),
        (EGMFEncoderConfig, {"input_type": "video"}),
        (EGMFEncoderConfig, {"sequence_encoder": "lstm"}),
    ],
)
def test_wrong_type_or_kind_is_refused(config, fields):
    with pytest.raises(StrictDataclassError, match=next(iter(fields))):
        config(**fields)


def test_defaults_are_valid():
    config = EGMFConfig()
    assert config.expert_names == ["local", "semantic", "global"]
    assert config.text_config.model_type == "llama"
    assert config.audio_config is None
    assert config.video_config is None


def test_configurations_do_not_share_their_experts():
    first = EGMFConfig()
    first.experts[0]["activation"] = "relu"
    assert EGMFConfig().experts[0]["activation"] == "mish"


def full_config(make_config):
    video = EGMFEncoderConfig(
        input_type="frames", backbone_config=ViTConfig(hidden_size=8), backbone_id="org/vit", backbone_revision="abc"
    )
    return make_config(
        "waveform",
        video,
        experts=[EXPERT],
        bidirectional_attention=True,
        pseudo_token_projection="separate",  # noqa: S106
        text_model_id="org/llm",
        text_model_revision="v1",
        text_model_fingerprint="0123",
    )


def test_json_round_trip(make_config, tmp_path):
    config = full_config(make_config)
    config.save_pretrained(tmp_path)
    found = EGMFConfig.from_pretrained(tmp_path)
    assert found.to_dict() == config.to_dict()
    assert isinstance(found.text_config, LlamaConfig)
    assert isinstance(found.audio_config, EGMFEncoderConfig)
    assert isinstance(found.video_config.backbone_config, ViTConfig)


def test_second_save_writes_the_same_file(make_config, tmp_path):
    full_config(make_config).save_pretrained(tmp_path / "one")
    EGMFConfig.from_pretrained(tmp_path / "one").save_pretrained(tmp_path / "two")
    texts = [(tmp_path / name / "config.json").read_text() for name in ("one", "two")]
    assert texts[0] == texts[1]


def test_round_trip_without_media(make_config, tmp_path):
    make_config(None, None).save_pretrained(tmp_path)
    found = EGMFConfig.from_pretrained(tmp_path)
    assert found.audio_config is None
    assert found.video_config is None


def test_no_local_path_is_stored(tmp_path, tiny_text_config):
    tiny_text_config.save_pretrained(tmp_path / "llm")
    ViTConfig(hidden_size=8, num_attention_heads=2).save_pretrained(tmp_path / "vit")
    video = EGMFEncoderConfig(
        input_type="frames", backbone_config=AutoConfig.from_pretrained(tmp_path / "vit"), backbone_id="../vit"
    )
    config = EGMFConfig(
        text_config=AutoConfig.from_pretrained(tmp_path / "llm"), video_config=video, text_model_id="../llm"
    )
    config.save_pretrained(tmp_path / "egmf")
    assert str(tmp_path) not in (tmp_path / "egmf" / "config.json").read_text()


def test_auto_map_names_every_auto_class(make_config, tmp_path):
    make_config().save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())["auto_map"]
    model = "modeling_egmf.EGMFForConditionalGeneration"
    assert stored == {
        "AutoConfig": "configuration_egmf.EGMFConfig",
        "AutoModel": model,
        "AutoModelForCausalLM": model,
        "AutoModelForMultimodalLM": model,
    }


@pytest.mark.parametrize("tied", [True, False])
def test_tied_embeddings_follow_the_language_model(tiny_text_config, tied):
    tiny_text_config.tie_word_embeddings = tied
    assert EGMFConfig(text_config=tiny_text_config).tie_word_embeddings == tied


def test_attention_of_nested_configurations_is_kept(tiny_text_config):
    tiny_text_config._attn_implementation = "eager"
    assert EGMFConfig(text_config=tiny_text_config).text_config._attn_implementation == "eager"
