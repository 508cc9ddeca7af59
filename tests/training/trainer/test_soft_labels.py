"""Label smoothing over the labels of a task."""

import pytest
import torch
from accelerate import PartialState
from safetensors.torch import load_file

from processing_egmf import EGMFTask
from tests.helpers.training_runs import PRETRAINING, SHORT, run, write_place
from training.arguments import parse_arguments
from training.trainer.soft_labels import LabelSmoothing, make_label_smoothing


MOODS = EGMFTask("mood", "classification", labels=("joy", "anger", "fear"), prompt="\nMood:")
SCORES = EGMFTask("score", "regression", low=-1, high=1, step=0.2, prompt="\nScore:")


def test_smoothed_labels(make_processor):
    smoothing = LabelSmoothing(make_processor(None, None, tasks=[MOODS, SCORES]), 0.3)
    assert list(smoothing.soft_labels.answers) == [0]
    tokens = smoothing.soft_labels.answers[0]
    own, others = tokens[1], tokens[:, 0]
    assert len(others.unique()) == 3  # so that only the first token can be another one
    length = int((own >= 0).sum())
    labels = torch.full((1, 2 + length), -100)
    labels[0, 2:] = own[:length]
    logits = torch.randn(1, length + 1, int(tokens.max()) + 10)  # of all columns but the first
    task_ids = torch.zeros(1, dtype=torch.long)
    change = smoothing.change_of_loss(logits, labels, task_ids)
    log_probs = torch.log_softmax(logits[0, 0], dim=0)[others]
    torch.testing.assert_close(change, 0.3 * (log_probs[1] - log_probs.mean()) / length)
    assert smoothing.change_of_loss(logits, labels, task_ids + 1) == 0


def test_labels_that_begin_alike_share_their_beginning(make_processor):
    """Of three labels, two begin alike: the beginning is worth both, and the next token is shared by the two."""
    task = EGMFTask("mood", "classification", labels=("so so", "so good", "bad"), prompt="\nMood:")
    smoothing = LabelSmoothing(make_processor(None, None, tasks=[task]), 0.3)
    tokens = smoothing.soft_labels.answers[0]
    length = int((tokens[0] >= 0).sum())
    step = int((tokens[0] != tokens[1]).int().argmax())
    assert step > 0 and tokens[0, 0] != tokens[2, 0]
    labels = tokens[:1, :length].clone()
    labels = torch.cat([torch.full((1, 1), -100), labels], dim=1)
    logits = torch.randn(1, length + 1, int(tokens.max()) + 10)
    change = smoothing.change_of_loss(logits, labels, torch.zeros(1, dtype=torch.long))
    first = torch.log_softmax(logits[0, 0], dim=0)
    later = torch.log_softmax(logits[0, step], dim=0)
    expected = 0.1 * (first[tokens[0, 0]] - first[tokens[2, 0]])
    expected += 0.1 / 0.9 * (later[tokens[0, step]] - later[tokens[1, step]])
    torch.testing.assert_close(change, expected / length)


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
    options = {"only_tasks": "emotion", **PRETRAINING, **SHORT}
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
