"""Options that the library would refuse only once data and model are loaded, or would take without a word.

optimizer and schedule, for one number ─┐
where the log is reported to ───────────┴─► before any data is read
metric of the best checkpoint ─────────────► before training, from the metrics of perfect answers
"""

import copy
import inspect
import warnings
from collections.abc import Iterable, Sequence
from contextlib import suppress

import numpy as np
import torch
from transformers import Trainer, get_scheduler
from transformers.integrations import get_available_reporting_integrations

from processing_egmf import EGMFTask
from processing_egmf.arguments_egmf import refuse_unknown

from ..arguments import EGMFTrainingArguments
from ..evaluation.gates import gate_figures, gate_metrics
from ..evaluation.metrics import training_metrics


STEPS = 10  # of the schedule


def check_optimizer(args: EGMFTrainingArguments) -> None:
    """Make the optimizer and the schedule for one number.

    Raises:
        ValueError: one of their options is impossible or has no effect, or a package is missing.
    """
    given = f"--optim {args.optim.value}"
    if args.optim_args:
        given += f" --optim_args {args.optim_args}"
    try:
        _check_optimizer_fields(args)
        optimizer_class, options = Trainer.get_optimizer_cls_and_kwargs(args)
        optimizer = optimizer_class([torch.nn.Parameter(torch.zeros(1))], **options)
    # Of many types, some of them of other packages.
    except Exception as error:
        raise ValueError(f"{given}: {error}. Use another optimizer, or correct its options.") from error
    given = f"--lr_scheduler_type {args.lr_scheduler_type.value} --lr_scheduler_kwargs {args.lr_scheduler_kwargs}"
    try:
        _check_schedule(args, optimizer)
    except Exception as error:
        raise ValueError(f"{given}: {error}. Use another schedule, or correct its options.") from error


def _check_optimizer_fields(args: EGMFTrainingArguments) -> None:
    """Refuse parts of `--optim_args` that this optimizer does not read."""
    fields = args.optim_args.split(",") if args.optim_args else []
    for field in fields:
        if field.count("=") != 1:
            raise ValueError(f"{field!r} is not NAME=VALUE")
        without = copy.copy(args)
        without.optim_args = ",".join(other for other in fields if other != field)
        if Trainer.get_optimizer_cls_and_kwargs(without) == Trainer.get_optimizer_cls_and_kwargs(args):
            raise ValueError(f"{field} has no effect on this optimizer")


def _check_schedule(args: EGMFTrainingArguments, optimizer: torch.optim.Optimizer) -> None:
    """Go through a short schedule, and refuse fields that it does not read."""
    fields = args.lr_scheduler_kwargs or {}
    warmup = min(args.get_warmup_steps(STEPS), STEPS // 2)
    schedule = get_scheduler(args.lr_scheduler_type, optimizer, warmup, STEPS, fields)
    metric = [0.0] if "metrics" in inspect.signature(schedule.step).parameters else []
    rates = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the optimizer makes no steps
        for _ in range(STEPS):
            schedule.step(*metric)
            rates.append(float(optimizer.param_groups[0]["lr"]))
    numbers = [*rates, *(value for value in fields.values() if isinstance(value, float))]
    if not np.isfinite(numbers).all():
        raise ValueError("a number or the learning rate is not finite")
    if fields:
        with suppress(TypeError):  # which schedules raise that read their fields
            get_scheduler(args.lr_scheduler_type, optimizer, warmup, STEPS, {**fields, "no_such_field": 1})
            raise ValueError("this schedule reads no fields")


def check_reports(args: EGMFTrainingArguments) -> None:
    """Refuse a tracker that is not installed."""
    available = get_available_reporting_integrations()
    missing = [name for name in args.report_to if name not in (*available, "flyte")]
    if missing:
        raise ValueError(
            f"--report_to {' '.join(missing)}: not installed, or unknown. Install it with pip, or use any of "
            f"{', '.join(available) or 'no tracker'}, or none."
        )


def check_best_metric(args: EGMFTrainingArguments, tasks: Iterable[EGMFTask], experts: Sequence[str]) -> None:
    """Refuse a `--metric_for_best_model` that evaluation does not compute.

    Args:
        args: the options.
        tasks: those of the evaluation's examples.
        experts: their names.
    """
    metric = args.metric_for_best_model
    if metric is None or args.eval_strategy == "no":
        return
    names = {"loss"} if args.prediction_loss_only else metric_names(tasks, experts)
    beginning = "--metric_for_best_model: evaluation has no such metric,"
    refuse_unknown([metric.removeprefix("eval_")], sorted(names), beginning, ValueError)


def metric_names(tasks: Iterable[EGMFTask], experts: Sequence[str]) -> set[str]:
    """The names of the metrics of an evaluation: those of perfect answers, all of which are defined."""
    names = {"loss", *gate_metrics(gate_figures(np.ones((1, len(experts))), experts))}
    for task in tasks:
        metrics = training_metrics(task, np.eye(task.num_answers), np.arange(task.num_answers))
        names |= {f"{task.name}_{metric}" for metric in metrics}
    return names
