"""Figures of the gate, and when it counts as collapsed."""

import math

import numpy as np
import pytest

from training.evaluation.gates import expert_weights, find_collapse, gate_figures, gate_spread


NAMES = ["local", "semantic", "global"]


def as_predictions(weights):
    return [{"experts": dict(zip(NAMES, row, strict=True))} for row in weights]


def test_figures_by_hand():
    weights = np.array([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])
    figures = gate_figures(weights, NAMES)
    assert figures["entropy"] == pytest.approx(math.log(2) / 2 / math.log(3))
    assert figures["share"] == pytest.approx({"local": 0.75, "semantic": 0.25, "global": 0.0})
    assert figures["spread"] == pytest.approx({"local": 0.25, "semantic": 0.25, "global": 0.0})
    read, names = expert_weights(as_predictions(weights.tolist()))
    assert np.array_equal(read, weights)
    assert names == NAMES
    assert gate_spread(as_predictions(weights.tolist())) == pytest.approx(figures["spread"])
    assert gate_figures(np.ones((4, 1)), ["only"])["entropy"] is None


def test_collapse_is_named_with_what_to_change():
    alike = gate_figures(np.full((50, 3), 1 / 3), NAMES)
    assert "all experts alike" in find_collapse(alike, 50)
    constant = gate_figures(np.tile([0.7, 0.2, 0.1], (50, 1)), NAMES)
    text = find_collapse(constant, 50)
    assert "always local 0.70, semantic 0.20, global 0.10" in text
    assert "--fusion_pretraining_epochs" in text
    assert find_collapse(alike, 50, gate="uniform") is None
    assert find_collapse(alike, 5) is None
    assert find_collapse(gate_figures(np.tile([1.0, 0.0, 0.0], (50, 1)), NAMES), 50) is None  # --experts local
    varied = np.random.default_rng(0).dirichlet([1, 1, 1], size=50)
    assert find_collapse(gate_figures(varied, NAMES), 50) is None
