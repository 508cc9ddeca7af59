"""Selection of a run's examples: tasks in use, modalities of the encoders, examples without any modality."""

import numpy as np
import pytest

from processing_egmf import BUILT_IN_TASKS, MODALITIES, EGMFTask
from tests.helpers.media_files import gray_frames, sine, write_audio, write_video
from training.data.dataset import EGMFDataset
from training.data.selection import (
    check_encoder_inputs,
    remove_unusable,
    select_examples,
    select_values,
    used_tasks,
    warn_of_missing_labels,
    warn_of_shared_examples,
    warn_of_unread_modalities,
    with_values,
)


def test_used_tasks_keep_their_order():
    tasks = {"a": 1, "b": 2, "c": 3}
    assert list(used_tasks(tasks, [{"task": "c"}, {"task": "b"}])) == ["b", "c"]
    assert list(used_tasks(tasks, [{"task": "c"}, {}])) == ["a", "c"]


def test_a_forgotten_task_column_is_named():
    tasks = BUILT_IN_TASKS | {"mood": EGMFTask("mood", "classification", ["calm", "joy"], prompt="\nThe mood is")}
    examples = [{"id": "a", "answer": "calm"}, {"id": "b", "answer": "joy"}]
    assert list(used_tasks(tasks, examples[1:])) == ["emotion"]
    assert list(used_tasks(tasks, [{"task": "mood", **example} for example in examples])) == ["mood"]
    assert list(used_tasks(BUILT_IN_TASKS, examples)) == ["emotion"]  # EGMFDataset refuses the label
    message = (
        r"^1 of 2 answers, such as 'calm', are not labels of the task 'emotion'. No example has a `task`, so the task "
        "is 'emotion', the first of the built-in ones; --tasks_file defines mood. Add a column `task` with mood.$"
    )
    with pytest.raises(ValueError, match=message):
        used_tasks(tasks, examples)


@pytest.mark.parametrize(
    ("example", "messages"),
    [
        ({"text": "a"}, ["examples have no audio: audio is not read", "have no video"]),
        ({"audio_features": "a.npy", "video": "a.mp4"}, []),  # the soundtrack is audio
        (
            {"audio_features": "a.npy"},
            ["takes audio as waveform, but the examples have audio only as features", "no video"],
        ),
        (
            {"audio": "a.wav", "video_features": "a.npy"},
            ["takes video as frames, but the examples have video only as"],
        ),
    ],
)
def test_an_evaluation_without_a_modality_of_the_model_is_warned_of(make_processor, caplog, example, messages):
    processor = make_processor("waveform", "frames")
    warn_of_unread_modalities([example, {"text": "b"}], processor, show=False)
    assert not caplog.records
    warn_of_unread_modalities([example, {"text": "b"}], processor, show=True)
    assert len(caplog.records) == len(messages)
    for message, record in zip(messages, caplog.records, strict=True):
        assert message in record.getMessage()


def test_tasks_are_selected_before_samples_are_counted():
    examples = [
        {"id": "a", "task": "x"},
        {"id": "b"},
        {"id": "c", "task": "y"},
        {"id": "d", "task": "y"},
    ]
    assert len(select_examples(examples, ["y"], 1, "x")) == 1
    assert [e["id"] for e in select_examples(examples, ["y"], None, "x")] == ["c", "d"]
    assert [e["id"] for e in select_examples(examples, ["x"], None, "x")] == ["a", "b"]
    with pytest.raises(ValueError, match="No example has a task of --only_tasks z. Their tasks are "):
        select_examples(examples, ["z"], None, "x")


def test_examples_with_values_of_columns():
    examples = [
        {"id": "a", "task": "x", "extra": {"language": "en", "year": 1999}},
        {"id": "b", "task": "x", "extra": {"language": "zh", "year": 2000}},
        {"id": "c", "task": "y", "extra": {"language": "zh"}},
        {"id": "d", "task": "y"},
    ]

    def names(*conditions):
        return "".join(example["id"] for example in select_values(examples, conditions, "train"))

    assert select_values(examples, None, "train") == examples
    assert names("language=zh") == "bc"
    assert names("language=zh", "language=en") == "abc"
    assert names("language=zh", "task=x") == "b"
    assert names("year=2000") == "b"
    with pytest.raises(
        ValueError,
        match="--where language=es: no example of split 'train' has it. Values of the column language: en, zh",
    ):
        names("language=es")
    with pytest.raises(ValueError, match="--where accent=es: .* there is no such column"):
        names("accent=es")
    with pytest.raises(ValueError, match="--where language is not COLUMN=VALUE"):
        names("language")


def test_values_of_columns_over_all_splits():
    examples = [{"id": "a", "extra": {"language": "en"}}, {"id": "b", "extra": {"language": "zh"}}, {"id": "c"}]
    assert with_values(examples, None) == examples
    assert [example["id"] for example in with_values(examples, ["language=zh", "language=es"])] == ["b"]
    assert with_values(examples, ["language=es"]) == []


def test_modality_that_no_example_has_is_refused(make_processor):
    examples = [{"id": "a", "text": "Hello."}, {"id": "b", "audio": "b.wav"}]
    processor = make_processor("waveform", "frames")
    with pytest.raises(
        ValueError, match="No training example has video.*`video`.*--video none, or --modalities text audio"
    ):
        check_encoder_inputs(examples, processor, MODALITIES)
    check_encoder_inputs(examples, processor, ("text", "audio"))
    with pytest.raises(ValueError, match="No training example has text.*`text`.*--modalities audio video"):
        check_encoder_inputs([{"id": "a", "text": " "}], make_processor(None, None), MODALITIES)


def make_sorted_examples():
    """A table sorted by label, as many are: 60 of joy, 30 of fear, 10 of anger, and 40 scores."""
    labels = ["joy"] * 60 + ["fear"] * 30 + ["anger"] * 10
    examples = [{"id": f"{i}", "task": "emotion", "answer": label} for i, label in enumerate(labels)]
    return examples + [{"id": f"s{i}", "task": "mosei", "answer": f"{i / 40:.3f}"} for i in range(40)]


def test_sample_is_stratified_by_label():
    examples = make_sorted_examples()
    answers = [example["answer"] for example in select_examples(examples, ["emotion"], 10, "emotion")]
    assert answers == ["joy"] * 6 + ["fear"] * 3 + ["anger"]
    scores = [float(example["answer"]) for example in select_examples(examples, ["mosei"], 7, "emotion")]
    assert [int(7 * score / 0.976) for score in scores] == list(range(7))  # one from each bin
    sample = select_examples(examples, None, 14, "emotion")
    assert sample == select_examples(examples, None, 14, "emotion")
    assert [example["id"] for example in sample] == sorted((e["id"] for e in sample), key=ids_of(examples).index)
    assert {e["answer"] for e in select_examples(examples, ["emotion"], 3, "x")} == {"joy", "fear", "anger"}
    assert select_examples(examples, None, 999, "emotion") == examples
    for count in range(1, 140):
        assert len(select_examples(examples, None, count, "emotion")) == count


def ids_of(examples):
    return [example["id"] for example in examples]


def test_missing_labels_and_tasks_are_named(caplog):
    tasks = {name: BUILT_IN_TASKS[name] for name in ("emotion", "mosei")}
    examples = make_sorted_examples()
    warn_of_missing_labels(examples, tasks, "train")
    assert caplog.messages == [
        "split 'train' has no example with the labels neutral, surprise, sadness, disgust of the task 'emotion'."
    ]
    caplog.clear()
    warn_of_missing_labels(examples[100:], tasks, "validation")
    assert caplog.messages == ["split 'validation' has no example of the task 'emotion'."]


def test_examples_that_are_trained_and_evaluated_on_are_named(caplog):
    train = [{"id": "a", "text": "Okay."}, {"id": "b", "text": "Okay.", "video": "/x/b.mp4"}]
    others = [
        {"id": "c", "text": "Okay."},
        {"id": "d", "text": "No.", "video": "/x/b.mp4"},
        {"id": "e", "text": "Okay.", "video": "/x/b.mp4", "task": "mosei"},
    ]
    warn_of_shared_examples(train, others, "validation")
    assert caplog.messages == []
    copy = {"id": "f", "text": "Okay.", "video": "/x/b.mp4"}
    warn_of_shared_examples(train, [*others, copy], "validation")
    warn_of_shared_examples(train, train, "train")
    first, second = caplog.messages
    assert first.startswith("1 of 4 examples of --eval_split validation are also trained on, such as 'f'")
    assert second.startswith("2 of 2 examples of --eval_split train are also trained on, such as 'a'")
    assert "Give another --eval_split, or --eval_strategy no." in second


def test_media_of_another_input_type_are_refused(make_processor):
    examples = [{"id": "a", "video": "a.mp4"}]
    with pytest.raises(ValueError, match="--video features, but the training examples have video only as frames"):
        check_encoder_inputs(examples, make_processor("waveform", "features"), MODALITIES)


def test_long_lists_of_unusable_examples_are_truncated(make_processor, capsys):
    examples = [{"id": str(i), "text": "a" if i == 0 else " ", "answer": "joy"} for i in range(30)]
    dataset = EGMFDataset(examples, make_processor())
    remove_unusable(dataset, "train", show=True)
    assert [example["id"] for example in dataset.examples] == ["0"]
    output = capsys.readouterr().out
    assert output.startswith("Split 'train': left out 29 of 30 examples without text, audio, video: 1, 2, 3,")
    assert output.endswith("19, 20, ....\n")


def test_tiny_silent_and_black_clips_are_unusable(make_processor, tmp_path, capsys, caplog):
    good = write_video(tmp_path / "good.mp4", gray_frames(6))
    tiny = write_audio(tmp_path / "tiny.wav", sine(440, 0.01, 16_000), 16_000)
    silent = write_audio(tmp_path / "silent.wav", np.zeros(16_000, np.float32), 16_000)
    black = write_video(tmp_path / "black.mp4", np.zeros((6, 48, 64, 3), np.uint8))
    examples = [
        {"id": "good", "video": str(good), "answer": "joy"},
        {"id": "tiny", "audio": str(tiny), "answer": "joy"},
        {"id": "silent", "audio": str(silent), "answer": "joy"},
        {"id": "black", "video": str(black), "answer": "joy"},
    ]
    processor = make_processor("waveform", "frames")
    dataset = EGMFDataset(examples, processor, cache_media=True)
    remove_unusable(dataset, "train", show=True)
    assert [example["id"] for example in dataset.examples] == ["good"]
    assert "left out 3 of 4 examples without text, audio, video: tiny, silent, black." in capsys.readouterr().out
    for name in ("tiny.wav", "silent.wav", "black.mp4"):
        assert any(name in message and "left out" in message for message in caplog.messages)
    decoded_later = EGMFDataset(examples, processor)
    assert [decoded_later[index]["modalities"] for index in range(4)] == [["video"], [], [], []]
