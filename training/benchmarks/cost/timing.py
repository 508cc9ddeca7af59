"""Timing of several calls in turn in one process, so that a busy machine slows them equally."""

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch


def measured_rounds(
    calls: dict[str, Callable[[], None]], repeats: int, device: torch.device
) -> dict[str, list[float]]:
    """Call each function in turn, `repeats` times after one unmeasured round.

    Args:
        calls: name -> function.
        repeats: measured rounds.
        device: synchronized before and after each call if it is a GPU.

    Returns:
        Name -> seconds of each call.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for round_number in range(repeats + 1):
        for name, call in calls.items():
            _synchronize(device)
            started = time.perf_counter()
            call()
            _synchronize(device)
            if round_number > 0:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def timed(calls: dict[str, Callable[[], None]], repeats: int, device: torch.device) -> dict[str, dict[str, float]]:
    """Name -> median, fastest and slowest call of `measured_rounds` in seconds."""
    return {
        name: {"median_s": statistics.median(times), "min_s": min(times), "max_s": max(times)}
        for name, times in measured_rounds(calls, repeats, device).items()
    }


def ratio_interval(times: list[float], reference: list[float]) -> dict[str, float]:
    """Median of the rounds' ratios, and its 95 % interval, from a bootstrap over the rounds.

    Args:
        times, reference: seconds of the same rounds.
    """
    ratios = np.divide(times, reference)
    resampled = np.random.default_rng(0).choice(ratios, size=(2000, len(ratios)))
    low, high = np.quantile(np.median(resampled, axis=1), [0.025, 0.975])
    return {"median": float(np.median(ratios)), "low": float(low), "high": float(high)}


def check_device(name: str) -> None:
    """Check that the device exists.

    Raises:
        ValueError: torch does not know the name, or the device does not exist.
    """
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # the latter without CUDA support
        reason = str(error).splitlines()[0]
        raise ValueError(f"--device {name} cannot be used: {reason}") from error


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
