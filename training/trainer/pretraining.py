"""Warm-up: encoders, fusion and experts learn alone before the language model joins.

A step through the language model costs many times one through what is ours. So, as an option, the fused vector
first learns to carry the answers under one linear head a task, on the frozen model's token embeddings; the head is
dropped, and training goes on with the language model. What that gains in the demo: 0.84 of the emotions right in place
of 0.63 in as much time (the variant `no_fusion_pretraining` of study.py; one seed).
"""

import math

import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from modeling_egmf import EGMFForConditionalGeneration
from processing_egmf import EGMFProcessor
from processing_egmf.processing_egmf import MODALITIES

from .sampling import EpochBatchSampler


LABEL_SMOOTHING = 0.1


class AnswerHeads(nn.Module):
    """One linear head a task over the fused vector: classes, or one number in units of the scale's half width."""

    def __init__(self, processor: EGMFProcessor, width: int):
        super().__init__()
        self.tasks = list(processor.task_objects.values())
        self.heads = nn.ModuleList(
            nn.Linear(width, task.num_answers if task.kind == "classification" else 1) for task in self.tasks
        )
        self.norm = nn.LayerNorm(width)

    def loss(
        self, fused: torch.Tensor, task_ids: torch.Tensor, label_index: torch.Tensor, shares: torch.Tensor
    ) -> torch.Tensor:
        """fused (N, H), task_ids (N,), label_index (N,), shares (N,) that sum to 1 -> mean loss."""
        fused = self.norm(fused)
        total = fused.new_zeros(())
        for index in task_ids.unique().tolist():
            rows, task = task_ids == index, self.tasks[index]
            said = self.heads[index](fused[rows])
            if task.kind == "classification":
                losses = nn.functional.cross_entropy(
                    said, label_index[rows], reduction="none", label_smoothing=LABEL_SMOOTHING
                )
            else:
                centerd = label_index[rows].float() / (task.num_answers - 1) * 2 - 1
                losses = 4 * nn.functional.smooth_l1_loss(said.squeeze(-1), centerd, reduction="none", beta=0.25)
            total = total + (losses * shares[rows]).sum()
        return total


def fuse_alone_and_together(
    model: EGMFForConditionalGeneration, batch: dict[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Encode each sample once, and fuse it with all the modalities that it has and with each of them alone.

    So each encoder learns from its own mistakes, and not only from what the strongest modality leaves over.

    Returns:
        fused: (N, H) f_enhanced, all modalities first, then each alone where a sample has it.
        rows: (N,) which sample of the batch each belongs to.
    """
    egmf, spoken = model.egmf, batch["utterance_mask"].bool()
    slots = model.get_placeholder_mask(batch["input_ids"])
    with torch.no_grad():
        embeds = model.get_input_embeddings()(batch["input_ids"].masked_fill(slots, 0))
    columns = torch.where(spoken.any(dim=0))[0]
    first, last = (int(columns[0]), int(columns[-1]) + 1) if len(columns) else (0, 1)
    embeds, spoken = embeds[:, first:last].to(egmf.dtype), spoken[:, first:last]
    media = {name: batch.get(name) for name in ("audio_values", "audio_mask", "video_values", "video_mask")}
    tokens, heard = egmf.audio_visual_encoder(spoken.new_ones(len(spoken), 2), **media)
    present = torch.cat([spoken.any(dim=1, keepdim=True), heard], dim=1)  # (B, M)
    alone = torch.eye(len(MODALITIES), dtype=torch.bool, device=present.device)[:, None] & present  # (M, B, M)
    masks = torch.cat([present[None], alone * (present.sum(dim=1) > 1)[None, :, None]])  # (1 + M, B, M)
    which, rows = torch.where(masks.any(dim=2))
    mask = masks[which, rows]  # (N, M)
    fused = egmf.fusion(embeds[rows], spoken[rows] & mask[:, :1], tokens[rows], mask[:, 1:])
    return egmf.experts(fused).fused, rows


def average_over_processes(parameters: list[nn.Parameter], loss: torch.Tensor) -> float:
    """Each gradient becomes its mean over the processes, 0 counted where a process has none; returns the mean loss."""
    count = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    if count > 1:
        found = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        together = torch.cat([nn.utils.parameters_to_vector(found), loss.detach()[None]])
        torch.distributed.all_reduce(together)
        together /= count
        nn.utils.vector_to_parameters(together[:-1], found)
        loss = together[-1]
        for parameter, gradient in zip(parameters, found, strict=True):
            parameter.grad = gradient
    return loss.item()


def pretrain_fusion(
    model: EGMFForConditionalGeneration,
    processor: EGMFProcessor,
    loader: DataLoader,
    epochs: float,
    learning_rate: float,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> list[float]:
    """Train `model.egmf` under heads that are dropped; returns the mean loss of each epoch.

    Several processes go together, from equal weights, each with its part of every batch.

    Args:
        loader: batches without answers in the prompt, with `label_index` (B,), from `EGMFDataCollator`.
        epochs: how often the rows are seen; a fraction is rounded up to a whole step.
        learning_rate: peak; it rises over the first tenth and falls to 0 along a cosine.
    """
    steps = math.ceil(epochs * len(loader))
    if steps == 0:
        return []
    heads = AnswerHeads(processor, model.config.fusion_hidden_size).to(device)
    if torch.distributed.is_initialized():
        for tensor in heads.state_dict().values():
            torch.distributed.broadcast(tensor, src=0)
    parameters = [p for p in (*model.egmf.parameters(), *heads.parameters()) if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.01)

    def rate(step: int) -> float:
        rise = max(1, steps // 10)
        return (
            (step + 1) / rise if step < rise else 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))
        )

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    model.train()
    losses: list[list[float]] = [[]]
    bar = tqdm(total=steps, desc="warm-up", unit="step", disable=not progress)
    done = 0
    while done < steps:
        if isinstance(loader.batch_sampler, EpochBatchSampler):
            loader.batch_sampler.set_epoch(len(losses) - 1)
        for batch in loader:
            if done == steps:
                break
            done += 1
            batch = batch.to(device)
            label_index, task_ids = batch.pop("label_index"), batch.pop("task_ids")
            weight = batch.pop("loss_weight", 1.0)
            fused, rows = fuse_alone_and_together(model, batch)
            shares = 1 / (torch.bincount(rows)[rows] * len(task_ids))  # every sample counts alike
            loss = weight * heads.loss(fused, task_ids[rows], label_index[rows], shares)
            optimizer.zero_grad()
            loss.backward()
            losses[-1].append(average_over_processes(parameters, loss))
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            scheduler.step()
            bar.update()
            bar.set_postfix(loss=f"{sum(losses[-1]) / len(losses[-1]):.3f}")
        losses.append([])
    bar.close()
    return [sum(epoch) / len(epoch) for epoch in losses if epoch]
