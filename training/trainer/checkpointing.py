"""Runs that outlive their process: what may be gone on from, and that nothing is begun which cannot be finished.

    settings.json         what makes the run's numbers; another line is refused
    fusion_pretraining.safetensors   what the warm-up has learned, until the run is finished
    .partial/             a checkpoint while it is written; once whole it becomes checkpoint-N in one step
    training.json         the run is finished

Killed at any moment, the same line goes on from the last whole checkpoint.
"""

import dataclasses
import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel, TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from modeling_egmf.checkpoints_egmf import keys_stored_elsewhere

from ..arguments import DataArguments, EGMFTrainingArguments, ModelArguments
from ..data.dataset import MEDIA
from ..data.parquet import StoredFeatures, StoredMedia
from ..records import check_writable


SETTINGS, FINISHED, PARTIAL = "settings.json", "training.json", ".partial"
FUSION_PRETRAINING, FUSION_PRETRAINING_WEIGHTS = "fusion_pretraining.json", "fusion_pretraining.safetensors"
# A checkpoint holds a file for each line; DeepSpeed and FSDP have names of their own.
NEEDED = {
    "weights": ("model*.safetensors", "pytorch_model_fsdp*", "global_step*"),
    "optimizer": ("optimizer*", "global_step*"),
    "schedule": ("scheduler.pt", "global_step*"),
    "random states": ("rng_state*.pth",),
    "state": ("trainer_state.json",),
}
# Where things lie and how they are computed, not what comes out of it.
PLACES = (
    "model_name_or_path",
    "text_model_name_or_path",
    "attn_implementation",
    "dataset",
    "tasks_file",
    "cache_media",
    "encoder_cache",
)
DECISIVE = (
    *("seed", "data_seed", "max_steps", "num_train_epochs", "per_device_train_batch_size"),
    *("gradient_accumulation_steps", "learning_rate", "fusion_learning_rate", "lr_scheduler_type"),
    *("lr_scheduler_kwargs", "warmup_steps", "weight_decay", "max_grad_norm", "optim", "optim_args", "adam_beta1"),
    *(
        "adam_beta2",
        "adam_epsilon",
        "fusion_pretraining_epochs",
        "fusion_pretraining_learning_rate",
        "fusion_pretraining_batch_size",
    ),
    *("train_sampling_strategy", "dataloader_drop_last", "bf16", "fp16", "neftune_noise_alpha", "eval_strategy"),
    *("eval_steps", "load_best_model_at_end", "metric_for_best_model", "greater_is_better"),
    *("early_stopping_patience", "world_size"),
)


def defect(checkpoint: Path) -> str | None:
    """Why nothing can go on from a checkpoint, or None: every part is there, and no file is cut off."""
    for what, patterns in NEEDED.items():
        if not any(any(checkpoint.glob(pattern)) for pattern in patterns):
            return f"its {what} ({' or '.join(patterns)}) are missing"
    for path in sorted(checkpoint.rglob("*")):
        try:
            if path.suffix == ".safetensors":
                with safe_open(path, "pt"):
                    pass
            elif path.suffix == ".json":
                json.loads(path.read_text(encoding="utf-8"))
            elif path.suffix in (".pt", ".pth") and not zipfile.is_zipfile(path):
                return f"{path.name} is cut off"
        except (OSError, ValueError, SafetensorError) as error:
            return f"{path.name} cannot be read ({error})"
    return None


def last_complete_checkpoint(folder: Path) -> Path | None:
    """The last checkpoint of a run that is whole; those behind it are named and left alone."""
    found = [path for path in folder.glob("checkpoint-*") if path.name.rpartition("-")[2].isdigit()]
    for checkpoint in sorted(found, key=lambda path: int(path.name.rpartition("-")[2]), reverse=True):
        why = defect(checkpoint)
        if why is None:
            return checkpoint
        print(f"{checkpoint} is skipped: {why}.")
    return None


def resolve_output_dir(arguments: EGMFTrainingArguments) -> str | None:
    """Make sure that nothing is lost; the checkpoint to go on from, if there is one. Changes nothing itself.

    A run that was interrupted goes on by itself; a finished one, and a folder of something else, are left alone.

    Raises:
        ValueError: what is there must not be written over, cannot be written, or there is nothing to resume.
    """
    folder, resume = Path(arguments.output_dir), arguments.resume_from_checkpoint
    check_writable(folder)
    if resume is not None and str(resume).lower() not in ("false", "none", ""):
        if str(resume).lower() != "true":
            checkpoint = Path(resume)
            why = defect(checkpoint) if checkpoint.is_dir() else None
            if why is not None:
                raise ValueError(f"{checkpoint} cannot be resumed from: {why}. Give an earlier checkpoint.")
        else:
            checkpoint = last_complete_checkpoint(folder)
        if checkpoint is None or not checkpoint.is_dir():
            raise ValueError(f"There is no checkpoint to resume from in {folder}. Start without resuming.")
        return str(checkpoint)
    there = folder.is_dir() and any(path.name != PARTIAL for path in folder.iterdir())
    if not there or arguments.overwrite:
        return None
    if (folder / SETTINGS).is_file() and not (folder / FINISHED).is_file():
        checkpoint = last_complete_checkpoint(folder)
        print(f"{folder} holds an interrupted run: going on from {checkpoint or 'its beginning'}.")
        return str(checkpoint) if checkpoint is not None else None
    raise ValueError(
        f"{folder} already holds a run. Give another --output_dir, go on with it by --resume_from_checkpoint "
        "true, or move it aside with --overwrite."
    )


def check_disk_space(folder: Path, model: PreTrainedModel, checkpoints: int) -> None:
    """Raises ValueError where the disk has no room for so many checkpoints and the weights at the end."""
    elsewhere = keys_stored_elsewhere(model)
    weights = sum(v.numel() * v.element_size() for name, v in model.state_dict().items() if name not in elsewhere)
    states = 2 * sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)  # Adam's
    needed, free = checkpoints * (weights + states) + weights, shutil.disk_usage(folder).free
    if needed > free:
        raise ValueError(
            f"{folder} has room for {free / 2**20:,.0f} MiB, but {checkpoints} checkpoints and the final weights take "
            f"{needed / 2**20:,.0f} MiB. Make room, lower --save_total_limit, or give another --output_dir."
        )


def run_settings(
    model_args: ModelArguments, data_args: DataArguments, args: EGMFTrainingArguments, **of_the_run: Any
) -> dict[str, Any]:
    """What makes the numbers of a run, as plain values.

    Args:
        of_the_run: what is known only once it has been read, such as the rows and the language model.
    """
    options = {**dataclasses.asdict(model_args), **dataclasses.asdict(data_args)}
    chosen = {name: value for name, value in options.items() if name not in PLACES}
    chosen |= {name: getattr(args, name) for name in DECISIVE}
    return json.loads(json.dumps({**chosen, **of_the_run}, default=str))


def examples_digest(rows: list[dict[str, Any]]) -> str:
    """A hash over the rows' ids, tasks, words and answers."""
    return digest([[row.get(name) for name in ("id", "task", "text", "context", "answer")] for row in rows])


def media_digest(rows: list[dict[str, Any]], folder: str | Path) -> str:
    """A hash over the clips and features of rows: files by their names in the corpus's folder, which may be moved."""
    inside = f"{Path(folder).absolute()}{os.sep}"

    def mark(value: Any) -> Any:
        if isinstance(value, str):
            return value.removeprefix(inside)
        return value.mark() if isinstance(value, StoredFeatures | StoredMedia) else value is not None

    return digest([[mark(row.get(name)) for name in MEDIA] for row in rows])


def digest(value: Any) -> str:
    """A hash over what JSON can hold, in its order."""
    return hashlib.sha256(json.dumps(value, default=str).encode()).hexdigest()[:16]


def require_same_settings(run: Path, settings: dict[str, Any]) -> None:
    """Raises ValueError where a run was begun with other settings. One that has no record of them, from an earlier
    version, is taken at its word."""
    path = run / SETTINGS
    if not path.is_file():
        return
    before = json.loads(path.read_text(encoding="utf-8"))
    other = [
        f"{name} was {before[name]!r} and is {value!r}"
        for name, value in settings.items()
        if name in before and before[name] != value
    ]
    if other:
        raise ValueError(
            f"{run} was begun with other settings: {'; '.join(other)}. Go on with the same ones, or begin "
            "anew with another --output_dir or --overwrite."
        )


class LogAtSave(TrainerCallback):
    """Logs wherever a checkpoint may be written: a mean that spans one could not be taken up again."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if control.should_save or control.should_evaluate:
            control.should_log = True

    on_epoch_end = on_step_end


@contextmanager
def saving_into(run: Path, name: str) -> Iterator[None]:
    """Around the writing of a checkpoint into `.partial/`: what went wrong is said, and leaves nothing behind.

    Raises:
        OSError: the disk is full, or cannot be written.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        torch_writer = "PytorchStreamWriter" in str(error) or "unexpected pos" in str(error)
        if isinstance(error, RuntimeError) and not torch_writer:
            raise
        free = shutil.disk_usage(run).free
        shutil.rmtree(run / PARTIAL, ignore_errors=True)
        last = get_last_checkpoint(str(run))
        raise OSError(
            f"{name} could not be written into {run} ({error}); {free / 2**20:,.0f} MiB are free there. Make room and "
            f"start the same line again: it goes on from {last or 'the beginning, for there is no checkpoint yet'}."
        ) from error


def publish(source: Path, target: Path) -> None:
    """Rename a folder that is whole, once the disk has it; what bears the name is replaced."""
    for path in source.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
    if target.exists():
        shutil.rmtree(target)
    os.replace(source, target)


def pretrained_weights(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """What the warm-up may change, by its name in the state dict."""
    elsewhere = keys_stored_elsewhere(model)
    return {k: v for k, v in model.state_dict().items() if k.startswith("egmf.") and k not in elsewhere}
