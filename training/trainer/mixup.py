"""Mixup in fusion pretraining: media tokens and labels are mixed between clips that are fused without their text.

    media tokens of a clip ───┐
                              ├─► s * clip + (1 - s) * partner ─► fusion, experts ─► heads
    media tokens of a partner ┘   s ~ Beta(alpha, alpha)          loss: s * clip's + (1 - s) * partner's

Fusion and experts memorize a few hundred clips; mixup makes them behave linearly between the clips (Zhang et al.,
2018, arXiv 1710.09412). Mixing the fused vectors instead comes too late for that. training/log/ravdess.md has the
figures.
"""

# N fused vectors: every sample with each subset of its modalities  M modalities (text, audio, video)

import torch
from accelerate.logging import get_logger

from modeling_egmf import EGMFForConditionalGeneration
from processing_egmf import MODALITIES


TEXT = MODALITIES.index("text")


logger = get_logger(__name__)


class Mixup:
    """Chooses partners of the same task and subset of the modalities.

    Subsets with text stay as they are, since tokens do not mix.

    Args:
        alpha: parameter of the distribution of the shares, above 0; near 0, most stay nearly unmixed.
    """

    def __init__(self, alpha: float):
        self.distribution = torch.distributions.Beta(alpha, alpha)

    def mixes(self, subsets: torch.Tensor) -> torch.Tensor:
        """subsets (N, M) bool -> (N,) bool: those without text."""
        return ~subsets[:, TEXT]

    def choose(self, task_ids: torch.Tensor, subsets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The partner (N,) of each of task_ids (N,) and subsets (N, M) bool, and the share (N,) that is its own."""
        partners = choose_partners(torch.cat([task_ids[:, None], subsets.long()], dim=1))
        shares = self.distribution.sample((len(partners),)).to(partners.device)
        return partners, torch.where(self.mixes(subsets), shares, 1.0)


def make_mixup(model: EGMFForConditionalGeneration, alpha: float) -> Mixup | None:
    """None for `alpha` 0, and, with a warning, for a model of text alone."""
    if alpha == 0:
        return None
    encoders = model.egmf.audio_visual_encoder
    if encoders.audio is None and encoders.video is None:
        logger.warning("--fusion_pretraining_mixup has no effect: it mixes audio and video; this model has neither.")
        return None
    return Mixup(alpha)


def choose_partners(keys: torch.Tensor) -> torch.Tensor:
    """keys (N, K) -> (N,): a random permutation among those with the same key."""
    partners = torch.arange(len(keys), device=keys.device)
    for key in keys.unique(dim=0):
        rows = torch.where((keys == key).all(dim=1))[0]
        partners[rows] = rows[torch.randperm(len(rows)).to(rows.device)]
    return partners
