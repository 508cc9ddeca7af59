"""The prompt of EGMF: pseudo tokens made from the fused vector, and their position and the transcript's.

    f_enhanced (B, H) ──► T_pseudo = Repeat(Linear(f_enhanced), P)   (B, P, D)
                                        │
    [prefix ; <|egmf|> x P ; suffix ; transcript ; task prompt]      (B, S)

The id of the placeholder `<|egmf|>` is outside the language model's vocabulary: it is never embedded or predicted.
Next: modeling_egmf.py, where the prompt is embedded.
"""

# B batch  S prompt tokens  P pseudo tokens  H fusion width  D LLM width

from collections.abc import Collection, Mapping
from itertools import compress
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache

from .configuration_egmf import EGMFConfig
from .fields_egmf import embedding_width
from .precision_egmf import EGMFFloat32Module, in_float32


# What the model needs to hide text that is switched off.
TEXT_INPUTS = ("utterance_mask", "text_mask", "modality_mask")
MASKS = ("attention_mask", *TEXT_INPUTS)
# Inputs that only the prefill needs: after it, their content is in the cache.
PREFILL_INPUTS = ("audio_values", "audio_mask", "video_values", "video_mask", *TEXT_INPUTS)


class EGMFPseudoTokens(EGMFFloat32Module):
    """T_pseudo = Repeat(Linear(f_enhanced), P), or one projection per token.

    A learned factor scales them to the norm of the language model's own embeddings: soft tokens with ten times the
    norm of the others would drown out the sentence. `pseudo_token_norm=False` leaves out the norm and the factor.
    """

    def __init__(self, config: EGMFConfig):
        super().__init__()
        self.num_tokens = config.num_pseudo_tokens
        self.width = embedding_width(config.text_config)
        num_projections = 1 if config.pseudo_token_projection == "repeat" else self.num_tokens
        norm = nn.LayerNorm if config.pseudo_token_norm else nn.Identity
        self.norm = norm(config.fusion_hidden_size)
        self.projection = nn.Linear(config.fusion_hidden_size, self.width * num_projections)
        self.scale = 1.0
        if config.pseudo_token_norm:
            self.scale = nn.Parameter(torch.ones(()))

    @in_float32
    def forward(self, enhanced: Tensor) -> Tensor:
        """enhanced (B, H) -> (B, P, D)."""
        # (B, D) or (B, P * D)
        tokens = self.scale * self.projection(self.norm(enhanced))
        return tokens.unflatten(1, (-1, self.width)).expand(-1, self.num_tokens, -1)


def missing(name: str) -> ValueError:
    """The error of an input that is needed."""
    return ValueError(f"`{name}` is missing; give all that processor(text=...) returns.")


def check_tensors(inputs: Mapping[str, Any], required: Collection[str] = ()) -> None:
    """Reject arrays and lists, on which torch fails without the input's name. `attention_mask` may be a dict of masks.

    Args:
        inputs: of the model, by name.
        required: names of those that must not be None.

    Raises:
        TypeError, ValueError: the message names the input.
    """
    for name, value in inputs.items():
        if value is None and name in required:
            raise missing(name)
        accepted = Tensor | Mapping | None if name == "attention_mask" else Tensor | None
        if not isinstance(value, accepted):
            raise TypeError(
                f'`{name}` is a {type(value).__name__}, not a tensor: call the processor with return_tensors="pt".'
            )


def check_inputs(
    inputs: Mapping[str, Any],
    labels: Tensor | None,
    inputs_embeds: Tensor | None,
) -> None:
    """Reject inputs that are no tensors, that are not read beside embeddings, and labels of another shape or type.

    Args:
        inputs: of the model, by name, `input_ids` (B, S) and media among them.
        labels: (B, S).
        inputs_embeds: (B, S, D), the whole prompt.

    Raises:
        TypeError, ValueError: the message names the input.
    """
    check_tensors({**inputs, "labels": labels, "inputs_embeds": inputs_embeds})
    given = [name for name in inputs if inputs[name] is not None and name != "attention_mask"]
    if inputs_embeds is not None and given:
        raise ValueError(f"`inputs_embeds` replaces {given[0]} and all media: give one of them.")
    input_ids = inputs["input_ids"]
    if labels is None or input_ids is None:
        return
    if labels.shape != input_ids.shape or labels.is_floating_point():
        raise ValueError(
            f"`labels` has shape {tuple(labels.shape)} and type {labels.dtype}; "
            f"give whole numbers of shape {tuple(input_ids.shape)}, as processors do."
        )


def check_masks(input_ids: Tensor, **inputs: Any) -> None:
    """Reject masks that do not belong to `input_ids` (B, S): (B, 3) for `modality_mask`, (B, S) for the others.

    Args:
        input_ids: of the prompt.
        inputs: of the model; masks that are missing or None are not checked.

    Raises:
        ValueError: one has another shape, or values other than 0 and 1; the message names it. Or a prompt is padded on
            the right, where its last column, after which the answer comes, would be read from padding.
    """
    if input_ids.ndim != 2:
        raise ValueError(f"`input_ids` has shape {tuple(input_ids.shape)}; give (samples, tokens).")
    masks = {name: inputs[name] for name in MASKS if inputs.get(name) is not None}
    are_wrong = []
    for name, mask in masks.items():
        shape = (len(input_ids), 3) if name == "modality_mask" else tuple(input_ids.shape)
        if mask.shape != shape:
            raise ValueError(
                f"`{name}` has shape {tuple(mask.shape)}, not {shape}, for `input_ids` of shape "
                f"{tuple(input_ids.shape)}. Give all that the processor returned."
            )
        is_wrong = (mask != mask.bool()).any()
        if name == "attention_mask":
            is_wrong = is_wrong | (mask[:, -1:] == 0).any()
        are_wrong.append(is_wrong.to(input_ids.device))
    # At once, because each look at a value waits for the device.
    wrong = list(compress(masks, torch.stack(are_wrong).tolist())) if masks else []
    if wrong:
        raise ValueError(
            f"`{wrong[0]}` has values other than 0 and 1, or padding on the right. "
            "Give all that the processor returned."
        )


def check_finite(**media: Tensor | None) -> None:
    """Reject NaN and infinite values, naming the input and the samples."""
    for name, values in media.items():
        if values is not None and not values.isfinite().all():
            samples = torch.where(~values.isfinite().flatten(1).all(dim=1))[0].tolist()
            raise ValueError(f"`{name}` of sample {samples} of the batch has NaN or infinity. Repair it.")


def check_token_ids(name: str, token_ids: Tensor | None, config: EGMFConfig) -> None:
    """Reject tokens that the language model does not have; on a GPU, they would end the process."""
    if token_ids is None or token_ids.numel() == 0:
        raise missing(name)
    if token_ids.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"`{name}` has type {token_ids.dtype}; give whole numbers, as the processor does.")
    vocab_size = config.text_config.get_text_config().vocab_size
    # The placeholder is none of them, even where the embedding matrix has room for it.
    token_ids = token_ids.masked_fill(token_ids == (config.placeholder_token_id or -1), vocab_size)
    lowest, highest = token_ids.aminmax()
    if lowest < 0 or highest >= vocab_size:
        raise ValueError(
            f"`{name}` contains token {int(lowest if lowest < 0 else highest)}; the language model has "
            f"{vocab_size} tokens. Give all that the checkpoint's own processor returns."
        )


def transcript_columns(utterance_mask: Tensor) -> slice:
    """utterance_mask (B, S) -> the columns from the first to the last transcript token of the batch.

    The fusion reads no other part of the prompt. A batch without any text keeps one column, fully masked.
    """
    columns = torch.where(utterance_mask.bool().any(dim=0))[0]
    if len(columns) == 0:
        return slice(0, 1)
    return slice(int(columns[0]), int(columns[-1]) + 1)


def hide_switched_off_text(
    attention_mask: Tensor | None,
    utterance_mask: Tensor | None,
    text_mask: Tensor | None,
    modality_mask: Tensor | None,
) -> Tensor | None:
    """Hide text that `modality_mask` switches off from the language model as well.

    Args:
        attention_mask: (B, S or more), 0 on padding; None for no padding. A 4D mask, which `generate` makes for a
            static cache from one that has passed through here, is left unchanged.
        utterance_mask: (B, S), 1 on the transcript's tokens.
        text_mask: (B, S), 1 on the transcript's tokens, its suffix and the earlier turns; None for `utterance_mask`.
        modality_mask: (B, 3), 0 in the first column where the text is switched off.

    Returns:
        `attention_mask`, also 0 on that text.
    """
    if text_mask is None:
        text_mask = utterance_mask
    if text_mask is None or modality_mask is None:
        return attention_mask
    hidden = text_mask.bool() & ~modality_mask[:, :1].bool()  # (B, S)
    if attention_mask is None:
        return (~hidden).long()
    if not is_padding_mask(attention_mask):
        return attention_mask
    # New tokens are not hidden.
    return attention_mask * ~nn.functional.pad(hidden, (0, attention_mask.shape[1] - hidden.shape[1]))


def is_padding_mask(attention_mask: Any) -> bool:
    """Whether it is a mask of columns (B, S), not one for every query: 4D, or a dict with one per kind of layer."""
    return isinstance(attention_mask, Tensor) and attention_mask.ndim == 2


def make_position_ids(attention_mask: Tensor | None, length: int) -> Tensor | None:
    """attention_mask (B, past + length) -> (B, length), counted from the first real token of each sample."""
    if not is_padding_mask(attention_mask):
        return None
    return (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)[:, -length:]


def is_prefill(past_key_values: Cache | None) -> bool:
    """Whether this forward pass is the prefill: the cache is still empty."""
    return past_key_values is None or past_key_values.get_seq_length() == 0
