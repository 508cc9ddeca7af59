"""Sampling: complete epochs in equal batches, and changes determined by seed, epoch and example."""

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, RandomSampler, SequentialSampler
from transformers.trainer_pt_utils import LengthGroupedSampler

from training.data.augmentation import AugmentationSettings
from training.data.collator import SampleCollator
from training.data.dataset import EGMFDataset
from training.trainer.sampling import (
    EpochBatchSampler,
    training_sampler,
)


SAMPLERS = {
    "random": lambda rows: RandomSampler(rows),
    "grouped": lambda rows: LengthGroupedSampler(4, lengths=[1 + n % 5 for n in rows]),
    "sequential": lambda rows: SequentialSampler(rows),
}


def epochs_of(kind, rows, batch_size, processes, seed=0, epochs=(0, 1), **options):
    """Batches of all processes: {epoch: [[SampleIndex, ...] per process] per step}."""
    found = {}
    for epoch in epochs:
        parts = []
        for process in range(processes):
            torch.manual_seed(100 + process)  # what else a process draws must not matter
            batches = EpochBatchSampler(SAMPLERS[kind](range(rows)), batch_size, processes, process, seed, **options)
            batches.set_epoch(epoch)
            parts.append(list(batches))
            assert len(parts[-1]) == len(batches)
        found[epoch] = list(zip(*parts, strict=True))
    return found


@pytest.mark.parametrize("kind", SAMPLERS)
@pytest.mark.parametrize("rows", [1, 5, 6, 11, 12, 13])
@pytest.mark.parametrize("processes", [1, 2, 3, 4])
def test_processes_share_the_batches_of_a_single_one(kind, rows, processes):
    alone = epochs_of(kind, rows, 12, 1)
    shared = epochs_of(kind, rows, 12 // processes, processes)
    for epoch, steps in alone.items():
        assert len(shared[epoch]) == len(steps)
        seen = []
        for (batch,), parts in zip(steps, shared[epoch], strict=True):
            together = [place.index for part in parts for place in part if place.weight > 0]
            assert together == [place.index for place in batch]
            seen += together
            assert sum(part[0].weight for part in parts) == pytest.approx(processes)  # the mean over processes ...
            for part in parts:  # ... is the mean over examples
                assert part[0].weight == pytest.approx(
                    sum(place.weight > 0 for place in part) * processes / len(batch)
                )
                assert {(place.epoch, place.weight) for place in part} == {(epoch, part[0].weight)}
        assert sorted(seen) == list(range(rows))


@pytest.mark.parametrize("kind", ["random", "grouped"])
def test_order_depends_on_seed_and_epoch(kind):
    def order(seed, epoch):
        steps = epochs_of(kind, 40, 4, 1, seed, (epoch,))[epoch]
        return [place.index for (batch,) in steps for place in batch]

    assert order(0, 3) == order(0, 3)
    assert order(0, 3) != order(0, 2)
    assert order(0, 3) != order(5, 3)


def test_random_order_matches_the_trainer():
    """The trainer shuffles with Accelerate's sampler."""
    from accelerate.data_loader import SeedableRandomSampler

    usual = SeedableRandomSampler(range(40), data_seed=7)
    usual.set_epoch(2)
    steps = epochs_of("random", 40, 4, 1, 7, (2,))[2]
    assert [place.index for (batch,) in steps for place in batch] == list(usual)


def test_full_batches_match_accelerate():
    """Accelerate repeats examples in an uneven last batch; ours is divided and weighted."""
    from accelerate.data_loader import BatchSamplerShard

    usual = [BatchSampler(SequentialSampler(range(11)), 4, drop_last=False) for _ in range(2)]
    usual = [list(BatchSamplerShard(sampler, 2, process, split_batches=True)) for process, sampler in enumerate(usual)]
    steps = epochs_of("sequential", 11, 2, 2, epochs=(0,))[0]
    ours = [[[place.index for place in part] for part in parts] for parts in zip(*steps, strict=True)]
    for process in range(2):
        assert ours[process][:2] == usual[process][:2]
        assert [len(part) for part in usual[process]] == [2, 2, 2]
    assert [ours[0][2], ours[1][2]] == [[8], [9, 10]]


@pytest.mark.parametrize(
    ("strategy", "kind"),
    [
        ("group_by_length", LengthGroupedSampler),
        ("random", RandomSampler),
        ("sequential", SequentialSampler),
    ],
)
def test_strategy_chooses_the_order(examples, make_processor, strategy, kind):
    sampler = training_sampler(EGMFDataset(examples, make_processor()), strategy, 4)
    assert type(sampler) is kind
    assert sorted(sampler) == list(range(8))


def test_last_batch_can_be_dropped():
    steps = epochs_of("random", 11, 2, 2, drop_last=True)[0]
    assert [[len(part) for part in parts] for parts in steps] == [[2, 2], [2, 2]]


@pytest.fixture
def examples():
    media = {
        "audio_features": np.ones((9, 6), np.float32),
        "video_features": np.ones((9, 5), np.float32),
    }
    shared = {"task": "emotion", "text": "word", "answer": "joy"}
    return [
        {"id": f"r{number}", **{name: values * number for name, values in media.items()}, **shared}
        for number in range(8)
    ]


def test_changes_depend_on_seed_epoch_and_example(examples, make_processor):
    """An example loses the same modalities and changes alike in any batch and any process."""
    processor = make_processor()
    settings = AugmentationSettings(modality_dropout=0.7, augmentation=True)
    dataset = EGMFDataset(examples, processor, True, augmentation=settings)
    collator = SampleCollator(processor)

    def masks(indices, seed=0, epoch=0):
        batches = EpochBatchSampler(SequentialSampler(dataset), 1, 1, 0, seed)
        batches.set_epoch(epoch)
        uses = [batch[0] for batch in batches]
        return collator([dataset[uses[index]] for index in indices])["modality_mask"].tolist()

    together = masks(range(8))
    torch.manual_seed(9)
    assert [masks([index])[0] for index in range(8)] == together
    assert len({tuple(mask) for mask in together}) > 1
    assert masks(range(8), epoch=1) != together
    assert masks(range(8), seed=1) != together


def test_batches_carry_their_weight(examples, make_processor):
    dataset = EGMFDataset(examples[:5], make_processor(), True)
    collator = SampleCollator(dataset.processor)
    weights = []
    for process in range(2):
        batches = EpochBatchSampler(SequentialSampler(dataset), 2, 2, process, 0)
        weights.append([float(collator([dataset[use] for use in batch])["loss_weight"]) for batch in batches])
    assert weights == [[1.0, 0.0], [1.0, 2.0]]
