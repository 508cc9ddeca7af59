"""`egmf calibrate`: from a checkpoint and a corpus to calibrated answers. The fit: evaluation/test_calibration.py."""

import math

import pytest

from processing_egmf import EGMFProcessor
from tests.helpers.corpus_files import write_corpus
from training.calibrate import main
from training.evaluation.calibrator import is_same_dataset
from training.evaluation.run_records import read_results
from training.records import write_json


pytestmark = pytest.mark.integration


def test_checkpoint_is_evaluated_and_answers_calibrated(make_model, make_processor, tmp_path, capsys):
    corpus = write_corpus(tmp_path / "corpus")
    run = tmp_path / "run"
    model = make_model("waveform", None, lora=None)
    model.save_pretrained(run)
    make_processor("waveform", None).save_pretrained(run)
    with pytest.raises(SystemExit, match="no training.json that names its dataset. Give --dataset"):
        main([str(run)])
    main([str(run), "--dataset", str(corpus), "--split", "train", "--device", "cpu"])
    assert "egmf report" in capsys.readouterr().out
    assert (run / "results-train.json").is_file()
    processor = EGMFProcessor.from_pretrained(run)
    calibrated = [task for task in processor.task_objects.values() if task.calibration]
    assert calibrated
    for task in calibrated:
        output = model.score_answers(**processor(text="Hello.", task=task.name))
        plain = processor.post_process_answers(output)[0]["probabilities"]
        numbers = task.find_calibration(["text"])
        highest = max(plain.values())
        gaps = {key: math.log(highest / share) / numbers["temperature"] for key, share in plain.items()}
        powers = {key: math.exp(-(gap ** numbers["exponent"])) for key, gap in gaps.items()}
        found = processor.post_process_answers(output, calibrated=True)[0]["probabilities"]
        weight = numbers["uniform_weight"]
        expected = {key: (1 - weight) * p / sum(powers.values()) + weight / len(powers) for key, p in powers.items()}
        assert found == pytest.approx(expected, abs=1e-5)


def test_the_examples_are_chosen_as_in_training(make_model, make_processor, tmp_path, capsys):
    corpus = write_corpus(tmp_path / "corpus")
    run = tmp_path / "run"
    make_model("waveform", None, lora=None).save_pretrained(run)
    make_processor("waveform", None).save_pretrained(run)
    arguments = {"dataset": str(corpus), "train_split": "other", "eval_split": "train", "where": ["id=c0", "id=c2"]}
    write_json(run / "training.json", {"data_arguments": arguments})
    main([str(run), "--device", "cpu"])
    results = read_results(run / "results-train.json")
    assert results["where"] == ["id=c0", "id=c2"]
    found = {p["id"] for task in results["subsets"]["text"]["tasks"].values() for p in task["predictions"]}
    assert found == {"c0", "c2"}
    assert "emotion is calibrated on only 2 examples with text: fewer than 50 say little" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("a/emotion", "a/emotion", True),
        ("a/emotion", "b/emotion", False),
        ("/old/corpus", "corpus", True),  # moved
        ("mine", "mine/metadata.csv", True),
        ("one/corpus", "two/corpus", False),
        (".", "mine", True),  # the folder that was current is unknown
    ],
)
def test_datasets_that_may_be_the_same(first, second, same, tmp_path, monkeypatch):
    for folder in ("mine", "one/corpus", "two/corpus"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "mine/metadata.csv").touch()
    monkeypatch.chdir(tmp_path)
    assert is_same_dataset(first, second) == is_same_dataset(second, first) == same
