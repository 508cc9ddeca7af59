"""Batches: lists with one entry per sample, missing parts, padding, and mismatches."""

import numpy as np
import pytest
import torch

from processing_egmf import BUILT_IN_TASKS, MODALITIES
from tests.helpers.media_files import gray_frames, sine
from tests.helpers.processor_outputs import (
    MEDIA_KEYS,
    PROMPT_KEYS,
    SUBSETS,
    assert_same,
    unpadded_prompt,
)


def test_padding_is_on_the_left(features):
    batch = features(text=["a", "a much longer text than that"], task="emotion", answer=["joy", "fear"])
    padding = batch["input_ids"].shape[1] - unpadded_prompt(batch, 0)["input_ids"].shape[0]
    assert padding > 0
    assert (batch["input_ids"][0, :padding] == features.tokenizer.pad_token_id).all()
    assert not batch["attention_mask"][0, :padding].any()
    assert not batch["utterance_mask"][0, :padding].any()
    assert (batch["labels"][0, :padding] == -100).all()
    assert batch["attention_mask"][1].all()


@pytest.mark.parametrize("kinds", [("features", "features"), ("waveform", "frames")])
def test_sample_is_the_same_by_itself_and_in_a_batch(make_processor, make_samples, kinds):
    processor = make_processor(*kinds)
    samples = make_samples(4, *kinds)
    names = set().union(*samples) - {"sampling_rate", "fps"}
    scalars = {name: samples[0][name] for name in ("sampling_rate", "fps") if name in samples[0]}
    batch = processor(
        **{name: [sample[name] for sample in samples] for name in names},
        **scalars,
        task="mosei",
    )
    for i, sample in enumerate(samples):
        single = processor(**sample, task="mosei")
        found = unpadded_prompt(batch, i)
        for name in PROMPT_KEYS:
            assert found[name].tolist() == single[name][0].tolist()
        for modality in ("audio", "video"):
            values = batch[f"{modality}_values"][i]
            mask = batch[f"{modality}_mask"][i]
            torch.testing.assert_close(values[mask], single[f"{modality}_values"][0], rtol=0, atol=0)
            assert not values[~mask].any()
            assert mask.sum() == single[f"{modality}_mask"].sum()
            assert mask[: mask.sum()].all()
        assert batch["modality_mask"][i].tolist() == single["modality_mask"][0].tolist()


def test_list_of_one_is_one_sample(features):
    assert_same(features(text=["a"], task="emotion"), features(text="a", task="emotion"))


def test_batch_where_anything_is_missing(features):
    audio = np.ones((3, 6))
    video = np.ones((2, 5))
    parts = {"text": "word", "audio_features": audio, "video_features": video}
    names = dict(zip(MODALITIES, parts, strict=True))
    columns = {names[m]: [parts[names[m]] if m in subset else None for subset in SUBSETS] for m in MODALITIES}
    batch = features(**columns, task="emotion")
    expected = [[m in subset for m in MODALITIES] for subset in SUBSETS]
    assert batch["modality_mask"].tolist() == expected
    assert batch["utterance_mask"].any(dim=1).tolist() == [row[0] for row in expected]
    assert batch["audio_mask"].sum(dim=1).tolist() == [3 * row[1] for row in expected]
    assert batch["video_mask"].sum(dim=1).tolist() == [2 * row[2] for row in expected]


def test_absent_modality_is_left_out(features):
    assert set(features(text="a")) == {
        *PROMPT_KEYS,
        "modality_mask",
        "task_ids",
        "answer_ids",
    }
    assert set(MEDIA_KEYS) & set(features(video_features=np.ones((1, 5)))) == {
        "video_values",
        "video_mask",
    }


def test_mixed_tasks_in_one_batch(features):
    batch = features(text=["a", "b", "好"], task=["sims_v2", "emotion", "cherma"])
    names = list(features.task_objects)
    assert [names[i] for i in batch["task_ids"].tolist()] == ["sims_v2", "emotion", "cherma"]
    assert (batch["answer_ids"] >= 0).any(dim=2).sum(dim=1).tolist() == [11, 7, 7]
    for i, task in enumerate(("sims_v2", "emotion", "cherma")):
        rows = [[token for token in row if token >= 0] for row in batch["answer_ids"][i].tolist()]
        assert [row for row in rows if row] == features.answer_token_ids(task)


def test_first_task_is_the_default(features):
    assert_same(features(text="a"), features(text="a", task=next(iter(features.task_objects))))


def test_task_may_be_an_object(features):
    assert_same(features(text="a", task=BUILT_IN_TASKS["mosei"]), features(text="a", task="mosei"))


@pytest.mark.parametrize("answers", [[0.5, -1.0], np.array([0.5, -1.0], np.float32), torch.tensor([0.5, -1.0])])
def test_scores_come_as_list_or_array(features, answers):
    batch = features(text=["a", "b"], task="mosei", answer=answers)
    expected = [features(text=t, task="mosei", answer=a) for t, a in (("a", 0.5), ("b", -1.0))]
    for i, single in enumerate(expected):
        assert unpadded_prompt(batch, i)["labels"].tolist() == single["labels"][0].tolist()


def test_unnamed_samples_are_numbered(raw):
    with pytest.raises(ValueError, match="sample 1 has neither"):
        raw(text=["a", ""])


@pytest.mark.parametrize("arguments", [{"text": []}, {"audio": []}, {"video": []}, {"audio_features": []}])
def test_empty_batch_is_refused(raw, arguments):
    with pytest.raises(ValueError, match="batch is empty"):
        raw(**arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {"text": ["a", "b"], "audio": [None]},
        {"text": ["a", "b"], "task": ["emotion"] * 3},
        {"text": ["a", "b"], "task": "emotion", "answer": ["joy"]},
        {"text": ["a", "b"], "context": [["x"]]},
        {"text": ["a", "b"], "sample_names": ["one"]},
        {"text": ["a", "b"], "modalities": [["text"]]},
    ],
)
def test_lists_of_different_lengths_are_refused(raw, arguments):
    with pytest.raises(ValueError, match=r"different lengths: .*'text': 2.*None where it is missing"):
        raw(**arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {"text": "a", "task": ["emotion", "meld"]},
        {"text": ["a", "b"], "audio": "a.wav"},
        {"text": ["a", "b"], "video": "a.mp4"},
    ],
)
def test_one_value_for_many_samples_is_refused(raw, arguments):
    with pytest.raises(ValueError, match="is a single value, but the batch has 2 samples; give a list"):
        raw(**arguments)


def test_features_of_one_sample_for_many_are_refused(features):
    with pytest.raises(ValueError, match="audio_features is a single value, but the batch has 2 samples"):
        features(text=["a", "b"], audio_features=np.ones((2, 6)))


def test_answers_for_some_samples_are_refused(features):
    with pytest.raises(ValueError, match=r"some do not; give all or none. Without one: row 2, row 4 \(2\)"):
        features(
            text=list("abcd"),
            task="emotion",
            answer=["joy", None, "fear", None],
            sample_names=[f"row {i}" for i in range(1, 5)],
        )


def test_features_of_two_widths_in_one_batch_are_named(make_processor):
    processor = make_processor("features", None, audio_feature_size=None)
    with pytest.raises(
        ValueError,
        match=r"`audio_values` cannot be batched, because their shapes differ: {'row 1': \(4,\), 'row 2': \(6,\)}",
    ):
        processor(audio_features=[np.ones((3, 4)), np.ones((2, 6))], sample_names=["row 1", "row 2"])


def test_columns_of_pandas(raw, features, clips):
    pandas = pytest.importorskip("pandas")
    tone = sine(440, 0.5, 16_000)
    frames = np.stack(gray_frames(6, 32, 48))
    index = [7, 3]
    assert_same(raw(audio=pandas.Series(tone), sampling_rate=16_000), raw(audio=tone, sampling_rate=16_000))
    assert_same(raw(video=pandas.Series(list(frames))), raw(video=frames))
    stereo = pandas.DataFrame({"left": tone, "right": 0 * tone})
    assert_same(raw(audio=stereo, sampling_rate=16_000), raw(audio=tone / 2, sampling_rate=16_000))
    columns = {
        "text": pandas.Series(["I am fine.", None], index=index),
        "audio": pandas.Series([None, clips["audio"]], index=index),
        "answer": pandas.Series(["joy", "anger"], index=index),
        "task": pandas.Series(["emotion", "meld"], index=index),
    }
    expected = raw(
        text=["I am fine.", None],
        audio=[None, clips["audio"]],
        answer=["joy", "anger"],
        task=["emotion", "meld"],
    )
    assert_same(raw(**columns), expected)
    scores = {"text": ["a", "b"], "task": "mosei"}
    assert_same(raw(**scores, answer=pandas.Series([1.0, -2.0])), raw(**scores, answer=[1.0, -2.0]))
    vectors = np.arange(18.0).reshape(3, 6)
    for column in (pandas.Series(list(vectors)), pandas.DataFrame(vectors)):
        assert_same(features(audio_features=column), features(audio_features=vectors))
    turns = ["Hello.", "Good day."]
    assert_same(raw(text="a", context=pandas.Series(turns)), raw(text="a", context=turns))
    with pytest.raises(
        TypeError, match=r"a table with more than numbers. Give its rows: `table.to_dict\('records'\)`"
    ):
        raw(text=pandas.DataFrame({"text": ["a"], "audio": ["a.wav"]}))
    with pytest.raises(ValueError, match="sample 0: cannot read media from Series. Give .* an array"):
        raw(audio=[pandas.Series(tone)] * 2, sampling_rate=16_000)
