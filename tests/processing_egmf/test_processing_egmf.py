"""The processor's settings and tasks, and saving and loading it."""

import dataclasses
import importlib.util
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import Wav2Vec2FeatureExtractor

from processing_egmf import BUILT_IN_TASKS, EGMFProcessor, EGMFTask, tasks_egmf
from tests.helpers.processor_outputs import assert_same, assert_same_media, reloaded


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"audio_input": "mel"}, "`audio_input` is 'mel'"),
        ({"video_input": "pixels"}, "`video_input` is 'pixels'"),
        ({"tasks": {}}, "`tasks` is empty"),
    ],
)
def test_processor_refuses_bad_settings(tiny_tokenizer, fields, message):
    with pytest.raises(ValueError, match=message):
        EGMFProcessor(tiny_tokenizer, **fields)


def test_fields_are_overridden_and_typos_refused_when_loading(make_processor, tmp_path):
    make_processor().save_pretrained(tmp_path)
    assert EGMFProcessor.from_pretrained(tmp_path, num_frames=7, local_files_only=True).num_frames == 7
    with pytest.raises(TypeError, match=r"unknown arguments \['num_frame'\].*Did you mean 'num_frames'"):
        EGMFProcessor.from_pretrained(tmp_path, num_frame=7)


def test_a_folder_without_a_processor_is_refused(tiny_tokenizer, tmp_path):
    """Its fields would be the defaults."""
    tiny_tokenizer.save_pretrained(tmp_path)
    with pytest.raises(OSError, match="has no processor_config.json with the fields of an EGMFProcessor"):
        EGMFProcessor.from_pretrained(tmp_path)


def test_task_under_another_name_is_refused(tiny_tokenizer):
    with pytest.raises(ValueError, match="Task 'emotion' is given under the name 'other'"):
        EGMFProcessor(tiny_tokenizer, tasks={"other": BUILT_IN_TASKS["emotion"]})


def test_round_trip_keeps_tasks_and_settings(make_processor, two_label_task, tmp_path, clips):
    settings = {"max_length": 99, "transcript_in_prompt": False, "max_clip_seconds": 3.0}
    processor = make_processor("waveform", "frames", task_slots={"mosei": (0, 1)}, **settings)
    processor.add_task(two_label_task)
    again = reloaded(processor, tmp_path)
    assert again.tasks == processor.tasks
    assert again.task_objects == processor.task_objects
    for name in (
        "num_pseudo_tokens",
        "max_length",
        "transcript_in_prompt",
        "task_slots",
        "num_frames",
        "max_clip_seconds",
        "placeholder_token_id",
        "sampling_rate",
    ):
        assert getattr(again, name) == getattr(processor, name)
    for task, answer in (("mood", "high"), ("mosei", 0.5)):
        call = {"text": "a", "video": clips["both"], "task": task, "answer": answer}
        found = again(**call)
        expected = processor(**call)
        assert_same_media(found, expected)
        assert found["labels"].tolist() == expected["labels"].tolist()
        assert found["input_ids"].tolist() == expected["input_ids"].tolist()
    assert len(again.tokenizer) == len(processor.tokenizer)


def test_round_trip_keeps_the_order_of_tasks_and_labels(features, tmp_path):
    again = reloaded(features, tmp_path)
    assert list(again.task_objects) == list(features.task_objects)  # the first is the default; task_ids count on it
    for name, task in features.task_objects.items():
        assert again.task_objects[name].answers == task.answers
    assert_same(again(text="a"), features(text="a"))


def test_tasks_of_every_kind_are_accepted(make_processor, two_label_task):
    """A task of this code, of another copy of it (as a checkpoint brings its own), and its fields."""
    spec = importlib.util.find_spec("processing_egmf.tasks_egmf")
    other_code = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(other_code)
    fields = dataclasses.asdict(two_label_task)
    foreign = other_code.EGMFTask(**fields)
    assert foreign != two_label_task
    expected = make_processor(tasks=[two_label_task])
    for task in (two_label_task, foreign, fields):
        assert make_processor(tasks=[task]).task_objects == expected.task_objects
        added = make_processor()
        added.add_task(task)
        assert [task["name"] for task in added.tasks] == [*BUILT_IN_TASKS, "mood"]
        given = make_processor()
        inputs = given(text="a", task=task)
        assert inputs.pop("task_ids") == -1
        expected_inputs = added(text="a", task="mood")
        assert expected_inputs.pop("task_ids") == len(BUILT_IN_TASKS)
        assert_same(inputs, expected_inputs)


def test_tasks_of_calls_are_forgotten_at_last(features, monkeypatch):
    monkeypatch.setattr(tasks_egmf, "MAX_CALL_TASKS", 3)
    numbers = []
    for name in ("a", "b", "c", "d", "d", "a"):
        task = EGMFTask(name, "classification", labels=["good", "bad"], prompt="\nThe mood is")
        numbers += features(text="a", task=task)["task_ids"].tolist()
    assert numbers == [-1, -2, -3, -4, -4, -5]
    assert sorted(number for number in features.numbered_tasks if number < 0) == [-5, -4, -3]
    assert set(features._answer_ids) <= {*features.task_objects, None}


def test_a_task_given_to_a_call_serves_that_call_only(make_processor, tmp_path):
    """It is neither kept nor saved, can be edited, and its answers are named after the call."""
    processor = make_processor()
    task = {"name": "mood", "kind": "classification", "labels": ["good", "bad"], "prompt": "\nThe mood is"}
    first = processor(text="a", task=task)
    task["labels"].append("so so")
    second = processor(text=["a", "a"], task=task)
    third = processor(text=["a"] * 2, task=[processor.tasks[1], task])
    assert [inputs["answer_ids"].shape[1] for inputs in (first, second)] == [2, 3]
    assert [inputs["task_ids"].tolist() for inputs in (first, second, third)] == [[-1], [-2, -2], [1, -2]]
    assert [task["name"] for task in processor.tasks] == list(BUILT_IN_TASKS)
    assert reloaded(processor, tmp_path).tasks == processor.tasks
    output = SimpleNamespace(
        probabilities=torch.full((2, 3), 1 / 3),
        log_probs=torch.full((2, 3), 1 / 3).log(),
        task_ids=second["task_ids"],
        expert_names=("local",),
        expert_weights=torch.ones(2, 1),
        residual_weight=torch.ones(2),
        modality_mask=torch.ones(2, 3),
    )
    answers = processor.post_process_answers(output)
    assert [set(answer["probabilities"]) for answer in answers] == [{"good", "bad", "so so"}] * 2
    ids = processor.tokenizer("so so", return_tensors="pt")["input_ids"]
    (parsed, _) = processor.post_process_generation(ids.repeat(2, 1), second)
    assert (parsed["answer"], parsed["task"]) == ("so so", "mood")
    with pytest.raises(ValueError, match=r"`task_ids` \[-2, -2\] are not all among the 6 tasks of this processor"):
        make_processor().post_process_answers(output)


def test_another_task_of_the_same_name_is_refused(make_processor, two_label_task):
    features = make_processor(tasks=[two_label_task])
    other = dataclasses.replace(two_label_task, prompt="\nIt is")
    with pytest.raises(ValueError, match="add_task: this processor has another task 'mood'. Give yours another name"):
        features.add_task(other)
    with pytest.raises(ValueError, match="x: this processor has another task 'mood'"):
        features(text="a", task=other, sample_names="x")
    with pytest.raises(ValueError, match="A task is a dict of fields .*, not 'mood'"):
        features.add_task("mood")
    assert features.task_objects == {"mood": two_label_task}


def test_tasks_with_one_name_are_refused(tiny_tokenizer, two_label_task):
    with pytest.raises(ValueError, match="Two tasks are called 'mood'; give each a unique name"):
        EGMFProcessor(tiny_tokenizer, tasks=[two_label_task, two_label_task])


def test_tasks_may_be_a_list(make_processor, two_label_task):
    by_name = make_processor(tasks={"mood": two_label_task, "mosei": BUILT_IN_TASKS["mosei"]})
    for tasks in ([two_label_task, BUILT_IN_TASKS["mosei"]], by_name.tasks):
        assert make_processor(tasks=tasks).task_objects == by_name.task_objects


def test_two_processors_do_not_share_tasks(make_processor, two_label_task):
    first = make_processor()
    second = make_processor()
    first.add_task(two_label_task)
    assert "mood" not in second.task_objects
    assert "mood" not in BUILT_IN_TASKS


def test_second_processor_around_the_same_tokenizer(features):
    again = EGMFProcessor(features.tokenizer)
    assert again.placeholder_token_id == features.placeholder_token_id


def test_printed_processor_is_short_and_the_saved_one_complete(make_processor, tmp_path):
    extractor = Wav2Vec2FeatureExtractor()
    tasks = [dataclasses.replace(BUILT_IN_TASKS["emotion"], name=f"a task with a long name {i}") for i in range(300)]
    processor = make_processor("waveform", None, feature_extractor=extractor, tasks=tasks)
    printed = repr(processor)
    assert len(printed) < 3000
    assert len(printed.splitlines()) < 60
    for part in (
        "EGMFProcessor(",
        "feature_extractor=Wav2Vec2FeatureExtractor",
        "a task with a long name 1",
        "max_length=512",
    ):
        assert part in printed
    assert reloaded(processor, tmp_path).task_objects == processor.task_objects


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ["reversed", "read-only", "mapped", "big-endian"])
def test_features_in_any_layout(make_processor, tmp_path, kind):
    processor = make_processor("features", None)
    features = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    expected = processor(audio_features=features)["audio_values"]
    if kind == "reversed":
        given = features[::-1].copy()[::-1]
    elif kind == "big-endian":
        given = features.astype(">f4")
    elif kind == "mapped":
        np.save(tmp_path / "features.npy", features)
        given = np.load(tmp_path / "features.npy", mmap_mode="r")
    else:
        given = features.copy()
        given.flags.writeable = False
    assert torch.equal(processor(audio_features=given)["audio_values"], expected)
