"""Copies of a language model: its first layers, or new weights."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.helpers.corpus_files import tiny_llama, write_language_model
from training.experiments.language_models import main


@pytest.fixture
def source(tmp_path, trained_tokenizer):
    return write_language_model(tmp_path / "llm", tiny_llama(trained_tokenizer), trained_tokenizer)


def copy(source, **changes):
    folder = source.with_name("copy")
    main([str(source), str(folder), "--changes", json.dumps(changes)])
    return AutoModelForCausalLM.from_pretrained(folder)


def test_first_layers_keep_their_weights(source):
    original = AutoModelForCausalLM.from_pretrained(source)
    model = copy(source, layers=1)
    assert len(model.model.layers) == 1
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, original.state_dict()[name]), name


def test_random_weights_of_another_size(source):
    model = copy(source, random=True, layers=1, intermediate_size=16)
    assert model.config.intermediate_size == 16
    assert len(model.model.layers) == 1
    again = copy(source, random=True, layers=1, intermediate_size=16)
    assert all(
        torch.equal(first, second) for first, second in zip(model.parameters(), again.parameters(), strict=True)
    )


def test_wrong_changes(source):
    with pytest.raises(SystemExit, match="has 2 layers; it cannot keep 3 of them"):
        copy(source, layers=3)
    with pytest.raises(SystemExit, match="hidden_size can only be changed together with new weights"):
        copy(source, hidden_size=8)
    with pytest.raises(SystemExit, match="has no field hiden_size"):
        copy(source, random=True, hiden_size=8)
    with pytest.raises(SystemExit, match=r"--changes \[1\] is not a JSON object"):
        main([str(source), str(source), "--changes", "[1]"])
