"""AnswerSet: the exact distribution of a language model over a closed set of answers.

The answers' tokens are merged into a trie. One prefill of the prompt gives the logits at the root; the inner nodes
(those that have children) go through the model together in one further forward over the same cache, each seeing the
prompt, its ancestors and itself. Leaves need no forward: only their own probability is asked for.

    prompt ─► root ─┬─ " joy"                      log P(answer | prompt) = sum over its edges of
                    ├─ " sur" ─── "prise"          log P(child token | prompt, path to its parent),
                    └─ " dis" ─── "gust"           then normalised over the set

Next: modeling_egmf.py, `EGMFForConditionalGeneration.score_answers`.
"""

# B batch  A answers  L tokens of the longest answer  N inner nodes without the root  G edges  V vocabulary

from functools import lru_cache
from typing import NamedTuple

import torch


NORMALIZATIONS = ("sequence", "tree")


class AnswerSet(NamedTuple):
    """A trie over the answers' token ids. Index 0 is the root; inner nodes follow, parents before children."""

    node_tokens: torch.Tensor  # (N,) token of each inner node
    node_depths: torch.Tensor  # (N,) 0 for children of the root
    node_sees: torch.Tensor  # (N, N) bool: itself and its ancestors
    edge_parents: torch.Tensor  # (G,) 0 the root, n + 1 inner node n
    edge_tokens: torch.Tensor  # (G,)
    answer_edges: torch.Tensor  # (A, L) index into the edges, -1 padding

    @classmethod
    def from_token_ids(cls, answers: tuple[tuple[int, ...], ...]) -> "AnswerSet":
        """Merge answers, each a tuple of token ids, into a trie.

        Raises:
            ValueError: an answer is empty, occurs twice, or is the beginning of another (an end marker is missing).
        """
        if not answers:
            raise ValueError("The set of answers is empty.")
        if len(set(answers)) != len(answers):
            raise ValueError("Two answers have the same tokens, so nothing can tell them apart.")
        edges: dict[tuple[int, ...], int] = {}
        for answer in answers:
            if not answer:
                raise ValueError("An answer has no tokens.")
            for length in range(1, len(answer) + 1):
                edges.setdefault(answer[:length], len(edges))
        inner = sorted({path[:-1] for path in edges} - {()}, key=len)
        for answer in answers:
            if answer in inner:
                raise ValueError("One answer's tokens begin another's; end both with an end marker.")
        index = {(): 0, **{path: n + 1 for n, path in enumerate(inner)}}
        sees = torch.zeros(len(inner), len(inner), dtype=torch.bool)
        for n, path in enumerate(inner):
            for length in range(1, len(path) + 1):
                sees[n, index[path[:length]] - 1] = True
        longest = max(len(answer) for answer in answers)
        steps = [[edges[answer[: i + 1]] if i < len(answer) else -1 for i in range(longest)] for answer in answers]
        return cls(
            node_tokens=torch.tensor([path[-1] for path in inner], dtype=torch.long),
            node_depths=torch.tensor([len(path) - 1 for path in inner], dtype=torch.long),
            node_sees=sees,
            edge_parents=torch.tensor([index[path[:-1]] for path in edges], dtype=torch.long),
            edge_tokens=torch.tensor([path[-1] for path in edges], dtype=torch.long),
            answer_edges=torch.tensor(steps, dtype=torch.long),
        )

    def log_probs(self, node_log_probs: torch.Tensor, normalization: str) -> torch.Tensor:
        """node_log_probs (1 + N, V) of the root and the inner nodes -> (A,), which sum to one as probabilities."""
        edge = node_log_probs[self.edge_parents, self.edge_tokens]  # (G,)
        if normalization == "tree":
            siblings = self.edge_parents[:, None] == self.edge_parents[None, :]
            edge = edge - edge.expand(len(edge), -1).masked_fill(~siblings, float("-inf")).logsumexp(dim=1)
        steps = edge[self.answer_edges.clamp(min=0)].masked_fill(self.answer_edges < 0, 0.0)  # (A, L)
        return torch.log_softmax(steps.sum(dim=1), dim=0)


@lru_cache(maxsize=64)
def _cached_answer_set(answers: tuple[tuple[int, ...], ...]) -> AnswerSet:
    return AnswerSet.from_token_ids(answers)


def answer_sets_of(answer_ids: torch.Tensor) -> tuple[list[AnswerSet], list[int]]:
    """answer_ids (B, A, L), padded with -1 -> the distinct sets of the batch, and which one each sample has."""
    sets: list[AnswerSet] = []
    places: dict[tuple, int] = {}
    which = []
    for rows in answer_ids.tolist():
        answers = tuple(tuple(i for i in row if i >= 0) for row in rows)
        while answers and not answers[-1]:  # padding beside a larger set
            answers = answers[:-1]
        if answers not in places:
            places[answers] = len(sets)
            sets.append(_cached_answer_set(answers))
        which.append(places[answers])
    return sets, which


class NodeBatch(NamedTuple):
    """The inner nodes of every sample's trie, padded to the largest, ready for one forward over the cache."""

    token_ids: torch.Tensor  # (B, N)
    position_ids: torch.Tensor  # (B, N)
    attention_mask: torch.Tensor  # (B, 1, N, S + N), 0 where a node may look and the dtype's minimum elsewhere


def batch_nodes(
    sets: list[AnswerSet], which: list[int], prompt_mask: torch.Tensor, dtype: torch.dtype
) -> NodeBatch | None:
    """prompt_mask (B, S), 1 on real tokens -> the nodes to score; None if every answer is a single token."""
    device = prompt_mask.device
    most = max(len(answer_set.node_tokens) for answer_set in sets)
    if most == 0:
        return None
    tokens = torch.zeros(len(sets), most, dtype=torch.long)
    depths = torch.zeros(len(sets), most, dtype=torch.long)
    sees = torch.eye(most, dtype=torch.bool).repeat(len(sets), 1, 1)  # padding looks at itself: no empty softmax
    for i, answer_set in enumerate(sets):
        n = len(answer_set.node_tokens)
        tokens[i, :n], depths[i, :n], sees[i, :n, :n] = (
            answer_set.node_tokens,
            answer_set.node_depths,
            answer_set.node_sees,
        )
    which_set = torch.tensor(which)
    prompt = prompt_mask.bool()[:, None, :].expand(-1, most, -1)  # (B, N, S)
    visible = torch.cat([prompt, sees[which_set].to(device)], dim=-1)[:, None]  # (B, 1, N, S + N)
    mask = torch.zeros(visible.shape, dtype=dtype, device=device).masked_fill(~visible, torch.finfo(dtype).min)
    positions = prompt_mask.sum(dim=1, keepdim=True) + depths[which_set].to(device)
    return NodeBatch(tokens[which_set].to(device), positions, mask)
