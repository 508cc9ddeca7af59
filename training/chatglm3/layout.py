"""Layout of ChatGLM3's weights and settings, and their counterparts in the native `Glm` architecture.

    query_key_value (heads d + 2 groups d, D) ─► rows of q_proj, k_proj, v_proj, in this order
    dense_h_to_4h (2 F, D) ─► gate_up_proj, unchanged: gate, then up
    rotary positions ─► rope_theta 10000 rope_ratio over half of each head; both rotate neighbors in pairs

Other models, and settings that `Glm` would compute differently, are refused with a reason: a wrong guess would give a
model that loads but writes nonsense or, worse, slightly wrong answers.
"""

# D hidden size  F intermediate size  d head size  V vocabulary

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..records import MAX_SHOWN, read_json
from .tensor_files import Piece, StoredTensor


if TYPE_CHECKING:
    from transformers import GlmConfig


FLOAT_NAMES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32"}
ROLE_TOKEN = "<|user|>"
# Settings that the checkpoint must have. If the first two are absent, they default to the opposite.
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
REQUIRED_SETTINGS = ("add_qkv_bias", "multi_query_attention")
SIZES = {  # key of config.json -> type
    "padded_vocab_size": int,
    "hidden_size": int,
    "ffn_hidden_size": int,
    "num_layers": int,
    "num_attention_heads": int,
    "multi_query_group_num": int,
    "kv_channels": int,
    "layernorm_epsilon": float,
    "seq_length": int,
}
MAX_SIZE = 10**9
MAX_LAYERS = 10_000
QUANTIZED_ENDINGS = ("weight_scale", "qweight", "qzeros", "scales", "zeros")
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
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not a JSON object. Download it again.")
    return content


def refuse_other_models(source: Path) -> None:
    """Refuse models other than ChatGLM3, and quantized ones, based on the folder's configuration files.

    Raises:
        ValueError: the model is not ChatGLM3, or is quantized.
    """
    config = _read_json(source / "config.json")
    tokenizer = _read_json(source / "tokenizer_config.json")
    names = [str(config.get("_name_or_path", "")).lower(), str(tokenizer.get("name_or_path", "")).lower()]
    model_type = config.get("model_type", "chatglm")
    if model_type in ("glm", "glm4"):
        raise ValueError(f"{source} is already native (model_type {model_type!r}). Load it directly.")
    if model_type != "chatglm":
        raise ValueError(f"{source} is a {model_type!r} model, not ChatGLM3 (model_type 'chatglm').")
    if "inner_hidden_size" in config or "position_encoding_2d" in config:
        raise ValueError(f"{source} is the first ChatGLM-6B, another architecture. Give ChatGLM3-6B.")
    if _is_chatglm2(source, names):
        raise ValueError(
            f"{source} is ChatGLM2: it has no role tokens, and its long-context version divides positions where "
            "ChatGLM3 raises the rotary base, so its answers would be wrong. Give ChatGLM3-6B."
        )
    vocab_size = config.get("padded_vocab_size")
    is_large = isinstance(vocab_size, int) and vocab_size > 100_000
    if is_large or any("glm-4" in name for name in names):
        raise ValueError(f"{source} is GLM-4. Use its native checkpoint, THUDM/glm-4-9b-chat-hf.")
    if config.get("quantization_bit") or config.get("quantization_config"):
        raise ValueError(f"{source} is quantized. Convert the 16-bit checkpoint; quantize when loading it.")
    if config.get("pre_seq_len"):
        raise ValueError(f"{source} was tuned with a prefix (pre_seq_len), which Glm does not support.")


def _is_chatglm2(source: Path, names: list[str]) -> bool:
    """Decided by the role tokens in the tokenizer's code, or by the model's names if there is no such code."""
    code = source / "tokenization_chatglm.py"
    if code.is_file():
        return ROLE_TOKEN not in code.read_text(encoding="utf-8", errors="replace")
    return any("chatglm2" in name or "codegeex2" in name for name in names)


def read_layout(source: Path) -> Layout:
    """The sizes and settings in `config.json`.

    Raises:
        ValueError: it is missing, is not ChatGLM3's, or has a setting that `Glm` computes differently.
    """
    if not (source / "config.json").is_file():
        raise ValueError(f"{source} has no config.json. Give the folder of the complete checkpoint.")
    refuse_other_models(source)
    config = _read_json(source / "config.json")
    for name, expected in SETTINGS.items():
        default = None if name in REQUIRED_SETTINGS else expected
        value = config.get(name, default)
        if value is not expected:
            raise ValueError(f"{source}: {name} is {value}, but {expected} in ChatGLM3. This layout is not supported.")
    sizes = {}
    for name, number in SIZES.items():
        sizes[name] = number(_positive(source, name, config.get(name)))
        if sizes[name] != config[name]:
            raise ValueError(f"{source}: {name} in config.json is {config[name]!r}; expected an integer.")
    heads = sizes["num_attention_heads"]
    groups = sizes["multi_query_group_num"]
    head_size = sizes["kv_channels"]
    if heads % groups or head_size % 4:
        raise ValueError(
            f"{source}: {heads} heads in {groups} groups, each head of size {head_size}; the heads must divide evenly "
            "into groups, and half of a head into pairs."
        )
    pad = config.get("pad_token_id", 0)
    eos = config.get("eos_token_id", 2)
    vocab_size = sizes["padded_vocab_size"]
    if not all(type(token) is int and 0 <= token < vocab_size for token in (pad, eos)):
        raise ValueError(f"{source}: pad_token_id {pad!r} and eos_token_id {eos!r} must be ids below {vocab_size}.")
    return Layout(
        vocab_size=vocab_size,
        hidden_size=sizes["hidden_size"],
        intermediate_size=sizes["ffn_hidden_size"],
        num_layers=sizes["num_layers"],
        num_heads=heads,
        num_groups=groups,
        head_size=head_size,
        norm_epsilon=sizes["layernorm_epsilon"],
        rope_theta=10_000.0 * _positive(source, "rope_ratio", config.get("rope_ratio", 1)),
        max_positions=sizes["seq_length"],
        attention_dropout=_read_dropout(source, config.get("attention_dropout") or 0.0),
        pad_token_id=pad,
        eos_token_id=eos,
    )


def _positive(source: Path, name: str, value: Any) -> int | float:
    limit = MAX_LAYERS if name == "num_layers" else MAX_SIZE
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= limit:  # NaN too
        shown = repr(value)[:MAX_SHOWN]
        raise ValueError(
            f"{source}: {name} in config.json is {shown}; it must be a positive number of at most {limit:,}."
        )
    return value


def _read_dropout(source: Path, value: Any) -> float:
    if not isinstance(value, int | float) or not 0 <= value < 1:
        shown = repr(value)[:MAX_SHOWN]
        raise ValueError(f"{source}: attention_dropout in config.json is {shown}; it must be from 0 to 1.")
    return float(value)


def source_shapes(layout: Layout) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor that the checkpoint must hold."""
    width = layout.hidden_size
    query_rows = layout.num_heads * layout.head_size
    joined_rows = query_rows + 2 * layout.num_groups * layout.head_size
    shapes = {"transformer.embedding.word_embeddings.weight": (layout.vocab_size, width)}
    for i in range(layout.num_layers):
        layer = f"transformer.encoder.layers.{i}"
        shapes |= {
            f"{layer}.input_layernorm.weight": (width,),
            f"{layer}.self_attention.query_key_value.weight": (joined_rows, width),
            f"{layer}.self_attention.query_key_value.bias": (joined_rows,),
            f"{layer}.self_attention.dense.weight": (width, query_rows),
            f"{layer}.post_attention_layernorm.weight": (width,),
            f"{layer}.mlp.dense_h_to_4h.weight": (2 * layout.intermediate_size, width),
            f"{layer}.mlp.dense_4h_to_h.weight": (width, layout.intermediate_size),
        }
    shapes["transformer.encoder.final_layernorm.weight"] = (width,)
    shapes["transformer.output_layer.weight"] = (layout.vocab_size, width)
    return shapes


def check_tensors(layout: Layout, stored: dict[str, StoredTensor]) -> str:
    """Compare the checkpoint's tensors with the layout.

    Returns:
        Their common precision, by its safetensors name.

    Raises:
        ValueError: missing, unknown, quantized or wrongly shaped tensors, or more than one precision.
    """
    expected = source_shapes(layout)
    unknown = sorted(set(stored) - set(expected) - {DROPPED})
    _refuse_quantized(expected, stored, unknown)
    if unknown:
        raise ValueError(f"{len(unknown)} tensors are unknown to ChatGLM3, such as {', '.join(unknown[:3])}.")
    missing = [name for name in expected if name not in stored]
    if missing:
        raise ValueError(f"{len(missing)} tensors are missing, such as {', '.join(missing[:3])}.")
    for name, shape in expected.items():
        if stored[name].shape != shape:
            raise ValueError(
                f"{name} is {list(stored[name].shape)}; according to config.json it should be {list(shape)}."
            )
    precisions = sorted({stored[name].dtype for name in expected})
    if len(precisions) > 1:
        raise ValueError(f"The weights are in {' and '.join(precisions)}; cast them to one precision first.")
    return precisions[0]


def _refuse_quantized(
    expected: dict[str, tuple[int, ...]], stored: dict[str, StoredTensor], unknown: list[str]
) -> None:
    advice = "Convert the 16-bit one, and quantize when loading it."
    for name in unknown:
        if name.rpartition(".")[2].endswith(QUANTIZED_ENDINGS):
            raise ValueError(f"The checkpoint is quantized ({name}). {advice}")
    dtypes = {stored[name].dtype for name in expected if name in stored}
    integers = sorted(dtypes - set(FLOAT_NAMES))
    if integers:
        raise ValueError(f"The checkpoint is quantized (weights in {', '.join(integers)}). {advice}")


def native_pieces(layout: Layout, stored: dict[str, StoredTensor]) -> list[Piece]:
    """Every tensor of the `Glm` model, as rows of the checkpoint's tensors."""

    def renamed(name: str, old: str) -> Piece:
        return Piece(name, stored[old], 0, stored[old].shape[0])

    query_rows = layout.num_heads * layout.head_size
    key_rows = layout.num_groups * layout.head_size
    projections = {
        "q_proj": (0, query_rows),
        "k_proj": (query_rows, query_rows + key_rows),
        "v_proj": (query_rows + key_rows, query_rows + 2 * key_rows),
    }
    pieces = [renamed("model.embed_tokens.weight", "transformer.embedding.word_embeddings.weight")]
    for i in range(layout.num_layers):
        old = f"transformer.encoder.layers.{i}"
        new = f"model.layers.{i}"
        pieces.append(renamed(f"{new}.input_layernorm.weight", f"{old}.input_layernorm.weight"))
        for projection, (first, last) in projections.items():
            for kind in ("weight", "bias"):
                joined = stored[f"{old}.self_attention.query_key_value.{kind}"]
                pieces.append(Piece(f"{new}.self_attn.{projection}.{kind}", joined, first, last))
        pieces += [
            renamed(f"{new}.self_attn.o_proj.weight", f"{old}.self_attention.dense.weight"),
            renamed(f"{new}.post_attention_layernorm.weight", f"{old}.post_attention_layernorm.weight"),
            renamed(f"{new}.mlp.gate_up_proj.weight", f"{old}.mlp.dense_h_to_4h.weight"),
            renamed(f"{new}.mlp.down_proj.weight", f"{old}.mlp.dense_4h_to_h.weight"),
        ]
    pieces.append(renamed("model.norm.weight", "transformer.encoder.final_layernorm.weight"))
    pieces.append(renamed("lm_head.weight", "transformer.output_layer.weight"))
    return pieces


def native_config(layout: Layout, precision: str) -> "GlmConfig":
    """The configuration with which `Glm` computes the same as ChatGLM3.

    Epsilon, padding token and end token are set explicitly, because the defaults are GLM-4's: its epsilon changes the
    fourth digit of a logit, and its padding token exceeds the vocabulary.
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
