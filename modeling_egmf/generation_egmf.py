"""`generate` for language models that do not take the processor's padding: in groups, put back in order.

prompts of 5, 7 and 5 tokens ─┬─► group of 5 (samples 0, 2) ─► new tokens ─┬─► [prompt ; new tokens ; padding]
                              └─► group of 7 (sample 1)     ─► new tokens ─┘   in the order of the batch
"""

# B batch  S prompt tokens  L real tokens of a sample  T new tokens  X sequences per sample

import inspect
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig, GenerationMixin

from .decoders_egmf import check_keywords, describe_decoder
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
            ValueError: an argument does not work with groups, or with a language model without a cache.
        """
        others = {*vars(GenerationConfig()), *inspect.signature(self.forward).parameters}
        check_keywords(super().generate, kwargs, others, self.language_model)
        if inputs is not None:
            kwargs["input_ids"] = inputs
        if kwargs.get("attention_mask") is not None:
            masks = map(kwargs.get, ("attention_mask", *TEXT_INPUTS))
            kwargs["attention_mask"] = hide_switched_off_text(*masks)
        config = self.language_model.config
        support = describe_decoder(config)
        if support.scoring == "recompute":
            for name in ("past_key_values", "cache_implementation"):
                if kwargs.get(name) is not None:
                    raise ValueError(f"{config.model_type!r} models generate without a cache: leave out `{name}`.")
            kwargs["use_cache"] = False
        if must_regroup(support, kwargs.get("attention_mask")):
            return self.generate_in_groups(**kwargs)
        return super().generate(**kwargs)

    def generate_in_groups(self, **kwargs: Any) -> Tensor:
        """Generate for samples of equal length at a time.

        Args:
            kwargs: arguments of `generate`; `attention_mask` has zeros that the language model does not take.

        Returns:
            (B * X, S + T): the batch's prompts with the new tokens, padded after the shorter ones.

        Raises:
            ValueError: an argument is for the whole batch.
        """
        settings = kwargs.get("generation_config") or self.generation_config
        given = [name for name in BATCH_ARGUMENTS if kwargs.get(name) not in (None, False)]
        if settings.return_dict_in_generate and kwargs.get("return_dict_in_generate") is None:
            given.append("return_dict_in_generate")
        if given:
            raise ValueError(
                f"{self.language_model.config.model_type!r} models generate without padding, in groups of equal "
                f"length, which `{given[0]}` does not support. Leave it out, or generate one sample at a time, "
                "without padding; to leave text out of the prompt, use `modalities=` of the processor."
            )
        input_ids = kwargs["input_ids"]
        attention_mask = kwargs["attention_mask"]
        padding = describe_decoder(self.language_model.config).padding
        groups = group_samples(attention_mask.sum(dim=1), mixed=padding == "left")
        # X sequences of each sample, in the order of the groups.
        new_tokens: list[Tensor] = []
        for samples in groups:
            columns = real_columns(attention_mask[samples], padding)
            group = {}
            for name, value in kwargs.items():
                group[name] = value
                if isinstance(value, Tensor) and value.ndim > 0 and len(value) == len(input_ids):
                    group[name] = value[samples]
                if name in COLUMN_INPUTS and value is not None:
                    group[name] = gather_columns(group[name], columns)
            new_tokens.extend(super().generate(**group)[:, columns.shape[1] :])

        filler = padding_token(settings, kwargs)
        tokens = pad_sequence(new_tokens, batch_first=True, padding_value=filler)  # (B * X, T)
        order = torch.cat(groups).argsort()
        tokens = tokens.unflatten(0, (len(input_ids), -1))[order].flatten(0, 1)
        prompts = input_ids.repeat_interleave(len(tokens) // len(input_ids), dim=0)
        return torch.cat([prompts, tokens], dim=1)

    def prepare_inputs_for_generation(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Drop the media after the prefill if there is a cache, so that the fusion runs only once."""
        inputs = super().prepare_inputs_for_generation(*args, **kwargs)
        if describe_decoder(self.language_model.config).scoring == "recompute":
            # The language model counts positions in its own way.
            inputs.pop("position_ids", None)
        if not kwargs.get("is_first_iteration") and kwargs.get("use_cache", True):
            for name in PREFILL_INPUTS:
                inputs.pop(name, None)
        inputs.pop("labels", None)
        return inputs


def padding_token(settings: GenerationConfig, kwargs: dict[str, Any]) -> int:
    """The token after the end of a shorter sequence: that of padding, or else the end token."""
    for name in ("pad_token_id", "eos_token_id"):
        token = kwargs.get(name, getattr(settings, name))
        if isinstance(token, list | tuple):
            token = token[0]
        if token is not None:
            return int(token)
    return 0
