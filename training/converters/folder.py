"""Your own folder: `metadata.csv` or `metadata.jsonl` next to its media, with the columns of training/data/dataset.py.

    python -m training.converters.folder my_corpus data/my_corpus --tasks_file my_tasks.yaml

All columns are kept, even those that training ignores; a `video_id` in every row adds a video-disjoint split manifest.
Features are read from their .npy files; clips become paths relative to DEST, or are embedded. With `--landmarks`, each
clip's table of OpenFace, py-feat or MediaPipe becomes its `video_features`. Labels and scores are checked against the
tasks: the built-in ones and those in `--tasks_file`.
"""

import argparse
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.columns import check_columns, found_instead, read_tables
from ..data.csv_tables import Table, tidy_name
from ..data.examples import EXTRA, describe_assumed_task, is_missing_value, suggest
from ..data.media_paths import MediaFolder
from ..data.overlaps import note_overlaps
from ..data.split_names import SPLIT_NAMES, misspelled_splits
from ..data.tables import COLUMNS
from ..data.text_files import shorten
from .core.arrays import common_width, load_npy, npy_width, repair_sequence
from .core.clips import ClipInfo, check_clip, example_bytes, media_cell
from .core.columns import media_columns, vectors
from .core.command import dest_path, make_parser, run
from .core.conversion_report import ConversionReport
from .core.corpus import Corpus
from .core.labels import check_label, clean_text, find_blind_splits
from .core.landmarks import LandmarkOptions, add_landmark_options, plan_landmarks, read_face_features


if TYPE_CHECKING:
    import datasets

    from processing_egmf import EGMFTask


MODALITIES = ("audio", "video")
DEFAULT_SPLIT = "train"
SAMPLED = 100  # examples whose feature files are measured
# Type of a column -> Python types of its values.
COLUMN_TYPES = {"bool": (bool,), "int64": (int,), "float64": (int, float), "string": (str,)}


def plan(arguments: argparse.Namespace) -> Corpus:
    """Read the metadata.

    Raises:
        FileNotFoundError: there is no metadata file.
        ValueError: an unreadable row, no `answer` column, a mistyped column, an unknown task or an unusable split
            name.
    """
    from ..model.tasks_file import read_tasks

    tables = read_tables(arguments.source)
    if not tables:
        raise FileNotFoundError(
            f"{arguments.source} has neither metadata.jsonl nor metadata.csv.{found_instead(arguments.source)}"
        )
    has_answers = any("answer" in table.columns for table in tables)
    for table in tables:
        check_columns(table, with_answers=not has_answers)
    tasks = read_tasks(arguments.tasks_file)
    report = ConversionReport()
    columns = list(dict.fromkeys(column for table in tables for column in table.columns))
    extra = [column for column in columns if column not in COLUMNS]
    examples = _plan_examples(arguments, tables, extra, tasks, report)
    rows = [row for table in tables for row in table.rows]
    assumed = describe_assumed_task(tasks, (arguments.task or row.get("task") for row in rows))
    if assumed and report.dropped_for("unknown label")[0]:
        report.note(assumed, tables[0].path.name)
    everything = [example for part in examples.values() for example in part]
    landmarks = _add_landmarks(arguments, columns, everything, report)
    widths = {}
    for modality in MODALITIES:
        features = [example[f"{modality}_features"] for example in everything]
        widths[modality] = common_width(_features_width(value) for value in features)
    if landmarks is not None:
        widths["video"] = landmarks.width
    types = {column: column_type([example[EXTRA][column] for example in everything]) for column in extra}
    _unify_types(everything, tasks, types)
    note_overlaps(examples, report.note)
    used_tasks = sorted({example["task"] for example in everything})
    return Corpus(
        name=arguments.name or arguments.source.resolve().name,
        examples=examples,
        finish=finish,
        finish_options={
            "media": arguments.media,
            "dest": dest_path(arguments),
            "widths": widths,
            "landmarks": landmarks,
        },
        columns=_typed_columns(arguments.media, columns, everything, widths, types),
        report=report,
        bytes_per_example=_bytes_per_example(everything, arguments.media),
        languages=arguments.language,
        description=f"Converted from `{tables[0].path.name}` and the files next to it.",
        settings={
            "converter": "folder",
            "media": arguments.media,
            "task": arguments.task,
            "tasks": {name: tasks[name].to_dict() for name in used_tasks},
            "language": arguments.language,
        },
        sources=[table.path for table in tables],
        files=_named_files(everything, arguments.media),
        advice=assumed and f"{assumed} --task gives all examples the same one.",
        disjoint="video_id" in extra and all(example["video_id"] is not None for example in everything),
    )


# ---- examples -------------------------------------------------------------------------------------------------


def _plan_examples(
    arguments: argparse.Namespace,
    tables: list[Table],
    extra: Sequence[str],
    tasks: "dict[str, EGMFTask]",
    report: ConversionReport,
) -> dict[str, list[dict[str, Any]]]:
    """Map each split to its examples."""
    examples: dict[str, list[dict[str, Any]]] = {}
    media = MediaFolder(arguments.source)
    rows = [(table.place(index), row) for table in tables for index, row in enumerate(table.rows)]
    splits = [
        _read_split(place, str(row.get("id", number)), row.get("split"), report)
        for number, (place, row) in enumerate(rows)
    ]
    split_names = dict.fromkeys(splits)
    for split, meant in misspelled_splits(split_names).items():
        report.note(f"split that may be a typo of {meant}; the splits are {', '.join(split_names)}", split)
    answers = [row.get("answer") for _, row in rows]
    names = [label for task in tasks.values() for label in task.labels]
    blind = find_blind_splits(zip(splits, answers, strict=True), report, names)
    for number, (split, (place, row)) in enumerate(zip(splits, rows, strict=True)):
        example_id = str(row.get("id", number))
        report.read[split] += 1
        example = _plan_example(
            arguments, media, tasks, example_id, row, f"{place}: row {shorten(example_id)}", report
        )
        if split not in blind:
            example["answer"] = _read_answer(tasks[example["task"]], row.get("answer"), example_id, report)
            if example["answer"] is None:
                continue
        example[EXTRA] = {column: row.get(column) for column in extra}
        example["video_id"] = row.get("video_id")
        examples.setdefault(split, []).append(example)
    return examples


def _read_split(place: str, example_id: str, split: Any, report: ConversionReport) -> str:
    if split is None:
        report.note(f"no split: put into {DEFAULT_SPLIT}", example_id)
        return DEFAULT_SPLIT
    split = tidy_name(str(split))
    if not re.fullmatch(r"\w{1,100}", split):
        raise ValueError(f"{place} has the split {shorten(split)}; use letters, digits and underscores.")
    return SPLIT_NAMES.get(split.casefold(), split)


def _plan_example(
    arguments: argparse.Namespace,
    media: MediaFolder,
    tasks: "dict[str, EGMFTask]",
    example_id: str,
    row: dict[str, Any],
    place: str,
    report: ConversionReport,
) -> dict[str, Any]:
    """Turn a row, whose location is `place`, into an example without its answer."""
    task_name = arguments.task or row.get("task") or next(iter(tasks))
    task_name = tidy_name(task_name) if isinstance(task_name, str) else task_name
    if not isinstance(task_name, str) or task_name not in tasks:
        raise ValueError(
            f"{place}: unknown task {shorten(task_name)}. Known tasks are {', '.join(tasks)}; "
            f"define your own in --tasks_file.{suggest(task_name, tasks)}"
        )
    text = row.get("text")
    if text is not None and (isinstance(text, bool) or not isinstance(text, str | int | float)):
        raise ValueError(f"{place}: text is {shorten(text)}; it must be text.")
    if is_missing_value(text):
        report.note("transcript that names a missing value: read as words; leave the cell empty", example_id)
    example: dict[str, Any] = {
        "id": example_id,
        "task": task_name,
        "text": None if text is None else clean_text(text),
        "context": _read_context(row.get("context"), example_id, report),
        "answer": None,
    }
    for modality in MODALITIES:
        file = row.get(modality)
        features = row.get(f"{modality}_features")
        if not isinstance(file or "", str):
            raise ValueError(f"{place}: {modality} is {shorten(file)}; it must be a file path.")
        example[modality] = _find_file(media, file) if file else None
        example[f"{modality}_features"] = _find_file(media, features) if isinstance(features, str) else features
    return example


def _read_answer(task: "EGMFTask", answer: Any, example_id: str, report: ConversionReport) -> str | float | None:
    """The checked label or score; None if the example is dropped."""
    if answer in (None, ""):
        report.drop("no answer", example_id)
        return None
    checked = check_label(task, answer, example_id, report)
    if checked is None and task.kind == "classification":
        report.note(f"label that the task {task.name!r} lacks; it has {', '.join(task.labels)}", example_id)
    return checked


def _add_landmarks(
    arguments: argparse.Namespace,
    columns: Sequence[str],
    examples: Sequence[dict[str, Any]],
    report: ConversionReport,
) -> LandmarkOptions | None:
    """Add to every example the table that is named like its clip, or like its id, and return how tables are read.

    Raises:
        ValueError: the metadata have video features as well, or no table fits.
    """
    if arguments.landmarks is not None and "video_features" in columns:
        raise ValueError("The metadata have video_features, and --landmarks would replace them. Use only one of them.")
    names = [_clip_name(example) for example in examples]
    tables, landmarks = plan_landmarks(arguments, names, report)
    for name, example in zip(names, examples, strict=True):
        table = tables.get(name)
        example["landmarks"] = None if table is None else str(table)
    return landmarks


def _clip_name(example: dict[str, Any]) -> str:
    """Name of an example's clip without its extension; its id if it has none."""
    clip = example["video"] or example["audio"]
    return example["id"] if clip is None else Path(clip).stem


def _find_file(media: MediaFolder, name: str) -> str:
    """The path of a file, whether or not it exists."""
    return media.find(name) or os.path.join(media.folder, name)


def _read_context(context: Any, example_id: str, report: ConversionReport) -> list[list[str]]:
    """Earlier turns as [speaker, text]; the speaker is empty where none is given."""
    if context is None:
        return []
    if not isinstance(context, list):
        report.repair("context is not a list of turns: left out", example_id)
        return []
    turns = [turn if isinstance(turn, list) else ["", turn] for turn in context]
    if not all(len(turn) == 2 and isinstance(turn[0], str | None) and isinstance(turn[1], str) for turn in turns):
        report.repair("context with a turn that is neither text nor [speaker, text]: left out", example_id)
        return []
    return [[speaker or "", text] for speaker, text in turns]


# ---- columns --------------------------------------------------------------------------------------------------


def column_type(values: Sequence[Any]) -> str:
    """The type that fits all values of a column; `json`, stored as text, if none does."""
    given = [value for value in values if value is not None]
    if not given:
        return "string"
    if any(isinstance(value, int) and value.bit_length() > 63 for value in given):
        return "json"
    for name, types in COLUMN_TYPES.items():
        if all(type(value) in types for value in given):  # exactly: a bool is an int to Python
            return name
    return "json"


def _unify_types(examples: list[dict[str, Any]], tasks: "dict[str, EGMFTask]", types: dict[str, str]) -> None:
    """Store `answer` as text in a corpus with both labels and scores, and values without a common type as JSON."""
    mixed = len({tasks[example["task"]].kind for example in examples}) > 1
    for example in examples:
        if mixed and example["answer"] is not None:
            example["answer"] = str(example["answer"])
        for column, name in types.items():
            if name == "json" and example[EXTRA][column] is not None:
                example[EXTRA][column] = json.dumps(example[EXTRA][column], ensure_ascii=False, default=str)


def _typed_columns(
    media: str,
    columns: Sequence[str],
    examples: Sequence[dict[str, Any]],
    widths: dict[str, int | None],
    types: dict[str, str],
) -> "datasets.Features":
    import datasets

    string = datasets.Value("string")
    typed: dict[str, Any] = {"id": string, "task": string, "text": string}
    typed |= media_columns(media, tuple(modality for modality in MODALITIES if modality in columns))
    for modality, width in widths.items():
        if width is not None:
            typed[f"{modality}_features"] = vectors(width)
    if "context" in columns:
        typed["context"] = datasets.List(datasets.List(string))
    answers = [example["answer"] for example in examples if example["answer"] is not None]
    scores = bool(answers) and all(isinstance(answer, float) for answer in answers)
    typed["answer"] = datasets.Value("float64") if scores else string
    for column, name in types.items():
        typed[column] = datasets.Value("string" if name == "json" else name)
    return datasets.Features(typed)


# ---- files ----------------------------------------------------------------------------------------------------


def _features_width(features: Any) -> int | None:
    """Width of features given as the path of a .npy file or as a list of vectors."""
    if isinstance(features, str):
        return npy_width(Path(features))
    if isinstance(features, list) and features and isinstance(features[0], list):
        return len(features[0])
    return None


def _named_files(examples: Sequence[dict[str, Any]], media: str) -> list[str]:
    columns = [f"{modality}_features" for modality in MODALITIES]
    if media != "none":
        columns += MODALITIES
    values = [example[column] for example in examples for column in (*columns, "landmarks")]
    return [value for value in values if isinstance(value, str)]


def _bytes_per_example(examples: Sequence[dict[str, Any]], media: str) -> int:
    clips = _existing_files(examples, MODALITIES)
    features = _existing_files(examples[:SAMPLED], [f"{modality}_features" for modality in MODALITIES])
    return example_bytes(clips, media) + sum(path.stat().st_size for path in features) // SAMPLED


def _existing_files(examples: Sequence[dict[str, Any]], columns: Sequence[str]) -> list[Path]:
    values = [example[column] for example in examples for column in columns]
    paths = [Path(value) for value in values if isinstance(value, str)]
    return [path for path in paths if path.is_file()]


# ---- in the workers -------------------------------------------------------------------------------------------


def finish(
    example: dict[str, Any],
    report: ConversionReport,
    media: str,
    dest: str | None,
    widths: dict[str, int | None],
    landmarks: LandmarkOptions | None,
) -> dict[str, Any] | None:
    """Read the features and check the clips of an example; None if nothing usable is left."""
    finished = {name: value for name, value in example.items() if name not in (EXTRA, "video_id", "landmarks")}
    finished |= example[EXTRA]
    usable = bool(example["text"])
    seconds = None
    for modality in MODALITIES:
        clip, info = _store_clip(example, modality, report, media, dest)
        seconds = seconds or (None if info is None else info.seconds)
        features = _read_features(example, modality, report, widths[modality])
        finished[modality] = clip
        finished[f"{modality}_features"] = features
        usable = usable or clip is not None or features is not None
    if landmarks is not None:
        finished["video_features"] = read_face_features(example, seconds, landmarks, report)
        usable = usable or finished["video_features"] is not None
    if not usable:
        report.drop("no text, audio or video", example["id"])
        return None
    return finished


def _store_clip(
    example: dict[str, Any], modality: str, report: ConversionReport, media: str, dest: str | None
) -> tuple[Any, ClipInfo | None]:
    """Stored form of a clip, and its length; None for both if it is missing or broken."""
    path = example[modality]
    if path is None or media == "none":
        return None, None
    info = check_clip(path, example["id"], report)
    return (None, None) if info is None else (media_cell(path, media, dest), info)


def _read_features(example: dict[str, Any], modality: str, report: ConversionReport, width: int | None) -> Any:
    features = example[f"{modality}_features"]
    if isinstance(features, str):
        features = load_npy(Path(features), example["id"], modality, report)
    if features is None:
        return None
    if width is None:
        report.repair(f"{modality} features are not a sequence of vectors: left out", example["id"])
        return None
    return repair_sequence(features, None, example["id"], modality, report, width)


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__.splitlines()[0], "folder with metadata.csv or metadata.jsonl", media=True)
    parser.add_argument("--tasks_file", type=Path, metavar="FILE", help="YAML file with your own tasks")
    parser.add_argument("--name", help="name of the corpus in its card (default: the folder's name)")
    parser.add_argument("--language", nargs="+", default=["en"], help="language codes, for the card")
    add_landmark_options(parser)
    run(parser, plan, argv)


if __name__ == "__main__":
    main()
