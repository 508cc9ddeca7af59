"""A converted model against stored logits of the original code.

The file of stored ones is safetensors with `in/...` and `logits/...`; each case is compared if its logits are there:

    plain, long            logits of whole texts
    leftpad                a left-padded batch, with its mask and positions
    cached_leftpad         the same, then one token at a time over the cache
    fusion                 embedded vectors in front of a text, as EGMF's pseudo tokens are
    plain_rope_ratio_50    plain, with a rotary base 50 times as high

Padding has no logits to speak of and is left out. A difference is a share of the case's largest logit.
"""

from pathlib import Path
from typing import NamedTuple

import torch
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache, PreTrainedModel


TOLERANCE = 1e-6
LONG_ROPE = "plain_rope_ratio_50"


class Difference(NamedTuple):
    """How far a case is off: its largest difference, and that as a share of its largest stored logit."""

    absolute: float
    relative: float


def _over_cache(model: PreTrainedModel, stored: dict[str, torch.Tensor]) -> torch.Tensor:
    """Prefill of the left-padded batch, then every further token alone: (B, S + steps, V)."""
    mask, cache = stored["in/leftpad_attention_mask"], DynamicCache(config=model.config)
    inputs = {"input_ids": stored["in/leftpad_input_ids"], "position_ids": stored["in/leftpad_position_ids"]}
    logits = [model(**inputs, attention_mask=mask, past_key_values=cache, use_cache=True).logits]
    for token in stored["in/decode_step_ids"].split(1, dim=1):
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        inputs = {"input_ids": token, "position_ids": mask.sum(dim=1, keepdim=True) - 1}
        logits.append(model(**inputs, attention_mask=mask, past_key_values=cache, use_cache=True).logits)
    return torch.cat(logits, dim=1)


def _with_prefix(model: PreTrainedModel, stored: dict[str, torch.Tensor]) -> torch.Tensor:
    ids = torch.cat([stored["in/fusion_prompt_ids"], stored["in/fusion_label_ids"]], dim=1)
    prefix = stored["in/fusion_embeds"].to(model.dtype)
    return model(inputs_embeds=torch.cat([prefix, model.get_input_embeddings()(ids)], dim=1)).logits


@torch.no_grad()
def run_case(model: PreTrainedModel, case: str, stored: dict[str, torch.Tensor]) -> torch.Tensor:
    """The model's logits of one case, (B, S, V)."""
    if case in ("plain", LONG_ROPE):
        return model(stored["in/input_ids"]).logits
    if case == "long":
        return model(stored["in/long_input_ids"]).logits
    if case == "leftpad":
        names = ("input_ids", "attention_mask", "position_ids")
        return model(**{name: stored[f"in/leftpad_{name}"] for name in names}).logits
    if case == "cached_leftpad":
        return _over_cache(model, stored)
    if case == "fusion":
        return _with_prefix(model, stored)
    raise ValueError(f"Logits are stored for an unknown case {case!r}.")


def difference(case: str, found: torch.Tensor, stored: dict[str, torch.Tensor]) -> Difference:
    """Of logits (B, S, V) from those stored for the case, padding left out."""
    expected = stored[f"logits/{case}"]
    if found.shape != expected.shape:
        raise ValueError(f"{case}: {list(found.shape)} logits, but {list(expected.shape)} are stored.")
    if "leftpad" in case:
        mask = stored["in/leftpad_attention_mask"].bool()
        mask = torch.nn.functional.pad(mask, (0, expected.shape[1] - mask.shape[1]), value=True)
        found, expected = found[mask], expected[mask]
    absolute = (found - expected).abs().max().item()
    return Difference(absolute, absolute / expected.abs().max().item())


def compare_logits(folder: Path, stored_file: Path) -> dict[str, Difference]:
    """Load the model in float32 and run every stored case.

    Raises:
        ValueError: the file holds no logits, or those of a case or vocabulary that the model does not have.
    """
    from safetensors.torch import load_file

    stored = load_file(stored_file)
    cases = [name.removeprefix("logits/") for name in stored if name.startswith("logits/")]
    if not cases:
        raise ValueError(f"{stored_file} holds no logits to compare with (names such as logits/plain).")
    found = {}
    for long_rope in (False, True):
        mine = [case for case in cases if (case == LONG_ROPE) is long_rope]
        if not mine:
            continue
        config = AutoConfig.from_pretrained(folder)
        if long_rope:
            theta = config.rope_parameters["rope_theta"]
            config.rope_parameters = {**config.rope_parameters, "rope_theta": 50 * theta}
        model = AutoModelForCausalLM.from_pretrained(folder, config=config, dtype=torch.float32)
        for case in mine:
            found[case] = difference(case, run_case(model, case, stored), stored)
    return found
