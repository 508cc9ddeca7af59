"""Label smoothing over the labels of a task, at an answer's first token."""

import pytest
import torch
from accelerate import PartialState
from safetensors.torch import load_file

from processing_egmf import BUILT_IN_TASKS, EGMFTask
from tests.helpers.training_runs import PRETRAINING, SHORT, run, write_place
from training.arguments import parse_arguments
from training.records import write_json
from training.trainer.soft_labels import LabelSmoothing, make_label_smoothing


MOODS = EGMFTask("mood", "classification", labels=("joy", "anger", "fear"), prompt="\nMood:")
SCORES = EGMFTask("score", "regression", low=-1, high=1, step=0.2, prompt="\nScore:")


def test_smoothed_labels_of_the_first_token(make_processor):
    smoothing = LabelSmoothing(make_processor(None, None, tasks=[MOODS, SCORES]), 0.3)
    assert list(smoothing.soft_labels.first_tokens) == [0]
    tokens = smoothing.soft_labels.first_tokens[0]
    # The answer of the second sample has two tokens. The logits are those of the last three columns of five.
    labels = torch.tensor([[-100, -100, -100, -100, tokens[1]], [-100, -100, -100, tokens[2], 5]])
    logits = torch.randn(2, 3, int(tokens.max()) + 10)
    task_ids = torch.zeros(2, dtype=torch.long)
    change = smoothing.change_of_loss(logits, labels, task_ids)
    plain = smoothed = 0.0
    for row, (column, answer, length) in enumerate(((1, 1, 1), (0, 2, 2))):
        log_probs = torch.log_softmax(logits[row, column], dim=0)[tokens]
        plain -= log_probs[answer] / length / 2
        smoothed -= (0.7 * log_probs[answer] + 0.3 * log_probs.mean()) / length / 2
    torch.testing.assert_close(change, smoothed - plain)
    assert smoothing.change_of_loss(logits, labels, task_ids + 1) == 0


def test_smoothing_without_effect_is_named(make_model, make_processor, caplog):
    PartialState()  # which the logger needs
    model = make_model(None, None)
    assert make_label_smoothing(model, make_processor(None, None, tasks=[SCORES]), 0) is None
    assert not caplog.text
    assert make_label_smoothing(model, make_processor(None, None, tasks=[SCORES]), 0.1) is None
    assert "--label_smoothing_factor has no effect" in caplog.text


@pytest.mark.integration
def test_run_with_smoothed_labels(tmp_path, trained_tokenizer):
    """The change reaches the losses that are logged and the weights."""
    place = write_place(tmp_path / "place", trained_tokenizer)
    words = {label: label for label in BUILT_IN_TASKS["emotion"].labels} | {"surprise": "wonder"}  # not s, as sadness
    tasks = {"emotion": {"kind": "classification", "labels": words, "prompt": "\nEmotion:"}}
    tasks_file = write_json(tmp_path / "tasks.yaml", tasks)
    options = {"tasks_file": tasks_file, "only_tasks": "emotion", **PRETRAINING, **SHORT}
    plain = run(place, "plain", **options)
    smoothed = run(place, "smoothed", label_smoothing_factor=0.4, **options)
    assert plain.label_smoothing is None
    assert smoothed.label_smoothing.factor == 0.4
    losses = [trainer.state.log_history[0]["loss"] for trainer in (plain, smoothed)]
    # An untrained model is equally unsure of all labels; smoothed garbage, as of shifted logits, would be far off.
    assert losses[0] == pytest.approx(losses[1], rel=0.2) and losses[0] != losses[1]
    weights = [load_file(place / "runs" / name / "model.safetensors") for name in ("plain", "smoothed")]
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize("factor", ["-0.1", "1"])
def test_impossible_shares_are_refused(tmp_path, factor):
    with pytest.raises(ValueError, match="--label_smoothing_factor is .*at least 0 and below 1"):
        parse_arguments(["--output_dir", str(tmp_path), "--label_smoothing_factor", factor])
