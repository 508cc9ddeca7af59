"""Resuming of interrupted runs, and checks at the start that a run can finish.

    settings.json                    everything that determines the run's numbers; resuming with others is refused
    fusion_pretraining.safetensors   weights after the fusion pretraining, until the run is finished
    .partial/                        a checkpoint being written; once complete, it is renamed to checkpoint-N
    training.json                    written last: the run is finished

If a run is killed at any moment, the same command resumes it from the last complete checkpoint.
"""

import dataclasses
import json
import os
import shutil
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import get_last_checkpoint

from modeling_egmf.checkpoints_egmf import keys_stored_elsewhere
from modeling_egmf.parts_egmf import with_relative_parts

from ..arguments import DataArguments, EGMFTrainingArguments, ModelArguments
from ..data.parquet import StoredFeatures, StoredMedia
from ..data.tables import MEDIA
from ..records import check_shape, check_writable, digest_of_json, read_json


SETTINGS = "settings.json"
FINISHED = "training.json"
PARTIAL = ".partial"
FUSION_PRETRAINING = "fusion_pretraining.json"
FUSION_PRETRAINING_WEIGHTS = "fusion_pretraining.safetensors"
HEADS = "heads."  # prefix, in that file, of the weights of the pretraining's heads
# Files of a complete checkpoint, each matching one of its patterns; FSDP has its own names.
REQUIRED_FILES = {
    "weights": ("model*.safetensors",),
    "optimizer": ("optimizer*",),
    "schedule": ("scheduler.pt",),
    "random states": ("rng_state*.pth",),
    "state": ("trainer_state.json",),
}
# What is read from records of a checkpoint.
READ_ENTRIES = {
    "config.json": {"adapters?": dict},
    "trainer_state.json": {
        "global_step": int,
        "log_history": [dict],
        "stateful_callbacks": {"TrainerControl": {"args": {"should_training_stop": bool}}},
    },
}
# Options for where files are and how they are read: they do not change the numbers.
LOCATION_OPTIONS = {
    "model_name_or_path",
    "text_model_name_or_path",
    "attn_implementation",
    "dataset",
    "tasks_file",
    "cache_media",
    "encoder_cache",
}
# Training arguments that determine the numbers of a run.
DECISIVE_ARGUMENTS = (
    "seed",
    "data_seed",
    "max_steps",
    "num_train_epochs",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "learning_rate",
    "fusion_learning_rate",
    "lr_scheduler_type",
    "lr_scheduler_kwargs",
    "warmup_steps",
    "weight_decay",
    "max_grad_norm",
    "optim",
    "optim_args",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "fusion_pretraining_epochs",
    "fusion_pretraining_learning_rate",
    "fusion_pretraining_weight_decay",
    "fusion_pretraining_batch_size",
    "fusion_pretraining_mixup",
    "fusion_pretraining_token_dropout",
    "fit_pseudo_tokens",
    "distillation",
    "transcript_dropout",
    "train_sampling_strategy",
    "dataloader_drop_last",
    "bf16",
    "fp16",
    "neftune_noise_alpha",
    "eval_strategy",
    "eval_steps",
    "load_best_model_at_end",
    "metric_for_best_model",
    "greater_is_better",
    "early_stopping_patience",
    "world_size",
)


# ---- which checkpoint to resume from -----------------------------------------------------------------------------


def find_defect(checkpoint: Path) -> str | None:
    """Why a checkpoint cannot be resumed from; None if every file exists and none is truncated."""
    for part, patterns in REQUIRED_FILES.items():
        if not any(any(checkpoint.glob(pattern)) for pattern in patterns):
            return f"it has no {part} ({' or '.join(patterns)})"
    for path in sorted(checkpoint.rglob("*")):
        try:
            if path.suffix == ".safetensors":
                with safe_open(path, "pt"):
                    pass
            elif path.suffix == ".json":
                shape = READ_ENTRIES.get(path.name, object)
                check_shape(read_json(path), shape, path.name, "It is another file, or damaged.")
            elif path.suffix in (".pt", ".pth") and not zipfile.is_zipfile(path):
                return f"{path.name} is truncated"
        except (OSError, ValueError, SafetensorError) as error:
            return f"{path.name} cannot be read ({error})"
    if not (checkpoint / "config.json").is_file():
        return None
    for name in read_json(checkpoint / "config.json").get("adapters") or ():
        if not (checkpoint / name / "adapter_model.safetensors").is_file():
            return f"it has no weights of the adapter {name} ({name}/adapter_model.safetensors)"
    return None


def last_complete_checkpoint(folder: Path) -> Path | None:
    """The last complete checkpoint of a run; later, incomplete ones are reported and kept."""
    steps = {}
    for path in folder.glob("checkpoint-*"):
        step = path.name.rpartition("-")[2]
        if step.isdigit():
            steps[int(step)] = path
    for step in sorted(steps, reverse=True):
        defect = find_defect(steps[step])
        if defect is None:
            return steps[step]
        print(f"{steps[step]} is skipped: {defect}.")
    return None


def resolve_output_dir(arguments: EGMFTrainingArguments) -> str | None:
    """The checkpoint to resume from, if there is one. Nothing is changed, and no existing run will be lost.

    An interrupted run is resumed automatically; a finished run, or a folder with other files, is refused.

    Raises:
        ValueError: the folder holds a run that must not be overwritten, cannot be written, or has nothing to resume.
    """
    folder = Path(arguments.output_dir)
    check_writable(folder)
    resume = str(arguments.resume_from_checkpoint or "")
    if resume.lower() not in ("false", "none", ""):
        return str(_requested_checkpoint(folder, resume))
    holds_files = folder.is_dir() and any(path.name != PARTIAL for path in folder.iterdir())
    if not holds_files or arguments.overwrite:
        return None
    if (folder / SETTINGS).is_file() and not (folder / FINISHED).is_file():
        checkpoint = last_complete_checkpoint(folder)
        print(f"{folder} holds an interrupted run: resuming from {checkpoint or 'its beginning'}.")
        return str(checkpoint) if checkpoint is not None else None
    raise ValueError(
        f"{folder} already holds a run. Give another --output_dir, resume it with --resume_from_checkpoint true, or "
        "move it aside with --overwrite."
    )


def _requested_checkpoint(folder: Path, resume: str) -> Path:
    """The folder named by `--resume_from_checkpoint`; for `true`, the last complete checkpoint."""
    if resume.lower() == "true":
        checkpoint = last_complete_checkpoint(folder)
    else:
        checkpoint = Path(resume)
        defect = find_defect(checkpoint) if checkpoint.is_dir() else None
        if defect is not None:
            raise ValueError(f"{checkpoint} cannot be resumed from: {defect}. Give an earlier checkpoint.")
    if checkpoint is None or not checkpoint.is_dir():
        raise ValueError(f"There is no checkpoint to resume from in {folder}. Leave out --resume_from_checkpoint.")
    return checkpoint


def is_last_checkpoint(checkpoint: str, args: EGMFTrainingArguments, max_steps: int) -> bool:
    """Whether training had ended when a checkpoint was written, so that only the final saving is left."""
    state = TrainerState.load_from_json(os.path.join(checkpoint, TRAINER_STATE_NAME))
    stopped = state.stateful_callbacks["TrainerControl"]["args"]["should_training_stop"]
    # A checkpoint requested by SIGTERM also stops the run, but before its end.
    return state.global_step >= max_steps or (stopped and not args.enable_jit_checkpoint)


def move_aside(folder: Path) -> None:
    """Rename an existing run, so that its folder can be used again."""
    if folder.is_dir() and any(folder.iterdir()):
        renamed = folder.with_name(f"{folder.name}.{time.strftime('%Y%m%d-%H%M%S')}")
        os.replace(folder, renamed)
        print(f"The run in {folder} was moved to {renamed}.")


# ---- settings of a run -------------------------------------------------------------------------------------------


def run_settings(
    model_args: ModelArguments, data_args: DataArguments, args: EGMFTrainingArguments, **facts: Any
) -> dict[str, Any]:
    """Everything that determines the numbers of a run, as plain values.

    Args:
        model_args, data_args, args: the options.
        facts: values known once files have been read, such as digests of the examples and the language model.
    """
    options = {**dataclasses.asdict(model_args), **dataclasses.asdict(data_args)}
    settings = {name: value for name, value in options.items() if name not in LOCATION_OPTIONS}
    settings |= {name: getattr(args, name) for name in DECISIVE_ARGUMENTS}
    return json.loads(json.dumps({**settings, **facts}, default=str))


def digest(value: Any) -> str:
    """A short hash of a JSON value; the order of dict keys matters."""
    return digest_of_json(value)[:16]


def examples_digest(examples: list[dict[str, Any]]) -> str:
    """A hash of the examples' ids, tasks, texts and answers."""
    columns = ("id", "task", "text", "context", "answer")
    return digest([[example.get(name) for name in columns] for example in examples])


def media_digest(examples: list[dict[str, Any]], folder: str | Path) -> str:
    """A hash of the examples' clips and features; files count by their path in the corpus folder, which may move."""
    prefix = f"{Path(folder).absolute()}{os.sep}"

    def mark(value: Any) -> Any:
        if isinstance(value, str):
            return value.removeprefix(prefix)
        return value.mark() if isinstance(value, StoredFeatures | StoredMedia) else value is not None

    return digest([[mark(example.get(name)) for name in MEDIA] for example in examples])


def read_pretraining(path: Path) -> dict[str, Any]:
    """The record of a fusion pretraining.

    Raises:
        ValueError: not JSON, or not such a record.
    """
    record = read_json(path)
    advice = "It is not the record of a fusion pretraining, or damaged. Copy it again, or start over with --overwrite."
    check_shape(record, {"losses": [(int, float)], "seconds": (int, float)}, path, advice)
    return record


def require_same_settings(run: Path, settings: dict[str, Any]) -> None:
    """Check that a run was started with these settings; a run without `settings.json` is accepted.

    Raises:
        ValueError: it was started with other settings.
    """
    path = run / SETTINGS
    if not path.is_file():
        return
    before = read_json(path)
    advice = f"It is not the {SETTINGS} of a run, or damaged. Copy it again, or start over with --overwrite."
    check_shape(before, {"seed": int, "learning_rate": (int, float)}, path, advice)
    changes = [
        f"{name} was {before[name]!r} and is {value!r}"
        for name, value in settings.items()
        if name in before and before[name] != value
    ]
    if changes:
        raise ValueError(
            f"{run} was started with other settings: {'; '.join(changes)}. Resume it with the same ones, or start a "
            "new run with another --output_dir or --overwrite."
        )


# ---- writing -----------------------------------------------------------------------------------------------------


def check_disk_space(folder: Path, model: PreTrainedModel, checkpoints: int) -> None:
    """Check that the disk has room for this many checkpoints and the final weights.

    Raises:
        ValueError: it does not.
    """
    stored_elsewhere = keys_stored_elsewhere(model)
    weights = sum(
        tensor.numel() * tensor.element_size()
        for name, tensor in model.state_dict().items()
        if name not in stored_elsewhere
    )
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    adam_states = 2 * trained
    needed = checkpoints * (weights + adam_states) + weights
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ValueError(
            f"{folder} has room for {free / 2**20:,.0f} MiB, but {checkpoints} checkpoints and the final weights take "
            f"{needed / 2**20:,.0f} MiB. Free some space, lower --save_total_limit, or give another --output_dir."
        )


class LogAtSave(TrainerCallback):
    """Logs whenever a checkpoint may be written: a mean loss that spans a checkpoint could not be resumed."""

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if control.should_save or control.should_evaluate:
            control.should_log = True

    on_epoch_end = on_step_end


@contextmanager
def report_write_errors(run: Path, name: str) -> Iterator[None]:
    """Wraps writing into a run's folder: if it fails, removes `.partial/` and says how to continue.

    Raises:
        OSError: the disk is full, or cannot be written.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        by_torch = "PytorchStreamWriter" in str(error) or "unexpected pos" in str(error)
        if isinstance(error, RuntimeError) and not by_torch:
            raise
        free = shutil.disk_usage(run).free / 2**20
        shutil.rmtree(run / PARTIAL, ignore_errors=True)
        last = get_last_checkpoint(str(run)) or "the beginning, because there is no checkpoint yet"
        raise OSError(
            f"{name} could not be written to {run} ({error}); the disk has {free:,.0f} MiB free. Free some "
            f"space and run the same command again: it resumes from {last}."
        ) from error


def final_folder(folder: Path) -> Path:
    """Where a folder will be once it is complete: for .partial/checkpoint-N, checkpoint-N."""
    return folder.parent.parent / folder.name if folder.parent.name == PARTIAL else folder


@contextmanager
def parts_named_from(model: PreTrainedModel, folder: Path) -> Iterator[None]:
    """Let a checkpoint name its language model by the path from this folder, to which it will be renamed."""
    config = model.config
    model.config = with_relative_parts(config, folder)
    try:
        yield
    finally:
        model.config = config


def finalize_checkpoint(source: Path, target: Path) -> None:
    """Flush a complete folder to disk and rename it, replacing a folder of that name."""
    for path in source.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
    if target.exists():
        shutil.rmtree(target)
    os.replace(source, target)


def pretrained_weights(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The weights that the fusion pretraining may change, by their names in the state dict."""
    stored_elsewhere = keys_stored_elsewhere(model)
    return {
        name: tensor
        for name, tensor in model.state_dict().items()
        if name.startswith("egmf.") and name not in stored_elsewhere
    }
