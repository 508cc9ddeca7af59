"""Timing of calls in turn: their order, and the medians."""

import torch

from training.benchmarks.cost.timing import ratio_interval, timed


def test_medians_by_hand(monkeypatch):
    now = 100.0
    calls = []
    durations = {"slow": iter([90.0, 1.0, 5.0, 2.0]), "fast": iter([80.0, 0.5, 0.25, 0.75])}

    def call(name):
        nonlocal now
        calls.append(name)
        now += next(durations[name])

    monkeypatch.setattr("training.benchmarks.cost.timing.time.perf_counter", lambda: now)
    functions = {"slow": lambda: call("slow"), "fast": lambda: call("fast")}
    times = timed(functions, repeats=3, device=torch.device("cpu"))
    assert calls == ["slow", "fast"] * 4  # the first round is not measured
    assert times["slow"] == {"median_s": 2.0, "min_s": 1.0, "max_s": 5.0}
    assert times["fast"] == {"median_s": 0.5, "min_s": 0.25, "max_s": 0.75}


def test_ratios_are_those_of_each_round():
    assert ratio_interval([2.0, 30.0, 4.0], [1.0, 10.0, 4.0]) == {"median": 2.0, "low": 1.0, "high": 3.0}
    assert ratio_interval([5.0], [2.0]) == {"median": 2.5, "low": 2.5, "high": 2.5}
