"""Writes `report.md` and the plots of a run on the demo corpus, from its results and its training record.

egmf report --run runs/demo --dataset data/demo

results-test.json, training.json, ceilings.json ─► plots.py ─► report.md
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..records import read_json, write_text
from .gates import gate_spread
from .subsets import SUBSET_NAMES, full_subset
from .tables import MISSING, format_number, format_subset, markdown_table


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
SYNTHETIC = (
    "The corpus is synthetic: voices and faces are generated, and the scores say nothing about people. They show "
    "whether the model uses every modality, and how close it comes to the best possible answer, which is computed "
    "exactly from the generator."
)


@dataclass
class RunFiles:
    """The files that a report is made from.

    Args:
        results: from `egmf evaluate`, with both tasks of the demo for all modalities.
        record: `training.json`.
        ceilings: best possible figures; empty where none are known.
    """

    results: dict[str, Any]
    record: dict[str, Any]
    ceilings: dict[str, Any]

    @property
    def tasks(self) -> dict[str, Any]:
        """The tasks' results with all modalities."""
        return self.results["subsets"][full_subset(self.results)]["tasks"]


def results_table(results: dict[str, Any], ceilings: dict[str, Any]) -> list[str]:
    """Markdown table of every subset that was evaluated, next to the best possible figures if there are any."""
    names = [name for name in SUBSET_NAMES if name in results["subsets"]]
    shown = [index for index, column in enumerate(RESULTS_HEADER) if ceilings or column not in OF_CEILINGS]
    rows = [_results_row(name, results, ceilings) for name in names]
    return markdown_table([RESULTS_HEADER[i] for i in shown], [[row[i] for i in shown] for row in rows])


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


def read_run(run: Path, dataset: Path, results_file: Path | None = None) -> RunFiles:
    """The files of a run.

    Args:
        run: folder with `training.json` and, unless another file is given, `results-test.json`.
        dataset: folder of the corpus; its `ceilings.json` is optional.
        results_file: results of another evaluation.

    Raises:
        ValueError: the run was not evaluated, or not on both of the demo's tasks with all modalities.
    """
    results_file = results_file or run / "results-test.json"
    for path in (results_file, run / "training.json"):
        if not path.is_file():
            raise ValueError(f"There is no {path}: a report needs a finished run and its results (`egmf evaluate`).")
    results = read_json(results_file)
    record = read_json(run / "training.json")
    ceilings_file = dataset / "ceilings.json"
    ceilings = read_json(ceilings_file) if ceilings_file.is_file() else {}
    tasks = results["subsets"].get(full_subset(results), {}).get("tasks", {})
    if not {"emotion", "sentiment"} <= set(tasks):
        raise ValueError(
            f"{results_file} has {', '.join(tasks) or 'nothing'} for all modalities; a report shows the tasks of the "
            "demo, emotion and sentiment. For the model card of any other run, use `egmf push --dry_run`."
        )
    return RunFiles(results, record, ceilings)


def draw_plots(files: RunFiles, run: Path) -> list[str]:
    """Draw every plot into the run's folder. Returns the names of the files."""
    import matplotlib as mpl

    mpl.use("Agg")  # draws into files, without a display
    from . import plots

    emotions = files.tasks["emotion"]["predictions"]
    scores = files.tasks["sentiment"]["predictions"]
    labels = list(emotions[0]["probabilities"])
    accuracies = {
        name: part["tasks"]["emotion"]["metrics"]["accuracy"]
        for name, part in files.results["subsets"].items()
        if "emotion" in part["tasks"]
    }
    return [
        plots.plot_overview(accuracies, files.ceilings.get("emotion"), run / "faces.png", run / "overview.png"),
        plots.plot_training(files.record, run / "training.png"),
        plots.plot_confusion(emotions, labels, run / "confusion.png"),
        plots.plot_scores(scores, _scale(scores), run / "sentiment.png"),
        plots.plot_gates(emotions, labels, run / "gates.png"),
        plots.plot_reliability(emotions, run / "reliability.png"),
    ]


def _scale(predictions: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """Lowest and highest score that can be answered."""
    values = [float(value) for value in predictions[0]["probabilities"]]
    return min(values), max(values)


def write_report(run: Path, dataset: Path, results_file: Path | None = None) -> Path:
    """Write plots and `report.md` into the run's folder. Arguments and errors are those of `read_run`."""
    files = read_run(run, dataset, results_file)
    plot_names = draw_plots(files, run)
    is_demo = bool(files.ceilings)
    paragraphs = [
        "# Report",
        *([SYNTHETIC] if is_demo else []),
        _describe_split(files),
        "\n".join(results_table(files.results, files.ceilings)),
        *([_describe_bounds(files.ceilings)] if is_demo else []),
        _describe_calibration(files),
        _describe_gate(files),
        _describe_training(files.record),
        *[f"![{Path(name).stem}]({name})" for name in plot_names],
    ]
    return write_text(run / "report.md", "\n\n".join(paragraphs) + "\n")


def _describe_bounds(ceilings: dict[str, Any]) -> str:
    return (
        f"Chance is {ceilings['emotion']['chance']:.3f}. Sentiment with text has no computed bound: the rating "
        "belongs to the sentence, and how well it can be predicted from the sentence is not known."
    )


def _describe_split(files: RunFiles) -> str:
    low, high = _scale(files.tasks["sentiment"]["predictions"])
    return (
        f"Test split: {files.tasks['emotion']['examples']} clips with an emotion, "
        f"{files.tasks['sentiment']['examples']} with a sentiment score in [{low:g}, {high:g}]. "
        f"Seed {files.record['seed']}, commit `{files.results['commit']}`."
    )


def _describe_calibration(files: RunFiles) -> str:
    calibration_error = files.tasks["emotion"]["metrics"]["calibration_error"]
    coverage = files.tasks["sentiment"]["metrics"]["interval_coverage"]
    return (
        f"Calibration error of the emotion's probabilities: {calibration_error:.3f}. "
        f"The 90% interval of the sentiment contains {coverage:.1%} of the true scores."
    )


def _describe_gate(files: RunFiles) -> str:
    spread = gate_spread(files.tasks["emotion"]["predictions"])
    figures = ", ".join(f"{expert} {value:.3f}" for expert, value in spread.items())
    return (
        "Spread of the gate over test clips (standard deviation of each expert's weight; 0 means a collapsed gate): "
        f"{figures}."
    )


def _describe_training(record: dict[str, Any]) -> str:
    seconds = record["seconds"]
    parameters = record["parameters"]
    since = " since it was resumed" if record.get("resumed_from") else ""
    return (
        f"Training took {seconds['all'] / 60:.1f} minutes{since}; fusion pretraining ended after "
        f"{seconds['fusion_pretraining'] / 60:.1f}. "
        f"{parameters['trained']:,} of {parameters['all']:,} parameters were trained."
    )
