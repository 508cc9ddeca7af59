"""Which language model can be scored how, decided by its configuration before any weights are loaded; its arguments.

    scoring     "tree"       all inner nodes of the answers' trie in one forward pass with a 4D mask, over one cache
                "rows"       every inner node as a row with its own copy of the cache, one token per step
                "recompute"  every branch with its prompt, without a cache
    padding     "any"        hidden tokens may be anywhere
                "left"       before the real tokens: they count as positions of sliding windows and of ALiBi
                "right"      after the real tokens, where no causal decoder reads them: recurrent states, convolutions,
                             chunks and positions that are counted by column start with the first real token

The lists hold the model types for which the test over all causal language models of `transformers` has shown this;
training/model/backbones/DECODERS.md is its result. Anything else, also remote code, is recomputed, which is exact for
any causal decoder.

`check_keywords` refuses misspelled arguments of `forward`.

Next: padding_egmf.py, scoring_egmf.py.
"""

import copy
import inspect
from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple

from transformers import PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import get_layer_types_and_kwargs
from transformers.utils import TransformersKwargs

from .fields_egmf import did_you_mean
from .trainer_egmf import DATASET_COLUMNS


class DecoderSupport(NamedTuple):
    """How answers are scored with a language model, and where its batches may hold padding or hidden text."""

    scoring: Literal["tree", "rows", "recompute"]
    padding: Literal["any", "left", "right"]


# Implementations that take a 4D mask; None: not loaded yet.
MASKED_ATTENTIONS = (None, "sdpa", "eager")
PADDED_ATTENTIONS = (*MASKED_ATTENTIONS, "flash_attention_2", "flash_attention_3", "flex_attention")
ATTENTION_LAYERS = {"full_attention", "sliding_attention", "indexed_attention"}

# Attention whose positions are given: plain if no layer is sliding and there is no ALiBi.
PLAIN_TYPES = """
afmoe apertus arcee aria_text axk1 beam bert bert-generation
biogpt bitnet codegen cohere cohere2 cohere2_moe
cohere_compass_text cwm dbrx deepseek_v2 deepseek_v3 diffllama
dots1 electra ernie ernie4_5 ernie4_5_moe exaone4 exaone_moe
falcon flex_olmo flint fuyu gemma gemma2 gemma3 gemma3_text
gemma4 gemma4_text gemma4_unified gemma4_unified_text glm glm4
glm4_moe glm4_moe_lite got_ocr2 gpt-sw3 gpt2 gpt_bigcode
gpt_neox gpt_neox_japanese gpt_oss gptj granite granite_swa
granitemoe granitemoe_swa granitemoeshared helium hrm_text
hunyuan_v1_dense hunyuan_v1_moe hy_v3 hyperclovax internlm3
iquestcoder jais2 jetmoe kolibri1 laguna llama longcat_flash
megatron-bert mellum mimo_v2_flash minicpm3 minimax_m2
minimax_m3_vl_text ministral ministral3 mistral mixtral
modernbert-decoder nanochat nemotron olmo olmo2 olmo3 olmoe
opt persimmon phi phi3 phi4_multimodal phimoe qwen2 qwen2_moe
qwen3 qwen3_moe rembert roc_bert seed_oss smollm3 solar_open
stablelm starcoder2 vaultgemma xglm youtu
""".split()  # noqa: SIM905
# Attention that is not plain although its layers are called full attention: ALiBi, local layers, sparse selection.
BIASED_TYPES = """
axk2 bloom deepseek_v32 dots3_note_text glm_moe_dsa gpt_neo
hy_v4 moss_transcribe_diarize mpt
""".split()  # noqa: SIM905
# A cache that can be copied by rows; recurrent or convolutional states, chunks, or positions counted by column.
CACHED_TYPES = """
bailing_hybrid bamba bart bigbird_pegasus blenderbot
blenderbot-small deepseek_v4 falcon_h1 granitemoehybrid
inkling2_text inkling_text jamba kimi_linear lfm2 lfm2_moe
lfm3 llama4 llama4_text marian mbart mvp olmo_hybrid pegasus
plbart qwen3_5 qwen3_5_moe qwen3_5_moe_text qwen3_5_text
qwen3_next qwen4_exp qwen4_exp_text roformer trocr whisper
zamba zaya
""".split()  # noqa: SIM905
# Decoders although `is_decoder` of their configuration is false.
DECODER_TYPES = ("gpt_neox", "gpt_neox_japanese", "trocr")
REFUSED_TYPES = {
    "blt": "it embeds bytes by their ids, and pseudo tokens have no ids",
    "cpmant": "it builds its own prompt from token ids",
    "doge": "its attention depends on later tokens",
    "gemma4_assistant": "it reads the cache of another model",
    "gemma4_unified_assistant": "it reads the cache of another model",
    "git": "its text attends to an image",
    "musicgen": "it generates audio codes",
    "musicgen_melody": "it generates audio codes",
    "prophetnet": "its predictions depend on the length of the sequence",
    "reformer": "its attention hashes the whole sequence",
    "xlm": "it is not causal",
    "xlnet": "it is not causal",
}


def describe_decoder(config: PreTrainedConfig) -> DecoderSupport:
    """How answers are scored with a language model of this configuration.

    Args:
        config: of the language model, with the attention implementation that it was loaded with, if it was.
    """
    text_config = config.get_text_config(decoder=True)
    attention = text_config._attn_implementation
    model_type = config.model_type
    is_known = model_type in PLAIN_TYPES + BIASED_TYPES + CACHED_TYPES
    fields = text_config.to_dict()
    # The library's cache of a window of one token forgets nothing.
    has_tiny_window = 1 in (fields.get("sliding_window"), fields.get("attention_chunk_size"))
    if not is_known or attention not in PADDED_ATTENTIONS or has_tiny_window:
        return DecoderSupport("recompute", "right")
    layer_types = set(get_layer_types_and_kwargs(text_config)[0]) - {"dummy"}
    # Without attention, a cache has no length.
    if model_type in CACHED_TYPES and not layer_types <= {"conv", "linear_attention"}:
        return DecoderSupport("rows", "right")
    if not layer_types <= ATTENTION_LAYERS:
        return DecoderSupport("recompute", "right")
    has_bias = model_type in BIASED_TYPES or fields.get("alibi", False)
    if layer_types == {"full_attention"} and not has_bias and attention in MASKED_ATTENTIONS:
        return DecoderSupport("tree", "any")
    return DecoderSupport("rows", "left")


def shared_config(language_model: PreTrainedModel) -> PreTrainedConfig:
    """A language model's configuration, to be that of the whole model as well, from which `generate` makes its masks.

    Without its local path, which is not to be published, and its quantization, chosen by whoever loads it.
    """
    text_config = language_model.config
    text_config.name_or_path = ""
    text_config.dtype = language_model.dtype
    # Scoring answers has no loss to balance experts with.
    if "output_router_logits" in vars(text_config):
        text_config.output_router_logits = False
    if "quantization_config" in vars(text_config):
        text_config = copy.copy(text_config)
        del text_config.quantization_config
    return text_config


def max_positions(config: PreTrainedConfig) -> int | None:
    """Number of positions, above which the rotary embeddings of all positions change; None for most models."""
    text_config = config.get_text_config(decoder=True)
    rope = getattr(text_config, "rope_parameters", None) or {}
    if rope.get("rope_type") not in ("dynamic", "longrope"):
        return None
    return rope.get("original_max_position_embeddings") or text_config.max_position_embeddings


def check_decoder(config: PreTrainedConfig | None, model_class: type[PreTrainedModel] | None = None) -> None:
    """Refuse a language model that cannot be scored exactly, before its weights are loaded.

    Args:
        config: of the language model; None for an `EGMFConfig` without any, which is refused as well.
        model_class: its class, if it has been loaded; those of `transformers` that do not work are known by name.

    Raises:
        ValueError: with the model type and the reason.
    """
    if config is None:
        raise ValueError("The configuration has no `text_config`, no language model.")
    reason = refusal(config, model_class)
    if reason is not None:
        raise ValueError(
            f"A language model of type {config.model_type!r} cannot be used: {reason}. "
            "Choose a causal decoder; training/model/backbones/DECODERS.md lists all."
        )


def refusal(config: PreTrainedConfig, model_class: type[PreTrainedModel] | None = None) -> str | None:
    """The reason why a language model of this configuration and class cannot be used; None if it can."""
    if config.model_type in REFUSED_TYPES:
        return REFUSED_TYPES[config.model_type]
    fields = config.get_text_config(decoder=True).to_dict()
    for name in ("hidden_size_per_layer_input", "ple_layer_ids"):
        if fields.get(name):
            return f"its layers embed token ids (`{name}`), which pseudo tokens do not have"
    if "hash_moe" in (fields.get("mlp_layer_types") or ()):
        return "its 'hash_moe' layers route token ids, which pseudo tokens do not have"
    # Gemma 4 derives the first from the second.
    if fields.get("is_causal") is False or fields.get("use_bidirectional_attention") is True:
        return "its tokens read later ones"
    is_encoder = fields.get("is_decoder") is False and not config.is_encoder_decoder
    if is_encoder and config.model_type not in DECODER_TYPES:
        return "it is an encoder, unless its configuration has `is_decoder=True`"
    if config.model_type == "xmod" and config.default_language is None:
        return "its configuration has no `default_language`"
    if model_class is not None and "inputs_embeds" not in argument_names(model_class):
        return f"`{model_class.__name__}.forward` does not take `inputs_embeds`"
    return None


# ---- arguments -----------------------------------------------------------------------------------------------------


def argument_names(model_class: type[PreTrainedModel]) -> set[str]:
    """Names of the arguments of a class's forward pass."""
    return set(inspect.signature(model_class.forward).parameters)


def check_keywords(
    function: Callable,
    given: Iterable[str],
    other: Callable,
    names: Iterable[str] = (),
) -> None:
    """Reject arguments that no function knows, instead of ignoring them in silence or naming one of our own.

    Args:
        function: that was called.
        given: names of the arguments that are not in its own signature.
        other: the function to which it passes them: ours, or the language model's `forward`.
        names: of further arguments that are accepted.

    Raises:
        TypeError: with the name that was probably meant.
    """
    own = inspect.signature(function).parameters
    known = {*own, *inspect.signature(other).parameters, *names}
    # Those go to the language model.
    if "kwargs" in own:
        known |= {*TransformersKwargs.__optional_keys__, "cache_position", "return_dict"}
    for name in given:
        if name not in known - {"self", "kwargs", "inputs", *DATASET_COLUMNS}:
            hint = did_you_mean(name, sorted(known)) or " Leave it out."
            if name in DATASET_COLUMNS:
                hint = " It is an argument of the processor."
            raise TypeError(f"{function.__name__}() got an unexpected keyword argument {name!r}.{hint}")
