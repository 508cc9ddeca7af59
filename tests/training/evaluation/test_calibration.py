"""Calibration: fitted, applied, stored with the checkpoint, and never fitted on the test split."""

import numpy as np
import pytest

from processing_egmf import BUILT_IN_TASKS, EGMFTask
from tests.helpers.run_files import write_run
from training.calibrate import main
from training.evaluation import calibration
from training.evaluation.calibration import (
    apply_calibration,
    calibration_error,
    calibration_figures,
    calibration_noise,
    fit,
    fit_calibration,
    label_losses,
    scale_gaps,
    score_losses,
)
from training.records import read_json, write_json


def draw_answers(number, temperature, num_answers=7, seed=0):
    """Distributions that are too sure by a factor: the truths are drawn from calibrated ones. (N, A), (N,)"""
    generator = np.random.default_rng(seed)
    calibrated = generator.dirichlet(np.full(num_answers, 0.4), size=number)
    truth = np.array([generator.choice(num_answers, p=row) for row in calibrated])
    return scale_gaps(calibrated, 1 / temperature), truth


def as_predictions(probabilities, truth, modalities):
    labels = [f"label {index}" for index in range(probabilities.shape[1])]
    return [
        {
            "id": f"clip {number}",
            "label": labels[row.argmax()],
            "truth": labels[answer],
            "probabilities": dict(zip(labels, row.tolist(), strict=True)),
            "modalities": modalities,
        }
        for number, (row, answer) in enumerate(zip(probabilities, truth, strict=True))
    ]


def test_error_by_hand():
    confidence = np.array([0.51, 0.52, 0.99, 1.0])
    correct = np.array([True, False, True, True])
    assert calibration_error(confidence, correct) == pytest.approx((0.03 + 0.01) / 4)
    mean, quantile = calibration_noise(np.full(240, 0.6))
    assert 0.01 < mean < quantile < 0.1  # a calibrated model is measured to have an error
    assert calibration_noise(np.ones(50)) == (0, 0)


def test_temperature_of_labels_is_found_and_mends_the_error():
    probabilities, truth = draw_answers(1500, temperature=2.0)
    found = fit(label_losses(probabilities, truth))
    assert found["temperature"] == pytest.approx(2.0, rel=0.1)
    assert found["uniform_weight"] <= 0.05
    figures = calibration_figures(as_predictions(probabilities, truth, ["text"]), {"text": found})
    assert figures["before"]["error"] > 0.1
    assert figures["after"]["error"] < 0.05
    assert figures["after"]["accuracy"] == figures["before"]["accuracy"]
    assert "after" not in calibration_figures(as_predictions(probabilities[:9], truth[:9], ["audio"]), {"text": found})


def test_uniform_weight_is_found_where_a_cue_misleads_now_and_then():
    """A share of the labels is drawn at random, whatever the model says: no temperature mends that."""
    probabilities, truth = draw_answers(3000, temperature=1.0)
    generator = np.random.default_rng(1)
    misled = generator.random(3000) < 0.3
    truth[misled] = generator.integers(7, size=misled.sum())
    losses = label_losses(probabilities, truth)
    found = fit(losses)
    assert found["temperature"] == pytest.approx(1.0, rel=0.15)
    assert found["uniform_weight"] == pytest.approx(0.3, abs=0.06)
    only_temperature = fit(losses[..., :1])
    predictions = as_predictions(probabilities, truth, ["video"])
    error = calibration_figures(predictions, {"video": found})["after"]["error"]
    assert error < 0.03
    assert only_temperature["uniform_weight"] == 0
    alone = {"video": only_temperature}
    assert calibration_figures(predictions, alone)["after"]["error"] > 2 * error


def test_exponent_is_found_where_contradictions_make_a_model_too_sure():
    """Close answers are closer than the model says, and far ones as far: no temperature mends both."""
    generator = np.random.default_rng(0)
    calibrated = generator.dirichlet(np.full(7, 0.4), size=3000)
    truth = np.array([generator.choice(7, p=row) for row in calibrated])
    probabilities = scale_gaps(calibrated, 1.5, 1 / 1.8)
    losses = label_losses(probabilities, truth)
    found = fit(losses)
    assert found["exponent"] == pytest.approx(1.8, abs=0.2)
    assert found["uniform_weight"] <= 0.05
    predictions = as_predictions(probabilities, truth, ["audio", "video"])
    figures = calibration_figures(predictions, {"audio+video": found})
    assert figures["after"]["error"] < 0.02
    assert figures["after"]["accuracy"] == figures["before"]["accuracy"]
    usual = calibration.EXPONENTS.tolist().index(1.0)
    without = calibration_figures(predictions, {"audio+video": fit(losses[:, [usual]])})["after"]
    assert without["negative_log_likelihood"] > figures["after"]["negative_log_likelihood"] + 0.01


def test_calibration_by_hand():
    given = np.array([[0.8, 0.2], [0.5, 0.5]])
    found = apply_calibration(given, np.array([0.5, 1.0]), np.array([0.1, 0.0]))
    np.testing.assert_allclose(found, [[0.9 * 0.64 / 0.68 + 0.05, 0.9 * 0.04 / 0.68 + 0.05], [0.5, 0.5]])
    squared = apply_calibration(given, 2.0, 0.0, exponent=2.0)  # a gap of log 4, halved, is log 2
    np.testing.assert_allclose(squared[0, 1] / squared[0, 0], np.exp(-(np.log(2) ** 2)))
    assert found.sum(axis=1) == pytest.approx(1)


def test_width_of_scores_makes_intervals_cover_what_they_promise():
    generator = np.random.default_rng(0)
    values = np.arange(61)
    centers = generator.uniform(20, 40, 1500)
    truth = np.clip(np.round(generator.normal(centers, 6)), 0, 60).astype(int)
    logarithms = -((values - centers[:, None]) ** 2) / (2 * 3.0**2)  # half as wide as they should be
    narrow = np.exp(logarithms) / np.exp(logarithms).sum(axis=1, keepdims=True)
    found = fit(score_losses(narrow, truth))
    temperature = found["temperature"]
    assert found["uniform_weight"] == 0
    assert temperature**0.5 == pytest.approx(2.0, rel=0.1)
    before = calibration.distribution_figures(narrow, truth, has_labels=False)
    after = calibration.distribution_figures(scale_gaps(narrow, temperature), truth, has_labels=False)
    assert before["coverage"] < 0.7
    assert after["coverage"] == pytest.approx(0.9, abs=3 * after["coverage_deviation"])


def test_every_combination_of_modalities_is_calibrated(monkeypatch):
    monkeypatch.setattr(calibration, "TEMPERATURES", np.array([1.0, 1.5, 2.0]))
    monkeypatch.setattr(calibration, "EXPONENTS", np.array([1.0]))
    monkeypatch.setattr(calibration, "UNIFORM_WEIGHTS", np.array([0.0]))
    sure = as_predictions(*draw_answers(400, temperature=2.0), ["text"])
    honest = as_predictions(*draw_answers(400, temperature=1.0), ["text", "audio"])
    rare = as_predictions(*draw_answers(5, temperature=1.0), ["audio"])  # asked with both, without a transcript
    subsets = {
        "text": {"tasks": {"mood": {"predictions": sure}}},
        "text+audio": {"tasks": {"mood": {"predictions": honest + rare}}},
    }
    found = {name: numbers["temperature"] for name, numbers in fit_calibration(subsets, "mood").items()}
    assert found == {"text": 2.0, "text+audio": 1.0, "audio": 1.5}  # five examples say less than all answers together
    assert fit_calibration(subsets, "other") == {}


def test_results_that_do_not_fit_the_checkpoint_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(calibration, "TEMPERATURES", np.array([1.0, 1.5]))
    monkeypatch.setattr(calibration, "DRAWS", 10)
    run = tmp_path / "run"
    results = {**write_run(run, tasks=("emotion",)), "split": "validation", "dataset": "data/mine"}
    path = write_json(run / "results-validation.json", results)
    known = {"text": {"temperature": 2.0, "exponent": 1.0, "uniform_weight": 0.1}}
    sentiment = BUILT_IN_TASKS["sentiment"].to_dict() | {"calibration": known}
    emotion = BUILT_IN_TASKS["emotion"].to_dict()
    write_json(run / "processor_config.json", {"tasks": [sentiment]})
    before = (run / "processor_config.json").read_bytes()
    with pytest.raises(
        SystemExit, match="task 'emotion' that is not the one of .*processor_config.json, which has sen"
    ):
        main([str(run)])
    write_json(path, {**results, "tasks": {"emotion": emotion | {"prompt": "How?"}}})
    with pytest.raises(SystemExit, match="task 'emotion' that is not the one of"):
        main([str(run)])
    write_json(path, {**results, "experts": ["local"]})
    with pytest.raises(SystemExit, match="results of only some experts"):
        main([str(run)])
    write_json(path, results)
    with pytest.raises(SystemExit, match="results of the dataset data/mine, not of --dataset data/other"):
        main([str(run), "--dataset", "data/other"])
    assert (run / "processor_config.json").read_bytes() == before
    write_json(run / "processor_config.json", {"tasks": [sentiment, emotion | {"labels": ["joy", "anger"]}]})
    with pytest.raises(SystemExit, match="has probabilities of .*neutral.* 'emotion', whose answers are .*joy.*anger"):
        main([str(run)])
    write_json(path, {**results, "subsets": {name: {"tasks": {}} for name in results["subsets"]}})
    with pytest.raises(SystemExit, match="results-validation.json has no predictions"):
        main([str(run)])
    write_json(path, results)
    write_json(run / "processor_config.json", {"tasks": [sentiment, emotion]})
    record = read_json(run / "training.json")
    write_json(run / "training.json", record | {"data_arguments": {"dataset": "data/trained"}})
    with pytest.raises(SystemExit, match="results of the dataset data/mine, not of data/trained.* or give --results"):
        main([str(run)])
    write_json(run / "training.json", record | {"data_arguments": {"dataset": "moved/mine"}})
    main([str(run), "--dataset", "data/mine"])
    stored = read_json(run / "processor_config.json")["tasks"]
    assert stored[0]["calibration"] == known  # not evaluated, and kept
    assert set(stored[1]["calibration"]) == {"text"}
    path.unlink()
    record = read_json(run / "training.json") | {"data_arguments": {"dataset": str(tmp_path / "moved")}}
    write_json(run / "training.json", record)
    with pytest.raises(SystemExit, match=f"There is no dataset {tmp_path}/moved, of .*run. Give --dataset, its new"):
        main([str(run)])
    write_json(path, results)
    for damaged, message in (("[]", "its content is"), ('{"tasks": 5}', "tasks is '5'"), ("", "not a JSON file")):
        (run / "processor_config.json").write_text(damaged)
        with pytest.raises(SystemExit, match=f"processor_config.json.* {message}"):
            main([str(run)])


def test_command_stores_the_calibration_with_the_checkpoint(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(calibration, "TEMPERATURES", np.array([1.0, 1.5, 2.0]))
    monkeypatch.setattr(calibration, "DRAWS", 10)
    run = tmp_path / "run"
    results = write_run(run)
    tasks = [BUILT_IN_TASKS[name].to_dict() for name in ("emotion", "sentiment", "meld")]
    write_json(run / "processor_config.json", {"tasks": tasks, "num_frames": 8})
    with pytest.raises(SystemExit, match="not calibrated on the test split"):
        main([str(run), "--results", str(run / "results-test.json")])
    results["split"] = "validation"
    path = write_json(run / "results-validation.json", results)
    main([str(run)])
    printed = capsys.readouterr().out
    assert "| emotion | text + audio + video | 14 |" in printed
    assert "| sentiment | text | 14 |" in printed
    stored = read_json(run / "processor_config.json")
    assert stored["num_frames"] == 8
    emotion, sentiment, meld = map(EGMFTask.from_dict, stored["tasks"])
    assert set(emotion.calibration) == set(sentiment.calibration) == {"text"}  # what the answers are based on
    assert meld.calibration == {}
    write_json(path, {**results, "weights": "of another"})
    with pytest.raises(SystemExit, match="results of another checkpoint"):
        main([str(run)])
    write_json(path, {**results, "subsets": {"text": results["subsets"]["text"]}})
    with pytest.raises(SystemExit, match="every subset of the modalities.*--subsets every"):
        main([str(run)])
    path.write_text('{"subsets": {"te')
    with pytest.raises(SystemExit, match="results-validation.json is not a JSON file"):
        main([str(run)])
    with pytest.raises(SystemExit, match="is not a checkpoint"):
        main([str(tmp_path)])
