"""egmf_msa against the public toolkits' values, scikit-learn, and values worked out by hand."""

import json
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from hub_cards.metrics.egmf_msa import egmf_msa
from hub_cards.metrics.egmf_msa.egmf_msa import EGMFMsa
from processing_egmf import BUILT_IN_TASKS
from training.evaluation.metrics import task_metrics


REFERENCE = json.loads((Path(__file__).parents[1] / "assets/metric_reference.json").read_text(encoding="utf-8"))
CASES = REFERENCE["regression"]
# Convention, decimals, and the toolkits that compute the same.
CALLS = [("mosi", 4, ["mse_mosi", "mmsa_mosi"]), ("sims", None, ["mse_sims"]), ("sims", 4, ["mmsa_sims"])]
NAMES = {
    "mosi": {
        "Has0_acc_2": "acc2_has0",
        "Has0_F1_score": "f1_has0",
        "Non0_acc_2": "acc2_non0",
        "Non0_F1_score": "f1_non0",
        "Mult_acc_5": "acc5",
        "Mult_acc_7": "acc7",
        "MAE": "mae",
        "Corr": "correlation",
    },
    "sims": {
        "Mult_acc_2": "acc2_sims",
        "Mult_acc_2_weak": "acc2_weak",
        "Mult_acc_3": "acc3",
        "Mult_acc_5": "acc5_sims",
        "F1_score": "f1_sims",
        "MAE": "mae",
        "Corr": "correlation",
        "R_squre": "r2",
    },
}
SHARES = {"unreadable_rate", "out_of_range_rate", "largest_predicted_share"}


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """`load(corpus)` -> the metric, with its rows in memory."""
    cache = str(tmp_path_factory.mktemp("metrics"))
    return lambda corpus=None: EGMFMsa(corpus, keep_in_memory=True, cache_dir=cache)


def quietly(metric, **rows):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return metric.compute(**rows)


def drawn(count, seed=0, end=3.0):
    rng = np.random.default_rng(seed)
    truth = np.round(rng.uniform(-end, end, size=count), 1)
    said = np.clip(np.round(truth + rng.normal(0, end / 3, size=count), 1), -end, end)
    return [None if rng.random() < 0.1 else score for score in said.tolist()], truth.tolist()


# ---- the public toolkits ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=[f"{case['kind']}-{i}" for i, case in enumerate(CASES)])
def test_equals_the_public_toolkits(load, case):
    rows = {"references": case["references"], "predictions": [float(score) for score in case["predictions"]]}
    for convention, decimals, toolkits in CALLS:
        metric, options = load(convention), {"out_of_range": "toolkits", "decimals": decimals}
        if case["kind"] in ("non_finite_pred", "empty"):  # the toolkits give nan, inf, or break off
            with pytest.raises(ValueError, match=r"predictions\[0\] is (nan|inf)|no rows"):
                metric.compute(**rows, **options)
            continue
        if "error" in case["out"][toolkits[0]]:  # all truths are 0
            with pytest.warns(UserWarning, match="acc2_non0 and f1_non0, because every true score is 0"):
                found = metric.compute(**rows, **options)
            assert math.isnan(found["acc2_non0"]) and math.isnan(found["f1_non0"])
            continue
        found = quietly(metric, **rows, **options)
        for toolkit in toolkits:
            theirs = {NAMES[convention][name]: float(value) for name, value in case["out"][toolkit].items()}
            ours = {name: found[name] for name in theirs}
            assert ours == pytest.approx(theirs, rel=1e-6, abs=1e-12, nan_ok=True), toolkit
        assert set(found) == set(NAMES[convention].values()) | SHARES


def test_the_reference_is_whole():
    kinds = {case["kind"] for case in CASES}
    assert len(CASES) == 123
    assert {
        "mosi_continuous",
        "mosei_thirds_zeros",
        "sims_fifths",
        "sims_bin_edges",
        "halves",
        "outside_range",
    } <= kinds
    toolkits = {toolkit for *_, names in CALLS for toolkit in names}
    assert all(set(case["out"]) == toolkits for case in CASES)


# ---- by hand ------------------------------------------------------------------------------------------------------


def test_mosi_by_hand(load):
    found = load("mosi").compute(predictions=[0.0, 0.5, 1.5, -2.5, 2.7], references=[0.0, -1.0, 2.0, -2.0, 3.0])
    assert found["acc2_has0"] == pytest.approx(4 / 5)
    assert found["acc2_non0"] == pytest.approx(3 / 4)
    # 0.5 -> 0, 1.5 -> 2, -2.5 -> -2: halves go to the even neighbor
    assert found["acc7"] == pytest.approx(4 / 5)
    assert found["acc5"] == pytest.approx(4 / 5)
    assert found["mae"] == pytest.approx((0 + 1.5 + 0.5 + 0.5 + 0.3) / 5)
    # negative: precision 1, recall 1/2; non-negative: precision 3/4, recall 1
    assert found["f1_has0"] == pytest.approx((2 * 2 / 3 + 3 * 6 / 7) / 5)


def test_a_prediction_of_zero_is_not_positive(load):
    found = quietly(load("mosi"), predictions=[0.0, -0.0], references=[1.0, -1.0])
    assert (found["acc2_non0"], found["acc2_has0"]) == (0.5, 0.5)


def test_cuts_belong_to_the_class_below(load):
    edges = [-0.7, -0.1, 0.1, 0.7]
    below = quietly(load("sims"), predictions=edges, references=[-1.0, -0.4, 0.0, 0.4])
    above = quietly(load("sims"), predictions=edges, references=[-0.4, 0.0, 0.4, 1.0])
    assert (below["acc5_sims"], above["acc5_sims"]) == (1, 0)


def test_weak_truths_end_at_both_cuts(load):
    found = quietly(load("sims"), predictions=[1.0, -1.0, -1.0], references=[0.4, -0.4, 0.6])
    assert (found["acc2_weak"], found["acc2_sims"]) == (1, pytest.approx(2 / 3))


def test_corpora_name_their_convention(load):
    rows = {"predictions": [0.5, -0.6], "references": [0.4, -1.0]}
    assert load("mosi").compute(**rows) == load("mosei").compute(**rows) == load().compute(**rows)
    assert load("sims").compute(**rows) == load("sims_v2").compute(**rows)
    assert "acc7" in load().compute(**rows)
    for corpus in ("mosi", "sims"):
        assert not {"acc2", "f1", "acc", "F1"} & set(load(corpus).compute(**rows))


def test_one_definition_with_training(load):
    values = np.array(BUILT_IN_TASKS["mosei"].values)
    rng = np.random.default_rng(0)
    probabilities, truth = rng.dirichlet(np.full(61, 0.2), size=80), rng.integers(61, size=80)
    trained = task_metrics(BUILT_IN_TASKS["mosei"], probabilities, truth)
    medians = values[(np.cumsum(probabilities, axis=1) < 0.5).sum(axis=1)]
    of_medians = load("mosei").compute(predictions=medians, references=values[truth])
    assert of_medians == {name: trained[name] for name in of_medians}
    of_means = load("mosei").compute(predictions=probabilities @ values, references=values[truth])
    assert of_means["correlation"] == pytest.approx(trained["correlation_of_mean"], rel=1e-6)


# ---- what could not be read -----------------------------------------------------------------------------------------


def test_unreadable_answers_are_wrong_and_never_zero(load):
    references = [0.0, -0.2, 2.0, -3.0]
    found = quietly(load("mosi"), predictions=[None, None, 2.0, -3.0], references=references)
    zeros = quietly(load("mosi"), predictions=[0.0, 0.0, 2.0, -3.0], references=references)
    assert found["unreadable_rate"] == 0.5
    assert (found["acc7"], zeros["acc7"]) == (0.5, 1)
    assert (found["acc2_has0"], zeros["acc2_has0"]) == (0.5, 0.75)
    assert found["mae"] == pytest.approx((3 + 3.2 + 0 + 0) / 4)  # as the farther end of the scale
    # negative: 1 of 2 found; non-negative: 1 of 2 found; nothing said wrongly
    assert found["f1_has0"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(("corpus", "end"), [("mosi", 3.0), ("sims", 1.0)])
def test_refusing_to_answer_never_pays(load, corpus, end):
    rng = np.random.default_rng(3)
    truth = rng.uniform(-end, end, size=30)
    said = np.clip(truth + rng.normal(0, end, size=30), -end, end).tolist()
    answered = quietly(load(corpus), predictions=said, references=truth)
    for row in range(30):
        refused = quietly(load(corpus), predictions=[*said[:row], None, *said[row + 1 :]], references=truth)
        for name in (name for name in answered if name not in (*SHARES, "correlation") and name[:2] != "f1"):
            if name in ("mae",):
                assert refused[name] >= answered[name]
            else:
                assert refused[name] <= answered[name] or math.isnan(answered[name]), name


def test_nothing_readable(load):
    with pytest.warns(UserWarning, match="No answer could be read"):
        found = load("sims").compute(predictions=[None, None], references=[0.2, -0.4])
    assert (found["acc2_sims"], found["f1_sims"], found["unreadable_rate"]) == (0, 0, 1)
    assert found["mae"] == pytest.approx((1.2 + 1.4) / 2)


# ---- intervals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("corpus", "end"), [("mosi", 3.0), ("sims", 1.0)])
def test_resampled_figures_are_those_of_the_resampled_rows(load, corpus, end, monkeypatch):
    """What the bootstrap computes for each resample against `compute` on its rows."""
    predictions, references = drawn(20, end=end)
    rows = np.random.default_rng(2).integers(20, size=(6, 20))
    rows[0] = 3  # one row again and again: correlation is not defined
    seen = {}
    monkeypatch.setattr(egmf_msa, "_bootstrap_intervals", lambda statistics, *_: seen.update(statistics(rows)) or {})
    quietly(load(corpus), predictions=predictions, references=references, bootstrap=6)
    for place, chosen in enumerate(rows):
        found = quietly(
            load(corpus), predictions=[predictions[i] for i in chosen], references=[references[i] for i in chosen]
        )
        expected = {name: found[name] for name in seen}
        if place == 0 and "r2" in expected:
            assert np.isnan(seen["r2"][0])  # of constant truths scikit-learn makes 0 or 1
            expected.pop("r2")
        ours = {name: seen[name][place] for name in expected}
        assert ours == pytest.approx(expected, rel=1e-4, abs=1e-9, nan_ok=True)
    assert set(seen) == set(NAMES[corpus].values()) | {"unreadable_rate"}
    assert np.isnan(seen["correlation"][0])


def test_intervals(load):
    predictions, references = drawn(300)
    rows = {"predictions": predictions, "references": references}
    found = load("mosei").compute(**rows, bootstrap=500)
    intervals = found["confidence_intervals"]
    for name in NAMES["mosi"].values():
        assert intervals[name][0] < found[name] < intervals[name][1], name
    assert load("mosei").compute(**rows, bootstrap=500)["confidence_intervals"] == intervals
    assert load("mosei").compute(**rows, bootstrap=500, seed=1)["confidence_intervals"] != intervals
    narrow = load("mosei").compute(**rows, bootstrap=500, confidence=0.5)["confidence_intervals"]["mae"]
    assert intervals["mae"][0] < narrow[0] < narrow[1] < intervals["mae"][1]


def test_rounding_is_the_last_step(load):
    predictions, references = drawn(50, end=1.0)
    exact = load("sims").compute(predictions=predictions, references=references)
    rounded = load("sims").compute(predictions=predictions, references=references, decimals=4)
    assert rounded == {name: round(value, 4) for name, value in exact.items()}
    assert rounded != exact


# ---- warnings -------------------------------------------------------------------------------------------------------


def test_constant_predictions_are_named(load):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = load("mosi").compute(predictions=[0.4] * 5, references=[-1.0, 0.0, 0.4, 1.0, 2.0])
    messages = " ".join(str(warning.message) for warning in caught)
    assert "All 5 readable predictions are 0.4" in messages
    assert "correlation, because all predictions are alike" in messages
    assert math.isnan(found["correlation"])
    assert found["largest_predicted_share"] == 1


@pytest.mark.parametrize(("corpus", "name"), [("mosi", "acc7"), ("sims", "acc5_sims")])
def test_a_class_that_swallows_nearly_everything_is_named(load, corpus, name):
    rng = np.random.default_rng(0)
    truth = rng.uniform(-1, 1, size=100)
    truth[:10] = 1.0
    with pytest.warns(UserWarning, match=f"100.0% of the 100 readable predictions fall into one class of {name}"):
        load(corpus).compute(predictions=rng.uniform(-0.05, 0.05, size=100), references=truth)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(corpus).compute(predictions=truth, references=truth)


def test_constant_truths_are_named(load):
    with pytest.warns(UserWarning, match="correlation, because all true scores are alike"):
        load("mosi").compute(predictions=[0.4, 0.8], references=[1.0, 1.0])


def test_no_weak_truth_is_named(load):
    with pytest.warns(UserWarning, match=r"acc2_weak, because no true score lies within \[-0.4, 0.4\]"):
        assert math.isnan(load("sims").compute(predictions=[0.9, -0.3], references=[0.8, -0.8])["acc2_weak"])


def test_one_row_is_enough(load):
    with pytest.warns(UserWarning, match="correlation and r2, because there is one row only"):
        found = load("sims").compute(predictions=[0.2], references=[0.4], bootstrap=10)
    assert found["confidence_intervals"]["mae"] == pytest.approx([0.2, 0.2])
    assert np.isnan(found["confidence_intervals"]["correlation"]).all()


def test_scores_of_sims_on_the_scale_of_mosi_are_suspected(load):
    scores = np.linspace(-1, 1, 21)
    with pytest.warns(UserWarning, match="load the metric with 'sims' or 'sims_v2'"):
        load().compute(predictions=scores, references=scores)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load("mosi").compute(predictions=scores, references=scores)


# ---- bad input ------------------------------------------------------------------------------------------------------

GOOD = {"predictions": [0.5, -0.5], "references": [0.4, -0.2]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"predictions": [0.5]}, "1 predictions, 2 references"),
        ({"predictions": [], "references": []}, "There are no rows"),
        ({"predictions": None}, "`predictions` is None; give a list"),
        ({"predictions": [0.1, math.nan]}, r"predictions\[1\] is nan; finite numbers are accepted, and None"),
        ({"predictions": [-math.inf, 0.1]}, r"predictions\[0\] is -inf"),
        ({"references": [0.1, math.nan]}, r"references\[1\] is nan"),
        ({"references": [0.1, None]}, r"references\[1\] is None: only a prediction may be unreadable"),
        ({"predictions": ["0.1", 0.2]}, r"predictions\[0\] is '0.1'; give one number a row"),
        ({"predictions": np.zeros((2, 1))}, r"predictions\[0\] is array\(\[0.\]\).*squeeze"),
        (
            {"predictions": [0.1, 1.2]},
            r"1 of the predictions lie beyond the scale \[-1, 1\]: 1.2 \(row 1\).*'toolkits'",
        ),
        ({"references": [-3, 0.1]}, r"references lie beyond .*-3 \(row 0\).* load the metric with 'mosi'"),
        ({"out_of_range": "clip"}, "'error' or 'toolkits'"),
        ({"decimals": -1}, "whole number from 0"),
        ({"bootstrap": -1}, "number of resamples"),
        ({"confidence": 1.0}, "between 0 and 1"),
        ({"seed": 0.5}, "whole number from 0"),
    ],
)
def test_bad_input_is_named(load, changes, message):
    with pytest.raises(ValueError, match=message):
        load("sims").compute(**{**GOOD, **changes})


def test_scores_beyond_the_scale_can_be_had(load):
    rows = {"predictions": [4.0, -1.0], "references": [3.0, -1.0]}
    with pytest.raises(ValueError, match=r"beyond the scale \[-3, 3\]"):
        load("mosi").compute(**rows)
    found = load("mosi").compute(**rows, out_of_range="toolkits")
    assert (found["mae"], found["acc7"], found["out_of_range_rate"]) == (0.5, 1, 0.5)
    assert quietly(load("sims"), **rows, out_of_range="toolkits")["mae"] == 0  # clipped


def test_ends_of_the_scale_in_any_precision(load):
    ends = torch.tensor([-1.0, 1.0], dtype=torch.bfloat16)
    found = quietly(load("sims"), predictions=ends, references=np.array([-1.0, np.nextafter(1.0, 2)]))
    assert (found["mae"], found["out_of_range_rate"]) == (0, 0)


def test_unknown_option_and_configuration(load):
    with pytest.raises(TypeError, match="no option 'convention'; it has out_of_range"):
        load("sims").compute(**GOOD, convention="mosi")
    with pytest.raises(ValueError, match="no configuration 'meld'.*'mosi', 'mosei', 'sims' or 'sims_v2'"):
        load("meld")


def test_a_failed_call_leaves_no_files_and_no_locks(tmp_path):
    metric = EGMFMsa("sims", cache_dir=str(tmp_path))
    for _ in range(2):
        with pytest.raises(ValueError, match="beyond the scale"):
            metric.compute(predictions=[5.0], references=[0.1])
        assert not list(tmp_path.rglob("*.arrow"))
    assert quietly(EGMFMsa("sims", cache_dir=str(tmp_path)), **GOOD)["acc2_sims"] == 1
    assert quietly(metric, **GOOD)["acc2_sims"] == 1
    assert len(list(tmp_path.rglob("*.lock"))) == 1
