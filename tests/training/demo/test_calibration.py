"""Calibration of runs of the demo, on results that are at hand."""

import json
import re

import numpy as np
import pytest

from training.demo.calibration import main
from training.demo.phrases import phrase_bank
from training.records import digest_of_bytes, read_json, write_json


LABELS = ("joy", "anger")
SETTINGS = {"seed": 2, "phrase_seed": 0}
DIGEST = digest_of_bytes(repr(sorted(SETTINGS.items())).encode())[:8]


def results(confidence, accuracy, count):
    """Results whose answers have one confidence, and are right as often as `accuracy` says."""
    predictions = []
    for index in range(count):
        truth = LABELS[index % 2]
        answer = truth if index < accuracy * count else LABELS[(index + 1) % 2]
        probabilities = {label: confidence if label == answer else 1 - confidence for label in LABELS}
        predictions.append(
            {
                "id": str(index),
                "modalities": ["audio"],
                "label": answer,
                "truth": truth,
                "probabilities": probabilities,
            }
        )
    return {"subsets": {"audio": {"tasks": {"emotion": {"predictions": predictions}}}}}


def write_corpus(folder, settings):
    cues = {"audio": "joy", "video": "joy"}
    clip = {"task": "emotion", "text": phrase_bank(0)[0].text, "answer": "joy", "cues": cues}
    lines = [json.dumps({**clip, "split": split}) for split in ("train", "test", "test")]
    write_json(folder / "build.json", {"settings": settings})
    (folder / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")


def write_run(run, seed):
    write_corpus(run.parent / "own", {"seed": 0})
    record = {"data_arguments": {"dataset": str(run.parent / "own")}, "seed": seed, "commit": "abc"}
    write_json(run / "training.json", record)
    write_json(run / "results-validation.json", results(0.9, 0.75, 400))
    write_json(run / f"results-new-{DIGEST}.json", results(0.9, 0.75 + 0.05 * seed, 200))


def test_errors_before_and_after_calibration_of_several_runs(tmp_path):
    for seed in (0, 1):
        write_run(tmp_path / f"run-{seed}", seed)
    write_corpus(tmp_path / "new", SETTINGS)
    output = tmp_path / "out/figures.json"
    runs = [str(tmp_path / f"run-{seed}") for seed in (0, 1)]
    main([*runs, "--dataset", str(tmp_path / "new"), "--output", str(output)])
    written = read_json(output)
    assert (written["seeds"], written["commits"], written["corpus"]) == ([0, 1], ["abc"], SETTINGS)
    assert (written["examples"], written["learner"]["audio"], written["ideal"]["audio"]) == (2, 1, 1)
    figures = written["subsets"]["audio"]
    np.testing.assert_allclose(figures["before"]["error"]["values"], [0.15, 0.1], atol=1e-6)
    np.testing.assert_allclose(figures["after"]["error"]["values"], [0.0, 0.05], atol=0.01)
    assert figures["after"]["accuracy"]["mean"] == pytest.approx(0.775)


def refused(tmp_path, *runs, dataset="new"):
    with pytest.raises(SystemExit) as error:
        main([*runs, "--dataset", str(tmp_path / dataset), "--output", str(tmp_path / "out.json")])
    assert not (tmp_path / "out.json").exists()
    return str(error.value)


def test_what_is_no_run_or_no_demo_corpus_is_named(tmp_path):
    run = str(tmp_path / "run-0")
    write_run(tmp_path / "run-0", 0)
    write_corpus(tmp_path / "new", SETTINGS)
    assert "other is not a finished run" in refused(tmp_path, str(tmp_path / "other"))
    assert "A run is given twice" in refused(tmp_path, run, run)
    write_json(tmp_path / "run-1/training.json", {"data_arguments": {"dataset": "data/demo"}, "seed": 1})
    message = refused(tmp_path, run, str(tmp_path / "run-1"))
    assert re.search("were trained on .*own, data/demo. Give runs on one corpus", message)
    assert "validation is not a demo corpus" in refused(tmp_path, run, dataset="validation")
    write_json(tmp_path / "run-0/results-validation.json", {"subsets": {"audio": {"tasks": {}}}})
    assert "without the task 'emotion'" in refused(tmp_path, run)
