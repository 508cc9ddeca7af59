"""What expert weights depend on: factors, explained variance, permutation tests, the page."""

import json

import numpy as np
import pytest

from training.evaluation.gate_factors import (
    analyze,
    describe_gate,
    find_factors,
    group_means,
    measure_dependence,
    squared_correlation,
)
from training.experiments.gates import main


NAMES = ["local", "semantic", "global"]


def make_predictions(number=120, seed=0):
    """The first weight depends on the label and on the age, none on the recording's weekday."""
    generator = np.random.default_rng(seed)
    predictions = []
    for i in range(number):
        label = ["joy", "anger"][i % 2]
        age = int(generator.integers(20, 60))
        local = (0.6 if label == "joy" else 0.3) + age / 1000 + generator.normal(0, 0.02)
        weights = [local, 1 - local - 0.1, 0.1]
        predictions.append(
            {
                "id": f"clip {i}",
                "truth": label,
                "label": label,
                "experts": dict(zip(NAMES, weights, strict=True)),
                "columns": {"age": age, "weekday": ["Monday", "Tuesday"][int(generator.integers(2))], "file": f"{i}"},
            }
        )
    return predictions


def weights_of(predictions):
    return np.array([[*prediction["experts"].values()] for prediction in predictions])


def test_factors_are_the_truth_and_columns_of_numbers_or_few_values():
    predictions = make_predictions()
    assert list(find_factors(predictions)) == ["label", "age", "weekday"]
    assert list(find_factors(predictions, ["file"])) == ["label", "file"]
    with pytest.raises(ValueError, match="no column 'speaker'. They have age, weekday, file"):
        find_factors(predictions, ["speaker"])
    scores = [{"truth": truth} for truth in (-2.0, 0.0, 1.5)]
    assert find_factors(scores) == {"intensity": [2.0, 0.0, 1.5], "polarity": ["negative", "zero", "positive"]}


def test_a_column_named_like_the_truth_does_not_replace_it():
    predictions = make_predictions(number=8)
    for number, prediction in enumerate(predictions):
        prediction["columns"] = dict.fromkeys(("label", "intensity", "modalities"), number // 4)
    factors = find_factors(predictions)
    assert factors.pop("label") == ["joy", "anger"] * 4
    assert factors == {f"column {name}": [0] * 4 + [1] * 4 for name in ("label", "intensity", "modalities")}


def test_dependence_and_its_significance():
    predictions = make_predictions()
    weights = weights_of(predictions)
    factors = find_factors(predictions)
    of_label = measure_dependence(weights, factors["label"], permutations=200)
    assert (of_label["kind"], of_label["examples"]) == ("group", 120)
    assert of_label["explained"][0] > 0.9
    assert of_label["explained"][2] == 0  # a weight that does not vary
    assert of_label["p_value"] == pytest.approx(1 / 201)
    joy = weights[::2]
    of_age = measure_dependence(joy, factors["age"][::2], permutations=200)
    expected = np.corrcoef(joy[:, 0], factors["age"][::2])[0, 1] ** 2
    assert of_age["kind"] == "number"
    assert of_age["explained"][0] == pytest.approx(expected)
    assert measure_dependence(weights, factors["weekday"], permutations=200)["p_value"] > 0.05
    assert measure_dependence(weights, ["same"] * 120) == {}


@pytest.mark.parametrize("unit", [1e-9, 1, 1e90])
def test_the_unit_of_a_number_changes_nothing(unit):
    """Large ones gave a share of nan with the smallest possible p-value, small ones a share of 0."""
    predictions = make_predictions()
    ages = [prediction["columns"]["age"] for prediction in predictions]
    weights = weights_of(predictions)
    found = measure_dependence(weights, [unit * age for age in ages], permutations=50)
    expected = [np.corrcoef(weights[:, place], ages)[0, 1] ** 2 for place in (0, 1)]
    assert found["explained"] == pytest.approx([*expected, 0])


@pytest.mark.parametrize("number", [1e200, 10**400])
def test_numbers_that_are_too_large_to_compute_with_are_groups(number):
    found = measure_dependence(np.arange(4.0)[:, None], [number, number, 1, 1], permutations=5)
    assert found["kind"] == "group"


def test_groups_of_numbers_are_quarters():
    weights = np.arange(8.0)[:, None]
    groups = group_means(weights, [10, 20, 30, 40, 50, 60, 70, None])
    assert [entry["examples"] for entry in groups.values()] == [2, 1, 2, 2]
    assert list(groups) == list(group_means(weights, [70, 60, 50, 40, 30, 20, 10, None]))  # ascending
    assert sum(entry["examples"] for entry in groups.values()) == 7


def test_few_numbers_are_groups_of_their_own():
    """Quarters of 0, 0, 0, 0, 1 would be one group."""
    groups = group_means(np.arange(6.0)[:, None], [0, 0, 1, 0, 0, None])
    assert {name: (entry["examples"], entry["mean"]) for name, entry in groups.items()} == {
        "0": (4, [2.0]),
        "1": (1, [2.0]),
    }


def test_numbers_that_differ_in_late_digits_are_told_apart():
    groups = group_means(np.arange(8.0)[:, None], [1_700_000_000 + number for number in range(8)])
    assert next(iter(groups)) == "1700000000 to 1700000002"
    assert [entry["examples"] for entry in groups.values()] == [2, 2, 2, 2]


def test_page_of_a_run(tmp_path, capsys):
    answer = {"label": "joy", "score": 0.5, "probabilities": {"joy": 0.5, "anger": 0.5}, "modalities": ["text"]}
    predictions = [{"id": str(number), **answer, **entry} for number, entry in enumerate(make_predictions())]
    part = {"examples": len(predictions), "metrics": {"accuracy": 0.5}, "predictions": predictions}
    results = {
        "model": "runs/mine",
        "modalities": ["text", "audio"],
        "config": {"gate": "two_stage"},
        "subsets": {"text": {"tasks": {"mood": part}}, "text+audio": {"tasks": {"mood": part}}},
    }
    (tmp_path / "results-test.json").write_text(json.dumps(results), encoding="utf-8")
    main([str(tmp_path)])
    record = json.loads((tmp_path / "gates.json").read_text())
    assert set(record["tasks"]["mood"]["factors"]) == {"label", "age", "weekday", "modalities"}
    assert record["tasks"]["mood"]["factors"]["modalities"]["p_value"] > 0.05  # the same answers for both subsets
    assert record["tasks"]["mood"]["collapse"] is None
    page = (tmp_path / "gates.md").read_text()
    assert "| depends on | examples | variance of local explained |" in page
    assert "| text+audio |" in page
    assert (tmp_path / "gates-by-group.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(SystemExit, match="The column 'file' has nothing to compare: .* with 2 examples each"):
        main([str(tmp_path), "--columns", "weekday", "file"])
    with pytest.raises(SystemExit, match="Evaluate the run first"):
        main([str(tmp_path / "nothing")])


def test_one_example_depends_on_nothing():
    part = {"predictions": make_predictions(1)}
    subsets = {subset: {"tasks": {"mood": part}} for subset in ("text", "audio", "text+audio")}
    results = {"model": "runs/mine", "modalities": ["text", "audio"], "subsets": subsets}
    analyzed = analyze(results)["tasks"]["mood"]
    assert analyzed["factors"] == {}
    assert list(analyzed["subsets"]) == ["text", "audio", "text+audio"]
    assert len(describe_gate(analyzed)) == 2


def test_scores_and_models_without_a_gate():
    predictions = [
        {"truth": float(truth), "value": 0.0, "experts": {"local": 0.5 + 0.1 * (truth > 0), "global": 0.5}}
        for truth in range(-10, 11)
    ]
    results = {"model": "runs/mine", "modalities": ["text"], "subsets": {}}
    results["subsets"]["text"] = {"tasks": {"mood": {"predictions": predictions}}}
    factors = analyze(results)["tasks"]["mood"]["factors"]
    assert set(factors) == {"intensity", "polarity"}
    assert factors["polarity"]["explained"][0] == pytest.approx(1)
    assert factors["polarity"]["p_value"] < 0.01
    results["subsets"]["text"]["tasks"]["mood"]["predictions"] = [{"truth": 1.0, "value": 0.0}]
    assert analyze(results)["tasks"] == {}


def test_numbers_that_are_equal_explain_nothing():
    weights = np.array([[0.2, 0.8], [0.6, 0.4], [0.5, 0.5]])
    assert squared_correlation(weights, np.array([3.0, 3.0, 3.0])).tolist() == [0.0, 0.0]
