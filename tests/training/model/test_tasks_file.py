"""Tasks from a YAML file, and ids of language models in checkpoints."""

import pytest

from training.model.language_model import absolute_id
from training.model.tasks_file import read_tasks


def test_custom_tasks_are_added_to_the_built_in_ones(tmp_path):
    path = tmp_path / "tasks.yaml"
    path.write_text('mood:\n  kind: classification\n  labels: {up: good, down: bad}\n  prompt: "\\nIt is"\n')
    tasks = read_tasks(path)
    assert tasks["mood"].answers == ["good", "bad"]
    assert next(iter(tasks)) == "emotion"
    assert set(read_tasks(None)) == set(tasks) - {"mood"}


@pytest.mark.parametrize(
    "text", ["mood:\n", "- mood\n", "mood: 3\n", "mood: {kind: classification, lables: {}}\n", "word\n"]
)
def test_bad_tasks_file_is_a_value_error(tmp_path, text):
    path = tmp_path / "tasks.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match="tasks.yaml|mood"):
        read_tasks(path)


def test_a_task_that_is_given_twice_is_refused(tmp_path):
    path = tmp_path / "tasks.yaml"
    mood = "mood: {kind: classification, labels: [up, down], prompt: It is}\n"
    path.write_text(mood + mood.replace("up", "high"))
    with pytest.raises(ValueError, match="tasks.yaml cannot be read as YAML: the key 'mood' appears twice"):
        read_tasks(path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("low: small", "'mood': low is 'small'; give a number"),
        ("step: [0.1]", r"'mood': step is \[0.1\]; give a number"),
        ("high: yes", "'mood': high is True; give a number"),
        ("prompt: 3", "'mood': prompt is 3; give text, in quotes"),
        ("separator: null", "'mood': separator is None; give text, in quotes"),
        ("labels: good", "'mood': labels and their words must be strings, as a list of labels or of"),
        ("labels: {up: 1, down: 2}", "'mood': labels and their words must be strings"),
        ("labels: 7", "'mood': labels and their words must be strings"),
    ],
)
def test_wrong_types_in_a_tasks_file_are_named(tmp_path, fields, message):
    path = tmp_path / "tasks.yaml"
    kind = "classification" if fields.startswith("labels") else "regression"
    path.write_text(f"mood:\n  kind: {kind}\n  {fields}\n")
    with pytest.raises(ValueError, match=message):
        read_tasks(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"mood: {kind: regression, low: " + b"9" * 5000 + b"}", "cannot be read as YAML"),
        (b"mood: " + b"[" * 1000, "nested too deeply|cannot be read as YAML"),
        (b"mood: \xff\xfe", "cannot be read as YAML"),
        (b"mood: {kind: classification, labels: [a, a]}", "more than once"),
    ],
)
def test_a_damaged_tasks_file_is_named(tmp_path, content, message):
    path = tmp_path / "tasks.yaml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"--tasks_file .*tasks.yaml.*({message})") as caught:
        read_tasks(path)
    assert len(str(caught.value)) < 1000


def test_local_model_becomes_an_absolute_path(tmp_path, monkeypatch):
    (tmp_path / "llm").mkdir()
    monkeypatch.chdir(tmp_path)
    assert absolute_id("llm") == str(tmp_path / "llm")
    assert absolute_id("org/model") == "org/model"
