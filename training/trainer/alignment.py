"""Aligns the pseudo tokens with the language model that has learned to read them.

    f_enhanced, mixed ─┬─► pretraining's head ─► logits l ──────────────────────────┐
                       └─► pseudo tokens ─► language model ─► log P of the answers ─┴─► least squares: log P ≈ l W + b
    (l - b) W⁻¹, the logits by whose tokens log P would be l ─► change of the tokens ─► change of the projection

A few hundred steps do not teach a language model to copy exactly. But where the tokens are linear in the head's logits
(pseudo_tokens.py), so are its answers, nearly; only the slopes and biases are not 1 and 0. They are measured after
training and undone in the projection, which is linear as well. training/log/pseudo_tokens.md has the figures.
"""

# N mixed vectors  H fusion width  D LLM width  A answers of a task  G projections  T tasks

from collections.abc import Iterator
from itertools import count, islice
from typing import NamedTuple

import torch
from torch.utils.data import DataLoader
from transformers import BatchFeature

from modeling_egmf import EGMFForConditionalGeneration
from processing_egmf import EGMFProcessor

from .distillation import Distillation
from .pseudo_tokens import FitSums, add_to_projection, projection_shares, serve_one_task


NUM_VECTORS = 320  # of each measurement, over all processes
ROUNDS = 2  # the first leaves a rest, because the answers are only nearly linear
RIDGE = 1e-6
MIN_SLOPE = 1e-4  # of the largest; a direction that the answers do not follow is left as it is
MIN_LOG_PROB = -20.0
LABEL_FIELDS = ("label_index", "loss_weight")


class Answered(NamedTuple):
    """Mixed vectors of one task, with what the pretraining's head and the language model answer.

    Attributes:
        fused: (N, H).
        logits: (N, A) of the head, with a mean of 0 over the answers.
        log_probs: (N, A) of the language model, with a mean of 0 over the answers.
    """

    fused: torch.Tensor
    logits: torch.Tensor
    log_probs: torch.Tensor


@torch.no_grad()
def align_pseudo_tokens(
    model: EGMFForConditionalGeneration,
    distillation: Distillation,
    processor: EGMFProcessor,
    loader: DataLoader,
    device: torch.device | str = "cpu",
) -> dict[str, float] | None:
    """Change the projection so that the language model answers as the heads do. Every process must call this.

    Args:
        model: after training; changed in place, but left as it is if its answers come no closer to those of the heads.
        distillation: of the training, attached to the model. The tasks that it applies to are aligned.
        processor: has the tasks that the heads were trained for.
        loader: batches without labels in the prompt, in an order that depends on the epoch, from `EGMFTrainer`.
        device: device of the batches.

    Returns:
        `before` and `after`: mean divergence of the answers' probabilities from those of the heads, in nats, on mixed
        vectors of the training examples. None if labels are read from tokens that tasks share, which are not linear in
        logits.
    """
    pseudo_tokens = model.egmf.pseudo_tokens
    shares = projection_shares(pseudo_tokens, processor)
    if not (processor.task_slots or serve_one_task(shares).all()):
        return None
    was_training = model.training
    model.eval()
    original = [parameter.clone() for parameter in pseudo_tokens.projection.parameters()]
    divergences = []
    with torch.random.fork_rng(devices=[]):  # nothing is drawn on a GPU after the training
        for number in range(ROUNDS + 1):
            torch.manual_seed(number)
            answered = answer_mixtures(model, distillation, loader, device)
            divergences.append(mean_divergence(answered, device))
            if number < ROUNDS:
                correct_projection(model, answered, shares, device)
    model.train(was_training)
    before, after = divergences[0], divergences[-1]
    if after < before:
        return {"before": before, "after": after}
    for parameter, values in zip(pseudo_tokens.projection.parameters(), original, strict=True):
        parameter.copy_(values)
    return {"before": before, "after": before}


def report_alignment(alignment: dict[str, float] | None) -> None:
    """Print how the saved model differs from the one that was evaluated last, unless it does not."""
    if alignment is not None and alignment["after"] < alignment["before"]:
        print(
            f"The answers were aligned with the pretraining's head (divergence from {alignment['before']:.3f} to "
            f"{alignment['after']:.3f} nats): the figures of the saved model are not quite those printed above."
        )


def answer_mixtures(
    model: EGMFForConditionalGeneration,
    distillation: Distillation,
    loader: DataLoader,
    device: torch.device | str,
) -> dict[int, Answered]:
    """Index of a task -> its vectors, mixed as in training; of this process, N may be 0."""
    heads = distillation.heads
    parts: dict[int, list[Answered]] = {index: [] for index in distillation.soft_labels.answers}
    for batch in islice(endless(loader), -(-NUM_VECTORS // loader.batch_sampler.global_batch_size)):
        inputs = {name: values for name, values in batch.to(device).items() if name not in LABEL_FIELDS}
        distillation.begin(inputs["task_ids"])
        output = model.score_answers(**inputs)
        fused = output.fused.float()
        for index, answered in parts.items():
            rows = inputs["task_ids"] == index
            logits = heads.heads[index](heads.norm(fused[rows]))
            log_probs = output.log_probs[rows, : logits.shape[1]].float().clamp(min=MIN_LOG_PROB)
            answered.append(Answered(fused[rows], without_mean(logits), without_mean(log_probs)))
    return {index: Answered(*map(torch.cat, zip(*answered, strict=True))) for index, answered in parts.items()}


def endless(loader: DataLoader) -> Iterator[BatchFeature]:
    """Batches of one epoch after another, because a clip that is mixed with others gives new vectors each time."""
    for epoch in count():
        loader.batch_sampler.set_epoch(epoch)
        yield from loader


def without_mean(values: torch.Tensor) -> torch.Tensor:
    """values (N, A) without their mean over the answers."""
    return values - values.mean(dim=1, keepdim=True)


def mean_divergence(answered: dict[int, Answered], device: torch.device | str) -> float:
    """Of the language model's answers from those of the heads, over the vectors of all tasks and processes."""
    totals = torch.zeros(2, device=device)
    for _, logits, log_probs in answered.values():
        wanted = torch.log_softmax(logits, dim=1)
        divergence = (wanted.exp() * (wanted - torch.log_softmax(log_probs, dim=1))).sum()
        totals += torch.stack([divergence, divergence.new_tensor(len(logits))])
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(totals)
    return (totals[0] / totals[1]).item()


def correct_projection(
    model: EGMFForConditionalGeneration,
    answered: dict[int, Answered],
    shares: torch.Tensor,
    device: torch.device | str,
) -> None:
    """Undo the slopes and biases of each task's answers, in the projections that belong to it by shares (G, T)."""
    pseudo_tokens = model.egmf.pseudo_tokens
    for index, (fused, logits, log_probs) in answered.items():
        num_answers = logits.shape[1]
        is_own = (shares[:, index] == 1).repeat_interleave(pseudo_tokens.width).to(fused)  # (G * D,)
        normalized = pseudo_tokens.norm(fused)
        tokens = pseudo_tokens.scale * pseudo_tokens.projection(normalized) * is_own  # (N, G * D)
        reading = FitSums(num_answers, num_answers + len(is_own), RIDGE)
        reading.add(logits, torch.cat([log_probs, tokens], dim=1))
        reading.add_over_processes(device)
        if reading.num_rows == 0:
            continue
        solution = torch.from_numpy(reading.solve()).to(logits)
        of_answers, of_tokens = solution[:, :num_answers], solution[:-1, num_answers:]  # (A + 1, A), (A, G * D)
        wanted = (logits - of_answers[-1]) @ torch.linalg.pinv(of_answers[:-1], rtol=MIN_SLOPE)
        change = FitSums(fused.shape[1], len(is_own), RIDGE)
        change.add(normalized, (wanted - logits) @ of_tokens)
        change.add_over_processes(device)
        add_to_projection(pseudo_tokens, change.solve())
