"""Train EGMF: `transformers.Trainer` under Accelerate.

    python -m training.train --config training/configs/demo.yaml
    accelerate launch -m training.train --config my.yaml --dataset my_corpus --output_dir runs/mine

Writes checkpoints that are each a loadable repo, TensorBoard logs, and at the end the best checkpoint itself into
`output_dir` with `training.json` beside it. A run that was interrupted goes on when the same line is started again, to
the same numbers (resuming.py); a finished one is refused, unless `--overwrite` moves it aside.
"""

import dataclasses
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader, RandomSampler
from transformers import EarlyStoppingCallback, set_seed
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.trainer_utils import rotate_checkpoints

from processing_egmf import EGMFProcessor
from processing_egmf.processing_egmf import MODALITIES

from .arguments import DataArguments, EGMFTrainingArguments, ModelArguments, parse_arguments
from .data.collator import EGMFDataCollator
from .data.dataset import MEDIA, EGMFDataset, load_examples
from .data.encoder_cache import EncoderCache
from .data.feature_stats import set_feature_stats
from .data.windows import cut_examples
from .model.builder import build
from .model.language_model import quantization
from .model.tasks_file import read_tasks
from .records import check_writable, commit, versions, write_json
from .trainer.checkpointing import (
    FINISHED,
    FUSION_PRETRAINING,
    FUSION_PRETRAINING_WEIGHTS,
    PARTIAL,
    SETTINGS,
    LogAtSave,
    check_disk_space,
    digest,
    examples_digest,
    media_digest,
    pretrained_weights,
    require_same_settings,
    resolve_output_dir,
    run_settings,
    saving_into,
)
from .trainer.distributed import num_elements, whole
from .trainer.pretraining import pretrain_fusion
from .trainer.sampling import EpochBatchSampler, IndexedCollator, IndexedDataset, require_examples
from .trainer.trainer import EGMFTrainer, make_compute_metrics


def move_aside(folder: Path) -> None:
    """Give a run that is to be overwritten a name of its own, once everything that can be wrong has been checked."""
    if folder.is_dir() and any(folder.iterdir()):
        aside = folder.with_name(f"{folder.name}.{time.strftime('%Y%m%d-%H%M%S')}")
        os.replace(folder, aside)
        print(f"The run that was in {folder} is now in {aside}.")


def used_tasks(tasks: dict, rows: list[dict]) -> dict:
    """The tasks that the rows name, in the order of `tasks`; unknown names are left for `EGMFDataset` to report."""
    default = next(iter(tasks))
    named = {row.get("task") or default for row in rows}
    return {name: task for name, task in tasks.items() if name in named} or tasks


def _select(rows: list[dict], arguments: DataArguments, most: int | None, default: str) -> list[dict]:
    if most is not None and most < 1:
        raise ValueError(f"max_train_samples and max_eval_samples keep at least one row, not {most}.")
    if arguments.only_tasks is not None:
        rows = [row for row in rows if (row.get("task") or default) in arguments.only_tasks]
        if not rows:
            raise ValueError(f"No row is of the tasks {', '.join(arguments.only_tasks)}.")
    return rows[:most]


def require_same_layers(rows: list[dict], arguments: DataArguments) -> None:
    """Under ZeRO-3 every process must run the same layers in every step, or they wait for one another for ever: an
    encoder rests where a batch lacks its modality.

    Raises:
        ValueError: dropout of modalities, or rows that differ in what can be heard and seen.
    """
    if arguments.modality_dropout > 0:
        raise ValueError(
            f"ZeRO-3 goes with --modality_dropout 0 alone, not {arguments.modality_dropout}: a process whose batch "
            "lacks a modality would leave the others waiting. Give 0, or use FSDP2 or DDP."
        )
    wanted = [name for name in MEDIA if name.removesuffix("_features") in (arguments.modalities or MODALITIES)]
    for name in wanted:
        there = [row["id"] for row in rows if row.get(name) is not None]
        if 0 < len(there) < len(rows):
            raise ValueError(
                f"ZeRO-3 needs rows with the same modalities, but {len(rows) - len(there)} of {len(rows)} have no "
                f"{name}. Leave these rows or this modality (--modalities) out, or use FSDP2 or DDP."
            )


FORMS = {  # modality -> what its encoder may take -> fields of a row that have it
    "audio": {"waveform": ("audio", "video"), "features": ("audio_features",)},
    "video": {"frames": ("video",), "features": ("video_features",)},
}


def require_modalities(rows: list[dict], processor: EGMFProcessor, wanted: Sequence[str], show: bool) -> None:
    """What is to be heard or seen must be in some row; where rows have it in another form only, nothing is trained.

    Raises:
        ValueError: an encoder takes features, and the rows have clips, or the other way round.
    """
    for modality, kind in (("audio", processor.audio_input), ("video", processor.video_input)):
        forms = FORMS[modality].items()
        there = [form for form, fields in forms if any(row.get(field) is not None for row in rows for field in fields)]
        if kind is None or modality not in wanted or kind in there:
            continue
        if there:
            raise ValueError(
                f"--{modality} {kind} is asked for, but the training rows have {modality} as {there[0]} alone. "
                f"Give --{modality} {there[0]} or none, or the data that the recipe is for."
            )
        if show:
            print(f"warning: no training row has {modality}: nothing will be learned of it.", file=sys.stderr)


def _keep_usable(dataset: EGMFDataset, modalities: Sequence[str], split: str, show: bool) -> None:
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


def _pretrain_fusion(
    trainer: EGMFTrainer, dataset: EGMFDataset, collator: EGMFDataCollator, started: float, new: bool
) -> dict[str, Any]:
    """Measures a new model's features, and warms up. What came of it is kept, so that a run which is started again has
    it: `{"losses", "seconds" since it was started, "taken_up"}`."""
    arguments, accelerator = trainer.args, trainer.accelerator
    accelerator.wait_for_everyone()  # the main process may have moved an older run aside
    note, weights = (Path(arguments.output_dir, name) for name in (FUSION_PRETRAINING, FUSION_PRETRAINING_WEIGHTS))
    taken_up = note.is_file() and weights.is_file()
    if accelerator.is_main_process and taken_up:
        trainer.model.load_state_dict(load_file(weights), strict=False)
    elif accelerator.is_main_process and new:
        set_feature_stats(trainer.model, dataset, progress=not arguments.disable_tqdm)
    if accelerator.num_processes > 1:  # all start from what the main process has
        for tensor in trainer.model.egmf.state_dict().values():
            torch.distributed.broadcast(tensor, src=0)
    if taken_up:
        return {**json.loads(note.read_text(encoding="utf-8")), "taken_up": True}
    size, count = arguments.fusion_pretraining_batch_size, accelerator.num_processes
    batches = EpochBatchSampler(
        RandomSampler(dataset), -(-size // count), count, accelerator.process_index, arguments.seed
    )
    loader = DataLoader(
        IndexedDataset(dataset, arguments.seed),
        batch_sampler=batches,
        collate_fn=IndexedCollator(collator),
        num_workers=arguments.dataloader_num_workers,
    )
    with whole(trainer.model.get_input_embeddings().weight):
        losses = pretrain_fusion(
            trainer.model,
            collator.processor,
            loader,
            arguments.fusion_pretraining_epochs,
            arguments.fusion_pretraining_learning_rate,
            arguments.device,
            progress=not arguments.disable_tqdm and accelerator.is_main_process,
        )
    warmed = {"losses": losses, "seconds": time.time() - started}
    if accelerator.is_main_process:
        with saving_into(note.parent, FUSION_PRETRAINING_WEIGHTS):
            if losses:
                partial = weights.with_name(f".{FUSION_PRETRAINING_WEIGHTS}")
                save_file(pretrained_weights(trainer.model), partial)
                os.replace(partial, weights)
            write_json(note, warmed)
    accelerator.wait_for_everyone()
    return {**warmed, "taken_up": False}


def _effective(arguments: ModelArguments) -> dict[str, Any]:
    """The options that made the model: a checkpoint that is trained on keeps its own."""
    chosen = dataclasses.asdict(arguments)
    return (
        chosen
        if arguments.model_name_or_path is None
        else {name: chosen[name] for name in ("model_name_or_path", "text_model_name_or_path")}
    )


def train(model_args: ModelArguments, data_args: DataArguments, args: EGMFTrainingArguments) -> EGMFTrainer:
    """Build, warm up, train, keep the best, save. Returns the trainer with its log history."""
    if data_args.dataset is None:
        raise ValueError("Give --dataset, the folder of a corpus.")
    quantization(model_args)
    if data_args.encoder_cache is not None:
        for name in ("augmentation", "voice_augmentation"):
            if getattr(data_args, name):
                raise ValueError(f"--{name} changes clips at every turn: nothing of --encoder_cache could be used.")
        check_writable(Path(data_args.encoder_cache))
    checkpoint = resolve_output_dir(args)
    start, folder = Path(model_args.model_name_or_path or "."), Path(args.output_dir)
    if model_args.model_name_or_path is not None and start.resolve().is_relative_to(folder.resolve()):
        raise ValueError(
            f"--model_name_or_path {model_args.model_name_or_path} lies in --output_dir. Give another --output_dir."
        )
    set_seed(args.seed)
    started = time.time()
    tasks = read_tasks(data_args.tasks_file)
    rows = load_examples(data_args.dataset, manifest=data_args.split_manifest)
    default = next(iter(tasks))
    splits = {str(row.get("split")) for row in rows}
    for split in (data_args.train_split, data_args.eval_split):
        if split not in splits:
            raise ValueError(f"{data_args.dataset} has no split {split!r}. It has {', '.join(sorted(splits))}.")
    train_rows = [row for row in rows if row.get("split") == data_args.train_split]
    eval_rows = [row for row in rows if row.get("split") == data_args.eval_split]
    train_rows = _select(train_rows, data_args, data_args.max_train_samples, default)
    eval_rows = _select(eval_rows, data_args, data_args.max_eval_samples, default)
    require_examples(len(train_rows), args.world_size, f"rows of split {data_args.train_split!r}")
    require_examples(len(eval_rows), args.world_size, f"rows of split {data_args.eval_split!r}")
    if is_deepspeed_zero3_enabled():
        require_same_layers(train_rows + eval_rows, data_args)
    model, processor = build(model_args, used_tasks(tasks, train_rows + eval_rows), args.output_dir)
    given = {"train_rows": examples_digest(train_rows), "eval_rows": examples_digest(eval_rows)}
    given |= {"language_model": model.config.text_model_fingerprint}
    given |= {"train_media": media_digest(train_rows, data_args.dataset)}
    given |= {"eval_media": media_digest(eval_rows, data_args.dataset)}
    given |= {"tasks": digest([dataclasses.asdict(task) for task in processor.task_objects.values()])}
    settings = run_settings(model_args, data_args, args, **given)
    if checkpoint is not None or (
        not args.overwrite and (folder / FUSION_PRETRAINING).is_file()
    ):  # else nothing was learned yet
        require_same_settings(Path(checkpoint).parent if checkpoint else folder, settings)
    encoder_cache = EncoderCache(data_args.encoder_cache, model, processor) if data_args.encoder_cache else None
    train_set, eval_set = (
        EGMFDataset(
            cut_examples(part, processor, data_args.window_hop), processor, data_args.cache_media, encoder_cache
        )
        for part in (train_rows, eval_rows)
    )
    # The warm-up asks every modality alone and all together by itself: it needs no dropout of modalities.
    changes = {name: getattr(data_args, name) for name in ("augmentation", "voice_augmentation")}
    rehearse = EGMFDataCollator(processor, False, data_args.modalities, **changes)
    answer = EGMFDataCollator(processor, True, data_args.modalities, data_args.modality_dropout, **changes)
    require_modalities(train_rows, processor, data_args.modalities or MODALITIES, args.process_index == 0)
    for dataset, split in ((train_set, data_args.train_split), (eval_set, data_args.eval_split)):
        _keep_usable(dataset, data_args.modalities or MODALITIES, split, show=args.process_index == 0)
    args.distributed_state.wait_for_everyone()  # until all have seen what was there, nothing is written
    if args.process_index == 0:
        if checkpoint is None and args.overwrite:
            move_aside(folder)
        shutil.rmtree(folder / PARTIAL, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        check_disk_space(
            folder, model, 0 if args.save_strategy == "no" else 1 if checkpoint else args.save_total_limit + 1
        )
        write_json(folder / SETTINGS, settings)
    if encoder_cache is not None:
        counts = encoder_cache.fill((train_set, eval_set), args.device, (args.process_index, args.world_size))
        args.distributed_state.wait_for_everyone()
        print(
            f"Frozen encoders: {counts['computed']} clips computed, {counts['stored']} found in {encoder_cache.root}."
        )
    stop = args.early_stopping_patience
    trainer = EGMFTrainer(
        model=model,
        args=args,
        train_dataset=train_set,
        eval_dataset=eval_set,
        data_collator=answer,
        eval_collator=EGMFDataCollator(processor, False, data_args.modalities),
        processing_class=processor,
        compute_metrics=make_compute_metrics(processor),
        callbacks=[LogAtSave(), *([EarlyStoppingCallback(stop)] if stop is not None else [])],
    )
    note, warmed = folder / FUSION_PRETRAINING, {"losses": [], "seconds": 0.0}
    if checkpoint is None:
        warmed = _pretrain_fusion(trainer, train_set, rehearse, started, new=model_args.model_name_or_path is None)
        set_seed(args.seed)  # the same draws, whether the warm-up was taken up or not
    elif note.is_file():
        warmed = json.loads(note.read_text(encoding="utf-8"))
    trainer.train(resume_from_checkpoint=checkpoint)
    with saving_into(folder, "the trained model"):
        trainer.save_model()
    if trainer.is_world_process_zero():
        # A run that was killed behind its last checkpoint may have one too many.
        rotate_checkpoints(str(folder), args.save_total_limit, trainer.state.best_model_checkpoint)
        trainer.state.save_to_json(str(folder / "trainer_state.json"))
        write_json(
            folder / FINISHED,
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
                    "trained": sum(num_elements(p) for p in model.parameters() if p.requires_grad),
                    "all": sum(num_elements(p) for p in model.parameters()),
                },
                "resumed_from": checkpoint or (FUSION_PRETRAINING_WEIGHTS if warmed.get("taken_up") else None),
                # Of a resumed run, the time since it was resumed.
                "seconds": {"fusion_pretraining": warmed["seconds"], "all": time.time() - started},
                "fusion_pretraining_losses": warmed["losses"],
                "best_metric": trainer.state.best_metric,
                "best_step": trainer.state.best_global_step,
                "log_history": trainer.state.log_history,
            },
        )
        (folder / FUSION_PRETRAINING_WEIGHTS).unlink(missing_ok=True)
    return trainer


def main(argv: Sequence[str] | None = None) -> None:
    try:
        train(*parse_arguments(argv)).end_training()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
