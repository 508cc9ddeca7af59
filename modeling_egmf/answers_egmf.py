"""Scoring of answers: the loss of a known answer, and the exact distribution over a closed set of answers.

The answers' tokens form a trie. One prefill of the prompt gives the next-token distribution at the root. Every other
inner node (a node with children) needs its own distribution. Leaves need none: only the probability of the token that
leads to a leaf counts.

    prompt ─► root ─┬─ " joy"                      log P(answer | prompt) = sum over its edges of
                    ├─ " sur" ─── "prise"          log P(child token | prompt, path to its parent),
                    └─ " dis" ─── "gust"           then normalized over the set

    group_answer_sets       answer_ids ─► the distinct sets of the batch
    score_nodes_as_tree     one more forward pass over the prefill's cache ─► distributions at the inner nodes
    answer_log_probs        distributions at all nodes ─► log-probability of each answer

`score_nodes_as_tree` needs full attention and a 4D mask. Any replacement must take the same arguments.
"""

# B batch  S prompt tokens  K positions with logits  V vocabulary
# A answers  L tokens of the longest answer  N inner nodes except the root  G edges

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel


if TYPE_CHECKING:
    from transformers import Cache

NORMALIZATIONS = ("sequence", "tree")
TREE_ATTENTIONS = ("sdpa", "eager")  # implementations that take a 4D mask


class AnswerSet(NamedTuple):
    """A trie over the answers' token ids. Node 0 is the root; the inner nodes follow, parents before children."""

    node_tokens: Tensor  # (N,) token of each inner node
    node_depths: Tensor  # (N,) 0 for children of the root
    node_sees: Tensor  # (N, N) bool: each node sees itself and its ancestors
    edge_parents: Tensor  # (G,) node at which the edge starts
    edge_tokens: Tensor  # (G,) token of the edge
    answer_edges: Tensor  # (A, L) edges of each answer, -1 for padding

    @classmethod
    @lru_cache(maxsize=64)
    def from_token_ids(cls, answers: tuple[tuple[int, ...], ...]) -> "AnswerSet":
        """Merge answers into a trie.

        Args:
            answers: token ids of each answer.

        Raises:
            ValueError: an answer is empty, occurs twice, or is a prefix of another.
        """
        if not answers or () in answers:
            raise ValueError(
                "An answer has no tokens, or there are no answers. Give at least one answer, none of them empty."
            )
        if len(set(answers)) != len(answers):
            raise ValueError("Two answers have the same tokens and cannot be told apart. Change one of them.")

        # A path is a sequence of tokens from the root. A non-empty path is an edge; if it can continue, also a node.
        paths = []
        for answer in answers:
            paths += [answer[:length] for length in range(1, len(answer) + 1)]
        paths = list(dict.fromkeys(paths))
        inner_paths = sorted({path[:-1] for path in paths} - {()}, key=len)
        if set(inner_paths) & set(answers):
            raise ValueError("One answer's tokens are a prefix of another's; end both with an end token.")

        edge_index = {path: index for index, path in enumerate(paths)}
        node_index = {path: index for index, path in enumerate([(), *inner_paths])}
        node_sees = torch.zeros(len(inner_paths), len(inner_paths), dtype=torch.bool)
        for index, path in enumerate(inner_paths):
            node_sees[index] = torch.tensor([path[: len(other)] == other for other in inner_paths])
        answer_edges = []
        for answer in answers:
            edges = [edge_index[answer[:length]] for length in range(1, len(answer) + 1)]
            answer_edges.append(torch.tensor(edges))
        return cls(
            node_tokens=torch.tensor([path[-1] for path in inner_paths], dtype=torch.long),
            node_depths=torch.tensor([len(path) - 1 for path in inner_paths], dtype=torch.long),
            node_sees=node_sees,
            edge_parents=torch.tensor([node_index[path[:-1]] for path in paths], dtype=torch.long),
            edge_tokens=torch.tensor([path[-1] for path in paths], dtype=torch.long),
            answer_edges=pad_sequence(answer_edges, batch_first=True, padding_value=-1),
        )

    @property
    def num_inner_nodes(self) -> int:
        return len(self.node_tokens)

    def log_probs(self, node_log_probs: Tensor, normalization: str) -> Tensor:
        """node_log_probs (1 + N, V) at the root and the inner nodes -> (A,), normalized over the answers."""
        edge_log_probs = node_log_probs[self.edge_parents, self.edge_tokens]  # (G,)
        if normalization == "tree":
            siblings = self.edge_parents[:, None] == self.edge_parents[None, :]  # (G, G)
            of_siblings = edge_log_probs.expand(len(edge_log_probs), -1)  # (G, G)
            of_siblings = of_siblings.masked_fill(~siblings, float("-inf"))
            edge_log_probs = edge_log_probs - of_siblings.logsumexp(dim=1)
        is_padding = self.answer_edges < 0
        steps = edge_log_probs[self.answer_edges.clamp(min=0)]  # (A, L)
        steps = steps.masked_fill(is_padding, 0.0)
        return torch.log_softmax(steps.sum(dim=1), dim=0)


def group_answer_sets(answer_ids: Tensor) -> tuple[list[AnswerSet], list[int]]:
    """answer_ids (B, A, L), padded with -1 -> the distinct sets of the batch, and the index of each sample's set."""
    sets_of_samples = []
    for sample in answer_ids.tolist():
        answers = [tuple(token for token in answer if token >= 0) for answer in sample]
        while answers and not answers[-1]:  # padding up to a larger set
            answers.pop()
        sets_of_samples.append(tuple(answers))
    distinct = list(dict.fromkeys(sets_of_samples))
    answer_sets = [AnswerSet.from_token_ids(answers) for answers in distinct]
    set_index = [distinct.index(answers) for answers in sets_of_samples]
    return answer_sets, set_index


def tree_inputs(
    answer_sets: list[AnswerSet],
    set_index: list[int],
    prompt_mask: Tensor,
    dtype: torch.dtype,
) -> dict[str, Tensor]:
    """Inputs of a forward pass over the prompt's cache; each inner node sees the prompt, its ancestors and itself.

    Args:
        answer_sets, set_index: from `group_answer_sets`; at least one of the sets has an inner node.
        prompt_mask: (B, S), 1 on real tokens.
        dtype: of the language model.

    Returns:
        `input_ids` and `position_ids` (B, N); `attention_mask` (B, 1, N, S + N), 0 where a node may attend and the
        lowest number of `dtype` elsewhere.
    """
    num_nodes = max(answer_set.num_inner_nodes for answer_set in answer_sets)
    tokens = pad_sequence([answer_set.node_tokens for answer_set in answer_sets], batch_first=True)
    depths = pad_sequence([answer_set.node_depths for answer_set in answer_sets], batch_first=True)
    # Padding nodes see themselves: a softmax over nothing would be NaN.
    sees = torch.eye(num_nodes, dtype=torch.bool).repeat(len(answer_sets), 1, 1)
    for padded, answer_set in zip(sees, answer_sets, strict=True):
        count = answer_set.num_inner_nodes
        padded[:count, :count] = answer_set.node_sees

    device = prompt_mask.device
    tokens = tokens[set_index].to(device)  # (B, N)
    depths = depths[set_index].to(device)  # (B, N)
    sees = sees[set_index].to(device)  # (B, N, N)
    sees_prompt = prompt_mask.bool()[:, None, :].expand(-1, num_nodes, -1)  # (B, N, S)
    visible = torch.cat([sees_prompt, sees], dim=-1)[:, None]  # (B, 1, N, S + N)
    attention_mask = torch.zeros_like(visible, dtype=dtype)
    attention_mask = attention_mask.masked_fill(~visible, torch.finfo(dtype).min)
    position_ids = prompt_mask.sum(dim=1, keepdim=True) + depths
    return {"input_ids": tokens, "position_ids": position_ids, "attention_mask": attention_mask}


def score_nodes_as_tree(
    language_model: PreTrainedModel,
    answer_sets: list[AnswerSet],
    set_index: list[int],
    prompt_mask: Tensor,
    past_key_values: "Cache",
) -> Tensor:
    """Next-token log-probabilities at the inner nodes (B, N, V), from one forward pass over the prompt's cache.

    Args:
        language_model: the model that filled the cache.
        answer_sets, set_index, prompt_mask: as for `tree_inputs`.
        past_key_values: cache of the prompts.

    Raises:
        ValueError: the attention implementation does not support a 4D mask.
    """
    attention = language_model.config._attn_implementation
    if attention not in TREE_ATTENTIONS:
        raise ValueError(
            f"score_answers needs a 4D attention mask, which {attention} does not support. "
            "Load the model with attn_implementation='sdpa'."
        )
    inputs = tree_inputs(answer_sets, set_index, prompt_mask, language_model.dtype)
    output = language_model(**inputs, past_key_values=past_key_values, use_cache=True)
    return torch.log_softmax(output.logits.float(), dim=-1)


def answer_log_probs(
    answer_sets: list[AnswerSet],
    set_index: list[int],
    node_log_probs: Tensor,
    normalization: str,
    num_answers: int,
) -> Tensor:
    """node_log_probs (B, 1 + N, V) -> (B, A) log-probabilities of the answers, -inf past the end of a smaller set."""
    log_probs = node_log_probs.new_full((len(set_index), num_answers), float("-inf"))
    node_log_probs = node_log_probs.cpu()  # the tries are on the CPU
    for sample, index in enumerate(set_index):
        of_answers = answer_sets[index].log_probs(node_log_probs[sample], normalization)
        log_probs[sample, : len(of_answers)] = of_answers.to(log_probs.device)
    return log_probs


def check_answer_inputs(answer_ids: Tensor | None, labels: Tensor | None, normalization: str) -> None:
    """Reject inputs that `score_answers` cannot score, before doing any work."""
    if normalization not in NORMALIZATIONS:
        raise ValueError(f"`normalization` is {normalization!r}; use one of {', '.join(NORMALIZATIONS)}.")
    if labels is not None:
        raise ValueError("The inputs already contain an answer. Call the processor without `answer` to score them.")
    if answer_ids is None:
        raise ValueError("`answer_ids` is missing; the processor returns it if no `answer` is given.")


# ---- the loss of a known answer ------------------------------------------------------------------------------------


def choose_logits_to_keep(
    logits_to_keep: int | Tensor | None,
    labels: Tensor | None,
    inputs_embeds: Tensor,
) -> int | Tensor:
    """Positions that need logits: those the caller asks for, or else all from just before the first label onward."""
    if logits_to_keep is None and labels is not None:
        answer_columns = torch.where((labels != -100).any(dim=0))[0]
        if len(answer_columns) == 0:
            raise ValueError("`labels` contains only -100; give the processor an `answer`.")
        logits_to_keep = labels.shape[1] - max(int(answer_columns[0]) - 1, 0)
    if logits_to_keep is None:
        return 0
    if isinstance(logits_to_keep, int) and logits_to_keep > 0:
        # A slice would leave strided states, for which the CPU copies the whole output matrix once per sample.
        length = inputs_embeds.shape[1]
        return torch.arange(max(length - logits_to_keep, 0), length, device=inputs_embeds.device)
    return logits_to_keep


def answer_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over samples of the mean negative log-likelihood of their labels.

    Args:
        logits: (B, K, V) of the last K positions.
        labels: (B, S), -100 where there is nothing to predict; a sample with only -100 does not count.
    """
    targets = labels[:, -logits.shape[1] :][:, 1:]  # (B, K - 1)
    predictions = logits[:, :-1].float().transpose(1, 2)  # (B, V, K - 1)
    losses = nn.functional.cross_entropy(
        predictions,
        targets,
        ignore_index=-100,
        reduction="none",
    )  # (B, K - 1)
    num_labels = (targets != -100).sum(dim=1)  # (B,)
    sample_losses = losses.sum(dim=1) / num_labels.clamp(min=1)
    return sample_losses.sum() / (num_labels > 0).sum()
