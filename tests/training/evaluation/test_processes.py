"""Evaluation over processes: parts that cover all examples, and records merged in order."""

import multiprocessing
from types import SimpleNamespace

import pytest
import torch

from training.evaluation.processes import (
    choose_device,
    merge_over_processes,
    own_part,
    require_all,
    require_examples,
)


@pytest.mark.parametrize("count", [1, 2, 5, 6])
@pytest.mark.parametrize("processes", [1, 2, 4])
def test_parts_of_all_processes_cover_all_examples(count, processes):
    rows = [f"row {n}" for n in range(count)]
    parts = [
        own_part(rows, SimpleNamespace(process_index=process, num_processes=processes)) for process in range(processes)
    ]
    found = [pair for places, own in parts for pair in zip(places, own, strict=True)]
    assert sorted(found) == list(enumerate(rows))
    assert max(len(own) for _, own in parts) - min(len(own) for _, own in parts) <= 1


def test_devices(monkeypatch):
    for has_gpu, found in ((False, "cpu"), (True, "cuda")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda has_gpu=has_gpu: has_gpu)
        assert (choose_device(None), choose_device("cpu")) == (found, "cpu")
        with pytest.raises(ValueError, match="--device is 'tpu7'; give cpu or cuda"):
            choose_device("tpu7")
    assert choose_device("cuda:1") == "cuda:1"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="--device is 'cuda', but torch finds no GPU here. Give cpu"):
        choose_device("cuda")


def test_more_processes_than_examples_are_refused():
    require_examples(2, 2, "clips")
    with pytest.raises(ValueError, match=r"3 processes but only 2 clips\. Start at most 2"):
        require_examples(2, 3, "clips")


def _merge(process, processes, barrier, target, records, results):
    state = SimpleNamespace(
        process_index=process,
        num_processes=processes,
        is_main_process=process == 0,
        wait_for_everyone=barrier.wait,
    )
    try:
        results.put((process, merge_over_processes(state, records[process], target, ("place",))))
    except ValueError as error:
        results.put((process, str(error)))


def merged(tmp_path, *records):
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(len(records), timeout=60)
    results = context.Queue()
    workers = [
        context.Process(
            target=_merge,
            args=(n, len(records), barrier, tmp_path / "out.json", records, results),
        )
        for n in range(len(records))
    ]
    for worker in workers:
        worker.start()
    found = dict(results.get(timeout=60) for _ in workers)
    for worker in workers:
        worker.join(60)
    return found


def test_records_are_merged_in_order_and_unchanged(tmp_path):
    one = {"place": 3, "x": 0.1 + 0.2, "a": {"b": [1e-300]}}
    two = {"place": 0, "x": None, "text": "我很好\n"}
    (tmp_path / ".out.json.parts").mkdir()
    (tmp_path / ".out.json.parts/part-00002-of-00003.parquet").write_text("of a run that was stopped")
    found = merged(tmp_path, [one, two], [{"place": 1}], [])
    assert found == {0: [two, {"place": 1}, one], 1: None, 2: None}
    assert list(tmp_path.iterdir()) == []


def test_repeated_record_is_an_error(tmp_path):
    found = merged(tmp_path, [{"place": 0}], [{"place": 1}, {"place": 0}])
    assert "1 of 3 records repeat the place of another" in found[0]


def test_lost_examples_are_an_error():
    require_all([1, 0], 2)
    with pytest.raises(ValueError, match=r"Examples \[1\] of 3 are missing"):
        require_all([2, 0], 3)
