"""The sections of a report, as blocks; pictures are drawn into the run's folder on the way."""

import importlib.util
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .calibration import Calibration, calibrate_predictions, read_distributions
from .gate_factors import analyze, describe_gate, has_experts, weights_by_group
from .report_blocks import Block, Heading, Paragraph, Picture, Table
from .report_files import RunFiles
from .report_tables import (
    calibration_table,
    results_table,
    speaker_table,
    subsets_of_task,
    task_table,
    worst_table,
)
from .run_records import has_eval_split
from .subsets import SUBSET_NAMES, full_subset
from .tables import format_number, format_subset


SYNTHETIC = (
    "The corpus is synthetic: voices and faces are generated, and the scores say nothing about people. They show "
    "whether the model uses every modality, and how close it comes to the best possible answer, which is computed "
    "exactly from the generator."
)
NO_PICTURES = (
    "This report has no plots, because matplotlib is not installed. Run `pip install matplotlib` and write it again."
)
CALIBRATION = (
    "Confidence is the mean probability of the answer; a calibrated model is right as often as its confidence says. "
    "The calibration error (15 bins of equal width) is never 0: with few examples even a calibrated model is measured "
    "to have the error in the last column, which is simulated."
)
CURVES = ("accuracy", "weighted_f1", "mae", "correlation")  # of evaluations during training
GATE_CURVES = ("gate_entropy", "gate_share", "gate_spread")

logger = logging.getLogger(__name__)


class Pictures:
    """Draws pictures into a folder, or nothing if matplotlib is not installed.

    Args:
        folder: of the report.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.plots: Any = None
        if importlib.util.find_spec("matplotlib") is not None:
            import matplotlib as mpl

            mpl.use("Agg")  # draws into files, without a display
            from . import plots

            self.plots = plots

    def draw(self, name: str, caption: str, draw: Callable[[Any, Path], str]) -> list[Block]:
        """One picture as a block; `draw` gets the module plots and the file to write."""
        if self.plots is None:
            return []
        return [Picture(draw(self.plots, self.folder / f"{name}.png"), caption)]


def write_sections(files: RunFiles) -> list[Block]:
    """All blocks of the report of a run."""
    pictures = Pictures(files.run)
    blocks: list[Block] = [Heading("Report", 1)]
    if files.ceilings:
        blocks.append(Paragraph(SYNTHETIC))
    if pictures.plots is None:
        logger.warning(NO_PICTURES.replace("`", ""))
        blocks.append(Paragraph(NO_PICTURES, warning=True))
    blocks.append(Paragraph(_describe_run(files)))
    if files.tasks:
        blocks += _overview(files, pictures)
        for task in files.tasks:
            blocks += _task_section(files, task, pictures)
        blocks += _gate_section(files, pictures)
    else:
        advice = f"The run was not evaluated. Next: `egmf evaluate --model_name_or_path {files.run} --dataset ...`."
        blocks.append(Paragraph(advice, warning=True))
    if files.record:
        blocks += _training_section(files.record, pictures)
    return blocks


def _describe_run(files: RunFiles) -> str:
    facts = []
    if files.tasks:
        split = str(files.results.get("split", "test"))
        counts = ", ".join(f"{part['examples']} examples of {task}" for task, part in files.tasks.items())
        facts.append(f"{split.capitalize()} split: {counts}.")
        if files.results.get("dataset"):
            facts.append(f"Dataset `{files.results['dataset']}`.")
        facts.append(f"Commit `{files.results.get('commit', 'unknown')}`.")
    if files.record:
        facts.append(f"Seed {files.record.get('seed')}.")
    return " ".join(facts) or "This run has a training record but no results."


def _file_name(kind: str, task: str) -> str:
    """A file's name without characters that a task's name may have."""
    return f"{kind}-" + (re.sub(r"[^a-zA-Z0-9]+", "-", task).strip("-") or "task")


# ---- results --------------------------------------------------------------------------------------------------


def _overview(files: RunFiles, pictures: Pictures) -> list[Block]:
    """The best possible figures of the demo, and the picture of the first task with labels."""
    blocks: list[Block] = []
    if files.ceilings and {"emotion", "sentiment"} <= set(files.tasks):
        chance = (
            f"Chance is {files.ceilings['emotion']['chance']:.3f}. Sentiment with text has no computed bound: the "
            "rating belongs to the sentence, and how well it can be predicted from the sentence is not known."
        )
        blocks += [
            Heading("Every subset of the modalities"),
            results_table(files.results, files.ceilings),
            Paragraph(chance),
        ]
    task = next((task for task, part in files.tasks.items() if "accuracy" in part["metrics"]), None)
    if task is None:
        return blocks
    accuracies = {name: part["metrics"]["accuracy"] for name, part in subsets_of_task(files, task).items()}
    bounds = files.ceilings.get(task)
    faces = files.run / "faces.png"
    return blocks + pictures.draw(
        "overview",
        f"Accuracy of {task} by modalities",
        lambda plots, path: plots.plot_overview(accuracies, bounds, faces, path),
    )


def _task_section(files: RunFiles, task: str, pictures: Pictures) -> list[Block]:
    part = files.tasks[task]
    predictions = part["predictions"]
    blocks: list[Block] = [Heading(f"Task {task}"), task_table(files, task)]
    available = set(full_subset(files.results).split("+"))
    possible = [name for name in SUBSET_NAMES if set(name.split("+")) <= available]
    missing = [name for name in possible if name not in files.subsets]
    if missing:
        names = ", ".join(map(format_subset, missing))
        blocks.append(Paragraph(f"Not evaluated: {names}. `egmf evaluate --subsets every` evaluates them all."))
    largest = format_subset(files.full)
    if "label" in predictions[0]:
        labels = list(predictions[0]["probabilities"])
        blocks += pictures.draw(
            _file_name("confusion", task),
            f"Confusion of {task}, {largest}: a row per true label",
            lambda plots, path: plots.plot_confusion(predictions, labels, path, f"{task}, {largest}"),
        )
        per_class = part["metrics"].get("per_class_f1")
        if per_class:
            rows = [[label, format_number(value)] for label, value in per_class.items()]
            blocks.append(Table(["label", "F1"], rows))
    else:
        values = [float(key) for key in predictions[0]["probabilities"]]
        limits = (min(values), max(values))
        blocks += pictures.draw(
            _file_name("scores", task),
            f"Scores of {task}, {largest}, with 90% intervals",
            lambda plots, path: plots.plot_scores(predictions, limits, path, f"{task}, {largest}"),
        )
    blocks += _calibration_section(files, task, pictures)
    speakers = speaker_table(predictions)
    if speakers is not None:
        blocks += [Heading(f"Speakers, {task}, worst first", 3), speakers]
    blocks += [Heading(f"Worst mistakes, {task}, {largest}", 3), worst_table(predictions)]
    return blocks


def _calibration_section(files: RunFiles, task: str, pictures: Pictures) -> list[Block]:
    """Confidence beside accuracy for every subset, and the diagram of reliability for all modalities."""
    predictions = files.tasks[task]["predictions"]
    calibration = files.calibration.get(task, {})
    blocks: list[Block] = [Heading(f"Calibration, {task}", 3)]
    has_labels = "label" in predictions[0]
    if has_labels:
        blocks.append(Paragraph(CALIBRATION))
    blocks.append(calibration_table(files, task))
    if calibration:
        blocks.append(Paragraph(describe_calibration(calibration, has_labels)))
    else:
        advice = "Its training left no split on which it could be."
        if has_eval_split(files.record.get("data_arguments") or {}):
            advice = f"`egmf calibrate {files.run}` does it."
        blocks.append(Paragraph(f"The checkpoint is not calibrated. {advice}"))
    if not has_labels:
        return blocks
    probabilities, truth = read_distributions(predictions)
    panels = {"as the model says": probabilities}
    calibrated = calibrate_predictions(predictions, calibration)
    if calibrated is not None:
        panels["calibrated"] = calibrated
    shown = {name: (rows.max(axis=1), rows.argmax(axis=1) == truth) for name, rows in panels.items()}
    return blocks + pictures.draw(
        _file_name("reliability", task),
        f"Reliability of {task}, {format_subset(files.full)}: accuracy by confidence, with counts",
        lambda plots, path: plots.plot_reliability(shown, path),
    )


def describe_calibration(calibration: Calibration, has_labels: bool) -> str:
    """What is stored in the checkpoint, in words."""
    fitted = []
    for name, numbers in calibration.items():
        others = f", {numbers.get('exponent', 1.0):.2f} and {numbers['uniform_weight']:.2f}" if has_labels else ""
        fitted.append(f"{format_subset(name)} {numbers['temperature']:.2f}{others}")
    if has_labels:
        return f"In the checkpoint, temperature, exponent and weight of equal probabilities: {'; '.join(fitted)}."
    widened = "Their square roots say by how much they widen a distribution."
    return f"Temperatures in the checkpoint: {', '.join(fitted)}. {widened}"


# ---- the gate -------------------------------------------------------------------------------------------------


def _gate_section(files: RunFiles, pictures: Pictures) -> list[Block]:
    record = analyze(files.results)
    if not record["tasks"]:
        return []
    text = (
        "How the gate weighs the experts: mean weights and their spread over examples, and what they depend on, with "
        "the p-value of a permutation test."
    )
    blocks: list[Block] = [Heading("The gate"), Paragraph(text)]
    with_labels = [task for task in record["tasks"] if "label" in files.tasks[task]["predictions"][0]]
    if with_labels and has_experts(files.tasks[with_labels[0]]):
        predictions = files.tasks[with_labels[0]]["predictions"]
        labels = list(predictions[0]["probabilities"])
        blocks += pictures.draw(
            "gates",
            f"Weights of the experts by true label of {with_labels[0]}",
            lambda plots, path: plots.plot_gates(predictions, labels, path),
        )
    panels = weights_by_group(record)
    if panels:
        blocks += pictures.draw(
            "gates-by-group",
            "Mean weights of the experts by group",
            lambda plots, path: plots.plot_weights_by_group(panels, path),
        )
    for task, part in record["tasks"].items():
        blocks += [Heading(f"{task}, {part['examples']} examples", 3), *describe_gate(part)]
    return blocks


# ---- training -------------------------------------------------------------------------------------------------


def _training_section(record: dict[str, Any], pictures: Pictures) -> list[Block]:
    blocks: list[Block] = [Heading("Training"), Paragraph(_describe_training(record))]
    blocks += pictures.draw("training", "Losses", lambda plots, path: plots.plot_training(record, path))
    curves = learning_curves(record["log_history"])
    if curves:
        blocks += pictures.draw(
            "learning", "Evaluations during training", lambda plots, path: plots.plot_learning(curves, path)
        )
    else:
        blocks.append(Paragraph("The model was not evaluated during training."))
    return blocks


def _describe_training(record: dict[str, Any]) -> str:
    seconds = record["seconds"]
    parameters = record["parameters"]
    since = " since it was resumed" if record.get("resumed_from") else ""
    pretraining = "without fusion pretraining"
    if record["fusion_pretraining_losses"]:
        pretraining = f"fusion pretraining ended after {seconds['fusion_pretraining'] / 60:.1f}"
    return (
        f"Training took {seconds['all'] / 60:.1f} minutes{since}; {pretraining}. "
        f"{parameters['trained']:,} of {parameters['all']:,} parameters were trained, on "
        f"{record['examples']['train']:,} examples."
    )


def learning_curves(history: list[dict[str, Any]]) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Title of a panel -> name -> (epoch, value) of each evaluation, from `log_history` of `training.json`."""
    curves: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for entry in history:
        for key, value in entry.items():
            name = key.removeprefix("eval_")
            metric = next((metric for metric in CURVES if name.endswith(f"_{metric}")), None)
            gate = next((kind for kind in GATE_CURVES if name.startswith(kind)), None)
            panel = metric or gate
            if name == key or panel is None or not isinstance(value, int | float) or not np.isfinite(value):
                continue
            named = curves.setdefault(panel.replace("_", " "), {})
            named.setdefault(name, []).append((entry["epoch"], float(value)))
    return curves
