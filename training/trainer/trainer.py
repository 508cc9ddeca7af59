"""`transformers.Trainer` that evaluates by scoring answers, with two learning rates and atomic checkpoints.

Every override was checked against transformers 5.23.0 and has a comment that says why it is needed. Private methods
are overridden only if no public hook does the same.
"""

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
from accelerate.logging import get_logger
from accelerate.utils import save_fsdp_optimizer
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import DataLoader, Dataset, RandomSampler
from transformers import EvalPrediction, Trainer
from transformers.trainer import SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints, seed_worker

from modeling_egmf import EGMFConfig
from processing_egmf import EGMFProcessor

from ..evaluation.gates import find_collapse, gate_figures, gate_metrics
from ..evaluation.metrics import training_metrics
from ..records import weight_files
from .checkpointing import PARTIAL, final_folder, finalize_checkpoint, parts_named_from, report_write_errors
from .distillation import Distillation
from .distributed import (
    check_sharded_decoder,
    gather_adapter_state,
    load_adapter_state,
    unwrapped_class,
    widen_scalars,
    zero_through_all,
)
from .sampling import EpochBatchSampler, training_sampler
from .soft_labels import make_label_smoothing


logger = get_logger(__name__)


def make_compute_metrics(processor: EGMFProcessor, config: EGMFConfig) -> Callable[[EvalPrediction], dict[str, float]]:
    """`compute_metrics` over (N, A) probabilities, (N, E) expert weights, and (N, 2) pairs of task and label.

    It returns `loss`, `<task>_<metric>`, and `gate_entropy`, `gate_share_<expert>` and `gate_spread_<expert>`; a
    collapsed gate is warned of. The loss is a mean over examples, not over batches: the same for any batch size and
    number of processes.
    """

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        probabilities, weights = prediction.predictions
        tasks, labels = prediction.label_ids.T
        true_probabilities = probabilities[np.arange(len(labels)), labels]
        losses = -np.log(np.maximum(true_probabilities, np.finfo(np.float32).tiny))
        metrics = {"loss": float(losses.mean())}
        for index, (name, task) in enumerate(processor.task_objects.items()):
            of_task = tasks == index
            if of_task.any():
                for metric, value in training_metrics(task, probabilities[of_task], labels[of_task]).items():
                    metrics[f"{name}_{metric}"] = value
        figures = gate_figures(weights, config.expert_names)
        collapse = find_collapse(figures, len(weights), config.gate)
        if collapse is not None:
            logger.warning(collapse)
        return metrics | gate_metrics(figures)

    return compute_metrics


PUSHING = (
    "EGMFTrainer does not push to the Hub: `Trainer` would send pickles, and checkpoints without their adapters. "
    "Leave out `push_to_hub`, and push the finished run: python -m training.push_to_hub RUN ORG/NAME."
)


class EGMFTrainer(Trainer):
    """Evaluation calls `score_answers`: its loss is -log P(true answer | one of the answer set).

    Args:
        args, kwargs: of `Trainer`; `data_collator` is a `SampleCollator`, `processing_class` the processor, and
            `train_dataset` and `eval_dataset` are `EGMFDataset`s, with labels and without.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.scalars: set[str] = set()
        self.distillation: Distillation | None = None
        self.label_smoothing = make_label_smoothing(
            self.model, self.processing_class, self.args.label_smoothing_factor
        )
        self.label_smoother = None  # of `Trainer`, which would take the labels away from the model
        self.fits_pseudo_tokens = False  # the projection starts fitted, and learns as slowly as the fusion
        self.max_answers = max(task.num_answers for task in self.processing_class.task_objects.values())

    # Why: it is called at the start if `push_to_hub` is set, and later by the method of that name.
    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Refuse pushing.

        Raises:
            ValueError: always.
        """
        raise ValueError(PUSHING)

    # Why: FSDP2 cannot shard scalars, so they get a dimension before the model is wrapped.
    def train(self, *args: Any, **kwargs: Any) -> Any:
        if self.is_fsdp_enabled:
            check_sharded_decoder(self.model.language_model.config)
            self.scalars = widen_scalars(self.model)
        return super().train(*args, **kwargs)

    def loader_options(self) -> dict[str, Any]:
        """Options of every loader: of training, evaluation and fusion pretraining."""
        return {
            "collate_fn": self.data_collator,
            "num_workers": self.args.dataloader_num_workers,
            "pin_memory": self.args.dataloader_pin_memory,
            "persistent_workers": self.args.dataloader_persistent_workers,
            "prefetch_factor": self.args.dataloader_prefetch_factor,
            "multiprocessing_context": self.args.dataloader_multiprocessing_context,
            "in_order": self.args.dataloader_in_order,
        }

    # Why: loads this process's part of every global batch; the batches are the same for any number of processes.
    def get_train_dataloader(self) -> DataLoader:
        args = self.args
        global_batch_size = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        batches = EpochBatchSampler(
            training_sampler(self.train_dataset, args.train_sampling_strategy, global_batch_size),
            self._train_batch_size,
            args.world_size,
            args.process_index,
            seed=args.seed if args.data_seed is None else args.data_seed,
            drop_last=args.dataloader_drop_last,
        )
        seed_one_worker = partial(seed_worker, num_workers=args.dataloader_num_workers, rank=args.process_index)
        loader = DataLoader(
            self.train_dataset,
            batch_sampler=batches,
            worker_init_fn=seed_one_worker,
            **self.loader_options(),
        )
        # Batches are already split over processes. A prepared loader also sets the epoch of its batch sampler.
        return prepare_data_loader(loader, num_processes=1, process_index=0)

    def loader_without_labels(self, global_batch_size: int) -> DataLoader:
        """This process's part of the training examples in random order, without labels in the prompt."""
        dataset = self.train_dataset.without_labels()
        batches = EpochBatchSampler(
            RandomSampler(dataset),
            -(-global_batch_size // self.args.world_size),
            self.args.world_size,
            self.args.process_index,
            self.args.seed,
        )
        return DataLoader(dataset, batch_sampler=batches, **self.loader_options())

    # Why: `Trainer` would sort evaluation by the length of `input_ids`, preparing every example just for that, and
    # leave out examples with `dataloader_drop_last`.
    def get_eval_dataloader(self, eval_dataset: Dataset | None = None) -> DataLoader:
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        loader = DataLoader(
            dataset,
            batch_size=self.args.eval_batch_size,
            **{**self.loader_options(), "persistent_workers": False},
        )
        return self.accelerator.prepare(loader)

    # Why: an uneven last batch is weighted; with sharded weights, all processes must exchange the same gradients; the
    # language model must not learn the training's transcripts by heart.
    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        weight = inputs.pop("loss_weight")
        if model.training and self.args.transcript_dropout:
            hide_transcripts(inputs, self.args.transcript_dropout)
        if self.distillation is not None:
            self.distillation.begin(inputs["task_ids"])
            inputs["output_experts"] = True
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if self.distillation is not None:
            changes = self.distillation.change_of_loss
            loss = loss + changes(outputs.logits, outputs.fused, inputs["labels"], inputs["task_ids"])
        if self.label_smoothing is not None:
            loss = loss + self.label_smoothing.change_of_loss(outputs.logits, inputs["labels"], inputs["task_ids"])
        loss = loss * weight
        if self.is_fsdp_enabled:
            loss = loss + zero_through_all(self.accelerator.unwrap_model(model))
        return (loss, outputs) if return_outputs else loss

    # Why: encoders, fusion and experts have their own learning rate, `fusion_learning_rate`.
    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is not None:
            return self.optimizer
        args = self.args
        fusion_rate = args.learning_rate if args.fusion_learning_rate is None else args.fusion_learning_rate
        parameters: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        for name, parameter in self.model.named_parameters():
            if not parameter.requires_grad:
                continue
            # Pseudo tokens share the learning rate of the language model, which reads them, unless they were fitted.
            has_own_rate = self.fits_pseudo_tokens or not name.startswith("egmf.pseudo_tokens.")
            in_fusion = name.startswith("egmf.") and has_own_rate
            is_matrix = parameter.ndim > 1
            parameters.setdefault((in_fusion, is_matrix), []).append(parameter)
        groups = [
            {
                "params": group,
                "lr": fusion_rate if in_fusion else args.learning_rate,
                "weight_decay": args.weight_decay if is_matrix else 0.0,
            }
            for (in_fusion, is_matrix), group in parameters.items()
        ]
        optimizer_class, options = self.get_optimizer_cls_and_kwargs(args, self.model)
        options["lr"] = args.learning_rate
        self.optimizer = optimizer_class(groups, **options)
        return self.optimizer

    # Why: an answer is scored over its task's closed set; `Trainer` would gather logits over the vocabulary.
    @torch.no_grad()
    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        """Returns the loss () or None; probabilities (B, largest answer set) with expert weights (B, E); and (B, 2)
        task and label."""
        inputs = self._prepare_inputs(inputs)
        label_index = inputs.pop("label_index")
        model = self.accelerator.unwrap_model(model)
        if self.is_fsdp_enabled:
            model.unshard()  # what the model's own forward would do: fusion, embeddings and output layer
        output = model.score_answers(**inputs)
        if self.is_fsdp_enabled:
            self._match_language_model_calls(model, inputs)
            model.reshard()
        if prediction_loss_only:
            return -output.log_probs.gather(1, label_index[:, None]).mean(), None, None
        padding = self.max_answers - output.probabilities.shape[1]
        probabilities = nn.functional.pad(output.probabilities, (0, padding))
        # No loss is returned, so the loss of `compute_metrics` is logged.
        return None, (probabilities, output.expert_weights), torch.stack([inputs["task_ids"], label_index], dim=1)

    def _match_language_model_calls(self, model: nn.Module, inputs: dict[str, torch.Tensor]) -> None:
        """With sharded weights all processes must run the same layers, but a batch whose answers have one token calls
        the language model once instead of twice."""
        twice = (inputs["answer_ids"][..., 1:] >= 0).any()
        twice_somewhere = self.accelerator.reduce(twice.float()) > 0
        if twice_somewhere and not twice:
            embeds = model.get_input_embeddings()(inputs["input_ids"][:1, -1:])
            model.language_model(inputs_embeds=embeds)

    # Why: writes the same adapter checkpoint whether or not FSDP2 shards the weights, and no `training_args.bin`,
    # a pickle that nothing reads. Every process must call it.
    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        folder = Path(output_dir or self.args.output_dir)
        model = self.accelerator.unwrap_model(self.model)
        state = None
        if self.is_fsdp_enabled:
            state = gather_adapter_state(model, self.scalars, keep=self.args.should_save)
        if self.args.should_save:
            with unwrapped_class(model), parts_named_from(model, final_folder(folder)):
                model.save_pretrained(folder, state_dict=state)
            self.processing_class.save_pretrained(folder)
            for weights in weight_files(folder):  # safetensors makes them readable only by the owner
                shutil.copymode(folder / "config.json", weights)

    # Why private: no hook runs between writing a checkpoint and naming it. A callback (`on_save`) runs after
    # checkpoint-N has been written in place and older ones deleted, so a kill in between would leave a partial one.
    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write to `.partial/`, then rename: every folder named checkpoint-N can be resumed from."""
        run = Path(self.args.output_dir)
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        self.args.output_dir = str(run / PARTIAL)
        try:
            with report_write_errors(run, name):
                super()._save_checkpoint(model, trial)
                self.accelerator.wait_for_everyone()
                if self.state.best_global_step == self.state.global_step:
                    self.state.best_model_checkpoint = str(run / name)
                if self.args.should_save:
                    self.state.save_to_json(str(run / PARTIAL / name / TRAINER_STATE_NAME))
                    finalize_checkpoint(run / PARTIAL / name, run / name)
                    rotate_checkpoints(str(run), self.args.save_total_limit, self.state.best_model_checkpoint)
                self.accelerator.wait_for_everyone()
        finally:
            self.args.output_dir = str(run)

    # Why private: with FSDP, `Trainer` would store the frozen language model along with the optimizer.
    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.is_fsdp_enabled:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        plugin = self.accelerator.state.fsdp_plugin
        save_fsdp_optimizer(plugin, self.accelerator, self.optimizer, self.model, output_dir)
        if self.args.should_save:
            torch.save(self.lr_scheduler.state_dict(), os.path.join(output_dir, SCHEDULER_NAME))

    # Why private: an adapter checkpoint leaves out the language model, and anything else that is missing is an error,
    # not a warning; with FSDP, `Trainer` looks for another format.
    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        self.load_checkpoint(resume_from_checkpoint)

    # Why private: as for `_load_from_checkpoint`.
    def _load_best_model(self) -> None:
        self.load_checkpoint(self.state.best_model_checkpoint)

    def load_checkpoint(self, folder: str | Path) -> None:
        """Load the weights of a checkpoint into the model. Every process must call this."""
        state = {}
        for path in Path(folder).glob("model*.safetensors"):
            state |= load_file(path)
        for name, keys in self.model.adapter_keys().items():
            weights = load_file(Path(folder, name, "adapter_model.safetensors"))
            state |= {keys.get(key, key): tensor for key, tensor in weights.items()}
        load_adapter_state(self.model, self.scalars, state)

    def end_training(self) -> None:
        """Leave the process group; every process calls this last.

        The DDP wrapper is freed first: otherwise its reducer would hold the last reference, and destroy the group
        while it holds the GIL and a gloo thread waits forever for the GIL to release a tensor.
        """
        self.model_wrapped = self.model
        self.accelerator.free_memory()
        gc.collect()
        self.accelerator.end_training()


def hide_transcripts(inputs: dict[str, Any], share: float) -> None:
    """Hide the transcripts of a share of a batch, drawn at random, from the language model; the fusion reads them."""
    utterance_mask = inputs["utterance_mask"].bool()  # (B, S)
    is_hidden = torch.rand(len(utterance_mask), 1, device=utterance_mask.device) < share
    inputs["attention_mask"] = inputs["attention_mask"].masked_fill(utterance_mask & is_hidden, 0)
