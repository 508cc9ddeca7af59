"""Fits the pseudo tokens to the answers of the fusion pretraining's heads, before the language model reads them.

    f_enhanced ─┬─► pretraining's head ─► weights of the answers ─► weighted sum of their embeddings
                │                                                        ▲ ridge regression
                └─► norm ─► projection ──────────────────────────────────┘

A new projection is random: the language model has to learn the meaning of its tokens from the training examples, and
memorizes the examples if there are few. After this fit, the tokens start as words that it knows: those of the likely
answers. Training continues from there.

Where a token belongs to one task, the weights of labels are linear in the head's logits: to answer as the head does,
the language model then only has to copy the token to its output, whose product with a label's embedding is the label's
logit. Where tasks share a token, their logits would add up, and the weights are the head's probabilities. With
`--pseudo_token_projection per_task`, each task reads tokens of its own; those of a score hold the answers of all
tasks, because a score is read better beside the labels' probabilities.
training/log/pseudo_tokens.md has the figures.
"""

# N fused vectors  H fusion width  D LLM width  G projections  T tasks  A answers of a task
# I inputs, O outputs of a fit

import numpy as np
import torch
from torch.utils.data import DataLoader

from modeling_egmf import EGMFForConditionalGeneration
from modeling_egmf.prompt_egmf import EGMFPseudoTokens
from processing_egmf import EGMFProcessor, EGMFTask

from .pretraining import AnswerHeads, fuse_modalities


RIDGE = 0.01  # per fused vector; normalized vectors have a variance of 1
LOGIT_SHARE = 0.05  # small, because the language model normalizes its inputs, which loses the length of large ones


def answer_weights(task: EGMFTask, outputs: torch.Tensor, by_logits: bool) -> torch.Tensor:
    """Weight of each answer in a task's token.

    Args:
        task: decides on the form of the outputs.
        outputs: of the task's head, (N, A) logits, or (N, 1) numbers from -1 to 1.
        by_logits: weights of labels are equal but for a share of their logits, instead of their probabilities.

    Returns:
        (N, A), whose sum over answers is 1. A score is shared between the two answers next to it.
    """
    if task.kind == "classification" and by_logits:
        return 1 / task.num_answers + LOGIT_SHARE * (outputs - outputs.mean(dim=1, keepdim=True))
    if task.kind == "classification":
        return torch.softmax(outputs, dim=-1)
    position = (outputs.clamp(-1, 1) + 1) / 2 * (task.num_answers - 1)  # (N, 1)
    answers = torch.arange(task.num_answers, device=outputs.device)
    return (1 - (position - answers).abs()).clamp(min=0)


def answer_embeddings(model: EGMFForConditionalGeneration, processor: EGMFProcessor, task: EGMFTask) -> torch.Tensor:
    """Mean embedding of each answer's tokens, without the end token, (A, D) on the CPU."""
    embeddings = model.get_input_embeddings()
    end = processor.tokenizer.eos_token_id
    rows = []
    for answer in processor.answer_token_ids(task.name):
        ids = torch.tensor([token for token in answer if token != end], device=embeddings.weight.device)
        rows.append(embeddings(ids).float().mean(dim=0))
    return torch.stack(rows).cpu()


def share_projections(num_tasks: int, num_projections: int) -> torch.Tensor:
    """Share of each task in each projection, (G, T): one projection serves all tasks, several take turns with them."""
    if num_projections == 1:
        return torch.full((1, num_tasks), 1 / num_tasks)
    turns = max(num_tasks, num_projections)
    shares = torch.zeros(num_projections, num_tasks)
    shares[torch.arange(turns) % num_projections, torch.arange(turns) % num_tasks] = 1
    return shares / shares.sum(dim=1, keepdim=True)


def projection_shares(pseudo_tokens: EGMFPseudoTokens, processor: EGMFProcessor) -> torch.Tensor:
    """Share of each task of a processor in each projection of a model, (G, T).

    With `task_slots`, the tasks that read a slot have equal shares in its projection; where one of them is a
    regression with slots of its own, all tasks have.
    """
    tasks = list(processor.task_objects.values())
    num_projections = pseudo_tokens.projection.out_features // pseudo_tokens.width
    if not processor.task_slots or num_projections == 1:
        return share_projections(len(tasks), num_projections)
    shares = torch.zeros(num_projections, len(tasks))
    for index, task in enumerate(tasks):
        slots = processor.task_slots.get(task.name)
        if slots is None:
            shares[:, index] = 1
        elif task.kind == "regression":
            shares[slots] = 1
        else:
            shares[slots, index] = 1
    return shares / shares.sum(dim=1, keepdim=True).clamp(min=1)


def serve_one_task(shares: torch.Tensor) -> torch.Tensor:
    """shares (G, T) -> (G,) bool, whether a projection belongs to a single task."""
    return shares.count_nonzero(dim=1) == 1


@torch.no_grad()
def fit_pseudo_tokens(
    model: EGMFForConditionalGeneration,
    heads: AnswerHeads,
    processor: EGMFProcessor,
    loader: DataLoader,
    device: torch.device | str = "cpu",
) -> float:
    """Replace the projection to pseudo tokens by the fitted one. Every process must call this, each with its examples.

    Args:
        model: after the fusion pretraining; changed in place.
        heads: of the fusion pretraining.
        processor: has the tasks that the heads were trained for.
        loader: batches without labels in the prompt, from `SampleCollator`.
        device: device of the batches.

    Returns:
        Share of the variance of the wanted tokens that the fitted ones explain, at most 1.
    """
    pseudo_tokens = model.egmf.pseudo_tokens
    words = [answer_embeddings(model, processor, task) for task in heads.tasks]
    shares = projection_shares(pseudo_tokens, processor)
    was_training = model.training
    model.eval()
    sums = FitSums(model.config.fusion_hidden_size, len(shares) * pseudo_tokens.width, RIDGE)
    for batch in loader:
        fused = fuse_modalities(model, batch.to(device)).vectors
        sums.add(pseudo_tokens.norm(fused), wanted_tokens(heads, fused, words, shares))
    model.train(was_training)
    sums.add_over_processes(device)
    solution = sums.solve()  # (H + 1, G * D); the last row is the bias
    pseudo_tokens.projection.weight.zero_()
    pseudo_tokens.projection.bias.zero_()
    add_to_projection(pseudo_tokens, solution)
    return sums.explained(solution)


@torch.no_grad()
def add_to_projection(pseudo_tokens: EGMFPseudoTokens, solution: np.ndarray) -> None:
    """Add a solution, (H + 1, G * D), to the projection of normalized vectors (N, H) to tokens (N, G * D)."""
    weights = torch.from_numpy(solution / float(pseudo_tokens.scale)).T
    projection = pseudo_tokens.projection
    projection.weight += weights[:, :-1].to(projection.weight)
    projection.bias += weights[:, -1].to(projection.bias)


class FitSums:
    """Sums from which ridge regression follows, float64.

    Args:
        inputs: width of the inputs, I.
        outputs: width of what is wanted, O.
        ridge: penalty of the weights, as a share of the number of rows.
    """

    def __init__(self, inputs: int, outputs: int, ridge: float):
        self.ridge = ridge
        self.gram = np.zeros((inputs + 1, inputs + 1))
        self.cross = np.zeros((inputs + 1, outputs))
        self.squares = np.zeros(outputs)

    def add(self, inputs: torch.Tensor, wanted: torch.Tensor) -> None:
        """inputs (N, I), wanted (N, O)."""
        inputs = np.pad(inputs.cpu().numpy().astype(np.float64), ((0, 0), (0, 1)), constant_values=1)
        wanted = wanted.cpu().numpy().astype(np.float64)
        self.gram += inputs.T @ inputs
        self.cross += inputs.T @ wanted
        self.squares += np.square(wanted).sum(axis=0)

    @property
    def num_rows(self) -> float:
        return self.gram[-1, -1]

    def add_over_processes(self, device: torch.device | str) -> None:
        """Give every process the sums over the vectors of all, added in float32, which every device has."""
        if not torch.distributed.is_initialized():
            return
        for sums in (self.gram, self.cross, self.squares):
            shared = torch.from_numpy(sums).float().to(device)
            torch.distributed.all_reduce(shared)
            sums[:] = shared.cpu().numpy()

    def solve(self) -> np.ndarray:
        """(I + 1, O): weights with a penalty, and in the last row the bias without one."""
        penalty = np.full(len(self.gram), self.ridge * self.num_rows)
        penalty[-1] = 0
        return np.linalg.solve(self.gram + np.diag(penalty), self.cross)

    def explained(self, solution: np.ndarray) -> float:
        """Share of the variance of what is wanted."""
        errors = self.squares - 2 * (solution * self.cross).sum(axis=0)
        errors += (solution * (self.gram @ solution)).sum(axis=0)
        variance = self.squares - np.square(self.cross[-1]) / self.num_rows
        return float(1 - errors.sum() / variance.sum())


def wanted_tokens(
    heads: AnswerHeads, fused: torch.Tensor, words: list[torch.Tensor], shares: torch.Tensor
) -> torch.Tensor:
    """fused (N, H), embeddings (A, D) of each task's answers, shares (G, T) -> (N, G * D) on the CPU."""
    is_own = serve_one_task(shares)[:, None]
    normalized = heads.norm(fused)
    tokens = torch.zeros(len(shares), len(fused), words[0].shape[1])
    for by_logits, part in ((True, shares * is_own), (False, shares * ~is_own)):
        of_tasks = []
        for task, head, embeddings in zip(heads.tasks, heads.heads, words, strict=True):
            weights = answer_weights(task, head(normalized), by_logits)
            of_tasks.append(weights.cpu() @ embeddings)
        tokens += torch.einsum("gt,tnd->gnd", part, torch.stack(of_tasks))
    return tokens.transpose(0, 1).flatten(1)
