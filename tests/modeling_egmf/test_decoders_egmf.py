"""Which way of scoring a language model's configuration asks for, and which language models are refused by name."""

from collections import Counter

import pytest
import torch
import transformers
from packaging import version
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from modeling_egmf import EGMFConfig, EGMFForConditionalGeneration, decoders_egmf
from modeling_egmf.decoders_egmf import check_decoder, describe_decoder
from training.model.backbones.small_configs import small_config


class UnknownConfig(LlamaConfig):
    model_type = "of_another_author"


class LlamaOfTokens(LlamaForCausalLM):
    """A class of another author whose forward pass takes only token ids."""

    def forward(self, input_ids, attention_mask=None):
        return super().forward(input_ids=input_ids, attention_mask=attention_mask)


@pytest.mark.parametrize(
    ("model_type", "fields", "expected"),
    [
        ("llama", {}, ("tree", "any")),
        ("llama", {"attn_implementation": "eager"}, ("tree", "any")),
        ("llama", {"attn_implementation": "flash_attention_2"}, ("rows", "left")),
        ("llama", {"attn_implementation": "flex_attention"}, ("rows", "left")),
        ("llama", {"attn_implementation": "kernels-community/unknown"}, ("recompute", "right")),
        ("lfm2", {"attn_implementation": "flash_attention_2"}, ("rows", "right")),
        ("qwen2", {}, ("tree", "any")),
        ("qwen2", {"use_sliding_window": True, "layer_types": ["sliding_attention"] * 2}, ("rows", "left")),
        ("mistral", {}, ("rows", "left")),
        ("mistral", {"sliding_window": None}, ("tree", "any")),
        ("falcon", {}, ("tree", "any")),
        ("falcon", {"alibi": True}, ("rows", "left")),
        ("llama4_text", {}, ("rows", "right")),
        ("llama4_text", {"attention_chunk_size": 1}, ("recompute", "right")),
        ("gemma3_text", {"sliding_window": 1}, ("recompute", "right")),
        ("jamba", {}, ("rows", "right")),
        ("mamba", {}, ("recompute", "right")),
    ],
)
def test_way_of_scoring(model_type, fields, expected):
    assert describe_decoder(small_config(model_type, **fields)) == expected


def test_unknown_model_types_take_the_safe_way():
    assert describe_decoder(UnknownConfig()) == ("recompute", "right")


@pytest.mark.parametrize(
    ("model_type", "fields", "reason"),
    [
        ("gemma4_text", {"hidden_size_per_layer_input": 8}, "hidden_size_per_layer_input"),
        ("gemma3n_text", {}, "hidden_size_per_layer_input"),
        ("deepseek_v4", {"mlp_layer_types": ["hash_moe", "moe"]}, "hash_moe"),
        ("qwen4_exp_text", {"ple_layer_ids": [1], "ple_embed_dim": 32, "eos_token_id": 2}, "ple_layer_ids"),
        ("bert", {"is_decoder": False}, "is_decoder=True"),
        ("llama", {"is_causal": False}, "read later ones"),
        ("gemma3_text", {"use_bidirectional_attention": True}, "read later ones"),
        ("gemma4_text", {"use_bidirectional_attention": "all"}, "read later ones"),
        ("xmod", {"default_language": None}, "default_language"),
        ("cpmant", {}, "token ids"),
        ("xlnet", {}, "not causal"),
    ],
)
def test_language_model_is_refused_by_name(model_type, fields, reason):
    config = small_config(model_type, **fields)
    with pytest.raises(ValueError, match=rf"type '{model_type}' cannot be used: .*{reason}.*Choose a causal decoder"):
        check_decoder(config)


def test_refused_before_it_is_built_or_loaded(tmp_path, monkeypatch):
    config = EGMFConfig(text_config=small_config("gemma4_text", hidden_size_per_layer_input=8))
    with monkeypatch.context() as patch:
        patch.setattr(torch, "empty", None)  # nothing is built
        with pytest.raises(ValueError, match="'gemma4_text' cannot be used"):
            EGMFForConditionalGeneration(config)
    config.save_pretrained(tmp_path)  # there are no weights
    with pytest.raises(ValueError, match="'gemma4_text' cannot be used"):
        EGMFForConditionalGeneration.from_pretrained(tmp_path)


def test_configuration_without_a_language_model_is_refused():
    with pytest.raises(ValueError, match="no `text_config`"):
        EGMFForConditionalGeneration(EGMFConfig())
    with pytest.raises(ValueError, match="no `text_config`"):
        EGMFForConditionalGeneration.from_pretrained("folder", config=EGMFConfig())


def test_class_without_input_embeddings_is_refused(tiny_text_config):
    with pytest.raises(ValueError, match=r"`LlamaOfTokens.forward` does not take `inputs_embeds`"):
        EGMFForConditionalGeneration(EGMFConfig(text_config=tiny_text_config), LlamaOfTokens(tiny_text_config))


def test_every_listed_type_exists_and_is_listed_once():
    lists = [decoders_egmf.PLAIN_TYPES, decoders_egmf.BIASED_TYPES, decoders_egmf.CACHED_TYPES]
    listed = [name for names in lists for name in names] + list(decoders_egmf.REFUSED_TYPES)
    assert Counter(listed).most_common(1)[0][1] == 1
    if version.parse(transformers.__version__) >= version.parse("5.23"):  # older ones lack some of the types
        assert set(listed) <= set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
