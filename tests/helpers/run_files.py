"""Write the files of a finished run with made-up numbers, from which reports, cards and tables are made.

`write_run(folder / "egmf-0", seed=0)` -> `results-test.json`, `training.json` and a stand-in for the weights.
`write_ceilings(folder)` -> `ceilings.json` as in the demo corpus.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from processing_egmf import BUILT_IN_TASKS
from training.evaluation.metrics import task_metrics
from training.evaluation.subsets import SUBSET_NAMES
from training.hub.card_facts import DEMO_TEXT_MODEL_FINGERPRINT
from training.records import write_json


# Options of a training run that takes seconds on the corpus of corpus_files.py.
SMALL_RUN = {
    "text_model_dtype": "float32",
    "conv_channels": [4, 6],
    "encoder_hidden_size": 8,
    "fusion_hidden_size": 16,
    "num_frames": 2,
    "frame_size": 16,
    "max_clip_seconds": 1,
    "max_length": 160,
    "lora_r": 2,
    "cache_media": "true",
    "per_device_train_batch_size": 3,
    "per_device_eval_batch_size": 2,
    "learning_rate": "1e-2",
    "max_steps": 4,
    "save_steps": 2,
    "eval_steps": 2,
    "eval_strategy": "steps",
    "save_strategy": "steps",
    "logging_steps": 1,
    "report_to": "none",
    "disable_tqdm": "true",
    "seed": 3,
}


EXPERTS = ("local", "semantic", "global")
EVERY = SUBSET_NAMES
ROWS = 14


def _predictions(task_name: str, rng: np.random.Generator) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Answers of a model that is sometimes right, and their metrics."""
    task = BUILT_IN_TASKS[task_name]
    truth = rng.integers(0, task.num_answers, ROWS)
    logits = rng.normal(size=(ROWS, task.num_answers)) + 3 * np.eye(task.num_answers)[truth] * rng.random((ROWS, 1))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    predictions = []
    for i, row in enumerate(probabilities):
        best = int(row.argmax())
        experts = rng.dirichlet(np.ones(3)).tolist()
        answer: dict[str, Any] = {"id": f"{task_name}-{i}", "task": task_name, "modalities": ["text"], "residual": 0.5}
        if task.kind == "classification":
            names = list(task.labels)
            answer |= {"label": names[best], "score": row[best], "truth": names[truth[i]]}
        else:
            names = task.answers
            value = task.values[best]
            answer |= {"value": value, "median": value, "mean": value, "most_likely": value}
            answer |= {"interval": [task.low, value], "truth": task.values[truth[i]]}
        answer["probabilities"] = dict(zip(names, row.tolist(), strict=True))
        answer["experts"] = answer["gate"] = dict(zip(EXPERTS, experts, strict=True))
        predictions.append(answer)
    return predictions, task_metrics(task, probabilities, truth)


@cache
def _results(seed: int, subsets: tuple[str, ...], tasks: tuple[str, ...]) -> dict[str, Any]:
    """Subset -> its answers and metrics by task. Read only."""
    rng = np.random.default_rng(seed)
    found: dict[str, Any] = {}
    for subset in subsets:
        parts = {task: _predictions(task, rng) for task in tasks}
        found[subset] = {
            "left_out": 0,
            "tasks": {
                task: {"examples": ROWS, "metrics": metrics, "predictions": predictions}
                for task, (predictions, metrics) in parts.items()
            },
        }
    return found


def write_run(
    folder: Path, seed: int = 0, subsets: list[str] = EVERY, tasks: tuple[str, ...] = ("emotion", "sentiment")
) -> dict[str, Any]:
    """Write the files of one finished run; returns the content of `results-test.json`."""
    results = {
        "model": "runs/made-up",
        "split": "test",
        "seed": seed,
        "commit": f"{seed:040d}",
        "config": {"text_model_id": "../llm", "text_model_fingerprint": DEMO_TEXT_MODEL_FINGERPRINT},
        "subsets": _results(seed, tuple(subsets), tasks),
    }
    record = {
        "data_arguments": {},
        "seed": seed,
        "commit": f"{seed:040d}",
        "examples": {"train": 1234, "eval": 20},
        "parameters": {"trained": 1_234_567, "all": 7_654_321},
        "seconds": {"fusion_pretraining": 90.0, "all": 600.0 + 60 * seed},
        "fusion_pretraining_losses": [2.0, 1.5, 1.25],
        "log_history": [
            {"epoch": 0.5, "step": 5, "loss": 1.5},
            {"epoch": 1.0, "step": 10, "loss": "1.25"},
            {"epoch": 1.0, "step": 10, "eval_loss": 1.75},
        ],
    }
    write_json(folder / "results-test.json", results)
    write_json(folder / "training.json", record)
    (folder / "model.safetensors").write_bytes(bytes(2_340_000))
    return json.loads((folder / "results-test.json").read_text(encoding="utf-8"))


def write_ceilings(folder: Path) -> dict[str, Any]:
    """Made-up best possible accuracies and errors; none is known for sentiment with text."""
    emotion = {name: 0.5 + 0.05 * place for place, name in enumerate(EVERY)} | {"chance": 0.143}
    sentiment = {"audio": 0.9, "video": 0.8, "audio+video": 0.7} | {name: None for name in EVERY if "text" in name}
    ceilings = {"emotion": {"metric": "accuracy", **emotion}, "sentiment": {"metric": "mae", **sentiment}}
    write_json(folder / "ceilings.json", ceilings)
    return ceilings
