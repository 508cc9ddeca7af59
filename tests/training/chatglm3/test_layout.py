"""Settings and tensors of ChatGLM3: those of the real model, and other models, refused with a reason."""

import math

import pytest
import torch

from tests.helpers.chatglm3_files import FULL, random_tensors, write_config, write_shards
from training.chatglm3.convert import convert
from training.chatglm3.layout import native_config, read_layout, source_shapes


def test_settings_of_the_real_model(tmp_path):
    layout = read_layout(write_config(tmp_path, FULL, rope_ratio=50))
    config = native_config(layout, "F16")
    found = {name: getattr(config, name) for name in ("vocab_size", "hidden_size", "intermediate_size", "head_dim")}
    assert found == {
        "vocab_size": 65024,
        "hidden_size": 4096,
        "intermediate_size": 13696,
        "head_dim": 128,
    }
    assert (config.num_hidden_layers, config.num_attention_heads, config.num_key_value_heads) == (
        28,
        32,
        2,
    )
    assert (config.rms_norm_eps, config.max_position_embeddings) == (1e-5, 32768)
    assert (config.pad_token_id, config.eos_token_id, config.bos_token_id) == (0, 2, None)
    assert config.rope_parameters == {
        "rope_type": "default",
        "rope_theta": 500_000.0,
        "partial_rotary_factor": 0.5,
    }
    assert config.attention_bias
    assert not config.tie_word_embeddings
    assert config.dtype == torch.float16
    assert sum(torch.Size(shape).numel() for shape in source_shapes(layout).values()) == 6_243_584_000


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"_name_or_path": "THUDM/chatglm2-6b"}, "is ChatGLM2"),
        ({"_name_or_path": "THUDM/codegeex2-6b"}, "is ChatGLM2"),
        ({"quantization_bit": 4}, "quantized"),
        ({"quantization_config": {"bits": 4}}, "quantized"),
        ({"pre_seq_len": 128}, "prefix"),
        ({"padded_vocab_size": 151_552}, "GLM-4"),
        ({"padded_vocab_size": "151552"}, "padded_vocab_size in config.json is '151552'"),
        ({"inner_hidden_size": 16384}, "first ChatGLM-6B"),
        ({"model_type": "glm"}, "is already native"),
        ({"model_type": "llama"}, "'llama' model"),
        ({"multi_query_attention": False}, "multi_query_attention is False"),
        ({"multi_query_attention": None}, "multi_query_attention is None"),
        ({"add_qkv_bias": None}, "add_qkv_bias is None"),
        ({"add_bias_linear": True}, "add_bias_linear is True"),
        ({"rmsnorm": False}, "rmsnorm is False"),
        ({"original_rope": False}, "original_rope is False"),
        ({"apply_residual_connection_post_layernorm": True}, "not supported"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings is True"),
        ({"layernorm_epsilon": None}, "layernorm_epsilon in config.json is None"),
        ({"num_layers": "two"}, "num_layers in config.json is 'two'"),
        ({"kv_channels": 2.5}, "kv_channels in config.json is 2.5"),
        ({"rope_ratio": 0}, "rope_ratio in config.json is 0"),
        ({"rope_ratio": math.nan}, "rope_ratio in config.json is nan; it must be a positive number of at most"),
        ({"hidden_size": math.inf}, "hidden_size in config.json is inf"),
        ({"num_layers": 10**9}, "num_layers in config.json is 1000000000; .* at most 10,000"),
        ({"attention_dropout": "x"}, "attention_dropout in config.json is 'x'; it must be from 0 to 1"),
        ({"multi_query_group_num": 3}, "divide evenly"),
        ({"eos_token_id": [2, 3]}, "eos_token_id"),
        ({"ffn_hidden_size": 14}, "according to config.json it should be"),
        ({"num_layers": 3}, "7 tensors are missing"),
        ({"num_layers": 1}, "7 tensors are unknown"),
    ],
)
def test_other_models_are_refused_with_a_reason(source, tmp_path, changes, message):
    write_config(source, **changes)
    with pytest.raises(ValueError, match=message):
        convert(source, tmp_path / "dest", "weights")
    assert not list(tmp_path.glob("dest*"))


def test_chatglm2_is_also_recognized_by_its_code(source, tmp_path):
    (source / "tokenization_chatglm.py").write_text('special_tokens = ["[MASK]", "[gMASK]", "[sMASK]", "sop", "eop"]')
    for only in ("weights", "tokenizer"):
        with pytest.raises(ValueError, match="is ChatGLM2"):
            convert(source, tmp_path / "dest", only)
    (source / "tokenization_chatglm.py").write_text('special_tokens = ["sop", "eop", "<|user|>"]')
    write_config(source, _name_or_path="mine/tuned-from-chatglm2")  # the code knows better than a name
    convert(source, tmp_path / "dest", "weights")


def test_folder_without_a_configuration_is_refused(source, tmp_path):
    (source / "config.json").unlink()
    with pytest.raises(ValueError, match="has no config.json"):
        convert(source, tmp_path / "dest", "weights")
    (source / "config.json").write_text("[1]")
    with pytest.raises(ValueError, match="not a JSON object"):
        convert(source, tmp_path / "dest", "weights")


def quantized(tensors):
    name = "transformer.encoder.layers.0.mlp.dense_4h_to_h.weight"
    return tensors | {name: tensors[name].to(torch.int8)}


def without(name):
    return lambda tensors: {key: value for key, value in tensors.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (quantized, r"quantized \(weights in I8\)"),
        (
            lambda t: t | {"transformer.encoder.layers.0.mlp.dense_4h_to_h.weight_scale": torch.ones(16)},
            "weight_scale",
        ),
        (
            lambda t: t | {"transformer.prefix_encoder.embedding.weight": torch.ones(2)},
            "unknown to ChatGLM3",
        ),
        (lambda t: {f"base_model.{name}": value for name, value in t.items()}, "unknown to ChatGLM3"),
        (without("transformer.output_layer.weight"), "missing, such as transformer.output_layer.weight"),
        (lambda t: t | {"transformer.output_layer.weight": torch.ones(41, 16).half()}, r"\[41, 16\]"),
        (lambda t: t | {"transformer.output_layer.weight": torch.ones(40, 16)}, "F16 and F32"),
    ],
)
def test_other_tensors_are_refused_with_a_reason(tmp_path, change, message):
    folder = write_config(tmp_path / "source")
    write_shards(folder, change(random_tensors(folder)))
    with pytest.raises(ValueError, match=message):
        convert(folder, tmp_path / "dest", "weights")
    assert not list(tmp_path.glob("dest*"))
