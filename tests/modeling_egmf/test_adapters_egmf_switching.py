"""Switching adapters on and off: the answers in memory, and those of the saved and of the merged model."""

import pytest
import torch

from modeling_egmf import EGMFForConditionalGeneration
from tests.helpers.checkpoint_files import outputs_of
from training.model.export import merge


load = EGMFForConditionalGeneration.from_pretrained
LORA = {"r": 2, "target_modules": ["q_proj"]}
TRAINED_WHOLE = {
    "a module": {**LORA, "modules_to_save": ["lm_head"]},
    "tokens": {**LORA, "trainable_token_indices": [5, 8]},
}


def logits_of(model, inputs):
    return outputs_of(model, inputs)["logits"]


@pytest.fixture(params=TRAINED_WHOLE)
def trained_whole(request, standalone, enliven):
    """A model whose adapter also trains a module or embeddings, inputs, and the logits without and with it."""
    _, model, inputs = standalone
    before = logits_of(model, inputs)
    model.add_adapter(TRAINED_WHOLE[request.param], "whole")
    model.egmf.requires_grad_(False)
    enliven(model.eval(), 5)
    return model, inputs, before, logits_of(model, inputs)


def test_disabled_adapters_are_enabled_again_as_a_whole(trained_whole):
    model, inputs, before, after = trained_whole
    assert not torch.equal(before, after)
    model.disable_adapters()
    assert model.active_adapters() == []
    assert torch.equal(logits_of(model, inputs), before)
    model.enable_adapters()
    assert model.active_adapters() == ["whole"]
    assert torch.equal(logits_of(model, inputs), after)


def test_disabled_adapters_have_no_effect_after_saving_or_merging(adapter, tmp_path):
    folder, model, inputs = adapter
    adapted = logits_of(model, inputs)
    model.disable_adapters()
    disabled = logits_of(model, inputs)
    assert not torch.equal(disabled, adapted)
    model.save_pretrained(folder.with_name("disabled"))
    loaded = load(folder.with_name("disabled"))
    assert torch.equal(logits_of(loaded, inputs), disabled)
    loaded.set_adapter("default")
    assert torch.equal(logits_of(loaded, inputs), adapted)
    assert torch.equal(logits_of(merge(model), inputs), disabled)


@pytest.mark.parametrize("names", [["default", "default"], ("default",)])
def test_adapter_that_is_named_twice_is_added_once(adapter, names):
    _, model, inputs = adapter
    expected = logits_of(model, inputs)
    model.set_adapter(names)
    assert torch.equal(logits_of(model, inputs), expected)
