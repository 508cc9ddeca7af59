"""A folder of one's own: `metadata.csv` or `metadata.jsonl` beside its media, as training/data/dataset.py describes it.

    python -m training.converters.folder my_corpus data/my_corpus --tasks_file my_tasks.yaml

Rows keep their columns, also those that training does not know; a `video_id` in all of them makes a video-disjoint
split manifest as well. Features are read from their .npy files; clips become paths relative to DEST, or are embedded.
Labels and scores are checked against the tasks, the built-in ones and those of `--tasks_file`.
"""

import argparse
import difflib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets

from processing_egmf import EGMFTask

from ..data.tables import COLUMNS, METADATA_FILES, find_metadata, read_metadata
from ..model.tasks_file import read_tasks
from .core.arrays import common_width, load_npy, npy_width, repair_sequence
from .core.clips import check_clip, media_cell, media_columns, row_size
from .core.columns import vectors
from .core.command import dest_of, make_parser, run
from .core.conversion_report import ConversionReport
from .core.labels import check_answer, clean_text
from .core.shards import Corpus
from .core.splits import SPLIT_NAMES


MODALITIES = ("audio", "video")
DEFAULT_SPLIT = "train"


def plan(arguments: argparse.Namespace) -> Corpus:
    """Read the metadata.

    Raises:
        FileNotFoundError: no metadata.
        ValueError: a line that cannot be read, no `answer` column, a mistyped column, an unknown task or a bad name of
            a split.
    """
    path = find_metadata(arguments.source)
    if path is None:
        raise FileNotFoundError(f"{arguments.source} holds neither {' nor '.join(METADATA_FILES)}.")
    tasks, report = read_tasks(arguments.tasks_file), ConversionReport()
    found = read_metadata(path)
    columns = list(dict.fromkeys(column for row in found for column in row))
    _check_columns(path, columns)
    extra = [column for column in columns if column not in COLUMNS]
    rows: dict[str, list[dict[str, Any]]] = {}
    for number, line in enumerate(found):
        identity = str(line.get("id") if line.get("id") is not None else number)
        split = _split(path, identity, line.get("split"), report)
        report.read[split] += 1
        row = _row(arguments, tasks, identity, line, report)
        if row is not None:
            rows.setdefault(split, []).append(row | {column: line.get(column) for column in extra})
    everything = [row for part in rows.values() for row in part]
    widths = {
        modality: common_width(_width(row[f"{modality}_features"]) for row in everything) for modality in MODALITIES
    }
    kinds = {column: _kind([row[column] for row in everything]) for column in extra}
    plain = len({tasks[row["task"]].kind for row in everything}) < 2
    for row in everything:
        row["widths"] = widths
        if not plain:
            row["answer"] = str(row["answer"])
        row |= {column: _cell(row[column], kinds[column]) for column in extra}
    named = [f"{m}_features" for m in MODALITIES] + ([] if arguments.media == "none" else list(MODALITIES))
    clips = [Path(row[m]) for row in everything for m in MODALITIES if row[m] and Path(row[m]).is_file()]
    return Corpus(
        name=arguments.name or arguments.source.resolve().name,
        rows=rows,
        finish=finish,
        columns=_columns(arguments.media, columns, everything, widths, kinds),
        report=report,
        bytes_per_row=row_size(clips, arguments.media) + sum(_bytes(row) for row in everything[:100]) // 100,
        card={
            "language": arguments.language,
            "task_categories": ["video-classification"],
            "text": f"Converted from `{path.name}` and the files beside it.",
        },
        settings={
            "converter": "folder",
            "media": arguments.media,
            "task": arguments.task,
            "tasks": {name: tasks[name].to_dict() for name in sorted({row["task"] for row in everything})},
            "language": arguments.language,
        },
        sources=[path],
        files=[row[name] for row in everything for name in named if isinstance(row[name], str)],
        disjoint="video_id" in extra and all(row["video_id"] is not None for row in everything),
    )


def _check_columns(path: Path, columns: Sequence[str]) -> None:
    if "answer" not in columns:
        raise ValueError(f"{path} has no column answer. It has {', '.join(columns) or 'none'}.")
    for column in columns:
        near = [] if column in COLUMNS else difflib.get_close_matches(column, COLUMNS, n=1, cutoff=0.75)
        if near and near[0] not in columns and not column.startswith(near[0]):
            raise ValueError(f"{path}: unknown column {column!r}. Did you mean {near[0]!r}?")


def _split(path: Path, identity: str, split: Any, report: ConversionReport) -> str:
    if split is None:
        report.note(f"no split: put into {DEFAULT_SPLIT}", identity)
        return DEFAULT_SPLIT
    if not re.fullmatch(r"\w+", str(split)):
        raise ValueError(f"{path}: row {identity!r} has the split {split!r}; use letters, digits and underscores.")
    return SPLIT_NAMES.get(str(split).casefold(), str(split))


def _row(
    arguments: argparse.Namespace,
    tasks: dict[str, EGMFTask],
    identity: str,
    line: dict[str, Any],
    report: ConversionReport,
) -> dict[str, Any] | None:
    name = arguments.task or line.get("task") or next(iter(tasks))
    if not isinstance(name, str) or name not in tasks:
        raise ValueError(
            f"Row {identity!r}: unknown task {name!r}. Known are {', '.join(tasks)}; define your own with "
            "--tasks_file."
        )
    if line.get("answer") in (None, ""):
        report.drop("no answer", identity)
        return None
    answer = check_answer(tasks[name], line["answer"], identity, report)
    if answer is None:
        return None
    context = line.get("context")
    if context is not None and not isinstance(context, list):
        report.repair("context is no list of turns: left out", identity)
        context = None
    row: dict[str, Any] = {
        "id": identity,
        "task": name,
        "text": clean_text(line["text"]) if line.get("text") is not None else None,
        "context": [
            [str(part) for part in (turn if isinstance(turn, list) else ["", turn])] for turn in context or ()
        ],
        "answer": answer,
        "media": arguments.media,
        "dest": dest_of(arguments),
    }
    for modality in MODALITIES:
        file, features = line.get(modality), line.get(f"{modality}_features")
        if not isinstance(file or "", str):
            raise ValueError(f"Row {identity!r}: {modality} is {file!r}; it must be the path of a file.")
        row[modality] = str((arguments.source / file).resolve()) if file else None
        row[f"{modality}_features"] = (
            str((arguments.source / features).resolve()) if isinstance(features, str) else features
        )
    return row


def _width(features: Any) -> int | None:
    if isinstance(features, str):
        return npy_width(Path(features))
    return len(features[0]) if isinstance(features, list) and features and isinstance(features[0], list) else None


def _bytes(row: dict[str, Any]) -> int:
    files = [Path(row[f"{m}_features"]) for m in MODALITIES if isinstance(row[f"{m}_features"], str)]
    return sum(file.stat().st_size for file in files if file.is_file())


def _kind(values: Sequence[Any]) -> str:
    """The type that fits all values of a column; JSON text where none does."""
    there = [value for value in values if value is not None]
    for kind, types in (("bool", (bool,)), ("int64", (int,)), ("float64", (int, float)), ("string", (str,))):
        if there and all(type(value) in types for value in there):
            return kind
    return "json" if there else "string"


def _cell(value: Any, kind: str) -> Any:
    if value is None or kind != "json":
        return value
    return json.dumps(value, ensure_ascii=False)


def _columns(
    media: str, columns: Sequence[str], rows: Sequence[dict], widths: dict[str, int | None], kinds: dict[str, str]
) -> datasets.Features:
    string = datasets.Value("string")
    typed: dict[str, Any] = {"id": string, "task": string, "text": string}
    typed |= media_columns(media, *there) if (there := [m for m in MODALITIES if m in columns]) else {}
    typed |= {f"{modality}_features": vectors(width) for modality, width in widths.items() if width is not None}
    if "context" in columns:
        typed["context"] = datasets.List(datasets.List(string))
    scores = rows and all(isinstance(row["answer"], float) for row in rows)
    typed["answer"] = datasets.Value("float64") if scores else string
    typed |= {column: datasets.Value("string" if kind == "json" else kind) for column, kind in kinds.items()}
    return datasets.Features(typed)


def finish(row: dict[str, Any], report: ConversionReport) -> dict[str, Any] | None:
    """Read the vectors and look at the clips of a row."""
    finished = {name: value for name, value in row.items() if name not in ("media", "dest", "widths")}
    there = bool(row["text"])
    for modality in MODALITIES:
        path, features, width = row[modality], row[f"{modality}_features"], row["widths"][modality]
        finished[modality] = finished[f"{modality}_features"] = None
        if path is not None and row["media"] != "none" and check_clip(path, row["id"], report) is not None:
            finished[modality] = media_cell(path, row["media"], row["dest"])
        if isinstance(features, str):
            features = load_npy(Path(features), row["id"], modality, report)
        if features is not None and width is None:
            report.repair(f"{modality} features are no sequence of vectors: left out", row["id"])
        elif features is not None:
            finished[f"{modality}_features"] = repair_sequence(features, None, row["id"], modality, report, width)
        there |= finished[modality] is not None or finished[f"{modality}_features"] is not None
    if not there:
        report.drop("neither words nor anything to hear or see", row["id"])
        return None
    return finished


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__.splitlines()[0], "folder with metadata.csv or metadata.jsonl", media=True)
    parser.add_argument("--tasks_file", type=Path, help="YAML with your own tasks")
    parser.add_argument("--name", help="how the corpus is called in its card (default: the folder's name)")
    parser.add_argument("--language", nargs="+", default=["en"], help="codes of its languages, for the card")
    run(parser, plan, argv)


if __name__ == "__main__":
    main()
