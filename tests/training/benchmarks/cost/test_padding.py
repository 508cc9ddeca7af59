"""Padding is a small share of training's batches of utterances as long as MELD's."""

import copy

import pytest

from tests.helpers.corpus_files import tiny_llama, write_language_model
from training.benchmarks.cost.padding import batches_of, main, meld_like, padding_share, token_counts
from training.data.collator import SampleCollator
from training.data.dataset import EGMFDataset
from training.records import read_json


@pytest.fixture(scope="module")
def examples():
    return meld_like(4000)


def test_padding_is_below_a_tenth(make_processor, examples):
    processor = make_processor(None, None)
    dataset = EGMFDataset(examples, processor)
    counts = token_counts(examples, processor)
    for batch_size in (8, 16, 32):
        grouped = padding_share(batches_of(dataset, "group_by_length", batch_size), counts)
        random = padding_share(batches_of(dataset, "random", batch_size), counts)
        assert grouped < 0.1
        assert random > 2 * grouped  # there was something to gain


def test_share_matches_real_batches(make_processor, examples):
    processor = make_processor(None, None)
    dataset = EGMFDataset(examples[:41], processor, with_labels=True)
    batches = batches_of(dataset, "group_by_length", 8, seed=3)
    assert sorted(index for batch in batches for index in batch) == list(range(41))
    collate = SampleCollator(processor)
    masks = [collate([dataset[index] for index in batch])["attention_mask"] for batch in batches]
    num_tokens = sum(int(mask.sum()) for mask in masks)
    num_positions = sum(mask.numel() for mask in masks)
    share = padding_share(batches, token_counts(examples[:41], processor))
    assert share == pytest.approx(1 - num_tokens / num_positions)


def test_benchmark_runs(trained_tokenizer, tmp_path, capsys):
    tokenizer = copy.deepcopy(trained_tokenizer)
    folder = write_language_model(tmp_path / "llm", tiny_llama(tokenizer), tokenizer)
    output = tmp_path / "padding.json"
    options = ["--max_samples", "60", "--batch_sizes", "4", "--output", str(output)]
    main(["--text_model_name_or_path", str(folder), *options])
    shares = read_json(output)["padding_share"]
    assert 0 < shares["group_by_length"]["4"] < shares["random"]["4"] < 1
    assert '"padding_share"' in capsys.readouterr().out
