"""Train EGMF: `transformers.Trainer` under Accelerate.

    python -m training.train --config training/configs/demo.yaml
    accelerate launch -m training.train --config my.yaml --data my_corpus --output_dir runs/mine

Writes checkpoints that are each a loadable repo, TensorBoard logs, and at the end the best checkpoint itself into
`output_dir` with `training.json` beside it. A run that is already there is refused, unless `--resume_from_checkpoint
true` goes on with it or `--overwrite` moves it aside.
"""

import dataclasses
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, RandomSampler
from transformers import EarlyStoppingCallback, set_seed
from transformers.trainer_utils import get_last_checkpoint

from processing_egmf.processing_egmf import MODALITIES

from .arguments import DataArguments, EGMFTrainingArguments, ModelArguments, parse_arguments
from .build import build, quantization, read_tasks
from .collator import EGMFCollator
from .gathering import elements, whole
from .records import commit, versions, write_json
from .rows import RowDataset, load_rows
from .sharding import EpochBatches, PlacedCollator, PlacedRows, require_rows
from .standardise import standardise_features
from .trainer import EGMFTrainer, make_compute_metrics
from .warm_up import warm_up


def claim_output_dir(arguments: EGMFTrainingArguments) -> str | None:
    """Make sure that nothing is lost; the checkpoint to resume from, if that is asked for. Changes nothing itself.

    Raises:
        ValueError: a run is already there, or there is nothing to resume.
    """
    folder = Path(arguments.output_dir)
    resume = arguments.resume_from_checkpoint
    if resume is not None and str(resume).lower() not in ("false", "none", ""):
        checkpoint = get_last_checkpoint(str(folder)) if str(resume).lower() == "true" and folder.is_dir() else resume
        if checkpoint is None or not Path(str(checkpoint)).is_dir():
            raise ValueError(f"There is no checkpoint to resume from in {folder}. Start without resuming.")
        return str(checkpoint)
    if folder.is_dir() and any(folder.iterdir()) and not arguments.overwrite:
        raise ValueError(
            f"{folder} already holds a run. Give another --output_dir, go on with it by --resume_from_checkpoint "
            "true, or move it aside with --overwrite."
        )
    return None


def move_aside(folder: Path) -> None:
    """Give a run that is to be overwritten a name of its own, once everything that can be wrong has been checked."""
    if folder.is_dir() and any(folder.iterdir()):
        aside = folder.with_name(f"{folder.name}.{time.strftime('%Y%m%d-%H%M%S')}")
        os.replace(folder, aside)
        print(f"The run that was in {folder} is now in {aside}.")


def used_tasks(tasks: dict, rows: list[dict]) -> dict:
    """The tasks that the rows name, in the order of `tasks`; unknown names are left for `RowDataset` to report."""
    default = next(iter(tasks))
    named = {row.get("task") or default for row in rows}
    return {name: task for name, task in tasks.items() if name in named} or tasks


def _select(rows: list[dict], arguments: DataArguments, most: int | None, default: str) -> list[dict]:
    if most is not None and most < 1:
        raise ValueError(f"max_train_rows and max_eval_rows keep at least one row, not {most}.")
    if arguments.only_tasks is not None:
        rows = [row for row in rows if (row.get("task") or default) in arguments.only_tasks]
        if not rows:
            raise ValueError(f"No row is of the tasks {', '.join(arguments.only_tasks)}.")
    return rows[:most]


def _keep_usable(dataset: RowDataset, modalities: Sequence[str], split: str, show: bool) -> None:
    """Leave out the rows that have none of the modalities, and say which.

    Raises:
        ValueError: none is left.
    """
    empty, most, wanted = dataset.without(modalities), 20, ", ".join(modalities)
    if len(empty) == len(dataset):
        raise ValueError(f"No row of split {split!r} has any of the modalities {wanted}. Choose others.")
    if empty and show:
        shown = ", ".join(empty[:most]) + (", ..." if len(empty) > most else "")
        print(f"Split {split!r}: left out {len(empty)} of {len(dataset)} rows, which have no {wanted}: {shown}.")
    dataset.leave_out(empty)


def _warm_up(trainer: EGMFTrainer, dataset: RowDataset, collator: EGMFCollator, new: bool) -> list[float]:
    """Behind the measuring of a new model's features, on the main process; all start from what it has."""
    arguments, count = trainer.args, trainer.accelerator.num_processes
    if new and trainer.accelerator.is_main_process:
        standardise_features(trainer.model, dataset, progress=not arguments.disable_tqdm)
    if count > 1:
        for tensor in trainer.model.egmf.state_dict().values():
            torch.distributed.broadcast(tensor, src=0)
    loader = DataLoader(
        PlacedRows(dataset, arguments.seed),
        batch_sampler=EpochBatches(
            RandomSampler(dataset),
            -(-arguments.warm_up_batch_size // count),
            count,
            trainer.accelerator.process_index,
            arguments.seed,
        ),
        collate_fn=PlacedCollator(collator),
        num_workers=arguments.dataloader_num_workers,
    )
    with whole(trainer.model.get_input_embeddings().weight):
        return warm_up(
            trainer.model,
            collator.processor,
            loader,
            arguments.warm_up_epochs,
            arguments.warm_up_learning_rate,
            arguments.device,
            progress=not arguments.disable_tqdm and trainer.accelerator.is_main_process,
        )


def _effective(arguments: ModelArguments) -> dict[str, Any]:
    """The options that made the model: a checkpoint that is trained on keeps its own."""
    chosen = dataclasses.asdict(arguments)
    return chosen if arguments.model is None else {name: chosen[name] for name in ("model", "text_model")}


def train(model_args: ModelArguments, data_args: DataArguments, args: EGMFTrainingArguments) -> EGMFTrainer:
    """Build, warm up, train, keep the best, save. Returns the trainer with its log history."""
    if data_args.data is None:
        raise ValueError("Give --data, the folder of a corpus.")
    quantization(model_args)
    checkpoint = claim_output_dir(args)
    start, folder = Path(model_args.model or "."), Path(args.output_dir)
    if model_args.model is not None and start.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"--model {model_args.model} lies in --output_dir. Give another --output_dir.")
    set_seed(args.seed)
    started = time.time()
    tasks = read_tasks(data_args.tasks_file)
    rows = load_rows(data_args.data, manifest=data_args.split_manifest)
    default = next(iter(tasks))
    splits = {str(row.get("split")) for row in rows}
    for split in (data_args.train_split, data_args.eval_split):
        if split not in splits:
            raise ValueError(f"{data_args.data} has no split {split!r}. It has {', '.join(sorted(splits))}.")
    train_rows = [row for row in rows if row.get("split") == data_args.train_split]
    eval_rows = [row for row in rows if row.get("split") == data_args.eval_split]
    train_rows = _select(train_rows, data_args, data_args.max_train_rows, default)
    eval_rows = _select(eval_rows, data_args, data_args.max_eval_rows, default)
    require_rows(len(train_rows), args.world_size, f"rows of split {data_args.train_split!r}")
    require_rows(len(eval_rows), args.world_size, f"rows of split {data_args.eval_split!r}")
    model, processor = build(model_args, used_tasks(tasks, train_rows + eval_rows), args.output_dir)
    train_set = RowDataset(train_rows, processor, data_args.cache_media)
    eval_set = RowDataset(eval_rows, processor, data_args.cache_media)
    # The warm-up asks every modality alone and all together by itself: it needs no dropout of modalities.
    rehearse = EGMFCollator(processor, False, data_args.modalities, augmentation=data_args.augmentation)
    answer = EGMFCollator(processor, True, data_args.modalities, data_args.modality_dropout, data_args.augmentation)
    for dataset, split in ((train_set, data_args.train_split), (eval_set, data_args.eval_split)):
        _keep_usable(dataset, data_args.modalities or MODALITIES, split, show=args.process_index == 0)
    if checkpoint is None and args.process_index == 0:
        move_aside(Path(args.output_dir))
    stop = args.early_stopping_patience
    trainer = EGMFTrainer(
        model=model,
        args=args,
        train_dataset=train_set,
        eval_dataset=eval_set,
        data_collator=answer,
        eval_collator=EGMFCollator(processor, False, data_args.modalities),
        processing_class=processor,
        compute_metrics=make_compute_metrics(processor),
        callbacks=[EarlyStoppingCallback(stop)] if stop is not None else None,
    )
    note = Path(args.output_dir) / "warm_up.json"
    if checkpoint is None:
        warmed = {
            "losses": _warm_up(trainer, train_set, rehearse, new=model_args.model is None),
            "seconds": time.time() - started,
        }
        if trainer.is_world_process_zero():
            write_json(note, warmed)
    else:
        warmed = json.loads(note.read_text(encoding="utf-8")) if note.is_file() else {"losses": [], "seconds": 0.0}
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()
    if trainer.is_world_process_zero():
        trainer.state.save_to_json(str(Path(args.output_dir) / "trainer_state.json"))
        write_json(
            Path(args.output_dir) / "training.json",
            {
                "model_arguments": _effective(model_args),
                "data_arguments": dataclasses.asdict(data_args),
                "training_arguments": args.to_dict(),
                "seed": args.seed,
                "processes": args.world_size,
                "versions": versions(),
                "commit": commit(),
                "rows": {"train": len(train_set), "eval": len(eval_set)},
                "parameters": {
                    "trained": sum(elements(p) for p in model.parameters() if p.requires_grad),
                    "all": sum(elements(p) for p in model.parameters()),
                },
                "resumed_from": checkpoint,
                # Of a resumed run, the time since it was resumed.
                "seconds": {"until_warmed_up": warmed["seconds"], "all": time.time() - started},
                "warm_up_losses": warmed["losses"],
                "best_metric": trainer.state.best_metric,
                "best_step": trainer.state.best_global_step,
                "log_history": trainer.state.log_history,
            },
        )
    return trainer


def main(argv: Sequence[str] | None = None) -> None:
    try:
        train(*parse_arguments(argv)).accelerator.end_training()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
