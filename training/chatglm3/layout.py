"""How ChatGLM3 lays out its weights and settings, and where each goes in the native `Glm` architecture.

    query_key_value (heads d + 2 groups d, D) ─► rows of q_proj, k_proj, v_proj, in this order
    dense_h_to_4h (2 F, D) ─► gate_up_proj, as it is: gate, then up
    rotary positions ─► rope_theta 10000 rope_ratio over half of each head; neighbors are rotated in pairs by both

Whatever is not ChatGLM3, or would be computed in another way, is refused with the reason: a wrong guess here gives a
model that loads and talks nonsense, or worse, almost none.
"""

# D hidden size  F intermediate size  d head size  V vocabulary

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .tensor_files import Piece, StoredTensor


if TYPE_CHECKING:
    from transformers import GlmConfig


FLOAT_NAMES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32"}
ROLE_TOKEN = "<|user|>"
# What the checkpoint must say of itself. Left out, the first two would mean the opposite.
SETTINGS = {
    "add_qkv_bias": True,
    "multi_query_attention": True,
    "add_bias_linear": False,
    "rmsnorm": True,
    "post_layer_norm": True,
    "apply_residual_connection_post_layernorm": False,
    "fp32_residual_connection": False,
    "original_rope": True,
    "tie_word_embeddings": False,
}
MUST_BE_GIVEN = ("add_qkv_bias", "multi_query_attention")
BESIDE_WEIGHTS = ("weight_scale", "qweight", "qzeros", "scales", "zeros")
DROPPED = "transformer.rotary_pos_emb.inv_freq"


class Layout(NamedTuple):
    """Sizes and settings of a ChatGLM3 checkpoint."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_groups: int
    head_size: int
    norm_epsilon: float
    rope_theta: float
    max_positions: int
    attention_dropout: float
    pad_token_id: int
    eos_token_id: int


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is not a JSON object ({error}).") from error


def refuse_other_models(source: Path) -> None:
    """Raise a ValueError if the folder says that it is another model than ChatGLM3, or a quantized one."""
    config, tokenizer = _read_json(source / "config.json"), _read_json(source / "tokenizer_config.json")
    code = source / "tokenization_chatglm.py"
    roles = ROLE_TOKEN in code.read_text(encoding="utf-8", errors="replace") if code.is_file() else None
    names = {str(config.get("_name_or_path", "")).lower(), str(tokenizer.get("name_or_path", "")).lower()}
    kind = config.get("model_type", "chatglm")
    if kind in ("glm", "glm4"):
        raise ValueError(f"{source} is a native checkpoint already (model_type {kind!r}); load it as it is.")
    if kind != "chatglm":
        raise ValueError(f"{source} is a {kind!r} model, not ChatGLM3 (model_type 'chatglm').")
    if {"inner_hidden_size", "position_encoding_2d"} & set(config):
        raise ValueError(f"{source} is the first ChatGLM-6B, of another architecture. ChatGLM3-6B is needed.")
    if roles is False or (roles is None and any("chatglm2" in name or "codegeex2" in name for name in names)):
        raise ValueError(
            f"{source} is ChatGLM2: it has no role tokens, and its long version divides positions where ChatGLM3 "
            "raises the rotary base, so that its answers would be wrong. ChatGLM3-6B is needed."
        )
    vocab_size = config.get("padded_vocab_size")
    if (isinstance(vocab_size, int) and vocab_size > 100_000) or any("glm-4" in name for name in names):
        raise ValueError(f"{source} is GLM-4, which is published in native form: take THUDM/glm-4-9b-chat-hf.")
    if config.get("quantization_bit") or config.get("quantization_config"):
        raise ValueError(f"{source} is quantized. Convert the 16-bit checkpoint; quantize when it is loaded.")
    if config.get("pre_seq_len"):
        raise ValueError(f"{source} was tuned with a prefix (pre_seq_len), for which Glm has no place.")


def read_layout(source: Path) -> Layout:
    """The sizes and settings in `config.json`.

    Raises:
        ValueError: it is missing, is not ChatGLM3's, or asks for something that `Glm` computes in another way.
    """
    if not (source / "config.json").is_file():
        raise ValueError(f"{source} has no config.json. Give the folder of the whole checkpoint.")
    refuse_other_models(source)
    config = _read_json(source / "config.json")
    for name, wanted in SETTINGS.items():
        found = config.get(name, None if name in MUST_BE_GIVEN else wanted)
        if found is not wanted:
            raise ValueError(f"{source}: {name} is {found}, ChatGLM3 has {wanted}. This layout is not known.")
    sizes = {
        "padded_vocab_size": int, "hidden_size": int, "ffn_hidden_size": int, "num_layers": int,
        "num_attention_heads": int, "multi_query_group_num": int, "kv_channels": int, "layernorm_epsilon": float,
        "seq_length": int,
    }  # fmt: skip
    values = []
    for name, number in sizes.items():
        value = config.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0 or number(value) != value:
            raise ValueError(f"{source}: {name} in config.json is {value!r}; it must be a number above zero.")
        values.append(number(value))
    ratio = config.get("rope_ratio", 1)
    if isinstance(ratio, bool) or not isinstance(ratio, int | float) or ratio <= 0:
        raise ValueError(f"{source}: rope_ratio in config.json is {ratio!r}; it must be a number above zero.")
    vocab, hidden, intermediate, layers, heads, groups, head_size, epsilon, positions = values
    if heads % groups or head_size % 4:
        raise ValueError(
            f"{source}: {heads} heads over {groups} groups of size {head_size}; heads must divide evenly into groups, "
            "and half of a head into pairs."
        )
    pad, eos = config.get("pad_token_id", 0), config.get("eos_token_id", 2)
    if not all(type(token) is int and 0 <= token < vocab for token in (pad, eos)):
        raise ValueError(f"{source}: pad_token_id {pad!r} and eos_token_id {eos!r} must be ids below {vocab}.")
    return Layout(
        vocab, hidden, intermediate, layers, heads, groups, head_size, epsilon, 10_000.0 * ratio, positions,
        float(config.get("attention_dropout") or 0.0), pad, eos,
    )  # fmt: skip


def source_shapes(layout: Layout) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor that the checkpoint must hold."""
    width, projected = layout.hidden_size, layout.num_heads * layout.head_size
    joined = projected + 2 * layout.num_groups * layout.head_size
    shapes = {"transformer.embedding.word_embeddings.weight": (layout.vocab_size, width)}
    for i in range(layout.num_layers):
        layer = f"transformer.encoder.layers.{i}"
        shapes |= {
            f"{layer}.input_layernorm.weight": (width,),
            f"{layer}.self_attention.query_key_value.weight": (joined, width),
            f"{layer}.self_attention.query_key_value.bias": (joined,),
            f"{layer}.self_attention.dense.weight": (width, projected),
            f"{layer}.post_attention_layernorm.weight": (width,),
            f"{layer}.mlp.dense_h_to_4h.weight": (2 * layout.intermediate_size, width),
            f"{layer}.mlp.dense_4h_to_h.weight": (width, layout.intermediate_size),
        }
    return shapes | {
        "transformer.encoder.final_layernorm.weight": (width,),
        "transformer.output_layer.weight": (layout.vocab_size, width),
    }


def check_tensors(layout: Layout, found: dict[str, StoredTensor]) -> str:
    """Compare the checkpoint's tensors with the layout; -> their one precision, as safetensors writes it.

    Raises:
        ValueError: missing, unknown, quantized or wrongly shaped tensors, or more than one precision.
    """
    expected = source_shapes(layout)
    unknown = sorted(set(found) - set(expected) - {DROPPED})
    packed = [name for name in unknown if name.rpartition(".")[2].endswith(BESIDE_WEIGHTS)]
    strange = sorted({found[name].dtype for name in expected if name in found} - set(FLOAT_NAMES))
    if packed or strange:
        what = packed[0] if packed else f"weights in {', '.join(strange)}"
        raise ValueError(f"The checkpoint is quantized ({what}). Convert the 16-bit one; quantize when it is loaded.")
    if unknown:
        raise ValueError(f"{len(unknown)} tensors are unknown to ChatGLM3, among them {', '.join(unknown[:3])}.")
    missing = [name for name in expected if name not in found]
    if missing:
        raise ValueError(f"{len(missing)} tensors are missing, among them {', '.join(missing[:3])}.")
    for name, shape in expected.items():
        if found[name].shape != shape:
            raise ValueError(f"{name} is {list(found[name].shape)}; config.json makes it {list(shape)}.")
    precisions = sorted({found[name].dtype for name in expected})
    if len(precisions) > 1:
        raise ValueError(f"The weights are in {' and '.join(precisions)}; one precision is needed. Cast them first.")
    return precisions[0]


def native_pieces(layout: Layout, found: dict[str, StoredTensor]) -> list[Piece]:
    """Every tensor of the `Glm` model, as rows of the checkpoint's."""

    def whole(name: str, old: str) -> Piece:
        return Piece(name, found[old], 0, found[old].shape[0])

    pieces = [whole("model.embed_tokens.weight", "transformer.embedding.word_embeddings.weight")]
    query_rows, key_rows = layout.num_heads * layout.head_size, layout.num_groups * layout.head_size
    cuts = {"q_proj": (0, query_rows), "k_proj": (query_rows, query_rows + key_rows)}
    cuts["v_proj"] = (query_rows + key_rows, query_rows + 2 * key_rows)
    for i in range(layout.num_layers):
        old, new = f"transformer.encoder.layers.{i}", f"model.layers.{i}"
        pieces.append(whole(f"{new}.input_layernorm.weight", f"{old}.input_layernorm.weight"))
        for part, (first, last) in cuts.items():
            for kind in ("weight", "bias"):
                joined = found[f"{old}.self_attention.query_key_value.{kind}"]
                pieces.append(Piece(f"{new}.self_attn.{part}.{kind}", joined, first, last))
        pieces += [
            whole(f"{new}.self_attn.o_proj.weight", f"{old}.self_attention.dense.weight"),
            whole(f"{new}.post_attention_layernorm.weight", f"{old}.post_attention_layernorm.weight"),
            whole(f"{new}.mlp.gate_up_proj.weight", f"{old}.mlp.dense_h_to_4h.weight"),
            whole(f"{new}.mlp.down_proj.weight", f"{old}.mlp.dense_4h_to_h.weight"),
        ]
    return [
        *pieces,
        whole("model.norm.weight", "transformer.encoder.final_layernorm.weight"),
        whole("lm_head.weight", "transformer.output_layer.weight"),
    ]


def native_config(layout: Layout, precision: str) -> "GlmConfig":
    """The configuration under which `Glm` computes what ChatGLM3 does.

    Its epsilon, padding token and end token are given, because the defaults are those of GLM-4: the first is wrong in
    the fourth digit of a logit, the second lies past the vocabulary.
    """
    from transformers import GlmConfig

    return GlmConfig(
        vocab_size=layout.vocab_size,
        hidden_size=layout.hidden_size,
        intermediate_size=layout.intermediate_size,
        num_hidden_layers=layout.num_layers,
        num_attention_heads=layout.num_heads,
        num_key_value_heads=layout.num_groups,
        head_dim=layout.head_size,
        hidden_act="silu",
        attention_bias=True,
        attention_dropout=layout.attention_dropout,
        rms_norm_eps=layout.norm_epsilon,
        rope_parameters={"rope_type": "default", "rope_theta": layout.rope_theta, "partial_rotary_factor": 0.5},
        max_position_embeddings=layout.max_positions,
        tie_word_embeddings=False,
        pad_token_id=layout.pad_token_id,
        eos_token_id=layout.eos_token_id,
        bos_token_id=None,
        dtype=FLOAT_NAMES[precision],
        architectures=["GlmForCausalLM"],
    )
