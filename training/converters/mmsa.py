"""MMSA's feature pickles: CMU-MOSI, CMU-MOSEI, CH-SIMS, CH-SIMS v2 and its semi-supervised file.

    python -m training.converters.mmsa unaligned_50.pkl data/mosei --corpus mosei

The pickle holds `{train, valid, test}` -> columns `raw_text`, `audio`, `vision`, `id`, `regression_labels`, lengths.
Words, audio and video features, scores and ids are taken; BERT's inputs and outputs are left behind. The
semi-supervised file has a `train_mix` too: its labeled rows are those of train, the others become the split
`unlabeled`, which has no answers.

The file is never read as a whole: see pickles.py.
"""

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np

from processing_egmf import BUILT_IN_TASKS

from .core.arrays import common_width, repair_sequence
from .core.columns import typed_columns
from .core.command import make_parser, run
from .core.conversion_report import ConversionReport
from .core.labels import check_answer, clean_text
from .core.pickles import PickledArray, read_pickle
from .core.shards import Corpus
from .core.splits import SPLIT_NAMES


# corpus -> full name, task, steps on which the scores lie, language
CORPORA: dict[str, tuple[str, str, float | None, str]] = {
    "mosi": ("CMU-MOSI", "sentiment", None, "en"),
    "mosei": ("CMU-MOSEI", "mosei", None, "en"),
    "sims": ("CH-SIMS", "sims_v2", 0.2, "zh"),
    "sims_v2": ("CH-SIMS v2", "sims_v2", 0.2, "zh"),
}
MIXED, UNLABELLED = "train_mix", "unlabeled"
SINGLE = {"T": "label_text", "A": "label_audio", "V": "label_video"}
NEEDED = ("id", "audio", "vision", "regression_labels")


def plan(arguments: argparse.Namespace) -> Corpus:
    """Read the pickle's index and decide on every row.

    Raises:
        ValueError: a refused or broken file, a missing split or column, or columns of different lengths.
    """
    name, task_name, _, language = CORPORA[arguments.corpus]
    task = BUILT_IN_TASKS[task_name]
    found = read_pickle(arguments.source)
    if not isinstance(found, dict) or not found:
        raise ValueError(f"{arguments.source} must hold a dict of splits, not {type(found).__name__}.")
    unknown = [split for split in found if split not in (*SPLIT_NAMES, MIXED)]
    missing = [split for split in ("train", "valid", "test") if split not in found]
    if unknown or missing:
        raise ValueError(
            f"{arguments.source} has the splits {', '.join(map(str, found))}; expected are train, valid, test, and "
            f"{MIXED} in the semi-supervised file."
        )
    report = ConversionReport()
    tables = {split: _table(arguments.source, split, found[split]) for split in found}
    widths = {
        column: common_width(
            shape[-1]
            for table in tables.values()
            for i in range(len(table["id"]))
            if (shape := _shape(table[column], i))
        )
        for column in ("audio", "vision")
    }
    for column, width in widths.items():
        if width is None:
            raise ValueError(f"{arguments.source}: {column} holds no vectors.")
    rows = _sort(arguments, tables, report)
    for row in (row for part in rows.values() for row in part):
        row["widths"] = (widths["audio"], widths["vision"])
    singles = {column for table in tables.values() for column in SINGLE.values() if column in table}
    first = [_shape(table[column], 0) for table in tables.values() for column in ("audio", "vision") if table["id"]]
    return Corpus(
        name=name,
        rows=rows,
        finish=finish,
        columns=typed_columns(
            task,
            *(widths[column] for column in ("audio", "vision")),
            extra={"video_id": "string", "clip_id": "string", **dict.fromkeys(sorted(singles), "float32")},
        ),
        report=report,
        bytes_per_row=4 * sum(widths.values()) * max([1, *(shape[0] for shape in first if shape)]),
        card={
            "language": [language],
            "task_categories": ["video-classification"],
            "text": f"{name}, from the feature file `{arguments.source.name}` of the MMSA toolkit. Which extractors "
            "made the features is not said in the file. `answer` is the multimodal sentiment score.",
        },
        settings={"converter": "mmsa", "corpus": arguments.corpus, "task": arguments.task},
        sources=[arguments.source],
        disjoint=arguments.corpus.startswith("sims"),
    )


def _table(source: Any, split: str, columns: Any) -> dict[str, Any]:
    """The columns that are of use, all of one length."""
    if not isinstance(columns, dict):
        raise ValueError(f"{source}, split {split!r}: must hold a dict of columns, not {type(columns).__name__}.")
    needed = (*NEEDED, *(() if split == MIXED else ("raw_text",)))
    missing = [name for name in needed if name not in columns]
    if missing:
        raise ValueError(f"{source}, split {split!r}: no {', '.join(missing)}. It has {', '.join(map(str, columns))}.")
    table = {name: columns[name] for name in needed}
    optional = ("raw_text", "audio_lengths", "vision_lengths", "mask")
    table |= {name: columns[name] for name in optional if columns.get(name) is not None}
    table |= {
        SINGLE[letter]: columns[f"regression_labels_{letter}"]
        for letter in SINGLE
        if columns.get(f"regression_labels_{letter}") is not None
    }
    for name, column in table.items():
        if not isinstance(column, list | tuple | PickledArray):
            raise ValueError(
                f"{source}, split {split!r}: {name} is a {type(column).__name__}, not a list or an array."
            )
    lengths = {name: len(column) for name, column in table.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"{source}, split {split!r}: columns of different lengths: {lengths}. Was it cut or joined?")
    return {name: list(column) if name not in ("audio", "vision") else column for name, column in table.items()}


def _sort(
    arguments: argparse.Namespace, tables: dict[str, dict[str, Any]], report: ConversionReport
) -> dict[str, list[dict[str, Any]]]:
    """Our split -> light rows whose scores can be used, or that never had one."""
    _, task_name, grid, _ = CORPORA[arguments.corpus]
    rows: dict[str, list[dict[str, Any]]] = {SPLIT_NAMES[split]: [] for split in tables if split != MIXED}
    in_train = {clean_text(identity) for identity in tables["train"]["id"]}
    for split in sorted(tables, key=lambda split: split == MIXED):
        for row, labeled in _rows(tables[split], report):
            home = SPLIT_NAMES.get(split, "train" if labeled else UNLABELLED)
            if split == MIXED and labeled and row["id"] in in_train:
                report.note(f"labeled row of {MIXED}, which train has as well", row["id"])
                continue
            report.read[home] += 1
            if labeled:
                row["answer"] = check_answer(BUILT_IN_TASKS[task_name], row["answer"], row["id"], report, grid)
                if row["answer"] is None:
                    continue
            rows.setdefault(home, []).append(row | {"task": arguments.task or task_name})
    return rows


def _rows(table: dict[str, Any], report: ConversionReport) -> list[tuple[dict[str, Any], bool]]:
    """Light rows, and whether each has a label."""
    found = []
    for i, identity in enumerate(table["id"]):
        name = clean_text(identity)
        video, mark, clip = name.partition("$_$" if "$_$" in name else "/")
        if not mark:
            report.note("id names no video: taken as a video of its own", name)
        row: dict[str, Any] = {
            "id": name,
            "text": clean_text(table["raw_text"][i]) if "raw_text" in table else "",
            "video_id": video,
            "clip_id": clip or None,
            "answer": _number(table["regression_labels"][i]),
            "arrays": (_entry(table["audio"], i), _entry(table["vision"], i)),
        }
        for column in SINGLE.values():
            if column in table:
                row[column] = _number(table[column][i])
        row["lengths"] = tuple(
            _length(table[column][i], name, report) if column in table else None
            for column in ("audio_lengths", "vision_lengths")
        )
        found.append((row, "mask" not in table or _number(table["mask"][i]) == 1))
        if not found[-1][1]:
            row["answer"] = None
    return found


def _entry(column: Any, index: int) -> tuple[Any, int | None]:
    """What a row keeps of a column: the array and its place in it, or its own entry of a list."""
    if isinstance(column, PickledArray) and column.items is None:
        return column, index
    return column[index], None


def _number(value: Any) -> float | None:
    """A label: a number, or an array of one number."""
    try:
        numbers = np.asarray(value, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError):
        return None
    return round(float(numbers[0]), 6) if len(numbers) == 1 else None


def _length(value: Any, name: str, report: ConversionReport) -> int | None:
    number = _number(value)
    if number is None or number != number or number < 0:
        report.repair("stated length is no length: found from the vectors", name)
        return None
    return int(number)


def _shape(column: Any, index: int) -> tuple[int, ...]:
    """Shape of a row's array, without reading it; () where it is none."""
    if isinstance(column, PickledArray):
        return column.shape[1:]
    try:
        return column[index].shape if isinstance(column[index], PickledArray) else np.shape(column[index])
    except ValueError:  # lists of different lengths
        return ()


def finish(row: dict[str, Any], report: ConversionReport) -> dict[str, Any] | None:
    """Read and repair the vectors of a row."""
    finished = {key: value for key, value in row.items() if key not in ("arrays", "lengths", "widths")}
    for modality, (array, place), length, width in zip(
        ("audio", "video"), row["arrays"], row["lengths"], row["widths"], strict=True
    ):
        values = array if place is None else array[place]
        finished[f"{modality}_features"] = repair_sequence(values, length, row["id"], modality, report, width)
    if not finished["text"] and finished["audio_features"] is None and finished["video_features"] is None:
        report.drop("neither words nor features", row["id"])
        return None
    return finished


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__.splitlines()[0], "the pickle, e.g. unaligned_50.pkl or ch-simsv2s.pkl")
    parser.add_argument("--corpus", required=True, choices=list(CORPORA), help="which corpus it is")
    run(parser, plan, argv)


if __name__ == "__main__":
    main()
