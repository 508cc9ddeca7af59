"""Configurations: wrong types and values are refused by name, and config.json round trips."""

import json

import pytest
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, LlamaConfig, ViTConfig

from modeling_egmf import EGMFConfig, EGMFEncoderConfig
from training.arguments import ModelArguments
from training.model.builder import build


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
    assert config.text_config is None
    assert config.audio_config is None
    assert config.video_config is None


def test_configurations_do_not_share_their_experts():
    first = EGMFConfig()
    first.experts[0]["activation"] = "relu"
    assert EGMFConfig().experts[0]["activation"] == "mish"


def config_with_every_part(make_config):
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
    config = config_with_every_part(make_config)
    config.save_pretrained(tmp_path)
    loaded = EGMFConfig.from_pretrained(tmp_path)
    assert loaded.to_dict() == config.to_dict()
    assert isinstance(loaded.text_config, LlamaConfig)
    assert isinstance(loaded.audio_config, EGMFEncoderConfig)
    assert isinstance(loaded.video_config.backbone_config, ViTConfig)


def test_second_save_writes_the_same_file(make_config, tmp_path):
    config_with_every_part(make_config).save_pretrained(tmp_path / "one")
    EGMFConfig.from_pretrained(tmp_path / "one").save_pretrained(tmp_path / "two")
    texts = [(tmp_path / name / "config.json").read_text() for name in ("one", "two")]
    assert texts[0] == texts[1]


def test_round_trip_without_media(make_config, tmp_path):
    make_config(None, None).save_pretrained(tmp_path)
    loaded = EGMFConfig.from_pretrained(tmp_path)
    assert loaded.audio_config is None
    assert loaded.video_config is None


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
    backbone = ViTConfig(hidden_size=8, num_attention_heads=2)
    backbone._attn_implementation = "sdpa"
    video = EGMFEncoderConfig(input_type="frames", backbone_config=backbone)
    config = EGMFConfig(text_config=tiny_text_config, video_config=video)
    assert config._attn_implementation is None
    assert config.text_config._attn_implementation == "eager"
    assert config.video_config.backbone_config._attn_implementation == "sdpa"
    # Without a name of a part, it is for the language model.
    chosen = EGMFConfig(text_config=tiny_text_config, video_config=video, attn_implementation="sdpa")
    assert chosen.text_config._attn_implementation == "sdpa"
    by_part = {"text_config": "sdpa", "video_config": "eager"}
    chosen = EGMFConfig(text_config=tiny_text_config, video_config=video, attn_implementation=by_part)
    assert chosen.text_config._attn_implementation == "sdpa"
    assert chosen.video_config.backbone_config._attn_implementation == "eager"


# ---- validation ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"fusion_hidden_size": 30, "fusion_attention_heads": 4},
            r"`fusion_hidden_size` is 30, which is not a multiple of `fusion_attention_heads` \(4\)",
        ),
        ({"fusion_attention_heads": 0}, "'fusion_attention_heads':\n.*must be greater or equal to 1, got 0"),
        ({"fusion_hidden_size": 0}, "'fusion_hidden_size':\n.*must be greater or equal to 1, got 0"),
        ({"fusion_dropout": 1.0}, "'fusion_dropout':\n.*must be greater or equal to 0 and smaller than 1, got 1.0"),
        ({"fusion_dropout": -0.1}, "'fusion_dropout':\n.*must be greater or equal to 0 and smaller than 1, got -0.1"),
        ({"num_pseudo_tokens": 0}, "'num_pseudo_tokens':\n.*must be greater or equal to 1, got 0"),
        ({"experts": []}, "`experts` is empty"),
        ({"experts": [EXPERT, EXPERT]}, "Two experts share a name"),
        ({"experts": [{**EXPERT, "activation": "swoosh"}]}, "Unknown activation 'swoosh' of expert 'one'"),
        ({"experts": [{**EXPERT, "bottleneck_ratio": 0}]}, r"`bottleneck_ratio` of expert 'one' is 0; it must be in"),
        ({"experts": [{**EXPERT, "bottleneck_ratio": 257}]}, r"must be in \[1, 256\]"),
        ({"experts": [{**EXPERT, "width": 3}]}, "needs name, bottleneck_ratio and activation"),
        ({"experts": [{"name": "one"}]}, "needs name, bottleneck_ratio and activation"),
        (
            {"audio_config": {"input_type": "frames"}},
            "`audio_config.input_type` is 'frames'; use 'features' or 'waveform'",
        ),
        (
            {"video_config": {"input_type": "waveform"}},
            "`video_config.input_type` is 'waveform'; use 'features' or 'frames'",
        ),
        ({"audio_config": {"hidden_size": 0}}, "'hidden_size':\n.*must be greater or equal to 1, got 0"),
    ],
)
def test_wrong_value_is_refused_with_its_bound(fields, message):
    with pytest.raises(StrictDataclassError, match=message):
        EGMFConfig(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"feature_size": 0}, "'feature_size':\n.*must be greater or equal to 1, got 0"),
        ({"hidden_size": 0}, "'hidden_size':\n.*got 0"),
        ({"num_layers": 0}, "'num_layers':\n.*got 0"),
        ({"num_attention_heads": 0}, "'num_attention_heads':\n.*got 0"),
        ({"hidden_size": 10, "num_attention_heads": 4}, r"not a multiple of `num_attention_heads` \(4\)"),
        ({"hidden_size": 9, "num_attention_heads": 3}, "`hidden_size` is 9; a bidirectional GRU needs an even number"),
        ({"num_mel_bins": 0}, "'num_mel_bins':\n.*got 0"),
        ({"sampling_rate": 0}, "'sampling_rate':\n.*got 0"),
        ({"frame_height": 0}, "'frame_height':\n.*got 0"),
        ({"frame_width": 0}, "'frame_width':\n.*got 0"),
        ({"hop_seconds": 0.0}, "`hop_seconds` is 0.0; it must be at least one sample long"),
        ({"window_seconds": 0.0}, "`window_seconds` is 0.0; it must be at least one sample long"),
        ({"dropout": 1.5}, "'dropout':\n.*must be greater or equal to 0 and smaller than 1, got 1.5"),
        ({"backbone_config": {"model_type": "vit"}}, "Precomputed features do not use a backbone"),
        ({"backbone_trainable": True, "backbone_dtype": "bfloat16"}, "a backbone is trained in float32"),
        ({"backbone_chunk_steps": 0}, "'backbone_chunk_steps':\n.*must be a positive integer, got 0"),
        ({"input_type": "frames", "pooling": "statistics"}, "Use 'attention' for an encoder that is trained from"),
    ],
)
def test_wrong_encoder_value_is_refused_with_its_bound(fields, message):
    with pytest.raises(StrictDataclassError, match=message):
        EGMFEncoderConfig(**fields)


def test_damaged_config_file_is_refused(make_config, tmp_path):
    make_config().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    stored = json.loads(path.read_text())
    stored["audio_config"]["dropout"] = 2.0
    path.write_text(json.dumps(stored))
    with pytest.raises(StrictDataclassError, match="config.json.*'dropout'.* smaller than 1, got 2.0"):
        EGMFConfig.from_pretrained(tmp_path)


def test_all_unknown_fields_are_named(make_config, tmp_path):
    every = (
        "^EGMFConfig has no field 'bar'. EGMFConfig has no field 'fusion_droput'. Did you mean `fusion_dropout`. "
        "EGMFConfig has no field 'zz'.$"
    )
    with pytest.raises(TypeError, match=every):
        make_config(zz=1, fusion_droput=2, bar=3)
    make_config().save_pretrained(tmp_path)
    with pytest.raises(TypeError, match="has no field 'bar'. EGMFConfig has no field 'zz'"):
        EGMFConfig.from_pretrained(tmp_path, zz=1, bar=3)
    with pytest.raises(TypeError, match="no field 'fusion_droput'.* has no field 'fusion_norm'.*`fusion_norms`"):
        EGMFConfig.from_pretrained(tmp_path, fusion_norm=1, fusion_droput=2)


def test_wrong_value_is_not_saved(make_config, tmp_path):
    config = make_config()
    config.fusion_attention_heads = 3
    with pytest.raises(StrictDataclassError, match=r"not a multiple of `fusion_attention_heads` \(3\)"):
        config.save_pretrained(tmp_path)


def test_wrong_value_is_not_assigned(make_config):
    config = make_config()
    with pytest.raises(StrictDataclassError, match="'num_pseudo_tokens':\n.*got 0"):
        config.num_pseudo_tokens = 0
    assert config.num_pseudo_tokens == 3


def test_training_refuses_a_wrong_value_as_a_user_error(
    make_language_model,
    trained_tokenizer,
    tmp_path,
):
    """The error is a ValueError, which commands report in one line."""
    make_language_model().save_pretrained(tmp_path)
    trained_tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"`fusion_hidden_size` is 30, which is not a multiple") as error:
        build(ModelArguments(text_model_name_or_path=str(tmp_path), fusion_hidden_size=30))
    assert "Class validation error" not in str(error.value)
