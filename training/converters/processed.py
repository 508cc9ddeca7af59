"""MELD and CHERMA as pickles of features, in the format distributed with MSE-Adapter.

    python -m training.converters.processed MELD data/meld_features --corpus meld

SOURCE holds `{meld,cherma}_{train,valid,test}.pkl`, each a list of `{"label", "features": {"text", "audio", "video",
"audio_len", "video_len"}}`. The arrays are padded; the padding is removed. There are no ids and no dialogues: an
example's id is its split and position. Only one example's arrays are in memory at a time: see core/pickles.py.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .core.arrays import common_width, repair_sequence
from .core.clips import check_different, find_file, list_files
from .core.columns import typed_columns
from .core.command import make_parser, run
from .core.conversion_report import ConversionReport
from .core.corpus import Corpus
from .core.labels import check_label, read_transcript
from .core.pickles import PickledArray, array_shape, read_pickle


if TYPE_CHECKING:
    from processing_egmf import EGMFTask


CORPORA = {"meld": ("MELD", "en"), "cherma": ("CHERMA", "zh")}
SPLITS = {"train": "train", "validation": "valid", "test": "test"}
FEATURES = ("text", "audio", "video", "audio_len", "video_len")
MODALITIES = ("audio", "video")
SAMPLED = 100  # examples whose arrays are measured


def plan(arguments: argparse.Namespace) -> Corpus:
    """Read the pickles, except the numbers of their arrays.

    Raises:
        FileNotFoundError: a pickle is missing.
        ValueError: a file is refused or broken, or an entry is not in this format.
    """
    from processing_egmf import BUILT_IN_TASKS

    name, language = CORPORA[arguments.corpus]
    task = BUILT_IN_TASKS[arguments.corpus]
    report = ConversionReport()
    files = list_files(arguments.source)
    examples: dict[str, list[dict[str, Any]]] = {}
    sources = []
    for split, released in SPLITS.items():
        path = find_file(files, [f"{arguments.corpus}_{released}.pkl"], arguments.source)
        sources.append(path)
        examples[split] = _plan_split(path, split, task, arguments.task, report)
    everything = [example for part in examples.values() for example in part]
    widths = {}
    for modality in MODALITIES:
        shapes = [array_shape(example["arrays"][modality]) for example in everything]
        widths[modality] = common_width(shape[-1] for shape in shapes if shape)
        if widths[modality] is None and everything:
            raise ValueError(f"{arguments.source}: {modality} holds no vectors.")
    check_different(sources)
    return Corpus(
        name=name,
        examples=examples,
        finish=finish,
        finish_options={"widths": widths},
        columns=typed_columns(task, widths["audio"], widths["video"]),
        report=report,
        bytes_per_example=_bytes_per_example(everything[:SAMPLED]),
        languages=[language],
        description=f"{name} as features with transcripts. The files say neither which extractors made the features "
        "nor which clip a row belongs to: ids are positions in the file, and there are no dialogues.",
        settings={"converter": "processed", "corpus": arguments.corpus, "task": arguments.task},
        sources=sources,
    )


def _plan_split(
    path: Path, split: str, task: "EGMFTask", task_name: str | None, report: ConversionReport
) -> list[dict[str, Any]]:
    entries = read_pickle(path)
    if not isinstance(entries, list | tuple):
        raise ValueError(f"{path} must hold a list, not a {type(entries).__name__}.")
    if not entries:
        raise ValueError(f"{path} has no entries. Download it again.")
    report.read[split] += len(entries)
    examples = []
    for number, entry in enumerate(entries):
        _check_entry(f"{path}, entry {number}", entry)
        example_id = f"{split}_{number:05d}"
        answer = check_label(task, entry["label"], example_id, report)
        if answer is None:
            continue
        features = entry["features"]
        lengths = {}
        for modality in MODALITIES:
            lengths[modality] = _read_length(features[f"{modality}_len"], example_id, report)
        examples.append(
            {
                "id": example_id,
                "task": task_name or task.name,
                "text": read_transcript(features["text"], example_id, report),
                "answer": answer,
                "arrays": {modality: features[modality] for modality in MODALITIES},
                "lengths": lengths,
            }
        )
    return examples


def _check_entry(place: str, entry: Any) -> None:
    features = entry.get("features") if isinstance(entry, dict) else None
    known = features if isinstance(features, dict) else {}
    missing = [key for key in FEATURES if key not in known]
    if missing:
        raise ValueError(f"{place}: no {', '.join(missing)}.")
    if "label" not in entry:
        raise ValueError(f"{place}: no label.")


def _read_length(value: Any, example_id: str, report: ConversionReport) -> int | None:
    """Stated number of steps; None, with an entry in the report, if it is invalid."""
    if isinstance(value, PickledArray) and len(value) == 1:
        value = value[0]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e9:
        report.repair("invalid stated length: taken from the vectors", example_id)
        return None
    return int(value)


def _bytes_per_example(examples: Sequence[dict[str, Any]]) -> int:
    arrays = [array for example in examples for array in example["arrays"].values()]
    total = sum(4 * int(np.prod(array_shape(array))) for array in arrays)
    return total // max(1, len(examples))


def finish(example: dict[str, Any], report: ConversionReport, widths: dict[str, int]) -> dict[str, Any] | None:
    """Read and repair the features of an example; None if nothing usable is left."""
    finished = {name: value for name, value in example.items() if name not in ("arrays", "lengths")}
    for modality in MODALITIES:
        finished[f"{modality}_features"] = repair_sequence(
            example["arrays"][modality],
            example["lengths"][modality],
            example["id"],
            modality,
            report,
            widths[modality],
        )
    if not finished["text"] and finished["audio_features"] is None and finished["video_features"] is None:
        report.drop("neither text nor features", example["id"])
        return None
    return finished


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__.splitlines()[0], "folder with the three pickles, at any depth")
    parser.add_argument("--corpus", required=True, choices=list(CORPORA), help="corpus in SOURCE")
    run(parser, plan, argv)


if __name__ == "__main__":
    main()
