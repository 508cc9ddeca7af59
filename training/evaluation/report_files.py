"""The files of a run that a report is made from, checked."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..records import read_json, weights_digest
from .calibration import Calibration
from .subsets import full_subset


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
    record = _read_object(run / "training.json", "log_history")
    path = results_file or _find_results(run)
    if path is None and not record:
        raise ValueError(
            f"{run} is not a run: it has neither training.json nor results (results-test.json). Give --output_dir of "
            "a finished training, or evaluate a checkpoint first: egmf evaluate."
        )
    if results_file is not None and not results_file.is_file():
        raise ValueError(f"There is no {results_file}. Give --results the file that egmf evaluate wrote.")
    results = {} if path is None else _read_object(path, "subsets")
    if results.get("weights") is not None and results["weights"] != weights_digest(run):
        raise ValueError(
            f"{path} has the results of another checkpoint than {run}: its weights are others. Evaluate this one: "
            f"egmf evaluate --model_name_or_path {run} --overwrite."
        )
    folders = [folder for folder in (dataset, run) if folder is not None]
    ceilings = next((folder / "ceilings.json" for folder in folders if (folder / "ceilings.json").is_file()), None)
    return RunFiles(
        run, results, record, {} if ceilings is None else _read_object(ceilings), read_calibration(run, results)
    )


def _find_results(run: Path) -> Path | None:
    if (run / "results-test.json").is_file():
        return run / "results-test.json"
    return max(run.glob("results-*.json"), key=lambda path: path.stat().st_mtime, default=None)


def _read_object(path: Path, key: str | None = None) -> dict[str, Any]:
    """A JSON object with a key that it must have; empty if the file does not exist."""
    if not path.is_file():
        return {}
    content = read_json(path)
    if not isinstance(content, dict) or (key is not None and not isinstance(content.get(key), dict | list)):
        raise ValueError(f"{path} does not have the entry {key!r} of such a file. Make it again, or give another one.")
    return content


def read_calibration(run: Path, results: Mapping[str, Any]) -> dict[str, Calibration]:
    """Task -> calibration in the checkpoint; those of the results file for a folder without a processor."""
    processor = _read_object(run / "processor_config.json")
    tasks = processor.get("tasks") or list(results.get("tasks", {}).values())
    return {task["name"]: task.get("calibration") or {} for task in tasks}
