"""Fitted pseudo tokens: they start as the words that the heads of the fusion pretraining answer."""

import pytest
import torch
from torch.utils.data import DataLoader

from processing_egmf import BUILT_IN_TASKS, EGMFTask
from tests.helpers.training_runs import PRETRAINING, SHORT, run
from training.data.collator import SampleCollator
from training.data.dataset import EGMFDataset, load_examples
from training.trainer.pretraining import AnswerHeads, fuse_modalities
from training.trainer.pseudo_tokens import (
    answer_embeddings,
    answer_weights,
    fit_pseudo_tokens,
    projection_shares,
    serve_one_task,
    share_projections,
)


def test_score_is_shared_between_the_answers_next_to_it():
    task = EGMFTask("score", "regression", low=-1, high=1, step=0.5, prompt="\nScore:")
    expected = torch.tensor([[1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0.75, 0.25, 0]])
    for by_logits in (False, True):
        weights = answer_weights(task, torch.tensor([[-2.0], [-0.5], [0.125]]), by_logits)
        torch.testing.assert_close(weights, expected)


def test_weights_of_labels():
    """Linear in the logits, or the probabilities."""
    task = EGMFTask("mood", "classification", labels=["happy", "sad", "angry"], prompt="\nMood:")
    logits = torch.tensor([[5.0, 5.0, 5.0], [3.0, 1.0, -1.0], [30.0, 10.0, -10.0]])
    weights = answer_weights(task, logits, by_logits=True)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(3))
    torch.testing.assert_close(weights[0], torch.full((3,), 1 / 3))
    torch.testing.assert_close(weights[2] - 1 / 3, 10 * (weights[1] - 1 / 3))
    assert weights[1].argsort().tolist() == [2, 1, 0]
    torch.testing.assert_close(answer_weights(task, logits, by_logits=False), torch.softmax(logits, dim=1))


def test_separate_tokens_take_turns_with_the_tasks():
    assert share_projections(2, 1).tolist() == [[0.5, 0.5]]
    assert share_projections(2, 4).tolist() == [[1, 0], [0, 1], [1, 0], [0, 1]]
    assert share_projections(4, 2).tolist() == [[0.5, 0, 0.5, 0], [0, 0.5, 0, 0.5]]


def test_slots_of_a_score_hold_the_answers_of_all_tasks(make_model, make_processor):
    settings = {"pseudo_token_projection": "separate"}
    pseudo_tokens = make_model("waveform", "frames", **settings).egmf.pseudo_tokens
    tasks = [BUILT_IN_TASKS[name] for name in ("emotion", "sentiment")]
    for task_slots, expected in (
        ({"emotion": [0, 2], "sentiment": [1]}, [[1, 0], [0.5, 0.5], [1, 0]]),
        ({"emotion": [0, 1], "sentiment": [2]}, [[1, 0], [1, 0], [0.5, 0.5]]),
        ({"emotion": [0, 1]}, [[0.5, 0.5], [0.5, 0.5], [0, 1]]),
        ({"emotion": [0], "sentiment": [1]}, [[1, 0], [0.5, 0.5], [0, 0]]),
        (None, [[1, 0], [0, 1], [1, 0]]),
    ):
        processor = make_processor("waveform", "frames", tasks=tasks, task_slots=task_slots)
        assert projection_shares(pseudo_tokens, processor).tolist() == expected
    one = make_model("waveform", "frames").egmf.pseudo_tokens
    processor = make_processor("waveform", "frames", tasks=tasks, task_slots={"emotion": [0]})
    assert projection_shares(one, processor).tolist() == [[0.5, 0.5]]
    assert serve_one_task(torch.tensor([[1, 0], [0.5, 0.5], [0, 1]])).tolist() == [True, False, True]


def test_tokens_of_labels_are_linear_in_logits_beside_shared_ones(make_model, make_processor, place):
    """The same tokens as of a model for emotions only, and those of a model whose tasks share all tokens."""
    emotion, sentiment = (BUILT_IN_TASKS[name] for name in ("emotion", "sentiment"))
    torch.manual_seed(0)
    processor = make_processor(
        "waveform", "frames", tasks=[emotion, sentiment], task_slots={"emotion": [0, 2], "sentiment": [1]}
    )
    separate = {"pseudo_token_projection": "separate"}
    model = make_model("waveform", "frames", **separate)
    heads = AnswerHeads(processor, model.config.fusion_hidden_size)
    examples = load_examples(place / "corpus", "train")
    loader = DataLoader(EGMFDataset(examples, processor), 4, collate_fn=SampleCollator(processor))
    fused = torch.randn(5, model.config.fusion_hidden_size)

    def fitted(own_processor, own_heads, **fields):
        own_model = make_model("waveform", "frames", **fields)
        shared = {
            name: tensor for name, tensor in model.egmf.state_dict().items() if "pseudo_tokens.projection" not in name
        }
        own_model.egmf.load_state_dict(shared, strict=False)
        fit_pseudo_tokens(own_model, own_heads, own_processor, loader)
        return own_model.egmf.pseudo_tokens(fused)

    tokens = fitted(processor, heads, **separate)
    of_all = fitted(make_processor("waveform", "frames", tasks=[emotion, sentiment]), heads)
    emotion_only = make_processor("waveform", "frames", tasks=[emotion])
    head = AnswerHeads(emotion_only, model.config.fusion_hidden_size)
    head.norm.load_state_dict(heads.norm.state_dict())
    head.heads[0].load_state_dict(heads.heads[0].state_dict())
    of_emotion = fitted(emotion_only, head)
    torch.testing.assert_close(tokens[:, [0, 2]], of_emotion[:, :2], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(tokens[:, 1], of_all[:, 0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("projection", "names", "by_logits"),
    [
        ("repeat", list(BUILT_IN_TASKS), False),
        ("separate", list(BUILT_IN_TASKS), False),
        ("separate", ["emotion", "sentiment"], True),
        ("repeat", ["emotion"], True),
    ],
)
def test_tokens_are_the_words_that_the_heads_answer(make_model, make_processor, place, projection, names, by_logits):
    model = make_model("waveform", "frames", pseudo_token_projection=projection)
    processor = make_processor("waveform", "frames", tasks=[BUILT_IN_TASKS[name] for name in names])
    heads = AnswerHeads(processor, model.config.fusion_hidden_size)
    examples = load_examples(place / "corpus", "train")
    dataset = EGMFDataset([e for e in examples if e["task"] in names], processor)
    loader = DataLoader(dataset, 4, collate_fn=SampleCollator(processor))
    explained = fit_pseudo_tokens(model, heads, processor, loader)
    model.eval()
    fused = torch.cat([fuse_modalities(model, batch)[0] for batch in loader]).detach()
    tokens = model.egmf.pseudo_tokens(fused)  # (N, P, D)
    wanted = torch.zeros(len(processor.task_objects), *tokens[:, 0].shape)
    for index, task in enumerate(processor.task_objects.values()):
        weights = answer_weights(task, heads.heads[index](heads.norm(fused)), by_logits)
        wanted[index] = weights @ answer_embeddings(model, processor, task)
    num_projections = 1 if projection == "repeat" else tokens.shape[1]
    shares = share_projections(len(wanted), num_projections).expand(tokens.shape[1], -1)
    of_tokens = torch.einsum("pt,tnd->npd", shares, wanted)
    spread = (of_tokens - of_tokens.mean(dim=0)).square().sum()
    measured = 1 - (tokens - of_tokens).square().sum() / spread
    assert measured.item() == pytest.approx(explained, abs=1e-4)
    assert explained > (0.99 if names == ["emotion"] else 0.5)


def test_run_starts_from_fitted_tokens(place):
    no_rates = {"learning_rate": 0, "fusion_learning_rate": 0}
    projections = []
    for name, fitted in (("fitted", "true"), ("random", "false")):
        options = {**PRETRAINING, **SHORT, **no_rates, "fit_pseudo_tokens": fitted}
        projections.append(run(place, name, **options).model.egmf.pseudo_tokens.projection.weight.detach())
    assert not torch.allclose(*projections)


def test_only_fitted_tokens_learn_as_slowly_as_the_fusion(place, caplog):
    rates = {}
    for name, epochs in (("fitted_slowly", 1), ("unfitted", 0)):
        options = {**PRETRAINING, **SHORT, "fusion_pretraining_epochs": epochs, "learning_rate": 1e-4}
        trainer = run(place, name, fit_pseudo_tokens="true", **options)
        weight = trainer.model.egmf.pseudo_tokens.projection.weight
        for group in trainer.optimizer.param_groups:
            if any(parameter is weight for parameter in group["params"]):
                rates[name] = group["initial_lr"]
    assert rates == {"fitted_slowly": 2e-2, "unfitted": 1e-4}
    assert caplog.text.count("--fit_pseudo_tokens has no effect") == 1
    again = {"model_name_or_path": place / "runs/unfitted", "text_model_name_or_path": place / "llm"}
    trainer = run(place, "fine-tuned", fit_pseudo_tokens="true", **{**PRETRAINING, **SHORT, **again})
    assert not trainer.fits_pseudo_tokens
    assert "has learned to read its pseudo tokens" in caplog.text
