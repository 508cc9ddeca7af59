"""Small models of each architecture, and text batches for them."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from training.benchmarks.cost.memory_model import meta_model
from training.model.backbones import backbone_config
from training.options import ModelArguments


SIZES = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 5,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 512,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 1,
}


@pytest.fixture(scope="session")
def small_sizes():
    """Changes to a backbone's configuration that make it small enough to run quickly."""
    return dict(SIZES)


@pytest.fixture
def with_language_model(make_model):
    """`with_language_model(language_model, config)` -> EGMF on text, with fusion and LoRA as in another config."""

    def make(language_model, config):
        return make_model(
            None,
            None,
            language_model=language_model,
            fusion_hidden_size=config.fusion_hidden_size,
            fusion_attention_heads=config.fusion_attention_heads,
            fusion_dropout=config.fusion_dropout,
            num_pseudo_tokens=config.num_pseudo_tokens,
            lora=config.lora,
        )

    return make


@pytest.fixture
def make_text_model(with_language_model):
    """`make_text_model(backbone, dtype, attention, **options)` -> a small model that runs, and its model options."""

    def make(backbone, dtype="float32", attention="sdpa", **options):
        arguments = ModelArguments(
            audio="none",
            video="none",
            fusion_hidden_size=8,
            lora_r=4,
            text_model_dtype=dtype,
            attn_implementation=attention,
            **options,
        )
        text_config = backbone_config(backbone, **SIZES)
        text_config._attn_implementation = attention
        torch.manual_seed(0)
        language_model = AutoModelForCausalLM.from_config(text_config, dtype=getattr(torch, dtype))
        model = with_language_model(language_model, meta_model(arguments, text_config).config)
        return model, arguments

    return make


@pytest.fixture(scope="session")
def make_text_batch():
    """`make_text_batch(model, size, length, num_labels)` -> inputs without media, one sample of them padded."""

    def make(model, size, length, num_labels=3):
        generator = torch.Generator().manual_seed(0)
        vocabulary = model.config.text_config.vocab_size
        ids = torch.randint(2, vocabulary, (size, length), generator=generator)
        ids[:, 2 : 2 + model.config.num_pseudo_tokens] = model.config.placeholder_token_id
        attention_mask = torch.ones(size, length, dtype=torch.long)
        attention_mask[0, 0] = 0
        utterance_mask = torch.zeros(size, length, dtype=torch.long)
        utterance_mask[:, 20:30] = 1
        batch = {"input_ids": ids, "attention_mask": attention_mask, "utterance_mask": utterance_mask}
        if num_labels:
            is_label = torch.arange(length) >= length - num_labels
            batch["labels"] = torch.where(is_label, ids, torch.full_like(ids, -100))
        return batch

    return make
