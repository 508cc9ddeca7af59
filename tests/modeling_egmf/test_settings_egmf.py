"""Fields of config.json that were changed after saving are refused; those on which no answer depends are not."""

import json

import pytest
from transformers import AutoModel

from modeling_egmf import EGMFConfig, EGMFForConditionalGeneration
from modeling_egmf.settings_egmf import settings_checksums
from tests.helpers.checkpoint_files import outputs_of


load = EGMFForConditionalGeneration.from_pretrained


def edit(folder, **changes):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for name, value in changes.items():
        config[name] = {**config[name], **value} if isinstance(value, dict) else value
    path.write_text(json.dumps(config, indent=1))


@pytest.mark.parametrize("kind", ["adapter", "standalone"])
@pytest.mark.parametrize(
    "change",
    [
        {"fusion_attention_heads": 1},
        {"audio_config": {"hop_seconds": 0.02}},
        {"text_config": {"rms_norm_eps": 0.1}},
        {"license": "mit"},
    ],
)
def test_changed_field_is_refused_by_name(kind, change, request):
    folder = request.getfixturevalue(kind)[0]
    edit(folder, **change)
    (name,) = change
    for loads in (load, AutoModel.from_pretrained):
        with pytest.raises(ValueError, match=f"config.json was saved with another value of {name}. Download it again"):
            loads(folder)
    edit(folder, config_checksum=None)  # as the message says
    EGMFConfig.from_pretrained(folder)


def test_other_fields_may_be_edited(adapter, bases):
    folder = adapter[0]
    edit(
        folder,
        text_model_id=str(bases / "llm"),
        transformers_version="9.9",
        id2label={"0": "joy"},
        adapters={"default": False},
        text_config={"dtype": "bfloat16", "_name_or_path": "/home/me", "use_cache": False},
    )
    assert load(folder, dtype="float32").config.id2label == {0: "joy"}


@pytest.mark.parametrize("value", [float("nan"), [], "Tensor", "int64"])
def test_precision_that_does_not_exist_is_refused(standalone, value):
    folder = standalone[0]
    for change in ({"dtype": value}, {"text_config": {"dtype": value}}, {"audio_config": {"dtype": value}}):
        edit(folder, **{"dtype": None, "text_config": {"dtype": None}, **change})
        with pytest.raises(ValueError, match=r"config.json of .* is not valid: `dtype` is .*; use one of float16, bf"):
            load(folder)


def test_field_of_another_version_names_how_to_renew_the_checkpoint(standalone):
    folder = standalone[0]
    edit(folder, config_checksum=None, gate="three_stage")
    with pytest.raises(ValueError, match=r"'gate'.* renew the checkpoint: training/PYTHON_API.md"):
        load(folder)


def test_keywords_change_the_configuration_only_in_memory(adapter, tmp_path):
    folder, model, inputs = adapter
    loaded = load(folder, fusion_dropout=0.5, audio_config={"dropout": 0.5})
    assert loaded.config.audio_config.dropout == 0.5
    assert not {"config_checksum", "weights_checksum"} & {k for k, v in loaded.config.to_dict().items() if v}
    loaded.save_pretrained(tmp_path / "saved")
    again = load(tmp_path / "saved")
    assert again.config.fusion_dropout == 0.5
    assert (outputs_of(again, inputs)["logits"] == outputs_of(model, inputs)["logits"]).all()
    # A configuration that is saved by itself is one that was edited with intent.
    loaded.config.save_pretrained(tmp_path / "saved")
    load(tmp_path / "saved")


def test_checksums_do_not_depend_on_the_order_of_fields():
    assert settings_checksums({"gate": {"a": 1, "b": 2}}) == settings_checksums({"gate": {"b": 2, "a": 1}})
    assert settings_checksums({"gate": [1]}) != settings_checksums({"gate": [2]})
