"""Tiny training runs: a folder with a corpus and a language model, options of a run, and comparisons of finished runs.

place = write_place(folder, tokenizer)      `corpus` and `llm`; runs are written to `runs/NAME`
trainer = run(place, "NAME", seed=4)        the options of SMALL_RUN, with changes
"""

import copy
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from tests.helpers.corpus_files import tiny_llama, write_corpus, write_language_model
from tests.helpers.run_files import SMALL_RUN
from training.arguments import parse_arguments
from training.records import weight_files
from training.trainer.run import train


# Options that make a run draw random numbers wherever it can, save in the middle of an epoch, and log means of losses
# that span checkpoints.
RESTLESS = {
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 1,
    "max_steps": 6,
    "save_steps": 2,
    "eval_steps": 2,
    "logging_steps": 3,
    "fusion_pretraining_epochs": 1,
    "fusion_pretraining_batch_size": 3,
    "modality_dropout": 0.5,
    "augmentation": "true",
    "lora_dropout": 0.2,
    "load_best_model_at_end": "true",
    "metric_for_best_model": "eval_loss",
    "greater_is_better": "false",
}
PRETRAINING = {"fusion_pretraining_epochs": 1, "fusion_pretraining_batch_size": 3, "fusion_learning_rate": "2e-2"}
# One step, and nothing else.
SHORT = {"max_steps": 1, "eval_strategy": "no", "save_strategy": "no"}


def write_place(folder: Path, tokenizer: Any) -> Path:
    write_corpus(folder / "corpus")
    tokenizer = copy.deepcopy(tokenizer)
    write_language_model(folder / "llm", tiny_llama(tokenizer), tokenizer)
    return folder


def command_line(place: Path, name: str, **changes: Any) -> list[str]:
    """The arguments of a run; an option whose value is None is left out."""
    options = {
        "dataset": place / "corpus",
        "text_model_name_or_path": place / "llm",
        "output_dir": place / "runs" / name,
        **SMALL_RUN,
        **changes,
    }
    arguments = ["--use_cpu"]
    for option, value in options.items():
        if value is not None:
            values = value if isinstance(value, list) else [value]
            arguments += [f"--{option}", *map(str, values)]
    return arguments


def run(place: Path, name: str, **changes: Any) -> Any:
    """The trainer of a finished run."""
    return train(*parse_arguments(command_line(place, name, **changes)))


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    """All weights of an adapter checkpoint, LoRA's included."""
    weights = {}
    for path in weight_files(folder):
        weights |= load_file(path)
    return weights


def record_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "training.json").read_text(encoding="utf-8"))


def curve_of(folder: Path) -> list[dict[str, float]]:
    """The log of a run, without its timings."""
    names = {"step", "epoch", "loss", "grad_norm", "learning_rate", "eval_loss", "eval_emotion_accuracy"}
    history = record_of(folder)["log_history"]
    return [{name: entry[name] for name in names & set(entry)} for entry in history if "train_runtime" not in entry]


def assert_same_weights(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert set(left) == set(right)
    assert not [name for name in left if not torch.equal(left[name], right[name])]


def assert_same_run(folder: Path, expected: Path) -> None:
    """The same log, weights and checkpoints."""
    assert curve_of(folder) == curve_of(expected)
    assert_same_weights(weights_of(folder), weights_of(expected))
    assert {path.name for path in folder.glob("checkpoint-*")} == {path.name for path in expected.glob("checkpoint-*")}
    assert not list(folder.glob(".partial/checkpoint-*"))
