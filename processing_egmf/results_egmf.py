"""Results: the model's output as labels and scores.

    model.score_answers ─► distribution over the answers ─► summarize_output ─► EGMFAnswer per sample
    model.generate ──────► token ids ─────────────────────► parse_generation ─► text and answer per sequence

Used by processing_egmf.py; the summary of one distribution is in tasks_egmf.py.
"""

# B batch  M modalities  A answers

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from .arguments_egmf import is_count, shorten
from .batches_egmf import MODALITIES
from .tasks_egmf import EGMFAnswer, EGMFTask


def check_summary_options(top_k: Any, interval: Any) -> None:
    is_number = isinstance(interval, int | float | np.number) and not isinstance(interval, bool)
    if not is_number or not 0 < interval < 1:
        raise ValueError(f"`interval` is {shorten(interval)}; it must be a number between 0 and 1.")
    if top_k is not None and not is_count(top_k):
        raise ValueError(f"`top_k` is {shorten(top_k)}; give a whole number, at least 1, or None for all.")


def task_indices(output: Any, num_tasks: int) -> list[int]:
    """The index of each sample's task, from the output of `score_answers`."""
    try:
        probabilities = output.probabilities
        indices = output.task_ids
    except AttributeError as error:
        raise TypeError(
            f"`output` is a {type(output).__name__} without {error.name}; give what `model.score_answers` returns."
        ) from error
    if probabilities is None or indices is None:
        missing = "probabilities" if probabilities is None else "task_ids"
        raise ValueError(
            f"`output` has no {missing}. Pass all of the processor's output to `model.score_answers`, "
            "or name the task of each sample in `tasks`."
        )
    indices = indices.tolist()
    if any(not 0 <= index < num_tasks for index in indices):
        raise ValueError(
            f"The `task_ids` {shorten(indices)} are not all among the {num_tasks} tasks of this processor; "
            "use the processor that prepared the inputs."
        )
    return indices


def summarize_output(output: Any, tasks: Sequence[EGMFTask], top_k: int | None, interval: float) -> list[EGMFAnswer]:
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
        probabilities = output.probabilities[i, : task.num_answers].cpu().double().numpy()  # (A,)
        answer = task.summarize(probabilities, interval, top_k)
        experts = dict(zip(output.expert_names, output.expert_weights[i].tolist(), strict=True))
        answer["task"] = task.name
        answer["expert"] = max(experts, key=experts.get)
        answer["experts"] = experts
        answer["residual"] = float(output.residual_weight[i])
        answer["modalities"] = select_modalities(output.modality_mask[i].tolist())
        answers.append(answer)
    return answers


def parse_generation(
    tokenizer: PreTrainedTokenizerBase,
    generated_ids: torch.Tensor,
    inputs: Mapping[str, torch.Tensor],
    tasks: Sequence[EGMFTask],
) -> list[dict[str, Any]]:
    """`text`, `answer` and `task` of each generated sequence; `tasks` are those of the processor."""
    num_sequences = max(len(generated_ids) // len(inputs["task_ids"]), 1)  # per sample
    prompts = inputs["input_ids"].to(generated_ids.device).repeat_interleave(num_sequences, dim=0)
    prompt_length = prompts.shape[1]
    if torch.equal(generated_ids[:, :prompt_length], prompts):
        generated_ids = generated_ids[:, prompt_length:]
    texts = tokenizer.batch_decode(generated_ids, skip_special_tokens=True)
    task_ids = inputs["task_ids"].repeat_interleave(num_sequences).tolist()
    results = []
    for text, task_id in zip(texts, task_ids, strict=True):
        task = tasks[task_id]
        results.append({"text": text, "answer": task.parse(text), "task": task.name})
    return results


def select_modalities(is_present: list[bool]) -> list[str]:
    """The names of the modalities that are present."""
    return [modality for modality, present in zip(MODALITIES, is_present, strict=True) if present]
