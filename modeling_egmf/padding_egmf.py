"""Batches for language models that do not take the processor's left padding, or hidden text in the middle.

    attention_mask   0 0 1 1 1       real columns   2 3 4       right padding   a b c
                     1 0 0 1 1  ─►                  0 3 4  ─►                   d e f
                     0 0 0 0 1                      4                           g . .

No causal decoder reads what comes after a token, so that a forward pass without a cache takes right padding without a
mask. A cache needs rows of equal length. `DecoderSupport.padding` says what a language model takes.
"""

# B batch  S prompt tokens  L real tokens of the longest sample  K columns with logits  D LLM width  V vocabulary

from typing import Any

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast, ModelOutput

from .decoders_egmf import DecoderSupport, argument_names, describe_decoder
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


def group_samples(lengths: Tensor, mixed: bool) -> list[Tensor]:
    """lengths (B,) -> indices of samples that are read together: all, by length, or only those of equal length."""
    if mixed:
        return [lengths.argsort()]
    return [torch.where(lengths == length)[0] for length in lengths.unique()]


def real_columns(attention_mask: Tensor, padding: str = "right") -> Tensor:
    """attention_mask (B, S) -> (B, L) columns of the real tokens, in order, those of padding on the given side."""
    is_real = attention_mask.bool()
    length = int(is_real.sum(dim=1).max())
    if padding == "left":
        return torch.argsort(is_real.int(), dim=1, stable=True)[:, -length:]
    return torch.argsort((~is_real).int(), dim=1, stable=True)[:, :length]


def gather_columns(values: Tensor, columns: Tensor) -> Tensor:
    """values (B, S, ...), columns (B, L) -> (B, L, ...)."""
    samples = torch.arange(len(columns), device=columns.device)[:, None]
    return values[samples, columns]


def call_language_model(llm: PreTrainedModel, **kwargs: Any) -> ModelOutput:
    """The language model's forward pass, without those of our arguments that its class does not take.

    `logits_to_keep` must be given: (K,) columns, or 0 for all.
    """
    parameters = argument_names(type(llm))
    left_out = set(OPTIONAL_ARGUMENTS) - parameters
    output = llm(**{name: kwargs[name] for name in kwargs if name not in left_out})
    if "logits_to_keep" in left_out and isinstance(kwargs["logits_to_keep"], Tensor):
        output.logits = output.logits[:, kwargs["logits_to_keep"]]
    return output


def run_language_model(
    llm: PreTrainedModel,
    inputs_embeds: Tensor,
    attention_mask: Tensor | None,
    logits_to_keep: int | Tensor,
    position_ids: Tensor | None = None,
    past_key_values: Cache | None = None,
    **kwargs: Any,
) -> ModelOutput:
    """A forward pass in which padding and hidden text change nothing, whatever the language model is.

    Args:
        inputs_embeds: (B, S, D).
        attention_mask: (B, past + S), 0 on padding and on hidden text; or a mask for every query.
        logits_to_keep: (K,) columns that need logits, or 0 for all.
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
        return forward_regrouped(llm, support, inputs_embeds, attention_mask, logits_to_keep, **kwargs)
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


def forward_regrouped(
    llm: PreTrainedModel,
    support: DecoderSupport,
    inputs_embeds: Tensor,
    attention_mask: Tensor,
    logits_to_keep: int | Tensor,
    **kwargs: Any,
) -> ModelOutput:
    """A forward pass without a cache, in which every sample is as if it were alone.

    Args:
        inputs_embeds, attention_mask: (B, S, D) and (B, S) of the batch.
        logits_to_keep: as for `run_language_model`.
        kwargs: further arguments of the language model.

    Returns:
        Output with `logits` (B, K, V) and, if requested, `hidden_states`, each (B, S, D); 0 at hidden columns.

    Raises:
        ValueError: attention weights are requested, which have no columns in common.
    """
    if kwargs.get("output_attentions"):
        raise ValueError(
            f"A {llm.config.model_type!r} language model reads each sample without its padding, "
            "so that there are no attention weights over the batch's columns. Pass one sample at a time, "
            "without padding, or leave out `output_attentions`."
        )
    is_real = attention_mask.bool()
    # (B, S), where each column is among the real ones.
    positions = (is_real.cumsum(dim=1) - 1).clamp(min=0)
    kept_columns = logits_to_keep if isinstance(logits_to_keep, Tensor) else slice(None)
    groups = group_samples(is_real.sum(dim=1), mixed=support.padding != "none")
    logits = []
    hidden_states = []
    for samples in groups:
        columns = real_columns(is_real[samples])  # (b, L)
        kept = positions[samples][:, kept_columns]  # (b, K)
        first = int(kept.min())
        output = call_language_model(
            llm,
            inputs_embeds=gather_columns(inputs_embeds[samples], columns),
            logits_to_keep=torch.arange(first, columns.shape[1], device=columns.device),
            **kwargs,
        )
        logits.append(gather_columns(output.logits, kept - first))
        layers = output.get("hidden_states") or ()
        hidden_states.append([gather_columns(states, positions[samples]) for states in layers])

    order = torch.cat(groups).argsort()
    layers = []
    for states in zip(*hidden_states, strict=True):
        layers.append(torch.cat(states)[order] * is_real[..., None])
    return CausalLMOutputWithPast(
        logits=torch.cat(logits)[order] * is_real[:, kept_columns, None],
        hidden_states=tuple(layers) or None,
    )
