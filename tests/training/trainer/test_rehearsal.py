"""Options that the library would refuse only once the data are read, or take without a word, are refused at once."""

import pytest

from processing_egmf import BUILT_IN_TASKS
from training.arguments import EGMFTrainingArguments
from training.trainer.rehearsal import check_best_metric, check_optimizer, check_reports, metric_names


EXPERTS = ("local", "semantic", "global")


@pytest.fixture
def make_arguments(tmp_path):
    def make(**fields):
        return EGMFTrainingArguments(output_dir=str(tmp_path / "run"), use_cpu=True, **fields)

    return make


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"optim": "sgd", "optim_args": "momentum=0.9,nesterov=true"},
        {"optim": "adafactor"},
        {"optim": "rmsprop", "optim_args": "alpha=0.9"},
        {"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"num_cycles": 2}},
        {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 1e-6}},
        {"lr_scheduler_type": "warmup_stable_decay", "lr_scheduler_kwargs": {"num_decay_steps": 2}},
        {"lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "epoch"},
        {"lr_scheduler_type": "constant_with_warmup", "warmup_steps": 100},
        {"lr_scheduler_type": "constant"},
        {"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": {"power": 2, "lr_end": 1e-8}},
        {"lr_scheduler_type": "inverse_sqrt", "lr_scheduler_kwargs": {"timescale": 100}},
        {"lr_scheduler_type": "cosine_with_restarts", "lr_scheduler_kwargs": '{"num_cycles": 3}'},
        {
            "lr_scheduler_type": "reduce_lr_on_plateau",
            "eval_strategy": "epoch",
            "lr_scheduler_kwargs": {"factor": 0.5, "patience": 2},
        },
    ],
)
def test_optimizers_and_schedules_that_are_possible(make_arguments, fields):
    check_optimizer(make_arguments(**fields))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"optim": "lion_32bit"}, "--optim lion_32bit: .*install"),
        ({"optim_args": "betas=0.5"}, "--optim_args betas=0.5: betas=0.5 has no effect on this optimizer"),
        ({"optim": "sgd", "optim_args": "momentum=0.9,momentm=0.9"}, "momentm=0.9 has no effect"),
        ({"optim": "sgd", "optim_args": "momentum"}, "--optim_args momentum: 'momentum' is not NAME=VALUE"),
        ({"optim": "sgd", "optim_args": "momentum=fast"}, "--optim sgd --optim_args momentum=fast: could not convert"),
        ({"adam_beta1": 1.5}, "--optim adamw_torch_fused: Invalid beta"),
        ({"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"num_cycle": 2}}, "--lr_scheduler_kwargs.*num_cycle"),
        ({"lr_scheduler_type": "constant", "lr_scheduler_kwargs": {"power": 2}}, "this schedule reads no fields"),
        (
            {"lr_scheduler_type": "constant_with_warmup", "lr_scheduler_kwargs": {"a": 2}},
            "this schedule reads no fiel",
        ),
        (
            {"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"num_cycles": "x"}, "warmup_steps": 50},
            "num_cycles",
        ),
        ({"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"num_cycles": float("nan")}}, "rate is not finite"),
        ({"lr_scheduler_kwargs": {"num_cycles": 2}}, "--lr_scheduler_type linear .*num_cycles"),
        ({"lr_scheduler_type": "warmup_stable_decay"}, "--lr_scheduler_type warmup_stable_decay .*num_decay_steps"),
    ],
)
def test_optimizers_and_schedules_that_are_not(make_arguments, fields, message):
    with pytest.raises(ValueError, match=message):
        check_optimizer(make_arguments(**fields))


def test_trackers(make_arguments):
    check_reports(make_arguments(report_to="none"))
    check_reports(make_arguments(report_to=["tensorboard"]))
    check_reports(make_arguments(report_to="all"))
    for name in ("tensorbord", "comet_ml"):
        with pytest.raises(ValueError, match=f"--report_to {name}: not installed, or unknown"):
            check_reports(make_arguments(report_to=["tensorboard", name]))


@pytest.mark.parametrize("metric", ["eval_loss", "loss", "emotion_macro_f1", "eval_mosei_correlation", "gate_entropy"])
def test_metrics_of_an_evaluation(make_arguments, metric):
    tasks = [BUILT_IN_TASKS["emotion"], BUILT_IN_TASKS["mosei"]]
    assert metric.removeprefix("eval_") in metric_names(tasks, EXPERTS)
    check_best_metric(make_arguments(eval_strategy="epoch", metric_for_best_model=metric), tasks, EXPERTS)


def test_metrics_that_an_evaluation_does_not_have(make_arguments):
    tasks = [BUILT_IN_TASKS["emotion"]]
    wrong = {"eval_strategy": "epoch", "metric_for_best_model": "meld_accuracy"}
    with pytest.raises(ValueError, match="--metric_for_best_model: evaluation has no such metric.*meld_accuracy"):
        check_best_metric(make_arguments(**wrong), tasks, EXPERTS)
    only_loss = make_arguments(**{**wrong, "metric_for_best_model": "emotion_accuracy", "prediction_loss_only": True})
    with pytest.raises(ValueError, match="use any of loss"):
        check_best_metric(only_loss, tasks, EXPERTS)
    check_best_metric(make_arguments(**{**wrong, "eval_strategy": "no"}), tasks, EXPERTS)
