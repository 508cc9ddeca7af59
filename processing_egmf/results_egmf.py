"""Results: the model's output as labels and numbers.

    model.score_answers ─► distribution over the answers ─► summarize_output ─► EGMFAnswer per sample

Used by processing_egmf.py; the summary of one distribution is in tasks_egmf.py.
"""

# B batch  M modalities  A answers

from collections.abc import Mapping, Sequence
from itertools import compress
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from .arguments_egmf import is_count, is_number, shorten
from .batches_egmf import MODALITIES
from .tasks_egmf import EGMFAnswer, EGMFTask


def check_summary_options(top_k: Any, interval: Any, calibrated: Any) -> None:
    if not is_number(interval) or not 0 < interval < 1:
        raise ValueError(f"`interval` is {shorten(interval)}; it must be a number between 0 and 1.")
    if top_k is not None and not is_count(top_k):
        raise ValueError(f"`top_k` is {shorten(top_k)}; give a whole number, at least 1, or None for all.")
    if not isinstance(calibrated, bool):
        raise ValueError(f"`calibrated` is {shorten(calibrated)}; give True or False.")


def find_sample_tasks(output: Any, tasks: Mapping[int, EGMFTask]) -> list[EGMFTask]:
    """The task of each sample, from the output of `score_answers`; `tasks` are the processor's `numbered_tasks`."""
    for name in ("probabilities", "task_ids"):
        if getattr(output, name, None) is None:
            raise ValueError(
                f"`output` is a {type(output).__name__} without {name}. Give what `model.score_answers` returns "
                "for all of the processor's output, or name the task of each sample in `tasks`."
            )
    indices = output.task_ids.tolist()
    if any(index not in tasks for index in indices):
        raise ValueError(
            f"The `task_ids` {shorten(indices)} are not all among the {len(tasks)} tasks of this processor; "
            "use the processor that prepared the inputs."
        )
    return [tasks[index] for index in indices]


def summarize_output(
    output: Any,
    tasks: Sequence[EGMFTask],
    top_k: int | None,
    interval: float,
    labels: Sequence[str] | None,
    calibrated: bool,
) -> list[EGMFAnswer]:
    """One `EGMFAnswer` per sample of the output of `score_answers`; `tasks` holds one task per sample."""
    if len(tasks) != len(output.probabilities):
        raise ValueError(f"There are {len(tasks)} tasks for {len(output.probabilities)} samples; give one for each.")
    not_finite = torch.where(~torch.isfinite(output.probabilities).all(dim=1))[0].tolist()
    if not_finite:
        raise ValueError(
            f"The probabilities of samples {shorten(not_finite)} are not finite: the model computed NaN or infinity. "
            "Load it in float32 or bfloat16, or check its weights."
        )
    answers = []
    for i, task in enumerate(tasks):
        if output.probabilities.shape[1] < task.num_answers:
            raise ValueError(
                f"Task {task.name!r} has {task.num_answers} answers, but the output has "
                f"{output.probabilities.shape[1]}; use the processor that prepared the inputs."
            )
        modalities = list(compress(MODALITIES, output.modality_mask[i].tolist()))
        probabilities = output.probabilities[i, : task.num_answers].cpu().double().numpy()  # (A,)
        experts = dict(zip(output.expert_names, output.expert_weights[i].tolist(), strict=True))
        if labels is not None or calibrated:
            chosen = slice(task.num_answers) if labels is None else task.choose_labels(labels)
            temperature = task.temperature(modalities) if calibrated else 1.0
            log_probs = output.log_probs[i, chosen].cpu().double()
            probabilities = torch.softmax(log_probs / temperature, dim=0).numpy()
        answer = task.summarize(probabilities, interval, top_k, labels)
        answer |= EGMFAnswer(
            task=task.name,
            expert=max(experts, key=experts.get),
            experts=experts,
            residual=float(output.residual_weight[i]),
            modalities=modalities,
        )
        answers.append(answer)
    return answers


def parse_generation(
    generated_ids: torch.Tensor,
    inputs: Mapping[str, torch.Tensor],
    tokenizer: PreTrainedTokenizerBase,
    tasks: Mapping[int, EGMFTask],
) -> list[dict[str, Any]]:
    """`EGMFProcessor.post_process_generation`; `tasks` are the processor's `numbered_tasks`."""
    num_sequences = max(len(generated_ids) // len(inputs["task_ids"]), 1)  # per sample
    prompts = inputs["input_ids"].to(generated_ids.device).repeat_interleave(num_sequences, dim=0)
    if torch.equal(generated_ids[:, : prompts.shape[1]], prompts):
        generated_ids = generated_ids[:, prompts.shape[1] :]
    texts = tokenizer.batch_decode(generated_ids, skip_special_tokens=True)
    sample_tasks = [tasks[i] for i in inputs["task_ids"].repeat_interleave(num_sequences).tolist()]
    return [
        {"text": text, "answer": task.parse(text), "task": task.name}
        for text, task in zip(texts, sample_tasks, strict=True)
    ]
