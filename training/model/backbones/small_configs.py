"""Small configurations of every causal language model of `transformers`, to try all of them on a CPU.

The default configuration of each model type is shrunk field by field: sizes by the field's name, lists with an entry
per layer so that every kind of layer still occurs, windows and chunks to a few tokens, so that prompts exceed them.
`CHANGES` holds what does not follow from the names.
"""

import copy
from typing import Any

import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel


WINDOW = 8
VOCAB_SIZE = 128
MAX_PARAMETERS = 50_000_000

SIZES = {
    # widths
    ("hidden_size", "d_model", "n_embd", "emb_dim", "embedding_dim", "embedding_size", "word_embed_proj_dim"): 32,
    ("input_embedding_size", "output_embedding_size", "lru_width", "attention_hidden_size"): 32,
    ("adapter_in_dim", "adapter_input_size", "adapter_out_dim"): 32,
    ("intermediate_size", "ffn_dim", "decoder_ffn_dim", "encoder_ffn_dim", "dff", "d_inner", "n_inner"): 48,
    ("ffn_hidden_size", "feed_forward_size", "dense_intermediate_size", "intermediate_size_mlp"): 48,
    ("moe_intermediate_size", "expert_ffn_hidden_size", "shared_expert_intermediate_size"): 16,
    ("shared_experts_intermediate_size", "moe_shared_expert_intermediate_size", "shared_intermediate_size"): 16,
    # layers
    ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_blocks"): 2,
    ("decoder_layers", "encoder_layers", "num_decoder_layers", "num_encoder_layers"): 2,
    # attention
    ("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads", "attention_head"): 4,
    ("decoder_attention_heads", "encoder_attention_heads"): 4,
    ("num_decoder_attention_heads", "num_encoder_attention_heads", "swa_num_attention_heads"): 4,
    ("num_key_value_heads", "num_kv_heads", "swa_num_key_value_heads"): 2,
    ("head_dim", "d_head", "kv_channels", "attention_head_dim", "attention_head_size", "swa_head_dim"): 8,
    ("rotary_dim",): 8,
    ("q_lora_rank", "kv_lora_rank", "o_lora_rank"): 16,
    ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"): 8,
    ("qk_head_dim",): 16,
    ("index_head_dim",): 8,
    ("index_n_heads",): 16,
    ("index_topk",): 4,
    # windows and chunks
    ("sliding_window", "attention_window_size", "sliding_window_size", "window_size", "keep_window_size"): WINDOW,
    ("attention_chunk_size", "local_attention", "floor_scale"): WINDOW,
    # recurrent and convolutional layers
    ("state_size", "mamba_d_state", "ssm_state_size"): 8,
    ("time_step_rank", "mamba_dt_rank"): 4,
    ("mamba_n_heads", "mamba_num_heads", "n_mamba_heads"): 4,
    ("mamba_d_head", "mamba_head_dim", "mamba_headdim"): 16,
    ("mamba_d_ssm",): 64,
    ("n_groups", "mamba_n_groups", "mamba_ngroups"): 1,
    ("chunk_size", "mamba_chunk_size", "block_size"): 4,
    ("linear_num_key_heads", "linear_num_value_heads", "linear_num_heads"): 2,
    ("linear_key_head_dim", "linear_value_head_dim", "linear_head_dim"): 8,
    # experts
    ("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"): 4,
    ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k"): 2,
    ("num_shared_experts", "n_shared_experts", "moe_num_shared_experts"): 1,
    ("n_group", "topk_group", "num_expert_group"): 1,
    # the rest
    ("vocab_size", "unpadded_vocab_size", "decoder_vocab_size"): VOCAB_SIZE,
    ("vocab_size_per_layer_input",): VOCAB_SIZE,
    ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "context_length"): 256,
    ("max_target_positions", "max_source_positions", "model_max_length"): 256,
}
# Fields with an entry for each layer.
LAYER_LISTS = (
    "layer_types",
    "mlp_layer_types",
    "layers_block_type",
    "indexer_types",
    "no_rope_layers",
    "num_attention_heads_per_layer",
    "layer_rope_theta",
    "attn_layers",
)
# What does not follow from the names.
HYBRID_LAYERS = ["linear_attention", "full_attention", "linear_attention", "full_attention"]
SHARED_LAYERS = ["sliding_attention", "full_attention"] * 2
COMPRESS_RATES = {"heavily_compressed_attention": 4, "compressed_sparse_attention": 4}
CHANGES: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1], "mamba_expand": 2},
    "cohere_compass_text": {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 10000.0}}},
    "cpmant": {"prompt_types": 2, "prompt_length": 2, "segment_types": 2, "dim_head": 8, "dim_ff": 16},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": 16, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "deepseek_v2": {"num_experts_per_tok": 2},
    "deepseek_v4": {
        "mlp_layer_types": ["moe"] * 2,
        "compress_rates": {"heavily_compressed_attention": 4, "compressed_sparse_attention": 4},
    },
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "max_window_layers": 1},
    "falcon": {"multi_query": True},
    "gemma3n_text": {
        "intermediate_size": 48,
        "num_hidden_layers": 4,
        "layer_types": SHARED_LAYERS,
        "num_kv_shared_layers": 2,
        "activation_sparsity_pattern": [0.0] * 4,
        "hidden_size_per_layer_input": 8,
        "laurel_rank": 4,
    },
    "gemma4_text": {"hidden_size_per_layer_input": 0, "global_head_dim": 8},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": {"layer_types": HYBRID_LAYERS[:2]},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8},
    "inkling_text": {"logits_mup_width_multiplier": 1.0},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "num_hidden_layers": 4},
    "lfm2": {"block_auto_adjust_ff_dim": False, "layer_types": ["conv", "full_attention"]},
    "lfm3": {"layer_types": ["conv", "full_attention", "sliding_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "longcat_flash": {"zero_expert_num": 2},
    "mamba2": {"num_heads": 4, "head_dim": 16},
    "laguna": {"layer_types": SHARED_LAYERS[:2]},
    "mellum": {"layer_types": SHARED_LAYERS[:2]},
    "minimax": {"layer_types": HYBRID_LAYERS[:2]},
    "ministral": {"head_dim": 8},
    "nemotron": {"num_key_value_heads": 2},
    "qwen4_exp_text": {
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_budget": 8,
        "indexer_compress_ratio": 4,
        "ple_embed_dim": 8,
        "ngram_vocab_size_base": 50,
        "split_ngram_parts": 1,
        "hc_lowrank": 4,
    },
    "recurrent_gemma": {"num_hidden_layers": 3},
    "reformer": {
        "is_decoder": True,
        "axial_pos_embds": False,
        "local_attn_chunk_length": 4,
        "lsh_attn_chunk_length": 4,
    },
    "roc_bert": {"shape_vocab_size": 32, "shape_embed_dim": 8, "pronunciation_embed_dim": 8},
    "xlstm": {"hidden_size": 128, "embedding_dim": 128, "num_heads": 1},
    "xmod": {"default_language": "en_XX"},
    "zamba": {
        "layers_block_type": [*HYBRID_LAYERS[:1], "hybrid", *HYBRID_LAYERS[:1], "hybrid"],
        "num_hidden_layers": 4,
        "attention_hidden_size": 64,
        "attention_head_dim": 16,
        "n_mamba_heads": 2,
    },
    "zamba2": {
        "layers_block_type": [*HYBRID_LAYERS[:1], "hybrid", *HYBRID_LAYERS[:1], "hybrid"],
        "num_hidden_layers": 4,
        "attention_hidden_size": 64,
        "attention_head_dim": 16,
        "kv_channels": 8,
        "num_query_groups": 4,
        "adapter_rank": 4,
    },
    "zaya": {"num_experts_per_tok": 1, "router_hidden_size": 16},
}


def small_config(model_type: str, **fields: Any) -> PreTrainedConfig:
    """The default configuration of a model type with tiny sizes and without dropout; `fields` are set last."""
    config_class = CONFIG_MAPPING[model_type]
    config = config_class()
    changes = small_fields(config.to_dict())
    for name in config_class.sub_configs:
        sub_config = getattr(config, name)
        if isinstance(sub_config, PreTrainedConfig):
            changes[name] = {**small_fields(sub_config.to_dict()), **CHANGES.get(sub_config.model_type, {})}
            if sub_config.model_type:
                changes[name]["model_type"] = sub_config.model_type
    return config_class(**{**changes, **CHANGES.get(model_type, {}), **fields})


def small_fields(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a configuration that change when it is shrunk."""
    changes = {}
    for names, size in SIZES.items():
        for name in names:
            if isinstance(fields.get(name), int) and not isinstance(fields[name], bool):
                changes[name] = size
    if "kv_lora_rank" in changes and "num_key_value_heads" in changes:
        changes["num_key_value_heads"] = changes["num_attention_heads"]
    for name, value in fields.items():
        if isinstance(value, float) and name.endswith(("dropout", "_pdrop", "dropout_prob", "dropout_p", "layerdrop")):
            changes[name] = 0.0
        if name.endswith("token_id") and isinstance(value, int):
            changes[name] = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}.get(name, 3)
    if fields.get("is_decoder") is False:
        changes["is_decoder"] = True
    num_layers = 2
    for name in LAYER_LISTS:
        if isinstance(fields.get(name), list | tuple):
            num_layers = max(num_layers, len(set(fields[name])))
    for name in LAYER_LISTS:
        if isinstance(fields.get(name), list | tuple):
            changes[name] = one_of_each(list(fields[name]), num_layers)
    for name in ("num_hidden_layers", "n_layer", "n_layers", "num_layers"):
        if name in changes:
            changes[name] = num_layers
    return changes


def one_of_each(entries: list, length: int) -> list:
    """The first entry of each kind, in order, filled up to `length` with the last kind."""
    kinds = list(dict.fromkeys(entries))[:length]
    return kinds + kinds[-1:] * (length - len(kinds))


def build_small_model(config: PreTrainedConfig, seed: int = 0) -> PreTrainedModel:
    """A model with random weights, in float32, large enough that every token of the prompt matters.

    Raises:
        ValueError: it would not be small; its size is in the message.
    """
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(copy.deepcopy(config))
        num_parameters = sum(parameter.numel() for parameter in empty.parameters())
    if num_parameters > MAX_PARAMETERS:
        raise ValueError(f"it has {num_parameters / 1e6:.0f} M parameters at these sizes")
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2 or name.endswith("A_log"):
            continue
        module = model.get_submodule(name.rpartition(".")[0])
        width = min(parameter.shape[1:])
        std = width**-0.5
        if isinstance(module, nn.Embedding):
            std = 0.2  # may be tied to the output layer, whose logits are then about 1
        elif width < 5:
            std = 0.5  # a convolution over a few tokens
        parameter.data = std * torch.randn(parameter.shape, generator=generator)
    return model
