"""Fits the pseudo tokens to what the heads of the fusion pretraining answer, before the language model reads them.

    f_enhanced ─┬─► pretraining's head ─► probabilities ─► mean of the answers' embeddings, weighted by them
                │                                                        ▲ ridge regression
                └─► norm ─► projection ──────────────────────────────────┘

A new projection is random: what its tokens mean, the language model has to learn from the training examples, and with
few of them it learns the examples by heart. After this fit, the tokens start as words that it knows: those of the
likely answers. Training continues from there. LOG.md has the figures.
"""

# N fused vectors  H fusion width  D LLM width  G projections  T tasks  A answers of a task

import torch
from torch import nn
from torch.utils.data import DataLoader

from modeling_egmf import EGMFForConditionalGeneration
from processing_egmf import EGMFProcessor, EGMFTask

from .pretraining import AnswerHeads, fuse_modalities


RIDGE = 0.01  # per fused vector; normalized vectors have a variance of 1


def answer_probabilities(task: EGMFTask, outputs: torch.Tensor) -> torch.Tensor:
    """Outputs of a task's head, (N, A) or (N, 1) -> (N, A): a score is shared between the two answers next to it."""
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
    shares = share_projections(len(words), pseudo_tokens.projection.out_features // pseudo_tokens.width)
    was_training = model.training
    model.eval()
    # Sums over the fused vectors, in float64 on the CPU: the weights follow from them.
    sums = FitSums(model.config.fusion_hidden_size, len(shares) * pseudo_tokens.width)
    for batch in loader:
        fused, _ = fuse_modalities(model, batch.to(device))
        inputs = pseudo_tokens.norm(fused).cpu().double()
        sums.add(nn.functional.pad(inputs, (0, 1), value=1.0), wanted_tokens(heads, fused, words, shares))
    model.train(was_training)
    sums.add_over_processes(device)
    solution = sums.solve()  # (H + 1, G * D); the last row is the bias
    weights = (solution / float(pseudo_tokens.scale)).T
    pseudo_tokens.projection.weight.copy_(weights[:, :-1])
    pseudo_tokens.projection.bias.copy_(weights[:, -1])
    return sums.explained(solution)


class FitSums:
    """Sums over fused vectors from which ridge regression follows, float64 on the CPU.

    Args:
        inputs: width of the inputs, H, without the column of ones.
        outputs: width of the wanted tokens, G * D.
    """

    def __init__(self, inputs: int, outputs: int):
        self.gram = torch.zeros(inputs + 1, inputs + 1, dtype=torch.float64)
        self.cross = torch.zeros(inputs + 1, outputs, dtype=torch.float64)
        self.squares = torch.zeros(outputs, dtype=torch.float64)

    def add(self, inputs: torch.Tensor, wanted: torch.Tensor) -> None:
        """inputs (N, H + 1), whose last column is 1, and wanted (N, G * D)."""
        self.gram += inputs.T @ inputs
        self.cross += inputs.T @ wanted
        self.squares += wanted.square().sum(dim=0)

    def add_over_processes(self, device: torch.device | str) -> None:
        """Give every process the sums over the vectors of all."""
        if not torch.distributed.is_initialized():
            return
        for tensor in (self.gram, self.cross, self.squares):
            shared = tensor.to(device)
            torch.distributed.all_reduce(shared)
            tensor.copy_(shared)

    def solve(self) -> torch.Tensor:
        """(H + 1, G * D): weights with a penalty, and in the last row the bias without one."""
        count = self.gram[-1, -1]
        penalty = torch.full((len(self.gram),), RIDGE, dtype=torch.float64) * count
        penalty[-1] = 0
        return torch.linalg.solve(self.gram + penalty.diag(), self.cross)

    def explained(self, solution: torch.Tensor) -> float:
        """Share of the variance of the wanted tokens."""
        errors = self.squares - 2 * (solution * self.cross).sum(dim=0) + (solution * (self.gram @ solution)).sum(dim=0)
        variance = self.squares - self.cross[-1].square() / self.gram[-1, -1]
        return float(1 - errors.sum() / variance.sum())


def wanted_tokens(
    heads: AnswerHeads, fused: torch.Tensor, words: list[torch.Tensor], shares: torch.Tensor
) -> torch.Tensor:
    """fused (N, H), embeddings (A, D) of each task's answers, shares (G, T) -> (N, G * D), float64 on the CPU."""
    normalized = heads.norm(fused)
    tokens = []
    for task, head, embeddings in zip(heads.tasks, heads.heads, words, strict=True):
        probabilities = answer_probabilities(task, head(normalized))
        tokens.append(probabilities.cpu() @ embeddings)
    return torch.einsum("gt,tnd->ngd", shares, torch.stack(tokens)).flatten(1).double()
