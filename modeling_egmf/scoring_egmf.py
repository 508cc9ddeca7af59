"""Scoring of answers after a prompt, in one of three ways; `DecoderSupport.scoring` says which.

    score_as_tree      prompt ─► cache ─► all inner nodes in one forward pass with a tree mask

    score_as_rows      prompt ─► cache ─┬─► copy ─► " sur" ─┬─► copy ─► ...      one token per row and step,
                                        └─► copy ─► " dis"  └─► copy ─► ...      as in `generate`

    score_recomputed   [prompt ; " sur" ; ...], [prompt ; " dis" ; ...]          without a cache

A tree mask over one cache would be wrong for recurrent and convolutional layers, whose state would pass from one
branch into the next, and for sliding windows.
"""

# B batch  S prompt tokens  L tokens of a sequence  D LLM width  V vocabulary  R rows  N inner nodes  G edges

import copy
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel
from transformers.modeling_outputs import ModelOutput

from .answers_egmf import AnswerBatch, edge_log_probs, score_nodes_as_tree, score_root
from .decoders_egmf import DecoderSupport, describe_decoder
from .padding_egmf import call_language_model, gather_columns, group_samples, real_columns
from .prompt_egmf import make_position_ids


if TYPE_CHECKING:
    from transformers import Cache

MAX_ROWS = 64  # of one forward pass: bounds the memory for copies of the cache and for logits


def score_prompts(
    language_model: PreTrainedModel,
    answers: AnswerBatch,
    prompt_embeds: Tensor,
    prompt_mask: Tensor,
) -> Tensor:
    """Score all nodes in the way that the language model needs.

    Args:
        answers: the tries.
        prompt_embeds: (B, S, D).
        prompt_mask: (B, S), 1 on real tokens; hidden tokens may be anywhere.

    Returns:
        (B, G) log-probabilities of the edges.
    """
    support = describe_decoder(language_model.config)
    if support.scoring == "tree":
        return score_as_tree(language_model, answers, prompt_embeds, prompt_mask)
    if support.scoring == "recompute":
        return score_recomputed(language_model, support, answers, prompt_embeds, prompt_mask)
    scores = torch.zeros(answers.edge_tokens.shape, device=prompt_mask.device)
    for samples in group_samples(support, prompt_mask.sum(dim=1)):
        group = AnswerBatch(*[field[samples] for field in answers])
        columns = real_columns(prompt_mask[samples], support.padding)
        embeds = gather_columns(prompt_embeds[samples], columns)
        mask = gather_columns(prompt_mask[samples], columns)
        scores[samples] = score_as_rows(language_model, group, embeds, mask)
    return scores


def score_as_tree(
    language_model: PreTrainedModel,
    answers: AnswerBatch,
    prompt_embeds: Tensor,
    prompt_mask: Tensor,
) -> Tensor:
    """Score the root after a prefill, and all inner nodes in one more forward pass over its cache -> (B, G)."""
    output = prefill(language_model, answers, prompt_embeds, prompt_mask)
    scores = score_root(answers, output.logits)
    if answers.num_inner_nodes > 0:
        scores += score_nodes_as_tree(language_model, answers, prompt_mask, output.past_key_values)
    return scores


def prefill(
    language_model: PreTrainedModel,
    answers: AnswerBatch,
    prompt_embeds: Tensor,
    prompt_mask: Tensor,
) -> ModelOutput:
    """Logits (B, 1, V) after the prompts, and their cache if there are inner nodes."""
    last_column = torch.tensor([prompt_mask.shape[1] - 1], device=prompt_mask.device)
    return call_language_model(
        language_model,
        inputs_embeds=prompt_embeds,
        attention_mask=prompt_mask,
        position_ids=make_position_ids(prompt_mask, prompt_mask.shape[1]),
        use_cache=answers.num_inner_nodes > 0,
        logits_to_keep=last_column,
    )


# ---- rows over copies of the cache ---------------------------------------------------------------------------------


class Rows(NamedTuple):
    """Rows of one forward pass: the sample and the node of each, and its columns so far."""

    samples: Tensor  # (R,)
    nodes: Tensor  # (R,) 0 for the root
    mask: Tensor  # (R, L) 0 on padding


def score_as_rows(
    language_model: PreTrainedModel,
    answers: AnswerBatch,
    prompt_embeds: Tensor,
    prompt_mask: Tensor,
) -> Tensor:
    """Score all nodes over a cache of the prompts, which may be padded on the left -> (B, G)."""
    output = prefill(language_model, answers, prompt_embeds, prompt_mask)
    scores = score_root(answers, output.logits)
    if answers.num_inner_nodes > 0:
        samples = torch.arange(len(prompt_mask), device=prompt_mask.device)
        rows = Rows(samples, torch.zeros_like(samples), prompt_mask)
        scores += score_children(language_model, answers, rows, output.past_key_values)
    return scores


def score_children(
    language_model: PreTrainedModel,
    answers: AnswerBatch,
    parents: Rows,
    cache: "Cache",
) -> Tensor:
    """Score all inner nodes below the nodes that the rows of the cache have read -> (B, G)."""
    is_child = answers.node_parents[parents.samples] == parents.nodes[:, None]
    is_child &= answers.node_depths[parents.samples] >= 0  # not padding
    parent_rows, children = torch.where(is_child)  # (R,), (R,)
    scores = torch.zeros(answers.edge_tokens.shape, device=parents.mask.device)
    chunks = list(zip(parent_rows.split(MAX_ROWS), children.split(MAX_ROWS), strict=True))
    if len(parent_rows) == 0:
        return scores
    for index, (rows, nodes) in enumerate(chunks):
        # The steps below change the cache in place.
        is_last = index == len(chunks) - 1
        of_chunk = cache if is_last else copy.deepcopy(cache)
        of_chunk.reorder_cache(rows)
        samples = parents.samples[rows]
        mask = torch.nn.functional.pad(parents.mask[rows], (0, 1), value=1)
        output = call_language_model(
            language_model,
            input_ids=answers.node_tokens[samples, nodes][:, None],
            attention_mask=mask,
            position_ids=mask.sum(dim=1, keepdim=True) - 1,
            past_key_values=of_chunk,
            use_cache=True,
            logits_to_keep=1,
        )
        chunk = Rows(samples, nodes + 1, mask)
        scores += edge_log_probs(answers, output.logits[:, -1], rows_of_nodes(answers, chunk))
        scores += score_children(language_model, answers, chunk, output.past_key_values)
    return scores


def rows_of_nodes(answers: AnswerBatch, rows: Rows) -> Tensor:
    """(B, 1 + N) the row of each node, -1 for nodes without one."""
    num_samples, num_inner_nodes = answers.node_tokens.shape
    node_rows = torch.full((num_samples, 1 + num_inner_nodes), -1, device=rows.nodes.device)
    node_rows[rows.samples, rows.nodes] = torch.arange(len(rows.nodes), device=rows.nodes.device)
    return node_rows


# ---- without a cache -----------------------------------------------------------------------------------------------


class Branch(NamedTuple):
    """A prompt with a path down to a node whose children are all leaves."""

    sample: int
    nodes: list[int]  # from the root, 0
    embeds: Tensor  # (L, D) of the prompt and of the path's tokens


def score_recomputed(
    language_model: PreTrainedModel,
    support: DecoderSupport,
    answers: AnswerBatch,
    prompt_embeds: Tensor,
    prompt_mask: Tensor,
) -> Tensor:
    """Score all nodes with a forward pass over the prompt and each branch -> (B, G)."""
    branches = list_branches(language_model, answers, prompt_embeds, prompt_mask)
    branches.sort(key=lambda branch: len(branch.embeds))
    scores = torch.zeros(answers.edge_tokens.shape, device=prompt_mask.device)
    scored = set()
    for chunk in split_branches(branches, support):
        embeds = pad_sequence([branch.embeds for branch in chunk], batch_first=True)  # (R, L, D), right padded
        first = min(len(branch.embeds) - len(branch.nodes) for branch in chunk)
        positions = torch.arange(first, embeds.shape[1], device=embeds.device)
        output = call_language_model(language_model, inputs_embeds=embeds, use_cache=False, logits_to_keep=positions)
        logits = output.logits.flatten(0, 1)
        node_rows = torch.full((len(prompt_mask), 1 + answers.num_inner_nodes), -1)
        for row, branch in enumerate(chunk):
            start = row * len(positions) + len(branch.embeds) - len(branch.nodes) - first
            for step, node in enumerate(branch.nodes):
                if (branch.sample, node) not in scored:
                    node_rows[branch.sample, node] = start + step
                    scored.add((branch.sample, node))
        scores += edge_log_probs(answers, logits, node_rows.to(scores.device))
    return scores


def list_branches(
    language_model: PreTrainedModel,
    answers: AnswerBatch,
    prompt_embeds: Tensor,
    prompt_mask: Tensor,
) -> list[Branch]:
    """The branches of all samples; a sample without inner nodes has one, its prompt."""
    token_embeds = language_model.get_input_embeddings()(answers.node_tokens).to(prompt_embeds.dtype)  # (B, N, D)
    branches = []
    all_parents = answers.node_parents.tolist()
    all_depths = answers.node_depths.tolist()
    for sample, (parents, depths) in enumerate(zip(all_parents, all_depths, strict=True)):
        prompt = prompt_embeds[sample, prompt_mask[sample].bool()]
        inner_nodes = [node for node, depth in enumerate(depths, start=1) if depth >= 0]
        ends = set(inner_nodes) - {parents[node - 1] for node in inner_nodes}
        for end in sorted(ends or {0}):
            path = [end]
            while path[0] > 0:
                path.insert(0, parents[path[0] - 1])
            steps = [token_embeds[sample, node - 1] for node in path[1:]]
            branches.append(Branch(sample, path, torch.cat([prompt, *[step[None] for step in steps]])))
    return branches


def split_branches(branches: list[Branch], support: DecoderSupport) -> list[list[Branch]]:
    """Sorted by length -> forward passes of at most `MAX_ROWS`, of equal lengths if there must be no padding."""
    chunks: list[list[Branch]] = []
    for branch in branches:
        starts = not chunks or len(chunks[-1]) == MAX_ROWS
        if not starts and support.padding == "none":
            starts = len(chunks[-1][-1].embeds) != len(branch.embeds)
        if starts:
            chunks.append([])
        chunks[-1].append(branch)
    return chunks
