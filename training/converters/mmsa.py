"""MMSA's feature pickles: CMU-MOSI, CMU-MOSEI, CH-SIMS, CH-SIMS v2 and its semi-supervised file.

    python -m training.converters.mmsa unaligned_50.pkl data/mosei --corpus mosei

The pickle holds `{train, valid, test}` -> columns `raw_text`, `audio`, `vision`, `id`, `regression_labels`, lengths.
Transcripts, audio and video features, scores and ids are converted; BERT's inputs and outputs are not. The
semi-supervised file also has `train_mix`: its labeled rows are those of train, and the others become the split
`unlabeled`, whose `answer` is empty.

Only one example's arrays are in memory at a time: see core/pickles.py.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..data.split_names import SPLIT_NAMES
from ..data.text_files import shorten
from .core.arrays import common_width, repair_sequence
from .core.columns import typed_columns
from .core.command import make_parser, run
from .core.conversion_report import ConversionReport
from .core.corpus import Corpus
from .core.labels import check_label, check_single_label, clean_text, find_blind_splits, read_transcript
from .core.pickles import PickledArray, array_shape, read_pickle
from .core.splits import OFFICIAL, note_sizes


class Release(NamedTuple):
    """A corpus that MMSA distributes."""

    name: str
    task: str
    step: float | None  # distance between scores
    language: str
    sizes: tuple[int, int, int]  # examples of train, validation and test


CORPORA = {
    "mosi": Release("CMU-MOSI", "sentiment", None, "en", (1284, 229, 686)),
    "mosei": Release("CMU-MOSEI", "mosei", None, "en", (16326, 1871, 4659)),
    "sims": Release("CH-SIMS", "sims_v2", 0.2, "zh", (1368, 456, 457)),
    "sims_v2": Release("CH-SIMS v2", "sims_v2", 0.2, "zh", (2722, 647, 1034)),
}
MIXED = "train_mix"
UNLABELED = "unlabeled"
SINGLE_LABELS = {
    "regression_labels_T": "label_text",
    "regression_labels_A": "label_audio",
    "regression_labels_V": "label_video",
}
REQUIRED = ("id", "audio", "vision", "regression_labels")
OPTIONAL = ("raw_text", "audio_lengths", "vision_lengths", "mask")
MODALITIES = {"audio": "audio", "video": "vision"}  # modality -> column of the pickle


def plan(arguments: argparse.Namespace) -> Corpus:
    """Read the pickle, except the numbers of its arrays, and decide on every example.

    Raises:
        ValueError: the file is refused or broken, a split or column is missing, or columns differ in length.
    """
    from processing_egmf import BUILT_IN_TASKS

    release = CORPORA[arguments.corpus]
    report = ConversionReport()
    tables = read_tables(arguments.source)
    widths = {modality: _common_width(tables, column) for modality, column in MODALITIES.items()}
    for modality, width in widths.items():
        if width is None:
            raise ValueError(f"{arguments.source}: {MODALITIES[modality]} holds no vectors.")
    extra = {"video_id": "string", "clip_id": "string"}
    for column in sorted(SINGLE_LABELS.values()):
        if any(column in table for table in tables.values()):
            extra[column] = "float32"
    task = BUILT_IN_TASKS[release.task]
    examples = _plan_examples(tables, task, release.step, arguments.task, report)
    note_sizes(dict(zip(OFFICIAL, release.sizes, strict=True)), report)
    return Corpus(
        name=release.name,
        examples=examples,
        finish=finish,
        finish_options={"widths": widths},
        columns=typed_columns(task, widths["audio"], widths["video"], extra=extra),
        report=report,
        bytes_per_example=4 * sum(widths.values()) * _max_steps(tables),
        languages=[release.language],
        description=f"{release.name}, from the feature file `{arguments.source.name}` of the MMSA toolkit. The file "
        "does not say which extractors made the features. `answer` is the multimodal sentiment score.",
        settings={"converter": "mmsa", "corpus": arguments.corpus, "task": arguments.task},
        sources=[arguments.source],
        disjoint=arguments.corpus.startswith("sims"),
    )


# ---- tables: the splits of the pickle -------------------------------------------------------------------------


def read_tables(source: Path) -> dict[str, dict[str, Any]]:
    """The release's splits, each a dict of columns with one value per row."""
    splits = read_pickle(source)
    if not isinstance(splits, dict) or not splits:
        raise ValueError(f"{source} must hold a dict of splits, not {type(splits).__name__}.")
    unknown = [split for split in splits if split not in (*SPLIT_NAMES, MIXED)]
    missing = [split for split in ("train", "valid", "test") if split not in splits]
    if unknown or missing:
        raise ValueError(
            f"{source} has the splits {', '.join(map(clean_text, splits))[:500]}; expected train, valid, test, and "
            f"{MIXED} in the semi-supervised file."
        )
    return {split: _check_table(f"{source}, split {split!r}", split, splits[split]) for split in splits}


def _check_table(place: str, split: str, columns: Any) -> dict[str, Any]:
    """The columns that the conversion uses, all of the same length."""
    if not isinstance(columns, dict):
        raise ValueError(f"{place}: must hold a dict of columns, not {type(columns).__name__}.")
    required = REQUIRED if split == MIXED else (*REQUIRED, "raw_text")
    missing = [name for name in required if name not in columns]
    if missing:
        raise ValueError(f"{place}: no {', '.join(missing)}. It has {', '.join(map(clean_text, columns))[:500]}.")
    table = {name: columns[name] for name in required}
    for name in OPTIONAL:
        if columns.get(name) is not None:
            table[name] = columns[name]
    for released, name in SINGLE_LABELS.items():
        if columns.get(released) is not None:
            table[name] = columns[released]
    for name, column in table.items():
        if not isinstance(column, list | tuple | PickledArray):
            raise ValueError(f"{place}: {name} is a {type(column).__name__}, not a list or an array.")
    lengths = {name: len(column) for name, column in table.items()}
    for number, name in enumerate(table["id"]):
        if not isinstance(name, str | bytes | int) or isinstance(name, bool) or not clean_text(name):
            raise ValueError(f"{place}: the id of row {number} is {shorten(name)}; it must be text.")
    if not lengths["id"]:
        raise ValueError(f"{place}: has no rows. Was the file cut or merged?")
    if len(set(lengths.values())) > 1:
        raise ValueError(f"{place}: columns of different lengths: {lengths}. Was the file cut or merged?")
    return {name: column if name in MODALITIES.values() else list(column) for name, column in table.items()}


def _common_width(tables: dict[str, dict[str, Any]], column: str) -> int | None:
    shapes = []
    for table in tables.values():
        shapes += [_row_shape(table[column], index) for index in range(len(table["id"]))]
    return common_width(shape[-1] for shape in shapes if shape)


def _max_steps(tables: dict[str, dict[str, Any]]) -> int:
    """Largest number of steps in the first rows of all splits."""
    steps = [1]
    for table in tables.values():
        for column in MODALITIES.values():
            shape = _row_shape(table[column], 0) if table["id"] else ()
            steps += shape[:1]
    return max(steps)


def _row_shape(column: Any, index: int) -> tuple[int, ...]:
    """Shape of a row's array, without reading its data; () if it is not an array."""
    if isinstance(column, PickledArray):
        return column.shape[1:]
    return array_shape(column[index])


# ---- examples -------------------------------------------------------------------------------------------------


def _plan_examples(
    tables: dict[str, dict[str, Any]],
    task: Any,
    step: float | None,
    task_name: str | None,
    report: ConversionReport,
) -> dict[str, list[dict[str, Any]]]:
    """Map our splits to their examples: those with a usable score, and the unlabeled ones."""
    examples: dict[str, list[dict[str, Any]]] = {SPLIT_NAMES[split]: [] for split in tables if split != MIXED}
    train_ids = {clean_text(name) for name in tables["train"]["id"]}
    scores = [(split, score) for split in tables for score in map(_as_number, tables[split]["regression_labels"])]
    blind = find_blind_splits(((SPLIT_NAMES[split], score) for split, score in scores if split != MIXED), report)
    for split in sorted(tables, key=lambda name: name == MIXED):
        table = tables[split]
        for index in range(len(table["id"])):
            example = _plan_example(table, index, task, report)
            labeled = split != MIXED or "mask" not in table or _as_number(table["mask"][index]) == 1
            if split == MIXED and labeled and example["id"] in train_ids:
                report.note(f"labeled row of {MIXED} that is also in train", example["id"])
                continue
            home = SPLIT_NAMES.get(split, "train" if labeled else UNLABELED)
            report.read[home] += 1
            if labeled and home not in blind:
                example["answer"] = check_label(
                    task, example["answer"], example["id"], report, step, clamp=step is None
                )
                if example["answer"] is None:
                    continue
            else:
                example["answer"] = None
            example["task"] = task_name or task.name
            examples.setdefault(home, []).append(example)
    return examples


def _plan_example(table: dict[str, Any], index: int, task: Any, report: ConversionReport) -> dict[str, Any]:
    """Turn a row into an example; `answer` is its score as released."""
    name = clean_text(table["id"][index])
    video_id, separator, clip_id = name.partition("$_$" if "$_$" in name else "/")
    if not separator:
        report.note("id without a video: treated as a video of its own", name)
    example: dict[str, Any] = {
        "id": name,
        "text": read_transcript(table["raw_text"][index], name, report) if "raw_text" in table else "",
        "video_id": video_id,
        "clip_id": clip_id or None,
        "answer": _as_number(table["regression_labels"][index]),
        "arrays": {modality: _row_of(table[column], index) for modality, column in MODALITIES.items()},
    }
    for column in SINGLE_LABELS.values():
        if column in table:
            number = _as_number(table[column][index])
            score = math.nan if number is None else number
            example[column] = check_single_label(task, score, column, name, report)
    lengths = {}
    for modality, column in MODALITIES.items():
        values = table.get(f"{column}_lengths")
        lengths[modality] = None if values is None else _read_length(values[index], name, report)
    example["lengths"] = lengths
    return example


def _row_of(column: Any, index: int) -> tuple[Any, int | None]:
    """An array and a row index, or a list entry and None: a planned example does not hold the entire column."""
    if isinstance(column, PickledArray) and column.items is None:
        return column, index
    return column[index], None


def _as_number(value: Any) -> float | None:
    """A number, or the single number in an array; None for anything else."""
    try:
        numbers = np.asarray(None if isinstance(value, bool) else value, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError, OverflowError):
        return None
    return round(float(numbers[0]), 6) if len(numbers) == 1 else None


def _read_length(value: Any, example_id: str, report: ConversionReport) -> int | None:
    """Stated number of steps; None, with an entry in the report, if it is invalid."""
    length = _as_number(value)
    if length is None or not 0 <= length < 1e9:  # NaN too
        report.repair("invalid stated length: taken from the vectors", example_id)
        return None
    return int(length)


def finish(example: dict[str, Any], report: ConversionReport, widths: dict[str, int]) -> dict[str, Any] | None:
    """Read and repair the features of an example; None if nothing usable is left."""
    finished = {name: value for name, value in example.items() if name not in ("arrays", "lengths")}
    for modality, (array, index) in example["arrays"].items():
        finished[f"{modality}_features"] = repair_sequence(
            array if index is None else array[index],
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
    parser = make_parser(__doc__.splitlines()[0], "the pickle, such as unaligned_50.pkl or ch-simsv2s.pkl")
    parser.add_argument("--corpus", required=True, choices=list(CORPORA), help="corpus in SOURCE")
    run(parser, plan, argv)


if __name__ == "__main__":
    main()
