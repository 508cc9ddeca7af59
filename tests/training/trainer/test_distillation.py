"""Distillation: the language model follows the heads of the fusion pretraining, on mixtures of fused vectors."""

import pytest
import torch
from safetensors.torch import load_file

from processing_egmf import EGMFTask
from tests.helpers.training_runs import PRETRAINING, SHORT, run, write_place
from training.arguments import parse_arguments
from training.trainer.checkpointing import FUSION_PRETRAINING_WEIGHTS
from training.trainer.distillation import Distillation
from training.trainer.pretraining import AnswerHeads


@pytest.fixture(scope="module")
def place(tmp_path_factory, trained_tokenizer):
    return write_place(tmp_path_factory.mktemp("place"), trained_tokenizer)


@pytest.fixture
def distillation(make_processor):
    """For a task of three labels and a regression task of eleven values, with random heads of width 8."""
    moods = EGMFTask("mood", "classification", labels=("joy", "anger", "fear"), prompt="\nMood:")
    scores = EGMFTask("score", "regression", low=-1, high=1, step=0.2, prompt="\nScore:")
    processor = make_processor(None, None, tasks=[moods, scores])
    torch.manual_seed(0)
    return Distillation(AnswerHeads(processor, 8), processor)


def test_vectors_are_mixed_once_and_only_for_the_task_of_labels(distillation, make_model):
    model = make_model(None, None)
    distillation.attach(model)
    fused = torch.randn(4, model.config.fusion_hidden_size)
    plain = model.egmf.experts(fused).fused
    distillation.begin(torch.tensor([0, 0, 0, 1]))
    mixed = model.egmf.experts(fused).fused
    assert torch.equal(mixed[3], plain[3])
    # Each mixture lies on the line from its own vector to another one.
    for row in range(3):
        change = mixed[row] - plain[row]
        directions = plain - plain[row]
        cosines = torch.nn.functional.cosine_similarity(directions, change[None], dim=1)
        assert torch.equal(mixed[row], plain[row]) or cosines.abs().max() > 0.9999
    assert torch.equal(model.egmf.experts(fused).fused, plain)


def test_targets_are_the_answers_of_the_head(distillation):
    assert list(distillation.soft_labels.answers) == [0]
    tokens = distillation.soft_labels.answers[0]
    lengths = (tokens >= 0).sum(dim=1).tolist()
    width = tokens.shape[1]
    fused = torch.randn(2, 8)
    labels = torch.full((2, width + 2), -100)
    labels[0, 2 : 2 + lengths[1]] = tokens[1, : lengths[1]]
    labels[1, 1 : 1 + lengths[2]] = tokens[2, : lengths[2]]
    logits = torch.randn(2, width + 2, int(tokens.max()) + 10)
    task_ids = torch.zeros(2, dtype=torch.long)
    change = distillation.change_of_loss(logits, fused, labels, task_ids)
    targets = torch.softmax(distillation.heads.heads[0](distillation.heads.norm(fused)), dim=1)
    first = tokens[:, 0]
    assert len(first.unique()) == 3  # so that only the first token can be another one
    expected = 0.0
    for row, (column, answer) in enumerate(((1, 1), (0, 2))):
        log_probs = torch.log_softmax(logits[row, column], dim=0)[first]
        expected += (log_probs[answer] - (targets[row] * log_probs).sum()) / lengths[answer] / 2
    torch.testing.assert_close(change, expected)
    assert distillation.change_of_loss(logits, fused, labels, task_ids + 1) == 0


def test_scores_are_trained_as_usual(place, caplog):
    trainer = run(place, "scores", distillation="true", only_tasks="sentiment", **PRETRAINING, **SHORT)
    assert trainer.distillation is None
    assert "--distillation has no effect" in caplog.text


def test_run_follows_its_pretraining(place):
    options = {"only_tasks": "emotion", **PRETRAINING, **SHORT}
    changed = run(place, "distilled", distillation="true", **options)
    assert changed.distillation is not None
    plain = run(place, "plain", **options)
    assert plain.distillation is None
    assert not (place / "runs/distilled" / FUSION_PRETRAINING_WEIGHTS).exists()
    weights = [load_file(place / "runs" / name / "model.safetensors") for name in ("distilled", "plain")]
    assert set(weights[0]) == set(weights[1])
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_distillation_without_pretraining_has_no_effect(place, caplog):
    trainer = run(
        place, "unpretrained", distillation="true", **{**PRETRAINING, "fusion_pretraining_epochs": 0}, **SHORT
    )
    assert trainer.distillation is None
    assert "--distillation has no effect" in caplog.text


def test_distillation_with_smoothed_labels_is_refused(tmp_path):
    argv = ["--output_dir", str(tmp_path), "--distillation", "true", "--label_smoothing_factor", "0.1"]
    with pytest.raises(ValueError, match="--distillation gives soft labels itself"):
        parse_arguments(argv)
