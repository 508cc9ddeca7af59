"""What `transformers.Trainer` needs: it keeps the columns of a dataset, and evaluates by the answers' probabilities.

rows ─► EGMFDataCollator ─► labels, answer_ids ─┬─► training: loss of the answer's tokens
                                                └─► evaluation: -log P(answer | one of the set), answer_log_probs
"""

# B batch  S tokens of prompt and answer  A answers  L answer tokens

import inspect
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from .outputs_egmf import EGMFCausalLMOutput


# Columns of a dataset, or fields of a prepared sample, that `EGMFDataCollator` turns into arguments of the model.
DATASET_COLUMNS = (
    "id",
    "text",
    "audio",
    "video",
    "audio_features",
    "video_features",
    "sampling_rate",
    "fps",
    "context",
    "task",
    "answer",
    "modalities",
    "name",
    "task_id",
)

# Prompt-sized inputs (B, S).
PROMPT_INPUTS = ("input_ids", "attention_mask", "utterance_mask", "text_mask")


def keeps_dataset_columns(forward: Callable) -> Callable:
    """Decorator: `Trainer` removes all columns that the signature of `forward` does not name, before it collates. The
    signature therefore names those of `DATASET_COLUMNS`, although `forward` itself refuses them."""
    signature = inspect.signature(forward)
    *named, others = signature.parameters.values()
    columns = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in DATASET_COLUMNS]
    forward.__signature__ = signature.replace(parameters=[*named, *columns, others])
    return forward


def check_trainable(module: nn.Module, labels: Tensor | None, answer_ids: Tensor | None) -> None:
    """Refuse training without labels, and of weights that accelerate has offloaded, which would not change.

    Args:
        labels: None if nothing is trained.
        answer_ids: of a batch of examples, which has labels unless they were taken away.

    Raises:
        ValueError: a batch to train on has no labels, or a trainable parameter is not in memory; the message names it.
    """
    if module.training and labels is None and answer_ids is not None:
        raise ValueError(
            "`labels` are missing. "
            "Set label_smoothing_factor to 0, which takes them away; "
            "for a loss of your own, leave `answer_ids` out."
        )
    if labels is None or labels.is_meta or not torch.is_grad_enabled():
        return
    for name, weight in module.named_parameters():
        if weight.requires_grad and weight.is_meta:
            raise ValueError(
                f"{name} is offloaded: training would lose its gradient. "
                "Offload by `device_map`, or use torch.no_grad()."
            )


def score_true_answers(
    model: nn.Module,
    inputs: Mapping[str, Tensor | None],
    labels: Tensor,
    answer_ids: Tensor,
) -> EGMFCausalLMOutput:
    """Score all answers after prompts that contain the true ones.

    Args:
        model: an `EGMFForConditionalGeneration`.
        inputs: of the model; those of `PROMPT_INPUTS` end with the true answer.
        labels: (B, S), -100 except on the true answer.
        answer_ids: (B, A, L), padded with -1.

    Raises:
        ValueError: the labels of a sample are none of its answers.
    """
    num_labels = (labels != -100).sum(dim=1, keepdim=True)  # (B, 1)
    columns = torch.arange(labels.shape[1], device=labels.device) - num_labels  # (B, S)
    prompt = {name: inputs[name] for name in PROMPT_INPUTS if inputs[name] is not None}
    for name, values in prompt.items():
        # The answer makes way for padding, which is on the left.
        prompt[name] = values.gather(1, columns.clamp(min=0)).masked_fill(columns < 0, 0)
    output = model.score_answers(**{**inputs, **prompt}, answer_ids=answer_ids)
    label_index = find_true_answers(labels, answer_ids, num_labels)
    log_probs = output.log_probs  # (B, A)
    return EGMFCausalLMOutput(
        loss=-log_probs.gather(1, label_index[:, None]).mean(),
        answer_log_probs=log_probs,
        label_index=label_index,
    )


def find_true_answers(labels: Tensor, answer_ids: Tensor, num_labels: Tensor) -> Tensor:
    """labels (B, S), answer_ids (B, A, L), num_labels (B, 1) -> (B,) the index of the answer in the labels."""
    length = labels.shape[1]
    steps = torch.arange(answer_ids.shape[2], device=labels.device)
    columns = (length - num_labels + steps).clamp(max=length - 1)  # (B, L)
    # (B, 1, L)
    tokens = labels.gather(1, columns)[:, None]
    # (B, A, L)
    is_equal = (tokens == answer_ids) | (answer_ids < 0)
    is_same = is_equal.all(dim=2) & (answer_ids[..., 0] >= 0)  # (B, A)
    unknown = torch.where(~is_same.any(dim=1))[0].tolist()
    if unknown:
        raise ValueError(f"The `labels` of sample {unknown} of the batch are none of its `answer_ids`.")
    return is_same.int().argmax(dim=1)
