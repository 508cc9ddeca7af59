"""The files of a run that a report is made from, checked."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from processing_egmf import EGMFTask

from ..records import Each, check_shape, read_json, weights_digest
from .calibration import Calibration
from .run_records import NUMBER, read_results, read_training
from .subsets import full_subset


CEILINGS = "ceilings.json"
DESCRIPTIONS = ("metric", "split", "note")  # entries of a task's ceilings that are text


@dataclass
class RunFiles:
    """The files of a run.

    Args:
        run: its folder.
        results: from `egmf evaluate`; empty if the run was not evaluated.
        record: `training.json`; empty without one, as in a checkpoint from elsewhere.
        ceilings: best possible figures of the demo corpus; empty where none are known.
        calibration: task -> modalities -> temperature, exponent and uniform weight, as stored in the checkpoint.
    """

    run: Path
    results: dict[str, Any] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)
    ceilings: dict[str, Any] = field(default_factory=dict)
    calibration: dict[str, Calibration] = field(default_factory=dict)

    @property
    def subsets(self) -> dict[str, Any]:
        """Subset of the modalities -> its results."""
        return self.results.get("subsets", {})

    @property
    def full(self) -> str:
        """The largest subset that was evaluated: all modalities, if it is among them."""
        full = full_subset(self.results)
        if full in self.subsets:
            return full
        return max(self.subsets, key=lambda name: name.count("+"), default=full)

    @property
    def tasks(self) -> dict[str, Any]:
        """The tasks' results with all modalities."""
        return self.subsets.get(self.full, {}).get("tasks", {})


def read_run(run: Path, dataset: Path | None = None, results_file: Path | None = None) -> RunFiles:
    """The files of a run.

    Args:
        run: its folder.
        dataset: folder of the corpus, for its `ceilings.json`; None to look for one in the run's folder.
        results_file: results to report; None for `results-test.json`, or the newest of another split.

    Raises:
        ValueError: the folder is no run; a file is not JSON or not what its name says; or the results are of another
            checkpoint.
    """
    if not run.is_dir():
        raise ValueError(f"{run} is not a folder. Give the folder of a run, --output_dir of its training.")
    record = read_training(run, for_report=True)
    if record.get("weights") not in (None, weights_digest(run)):
        raise ValueError(
            f"{run / 'training.json'} is the record of another run: the weights in {run} are others. Copy the folder "
            "again, or move the record away."
        )
    path = results_file or _find_results(run)
    if path is None and not record:
        raise ValueError(
            f"{run} is not a run: it has neither training.json nor results (results-test.json). Give --output_dir of "
            "a finished training, or evaluate a checkpoint first: egmf evaluate."
        )
    if results_file is not None and not results_file.is_file():
        raise ValueError(f"There is no {results_file}. Give --results the file that egmf evaluate wrote.")
    results = {} if path is None else read_results(path, run)
    if dataset is not None and not (dataset / CEILINGS).is_file():
        raise ValueError(f"{dataset} has no {CEILINGS}, which the demo corpus has. Leave out --dataset.")
    folders = [folder for folder in (dataset, run) if folder is not None]
    ceilings = next((folder / CEILINGS for folder in folders if (folder / CEILINGS).is_file()), None)
    return RunFiles(
        run, results, record, {} if ceilings is None else read_ceilings(ceilings), read_calibration(run, results)
    )


def read_ceilings(path: Path) -> dict[str, Any]:
    """Task -> subset of the modalities -> best possible figure, of the demo corpus.

    Raises:
        ValueError: not JSON, or not such a file.
    """
    ceilings = read_json(path)
    advice = f"It is not the {CEILINGS} of the demo corpus, or damaged. Build the corpus again, or move the file away."
    check_shape(ceilings, Each(Each((*NUMBER, str, type(None)))), path, advice)
    figures = {
        task: {name: value for name, value in entries.items() if name not in DESCRIPTIONS}
        for task, entries in ceilings.items()
    }
    check_shape(figures, Each(Each((*NUMBER, type(None)))), path, advice)
    check_shape(ceilings, {"emotion": {"chance": NUMBER}}, path, advice)
    return ceilings


def _find_results(run: Path) -> Path | None:
    if (run / "results-test.json").is_file():
        return run / "results-test.json"
    return max(run.glob("results-*.json"), key=lambda path: path.stat().st_mtime, default=None)


def read_calibration(run: Path, results: Mapping[str, Any]) -> dict[str, Calibration]:
    """Task -> calibration in the checkpoint; those of the results file for a folder without a processor."""
    tasks = stored_tasks(run)
    if not tasks:
        tasks = {name: EGMFTask.from_dict(fields, name) for name, fields in (results.get("tasks") or {}).items()}
    return {name: task.calibration for name, task in tasks.items()}


def stored_tasks(run: Path) -> dict[str, EGMFTask]:
    """The tasks of a checkpoint's processor, by name; empty without a processor.

    Raises:
        ValueError: not JSON, or not the configuration of a processor.
    """
    path = run / "processor_config.json"
    if not path.exists():
        return {}
    processor = read_json(path)
    advice = "It is not the processor of an EGMF checkpoint, or damaged. Copy it again."
    check_shape(processor, {"tasks": [{"name": str}]}, path, advice)
    try:
        return {task["name"]: EGMFTask.from_dict(task) for task in processor["tasks"]}
    except ValueError as error:
        raise ValueError(f"{path}: {error} {advice}") from error
