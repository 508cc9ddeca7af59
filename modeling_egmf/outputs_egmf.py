"""Outputs of the EGMF models, with the meaning and shape of every field."""

# B batch  P pseudo tokens  K positions with logits  A answers  L tokens of an answer  E experts
# M modalities (text, audio, video)  H fusion width  D LLM width  V vocabulary

from dataclasses import dataclass

from torch import Tensor
from transformers.modeling_outputs import CausalLMOutputWithPast, ModelOutput


@dataclass
class EGMFFusionOutput(ModelOutput):
    """Everything computed before the language model. All outputs below have these fields.

    Args:
        pseudo_tokens (`torch.Tensor` of shape (B, P, D)):
            Soft tokens for the prompt, as wide as the language model.
        fused (`torch.Tensor` of shape (B, H)):
            f_enhanced, the fused vector after the experts.
        expert_weights (`torch.Tensor` of shape (B, E)):
            alpha, the second stage of the gate: the share of each expert, sums to 1.
        gate_weights (`torch.Tensor` of shape (B, E)):
            w, the first stage of the gate, sums to 1.
        residual_weight (`torch.Tensor` of shape (B,)):
            beta in (0, 1), the weight of the fused vector next to the experts.
        modality_mask (`torch.Tensor` of shape (B, M)):
            Whether text (a transcript or earlier turns), audio and video were used, bool.
    """

    pseudo_tokens: Tensor | None = None
    fused: Tensor | None = None
    expert_weights: Tensor | None = None
    gate_weights: Tensor | None = None
    residual_weight: Tensor | None = None
    modality_mask: Tensor | None = None


@dataclass
class EGMFCausalLMOutput(EGMFFusionOutput, CausalLMOutputWithPast):
    """Output of `EGMFForConditionalGeneration.forward`.

    The fields of `EGMFFusionOutput` are filled with `output_experts=True`; `past_key_values`, `hidden_states` and
    `attentions` are the language model's.

    Args:
        loss (`torch.Tensor` of shape (), returned with `labels`):
            Mean over samples of the mean negative log-likelihood of the answer's tokens.
        logits (`torch.Tensor` of shape (B, K, V)):
            Next-token logits of all positions, or of the last K, depending on `labels` and `logits_to_keep`.
        answer_log_probs (`torch.Tensor` of shape (B, A), in evaluation with `labels` and `answer_ids`):
            Log-probability of each answer, as in `EGMFAnswerOutput`, instead of logits. The loss is then
            -log P(true answer | one of the answers).
        label_index (`torch.Tensor` of shape (B,)):
            The true answer's index among them.
    """

    answer_log_probs: Tensor | None = None
    label_index: Tensor | None = None


@dataclass
class EGMFAnswerOutput(EGMFFusionOutput):
    """Output of `score_answers`. `processor.post_process_answers` turns it into labels and scores.

    Args:
        probabilities (`torch.Tensor` of shape (B, A)):
            Probability of each answer, in the order of the task; 0 past the end of a smaller set.
        log_probs (`torch.Tensor` of shape (B, A)):
            Their logarithms, -inf past the end of a smaller set.
        task_ids (`torch.Tensor` of shape (B,), *optional*):
            Index of each sample's task in the processor, as it was passed in.
        answer_ids (`torch.Tensor` of shape (B, A, L), *optional*):
            Token ids of the answers that were scored, as they were passed in, so that a processor can tell whether
            they are those of its task.
        expert_names (`tuple[str]` of length E):
            Names of the experts, in the order of `expert_weights`.
    """

    probabilities: Tensor | None = None
    log_probs: Tensor | None = None
    task_ids: Tensor | None = None
    answer_ids: Tensor | None = None
    expert_names: tuple[str, ...] | None = None
