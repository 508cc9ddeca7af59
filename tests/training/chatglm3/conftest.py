"""Fixtures of the conversion's tests: a converted checkpoint, and a checkpoint to convert."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.helpers.chatglm3_files import (
    EXPECTED,
    TINY_SOURCE,
    TOKENIZER_SOURCE,
    random_tensors,
    write_config,
    write_shards,
)
from training.chatglm3.convert import convert


@pytest.fixture(scope="session")
def stored():
    """Inputs and logits of the original code."""
    return load_file(EXPECTED)


@pytest.fixture(scope="session")
def native(tmp_path_factory):
    """Both halves in one folder: the tiny weights with a tokenizer of another size."""
    folder = tmp_path_factory.mktemp("native") / "glm"
    convert(TINY_SOURCE, folder, "weights")
    convert(TOKENIZER_SOURCE, folder, "tokenizer")
    return folder


@pytest.fixture(scope="session")
def model(native):
    return AutoModelForCausalLM.from_pretrained(native, dtype=torch.float32)


@pytest.fixture(scope="module")
def tokenizer(native):
    return AutoTokenizer.from_pretrained(native)


@pytest.fixture
def source(tmp_path):
    """A checkpoint that tests may change: two layers of random float16 weights in three shards."""
    folder = write_config(tmp_path / "source")
    return write_shards(folder, random_tensors(folder))
