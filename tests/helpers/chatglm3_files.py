"""ChatGLM3 checkpoints to convert, made in code: a tiny one of random weights, and the real shapes without content."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from training.chatglm3.layout import DROPPED, read_layout, source_shapes


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
    """`config.json` alone; a change to None leaves the key out."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {name: value for name, value in {**SETTINGS, **sizes, **changes}.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def random_tensors(folder: Path, dtype: torch.dtype = torch.float16, seed: int = 0) -> dict[str, torch.Tensor]:
    """What `config.json` in the folder asks for, and the rotary frequencies that the original stores beside it."""
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
        header, offset = {"__metadata__": {"format": "pt"}}, 0
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
