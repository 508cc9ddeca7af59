"""Results: the model's output as labels and numbers.

    model.score_answers ─► distribution over the answers ─► post_process_answers ─► EGMFAnswer per sample
    model.generate ─► token ids ─► post_process_generation ─► text, and the answer that it contains

The summary of one distribution is in tasks_egmf.py.
"""

# B batch  M modalities  A answers  L tokens of an answer

import math
from collections.abc import Mapping, Sequence
from itertools import compress
from typing import Any

import torch

from .arguments_egmf import check_choice, check_count, is_number, refuses_unknown_arguments, shorten
from .batches_egmf import MODALITIES
from .tasks_egmf import INTERVAL, EGMFAnswer, EGMFTask, find_task


def check_summary(
    output: Any, tasks: Sequence[EGMFTask], top_k: Any, interval: Any, calibrated: Any, uses_log_probs: bool
) -> None:
    """Refuse options that have no meaning, and an output of `score_answers` that does not fit the tasks."""
    if interval is not None and not (is_number(interval) and 0 < interval < 1):
        raise ValueError(f"`interval` is {shorten(interval)}; it must be a number between 0 and 1.")
    if interval is not None and all(task.kind == "classification" for task in tasks):
        raise ValueError("`interval` is for scores, but every task is a classification.")
    check_count("top_k", top_k)
    check_choice("calibrated", calibrated, (True, False))
    if len(tasks) != len(output.probabilities):
        raise ValueError(f"There are {len(tasks)} tasks for {len(output.probabilities)} samples; give one for each.")
    finite = torch.isfinite(output.probabilities).all(dim=1)
    if uses_log_probs:  # those of padding are -inf, but not those of all answers
        finite = finite & torch.isfinite(output.log_probs.logsumexp(dim=1))
    not_finite = torch.where(~finite)[0].tolist()
    if not_finite:
        raise ValueError(
            f"The probabilities of samples {shorten(not_finite)} are not finite. "
            "Load the model in float32 or bfloat16, or check its weights."
        )
    num_answers = output.probabilities.shape[1]
    for task in tasks:
        if num_answers < task.num_answers:
            raise ValueError(
                f"Task {task.name!r} has {task.num_answers} answers, but the output has "
                f"{num_answers}; use the processor that prepared the inputs."
            )


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


def calibrate(
    log_probs: torch.Tensor, temperature: float, uniform_weight: float, exponent: float = 1.0
) -> torch.Tensor:
    """Calibrated log-probabilities (A,) of all answers, as `EGMFTask.calibration` says."""
    gaps = (log_probs.max() - log_probs) / temperature
    scaled = torch.log_softmax(-(gaps**exponent), dim=0) + math.log1p(-uniform_weight)
    equal = torch.full_like(scaled, uniform_weight / len(scaled)).log()
    return torch.logaddexp(scaled, equal)


class EGMFResultsMixin:
    """The methods of `EGMFProcessor` that read the model's output."""

    @refuses_unknown_arguments
    def post_process_answers(
        self,
        output: Any,
        top_k: int | None = None,
        interval: float | None = None,
        tasks: Sequence[str | EGMFTask] | None = None,
        labels: Sequence[str] | None = None,
        calibrated: bool = False,
    ) -> list[EGMFAnswer]:
        """Turn the output of `model.score_answers` into labels and numbers, one `EGMFAnswer` per sample.

        Args:
            output: `EGMFAnswerOutput`.
            top_k: keep only this many of the probabilities, the largest first; None for all, in the task's order.
            interval: minimum probability that the interval of a number covers, in (0, 1); None for 0.9.
            tasks: one per sample, by name or whole, if the inputs' `task_ids` were not passed through the model.
            labels: answer only with these labels: the probabilities given that it is one of them, in this order.
            calibrated: apply what `egmf calibrate` stored with the task for the sample's modalities.
        """
        if tasks is None:
            tasks = find_sample_tasks(output, self.numbered_tasks)
        tasks = [find_task(task, self.task_objects) for task in tasks]
        uses_log_probs = labels is not None or calibrated
        check_summary(output, tasks, top_k, interval, calibrated, uses_log_probs)
        self._check_answer_ids(getattr(output, "answer_ids", None), tasks)
        answers = []
        for i, task in enumerate(tasks):
            modalities = list(compress(MODALITIES, output.modality_mask[i].tolist()))
            probabilities = output.probabilities[i, : task.num_answers].cpu().double().numpy()  # (A,)
            experts = dict(zip(output.expert_names, output.expert_weights[i].tolist(), strict=True))
            if uses_log_probs:
                chosen = slice(None) if labels is None else task.choose_labels(labels)
                log_probs = output.log_probs[i, : task.num_answers].cpu().double()
                if calibrated:
                    log_probs = calibrate(log_probs, **task.find_calibration(modalities))
                probabilities = torch.softmax(log_probs[chosen], dim=0).numpy()
            answer = task.summarize(probabilities, interval or INTERVAL, top_k, labels)
            answer |= EGMFAnswer(
                task=task.name,
                expert=max(experts, key=experts.get),
                experts=experts,
                residual=float(output.residual_weight[i]),
                modalities=modalities,
            )
            answers.append(answer)
        return answers

    def _check_answer_ids(self, answer_ids: torch.Tensor | None, tasks: Sequence[EGMFTask]) -> None:
        """Refuse answers that are not those of each sample's task in this processor, in their order.

        Args:
            answer_ids: (B, A, L) of the output of `score_answers`, padded with -1; None to accept any.

        Raises:
            ValueError: their labels would be wrong.
        """
        if answer_ids is None:
            return
        for task, answers in zip(tasks, answer_ids.tolist(), strict=True):
            scored = [[token for token in answer if token >= 0] for answer in answers]
            if [ids for ids in scored if ids] != self.answer_token_ids(task):
                raise ValueError(
                    f"The answers that were scored are not those of task {task.name!r}, or in another order; "
                    "use the processor that prepared the inputs."
                )

    def post_process_generation(
        self, generated_ids: torch.Tensor, inputs: Mapping[str, torch.Tensor]
    ) -> list[dict[str, Any]]:
        """Parse the output of `model.generate(**inputs)`.

        Args:
            generated_ids: with the prompt, as `generate` returns them for token ids, or without it. With
                `num_return_sequences`, the sequences of a sample follow one another.
            inputs: the processor's output.

        Returns:
            One dict per sequence: `text`; `answer`, a label or a number, or None if the text contains none; `task`.

        Raises:
            ValueError: the sequences are not those of the inputs, whose prompts would be read as answers.
        """
        num_samples = len(inputs["task_ids"])
        num_sequences = max(len(generated_ids) // num_samples, 1)  # per sample
        is_whole = len(generated_ids) == num_sequences * num_samples
        prompts = inputs["input_ids"].to(generated_ids.device).repeat_interleave(num_sequences, dim=0)
        if torch.equal(generated_ids[:, : prompts.shape[1]], prompts):
            generated_ids = generated_ids[:, prompts.shape[1] :]
        has_prompt = (generated_ids == self.placeholder_token_id).any()
        if has_prompt or not is_whole:
            raise ValueError(
                f"The {len(generated_ids)} sequences are not those of the {num_samples} `inputs`; "
                "give what `model.generate(**inputs)` returned."
            )
        texts = self.tokenizer.batch_decode(generated_ids, skip_special_tokens=True)
        tasks = [self.numbered_tasks[i] for i in inputs["task_ids"].repeat_interleave(num_sequences).tolist()]
        return [
            {"text": text, "answer": task.parse(text), "task": task.name}
            for text, task in zip(texts, tasks, strict=True)
        ]
