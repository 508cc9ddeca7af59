"""The readout head: its distribution, its loss, its checkpoint, and what refuses it."""

import pytest
import torch

from modeling_egmf import EGMFForConditionalGeneration
from training.model.builder import load
from training.model.readout import EGMFWithHead, Readout, describe_tasks, model_class


@pytest.fixture(scope="module")
def processor(make_processor):
    return make_processor()


@pytest.fixture(scope="module")
def model(make_config, make_language_model, processor):
    config = make_config(lora=None)
    config.readout = describe_tasks(processor.task_objects)
    torch.manual_seed(0)
    return EGMFWithHead(config, make_language_model()).eval()


@pytest.fixture(scope="module")
def batch(processor, make_samples, process):
    return process(processor, make_samples(3))


def test_labels_and_scores_of_a_batch():
    tasks = [
        {"name": "mood", "kind": "classification", "answers": 3},
        {"name": "score", "kind": "regression", "answers": 5},
    ]
    torch.manual_seed(0)
    readout = Readout(tasks, hidden_size=4)
    with torch.no_grad():
        readout.layers[1].weight.zero_()
        readout.layers[1].bias.copy_(torch.tensor([0.5, -3.0]))  # at the fourth of five values, and narrow
    probabilities = readout(torch.randn(3, 4), torch.tensor([0, 1, 0])).exp()
    assert probabilities.shape == (3, 5)
    assert torch.allclose(probabilities.sum(dim=1), torch.ones(3))
    assert probabilities[[0, 2], 3:].eq(0).all()
    assert probabilities[1].argmax() == 3
    assert torch.isclose(probabilities[1, 2], probabilities[1, 4])
    for unknown in (-1, 2):  # -1: the first task that was given to a call
        with pytest.raises(ValueError, match="whose only tasks are mood, score"):
            readout(torch.randn(2, 4), torch.tensor([0, unknown]))


def test_answers_are_the_heads(model, batch, processor):
    output = model.score_answers(**batch)
    assert output.probabilities.shape == batch["answer_ids"].shape[:2]
    assert torch.allclose(output.probabilities.sum(dim=1), torch.ones(3), atol=1e-5)
    answers = processor.post_process_answers(output)
    assert set(answers[0]["experts"]) == {"local", "semantic", "global"}
    label_index = torch.tensor([1, 0, 2])
    loss = model(**batch, label_index=label_index).loss
    expected = -output.log_probs.gather(1, label_index[:, None]).mean()
    assert torch.isclose(loss, expected)
    with torch.no_grad():
        shifted = dict(batch, audio_values=batch["audio_values"] + 1)
    assert not torch.allclose(model.score_answers(**shifted).probabilities, output.probabilities)
    loss.backward()
    assert model.readout.layers[0].weight.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in model.language_model.parameters())
    model.zero_grad()
    with pytest.raises(ValueError, match="answers with a head"):
        model.generate(**batch)


def test_checkpoint_loads_here_and_is_refused_by_the_code_on_the_hub(model, batch, processor, tmp_path):
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert model_class(tmp_path) is EGMFWithHead
    loaded, _ = load(tmp_path)
    expected = model.score_answers(**batch).probabilities
    found = loaded.score_answers(**batch).probabilities
    # Not bit for bit: with AVX-512, the last bit depends on where the weights, here of a mapped file, are in memory.
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    for name, weight in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight), name
    with pytest.raises(ValueError, match="readout"):
        EGMFForConditionalGeneration.from_pretrained(tmp_path)


@pytest.mark.parametrize("content", ["[]", "null", "3", '"egmf"'])
def test_a_configuration_that_is_no_object_is_named(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises((OSError, ValueError), match=f"The config.json of {tmp_path}"):
        load(tmp_path)


def test_scoring_in_training_mode_is_warned_of(model, batch):
    try:
        with pytest.warns(UserWarning, match=r"Dropout changes answers: call model\.eval"):
            model.train().score_answers(**batch)
    finally:
        model.eval()
