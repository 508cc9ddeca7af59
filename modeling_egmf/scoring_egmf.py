"""Scoring of answers after a prompt, in one of three ways; `DecoderSupport.scoring` says which.

    score_tree         prompt ─► cache ─► all inner nodes in one forward pass with a tree mask

    score_children     prompt ─► cache ─┬─► copy ─► " sur" ─┬─► copy ─► ...      one token per row and step,
                                        └─► copy ─► " dis"  └─► copy ─► ...      as in `generate`

    score_recomputed   [prompt ; " sur" ; ...], [prompt ; " dis" ; ...]          without a cache

A tree mask over one cache would be wrong for recurrent and convolutional layers, whose state would pass from one
branch into the next, and for sliding windows.

AnswerScorer.score chooses the way. Next: answers_egmf.py, where the tries of the answers are made.
"""

# B batch  S prompt tokens  L tokens of a sequence  D LLM width  R rows  N inner nodes  G edges

import copy
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import Cache, PreTrainedModel

from .answers_egmf import AnswerSet
from .decoders_egmf import describe_decoder
from .padding_egmf import call_language_model, gather_columns, group_samples, real_columns
from .prompt_egmf import make_position_ids


# Of one forward pass: bounds the memory for copies of the cache and for logits.
MAX_ROWS = 64


class Rows(NamedTuple):
    """Rows of one forward pass.

    Args:
        samples: (R,) the sample of each row.
        nodes: (R,) the node that it ends with, 0 for the root.
        mask: (R, L) its columns so far, 0 on padding.
    """

    samples: Tensor
    nodes: Tensor
    mask: Tensor


@dataclass
class AnswerScorer:
    """Scores the nodes of a batch's tries.

    Args:
        llm: the language model.
        answers: the tries.

    Each method gives (B, G) log-probabilities of edges, 0 at the edges of nodes that it does not score, so that the
    scores of different nodes are added up.
    """

    llm: PreTrainedModel
    answers: AnswerSet

    def score(self, prompt_embeds: Tensor, prompt_mask: Tensor) -> Tensor:
        """Score all nodes in the way that the language model needs.

        Args:
            prompt_embeds: (B, S, D).
            prompt_mask: (B, S), 1 on real tokens; hidden tokens may be anywhere but in the last column.
        """
        support = describe_decoder(self.llm.config)
        if support.scoring == "tree":
            return self.score_cached(prompt_embeds, prompt_mask, as_tree=True)
        if support.scoring == "recompute":
            return self.score_recomputed(prompt_embeds, prompt_mask, support.padding == "right")
        scores = torch.zeros(self.answers.edge_tokens.shape, device=prompt_mask.device)
        for samples in group_samples(prompt_mask.sum(dim=1), mixed=support.padding == "left"):
            answers = AnswerSet(*[field[samples] for field in self.answers])
            group = AnswerScorer(self.llm, answers)
            columns = real_columns(prompt_mask[samples], support.padding)
            embeds = gather_columns(prompt_embeds[samples], columns)
            mask = gather_columns(prompt_mask[samples], columns)
            scores[samples] = group.score_cached(embeds, mask, as_tree=False)
        return scores

    # ---- over a cache of the prompts ----

    def score_cached(self, prompt_embeds: Tensor, prompt_mask: Tensor, as_tree: bool) -> Tensor:
        """Score the root after a prefill, and the inner nodes over its cache as a tree or as rows."""
        samples = torch.arange(len(prompt_mask), device=prompt_mask.device)
        prompts = Rows(samples, torch.zeros_like(samples), prompt_mask)
        position_ids = make_position_ids(prompt_mask, prompt_mask.shape[1])
        scores, cache = self.read(prompts, inputs_embeds=prompt_embeds, position_ids=position_ids)
        if self.answers.num_inner_nodes > 0:
            scores += self.score_tree(prompts, cache) if as_tree else self.score_children(prompts, cache)
        return scores

    def read(self, rows: Rows, **inputs: Tensor | Cache) -> tuple[Tensor, Cache | None]:
        """Score the nodes of the rows, after their last columns, and return the cache if there are inner nodes."""
        output = call_language_model(
            self.llm,
            attention_mask=rows.mask,
            use_cache=self.answers.num_inner_nodes > 0,
            # A slice would leave strided states, for which the CPU copies the whole output matrix once per sample.
            logits_to_keep=torch.tensor([-1], device=rows.mask.device),
            **inputs,
        )
        scores = self.answers.edge_log_probs(output.logits[:, -1], rows.samples, rows.nodes)
        return scores, output.past_key_values

    def score_tree(self, prompts: Rows, cache: Cache) -> Tensor:
        """Score all inner nodes in one forward pass, in which each sees the prompt, its ancestors and itself."""
        num_inner_nodes = self.answers.num_inner_nodes
        visible = visible_columns(self.answers, prompts.mask)[:, 1:]  # (B, N, S + N)
        dtype = self.llm.dtype
        attention_mask = torch.zeros_like(visible, dtype=dtype)
        attention_mask = attention_mask.masked_fill(~visible, torch.finfo(dtype).min)
        output = self.llm(
            input_ids=self.answers.node_tokens,
            attention_mask=attention_mask[:, None],
            position_ids=visible.sum(dim=2) - 1,
            past_key_values=cache,
            use_cache=True,
        )
        samples = prompts.samples.repeat_interleave(num_inner_nodes)
        nodes = torch.arange(1, num_inner_nodes + 1, device=samples.device).repeat(len(prompts.samples))
        return self.answers.edge_log_probs(output.logits.flatten(0, 1), samples, nodes)

    def score_children(self, parents: Rows, cache: Cache) -> Tensor:
        """Score all inner nodes below the nodes that the rows of the cache have read, and change the cache."""
        scores = torch.zeros(self.answers.edge_tokens.shape, device=parents.mask.device)
        is_child = self.answers.node_parents[parents.samples] == parents.nodes[:, None]  # (R, N)
        parent_rows, children = torch.where(is_child)
        if len(children) == 0:
            return scores
        chunks = list(zip(parent_rows.split(MAX_ROWS), children.split(MAX_ROWS), strict=True))
        for index, (rows, nodes) in enumerate(chunks):
            is_last = index == len(chunks) - 1
            of_chunk = cache if is_last else copy.deepcopy(cache)
            of_chunk.reorder_cache(rows)
            samples = parents.samples[rows]
            mask = nn.functional.pad(parents.mask[rows], (0, 1), value=1)
            chunk = Rows(samples, nodes + 1, mask)
            of_nodes, of_chunk = self.read(
                chunk,
                input_ids=self.answers.node_tokens[samples, nodes][:, None],
                position_ids=make_position_ids(mask, 1),
                past_key_values=of_chunk,
            )
            scores += of_nodes + self.score_children(chunk, of_chunk)
        return scores

    # ---- without a cache ----

    def score_recomputed(
        self,
        prompt_embeds: Tensor,
        prompt_mask: Tensor,
        mixed_lengths: bool,
    ) -> Tensor:
        """Score all nodes with a forward pass over the prompt and each branch.

        Args:
            prompt_embeds, prompt_mask: as for `score`.
            mixed_lengths: whether branches of different lengths may be read together, padded on the right.
        """
        embed_tokens = self.llm.get_input_embeddings()
        node_embeds = embed_tokens(self.answers.node_tokens).to(prompt_embeds.dtype)
        embeds = torch.cat([prompt_embeds, node_embeds], dim=1)  # (B, S + N, D)
        # A branch ends at a node that only the node itself sees; without inner nodes, at the root.
        node_sees = self.answers.node_sees
        ends_at_root = ~node_sees.flatten(1).any(dim=1, keepdim=True)  # (B, 1)
        is_end = torch.cat([ends_at_root, node_sees.sum(dim=1) == 1], dim=1)  # (B, 1 + N)
        branch_samples, ends = torch.where(is_end)  # (R,), (R,)
        branch_masks = visible_columns(self.answers, prompt_mask)[branch_samples, ends]  # (R, S + N)

        scores = torch.zeros(self.answers.edge_tokens.shape, device=prompt_mask.device)
        groups = group_samples(branch_masks.sum(dim=1), mixed_lengths)
        for branches in [chunk for group in groups for chunk in group.split(MAX_ROWS)]:
            samples = branch_samples[branches]
            columns = real_columns(branch_masks[branches])  # (R, L)
            first = int(prompt_mask[samples].sum(dim=1).min()) - 1
            output = call_language_model(
                self.llm,
                inputs_embeds=embeds[samples[:, None], columns],
                use_cache=False,
                logits_to_keep=torch.arange(first, columns.shape[1], device=columns.device),
            )
            columns = columns[:, first:]
            # 0, the root, at the last column of the prompt.
            nodes = columns - prompt_mask.shape[1] + 1
            rows, steps = torch.where(branch_masks[branches].gather(1, columns) & (nodes >= 0))
            logits = output.logits[rows, steps]
            chunk_scores = self.answers.edge_log_probs(logits, samples[rows], nodes[rows, steps])
            # Chunks may have nodes in common.
            scores = torch.where(scores == 0, chunk_scores, scores)
        return scores


def visible_columns(answers: AnswerSet, prompt_mask: Tensor) -> Tensor:
    """prompt_mask (B, S) -> (B, 1 + N, S + N) bool: each node sees the prompt, its ancestors and itself."""
    sees_nodes = nn.functional.pad(answers.node_sees, (0, 0, 1, 0))  # (B, 1 + N, N)
    sees_prompt = prompt_mask.bool()[:, None].expand(-1, sees_nodes.shape[1], -1)
    return torch.cat([sees_prompt, sees_nodes], dim=2)
