"""AnswerSet: the exact distribution of a language model over a closed set of answers.

The answers' tokens are merged into a trie. One prefill of the prompt gives the logits at the root; the inner nodes
(those that have children) go through the model together in one further forward over the same cache, each seeing the
prompt, its ancestors and itself. Leaves need no forward: only their own probability is asked for.

    prompt ─► root ─┬─ " joy"                      log P(answer | prompt) = sum over its edges of
                    ├─ " sur" ─── "prise"          log P(child token | prompt, path to its parent),
                    └─ " dis" ─── "gust"           then normalized over the set
"""

# B batch  A answers  L tokens of the longest answer  N inner nodes without the root  G edges  V vocabulary

from functools import lru_cache
from typing import NamedTuple

import torch
from torch.nn.utils.rnn import pad_sequence


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
    @lru_cache(maxsize=64)
    def from_token_ids(cls, answers: tuple[tuple[int, ...], ...]) -> "AnswerSet":
        """Merge answers, each a tuple of token ids, into a trie. None may be empty, occur twice, or begin another."""
        if not answers or () in answers:
            raise ValueError("An answer has no tokens, or there is no answer at all.")
        if len(set(answers)) != len(answers):
            raise ValueError("Two answers have the same tokens, so nothing can tell them apart.")
        paths = list(dict.fromkeys(answer[:length] for answer in answers for length in range(1, len(answer) + 1)))
        inner = sorted({path[:-1] for path in paths} - {()}, key=len)
        if set(inner) & set(answers):
            raise ValueError("One answer's tokens begin another's; end both with an end marker.")
        edges, nodes = {path: n for n, path in enumerate(paths)}, {path: n for n, path in enumerate([(), *inner])}
        sees = [[path[: len(other)] == other for other in inner] for path in inner]
        steps = [torch.tensor([edges[answer[: i + 1]] for i in range(len(answer))]) for answer in answers]
        return cls(
            node_tokens=torch.tensor([path[-1] for path in inner], dtype=torch.long),
            node_depths=torch.tensor([len(path) - 1 for path in inner], dtype=torch.long),
            node_sees=torch.tensor(sees, dtype=torch.bool).view(len(inner), len(inner)),
            edge_parents=torch.tensor([nodes[path[:-1]] for path in paths], dtype=torch.long),
            edge_tokens=torch.tensor([path[-1] for path in paths], dtype=torch.long),
            answer_edges=pad_sequence(steps, batch_first=True, padding_value=-1),
        )

    def log_probs(self, node_log_probs: torch.Tensor, normalization: str) -> torch.Tensor:
        """node_log_probs (1 + N, V) of the root and the inner nodes -> (A,), which sum to one as probabilities."""
        edge = node_log_probs[self.edge_parents, self.edge_tokens]  # (G,)
        if normalization == "tree":
            siblings = self.edge_parents[:, None] == self.edge_parents[None, :]
            edge = edge - edge.expand(len(edge), -1).masked_fill(~siblings, float("-inf")).logsumexp(dim=1)
        steps = edge[self.answer_edges.clamp(min=0)].masked_fill(self.answer_edges < 0, 0.0)  # (A, L)
        return torch.log_softmax(steps.sum(dim=1), dim=0)


def answer_sets_of(answer_ids: torch.Tensor) -> tuple[list[AnswerSet], list[int]]:
    """answer_ids (B, A, L), padded with -1 -> the distinct sets of the batch, and which one each sample has."""
    found = []
    for rows in answer_ids.tolist():
        answers = [tuple(i for i in row if i >= 0) for row in rows]
        while answers and not answers[-1]:  # padding beside a larger set
            answers.pop()
        found.append(tuple(answers))
    distinct = list(dict.fromkeys(found))
    return [AnswerSet.from_token_ids(answers) for answers in distinct], [distinct.index(answers) for answers in found]


def batch_nodes(
    sets: list[AnswerSet], which: list[int], prompt_mask: torch.Tensor, dtype: torch.dtype
) -> dict[str, torch.Tensor] | None:
    """prompt_mask (B, S), 1 on real tokens -> what a forward over the cache needs to score every inner node: input_ids
    and position_ids (B, N), attention_mask (B, 1, N, S + N), 0 where it may look and the dtype's minimum elsewhere.
    None if every answer is a single token."""
    most = max(len(answer_set.node_tokens) for answer_set in sets)
    if most == 0:
        return None
    tokens = pad_sequence([answer_set.node_tokens for answer_set in sets], batch_first=True)
    depths = pad_sequence([answer_set.node_depths for answer_set in sets], batch_first=True)
    sees = torch.eye(most, dtype=torch.bool).repeat(len(sets), 1, 1)  # padding looks at itself: no empty softmax
    for own, answer_set in zip(sees, sets, strict=True):
        own[: len(answer_set.node_tokens), : len(answer_set.node_tokens)] = answer_set.node_sees
    tokens, depths, sees = (part[which].to(prompt_mask.device) for part in (tokens, depths, sees))
    prompt = prompt_mask.bool()[:, None, :].expand(-1, most, -1)  # (B, N, S)
    visible = torch.cat([prompt, sees], dim=-1)[:, None]  # (B, 1, N, S + N)
    mask = torch.zeros_like(visible, dtype=dtype).masked_fill(~visible, torch.finfo(dtype).min)
    positions = prompt_mask.sum(dim=1, keepdim=True) + depths
    return {"input_ids": tokens, "position_ids": positions, "attention_mask": mask}
