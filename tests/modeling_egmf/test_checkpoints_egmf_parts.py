"""Parts that an adapter checkpoint names but does not hold: language model and frozen backbones. Merging LoRA."""

import shutil

import huggingface_hub
import pytest
import torch
from transformers import AutoModelForCausalLM

from modeling_egmf import EGMFForConditionalGeneration
from tests.helpers.checkpoint_files import edit_weights, outputs_of, stored_keys
from training.model.export import merge


VIDEO_BACKBONE = "egmf.audio_visual_encoder.video.stem.backbone."
AUDIO_BACKBONE = "egmf.audio_visual_encoder.audio.stem.backbone."


load = EGMFForConditionalGeneration.from_pretrained


# ---- the language model -------------------------------------------------------------------------------------


@pytest.mark.parametrize("text_model_id", ["../nowhere", "org/never-published"])
def test_absent_language_model_is_named(
    make_adapter_model,
    tmp_path,
    monkeypatch,
    text_model_id,
):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    make_adapter_model(text_model_id=text_model_id).save_pretrained(tmp_path / "adapter")
    with pytest.raises(OSError, match=rf"is an adapter checkpoint.*'{text_model_id}'") as caught:
        load(tmp_path / "adapter")
    assert "from_pretrained(..., text_model_id=" in str(caught.value)


def test_path_to_a_copy_works(make_adapter_model, inputs_for, bases, tmp_path):
    model = make_adapter_model(text_model_id="org/never-published")
    model.save_pretrained(tmp_path / "adapter")
    loaded = load(tmp_path / "adapter", text_model_id=bases / "llm")
    inputs = inputs_for(model)
    assert torch.equal(outputs_of(model, inputs)["logits"], outputs_of(loaded, inputs)["logits"])


def test_relative_path_starts_at_the_checkpoint(adapter, tmp_path, monkeypatch):
    folder, model, inputs = adapter
    (tmp_path / "somewhere" / "else").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "somewhere" / "else")
    assert model.config.text_model_id == "../llm"
    assert torch.equal(outputs_of(load(folder), inputs)["logits"], outputs_of(model, inputs)["logits"])


def test_same_language_model_does_not_warn(adapter, caplog):
    load(adapter[0])
    assert "different weights" not in caplog.text


def test_other_precision_does_not_warn(adapter, bases, caplog):
    load(adapter[0], text_model_id=bases / "llm_bfloat16")
    assert "different weights" not in caplog.text


def test_other_weights_warn(adapter, bases, caplog):
    load(adapter[0], text_model_id=bases / "llm_other_weights")
    assert "has different weights from the one" in caplog.text


def test_other_size_is_refused(adapter, bases):
    with pytest.raises(ValueError, match="has hidden_size=16, but .* was trained with one that has 32"):
        load(adapter[0], text_model_id=bases / "llm_narrow")


def test_language_model_cut_short_is_refused(
    make_adapter_model,
    make_language_model,
    tmp_path,
):
    make_language_model().save_pretrained(tmp_path / "llm")
    make_adapter_model().save_pretrained(tmp_path / "adapter")
    edit_weights(tmp_path / "llm", lambda state: state.pop("model.norm.weight"))
    with pytest.raises(ValueError, match=r"do not match the model: .*model\.norm\.weight"):
        load(tmp_path / "adapter")


def test_damaged_language_model_is_named(
    make_adapter_model,
    make_language_model,
    tmp_path,
):
    make_language_model().save_pretrained(tmp_path / "llm")
    make_adapter_model().save_pretrained(tmp_path / "adapter")
    path = tmp_path / "llm" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(
        OSError, match=r"adapter checkpoint: its language model '.*/llm' could not be loaded.*Point to a"
    ):
        load(tmp_path / "adapter")


# ---- LoRA ---------------------------------------------------------------------------------------------------


def test_merging_keeps_the_answers(make_adapter_model, inputs_for):
    model = make_adapter_model()
    inputs = inputs_for(model)
    before = outputs_of(model, inputs)["logits"]
    after = outputs_of(merge(model), inputs)["logits"]
    torch.testing.assert_close(after, before, atol=1e-3, rtol=0)


def test_merged_lora_is_in_the_weights(make_adapter_model, bases):
    plain = AutoModelForCausalLM.from_pretrained(bases / "llm").state_dict()
    merged = merge(make_adapter_model()).language_model.state_dict()
    changed = {name for name in plain if not torch.equal(plain[name], merged[name])}
    expected = {f"model.layers.{i}.self_attn.{p}_proj.weight" for i in range(2) for p in "qv"}
    assert changed == expected


def test_merging_a_loaded_checkpoint_needs_nothing_else(adapter, tmp_path):
    folder, model, inputs = adapter
    merge(load(folder)).save_pretrained(tmp_path / "standalone")
    (tmp_path / "llm").unlink()
    actual = outputs_of(load(tmp_path / "standalone"), inputs)["logits"]
    torch.testing.assert_close(actual, outputs_of(model, inputs)["logits"], atol=1e-3, rtol=0)


# ---- pretrained backbones -----------------------------------------------------------------------------------


def test_frozen_backbone_stays_out_and_comes_back(
    make_adapter_model,
    make_backbones,
    inputs_for,
    bases,
    tmp_path,
):
    model = make_adapter_model(text_model_id=str(bases / "llm"), **make_backbones(str(bases / "vit")))
    model.save_pretrained(tmp_path / "adapter")
    keys = stored_keys(tmp_path / "adapter")
    assert not any(key.startswith(VIDEO_BACKBONE) for key in keys)
    assert any(key.startswith(AUDIO_BACKBONE) for key in keys)  # that one is trained
    loaded = load(tmp_path / "adapter")
    inputs = inputs_for(model)
    before = outputs_of(model, inputs)
    after = outputs_of(loaded, inputs)
    assert torch.equal(before["logits"], after["logits"])
    assert before["trainable"] == after["trainable"]


def test_other_weights_of_a_frozen_backbone_are_refused(make_adapter_model, make_backbones, bases, tmp_path):
    shutil.copytree(bases / "vit", tmp_path / "vit")
    folder = tmp_path / "adapter"
    model = make_adapter_model(text_model_id=str(bases / "llm"), **make_backbones(str(tmp_path / "vit")))
    assert model.config.video_config.backbone_checksum is None
    model.save_pretrained(folder)
    load(folder).save_pretrained(folder)  # the checksum is recorded when the backbone is first loaded
    load(folder)
    for change in (lambda state: state.popitem(), lambda state: state["layernorm.bias"].add_(1e-6)):
        edit_weights(tmp_path / "vit", change)
        with pytest.raises(
            ValueError, match=r"video encoder at .*vit has other weights .*{'backbone_checksum': None}"
        ):
            load(folder)
    load(folder, video_config={"backbone_checksum": None})


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_precision_of_a_frozen_backbone_can_be_changed(
    make_adapter_model, make_backbones, inputs_for, bases, tmp_path, dtype
):
    """It was refused as if the encoder had other weights."""
    folder = tmp_path / "adapter"
    model = make_adapter_model(text_model_id=str(bases / "llm"), **make_backbones(str(bases / "vit")))
    model.save_pretrained(folder)
    load(folder).save_pretrained(folder)  # with a checksum
    checksum = load(folder).config.video_config.backbone_checksum
    loaded = load(folder, video_config={"backbone_dtype": dtype})
    backbone = loaded.egmf.audio_visual_encoder.video.stem.backbone
    assert {weight.dtype for weight in backbone.parameters()} == {getattr(torch, dtype)}
    inputs = inputs_for(model)
    expected = model.score_answers(**inputs).probabilities
    torch.testing.assert_close(loaded.score_answers(**inputs).probabilities, expected, atol=0.02, rtol=0)
    loaded.save_pretrained(folder)
    again = load(folder)
    assert again.config.video_config.backbone_checksum not in (None, checksum)
    assert torch.equal(again.score_answers(**inputs).log_probs, loaded.score_answers(**inputs).log_probs)


def test_relative_path_of_a_backbone_starts_at_the_checkpoint(
    make_adapter_model, make_backbones, inputs_for, bases, tmp_path, monkeypatch
):
    model = make_adapter_model(**make_backbones("../vit"))
    model.save_pretrained(bases / "adapter_with_backbone")
    monkeypatch.chdir(tmp_path)
    loaded = load(bases / "adapter_with_backbone")
    inputs = inputs_for(model)
    assert torch.equal(outputs_of(model, inputs)["logits"], outputs_of(loaded, inputs)["logits"])


def test_trained_backbone_is_stored(
    make_adapter_model,
    make_backbones,
    bases,
    tmp_path,
):
    make_adapter_model(
        text_model_id=str(bases / "llm"), **make_backbones("../nowhere", trainable=True)
    ).save_pretrained(tmp_path)
    assert any(key.startswith(VIDEO_BACKBONE) for key in stored_keys(tmp_path))
    load(tmp_path)


def test_standalone_checkpoint_holds_its_frozen_backbone(
    make_adapter_model,
    make_backbones,
    tmp_path,
):
    make_adapter_model(text_model_id=None, **make_backbones("../nowhere")).save_pretrained(tmp_path)
    assert any(key.startswith(VIDEO_BACKBONE) for key in stored_keys(tmp_path))
    load(tmp_path)


def test_absent_backbone_is_named(make_adapter_model, make_backbones, bases, tmp_path):
    make_adapter_model(text_model_id=str(bases / "llm"), **make_backbones("../nowhere")).save_pretrained(
        tmp_path / "adapter"
    )
    with pytest.raises(OSError, match=r"video encoder '../nowhere' was not found at .*video_config={'backbone_id': "):
        load(tmp_path / "adapter", local_files_only=True)
