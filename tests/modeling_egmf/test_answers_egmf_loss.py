"""The loss of a known answer, whichever columns have logits."""

import pytest
import torch

from modeling_egmf.answers_egmf import answer_loss, choose_logits_to_keep
from tests.helpers.model_inputs import assert_close
from training.model.backbones.decoders import build_model, make_inputs
from training.model.backbones.small_configs import build_small_model, small_config


LABEL = (6, 8, 9)


@pytest.fixture(scope="module", params=["llama", "lfm2"])
def model(request):
    return build_model(build_small_model(small_config(request.param)))


@pytest.fixture
def labeled(model):
    inputs = make_inputs(model, LABEL)
    labels = torch.full_like(inputs["input_ids"], -100)
    labels[:, -3:] = torch.tensor(LABEL)
    return {**inputs, "labels": labels}


@pytest.mark.parametrize("columns", [0, 4, 10, torch.tensor([20, 21, 22]), torch.tensor([22, 3, 20, 21, 23])])
@torch.no_grad()
def test_columns_do_not_change_the_loss(model, labeled, columns):
    expected = model(**labeled).loss
    assert_close(model(**labeled, logits_to_keep=columns).loss, expected)


@pytest.mark.parametrize("columns", [1, 3, torch.tensor([20, 21])])
def test_columns_without_labels_are_refused(model, labeled, columns):
    with pytest.raises(ValueError, match="`logits_to_keep` leaves out columns that predict `labels`.*20 to 22"):
        model(**labeled, logits_to_keep=columns)


@pytest.mark.parametrize("columns", [None, 0, 1])
def test_no_labels_are_refused(columns):
    labels = torch.full((2, 5), -100)
    labels[0, 0] = 3  # nothing comes before it
    with pytest.raises(ValueError, match="`labels` contains only -100"):
        choose_logits_to_keep(columns, labels, torch.zeros(2, 5, 4))


def test_samples_without_labels_do_not_count():
    logits = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    labels = torch.full((2, 5), -100)
    labels[0, 3:] = torch.tensor([2, 4])
    log_probs = torch.log_softmax(logits[0], dim=-1)
    expected = -(log_probs[2, 2] + log_probs[3, 4]) / 2
    assert_close(answer_loss(logits, labels, torch.arange(5)), expected)
