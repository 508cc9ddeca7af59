"""The evaluation command: its results file, and refusals before any work."""

import json

import numpy as np
import pytest

from tests.helpers.corpus_files import write_corpus
from training.evaluation.metrics import task_metrics
from training.evaluation.run_records import warn_of_other_examples
from training.evaluation.subsets import ALL_MODALITIES, SUBSET_NAMES
from training.records import only_writer, write_json
from training.run_eval import main


pytestmark = pytest.mark.integration
KEYS = {
    "model", "dataset", "split", "seed", "versions", "split_manifest", "max_samples", "window_hop", "load_in_4bit",
    "commit", "experts", "tasks", "device", "processes", "seconds", "config", "modalities", "subsets",
    "peak_gib", "task_map", "weights", "speaker_normalization", "only_tasks", "where",
}  # fmt: skip


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus") / "tiny")


@pytest.fixture(scope="module")
def checkpoint(make_model, make_processor, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    make_model("waveform", "frames", lora=None).save_pretrained(folder)
    make_processor("waveform", "frames").save_pretrained(folder)
    return folder


@pytest.fixture
def run_eval(checkpoint, corpus):
    """`run_eval(*options)`: evaluate the checkpoint on the corpus."""

    def run(*options, model=checkpoint):
        main(["--model_name_or_path", str(model), "--dataset", str(corpus), "--device", "cpu", *map(str, options)])

    return run


@pytest.fixture(scope="module")
def results(checkpoint, corpus, tmp_path_factory):
    """Results on the split train for every subset."""
    output = tmp_path_factory.mktemp("results") / "deep/results.json"
    argv = ["--model_name_or_path", checkpoint, "--dataset", corpus, "--split", "train", "--output", output]
    main([*map(str, argv), "--subsets", "every", "--device", "cpu", "--seed", "5"])
    return json.loads(output.read_text(encoding="utf-8"))


def test_results_hold_all_subsets_and_every_prediction(results, checkpoint, corpus):
    assert set(results) == KEYS
    assert results["seed"] == 5
    assert list(results["subsets"]) == SUBSET_NAMES
    for name, subset in results["subsets"].items():
        assert subset["left_out"] == (name == "text")  # example c3 has no transcript
        predictions = [p for task in subset["tasks"].values() for p in task["predictions"]]
        assert {p["id"] for p in predictions} == {f"c{i}" for i in range(6)} - ({"c3"} if name == "text" else set())
        for task, part in subset["tasks"].items():
            assert part["examples"] == len(part["predictions"])
            for prediction in part["predictions"]:
                assert prediction["task"] == task
                assert set(prediction["modalities"]) <= set(name.split("+"))
                assert sum(prediction["probabilities"].values()) == pytest.approx(1, abs=1e-5)
                assert set(prediction["gate"]) == set(prediction["experts"]) == {"local", "semantic", "global"}
                assert "truth" in prediction
                for path in prediction.get("media", {}).values():  # relative: no path of a machine
                    assert (corpus / path).is_file()
                    assert not path.startswith("/")
            assert set(part["calibration"]) == {"before"}  # the checkpoint has no temperatures
    assert sum("media" in prediction for prediction in predictions) > 0
    assert not (checkpoint / "results-train.json").exists()  # another output was given


def test_only_the_examples_of_some_tasks_are_evaluated(run_eval, results, tmp_path):
    output = tmp_path / "results.json"
    options = ("--split", "train", "--output", output, "--only_tasks")
    run_eval(*options, "sentiment")
    found = json.loads(output.read_text(encoding="utf-8"))
    assert found["only_tasks"] == ["sentiment"]
    assert set(found["subsets"][ALL_MODALITIES]["tasks"]) == {"sentiment"}
    every = results["subsets"][ALL_MODALITIES]["tasks"]
    assert found["subsets"][ALL_MODALITIES]["tasks"]["sentiment"]["examples"] == every["sentiment"]["examples"]
    with pytest.raises(SystemExit, match="No example has a task of --only_tasks happiness"):
        run_eval(*options, "happiness", "--overwrite")
    with pytest.raises(SystemExit, match="--only_tasks needs all examples at once. Leave out --streaming"):
        run_eval(*options, "sentiment", "--overwrite", "--streaming")


def test_only_the_examples_with_some_values_are_evaluated(run_eval, results, tmp_path):
    output = tmp_path / "results.json"
    options = ("--split", "train", "--output", output, "--where")
    run_eval(*options, "id=c0", "id=c2")
    found = json.loads(output.read_text(encoding="utf-8"))
    assert found["where"] == ["id=c0", "id=c2"]
    (task,) = found["subsets"][ALL_MODALITIES]["tasks"].values()
    every = results["subsets"][ALL_MODALITIES]["tasks"]["emotion"]["predictions"]
    expected = {p["id"]: p["probabilities"] for p in every if p["id"] in ("c0", "c2")}
    assert {p["id"]: p["probabilities"] for p in task["predictions"]} == {
        name: pytest.approx(probabilities, abs=1e-5) for name, probabilities in expected.items()
    }
    with pytest.raises(SystemExit, match="--where language=es: no example of split 'train' has it"):
        run_eval(*options, "language=es", "--overwrite")
    with pytest.raises(SystemExit, match="--where needs all examples at once. Leave out --streaming"):
        run_eval(*options, "id=c0", "--overwrite", "--streaming")


def test_a_model_without_video_has_no_subsets_with_video(make_model, make_processor, corpus, tmp_path, capsys):
    make_model("waveform", None, lora=None).save_pretrained(tmp_path)
    make_processor("waveform", None).save_pretrained(tmp_path)
    argv = ["--model_name_or_path", str(tmp_path), "--dataset", str(corpus), "--device", "cpu", "--split", "train"]
    main([*argv, "--subsets", "every", "--batch_size", "6"])
    results = json.loads((tmp_path / "results-train.json").read_text(encoding="utf-8"))
    assert results["modalities"] == ["text", "audio"]
    assert list(results["subsets"]) == ["text", "audio", "text+audio"]
    printed = [line.split()[0] for line in capsys.readouterr().out.splitlines() if " n=" in line]
    assert set(printed) == {"text", "audio", "text+audio"}
    with pytest.raises(SystemExit, match=r"--subsets text\+video: the model was built or trained without video"):
        main([*argv, "--subsets", "text+video", "--overwrite"])


def test_metrics_can_be_recomputed_from_the_predictions(results, make_processor):
    for name, part in results["subsets"][ALL_MODALITIES]["tasks"].items():
        task = make_processor().task_objects[name]
        keys = list(task.labels) if task.kind == "classification" else task.answers
        probabilities = np.array([[p["probabilities"][key] for key in keys] for p in part["predictions"]])
        truth = np.array([task.index(p["truth"]) for p in part["predictions"]])
        metrics = task_metrics(task, probabilities, truth)
        assert set(part["metrics"]) == {*metrics, "confidence_intervals"}
        for metric, value in metrics.items():
            if not isinstance(value, dict):
                expected = None if np.isnan(value) else pytest.approx(value, abs=1e-5)
                assert part["metrics"][metric] == expected, metric


def test_two_evaluations_do_not_write_one_file(run_eval, checkpoint):
    with only_writer(checkpoint / "results-test.json", "evaluation"):
        with pytest.raises(SystemExit, match=r"Another evaluation is writing to .*results-test.json"):
            run_eval("--subsets", "text", "--max_samples", "1")
    assert not (checkpoint / "results-test.json").exists()


def test_results_are_not_overwritten(run_eval, checkpoint, capsys):
    path = checkpoint / "results-test.json"
    path.write_text("precious")
    options = ["--subsets", "text", "--max_samples", "1"]
    with pytest.raises(SystemExit, match=r"error: .*results-test.json already exists"):
        run_eval(*options)
    assert path.read_text() == "precious"
    run_eval(*options, "--overwrite")
    assert "results-test.json" in capsys.readouterr().out
    subsets = json.loads(path.read_text(encoding="utf-8"))["subsets"]
    assert list(subsets) == ["text"]
    assert [part["examples"] for part in subsets["text"]["tasks"].values()] == [1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--split", "dev"], "no .* split 'dev'"),
        (["--max_samples", "0"], "--max_samples is 0; it must be at least 1"),
        (["--batch_size", "-1"], "--batch_size is -1; it must be at least 1"),
        (["--window_hop", "99"], "--window_hop is 99 s; it must"),
        (["--output", "."], "is a folder or a device. Give --output the name of a file"),
    ],
)
def test_impossible_options_are_refused(run_eval, tmp_path, options, message):
    output = [] if "--output" in options else ["--output", tmp_path / "results.json"]
    with pytest.raises(SystemExit, match=f"error: .*{message}"):
        run_eval(*options, *output)


def test_unwritable_output_is_refused_before_any_work(run_eval, corpus):
    with pytest.raises(SystemExit, match=r"error: .*metadata.jsonl is not writable \(Not a directory\)"):
        run_eval("--output", corpus / "metadata.jsonl/results.json", model="absent")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("runs/nope", "There is no folder runs/nope, and (the Hub|it is not)"),
        ("/no/such/run", "There is no folder /no/such/run"),
    ],
)
def test_checkpoint_that_does_not_exist(run_eval, model, message, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(SystemExit, match=f"error: .*{message}"):
        run_eval("--split", "train", "--output", tmp_path / "results.json", model=model)


def test_hub_model_needs_an_output(run_eval):
    with pytest.raises(SystemExit, match="There is no folder org/model. Check the path; for .* the Hub give --output"):
        run_eval(model="org/model")


def test_warns_about_a_run_trained_on_other_splits(tmp_path, caplog):
    write_json(tmp_path / "training.json", {"data_arguments": {"split_manifest": "video_disjoint"}})
    warn_of_other_examples(tmp_path, "video_disjoint", None)
    warn_of_other_examples(tmp_path / "elsewhere", "official", None)
    assert caplog.text == ""
    warn_of_other_examples(tmp_path, "official", None)
    assert "trained on the splits 'video_disjoint' and is evaluated on 'official'" in caplog.text


def test_warns_about_a_run_trained_on_some_values_only(tmp_path, caplog):
    write_json(tmp_path / "training.json", {"data_arguments": {"where": ["language=es", "speaker=Ann Lee"]}})
    warn_of_other_examples(tmp_path, "official", ["language=en"])
    assert caplog.text == ""
    warn_of_other_examples(tmp_path, "official", None)
    assert (
        "only, and is evaluated on all. For the same ones, give --where language=es 'speaker=Ann Lee'" in caplog.text
    )
