"""A training run, from options to a saved model.

    options ─► examples ─► model, processor ─► datasets ─► output folder ─► encoder cache
                                                                              │
             saved model, training.json ◄─ training ◄─ fusion pretraining ◄───┘

An interrupted run resumes at training, or at fusion pretraining if there is no checkpoint yet; see checkpointing.py.
"""

import dataclasses
import os
import shutil
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.logging import get_logger
from safetensors.torch import load_file, save_file
from transformers import EarlyStoppingCallback, TrainerState, set_seed
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import rotate_checkpoints

from ..arguments import DataArguments, EGMFTrainingArguments, ModelArguments
from ..data.augmentation import AugmentationSettings
from ..data.collator import SampleCollator
from ..data.dataset import EGMFDataset, load_examples
from ..data.dataset_options import DatasetOptions
from ..data.encoder_cache import EncoderCache, check_voice_copies, pretrained_stems
from ..data.feature_stats import set_feature_stats
from ..data.layer_weights import fit_layer_weights
from ..data.locations import check_dataset
from ..data.overlaps import warn_of_overlaps
from ..data.selection import (
    check_encoder_inputs,
    remove_unusable,
    select_examples,
    select_split,
    select_values,
    used_tasks,
    warn_of_missing_labels,
    warn_of_shared_examples,
    with_values,
)
from ..data.speakers import SpeakerNormalization
from ..data.windows import cut_examples, num_clips
from ..evaluation.processes import require_examples
from ..model.builder import build, effective_options
from ..model.encoders import without_untrained_encoders
from ..model.language_model import check_text_model_location, quantization, with_lora_targets
from ..model.readout import EGMFWithHead
from ..model.tasks_file import read_tasks
from ..option_checks import check_data_options
from ..records import check_writable, commit, only_writer, peak_gib, versions, weights_digest, write_json
from .alignment import align_pseudo_tokens, report_alignment
from .checkpointing import (
    FINISHED,
    FUSION_PRETRAINING,
    FUSION_PRETRAINING_WEIGHTS,
    HEADS,
    PARTIAL,
    SETTINGS,
    LogAtSave,
    check_disk_space,
    digest,
    examples_digest,
    is_last_checkpoint,
    media_digest,
    move_aside,
    pretrained_weights,
    read_pretraining,
    report_write_errors,
    require_same_settings,
    resolve_output_dir,
    run_settings,
)
from .distillation import Distillation
from .distributed import num_elements
from .mixup import make_mixup
from .next_steps import next_steps
from .pretraining import AnswerHeads, make_optimizer, pretrain_fusion, pretraining_loss
from .pseudo_tokens import fit_pseudo_tokens
from .rehearsal import check_best_metric, check_optimizer, check_reports
from .trainer import EGMFTrainer, make_compute_metrics


logger = get_logger(__name__)


def train(model_args: ModelArguments, data_args: DataArguments, args: EGMFTrainingArguments) -> EGMFTrainer:
    """Build a model, pretrain its fusion, train, keep the best checkpoint, save.

    Returns:
        The trainer with its log history; every process must call its `end_training()` last.

    Raises:
        ValueError: options contradict each other or the data; nothing has been written then.
        OSError: a file cannot be read or written.
    """
    return TrainingRun(model_args, data_args, args).run()


class TrainingRun:
    """The steps of a run, in the order of `run`.

    Args:
        model_args: the model to build, or the checkpoint to fine-tune.
        data_args: the dataset and how it is used.
        args: `TrainingArguments` with our additions.
    """

    def __init__(self, model_args: ModelArguments, data_args: DataArguments, args: EGMFTrainingArguments):
        self.model_args = model_args
        self.data_args = data_args
        self.args = args
        self.folder = Path(args.output_dir)
        self.started = time.time()
        self.is_main_process = args.process_index == 0

    def run(self) -> EGMFTrainer:
        """All steps, while no other run may use the folder."""
        self.check_options()
        text_model = self.model_args.text_model_name_or_path
        if text_model is not None:
            check_text_model_location(text_model)
            # What is here is checked before what is on the Hub, which takes half a minute if it cannot be reached.
            if Path(text_model).is_dir():
                self.model_args = with_lora_targets(self.model_args)
        check_writable(self.folder)
        with only_writer(self.folder, "training run") if self.is_main_process else nullcontext():
            return self.take_steps()

    def take_steps(self) -> EGMFTrainer:
        self.checkpoint = resolve_output_dir(self.args)
        set_seed(self.args.seed)
        self.read_examples()
        self.model_args = with_lora_targets(self.model_args)
        self.model_args = without_untrained_encoders(self.model_args, self.data_args.modalities)
        self.model, self.processor = build(self.model_args, self.tasks)
        self.settings = self.collect_settings()
        self.make_datasets()
        self.prepare_folder()
        self.fill_encoder_cache()
        self.normalize_speakers()
        self.trainer = self.make_trainer()
        self.pretrain()
        self.distill()
        self.train()
        self.alignment = self.align()
        self.save()
        return self.trainer

    def check_options(self) -> None:
        """Refuse options that cannot work, before any data is read."""
        check_dataset(self.data_args.dataset)
        check_data_options(self.data_args)
        check_optimizer(self.args)
        check_reports(self.args)
        quantization(self.model_args)
        if self.data_args.encoder_cache:
            check_writable(Path(self.data_args.encoder_cache))
        start = self.model_args.model_name_or_path
        if start is not None and Path(start).resolve().is_relative_to(self.folder.resolve()):
            raise ValueError(f"--model_name_or_path {start} is inside --output_dir. Give another --output_dir.")

    # ---- data and model ------------------------------------------------------------------------------------------

    def read_examples(self) -> None:
        """The examples of both splits, and the tasks that they name."""
        data_args = self.data_args
        tasks = read_tasks(data_args.tasks_file)
        default_task = next(iter(tasks))
        options = DatasetOptions.from_arguments(vars(data_args))
        examples = load_examples(
            data_args.dataset,
            manifest=data_args.split_manifest,
            options=options,
            needed=(data_args.train_split, data_args.eval_split),
        )
        selected = []
        for option, split, max_samples in (
            ("--train_split", data_args.train_split, data_args.max_train_samples),
            ("--eval_split", data_args.eval_split, data_args.max_eval_samples),
        ):
            of_split = select_split(examples, split, data_args.dataset, option)
            of_split = select_values(of_split, data_args.where, split)
            selected.append(select_examples(of_split, data_args.only_tasks, max_samples, default_task))
            require_examples(len(selected[-1]), self.args.world_size, f"examples of split {split!r}")
        self.train_examples, self.eval_examples = selected
        self.tasks = used_tasks(tasks, self.train_examples + self.eval_examples)
        if self.is_main_process:
            warn_of_overlaps(with_values(examples, data_args.where), data_args.dataset)
            warn_of_missing_labels(self.train_examples, self.tasks, data_args.train_split)
            warn_of_missing_labels(self.eval_examples, self.tasks, data_args.eval_split)
            if self.args.eval_strategy != "no":
                warn_of_shared_examples(self.train_examples, self.eval_examples, data_args.eval_split)

    def collect_settings(self) -> dict[str, Any]:
        """Everything that determines the run's numbers; a resumed run must have the same settings."""
        dataset = self.data_args.dataset
        tasks = [dataclasses.asdict(task) for task in self.processor.task_objects.values()]
        settings = run_settings(
            self.model_args,
            self.data_args,
            self.args,
            train_examples=examples_digest(self.train_examples),
            eval_examples=examples_digest(self.eval_examples),
            language_model=self.model.config.text_model_fingerprint,
            train_media=media_digest(self.train_examples, dataset),
            eval_media=media_digest(self.eval_examples, dataset),
            tasks=digest(tasks),
        )
        # A run with neither a checkpoint nor a finished pretraining has nothing to resume: any settings will do.
        if self.checkpoint is not None:
            require_same_settings(Path(self.checkpoint).parent, settings)
        elif not self.args.overwrite and (self.folder / FUSION_PRETRAINING).is_file():
            require_same_settings(self.folder, settings)
        return settings

    def make_datasets(self) -> None:
        data_args = self.data_args
        tasks = used_tasks(self.tasks, self.eval_examples).values()
        check_best_metric(self.args, tasks, self.model.config.expert_names)
        self.encoder_cache = None
        if data_args.encoder_cache and all(stem.trainable for stem in pretrained_stems(self.model).values()):
            logger.warning("--encoder_cache has no effect: this model has no frozen pretrained encoder.")
        elif data_args.encoder_cache:
            self.encoder_cache = EncoderCache(data_args.encoder_cache, self.model, self.processor)
        check_voice_copies(data_args.voice_copies, self.encoder_cache, data_args.modalities)
        augmentation = AugmentationSettings.from_arguments(data_args, self.args.seed)
        shared = {
            "processor": self.processor,
            "modalities": data_args.modalities,
            "cache_media": data_args.cache_media,
            "encoder_cache": self.encoder_cache,
        }
        train_examples = cut_examples(self.train_examples, self.processor, data_args.window_hop)
        eval_examples = cut_examples(self.eval_examples, self.processor, data_args.window_hop)
        # A head reads its answer at the end of the prompt.
        with_labels = not isinstance(self.model, EGMFWithHead)
        self.train_set = EGMFDataset(train_examples, with_labels=with_labels, augmentation=augmentation, **shared)
        self.eval_set = EGMFDataset(eval_examples, **shared)
        show = self.is_main_process
        check_encoder_inputs(self.train_examples, self.processor, self.train_set.modalities)
        remove_unusable(self.train_set, data_args.train_split, show)
        remove_unusable(self.eval_set, data_args.eval_split, show)
        batch_size = self.args.train_batch_size * self.args.world_size
        if self.args.dataloader_drop_last and len(self.train_set) < batch_size:
            raise ValueError(
                f"--dataloader_drop_last leaves nothing to train on: {len(self.train_set)} examples are less than a "
                f"batch of {batch_size}. Leave it out, or lower --per_device_train_batch_size."
            )

    def prepare_folder(self) -> None:
        """On the main process, move an older run aside and write the settings."""
        args = self.args
        # Nothing is written until every process has checked the contents of the folder.
        args.distributed_state.wait_for_everyone()
        if not self.is_main_process:
            return
        if self.checkpoint is None and args.overwrite:
            move_aside(self.folder)
        shutil.rmtree(self.folder / PARTIAL, ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        checkpoints = 1 if self.checkpoint else args.save_total_limit + 1
        check_disk_space(self.folder, self.model, 0 if args.save_strategy == "no" else checkpoints)
        write_json(self.folder / SETTINGS, self.settings)

    def fill_encoder_cache(self) -> None:
        if self.encoder_cache is None:
            return
        args = self.args
        share = (args.process_index, args.world_size)
        counts = self.encoder_cache.fill((self.train_set, self.eval_set), args.device, share)
        args.distributed_state.wait_for_everyone()
        print(
            f"Frozen encoders: {counts['computed']} outputs computed, {counts['stored']} found in "
            f"{self.encoder_cache.root}."
        )

    def normalize_speakers(self) -> None:
        if not self.data_args.speaker_normalization:
            return
        for dataset in (self.train_set, self.eval_set):
            progress = not self.args.disable_tqdm and self.is_main_process
            dataset.normalize_speakers(SpeakerNormalization(self.model, dataset, progress))

    def make_trainer(self) -> EGMFTrainer:
        callbacks = [LogAtSave()]
        if self.args.early_stopping_patience is not None:
            callbacks.append(EarlyStoppingCallback(self.args.early_stopping_patience))
        trainer = EGMFTrainer(
            model=self.model,
            args=self.args,
            train_dataset=self.train_set,
            eval_dataset=self.eval_set,
            data_collator=SampleCollator(self.processor),
            processing_class=self.processor,
            compute_metrics=make_compute_metrics(self.processor, self.model.config),
            callbacks=callbacks,
        )
        trainer.fits_pseudo_tokens = self.args.fit_pseudo_tokens and self.can_fit_pseudo_tokens()
        return trainer

    def can_fit_pseudo_tokens(self) -> bool:
        """Whether there is a new projection to fit, and heads to fit it to; warns if not."""
        if self.model_args.model_name_or_path is not None:
            logger.warning("--fit_pseudo_tokens has no effect: this model has learned to read its pseudo tokens.")
            return False
        return self.follows_pretraining("fit_pseudo_tokens")

    # ---- fusion pretraining --------------------------------------------------------------------------------------

    def pretrain(self) -> None:
        """Measure a new model's feature statistics and pretrain its fusion, unless that was done before.

        Sets `self.pretraining` to `{"losses", "seconds" since the start of the run, "pseudo_token_fit", "reused"}`.
        """
        record = self.folder / FUSION_PRETRAINING
        if self.checkpoint is not None:
            self.pretraining = {"losses": [], "seconds": 0.0}
            if record.is_file():
                self.pretraining = read_pretraining(record)
            return
        accelerator = self.trainer.accelerator
        accelerator.wait_for_everyone()  # the main process may have moved an older run aside
        weights = self.folder / FUSION_PRETRAINING_WEIGHTS
        reused = record.is_file() and weights.is_file()
        if self.is_main_process and reused:
            state = {name.removeprefix("egmf."): tensor for name, tensor in load_file(weights).items()}
            self.model.egmf.load_state_dict(state, strict=False)  # not the heads
        elif self.is_main_process and self.model_args.model_name_or_path is None:
            show = not self.args.disable_tqdm
            set_feature_stats(self.model, self.train_set, progress=show)
            if self.model_args.fit_layer_weights:
                fit_layer_weights(self.model, self.train_set, progress=show)
        if accelerator.num_processes > 1:  # all start from the weights of the main process
            for tensor in self.model.egmf.state_dict().values():
                torch.distributed.broadcast(tensor, src=0)
        if reused:
            self.pretraining = {**read_pretraining(record), "reused": True}
        else:
            self.pretraining = {**self.run_pretraining(), "seconds": time.time() - self.started}
            if self.is_main_process:
                self.save_pretraining()
            accelerator.wait_for_everyone()
        set_seed(self.args.seed)  # the same random numbers, whether the pretraining was reused or not

    def run_pretraining(self) -> dict[str, Any]:
        """Returns `losses` of the epochs, and `pseudo_token_fit` if they were fitted."""
        args = self.args
        loader = self.trainer.loader_without_labels(args.fusion_pretraining_batch_size)
        self.heads = AnswerHeads(self.processor, self.model.config.fusion_hidden_size).to(args.device)
        rates = (args.fusion_pretraining_learning_rate, args.fusion_pretraining_weight_decay)
        result: dict[str, Any] = {}
        result["losses"] = pretrain_fusion(
            self.model,
            self.heads,
            loader,
            make_optimizer(self.model, self.heads, *rates),
            args.fusion_pretraining_epochs,
            args.device,
            progress=not args.disable_tqdm and self.is_main_process,
            compute_loss=partial(
                pretraining_loss,
                mixup=make_mixup(self.model, args.fusion_pretraining_mixup),
                token_dropout=args.fusion_pretraining_token_dropout,
            ),
        )
        if self.trainer.fits_pseudo_tokens:
            fit = (self.model, self.heads, self.processor, loader, args.device)
            result["pseudo_token_fit"] = fit_pseudo_tokens(*fit)  # share of the variance that is explained
        return result

    def save_pretraining(self) -> None:
        weights = self.folder / FUSION_PRETRAINING_WEIGHTS
        with report_write_errors(self.folder, FUSION_PRETRAINING_WEIGHTS):
            if self.pretraining["losses"]:
                partial = weights.with_name(f".{FUSION_PRETRAINING_WEIGHTS}")
                heads = {HEADS + name: tensor for name, tensor in self.heads.state_dict().items()}
                save_file(pretrained_weights(self.model) | heads, partial)
                os.replace(partial, weights)
            write_json(self.folder / FUSION_PRETRAINING, self.pretraining)

    # ---- training ------------------------------------------------------------------------------------------------

    def distill(self) -> None:
        """Let the trainer follow the pretraining's heads, which every process reads from the folder of the run."""
        if not self.args.distillation or not self.follows_pretraining("distillation"):
            return
        weights = load_file(self.folder / FUSION_PRETRAINING_WEIGHTS)
        state = {name.removeprefix(HEADS): tensor for name, tensor in weights.items() if name.startswith(HEADS)}
        with torch.random.fork_rng(devices=[]):  # so that the run draws the same numbers as without
            heads = AnswerHeads(self.processor, self.model.config.fusion_hidden_size)
        heads.load_state_dict(state)
        distillation = Distillation(heads.to(self.args.device), self.processor)
        if not distillation.soft_labels.answers:
            logger.warning("--distillation has no effect: it is for classification.")
            return
        distillation.attach(self.model)
        self.trainer.distillation = distillation

    def follows_pretraining(self, option: str) -> bool:
        """Whether the language model's answers can be made to follow the pretraining's heads; warns if they cannot."""
        if isinstance(self.model, EGMFWithHead) or self.args.fusion_pretraining_epochs == 0:
            logger.warning(
                f"--{option} has no effect: it is for answers of the language model after fusion pretraining."
            )
            return False
        return True

    def train(self) -> None:
        """Train, from the checkpoint if there is one."""
        trainer = self.trainer
        if self.checkpoint is not None:
            *_, max_steps = trainer.set_initial_training_values(self.args, trainer.get_train_dataloader())
            if is_last_checkpoint(self.checkpoint, self.args, max_steps):
                self.finish_training()
                return
        trainer.train(resume_from_checkpoint=self.checkpoint)

    def align(self) -> dict[str, float] | None:
        """Correct what the language model has not learned to copy, unless its weights are sharded."""
        trainer = self.trainer
        if trainer.distillation is None or not trainer.fits_pseudo_tokens or trainer.is_fsdp_enabled:
            return None
        loader = trainer.loader_without_labels(self.args.eval_batch_size * self.args.world_size)
        alignment = align_pseudo_tokens(self.model, trainer.distillation, self.processor, loader, self.args.device)
        if self.is_main_process:
            report_alignment(alignment)
        return alignment

    def finish_training(self) -> None:
        """Load the final weights of a run that was killed after its last step; `Trainer` would take one more step."""
        trainer = self.trainer
        trainer.state = TrainerState.load_from_json(os.path.join(self.checkpoint, TRAINER_STATE_NAME))
        best = trainer.state.best_model_checkpoint if self.args.load_best_model_at_end else None
        trainer.load_checkpoint(best or self.checkpoint)

    def save(self) -> None:
        """Save the model and the record of the run, `training.json`, which marks it as finished."""
        trainer = self.trainer
        with report_write_errors(self.folder, "the trained model"):
            trainer.save_model()
        if not self.is_main_process:
            return
        # A run that was killed after its last checkpoint may have one checkpoint too many.
        rotate_checkpoints(str(self.folder), self.args.save_total_limit, trainer.state.best_model_checkpoint)
        trainer.state.save_to_json(str(self.folder / TRAINER_STATE_NAME))
        write_json(self.folder / FINISHED, self.describe())
        self.print_next_steps()
        (self.folder / FUSION_PRETRAINING_WEIGHTS).unlink(missing_ok=True)

    def print_next_steps(self) -> None:
        """Where the run lies, and what to do with it."""
        print(f"The run is in {self.folder}: the model, its processor, and training.json. Next:")
        for command in next_steps(self.folder, self.data_args, self.encoder_cache is not None):
            print(f"  {command}")

    def describe(self) -> dict[str, Any]:
        """The content of `training.json`."""
        state = self.trainer.state
        parameters = list(self.model.parameters())
        reused = FUSION_PRETRAINING_WEIGHTS if self.pretraining.get("reused") else None
        return {
            "model_arguments": effective_options(self.model_args),
            "data_arguments": dataclasses.asdict(self.data_args),
            "training_arguments": self.args.to_dict(),
            "seed": self.args.seed,
            "processes": self.args.world_size,
            "versions": versions(),
            "commit": commit(),
            "weights": weights_digest(self.folder),
            "examples": {"train": num_clips(self.train_set.examples), "eval": num_clips(self.eval_set.examples)},
            "parameters": {
                "trained": sum(num_elements(p) for p in parameters if p.requires_grad),
                "all": sum(num_elements(p) for p in parameters),
            },
            "peak_gib": peak_gib(self.args.device.type),
            "resumed_from": self.checkpoint or reused,
            # For a resumed run, the time since it was resumed.
            "seconds": {"fusion_pretraining": self.pretraining["seconds"], "all": time.time() - self.started},
            "fusion_pretraining_losses": self.pretraining["losses"],
            "pseudo_token_fit": self.pretraining.get("pseudo_token_fit"),
            "pseudo_token_alignment": self.alignment,
            "best_metric": state.best_metric,
            "best_step": state.best_global_step,
            "log_history": state.log_history,
        }
