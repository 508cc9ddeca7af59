"""The precision in which a new model's language model is loaded."""

import pytest
import torch

from tests.helpers.corpus_files import tiny_llama
from training.model import language_model
from training.options import ModelArguments


@pytest.mark.parametrize(
    ("cpu", "option", "dtype"),
    [
        ("AVX2", "auto", torch.float32),
        ("AVX512", "auto", torch.bfloat16),
        ("AVX2", "bfloat16", torch.bfloat16),
        ("AVX512", "float32", torch.float32),
    ],
)
def test_slow_16_bit_cpu_gets_float32_by_default(cpu, option, dtype, tiny_tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: cpu)
    tiny_llama(tiny_tokenizer).to(torch.bfloat16).save_pretrained(tmp_path)
    arguments = ModelArguments(text_model_name_or_path=str(tmp_path), text_model_dtype=option)
    assert language_model.load_language_model(arguments, None).dtype == dtype


def test_accelerator_keeps_the_stored_precision(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert language_model.has_fast_bfloat16()
