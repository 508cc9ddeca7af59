"""The collator: modality dropout, and the same tensors as one processor call."""

from collections import Counter

import numpy as np
import pytest
import torch

from tests.helpers.corpus_files import write_corpus
from training.data.augmentation import AugmentationSettings
from training.data.collator import SUBSETS, SampleCollator
from training.data.dataset import EGMFDataset, load_examples


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus") / "tiny")


@pytest.fixture
def examples():
    """Precomputed features: one example for each subset of the modalities."""
    media = {"audio": np.ones((2, 6), np.float32), "video": np.ones((3, 5), np.float32)}
    return [
        {
            "id": "+".join(subset),
            "task": "emotion",
            "text": "word" if "text" in subset else None,
            "answer": "joy",
            **{f"{modality}_features": media[modality] for modality in subset if modality != "text"},
        }
        for subset in reversed(SUBSETS)
    ]


def mask_of(subset):
    return [modality in subset for modality in ("text", "audio", "video")]


def test_there_are_seven_subsets():
    assert len(SUBSETS) == len(set(SUBSETS)) == 7


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("with_labels", [True, False])
def test_batch_equals_one_processor_call(corpus, make_processor, with_labels, cached):
    processor = make_processor("waveform", "frames")
    loaded = load_examples(corpus, "train")
    dataset = EGMFDataset(loaded, processor, with_labels, cache_media=cached)
    batch = SampleCollator(processor)([dataset[i] for i in range(len(dataset))])
    direct = processor(
        text=[example.get("text") for example in loaded],
        video=[example["video"] for example in loaded],
        context=[example.get("context") for example in loaded],
        task=[example["task"] for example in loaded],
        answer=[example["answer"] for example in loaded] if with_labels else None,
    )
    if not with_labels:
        index = batch.pop("label_index")
        tasks = [processor.task_objects[example["task"]] for example in loaded]
        assert index.tolist() == [task.index(e["answer"]) for task, e in zip(tasks, loaded, strict=True)]
    assert set(batch) == set(direct)
    for name in direct:
        torch.testing.assert_close(batch[name], direct[name], rtol=0, atol=0, msg=name)


def test_training_and_evaluation_share_the_prompt(examples, make_processor):
    processor = make_processor()
    collator = SampleCollator(processor)
    training, evaluation = (EGMFDataset(examples, processor, with_labels) for with_labels in (True, False))
    for index in range(len(examples)):
        trained, scored = (collator([dataset[index]]) for dataset in (training, evaluation))
        length = scored["input_ids"].shape[1]
        assert trained["input_ids"][:, :length].tolist() == scored["input_ids"].tolist()
        assert (trained["labels"][:, :length] == -100).all()
        assert "answer_ids" in scored
        assert "labels" not in scored


def test_dropout_reaches_the_tensors(examples, make_processor):
    """Dropping a modality gives the same sample, prompt included, as preparing without it."""
    processor = make_processor()
    dataset = EGMFDataset(examples[:1], processor, True, augmentation=AugmentationSettings(modality_dropout=1.0))
    torch.manual_seed(0)
    samples = [dataset[0] for _ in range(32)]
    batch = SampleCollator(processor)(samples)
    assert batch["modality_mask"].tolist() == [mask_of(sample["modalities"]) for sample in samples]
    assert set(batch["modality_mask"].sum(dim=1).tolist()) == {1, 2}
    for sample in samples[:8]:
        alone = SampleCollator(processor)([sample])
        media = {
            f"{m}_features": examples[0][f"{m}_features"] for m in ("audio", "video") if m in sample["modalities"]
        }
        text = "word" if "text" in sample["modalities"] else None
        direct = processor(text=text, answer="joy", task="emotion", **media)
        assert set(alone) == set(direct)
        assert all(torch.equal(alone[name], direct[name]) for name in direct)


def test_dropped_text_takes_the_earlier_turns_with_it(make_processor):
    processor = make_processor()
    example = {
        "id": "a",
        "task": "emotion",
        "answer": "joy",
        "audio_features": np.ones((2, 6)),
        "context": ["He left."],
    }
    for text in ("word", None):
        dataset = EGMFDataset([{**example, "text": text}], processor, True)
        assert dataset[0]["modalities"] == ["text", "audio"]
        batch = SampleCollator(processor, ["audio"])([dataset[0]])
        direct = processor(audio_features=np.ones((2, 6)), answer="joy", task="emotion")
        assert batch["input_ids"].tolist() == direct["input_ids"].tolist()
        assert batch["modality_mask"].tolist() == [[False, True, False]]


def test_evaluation_never_drops(examples, make_processor):
    dataset = EGMFDataset(examples, make_processor())
    for _ in range(5):
        mask = SampleCollator(dataset.processor)(list(dataset))["modality_mask"]
        assert mask.tolist() == [mask_of(subset) for subset in reversed(SUBSETS)]


@pytest.mark.parametrize("subset", SUBSETS, ids="+".join)
def test_modalities_restrict(examples, make_processor, subset):
    """The modalities are set for the dataset, or for the collator of samples that have more."""
    processor = make_processor()
    restricted = EGMFDataset(examples[:1], processor, modalities=subset)[0]
    assert restricted["modalities"] == list(subset)
    first = SampleCollator(processor)([restricted])
    second = SampleCollator(processor, subset)([EGMFDataset(examples[:1], processor)[0]])
    assert first["modality_mask"].tolist() == [mask_of(subset)]
    assert set(first) == set(second)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_sample_without_the_modalities_is_named(examples, make_processor):
    processor = make_processor()
    samples = list(EGMFDataset([examples[-1], examples[0]], processor))
    with pytest.raises(ValueError, match=r"Example 'text' has none of audio, video; it has text"):
        SampleCollator(processor, ["audio", "video"])(samples)
    samples = list(EGMFDataset([examples[-1], examples[0]], processor, modalities=["audio"]))
    with pytest.raises(ValueError, match=r"Example 'text' has none of text, audio, video; it has none that the data"):
        SampleCollator(processor)(samples)


@pytest.mark.parametrize("modalities", [["text", "smell"], []])
def test_unknown_modality_is_refused(make_processor, modalities):
    for refuse in (
        lambda: SampleCollator(make_processor(), modalities),
        lambda: EGMFDataset([], make_processor(), modalities=modalities),
    ):
        with pytest.raises(ValueError, match="--modalities is .*use any of text, audio, video"):
            refuse()


def test_subsets_are_drawn_evenly(examples, make_processor):
    dataset = EGMFDataset(examples[:1], make_processor(), augmentation=AugmentationSettings(modality_dropout=0.6))
    torch.manual_seed(0)
    counts = Counter(tuple(dataset[0]["modalities"]) for _ in range(300))
    assert set(counts) == set(SUBSETS)
    assert 80 < counts[SUBSETS[-1]] < 160
