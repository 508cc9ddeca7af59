"""`report.md` and its plots, from a results JSON and a training record alone.

python -m training.evaluation.report --run runs/demo --dataset data/demo
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from sklearn.metrics import confusion_matrix

from ..data.collator import SUBSETS
from .evaluator import subset_name


INK, MUTED = "#2b3440", "#aeb7c2"
SUBSET_NAMES = [subset_name(subset) for subset in SUBSETS]
EVERYTHING = SUBSET_NAMES[-1]


def _figure(width: float = 7.0, height: float = 4.0) -> tuple[Any, Any]:
    figure, axes = plt.subplots(figsize=(width, height), layout="constrained")
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _save(figure: Any, path: Path) -> str:
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path.name


def plot_training(record: dict[str, Any], path: Path) -> str:
    """Loss of the warm-up's epochs and of the steps with the language model, and the evaluations' loss."""
    figure, axes = _figure()
    warm = record["fusion_pretraining_losses"]
    steps = [(entry["epoch"], float(entry["loss"])) for entry in record["log_history"] if "loss" in entry]
    evals = [(entry["epoch"], float(entry["eval_loss"])) for entry in record["log_history"] if "eval_loss" in entry]
    last = max([epoch for epoch, _ in steps], default=1.0)
    if warm:  # each warm-up epoch is drawn narrower: it takes a small part of the time
        axes.plot(np.linspace(-last / 2, 0, len(warm)), warm, color=MUTED, label="warm-up (head dropped afterwards)")
    axes.plot(*zip(*steps, strict=True), color="#3a6ea5", label="training, per sample")
    axes.plot(*zip(*evals, strict=True), marker="o", color="#c8553d", label="validation, per answer")
    axes.axvline(0, color=MUTED, linewidth=0.8)
    units = "training: nats a token; validation: nats an answer"
    axes.set(xlabel="epoch with the language model", ylabel=units, title="Loss")
    axes.legend(frameon=False)
    return _save(figure, path)


def plot_confusion(predictions: list[dict], labels: list[str], path: Path) -> str:
    """Rows: the truth; columns: what was answered; shares of each row."""
    truth, said = [p["truth"] for p in predictions], [p["label"] for p in predictions]
    matrix = confusion_matrix(truth, said, labels=labels, normalize="true")
    figure, axes = plt.subplots(figsize=(5.6, 5), layout="constrained")
    axes.imshow(matrix, cmap="Blues", vmin=0, vmax=1)
    for i, row in enumerate(matrix):
        for j, share in enumerate(row):
            axes.text(j, i, f"{share:.2f}", ha="center", va="center", color="white" if share > 0.5 else INK, size=8)
    axes.set_xticks(range(len(labels)), labels, rotation=40, ha="right")
    axes.set_yticks(range(len(labels)), labels)
    axes.set(xlabel="answered", ylabel="true", title="Emotion, all modalities")
    return _save(figure, path)


def plot_scores(predictions: list[dict], limits: tuple[float, float], path: Path) -> str:
    """Predicted median with its 90 % interval against the truth."""
    figure, axes = _figure(5.2, 5)
    truth = np.array([p["truth"] for p in predictions])
    said = np.array([p["score"] for p in predictions])
    bounds = np.array([p["interval"] for p in predictions])
    axes.vlines(truth, bounds[:, 0], bounds[:, 1], color=MUTED, alpha=0.35, linewidth=1)
    axes.scatter(truth, said, s=14, color="#3a6ea5", zorder=3)
    axes.plot(limits, limits, color="#c8553d", linewidth=1)
    axes.set(xlabel="true score", ylabel="predicted median, 90 % interval", title="Sentiment, all modalities")
    return _save(figure, path)


def plot_gates(predictions: list[dict], labels: list[str], path: Path) -> str:
    """Mean and standard deviation of each expert's weight, by true emotion."""
    figure, axes = _figure(8, 4)
    names = list(predictions[0]["experts"])
    for k, name in enumerate(names):
        groups = [[p["experts"][name] for p in predictions if p["truth"] == label] for label in labels]
        places = np.arange(len(labels)) + (k - (len(names) - 1) / 2) * 0.26
        axes.bar(
            places,
            [np.mean(group) if group else 0 for group in groups],
            0.24,
            yerr=[np.std(group) if group else 0 for group in groups],
            label=name,
            color=["#3a6ea5", "#c8553d", "#6a994e", "#8d6a9f"][k % 4],
            error_kw={"ecolor": INK, "elinewidth": 1},
        )
    axes.axhline(1 / len(names), color=MUTED, linewidth=0.8)
    axes.set_xticks(range(len(labels)), labels)
    axes.set(ylim=(0, None), ylabel="weight of the expert", title="Gate weights (second stage), by true emotion")
    axes.legend(frameon=False, ncols=len(names))
    return _save(figure, path)


def plot_reliability(predictions: list[dict], path: Path, bins: int = 10) -> str:
    """How often answers of a given confidence are right."""
    confidence = np.array([p["score"] for p in predictions])
    right = np.array([p["label"] == p["truth"] for p in predictions])
    places = np.minimum((confidence * bins).astype(int), bins - 1)
    figure, axes = _figure(5.2, 5)
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1)
    for b in range(bins):
        rows = places == b
        if rows.any():
            axes.bar((b + 0.5) / bins, right[rows].mean(), 0.9 / bins, color="#3a6ea5", alpha=0.8)
            axes.text((b + 0.5) / bins, right[rows].mean() + 0.01, f"{rows.sum()}", ha="center", size=8, color=INK)
    axes.set(xlim=(0, 1), ylim=(0, 1.05), xlabel="confidence", ylabel="accuracy", title="Reliability (counts above)")
    return _save(figure, path)


def plot_overview(emotion: dict[str, dict], ceilings: dict[str, float] | None, faces: Path | None, path: Path) -> str:
    """The README's picture: synthetic faces, and accuracy of every subset beside its ceiling."""
    tall = faces is not None and faces.is_file()
    figure, panels = plt.subplots(
        2 if tall else 1,
        1,
        figsize=(8, 7.6 if tall else 3.2),
        layout="constrained",
        height_ratios=[1.65, 1] if tall else None,
    )
    axes = panels[1] if tall else panels
    if tall:
        panels[0].imshow(plt.imread(faces))
        panels[0].axis("off")
    names = [name for name in SUBSET_NAMES if name in emotion]
    places = np.arange(len(names))
    if ceilings:
        axes.bar(places, [ceilings.get(name) or 0 for name in names], 0.8, color="#e3e8ee", label="best possible")
        axes.axhline(ceilings["chance"], color=MUTED, linewidth=0.8, linestyle="--", label="chance")
    found = [emotion[name]["metrics"]["accuracy"] for name in names]
    axes.bar(places, found, 0.55, color="#3a6ea5", label="EGMF")
    for place, value in zip(places, found, strict=True):
        axes.text(place, value / 2, f"{value:.2f}", ha="center", va="center", color="white", size=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xticks(places, [name.replace("+", "\n+ ") for name in names])
    axes.set(ylabel="emotion accuracy", ylim=(0, 1))
    axes.legend(frameon=False, ncols=3, loc="upper left")
    return _save(figure, path)


def gate_spread(predictions: list[dict]) -> dict[str, float]:
    """Standard deviation over samples of each expert's weight: near 0 for all means that the gate collapsed."""
    return {name: float(np.std([p["experts"][name] for p in predictions])) for name in predictions[0]["experts"]}


def results_table(results: dict[str, Any], ceilings: dict[str, Any]) -> list[str]:
    def number(value: float | None) -> str:
        return "–" if value is None else f"{value:.3f}"

    lines = [
        "| modalities | emotion accuracy | ceiling | share of ceiling | weighted F1 | sentiment MAE | best possible "
        "| correlation |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in SUBSET_NAMES:
        tasks = results["subsets"].get(name, {}).get("tasks", {})
        emotion = tasks.get("emotion", {}).get("metrics", {})
        sentiment = tasks.get("sentiment", {}).get("metrics", {})
        ceiling = ceilings.get("emotion", {}).get(name)
        accuracy = emotion.get("accuracy")
        share = f"{accuracy / ceiling:.1%}" if accuracy is not None and ceiling else "–"
        lines.append(
            f"| {name.replace('+', ' + ')} | {number(accuracy)} | {number(ceiling)} | {share} "
            f"| {number(emotion.get('weighted_f1'))} | {number(sentiment.get('mae'))} "
            f"| {number(ceilings.get('sentiment', {}).get(name))} | {number(sentiment.get('correlation'))} |"
        )
    return lines


def write_report(run: Path, data: Path, results_file: Path | None = None) -> Path:
    """Plots and `report.md` into the run's folder.

    Raises:
        ValueError: the run was not evaluated, or not on both of the demo's tasks with all modalities.
    """
    plt.switch_backend("Agg")  # pictures go to files: no screen is needed
    results_file = results_file or run / "results-test.json"
    for path in (results_file, run / "training.json"):
        if not path.is_file():
            raise ValueError(
                f"There is no {path}: a report needs a finished run and its results (training.evaluation.evaluator)."
            )
    results = json.loads(results_file.read_text(encoding="utf-8"))
    record = json.loads((run / "training.json").read_text(encoding="utf-8"))
    ceilings_file = data / "ceilings.json"
    ceilings = json.loads(ceilings_file.read_text(encoding="utf-8")) if ceilings_file.is_file() else {}
    by_subset = {name: part["tasks"] for name, part in results["subsets"].items()}
    whole = by_subset.get(EVERYTHING, {})
    if not {"emotion", "sentiment"} <= set(whole):
        raise ValueError(
            f"{results_file} has {', '.join(whole) or 'nothing'} for all modalities; a report shows the tasks of "
            "the demo, emotion and sentiment. The card of any other run is made by training.hub.upload --dry-run."
        )
    emotions = whole["emotion"]["predictions"]
    scores = whole["sentiment"]["predictions"]
    labels = list(emotions[0]["probabilities"])
    scale = [float(value) for value in scores[0]["probabilities"]]
    emotion = {name: tasks["emotion"] for name, tasks in by_subset.items() if "emotion" in tasks}
    pictures = [
        plot_overview(emotion, ceilings.get("emotion"), run / "faces.png", run / "overview.png"),
        plot_training(record, run / "training.png"),
        plot_confusion(emotions, labels, run / "confusion.png"),
        plot_scores(scores, (min(scale), max(scale)), run / "sentiment.png"),
        plot_gates(emotions, labels, run / "gates.png"),
        plot_reliability(emotions, run / "reliability.png"),
    ]
    spread = gate_spread(emotions)
    lines = [
        "# Report",
        "",
        "A synthetic corpus: voices and faces are made by a program, and the scores say nothing about people. They "
        "show whether the model reads every modality and how close it comes to the best possible answer, which is "
        "computed exactly from the generator.",
        "",
        f"Test split: {whole['emotion']['rows']} clips with an emotion, {whole['sentiment']['rows']} with a sentiment "
        f"score in [{min(scale):g}, {max(scale):g}]. Seed {record['seed']}, commit `{results['commit']}`.",
        "",
        *results_table(results, ceilings),
        "",
        f"Chance is {ceilings.get('emotion', {}).get('chance', 0):.3f}. Sentiment with text has no computed bound: "
        "the rating belongs to the sentence, and how well a sentence can be read is not known.",
        "",
        f"Calibration error of the emotion's probabilities: {whole['emotion']['metrics']['calibration_error']:.3f}. "
        f"The 90 % interval of the sentiment holds {whole['sentiment']['metrics']['interval_coverage']:.1%} of the "
        "truths.",
        "",
        "Spread of the gate over test clips (standard deviation of each expert's weight; 0: a collapsed gate): "
        + ", ".join(f"{name} {value:.3f}" for name, value in spread.items())
        + ".",
        "",
        f"Training took {record['seconds']['all'] / 60:.1f} minutes"
        + (" since it was resumed" if record.get("resumed_from") else "")
        + f", with a warm-up that ended after {record['seconds']['fusion_pretraining'] / 60:.1f}. "
        f"{record['parameters']['trained']:,} of {record['parameters']['all']:,} parameters were trained.",
        "",
        *[f"![{Path(name).stem}]({name})\n" for name in pictures],
    ]
    path = run / "report.md"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--results", type=Path)
    arguments = parser.parse_args(argv)
    print(f"report: {write_report(arguments.run, arguments.dataset, arguments.results)}")


if __name__ == "__main__":
    main()
