"""Made-up results of one benchmark on real data."""

from typing import Any


def made_up_benchmark() -> dict[str, Any]:
    """A benchmark with one figure and two subsets, as far as the table shows it."""
    summary = {"n": 2, "mean": 0.5, "std": 0.125, "values": [0.4, 0.6]}
    return {
        "title": "Title",
        "about": "About.",
        "shown": ["accuracy"],
        "examples": {"train": 10, "inner": 2, "unused": 3, "validation": 4},
        "baseline": {"name": "ridge", "examples": 15, "figures": {"accuracy": 0.4}, "constant": {"accuracy": 0.1}},
        "egmf": {
            "seeds": [0, 1],
            "subsets": {"text": {"accuracy": summary}, "audio": {"accuracy": summary}},
            "everything": "audio",
            "confidence_intervals": {"accuracy": [0.3, 0.7]},
            "minutes": [1.0, 2.0],
            "trained_parameters": 1234,
        },
        "aims": {"accuracy": {"above": 0.4, "at_least": None, "reached": True}},
    }
