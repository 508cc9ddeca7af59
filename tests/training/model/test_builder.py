"""Options of the model as fields of its configuration, and of its tasks."""

import pytest

from processing_egmf import BUILT_IN_TASKS
from training.arguments import ModelArguments
from training.model.builder import load, make_task_slots, read_experts, with_prompt_format


def test_experts_from_the_command_line():
    names = ["local", "wide:3.4:mixture:learned"]
    assert read_experts(names) == [
        {"name": "local", "bottleneck_ratio": 8, "activation": "mish"},
        {"name": "wide", "bottleneck_ratio": 3.4, "activation": "mixture", "learned_width": True},
    ]
    for wrong in ("locl", "a:b:gelu", "a:2:gelu:learnt"):
        with pytest.raises(ValueError, match=r"--experts .*give one of local, semantic, global"):
            read_experts([wrong])


def test_prompt_format_holds_for_all_tasks():
    tasks = with_prompt_format(BUILT_IN_TASKS, "chat")
    assert list(tasks) == list(BUILT_IN_TASKS)
    assert {task.prompt_format for task in tasks.values()} == {"chat"}
    assert with_prompt_format(tasks, None) == tasks
    with pytest.raises(ValueError, match="`prompt_format` is 'jinja'; use one of 'plain', 'chat'"):
        with_prompt_format(BUILT_IN_TASKS, "jinja")


def test_tasks_take_turns_with_the_slots():
    options = {"num_pseudo_tokens": 5, "pseudo_token_projection": "per_task"}
    arguments = ModelArguments(**options)
    assert make_task_slots(arguments, ["emotion", "sentiment"]) == {"emotion": [0, 2, 4], "sentiment": [1, 3]}
    assert make_task_slots(arguments, ["emotion"]) == {"emotion": [0, 1, 2, 3, 4]}
    with pytest.raises(ValueError, match="--num_pseudo_tokens 5 is less than the 6 tasks"):
        make_task_slots(arguments, BUILT_IN_TASKS)
    others = ModelArguments(**{**options, "pseudo_token_projection": "separate"})
    assert make_task_slots(others, ["emotion"]) is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "is not a JSON file"),
        (b"\xff", "is not a JSON file"),
    ],
    ids=["nested", "long", "binary"],
)
def test_a_configuration_that_cannot_be_read_is_named(tmp_path, content, message):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=f"{tmp_path}/config.json .*{message}"):
        load(tmp_path)
