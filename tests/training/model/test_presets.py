"""Named pretrained encoders: which modality, where a copy is looked for, and what to do without internet."""

import pytest

from training.model.encoders import build_encoder
from training.model.presets import PRESETS, locate_preset, preset_names
from training.options import ModelArguments, training_options


def test_preset_is_its_copy_or_its_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert locate_preset("whisper-base", "audio") == "openai/whisper-base"
    folder = tmp_path / ".cache/assets/whisper-base"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    assert locate_preset("whisper-base", "audio") == ".cache/assets/whisper-base"
    assert locate_preset("org/other", "audio") == "org/other"


@pytest.mark.parametrize("modality", ["audio", "video"])
def test_help_names_every_preset(modality):
    assert preset_names(modality)
    assert all(name in training_options()[modality].help for name in preset_names(modality))
    assert all(preset.license for preset in PRESETS.values())


@pytest.mark.parametrize(
    ("modality", "name", "message"),
    [
        ("video", "whisper-base", "--video whisper-base: this encoder is for audio. Give one of clip-vit-base"),
        ("audio", "wisper-base", "--audio wisper-base is not an encoder. Did you mean whisper-base?"),
        ("audio", "whisper-base", r"put a copy into \.cache/assets/whisper-base: `hf download openai/whisper-base "),
    ],
)
def test_unusable_name_says_what_to_do(tmp_path, monkeypatch, modality, name, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=message):
        build_encoder(ModelArguments(**{modality: name}), modality)
