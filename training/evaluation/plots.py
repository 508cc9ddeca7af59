"""The plots of a report, as PNG files. The only module that imports matplotlib: import it where a plot is drawn."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import confusion_matrix

from .subsets import SUBSET_NAMES


INK = "#2b3440"
MUTED = "#aeb7c2"
PALE = "#e3e8ee"
BLUE = "#3a6ea5"
RED = "#c8553d"
EXPERT_COLORS = (BLUE, RED, "#6a994e", "#8d6a9f")


def new_figure(width: float = 7.0, height: float = 4.0) -> tuple[Figure, Axes]:
    """A figure, sized in inches, without the top and right borders of its axes."""
    figure, axes = plt.subplots(figsize=(width, height), layout="constrained")
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def save_figure(figure: Figure, path: Path) -> str:
    """Write and close a figure. Returns the file's name."""
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path.name


def plot_training(record: dict[str, Any], path: Path) -> str:
    """Losses of fusion pretraining, training steps and evaluations.

    Args:
        record: `training.json` of the run.
        path: PNG file to write.
    """
    figure, axes = new_figure()
    pretraining = record["fusion_pretraining_losses"]
    history = record["log_history"]
    steps = [(entry["epoch"], float(entry["loss"])) for entry in history if "loss" in entry]
    evaluations = [(entry["epoch"], float(entry["eval_loss"])) for entry in history if "eval_loss" in entry]
    if pretraining:  # its epochs are drawn narrower: they take a small part of the time
        last_epoch = max([epoch for epoch, _ in steps], default=1.0)
        epochs = np.linspace(-last_epoch / 2, 0, len(pretraining))
        axes.plot(epochs, pretraining, color=MUTED, label="fusion pretraining (its head is discarded afterward)")
    if steps:
        axes.plot(*zip(*steps, strict=True), color=BLUE, label="training, per sample")
    if evaluations:
        axes.plot(*zip(*evaluations, strict=True), marker="o", color=RED, label="validation, per answer")
    axes.axvline(0, color=MUTED, linewidth=0.8)
    axes.set_xlabel("epoch with the language model")
    axes.set_ylabel("training: nats per token; validation: nats per answer")
    axes.set_title("Loss")
    axes.legend(frameon=False)
    return save_figure(figure, path)


def plot_learning(curves: dict[str, dict[str, list[tuple[float, float]]]], path: Path) -> str:
    """Figures of the evaluations during training, one panel per group of figures.

    Args:
        curves: title of a panel -> name of a curve -> (epoch, value) of each evaluation.
        path: PNG file to write.
    """
    figure, panels = plt.subplots(
        len(curves), 1, figsize=(7, 2.6 * len(curves)), layout="constrained", squeeze=False, sharex=True
    )
    for axes, (title, named) in zip(panels[:, 0], curves.items(), strict=True):
        for name, points in named.items():
            axes.plot(*zip(*points, strict=True), marker="o", markersize=4, label=name)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_title(title)
        axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    panels[-1, 0].set_xlabel("epoch")
    return save_figure(figure, path)


def plot_confusion(
    predictions: Sequence[dict[str, Any]], labels: Sequence[str], path: Path, title: str = "Emotion"
) -> str:
    """Confusion matrix: a row per true label, a column per predicted one, in shares of the row."""
    truth = [prediction["truth"] for prediction in predictions]
    predicted = [prediction["label"] for prediction in predictions]
    matrix = confusion_matrix(truth, predicted, labels=labels, normalize="true")
    side = max(5.0, 0.55 * len(labels))
    figure, axes = plt.subplots(figsize=(side + 0.6, side), layout="constrained")
    axes.imshow(matrix, cmap="Blues", vmin=0, vmax=1)
    for (row, column), share in np.ndenumerate(matrix):
        color = "white" if share > 0.5 else INK
        axes.text(column, row, f"{share:.2f}", ha="center", va="center", color=color, size=8)
    axes.set_xticks(range(len(labels)), labels, rotation=40, ha="right")
    axes.set_yticks(range(len(labels)), labels)
    axes.set(xlabel="predicted", ylabel="true", title=title)
    return save_figure(figure, path)


def plot_scores(
    predictions: Sequence[dict[str, Any]], limits: tuple[float, float], path: Path, title: str = "Sentiment"
) -> str:
    """Predicted median with its 90% interval against the true score."""
    figure, axes = new_figure(5.2, 5)
    truth = np.array([prediction["truth"] for prediction in predictions])
    medians = np.array([prediction["median"] for prediction in predictions])
    bounds = np.array([prediction["interval"] for prediction in predictions])  # (N, 2)
    axes.vlines(truth, bounds[:, 0], bounds[:, 1], color=MUTED, alpha=0.35, linewidth=1)
    axes.scatter(truth, medians, s=14, color=BLUE, zorder=3)
    axes.plot(limits, limits, color=RED, linewidth=1)
    axes.set(xlabel="true score", ylabel="predicted median, 90% interval", title=title)
    return save_figure(figure, path)


def plot_gates(predictions: Sequence[dict[str, Any]], labels: Sequence[str], path: Path) -> str:
    """Mean and standard deviation of each expert's weight, by true label."""
    figure, axes = new_figure(8, 4)
    experts = list(predictions[0]["experts"])
    spacing = 0.78 / len(experts)  # the bars of one label fill 0.78 of its slot
    for index, expert in enumerate(experts):
        weights = _weights_by_label(predictions, labels, expert)
        offset = (index - (len(experts) - 1) / 2) * spacing
        axes.bar(
            np.arange(len(labels)) + offset,
            [np.mean(group) if group else 0 for group in weights],
            0.92 * spacing,
            yerr=[np.std(group) if group else 0 for group in weights],
            label=expert,
            color=EXPERT_COLORS[index % len(EXPERT_COLORS)],
            error_kw={"ecolor": INK, "elinewidth": 1},
        )
    axes.axhline(1 / len(experts), color=MUTED, linewidth=0.8)
    axes.set_xticks(range(len(labels)), labels)
    axes.set_ylim(0, None)
    axes.set_ylabel("weight of the expert")
    axes.set_title("Gate weights (second stage), by true label")
    axes.legend(frameon=False, ncols=len(experts))
    return save_figure(figure, path)


def _weights_by_label(predictions: Sequence[dict[str, Any]], labels: Sequence[str], expert: str) -> list[list[float]]:
    """An expert's weights, one list for each label."""
    groups: dict[str, list[float]] = {label: [] for label in labels}
    for prediction in predictions:
        groups[prediction["truth"]].append(prediction["experts"][expert])
    return list(groups.values())


def plot_reliability(panels: dict[str, tuple[np.ndarray, np.ndarray]], path: Path, bins: int = 15) -> str:
    """How often answers of a given confidence are correct.

    Args:
        panels: title -> confidences (N,) and whether each answer is correct (N,).
        path: PNG file to write.
        bins: number of bins of equal width.
    """
    figure, columns = plt.subplots(1, len(panels), figsize=(5.2 * len(panels), 5), layout="constrained", squeeze=False)
    for axes, (title, (confidence, correct)) in zip(columns[0], panels.items(), strict=True):
        bin_index = np.minimum((confidence * bins).astype(int), bins - 1)
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1)
        for number in np.unique(bin_index):
            inside = bin_index == number
            accuracy = correct[inside].mean()
            center = (number + 0.5) / bins
            axes.bar(center, accuracy, 0.9 / bins, color=BLUE, alpha=0.8)
            axes.text(center, accuracy + 0.01, f"{inside.sum()}", ha="center", size=8, color=INK)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set(xlim=(0, 1), ylim=(0, 1.05), xlabel="confidence", ylabel="accuracy", title=title)
    return save_figure(figure, path)


def plot_overview(
    accuracies: dict[str, float], ceilings: dict[str, float] | None, faces: Path | None, path: Path
) -> str:
    """The image in the README: synthetic faces, and the accuracy of every subset next to its ceiling.

    Args:
        accuracies: emotion accuracies by subset of modalities.
        ceilings: best possible accuracies by subset, and `chance`.
        faces: PNG above the bars; None, or a file that does not exist, for none.
        path: PNG file to write.
    """
    if faces is not None and faces.is_file():
        figure, panels = plt.subplots(2, 1, figsize=(8, 7.6), layout="constrained", height_ratios=[1.65, 1])
        panels[0].imshow(plt.imread(faces))
        panels[0].axis("off")
        axes = panels[1]
    else:
        figure, axes = plt.subplots(figsize=(8, 3.2), layout="constrained")
    names = [name for name in SUBSET_NAMES if name in accuracies]
    positions = np.arange(len(names))
    if ceilings:
        bounds = [ceilings.get(name) or 0 for name in names]
        axes.bar(positions, bounds, 0.8, color=PALE, label="best possible")
        axes.axhline(ceilings["chance"], color=MUTED, linewidth=0.8, linestyle="--", label="chance")
    values = [accuracies[name] for name in names]
    axes.bar(positions, values, 0.55, color=BLUE, label="EGMF")
    for position, value in zip(positions, values, strict=True):
        axes.text(position, value / 2, f"{value:.2f}", ha="center", va="center", color="white", size=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xticks(positions, [name.replace("+", "\n+ ") for name in names])
    axes.set(ylabel="accuracy", ylim=(0, 1))
    axes.legend(frameon=False, ncols=3, loc="upper left")
    return save_figure(figure, path)


def plot_variants(panels: dict[str, dict[str, dict[str, Any]]], path: Path) -> str:
    """Mean and standard deviation of a metric for each variant of an experiment.

    Args:
        panels: title -> label of a bar -> summary over seeds.
        path: PNG file to write.
    """
    height = 0.6 + 0.42 * max(map(len, panels.values()))
    figure, columns = plt.subplots(1, len(panels), figsize=(5 * len(panels), height), layout="constrained")
    for axes, (title, bars) in zip(np.atleast_1d(columns), panels.items(), strict=True):
        positions = np.arange(len(bars))[::-1]  # the first on top
        means = [summary["mean"] for summary in bars.values()]
        errors = [summary["std"] or 0 for summary in bars.values()]
        axes.barh(positions, means, xerr=errors, color=BLUE, error_kw={"ecolor": INK, "elinewidth": 1})
        axes.set_yticks(positions, list(bars), size=8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_title(title)
    return save_figure(figure, path)


def plot_weights_by_group(panels: dict[str, dict[str, dict[str, float]]], path: Path) -> str:
    """Mean weights of the experts, stacked to 1, for groups of examples.

    Args:
        panels: title -> group -> expert -> mean weight.
        path: PNG file to write.
    """
    heights = [0.8 + 0.28 * len(groups) for groups in panels.values()]
    figure, rows = plt.subplots(
        len(panels), 1, figsize=(7, sum(heights)), height_ratios=heights, layout="constrained", squeeze=False
    )
    for axes, (title, groups) in zip(rows[:, 0], panels.items(), strict=True):
        positions = np.arange(len(groups))[::-1]  # the first on top
        left = np.zeros(len(groups))
        for index, expert in enumerate(next(iter(groups.values()))):
            weights = np.array([shares[expert] for shares in groups.values()])
            color = EXPERT_COLORS[index % len(EXPERT_COLORS)]
            axes.barh(positions, weights, 0.8, left=left, color=color, label=expert)
            left += weights
        axes.set_yticks(positions, list(groups), size=8)
        axes.set(xlim=(0, 1), title=title)
        axes.spines[["top", "right"]].set_visible(False)
    handles, names = rows[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, frameon=False, ncols=4, loc="outside upper center")
    return save_figure(figure, path)
