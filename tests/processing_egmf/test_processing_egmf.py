"""The processor's settings and tasks, and saving and loading it."""

import pytest

from processing_egmf import BUILT_IN_TASKS, EGMFProcessor
from tests.helpers.processor_outputs import assert_same, assert_same_media, reloaded


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"audio_frontend": {"sampling_rate": 16_000}}, "neither 'feature_extractor_type' nor 'audio_processor_type'"),
        (
            {"audio_frontend": {"feature_extractor_type": "AutoModel"}},
            "not a feature extractor",
        ),
        (
            {"video_frontend": {"image_processor_type": "Nothing"}},
            "not a feature extractor or image processor",
        ),
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


def test_unknown_task_object_is_refused(features, two_label_task):
    with pytest.raises(ValueError, match=r"Task 'mood' does not belong to this processor; call `add_task`"):
        features(text="a", task=two_label_task)


def test_round_trip_keeps_tasks_and_settings(make_processor, two_label_task, tmp_path, clips):
    processor = make_processor("waveform", "frames", max_length=99, transcript_in_prompt=False, max_clip_seconds=3.0)
    processor.add_task(two_label_task)
    again = reloaded(processor, tmp_path)
    assert again.tasks == processor.tasks
    assert again.task_objects == processor.task_objects
    for name in (
        "num_pseudo_tokens",
        "max_length",
        "transcript_in_prompt",
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


def test_add_task_replaces(make_processor, two_label_task):
    features = make_processor()
    features.add_task(two_label_task)
    before = features.answer_token_ids("mood")
    features.add_task(
        {
            "name": "mood",
            "kind": "classification",
            "labels": ["up", "down"],
            "prompt": "\nIt is",
        }
    )
    assert features.answer_token_ids("mood") != before
    assert features.task_objects["mood"].labels == {"up": "up", "down": "down"}
    assert features.tasks[-1]["labels"] == [["up", "up"], ["down", "down"]]
    assert [task["name"] for task in features.tasks] == [*BUILT_IN_TASKS, "mood"]


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
