"""Batches for language models that do not take the processor's left padding, or hidden text in the middle.

    attention_mask   0 0 1 1 1       real columns   2 3 4       right padding   a b c
                     1 0 0 1 1  ─►                  0 3 4  ─►                   d e f
                     0 0 0 0 1                      4                           g . .

No causal decoder reads what comes after a token, so that a forward pass without a cache takes right padding without a
mask. A cache needs rows of equal length. `DecoderSupport.padding` says what a language model takes.
"""

# B batch  S prompt tokens  L real tokens of the longest sample  K columns with logits  D LLM width  V vocabulary

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast, ModelOutput

from .decoders_egmf import DecoderSupport, argument_names, describe_decoder, max_positions
from .prompt_egmf import is_padding_mask, is_prefill, make_position_ids


# Arguments that some language models do not take, and do without.
OPTIONAL_ARGUMENTS = ("position_ids", "past_key_values", "logits_to_keep")


def must_regroup(support: DecoderSupport, attention_mask: Any) -> bool:
    """Whether a batch hides columns where the language model would read them, or would count them."""
    if support.padding == "any" or not is_padding_mask(attention_mask):
        return False
    is_real = attention_mask.bool()
    if support.padding == "left":
        return bool((is_real[:, :-1] & ~is_real[:, 1:]).any())
    return not bool(is_real.all())


def read_groups(attention_mask: Tensor, padding: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Groups of a batch that can be read into one cache: of equal length, or all with their padding on the left.

    Args:
        attention_mask: (B, S), 0 on padding and hidden text.
        padding: that of `DecoderSupport`.

    Yields:
        (b,) samples, and (b, L) their columns, from `real_columns`.
    """
    lengths = attention_mask.sum(dim=1)
    groups = [torch.where(lengths == length)[0] for length in lengths.unique()]
    for samples in [lengths.argsort()] if padding == "left" else groups:
        yield samples, real_columns(attention_mask[samples], padding)


def real_columns(attention_mask: Tensor, padding: str = "right") -> Tensor:
    """attention_mask (B, S) -> (B, L) columns of the real tokens, in order, those of padding on the given side."""
    is_real = attention_mask.bool()
    length = int(is_real.sum(dim=1).max())
    if padding == "left":
        return torch.argsort(is_real.int(), dim=1, stable=True)[:, -length:]
    return torch.argsort((~is_real).int(), dim=1, stable=True)[:, :length]


def call_language_model(llm: PreTrainedModel, logits_to_keep: Tensor, **kwargs: Any) -> ModelOutput:
    """The language model's forward pass, with logits (B, K, V), without those of our arguments that it does not take.

    Args:
        logits_to_keep: (K,) columns.

    Raises:
        ValueError: flex attention on a CPU, where torch cannot train with it, nor compile it for every shape; more
            tokens than the rotary embeddings are the same for, so that the cache and other samples would be wrong.
    """
    limit = max_positions(llm.config)
    positions = kwargs.get("position_ids")
    if limit and positions is None:
        positions = torch.tensor(kwargs["inputs_embeds"].shape[1] - 1)
    if limit and positions.max() >= limit:
        raise ValueError(f"The language model's positions change after {limit} tokens. Lower max_length.")
    if llm.config._attn_implementation == "flex_attention" and logits_to_keep.is_cpu:
        raise ValueError("Flex attention needs a GPU: use attn_implementation='sdpa'.")
    kwargs["logits_to_keep"] = logits_to_keep
    left_out = set(OPTIONAL_ARGUMENTS) - argument_names(type(llm))
    output = llm(**{name: kwargs[name] for name in kwargs if name not in left_out})
    if "logits_to_keep" in left_out:
        output.logits = output.logits[:, logits_to_keep]
    return output


def run_language_model(
    llm: PreTrainedModel,
    inputs_embeds: Tensor,
    attention_mask: Tensor | None,
    logits_to_keep: Tensor,
    position_ids: Tensor | None = None,
    past_key_values: Cache | None = None,
    **kwargs: Any,
) -> ModelOutput:
    """A forward pass in which padding and hidden text change nothing, whatever the language model is.

    Args:
        inputs_embeds: (B, S, D).
        attention_mask: (B, past + S), 0 on padding and on hidden text; or a mask for every query.
        logits_to_keep: (K,) columns that need logits.
        position_ids: (B, S); None to count real tokens.
        kwargs: further arguments of the language model.

    Raises:
        ValueError: a cache is requested for a batch, or with a language model, that cannot have one.
    """
    support = describe_decoder(llm.config)
    regroup = must_regroup(support, attention_mask)
    if support.scoring == "recompute" or regroup:
        if kwargs.get("use_cache") or not is_prefill(past_key_values):
            raise ValueError(
                f"A {llm.config.model_type!r} language model cannot use a cache for "
                f"{'a batch with padding or hidden text' if regroup else 'exact answers'}. "
                "Call `generate` or `score_answers`, or pass use_cache=False."
            )
        kwargs["use_cache"] = False
        past_key_values = None
    if regroup:
        return forward_repacked(llm, inputs_embeds, attention_mask, logits_to_keep, **kwargs)
    if support.scoring == "recompute" and is_padding_mask(attention_mask):
        # No padding: the language model counts positions in its own way.
        attention_mask = None
    elif position_ids is None:
        position_ids = make_position_ids(attention_mask, inputs_embeds.shape[1])
    return call_language_model(
        llm,
        inputs_embeds=inputs_embeds,
        attention_mask=attention_mask,
        position_ids=position_ids,
        past_key_values=past_key_values,
        logits_to_keep=logits_to_keep,
        **kwargs,
    )


def forward_repacked(
    llm: PreTrainedModel,
    inputs_embeds: Tensor,
    attention_mask: Tensor,
    logits_to_keep: Tensor,
    **kwargs: Any,
) -> ModelOutput:
    """A forward pass without a cache, in which hidden columns come after the real ones, where none of those sees them.

    Args:
        inputs_embeds, attention_mask: (B, S, D) and (B, S) of the batch.
        logits_to_keep: (K,) columns that need logits.
        kwargs: further arguments of the language model.

    Returns:
        Output with `logits` (B, K, V) and, if requested, `hidden_states`, each (B, S, D); 0 at hidden columns.

    Raises:
        ValueError: attention weights are requested, which have no columns in common.
    """
    if kwargs.get("output_attentions"):
        raise ValueError(
            f"A {llm.config.model_type!r} language model reads no padding: there are no "
            "attention weights over the batch's columns. Leave out `output_attentions`."
        )
    is_real = attention_mask.bool()
    columns = real_columns(is_real)  # (B, L)
    rows = torch.arange(len(columns), device=columns.device)[:, None]
    # (B, S), where each column is among the real ones.
    positions = (is_real.cumsum(dim=1) - 1).clamp(min=0)
    kept = positions[:, logits_to_keep]  # (B, K)
    first = int(kept.min())
    output = call_language_model(
        llm,
        inputs_embeds=inputs_embeds[rows, columns],
        logits_to_keep=torch.arange(first, columns.shape[1], device=columns.device),
        **kwargs,
    )
    layers = output.get("hidden_states") or ()
    hidden_states = [states[rows, positions] * is_real[..., None] for states in layers]
    return CausalLMOutputWithPast(
        logits=output.logits[rows, kept - first] * is_real[:, logits_to_keep, None],
        hidden_states=tuple(hidden_states) or None,
    )
