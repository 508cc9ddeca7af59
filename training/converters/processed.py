"""MELD and CHERMA as pickles of features, in the form that comes with MSE-Adapter.

    python -m training.converters.processed MELD data/meld_features --corpus meld

SOURCE holds `{meld,cherma}_{train,valid,test}.pkl`, each a list of `{"label", "features": {"text", "audio", "video",
"audio_len", "video_len"}}`. The arrays come padded; the padding goes. There are no ids and no dialogues: a row is
called by its split and place. The files are never read as a whole: see pickles.py.
"""

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np

from processing_egmf import BUILT_IN_TASKS

from .core.arrays import common_width, repair_sequence
from .core.clips import files_below, find_file
from .core.columns import typed_columns
from .core.command import make_parser, run
from .core.conversion_report import ConversionReport
from .core.labels import check_answer, clean_text
from .core.pickles import PickledArray, read_pickle
from .core.shards import Corpus


CORPORA = {"meld": ("MELD", "en"), "cherma": ("CHERMA", "zh")}
SPLITS = {"train": "train", "validation": "valid", "test": "test"}
FEATURES = ("text", "audio", "video", "audio_len", "video_len")
MODALITIES = ("audio", "video")


def plan(arguments: argparse.Namespace) -> Corpus:
    """Read the pickles' indices.

    Raises:
        FileNotFoundError: a pickle is missing.
        ValueError: a refused or broken file, or an entry that is not in this form.
    """
    name, language = CORPORA[arguments.corpus]
    task, report = BUILT_IN_TASKS[arguments.corpus], ConversionReport()
    files = files_below(arguments.source)
    rows: dict[str, list[dict[str, Any]]] = {}
    sources = []
    for split, released in SPLITS.items():
        path = find_file(files, [f"{arguments.corpus}_{released}.pkl"], arguments.source)
        sources.append(path)
        entries = read_pickle(path)
        if not isinstance(entries, list | tuple):
            raise ValueError(f"{path} must hold a list, not a {type(entries).__name__}.")
        report.read[split] += len(entries)
        rows[split] = []
        for number, entry in enumerate(entries):
            features = entry.get("features") if isinstance(entry, dict) else None
            missing = [key for key in FEATURES if not isinstance(features, dict) or key not in features]
            if missing or "label" not in entry:
                raise ValueError(f"{path}, entry {number}: no {', '.join(missing or ['label'])}.")
            identity = f"{split}_{number:05d}"
            answer = check_answer(task, entry["label"], identity, report)
            if answer is not None:
                rows[split].append(
                    {
                        "id": identity,
                        "task": arguments.task or task.name,
                        "text": clean_text(features["text"]),
                        "answer": answer,
                        "arrays": tuple(features[modality] for modality in MODALITIES),
                        "lengths": tuple(_length(features[f"{m}_len"], identity, report) for m in MODALITIES),
                    }
                )
    everything = [row for part in rows.values() for row in part]
    widths = tuple(common_width(_width(row["arrays"][place]) for row in everything) for place in range(2))
    for modality, width in zip(MODALITIES, widths, strict=True):
        if width is None and everything:
            raise ValueError(f"{arguments.source}: {modality} holds no vectors.")
    for row in everything:
        row["widths"] = widths
    sizes = [4 * int(np.prod(_shape(array))) for row in everything[:100] for array in row["arrays"]]
    return Corpus(
        name=name,
        rows=rows,
        finish=finish,
        columns=typed_columns(task, *widths),
        report=report,
        bytes_per_row=sum(sizes) // max(1, min(100, len(everything))),
        card={
            "language": [language],
            "task_categories": ["video-classification"],
            "text": f"{name} as features beside the words. The files tell neither which extractors made them nor "
            "which clip a row is: ids are the place in the file, and dialogues cannot be put together.",
        },
        settings={"converter": "processed", "corpus": arguments.corpus, "task": arguments.task},
        sources=sources,
    )


def _length(value: Any, name: str, report: ConversionReport) -> int | None:
    number = value[0] if isinstance(value, PickledArray) and len(value) == 1 else value
    if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number < 1e9:
        report.repair("stated length is no length: found from the vectors", name)
        return None
    return int(number)


def _shape(array: Any) -> tuple[int, ...]:
    try:
        return array.shape if isinstance(array, PickledArray) else np.shape(array)
    except ValueError:  # lists of different lengths
        return ()


def _width(array: Any) -> int | None:
    return _shape(array)[-1] if _shape(array) else None


def finish(row: dict[str, Any], report: ConversionReport) -> dict[str, Any] | None:
    """Read and repair the vectors of a row."""
    finished = {key: value for key, value in row.items() if key not in ("arrays", "lengths", "widths")}
    for modality, array, length, width in zip(MODALITIES, row["arrays"], row["lengths"], row["widths"], strict=True):
        finished[f"{modality}_features"] = repair_sequence(array, length, row["id"], modality, report, width)
    if not finished["text"] and finished["audio_features"] is None and finished["video_features"] is None:
        report.drop("neither words nor features", row["id"])
        return None
    return finished


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__.splitlines()[0], "folder with the three pickles, in any folder below it")
    parser.add_argument("--corpus", required=True, choices=list(CORPORA), help="which corpus it is")
    run(parser, plan, argv)


if __name__ == "__main__":
    main()
