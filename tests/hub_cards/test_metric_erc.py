"""egmf_erc against the public toolkits' values, scikit-learn, and values worked out by hand."""

import json
import math
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score

from hub_cards.metrics.egmf_erc import egmf_erc
from hub_cards.metrics.egmf_erc.egmf_erc import EGMFErc
from processing_egmf import EGMFTask
from training.evaluation.metrics import task_metrics


REFERENCE = json.loads((Path(__file__).parents[1] / "assets/metric_reference.json").read_text(encoding="utf-8"))
CASES = REFERENCE["classification"]
LABELS = ["neutral", "joy", "anger"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return str(tmp_path_factory.mktemp("metrics"))


@pytest.fixture
def metric(cache):
    return EGMFErc(keep_in_memory=True, cache_dir=cache)


@pytest.fixture
def probability_metric(cache):
    return EGMFErc("probabilities", keep_in_memory=True, cache_dir=cache)


def compute_silently(metric, **examples):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return metric.compute(**examples)


def random_examples(count, seed=0, labels=LABELS, unreadable=0.1):
    """Random references, and predictions that are correct in about half of the examples."""
    rng = np.random.default_rng(seed)
    frequencies = np.arange(len(labels), 0, -1)
    truth = rng.choice(labels, size=count, p=frequencies / frequencies.sum())
    predicted = np.where(rng.random(count) < 0.5, truth, rng.choice(labels, size=count)).tolist()
    predictions = [None if rng.random() < unreadable else name for name in predicted]
    return predictions, truth.tolist()


# ---- the public toolkits ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=[f"{case['kind']}-{i}" for i, case in enumerate(CASES)])
def test_equals_the_public_toolkit(metric, case):
    predictions = [str(code) for code in case["predictions"]]
    references = [str(code) for code in case["references"]]
    labels = sorted({*map(str, range(7)), *references})  # some references have the code -1
    examples = {"predictions": predictions, "references": references, "labels": labels}
    if "error" in case["out"]:  # a prediction of 0.5, for which the toolkit raises
        with pytest.raises(ValueError, match=r"'0.5' at index \d+"):
            metric.compute(**examples)
        return
    result = compute_silently(metric, **examples, unknown_predictions="unreadable")
    assert result["accuracy"] == pytest.approx(case["out"]["acc"], rel=1e-6)
    assert result["weighted_f1"] == pytest.approx(case["out"]["weight_F1"], rel=1e-6)
    unknown = [name for name in predictions if name not in labels]
    assert result["unreadable_rate"] == pytest.approx(len(unknown) / len(predictions))
    assert not unknown or case["kind"] == "not_a_class"


def test_reference_file_is_complete():
    kinds = {case["kind"] for case in CASES}
    assert len(CASES) == 120
    assert {"meld_like", "balanced", "not_a_class", "truth_minus_1", "constant_pred", "length_1", "perfect"} <= kinds


# ---- by hand ------------------------------------------------------------------------------------------------------


def test_figures_by_hand(metric):
    result = metric.compute(
        predictions=["neutral", "joy", "anger", "anger", None, "neutral"],
        references=["neutral", "joy", "anger", "joy", "neutral", "neutral"],
        labels=[*LABELS, "sadness"],
    )
    # precision 1, 1, 1/2; recall 2/3, 1/2, 1; sadness never occurs
    f1 = {"neutral": 4 / 5, "joy": 2 / 3, "anger": 2 / 3, "sadness": 0.0}
    assert result["accuracy"] == pytest.approx(4 / 6)
    assert result["per_class_f1"] == pytest.approx(f1)
    assert list(result["per_class_f1"]) == [*LABELS, "sadness"]
    assert result["macro_f1"] == pytest.approx(sum(f1.values()) / 4)
    assert result["weighted_f1"] == pytest.approx((3 * f1["neutral"] + 2 * f1["joy"] + f1["anger"]) / 6)
    assert result["unreadable_rate"] == pytest.approx(1 / 6)
    assert result["largest_predicted_share"] == pytest.approx(2 / 5)
    assert not {"f1", "acc", "confidence_intervals", "calibration_error"} & set(result)


def test_macro_f1_over_all_classes_or_over_those_that_occur(metric):
    predictions, references = random_examples(40, unreadable=0)
    over_seen = metric.compute(predictions=predictions, references=references)
    over_all = metric.compute(predictions=predictions, references=references, labels=[*LABELS, "fear"])
    assert over_seen["macro_f1"] == pytest.approx(f1_score(references, predictions, average="macro"))
    assert over_all["macro_f1"] == pytest.approx(over_seen["macro_f1"] * 3 / 4)
    assert over_all["weighted_f1"] == over_seen["weighted_f1"]


@pytest.mark.parametrize("unreadable", [None, "", "  "])
@pytest.mark.parametrize("labels", [None, LABELS, LABELS[::-1]])
def test_unreadable_answers_are_wrong_and_of_no_class(metric, unreadable, labels):
    references = ["neutral", "neutral", "joy", "anger"]
    result = metric.compute(
        predictions=[unreadable, "neutral", "joy", unreadable], references=references, labels=labels
    )
    assert result["accuracy"] == 0.5
    assert result["unreadable_rate"] == 0.5
    assert result["per_class_f1"] == pytest.approx({"neutral": 2 / 3, "joy": 1, "anger": 0})


def test_examples_may_be_added_in_any_way(cache):
    predictions, references = random_examples(30)
    expected = EGMFErc(cache_dir=cache).compute(predictions=predictions, references=references, labels=LABELS)
    one_by_one = EGMFErc(cache_dir=cache)
    for prediction, reference in zip(predictions, references):
        one_by_one.add(prediction=prediction, reference=reference)
    in_batches = EGMFErc(cache_dir=cache, experiment_id="batches")
    in_batches.add_batch(predictions=[], references=[])
    first_predictions = np.array(predictions[:7], dtype=object)
    in_batches.add_batch(predictions=first_predictions, references=np.array(references[:7]))
    in_batches.add_batch(predictions=tuple(predictions[7:]), references=tuple(references[7:]))
    assert one_by_one.compute(labels=LABELS) == expected
    assert in_batches.compute(labels=dict.fromkeys(LABELS)) == expected


def test_labels_of_any_script(metric):
    labels = ["愤怒", "厌恶", "恐惧", "高兴", "平静", "悲伤", "惊奇"]
    predictions, references = random_examples(60, labels=labels)
    result = metric.compute(predictions=predictions, references=references, labels=labels)
    assert list(result["per_class_f1"]) == labels


# ---- calibration ----------------------------------------------------------------------------------------------------


def test_calibration_error_by_hand(probability_metric):
    result = probability_metric.compute(
        predictions=["joy", "anger", "joy", "anger"],
        references=["joy", "anger", "anger", "anger"],
        probabilities=[[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7]],
        labels=["joy", "anger"],
        calibration_bins=2,
    )
    assert result["calibration_error"] == pytest.approx(abs((0.9 + 0.8 + 0.6 + 0.7) / 4 - 3 / 4))


def test_training_reports_the_same_figures(probability_metric):
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet([0.6] * 3, size=200)
    truth = rng.integers(3, size=200)
    result = probability_metric.compute(
        predictions=[LABELS[i] for i in probabilities.argmax(axis=1)],
        references=[LABELS[i] for i in truth],
        probabilities=probabilities,
        labels=LABELS,
    )
    task = EGMFTask("mood", "classification", labels=LABELS, prompt="\nMood:")
    trained = task_metrics(task, probabilities, truth)
    assert result == {name: trained[name] for name in result}


def test_columns_in_another_order_give_a_warning(probability_metric):
    examples = {"predictions": LABELS, "references": LABELS, "probabilities": np.eye(3)}
    with pytest.warns(UserWarning, match="in the order of `labels`"):
        probability_metric.compute(**examples, labels=[LABELS[1], LABELS[2], LABELS[0]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        probability_metric.compute(**examples, labels=LABELS)


# ---- intervals ------------------------------------------------------------------------------------------------------


def test_resampled_figures_equal_compute_on_the_resampled_examples(probability_metric):
    predictions, references = random_examples(25)
    probabilities = np.random.default_rng(1).dirichlet([1.0] * 3, size=25)
    codes = {name: code for code, name in enumerate([*LABELS, None])}
    truth = np.array([codes[name] for name in references])
    predicted = np.array([codes[name] for name in predictions])
    confidence = probabilities.max(axis=1)
    calibration = egmf_erc.Calibration(
        bins=np.minimum((confidence * 10).astype(int), 9),
        gaps=confidence - (probabilities.argmax(axis=1) == truth),
    )
    indices = np.random.default_rng(2).integers(25, size=(8, 25))
    resampled = egmf_erc._resampled(predicted, truth, LABELS, calibration, indices)
    for resample, chosen in enumerate(indices):
        expected = compute_silently(
            probability_metric,
            predictions=[predictions[i] for i in chosen],
            references=[references[i] for i in chosen],
            probabilities=probabilities[chosen],
            labels=LABELS,
        )
        for name in ("accuracy", "weighted_f1", "macro_f1", "unreadable_rate", "calibration_error"):
            assert resampled[name][resample] == pytest.approx(expected[name]), name
        for name in LABELS:
            f1 = resampled["per_class_f1", name][resample]
            assert f1 == pytest.approx(expected["per_class_f1"][name])


def test_intervals(metric):
    predictions, references = random_examples(400, unreadable=0)
    examples = {"predictions": predictions, "references": references, "labels": LABELS}
    result = metric.compute(**examples, bootstrap=1000)
    intervals = result.pop("confidence_intervals")
    assert set(intervals) == {"accuracy", "weighted_f1", "macro_f1", "unreadable_rate", "per_class_f1"}
    for name in ("accuracy", "weighted_f1", "macro_f1"):
        low, high = intervals[name]
        assert low < result[name] < high
    # The accuracy is a share of 400, so that its interval is near the normal one.
    low, high = intervals["accuracy"]
    accuracy = result["accuracy"]
    deviation = math.sqrt(accuracy * (1 - accuracy) / 400)
    assert high - low == pytest.approx(2 * 1.96 * deviation, rel=0.1)
    assert metric.compute(**examples, bootstrap=1000)["confidence_intervals"] == intervals
    assert metric.compute(**examples, bootstrap=1000, seed=1)["confidence_intervals"] != intervals
    narrow = metric.compute(**examples, bootstrap=1000, confidence=0.5)["confidence_intervals"]
    assert low < narrow["accuracy"][0] < narrow["accuracy"][1] < high
    assert metric.compute(**examples) == result


def test_intervals_of_many_examples_are_computed_in_chunks():
    """More examples than are resampled at once: the chunks add up to `bootstrap`."""
    options = egmf_erc.EGMFErcOptions(bootstrap=7)
    sizes = []

    def mean(indices):
        sizes.append(len(indices))
        return {"mean": indices.mean(axis=1), "undefined": np.full(len(indices), np.nan)}

    result = egmf_erc._bootstrap_intervals(mean, 400_000, options)
    assert sizes == [2, 2, 2, 1]
    assert result["mean"] == pytest.approx([199_999.5, 199_999.5], rel=0.01)
    assert np.isnan(result["undefined"]).all()


# ---- warnings -------------------------------------------------------------------------------------------------------


def test_warning_for_constant_predictions(metric):
    with pytest.warns(UserWarning, match=r"All 4 readable predictions are 'neutral', which is true for 50.0%"):
        metric.compute(predictions=["neutral"] * 4, references=["neutral", "neutral", "joy", "anger"])


def test_warning_for_a_dominant_label(metric):
    references = ["neutral"] * 50 + ["joy"] * 50
    with pytest.warns(UserWarning, match=r"96.0% of the 100 readable predictions are 'joy'"):
        metric.compute(predictions=["joy"] * 96 + ["neutral"] * 4, references=references)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metric.compute(predictions=["joy"] * 90 + ["neutral"] * 10, references=references)


def test_no_warning_if_the_truth_is_as_uniform(metric):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = metric.compute(predictions=["joy"] * 30, references=["joy"] * 30, labels=LABELS)
    assert (result["accuracy"], result["largest_predicted_share"]) == (1, 1)


def test_warning_for_labels_that_differ_only_in_case_or_spaces(metric):
    with pytest.warns(UserWarning, match=r"only in case or spaces are counted apart: \['Joy', 'anger', 'joy'\]"):
        metric.compute(predictions=["Joy", "joy", "anger"], references=["joy", "joy", "anger"])


def test_warning_if_no_answer_is_readable(metric):
    with pytest.warns(UserWarning, match="No answer is readable"):
        result = metric.compute(predictions=[None, ""], references=["neutral", "joy"], labels=LABELS)
    assert (result["accuracy"], result["weighted_f1"], result["unreadable_rate"]) == (0, 0, 1)
    assert math.isnan(result["largest_predicted_share"])


# ---- bad input ------------------------------------------------------------------------------------------------------

GOOD = {"predictions": ["joy", "anger"], "references": ["joy", "neutral"]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"predictions": ["joy"]}, "1 predictions, 2 references"),
        ({"predictions": [], "references": []}, "There are no examples"),
        ({"predictions": None}, "`predictions` is None; pass a list"),
        ({"predictions": "joy"}, "`predictions` is 'joy'; pass a list"),
        ({"predictions": {"joy": 0, "anger": 1}}, "`predictions` is {'joy': 0, 'anger': 1}; pass a list"),
        ({"references": {"joy", "anger"}}, "`references` is {.*}; pass a list"),
        ({"references": pd.DataFrame({"joy": ["joy", "anger"]})}, "(?s)`references` is .*; pass a list"),
        ({"predictions": [1, 2]}, r"predictions\[0\] is 1, of type int; labels are names.*labels\[i\]"),
        ({"predictions": ["joy", math.nan]}, r"predictions\[1\] is nan, of type float"),
        ({"references": ["joy", None]}, r"references\[1\] is None: only a prediction may be unreadable"),
        ({"references": ["", "joy"]}, r"references\[0\]"),
        (
            {"labels": LABELS, "predictions": ["joy", "Anger"]},
            r"`predictions` contains labels .* 'Anger' at index 1.*'joy'",
        ),
        ({"labels": LABELS, "references": ["joy", "sad"]}, r"`references` contains labels .* 'sad' at index 1"),
        (
            {"labels": ["joy"], "predictions": list("abcdefg"), "references": ["joy"] * 7},
            r"'a' at index 0, .*'e' at index 4 and 2 more",
        ),
        ({"labels": "joy"}, "pass a list of names"),
        ({"labels": []}, "pass a list of names"),
        ({"labels": set(LABELS)}, "pass a list of names"),
        ({"labels": 3}, "`labels` is 3; pass a list of names"),
        ({"labels": [0, 1]}, "pass a list of names"),
        ({"labels": ["joy", "joy"]}, "'joy' more than once"),
        ({"unknown_predictions": "neutral"}, "'error' or 'unreadable'"),
        ({"bootstrap": -1}, "number of resamples"),
        ({"bootstrap": 0.5}, "number of resamples"),
        ({"bootstrap": True}, "number of resamples"),
        ({"confidence": 95}, "between 0 and 1"),
        ({"seed": -1}, "whole number of at least 0"),
        ({"calibration_bins": 0}, "whole number of at least 1"),
        ({"probabilities": [[1.0]]}, r'evaluate.load\(..., "probabilities"\)'),
    ],
)
def test_error_names_the_bad_input(metric, changes, message):
    with pytest.raises(ValueError, match=message):
        metric.compute(**{**GOOD, **changes})


@pytest.mark.parametrize(
    ("probabilities", "message"),
    [
        ([[0.5, 0.6], [1, 0]], r"sum of probabilities\[0\] is 1.1; it must be 1 to within 0.001"),
        ([[1, 0], [0.3, 0.3]], r"sum of probabilities\[1\] is 0.6"),
        ([[1.5, -0.5], [1, 0]], r"probabilities\[0\] is 1.5, -0.5; each must be a number in \[0, 1\].*softmax"),
        ([[1, 0], [math.nan, 1]], r"probabilities\[1\] is nan"),
        ([[1, 0], [math.inf, 1]], r"probabilities\[1\] is inf"),
        ([[1, 0, 0], [0, 1, 0]], "have 3 numbers per example but there are 2 labels"),
        ([[1, 0, 0], [0, 1]], "have 2, 3 numbers"),
        ([0.5, 0.5], "pass one number per label"),
        ([[1, 0]], "2 references, 1 probabilities"),
        (None, "Pass them for every example"),
    ],
)
def test_error_names_the_bad_probabilities(probability_metric, probabilities, message):
    with pytest.raises(ValueError, match=message):
        probability_metric.compute(
            **{**GOOD, "references": ["joy", "joy"]}, probabilities=probabilities, labels=["joy", "anger"]
        )


def test_probabilities_need_labels(probability_metric):
    with pytest.raises(ValueError, match="`probabilities` need `labels`"):
        probability_metric.compute(**GOOD, probabilities=[[1, 0], [1, 0]])


def test_unknown_option_and_configuration(metric, cache):
    with pytest.raises(TypeError, match="no option 'label'; use one of labels, unknown_predictions"):
        metric.compute(**GOOD, label=LABELS)
    with pytest.raises(ValueError, match="no configuration 'meld'"):
        EGMFErc("meld", cache_dir=cache)


def test_rejected_option_keeps_the_examples(metric):
    metric.add_batch(**GOOD)
    with pytest.raises(ValueError, match="more than once"):
        metric.compute(labels=["joy", "joy"])
    assert metric.compute()["accuracy"] == 0.5


def test_failed_compute_leaves_no_files_and_no_locks(tmp_path):
    metric = EGMFErc(cache_dir=str(tmp_path))
    for _ in range(2):
        with pytest.raises(ValueError, match="not among `labels`"):
            metric.compute(**GOOD, labels=["joy", "sad"])
        assert not list(tmp_path.rglob("*.arrow"))
    assert EGMFErc(cache_dir=str(tmp_path)).compute(**GOOD)["accuracy"] == 0.5
    assert metric.compute(**GOOD)["accuracy"] == 0.5
    assert len(list(tmp_path.rglob("*.lock"))) == 1  # the same file each time: its lock was released
