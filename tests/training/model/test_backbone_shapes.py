"""Configurations of the shipped backbones, and of backbones in a folder or a file."""

import copy

import pytest

from tests.helpers.corpus_files import tiny_llama, write_language_model
from training.model.backbones import backbone_config, backbone_names


def test_shipped_backbones():
    assert backbone_names() == ["glm-4-9b", "glm3-6b", "llama-3-8b", "qwen2.5-1.5b", "qwen2.5-7b", "smollm2-135m"]


def test_glm3_shape_matches_the_conversion():
    config = backbone_config("glm3-6b")
    assert config.rms_norm_eps == 1e-5
    assert config.pad_token_id == 0
    assert config.eos_token_id == 2
    assert config.bos_token_id is None
    assert config.rope_parameters["partial_rotary_factor"] == 0.5


def test_backbone_from_a_folder(tmp_path, trained_tokenizer):
    tokenizer = copy.deepcopy(trained_tokenizer)
    folder = write_language_model(tmp_path / "llm", tiny_llama(tokenizer), tokenizer)
    assert backbone_config(folder).vocab_size == len(tokenizer)
    assert backbone_config(folder, num_hidden_layers=7).num_hidden_layers == 7


def test_backbone_from_a_file(tmp_path):
    (tmp_path / "mine.yaml").write_text("model_type: llama\nhidden_size: 96\n")
    assert backbone_config(tmp_path / "mine.yaml").hidden_size == 96
    (tmp_path / "wrong.yaml").write_text("hidden_size: 96\n")
    with pytest.raises(ValueError, match="model_type"):
        backbone_config(tmp_path / "wrong.yaml")


def test_unknown_backbone_is_refused():
    with pytest.raises(ValueError, match=r"'glm3'.*glm3-6b"):
        backbone_config("glm3")
