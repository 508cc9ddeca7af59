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
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import Cache, PreTrainedModel

from .answers_egmf import AnswerSet
from .decoders_egmf import describe_decoder
from .padding_egmf import call_language_model, read_groups, real_columns
from .prompt_egmf import make_position_ids


# Of one forward pass: bounds the memory for copies of the cache and for logits.
MAX_ROWS = 64


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
        """Score all nodes in the way that the language model needs. Warns of a model in training mode.

        Args:
            prompt_embeds: (B, S, D).
            prompt_mask: (B, S), 1 on real tokens; hidden tokens may be anywhere but in the last column.
        """
        if self.llm.training:
            warnings.warn("Dropout changes answers: call model.eval().", stacklevel=4)
        support = describe_decoder(self.llm.config)
        if support.scoring == "tree":
            return self.score_cached(prompt_embeds, prompt_mask, as_tree=True)
        if support.scoring == "recompute":
            return self.score_recomputed(prompt_embeds, prompt_mask)
        scores = torch.zeros_like(self.answers.edge_tokens, dtype=torch.float32)
        for samples, columns in read_groups(prompt_mask, support.padding):
            answers = AnswerSet(*[field[samples] for field in self.answers])
            group = AnswerScorer(self.llm, answers)
            index = (samples[:, None], columns)
            scores[samples] = group.score_cached(prompt_embeds[index], prompt_mask[index], as_tree=False)
        return scores

    # ---- over a cache of the prompts ----

    def score_cached(self, prompt_embeds: Tensor, prompt_mask: Tensor, as_tree: bool) -> Tensor:
        """Score the root after a prefill, and the inner nodes over its cache as a tree or as rows."""
        samples = torch.arange(len(prompt_mask), device=prompt_mask.device)
        roots = torch.zeros_like(samples)[:, None]  # (B, 1)
        scores, cache = self.read(
            samples,
            roots,
            inputs_embeds=prompt_embeds,
            attention_mask=prompt_mask,
            position_ids=make_position_ids(prompt_mask, prompt_mask.shape[1]),
        )
        if self.answers.num_inner_nodes == 0:
            return scores
        if as_tree:
            return scores + self.score_tree(samples, prompt_mask, cache)
        return scores + self.score_children(samples, roots, prompt_mask, cache)

    def read(self, samples: Tensor, nodes: Tensor, **inputs: Tensor | Cache) -> tuple[Tensor, Cache | None]:
        """Score nodes in a forward pass, and return its cache if there are inner nodes.

        Args:
            samples: (R,) the sample of each row.
            nodes: (R, K) the nodes that its last columns end with, 0 for the root.
            inputs: arguments of the language model.
        """
        num_nodes = nodes.shape[1]
        output = call_language_model(
            self.llm,
            # A slice would leave strided states, for which the CPU copies the whole output matrix once per sample.
            logits_to_keep=torch.arange(-num_nodes, 0, device=nodes.device),
            use_cache=self.answers.num_inner_nodes > 0,
            **inputs,
        )
        samples = samples.repeat_interleave(num_nodes)
        scores = self.answers.edge_log_probs(output.logits.flatten(0, 1), samples, nodes.flatten())
        return scores, output.past_key_values

    def score_tree(self, samples: Tensor, prompt_mask: Tensor, cache: Cache) -> Tensor:
        """Score all inner nodes in one forward pass, in which each sees the prompt, its ancestors and itself."""
        # (B, N, S + N)
        visible = visible_columns(self.answers, prompt_mask)[:, 1:]
        dtype = self.llm.dtype
        attention_mask = torch.zeros_like(visible, dtype=dtype)
        attention_mask = attention_mask.masked_fill(~visible, torch.finfo(dtype).min)
        nodes = torch.arange(1, visible.shape[1] + 1, device=samples.device)
        scores, _ = self.read(
            samples,
            nodes.expand(len(samples), -1),
            input_ids=self.answers.node_tokens,
            attention_mask=attention_mask[:, None],
            position_ids=visible.sum(dim=2) - 1,
            past_key_values=cache,
        )
        return scores

    def score_children(self, samples: Tensor, parents: Tensor, mask: Tensor, cache: Cache) -> Tensor:
        """Score all inner nodes below the nodes that the rows of the cache have read, and change the cache.

        Args:
            samples: (R,) the sample of each row.
            parents: (R, 1) the node that it ends with.
            mask: (R, L), 1 on its real columns so far.
        """
        scores = torch.zeros_like(self.answers.edge_tokens, dtype=torch.float32)
        rows, nodes = torch.where(self.answers.node_parents[samples] == parents)
        for start in range(0, len(rows), MAX_ROWS):
            chunk = slice(start, start + MAX_ROWS)
            is_last = chunk.stop >= len(rows)
            chunk_cache = cache if is_last else copy.deepcopy(cache)
            chunk_cache.reorder_cache(rows[chunk])
            chunk_samples = samples[rows[chunk]]
            tokens = self.answers.node_tokens[chunk_samples, nodes[chunk]]
            children = nodes[chunk, None] + 1
            chunk_mask = nn.functional.pad(mask[rows[chunk]], (0, 1), value=1)
            chunk_scores, chunk_cache = self.read(
                chunk_samples,
                children,
                input_ids=tokens[:, None],
                attention_mask=chunk_mask,
                position_ids=make_position_ids(chunk_mask, 1),
                past_key_values=chunk_cache,
            )
            scores += chunk_scores + self.score_children(chunk_samples, children, chunk_mask, chunk_cache)
        return scores

    # ---- without a cache ----

    def score_recomputed(self, prompt_embeds: Tensor, prompt_mask: Tensor) -> Tensor:
        """Score all nodes with a forward pass over the prompt and each branch, shorter ones padded on the right.

        Args:
            prompt_embeds, prompt_mask: as for `score`.
        """
        embed_tokens = self.llm.get_input_embeddings()
        node_embeds = embed_tokens(self.answers.node_tokens).to(prompt_embeds.dtype)
        # (B, S + N, D)
        embeds = torch.cat([prompt_embeds, node_embeds], dim=1)
        # A branch ends at a node that only the node itself sees; without inner nodes, at the root.
        is_end = self.answers.node_sees.sum(dim=1) == 1  # (B, N)
        # (B, 1 + N)
        is_end = torch.cat([~is_end.any(dim=1, keepdim=True), is_end], dim=1)
        # (R,), (R,)
        branch_samples, ends = torch.where(is_end)
        # (R, S + N)
        branch_masks = visible_columns(self.answers, prompt_mask)[branch_samples, ends]

        scores = torch.zeros_like(self.answers.edge_tokens, dtype=torch.float32)
        for branches in branch_masks.sum(dim=1).argsort().split(MAX_ROWS):
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
    # (B, 1 + N, N)
    sees_nodes = nn.functional.pad(answers.node_sees, (0, 0, 1, 0))
    sees_prompt = prompt_mask.bool()[:, None].expand(-1, sees_nodes.shape[1], -1)
    return torch.cat([sees_prompt, sees_nodes], dim=2)
