"""The regression head of arXiv 2606.05713, to compare with: answers read from the last hidden state, not as text.

    prompt ─► language model ─► hidden state of the last token (B, D) ─► one linear layer per task ─► answers (B, A)

    classification   logits of the labels
    regression       location and width of a Laplace distribution over the scale, whose median is the location

    egmf train --readout head ...

Its answers have the same form as the scored ones, so training, evaluation and reports treat both alike. Checkpoints
are for `egmf evaluate` and `egmf predict`; the code on the Hub refuses them, because of weights that it does not know.
"""

# B batch  S prompt tokens  D LLM width  A answers

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from modeling_egmf import EGMFConfig, EGMFForConditionalGeneration
from modeling_egmf.outputs_egmf import EGMFAnswerOutput, EGMFCausalLMOutput, EGMFFusionOutput
from modeling_egmf.padding_egmf import run_language_model
from modeling_egmf.prompt_egmf import hide_switched_off_text
from processing_egmf import EGMFTask


def model_class(checkpoint: str | Path) -> type[EGMFForConditionalGeneration]:
    """The class of a checkpoint's model: with a head if its configuration has one.

    A config.json that is no object gives the usual one, whose `from_pretrained` says what is wrong.
    """
    try:
        fields, _ = PreTrainedConfig.get_config_dict(checkpoint)
    except TypeError:
        return EGMFForConditionalGeneration
    has_head = isinstance(fields, dict) and bool(fields.get("readout"))
    return EGMFWithHead if has_head else EGMFForConditionalGeneration


def describe_tasks(tasks: dict[str, EGMFTask]) -> list[dict[str, Any]]:
    """`config.readout`: name, kind and number of answers of every task, in the processor's order."""
    return [{"name": name, "kind": task.kind, "answers": task.num_answers} for name, task in tasks.items()]


class Readout(nn.Module):
    """One linear layer per task.

    Args:
        tasks: from `describe_tasks`.
        hidden_size: D.
    """

    def __init__(self, tasks: list[dict[str, Any]], hidden_size: int):
        super().__init__()
        self.tasks = tasks
        self.max_answers = max(task["answers"] for task in tasks)
        sizes = [task["answers"] if task["kind"] == "classification" else 2 for task in tasks]
        self.layers = nn.ModuleList(nn.Linear(hidden_size, size) for size in sizes)

    def forward(self, hidden: Tensor, task_ids: Tensor) -> Tensor:
        """hidden (B, D), task_ids (B,) -> log-probabilities (B, A), -inf past the end of a smaller set.

        Raises:
            ValueError: a task has no layer, such as one that was given to a call.
        """
        if not ((task_ids >= 0) & (task_ids < len(self.tasks))).all():
            names = ", ".join(task["name"] for task in self.tasks)
            raise ValueError(f"This checkpoint answers with a head (--readout head), whose only tasks are {names}.")
        log_probs = hidden.new_full((len(hidden), self.max_answers), -torch.inf)
        for index, (task, layer) in enumerate(zip(self.tasks, self.layers, strict=True)):
            rows = torch.where(task_ids == index)[0]
            logits = layer(hidden[rows])
            if task["kind"] == "regression":
                values = torch.linspace(-1, 1, task["answers"], device=hidden.device)
                location, width = logits[:, :1], nn.functional.softplus(logits[:, 1:]) + 1e-3
                logits = -(values - location).abs() / width
            padding = self.max_answers - task["answers"]
            padded = nn.functional.pad(logits.log_softmax(dim=1), (0, padding), value=-torch.inf)
            log_probs = log_probs.index_copy(0, rows, padded)
        return log_probs


class EGMFWithHead(EGMFForConditionalGeneration):
    """`EGMFForConditionalGeneration` that answers with a `Readout`; `config.readout` describes its tasks."""

    _auto_class = None  # a checkpoint does not bring code for it

    def __init__(
        self,
        config: EGMFConfig,
        language_model: PreTrainedModel | None = None,
        audio_backbone: PreTrainedModel | None = None,
        video_backbone: PreTrainedModel | None = None,
    ):
        super().__init__(config, language_model, audio_backbone, video_backbone)
        self.readout = Readout(config.readout, config.text_config.get_text_config().hidden_size)

    def read_answers(
        self,
        input_ids: torch.LongTensor,
        attention_mask: Tensor,
        task_ids: torch.LongTensor,
        utterance_mask: Tensor,
        text_mask: Tensor | None = None,
        modality_mask: Tensor | None = None,
        **media: Any,
    ) -> tuple[Tensor, EGMFFusionOutput]:
        """Log-probabilities (B, A) of the answers after prompts, and the output of the fusion."""
        embeds, fusion = self.embed_prompt(
            input_ids, utterance_mask, modality_mask=modality_mask, text_mask=text_mask, **media
        )
        attention_mask = hide_switched_off_text(attention_mask, utterance_mask, text_mask, modality_mask)
        last = torch.tensor([input_ids.shape[1] - 1], device=input_ids.device)
        output = run_language_model(
            self.language_model, embeds, attention_mask, last, use_cache=False, output_hidden_states=True
        )
        hidden = output.hidden_states[-1][:, -1].float()  # (B, D): prompts are padded on the left
        return self.readout(hidden, task_ids), fusion

    def forward(
        self,
        task_ids: torch.LongTensor | None = None,
        label_index: torch.LongTensor | None = None,
        answer_ids: torch.LongTensor | None = None,
        **inputs: Any,
    ) -> EGMFCausalLMOutput:
        """The loss -log P(true answer), from a batch without `labels`.

        Args:
            task_ids: (B,) index of each sample's task in the processor.
            label_index: (B,) the true answers.
            answer_ids: unused; the head has its own output for each answer.
            inputs: the prompt and the media.
        """
        log_probs, _ = self.read_answers(task_ids=task_ids, **inputs)
        return EGMFCausalLMOutput(
            loss=-log_probs.gather(1, label_index[:, None]).mean(),
            answer_log_probs=log_probs,
            label_index=label_index,
        )

    @torch.no_grad()
    def score_answers(self, *, answer_ids: torch.LongTensor | None = None, **inputs: Any) -> EGMFAnswerOutput:
        """The head's distribution over each sample's answers, with as many columns as `answer_ids` (B, A, L).

        Warns of a model in training mode.
        """
        if self.training:
            warnings.warn("Dropout changes answers: call model.eval().", stacklevel=3)
        log_probs, fusion = self.read_answers(**inputs)
        if answer_ids is not None:
            log_probs = log_probs[:, : answer_ids.shape[1]]
        return EGMFAnswerOutput(
            probabilities=log_probs.exp(),
            log_probs=log_probs,
            task_ids=inputs["task_ids"],
            answer_ids=answer_ids,
            expert_names=tuple(self.config.expert_names),
            **fusion,
        )

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Refused.

        Raises:
            ValueError: always.
        """
        raise ValueError("This checkpoint answers with a head (--readout head), not with text. Use score_answers.")
