"""egmf_msa against the public toolkits' values, scikit-learn, and values worked out by hand."""

import json
import math
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
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
    """`load(corpus)` -> the metric, with its examples in memory."""
    cache = str(tmp_path_factory.mktemp("metrics"))
    return lambda corpus=None: EGMFMsa(corpus, keep_in_memory=True, cache_dir=cache)


def compute_silently(metric, **examples):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return metric.compute(**examples)


def random_examples(count, seed=0, end=3.0):
    rng = np.random.default_rng(seed)
    truth = np.round(rng.uniform(-end, end, size=count), 1)
    scores = np.round(truth + rng.normal(0, end / 3, size=count), 1)
    scores = np.clip(scores, -end, end).tolist()
    predictions = [None if rng.random() < 0.1 else score for score in scores]
    return predictions, truth.tolist()


# ---- the public toolkits ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=[f"{case['kind']}-{i}" for i, case in enumerate(CASES)])
def test_equals_the_public_toolkits(load, case):
    examples = {
        "references": case["references"],
        "predictions": [float(score) for score in case["predictions"]],
    }
    for convention, decimals, toolkits in CALLS:
        metric = load(convention)
        options = {"out_of_range": "toolkits", "decimals": decimals}
        if case["kind"] in ("non_finite_pred", "empty"):  # the toolkits give nan or inf, or raise
            with pytest.raises(ValueError, match=r"predictions\[0\] is (nan|inf)|no examples"):
                metric.compute(**examples, **options)
            continue
        if "error" in case["out"][toolkits[0]]:  # every true score is 0
            with pytest.warns(UserWarning, match="acc2_non0 and f1_non0, because every true score is 0"):
                result = metric.compute(**examples, **options)
            assert math.isnan(result["acc2_non0"])
            assert math.isnan(result["f1_non0"])
            continue
        result = compute_silently(metric, **examples, **options)
        assert set(result) == set(NAMES[convention].values()) | SHARES
        for toolkit in toolkits:
            figures = case["out"][toolkit]
            expected = {NAMES[convention][name]: float(value) for name, value in figures.items()}
            actual = {name: result[name] for name in expected}
            assert actual == pytest.approx(expected, rel=1e-6, abs=1e-12, nan_ok=True), toolkit


def test_reference_file_is_complete():
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
    result = load("mosi").compute(predictions=[0.0, 0.5, 1.5, -2.5, 2.7], references=[0.0, -1.0, 2.0, -2.0, 3.0])
    assert result["acc2_has0"] == pytest.approx(4 / 5)
    assert result["acc2_non0"] == pytest.approx(3 / 4)
    # 0.5 -> 0, 1.5 -> 2, -2.5 -> -2: halves go to the even neighbor
    assert result["acc7"] == pytest.approx(4 / 5)
    assert result["acc5"] == pytest.approx(4 / 5)
    assert result["mae"] == pytest.approx((0 + 1.5 + 0.5 + 0.5 + 0.3) / 5)
    # negative: precision 1, recall 1/2; non-negative: precision 3/4, recall 1
    assert result["f1_has0"] == pytest.approx((2 * 2 / 3 + 3 * 6 / 7) / 5)


def test_a_prediction_of_zero_is_not_positive(load):
    result = compute_silently(load("mosi"), predictions=[0.0, -0.0], references=[1.0, -1.0])
    assert (result["acc2_non0"], result["acc2_has0"]) == (0.5, 0.5)


def test_boundaries_belong_to_the_class_below(load):
    edges = [-0.7, -0.1, 0.1, 0.7]
    below = compute_silently(load("sims"), predictions=edges, references=[-1.0, -0.4, 0.0, 0.4])
    above = compute_silently(load("sims"), predictions=edges, references=[-0.4, 0.0, 0.4, 1.0])
    assert (below["acc5_sims"], above["acc5_sims"]) == (1, 0)


def test_weak_scores_include_both_ends(load):
    result = compute_silently(load("sims"), predictions=[1.0, -1.0, -1.0], references=[0.4, -0.4, 0.6])
    assert (result["acc2_weak"], result["acc2_sims"]) == (1, pytest.approx(2 / 3))


def test_corpora_of_one_convention_give_the_same_figures(load):
    examples = {"predictions": [0.5, -0.6], "references": [0.4, -1.0]}
    assert load("mosi").compute(**examples) == load("mosei").compute(**examples) == load().compute(**examples)
    assert load("sims").compute(**examples) == load("sims_v2").compute(**examples)
    assert "acc7" in load().compute(**examples)
    for corpus in ("mosi", "sims"):
        assert not {"acc2", "f1", "acc", "F1"} & set(load(corpus).compute(**examples))


def test_training_reports_the_same_figures(load):
    values = np.array(BUILT_IN_TASKS["mosei"].values)
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.full(61, 0.2), size=80)
    truth = rng.integers(61, size=80)
    trained = task_metrics(BUILT_IN_TASKS["mosei"], probabilities, truth)
    medians = values[(np.cumsum(probabilities, axis=1) < 0.5).sum(axis=1)]
    of_medians = load("mosei").compute(predictions=medians, references=values[truth])
    assert of_medians == {name: trained[name] for name in of_medians}
    of_means = load("mosei").compute(predictions=probabilities @ values, references=values[truth])
    assert of_means["correlation"] == pytest.approx(trained["correlation_of_mean"], rel=1e-6)


# ---- what could not be read -----------------------------------------------------------------------------------------


def test_unreadable_answers_are_wrong_and_never_zero(load):
    references = [0.0, -0.2, 2.0, -3.0]
    result = compute_silently(load("mosi"), predictions=[None, None, 2.0, -3.0], references=references)
    zeros = compute_silently(load("mosi"), predictions=[0.0, 0.0, 2.0, -3.0], references=references)
    assert result["unreadable_rate"] == 0.5
    assert (result["acc7"], zeros["acc7"]) == (0.5, 1)
    assert (result["acc2_has0"], zeros["acc2_has0"]) == (0.5, 0.75)
    assert result["mae"] == pytest.approx((3 + 3.2 + 0 + 0) / 4)  # as the farther end of the scale
    # negative: recall 1/2; non-negative: recall 1/2; both with precision 1
    assert result["f1_has0"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(("corpus", "end"), [("mosi", 3.0), ("sims", 1.0)])
def test_refusing_to_answer_never_pays(load, corpus, end):
    rng = np.random.default_rng(3)
    truth = rng.uniform(-end, end, size=30)
    predictions = np.clip(truth + rng.normal(0, end, size=30), -end, end).tolist()
    answered = compute_silently(load(corpus), predictions=predictions, references=truth)
    names = [name for name in answered if name not in (*SHARES, "correlation") and name[:2] != "f1"]
    for index in range(30):
        without_one = [*predictions[:index], None, *predictions[index + 1 :]]
        refused = compute_silently(load(corpus), predictions=without_one, references=truth)
        for name in names:
            if name == "mae":
                assert refused[name] >= answered[name]
            else:
                assert refused[name] <= answered[name] or math.isnan(answered[name]), name


def test_warning_if_no_answer_is_readable(load):
    with pytest.warns(UserWarning, match="No answer is readable"):
        result = load("sims").compute(predictions=[None, None], references=[0.2, -0.4])
    assert (result["acc2_sims"], result["f1_sims"], result["unreadable_rate"]) == (0, 0, 1)
    assert result["mae"] == pytest.approx((1.2 + 1.4) / 2)


# ---- intervals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("corpus", "end"), [("mosi", 3.0), ("sims", 1.0)])
def test_resampled_figures_equal_compute_on_the_resampled_examples(load, corpus, end, monkeypatch):
    predictions, references = random_examples(20, end=end)
    indices = np.random.default_rng(2).integers(20, size=(6, 20))
    indices[0] = 3  # one example repeated: correlation and R2 are undefined
    resampled = {}

    def record(statistics, *_):
        resampled.update(statistics(indices))
        return {}

    monkeypatch.setattr(egmf_msa, "_bootstrap_intervals", record)
    compute_silently(load(corpus), predictions=predictions, references=references, bootstrap=6)
    assert set(resampled) == set(NAMES[corpus].values()) | {"unreadable_rate"}
    assert np.isnan(resampled["correlation"][0])
    for resample, chosen in enumerate(indices):
        expected = compute_silently(
            load(corpus),
            predictions=[predictions[i] for i in chosen],
            references=[references[i] for i in chosen],
        )
        names = set(resampled)
        if resample == 0 and "r2" in names:
            assert np.isnan(resampled["r2"][0])  # scikit-learn gives 0 or 1 for constant references
            names.remove("r2")
        actual = {name: resampled[name][resample] for name in names}
        expected = {name: expected[name] for name in names}
        assert actual == pytest.approx(expected, rel=1e-4, abs=1e-9, nan_ok=True)


def test_intervals(load):
    predictions, references = random_examples(300)
    examples = {"predictions": predictions, "references": references}
    result = load("mosei").compute(**examples, bootstrap=500)
    intervals = result["confidence_intervals"]
    for name in NAMES["mosi"].values():
        assert intervals[name][0] < result[name] < intervals[name][1], name
    assert load("mosei").compute(**examples, bootstrap=500)["confidence_intervals"] == intervals
    assert load("mosei").compute(**examples, bootstrap=500, seed=1)["confidence_intervals"] != intervals
    narrow = load("mosei").compute(**examples, bootstrap=500, confidence=0.5)["confidence_intervals"]["mae"]
    assert intervals["mae"][0] < narrow[0] < narrow[1] < intervals["mae"][1]


def test_rounding_is_the_last_step(load):
    predictions, references = random_examples(50, end=1.0)
    exact = load("sims").compute(predictions=predictions, references=references)
    rounded = load("sims").compute(predictions=predictions, references=references, decimals=4)
    assert rounded == {name: round(value, 4) for name, value in exact.items()}
    assert rounded != exact


# ---- warnings -------------------------------------------------------------------------------------------------------


def test_warning_for_constant_predictions(load):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = load("mosi").compute(predictions=[0.4] * 5, references=[-1.0, 0.0, 0.4, 1.0, 2.0])
    messages = " ".join(str(warning.message) for warning in caught)
    assert "All 5 readable predictions are 0.4" in messages
    assert "correlation, because all predictions are equal" in messages
    assert math.isnan(result["correlation"])
    assert result["largest_predicted_share"] == 1


@pytest.mark.parametrize(("corpus", "name"), [("mosi", "acc7"), ("sims", "acc5_sims")])
def test_warning_for_a_dominant_class(load, corpus, name):
    rng = np.random.default_rng(0)
    truth = rng.uniform(-1, 1, size=100)
    truth[:10] = 1.0
    with pytest.warns(UserWarning, match=f"100.0% of the 100 readable predictions fall into one class of {name}"):
        load(corpus).compute(predictions=rng.uniform(-0.05, 0.05, size=100), references=truth)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(corpus).compute(predictions=truth, references=truth)


def test_warning_for_constant_references(load):
    with pytest.warns(UserWarning, match="correlation, because all true scores are equal"):
        load("mosi").compute(predictions=[0.4, 0.8], references=[1.0, 1.0])


def test_warning_if_no_true_score_is_weak(load):
    with pytest.warns(UserWarning, match=r"acc2_weak, because no true score is within \[-0.4, 0.4\]"):
        assert math.isnan(load("sims").compute(predictions=[0.9, -0.3], references=[0.8, -0.8])["acc2_weak"])


def test_one_example_is_enough(load):
    with pytest.warns(UserWarning, match="correlation and r2, because there is only one example"):
        result = load("sims").compute(predictions=[0.2], references=[0.4], bootstrap=10)
    assert result["confidence_intervals"]["mae"] == pytest.approx([0.2, 0.2])
    assert np.isnan(result["confidence_intervals"]["correlation"]).all()


def test_warning_for_scores_of_sims_on_the_scale_of_mosi(load):
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
        ({"predictions": [], "references": []}, "There are no examples"),
        ({"predictions": None}, "`predictions` is None; pass a list"),
        ({"predictions": [0.1, math.nan]}, r"predictions\[1\] is nan; scores must be finite.*None"),
        ({"predictions": [-math.inf, 0.1]}, r"predictions\[0\] is -inf"),
        ({"predictions": [0.1, 1e39]}, r"predictions\[1\] is 1e\+39; scores must be finite"),
        ({"predictions": [True, 0.1]}, r"predictions\[0\] is True; pass one number per example"),
        ({"predictions": np.array([0.1, 1j])}, r"predictions\[0\] is .*j\); pass one number per example"),
        ({"predictions": torch.tensor([0.1, 1j])}, r"predictions\[0\] is .*j\); pass one number per example"),
        ({"predictions": [0.1, torch.tensor(True)]}, r"predictions\[1\] is True; pass one number per example"),
        ({"predictions": [0.1, 10**5000]}, r"predictions\[1\] is huge; scores must be finite"),
        (
            {"predictions": np.ma.array([0.1, 0.2], mask=[False, True])},
            r"predictions\[1\] is --; scores must be finite",
        ),
        ({"predictions": [0.1, pd.NA]}, r"predictions\[1\] is <NA>; pass one number per example"),
        ({"predictions": {0: 0.3, 1: 0.1}}, "`predictions` is {0: 0.3, 1: 0.1}; pass a list"),
        ({"predictions": {0.1, 0.2}}, "`predictions` is {.*}; pass a list"),
        ({"predictions": pd.DataFrame([[0.1, 0.2]])}, "(?s)`predictions` is .*; pass a list"),
        ({"references": [0.1, math.nan]}, r"references\[1\] is nan"),
        ({"references": [0.1, None]}, r"references\[1\] is None: only a prediction may be unreadable"),
        ({"predictions": ["0.1", 0.2]}, r"predictions\[0\] is '0.1'; pass one number per example"),
        ({"predictions": np.zeros((2, 1))}, r"predictions\[0\] is array\(\[0.\]\).*squeeze"),
        (
            {"predictions": [0.1, 1.2]},
            r"1 of the predictions are outside the scale \[-1, 1\]: 1.2 at index 1.*'toolkits'",
        ),
        ({"references": [-3, 0.1]}, r"references are outside .*-3 at index 0.* load the metric .*'mosi'"),
        ({"out_of_range": "clip"}, "'error' or 'toolkits'"),
        ({"decimals": -1}, "whole number"),
        ({"decimals": True}, "whole number"),
        ({"bootstrap": -1}, "number of resamples"),
        ({"confidence": 1.0}, "between 0 and 1"),
        ({"seed": 0.5}, "whole number"),
    ],
)
def test_error_names_the_bad_input(load, changes, message):
    with pytest.raises(ValueError, match=message):
        load("sims").compute(**{**GOOD, **changes})


def test_scores_outside_the_scale_are_accepted_on_request(load):
    examples = {"predictions": [4.0, -1.0], "references": [3.0, -1.0]}
    with pytest.raises(ValueError, match=r"outside the scale \[-3, 3\]"):
        load("mosi").compute(**examples)
    result = load("mosi").compute(**examples, out_of_range="toolkits")
    assert (result["mae"], result["acc7"], result["out_of_range_rate"]) == (0.5, 1, 0.5)
    assert compute_silently(load("sims"), **examples, out_of_range="toolkits")["mae"] == 0  # clipped


def test_ends_of_the_scale_in_any_precision(load):
    ends = torch.tensor([-1.0, 1.0], dtype=torch.bfloat16)
    result = compute_silently(load("sims"), predictions=ends, references=np.array([-1.0, np.nextafter(1.0, 2)]))
    assert (result["mae"], result["out_of_range_rate"]) == (0, 0)


def test_unknown_option_and_configuration(load):
    with pytest.raises(TypeError, match="no option 'convention'; use one of out_of_range"):
        load("sims").compute(**GOOD, convention="mosi")
    with pytest.raises(
        ValueError, match="no configuration 'meld'.*'mosi' \\(the default\\), 'mosei', 'sims' or 'sims_v2'"
    ):
        load("meld")


def test_failed_compute_leaves_no_files_and_no_locks(tmp_path):
    metric = EGMFMsa("sims", cache_dir=str(tmp_path))
    for _ in range(2):
        with pytest.raises(ValueError, match="outside the scale"):
            metric.compute(predictions=[5.0], references=[0.1])
        assert not list(tmp_path.rglob("*.arrow"))
    assert compute_silently(EGMFMsa("sims", cache_dir=str(tmp_path)), **GOOD)["acc2_sims"] == 1
    assert compute_silently(metric, **GOOD)["acc2_sims"] == 1
    assert len(list(tmp_path.rglob("*.lock"))) == 1
