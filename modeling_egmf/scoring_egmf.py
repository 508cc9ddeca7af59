"""Scoring of answers after a prompt, in one of three ways; `DecoderSupport.scoring` says which.

    score_tree         prompt ─► cache ─► all inner nodes in one forward pass with a tree mask

    score_children     prompt ─► cache ─┬─► copy ─► " sur" ─┬─► copy ─► ...      one token per row and step,
                                        └─► copy ─► " dis"  └─► copy ─► ...      as in `generate`

    score_recomputed   [prompt ; " sur" ; ...], [prompt ; " dis" ; ...]          without a cache

A tree mask over one cache would be wrong for recurrent and convolutional layers, whose state would pass from one
branch into the next, and for sliding windows.

Each way gives (B, G) log-probabilities of edges, 0 at the edges of nodes that it does not score, so that the scores of
different nodes are added up.
"""

# B batch  S prompt tokens  L tokens of a sequence  D LLM width  R rows  N inner nodes  G edges

import copy
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import Cache, PreTrainedModel

from .answers_egmf import AnswerSet
from .decoders_egmf import DecoderSupport, describe_decoder
from .padding_egmf import call_language_model, gather_columns, group_samples, real_columns
from .prompt_egmf import make_position_ids


MAX_ROWS = 64  # of one forward pass: bounds the memory for copies of the cache and for logits


def score_prompts(
    language_model: PreTrainedModel,
    answers: AnswerSet,
    prompt_embeds: Tensor,
    prompt_mask: Tensor,
) -> Tensor:
    """Score all nodes in the way that the language model needs.

    Args:
        answers: the tries.
        prompt_embeds: (B, S, D).
        prompt_mask: (B, S), 1 on real tokens; hidden tokens may be anywhere but in the last column.

    Returns:
        (B, G) log-probabilities of the edges.
    """
    support = describe_decoder(language_model.config)
    if support.scoring == "tree":
        return score_cached(language_model, answers, prompt_embeds, prompt_mask, score_tree)
    if support.scoring == "recompute":
        return score_recomputed(language_model, answers, prompt_embeds, prompt_mask, support)
    scores = torch.zeros(answers.edge_tokens.shape, device=prompt_mask.device)
    for samples in group_samples(prompt_mask.sum(dim=1), mixed=support.padding == "left"):
        group = AnswerSet(*[field[samples] for field in answers])
        columns = real_columns(prompt_mask[samples], support.padding)
        embeds = gather_columns(prompt_embeds[samples], columns)
        mask = gather_columns(prompt_mask[samples], columns)
        scores[samples] = score_cached(language_model, group, embeds, mask, score_children)
    return scores


# ---- over a cache of the prompts -----------------------------------------------------------------------------------


class Rows(NamedTuple):
    """Rows of one forward pass: the sample and the node of each, and its columns so far."""

    samples: Tensor  # (R,)
    nodes: Tensor  # (R,) 0 for the root
    mask: Tensor  # (R, L) 0 on padding


def score_cached(
    language_model: PreTrainedModel,
    answers: AnswerSet,
    prompt_embeds: Tensor,
    prompt_mask: Tensor,
    score_inner_nodes: Callable[[PreTrainedModel, AnswerSet, Rows, Cache], Tensor],
) -> Tensor:
    """Score the root after a prefill, and the inner nodes over its cache by `score_inner_nodes` -> (B, G)."""
    samples = torch.arange(len(prompt_mask), device=prompt_mask.device)
    prompts = Rows(samples, torch.zeros_like(samples), prompt_mask)
    position_ids = make_position_ids(prompt_mask, prompt_mask.shape[1])
    scores, cache = read(language_model, answers, prompts, inputs_embeds=prompt_embeds, position_ids=position_ids)
    if answers.num_inner_nodes > 0:
        scores += score_inner_nodes(language_model, answers, prompts, cache)
    return scores


def read(
    language_model: PreTrainedModel,
    answers: AnswerSet,
    rows: Rows,
    **inputs: Tensor | Cache,
) -> tuple[Tensor, Cache | None]:
    """The scores (B, G) of the rows' nodes, after their last columns, and the cache if there are inner nodes."""
    output = call_language_model(
        language_model,
        attention_mask=rows.mask,
        use_cache=answers.num_inner_nodes > 0,
        # A slice would leave strided states, for which the CPU copies the whole output matrix once per sample.
        logits_to_keep=torch.tensor([-1], device=rows.mask.device),
        **inputs,
    )
    return answers.edge_log_probs(output.logits[:, -1], rows.samples, rows.nodes), output.past_key_values


def score_tree(language_model: PreTrainedModel, answers: AnswerSet, prompts: Rows, cache: Cache) -> Tensor:
    """Score all inner nodes in one forward pass, in which each sees the prompt, its ancestors and itself -> (B, G)."""
    visible = visible_columns(answers, prompts.mask)[:, 1:]  # (B, N, S + N)
    attention_mask = torch.zeros_like(visible, dtype=language_model.dtype)
    attention_mask = attention_mask.masked_fill(~visible, torch.finfo(language_model.dtype).min)
    output = language_model(
        input_ids=answers.node_tokens,
        attention_mask=attention_mask[:, None],
        position_ids=visible.sum(dim=2) - 1,
        past_key_values=cache,
        use_cache=True,
    )
    samples = prompts.samples.repeat_interleave(answers.num_inner_nodes)
    nodes = torch.arange(1, answers.num_inner_nodes + 1, device=samples.device).repeat(len(prompts.samples))
    return answers.edge_log_probs(output.logits.flatten(0, 1), samples, nodes)


def score_children(language_model: PreTrainedModel, answers: AnswerSet, parents: Rows, cache: Cache) -> Tensor:
    """Score all inner nodes below the nodes that the rows of the cache have read -> (B, G)."""
    scores = torch.zeros(answers.edge_tokens.shape, device=parents.mask.device)
    is_child = answers.node_parents[parents.samples] == parents.nodes[:, None]  # (R, N)
    parent_rows, children = torch.where(is_child)
    if len(children) == 0:
        return scores
    chunks = list(zip(parent_rows.split(MAX_ROWS), children.split(MAX_ROWS), strict=True))
    for index, (rows, nodes) in enumerate(chunks):
        # The steps below change the cache in place.
        is_last = index == len(chunks) - 1
        of_chunk = cache if is_last else copy.deepcopy(cache)
        of_chunk.reorder_cache(rows)
        samples = parents.samples[rows]
        mask = nn.functional.pad(parents.mask[rows], (0, 1), value=1)
        chunk = Rows(samples, nodes + 1, mask)
        of_nodes, of_chunk = read(
            language_model,
            answers,
            chunk,
            input_ids=answers.node_tokens[samples, nodes][:, None],
            position_ids=make_position_ids(mask, 1),
            past_key_values=of_chunk,
        )
        scores += of_nodes + score_children(language_model, answers, chunk, of_chunk)
    return scores


def visible_columns(answers: AnswerSet, prompt_mask: Tensor) -> Tensor:
    """prompt_mask (B, S) -> (B, 1 + N, S + N) bool: each node sees the prompt, its ancestors and itself."""
    num_samples, num_columns = prompt_mask.shape
    sees_prompt = prompt_mask.bool()[:, None].expand(num_samples, 1 + answers.num_inner_nodes, num_columns)
    sees_nodes = nn.functional.pad(answers.node_sees, (0, 0, 1, 0))  # none by the root
    return torch.cat([sees_prompt, sees_nodes], dim=2)


# ---- without a cache -----------------------------------------------------------------------------------------------


def score_recomputed(
    language_model: PreTrainedModel,
    answers: AnswerSet,
    prompt_embeds: Tensor,
    prompt_mask: Tensor,
    support: DecoderSupport,
) -> Tensor:
    """Score all nodes with a forward pass over the prompt and each branch -> (B, G)."""
    node_embeds = language_model.get_input_embeddings()(answers.node_tokens).to(prompt_embeds.dtype)  # (B, N, D)
    embeds = torch.cat([prompt_embeds, node_embeds], dim=1)  # (B, S + N, D)
    # A branch ends at a node that only the node itself sees; without inner nodes, at the root.
    ends_at_root = ~answers.node_sees.flatten(1).any(dim=1, keepdim=True)  # (B, 1)
    is_end = torch.cat([ends_at_root, answers.node_sees.sum(dim=1) == 1], dim=1)  # (B, 1 + N)
    branch_samples, ends = torch.where(is_end)  # (R,), (R,)
    branch_masks = visible_columns(answers, prompt_mask)[branch_samples, ends]  # (R, S + N)

    scores = torch.zeros(answers.edge_tokens.shape, device=prompt_mask.device)
    groups = group_samples(branch_masks.sum(dim=1), mixed=support.padding == "right")
    for branches in [chunk for group in groups for chunk in group.split(MAX_ROWS)]:
        samples = branch_samples[branches]
        columns = real_columns(branch_masks[branches])  # (R, L)
        first = int(prompt_mask[samples].sum(dim=1).min()) - 1
        output = call_language_model(
            language_model,
            inputs_embeds=embeds[samples[:, None], columns],
            use_cache=False,
            logits_to_keep=torch.arange(first, columns.shape[1], device=columns.device),
        )
        columns = columns[:, first:]
        nodes = columns - prompt_mask.shape[1] + 1  # 0 at the last column of the prompt
        rows, steps = torch.where(branch_masks[branches].gather(1, columns) & (nodes >= 0))
        chunk_scores = answers.edge_log_probs(output.logits[rows, steps], samples[rows], nodes[rows, steps])
        scores = torch.where(scores == 0, chunk_scores, scores)  # chunks may have nodes in common
    return scores
