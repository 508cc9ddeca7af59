"""Mixup in fusion pretraining: what the encoders pool over time is mixed between clips, and so are the labels.

    mean and deviation of a clip ───┐
                                    ├─► s * clip + (1 - s) * partner ─► projection, fusion, experts ─► heads
    mean and deviation of a partner ┘   s ~ Beta(alpha, alpha)           loss: s * clip's + (1 - s) * partner's

Fusion and experts learn a few hundred clips by heart; between the clips they have to be straight (Zhang et al., 2018,
arXiv 1710.09412). Mixing the fused vectors instead comes too late for that. LOG.md has the figures.
"""

# B batch  M modalities (text, audio, video)  n samples that have the modality  W width of an encoder's states

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from accelerate.logging import get_logger
from torch import nn

from modeling_egmf import EGMFForConditionalGeneration
from modeling_egmf.encoders_egmf import EGMFModalityEncoder
from processing_egmf import MODALITIES


MASKS = dict(zip(MODALITIES, ("utterance_mask", "audio_mask", "video_mask"), strict=True))


logger = get_logger(__name__)


class Mixup:
    """Mixes clips of the same task and the same modalities.

    Those with a transcript stay as they are, since tokens do not mix.

    Args:
        model: its encoders with `pooling="statistics"` are mixed.
        alpha: parameter of the distribution of the share `s`, above 0; near 0, most clips stay nearly unmixed.

    Attributes:
        encoders: modality -> encoder that is mixed.
    """

    def __init__(self, model: EGMFForConditionalGeneration, alpha: float):
        self.distribution = torch.distributions.Beta(alpha, alpha)
        self.encoders: dict[str, EGMFModalityEncoder] = {}
        for modality in ("audio", "video"):
            encoder = getattr(model.egmf.audio_visual_encoder, modality)
            if encoder is not None and encoder.pooling == "statistics":
                self.encoders[modality] = encoder

    @contextmanager
    def applied(self, batch: dict[str, torch.Tensor]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Mix what the encoders pool of this batch; gives each sample's partner (B,) and own share `s` (B,)."""
        present = present_modalities(batch)  # (B, M)
        partners = choose_partners(torch.cat([batch["task_ids"][:, None], present.long()], dim=1))
        shares = self.distribution.sample((len(partners),)).to(present.device)
        has_text = present[:, MODALITIES.index("text")]
        shares = torch.where(has_text, 1.0, shares)
        with ExitStack() as stack:
            for modality, encoder in self.encoders.items():
                mix = mixing(present[:, MODALITIES.index(modality)], partners, shares)
                stack.callback(encoder.dropout.register_forward_pre_hook(mix).remove)
            yield partners, shares


def make_mixup(model: EGMFForConditionalGeneration, alpha: float) -> Mixup | None:
    """None for `alpha` 0; warns if no encoder of the model can be mixed."""
    if alpha == 0:
        return None
    mixup = Mixup(model, alpha)
    if not mixup.encoders:
        logger.warning(
            "--fusion_pretraining_mixup has no effect: it mixes what encoders pool with --encoder_pooling statistics."
        )
        return None
    return mixup


def present_modalities(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """(B, M) bool: which modalities the samples of a batch have."""
    absent = torch.zeros_like(batch["task_ids"], dtype=torch.bool)
    columns = []
    for name in MASKS.values():
        mask = batch.get(name)
        columns.append(absent if mask is None else mask.bool().any(dim=1))
    return torch.stack(columns, dim=1)


def choose_partners(keys: torch.Tensor) -> torch.Tensor:
    """keys (B, K) -> (B,): a random permutation of the samples among those with the same key."""
    partners = torch.arange(len(keys), device=keys.device)
    for key in keys.unique(dim=0):
        rows = torch.where((keys == key).all(dim=1))[0]
        partners[rows] = rows[torch.randperm(len(rows)).to(rows.device)]
    return partners


def mixing(
    present: torch.Tensor, partners: torch.Tensor, shares: torch.Tensor
) -> Callable[[nn.Module, tuple[Any, ...]], tuple[torch.Tensor]]:
    """A hook that mixes the statistics (n, 2 * W) of the samples that have a modality.

    present, partners and shares are (B,).
    """
    rows = torch.where(present)[0]  # (n,)
    positions = present.long().cumsum(dim=0) - 1  # (B,) of a sample among them

    def mix(module: nn.Module, arguments: tuple[Any, ...]) -> tuple[torch.Tensor]:
        (statistics,) = arguments
        own = shares[rows, None].to(statistics.dtype)
        return (own * statistics + (1 - own) * statistics[positions[partners[rows]]],)

    return mix
