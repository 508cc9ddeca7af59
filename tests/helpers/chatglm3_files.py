"""ChatGLM3 checkpoints to convert: a tiny one of random weights, the real shapes without content, and stored ones.

`assets/chatglm3_tiny` is a checkpoint of random weights under the original names, with the logits of the original code
next to it; `assets/chatglm3_tokenizer` is a small tokenizer of the same kind with the ids of the original.
"""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from training.chatglm3.layout import DROPPED, read_layout, source_shapes


ASSETS = Path(__file__).parents[1] / "assets"
TINY_SOURCE = ASSETS / "chatglm3_tiny"
TOKENIZER_SOURCE = ASSETS / "chatglm3_tokenizer"
EXPECTED = ASSETS / "chatglm3_tiny_expected.safetensors"

SETTINGS = {
    "add_bias_linear": False,
    "add_qkv_bias": True,
    "apply_residual_connection_post_layernorm": False,
    "architectures": ["ChatGLMModel"],
    "eos_token_id": 2,
    "layernorm_epsilon": 1e-5,
    "model_type": "chatglm",
    "multi_query_attention": True,
    "original_rope": True,
    "pad_token_id": 0,
    "post_layer_norm": True,
    "quantization_bit": 0,
    "rmsnorm": True,
    "tie_word_embeddings": False,
}
TINY = {
    "ffn_hidden_size": 12,
    "hidden_size": 16,
    "kv_channels": 8,
    "multi_query_group_num": 2,
    "num_attention_heads": 4,
    "num_layers": 2,
    "padded_vocab_size": 40,
    "seq_length": 64,
}
FULL = {
    "ffn_hidden_size": 13696,
    "hidden_size": 4096,
    "kv_channels": 128,
    "multi_query_group_num": 2,
    "num_attention_heads": 32,
    "num_layers": 28,
    "padded_vocab_size": 65024,
    "seq_length": 32768,
}


def write_config(folder: Path, sizes: dict = TINY, **changes) -> Path:
    """`config.json` only; a change to None leaves the key out."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {name: value for name, value in {**SETTINGS, **sizes, **changes}.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def random_tensors(folder: Path, dtype: torch.dtype = torch.float16, seed: int = 0) -> dict[str, torch.Tensor]:
    """The weights for the folder's `config.json`, and the rotary frequencies that the original also stores."""
    generator = torch.Generator().manual_seed(seed)
    shapes = source_shapes(read_layout(folder))
    tensors = {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}
    return tensors | {DROPPED: torch.ones(2)}


def write_shards(folder: Path, tensors: dict[str, torch.Tensor], kind: str = "safetensors", count: int = 3) -> Path:
    """The tensors in `count` shards with an index, as safetensors or `.bin`."""
    stem = "model" if kind == "safetensors" else "pytorch_model"
    names = sorted(tensors)
    weight_map = {}
    for i in range(count):
        file = f"{stem}-{i + 1:05d}-of-{count:05d}.{kind}"
        shard = {name: tensors[name] for name in names[i::count]}
        weight_map |= dict.fromkeys(shard, file)
        if kind == "safetensors":
            save_file(shard, folder / file, metadata={"format": "pt"})
        else:
            torch.save(shard, folder / file)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / f"{stem}.{kind}.index.json").write_text(json.dumps(index), encoding="utf-8")
    return folder


def write_sparse(folder: Path, count: int = 7) -> Path:
    """ChatGLM3-6B's real shapes in float16: shards with true headers, and zeros that take no room on the disk."""
    write_config(folder, FULL)
    shapes = source_shapes(read_layout(folder))
    names = list(shapes)
    weight_map = {}
    for i in range(count):
        file = f"model-{i + 1:05d}-of-{count:05d}.safetensors"
        header = {"__metadata__": {"format": "pt"}}
        offset = 0
        for name in names[i * len(names) // count : (i + 1) * len(names) // count]:
            size = 2 * torch.Size(shapes[name]).numel()
            header[name] = {"dtype": "F16", "shape": list(shapes[name]), "data_offsets": [offset, offset + size]}
            offset += size
            weight_map[name] = file
        encoded = json.dumps(header).encode()
        with (folder / file).open("wb") as target:
            target.write(len(encoded).to_bytes(8, "little") + encoded)
            target.truncate(8 + len(encoded) + offset)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return folder


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a folder's safetensors files."""
    tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(path)
    return tensors


def native_tensors(tensors: dict[str, torch.Tensor], sizes: dict = TINY) -> dict[str, torch.Tensor]:
    """The tensors that the conversion of a checkpoint should give."""
    heads = sizes["num_attention_heads"] * sizes["kv_channels"]
    groups = sizes["multi_query_group_num"] * sizes["kv_channels"]
    made = {
        "model.embed_tokens.weight": tensors["transformer.embedding.word_embeddings.weight"],
        "model.norm.weight": tensors["transformer.encoder.final_layernorm.weight"],
        "lm_head.weight": tensors["transformer.output_layer.weight"],
    }
    for i in range(sizes["num_layers"]):
        old = f"transformer.encoder.layers.{i}."
        new = f"model.layers.{i}."
        for name in ("input_layernorm.weight", "post_attention_layernorm.weight"):
            made[new + name] = tensors[old + name]
        made[new + "self_attn.o_proj.weight"] = tensors[old + "self_attention.dense.weight"]
        made[new + "mlp.gate_up_proj.weight"] = tensors[old + "mlp.dense_h_to_4h.weight"]
        made[new + "mlp.down_proj.weight"] = tensors[old + "mlp.dense_4h_to_h.weight"]
        for kind in ("weight", "bias"):
            joined = tensors[f"{old}self_attention.query_key_value.{kind}"]
            parts = joined.split([heads, groups, groups])
            for name, part in zip(("q_proj", "k_proj", "v_proj"), parts, strict=True):
                made[f"{new}self_attn.{name}.{kind}"] = part
    return made


def assert_same(tensors: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert tensors.keys() == expected.keys()
    for name, value in expected.items():
        assert tensors[name].dtype == value.dtype, name
        assert torch.equal(tensors[name], value), name


def contents(folder: Path) -> dict[str, bytes]:
    """Name -> bytes of every file of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def changed_tokenizer(change: Callable) -> bytes:
    """The small tokenizer's file after `change(model)`."""
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString((TOKENIZER_SOURCE / "tokenizer.model").read_bytes())
    change(model)
    return model.SerializeToString()
