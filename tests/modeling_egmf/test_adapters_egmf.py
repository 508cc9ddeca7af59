"""Layers and fields of an adapter: an architecture's default, and the refusal of what model or peft do not have."""

import dataclasses

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from modeling_egmf import EGMFForConditionalGeneration
from modeling_egmf.adapters_egmf import METHODS, check_lora_targets, default_lora_targets, linear_layer_names
from modeling_egmf.fields_egmf import check_adapter_fields
from tests.helpers.tiny_checkpoint import make_model_and_processor


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


def test_other_modules_only_where_they_are_asked_for():
    model = language_model("gpt2")
    with pytest.raises(ValueError, match="no linear layer wte"):
        check_lora_targets(model, ["wte"])
    check_lora_targets(model, ["wte", "c_attn"], linear_only=False)  # an embedding
    with pytest.raises(ValueError, match=r"no linear layer tte\. Its linear layers: c_attn"):
        check_lora_targets(model, ["wte", "tte"], linear_only=False)


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
        ({"r": 2, "rr": 3}, TypeError, "LoraConfig has no field 'rr'"),
        (
            {"zz": 2, "lora_aplha": 3, "aa": 4},
            TypeError,
            r"no field 'aa'. LoraConfig has no field 'lora_aplha'. Did .*`lora_alpha`\? LoraConfig has no field 'zz'",
        ),
        (
            {"rank": 8},
            TypeError,
            r"LoraConfig has no field 'rank'\. .*Its fields: .*, r, target_modules, .*lora_alpha",
        ),
        ({"alpha": 8}, TypeError, r"has no field 'alpha'\. Did you mean `lora_alpha`\?"),
        (
            {"peft_type": "LOHA", "lora_alpha": 8},
            TypeError,
            r"LoHaConfig has no field 'lora_alpha'\. Did you mean `alpha",
        ),
        (
            {"r": 2, "layer_replication": [[0, 2], [1, 2]]},
            ValueError,
            "`layer_replication` changes the language model",
        ),
        ({"peft_type": "NOTHING"}, ValueError, "`peft_type` is 'NOTHING'; use one of LORA, ADALORA"),
        ({"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 4}, ValueError, "'PROMPT_TUNING'; use one of LORA"),
        ({"peft_type": "LN_TUNING"}, ValueError, "'LN_TUNING'; use one of LORA"),
        ({"r": 2, "init_lora_weights": "pissa"}, ValueError, "'pissa' changes the weights of the language model"),
        ({"r": "4"}, TypeError, "`r` of an adapter is '4'; its type is int"),
        ({"r": 4.0}, TypeError, "`r` of an adapter is 4.0; its type is int"),
        ({"r": True}, TypeError, "`r` of an adapter is True; its type is int"),
        ({"lora_alpha": "8"}, TypeError, "`lora_alpha` of an adapter is '8'"),
        ({"lora_dropout": "0.1"}, TypeError, "`lora_dropout` of an adapter is '0.1'; its type is float"),
        ({"use_dora": "false"}, TypeError, "`use_dora` of an adapter is 'false'; its type is bool"),
        ({"lora_alpha": float("nan")}, ValueError, "`lora_alpha` of an adapter is nan; numbers must be finite"),
        ({"lora_alpha": float("inf")}, ValueError, "`lora_alpha` of an adapter is inf; numbers must be finite"),
        ({"lora_alpha": 0}, ValueError, "`lora_alpha` of an adapter is 0, which has no effect"),
        ({"peft_type": "LOHA", "alpha": float("nan")}, ValueError, "`alpha` of an adapter is nan"),
        ({"alpha_pattern": {"q_proj": float("nan")}}, ValueError, "`alpha_pattern` of an adapter is {'q_proj': nan}"),
        ({"r": -1}, ValueError, "`r` should be a positive integer"),
        ({"lora_dropout": float("nan")}, ValueError, "`lora_dropout` of an adapter is nan; numbers must be finite"),
        ({"lora_dropout": -0.1}, ValueError, "`lora_dropout` of an adapter is -0.1; it must be at least 0 and below"),
        ({"lora_dropout": 1.0}, ValueError, "`lora_dropout` of an adapter is 1.0; it must be at least 0 and below 1"),
        ({"target_modules": 5}, TypeError, r"`target_modules` of an adapter is 5; its type is Optional\[Union"),
        ({"modules_to_save": "lm_head"}, TypeError, "`modules_to_save` of an adapter is 'lm_head'; its type is"),
        ({"trainable_token_indices": [-1]}, ValueError, r"`trainable_token_indices` is \[-1\]; give token ids below"),
        (
            {"trainable_token_indices": [1.5]},
            ValueError,
            r"`trainable_token_indices` is \[1.5\]; give token ids below",
        ),
        ({"trainable_token_indices": {"lm_head": [10**6]}}, ValueError, "`trainable_token_indices` is .*below"),
        ({"alora_invocation_tokens": [5]}, ValueError, "`alora_invocation_tokens` needs token ids"),
        ({"eva_config": {}}, ValueError, "peft refuses the new adapter: `eva_config` specified but will be ignored"),
        ({"peft_type": "LOHA", "r": "4"}, TypeError, "`r` of an adapter is '4'; its type is int"),
        ({"rank_pattern": {"q_proj": "8"}}, ValueError, "peft refuses adapter 'default'"),
        ({"rank_pattern": ["q_proj"]}, ValueError, "peft refuses adapter 'default'"),
        ({"rank_pattern": {"k_proj": 8}}, ValueError, r"rank_pattern keys did not match any.*\['k_proj'\]"),
        ({"alpha_pattern": {"nowhere": 8}}, ValueError, r"alpha_pattern keys did not match any.*\['nowhere'\]"),
        (
            {"target_parameters": ["nowhere.weight"]},
            ValueError,
            r"target_parameters=\['nowhere.weight'\] were set but",
        ),
        (
            {"target_modules": ["q_proj"], "exclude_modules": ["q_proj"]},
            ValueError,
            r"^peft refuses adapter 'default' \(linear layers: .*q_proj.*: No modules were targeted.*`exclude_mod",
        ),
        ({"exclude_modules": ".*"}, ValueError, "^peft refuses adapter 'default' .*All modules were excluded"),
        (
            {"target_modules": "nowhere"},
            ValueError,
            "^peft refuses adapter 'default' .*Target modules nowhere not found",
        ),
        ({"exclude_modules": ["nowhere"]}, ValueError, r"exclude_modules=.*'nowhere'.* but no modules were excluded"),
        ({"modules_to_save": ["norm", "nowhere"]}, ValueError, "`modules_to_save` has 'nowhere'"),
        ({"bias": "all"}, ValueError, "`bias` trains the frozen language model"),
        ({"bias": "lora_only"}, ValueError, "`bias` trains the frozen language model"),
    ],
)
def test_wrong_fields_of_an_adapter_are_refused(make_config, lora, error, message):
    with pytest.raises(error, match=message):
        EGMFForConditionalGeneration(make_config(lora=lora))


def test_linear_layers_are_the_same_with_adapters(make_config):
    plain = EGMFForConditionalGeneration(make_config(lora=None)).language_model
    adapted = EGMFForConditionalGeneration(make_config(lora={"r": 2, "target_modules": ["q_proj", "down_proj"]}))
    assert set(linear_layer_names(adapted.language_model)) == set(linear_layer_names(plain))


# ---- adding one that cannot be added ------------------------------------------------------------------------

TARGETS = ["q_proj", "v_proj"]
REFUSED = {
    "at once": ({"r": 0}, "`r` should be a positive integer"),
    "midway": ({"r": 2, "target_modules": TARGETS, "rank_pattern": {"v_proj": 0}}, "`r` should be a positive"),
    "another method": (
        {"peft_type": "LOHA", "r": 2, "target_modules": TARGETS, "rank_pattern": {"v_proj": 0}},
        "`r` should be a positive",
    ),
    "no configuration": (0, "should be an instance of PeftConfig"),
    "no method for layers": (peft.PromptTuningConfig(task_type="CAUSAL_LM"), "'PROMPT_TUNING'; use one of LORA"),
    "another method of peft": (peft.FourierFTConfig(n_frequency=4), "'FOURIERFT'; use one of LORA"),
    "no such layers": (peft.LoraConfig(target_modules=["nowhere"]), "nowhere"),
    "one of no such layers": (peft.LoraConfig(target_modules=["q_proj", "nowhere"]), "has no linear layer nowhere"),
    "all are excluded": (peft.LoraConfig(target_modules=TARGETS, exclude_modules=".*"), "peft refuses adapter"),
    "no such field": ({"rr": 2}, "'rr'"),
    "not finite": (peft.LoraConfig(r=2, lora_alpha=float("nan")), "`lora_alpha` of an adapter is nan"),
    "a dropout of everything": (peft.LoraConfig(r=2, lora_dropout=1.0), "`lora_dropout` of an adapter is 1.0"),
    "wrong type": (peft.LoraConfig(r="2"), "`r` of an adapter is '2'; its type is int"),
}


def state_of(model):
    """What a failed call must not change."""
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    configs = dict(vars(model.language_model).get("peft_config", {}))
    return weights, trained, configs, configs and model.active_adapters()


def assert_unchanged(model, before):
    weights, *others = state_of(model)
    assert weights.keys() == before[0].keys()
    assert all(torch.equal(weights[name], weight) for name, weight in before[0].items())
    assert others == list(before[1:])


@pytest.fixture(params=["none", "one", "two, one active", "one deleted"])
def adapted(request, make_config):
    """A model with so many adapters."""
    has_lora = request.param != "none"
    model = EGMFForConditionalGeneration(make_config(lora={"r": 2, "target_modules": TARGETS} if has_lora else None))
    if request.param == "two, one active":
        model.add_adapter({"r": 3, "target_modules": ["q_proj", "down_proj"]}, "german")
        model.set_adapter("default")
    if request.param == "one deleted":
        model.delete_adapter("default")
    return model


@pytest.mark.parametrize("reason", REFUSED)
def test_after_a_failed_add_adapter_the_model_is_as_before(adapted, reason, tmp_path):
    config, message = REFUSED[reason]
    before = state_of(adapted)
    with pytest.raises((TypeError, ValueError), match=message):
        adapted.add_adapter(config, "x")
    assert_unchanged(adapted, before)
    if reason == "midway":
        adapted.save_pretrained(tmp_path)
        loaded = EGMFForConditionalGeneration.from_pretrained(tmp_path)
        assert loaded.config.lora is None
        assert set(loaded.language_model.peft_config if before[2] else {}) == set(before[2])
    adapted.add_adapter({"r": 2}, "x")
    assert adapted.active_adapters() == ["x"]


def test_adding_several_adapters_warns_of_nothing(make_config, recwarn):
    model = EGMFForConditionalGeneration(make_config(lora={"r": 2}))
    model.add_adapter({"r": 2}, "x")
    model.add_adapter(peft.LoraConfig(r=2, target_modules=TARGETS), "y")
    assert [str(warning.message) for warning in recwarn] == []


def test_a_name_that_is_taken_is_refused(adapted):
    adapted.add_adapter({"r": 2}, "x")
    before = state_of(adapted)
    with pytest.raises(ValueError, match=r"There is an adapter 'x'; delete_adapter\('x'\)"):
        adapted.add_adapter({"r": 4}, "x")
    assert_unchanged(adapted, before)


@pytest.mark.parametrize("name", ["", "a.b", "../x", "two words", 2.5, 8, {"r": 2}])
def test_a_name_that_no_checkpoint_could_have_is_refused(adapted, name):
    before = state_of(adapted)
    with pytest.raises(ValueError, match="adapter's name is .*; use letters, digits"):
        adapted.add_adapter({"r": 2}, name)
    assert_unchanged(adapted, before)


@pytest.mark.parametrize("change", ["other rank", "missing weight", "cut off"])
def test_after_a_failed_load_adapter_the_model_is_as_before(adapted, make_config, change, tmp_path):
    EGMFForConditionalGeneration(make_config(lora={"r": 2, "target_modules": TARGETS})).save_pretrained(tmp_path)
    path = tmp_path / "default/adapter_model.safetensors"
    weights = load_file(path)
    name = next(iter(weights))
    if change == "cut off":
        path.write_bytes(path.read_bytes()[:-8])
    else:
        weights[name] = weights[name][:1].clone() if change == "other rank" else weights.pop(name)[:0].clone()
        save_file(weights, path)
    before = state_of(adapted)
    with pytest.raises((OSError, ValueError), match="adapter_model.safetensors"):
        adapted.load_adapter(tmp_path / "default", "x")
    assert_unchanged(adapted, before)


@pytest.mark.parametrize("layers", [[0, 7], 5, [-1]])
def test_layers_that_the_language_model_does_not_have_are_refused(make_model, layers):
    """peft ignores those that are named beside others."""
    lora = {"r": 2, "target_modules": ["q_proj"], "layers_to_transform": layers}
    with pytest.raises(ValueError, match=r"`layers_to_transform` is \[.*\]; the language model has layers 0 to 1"):
        make_model(lora=lora)


def test_layers_to_transform(make_model):
    model = make_model(lora={"r": 2, "target_modules": ["q_proj"], "layers_to_transform": [1]})
    assert all(".layers.1." in name for name in model.adapter_keys()["default"])


FIELDS = {"ADALORA": {"total_step": 10}, "MISS": {"r": 2}, "ROAD": {"group_size": 8}}


@pytest.mark.parametrize("method", METHODS)
def test_adapter_has_no_effect_at_first_and_survives_saving(method, enliven, tmp_path):
    model, processor = make_model_and_processor("features", "features", tmp_path)
    inputs = processor(text="Hello there.", task="emotion")
    model.delete_adapter("default")
    plain = model.score_answers(**inputs).probabilities
    model.add_adapter({"peft_type": method, **FIELDS.get(method, {})})
    torch.testing.assert_close(model.score_answers(**inputs).probabilities, plain, atol=1e-5, rtol=0)
    expected = enliven(model).score_answers(**inputs).probabilities
    assert (expected - plain).abs().max() > 1e-3
    model.save_pretrained(tmp_path / "saved")
    loaded = EGMFForConditionalGeneration.from_pretrained(tmp_path / "saved")
    torch.testing.assert_close(loaded.score_answers(**inputs).probabilities, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("other", [{"peft_type": "IA3", "feedforward_modules": []}, {"peft_type": "LOHA", "r": 2}])
def test_adapters_of_two_methods_survive_saving(other, tmp_path):
    """The second wraps the layers of the first, which must not change the names in the first one's file."""
    model, processor = make_model_and_processor("waveform", "frames", tmp_path / "parts")
    model.eval().add_adapter(other, "other")
    for name, weight in model.language_model.named_parameters():
        if any(part in name for part in ("lora_B", "ia3", "hada")):
            torch.nn.init.normal_(weight, 1.0, 0.1)
    model.config.text_model_id = None
    model.save_pretrained(tmp_path / "saved")
    loaded = EGMFForConditionalGeneration.from_pretrained(tmp_path / "saved").eval()
    inputs = processor(text="Hello there.", task="emotion")
    for adapter in ("default", "other"):
        model.set_adapter(adapter)
        loaded.set_adapter(adapter)
        expected = model.score_answers(**inputs).log_probs
        torch.testing.assert_close(loaded.score_answers(**inputs).log_probs, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_defaults_of_every_method_are_accepted(method):
    config_class = peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING[method]
    defaults = {field.name: field.default for field in dataclasses.fields(config_class)}
    given = {name: value for name, value in defaults.items() if value is not dataclasses.MISSING}
    assert len(given) > 3
    check_adapter_fields(config_class, given)
