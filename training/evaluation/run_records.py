"""The records of a run that commands read again: results of `egmf evaluate`, and `training.json`, checked.

    results-SPLIT.json ─► read_results ─► report, calibration, gates, several seeds, experiments, model card
    training.json ─► read_training ─► the same, and evaluation and prediction

A record that is of another kind, of another version or of another checkpoint, or that was edited, is refused with the
entry that is wrong: a report never lacks something in silence, and never mixes two runs.
"""

import logging
import shlex
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from processing_egmf import MODALITIES

from ..data.csv_tables import parse_number
from ..data.text_files import check_value, shorten
from ..records import Each, check_shape, read_json, weights_digest


logger = logging.getLogger(__name__)

NUMBER = (int, float)
MAX_NUMBER = 1e9
TOLERANCE = 0.01  # of sums and scores that were rounded
PREDICTION = {
    "id": str,
    "truth": (str, *NUMBER),
    "label?": str,
    "score?": NUMBER,
    "median?": NUMBER,
    "interval?": [NUMBER],
    "probabilities": Each(NUMBER),
    "modalities": [str],
    "experts?": Each(NUMBER),
    "columns?": dict,
    "media?": Each(str),
}
SHOWN = ("accuracy?", "weighted_f1?", "macro_f1?", "mae?", "correlation?", "correlation_of_mean?")
METRICS = {**dict.fromkeys(SHOWN, NUMBER), "per_class_f1?": Each((*NUMBER, type(None)))}
TASK = {"examples": int, "metrics": METRICS, "predictions": [PREDICTION]}
RESULTS = {
    "subsets": Each({"left_out?": int, "tasks": Each(TASK)}),
    "model": str,
    "modalities?": [str],
    "config?": dict,
    "tasks?": Each(dict),
    "task_map?": dict,
    "weights?": str,
    "seconds?": NUMBER,
}
# What other commands than the report read, also from the records of other versions.
TRAINING = {
    "data_arguments": {
        "dataset?": str,
        "train_split?": str,
        "eval_split?": str,
        "split_manifest?": str,
        "encoder_cache?": str,
        "window_hop?": NUMBER,
        "modalities?": [str],
        "only_tasks?": [str],
        "where?": [str],
        "label_map?": [str],
    },
    "weights?": str,
}
REPORTED = {
    "log_history": [dict.fromkeys(("epoch?", "step?", "loss?", "eval_loss?"), (str, *NUMBER))],
    "seconds": {"all": NUMBER, "fusion_pretraining": NUMBER},
    "parameters": {"trained": int, "all": int},
    "examples": {"train": int},
    "fusion_pretraining_losses": [NUMBER],
}


def read_results(path: Path, run: Path | None = None) -> dict[str, Any]:
    """The content of a results file of `egmf evaluate`.

    Args:
        path: the file.
        run: the checkpoint that the results must be of; None for any.

    Raises:
        OSError: the file cannot be read.
        ValueError: not JSON, not such a file, or of another checkpoint.
    """
    results = read_json(path)
    advice = "It is not a results file of egmf evaluate, or damaged. Evaluate the run again (--overwrite)."
    if isinstance(results, dict) and "seeds" in results:
        raise ValueError(f"{path} holds figures of several runs (--seeds). Give the results file of one run.")
    check_shape(results, RESULTS, path, advice)
    check_value(results, str(path))
    if not results["subsets"]:
        raise ValueError(f"{path} has no results: no subset of the modalities was evaluated. {advice}")
    for subset, part in results["subsets"].items():
        names = subset.split("+")
        if names != [modality for modality in MODALITIES if modality in names]:
            raise ValueError(f"{path} has an unknown subset of the modalities, {subset!r}. {advice}")
        for task, figures in part["tasks"].items():
            problem = _find_problem(figures)
            if problem is not None:
                raise ValueError(f"{path}: {task}, {subset}: {problem}. {advice}")
    if run is not None:
        check_weights(results, path, run)
    return results


def _find_problem(figures: Mapping[str, Any]) -> str | None:
    """Why the predictions of a task are not those of one evaluation; None if they are."""
    predictions = figures["predictions"]
    if not predictions or len(predictions) != figures["examples"]:
        return f"{len(predictions)} predictions of {figures['examples']} examples"
    counts = Counter(prediction["id"] for prediction in predictions)
    repeated, times = counts.most_common(1)[0]
    if times > 1:
        return f"{times} predictions of {shorten(repeated)}"
    first = predictions[0]
    has_labels = "label" in first
    needed = ["label", "score"] if has_labels else ["median", "interval"]
    needed_metric = "accuracy" if has_labels else "mae"
    figure = figures["metrics"].get(needed_metric)
    if figure is None or not 0 <= figure <= (1 if has_labels else MAX_NUMBER):
        return f"the metrics have no {needed_metric}, or one that cannot be"
    groups = [name for name in ("probabilities", "experts") if name in first]
    for prediction in predictions:
        missing = [name for name in [*needed, *groups] if prediction.get(name) is None]
        name = prediction["id"]
        if missing:
            return f"the prediction of {name!r} has no {missing[0]}"
        if isinstance(prediction["truth"], str) != has_labels:
            return f"the truth of {name!r} is {prediction['truth']!r}"
        if len(prediction.get("interval", (0, 0))) != 2:
            return f"the interval of {name!r} is {prediction['interval']}"
        problem = _find_wrong_number(prediction)
        if problem is not None:
            return f"{problem} of {shorten(name)}"
        if has_labels and not {prediction["truth"], prediction["label"]} <= prediction["probabilities"].keys():
            return f"the label or the truth of {name!r} is none of its labels"
        for entry in groups:
            if prediction[entry].keys() != first[entry].keys() or not prediction[entry]:
                return f"the {entry} of {name!r} have other names than those of {first['id']!r}"
    return None


def _find_wrong_number(prediction: Mapping[str, Any]) -> str | None:
    """The part of a prediction whose numbers cannot be; None if there is none."""
    probabilities = prediction["probabilities"]
    experts = prediction.get("experts") or {}
    numbers = {
        "probabilities": [*probabilities.values()],
        "experts": [*experts.values()],
        "truth, score, median or interval": [
            *[prediction[name] for name in ("score", "median") if prediction.get(name) is not None],
            *(prediction.get("interval") or ()),
            *([] if isinstance(prediction["truth"], str) else [prediction["truth"]]),
        ],
    }
    for part, values in numbers.items():
        if not all(-MAX_NUMBER <= value <= MAX_NUMBER for value in values):  # NaN too
            return f"a number that is infinite, missing or too large in the {part}"
    if min(probabilities.values()) < 0 or abs(sum(probabilities.values()) - 1) > TOLERANCE:
        return "probabilities that do not add up to 1"
    if not all(0 <= weight <= 1 + TOLERANCE for weight in experts.values()):
        return "an expert's weight that is not from 0 to 1"
    modalities = prediction["modalities"]
    if not modalities or modalities != [name for name in MODALITIES if name in modalities]:
        return f"the modalities {shorten(prediction['modalities'])}"
    if isinstance(prediction["truth"], str):
        return None
    scores = [parse_number(key) for key in probabilities]
    if None in scores:
        return "probabilities that are not of scores"
    # A true score may be half a step outside of the scale.
    margin = TOLERANCE + (max(scores) - min(scores)) / max(2 * (len(scores) - 1), 1)
    if not min(scores) - margin <= prediction["truth"] <= max(scores) + margin:
        return f"the truth {prediction['truth']}, which is outside of the scores,"
    low, high = prediction["interval"]
    return None if low <= high else "an interval that ends before it starts"


def check_weights(record: Mapping[str, Any], path: Path, run: Path) -> None:
    """Refuse a record that was made with other weights than those in a run's folder.

    Raises:
        ValueError: the weights are others.
    """
    if record.get("weights") not in (None, weights_digest(run)):
        raise ValueError(
            f"{path} has the results of another checkpoint than {run}: its weights are others. Evaluate this one: "
            f"egmf evaluate --model_name_or_path {run} --overwrite."
        )


def read_training(run: Path, for_report: bool = False) -> dict[str, Any]:
    """`training.json` of a run; empty if it has none, as a checkpoint from elsewhere.

    Args:
        run: its folder.
        for_report: whether it must have the figures of the training.

    Raises:
        OSError: the file cannot be read.
        ValueError: not JSON, or not such a record.
    """
    path = run / "training.json"
    if not path.exists():
        return {}
    record = read_json(path)
    advice = "It is not the record of a training by this version, or damaged. Copy it again, or move it away."
    check_shape(record, TRAINING | REPORTED if for_report else TRAINING, path, advice)
    check_value(record, str(path))
    return record


def has_eval_split(data_arguments: Mapping[str, Any]) -> bool:
    """Whether a training left out a split, on which its run can be calibrated.

    Args:
        data_arguments: of `training.json`; empty without one.
    """
    split = data_arguments.get("eval_split")
    return split is None or split != data_arguments.get("train_split")


def trained_with_normalization(model: Path) -> bool:
    """Whether a run was trained with `--speaker_normalization`, according to `training.json`."""
    return bool((read_training(model).get("data_arguments") or {}).get("speaker_normalization"))


def warn_of_other_examples(model: Path, manifest: str, where: list[str] | None) -> None:
    """Warn if a run is evaluated on other splits than it was trained on, or on other values of columns.

    Args:
        model: its folder.
        manifest: `--split_manifest` of the evaluation.
        where: `--where` of the evaluation.
    """
    arguments = read_training(model).get("data_arguments") or {}
    trained_on = arguments.get("split_manifest", manifest)
    if trained_on != manifest:
        logger.warning(
            f"{model} was trained on the splits {trained_on!r} and is evaluated on {manifest!r}: it may have been "
            "trained on some of these examples."
        )
    trained_where = arguments.get("where")
    if trained_where and not where:
        logger.warning(
            f"{model} was trained on the examples with {' '.join(trained_where)} only, and is evaluated on all. For "
            f"the same ones, give --where {shlex.join(trained_where)}."
        )
