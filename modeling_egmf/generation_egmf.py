"""`generate` for language models that do not take the processor's padding: in groups, put back in order.

prompts of 5, 7 and 5 tokens ─┬─► group of 5 (samples 0, 2) ─► new tokens ─┬─► [prompt ; new tokens ; padding]
                              └─► group of 7 (sample 1)     ─► new tokens ─┘   in the order of the batch
"""

# B batch  S prompt tokens  L real tokens of a sample  T new tokens  X sequences per sample

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin

from .decoders_egmf import DecoderSupport, describe_decoder
from .keywords_egmf import check_keywords, generation_keywords
from .padding_egmf import gather_columns, group_samples, must_regroup, real_columns
from .prompt_egmf import PREFILL_INPUTS, TEXT_INPUTS, hide_switched_off_text


# Prompt-sized inputs (B, S), whose columns are regrouped.
COLUMN_INPUTS = ("input_ids", "attention_mask", "utterance_mask", "text_mask", "position_ids")
# Arguments that belong to the whole batch and cannot be divided or put together.
BATCH_ARGUMENTS = (
    "streamer",
    "return_dict_in_generate",
    "prefix_allowed_tokens_fn",
    "past_key_values",
    "inputs_embeds",
    "assistant_model",
    "negative_prompt_ids",
)


class EGMFGenerationMixin(GenerationMixin):
    """Free text from the processor's output, with any language model."""

    def generate(self, inputs: Tensor | None = None, **kwargs: Any) -> Any:
        """As in `transformers`; switched-off text stays hidden at every step.

        Language models that do not take padding generate in groups of equal length, some without a cache.

        Raises:
            TypeError: an argument is unknown.
            ValueError: an argument does not go with groups, or with a language model without a cache.
        """
        own = generation_keywords() | set(inspect.signature(self.forward).parameters)
        check_keywords("generate", kwargs, own, self.language_model)
        if inputs is not None:
            kwargs["input_ids"] = inputs
        if kwargs.get("attention_mask") is not None:
            attention_mask = hide_switched_off_text(kwargs["attention_mask"], *map(kwargs.get, TEXT_INPUTS))
            kwargs["attention_mask"] = attention_mask
        config = self.language_model.config
        support = describe_decoder(config)
        if support.scoring == "recompute":
            for name in ("past_key_values", "cache_implementation"):
                if kwargs.get(name) is not None:
                    raise ValueError(
                        f"A {config.model_type!r} language model generates without a cache: leave out `{name}`."
                    )
            kwargs["use_cache"] = False
        if must_regroup(support, kwargs.get("attention_mask")):
            return generate_in_groups(super().generate, support, config.model_type, self.generation_config, kwargs)
        return super().generate(**kwargs)

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        is_first_iteration: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Drop the media after the prefill if there is a cache, so that the fusion runs only once."""
        inputs = super().prepare_inputs_for_generation(input_ids, is_first_iteration=is_first_iteration, **kwargs)
        if describe_decoder(self.language_model.config).scoring == "recompute":
            inputs.pop("position_ids", None)  # the language model counts positions in its own way
        if not is_first_iteration and kwargs.get("use_cache", True):
            for name in PREFILL_INPUTS:
                inputs.pop(name, None)
        inputs.pop("labels", None)
        return inputs


def generate_in_groups(
    generate: Callable[..., Tensor],
    support: DecoderSupport,
    model_type: str,
    defaults: GenerationConfig,
    kwargs: dict[str, Any],
) -> Tensor:
    """Generate for samples of equal length at a time.

    Args:
        generate: of `GenerationMixin`.
        support: of the language model, of type `model_type`.
        defaults: the model's generation configuration.
        kwargs: arguments of `generate`; `attention_mask` has zeros that the language model does not take.

    Returns:
        (B * X, S + T): the batch's prompts with the new tokens, padded after the shorter ones.

    Raises:
        ValueError: an argument is for the whole batch.
    """
    settings = kwargs.get("generation_config") or defaults
    given = [name for name in BATCH_ARGUMENTS if kwargs.get(name) not in (None, False)]
    if settings.return_dict_in_generate and kwargs.get("return_dict_in_generate") is None:
        given.append("return_dict_in_generate")
    if given:
        raise ValueError(
            f"A {model_type!r} language model generates without padding, here in groups of equal length, which does "
            f"not go with `{given[0]}`. Leave it out, or generate one sample at a time, without padding; text is left "
            "out of the prompt by `modalities=` of the processor."
        )
    input_ids = kwargs["input_ids"]
    attention_mask = kwargs["attention_mask"]
    num_samples = len(input_ids)
    new_tokens: list[Tensor | None] = [None] * num_samples
    for samples in group_samples(support, attention_mask.sum(dim=1)):
        columns = real_columns(attention_mask[samples], support.padding)
        group = {}
        for name, value in kwargs.items():
            group[name] = value
            if isinstance(value, Tensor) and value.ndim > 0 and len(value) == num_samples:
                group[name] = value[samples]
            if name in COLUMN_INPUTS and value is not None:
                group[name] = gather_columns(group[name], columns)
        sequences = generate(**group)[:, columns.shape[1] :]  # (b * X, T)
        for sample, of_sample in zip(samples.tolist(), sequences.chunk(len(samples)), strict=True):
            new_tokens[sample] = of_sample
    return join_sequences(input_ids, new_tokens, padding_token(settings, kwargs))


def padding_token(settings: GenerationConfig, kwargs: dict[str, Any]) -> int:
    """The token after the end of a shorter sequence: that of padding, or else the end token."""
    for name in ("pad_token_id", "eos_token_id"):
        token = kwargs.get(name, getattr(settings, name))
        if isinstance(token, list | tuple):
            token = token[0]
        if token is not None:
            return int(token)
    return 0


def join_sequences(input_ids: Tensor, new_tokens: list[Tensor], padding: int) -> Tensor:
    """Prompts (B, S), and for each sample new tokens (X, T of its own) -> (B * X, S + T)."""
    length = max(tokens.shape[1] for tokens in new_tokens)
    padded = []
    for tokens in new_tokens:
        padded.append(torch.nn.functional.pad(tokens, (0, length - tokens.shape[1]), value=padding))
    num_sequences = len(padded[0])
    return torch.cat([input_ids.repeat_interleave(num_sequences, dim=0), torch.cat(padded)], dim=1)
