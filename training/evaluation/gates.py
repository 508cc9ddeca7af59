"""The weights of the experts over examples: whether the gate distinguishes examples, or has collapsed.

predictions of a results file, or weights during training ─► gate_figures ─► entropy, share and spread per expert
                                                                 └─► find_collapse ─► a warning, or None
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


# N examples  E experts

MIN_SPREAD = 0.01  # below it for every expert, the gate gives all examples the same weights
MIN_EXAMPLES = 20  # fewer say too little for a warning
ADVICE = (
    "Pretrain the fusion (--fusion_pretraining_epochs 6), or raise --fusion_learning_rate: under the language model "
    "alone the gate learns little."
)


def expert_weights(predictions: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, list[str]]:
    """Weights (N, E) of a results file's predictions, and the names of the experts."""
    names = list(predictions[0]["experts"])
    weights = np.array([[prediction["experts"][name] for name in names] for prediction in predictions])
    return weights, names


def gate_figures(weights: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """What the gate does.

    Args:
        weights: (N, E) of the second stage, each row with a sum of 1.
        names: of the experts.

    Returns:
        `entropy`: mean over examples, divided by that of equal weights (0: one expert alone, 1: all alike; None for a
        single expert); `share`: expert -> mean weight; `spread`: expert -> standard deviation over examples.
    """
    entropy = None
    if len(names) > 1:
        logarithms = np.log(np.clip(weights, 1e-12, None))
        entropy = float(-(weights * logarithms).sum(axis=1).mean() / np.log(len(names)))
    return {
        "entropy": entropy,
        "share": dict(zip(names, weights.mean(axis=0).tolist(), strict=True)),
        "spread": dict(zip(names, weights.std(axis=0).tolist(), strict=True)),
    }


def gate_metrics(figures: Mapping[str, Any]) -> dict[str, float]:
    """Figures of `gate_figures` by flat names, for logs: `gate_entropy`, `gate_share_local`, `gate_spread_local`."""
    metrics = {} if figures["entropy"] is None else {"gate_entropy": figures["entropy"]}
    for name in figures["share"]:
        metrics[f"gate_share_{name}"] = figures["share"][name]
        metrics[f"gate_spread_{name}"] = figures["spread"][name]
    return metrics


def gate_spread(predictions: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Expert -> standard deviation of its weight over the predictions of a results file."""
    return gate_figures(*expert_weights(predictions))["spread"]


def find_collapse(figures: Mapping[str, Any], num_examples: int, gate: str = "two_stage") -> str | None:
    """A sentence about a gate that gives all examples the same weights, with what to change; None if it does not.

    Args:
        figures: from `gate_figures`.
        num_examples: N.
        gate: the model's `config.gate`; a uniform one cannot collapse.
    """
    largest = max(figures["spread"].values())
    active = [name for name, share in figures["share"].items() if share > 0]  # --experts gives the others no weight
    if gate == "uniform" or len(active) == 1 or num_examples < MIN_EXAMPLES or largest >= MIN_SPREAD:
        return None
    shares = ", ".join(f"{name} {share:.2f}" for name, share in figures["share"].items())
    form = "all experts alike" if figures["entropy"] > 0.99 else f"always {shares}"
    return (
        f"The gate has collapsed: over {num_examples} examples no expert's weight varies by more than {largest:.4f} "
        f"(standard deviation), {form}. {ADVICE}"
    )
