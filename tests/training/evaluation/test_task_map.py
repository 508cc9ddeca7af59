"""Task maps: what they change, and what they refuse."""

import json

import pytest

from processing_egmf import BUILT_IN_TASKS
from training.evaluation.task_map import apply_task_map, describe_task_map, read_task_map


TASKS = {name: BUILT_IN_TASKS[name] for name in ("emotion", "mosei")}
MAP = """
cherma:
  task: emotion
  labels: {高兴: joy, 悲伤: sadness, 其他: null}
sims_v2: {task: mosei, scale: 3}
noise: null
"""
EXAMPLES = [
    {"id": "a", "task": "cherma", "answer": "高兴"},
    {"id": "b", "task": "cherma", "answer": "其他"},
    {"id": "c", "task": "sims_v2", "answer": -0.4},
    {"id": "d", "task": "cherma", "answer": "anger"},  # has the model's own label
    {"id": "e", "task": "noise", "answer": "x"},
    {"id": "f", "task": "emotion", "answer": "fear"},  # is one of the model's tasks
]


@pytest.fixture
def task_map(tmp_path):
    path = tmp_path / "map.yaml"
    path.write_text(MAP, encoding="utf-8")
    return read_task_map(path)


def test_tasks_labels_and_scores_are_mapped(task_map, caplog):
    mapped = apply_task_map(EXAMPLES, task_map, TASKS)
    assert [(example["id"], example["task"], example["answer"]) for example in mapped] == [
        ("a", "emotion", "joy"),
        ("c", "mosei", pytest.approx(-1.2)),
        ("d", "emotion", "anger"),
        ("f", "emotion", "fear"),
    ]
    assert "leaves out 2 of 6 examples: 其他 (1), all of noise (1)." in caplog.text
    assert EXAMPLES[0]["answer"] == "高兴"
    inline = json.dumps({"cherma": {"task": "emotion", "labels": {"高兴": "joy"}}})
    assert read_task_map(inline)["cherma"].labels == {"高兴": "joy"}
    assert read_task_map(json.dumps(describe_task_map(task_map))) == task_map
    assert read_task_map(None) == {}


def test_examples_without_a_task_have_the_only_one():
    task_map = read_task_map('{"mood": {"task": "emotion", "labels": {"happy": "joy"}}}')
    (mapped,) = apply_task_map([{"id": "a", "answer": "happy"}], task_map, TASKS)
    assert (mapped["task"], mapped["answer"]) == ("emotion", "joy")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is neither a readable YAML file nor a JSON object"),
        ("no such file", "is neither a readable YAML file nor a JSON object"),
        ('{"a": "emotion"}', "must hold a block for each task of the corpus"),
        ('{"a": {"tsk": "emotion"}}', r"a has no field 'tsk'. Did you mean task\?"),
        ('{"a": {"labels": {}}}', "a needs `task`"),
        ('{"a": {"task": "emotion", "labels": ["joy"]}}', "`labels` of a must map labels"),
        ('{"a": {"task": "mosei", "scale": 0}}', "`scale` of a is 0"),
        ('{"a": {"task": "mosei", "scale": NaN}}', "`scale` of a is nan"),
        ('{"a": {"task": "mosei", "scale": Infinity}}', "`scale` of a is inf"),
        ('{"a": null, "a": {"task": "emotion"}}', "the key 'a' appears twice"),
        ('{"a": ' * 20_000, "is neither a readable YAML file nor a JSON object"),
    ],
)
def test_maps_that_cannot_be_read(text, message):
    with pytest.raises(ValueError, match=message):
        read_task_map(text)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"task": "emotoin"}, r"the model has no task 'emotoin' for cherma. Did you mean emotion\?"),
        ({"task": "mosei", "labels": {"高兴": "1"}}, "mosei has scores, so cherma takes `scale`"),
        ({"task": "emotion", "scale": 2}, "emotion has labels, so cherma takes `labels`"),
        ({"task": "emotion", "labels": {"高兴": "joyy"}}, r"emotion has no label 'joyy'. Did you mean joy\?"),
        (
            {"task": "emotion", "labels": {"高兴": "joy"}},
            r"cherma has labels without a counterpart in emotion: 其他 \(1 examples\). Map each to one of neutral",
        ),
        ({"task": "mosei"}, "cherma has labels without a counterpart in mosei: 高兴"),
    ],
)
def test_maps_that_do_not_fit(entry, message):
    task_map = read_task_map(json.dumps({"cherma": entry}))
    with pytest.raises(ValueError, match=message):
        apply_task_map(EXAMPLES, task_map, TASKS)


def test_maps_without_examples(task_map):
    with pytest.raises(ValueError, match="--task_map names noise, which is the task of no example"):
        apply_task_map([example for example in EXAMPLES if example["task"] != "noise"], task_map, TASKS)
    nothing = read_task_map('{"noise": null}')
    with pytest.raises(ValueError, match="--task_map leaves out every example"):
        apply_task_map(EXAMPLES[4:5], nothing, TASKS)


@pytest.mark.parametrize("answer", [None, [1.0], True, "nan", float("inf")])
def test_answers_that_are_no_scores_are_named(answer):
    task_map = read_task_map('{"sims_v2": {"task": "mosei", "scale": 3}}')
    examples = [{"id": "a", "task": "sims_v2", "answer": answer}]
    with pytest.raises(ValueError, match=r"sims_v2 has labels without a counterpart in mosei.*\(1 examples\)"):
        apply_task_map(examples, task_map, TASKS)


def test_labels_of_the_map_that_no_example_has_are_named(caplog):
    """`fear` is also a label of the model, which would have been used without a word."""
    task_map = read_task_map('{"mood": {"task": "emotion", "labels": {"faer": "anger", "happy": "joy"}}}')
    examples = [{"id": "a", "task": "mood", "answer": "happy"}, {"id": "b", "task": "mood", "answer": "fear"}]
    assert [example["answer"] for example in apply_task_map(examples, task_map, TASKS)] == ["joy", "fear"]
    assert "--task_map: no example of mood has these labels: faer. Did you mean fear?" in caplog.text
