"""Keywords of `from_pretrained`: fields of the configuration, files, and the refusal of what has no effect."""

import shutil

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoConfig, AutoModel, PreTrainedConfig

from modeling_egmf import EGMFConfig, EGMFEncoderConfig, EGMFForConditionalGeneration
from modeling_egmf.fields_egmf import UnknownFieldError, field_names, refuse_typos
from modeling_egmf.loading_egmf import full_device_map, text_model_device_map
from tests.helpers.checkpoint_files import outputs_of
from training.model.export import merge


load = EGMFForConditionalGeneration.from_pretrained
KINDS = ("adapter", "standalone")


@pytest.fixture(params=KINDS)
def checkpoint(request):
    """Folder, model and inputs of an adapter checkpoint and of a standalone one."""
    return request.getfixturevalue(request.param)


# ---- fields of the configuration ----------------------------------------------------------------------------


def test_fields_override_the_checkpoint(checkpoint):
    model = load(checkpoint[0], fusion_dropout=0.9, audio_config={"dropout": 0.5})
    assert model.config.fusion_dropout == 0.9
    assert model.config.audio_config.dropout == 0.5
    assert model.config.audio_config.feature_size == checkpoint[1].config.audio_config.feature_size
    assert model.egmf.fusion.cross_attention.dropout == 0.9


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"fusion_droput": 0.9}, "'fusion_droput'. Did you mean `fusion_dropout`"),
        ({"subfoldr": "x"}, r"^from_pretrained\(\) got .* argument 'subfoldr'. Did you mean `subfolder`\?"),
        ({"device_mapp": "cpu"}, r"^from_pretrained\(\) got .* 'device_mapp'. Did you mean `device_map`\?"),
        ({"anything": 1}, r"^from_pretrained\(\) got an unexpected keyword argument 'anything'. Leave it out"),
        ({"audio_config": {"droput": 0.5}}, "`audio_config` has no field 'droput'. Did you mean `dropout`"),
        ({"text_config": {"num_layers": 3}}, "has no field 'num_layers'. Did you mean `num_hidden_layers`"),
        ({"text_config": {"n_layer": 3}}, "`text_config` has no field 'n_layer'"),
        ({"text_config": {"rope_theta": 5.0}}, "`text_config` has no field 'rope_theta'"),  # it is in rope_parameters
        ({"text_config": {"rms_norm_epps": 1}}, "`text_config` has no field 'rms_norm_epps'. Did you mean `rms_norm"),
    ],
)
def test_unknown_keyword_is_refused(checkpoint, keywords, message):
    with pytest.raises(TypeError, match=message):
        load(checkpoint[0], **keywords)


@pytest.mark.parametrize("name", ["anything", "temperature", "device_map"])
def test_unknown_keyword_of_a_configuration_is_refused(checkpoint, name):
    with pytest.raises(UnknownFieldError, match=f"EGMFConfig has no field '{name}'"):
        EGMFConfig.from_pretrained(checkpoint[0], **{name: 3})
    unused = EGMFConfig.from_pretrained(checkpoint[0], return_unused_kwargs=True, **{name: 3})[1]
    assert unused == {name: 3}
    with pytest.raises(UnknownFieldError, match="'fusion_size'. Did you mean `fusion_hidden_size`"):
        EGMFConfig.from_pretrained(checkpoint[0], fusion_size=8)


def test_keywords_of_any_configuration_are_accepted(checkpoint, tmp_path):
    """Also those that the Auto classes pass on for tokenizers and models."""
    files = {"revision": "main", "cache_dir": tmp_path, "token": None, "proxies": None, "subfolder": ""}
    files |= {"force_download": False, "local_files_only": True, "gguf_file": None}
    fields = {"attn_implementation": "eager", "output_attentions": True, "name_or_path": "x", "dtype": "float16"}
    for each in (EGMFConfig, AutoConfig):
        config = each.from_pretrained(checkpoint[0], **files, **fields)
        assert config.dtype in ("float16", torch.float16)
        assert config._attn_implementation == "eager"
        assert each.from_pretrained(checkpoint[0], padding=3, return_unused_kwargs=True, **files)[1]["padding"] == 3
    assert AutoConfig.from_pretrained(checkpoint[0], code_revision="main", padding_side="right").model_type == "egmf"
    with pytest.raises(TypeError, match="Did you mean `fusion_dropout`"):
        AutoConfig.from_pretrained(checkpoint[0], fusion_droput=0.9)


def test_wrong_value_of_a_field_is_refused(checkpoint):
    message = r"config.json of .* with your fusion_dropout is not valid.*'fusion_dropout'.* smaller than 1, got 1.5"
    with pytest.raises(ValueError, match=message):
        load(checkpoint[0], fusion_dropout=1.5)


def test_misspelled_field_of_a_configuration_is_refused():
    with pytest.raises(TypeError, match="Did you mean `fusion_dropout`"):
        EGMFConfig(fusion_droput=0.9)
    with pytest.raises(TypeError, match="Did you mean `hidden_size`"):
        EGMFConfig(audio_config={"hiden_size": 8})
    with pytest.raises(TypeError, match="`text_config` has no field 'hiden_size'. Did you mean `hidden_size`"):
        EGMFConfig(text_config={"model_type": "llama", "hiden_size": 8})
    backbone = {"model_type": "wav2vec2", "hiden_size": 8}
    message = "`backbone_config` has no field 'hiden_size'"
    with pytest.raises(TypeError, match=message):
        EGMFEncoderConfig(input_type="waveform", backbone_config=backbone)
    with pytest.raises(TypeError, match=message):
        EGMFConfig(audio_config={"input_type": "waveform", "backbone_config": backbone})
    with pytest.raises(TypeError, match="`text_config` has no field 'hiden_size'"):
        EGMFConfig(text_config={"model_type": "gemma3", "text_config": {"model_type": "gemma3_text", "hiden_size": 8}})


@pytest.mark.parametrize(
    ("model_type", "field"),
    [("llama", "num_layers"), ("llama", "d_model"), ("gpt2", "num_layers"), ("qwen3", "n_head"), ("llama", "foo")],
)
def test_field_that_its_class_does_not_read_is_refused(model_type, field):
    with pytest.raises(TypeError, match=f"`text_config` has no field '{field}'"):
        EGMFConfig(text_config={"model_type": model_type, field: 3})


def test_field_of_no_configuration_is_refused():
    for name in ("anything", "window", "fusion_size"):
        with pytest.raises(TypeError, match=f"EGMFEncoderConfig has no field '{name}'"):
            EGMFEncoderConfig(**{name: 3})
        with pytest.raises(TypeError, match=f"EGMFConfig has no field '{name}'"):
            EGMFConfig(**{name: 3})


def test_fields_by_other_names_and_of_files_are_accepted():
    for field in ({"num_hidden_layers": 3}, {"n_layer": 3}, {"attn_implementation": "eager"}, {"use_cache": False}):
        EGMFConfig(text_config={"model_type": "gpt2", **field})
    for theta in (5.0, 10_000.0):
        text_config = EGMFConfig(text_config={"model_type": "llama", "rope_theta": theta}).text_config
        assert text_config.rope_parameters["rope_theta"] == theta
    EGMFConfig(text_config={"model_type": "llama", "pretraining_tp": 1, "rope_scaling": None, "anything": None})
    # As on the Hub.
    from_file = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_ctx": 1024, "anything": 3}
    assert EGMFConfig(text_config=from_file).text_config.n_ctx == 1024
    assert EGMFConfig(attn_implementation="eager")._attn_implementation == "eager"


def test_stored_configuration_of_another_version_may_have_other_fields(make_config, tmp_path):
    fields = make_config(audio="waveform").to_dict()
    fields["text_config"]["hidden_sizes"] = 8
    fields["video_config"]["old_dropout"] = 0.5
    fields["audio_config"]["backbone_config"] = {"model_type": "wav2vec2", "hiden_size": 8}
    config = EGMFConfig.from_dict(fields)
    assert config.text_config.hidden_sizes == 8
    config.save_pretrained(tmp_path)
    again = EGMFConfig.from_pretrained(tmp_path, text_config={"hidden_size": 64})
    assert again.text_config.hidden_sizes == 8
    assert again.text_config.hidden_size == 64
    assert again.audio_config.backbone_config.hiden_size == 8
    assert EGMFConfig(**make_config().to_dict()).to_dict() == make_config().to_dict()


def test_properties_and_older_keywords_of_nested_configurations_are_no_typos():
    backbone = AutoConfig.for_model("dinov2").to_dict()
    assert "out_indices" in backbone
    EGMFEncoderConfig(input_type="frames", backbone_config=backbone)
    EGMFConfig(text_config={"model_type": "bart", "forced_bos_token_id": 1, "sep_token_id": 2})


@pytest.mark.parametrize("name", ["gemma3n", "kimi_linear", "phi4_multimodal", "qwen3_vl_moe", "sam"])
def test_a_library_configuration_accepts_its_own_fields(name):
    """Some set fields that their class does not declare, or those of a nested configuration of another class."""
    if name not in CONFIG_MAPPING:
        pytest.skip(f"this version of transformers has no {name}")
    config_class = CONFIG_MAPPING[name]
    fields = {**config_class().to_dict(), "model_type": name}
    refuse_typos(EGMFConfig, {"text_config": fields})
    refuse_typos(EGMFEncoderConfig, {"backbone_config": fields})
    longest = max(field_names(config_class) - field_names(PreTrainedConfig), key=len)
    with pytest.raises(UnknownFieldError, match=f"Did you mean `{longest}`"):
        refuse_typos(EGMFConfig, {"text_config": {**fields, f"{longest}s": 1}})


def test_configuration_that_was_passed_is_not_changed(adapter, bases):
    config = EGMFConfig.from_pretrained(adapter[0])
    before = config.to_dict()
    load(adapter[0], config=config, dtype=torch.bfloat16)
    assert config.to_dict() == before
    with pytest.raises(TypeError, match="Set fusion_dropout in the `config`"):
        load(adapter[0], config=config, fusion_dropout=0.9)


# ---- files --------------------------------------------------------------------------------------------------


def test_subfolder_and_variant(checkpoint, tmp_path, bases):
    folder, model, inputs = checkpoint
    location = {"text_model_id": bases / "llm"} if model.config.text_model_id else {}
    model.save_pretrained(tmp_path / "repo" / "sub", variant="best")
    shutil.copy(folder / "model.safetensors", tmp_path / "other.safetensors")
    loaded = load(tmp_path / "repo", subfolder="sub", variant="best", local_files_only=True, **location)
    assert torch.equal(outputs_of(loaded, inputs)["logits"], outputs_of(model, inputs)["logits"])
    with pytest.raises(OSError, match="model.safetensors"):
        load(tmp_path / "repo", subfolder="sub", **location)
    with pytest.raises(OSError, match=r"config\.json"):
        load(tmp_path / "repo", **location)
    with pytest.raises(OSError, match=rf"config\.json of {tmp_path / 'repo' / 'sbu'} is missing"):
        load(tmp_path / "repo", subfolder="sbu", **location)


def test_float64(checkpoint):
    """Only the language model is in it."""
    folder, model, inputs = checkpoint
    loaded = load(folder, dtype=torch.float64)
    assert loaded.dtype == torch.float64
    expected = model.score_answers(**inputs).probabilities
    torch.testing.assert_close(loaded.score_answers(**inputs).probabilities, expected, atol=1e-5, rtol=0)


def test_shards_are_read(checkpoint, tmp_path, bases):
    _, model, inputs = checkpoint
    location = {"text_model_id": bases / "llm"} if model.config.text_model_id else {}
    model.save_pretrained(tmp_path / "shards", max_shard_size="5KB")
    paths = sorted((tmp_path / "shards").glob("model-*.safetensors"))
    assert len(paths) > 1
    loaded = load(tmp_path / "shards", **location)
    assert torch.equal(outputs_of(loaded, inputs)["logits"], outputs_of(model, inputs)["logits"])
    paths[0].unlink()
    with pytest.raises(OSError, match=f"{paths[0].name}"):
        load(tmp_path / "shards", **location)


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
@pytest.mark.parametrize("value", [torch.bfloat16, "bfloat16"])
def test_precision_of_the_language_model(checkpoint, name, value):
    keywords = {name: value}
    models = [load(checkpoint[0], **keywords), load(checkpoint[0], text_config=keywords)]
    models.append(AutoModel.from_pretrained(checkpoint[0], text_config=keywords))
    for model in models:
        assert model.dtype == torch.bfloat16
        assert model.get_input_embeddings().weight.dtype == torch.bfloat16
        assert model.config.text_config.dtype == torch.bfloat16
    assert load(checkpoint[0], text_config=keywords, dtype="auto").dtype == torch.bfloat16


@pytest.mark.parametrize("modality", ["audio", "video"])
@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
def test_precision_of_an_encoder_is_that_of_its_backbone(checkpoint, modality, name):
    """Anything else of it is in float32: another precision had no effect."""
    for value in ("bfloat16", torch.float16):
        with pytest.raises(ValueError, match=f"`{modality}_config` has no `dtype`, only `backbone_dtype`"):
            load(checkpoint[0], **{f"{modality}_config": {name: value}})
    for value in ("float32", None):
        model = load(checkpoint[0], **{f"{modality}_config": {name: value}})
        assert {weight.dtype for weight in model.egmf.parameters()} == {torch.float32}


@pytest.mark.parametrize("value", ["bf16", "torch.bfloat16", "float8_e4m3fn", torch.int8, {"text_config": "bfloat16"}])
def test_unknown_precision_is_refused(checkpoint, value):
    message = "`dtype` is .*; use one of float16, bfloat16, float32, float64"
    for keywords in ({"dtype": value}, {"torch_dtype": value}, {"text_config": {"dtype": value}}):
        with pytest.raises(ValueError, match=message):
            load(checkpoint[0], **keywords)
    for keywords in ({"dtype": value}, {"text_config": {"model_type": "llama", "dtype": value}}):
        with pytest.raises(ValueError, match=message):
            EGMFConfig(**keywords)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"use_safetensors": False}, "only safetensors"),
        ({"ignore_mismatched_sizes": True}, "leave out ignore_mismatched_sizes"),
        ({"device_map": "meta"}, "no weights: give another `device_map`"),
        (
            {"device_map": {"": "cpu", "model.norm": "disk"}},
            "names language_model and its part",
        ),
    ],
)
def test_keyword_that_would_leave_weights_unloaded_is_refused(checkpoint, keywords, message):
    with pytest.raises(ValueError, match=message):
        load(checkpoint[0], **keywords)


def test_adapter_refuses_weights_from_elsewhere(adapter):
    with pytest.raises(ValueError, match="adapter checkpoint, which does not take state_dict"):
        load(adapter[0], state_dict={})


@pytest.mark.parametrize(
    "name", ["use_cache", "num_labels", "tie_word_embeddings", "output_attentions", "name_or_path"]
)
def test_attribute_of_the_language_model_is_no_keyword(checkpoint, name):
    """It had no effect, or one on adapter checkpoints only."""
    with pytest.raises(TypeError, match=rf"Not an argument: {name}. Set model.config.text_config.{name}"):
        load(checkpoint[0], **{name: False})


@pytest.mark.parametrize(
    ("keywords", "problem"),
    [
        ({"device_map": "gpu"}, "device name"),
        ({"device_map": {"": "gpu"}}, "device type"),
        ({"device_map": -1}, "negative int"),
        ({"attn_implementation": "flash"}, 'attn_implementation="flash"` is not supported'),
        ({"experts_implementation": "fast"}, 'experts_implementation="fast"` is not supported'),
        ({"quantization_config": {"quant_method": "nf4"}}, "Unknown quantization type"),
        ({"quantization_config": {}}, "quant_method"),
    ],
)
def test_error_of_an_argument_does_not_ask_for_another_file(checkpoint, keywords, problem):
    with pytest.raises(OSError, match=rf"could not be loaded.*{problem}.*\)\. Check the arguments\.$"):
        load(checkpoint[0], **keywords)


def test_wrong_value_of_a_keyword_is_a_possible_cause(checkpoint):
    with pytest.raises(OSError, match=r"could not be loaded.*\)\. .* Or check the arguments\.$"):
        load(checkpoint[0], device_map="auto", max_memory="1GB")


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"device_map": ["cpu"]}, r"`device_map` is \['cpu'\]; give a dict by names of modules"),
        ({"device_map": ("cpu",)}, r"`device_map` is \('cpu',\); give a dict"),
        ({"device_map": {1: "cpu"}}, "`device_map` is {1: 'cpu'}; give a dict"),
        ({"adapter_name": "german"}, "`adapter_name` has no effect: leave it out"),
        ({"code_revision": "v1"}, "`code_revision` has no effect: leave it out"),
        ({"quantization_config": "nf4"}, "`quantization_config`: give a BitsAndBytesConfig"),
        ({"quantization_config": True}, "`quantization_config`: give a BitsAndBytesConfig"),
    ],
)
def test_argument_of_a_wrong_type_is_named(checkpoint, keywords, message):
    with pytest.raises(TypeError, match=message):
        load(checkpoint[0], **keywords)


def test_gguf_file_is_only_for_a_language_model(adapter, standalone):
    with pytest.raises(ValueError, match="standalone has no GGUF file"):
        load(standalone[0], gguf_file="x.gguf")
    with pytest.raises(OSError, match="its language model .* does not appear to have a file named x.gguf"):
        load(adapter[0], gguf_file="x.gguf")


# ---- attention ----------------------------------------------------------------------------------------------


def attentions_of(model):
    encoders = model.egmf.audio_visual_encoder
    layer = model.language_model.model.layers[0].self_attn
    parts = (layer, encoders.audio.stem.backbone, encoders.video.stem.backbone)
    return [part.config._attn_implementation for part in parts]


@pytest.fixture(params=KINDS)
def with_backbones(request, bases, tmp_path, make_adapter_model, make_backbones):
    """A checkpoint with pretrained encoders."""
    model = make_adapter_model(text_model_id=str(bases / "llm"), **make_backbones(str(bases / "vit")))
    model = model if request.param == "adapter" else merge(model)
    model.save_pretrained(tmp_path / "egmf")
    return tmp_path / "egmf"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, ["sdpa", "sdpa", "sdpa"]),
        ({}, ["sdpa", "sdpa", "sdpa"]),
        ("eager", ["eager", "sdpa", "sdpa"]),
        ({"": "eager"}, ["eager", "sdpa", "sdpa"]),
        ({"text_config": "eager"}, ["eager", "sdpa", "sdpa"]),
        ({"": "sdpa", "text_config": "eager"}, ["eager", "sdpa", "sdpa"]),
        ({"audio_config": "eager"}, ["sdpa", "eager", "sdpa"]),
        ({"video_config": {"backbone_config": "eager"}}, ["sdpa", "sdpa", "eager"]),
        ({"text_config": "eager", "video_config": "eager"}, ["eager", "sdpa", "eager"]),
    ],
)
def test_attention_by_part_of_the_model(with_backbones, value, expected):
    assert attentions_of(load(with_backbones, attn_implementation=value)) == expected
    assert attentions_of(AutoModel.from_pretrained(with_backbones, attn_implementation=value)) == expected
    config = EGMFConfig.from_pretrained(with_backbones)
    assert attentions_of(load(with_backbones, config=config, attn_implementation=value)) == expected
    assert config._attn_implementation is None


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, ["sdpa", "sdpa", "sdpa"]),
        ("eager", ["eager", "sdpa", "sdpa"]),
        ({"": "eager"}, ["eager", "sdpa", "sdpa"]),
        ({"text_config": "eager"}, ["eager", "sdpa", "sdpa"]),
        ({"video_config": "eager"}, ["sdpa", "sdpa", "eager"]),
        ({"audio_config": {"backbone_config": "eager"}}, ["sdpa", "eager", "sdpa"]),
    ],
)
def test_attention_is_set_as_it_is_loaded(with_backbones, bases, value, expected):
    """An encoder kept its own, although the configuration changed."""
    model = load(with_backbones)
    model.set_attn_implementation(value)
    assert attentions_of(model) == expected
    config = EGMFConfig.from_pretrained(with_backbones)
    config.text_config = config.text_model_id = None
    config.audio_config.backbone_id = str(bases / "wav2vec2")
    config.video_config.backbone_id = str(bases / "vit")
    config.audio_config.backbone_trainable = False
    before = config.to_dict()
    new = EGMFForConditionalGeneration.from_language_model(bases / "llm", config, attn_implementation=value)
    assert attentions_of(new) == expected
    assert config.to_dict() == before


def test_attention_of_the_language_model_changes_no_answer(checkpoint):
    folder, model, inputs = checkpoint
    expected = model.score_answers(**inputs).probabilities
    for keywords in (
        {"attn_implementation": {"text_config": "eager"}},
        {"text_config": {"attn_implementation": "eager"}},
    ):
        loaded = load(folder, **keywords)
        assert loaded.language_model.config._attn_implementation == "eager"
        torch.testing.assert_close(loaded.score_answers(**inputs).probabilities, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_frozen_encoder_in_16_bits_stays_so(tmp_path, bases, make_adapter_model, make_backbones, inputs_for, dtype):
    """A standalone checkpoint ran it in float32, with other answers than the model that was saved."""
    model = make_adapter_model(text_model_id=str(bases / "llm"), **make_backbones(str(bases / "vit")))
    model.config.video_config.backbone_dtype = dtype
    model.save_pretrained(tmp_path / "adapter")
    adapter = load(tmp_path / "adapter")
    merge(adapter).save_pretrained(tmp_path / "standalone")
    standalone = load(tmp_path / "standalone")
    inputs = inputs_for(model)
    expected = adapter.score_answers(**inputs).probabilities
    for each in (adapter, standalone):
        for cast in (torch.float32, torch.bfloat16, torch.float16, torch.float32):
            backbone = each.to(cast).egmf.audio_visual_encoder.video.stem.backbone
            assert {weight.dtype for weight in backbone.parameters()} == {getattr(torch, dtype)}
    actual = load(tmp_path / "standalone").score_answers(**inputs).probabilities
    torch.testing.assert_close(actual, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("part", ["txt_config", "language_model", "backbone_config"])
def test_attention_of_an_unknown_part_is_refused(checkpoint, part):
    for each in (load, AutoModel.from_pretrained, EGMFConfig.from_pretrained):
        with pytest.raises(UnknownFieldError, match=f"`attn_implementation` has no field '{part}'"):
            each(checkpoint[0], attn_implementation={part: "eager"})
    with pytest.raises(UnknownFieldError, match=f"`attn_implementation` has no field '{part}'"):
        load(checkpoint[0]).set_attn_implementation({part: "eager"})


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        ({"audio_config": {"backbone": "eager"}}, UnknownFieldError, "of `audio_config` has no field 'backbone'. Did"),
        ({"text_config": {"vision_config": "eager"}}, UnknownFieldError, "of `text_config` has no field 'vision_con"),
        (5, TypeError, "`attn_implementation` is 5; give a name, or a dict by part of the model"),
        (["eager"], TypeError, r"`attn_implementation` is \['eager'\]; give a name"),
        ({"text_config": 5}, TypeError, "`attn_implementation` of `text_config` is 5; give a name"),
    ],
)
def test_attention_of_another_kind_is_refused(checkpoint, bases, value, error, message):
    """A nested name was ignored without a word."""
    model = load(checkpoint[0])
    with pytest.raises(error, match=message):
        model.set_attn_implementation(value)
    with pytest.raises(error, match=message):
        load(checkpoint[0], attn_implementation=value)
    with pytest.raises(error, match=message):
        EGMFForConditionalGeneration.from_language_model(bases / "llm", model.config, attn_implementation=value)


# ---- device maps --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device_map", [{}, {"egmf": "cpu"}, {"": "cpu"}])
def test_device_map_may_leave_out_the_language_model(checkpoint, device_map):
    folder, model, inputs = checkpoint
    loaded = load(folder, device_map=device_map)
    assert torch.equal(outputs_of(loaded, inputs)["logits"], outputs_of(model, inputs)["logits"])


@pytest.mark.parametrize(
    ("device_map", "name", "hint"),
    [
        ({"nowhere": "cpu"}, "language_model.nowhere", ""),
        ({"model": "cpu", "lm_heat": "cpu"}, "language_model.lm_heat", " Did you mean `language_model.lm_head`"),
        ({"language_model": "cpu", "egmf.fusio": "cpu"}, "egmf.fusio", " Did you mean `egmf.fusion`"),
        ({"model.layers.7": "cpu", "model.layers.0": "cpu"}, "language_model.model.layers.7", ""),
        ({"zz": "cpu", "lm_heat": "cpu"}, "language_model.lm_heat", ".*no module 'language_model.zz'"),
    ],
)
def test_device_map_with_an_unknown_module_is_refused(checkpoint, device_map, name, hint):
    """It was ignored without a word where all devices are the same."""
    with pytest.raises(ValueError, match=f"`device_map`: there is no module '{name}'.{hint}"):
        load(checkpoint[0], device_map=device_map)


def test_device_map_by_the_names_of_the_whole_model_or_of_the_language_model():
    short = {"model.embed_tokens": 1, "model.layers": "disk"}
    full = {"egmf": 1, "language_model.model.embed_tokens": 1, "language_model.model.layers": "disk"}
    assert full_device_map(short) == full
    assert full_device_map(full) == full
    assert text_model_device_map(full) == short
    assert full_device_map({"": "disk"}) == {"egmf": "cpu", "language_model": "disk"}
    assert text_model_device_map({"": "disk"}) == {"": "disk"}
    assert full_device_map("auto") == "auto"
