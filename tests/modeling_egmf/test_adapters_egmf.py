"""Layers and fields of an adapter: an architecture's default, and the refusal of what model or peft do not have."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from modeling_egmf import EGMFForConditionalGeneration
from modeling_egmf.adapters_egmf import check_lora_targets, default_lora_targets, linear_layer_names


SMALL = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def language_model(model_type, **fields):
    """A language model without weights."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **{**SMALL, **fields}))


@pytest.mark.parametrize(
    ("model_type", "fields", "targets"),
    [
        ("gpt2", {}, ["c_attn"]),
        ("bloom", {}, ["query_key_value"]),
        ("llama", {"intermediate_size": 16}, ["q_proj", "v_proj"]),
        ("glm", {"intermediate_size": 16, "head_dim": 8, "pad_token_id": 0}, ["q_proj", "v_proj"]),
        ("phi3", {"intermediate_size": 16, "pad_token_id": 0}, ["qkv_proj"]),
    ],
)
def test_default_layers_of_an_architecture(model_type, fields, targets):
    model = language_model(model_type, **fields)
    assert default_lora_targets(model) == targets
    check_lora_targets(model, targets)


def test_architecture_without_default_layers_names_its_linear_layers():
    model = language_model("mamba", state_size=4)
    with pytest.raises(ValueError, match=r"no default layers for a 'mamba'.*--lora_target_modules.*in_proj, lm_head"):
        default_lora_targets(model)


@pytest.mark.parametrize(
    ("targets", "missing"),
    [
        (["q_proj", "v_proj"], "q_proj, v_proj"),
        (["c_attn", "v_proj"], "v_proj"),
        (["attn"], "attn"),
        (["ttn"], "ttn"),
        ([], ""),
    ],
)
def test_layers_that_are_not_there_are_refused(targets, missing):
    with pytest.raises(ValueError, match=f"no linear layer {missing}.*linear layers: c_attn, c_fc, c_proj, lm_head"):
        check_lora_targets(language_model("gpt2"), targets)


def test_full_names_and_patterns_are_accepted():
    model = language_model("gpt2")
    check_lora_targets(model, ["transformer.h.0.attn.c_attn", "attn.c_proj"])
    check_lora_targets(model, r".*\.c_attn")


def test_model_without_the_layers_is_refused(make_config):
    with pytest.raises(ValueError, match=r"no linear layer c_attn.*q_proj"):
        EGMFForConditionalGeneration(make_config(lora={"r": 2, "target_modules": ["q_proj", "c_attn"]}))


def test_layers_are_the_default_if_none_are_named(make_config):
    model = EGMFForConditionalGeneration(make_config(lora={"r": 2}))
    names = {name for name, _ in model.named_parameters() if "lora_A" in name}
    assert {name.split(".")[-4] for name in names} == {"q_proj", "v_proj"}


# ---- configuration ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lora", "error", "message"),
    [
        ({"r": 2, "rr": 3}, TypeError, "'rr'"),
        ({"peft_type": "NOTHING"}, ValueError, "`peft_type` 'NOTHING'; peft's methods are LORA"),
        ({"r": 2, "init_lora_weights": "pissa"}, ValueError, "'pissa' changes the weights of the language model"),
    ],
)
def test_wrong_fields_of_an_adapter_are_refused(make_config, lora, error, message):
    with pytest.raises(error, match=message):
        EGMFForConditionalGeneration(make_config(lora=lora))


def test_linear_layers_are_the_same_with_adapters(make_config):
    plain = EGMFForConditionalGeneration(make_config(lora=None)).language_model
    adapted = EGMFForConditionalGeneration(make_config(lora={"r": 2, "target_modules": ["q_proj", "down_proj"]}))
    assert set(linear_layer_names(adapted.language_model)) == set(linear_layer_names(plain))
