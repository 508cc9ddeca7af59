"""Distillation of the fusion pretraining's head into the language model.

    f_enhanced of two samples ─► a point on the line through them ─┬─► pretraining's head ─► probabilities of answers
                                                                   └─► pseudo tokens ─► language model ─► its tokens

The head is linear, so its confidence follows from the fused vector. The language model is not: it memorizes the
training clips, and for vectors between or beyond them, such as those of unfamiliar speakers, it falls back on one
favorite answer. Between clips there are no labels, but the head has an answer everywhere: its probabilities are the
target of the answer's first token. training/log/pseudo_tokens.md has the figures.
"""

# B batch  S tokens  K columns with logits  V vocabulary  H fusion width  A answers of a task

from typing import Any

import torch
from torch import nn

from modeling_egmf import EGMFForConditionalGeneration
from modeling_egmf.outputs_egmf import EGMFFusionOutput
from processing_egmf import EGMFProcessor

from .pretraining import AnswerHeads
from .soft_labels import SoftLabels


# How far from the sample towards another one; negative values lead away from it.
MIX_RANGE = (-0.5, 1.0)


class Distillation:
    """Mixes fused vectors in training, and replaces the labels in the loss by the head's probabilities.

    It applies to the tasks of `SoftLabels`; all others are trained as usual.

    Args:
        heads: of the fusion pretraining.
        processor: has the tasks that the heads were trained for.
    """

    def __init__(self, heads: AnswerHeads, processor: EGMFProcessor):
        self.heads = heads.eval().requires_grad_(False)
        self.soft_labels = SoftLabels(processor)
        self._is_mixed: torch.Tensor | None = None  # (B,) bool, of the coming forward pass

    def attach(self, model: EGMFForConditionalGeneration) -> None:
        """Let the model's experts return mixed vectors whenever `begin` was called before."""
        model.egmf.experts.register_forward_hook(self._mix)

    def begin(self, task_ids: torch.Tensor) -> None:
        """Announce a training step, task_ids (B,)."""
        suitable = torch.tensor([*self.soft_labels.answers], device=task_ids.device)
        self._is_mixed = torch.isin(task_ids, suitable)

    def _mix(self, module: nn.Module, arguments: Any, output: EGMFFusionOutput) -> EGMFFusionOutput:
        if self._is_mixed is None:
            return output
        fused = output.fused  # (B, H)
        shares = torch.empty(len(fused), 1, device=fused.device).uniform_(*MIX_RANGE)
        shares = shares * self._is_mixed[:, None]
        others = torch.randperm(len(fused), device=fused.device)
        output.fused = fused + shares * (fused[others] - fused)
        self._is_mixed = None
        return output

    def change_of_loss(
        self, logits: torch.Tensor, fused: torch.Tensor, labels: torch.Tensor, task_ids: torch.Tensor
    ) -> torch.Tensor:
        """What to add to the loss of the labels, fused (B, H) being the mixed vectors; see `SoftLabels`."""

        def targets(index: int, rows: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                outputs = self.heads.heads[index](self.heads.norm(fused[rows].float()))
            return torch.softmax(outputs, dim=-1)

        return self.soft_labels.change_of_loss(logits, labels, task_ids, targets)
