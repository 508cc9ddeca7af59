"""EGMFDataCollator: rows and prepared samples become the batch of one processor call."""

import pytest
import torch

from processing_egmf import EGMFDataCollator


def test_rows_and_prepared_samples_equal_one_processor_call(make_processor, make_samples, process):
    processor = make_processor()
    samples = make_samples(3)
    samples[1]["text"] = None
    samples[2]["context"] = ["Hello."]
    answers = ["joy", "anger", "fear"]
    expected = process(processor, samples, answer=answers)
    expected["answer_ids"] = process(processor, samples)["answer_ids"]
    rows = [{"id": i, **sample, "answer": answers[i]} for i, sample in enumerate(samples)]
    prepared = [processor.prepare(**sample, answer=answers[i]) for i, sample in enumerate(samples)]
    for given in (rows, prepared):
        batch = processor.data_collator()(given)
        assert set(batch) == set(expected)
        for name, values in expected.items():
            torch.testing.assert_close(batch[name], values, rtol=0, atol=0, msg=name)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": "a1", "text": "Hi.", "label": 3}, r"row 'a1' has no `answer`; its columns are id, text, label\. Give"),
        ({}, "row 0 of the batch has no `answer`; its columns are none that EGMF reads"),
        ({"text": "Hi.", "answer": "joyful"}, "row 0 of the batch.*joyful"),
        ({"text": "Hi.", "answer": "joy", "txet": "Hi."}, "unknown arguments .*txet"),
    ],
)
def test_wrong_rows_are_named(make_processor, row, message):
    with pytest.raises((ValueError, TypeError), match=message):
        EGMFDataCollator(make_processor())([row])
