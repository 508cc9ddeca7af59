"""Soft labels: the tokens of an answer are trained toward a distribution over the labels of its task.

    targets (n, A): smoothed labels, or what a head answers (distillation.py) ─┐
    labels that begin as the true one does up to a token ──────────────────────┴─► their shares of the next token
    logits before each token (n, L, V) ─► log-probabilities of the labels' next tokens ──► change of the loss

The shares say how often each token would follow if labels were drawn from the targets: if the labels differ in their
first token, all of the distribution is there.

The label smoothing of `Trainer` would spread a label over the whole vocabulary and, because the library does not know
this model, compare the logits of each token with that token instead of the next.
"""

# B batch  S tokens  K columns with logits  V vocabulary  n samples of a task  A answers of a task
# L tokens of its longest answer, with the end token

from collections.abc import Callable

import torch
from accelerate.logging import get_logger
from torch import nn

from processing_egmf import EGMFProcessor

from ..model.readout import EGMFWithHead


logger = get_logger(__name__)

SMALLEST = 1e-12  # share of an answer that the targets exclude, so that the tokens after its beginning have targets


class SoftLabels:
    """The change of the loss, for tasks of classification.

    Attributes:
        answers: index of each such task -> (A, L) tokens of its labels, followed by -1.
    """

    def __init__(self, processor: EGMFProcessor):
        self.answers: dict[int, torch.Tensor] = {}
        for index, task in enumerate(processor.task_objects.values()):
            if task.kind == "classification":
                rows = [torch.tensor(ids) for ids in processor.answer_token_ids(task.name)]
                self.answers[index] = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)

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
        first = (labels != -100).int().argmax(dim=1)  # (B,) column of the answer's first token
        ended = nn.functional.pad(labels, (0, 1), value=-100)
        for index, answers in self.answers.items():
            rows = torch.where(task_ids == index)[0]
            if len(rows) == 0:
                continue
            answers = answers.to(logits.device)
            columns = first[rows, None] + torch.arange(answers.shape[1], device=logits.device)  # (n, L)
            path = ended[rows[:, None], columns.clamp(max=labels.shape[1])]  # (n, L) the answer's tokens
            path = path.where(path != -100, -1)
            equal = (path[:, None] == answers).float()  # (n, A, L)
            own = equal.prod(dim=2)
            shares = next_token_shares(targets(index, rows, own), equal)
            before = columns - 1 - (labels.shape[1] - logits.shape[1])  # columns of the logits that predict them
            steps = logits[rows[:, None], before.clamp(max=logits.shape[1] - 1)].float()
            log_probs = torch.log_softmax(steps, dim=-1)  # (n, L, V)
            of_answers = log_probs.gather(2, answers.clamp(min=0).T.expand(len(rows), -1, -1))  # (n, L, A)
            of_path = log_probs.gather(2, path.clamp(min=0)[:, :, None])[:, :, 0]  # (n, L)
            changes = (of_path - (shares.transpose(1, 2) * of_answers).sum(dim=2)) * (path >= 0)
            total = total + (changes.sum(dim=1) / (path >= 0).sum(dim=1)).sum()
        return total / len(labels)


def next_token_shares(targets: torch.Tensor, equal: torch.Tensor) -> torch.Tensor:
    """How often each answer is the one that goes on, given that the answer begins as the sample's.

    Args:
        targets: (n, A) distributions.
        equal: (n, A, L) 1 where a token of an answer is that of the sample's.

    Returns:
        (n, A, L) shares of the answers that begin alike, whose sum over answers is 1 at each token.
    """
    begins = nn.functional.pad(equal[:, :, :-1].cumprod(dim=2), (1, 0), value=1.0)
    shares = begins * targets.clamp(min=SMALLEST)[:, :, None]
    return shares / shares.sum(dim=1, keepdim=True).clamp(min=SMALLEST)


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
    if smoothing.soft_labels.answers and not isinstance(model, EGMFWithHead):
        return smoothing
    logger.warning(
        "--label_smoothing_factor has no effect: it is for scored answers (--readout answers) and classification."
    )
    return None
