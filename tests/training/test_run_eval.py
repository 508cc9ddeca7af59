"""Evaluation: every subset of modalities, every raw prediction, and the results file."""

import json

import numpy as np
import pytest

from tests.helpers.corpus_files import write_corpus
from training.data.collator import SUBSETS
from training.data.dataset import EGMFDataset, load_examples
from training.evaluation.evaluator import evaluate, main, parse_subsets, subset_name, warn_of_other_splits
from training.evaluation.metrics import task_metrics
from training.records import write_json


pytestmark = pytest.mark.integration
NAMES = ["text", "audio", "video", "text+audio", "text+video", "audio+video", "text+audio+video"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus") / "tiny")


@pytest.fixture
def checkpoint(make_model, make_processor, tmp_path):
    make_model("waveform", "frames", lora=None).save_pretrained(tmp_path / "checkpoint")
    make_processor("waveform", "frames").save_pretrained(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def test_results_hold_all_subsets_and_every_prediction(checkpoint, corpus, capsys):
    main(
        [
            "--model_name_or_path",
            str(checkpoint),
            "--dataset",
            str(corpus),
            "--split",
            "train",
            "--subsets",
            "every",
            "--device",
            "cpu",
        ]
    )
    record = json.loads((checkpoint / "results-train.json").read_text(encoding="utf-8"))
    assert "results-train.json" in capsys.readouterr().out
    assert {
        "model",
        "data",
        "split",
        "seed",
        "versions",
        "split_manifest",
        "max_samples",
        "window_hop",
        "load_in_4bit",
        "commit",
        "device",
        "processes",
        "seconds",
        "config",
        "subsets",
    } == set(record)
    assert list(record["subsets"]) == NAMES
    for name, subset in record["subsets"].items():
        assert subset["left_out"] == (name == "text")  # row c3 has no words
        predictions = [p for task in subset["tasks"].values() for p in task["predictions"]]
        assert {p["id"] for p in predictions} == {f"c{i}" for i in range(6)} - ({"c3"} if name == "text" else set())
        for task, part in subset["tasks"].items():
            assert part["rows"] == len(part["predictions"])
            for prediction in part["predictions"]:
                assert prediction["task"] == task
                assert set(prediction["modalities"]) <= set(name.split("+"))
                assert sum(prediction["probabilities"].values()) == pytest.approx(1, abs=1e-5)
                assert set(prediction["gate"]) == set(prediction["experts"]) == {"local", "semantic", "global"}
                assert "truth" in prediction


def test_metrics_can_be_made_again_from_the_predictions(checkpoint, corpus, make_processor):
    main(["--model_name_or_path", str(checkpoint), "--dataset", str(corpus), "--split", "train", "--device", "cpu"])
    record = json.loads((checkpoint / "results-train.json").read_text(encoding="utf-8"))
    assert list(record["subsets"]) == NAMES[-1:]
    for name, part in record["subsets"]["text+audio+video"]["tasks"].items():
        task = make_processor().task_objects[name]
        keys = list(task.labels) if task.kind == "classification" else task.answers
        probabilities = np.array([[p["probabilities"][key] for key in keys] for p in part["predictions"]])
        truth = np.array([task.index(p["truth"]) for p in part["predictions"]])
        for metric, value in task_metrics(task, probabilities, truth).items():
            assert part["metrics"][metric] == (None if np.isnan(value) else pytest.approx(value, abs=1e-5)), metric


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_batch_size_does_not_matter(make_model, make_processor, corpus, batch_size):
    model, processor = make_model("waveform", "frames", lora=None), make_processor("waveform", "frames")
    rows = EGMFDataset(load_examples(corpus, "train"), processor, cache_media=True)

    def probabilities(size):
        found = evaluate(model, processor, rows, SUBSETS[-1:], size)[subset_name(SUBSETS[-1])]["tasks"]
        return {p["id"]: list(p["probabilities"].values()) for part in found.values() for p in part["predictions"]}

    found, expected = probabilities(batch_size), probabilities(6)
    assert set(found) == set(expected)
    for name in expected:
        assert found[name] == pytest.approx(expected[name], abs=1e-5)


def test_subset_sees_nothing_else(make_model, make_processor, corpus):
    """Scoring the words alone is scoring rows that have only words."""
    model, processor = make_model("waveform", "frames", lora=None), make_processor("waveform", "frames")
    rows = [row for row in load_examples(corpus, "train") if row.get("text")]
    bare = [{name: value for name, value in row.items() if name != "video"} for row in rows]

    def predictions(given):
        dataset = EGMFDataset(given, processor, cache_media=True)
        found = evaluate(model, processor, dataset, [("text",)])["text"]["tasks"]
        return {p["id"]: p["probabilities"] for part in found.values() for p in part["predictions"]}

    words, expected = predictions(rows), predictions(bare)
    assert set(words) == {row["id"] for row in rows}
    for name in expected:
        assert words[name] == pytest.approx(expected[name], abs=1e-6)


def test_subset_that_no_row_has(make_model, make_processor, corpus):
    model, processor = make_model("waveform", "frames", lora=None), make_processor("waveform", "frames")
    rows = [row for row in load_examples(corpus, "train") if not row.get("text")]
    found = evaluate(model, processor, EGMFDataset(rows, processor), [("text",)])
    assert found == {"text": {"left_out": 1, "tasks": {}}}


def test_own_output_and_row_limit(checkpoint, corpus, tmp_path):
    output = tmp_path / "deep/results.json"
    argv = [
        "--model_name_or_path",
        str(checkpoint),
        "--dataset",
        str(corpus),
        "--split",
        "test",
        "--output",
        str(output),
    ]
    main([*argv, "--max_samples", "1", "--seed", "5", "--device", "cpu"])
    record = json.loads(output.read_text(encoding="utf-8"))
    assert record["seed"] == 5
    assert [part["rows"] for part in record["subsets"]["text+audio+video"]["tasks"].values()] == [1]
    assert not (checkpoint / "results-test.json").exists()


def test_results_are_not_overwritten(checkpoint, corpus, capsys):
    path = checkpoint / "results-test.json"
    path.write_text("precious")
    argv = [
        "--model_name_or_path",
        str(checkpoint),
        "--dataset",
        str(corpus),
        "--subsets",
        "text",
        "--max_samples",
        "1",
    ]
    with pytest.raises(SystemExit) as caught:
        main([*argv, "--device", "cpu"])
    assert caught.value.code == 2
    assert "results-test.json is there already" in capsys.readouterr().err
    assert path.read_text() == "precious"
    main([*argv, "--device", "cpu", "--overwrite"])
    assert list(json.loads(path.read_text(encoding="utf-8"))["subsets"]) == ["text"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["all"], NAMES[-1:]),
        (["every"], NAMES),
        (["text+audio+video", "text"], ["text", "text+audio+video"]),
        (["audio+video", "video", "video"], ["video", "audio+video"]),
        (["every", "text"], NAMES),
    ],
)
def test_subsets_are_named(names, expected):
    assert [subset_name(subset) for subset in parse_subsets(names)] == expected


@pytest.mark.parametrize("name", ["smell", "audio+text", "text,audio", ""])
def test_unknown_subset_is_refused(name):
    with pytest.raises(ValueError, match=r"Unknown subset .*use any of all, every, text, .*text\+audio\+video"):
        parse_subsets(["text", name])


def test_split_that_is_not_there(checkpoint, corpus):
    with pytest.raises(SystemExit, match="error: .*no rows of split 'dev'"):
        main(["--model_name_or_path", str(checkpoint), "--dataset", str(corpus), "--split", "dev", "--device", "cpu"])


@pytest.mark.parametrize("option", ["--max_samples", "--batch_size"])
@pytest.mark.parametrize("number", ["0", "-1"])
def test_numbers_below_one_are_refused(checkpoint, corpus, option, number, capsys):
    with pytest.raises(SystemExit):
        main(["--model_name_or_path", str(checkpoint), "--dataset", str(corpus), "--device", "cpu", option, number])
    assert f"{option} is {number}; it must be at least 1" in capsys.readouterr().err


def test_hop_that_cannot_be_is_refused(checkpoint, corpus):
    words = [
        "--model_name_or_path",
        str(checkpoint),
        "--dataset",
        str(corpus),
        "--device",
        "cpu",
        "--window_hop",
        "99",
    ]
    with pytest.raises(SystemExit, match=r"error: `window_hop` is 99 s; it must lie above 0 and up to"):
        main(words)


def test_output_that_cannot_be_written_is_refused_first(checkpoint, corpus):
    words = ["--model_name_or_path", "absent", "--dataset", str(corpus), "--device", "cpu"]
    with pytest.raises(SystemExit, match=r"error: Nothing can be written into .*metadata.jsonl \(Not a directory\)"):
        main([*words, "--output", str(corpus / "metadata.jsonl/results.json")])


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("runs/nope", "There is no folder runs/nope, and the Hub gave no such model"),
        ("/no/such/run", "no id of the Hub"),
    ],
)
def test_checkpoint_that_is_not_there(corpus, model, message, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    asked = [
        "--dataset",
        str(corpus),
        "--split",
        "train",
        "--device",
        "cpu",
        "--output",
        str(tmp_path / "results.json"),
    ]
    with pytest.raises(SystemExit, match=f"error: .*{message}"):
        main(["--model_name_or_path", model, *asked])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model_name_or_path", "org/model"], "org/model is no folder here; give --output"),
        (["--model_name_or_path", ".", "--output", "."], "is a folder; give the name of a file"),
    ],
)
def test_results_need_a_file_to_lie_in(options, message, corpus, capsys):
    with pytest.raises(SystemExit):
        main([*options, "--dataset", str(corpus), "--split", "train"])
    assert message in capsys.readouterr().err


def test_run_trained_on_other_splits_is_warned_of(tmp_path, capsys):
    write_json(tmp_path / "training.json", {"data_arguments": {"split_manifest": "video_disjoint"}})
    warn_of_other_splits(tmp_path, "video_disjoint")
    warn_of_other_splits(tmp_path / "elsewhere", "official")
    assert capsys.readouterr().err == ""
    warn_of_other_splits(tmp_path, "official")
    assert "trained on the splits 'video_disjoint' and is judged by 'official'" in capsys.readouterr().err
