"""Calibrates a finished run: answers on its validation split ─► calibration ─► its processor_config.json.

The calibration is a field of each task, so that it travels with the checkpoint. calibration.py fits them; the
options are in training/calibrate.py.
"""

import dataclasses
import logging
from pathlib import Path
from typing import Any

from processing_egmf import EGMFTask
from processing_egmf.stored_processor_egmf import settings_checksums

from ..data.dataset_options import DatasetOptions
from ..data.locations import is_hub_id
from ..data.text_files import shorten
from ..options import DataArguments
from ..records import read_json, write_json
from .calibration import calibration_figures, fit_calibration
from .evaluator import EvaluationOptions, evaluate_checkpoint
from .report_files import stored_tasks
from .run_records import read_results, read_training
from .subsets import full_subset
from .tables import format_number, format_subset, markdown_table


PROCESSOR = "processor_config.json"
FEW_EXAMPLES = 50  # for three numbers of each subset

logger = logging.getLogger(__name__)


def calibrate(
    run: Path,
    results_file: Path | None = None,
    dataset: str | None = None,
    split: str | None = None,
    encoder_cache: str | None = None,
    **evaluation: Any,
) -> str:
    """Fit temperatures, exponents and uniform weights on the validation split and store them in the checkpoint.

    Args:
        run: folder of the run.
        results_file: results with every subset of the modalities; None for `results-SPLIT.json` of the run, which is
            made if it does not exist.
        dataset: None for that of the training.
        split: None for the validation split of the training.
        encoder_cache: None for that of the training, if it had one.
        evaluation: other fields of `EvaluationOptions`.

    Returns:
        A table of them, and of the figures on the validation split before and after.

    Raises:
        ValueError: the folder is no checkpoint; no dataset is known; the split is the test split, or that of the
            training; or the results are of another checkpoint, or lack subsets.
    """
    if not (run / PROCESSOR).is_file():
        raise ValueError(f"{run} is not a checkpoint: it has no {PROCESSOR}. Give the folder of a finished run.")
    data_arguments = read_training(run).get("data_arguments") or {}
    of_training = data_arguments.get("dataset") if dataset is None and results_file is None else None
    split = split or data_arguments.get("eval_split", "validation")
    if results_file is None:
        check_split(run, split, dataset or data_arguments.get("dataset"), data_arguments)
    path = results_file or run / f"results-{split}.json"
    if results_file is None and split != "test" and not path.is_file():
        dataset = dataset or data_arguments.get("dataset")
        if dataset is None:
            raise ValueError(f"{run} has no training.json that names its dataset. Give --dataset, or --results.")
        if not is_hub_id(dataset) and not Path(dataset).exists():
            raise ValueError(f"There is no dataset {dataset}, of {run}. Give --dataset, its new place, or --results.")
        options = EvaluationOptions(
            model_name_or_path=str(run),
            dataset=dataset,
            split=split,
            split_manifest=data_arguments.get("split_manifest", "official"),
            subsets=["every"],
            only_tasks=data_arguments.get("only_tasks"),
            where=data_arguments.get("where"),
            window_hop=data_arguments.get("window_hop"),
            encoder_cache=encoder_cache or data_arguments.get("encoder_cache") or None,
            reading=DatasetOptions.from_arguments(dataclasses.asdict(DataArguments()) | data_arguments),
            **evaluation,
        )
        if evaluate_checkpoint(options) is None:
            return ""  # another process writes
    elif not path.is_file() and split != "test":
        raise ValueError(f"{path} does not exist. Leave out --results to evaluate the run.")
    results = {"split": split} if split == "test" else read_results(path, run)
    check_split(run, results.get("split"), results.get("dataset"), data_arguments)
    check_results(results, path, run, dataset, None if results_file is not None else split)
    evaluated = results.get("dataset")
    if None not in (of_training, evaluated) and not is_same_dataset(of_training, evaluated):
        raise ValueError(
            f"{path} has the results of the dataset {evaluated}, not of {of_training}. Evaluate again with --subsets "
            f"every --overwrite, or give --results {path} to calibrate on them."
        )
    return store_calibration(run, results)


def is_same_dataset(first: str, second: str) -> bool:
    """Whether two names may be of one dataset: two folders that exist are compared, others by their last part, because
    they may have been moved."""
    if is_hub_id(first) and is_hub_id(second):
        return first == second
    paths = [Path(first).resolve(), Path(second).resolve()]
    if Path(first).name and Path(second).name and all(path.exists() for path in paths):
        return len({path.parent if path.is_file() else path for path in paths}) == 1
    names = {Path(first).name, Path(second).name}
    return len(names) == 1 or "" in names  # "" of the folder that was current


def check_split(run: Path, split: str | None, dataset: str | None, data_arguments: dict[str, Any]) -> None:
    """Refuse the split that a run was trained on, on which its answers are surer than on new clips.

    Args:
        run: its folder.
        split: to calibrate on.
        dataset: of the split.
        data_arguments: of the training, from training.json.
    """
    trained = data_arguments.get("dataset")
    is_same = None not in (dataset, trained) and is_same_dataset(dataset, trained)
    if is_same and split is not None and split == data_arguments.get("train_split"):
        raise ValueError(
            f"{run} was trained on the split {split!r}, on which its answers are surer than on new clips. Give "
            "--split, another one."
        )


def check_results(
    results: dict[str, Any], path: Path, run: Path, dataset: str | None, split: str | None = None
) -> None:
    """Refuse results that a calibration must not be fitted on; `split` is the one that the file must be of."""
    if results.get("split") == "test":
        raise ValueError(
            "A model is not calibrated on the test split: its figures would say nothing about new clips. Give --split "
            "validation."
        )
    again = "Evaluate again with --subsets every --overwrite, or give other --results."
    if split is not None and results.get("split", split) != split:
        raise ValueError(f"{path} has results of the split {shorten(results['split'])}, not of {split}. {again}")
    evaluated = results.get("dataset")
    if dataset is not None and evaluated is not None and Path(dataset).resolve() != Path(evaluated).resolve():
        raise ValueError(f"{path} has the results of the dataset {evaluated}, not of --dataset {dataset}. {again}")
    if results.get("experts"):
        raise ValueError(f"{path} has results of only some experts ({', '.join(results['experts'])}). {again}")
    stored = stored_tasks(run)
    evaluated_tasks = {task for part in results["subsets"].values() for task in part["tasks"]}
    if not evaluated_tasks:
        raise ValueError(f"{path} has no predictions. {again}")
    for name in sorted(evaluated_tasks):
        fields = (results.get("tasks") or {}).get(name)
        if name not in stored or (fields is not None and EGMFTask.from_dict(fields, name) != stored[name]):
            raise ValueError(
                f"{path} has results of a task {name!r} that is not the one of {run / PROCESSOR}, which has "
                f"{', '.join(stored)}. {again}"
            )
        for part in results["subsets"].values():
            if name in part["tasks"]:
                check_answers(part["tasks"][name]["predictions"][0], stored[name], path)
    subsets = results["subsets"]
    count = len(full_subset(results).split("+"))
    if len(subsets) < 2**count - 1:
        raise ValueError(
            f"{path} has {', '.join(subsets)}, but every subset of the modalities is calibrated. Evaluate again "
            "with --subsets every --overwrite."
        )


def check_answers(prediction: dict[str, Any], task: EGMFTask, path: Path) -> None:
    """Refuse predictions of other answers than the task has; all predictions of a file have the same."""
    if set(prediction["probabilities"]) != set(task.answer_keys):
        raise ValueError(
            f"{path} has probabilities of {shorten(list(prediction['probabilities']))} for the task {task.name!r}, "
            f"whose answers are {shorten(task.answer_keys)}. Evaluate again with --subsets every --overwrite."
        )


def _warn_of_few_examples(task: str, results: dict[str, Any]) -> None:
    parts = {subset: part["tasks"][task] for subset, part in results["subsets"].items() if task in part["tasks"]}
    subset = min(parts, key=lambda name: parts[name]["examples"])
    if parts[subset]["examples"] < FEW_EXAMPLES:
        logger.warning(
            f"{task} is calibrated on only {parts[subset]['examples']} examples with {format_subset(subset)}: fewer "
            f"than {FEW_EXAMPLES} say little about how sure it should be. Compare before and after on another split."
        )


def store_calibration(run: Path, results: dict[str, Any]) -> str:
    """Fit, write into the checkpoint; returns the table that `calibrate` returns."""
    stored = read_json(run / PROCESSOR)
    rows = []
    for task in stored["tasks"]:
        if not any(task["name"] in part["tasks"] for part in results["subsets"].values()):
            continue
        task["calibration"] = fit_calibration(results["subsets"], task["name"])
        _warn_of_few_examples(task["name"], results)
        for subset, part in results["subsets"].items():
            if task["name"] not in part["tasks"]:
                continue
            figures = calibration_figures(part["tasks"][task["name"]]["predictions"], task["calibration"])
            before = figures["before"]
            after = figures["after"]
            name = "error" if "error" in before else "coverage"
            fitted = task["calibration"].get(subset, {})
            rows.append(
                [
                    task["name"],
                    format_subset(subset),
                    part["tasks"][task["name"]]["examples"],
                    format_number(fitted.get("temperature"), 2),
                    format_number(fitted.get("exponent"), 2),
                    format_number(fitted.get("uniform_weight"), 2),
                    "calibration error" if name == "error" else "coverage of 90% intervals",
                    format_number(before[name]),
                    format_number(after[name]),
                ]
            )
    if stored.pop("settings_checksum", None) is not None:
        stored["settings_checksum"] = settings_checksums(stored)
    path = write_json(run / PROCESSOR, stored)
    numbers = ("temperature", "exponent", "uniform weight")
    header = ["task", "modalities", "examples", *numbers, "figure", "before", "after"]
    return "\n".join(
        [
            *markdown_table(header, rows),
            "",
            f"These are the examples that all three were fitted on. Stored in {path}; next: egmf evaluate on "
            f"the test split, then egmf report {run}.",
        ]
    )
