"""Fusion pretraining: trains encoders, fusion and experts without the language model, before the main training.

    transcript's embeddings, media ─► encoders ─► fusion ─► experts ─► f_enhanced ─► one linear head per task ─► loss

A step through the language model costs many times as much as one through our own layers. As an option, the fused
vector is therefore first trained to predict the answers through one linear head per task, on the frozen model's token
embeddings. The heads are then dropped, and training continues with the language model. In the demo this raised emotion
accuracy from 0.63 to 0.84 in the same time (variant `no_fusion_pretraining` of demo/study.py; one seed).
"""

# B batch  L text tokens  M modalities (text, audio, video)  H fusion width  D LLM width
# N fused vectors: every sample with each subset of its modalities

import math
from collections.abc import Callable
from itertools import islice, product
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from modeling_egmf import EGMFForConditionalGeneration
from modeling_egmf.prompt_egmf import transcript_columns
from processing_egmf import MODALITIES, EGMFProcessor, EGMFTask

from .mixup import Mixup
from .sampling import EpochBatchSampler


LABEL_SMOOTHING = 0.1
MAX_GRAD_NORM = 1.0
MEDIA_INPUTS = ("audio_values", "audio_mask", "video_values", "video_mask")


class AnswerHeads(nn.Module):
    """One linear head per task on the fused vector: class logits, or one number with the scale mapped to [-1, 1]."""

    def __init__(self, processor: EGMFProcessor, width: int):
        super().__init__()
        self.tasks: list[EGMFTask] = list(processor.task_objects.values())
        sizes = [task.num_answers if task.kind == "classification" else 1 for task in self.tasks]
        self.heads = nn.ModuleList(nn.Linear(width, size) for size in sizes)
        self.norm = nn.LayerNorm(width)

    def loss(
        self,
        fused: torch.Tensor,
        task_ids: torch.Tensor,
        label_index: torch.Tensor,
        weights: torch.Tensor,
        smoothing: torch.Tensor,
    ) -> torch.Tensor:
        """fused (N, H), task_ids (N,), label_index (N,), weights (N,), smoothing (N,) of labels -> weighted sum ()."""
        fused = self.norm(fused)
        total = fused.new_zeros(())
        for index in task_ids.unique().tolist():
            chosen = task_ids == index
            outputs = self.heads[index](fused[chosen])
            losses = task_losses(self.tasks[index], outputs, label_index[chosen], smoothing[chosen])
            total = total + (losses * weights[chosen]).sum()
        return total


def task_losses(
    task: EGMFTask, outputs: torch.Tensor, label_index: torch.Tensor, smoothing: torch.Tensor
) -> torch.Tensor:
    """outputs (n, answers) or (n, 1), label_index (n,) -> losses (n,): cross entropy, or a smooth L1 loss.

    Of each label, the share smoothing (n,) is spread over all answers.
    """
    if task.kind == "classification":
        losses = nn.functional.cross_entropy(outputs, label_index, reduction="none")
        return torch.lerp(losses, -torch.log_softmax(outputs, dim=1).mean(dim=1), smoothing)
    scores = label_index.float() / (task.num_answers - 1) * 2 - 1
    return 4 * nn.functional.smooth_l1_loss(outputs.squeeze(-1), scores, reduction="none", beta=0.25)


class FusedVectors(NamedTuple):
    """Every sample of a batch with each subset of its modalities, ordered by subset.

    Attributes:
        vectors: (N, H) f_enhanced.
        samples: (N,) index of the sample in the batch.
        subsets: (N, M) bool, the modalities that are fused.
        partners: (N,) index of the sample that it is mixed with; without mixup, of the sample itself.
        shares: (N,) share of the sample itself, from 0 to 1.
    """

    vectors: torch.Tensor
    samples: torch.Tensor
    subsets: torch.Tensor
    partners: torch.Tensor
    shares: torch.Tensor


def fuse_modalities(
    model: EGMFForConditionalGeneration,
    batch: dict[str, torch.Tensor],
    mixup: Mixup | None = None,
    token_dropout: float = 0.0,
) -> FusedVectors:
    """Encode each sample once, and fuse it with every nonempty subset of its modalities.

    This way each encoder learns from its own errors, not only from those that the strongest modality leaves, and the
    fusion learns how much to trust each modality whatever else is there. A subset costs little: encoders run once.

    Args:
        model: with or without gradients.
        batch: from `SampleCollator`, without labels in the prompt.
        mixup: mixes the media tokens of the clips.
        token_dropout: share of the transcript's tokens that are left out, drawn anew for each subset.
    """
    egmf = model.egmf
    input_ids = batch["input_ids"]
    columns = transcript_columns(batch["utterance_mask"])
    text_mask = batch["utterance_mask"][:, columns].bool()  # (B, L)
    with torch.no_grad():
        embeds = model.embed_input_ids(input_ids, model.get_placeholder_mask(input_ids))[:, columns]
    embeds = embeds.to(egmf.dtype)  # (B, L, D)
    media = {name: batch.get(name) for name in MEDIA_INPUTS}
    all_media = text_mask.new_ones(len(text_mask), 2)
    media_tokens, media_mask = egmf.audio_visual_encoder(all_media, **media)
    present = torch.cat([text_mask.any(dim=1, keepdim=True), media_mask], dim=1)  # (B, M)
    choices = product((False, True), repeat=len(MODALITIES))
    subsets = torch.tensor(list(choices)[1:], device=present.device)  # (2^M - 1, M)
    is_given = (present | ~subsets[:, None]).all(dim=2)  # (2^M - 1, B)
    forms, samples = torch.where(is_given)  # (N,), (N,)
    subsets = subsets[forms]  # (N, M)
    media_tokens = media_tokens[samples]  # (N, 2, H)
    partners, shares = torch.arange(len(samples), device=samples.device), torch.ones_like(media_tokens[:, 0, 0])
    if mixup is not None:
        partners, shares = mixup.choose(batch["task_ids"][samples], subsets)
        media_tokens = torch.lerp(media_tokens[partners], media_tokens, shares[:, None, None])
    text_mask = drop_tokens(text_mask[samples] & subsets[:, :1], token_dropout)
    fused = egmf.fusion(embeds[samples], text_mask, media_tokens, subsets[:, 1:])
    return FusedVectors(egmf.experts(fused).fused, samples, subsets, samples[partners], shares)


def drop_tokens(text_mask: torch.Tensor, share: float) -> torch.Tensor:
    """text_mask (N, L) bool without a share of its tokens, drawn at random; a text that would lose all keeps them."""
    if share == 0:
        return text_mask
    kept = text_mask & (torch.rand(text_mask.shape, device=text_mask.device) >= share)
    return torch.where(kept.any(dim=1, keepdim=True), kept, text_mask)


def average_over_processes(parameters: list[nn.Parameter], loss: torch.Tensor) -> float:
    """Average each gradient over the processes, a missing one counting as 0; returns the mean loss."""
    processes = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    if processes == 1:
        return loss.item()
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    values = torch.cat([nn.utils.parameters_to_vector(gradients), loss.detach()[None]])
    torch.distributed.all_reduce(values)
    values /= processes
    nn.utils.vector_to_parameters(values[:-1], gradients)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    return values[-1].item()


def rate_factor(step: int, steps: int) -> float:
    """Fraction of the peak learning rate: linear warmup over a tenth of the steps, then cosine decay to 0."""
    rise = max(1, steps // 10)
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def make_optimizer(
    model: EGMFForConditionalGeneration, heads: AnswerHeads, learning_rate: float, weight_decay: float
) -> torch.optim.Optimizer:
    """AdamW over what the fusion pretraining trains: encoders, fusion, experts and heads, not the pseudo tokens."""
    own = [p for name, p in model.egmf.named_parameters() if not name.startswith("pseudo_tokens.")]
    parameters = [p for p in (*own, *heads.parameters()) if p.requires_grad]
    return torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=weight_decay)


def pretraining_loss(
    model: EGMFForConditionalGeneration,
    heads: AnswerHeads,
    batch: dict[str, torch.Tensor],
    mixup: Mixup | None = None,
    token_dropout: float = 0.0,
) -> torch.Tensor:
    """Mean loss () of a batch: every sample has the same weight, however many modalities it has."""
    fused = fuse_modalities(model, batch, mixup, token_dropout)
    num_forms = torch.bincount(fused.samples)[fused.samples]
    weights = 1 / (num_forms * len(batch["task_ids"]))  # (N,)
    smoothing = torch.full_like(weights, LABEL_SMOOTHING)
    if mixup is not None:
        smoothing[mixup.mixes(fused.subsets)] = 0.0  # mixed labels are soft already, and the answers too unsure
    task_ids = batch["task_ids"][fused.samples]
    parts = [(fused.samples, fused.shares)]
    if mixup is not None:
        parts.append((fused.partners, 1 - fused.shares))
    loss = fused.vectors.new_zeros(())
    for samples, shares in parts:
        labels = batch["label_index"][samples]
        loss = loss + heads.loss(fused.vectors, task_ids, labels, weights * shares, smoothing)
    return batch.get("loss_weight", 1.0) * loss


def pretrain_fusion(
    model: EGMFForConditionalGeneration,
    heads: AnswerHeads,
    loader: DataLoader,
    optimizer: torch.optim.Optimizer,
    epochs: float,
    device: torch.device | str = "cpu",
    progress: bool = True,
    compute_loss: Callable[..., torch.Tensor] = pretraining_loss,
) -> list[float]:
    """Train `model.egmf` and temporary heads; returns the mean loss of each epoch.

    Several processes train together, from equal weights, each on its part of every batch.

    Args:
        model: trained in place.
        heads: new ones, trained in place, on the device.
        loader: batches without labels in the prompt, with `label_index` (B,), from `SampleCollator`.
        optimizer: from `make_optimizer`, with the peak learning rate; see `rate_factor`.
        epochs: may be fractional; rounded up to a full step.
        device: device of the batches.
        progress: show a progress bar.
        compute_loss: `pretraining_loss`, or that with mixup and token dropout.
    """
    steps = math.ceil(epochs * len(loader))
    if steps == 0:
        return []
    if torch.distributed.is_initialized():
        for tensor in heads.state_dict().values():
            torch.distributed.broadcast(tensor, src=0)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_factor(step, steps))
    model.train()
    epoch_losses = []
    bar = tqdm(total=steps, desc="fusion pretraining", unit="step", disable=not progress)
    for epoch in range(math.ceil(steps / len(loader))):
        if isinstance(loader.batch_sampler, EpochBatchSampler):
            loader.batch_sampler.set_epoch(epoch)
        losses = []
        for batch in islice(loader, steps - epoch * len(loader)):
            loss = compute_loss(model, heads, batch.to(device))
            optimizer.zero_grad()
            loss.backward()
            losses.append(average_over_processes(parameters, loss))
            nn.utils.clip_grad_norm_(parameters, MAX_GRAD_NORM)
            optimizer.step()
            scheduler.step()
            bar.update()
            bar.set_postfix(loss=f"{sum(losses) / len(losses):.3f}")
        epoch_losses.append(sum(losses) / len(losses))
    bar.close()
    return epoch_losses
