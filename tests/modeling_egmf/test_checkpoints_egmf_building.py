"""New models, labels, and the Auto classes with the installed package."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMultimodalLM,
    AutoProcessor,
    pipeline,
)

import modeling_egmf
import processing_egmf
from modeling_egmf import EGMFConfig, EGMFForConditionalGeneration


def test_new_model_around_a_language_model(bases, make_config, tmp_path):
    fields = make_config().to_dict()
    config = EGMFConfig.from_dict({**fields, "text_config": None})
    before = config.to_dict()
    model = EGMFForConditionalGeneration.from_language_model(bases / "llm_tied", config)
    assert config.to_dict() == before
    assert model.config.tie_word_embeddings
    assert model.config.text_model_id == str(bases / "llm_tied")
    assert model.egmf.pseudo_tokens.scale.item() != 1
    model.save_pretrained(tmp_path)
    assert AutoModel.from_pretrained(tmp_path).active_adapters() == ["default"]
    language_model = AutoModelForCausalLM.from_pretrained(bases / "llm_bfloat16")
    same = EGMFForConditionalGeneration.from_language_model(language_model, config)
    assert same.language_model is language_model
    assert same.config.text_model_id == str(bases / "llm_bfloat16")
    assert same.config.text_config.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("keywords", "error", "message"),
    [
        ({"device_map": "meta"}, ValueError, "no weights: give another `device_map`"),
        ({"device_map": {"": "cpu", "model.norm": "disk"}}, ValueError, "names language_model and its part"),
        ({"devicemap": "cpu"}, TypeError, "unexpected keyword argument 'devicemap'. Did you mean `device_map`"),
        ({"fusion_dropout": 0.5}, TypeError, "unexpected keyword argument 'fusion_dropout'"),
        ({"dtype": "bf16"}, ValueError, "`dtype` is 'bf16'; use one of"),
        ({"variant": "best"}, OSError, "llm could not be loaded .*model.best.safetensors"),
    ],
)
def test_keyword_of_a_new_model_is_refused(bases, make_config, keywords, error, message):
    with pytest.raises(error, match=message):
        EGMFForConditionalGeneration.from_language_model(bases / "llm", make_config(), **keywords)


@pytest.mark.parametrize("keywords", [{"dtype": "bfloat16"}, {"attn_implementation": "eager"}, {"devicemap": "cpu"}])
def test_keywords_of_loading_need_something_to_load(bases, make_config, keywords):
    """They were ignored without a word."""
    language_model = AutoModelForCausalLM.from_pretrained(bases / "llm")
    with pytest.raises(TypeError, match=rf"{next(iter(keywords))}: only for a language model that is to be loaded"):
        EGMFForConditionalGeneration.from_language_model(language_model, make_config(), **keywords)


def test_incomplete_language_model_is_refused(bases, make_config, tmp_path):
    """Its weights would be random."""
    shutil.copytree(bases / "llm", tmp_path / "llm")
    weights = load_file(tmp_path / "llm" / "model.safetensors")
    del weights["model.layers.0.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "llm" / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"weights of .*llm do not match .*missing_keys: .*layers\.0\.mlp\.up_proj"):
        EGMFForConditionalGeneration.from_language_model(tmp_path / "llm", make_config())


def test_revision_of_a_new_model_is_recorded(bases, make_config):
    model = EGMFForConditionalGeneration.from_language_model(bases / "llm", make_config(), revision="v2")
    assert model.config.text_model_revision == "v2"
    model = EGMFForConditionalGeneration.from_language_model(bases / "llm", make_config(text_model_revision="v1"))
    assert model.config.text_model_revision == "v1"


def test_random_language_model_must_be_asked_for(make_config):
    config = make_config()
    with pytest.raises(ValueError, match=r"random weights.*from_pretrained\(\).*from_language_model\('ORG/LLM'"):
        AutoModel.from_config(config)
    with torch.device("meta"):
        assert AutoModel.from_config(config).device.type == "meta"
    assert EGMFForConditionalGeneration(config).device.type == "cpu"


def test_labels_are_those_that_are_given(make_config, tmp_path):
    assert make_config().id2label == {}
    assert make_config().num_labels == 0
    make_config(id2label={0: "joy", 1: "anger", 2: "fear"}).save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    assert config.id2label == {0: "joy", 1: "anger", 2: "fear"}
    assert config.label2id == {"joy": 0, "anger": 1, "fear": 2}
    assert config.num_labels == 3


def test_installed_package_needs_no_trust(adapter, make_processor):
    folder = adapter[0]
    make_processor("features", "features").save_pretrained(folder)
    for auto_class in (AutoModel, AutoModelForCausalLM, AutoModelForMultimodalLM):
        assert type(auto_class.from_pretrained(folder)) is modeling_egmf.EGMFForConditionalGeneration
    assert type(AutoProcessor.from_pretrained(folder)) is processing_egmf.EGMFProcessor
    for task in ({"task": "multimodal-emotion-recognition"}, {}, {"trust_remote_code": True}):
        pipe = pipeline(**task, model=str(folder), device="cpu")
        assert type(pipe) is processing_egmf.EGMFPipeline
        assert pipe.model.config.text_model_id == str(folder.parent / "llm")


@pytest.fixture
def with_processor(adapter, make_processor):
    make_processor("features", "features").save_pretrained(adapter[0])
    return str(adapter[0])


@pytest.mark.parametrize("dtype", ["bfloat16", torch.bfloat16, "half", "float16", "float32", "auto", None])
def test_precision_of_a_pipeline(with_processor, dtype):
    expected = {"auto": torch.float32, None: torch.float32}.get(dtype, dtype)
    expected = getattr(torch, expected) if isinstance(expected, str) else expected
    pipe = pipeline("multimodal-emotion-recognition", model=with_processor, device="cpu", dtype=dtype)
    assert pipe.dtype == expected
    assert pipe(text="Well.")["label"]


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
@pytest.mark.parametrize("dtype", ["bf16", "fp16", "nonsense", 16])
def test_precision_of_a_pipeline_that_does_not_exist_is_refused(with_processor, name, dtype):
    """`transformers.pipeline` loaded the model in float32."""
    with pytest.raises(ValueError, match=f"`dtype` is '{dtype}', but the model is in float32. Give float16, bfloat16"):
        pipeline("multimodal-emotion-recognition", model=with_processor, device="cpu", **{name: dtype})
