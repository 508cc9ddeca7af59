"""Tables of a report: every subset of the modalities with its figures, best possible ones, and calibration."""

from collections.abc import Mapping, Sequence
from typing import Any

from .calibration import calibration_figures
from .report_blocks import Table
from .report_files import RunFiles
from .subsets import SUBSET_NAMES
from .tables import MISSING, format_number, format_subset


RESULTS_HEADER = (
    "modalities",
    "emotion accuracy",
    "ceiling",
    "share of ceiling",
    "weighted F1",
    "sentiment MAE",
    "best possible",
    "correlation",
)
OF_CEILINGS = ("ceiling", "share of ceiling", "best possible")
LABEL_METRICS = {"accuracy": "accuracy", "weighted_f1": "weighted F1", "macro_f1": "macro F1"}
SCORE_METRICS = {"mae": "MAE", "correlation": "correlation", "correlation_of_mean": "correlation of the mean"}
SPEAKERS_SHOWN = 40


def results_table(results: dict[str, Any], ceilings: dict[str, Any]) -> Table:
    """The demo's two tasks, for every subset, next to the best possible figures if there are any."""
    names = [name for name in SUBSET_NAMES if name in results["subsets"]]
    shown = [index for index, column in enumerate(RESULTS_HEADER) if ceilings or column not in OF_CEILINGS]
    rows = [_results_row(name, results, ceilings) for name in names]
    return Table([RESULTS_HEADER[i] for i in shown], [[row[i] for i in shown] for row in rows])


def _results_row(subset: str, results: dict[str, Any], ceilings: dict[str, Any]) -> list[str]:
    tasks = results["subsets"].get(subset, {}).get("tasks", {})
    emotion = tasks.get("emotion", {}).get("metrics", {})
    sentiment = tasks.get("sentiment", {}).get("metrics", {})
    accuracy = emotion.get("accuracy")
    ceiling = ceilings.get("emotion", {}).get(subset)
    return [
        format_subset(subset),
        format_number(accuracy),
        format_number(ceiling),
        f"{accuracy / ceiling:.1%}" if accuracy is not None and ceiling else MISSING,
        format_number(emotion.get("weighted_f1")),
        format_number(sentiment.get("mae")),
        format_number(ceilings.get("sentiment", {}).get(subset)),
        format_number(sentiment.get("correlation")),
    ]


def subsets_of_task(files: RunFiles, task: str) -> dict[str, dict[str, Any]]:
    """Subset -> the task's results, in the usual order."""
    names = [name for name in SUBSET_NAMES if task in files.subsets.get(name, {}).get("tasks", {})]
    return {name: files.subsets[name]["tasks"][task] for name in names}


def task_table(files: RunFiles, task: str) -> Table:
    """Metrics of one task for every subset, next to the best possible figures if they are known."""
    parts = subsets_of_task(files, task)
    names = LABEL_METRICS if "label" in files.tasks[task]["predictions"][0] else SCORE_METRICS
    bounds = files.ceilings.get(task) or {}
    header = ["modalities", "examples", *names.values()]
    if bounds:
        header.insert(3, "best possible")
    rows = []
    for subset, part in parts.items():
        row = [format_subset(subset), part["examples"]]
        row += [format_number(part["metrics"].get(name)) for name in names]
        if bounds:
            row.insert(3, format_number(bounds.get(subset)))
        rows.append(row)
    return Table(header, rows)


def calibration_table(files: RunFiles, task: str) -> Table:
    """Confidence and accuracy of every subset, before and after calibration."""
    figures = {
        subset: calibration_figures(part["predictions"], files.calibration.get(task, {}))
        for subset, part in subsets_of_task(files, task).items()
    }
    rows = []
    if "label" in files.tasks[task]["predictions"][0]:
        header = ["modalities", "accuracy", "confidence", "calibrated"]
        header += ["calibration error", "calibrated", "of a calibrated model, by chance"]
        for subset, both in figures.items():
            before = both["before"]
            after = both.get("after", {})
            shown = after or before
            chance = f"{shown['error_by_chance']:.3f}, 95% below {shown['error_by_chance_95']:.3f}"
            numbers = [before["accuracy"], before["confidence"], after.get("confidence")]
            numbers += [before["error"], after.get("error")]
            rows.append([format_subset(subset), *map(format_number, numbers), chance])
        return Table(header, rows)
    header = [
        "modalities",
        "coverage of 90% intervals",
        "calibrated",
        "standard error",
        "width in steps",
        "calibrated",
    ]
    for subset, both in figures.items():
        before = both["before"]
        after = both.get("after", {})
        numbers = [before["coverage"], after.get("coverage"), before["coverage_deviation"]]
        widths = [before["interval_width"], after.get("interval_width")]
        widths_shown = [format_number(width, 1) for width in widths]
        rows.append([format_subset(subset), *map(format_number, numbers), *widths_shown])
    return Table(header, rows)


def speaker_table(predictions: Sequence[Mapping[str, Any]]) -> Table | None:
    """Accuracy, or mean absolute error, by the table's column `speaker`; None if there are not several speakers."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for prediction in predictions:
        speaker = (prediction.get("columns") or {}).get("speaker")
        if speaker is not None:
            groups.setdefault(str(speaker), []).append(prediction)
    if len(groups) < 2:
        return None
    has_labels = "label" in predictions[0]
    scores = {}
    for speaker, group in groups.items():
        errors = [mistake(prediction) for prediction in group]
        mean = sum(errors) / len(errors)
        scores[speaker] = 1 - mean if has_labels else mean
    worst_first = sorted(scores, key=scores.get, reverse=not has_labels)
    header = ["speaker", "examples", "accuracy" if has_labels else "MAE"]
    rows = [[name, len(groups[name]), format_number(scores[name])] for name in worst_first[:SPEAKERS_SHOWN]]
    return Table(header, rows)


def mistake(prediction: Mapping[str, Any]) -> float:
    """0 or 1 for a label, the absolute error of a score."""
    if "label" in prediction:
        return float(prediction["label"] != prediction["truth"])
    return abs(float(prediction["median"]) - float(prediction["truth"]))


def worst_table(predictions: Sequence[Mapping[str, Any]], count: int = 10) -> Table:
    """The mistakes that the model was surest of, or the largest errors, with the files of the clips."""
    wrong = [prediction for prediction in predictions if mistake(prediction) > 0]
    if "label" in predictions[0]:
        worst = sorted(wrong, key=lambda prediction: -prediction["score"])[:count]
        header = ["example", "true", "predicted", "confidence", "files"]
        rows = [[p["id"], p["truth"], p["label"], f"{p['score']:.2f}", _files(p)] for p in worst]
    else:
        worst = sorted(wrong, key=mistake, reverse=True)[:count]
        header = ["example", "true", "predicted", "90% interval", "files"]
        rows = [[p["id"], p["truth"], p["median"], "{:g} to {:g}".format(*p["interval"]), _files(p)] for p in worst]
    return Table(header, rows)


def _files(prediction: Mapping[str, Any]) -> str:
    return ", ".join((prediction.get("media") or {}).values()) or MISSING
