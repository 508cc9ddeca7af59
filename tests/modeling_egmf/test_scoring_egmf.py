"""The three ways of scoring agree where all are exact, whatever is split into how many forward passes."""

import pytest
import torch

from modeling_egmf import scoring_egmf
from modeling_egmf.answers_egmf import AnswerSet
from modeling_egmf.scoring_egmf import AnswerScorer
from tests.helpers.model_inputs import assert_close
from training.model.backbones.small_configs import build_small_model, small_config


ANSWERS = [[5, -1, -1], [6, 7, -1], [6, 8, 9], [6, 8, 10], [6, 11, 12], [13, 14, 15]]
ONE_TOKEN = [[5, -1, -1], [6, -1, -1], [7, -1, -1], [-1, -1, -1], [-1, -1, -1], [-1, -1, -1]]


@pytest.fixture(scope="module")
def llama():
    return build_small_model(small_config("llama"))


@pytest.fixture
def batch():
    """Tries of two samples, embeddings and mask of their prompts; the second has one-token answers and is shorter."""
    answers = AnswerSet.from_answer_ids(torch.tensor([ANSWERS, ONE_TOKEN]), "cpu")
    embeds = torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(2, 9, dtype=torch.long)
    mask[1, :4] = 0
    return answers, embeds, mask


@torch.no_grad()
def test_tree_rows_and_recomputing_agree(llama, batch):
    answers, *prompts = batch
    scorer = AnswerScorer(llama, answers)
    tree = scorer.score_cached(*prompts, as_tree=True)
    assert tree.abs().min(dim=1).values[0] > 0
    assert_close(scorer.score_cached(*prompts, as_tree=False), tree)
    assert_close(scorer.score_recomputed(*prompts), tree)


@pytest.mark.parametrize("max_rows", [1, 2, 3])
@torch.no_grad()
def test_rows_in_chunks(llama, batch, monkeypatch, max_rows):
    answers, *prompts = batch
    scorer = AnswerScorer(llama, answers)
    expected = scorer.score_cached(*prompts, as_tree=True)
    sizes = []
    llama_forward = llama.model.forward
    monkeypatch.setattr(llama.model, "forward", lambda **kwargs: count(sizes, llama_forward, kwargs))
    monkeypatch.setattr(scoring_egmf, "MAX_ROWS", max_rows)
    assert_close(scorer.score_cached(*prompts, as_tree=False), expected)
    assert max(sizes[1:]) == max_rows  # after the prefill; the widest depth has three nodes
    sizes.clear()
    assert_close(scorer.score_recomputed(*prompts), expected)
    assert max(sizes) == max_rows


def count(sizes, forward, kwargs):
    inputs = kwargs["inputs_embeds"] if kwargs["inputs_embeds"] is not None else kwargs["input_ids"]
    sizes.append(len(inputs))
    return forward(**kwargs)


@pytest.mark.parametrize("model_type", ["lfm2", "jamba", "gemma3_text", "qwen3_next"])
@torch.no_grad()
def test_siblings_do_not_share_a_state(model_type, monkeypatch):
    model = build_small_model(small_config(model_type))
    prompts = torch.randn(1, 12, 32, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(1, 12, dtype=torch.long)
    monkeypatch.setattr(scoring_egmf, "MAX_ROWS", 1)  # one branch after the other, over the same cache
    scorer = AnswerScorer(model, AnswerSet.from_answer_ids(torch.tensor([ANSWERS]), "cpu"))
    rows = scorer.score_cached(prompts, mask, as_tree=False)
    assert_close(rows, scorer.score_recomputed(prompts, mask))
