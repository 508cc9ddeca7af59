"""Study of the demo: several seeds and variants in one results file."""

import shutil
import statistics

import pytest

from tests.helpers.run_files import EVERY, write_run
from training.demo.study import VARIANTS, collect
from training.evaluation.metrics import summarize
from training.records import read_json, write_json


@pytest.fixture
def results(tmp_path):
    """Two seeds of the model, one of a variant, one run without evaluation; the results of the two seeds."""
    write_run(tmp_path / "text_only-0", 2, subsets=["text"])
    write_run(tmp_path / "no_fusion_pretraining-0", 3)
    (tmp_path / "no_fusion_pretraining-0/results-test.json").unlink()
    return {seed: write_run(tmp_path / f"egmf-{seed}", seed) for seed in (0, 1)}


def test_summary_by_hand():
    summary = summarize([1.0, 2.0, 4.0])
    assert (summary["n"], summary["values"]) == (3, [1.0, 2.0, 4.0])
    assert summary["mean"] == pytest.approx(7 / 3)
    assert summary["std"] == pytest.approx((((4 / 3) ** 2 + (1 / 3) ** 2 + (5 / 3) ** 2) / 2) ** 0.5)


def test_one_run_has_no_spread():
    assert summarize([0.25]) == {"n": 1, "mean": 0.25, "std": None, "values": [0.25]}


def test_finished_runs_are_collected(results, tmp_path):
    variants = collect(tmp_path)
    assert list(variants) == ["egmf", "text_only"]
    assert list(variants["text_only"]["subsets"]) == ["text"]
    egmf = variants["egmf"]
    assert egmf["seeds"] == [0, 1]
    assert egmf["commits"] == [f"{0:040d}", f"{1:040d}"]
    assert egmf["minutes"]["values"] == [10.0, 11.0]
    assert egmf["trained_parameters"] == 1_234_567
    assert list(egmf["subsets"]) == EVERY
    for subset, tasks in egmf["subsets"].items():
        for task, metrics in tasks.items():
            for name, summary in metrics.items():
                values = [results[seed]["subsets"][subset]["tasks"][task]["metrics"][name] for seed in (0, 1)]
                assert summary["values"] == values
                assert summary["mean"] == pytest.approx(statistics.fmean(values))


def test_spread_of_the_gate_is_collected(results, tmp_path):
    variants = collect(tmp_path)
    spreads = variants["egmf"]["gate_spread"]
    assert set(spreads) == {"local", "semantic", "global"}
    assert all(summary["n"] == 2 and summary["mean"] > 0 for summary in spreads.values())
    assert "gate_spread" not in variants["text_only"]  # it was not evaluated with all modalities


def test_runs_moved_aside_or_resumed_are_not_counted_twice(results, tmp_path):
    shutil.copytree(tmp_path / "egmf-0", tmp_path / "egmf-0.20260101-120000")
    record = tmp_path / "egmf-1/training.json"
    write_json(record, read_json(record) | {"resumed_from": "checkpoint-5"})
    egmf = collect(tmp_path)["egmf"]
    assert egmf["seeds"] == [0, 1]
    assert egmf["minutes"]["values"] == [10.0]  # the other knows only the time since it was resumed


@pytest.mark.parametrize("seeds", [[0], [0, 1]])
def test_figures_missing_from_a_run_are_left_out(results, tmp_path, seeds):
    """The correlation is undefined if a run gives the same answer to every example."""
    for seed in seeds:
        results[seed]["subsets"]["text"]["tasks"]["sentiment"]["metrics"]["correlation"] = None
        write_json(tmp_path / f"egmf-{seed}/results-test.json", results[seed])
    summaries = collect(tmp_path)["egmf"]["subsets"]["text"]["sentiment"]
    assert "mae" in summaries
    assert summaries.get("correlation", {"n": 0})["n"] == 2 - len(seeds)


def test_empty_folder_has_no_runs(tmp_path):
    assert collect(tmp_path) == {}


def test_variants_change_options_that_exist():
    from training.arguments import parse_arguments

    for variant in VARIANTS.values():
        parse_arguments(["--use_cpu", *variant.options])
        assert variant.subsets
