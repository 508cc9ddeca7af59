"""`generate` for language models that do not take the processor's padding: in groups, put back in order.

prompts of 5, 7 and 5 tokens ─┬─► group of 5 (samples 0, 2) ─► new tokens ─┬─► [prompt ; new tokens ; padding]
                              └─► group of 7 (sample 1)     ─► new tokens ─┘   in the order of the batch
"""

# B batch  S prompt tokens  L real tokens of a sample  T new tokens  X sequences per sample

import copy
from typing import Any, SupportsIndex

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig, GenerationMixin

from .decoders_egmf import DecoderSupport, argument_names, check_keywords, describe_decoder
from .padding_egmf import must_regroup, read_groups
from .prompt_egmf import (
    PREFILL_INPUTS,
    TEXT_INPUTS,
    check_masks,
    check_tensors,
    hide_switched_off_text,
    is_prefill,
    missing,
)
from .trainer_egmf import PROMPT_INPUTS


# Prompt-sized inputs (B, S), whose columns are regrouped.
COLUMN_INPUTS = (*PROMPT_INPUTS, "position_ids")
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
COUNTS = ("max_new_tokens", "num_beams", "num_return_sequences")
# Which `generate` takes from its keywords.
LIBRARY_ARGUMENTS = ("tokenizer", "assistant_tokenizer", "trust_remote_code")
# Which read the prompt in parts or with another model, without its pseudo tokens, or count its tokens; and the values
# without effect.
PLAIN_SETTINGS = {
    "assistant_model": None,
    "prefill_chunk_size": None,
    "encoder_repetition_penalty": 1.0,
}


class EGMFGenerationMixin(GenerationMixin):
    """Free text from the processor's output, with any language model."""

    def generate(self, inputs: Tensor | None = None, **kwargs: Any) -> Any:
        """As in `transformers`; switched-off text stays hidden at every step.

        Language models that do not take padding generate in groups of equal length, some without a cache.

        Raises:
            TypeError: an argument is unknown, or not of a type that it takes.
            ValueError: there is no prompt; a mask does not belong to it; an argument does not work with pseudo tokens,
                with groups or with a language model without a cache.
        """
        if inputs is not None:
            kwargs["input_ids"] = inputs
        support = describe_decoder(self.language_model.config)
        self.check_generation(kwargs, support)
        given_mask = kwargs.get("attention_mask")
        attention_mask = hide_switched_off_text(given_mask, *map(kwargs.get, TEXT_INPUTS))
        if given_mask is not None:
            kwargs["attention_mask"] = attention_mask
        elif attention_mask is not None and not attention_mask.all():
            raise ValueError("Text is switched off: give the processor's `attention_mask` as well.")
        if support.scoring == "recompute":
            kwargs["use_cache"] = False
        if must_regroup(support, kwargs.get("attention_mask")):
            return self.generate_in_groups(support.padding, **kwargs)
        return super().generate(**kwargs)

    def check_generation(self, kwargs: dict[str, Any], support: DecoderSupport) -> None:
        """Refuse arguments of `generate` as it says; None counts as not given."""
        given = {name: value for name, value in kwargs.items() if value is not None}
        if given.keys().isdisjoint(("input_ids", "inputs_embeds")):
            raise ValueError("No prompt: give all the processor returns.")
        if "labels" in given:
            raise ValueError("The inputs already contain an answer. Call the processor without `answer`.")
        config = given.get("generation_config", self.generation_config)
        if not isinstance(config, GenerationConfig):
            raise TypeError(f"`generation_config` is a {type(config).__name__}: give its fields.")
        if "custom_generate" not in given:
            own = argument_names(type(self.language_model))
            known = {*vars(self.generation_config), *own, *LIBRARY_ARGUMENTS}
            check_keywords(GenerationMixin.generate, given, self.forward, known)
        settings = {**vars(config), **kwargs}
        for name in COUNTS:
            value = settings.get(name)
            if value is not None and not (isinstance(value, SupportsIndex) and value > 0):
                raise ValueError(f"`{name}` is {value!r}; give an integer, at least 1.")
        unsupported = {"assistant_early_exit": None}
        if "utterance_mask" in given:
            unsupported |= PLAIN_SETTINGS
            if "attention_mask" not in given and len(given["utterance_mask"]) > 1:
                raise missing("attention_mask")
        for name, neutral in unsupported.items():
            if settings.get(name) not in (None, neutral):
                raise ValueError(f"`{name}` does not work with EGMF: leave it out.")
        check_tensors({name: given[name] for name in (*COLUMN_INPUTS, *PREFILL_INPUTS) if name in given})
        if "input_ids" in given and is_prefill(given.get("past_key_values")):
            check_masks(**given)
        model_type = self.language_model.config.model_type
        for name in ("past_key_values", "cache_implementation"):
            if support.scoring == "recompute" and name in given:
                raise ValueError(f"{model_type!r} models generate without a cache: leave out `{name}`.")

    def generate_in_groups(self, padding: str, **kwargs: Any) -> Tensor:
        """Generate for samples of equal length at a time.

        Args:
            padding: that of `DecoderSupport`.
            kwargs: arguments of `generate`; `attention_mask` has zeros that the language model does not take.

        Returns:
            (B * X, S + T): the batch's prompts with the new tokens, padded after the shorter ones.

        Raises:
            ValueError: an argument is for the whole batch.
        """
        settings = copy.deepcopy(kwargs.get("generation_config") or self.generation_config)
        settings.update(**kwargs)
        arguments = {**vars(settings), **kwargs}
        given = [name for name in BATCH_ARGUMENTS if arguments.get(name) not in (None, False)]
        if given:
            raise ValueError(
                f"{self.language_model.config.model_type!r} models generate in groups of equal length, "
                f"which `{given[0]}` does not support. "
                "Leave it out, or generate one sample at a time, without padding; "
                "to leave out text, use `modalities=` of the processor."
            )
        input_ids = kwargs["input_ids"]
        groups = []
        # X sequences of each sample, in the order of the groups.
        new_tokens: list[Tensor] = []
        for samples, columns in read_groups(kwargs["attention_mask"], padding):
            group = dict(kwargs)
            for name, value in kwargs.items():
                if name in COLUMN_INPUTS and value is not None:
                    group[name] = value[samples[:, None], columns]
                elif isinstance(value, Tensor) and value.ndim > 0 and len(value) == len(input_ids):
                    group[name] = value[samples]
            new_tokens.extend(super().generate(**group)[:, columns.shape[1] :])
            groups.append(samples)

        # After the end of a shorter sequence.
        filler = settings.eos_token_id if settings.pad_token_id is None else settings.pad_token_id
        filler = filler[0] if isinstance(filler, list | tuple) else filler
        # (B * X, T)
        tokens = pad_sequence(new_tokens, batch_first=True, padding_value=filler or 0)
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
        for name in ("utterance_mask", "text_mask"):
            # Without a cache, the new tokens are read with the prompt, and are no transcript.
            if inputs.get(name) is not None:
                num_new_tokens = inputs["input_ids"].shape[1] - inputs[name].shape[1]
                inputs[name] = nn.functional.pad(inputs[name], (0, num_new_tokens))
        for name in ("answer_ids", "task_ids", *LIBRARY_ARGUMENTS):
            inputs.pop(name, None)
        return inputs
