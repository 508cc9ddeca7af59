"""How much of what the language model reads is padding, with rows in random order and grouped by length.

    python -m training.benchmarks.cost.padding --text_model_name_or_path .cache/assets/SmolLM2-135M-Instruct

Made-up utterances, as many as MELD trains on and as long as MELD's, in the prompts that training makes of them.
"""

import argparse
import json
from collections.abc import Sequence

import numpy as np
from torch.utils.data import RandomSampler
from transformers import AutoTokenizer
from transformers.trainer_pt_utils import LengthGroupedSampler

from processing_egmf import EGMFProcessor

from ...cli import output_file
from ...data.dataset import EGMFDataset
from ...records import versions, write_json
from ...trainer.sampling import EpochBatchSampler
from .speed import utterances


MELD_ROWS = 9_989  # its training split, as published


def meld_like(processor: EGMFProcessor, rows: int = MELD_ROWS, seed: int = 0) -> EGMFDataset:
    """Utterances without clips."""
    texts = utterances(rows, np.random.default_rng(seed))
    return EGMFDataset(
        [{"id": str(i), "text": t, "task": "meld", "answer": "joy"} for i, t in enumerate(texts)], processor
    )


def batches_of(dataset: EGMFDataset, strategy: str, batch_size: int, seed: int = 0) -> list[list[int]]:
    """Numbers of the rows of each batch of training's first epoch, in one process."""
    grouped = strategy == "group_by_length"
    order = LengthGroupedSampler(batch_size, lengths=dataset.lengths) if grouped else RandomSampler(dataset)
    return [[place.index for place in batch] for batch in EpochBatchSampler(order, batch_size, 1, 0, seed)]


def padding_share(dataset: EGMFDataset, strategy: str, batch_size: int, seed: int = 0) -> float:
    """Share of the positions of an epoch's batches that hold padding."""
    processor = dataset.processor
    samples = (processor.prepare(text=row["text"], task=row["task"], answer=row["answer"]) for row in dataset.examples)
    sizes = [len(sample["input_ids"]) for sample in samples]
    batches = batches_of(dataset, strategy, batch_size, seed)
    return 1 - sum(sizes) / sum(max(sizes[i] for i in batch) * len(batch) for batch in batches)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--text_model_name_or_path", required=True, help="where the tokenizer lies: a folder or a Hub id"
    )
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[8, 16, 32])
    parser.add_argument("--rows", type=int, default=MELD_ROWS)
    parser.add_argument("--output", type=output_file, help="also write the record here, as JSON")
    arguments = parser.parse_args(argv)
    dataset = meld_like(
        EGMFProcessor(AutoTokenizer.from_pretrained(arguments.text_model_name_or_path)), arguments.rows
    )
    shares = {
        strategy: {str(size): padding_share(dataset, strategy, size) for size in arguments.batch_sizes}
        for strategy in ("random", "group_by_length")
    }
    record = {"rows": arguments.rows, "padding_share": shares, "versions": versions()}
    print(json.dumps(record, indent=1))
    if arguments.output is not None:
        write_json(arguments.output, record)


if __name__ == "__main__":
    main()
