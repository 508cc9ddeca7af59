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


@pytest.mark.parametrize("method", ["set_adapter", "delete_adapter", "get_adapter_state_dict"])
@pytest.mark.parametrize("names", [None, "absent", 5, [None], ["default", "absent"], [["default"]]])
def test_adapter_that_does_not_exist_is_named(adapter, method, names):
    _, model, inputs = adapter
    expected = logits_of(model, inputs)
    if method == "get_adapter_state_dict" and names is None:
        assert model.get_adapter_state_dict().keys() == model.get_adapter_state_dict("default").keys()
        return
    with pytest.raises(ValueError, match=r"There is no adapter .*; the model has default\."):
        getattr(model, method)(names)
    assert model.active_adapters() == ["default"]
    assert torch.equal(logits_of(model, inputs), expected)


def test_a_model_without_adapters_says_so(standalone):
    model = standalone[1]
    assert model.active_adapters() == []
    for method in (model.set_adapter, model.delete_adapter, model.get_adapter_state_dict):
        with pytest.raises(ValueError, match="There is no adapter 'default'; the model has none"):
            method("default")
    with pytest.raises(ValueError, match="There is no adapter 'default'; the model has none"):
        model.get_adapter_state_dict()
    with pytest.raises(ValueError, match=r"not swapped: use delete_adapter\(\), then load_adapter\(\)"):
        model.enable_peft_hotswap()


def test_an_empty_list_makes_no_adapter_active(adapter):
    folder, model, inputs = adapter
    model.set_adapter([])
    disabled = logits_of(model, inputs)
    model.save_pretrained(folder.with_name("none"))
    assert torch.equal(logits_of(load(folder.with_name("none")), inputs), disabled)
    model.set_adapter("default")
    model.disable_adapters()
    assert torch.equal(logits_of(model, inputs), disabled)


@pytest.mark.parametrize("way", ["set_adapter", "add_adapter", "load_adapter"])
def test_an_adapter_that_is_made_active_has_an_effect_after_disabling(adapter, way):
    """It was active by name only, and saved as if it were not."""
    folder, model, inputs = adapter
    expected = logits_of(model, inputs)
    model.disable_adapters()
    if way == "set_adapter":
        model.set_adapter("default")
    elif way == "load_adapter":
        model.load_adapter(folder / "default", "again")
    else:
        model.add_adapter(LORA, "again")
        assert model.active_adapters() == ["again"]
        model.set_adapter("default")
    assert torch.equal(logits_of(model, inputs), expected)


@pytest.mark.parametrize("fields", TRAINED_WHOLE.values(), ids=TRAINED_WHOLE)
def test_adapters_that_cannot_be_active_together_are_refused(standalone, fields, tmp_path):
    """The first modules were switched before peft refused the others, and the checkpoint did not load."""
    _, model, inputs = standalone
    for name in "ab":
        model.add_adapter(fields, name)
    expected = logits_of(model, inputs)
    with pytest.raises(ValueError, match=r"\['a', 'b'\] have `modules_to_save` or trained tokens: set one of them"):
        model.set_adapter(["a", "b"])
    assert model.active_adapters() == ["b"]
    model.save_pretrained(tmp_path)
    assert torch.equal(logits_of(load(tmp_path), inputs), expected)


OTHER_MODULES = {
    "tokens, none": ({"trainable_token_indices": [5, 8]}, {}),
    "none, tokens": ({}, {"trainable_token_indices": [5, 8]}),
    "tokens of other layers": (
        {"trainable_token_indices": {"embed_tokens": [5]}},
        {"trainable_token_indices": {"lm_head": [5]}},
    ),
    "module, none": ({"modules_to_save": ["lm_head"]}, {}),
    "none, module": ({}, {"modules_to_save": ["lm_head"]}),
    "other modules": ({"modules_to_save": ["lm_head"]}, {"modules_to_save": ["norm"]}),
}
SAME_MODULES = {
    "other tokens": ({"trainable_token_indices": [5, 8]}, {"trainable_token_indices": [2]}),
    "modules": ({"modules_to_save": ["lm_head"]}, {"modules_to_save": ["lm_head"]}),
    "none": ({}, {"r": 3, "target_modules": ["k_proj"]}),
    "another method": ({}, {"peft_type": "LOHA"}),
}


@pytest.fixture
def stored_adapters(standalone, tmp_path, enliven):
    """`stored_adapters(fields of each)` -> a model without any, inputs, folders, and the logits with each alone."""

    def make(all_fields):
        folder, model, inputs = standalone
        folders = []
        logits = []
        for number, fields in enumerate(all_fields):
            adapted = load(folder)
            adapted.add_adapter({**LORA, **fields}, f"a{number}")
            adapted.egmf.requires_grad_(False)
            enliven(adapted.eval(), number)
            adapted.save_pretrained(tmp_path / str(number))
            folders.append(tmp_path / str(number) / f"a{number}")
            logits.append(logits_of(adapted, inputs))
        return model, inputs, folders, logits

    return make


@pytest.mark.parametrize("all_fields", OTHER_MODULES.values(), ids=OTHER_MODULES)
def test_adapters_that_train_other_modules_are_refused(stored_adapters, all_fields, tmp_path):
    """peft could not switch between them, or save them."""
    model, inputs, folders, logits = stored_adapters(all_fields)
    model.load_adapter(folders[0], "a0")
    message = "'a0' has other `modules_to_save` or trained tokens: delete it"
    with pytest.raises(OSError, match=message):
        model.load_adapter(folders[1], "a1")
    with pytest.raises(ValueError, match=message):
        model.add_adapter({**LORA, **all_fields[1]}, "a1")
    assert model.active_adapters() == ["a0"]
    assert torch.equal(logits_of(model, inputs), logits[0])
    model.save_pretrained(tmp_path / "again")
    assert torch.equal(logits_of(load(tmp_path / "again"), inputs), logits[0])


@pytest.mark.parametrize("all_fields", SAME_MODULES.values(), ids=SAME_MODULES)
def test_adapters_are_switched_and_saved_together(stored_adapters, all_fields, tmp_path):
    model, inputs, folders, logits = stored_adapters(all_fields)
    for number, folder in enumerate(folders):
        model.load_adapter(folder, f"a{number}")
    model.save_pretrained(tmp_path / "both")
    for each in (model, load(tmp_path / "both")):
        assert torch.equal(logits_of(each, inputs), logits[1])
        each.set_adapter("a0")
        assert torch.equal(logits_of(each, inputs), logits[0])


@pytest.mark.parametrize("keyword", ["revison", "subfoldr", "locl_files_only"])
def test_misspelled_keyword_of_load_adapter_is_refused(adapter, keyword):
    folder, model, _ = adapter
    correct = {"revison": "revision", "subfoldr": "subfolder", "locl_files_only": "local_files_only"}[keyword]
    message = rf"load_adapter\(\) got an unexpected keyword argument '{keyword}'. Did you mean `{correct}`"
    with pytest.raises(TypeError, match=message):
        model.load_adapter(folder / "default", "x", **{keyword: "default"})
    model.load_adapter(folder, "x", subfolder="default", revision="main", local_files_only=True, token=None)
