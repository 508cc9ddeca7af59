"""Aligns the pseudo tokens with the language model that has learned to read them.

    f_enhanced, mixed ─┬─► pretraining's heads ─► outputs o ────────────────┐
                       └─► pseudo tokens t ─► language model ─► reading r ──┴─► least squares: r ≈ o S + b, t ≈ o U + c
    o - r, what is missing ─► change of o, by S ─► change of the tokens, by U ─► change of the projection

A few hundred steps do not teach a language model to copy exactly, above all where several tasks share their tokens.
But its answers are nearly linear in the outputs of the heads: only slopes S and biases b are not those of copying.
They are measured after training and undone in the projection, which is linear as well. LOG.md has the figures.
"""

# N mixed vectors  H fusion width  D LLM width  A answers of a task  G projections
# O outputs of all heads: logits of labels, one number for scores  W those of one task

import math
from collections.abc import Iterator
from itertools import count, islice
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import BatchFeature

from modeling_egmf import EGMFForConditionalGeneration
from processing_egmf import EGMFTask

from .distillation import Distillation
from .pretraining import AnswerHeads
from .pseudo_tokens import FitSums, add_to_projection


NUM_VECTORS = 320  # of each measurement, over all processes
ROUNDS = 2  # the first leaves a rest, because the answers are only nearly linear
RIDGE = 1e-6
CHANGE_PENALTY = 0.05  # of changes where the answers hardly follow, which would be as large as the tokens
MIN_LOG_PROB = -20.0
LABEL_FIELDS = ("label_index", "loss_weight")


class Answered(NamedTuple):
    """Mixed vectors of one task on the CPU, with what the heads and the language model answer.

    Attributes:
        normalized: (N, H) fused vectors, as they enter the projection.
        tokens: (N, G * D) what the projection makes of them.
        outputs: (N, O) of all heads; logits have a mean of 0 over the labels of their task.
        read: (N, W) the language model's answers in the form of the outputs of their task.
    """

    normalized: torch.Tensor
    tokens: torch.Tensor
    outputs: torch.Tensor
    read: torch.Tensor


@torch.no_grad()
def align_pseudo_tokens(
    model: EGMFForConditionalGeneration,
    distillation: Distillation,
    loader: DataLoader,
    device: torch.device | str = "cpu",
    progress: bool = False,
) -> dict[str, dict[str, float]]:
    """Change the projection so that the language model answers as the heads do. Every process must call this.

    Args:
        model: after training; changed in place, to the state of which the answers are closest to the heads'.
        distillation: of the training, attached to the model. All tasks of its heads are aligned.
        loader: batches without labels in the prompt, in an order that depends on the epoch, from `EGMFTrainer`.
        device: device of the batches.
        progress: whether to show a bar.

    Returns:
        `before` and `after`: name of a task -> distance of its answers from those of the head, on mixed vectors of the
        training examples; see `distance`.
    """
    projection = model.egmf.pseudo_tokens.projection
    was_training = model.training
    model.eval()
    measured = []
    states = []
    bar = tqdm(total=ROUNDS + 1, desc="aligning pseudo tokens", unit="measurement", disable=not progress)
    with bar, torch.random.fork_rng(devices=[]):  # nothing is drawn on a GPU after the training
        for number in range(ROUNDS + 1):
            torch.manual_seed(number)
            answered = answer_mixtures(model, distillation, loader, device)
            measured.append(distances(distillation.heads, answered, device))
            states.append([parameter.clone() for parameter in projection.parameters()])
            bar.update()
            if number < ROUNDS:
                correct_projection(model, distillation.heads, answered, device)
    model.train(was_training)
    best = min(range(len(measured)), key=lambda number: mean_log(measured[number]))
    for parameter, values in zip(projection.parameters(), states[best], strict=True):
        parameter.copy_(values)
    return {"before": measured[0], "after": measured[best]}


@torch.no_grad()
def answer_mixtures(
    model: EGMFForConditionalGeneration,
    distillation: Distillation,
    loader: DataLoader,
    device: torch.device | str,
) -> list[Answered]:
    """Vectors of each task, of any of the clips' modalities and mixed as in training; of this process, N may be 0."""
    heads, pseudo_tokens = distillation.heads, model.egmf.pseudo_tokens
    max_answers = max(task.num_answers for task in heads.tasks)
    parts: list[list[Answered]] = [[] for _ in heads.tasks]
    for batch in islice(endless(loader), -(-NUM_VECTORS // loader.batch_sampler.global_batch_size)):
        inputs = {name: values for name, values in batch.to(device).items() if name not in LABEL_FIELDS}
        task_ids = inputs["task_ids"]
        inputs["modality_mask"] = draw_modalities(inputs["modality_mask"])
        distillation.begin(torch.ones_like(task_ids, dtype=torch.bool))
        output = model.score_answers(**inputs)
        normalized = pseudo_tokens.norm(output.fused.float())
        tokens = pseudo_tokens.scale * pseudo_tokens.projection(normalized)
        outputs = outputs_of_heads(heads, output.fused.float())
        missing = max_answers - output.log_probs.shape[1]  # of a task that is not in the batch
        log_probs = nn.functional.pad(output.log_probs.float(), (0, missing), value=-torch.inf)
        for index, task in enumerate(heads.tasks):
            rows = task_ids == index
            read = read_answers(task, log_probs[rows, : task.num_answers])
            answered = Answered(normalized[rows], tokens[rows], outputs[rows], read)
            parts[index].append(Answered(*(values.cpu() for values in answered)))
    return [Answered(*map(torch.cat, zip(*part, strict=True))) for part in parts]


def draw_modalities(present: torch.Tensor) -> torch.Tensor:
    """present (B, M) -> (B, M), of each sample a random part of its modalities, and all if that would be none."""
    kept = present & (torch.rand(present.shape) < 0.5).to(present.device)
    return torch.where(kept.any(dim=1, keepdim=True), kept, present)


def endless(loader: DataLoader) -> Iterator[BatchFeature]:
    """Batches of one epoch after another, because a clip that is mixed with others gives new vectors each time."""
    for epoch in count():
        loader.batch_sampler.set_epoch(epoch)
        yield from loader


def outputs_of_heads(heads: AnswerHeads, fused: torch.Tensor) -> torch.Tensor:
    """fused (N, H) -> (N, O)."""
    normalized = heads.norm(fused)
    outputs = []
    for task, head in zip(heads.tasks, heads.heads, strict=True):
        own = head(normalized)
        outputs.append(without_mean(own) if task.kind == "classification" else own)
    return torch.cat(outputs, dim=1)


def output_columns(heads: AnswerHeads) -> list[slice]:
    """Columns of each task in the outputs of all heads."""
    ends = torch.tensor([head.out_features for head in heads.heads]).cumsum(dim=0).tolist()
    return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]


def read_answers(task: EGMFTask, log_probs: torch.Tensor) -> torch.Tensor:
    """log_probs (N, A) -> (N, W): log-probabilities of labels with a mean of 0, or the expected score in [-1, 1]."""
    if task.kind == "classification":
        return without_mean(log_probs.clamp(min=MIN_LOG_PROB))
    scores = torch.linspace(-1, 1, task.num_answers, device=log_probs.device)
    return (torch.softmax(log_probs, dim=1) @ scores)[:, None]


def without_mean(values: torch.Tensor) -> torch.Tensor:
    """values (N, A) without their mean over the answers."""
    return values - values.mean(dim=1, keepdim=True)


def distances(heads: AnswerHeads, answered: list[Answered], device: torch.device | str) -> dict[str, float]:
    """Name of each task that has vectors -> mean distance, over the vectors of all processes."""
    totals = torch.zeros(len(answered), 2)
    for total, task, columns, part in zip(totals, heads.tasks, output_columns(heads), answered, strict=True):
        total[0] = distance(task, part.outputs[:, columns], part.read).sum()
        total[1] = len(part.read)
    if torch.distributed.is_initialized():
        shared = totals.to(device)
        torch.distributed.all_reduce(shared)
        totals = shared.cpu()
    pairs = zip(heads.tasks, totals.tolist(), strict=True)
    return {task.name: total / number for task, (total, number) in pairs if number > 0}


def distance(task: EGMFTask, outputs: torch.Tensor, read: torch.Tensor) -> torch.Tensor:
    """Distance of answers from a head's, (N, W) both -> (N,).

    Of labels it is the divergence of their probabilities in nats, of scores the absolute difference of the expected
    score, where the scale has a length of 2.
    """
    if task.kind == "classification":
        wanted = torch.log_softmax(outputs, dim=1)
        return (wanted.exp() * (wanted - torch.log_softmax(read, dim=1))).sum(dim=1)
    return (outputs.clamp(-1, 1) - read).abs().squeeze(1)


def mean_log(values: dict[str, float]) -> float:
    """Mean logarithm, so that tasks with distances of different units count alike."""
    return sum(math.log(max(value, 1e-12)) for value in values.values()) / len(values)


@torch.no_grad()
def correct_projection(
    model: EGMFForConditionalGeneration,
    heads: AnswerHeads,
    answered: list[Answered],
    device: torch.device | str,
) -> None:
    """Undo the slopes and biases of all tasks' answers; a task without vectors counts as read exactly."""
    outputs = torch.cat([part.outputs for part in answered])
    slopes, biases = torch.eye(outputs.shape[1]), torch.zeros(outputs.shape[1])  # (O, O), (O,)
    for columns, part in zip(output_columns(heads), answered, strict=True):
        solution = least_squares(part.outputs, part.read, device)
        if solution is not None:
            slopes[:, columns], biases[columns] = solution[:-1], solution[-1]
    missing = outputs - (outputs @ slopes + biases)
    penalized = slopes @ slopes.T + CHANGE_PENALTY * torch.eye(len(slopes))
    changes = missing @ torch.linalg.solve(penalized, slopes).T  # of the outputs, so that changes @ slopes is missing
    directions = least_squares(outputs, torch.cat([part.tokens for part in answered]), device)[:-1]  # (O, G * D)
    change = FitSums(model.config.fusion_hidden_size, directions.shape[1], RIDGE)
    change.add(torch.cat([part.normalized for part in answered]), changes @ directions)
    change.add_over_processes(device)
    add_to_projection(model.egmf.pseudo_tokens, change.solve())


def least_squares(inputs: torch.Tensor, wanted: torch.Tensor, device: torch.device | str) -> torch.Tensor | None:
    """inputs (N, I), wanted (N, O) -> (I + 1, O), the last row the bias; None if no process has a vector."""
    sums = FitSums(inputs.shape[1], wanted.shape[1], RIDGE)
    sums.add(inputs, wanted)
    sums.add_over_processes(device)
    return torch.from_numpy(sums.solve()).to(inputs) if sums.num_rows > 0 else None
