"""Seeded damages of the model's files in a checkpoint: the right answers, or an error that names the checkpoint.

A flipped bit in a number of config.json can describe another valid model; what then loads is not held to the answers.
"""

import json
import random
import shutil

import pytest
import torch

from modeling_egmf import EGMFForConditionalGeneration
from processing_egmf import EGMFProcessor
from tests.helpers.checkpoint_files import edit_weights


pytestmark = pytest.mark.slow
DAMAGES_PER_FILE = 12
JSON_VALUES = (None, -1, 0, 2**70, 1.5, "x", [], {}, True, float("nan"))
DTYPES = (torch.int64, torch.bool, torch.float8_e4m3fn, torch.float16)


# ---- damages ------------------------------------------------------------------------------------------------


def cut(path, rng):
    path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size)])


def flip_bits(path, rng):
    content = bytearray(path.read_bytes())
    for _ in range(rng.choice([1, 1, 8])):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def overwrite(path, rng):
    content = bytearray(path.read_bytes())
    start = rng.randrange(len(content))
    content[start : start + 64] = rng.randbytes(64)
    path.write_bytes(content)


def replace(path, rng):
    path.write_bytes(
        rng.choice([b"", b"{}", b"[]", b"null", b"<html></html>", b"version https://git-lfs.github.com/spec/v1\n"])
    )


def remove(path, rng):
    path.unlink()


def change_json(path, rng):
    """Another value, or none, at a random place of the file."""
    content = json.loads(path.read_text())
    parent = content
    key = rng.choice(list(parent))
    while isinstance(parent[key], dict) and parent[key] and rng.random() < 0.7:
        parent = parent[key]
        key = rng.choice(list(parent))
    if rng.random() < 0.3:
        del parent[key]
    else:
        parent[key] = rng.choice(JSON_VALUES)
    path.write_text(json.dumps(content))


def change_weight(path, rng):
    """A weight of another shape, type or name, with another value, or missing."""

    def change(state):
        name = rng.choice(sorted(state))
        weight = state.pop(name)
        kind = rng.choice(["missing", "name", "shape", "type", "value"])
        if kind == "name":
            state[f"{name}x"] = weight
        elif kind == "shape":
            state[name] = weight[None].contiguous()
        elif kind == "type":
            state[name] = weight.to(rng.choice(DTYPES))
        elif kind == "value":
            weight = weight.clone()
            weight.view(-1)[rng.randrange(weight.numel())] = rng.choice([float("nan"), float("inf"), 1e30])
            state[name] = weight

    edit_weights(path.parent, change)


BYTES = (cut, flip_bits, overwrite, replace, remove)
DAMAGES = {
    "model.safetensors": (*BYTES, change_weight, change_weight, change_weight),
    "config.json": (*BYTES, change_json, change_json, change_json),
    "generation_config.json": (*BYTES, change_json),
}


def try_damage(folder, damage, path, rng, answers):
    """What loading and answering give after a damage: an answer, a clear error, or an unclear one with its text."""
    damage(path, rng)
    try:
        model = EGMFForConditionalGeneration.from_pretrained(folder)
        processor = EGMFProcessor.from_pretrained(folder)
        found = answers(model, processor)
    except (OSError, ValueError, TypeError) as error:
        is_named = str(folder.name) in str(error) or path.name in str(error)
        is_clear = not isinstance(error, TypeError) and is_named
        return "clear error" if is_clear else f"{type(error).__name__}: {str(error)[:200]}"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    return found


@pytest.mark.parametrize("kind", ["adapter", "standalone"])
@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_file(request, kind, name, make_processor, make_samples, process, tmp_path):
    """Counts are printed with `pytest -s`."""
    folder, _, _ = request.getfixturevalue(kind)
    make_processor().save_pretrained(folder)
    samples = make_samples(2)

    def answers(model, processor):
        return model.score_answers(**process(processor, samples)).probabilities

    expected = answers(EGMFForConditionalGeneration.from_pretrained(folder), EGMFProcessor.from_pretrained(folder))
    counts = {"right": 0, "other answers": 0, "clear error": 0}
    unclear = []
    for seed in range(DAMAGES_PER_FILE):
        rng = random.Random(seed)
        damaged = shutil.copytree(folder, tmp_path / f"damaged-{kind}", dirs_exist_ok=False)
        damage = DAMAGES[name][seed % len(DAMAGES[name])]
        outcome = try_damage(damaged, damage, damaged / name, rng, answers)
        shutil.rmtree(damaged)
        if isinstance(outcome, torch.Tensor):
            same = outcome.shape == expected.shape and torch.allclose(outcome, expected, atol=1e-5)
            counts["right" if same else "other answers"] += 1
            if not same and name == "model.safetensors":
                unclear.append(f"{damage.__name__} {seed}: other answers")
        elif outcome == "clear error":
            counts[outcome] += 1
        else:
            unclear.append(f"{damage.__name__} {seed}: {outcome}")
    print(f"{kind} {name}: {counts}, unclear {len(unclear)}")
    assert not unclear, "\n".join(unclear)
