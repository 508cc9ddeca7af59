"""The collator: one processor call a batch, and modality dropout."""

from collections import Counter

import numpy as np
import pytest
import torch

from tests.helpers.corpus_files import write_corpus
from training.data.collator import SUBSETS, EGMFDataCollator, available
from training.data.dataset import EGMFDataset, load_examples


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus") / "tiny")


@pytest.fixture
def rows():
    """Rows with precomputed features: all modalities, and one row for each smaller subset."""
    media = {
        "audio": ("audio_features", np.ones((2, 6), np.float32)),
        "video": ("video_features", np.ones((3, 5), np.float32)),
    }
    return [
        {
            "id": "+".join(subset),
            "task": "emotion",
            "text": "word" if "text" in subset else None,
            "context": None,
            "answer": "joy",
            "label_index": 4,
            "media": dict(media[m] for m in subset if m != "text"),
        }
        for subset in reversed(SUBSETS)
    ]


def test_available_is_what_is_there(rows):
    assert [tuple(available(row)) for row in rows] == list(reversed(SUBSETS))


def test_there_are_seven_subsets():
    assert len(SUBSETS) == len(set(SUBSETS)) == 7


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("with_labels", [True, False])
def test_collator_is_one_processor_call(corpus, make_processor, with_labels, cached):
    processor = make_processor("waveform", "frames")
    loaded = load_examples(corpus, "train")
    dataset = EGMFDataset(loaded, processor, cache_media=cached)
    batch = EGMFDataCollator(processor, with_labels)([dataset[i] for i in range(len(dataset))])
    direct = processor(
        text=[row.get("text") for row in loaded],
        video=[row["video"] for row in loaded],
        context=[row.get("context") for row in loaded],
        task=[row["task"] for row in loaded],
        answer=[row["answer"] for row in loaded] if with_labels else None,
    )
    if not with_labels:
        index = batch.pop("label_index")
        names = [processor.task_objects[row["task"]] for row in loaded]
        assert index.tolist() == [task.index(row["answer"]) for task, row in zip(names, loaded, strict=True)]
    assert set(batch) == set(direct)
    for name in direct:
        torch.testing.assert_close(batch[name], direct[name], rtol=0, atol=0, msg=name)


def test_training_and_evaluation_share_the_prompt(rows, make_processor):
    processor = make_processor()
    for row in rows:
        trained, asked = (EGMFDataCollator(processor, with_labels)([row]) for with_labels in (True, False))
        length = asked["input_ids"].shape[1]
        assert trained["input_ids"][:, :length].tolist() == asked["input_ids"].tolist()
        assert (trained["labels"][:, :length] == -100).all()
        assert "answer_ids" in asked
        assert "labels" not in asked


def dropped(collator, row, count):
    rng = np.random.default_rng(0)
    return Counter(tuple(collator._choose(row, rng)) for _ in range(count))


@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_dropout_has_its_rate_and_leaves_something(rows, make_processor, rate):
    count = 4000
    found = dropped(EGMFDataCollator(make_processor(), True, modality_dropout=rate), rows[0], count)
    assert () not in found
    assert (count - found[SUBSETS[-1]]) / count == pytest.approx(rate, abs=4 * (rate * (1 - rate) / count) ** 0.5)
    for subset in SUBSETS[:-1]:
        share = rate / 6
        assert found[subset] / count == pytest.approx(share, abs=5 * (share * (1 - share) / count) ** 0.5)


def test_dropout_takes_nothing_from_a_row_of_one(rows, make_processor):
    collator = EGMFDataCollator(make_processor(), True, modality_dropout=1.0)
    for row in rows[-3:]:
        assert dropped(collator, row, 20) == {tuple(available(row)): 20}


def test_dropout_of_a_row_of_two_leaves_one(rows, make_processor):
    collator = EGMFDataCollator(make_processor(), True, modality_dropout=1.0)
    row = next(row for row in rows if row["id"] == "text+video")
    assert set(dropped(collator, row, 100)) == {("text",), ("video",)}


def test_dropout_reaches_the_tensors(rows, make_processor):
    collator = EGMFDataCollator(make_processor(), True, modality_dropout=1.0)
    torch.manual_seed(0)
    counts = collator([rows[0]] * 32)["modality_mask"].sum(dim=1)
    assert set(counts.tolist()) == {1, 2}


def test_evaluation_never_drops(rows, make_processor):
    collator = EGMFDataCollator(make_processor(), False)
    assert collator.modality_dropout == 0
    for _ in range(5):
        mask = collator(rows)["modality_mask"]
        assert mask.tolist() == [[m in subset for m in ("text", "audio", "video")] for subset in reversed(SUBSETS)]


@pytest.mark.parametrize("subset", SUBSETS, ids="+".join)
def test_modalities_restrict(rows, make_processor, subset):
    batch = EGMFDataCollator(make_processor(), True, modalities=subset)(rows[:1])
    assert batch["modality_mask"].tolist() == [[m in subset for m in ("text", "audio", "video")]]


def test_row_without_the_wanted_modalities_is_named(rows, make_processor):
    with pytest.raises(ValueError, match=r"Row 'text' has none of audio, video; it has text"):
        EGMFDataCollator(make_processor(), True, modalities=["audio", "video"])([rows[-1], rows[0], rows[-3]])


def test_unknown_modality_is_refused(make_processor):
    with pytest.raises(ValueError, match="smell"):
        EGMFDataCollator(make_processor(), True, modalities=["text", "smell"])


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_dropout_must_be_a_share(make_processor, rate):
    with pytest.raises(ValueError, match="modality_dropout"):
        EGMFDataCollator(make_processor(), True, modality_dropout=rate)


@pytest.mark.parametrize("with_labels", [True, False])
def test_augmentation_changes_the_clips_and_nothing_else(corpus, make_processor, with_labels):
    processor = make_processor("waveform", "frames")
    rows = list(EGMFDataset(load_examples(corpus, "train"), processor, cache_media=True))
    before = [{name: values.copy() for name, values in row["media"].items()} for row in rows]
    plain = EGMFDataCollator(processor, with_labels)(rows)
    collator, found = EGMFDataCollator(processor, with_labels, augmentation=True), []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        found.append(collator(rows))
    assert set(found[0]) == set(plain)
    for name in plain:
        assert torch.equal(found[0][name], found[1][name]), name
        changed = name in ("audio_values", "video_values")
        assert torch.equal(found[0][name], plain[name]) == (not changed), name
        assert torch.equal(found[0][name], found[2][name]) == (not changed), name
        assert found[0][name].shape == plain[name].shape
    for row, media in zip(rows, before, strict=True):  # the clips in memory stay as they are
        assert all(np.array_equal(row["media"][name], media[name]) for name in media)


def test_voice_augmentation_changes_the_sound_alone(corpus, make_processor):
    processor = make_processor("waveform", "frames")
    rows = list(EGMFDataset(load_examples(corpus, "train"), processor, cache_media=True))
    before = [{name: values.copy() for name, values in row["media"].items()} for row in rows]
    plain, found = (EGMFDataCollator(processor, True, voice_augmentation=asked)(rows) for asked in (False, True))
    for name in plain:
        assert torch.equal(found[name], plain[name]) == (name not in ("audio_values", "audio_mask")), name
    assert torch.equal(found["audio_mask"].any(dim=1), plain["audio_mask"].any(dim=1))
    for row, media in zip(rows, before, strict=True):  # the clips in memory stay as they are
        assert all(np.array_equal(row["media"][name], media[name]) for name in media)


def test_clips_are_not_changed_unless_that_is_asked_for(make_processor):
    collator = EGMFDataCollator(make_processor(), True)
    assert (collator.augmentation, collator.voice_augmentation) == (False, False)


def test_bad_row_is_named(rows, make_processor):
    row = dict(rows[0], media={"audio_features": np.ones((2, 7), np.float32)})
    with pytest.raises(ValueError, match=r"row 'text\+audio\+video': audio_features are 7 wide"):
        EGMFDataCollator(make_processor(), True)([row])
