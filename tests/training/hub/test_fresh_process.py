"""The fresh process imports none of our code."""

import importlib
import sys

import pytest

from training.hub.fresh_process import SourceTreeOutOfReach


@pytest.mark.parametrize(
    "name",
    ["modeling_egmf", "processing_egmf.processing_egmf", "training", "training.benchmarks.cost.speed"],
)
def test_source_tree_is_out_of_reach(name):
    with pytest.raises(ImportError, match=f"{name} is deliberately out of reach here"):
        SourceTreeOutOfReach().find_spec(name)


@pytest.mark.parametrize(
    "name", ["torch", "transformers_modules.x.modeling_egmf", "modeling_egmf_of_another", "trainings"]
)
def test_everything_else_is_within_reach(name):
    assert SourceTreeOutOfReach().find_spec(name) is None


def test_import_is_refused_before_any_other_finder_is_asked(monkeypatch):
    monkeypatch.setattr(sys, "meta_path", [SourceTreeOutOfReach(), *sys.meta_path])
    monkeypatch.delitem(sys.modules, "training.evaluation.metrics", raising=False)
    with pytest.raises(ImportError, match="deliberately out of reach here"):
        importlib.import_module("training.evaluation.metrics")
