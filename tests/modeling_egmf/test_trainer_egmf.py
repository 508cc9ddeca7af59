"""What the plain `Trainer` needs: the true answer's index, the distribution in evaluation, and columns that stay."""

import inspect

import pytest
import torch
from transformers import Trainer

from modeling_egmf.trainer_egmf import DATASET_COLUMNS, find_true_answers
from processing_egmf import EGMFDataCollator, EGMFProcessor


ANSWERS = ("joy", "anger", "sadness")


@pytest.fixture(scope="module")
def parts(make_model, make_processor):
    return make_model(), make_processor()


@pytest.fixture
def rows(make_samples):
    return [{**sample, "answer": answer} for sample, answer in zip(make_samples(3), ANSWERS, strict=True)]


def test_evaluation_gives_the_distribution_of_the_prompts_without_their_answers(parts, rows, process):
    model, processor = parts
    batch = EGMFDataCollator(processor)(rows)
    output = model(**batch)
    prompts = [{name: value for name, value in row.items() if name != "answer"} for row in rows]
    expected = model.score_answers(**process(processor, prompts)).log_probs
    torch.testing.assert_close(output.answer_log_probs, expected)
    labels = processor.task_objects["emotion"].labels
    assert [list(labels)[index] for index in output.label_index] == list(ANSWERS)
    assert output.loss == pytest.approx(-expected.gather(1, output.label_index[:, None]).mean().item(), abs=1e-5)
    assert output.logits is None


def test_training_ignores_the_answers(parts, rows):
    model, processor = parts
    with_answers = EGMFDataCollator(processor)(rows)
    without = EGMFDataCollator(processor, score_answers=False)(rows)
    assert set(with_answers) - set(without) == {"answer_ids"}
    model.train()
    try:
        losses = [model(**batch).loss.item() for batch in (with_answers, without)]
    finally:
        model.eval()
    assert losses[0] == losses[1] == model(**without).loss.item()


def test_training_without_labels_is_refused(parts, rows):
    """As with `label_smoothing_factor`, for which Trainer takes the labels from the model."""
    model, processor = parts
    batch = EGMFDataCollator(processor)(rows)
    del batch["labels"]
    model.train()
    with pytest.raises(ValueError, match="Set label_smoothing_factor to 0"):
        model(**batch)
    model.eval()
    assert model(**batch).loss is None


def test_index_of_the_true_answer():
    answers = torch.tensor([[[5, -1], [6, 7], [6, 8]], [[5, 9], [6, -1], [-1, -1]]])
    labels = torch.tensor([[-100, 6, 8, 1], [-100, -100, 6, 1]])
    counts = (labels != -100).sum(dim=1, keepdim=True)
    assert find_true_answers(labels, answers, counts).tolist() == [2, 1]
    labels[0, 2] = 9
    with pytest.raises(ValueError, match=r"sample \[0\] of the batch are none"):
        find_true_answers(labels, answers, counts)


def test_columns_of_a_dataset_stay(parts):
    """`Trainer` keeps what `forward` names: all that a row or a prepared sample needs."""
    model, processor = parts
    trainer = Trainer(model)
    trainer._set_signature_columns_if_needed()
    others = {"self", "audio_states", "video_states", "max_length"}  # not of a row
    assert set(inspect.signature(EGMFProcessor.prepare).parameters) - others <= set(DATASET_COLUMNS)
    sample = processor.prepare(text="Hi.", answer="joy")
    assert set(sample) - {"prompt"} <= set(trainer._signature_columns)


def test_forward_itself_refuses_columns(parts, process):
    model, processor = parts
    inputs = processor(text="Hi.")
    with pytest.raises(TypeError, match="'audio'. It is an argument of the processor"):
        model(**inputs, audio=None)
