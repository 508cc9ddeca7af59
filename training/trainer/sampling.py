"""Sampling in training: which examples form a step, and which of them each process gets.

    order of an epoch ─► global batches ─► this process's part of each

The examples of a step, and the modality dropout and augmentation of each, depend only on the seed, the epoch and the
example: a global batch is the same however many processes share it.
"""

from collections.abc import Iterator

import torch
from torch.utils.data import RandomSampler, Sampler, SequentialSampler
from transformers.trainer_pt_utils import LengthGroupedSampler

from ..data.dataset import EGMFDataset, SampleIndex


def training_sampler(dataset: EGMFDataset, strategy: str, global_batch_size: int) -> Sampler[int]:
    """The order of an epoch, by `train_sampling_strategy`."""
    if strategy == "group_by_length":
        return LengthGroupedSampler(global_batch_size, lengths=dataset.lengths)
    return RandomSampler(dataset) if strategy == "random" else SequentialSampler(dataset)


class EpochBatchSampler(Sampler[list[SampleIndex]]):
    """This process's part of every global batch, in an order that depends only on the seed and the epoch.

    Full batches are those of accelerate's `BatchSamplerShard(split_batches=True)`. An incomplete last batch is not:
    accelerate repeats examples until the batch divides evenly, whereas here it is divided as evenly as possible and
    weighted, so that each example counts once. A process left without an example takes one with weight 0, so that all
    processes take the same number of steps.

    Args:
        sampler: the order of the examples; a random sampler gets its generator here.
        batch_size: examples per process.
        processes: number of processes.
        process: index of this process.
        seed: the run's seed.
        drop_last: drop the last batch if it is not full.
    """

    def __init__(
        self,
        sampler: Sampler[int],
        batch_size: int,
        processes: int,
        process: int,
        seed: int,
        drop_last: bool = False,
    ):
        self.sampler = sampler
        self.global_batch_size = batch_size * processes
        self.processes = processes
        self.process = process
        self.seed = seed
        self.drop_last = drop_last
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        full, rest = divmod(len(self.sampler), self.global_batch_size)
        return full if self.drop_last or not rest else full + 1

    def __iter__(self) -> Iterator[list[SampleIndex]]:
        if isinstance(self.sampler, RandomSampler | LengthGroupedSampler):
            self.sampler.generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = list(self.sampler)
        for number in range(len(self)):
            start = number * self.global_batch_size
            batch = order[start : start + self.global_batch_size]
            first = len(batch) * self.process // self.processes
            end = len(batch) * (self.process + 1) // self.processes
            weight = (end - first) * self.processes / len(batch)
            part = batch[first:end] or batch[:1]
            yield [SampleIndex(index, self.seed, self.epoch, weight) for index in part]
