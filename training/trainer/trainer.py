"""`transformers.Trainer` that evaluates by scoring answers, with two learning rates."""

import gc
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.data_loader import prepare_data_loader
from accelerate.utils import save_fsdp_optimizer
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import DataLoader, SequentialSampler
from transformers import EvalPrediction, Trainer
from transformers.integrations.deepspeed import deepspeed_load_checkpoint
from transformers.trainer import SCHEDULER_NAME, TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, EvalLoopOutput, rotate_checkpoints, seed_worker

from modeling_egmf.checkpoints_egmf import keys_stored_elsewhere
from processing_egmf import EGMFProcessor

from ..data.collator import EGMFDataCollator
from ..evaluation.metrics import training_metrics
from .checkpointing import PARTIAL, publish, saving_into
from .distributed import gather_adapter_state, load_adapter_state, unwrapped_class, widen_scalars, zero_through_all
from .sampling import EpochBatchSampler, IndexedCollator, IndexedDataset


def make_compute_metrics(processor: EGMFProcessor) -> Callable[[EvalPrediction], dict[str, float]]:
    """`compute_metrics` over (N, A) probabilities and (N, 2) pairs of task and answer: `<task>_<metric>`."""

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        probabilities, labels = prediction.predictions, prediction.label_ids
        metrics = {}
        for index, (name, task) in enumerate(processor.task_objects.items()):
            rows = labels[:, 0] == index
            if rows.any():
                for key, value in training_metrics(task, probabilities[rows], labels[rows, 1]).items():
                    metrics[f"{name}_{key}"] = value
        return metrics

    return compute_metrics


class EGMFTrainer(Trainer):
    """Evaluation asks `score_answers`: its loss is -log P(true answer | the answer is one of the set).

    Args:
        eval_collator: batches without answers in the prompt, with `label_index`.
    """

    def __init__(self, *args: Any, eval_collator: EGMFDataCollator, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.eval_collator, self.is_saving = eval_collator, False
        self.scalars: set[str] = set()
        self.most_answers = max(task.num_answers for task in eval_collator.processor.task_objects.values())

    def get_train_dataloader(self) -> DataLoader:
        """This process's part of every global batch; the same batches whatever the number of processes."""
        args = self.args
        seed = args.seed if args.data_seed is None else args.data_seed
        batches = EpochBatchSampler(
            self._get_train_sampler(),
            self._train_batch_size,
            args.world_size,
            args.process_index,
            seed,
            args.dataloader_drop_last,
        )
        loader = DataLoader(
            IndexedDataset(self.train_dataset, seed),
            batch_sampler=batches,
            collate_fn=IndexedCollator(self.data_collator),
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            persistent_workers=args.dataloader_persistent_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
            worker_init_fn=partial(seed_worker, num_workers=args.dataloader_num_workers, rank=args.process_index),
        )
        # It is split already. So prepared, it hears from the trainer which epoch it is.
        return prepare_data_loader(loader, num_processes=1, process_index=0)

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        weight = inputs.pop("loss_weight")
        found = super().compute_loss(model, inputs, *args, **kwargs)
        loss = (found[0] if isinstance(found, tuple) else found) * weight
        if self.is_fsdp_enabled:
            loss = loss + zero_through_all(self.accelerator.unwrap_model(model))
        return (loss, *found[1:]) if isinstance(found, tuple) else loss

    def get_eval_dataloader(self, eval_dataset: Any = None) -> torch.utils.data.DataLoader:
        training_collator, self.data_collator = self.data_collator, self.eval_collator
        try:
            return super().get_eval_dataloader(eval_dataset)
        finally:
            self.data_collator = training_collator

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler | None:
        dataset = train_dataset if train_dataset is not None else self.train_dataset
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        batch_size = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        return LengthGroupedSampler(batch_size, lengths=dataset.lengths)

    def _get_eval_sampler(self, eval_dataset: torch.utils.data.Dataset) -> torch.utils.data.Sampler | None:
        return SequentialSampler(eval_dataset) if self.args.world_size <= 1 else None

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        if self.optimizer is None:
            fusion = self.args.fusion_learning_rate
            rates = {True: self.args.learning_rate if fusion is None else fusion, False: self.args.learning_rate}
            groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
            for name, parameter in self.model.named_parameters():
                if parameter.requires_grad:
                    # The pseudo tokens are what the language model reads: they learn at its pace.
                    ours = name.startswith("egmf.") and not name.startswith("egmf.pseudo_tokens.")
                    key = (ours, parameter.ndim > 1)
                    groups.setdefault(key, []).append(parameter)
            optimizer_class, settings = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            settings.pop("lr", None)
            self.optimizer = optimizer_class(
                [
                    {"params": p, "lr": rates[ours], "weight_decay": self.args.weight_decay if matrix else 0.0}
                    for (ours, matrix), p in groups.items()
                ],
                lr=self.args.learning_rate,
                **settings,
            )
        return self.optimizer

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """A light checkpoint leaves out the language model; anything else that is missing is an error."""
        missing = set(load_result.missing_keys) - keys_stored_elsewhere(self.model)
        if missing or load_result.unexpected_keys:
            raise ValueError(
                f"The checkpoint does not fit the model. Missing: {sorted(missing)[:5]}, unexpected: "
                f"{sorted(load_result.unexpected_keys)[:5]}. Resume with the settings that it was trained with."
            )

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """The same light checkpoint whichever way the weights are split; all processes must come here."""
        if not (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            return super().save_model(output_dir, _internal_call)
        model = self.accelerator.unwrap_model(self.model)
        state = gather_adapter_state(model, self.scalars, keep=self.args.should_save)
        with unwrapped_class(model):
            self._save(output_dir, state)
        return None

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """Without the frozen language model, which the trainer would store with FSDP and DeepSpeed."""
        if self.is_deepspeed_enabled:
            self.model_wrapped.save_checkpoint(output_dir, exclude_frozen_parameters=True)
        elif self.is_fsdp_enabled:
            plugin = self.accelerator.state.fsdp_plugin
            save_fsdp_optimizer(plugin, self.accelerator, self.optimizer, self.model, output_dir)
        else:
            return super()._save_optimizer_and_scheduler(output_dir)
        if self.args.should_save:
            torch.save(self.lr_scheduler.state_dict(), os.path.join(output_dir, SCHEDULER_NAME))
        return None

    def _prepare_for_training(self, max_steps: int, train_dataloader: DataLoader, checkpoint: str | None) -> Any:
        """With FSDP2 the model takes a shape that can be split; with DeepSpeed a light checkpoint is resumed here."""
        if self.is_fsdp_enabled:
            self.scalars = widen_scalars(self.model)
        if checkpoint is None or not self.is_deepspeed_enabled:
            return super()._prepare_for_training(max_steps, train_dataloader, checkpoint)
        prepared = super()._prepare_for_training(max_steps, train_dataloader, None)
        deepspeed_load_checkpoint(self.model_wrapped, checkpoint, load_module_strict=False)
        self._load_optimizer_and_scheduler(checkpoint)
        return prepared

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if not self.is_fsdp_enabled:
            return super()._load_from_checkpoint(resume_from_checkpoint, model)
        state = load_file(os.path.join(resume_from_checkpoint, "model.safetensors"))
        return load_adapter_state(self.model, self.scalars, state)

    def _load_best_model(self) -> None:
        best = self.state.best_model_checkpoint
        if self.is_fsdp_enabled:
            return self._load_from_checkpoint(best)
        if self.is_deepspeed_enabled:
            return deepspeed_load_checkpoint(self.model_wrapped, best, load_module_strict=False)
        return super()._load_best_model()

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """Nothing is left to train where the checkpoint was the last one; `Trainer` would take one step more."""
        told = self.state.stateful_callbacks["TrainerControl"]["args"]["should_training_stop"]
        # A checkpoint that SIGTERM has asked for stops a run that is not at its end.
        if self.state.global_step >= self.state.max_steps or (told and not self.args.enable_jit_checkpoint):
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)

    def _get_output_dir(self, trial: Any) -> str:
        return str(Path(super()._get_output_dir(trial), PARTIAL if self.is_saving else ""))

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Written aside, and renamed when it is whole: what is called checkpoint-N can be gone on from."""
        run, name = Path(self._get_output_dir(trial)), f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        self.is_saving = True
        try:
            with saving_into(run, name):
                super()._save_checkpoint(model, trial)
                self.accelerator.wait_for_everyone()
                if self.state.best_global_step == self.state.global_step:
                    self.state.best_model_checkpoint = str(run / name)
                if self.args.should_save:
                    self.state.save_to_json(str(run / PARTIAL / name / TRAINER_STATE_NAME))
                    publish(run / PARTIAL / name, run / name)
                    best = self.state.best_model_checkpoint
                    rotate_checkpoints(str(run), self.args.save_total_limit, best)
                self.accelerator.wait_for_everyone()
        finally:
            self.is_saving = False

    def end_training(self) -> None:
        """Leaves the processes' group; to be called last, by every process.

        What DDP wrapped goes first: its reducer would else hold the last reference, and end the group with Python's
        lock in its hand while a thread of gloo waits for that lock to let go of a tensor, for ever.
        """
        self.model_wrapped = self.model
        self.accelerator.free_memory()
        gc.collect()
        self.accelerator.end_training()

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        super()._save(output_dir, state_dict)
        if not self.args.should_save:
            return
        folder = Path(output_dir or self.args.output_dir)
        # A pickle that nothing reads; the arguments stand in training.json.
        (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)
        for weights in folder.glob("*.safetensors"):  # written for their owner alone
            shutil.copymode(folder / "config.json", weights)

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> EvalLoopOutput:
        """The loss as a mean over rows, not over batches: the same however they were cut and shared out."""
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        if output.predictions is not None:
            said = output.predictions[np.arange(len(output.label_ids)), output.label_ids[:, 1]]
            loss = -np.log(np.maximum(said, np.finfo(np.float32).tiny)).mean()
            output.metrics[f"{metric_key_prefix}_loss"] = float(loss)
        return output

    @torch.no_grad()
    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """-> loss (), probabilities (B, most answers), (B, 2) task and answer."""
        inputs = self._prepare_inputs(inputs)
        label_index = inputs.pop("label_index")
        model = self.accelerator.unwrap_model(model)
        output = model.score_answers(**inputs)
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            # All processes must run the same layers, and a batch with answers of one token alone asks them but once.
            twice = (inputs["answer_ids"][..., 1:] >= 0).any()
            somewhere = self.accelerator.reduce(twice.float()) > 0
            if somewhere and not twice:
                model.language_model(inputs_embeds=model.get_input_embeddings()(inputs["input_ids"][:1, -1:]))
        loss = -output.log_probs.gather(1, label_index[:, None]).mean()
        if prediction_loss_only:
            return loss, None, None
        missing = self.most_answers - output.probabilities.shape[1]
        probabilities = nn.functional.pad(output.probabilities, (0, missing))
        return loss, probabilities, torch.stack([inputs["task_ids"], label_index], dim=1)
