"""The cost of a run's answers."""

import json

import pytest
import torch

from tests.helpers.corpus_files import write_corpus
from training.experiments import cost as cost_module
from training.experiments.cost import count_flops, main


def test_flops_of_a_product():
    first, second = torch.randn(4, 3), torch.randn(3, 5)
    assert count_flops(lambda: first @ second, size=2) == 2 * 4 * 3 * 5 / 2


def test_flops_of_attention_are_counted_on_a_cpu():
    """Two products of 10 x 10 x 8 per head; backward, five."""
    states = torch.randn(2, 3, 10, 8, requires_grad=True)
    product = 2 * 10 * 10 * 8
    mask = torch.zeros(2, 1, 10, 10)

    def attend():
        return torch.nn.functional.scaled_dot_product_attention(states, states, states, attn_mask=mask)

    assert count_flops(attend, size=2) == 3 * 2 * product
    assert count_flops(lambda: attend().sum().backward(), size=2, gradients=True) == 3 * 7 * product


@pytest.mark.integration
def test_measurement_of_a_checkpoint(make_model, make_processor, tmp_path, monkeypatch):
    monkeypatch.setattr(cost_module, "REPEATS", 1)
    corpus = write_corpus(tmp_path / "corpus")
    run = tmp_path / "run"
    make_model("waveform", "frames", lora=None).save_pretrained(run)
    make_processor("waveform", "frames").save_pretrained(run)
    main([str(run), "--dataset", str(corpus), "--device", "cpu", "--batch_size", "2"])
    cost = json.loads((run / "cost.json").read_text())
    assert cost["examples"] == cost["batch_size"] == 2
    assert cost["flops"]["training"] > 0
    assert cost["flops"]["answer"] > 0
    assert all(entry["median_s"] >= entry["min_s"] > 0 for entry in cost["seconds"].values())
    assert cost["generated"]["emotion"]["metric"] == "accuracy"
    assert cost["generated"]["sentiment"]["unreadable"] in (0, 1)
