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
from training.trainer.alignment import (
    align_pseudo_tokens,
    answer_mixtures,
    correct_projection,
    distances,
    draw_modalities,
    output_columns,
)
from training.trainer.distillation import Distillation
from training.trainer.pretraining import AnswerHeads
from training.trainer.pseudo_tokens import answer_weights, fit_pseudo_tokens
from training.trainer.sampling import EpochBatchSampler


@pytest.fixture(scope="module")
def place(tmp_path_factory, trained_tokenizer):
    return write_place(tmp_path_factory.mktemp("place"), trained_tokenizer)


@pytest.fixture(autouse=True)
def few_vectors(monkeypatch):
    monkeypatch.setattr(alignment, "NUM_VECTORS", 64)


@pytest.fixture
def setup(make_model, make_processor, place):
    """`setup(*task names)`: a model with fitted tokens, its distillation and a loader, of examples of these tasks."""

    def make(*names, only=None):
        model = make_model("waveform", "frames")
        processor = make_processor("waveform", "frames", tasks=[BUILT_IN_TASKS[name] for name in names])
        torch.manual_seed(0)
        heads = AnswerHeads(processor, model.config.fusion_hidden_size)
        examples = [
            example
            for example in load_examples(place / "corpus")
            if example["task"] in (names if only is None else [only])
        ]
        dataset = EGMFDataset(examples, processor).without_labels()
        batches = EpochBatchSampler(RandomSampler(dataset), 4, 1, 0, seed=0)
        loader = DataLoader(dataset, batch_sampler=batches, collate_fn=SampleCollator(processor))
        fit_pseudo_tokens(model, heads, processor, loader)
        distillation = Distillation(heads, processor)
        distillation.attach(model)
        return model, distillation, loader

    return make


@pytest.fixture
def reader(monkeypatch):
    """Let a model's answers be linear in its pseudo tokens, with slopes and biases that are not those of copying."""

    def make(model, distillation, loader):
        answered = answer_mixtures(model, distillation, loader, "cpu")
        outputs = torch.cat([part.outputs for part in answered])
        tokens = torch.cat([part.tokens for part in answered])
        centered = tokens - tokens.mean(dim=0)
        copying = torch.linalg.pinv(centered, rtol=1e-4) @ outputs
        generator = torch.Generator().manual_seed(1)
        width = outputs.shape[1]
        slopes = 0.7 * torch.eye(width) + 0.05 * torch.randn(width, width, generator=generator)
        biases = 0.5 * torch.randn(width, generator=generator)
        tasks, columns = distillation.heads.tasks, output_columns(distillation.heads)
        score_answers = model.score_answers

        @wraps(score_answers)
        def score(**inputs):
            output = score_answers(**inputs)
            own = model.egmf.pseudo_tokens(output.fused)[:, 0] - tokens.mean(dim=0)
            read = (own @ copying + outputs.mean(dim=0)) @ slopes + biases
            output.log_probs = torch.full((len(read), max(task.num_answers for task in tasks)), -torch.inf)
            for row, index in enumerate(inputs["task_ids"].tolist()):
                task, values = tasks[index], read[row : row + 1, columns[index]]
                is_labels = task.kind == "classification"
                probs = values.softmax(dim=1) if is_labels else answer_weights(task, values, by_logits=False)
                output.log_probs[row, : task.num_answers] = probs[0].log()
            return output

        monkeypatch.setattr(model, "score_answers", score)

    return make


def projection_of(model):
    return [parameter.detach().clone() for parameter in model.egmf.pseudo_tokens.projection.parameters()]


@pytest.mark.parametrize("names", [("emotion",), ("emotion", "sentiment")])
def test_slopes_and_biases_of_the_answers_are_undone(setup, reader, names):
    model, distillation, loader = setup(*names)
    reader(model, distillation, loader)
    state = torch.get_rng_state()
    result = align_pseudo_tokens(model, distillation, loader)
    assert torch.equal(torch.get_rng_state(), state)
    assert list(result["before"]) == list(result["after"]) == list(names)
    for name in names:
        assert result["before"][name] > 0.02
        assert result["after"][name] < 0.05 * result["before"][name]
    answered = answer_mixtures(model, distillation, loader, "cpu")
    assert distances(distillation.heads, answered, "cpu") == pytest.approx(result["after"], abs=0.005)


def test_a_task_without_vectors_stays_as_it_is_read(setup, reader):
    """All examples are of one of the two tasks."""
    model, distillation, loader = setup("emotion", "sentiment", only="emotion")
    reader(model, distillation, loader)
    result = align_pseudo_tokens(model, distillation, loader)
    assert list(result["after"]) == ["emotion"]
    assert result["after"]["emotion"] < 0.05 * result["before"]["emotion"]


def test_projection_stays_if_the_answers_come_no_closer(setup, reader, monkeypatch):
    model, distillation, loader = setup("emotion", "sentiment")
    reader(model, distillation, loader)
    before = projection_of(model)

    def spoil(model, *arguments):
        model.egmf.pseudo_tokens.projection.weight.mul_(-3)

    monkeypatch.setattr(alignment, "correct_projection", spoil)
    result = align_pseudo_tokens(model, distillation, loader)
    assert result["after"] == result["before"]
    assert all(map(torch.equal, projection_of(model), before))


def test_the_closest_round_is_kept(setup, reader, monkeypatch):
    model, distillation, loader = setup("emotion")
    reader(model, distillation, loader)
    states = []
    correct = alignment.correct_projection

    def spoil_the_last(model, *arguments):
        states.append(projection_of(model))
        correct(model, *arguments)
        if len(states) == alignment.ROUNDS:
            model.egmf.pseudo_tokens.projection.weight.mul_(-3)

    monkeypatch.setattr(alignment, "correct_projection", spoil_the_last)
    align_pseudo_tokens(model, distillation, loader)
    assert any(all(map(torch.equal, projection_of(model), state)) for state in states[1:])


def test_changes_stay_small_where_the_answers_hardly_follow(setup, reader):
    """The outputs would have to change a hundredfold for what is read of a hundredth of them."""
    model, distillation, loader = setup("emotion")
    heads = distillation.heads
    answered = answer_mixtures(model, distillation, loader, "cpu")
    faint = [part._replace(read=0.01 * part.outputs) for part in answered]
    before = projection_of(model)
    correct_projection(model, heads, faint, "cpu")
    change = sum((new - old).square().sum() for new, old in zip(projection_of(model), before, strict=True))
    assert change < sum(old.square().sum() for old in before)


def test_modalities_are_drawn_from_those_that_are_there():
    present = torch.tensor([[True, True, True], [True, False, True], [False, True, False]]).repeat(200, 1)
    drawn = draw_modalities(present)
    assert drawn.any(dim=1).all()
    assert not (drawn & ~present).any()
    kinds = [len(drawn[first::3].unique(dim=0)) for first in range(3)]
    assert kinds == [7, 3, 1]


def test_measured_vectors_lack_modalities(setup, monkeypatch):
    model, distillation, loader = setup("emotion")
    masks = []
    score_answers = model.score_answers

    @wraps(score_answers)
    def score(**inputs):
        masks.append(inputs["modality_mask"])
        return score_answers(**inputs)

    monkeypatch.setattr(model, "score_answers", score)
    answer_mixtures(model, distillation, loader, "cpu")
    assert len(torch.cat(masks).unique(dim=0)) > 3


def test_run_aligns_what_it_saves(place, monkeypatch):
    options = {"only_tasks": "emotion", "distillation": "true", "fit_pseudo_tokens": "true", **PRETRAINING, **SHORT}
    aligned = run(place, "aligned", **options)
    record = read_json(place / "runs/aligned/training.json")["pseudo_token_alignment"]
    assert 0 <= record["after"]["emotion"] <= record["before"]["emotion"]
    monkeypatch.setattr(alignment, "correct_projection", lambda *arguments: None)
    plain = run(place, "plain", **options)
    record = read_json(place / "runs/plain/training.json")["pseudo_token_alignment"]
    assert record["after"]["emotion"] <= record["before"]["emotion"]
    changed = [
        name
        for name, tensor in aligned.model.state_dict().items()
        if not torch.equal(tensor, plain.model.state_dict()[name])
    ]
    assert set(changed) <= {"egmf.pseudo_tokens.projection.weight", "egmf.pseudo_tokens.projection.bias"}
    no_distillation = run(place, "labels", **{**options, "distillation": "false"})
    assert no_distillation.distillation is None
    assert read_json(place / "runs/labels/training.json")["pseudo_token_alignment"] is None
