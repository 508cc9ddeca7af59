"""Selection of a run's examples: tasks in use, modalities of the encoders, examples without any modality."""

import pytest

from processing_egmf import MODALITIES
from training.data.dataset import EGMFDataset
from training.data.selection import check_encoder_inputs, remove_unusable, select_examples, used_tasks


def test_used_tasks_keep_their_order():
    tasks = {"a": 1, "b": 2, "c": 3}
    assert list(used_tasks(tasks, [{"task": "c"}, {"task": "b"}])) == ["b", "c"]
    assert list(used_tasks(tasks, [{"task": "c"}, {}])) == ["a", "c"]


def test_tasks_are_selected_before_samples_are_counted():
    examples = [
        {"id": "a", "task": "x"},
        {"id": "b"},
        {"id": "c", "task": "y"},
        {"id": "d", "task": "y"},
    ]
    assert [e["id"] for e in select_examples(examples, ["y"], 1, "x")] == ["c"]
    assert [e["id"] for e in select_examples(examples, ["x"], None, "x")] == ["a", "b"]
    with pytest.raises(ValueError, match="No example has a task of --only_tasks z"):
        select_examples(examples, ["z"], None, "x")


def test_modality_that_no_example_has_gets_a_warning(make_processor, caplog):
    examples = [{"id": "a", "text": "Hello."}, {"id": "b", "audio": "b.wav"}]
    processor = make_processor("waveform", "frames")
    check_encoder_inputs(examples, processor, MODALITIES, show=True)
    assert caplog.messages == ["no training example has video: its encoder will not be trained."]
    caplog.clear()
    check_encoder_inputs(examples, processor, ("text", "audio"), show=True)
    check_encoder_inputs(examples, processor, MODALITIES, show=False)
    assert not caplog.messages


def test_media_of_another_input_type_are_refused(make_processor):
    examples = [{"id": "a", "video": "a.mp4"}]
    with pytest.raises(ValueError, match="--video features, but the training examples have video only as frames"):
        check_encoder_inputs(examples, make_processor("waveform", "features"), MODALITIES, show=True)


def test_long_lists_of_unusable_examples_are_truncated(make_processor, capsys):
    examples = [{"id": str(i), "text": "a" if i == 0 else " ", "answer": "joy"} for i in range(30)]
    dataset = EGMFDataset(examples, make_processor())
    remove_unusable(dataset, "train", show=True)
    assert [example["id"] for example in dataset.examples] == ["0"]
    output = capsys.readouterr().out
    assert output.startswith("Split 'train': left out 29 of 30 examples without text, audio, video: 1, 2, 3,")
    assert output.endswith("19, 20, ....\n")
