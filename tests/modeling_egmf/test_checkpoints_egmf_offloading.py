"""Language models that a device map offloads to disk: the same answers, also after saving; or a refusal."""

import accelerate
import pytest
import torch

from modeling_egmf import EGMFForConditionalGeneration
from tests.helpers.checkpoint_files import stored_keys
from training.model.export import merge, stand_alone


load = EGMFForConditionalGeneration.from_pretrained
PARTS = ("embed_tokens", "rotary_emb", "norm", "layers.0", "layers.1")


def device_map(*offloaded):
    """Everything on the CPU but the named parts of the tiny Llama."""
    places = {f"model.{part}": "disk" if part in offloaded else "cpu" for part in PARTS}
    return {**places, "lm_head": "disk" if "lm_head" in offloaded else "cpu"}


MAPS = {
    "a layer": {"device_map": device_map("layers.1")},
    "embeddings and output layer": {"device_map": device_map("embed_tokens", "lm_head")},
    "everything": {"device_map": {"": "disk"}},
    "auto": {"device_map": "auto", "max_memory": {"cpu": "150KB"}},
}


@pytest.fixture
def unmerged(make_adapter_model, inputs_for, tmp_path):
    """A saved standalone checkpoint with its LoRA layers, the model, and inputs for it."""
    model = make_adapter_model(text_model_id=None)
    model.save_pretrained(tmp_path / "unmerged")
    return tmp_path / "unmerged", model, inputs_for(model)


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("kind", ["adapter", "standalone", "unmerged"])
def test_offloaded_model_gives_the_same_answers(request, kind, name, tmp_path):
    folder, model, inputs = request.getfixturevalue(kind)
    loaded = load(folder, offload_folder=tmp_path / "offload", **MAPS[name])
    assert any(parameter.is_meta for parameter in loaded.language_model.parameters())
    assert loaded.device.type == "cpu"
    before = model.score_answers(**inputs).probabilities
    after = loaded.score_answers(**inputs).probabilities
    torch.testing.assert_close(after, before, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["adapter", "standalone", "unmerged"])
def test_saving_an_offloaded_model_keeps_all_weights(request, kind, tmp_path):
    folder, model, inputs = request.getfixturevalue(kind)
    loaded = load(folder, offload_folder=tmp_path / "offload", device_map=device_map("layers.0", "embed_tokens"))
    loaded.save_pretrained(tmp_path / "again")
    assert stored_keys(tmp_path / "again") == stored_keys(folder)
    stand_alone(loaded).save_pretrained(tmp_path / "everything")
    after = load(tmp_path / "everything").score_answers(**inputs).probabilities
    torch.testing.assert_close(after, model.score_answers(**inputs).probabilities, atol=1e-5, rtol=0)


def test_fusion_is_never_offloaded(standalone, adapter, tmp_path):
    with pytest.raises(ValueError, match=r"`device_map` offloads egmf\..*Map \"egmf\" to a device"):
        load(standalone[0], device_map={"egmf": "disk", "language_model": "cpu"})
    model = load(adapter[0], device_map={"egmf": "disk", "language_model": "disk"}, offload_folder=tmp_path)
    assert not any(parameter.is_meta for parameter in model.egmf.parameters())


@pytest.mark.parametrize("offloaded", ["embed_tokens", "lm_head"])
def test_one_of_two_tied_layers_is_not_offloaded(make_adapter_model, bases, offloaded, tmp_path):
    model = make_adapter_model("llm_tied", text_model_id=str(bases / "llm_tied"))
    model.save_pretrained(tmp_path / "adapter")
    stand_alone(model).save_pretrained(tmp_path / "standalone")
    message = r"`device_map` separates lm_head and model.embed_tokens, which share weights: map both alike\."
    arguments = {"device_map": device_map(offloaded), "offload_folder": tmp_path}
    for kind in ("adapter", "standalone"):
        with pytest.raises(ValueError, match=message):
            load(tmp_path / kind, **arguments)
    build = EGMFForConditionalGeneration.from_language_model
    with pytest.raises(ValueError, match=message):
        build(bases / "llm_tied", model.config, **arguments)
    build(bases / "llm_tied", model.config, **{**arguments, "device_map": device_map("embed_tokens", "lm_head")})


@pytest.mark.parametrize("names", ["of the language model", "of the whole model"])
def test_new_model_around_an_offloaded_language_model(make_config, inputs_for, bases, names, tmp_path):
    places = device_map("layers.1")
    if names == "of the whole model":
        places = {"egmf": "cpu", **{f"language_model.{name}": place for name, place in places.items()}}
    build = EGMFForConditionalGeneration.from_language_model
    model = build(bases / "llm", make_config()).eval()
    offloaded = build(bases / "llm", make_config(), device_map=places, offload_folder=tmp_path / "offload").eval()
    assert offloaded.hf_device_map["language_model.model.layers.1"] == "disk"
    assert any(parameter.is_meta for parameter in offloaded.language_model.parameters())
    offloaded.egmf.load_state_dict(model.egmf.state_dict())
    inputs = inputs_for(model)
    before = model.score_answers(**inputs).probabilities
    torch.testing.assert_close(offloaded.score_answers(**inputs).probabilities, before, atol=1e-5, rtol=0)


def test_lora_that_reads_offloaded_weights_is_refused(make_adapter_model, tmp_path, bases):
    lora = {"r": 2, "target_modules": ["q_proj"], "use_dora": True}
    make_adapter_model(text_model_id=str(bases / "llm"), lora=lora).save_pretrained(tmp_path / "dora")
    with pytest.raises(OSError, match=r"'default' is not plain LoRA, .* for layers that `device_map` offloads"):
        load(tmp_path / "dora", device_map=device_map("layers.0"), offload_folder=tmp_path)


def test_offloaded_lora_is_not_merged(adapter, tmp_path):
    model = load(adapter[0], device_map=device_map("layers.0"), offload_folder=tmp_path)
    with pytest.raises(ValueError, match="is offloaded"):
        merge(model)


@pytest.mark.parametrize("kind", ["adapter", "standalone"])
def test_offloaded_output_layer_of_16_bits(make_adapter_model, inputs_for, bases, kind, tmp_path):
    """Its logits are computed again in float32, after the layer's own weights have gone back to the disk."""
    model = make_adapter_model("llm_bfloat16", text_model_id=str(bases / "llm_bfloat16"))
    if kind == "standalone":
        stand_alone(model)
    model.save_pretrained(tmp_path / "model")
    loaded = load(tmp_path / "model", device_map=device_map("lm_head"), offload_folder=tmp_path / "offload")
    inputs = inputs_for(model)
    after = loaded.score_answers(**inputs).probabilities
    torch.testing.assert_close(after, model.score_answers(**inputs).probabilities, atol=1e-5, rtol=0)


def test_new_adapter_for_some_of_the_offloaded_layers(adapter, tmp_path):
    folder, model, inputs = adapter
    loaded = load(folder, device_map=device_map("layers.0"), offload_folder=tmp_path / "offload")
    for each in (model, loaded):
        each.add_adapter({"r": 2, "target_modules": ["q_proj"]}, "second")  # "default" also has v_proj
        each.set_adapter("default")
    assert loaded.adapter_keys()["second"].keys() == model.adapter_keys()["second"].keys()
    after = loaded.score_answers(**inputs).probabilities
    torch.testing.assert_close(after, model.score_answers(**inputs).probabilities, atol=1e-5, rtol=0)


def test_offloaded_model_is_cast_but_not_moved(adapter, tmp_path):
    folder, model, inputs = adapter
    loaded = load(folder, device_map=device_map("layers.1"), offload_folder=tmp_path / "offload")
    with pytest.raises(ValueError, match=r"Offloaded weights cannot be moved: leave out .to\(\)"):
        loaded.to("cpu")
    after = loaded.to(torch.bfloat16).score_answers(**inputs).probabilities
    torch.testing.assert_close(after, model.score_answers(**inputs).probabilities, atol=0.05, rtol=0)


DISPATCHED = {"egmf": "cpu", "language_model.lm_head": "cpu", "language_model.model": "disk"}


@pytest.fixture(params=["cpu_offload", "disk_offload", "dispatch_model"])
def offloaded(request, adapter, tmp_path):
    """A model that accelerate has offloaded after it was loaded, and the same model before."""
    folder, model, inputs = adapter
    loaded = load(folder)
    if request.param == "cpu_offload":
        accelerate.cpu_offload(loaded, execution_device="cpu")
    elif request.param == "disk_offload":
        accelerate.disk_offload(loaded, tmp_path / "offload", execution_device="cpu")
    else:
        accelerate.dispatch_model(loaded, DISPATCHED, main_device="cpu", offload_dir=tmp_path / "offload")
    assert any(parameter.is_meta for parameter in loaded.parameters())
    return loaded, model, inputs


def test_model_that_accelerate_offloads_gives_the_same_answers(offloaded):
    loaded, model, inputs = offloaded
    before = model.score_answers(**inputs).probabilities
    torch.testing.assert_close(loaded.score_answers(**inputs).probabilities, before, atol=1e-5, rtol=0)


def test_training_what_accelerate_offloads_is_refused(offloaded, labeled):
    """The gradients would be lost, and nothing would change."""
    loaded, model, _ = offloaded
    inputs = labeled()
    with pytest.raises(ValueError, match=r"is offloaded: training would lose its gradient\. .*`device_map`, or use"):
        loaded(**inputs)
    with torch.no_grad():
        torch.testing.assert_close(loaded(**inputs).loss, model(**inputs).loss)


def test_offloading_by_a_device_map_changes_no_gradient(adapter, labeled, tmp_path):
    folder, model, _ = adapter
    loaded = load(folder, device_map=device_map(*PARTS), offload_folder=tmp_path / "offload")
    gradients = []
    for each in (model, loaded):
        each(**labeled()).loss.backward()
        trained = {name: parameter for name, parameter in each.named_parameters() if parameter.requires_grad}
        gradients.append({name: parameter.grad for name, parameter in trained.items()})
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("keeps_the_language_model", [True, False])
def test_saving_what_accelerate_offloads_keeps_all_weights(offloaded, keeps_the_language_model, tmp_path):
    loaded, model, inputs = offloaded
    (stand_alone(loaded) if keeps_the_language_model else loaded).save_pretrained(tmp_path / "again")
    after = load(tmp_path / "again").score_answers(**inputs).probabilities
    torch.testing.assert_close(after, model.score_answers(**inputs).probabilities, atol=1e-5, rtol=0)
