"""egmf_erc against the public toolkits' values, scikit-learn, and values worked out by hand."""

import json
import math
import warnings
from pathlib import Path

import numpy as np
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
def probable(cache):
    return EGMFErc("probabilities", keep_in_memory=True, cache_dir=cache)


def quietly(metric, **rows):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return metric.compute(**rows)


def drawn(count, seed=0, labels=LABELS, unreadable=0.1):
    """Random truths, and predictions that are right in about half of the rows."""
    rng = np.random.default_rng(seed)
    truth = rng.choice(labels, size=count, p=np.arange(len(labels), 0, -1) / sum(range(len(labels) + 1)))
    said = np.where(rng.random(count) < 0.5, truth, rng.choice(labels, size=count)).tolist()
    return [None if rng.random() < unreadable else name for name in said], truth.tolist()


# ---- the public toolkits ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=[f"{case['kind']}-{i}" for i, case in enumerate(CASES)])
def test_equals_the_public_toolkit(metric, case):
    predictions, references = [[str(code) for code in case[column]] for column in ("predictions", "references")]
    rows = {
        "predictions": predictions,
        "references": references,
        "labels": sorted({*map(str, range(7)), *references}),  # some truths hold the code -1
    }
    if "error" in case["out"]:  # a prediction of 0.5: the toolkit raises for the whole set
        with pytest.raises(ValueError, match=r"'0.5' \(row \d+\)"):
            metric.compute(**rows)
        return
    found = quietly(metric, **rows, unknown_predictions="unreadable")
    assert found["accuracy"] == pytest.approx(case["out"]["acc"], rel=1e-6)
    assert found["weighted_f1"] == pytest.approx(case["out"]["weight_F1"], rel=1e-6)
    strange = [name for name in predictions if name not in rows["labels"]]
    assert found["unreadable_rate"] == pytest.approx(len(strange) / len(predictions))
    assert not strange or case["kind"] == "not_a_class"


def test_the_reference_is_whole():
    kinds = {case["kind"] for case in CASES}
    assert len(CASES) == 120
    assert {"meld_like", "balanced", "not_a_class", "truth_minus_1", "constant_pred", "length_1", "perfect"} <= kinds


# ---- by hand ------------------------------------------------------------------------------------------------------


def test_figures_by_hand(metric):
    found = metric.compute(
        predictions=["neutral", "joy", "anger", "anger", None, "neutral"],
        references=["neutral", "joy", "anger", "joy", "neutral", "neutral"],
        labels=[*LABELS, "sadness"],
    )
    # precision 1, 1, 1/2; recall 2/3, 1/2, 1; sadness never occurs
    f1 = {"neutral": 4 / 5, "joy": 2 / 3, "anger": 2 / 3, "sadness": 0.0}
    assert found["accuracy"] == pytest.approx(4 / 6)
    assert found["per_class_f1"] == pytest.approx(f1)
    assert list(found["per_class_f1"]) == [*LABELS, "sadness"]
    assert found["macro_f1"] == pytest.approx(sum(f1.values()) / 4)
    assert found["weighted_f1"] == pytest.approx((3 * f1["neutral"] + 2 * f1["joy"] + f1["anger"]) / 6)
    assert found["unreadable_rate"] == pytest.approx(1 / 6)
    assert found["largest_predicted_share"] == pytest.approx(2 / 5)
    assert not {"f1", "acc", "confidence_intervals", "calibration_error"} & set(found)


def test_macro_f1_over_all_classes_or_over_those_that_occur(metric):
    predictions, references = drawn(40, unreadable=0)
    over_seen = metric.compute(predictions=predictions, references=references)
    over_all = metric.compute(predictions=predictions, references=references, labels=[*LABELS, "fear"])
    assert over_seen["macro_f1"] == pytest.approx(f1_score(references, predictions, average="macro"))
    assert over_all["macro_f1"] == pytest.approx(over_seen["macro_f1"] * 3 / 4)
    assert over_all["weighted_f1"] == over_seen["weighted_f1"]


@pytest.mark.parametrize("unreadable", [None, "", "  "])
@pytest.mark.parametrize("labels", [None, LABELS, LABELS[::-1]])
def test_unreadable_answers_are_wrong_and_of_no_class(metric, unreadable, labels):
    references = ["neutral", "neutral", "joy", "anger"]
    said = metric.compute(predictions=[unreadable, "neutral", "joy", unreadable], references=references, labels=labels)
    assert said["accuracy"] == 0.5
    assert said["unreadable_rate"] == 0.5
    assert said["per_class_f1"] == pytest.approx({"neutral": 2 / 3, "joy": 1, "anger": 0})


def test_rows_may_come_in_any_way(cache):
    predictions, references = drawn(30)
    whole = EGMFErc(cache_dir=cache).compute(predictions=predictions, references=references, labels=LABELS)
    one_by_one, in_batches = EGMFErc(cache_dir=cache), EGMFErc(cache_dir=cache, experiment_id="batches")
    for said, true in zip(predictions, references):
        one_by_one.add(prediction=said, reference=true)
    in_batches.add_batch(predictions=[], references=[])
    in_batches.add_batch(predictions=np.array(predictions[:7], dtype=object), references=np.array(references[:7]))
    in_batches.add_batch(predictions=tuple(predictions[7:]), references=tuple(references[7:]))
    assert one_by_one.compute(labels=LABELS) == in_batches.compute(labels=dict.fromkeys(LABELS)) == whole


def test_labels_of_any_script(metric):
    labels = ["愤怒", "厌恶", "恐惧", "高兴", "平静", "悲伤", "惊奇"]
    predictions, references = drawn(60, labels=labels)
    found = metric.compute(predictions=predictions, references=references, labels=labels)
    assert list(found["per_class_f1"]) == labels


# ---- calibration ----------------------------------------------------------------------------------------------------


def test_calibration_error_by_hand(probable):
    found = probable.compute(
        predictions=["joy", "anger", "joy", "anger"],
        references=["joy", "anger", "anger", "anger"],
        probabilities=[[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7]],
        labels=["joy", "anger"],
        calibration_bins=2,
    )
    assert found["calibration_error"] == pytest.approx(abs((0.9 + 0.8 + 0.6 + 0.7) / 4 - 3 / 4))


def test_one_definition_with_training(probable):
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet([0.6] * 3, size=200)
    truth = rng.integers(3, size=200)
    found = probable.compute(
        predictions=[LABELS[i] for i in probabilities.argmax(axis=1)],
        references=[LABELS[i] for i in truth],
        probabilities=probabilities,
        labels=LABELS,
    )
    task = EGMFTask("mood", "classification", labels=LABELS, prompt="\nMood:")
    trained = task_metrics(task, probabilities, truth)
    assert found == {name: trained[name] for name in found}


def test_columns_in_another_order_are_suspected(probable):
    rows = {"predictions": LABELS, "references": LABELS, "probabilities": np.eye(3)}
    with pytest.warns(UserWarning, match="in the order of `labels`"):
        probable.compute(**rows, labels=[LABELS[1], LABELS[2], LABELS[0]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        probable.compute(**rows, labels=LABELS)


# ---- intervals ------------------------------------------------------------------------------------------------------


def test_resampled_figures_are_those_of_the_resampled_rows(probable):
    """Confusion counts of each resample against `compute` on its rows."""
    predictions, references = drawn(25)
    probabilities = np.random.default_rng(1).dirichlet([1.0] * 3, size=25)
    codes = {name: i for i, name in enumerate([*LABELS, None])}
    truth, said = np.array([codes[name] for name in references]), np.array([codes[name] for name in predictions])
    confidence = probabilities.max(axis=1)
    calibration = (np.minimum((confidence * 10).astype(int), 9), confidence - (probabilities.argmax(axis=1) == truth))
    rows = np.random.default_rng(2).integers(25, size=(8, 25))
    resampled = egmf_erc._resampled(rows, truth, said, LABELS, calibration)
    for place, chosen in enumerate(rows):
        found = quietly(
            probable,
            predictions=[predictions[i] for i in chosen],
            references=[references[i] for i in chosen],
            probabilities=probabilities[chosen],
            labels=LABELS,
        )
        for name in ("accuracy", "weighted_f1", "macro_f1", "unreadable_rate", "calibration_error"):
            assert resampled[name][place] == pytest.approx(found[name]), name
        for name in LABELS:
            assert resampled["per_class_f1", name][place] == pytest.approx(found["per_class_f1"][name])


def test_intervals(metric):
    predictions, references = drawn(400, unreadable=0)
    rows = {"predictions": predictions, "references": references, "labels": LABELS}
    found = metric.compute(**rows, bootstrap=1000)
    intervals = found["confidence_intervals"]
    assert set(intervals) == {"accuracy", "weighted_f1", "macro_f1", "unreadable_rate", "per_class_f1"}
    for name in ("accuracy", "weighted_f1", "macro_f1"):
        low, high = intervals[name]
        assert low < found[name] < high
    low, high = intervals["accuracy"]  # a share of 400: the normal interval is near
    assert high - low == pytest.approx(
        2 * 1.96 * math.sqrt(found["accuracy"] * (1 - found["accuracy"]) / 400), rel=0.1
    )
    assert metric.compute(**rows, bootstrap=1000)["confidence_intervals"] == intervals
    assert metric.compute(**rows, bootstrap=1000, seed=1)["confidence_intervals"] != intervals
    narrow = metric.compute(**rows, bootstrap=1000, confidence=0.5)["confidence_intervals"]["accuracy"]
    assert low < narrow[0] < narrow[1] < high
    assert {name: value for name, value in found.items() if name != "confidence_intervals"} == metric.compute(**rows)


def test_intervals_of_many_rows_come_in_parts():
    """More rows than are resampled at once: the parts add up to the number asked for."""
    options = egmf_erc.EGMFErcOptions(bootstrap=7)
    sizes = []

    def mean(rows):
        sizes.append(len(rows))
        return {"mean": rows.mean(axis=1), "never": np.full(len(rows), np.nan)}

    found = egmf_erc._bootstrap_intervals(mean, 400_000, options)
    assert sizes == [2, 2, 2, 1]
    assert found["mean"] == pytest.approx([199_999.5, 199_999.5], rel=0.01)
    assert np.isnan(found["never"]).all()


# ---- warnings -------------------------------------------------------------------------------------------------------


def test_constant_predictions_are_named(metric):
    with pytest.warns(UserWarning, match=r"All 4 readable predictions are 'neutral', which is true for 50.0%"):
        metric.compute(predictions=["neutral"] * 4, references=["neutral", "neutral", "joy", "anger"])


def test_a_class_that_swallows_nearly_everything_is_named(metric):
    references = ["neutral"] * 50 + ["joy"] * 50
    with pytest.warns(UserWarning, match=r"96.0% of the 100 readable predictions are 'joy'"):
        metric.compute(predictions=["joy"] * 96 + ["neutral"] * 4, references=references)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metric.compute(predictions=["joy"] * 90 + ["neutral"] * 10, references=references)


def test_answers_as_uniform_as_the_truth_are_not_suspected(metric):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = metric.compute(predictions=["joy"] * 30, references=["joy"] * 30, labels=LABELS)
    assert (found["accuracy"], found["largest_predicted_share"]) == (1, 1)


def test_nothing_readable(metric):
    with pytest.warns(UserWarning, match="No answer could be read"):
        found = metric.compute(predictions=[None, ""], references=["neutral", "joy"], labels=LABELS)
    assert (found["accuracy"], found["weighted_f1"], found["unreadable_rate"]) == (0, 0, 1)
    assert math.isnan(found["largest_predicted_share"])


# ---- bad input ------------------------------------------------------------------------------------------------------

GOOD = {"predictions": ["joy", "anger"], "references": ["joy", "neutral"]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"predictions": ["joy"]}, "1 predictions, 2 references"),
        ({"predictions": [], "references": []}, "There are no rows"),
        ({"predictions": None}, "`predictions` is None; give a list"),
        ({"predictions": "joy"}, "`predictions` is 'joy'; give a list"),
        ({"predictions": [1, 2]}, r"predictions\[0\] is 1, of type int; labels are names.*labels\[i\]"),
        ({"predictions": ["joy", math.nan]}, r"predictions\[1\] is nan, of type float"),
        ({"references": ["joy", None]}, r"references\[1\] is None: only a prediction may be unreadable"),
        ({"references": ["", "joy"]}, r"references\[0\]"),
        (
            {"labels": LABELS, "predictions": ["joy", "Anger"]},
            r"`predictions` hold labels .* 'Anger' \(row 1\).*'joy'",
        ),
        ({"labels": LABELS, "references": ["joy", "sad"]}, r"`references` hold labels .* 'sad' \(row 1\)"),
        (
            {"labels": ["joy"], "predictions": list("abcdefg"), "references": ["joy"] * 7},
            r"'a' \(row 0\), .*'e' \(row 4\) and 2 more",
        ),
        ({"labels": "joy"}, "give a list of names"),
        ({"labels": []}, "give a list of names"),
        ({"labels": [0, 1]}, "give a list of names"),
        ({"labels": ["joy", "joy"]}, "'joy' more than once"),
        ({"unknown_predictions": "neutral"}, "'error' or 'unreadable'"),
        ({"bootstrap": -1}, "number of resamples"),
        ({"bootstrap": 0.5}, "number of resamples"),
        ({"confidence": 95}, "between 0 and 1"),
        ({"seed": -1}, "whole number from 0"),
        ({"calibration_bins": 0}, "whole number from 1"),
        ({"probabilities": [[1.0]]}, r'evaluate.load\(..., "probabilities"\)'),
    ],
)
def test_bad_input_is_named(metric, changes, message):
    with pytest.raises(ValueError, match=message):
        metric.compute(**{**GOOD, **changes})


@pytest.mark.parametrize(
    ("probabilities", "message"),
    [
        ([[0.5, 0.6], [1, 0]], r"probabilities\[0\] sum to 1.1; a sum of 1 to within 0.001"),
        ([[1, 0], [0.3, 0.3]], r"probabilities\[1\] sum to 0.6"),
        ([[1.5, -0.5], [1, 0]], r"probabilities\[0\] is 1.5, -0.5; each must be a number in \[0, 1\].*softmax"),
        ([[1, 0], [math.nan, 1]], r"probabilities\[1\] is nan"),
        ([[1, 0], [math.inf, 1]], r"probabilities\[1\] is inf"),
        ([[1, 0, 0], [0, 1, 0]], "rows of 3 numbers but there are 2 labels"),
        ([[1, 0, 0], [0, 1]], "rows of 2, 3 numbers"),
        ([0.5, 0.5], "give a list with one number a label"),
        ([[1, 0]], "2 references, 1 probabilities"),
        (None, "give them for every row"),
    ],
)
def test_bad_probabilities_are_named(probable, probabilities, message):
    with pytest.raises(ValueError, match=message):
        probable.compute(
            **{**GOOD, "references": ["joy", "joy"]}, probabilities=probabilities, labels=["joy", "anger"]
        )


def test_probabilities_need_the_names_of_their_columns(probable):
    with pytest.raises(ValueError, match="Probabilities need `labels`"):
        probable.compute(**GOOD, probabilities=[[1, 0], [1, 0]])


def test_unknown_option_and_configuration(metric, cache):
    with pytest.raises(TypeError, match="no option 'label'; it has labels, unknown_predictions"):
        metric.compute(**GOOD, label=LABELS)
    with pytest.raises(ValueError, match="no configuration 'meld'"):
        EGMFErc("meld", cache_dir=cache)


def test_a_refused_option_costs_no_rows(metric):
    metric.add_batch(**GOOD)
    with pytest.raises(ValueError, match="more than once"):
        metric.compute(labels=["joy", "joy"])
    assert metric.compute()["accuracy"] == 0.5


def test_a_failed_call_leaves_no_files_and_no_locks(tmp_path):
    metric = EGMFErc(cache_dir=str(tmp_path))
    for _ in range(2):
        with pytest.raises(ValueError, match="not among `labels`"):
            metric.compute(**GOOD, labels=["joy", "sad"])
        assert not list(tmp_path.rglob("*.arrow"))
    assert EGMFErc(cache_dir=str(tmp_path)).compute(**GOOD)["accuracy"] == 0.5
    assert metric.compute(**GOOD)["accuracy"] == 0.5
    assert len(list(tmp_path.rglob("*.lock"))) == 1  # the same file each time: its lock was let go
