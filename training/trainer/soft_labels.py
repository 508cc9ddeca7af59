"""Soft labels: the first token of an answer is trained toward a distribution over the labels of its task.

    logits before the answer (n, V) ─► log-probabilities of the labels' first tokens (n, A) ─┐
    targets (n, A): smoothed labels, or what a head answers (distillation.py) ───────────────┴─► change of the loss

The label smoothing of `Trainer` would spread a label over the whole vocabulary and, because the library does not know
this model, compare the logits of each token with that token instead of the next.
"""

# B batch  S tokens  K columns with logits  V vocabulary  n samples of a task  A answers of a task

from collections.abc import Callable

import torch
from accelerate.logging import get_logger
from torch import nn

from processing_egmf import EGMFProcessor

from ..model.readout import EGMFWithHead


logger = get_logger(__name__)


class SoftLabels:
    """The change of the loss, for tasks of classification whose labels differ in their first token.

    Attributes:
        first_tokens: index of each such task -> (A,) first token of every label.
    """

    def __init__(self, processor: EGMFProcessor):
        self.first_tokens: dict[int, torch.Tensor] = {}
        for index, task in enumerate(processor.task_objects.values()):
            tokens = [int(ids[0]) for ids in processor.answer_token_ids(task.name)]
            if task.kind == "classification" and len(set(tokens)) == len(tokens):
                self.first_tokens[index] = torch.tensor(tokens)

    def change_of_loss(
        self,
        logits: torch.Tensor,
        labels: torch.Tensor,
        task_ids: torch.Tensor,
        targets: Callable[[int, torch.Tensor, torch.Tensor], torch.Tensor],
    ) -> torch.Tensor:
        """What to add to the loss of the labels.

        Args:
            logits: (B, K, V) of the last K columns.
            labels: (B, S), -100 except on the answer's tokens.
            task_ids: (B,).
            targets: from the index of a task, the rows (n,) of its samples and their labels (n, A), which are 1 for
                the true one, to distributions (n, A).

        Returns:
            Change of the loss, which is a mean over samples of the mean over an answer's tokens, ().
        """
        total = logits.new_zeros((), dtype=torch.float32)
        num_tokens = (labels != -100).sum(dim=1)
        first = (labels != -100).int().argmax(dim=1)  # (B,) column of the answer's first token
        column = first - 1 - (labels.shape[1] - logits.shape[1])  # of the logits that predict it
        for index, tokens in self.first_tokens.items():
            rows = torch.where(task_ids == index)[0]
            if len(rows) == 0:
                continue
            tokens = tokens.to(logits.device)
            log_probs = torch.log_softmax(logits[rows, column[rows]].float(), dim=-1)[:, tokens]  # (n, A)
            own = (labels[rows, first[rows]][:, None] == tokens).float()
            changes = (own - targets(index, rows, own)) * log_probs
            total = total + (changes.sum(dim=1) / num_tokens[rows]).sum()
        return total / len(labels)


class LabelSmoothing:
    """Label smoothing over the labels of a task (Szegedy et al., 2016, arXiv 1512.00567).

    Args:
        processor: has the tasks.
        factor: share of each label that is spread over all labels of its task, above 0 and below 1.
    """

    def __init__(self, processor: EGMFProcessor, factor: float):
        self.soft_labels = SoftLabels(processor)
        self.factor = factor

    def change_of_loss(self, logits: torch.Tensor, labels: torch.Tensor, task_ids: torch.Tensor) -> torch.Tensor:
        """What to add to the loss of the labels; see `SoftLabels`."""

        def targets(index: int, rows: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
            return torch.lerp(own, torch.full_like(own, 1 / own.shape[1]), self.factor)

        return self.soft_labels.change_of_loss(logits, labels, task_ids, targets)


def make_label_smoothing(model: nn.Module, processor: EGMFProcessor, factor: float) -> LabelSmoothing | None:
    """None for a factor of 0, and, with a warning, if it would have no effect."""
    if factor == 0:
        return None
    smoothing = LabelSmoothing(processor, factor)
    if smoothing.soft_labels.first_tokens and not isinstance(model, EGMFWithHead):
        return smoothing
    logger.warning(
        "--label_smoothing_factor has no effect: it is for scored answers (--readout answers) and classification "
        "whose labels differ in their first token."
    )
    return None
