"""Damaged files of checkpoints, for damage.py: adapter, standalone, and the language model beside an adapter.

Everything that decides an answer has a checksum, or is compared with what the checkpoint records: a checkpoint that
loads gives the undamaged answers, also where the damage left a file that describes another valid model or tokenizer.
"""

import contextlib
import copy
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modeling_egmf import EGMFForConditionalGeneration
from processing_egmf import EGMFPipeline, EGMFProcessor
from tests.helpers.checkpoint_files import edit_weights
from tests.helpers.damage import Case, damage_file
from tests.helpers.tiny_checkpoint import SIZES, make_model_and_processor
from training.model.export import merge


JSON_VALUES = (None, -1, 0, 2**70, 1.5, "x", [], {}, True, float("nan"))
DTYPES = (torch.int64, torch.bool, torch.float8_e4m3fn, torch.float16)
# Folder, file, and how often it is chosen.
FILES = (
    *[("adapter", "model.safetensors")] * 3,
    *[("adapter", "config.json")] * 3,
    *[("adapter", "default/adapter_model.safetensors")] * 2,
    ("adapter", "default/adapter_config.json"),
    *[("standalone", "model.safetensors")] * 3,
    *[("standalone", "config.json")] * 2,
    ("standalone", "generation_config.json"),
    ("adapter", "processor_config.json"),
    ("adapter", "tokenizer_config.json"),
    ("adapter", "tokenizer.json"),
    ("llm", "model.safetensors"),
    ("llm", "config.json"),
)


def make_inputs(folder: Path) -> Callable[[int, random.Random | None, Path], Case]:
    model, processor = make_model_and_processor("features", "features", folder)
    model.save_pretrained(folder / "adapter")
    merge(copy.deepcopy(model)).save_pretrained(folder / "standalone")
    for name in ("adapter", "standalone"):
        processor.save_pretrained(folder / name)
    expected = answer(folder / "adapter")

    def damaged(index: int, rng: random.Random | None, place: Path) -> Case:
        for name in ("adapter", "standalone", "llm"):
            shutil.copytree(folder / name, place / name)
        name, file = FILES[index % len(FILES)]
        path = place / name / file
        checkpoint = place / ("standalone" if name == "standalone" else "adapter")
        way = "undamaged" if rng is None else damage_checkpoint(path, rng)

        def compare(value: np.ndarray, _: str) -> str:
            is_right = value.shape == expected.shape and np.abs(value - expected).max() < 1e-5
            return "right" if is_right else f"other answers {value.tolist()}"[:300]

        names = (str(place / name), file)
        return Case(f"{name}/{file} {way}", names, lambda: answer(checkpoint), compare)

    return damaged


def answer(checkpoint: Path) -> np.ndarray:
    """(samples, answers) probabilities of a loaded checkpoint."""
    model = EGMFForConditionalGeneration.from_pretrained(checkpoint)
    processor = EGMFProcessor.from_pretrained(checkpoint)
    rng = np.random.default_rng(0)
    clips = [
        {
            "text": text,
            "audio_features": rng.normal(size=(3, SIZES["audio"])).astype(np.float32),
            "video_features": rng.normal(size=(4, SIZES["video"])).astype(np.float32),
        }
        for text in ("I'm fine, thank you.", "no")
    ]
    answers = EGMFPipeline(model=model, processor=processor, device="cpu")(clips, task="emotion", batch_size=2)
    return np.array([list(found["probabilities"].values()) for found in answers])


# ---- damage ---------------------------------------------------------------------------------------------------


def damage_checkpoint(path: Path, rng: random.Random) -> str:
    if rng.random() < 0.05:
        path.unlink()
        return "missing"
    if rng.random() < 0.5:
        return damage_file(path, rng)
    return change_weight(path, rng) if path.suffix == ".safetensors" else change_json(path, rng)


def change_json(path: Path, rng: random.Random) -> str:
    """Another value, or none, at a random place of the file."""
    content = json.loads(path.read_text())
    parent = content
    key = rng.choice(list(parent))
    while isinstance(parent[key], dict) and parent[key] and rng.random() < 0.7:
        parent = parent[key]
        key = rng.choice(list(parent))
    if rng.random() < 0.3:
        del parent[key]
        way = f"without {key}"
    else:
        parent[key] = rng.choice(JSON_VALUES)
        way = f"{key} is {parent[key]!r}"
    path.write_text(json.dumps(content))
    return way


def change_weight(path: Path, rng: random.Random) -> str:
    """A weight of another shape, type or name, with another value, or missing."""
    way = rng.choice(["missing", "name", "shape", "type", "value"])

    def change(state: dict[str, Any]) -> None:
        name = rng.choice(sorted(state))
        weight = state.pop(name)
        if way == "name":
            state[f"{name}x"] = weight
        elif way == "shape":
            state[name] = weight[None].contiguous()
        elif way == "type":
            state[name] = weight.to(rng.choice(DTYPES))
        elif way == "value":
            weight = weight.clone()
            weight.view(-1)[rng.randrange(weight.numel())] = rng.choice([float("nan"), float("inf"), 1e30])
            state[name] = weight

    with contextlib.suppress(RuntimeError):
        edit_weights(path.parent, change, path.name)
    return f"weight: {way}"
