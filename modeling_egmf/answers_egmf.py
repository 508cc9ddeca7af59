"""Scoring of answers: the loss of a known answer, and the exact distribution over a closed set of answers.

The answers' tokens form a trie. One prefill of the prompt gives the next-token distribution at the root. Every other
inner node (a node with children) needs its own distribution. Leaves need none: only the probability of the token that
leads to a leaf counts.

    prompt ─► root ─┬─ " joy"                      log P(answer | prompt) = sum over its edges of
                    ├─ " sur" ─── "prise"          log P(child token | prompt, path to its parent),
                    └─ " dis" ─── "gust"           then normalized over the set

    AnswerSet.from_answer_ids   answer_ids ─► the tries of a batch; each set's trie is built once
    AnswerSet.edge_log_probs    logits at some of the nodes ─► log-probabilities of their edges
    AnswerSet.log_probs         log-probabilities of the edges ─► those of the answers

Everything stays on the device: of the logits, only the edges' are gathered. scoring_egmf.py computes the logits.
"""

# B batch  S prompt tokens  K positions with logits  V vocabulary  R rows of logits
# A answers  L tokens of the longest answer  N inner nodes except the root  G edges

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from .precision_egmf import float32_chunks


NORMALIZATIONS = ("sequence", "tree")


class AnswerSet(NamedTuple):
    """Tries over the token ids of answers, one for each sample of a batch; a single set's has no dimension B.

    Node 0 is the root; the inner nodes follow, parents before children.

    Args:
        node_tokens: (B, N) token of each inner node, 0 for padding.
        node_parents: (B, N) parent of each inner node, 0 for the root, -1 for padding.
        node_sees: (B, N, N) bool: each inner node sees itself and its ancestors; False for padding.
        edge_parents: (B, G) node at which the edge starts, -1 for padding.
        edge_tokens: (B, G) token of the edge, 0 for padding.
        answer_edges: (B, A, L) edges of each answer, -1 for padding.
    """

    node_tokens: Tensor
    node_parents: Tensor
    node_sees: Tensor
    edge_parents: Tensor
    edge_tokens: Tensor
    answer_edges: Tensor

    @classmethod
    @lru_cache(maxsize=64)
    def from_token_ids(
        cls,
        answers: tuple[tuple[int, ...], ...],
        device: torch.device | str = "cpu",
    ) -> "AnswerSet":
        """Merge answers into a trie.

        Args:
            answers: token ids of each answer; empty ones at the end are padding up to a larger set.
            device: where the tensors are kept.

        Raises:
            ValueError: an answer is empty, occurs twice, or is a prefix of another.
        """
        given = tuple(answer for answer in answers if answer)
        if not given or given != answers[: len(given)]:
            raise ValueError("There are no answers, or one has no tokens.")
        if len(set(given)) != len(given):
            raise ValueError("Two answers have the same tokens. Change one of them.")

        # A path is a sequence of tokens from the root. A non-empty path is an edge; if it can continue, also a node.
        paths = []
        for answer in given:
            paths += prefixes(answer)
        edge_index = {path: index for index, path in enumerate(dict.fromkeys(paths))}
        inner_paths = sorted({path[:-1] for path in paths} - {()}, key=len)
        if set(inner_paths) & set(given):
            raise ValueError("One answer is a prefix of another; end both with an end token.")

        node_index = {path: index for index, path in enumerate([(), *inner_paths])}
        node_parents = [node_index[path[:-1]] for path in inner_paths]
        node_sees = [[path[: len(other)] == other for other in inner_paths] for path in inner_paths]
        answer_edges = [[edge_index[path] for path in prefixes(answer)] for answer in answers]
        answer_edges = [torch.tensor(edges, dtype=torch.long) for edges in answer_edges]
        answer_set = cls(
            node_tokens=torch.tensor([path[-1] for path in inner_paths], dtype=torch.long),
            node_parents=torch.tensor(node_parents, dtype=torch.long),
            node_sees=torch.tensor(node_sees, dtype=torch.bool).view(len(inner_paths), len(inner_paths)),
            edge_parents=torch.tensor([node_index[path[:-1]] for path in edge_index]),
            edge_tokens=torch.tensor([path[-1] for path in edge_index]),
            answer_edges=pad_sequence(answer_edges, batch_first=True, padding_value=-1),
        )
        return cls(*[tensor.to(device) for tensor in answer_set])

    @classmethod
    def from_answer_ids(cls, answer_ids: Tensor, device: torch.device) -> "AnswerSet":
        """answer_ids (B, A, L), padded with -1 -> the tries of the batch on the device.

        Raises:
            ValueError: as in `from_token_ids`.
        """
        distinct, set_index = torch.unique(answer_ids.cpu(), dim=0, return_inverse=True)
        answer_sets = []
        for answers in distinct.tolist():
            token_ids = [tuple(token for token in answer if token >= 0) for answer in answers]
            answer_sets.append(cls.from_token_ids(tuple(token_ids), device))

        fields = {}
        for name, of_sets in zip(cls._fields, zip(*answer_sets, strict=True), strict=True):
            padding = -1 if name in ("node_parents", "edge_parents", "answer_edges") else 0
            fields[name] = stack_padded(of_sets, padding)[set_index.to(device)]
        return cls(**fields)

    @property
    def num_inner_nodes(self) -> int:
        return self.node_tokens.shape[1]

    def edge_log_probs(self, logits: Tensor, samples: Tensor, nodes: Tensor) -> Tensor:
        """Log-probabilities of the edges that start at nodes with logits.

        Args:
            logits: (R, V) next-token logits.
            samples: (R,) sample to which each row of logits belongs.
            nodes: (R,) its node, 0 for the root.

        Returns:
            (B, G), 0 at edges that start at other nodes.
        """
        num_samples, num_inner_nodes = self.node_tokens.shape
        node_rows = torch.full((num_samples, 1 + num_inner_nodes), -1, device=nodes.device)
        node_rows[samples, nodes] = torch.arange(len(nodes), device=nodes.device)
        edge_rows = node_rows.gather(1, self.edge_parents.clamp(min=0))  # (B, G)
        edge_rows = edge_rows.to(logits.device)
        rows = edge_rows.clamp(min=0)
        # (R,), not of all rows at once, which would copy all logits.
        normalizers = torch.cat([chunk.logsumexp(dim=1) for chunk in float32_chunks(logits)])
        log_probs = logits[rows, self.edge_tokens.to(logits.device)].float() - normalizers[rows]
        return log_probs.masked_fill(edge_rows < 0, 0.0).to(nodes.device)

    def log_probs(self, edge_log_probs: Tensor, normalization: str) -> Tensor:
        """Log-probabilities of the answers.

        Args:
            edge_log_probs: (B, G) log-probability of each edge at its parent node.
            normalization: one of `NORMALIZATIONS`.

        Returns:
            (B, A), normalized over each sample's set; -inf past the end of a smaller set.

        Raises:
            ValueError: an answer's log-probability is NaN or infinite.
        """
        if normalization == "tree":
            # (B, G, G)
            are_siblings = self.edge_parents[:, :, None] == self.edge_parents[:, None]
            siblings = edge_log_probs[:, None].masked_fill(~are_siblings, float("-inf"))
            edge_log_probs = edge_log_probs - siblings.logsumexp(dim=2)
        # (B, A, L)
        is_step = self.answer_edges >= 0
        steps = edge_log_probs.gather(1, self.answer_edges.clamp(min=0).flatten(1)).view_as(is_step)
        is_padding = ~is_step[:, :, 0]  # (B, A)
        scores = steps.masked_fill(~is_step, 0.0).sum(dim=2).masked_fill(is_padding, float("-inf"))
        log_probs = torch.log_softmax(scores, dim=1)

        is_finite = (log_probs.isfinite() | is_padding).all(dim=1)
        if not is_finite.all():
            samples = torch.where(~is_finite)[0].tolist()
            raise ValueError(
                f"The answers of samples {samples} in the batch of {len(log_probs)} are not finite numbers. "
                "The weights contain NaN, or overflow: load the model in float32."
            )
        return log_probs


def prefixes(answer: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The answer's first token, its first two tokens, ..., and the answer itself."""
    return [answer[:length] for length in range(1, len(answer) + 1)]


def stack_padded(tensors: Sequence[Tensor], value: int) -> Tensor:
    """Stack tensors of different sizes, padded with a value at the end of each dimension."""
    largest = [max(sizes) for sizes in zip(*[tensor.shape for tensor in tensors], strict=True)]
    stacked = tensors[0].new_full((len(tensors), *largest), value)
    for padded, tensor in zip(stacked, tensors, strict=True):
        padded[tuple(slice(size) for size in tensor.shape)] = tensor
    return stacked


# ---- the loss of a known answer ------------------------------------------------------------------------------------


def choose_logits_to_keep(
    logits_to_keep: int | Tensor | None,
    labels: Tensor | None,
    inputs_embeds: Tensor,
) -> Tensor:
    """Columns that need logits: those the caller asks for, or else all from just before the first label onward.

    Args:
        logits_to_keep: number of columns at the end, or (K,) columns; 0 for all, None for the default.
        labels: (B, S), or None.
        inputs_embeds: (B, S, D).

    Returns:
        (K,) columns.

    Raises:
        ValueError: there are no labels to predict, or columns that predict some are left out.
    """
    # Indices: a slice would leave strided states, for which the CPU copies the whole output matrix once per sample.
    columns = torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device)
    kept = logits_to_keep
    if kept is None or (isinstance(kept, int) and kept >= 0):
        kept = columns[-(kept or 0) :]
    if not isinstance(kept, Tensor):
        raise ValueError(f"`logits_to_keep` is {kept!r}; give a number of columns, or a tensor of them.")
    if labels is None:
        return kept
    has_label = (next_labels(labels) != -100).any(dim=0)  # (S,)
    label_columns = columns[has_label].tolist()
    if not label_columns:
        raise ValueError("`labels` contains only -100; give the processor an `answer`.")
    if logits_to_keep is None:
        return columns[label_columns[0] :]
    if has_label[kept].sum() < len(label_columns):
        raise ValueError(
            "`logits_to_keep` leaves out columns that predict `labels`: "
            f"keep {label_columns[0]} to {label_columns[-1]}."
        )
    return kept


def next_labels(labels: Tensor) -> Tensor:
    """labels (B, S) -> (B, S) the label that each column predicts, -100 for none."""
    return nn.functional.pad(labels[:, 1:], (0, 1), value=-100)


def answer_loss(logits: Tensor, labels: Tensor, logits_to_keep: Tensor) -> Tensor:
    """Mean over samples of the mean negative log-likelihood of their labels.

    Args:
        logits: (B, K, V).
        labels: (B, S), -100 where there is nothing to predict; a sample with only -100 does not count.
        logits_to_keep: (K,) columns of the logits.
    """
    targets = next_labels(labels)[:, logits_to_keep].long()  # (B, K)
    # (B, V, K)
    logits = logits.float().transpose(1, 2)
    losses = nn.functional.cross_entropy(logits, targets, ignore_index=-100, reduction="none")  # (B, K)
    num_labels = (targets != -100).sum(dim=1)
    sample_losses = losses.sum(dim=1) / num_labels.clamp(min=1)
    return sample_losses.sum() / (num_labels > 0).sum()
