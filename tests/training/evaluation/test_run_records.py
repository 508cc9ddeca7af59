"""Records of a run that are damaged, or of another kind, version or checkpoint, are refused by the wrong entry."""

import copy
import json
import math

import pytest

from tests.helpers.run_files import write_run
from training.calibrate import main as calibrate
from training.demo.ceilings import all_ceilings
from training.demo.phrases import phrase_bank
from training.evaluation import calibration, gate_factors, report_sections
from training.evaluation.report import main as report
from training.evaluation.report_files import read_ceilings
from training.evaluation.run_records import read_results, read_training
from training.evaluation.seeds import summarize_runs
from training.experiments.gates import main as gates
from training.records import write_json


REMOVED = object()
VALUES = (REMOVED, None, "x", ["x"], {"x": 1})


def places(value, place=()):
    """Keys of the parts of a JSON value; of lists and of objects with many alike, those of the first entry."""
    yield place
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    alike = not isinstance(value, dict) or place[-1:] in (("subsets",), ("probabilities",), ("experts",), ("gate",))
    for key, entry in list(entries)[: 1 if alike else None]:
        yield from places(entry, (*place, key))


def with_value(value, place, new):
    value = copy.deepcopy(value)
    part = value
    for key in place[:-1]:
        part = part[key]
    if new is REMOVED:
        part.pop(place[-1])
    else:
        part[place[-1]] = new
    return value


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr(gate_factors, "PERMUTATIONS", 2)
    monkeypatch.setattr(calibration, "DRAWS", 2)
    monkeypatch.setattr(report_sections.importlib.util, "find_spec", lambda name: None)  # no pictures
    write_run(tmp_path, subsets=["text"])
    return tmp_path


@pytest.mark.parametrize("name", ["results-test.json", "training.json"])
def test_every_changed_entry_gives_a_report_or_one_line(run, name):
    """The message names the file; nothing ends in a traceback."""
    content = json.loads((run / name).read_text())
    messages = []
    changes = [(place, new) for place in places(content) if place for new in VALUES]
    for place, new in changes:
        write_json(run / name, with_value(content, place, new))
        try:
            report([str(run)])
        except SystemExit as error:
            messages.append(error.code)
    assert len(changes) > len(messages) > 50  # parts that no report needs may be missing
    assert [message for message in messages if not message.startswith(f"error: {run / name}")] == []
    assert [message for message in messages if "\n" in message] == []


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: "", "results-test.json is not a JSON file"),
        (lambda text: text[:1000], "results-test.json is not a JSON file"),
        (lambda text: "[1, 2]", r"its content is '\[1, 2\]'. It is not a results file of egmf evaluate"),
        (lambda text: "{}", "has no entry subsets"),
        (lambda text: '{"subsets": {}, "model": "a"}', "no subset of the modalities was evaluated"),
        (lambda text: text.replace('"text": {', '"smell": {', 1), "unknown subset of the modalities, 'smell'"),
        (lambda text: text.replace('"examples": 14', '"examples": 15', 1), "14 predictions of 15 examples"),
        (lambda text: text.replace('"emotion-3"', "3", 1), "predictions/3/id is '3'"),
        (lambda text: '{"seeds": [0, 1], "subsets": {}}', "figures of several runs"),
    ],
)
def test_other_files_than_results_are_named(run, damage, message):
    path = run / "results-test.json"
    path.write_text(damage(path.read_text()))
    for command in (report, gates):
        with pytest.raises(SystemExit, match=message):
            command([str(run)])
    assert not (run / "report.md").exists()


def change_of(task, **entries):
    """A change to the second prediction of a task."""

    def change(content):
        content["subsets"]["text"]["tasks"][task]["predictions"][1] |= entries

    return change


def repeat(content):
    predictions = content["subsets"]["text"]["tasks"]["emotion"]["predictions"]
    predictions[3] = predictions[2]


def sharpen(content):
    content["subsets"]["text"]["tasks"]["emotion"]["predictions"][1]["probabilities"]["joy"] += 0.5


def boast(content):
    content["subsets"]["text"]["tasks"]["emotion"]["metrics"]["accuracy"] = 1.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (repeat, "emotion, text: 2 predictions of 'emotion-2'"),
        (sharpen, "probabilities that do not add up to 1 of 'emotion-1'"),
        (boast, "the metrics have no accuracy, or one that cannot be"),
        (
            change_of("emotion", experts={"local": 2, "semantic": -1, "global": 0}),
            "an expert's weight that is not from",
        ),
        (change_of("emotion", score=math.nan), "predictions/1/score is 'nan'"),
        (change_of("emotion", experts={"local": 10**400, "semantic": 0, "global": 0}), "too large in the experts"),
        (change_of("emotion", modalities=["smell"]), r"the modalities \['smell'\] of 'emotion-1'"),
        (change_of("sentiment", truth=50), "the truth 50, which is outside of the scores"),
        (change_of("sentiment", truth=-3.07), "the truth -3.07, which is outside of the scores"),
        (change_of("sentiment", interval=[2, -2]), "an interval that ends before it starts"),
        (lambda content: content.update(model="a\ud800"), "holds half of a surrogate pair"),
    ],
)
def test_numbers_that_cannot_be_are_named(run, change, message):
    """A figure or a temperature made from them would look like any other."""
    path = run / "results-test.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(SystemExit, match=f"{path}.*{message}"):
        report([str(run)])


def test_a_true_score_half_a_step_outside_of_the_scale_is_reported(run):
    """As egmf evaluate and the corpora have them."""
    path = run / "results-test.json"
    content = json.loads(path.read_text())
    change_of("sentiment", truth=-3.04)(content)
    path.write_text(json.dumps(content))
    report([str(run)])


def test_results_of_another_split_do_not_calibrate(run):
    content = json.loads((run / "results-test.json").read_text())
    write_json(run / "results-validation.json", {**content, "split": "train"})
    write_json(run / "processor_config.json", {"tasks": []})
    with pytest.raises(
        SystemExit, match="results-validation.json has results of the split 'train', not of validation"
    ):
        calibrate([str(run)])


@pytest.mark.parametrize("arguments", [[], ["--split", "train"], ["--results"], ["--dataset", "moved/corpus"]])
def test_the_split_of_the_training_does_not_calibrate(run, arguments):
    training = json.loads((run / "training.json").read_text())
    training["data_arguments"] = {"dataset": "data/corpus", "train_split": "train", "eval_split": "train"}
    write_json(run / "training.json", training)
    write_json(run / "processor_config.json", {"tasks": []})
    content = json.loads((run / "results-test.json").read_text())
    path = write_json(run / "results-train.json", {**content, "split": "train", "dataset": "data/corpus"})
    arguments = [*arguments, str(path)] if arguments == ["--results"] else arguments
    with pytest.raises(SystemExit, match=r"was trained on the split 'train', on which .* Give --split, another one\."):
        calibrate([str(run), *arguments])


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999"])
def test_numbers_that_are_not_finite_are_named(run, number):
    path = run / "training.json"
    path.write_text(path.read_text().replace('"all": 600.0', f'"all": {number}'))
    with pytest.raises(
        SystemExit, match="training.json: seconds/all is '(nan|-?inf)'. It is not the record of a training"
    ):
        report([str(run)])


def test_ceilings_are_read_as_the_demo_corpus_writes_them(run):
    """They hold texts as well as figures."""
    ceilings = all_ceilings(phrase_bank(), {"test": [(score / 10, "x") for score in range(-30, 31)]})
    write_json(run / "ceilings.json", ceilings)
    assert read_ceilings(run / "ceilings.json") == ceilings
    ceilings["emotion"]["text"] = "0.7"
    write_json(run / "ceilings.json", ceilings)
    with pytest.raises(ValueError, match="emotion/text is '0.7'. It is not the ceilings.json of the demo corpus"):
        read_ceilings(run / "ceilings.json")


def test_ceilings_without_chance_are_named(run):
    texts = {"metric": "x", "split": "test", "note": "x"}
    write_json(run / "ceilings.json", {"emotion": {**texts, "text": 0.5}, "sentiment": {**texts, "text": None}})
    with pytest.raises(SystemExit, match="ceilings.json has no entry emotion/chance"):
        report([str(run)])


def test_results_of_another_checkpoint_are_refused(run):
    results = json.loads((run / "results-test.json").read_text())
    write_json(run / "results-test.json", {**results, "weights": "of another"})
    for command in (report, gates):
        with pytest.raises(SystemExit, match="results of another checkpoint.*its weights are others"):
            command([str(run)])
    assert read_results(run / "results-test.json")["weights"] == "of another"  # as a file on its own
    write_run(run, subsets=["text"])
    record = json.loads((run / "training.json").read_text())
    write_json(run / "training.json", {**record, "weights": "of another"})
    with pytest.raises(SystemExit, match="training.json is the record of another run"):
        report([str(run)])


def test_an_unfinished_record_of_training(tmp_path):
    assert read_training(tmp_path) == {}
    write_json(tmp_path / "training.json", {"epoch": 1.0, "log_history": []})  # of the library's trainer_state.json
    with pytest.raises(ValueError, match="training.json has no entry data_arguments"):
        read_training(tmp_path)
    text = '{"data_arguments": {"modalities": ["text"]}}'
    (tmp_path / "training.json").write_text(text, encoding="utf-8-sig")  # as some editors save it
    assert read_training(tmp_path)["data_arguments"] == {"modalities": ["text"]}
    write_json(tmp_path / "training.json", {"data_arguments": {"modalities": ["text"]}})
    assert read_training(tmp_path)["data_arguments"] == {"modalities": ["text"]}
    with pytest.raises(ValueError, match="training.json has no entry log_history"):
        read_training(tmp_path, for_report=True)
    write_json(tmp_path / "training.json", {"data_arguments": {"modalities": "text"}})
    with pytest.raises(ValueError, match="data_arguments/modalities is 'text'"):
        read_training(tmp_path)


def test_only_an_analysis_is_replaced_by_an_analysis(run):
    pytest.importorskip("matplotlib")
    before = (run / "results-test.json").read_text()
    for output, message in (("results-test.json", "does not hold an analysis of a gate"), (".", "is a folder")):
        with pytest.raises(SystemExit, match=message):
            gates([str(run), "--output", str(run / output)])
    assert (run / "results-test.json").read_text() == before


def test_runs_on_different_examples_are_not_averaged(run, tmp_path):
    first = json.loads((run / "results-test.json").read_text())
    second = copy.deepcopy(first)
    second["subsets"]["text"]["tasks"]["emotion"]["examples"] = 13
    assert summarize_runs([first, first])["text"]["emotion"]["examples"] == 14
    with pytest.raises(ValueError, match="evaluated on different examples"):
        summarize_runs([first, second])
