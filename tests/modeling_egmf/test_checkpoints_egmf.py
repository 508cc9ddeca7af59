"""Adapter and standalone checkpoints: their contents, exact round trips, and refusal of damaged ones."""

import json

import pytest
import torch
from transformers import PreTrainedModel

from modeling_egmf import EGMFForConditionalGeneration, checkpoints_egmf
from tests.helpers.checkpoint_files import edit_weights, outputs_of, stored_keys


load = EGMFForConditionalGeneration.from_pretrained


# ---- what is stored -----------------------------------------------------------------------------------------


def test_adapter_holds_only_trained_weights(adapter):
    folder, model, _ = adapter
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    lora = {name for name in trained if "lora_" in name}
    buffers = {name for name, _ in model.egmf.named_buffers(prefix="egmf")}
    assert stored_keys(folder) == (trained - lora) | buffers
    stored_lora = {f"base_model.model.{name.partition('.')[2]}".replace(".default", "") for name in lora}
    assert stored_keys(folder, "default/adapter_model.safetensors") == stored_lora


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "default/adapter_config.json"])
def test_a_file_instead_of_its_folder(adapter, name):
    file = adapter[0] / name
    with pytest.raises(OSError, match=f"^{file} is a file: give its folder.$"):
        load(file)


def test_adapter_is_smaller(adapter, standalone):
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (adapter[0], standalone[0])]
    assert sizes[0] < sizes[1] / 3


def test_standalone_holds_everything_and_names_nothing(standalone):
    folder, model, _ = standalone
    assert stored_keys(folder) == set(model.state_dict())
    assert not any("lora_" in key or "base_layer" in key for key in stored_keys(folder))
    config = json.loads((folder / "config.json").read_text())
    assert [config[name] for name in ("lora", "text_model_id", "text_model_fingerprint")] == [None] * 3


@pytest.mark.parametrize("kind", ["adapter", "standalone"])
def test_no_local_path_is_stored(request, kind, tmp_path, bases):
    folder = request.getfixturevalue(kind)[0]
    text = "".join(path.read_text() for path in folder.rglob("*.json"))
    assert str(tmp_path) not in text
    assert str(bases) not in text


def test_code_travels_with_the_checkpoint(adapter):
    stems = ("answers", "checkpoints", "configuration", "encoders", "experts", "fusion", "modeling")
    assert {path.name for path in adapter[0].glob("*.py")} >= {f"{stem}_egmf.py" for stem in stems}


@pytest.mark.parametrize("kind", ["adapter", "standalone"])
def test_saving_again_changes_nothing(request, kind):
    folder, _, _ = request.getfixturevalue(kind)
    second = folder.parent / "second"
    third = folder.parent / "third"
    load(folder).save_pretrained(second)
    load(second).save_pretrained(third)
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    for other in (second, third):
        assert names == {str(path.relative_to(other)) for path in other.rglob("*") if path.is_file()}
    for name in names:
        assert (second / name).read_bytes() == (third / name).read_bytes(), name
    assert (folder / "model.safetensors").read_bytes() == (second / "model.safetensors").read_bytes()


def test_pushing_comes_after_the_checksum(adapter, monkeypatch, tmp_path):
    """`push_to_hub` saves once more, into a folder of its own, and uploads that."""
    _, model, _ = adapter
    pushed = []
    model.config.text_model_id = "org/llm"
    monkeypatch.setattr(checkpoints_egmf, "file_exists", lambda *repo, **options: True)
    monkeypatch.setattr(PreTrainedModel, "push_to_hub", lambda self, repo_id, **options: pushed.append(options))
    model.save_pretrained(tmp_path / "egmf", push_to_hub=True, private=True)
    assert pushed == [{"private": True, "token": None}]
    assert json.loads((tmp_path / "egmf/config.json").read_text())["weights_checksum"]
    with pytest.raises(ValueError, match="does not upload a `variant`"):
        model.save_pretrained(tmp_path / "fp16", push_to_hub=True, variant="fp16")


@pytest.mark.parametrize(
    ("keyword", "correct"), [("varient", "variant"), ("max_shard_sze", "max_shard_size"), ("privte", "private")]
)
def test_misspelled_keyword_of_saving_is_refused(adapter, tmp_path, keyword, correct):
    _, model, _ = adapter
    message = rf"save_pretrained\(\) got an unexpected keyword argument '{keyword}'. Did you mean `{correct}`"
    with pytest.raises(TypeError, match=message):
        model.save_pretrained(tmp_path / "x", **{keyword: "x"})
    assert not (tmp_path / "x").exists()
    with pytest.raises(ValueError, match="saved as safetensors: leave out safe_serialization=False"):
        model.save_pretrained(tmp_path / "x", safe_serialization=False)
    assert not (tmp_path / "x").exists()
    model.save_pretrained(tmp_path / "x", variant="x", max_shard_size="1MB", safe_serialization=True, token=None)


def test_misspelled_keyword_of_pushing_is_refused(adapter):
    _, model, _ = adapter
    message = r"push_to_hub\(\) got an unexpected keyword argument 'privte'. Did you mean `private`"
    with pytest.raises(TypeError, match=message):
        model.push_to_hub("org/x", privte=True)


# ---- loading ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["adapter", "standalone"])
def test_loaded_equals_saved(request, kind):
    folder, model, inputs = request.getfixturevalue(kind)
    before, after = (outputs_of(m, inputs) for m in (model, load(folder)))
    assert torch.equal(before["logits"], after["logits"])
    assert before["trainable"] == after["trainable"]


@pytest.mark.parametrize("kind", ["adapter", "standalone"])
def test_dtype_applies_only_to_the_language_model(request, kind):
    folder, _, inputs = request.getfixturevalue(kind)
    model = load(folder, dtype=torch.bfloat16)
    assert model.get_input_embeddings().weight.dtype == torch.bfloat16
    assert {p.dtype for p in model.egmf.parameters()} == {torch.float32}
    assert {p.dtype for n, p in model.named_parameters() if "lora_" in n} <= {torch.float32}
    assert torch.isfinite(model.score_answers(**inputs).probabilities).all()


def test_unmerged_lora_stays_in_float32(make_adapter_model, tmp_path):
    make_adapter_model(text_model_id=None).save_pretrained(tmp_path)
    model = load(tmp_path, dtype=torch.bfloat16)
    assert model.get_input_embeddings().weight.dtype == torch.bfloat16
    assert {p.dtype for n, p in model.named_parameters() if "lora_" in n} == {torch.float32}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", ["adapter", "standalone"])
def test_attention_implementation_applies_to_the_language_model(request, kind, attention):
    model = load(request.getfixturevalue(kind)[0], attn_implementation=attention)
    assert model.language_model.config._attn_implementation == attention


@pytest.mark.parametrize("kind", ["adapter", "standalone"])
def test_loading_info_on_demand(request, kind):
    model, info = load(request.getfixturevalue(kind)[0], output_loading_info=True)
    assert isinstance(model, EGMFForConditionalGeneration)
    assert not any(info.values())


# ---- damage -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["adapter", "standalone"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("egmf.fusion.no_text_query"), "egmf.fusion.no_text_query"),
        (lambda state: state.update({"egmf.fusion.extra": torch.zeros(2)}), "egmf.fusion.extra"),
        (lambda state: state.update({"egmf.fusion.no_text_query": torch.zeros(5)}), "egmf.fusion.no_text_query"),
    ],
    ids=["missing", "unexpected", "misshapen"],
)
def test_wrong_keys_are_refused(request, kind, change, message):
    folder = request.getfixturevalue(kind)[0]
    edit_weights(folder, change)
    with pytest.raises(ValueError, match=message):
        load(folder)


@pytest.mark.parametrize("kind", ["adapter", "standalone"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(request, kind, value):
    folder = request.getfixturevalue(kind)[0]
    edit_weights(folder, lambda state: state["egmf.fusion.no_text_query"][:1].fill_(value))
    with pytest.raises(
        ValueError, match=r"NaN or infinite: \['egmf.fusion.no_text_query'\].*Download or save it again"
    ):
        load(folder)


@pytest.mark.parametrize("kind", ["adapter", "standalone"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda data: data[:4],
        lambda data: b"\xff" * 64 + data[64:],
        lambda _: b"",
    ],
    ids=["cut", "cut in the header", "damaged", "empty"],
)
def test_damaged_file_is_named(request, kind, damage):
    folder = request.getfixturevalue(kind)[0]
    path = folder / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(OSError, match=rf"{folder}.*could not be loaded.*Download or save it again"):
        load(folder)


def test_missing_weight_of_the_language_model_is_refused(standalone):
    edit_weights(standalone[0], lambda state: state.pop("language_model.model.norm.weight"))
    with pytest.raises(ValueError, match=r"language_model\.model\.norm\.weight"):
        load(standalone[0])


def test_standalone_checkpoint_takes_no_other_language_model(standalone, bases):
    """It would keep its own, and name the other when it is saved."""
    with pytest.raises(ValueError, match="unexpected keys: .'language_model.*or the other way round"):
        load(standalone[0], text_model_id=str(bases / "llm_other_weights"))


def test_adapter_checkpoint_without_its_name_is_refused(adapter):
    path = adapter[0] / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "text_model_id": None}))
    with pytest.raises(ValueError, match="Is it an adapter checkpoint"):
        load(adapter[0])
