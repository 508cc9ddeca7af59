"""Alignment: after training, the projection is corrected so that the language model answers as the heads do."""

from functools import wraps

import pytest
import torch
from torch.utils.data import DataLoader, RandomSampler

from processing_egmf import BUILT_IN_TASKS
from tests.helpers.training_runs import PRETRAINING, SHORT, run, write_place
from training.data.collator import SampleCollator
from training.data.dataset import EGMFDataset, load_examples
from training.records import read_json
from training.trainer import alignment
from training.trainer.alignment import align_pseudo_tokens, answer_mixtures, mean_divergence
from training.trainer.distillation import Distillation
from training.trainer.pretraining import AnswerHeads
from training.trainer.pseudo_tokens import LOGIT_SHARE, answer_embeddings, fit_pseudo_tokens
from training.trainer.sampling import EpochBatchSampler


@pytest.fixture(scope="module")
def place(tmp_path_factory, trained_tokenizer):
    return write_place(tmp_path_factory.mktemp("place"), trained_tokenizer)


@pytest.fixture(autouse=True)
def few_vectors(monkeypatch):
    monkeypatch.setattr(alignment, "NUM_VECTORS", 64)


@pytest.fixture
def setup(make_model, make_processor, place):
    """`setup(*task names, task_slots=None)`: a model with fitted tokens, its distillation, processor and loader."""

    def make(*names, task_slots=None):
        model = make_model("waveform", "frames", pseudo_token_projection="separate" if task_slots else "repeat")
        tasks = [BUILT_IN_TASKS[name] for name in names]
        processor = make_processor("waveform", "frames", tasks=tasks, task_slots=task_slots)
        torch.manual_seed(0)
        heads = AnswerHeads(processor, model.config.fusion_hidden_size)
        examples = [example for example in load_examples(place / "corpus") if example["task"] in names]
        dataset = EGMFDataset(examples, processor).without_labels()
        batches = EpochBatchSampler(RandomSampler(dataset), 4, 1, 0, seed=0)
        loader = DataLoader(dataset, batch_sampler=batches, collate_fn=SampleCollator(processor))
        fit_pseudo_tokens(model, heads, processor, loader)
        distillation = Distillation(heads, processor)
        distillation.attach(model)
        return model, distillation, processor, loader

    return make


@pytest.fixture
def reader(monkeypatch):
    """Let a model's answers be linear in its pseudo tokens, with slopes and biases that are not those of copying."""

    def make(model, processor):
        words = answer_embeddings(model, processor, next(iter(processor.task_objects.values())))
        generator = torch.Generator().manual_seed(1)
        slopes = torch.eye(len(words)) + 0.2 * torch.randn(len(words), len(words), generator=generator)
        biases = torch.randn(len(words), generator=generator)
        slots = processor.task_slots.get("emotion", [0, 1, 2])
        directions = words - words.mean(dim=0)
        directions = directions / (LOGIT_SHARE * directions.square().sum(dim=1).mean())
        score_answers = model.score_answers

        @wraps(score_answers)
        def score(**inputs):
            output = score_answers(**inputs)
            tokens = model.egmf.pseudo_tokens(output.fused)[:, slots].mean(dim=1)
            scores = (tokens - words.mean(dim=0)) @ directions.T @ slopes + biases
            output.log_probs = torch.log_softmax(scores, dim=1)
            return output

        monkeypatch.setattr(model, "score_answers", score)

    return make


def projection_of(model):
    return [parameter.detach().clone() for parameter in model.egmf.pseudo_tokens.projection.parameters()]


def test_slopes_and_biases_of_the_answers_are_undone(setup, reader):
    model, distillation, processor, loader = setup("emotion")
    reader(model, processor)
    state = torch.get_rng_state()
    result = align_pseudo_tokens(model, distillation, processor, loader)
    assert torch.equal(torch.get_rng_state(), state)
    assert result["before"] > 0.1
    assert result["after"] < 1e-3 * result["before"]
    measured = mean_divergence(answer_mixtures(model, distillation, loader, "cpu"), "cpu")
    assert measured == pytest.approx(0, abs=1e-3 * result["before"])


def test_only_the_tokens_of_labels_are_changed(setup, reader):
    model, distillation, processor, loader = setup(
        "emotion", "sentiment", task_slots={"emotion": [0, 2], "sentiment": [1]}
    )
    reader(model, processor)
    before = [values.unflatten(0, (3, -1)) for values in projection_of(model)]
    result = align_pseudo_tokens(model, distillation, processor, loader)
    assert result["before"] > 0.1
    assert result["after"] < 1e-2 * result["before"]
    after = [values.unflatten(0, (3, -1)) for values in projection_of(model)]
    for old, new in zip(before, after, strict=True):
        assert torch.equal(old[1], new[1])
        assert not torch.allclose(old[[0, 2]], new[[0, 2]], atol=1e-3)


def test_projection_stays_if_the_answers_come_no_closer(setup, reader, monkeypatch):
    model, distillation, processor, loader = setup("emotion")
    reader(model, processor)
    before = projection_of(model)

    def spoil(model, *arguments):
        model.egmf.pseudo_tokens.projection.weight.mul_(-3)

    monkeypatch.setattr(alignment, "correct_projection", spoil)
    result = align_pseudo_tokens(model, distillation, processor, loader)
    assert result["after"] == result["before"]
    assert all(map(torch.equal, projection_of(model), before))


def test_tokens_that_serve_several_tasks_stay(setup):
    model, distillation, processor, loader = setup("emotion", "sentiment")
    before = projection_of(model)
    assert align_pseudo_tokens(model, distillation, processor, loader) is None
    assert all(map(torch.equal, projection_of(model), before))


def test_run_aligns_what_it_saves(place, monkeypatch, capsys):
    options = {"only_tasks": "emotion", "distillation": "true", "fit_pseudo_tokens": "true", **PRETRAINING, **SHORT}
    aligned = run(place, "aligned", **options)
    record = read_json(place / "runs/aligned/training.json")["pseudo_token_alignment"]
    assert ("aligned with the pretraining's head" in capsys.readouterr().out) == (record["after"] < record["before"])
    assert 0 <= record["after"] <= record["before"]
    monkeypatch.setattr(alignment, "correct_projection", lambda *arguments: None)
    plain = run(place, "plain", **options)
    record = read_json(place / "runs/plain/training.json")["pseudo_token_alignment"]
    assert record["after"] <= record["before"]
    changed = [
        name
        for name, tensor in aligned.model.state_dict().items()
        if not torch.equal(tensor, plain.model.state_dict()[name])
    ]
    assert set(changed) <= {"egmf.pseudo_tokens.projection.weight", "egmf.pseudo_tokens.projection.bias"}
    no_distillation = run(place, "labels", **{**options, "distillation": "false"})
    assert no_distillation.distillation is None
    assert read_json(place / "runs/labels/training.json")["pseudo_token_alignment"] is None
