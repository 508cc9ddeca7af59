"""Share of padding in the language model's input, with examples in random order and grouped by length.

    python -m training.benchmarks.cost.padding --text_model_name_or_path .cache/assets/SmolLM2-135M-Instruct

Measured on synthetic utterances, as many and as long as those in MELD's training split, in training's prompts.
"""

from collections.abc import Sequence

import numpy as np
from torch.utils.data import RandomSampler
from transformers import AutoTokenizer
from transformers.trainer_pt_utils import LengthGroupedSampler

from processing_egmf import EGMFProcessor

from ...cli import CommandParser, command_errors, output_file
from ...data.dataset import EGMFDataset
from ...records import print_record, versions
from ...trainer.sampling import EpochBatchSampler
from ..option_ranges import COUNT, check_ranges
from .utterances import make_utterances


MELD_EXAMPLES = 9_989  # of its training split, as published
STRATEGIES = ("random", "group_by_length")


def meld_like(count: int = MELD_EXAMPLES, seed: int = 0) -> list[dict[str, str]]:
    """Examples with utterances as long as MELD's, without clips."""
    examples = []
    for number, text in enumerate(make_utterances(count, np.random.default_rng(seed))):
        examples.append({"id": str(number), "text": text, "task": "meld", "answer": "joy"})
    return examples


def batches_of(dataset: EGMFDataset, strategy: str, batch_size: int, seed: int = 0) -> list[list[int]]:
    """Indices of the examples in each batch of training's first epoch, in one process."""
    if strategy == "group_by_length":
        order = LengthGroupedSampler(batch_size, lengths=dataset.lengths)
    else:
        order = RandomSampler(dataset)
    batches = EpochBatchSampler(order, batch_size, 1, 0, seed)
    return [[sample.index for sample in batch] for batch in batches]


def token_counts(examples: Sequence[dict[str, str]], processor: EGMFProcessor) -> list[int]:
    """Number of tokens in the prompt and answer of every example."""
    counts = []
    for example in examples:
        sample = processor.prepare(text=example["text"], task=example["task"], answer=example["answer"])
        counts.append(len(sample["input_ids"]))
    return counts


def padding_share(batches: Sequence[Sequence[int]], counts: Sequence[int]) -> float:
    """Share of padding among the positions of an epoch's batches.

    Args:
        batches: indices of the examples in each batch.
        counts: tokens of every example.
    """
    num_positions = 0
    for batch in batches:
        num_positions += max(counts[index] for index in batch) * len(batch)
    return 1 - sum(counts) / num_positions


def make_parser() -> CommandParser:
    parser = CommandParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--text_model_name_or_path", required=True, help="folder or Hub id; only its tokenizer is used"
    )
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[8, 16, 32])
    parser.add_argument("--max_samples", type=int, default=MELD_EXAMPLES, help="number of utterances")
    parser.add_argument("--output", type=output_file, help="also write the record to this JSON file")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    with command_errors():
        arguments = make_parser().parse_args(argv)
        check_ranges(arguments, {"batch_sizes": COUNT, "max_samples": COUNT})
        processor = EGMFProcessor(AutoTokenizer.from_pretrained(arguments.text_model_name_or_path))
        examples = meld_like(arguments.max_samples)
        dataset = EGMFDataset(examples, processor)
        counts = token_counts(examples, processor)
        shares: dict[str, dict[str, float]] = {strategy: {} for strategy in STRATEGIES}
        for strategy in STRATEGIES:
            for size in arguments.batch_sizes:
                batches = batches_of(dataset, strategy, size)
                shares[strategy][str(size)] = padding_share(batches, counts)
        record = {"examples": arguments.max_samples, "padding_share": shares, "versions": versions()}
        print_record(record, arguments.output)


if __name__ == "__main__":
    main()
