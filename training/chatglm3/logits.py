"""Comparison of a converted model with logits stored from the original code.

The stored file is safetensors with `in/...` and `logits/...`; each case is compared if the file has its logits:

    plain, long            complete texts
    leftpad                a left-padded batch, with its mask and positions
    cached_leftpad         the same batch, then one token at a time with the cache
    fusion                 embedding vectors before a text, like EGMF's pseudo tokens
    plain_rope_ratio_50    plain, with a rotary base 50 times as high

The logits of padding are not compared. Differences are relative to the case's largest logit.
"""

# B batch  S tokens  V vocabulary

from pathlib import Path
from typing import NamedTuple

import torch
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache, PreTrainedModel


LONG_ROPE = "plain_rope_ratio_50"


class Difference(NamedTuple):
    """Largest difference in a case, absolute and relative to the case's largest stored logit."""

    absolute: float
    relative: float


def _logits_with_cache(model: PreTrainedModel, stored: dict[str, torch.Tensor]) -> torch.Tensor:
    """Prefill of the left-padded batch, then one token at a time: (B, S + steps, V)."""
    cache = DynamicCache(config=model.config)

    def forward(ids: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        output = model(
            input_ids=ids, position_ids=positions, attention_mask=mask, past_key_values=cache, use_cache=True
        )
        return output.logits

    mask = stored["in/leftpad_attention_mask"]
    logits = [forward(stored["in/leftpad_input_ids"], stored["in/leftpad_position_ids"], mask)]
    for ids in stored["in/decode_step_ids"].split(1, dim=1):
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        positions = mask.sum(dim=1, keepdim=True) - 1
        logits.append(forward(ids, positions, mask))
    return torch.cat(logits, dim=1)


def _logits_with_prefix(model: PreTrainedModel, stored: dict[str, torch.Tensor]) -> torch.Tensor:
    """Embedding vectors, then the prompt and the label: (B, S, V)."""
    ids = torch.cat([stored["in/fusion_prompt_ids"], stored["in/fusion_label_ids"]], dim=1)
    prefix = stored["in/fusion_embeds"].to(model.dtype)
    text = model.get_input_embeddings()(ids)
    return model(inputs_embeds=torch.cat([prefix, text], dim=1)).logits


@torch.no_grad()
def run_case(model: PreTrainedModel, case: str, stored: dict[str, torch.Tensor]) -> torch.Tensor:
    """The model's logits of one case, (B, S, V)."""
    if case in ("plain", LONG_ROPE):
        return model(stored["in/input_ids"]).logits
    if case == "long":
        return model(stored["in/long_input_ids"]).logits
    if case == "leftpad":
        return model(
            input_ids=stored["in/leftpad_input_ids"],
            attention_mask=stored["in/leftpad_attention_mask"],
            position_ids=stored["in/leftpad_position_ids"],
        ).logits
    if case == "cached_leftpad":
        return _logits_with_cache(model, stored)
    if case == "fusion":
        return _logits_with_prefix(model, stored)
    raise ValueError(f"The file stores logits of an unknown case {case!r}.")


def difference(case: str, logits: torch.Tensor, stored: dict[str, torch.Tensor]) -> Difference:
    """Difference between logits (B, S, V) and those stored for the case, without padding."""
    expected = stored[f"logits/{case}"]
    if logits.shape != expected.shape:
        raise ValueError(
            f"{case}: the model gives {list(logits.shape)} logits, but {list(expected.shape)} are stored."
        )
    if "leftpad" in case:
        mask = stored["in/leftpad_attention_mask"].bool()
        num_decoded = expected.shape[1] - mask.shape[1]
        mask = torch.nn.functional.pad(mask, (0, num_decoded), value=True)
        logits = logits[mask]
        expected = expected[mask]
    absolute = (logits - expected).abs().max().item()
    return Difference(absolute, absolute / expected.abs().max().item())


def compare_logits(folder: Path, stored_file: Path) -> dict[str, Difference]:
    """Load the model in float32 and run every stored case.

    Raises:
        ValueError: the file has no logits, or logits of an unknown case or of another vocabulary.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        stored = load_file(stored_file)
    except SafetensorError as error:
        raise ValueError(f"{stored_file} is not a readable safetensors file ({error}). Copy it again.") from error
    cases = [name.removeprefix("logits/") for name in stored if name.startswith("logits/")]
    if not cases:
        raise ValueError(f"{stored_file} has no logits to compare with (names such as logits/plain).")
    differences = {}
    for rope_ratio in (1, 50):
        chosen = [case for case in cases if (case == LONG_ROPE) == (rope_ratio == 50)]
        if not chosen:
            continue
        model = _load_model(folder, rope_ratio)
        for case in chosen:
            try:
                differences[case] = difference(case, run_case(model, case, stored), stored)
            except KeyError as error:
                raise ValueError(f"{stored_file} has no {error}, the input of case {case}. Store it again.") from error
    return differences


def _load_model(folder: Path, rope_ratio: int) -> PreTrainedModel:
    config = AutoConfig.from_pretrained(folder)
    if rope_ratio != 1:
        theta = config.rope_parameters["rope_theta"]
        config.rope_parameters = {**config.rope_parameters, "rope_theta": rope_ratio * theta}
    return AutoModelForCausalLM.from_pretrained(folder, config=config, dtype=torch.float32)
