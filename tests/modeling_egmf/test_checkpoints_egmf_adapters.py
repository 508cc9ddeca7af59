"""PEFT adapters in a checkpoint: several of them, exchange with peft, and refusal of damaged or older files."""

import json
import sys

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from modeling_egmf import EGMFConfig, EGMFForConditionalGeneration
from tests.helpers.checkpoint_files import edit_weights, outputs_of, stored_keys
from training.model.export import merge


load = EGMFForConditionalGeneration.from_pretrained
WEIGHTS = "default/adapter_model.safetensors"
METHODS = {
    "lora": {"r": 2, "target_modules": ["q_proj", "v_proj"]},
    "dora": {"r": 2, "use_dora": True},
    "rslora": {"r": 3, "lora_alpha": 5, "use_rslora": True},
    "loha": {"peft_type": "LOHA", "r": 2, "target_modules": ["q_proj", "down_proj"]},
}


def logits_of(model, inputs):
    return outputs_of(model, inputs)["logits"]


@pytest.fixture
def german(adapter, enliven):
    """A checkpoint with a second adapter, which is active, and the logits with each."""
    folder, model, inputs = adapter
    expected = {"default": logits_of(model, inputs)}
    model.add_adapter({"r": 3, "target_modules": ["q_proj", "down_proj"]}, "german")
    model.egmf.requires_grad_(False)
    enliven(model.eval(), 5)
    expected["german"] = logits_of(model, inputs)
    model.save_pretrained(folder.with_name("two"))
    return folder.with_name("two"), expected, inputs


# ---- exchange with peft -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["adapter", "standalone"])
@pytest.mark.parametrize("method", METHODS)
def test_method_goes_to_peft_and_back(make_adapter_model, inputs_for, bases, tmp_path, method, kind):
    fields = {"text_model_id": str(bases / "llm") if kind == "adapter" else None}
    model = make_adapter_model(lora=METHODS[method], **fields)
    inputs = inputs_for(model)
    expected = logits_of(model, inputs)
    model.save_pretrained(tmp_path / "egmf")
    loaded = load(tmp_path / "egmf")
    assert torch.equal(logits_of(loaded, inputs), expected)

    language_model = AutoModelForCausalLM.from_pretrained(bases / "llm")
    peft_model = peft.PeftModel.from_pretrained(language_model, tmp_path / "egmf/default")
    peft_model.save_pretrained(tmp_path / "peft")
    loaded.delete_adapter("default")
    assert not torch.equal(logits_of(loaded, inputs), expected)
    loaded.load_adapter(tmp_path / "peft")
    assert torch.equal(logits_of(loaded, inputs), expected)


TRAINED = {
    "output layer": {"modules_to_save": ["lm_head"]},
    "embeddings": {"modules_to_save": ["embed_tokens"]},
    "norms": {"modules_to_save": ["norm", "input_layernorm"]},
    "some tokens": {"trainable_token_indices": [3, 40]},
    "parameters": {"target_parameters": ["mlp.up_proj.weight"]},
    "ranks": {"rank_pattern": {"q_proj": 5}, "alpha_pattern": {"v_proj": 9}, "lora_alpha": 2.5},
}


@pytest.mark.parametrize("base", ["llm", "llm_tied"])
@pytest.mark.parametrize("kind", ["adapter", "standalone", "merged"])
@pytest.mark.parametrize("fields", TRAINED.values(), ids=TRAINED)
def test_what_peft_trains_beside_lora_is_saved_and_loaded(
    make_adapter_model, inputs_for, bases, tmp_path, fields, kind, base
):
    fixed = {"text_model_id": str(bases / base) if kind == "adapter" else None}
    model = make_adapter_model(base, lora={"r": 2, **fields}, **fixed)
    inputs = inputs_for(model)
    expected = logits_of(model, inputs)
    if kind == "merged":
        merge(model)
        assert torch.allclose(logits_of(model, inputs), expected, atol=1e-4)
    model.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    assert torch.allclose(logits_of(loaded, inputs), expected, atol=1e-4)
    if kind == "adapter":
        assert torch.equal(logits_of(loaded, inputs), expected)
    if kind != "merged":
        loaded.delete_adapter("default")
        assert not torch.allclose(logits_of(loaded, inputs), expected, atol=1e-2)


def test_lora_of_a_tied_output_layer_is_not_merged(make_adapter_model, inputs_for, bases, tmp_path):
    model = make_adapter_model("llm_tied", lora={"r": 2, "target_modules": ["lm_head"]}, text_model_id=None)
    expected = logits_of(model, inputs_for(model))
    with pytest.raises(ValueError, match="output layer, whose weights are those of the embeddings.*stand_alone"):
        merge(model)
    model.save_pretrained(tmp_path)
    assert torch.allclose(logits_of(load(tmp_path), inputs_for(model)), expected, atol=1e-4)


def test_peft_gives_the_same_logits(adapter, bases):
    folder, model, _ = adapter
    language_model = AutoModelForCausalLM.from_pretrained(bases / "llm")
    peft_model = peft.PeftModel.from_pretrained(language_model, folder / "default")
    for tensor in (*peft_model.parameters(), *model.parameters()):
        tensor.data = tensor.data.clone()  # where a weight begins in memory can change bits
    ids = torch.arange(6)[None]
    assert torch.equal(peft_model(ids).logits, model.language_model(ids).logits)


def test_configuration_of_the_adapter_names_the_language_model(adapter):
    config = json.loads((adapter[0] / "default/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "../llm"
    assert json.loads((adapter[0] / "config.json").read_text())["lora"] is None
    assert not (adapter[0] / "adapter_config.json").exists()  # there, the Auto classes take it for the model's own


# ---- several adapters ---------------------------------------------------------------------------------------


def test_two_adapters_switch_exactly(german, adapter):
    folder, expected, inputs = german
    model = load(folder)
    assert model.active_adapters() == ["german"]
    assert torch.equal(logits_of(model, inputs), expected["german"])
    model.set_adapter("default")
    assert torch.equal(logits_of(model, inputs), expected["default"])
    model.disable_adapters()
    without = logits_of(model, inputs)
    assert not torch.equal(without, expected["default"])
    model.enable_adapters()
    assert torch.equal(logits_of(model, inputs), expected["default"])
    model.delete_adapter(["default", "german"])
    assert torch.equal(logits_of(model, inputs), without)


def test_both_may_be_active(german):
    folder, expected, inputs = german
    model = load(folder)
    model.set_adapter(["default", "german"])
    together = logits_of(model, inputs)
    assert not any(torch.equal(together, logits) for logits in expected.values())
    model.save_pretrained(folder.with_name("both"))
    loaded = load(folder.with_name("both"))
    assert loaded.active_adapters() == ["default", "german"]
    assert torch.equal(logits_of(loaded, inputs), together)


def test_second_adapter_is_trained_alone(adapter):
    """It starts without effect, in evaluation mode like the model."""
    folder, _, inputs = adapter
    model = load(folder)
    before = logits_of(model, inputs)
    model.add_adapter({"r": 2, "lora_dropout": 0.5}, "german")
    model.set_adapter(["default", "german"])
    assert torch.equal(logits_of(model, inputs), before)
    model.set_adapter("german")
    trained = {name for name, parameter in model.language_model.named_parameters() if parameter.requires_grad}
    assert trained
    assert all(".german." in name for name in trained)
    model.freeze()
    assert trained == {name for name, parameter in model.language_model.named_parameters() if parameter.requires_grad}


def test_state_dict_without_the_adapter(adapter):
    """What the plain `Trainer` reads from model.safetensors to resume, or for the best checkpoint."""
    folder, model, inputs = adapter
    stored = load_file(folder / "model.safetensors")
    expected = logits_of(model, inputs)
    loaded = load(folder)
    for parameter in loaded.parameters():
        if parameter.requires_grad:
            parameter.data.add_(1)
    assert not torch.equal(logits_of(loaded, inputs), expected)
    loaded.load_state_dict(stored, strict=False)
    assert torch.equal(logits_of(loaded, inputs), expected)
    loaded.adapter_folders.clear()  # as if the model came from elsewhere
    with pytest.raises(ValueError, match=r"weights of the adapter 'default' are missing.*EGMFTrainer"):
        loaded.load_state_dict(stored, strict=False)
    loaded.load_state_dict(model.state_dict())


def test_adapters_stay_in_float32(german):
    model = load(german[0], dtype=torch.bfloat16)
    model.add_adapter({"r": 2}, "third")
    weights = {name: value for name, value in model.named_parameters() if "lora_" in name}
    assert {name.split(".")[-2] for name in weights} == {"default", "german", "third"}
    assert {value.dtype for value in weights.values()} == {torch.float32}


# ---- damage -------------------------------------------------------------------------------------------------

KEY = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
CHANGES = {
    "missing": (lambda state: state.pop(KEY), rf"missing keys: \['{KEY}'\]"),
    "unexpected": (lambda state: state.update({f"{KEY}x": torch.zeros(2)}), rf"unexpected keys: \['{KEY}x'\]"),
    "renamed": (lambda state: state.update({"lora_A": state.pop(KEY)}), rf"missing keys: \['{KEY}'\].*\['lora_A'\]"),
    "misshapen": (lambda state: state.update({KEY: torch.zeros(5)}), rf"wrong shapes: \['{KEY}'\]"),
    "integers": (lambda state: state.update({KEY: state[KEY].int()}), rf"wrong types: \['{KEY} \(torch.int32\)'\]"),
    "not a number": (lambda state: state[KEY][0].fill_(float("nan")), rf"NaN or infinite: \['{KEY}'\]"),
    "overflow": (lambda state: state.update({KEY: state[KEY].double() + 1e300}), rf"NaN or infinite: \['{KEY}'\]"),
    "changed": (lambda state: state[KEY].add_(1), rf"{WEIGHTS} of .* has changed"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_wrong_weights_are_refused(adapter, change):
    edit, message = CHANGES[change]
    edit_weights(adapter[0], edit, WEIGHTS)
    with pytest.raises(ValueError, match=message):
        load(adapter[0])


@pytest.mark.parametrize("name", [WEIGHTS, "default/adapter_config.json"])
@pytest.mark.parametrize("damage", ["absent", "empty", "cut"])
def test_damaged_file_is_named(adapter, name, damage):
    path = adapter[0] / name
    content = path.read_bytes()
    path.unlink()
    if damage != "absent":
        path.write_bytes(content[: len(content) // 2] if damage == "cut" else b"")
    with pytest.raises(OSError, match=path.name):
        load(adapter[0])


def edit_json(path, fields):
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rr": 3}, r"Unexpected keyword arguments \['rr'\]"),
        ({"target_modules": ["nowhere"]}, "nowhere"),
        ({"peft_type": "NOTHING"}, "NOTHING"),
        ({"lora_alpha": float("nan")}, "numbers must be finite"),
        ({"alpha_pattern": {"q_proj": float("inf")}}, "numbers must be finite"),
        ({"layers_to_transform": [0, 2]}, r"`layers_to_transform` is \[0, 2\]; the language model has layers 0 to 1"),
    ],
)
def test_wrong_configuration_is_refused(adapter, fields, message):
    edit_json(adapter[0] / "default/adapter_config.json", fields)
    edit_json(adapter[0] / "config.json", {"weights_checksum": None})  # as the message below says
    with pytest.raises(OSError, match=rf"adapter_config.json could not be loaded.*{message}"):
        load(adapter[0])


def test_configuration_that_changed_is_refused(adapter):
    folder, model, inputs = adapter
    path = folder / "default/adapter_config.json"
    saved = path.read_text()
    refusal = f"default/adapter_config.json of {folder} has changed.*delete `weights_checksum`"
    for change in ({"lora_alpha": float("nan")}, {"lora_alpha": 3}, {"use_rslora": True}, {"rr": 3}):
        edit_json(path, change)
        with pytest.raises(ValueError, match=refusal):
            load(folder)
        path.write_text(saved)
    edit_json(path, {"base_model_name_or_path": "ORG/LLM", "peft_version": "9.9", "inference_mode": True})
    assert torch.equal(logits_of(load(folder), inputs), logits_of(model, inputs))


def test_configuration_that_no_longer_names_its_adapters_is_refused(adapter):
    path = adapter[0] / "config.json"
    config = json.loads(path.read_text())
    del config["adapters"]
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match="config.json was saved with another value of adapters"):
        load(adapter[0])
    path.write_text(json.dumps({**config, "config_checksum": None}))
    assert load(adapter[0], adapters={"default": True}).active_adapters() == ["default"]


def test_configuration_without_names_of_adapters_drops_none(adapter):
    """That of a model in memory, or None for the checkpoint's own."""
    folder, model, inputs = adapter
    model.config.lora = {"r": 2}
    saved = load(folder)
    for arguments in ({"adapters": None}, {"config": model.config}, {"config": saved.config}):
        loaded = load(folder, **arguments)
        assert loaded.active_adapters() == ["default"]
        assert torch.equal(logits_of(loaded, inputs), logits_of(model, inputs))
    saved.config.save_pretrained(folder)
    assert torch.equal(logits_of(load(folder), inputs), logits_of(model, inputs))
    assert load(folder, adapters={}).adapter_keys() == {}


@pytest.mark.parametrize("name", ["../other", "", "a.b"])
def test_name_is_that_of_a_folder(adapter, name):
    with pytest.raises(ValueError, match="`adapters` names"):
        EGMFConfig.from_pretrained(adapter[0], adapters={name: True})


def test_adapter_without_peft_names_it(adapter, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match="pip install peft"):
        load(adapter[0])


def test_standalone_checkpoint_has_the_plain_names_of_the_language_model(make_adapter_model, bases, tmp_path):
    make_adapter_model(text_model_id=None).save_pretrained(tmp_path)
    names = set(AutoModelForCausalLM.from_pretrained(bases / "llm").state_dict())
    assert {f"language_model.{name}" for name in names} <= stored_keys(tmp_path)
    assert not any("base_layer" in key or "lora_" in key for key in stored_keys(tmp_path))
