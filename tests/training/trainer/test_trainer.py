"""The trainer: what a step changes, two learning rates, the evaluator's metrics, the best checkpoint."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from modeling_egmf import EGMFForConditionalGeneration
from tests.helpers.training_runs import SHORT, assert_same_weights, record_of, run, weights_of
from training.data.collator import SUBSETS
from training.data.dataset import EGMFDataset, load_examples
from training.data.selection import select_examples
from training.evaluation.evaluator import evaluate
from training.evaluation.metrics import numbers_of
from training.trainer.distributed import load_adapter_state
from training.trainer.trainer import hide_transcripts


pytestmark = pytest.mark.integration


def test_steps_change_all_trained_and_no_frozen_weights(place, finished):
    folder = Path(finished.args.output_dir)
    first = weights_of(folder / "checkpoint-2")
    last = weights_of(folder / "checkpoint-4")
    unchanged = {name for name in first if torch.equal(first[name], last[name])}
    assert not {name for name in unchanged if "lora_" in name or "fusion" in name or "experts" in name}
    base = load_file(place / "llm/model.safetensors")
    trained = {
        name.replace(".base_layer", ""): value
        for name, value in finished.model.language_model.state_dict().items()
        if "lora_" not in name
    }
    for name in base:
        assert torch.equal(trained[name], base[name]), name


def test_loss_and_metrics_of_both_tasks_are_logged(finished):
    history = finished.state.log_history
    losses = [entry["loss"] for entry in history if "loss" in entry]
    assert len(losses) == 4
    assert all(map(math.isfinite, losses))
    evaluated = [entry for entry in history if "eval_loss" in entry]
    assert [entry["step"] for entry in evaluated] == [2, 4]
    assert {"eval_emotion_accuracy", "eval_sentiment_mae", "eval_sentiment_acc2_non0"} <= set(evaluated[0])
    assert 0 < evaluated[0]["eval_gate_entropy"] <= 1
    assert sum(evaluated[0][f"eval_gate_share_{name}"] for name in ("local", "semantic", "global")) == pytest.approx(1)


def test_transcripts_are_hidden_from_the_language_model_only(place, monkeypatch):
    """Of some examples of a training step; never in evaluation."""
    seen = []
    forward = EGMFForConditionalGeneration.forward

    def record(self, **inputs):
        hidden = (inputs["utterance_mask"].bool() & (inputs["attention_mask"] == 0)).any(dim=1)
        others = inputs["attention_mask"][inputs["utterance_mask"] == 0]
        seen.append((self.training, hidden, others))
        return forward(self, **inputs)

    monkeypatch.setattr(EGMFForConditionalGeneration, "forward", record)
    run(place, "transcript_dropout", transcript_dropout=0.5, **SHORT)
    hidden = torch.cat([hidden for training, hidden, _ in seen if training])
    assert 0 < hidden.sum() < len(hidden)
    assert not any(hidden.any() for training, hidden, _ in seen if not training)


def test_hidden_transcripts():
    inputs = {
        "attention_mask": torch.tensor([[0, 1, 1, 1]] * 400),
        "utterance_mask": torch.tensor([[0, 1, 1, 0]] * 400),
    }
    original = inputs["attention_mask"]
    hide_transcripts(inputs, 0.25)
    rows = inputs["attention_mask"].tolist()
    assert {tuple(row) for row in rows} == {(0, 1, 1, 1), (0, 0, 0, 1)}
    assert 60 < rows.count([0, 0, 0, 1]) < 140
    assert original.sum() == 1200


def test_two_learning_rates(finished):
    names = {id(parameter): name for name, parameter in finished.model.named_parameters()}
    rates = {}
    for group in finished.optimizer.param_groups:
        for parameter in group["params"]:
            assert names[id(parameter)] not in rates
            rates[names[id(parameter)]] = group["initial_lr"]
    assert set(rates) == {name for name, p in finished.model.named_parameters() if p.requires_grad}
    for name, rate in rates.items():
        in_fusion = name.startswith("egmf.") and not name.startswith("egmf.pseudo_tokens.")
        assert rate == (2e-2 if in_fusion else 1e-2), name


def test_evaluation_matches_the_evaluator(place):
    """The loss is the mean of -log P over examples, although batches hold two examples or one."""
    trainer = run(place, "evaluated", **{**SHORT, "eval_strategy": "steps", "eval_steps": 1}, max_eval_samples=3)
    processor = trainer.processing_class
    dataset = EGMFDataset(
        select_examples(load_examples(place / "corpus", "validation"), None, 3, "emotion"), processor
    )
    results = evaluate(trainer.model, processor, dataset, SUBSETS[-1:], batch_size=3)["text+audio+video"]["tasks"]
    (logged,) = (entry for entry in trainer.state.log_history if "eval_loss" in entry)
    losses = []
    for task, part in results.items():
        for name, value in numbers_of(part["metrics"]).items():
            assert logged[f"eval_{task}_{name}"] == pytest.approx(value, abs=1e-5, nan_ok=True), (
                task,
                name,
            )
        for prediction in part["predictions"]:
            probabilities = list(prediction["probabilities"].values())
            losses.append(-math.log(probabilities[processor.task_objects[task].index(prediction["truth"])]))
    assert logged["eval_loss"] == pytest.approx(sum(losses) / 3, abs=1e-5)


def test_best_checkpoint_is_kept_and_loaded(place, monkeypatch):
    scores = iter([3.0, 1.0, 2.0, 4.0])
    monkeypatch.setattr("training.trainer.run.make_compute_metrics", lambda *_: lambda _: {"loss": next(scores)})
    best = {
        "load_best_model_at_end": "true",
        "metric_for_best_model": "eval_loss",
        "greater_is_better": "false",
    }
    run(place, "best", **best, save_steps=1, eval_steps=1)
    folder = place / "runs/best"
    assert {path.name for path in folder.glob("checkpoint-*")} == {
        "checkpoint-2",
        "checkpoint-4",
    }  # best and last
    assert_same_weights(weights_of(folder), weights_of(folder / "checkpoint-2"))
    record = record_of(folder)
    assert (record["best_step"], record["best_metric"]) == (2, 1.0)


def test_early_stopping_ends_a_run_that_does_not_improve(place):
    best = {
        "load_best_model_at_end": "true",
        "metric_for_best_model": "eval_loss",
        "greater_is_better": "false",
    }
    trainer = run(
        place,
        "stopped",
        **best,
        learning_rate=0,
        max_steps=9,
        save_steps=1,
        eval_steps=1,
        early_stopping_patience=2,
    )
    assert trainer.state.global_step == 3


@pytest.mark.parametrize(("change", "message"), [("pop", "Missing: .'egmf"), ("add", "unexpected: .'other")])
def test_checkpoint_that_does_not_fit_is_refused(make_model, change, message):
    model = make_model()
    state = dict(model.state_dict())
    if change == "pop":
        state.pop(next(name for name in state if name.startswith("egmf.")))
    else:
        state["other"] = torch.zeros(())
    with pytest.raises(ValueError, match=rf"The checkpoint does not fit the model\. .*{message}"):
        load_adapter_state(model, set(), state)
