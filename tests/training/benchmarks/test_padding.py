"""Padding costs little: on utterances as long as MELD's, in the order that training takes them."""

import copy
import json

import pytest

from tests.helpers.corpus_files import tiny_llama, write_language_model
from training.benchmarks.cost.padding import batches_of, main, meld_like, padding_share
from training.data.collator import EGMFDataCollator


@pytest.mark.parametrize("batch_size", [8, 16, 32])
def test_padding_is_below_a_tenth(make_processor, batch_size):
    dataset = meld_like(make_processor(None, None), rows=4000)
    grouped = padding_share(dataset, "group_by_length", batch_size)
    assert grouped < 0.1
    assert padding_share(dataset, "random", batch_size) > 2 * grouped  # there was something to gain


def test_share_is_that_of_real_batches(make_processor):
    dataset = meld_like(make_processor(None, None), rows=41)
    collate, batches = EGMFDataCollator(dataset.processor), batches_of(dataset, "group_by_length", 8, seed=3)
    assert sorted(place for batch in batches for place in batch) == list(range(41))
    masks = [collate([dataset[place] for place in batch])["attention_mask"] for batch in batches]
    real = sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks)
    assert padding_share(dataset, "group_by_length", 8, seed=3) == pytest.approx(1 - real)


def test_benchmark_runs(trained_tokenizer, tmp_path, capsys):
    tokenizer = copy.deepcopy(trained_tokenizer)
    folder = write_language_model(tmp_path / "llm", tiny_llama(tokenizer), tokenizer)
    main(
        [
            "--text_model_name_or_path",
            str(folder),
            "--rows",
            "60",
            "--batch_sizes",
            "4",
            "--output",
            str(tmp_path / "p.json"),
        ]
    )
    record = json.loads(capsys.readouterr().out)
    assert json.loads((tmp_path / "p.json").read_text(encoding="utf-8")) == record
    shares = record["padding_share"]
    assert 0 < shares["group_by_length"]["4"] < shares["random"]["4"] < 1
