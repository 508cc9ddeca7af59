"""Where a checkpoint that was saved elsewhere, moved or copied finds its language model, and which one it accepts."""

import json
import shutil

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from modeling_egmf import EGMFForConditionalGeneration
from modeling_egmf.parts_egmf import sum_of_bits, text_model_checksum
from tests.helpers.checkpoint_files import edit_weights, outputs_of


load = EGMFForConditionalGeneration.from_pretrained


def named_by(folder):
    return json.loads((folder / "config.json").read_text())["text_model_id"]


def assert_same_answers(folder, adapter, **keywords):
    _, model, inputs = adapter
    actual, expected = (outputs_of(m, inputs)["logits"] for m in (load(folder, **keywords), model))
    assert torch.equal(actual, expected)


# ---- where it is --------------------------------------------------------------------------------------------


def test_path_is_written_anew_on_saving(adapter, make_backbones, make_adapter_model, bases, tmp_path):
    folder = adapter[0]
    model = load(folder)
    assert model.config.text_model_id == str(tmp_path / "llm")
    for place, path in (("deep/er/saved", "../../../llm"), ("saved", "../llm")):
        model.save_pretrained(tmp_path / place)
        assert named_by(tmp_path / place) == path
        assert_same_answers(tmp_path / place, adapter)
    with_backbone = make_adapter_model(text_model_id=str(bases / "llm"), **make_backbones(str(bases / "vit")))
    with_backbone.save_pretrained(bases / "deep/er/backbone")
    config = json.loads((bases / "deep/er/backbone/config.json").read_text())
    assert config["video_config"]["backbone_id"] == "../../../vit"
    assert load(bases / "deep/er/backbone").config.video_config.backbone_id == str(bases / "vit")


def test_copy_finds_the_language_model_in_a_folder_above(adapter, tmp_path, caplog):
    shutil.copytree(adapter[0], tmp_path / "some/where/copy")
    assert_same_answers(tmp_path / "some/where/copy", adapter)
    assert f"does not exist: {tmp_path / 'llm'} is loaded instead" in caplog.text


def test_link_to_a_checkpoint_finds_the_language_model_beside_it(adapter, tmp_path):
    shutil.copytree(adapter[0], tmp_path / "disk/runs/run")
    (tmp_path / "llm").rename(tmp_path / "disk/runs/llm")
    (tmp_path / "project").mkdir()
    (tmp_path / "project/runs").symlink_to(tmp_path / "disk/runs/run")
    assert_same_answers(tmp_path / "project/runs", adapter)


def test_copy_finds_the_language_model_in_the_hub_cache(adapter, bases, tmp_path, monkeypatch):
    (tmp_path / "llm").unlink()
    shutil.copytree(bases / "llm", tmp_path / "cache/models--org--llm/snapshots/0123")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    assert_same_answers(adapter[0], adapter)


def test_copy_without_the_language_model_says_what_to_pass(adapter, bases, tmp_path, monkeypatch):
    (tmp_path / "llm").unlink()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    expected = tmp_path / "llm"
    message = rf"language model '../llm' was not found at {expected},.*text_model_id=.*--text_model_name_or_path\.$"
    with pytest.raises(OSError, match=message) as caught:
        load(adapter[0])
    assert caught.value.__context__ is None  # one traceback
    monkeypatch.chdir(bases)
    assert_same_answers(adapter[0], adapter, text_model_id="llm")


# ---- whether it is the right one ----------------------------------------------------------------------------


@pytest.fixture
def checked(adapter, bases, tmp_path):
    """A checkpoint that records the checksum of its language model, and a copy of that model."""
    folder = adapter[0]
    path = folder / "config.json"
    checksum = text_model_checksum(AutoModelForCausalLM.from_pretrained(bases / "llm"))
    path.write_text(json.dumps({**json.loads(path.read_text()), "text_model_checksum": checksum}))
    return folder, shutil.copytree(bases / "llm", tmp_path / "copy")


@pytest.mark.parametrize("bit", [0, 12, 20, 31])
def test_flipped_bit_is_refused(checked, bit):
    folder, copy = checked
    flip = 1 << bit if bit < 31 else -(1 << 31)
    weight = "model.layers.1.mlp.up_proj.weight"
    edit_weights(copy, lambda state: state[weight].view(torch.int32)[-1:, -1:].bitwise_xor_(flip))
    with pytest.raises(ValueError, match="checksum of the language model at .*copy is not that of the one"):
        load(folder, text_model_id=copy)
    assert load(folder, text_model_id=copy, text_model_checksum=None).config.text_model_checksum is None


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16])
def test_every_precision_and_sharding_is_the_same_model(checked, make_language_model, stored):
    folder, copy = checked
    make_language_model().to(stored).save_pretrained(copy, max_shard_size="20KB")
    (copy / "model.safetensors").unlink()
    assert len(list(copy.glob("model-*.safetensors"))) > 1
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        assert load(folder, text_model_id=copy, dtype=dtype).language_model.dtype == dtype


def test_model_trained_in_lower_precision_takes_the_original(adapter, make_language_model, bases):
    """Trained in bfloat16 with a language model that is stored in float32."""
    folder = adapter[0]
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["text_model_checksum"] = text_model_checksum(make_language_model().to(torch.bfloat16))
    config["text_config"]["dtype"] = "bfloat16"
    path.write_text(json.dumps(config))
    assert load_file(bases / "llm/model.safetensors")["lm_head.weight"].dtype == torch.float32
    for dtype in (torch.float32, torch.bfloat16):
        load(folder, text_model_id=bases / "llm", dtype=dtype)
    with pytest.raises(ValueError, match="checksum"):
        load(folder, text_model_id=bases / "llm_other_weights")


def test_flipped_bit_below_the_stored_precision_is_refused(adapter, make_language_model, tmp_path):
    """Trained in float32 with a language model that was stored in bfloat16."""
    rounded = make_language_model().to(torch.bfloat16).float()
    path = adapter[0] / "config.json"
    config = {**json.loads(path.read_text()), "text_model_checksum": text_model_checksum(rounded)}
    path.write_text(json.dumps(config))
    rounded.save_pretrained(tmp_path / "copy")
    load(adapter[0], text_model_id=tmp_path / "copy")
    edit_weights(tmp_path / "copy", lambda state: state["lm_head.weight"].view(torch.int32)[:1, :1].bitwise_xor_(1))
    with pytest.raises(ValueError, match="checksum"):
        load(adapter[0], text_model_id=tmp_path / "copy")


def test_every_bit_counts_once():
    """Tied weights, buffers, and weights whose bytes are no multiple of eight."""
    layer = torch.nn.Linear(3, 3, bias=False)
    layer.tied = layer.weight
    layer.register_buffer("stored", torch.ones(1))
    layer.register_buffer("computed", torch.ones(1), persistent=False)
    expected = sum_of_bits(layer)
    for weight, is_summed in ((layer.weight, True), (layer.stored, True), (layer.computed, False)):
        for bit in (1, -(1 << 31)):
            last = weight.data.flatten()[-1:].view(torch.int32)
            last.bitwise_xor_(bit)
            assert (sum_of_bits(layer) != expected) == is_summed
            last.bitwise_xor_(bit)
    assert sum_of_bits(layer) == expected


@pytest.mark.parametrize("name", ["rope_parameters", "rms_norm_eps"])
def test_other_settings_of_the_language_model_are_refused(checked, name):
    folder, copy = checked
    path = copy / "config.json"
    config = json.loads(path.read_text())
    config[name] = {**config[name], "rope_theta": 500.0} if name == "rope_parameters" else 0.1
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=f"copy has {name}=.* was trained with one that has .*pass text_config="):
        load(folder, text_model_id=copy)
    load(folder, text_model_id=copy, text_config={name: config[name]})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_that_are_views_of_others_have_the_same_sum(dtype):
    """A view may begin at any byte of its storage."""
    layer = torch.nn.Linear(3, 3, bias=False, dtype=dtype)
    expected = sum_of_bits(layer)
    for offset in range(1, 5):
        storage = torch.cat([torch.ones(offset, dtype=dtype), layer.weight.detach().flatten()])
        view = torch.nn.Linear(3, 3, bias=False, dtype=dtype)
        view.weight = torch.nn.Parameter(storage[offset:].view(3, 3))
        assert sum_of_bits(view) == expected
