"""Logits of the converted model match the original code, and wrong settings or weights are detected."""

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file
from transformers import AttentionInterface, AutoModelForCausalLM, GlmConfig
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from tests.helpers.chatglm3_files import EXPECTED, tensors_of
from training.chatglm3.convert import verify
from training.chatglm3.logits import compare_logits, difference, run_case


# Of the largest logit. On the kind of CPU that the stored logits were computed on, all cases without a cache are equal
# bit for bit; matrix kernels of other CPUs round in another order (up to 7e-7). The smallest wrong setting below gives
# more than 3e-6.
TOLERANCE = 1e-6


@pytest.mark.parametrize("case", ["plain", "long", "leftpad", "cached_leftpad", "fusion"])
def test_logits_match_the_original(model, stored, case):
    logits = run_case(model, case, stored)
    assert difference(case, logits, stored).relative <= TOLERANCE


def test_logits_with_another_rotary_base_match_the_original(native, stored):
    found = compare_logits(native, EXPECTED)
    assert set(found) == {"plain", "long", "leftpad", "cached_leftpad", "fusion", "plain_rope_ratio_50"}
    assert found["plain_rope_ratio_50"].relative <= TOLERANCE
    assert not torch.equal(stored["logits/plain"], stored["logits/plain_rope_ratio_50"])


def sequence_first(module, query, key, value, attention_mask, scaling=None, dropout=0.0, **kwargs):
    """Attention with keys and values in the original's memory layout: one token after another, heads repeated."""

    def laid_out(states, repeats):
        return states.permute(2, 0, 1, 3).repeat_interleave(repeats, dim=2).contiguous().permute(1, 2, 0, 3)

    groups = module.num_key_value_groups
    attended = torch.nn.functional.scaled_dot_product_attention(
        laid_out(query, 1), laid_out(key, groups), laid_out(value, groups), attention_mask,
        is_causal=attention_mask is None and query.shape[2] > 1,
    )  # fmt: skip
    return attended.transpose(1, 2), None


def test_cached_logits_match_the_original_in_its_memory_layout(native, stored):
    AttentionInterface.register("sequence_first", sequence_first)
    AttentionMaskInterface.register("sequence_first", sdpa_mask)
    model = AutoModelForCausalLM.from_pretrained(native, dtype=torch.float32)
    model.set_attn_implementation("sequence_first")
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 2):  # the stored ones were made with two
            torch.set_num_threads(count)
            found.append(difference("cached_leftpad", run_case(model, "cached_leftpad", stored), stored).relative)
    finally:
        torch.set_num_threads(threads)
    assert min(found) <= TOLERANCE


def changed_config(native, folder, **changes):
    """The converted folder with a changed config.json."""
    shutil.copytree(native, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    return folder


@pytest.mark.parametrize(
    "changes",
    [
        {"rms_norm_eps": GlmConfig().rms_norm_eps},
        {
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10001.0,
                "partial_rotary_factor": 0.5,
            }
        },
        {
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "partial_rotary_factor": 1.0,
            }
        },
    ],
)
def test_wrong_settings_are_detected(native, tmp_path, changes):
    folder = changed_config(native, tmp_path / "wrong", **changes)
    found = compare_logits(folder, EXPECTED)
    assert all(case.relative > 3e-6 for case in found.values())
    with pytest.raises(ValueError, match="differs from the stored logits"):
        verify(folder, EXPECTED, TOLERANCE)


def test_swapped_keys_and_values_are_detected(native, tmp_path, stored):
    tensors = tensors_of(native)
    layer = "model.layers.1.self_attn"
    tensors[f"{layer}.k_proj.weight"], tensors[f"{layer}.v_proj.weight"] = (
        tensors[f"{layer}.v_proj.weight"],
        tensors[f"{layer}.k_proj.weight"],
    )
    shutil.copytree(native, tmp_path / "wrong")
    save_file(tensors, tmp_path / "wrong" / "model.safetensors", metadata={"format": "pt"})
    assert compare_logits(tmp_path / "wrong", EXPECTED)["plain"].relative > 1e-3


def test_nan_is_a_difference(native, tmp_path):
    tensors = tensors_of(native)
    tensors["model.norm.weight"][0] = float("nan")
    shutil.copytree(native, tmp_path / "wrong")
    save_file(tensors, tmp_path / "wrong" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="differs"):
        verify(tmp_path / "wrong", EXPECTED, TOLERANCE)


def test_verify_needs_logits(native, tmp_path):
    save_file({"in/input_ids": torch.ones(1, 2)}, tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match="has no logits"):
        compare_logits(native, tmp_path / "none.safetensors")
    save_file({"logits/other": torch.ones(1, 2)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="'other'"):
        compare_logits(native, tmp_path / "other.safetensors")


def test_damaged_stored_logits_are_named(native, stored, tmp_path):
    path = tmp_path / "stored.safetensors"
    path.write_bytes(EXPECTED.read_bytes()[:-9])
    with pytest.raises(ValueError, match="stored.safetensors is not a readable safetensors file"):
        compare_logits(native, path)
    save_file({"logits/plain": stored["logits/plain"]}, path)
    with pytest.raises(ValueError, match="has no 'in/input_ids', the input of case plain"):
        compare_logits(native, path)
