"""Every causal language model of `transformers` is scored exactly, or refused by name."""

import json

import pytest
import transformers

from training.model.backbones.decoders import RESULTS, TABLE, count_outcomes, decoder_names, render_table, try_all


def test_table_is_that_of_the_results():
    record = json.loads(RESULTS.read_text(encoding="utf-8"))
    if transformers.__version__ == record["transformers"]:
        assert [decoder["name"] for decoder in record["decoders"]] == decoder_names()
    assert record["counts"].get("wrong", 0) == 0
    assert TABLE.read_text(encoding="utf-8") == render_table(record)


@pytest.mark.slow
def test_every_decoder_is_exact_or_refused():
    results = try_all(decoder_names())
    assert [result.name for result in results if result.outcome == "wrong"] == []
    assert count_outcomes(results) == json.loads(RESULTS.read_text(encoding="utf-8"))["counts"]
