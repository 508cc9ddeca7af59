"""Columns of a corpus's metadata: names that training reads, the file names of audiofolder, and all others.

    folder ─► read_tables ─► a Table, or one per split ─► check_columns ─► dataset.py, converters/folder.py

A column that training does not read is reported once, with the name that was probably meant, if there is one.
"""

import difflib
import logging
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from .csv_tables import BLANKS, Table
from .media_paths import column_of_file, is_absolute
from .split_names import SPLIT_NAMES, misspelled_splits
from .tables import COLUMNS, FILE_NAME, KNOWN_COLUMNS, MEDIA, METADATA_FILES, SPEAKER, find_metadata, read_table
from .text_files import shorten


STRIPPED = ("id", "split", "task", "answer", *MEDIA)  # columns whose values are stripped of whitespace
# Column -> its common synonyms.
SYNONYMS = {
    "answer": ("label", "labels", "emotion", "sentiment", "score", "rating", "target", "class", "category", "gold"),
    "text": ("transcript", "transcription", "sentence", "utterance", "raw_text", "words", "caption"),
    "audio": ("wav", "sound", "speech", "audio_path", "audio_file"),
    "video": ("clip", "movie", "video_path", "video_file", "image", "picture", "frames"),
    FILE_NAME: ("file", "filename", "path", "file_path", "filepath"),
    "split": ("partition", "subset", "set", "mode"),
    "context": ("history", "dialogue", "dialog"),
}
MAX_SHOWN_COLUMNS = 30
# Words in the names of columns with the time at which a row starts in its recording.
START_WORDS = {"start", "starttime", "begin", "begintime", "beginning", "onset", "offset"}
TIME = re.compile(r"\d+([:.,]\d+)*")
SPREADSHEETS = (".xlsx", ".xls", ".ods", ".numbers")

logger = logging.getLogger(__name__)


# ---- tables of a folder ---------------------------------------------------------------------------------------


def read_tables(folder: Path) -> list[Table]:
    """The metadata of a corpus, from its folder or its folders train, validation and test; empty if there is none.

    Raises:
        ValueError: a table cannot be read, or names files that are neither audio nor video.
    """
    metadata = find_metadata(folder)
    if metadata is not None:
        others = [name for name in METADATA_FILES if name != metadata.name and (folder / name).is_file()]
        if others:
            logger.warning(f"Reading {metadata} and ignoring {', '.join(others)} next to it.")
        return [name_media(read_table(metadata))]
    tables = []
    for name, split in SPLIT_NAMES.items():
        metadata = find_metadata(folder / name)
        if metadata is not None:
            table = name_media(read_table(metadata))
            rows = [{"split": split, **_in_folder(row, name)} for row in table.rows]
            columns = list(dict.fromkeys(["split", *table.columns]))
            tables.append(table._replace(columns=columns, rows=rows))
    if tables:
        _warn_of_misspelled_folders(folder)
    return tables


def _warn_of_misspelled_folders(folder: Path) -> None:
    """Warn of folders with metadata that are not read, because their names are typos of a split's."""
    for name, meant in misspelled_splits(sorted(os.listdir(folder))).items():
        with suppress(OSError):  # a folder that may not be read
            if find_metadata(folder / name) is not None:
                logger.warning(f"{folder}: the folder {name} is not read; rename it if it is the split {meant}.")


def _in_folder(row: dict[str, Any], folder: str) -> dict[str, Any]:
    """A row of a split's folder, with paths relative to the corpus."""
    paths = {}
    for column in MEDIA:
        path = row.get(column)
        if isinstance(path, str) and not is_absolute(path):
            paths[column] = f"{folder}/{path}"
    return {**row, **paths}


def found_instead(folder: Path) -> str:
    """A sentence about tables with other names and formats in a folder without metadata; empty if there are none."""
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    for name in names:
        if name.casefold() in METADATA_FILES:
            return f" It has {name}: rename it to {name.casefold()}."
    for name in names:
        if name.casefold().endswith(SPREADSHEETS) and not name.startswith("."):
            return f" It has {shorten(name)}: open it and save it as metadata.csv (Excel: CSV UTF-8)."
    endings = tuple(name.removeprefix("metadata") for name in METADATA_FILES)
    tables = [name for name in names if name.casefold().endswith(endings)]
    of_splits = [name for name in tables if Path(name).stem.casefold() in SPLIT_NAMES]
    if len(of_splits) > 1:
        ending = Path(of_splits[0]).suffix.casefold()
        return f" It has {', '.join(of_splits)}: join them into one metadata{ending} with a column `split`."
    if len(tables) == 1:
        ending = Path(tables[0]).suffix.casefold()
        return f" It has {shorten(tables[0])}: rename it to metadata{ending} if it is that table."
    return ""


def name_media(table: Table) -> Table:
    """Put the files of `file_name` into `audio` or `video` by their extension, those of `video_file_name` into `video`
    and so on. Empty values are left out.

    Raises:
        ValueError: a file is neither audio nor video, or its column already has a value.
    """
    rows = []
    for index, row in enumerate(table.rows):
        named: dict[str, Any] = {}
        sources: dict[str, str] = {}  # column of `named` -> column of the table
        for column, value in row.items():
            if column in STRIPPED and isinstance(value, str):
                value = value.strip(BLANKS)
            if value is None or value == "":
                continue
            target = _media_column(column, value, table.place(index))
            if target in named:
                raise ValueError(
                    f"{table.place(index)}: {sources[target]} and {column} both name the {target}. Leave one out."
                )
            named[target] = value
            sources[target] = column
        rows.append(named)
    columns = list(dict.fromkeys(column for row in rows for column in row))
    known = [column for column in table.columns if column not in KNOWN_COLUMNS or column in COLUMNS]
    return table._replace(columns=list(dict.fromkeys([*known, *columns])), rows=rows)


def _media_column(column: str, value: Any, place: str) -> str:
    if column not in KNOWN_COLUMNS or column in COLUMNS:
        return column
    if column != FILE_NAME:
        return column.removesuffix(f"_{FILE_NAME}")
    target = column_of_file(value) if isinstance(value, str) else None
    if target is None:
        raise ValueError(
            f"{place}: file_name {shorten(value)} has no extension of an audio or video file. "
            "Name the column `audio` or `video`."
        )
    return target


# ---- names ----------------------------------------------------------------------------------------------------


def check_columns(table: Table, with_answers: bool = True) -> None:
    """Check that the table has answers, that no column is a typo of one that training reads, and that no rows are
    parts of one recording.

    Args:
        table: of a corpus.
        with_answers: whether it must have answers.

    Raises:
        ValueError: no row has an `answer`, a name is almost a known one, or rows name parts of a recording by times.
    """
    if not table.rows:
        raise ValueError(f"{table.path} has no rows.")
    if with_answers and "answer" not in table.columns:
        name = shorten(str(table.rows[0].get("id", 0)))
        raise ValueError(
            f"{table.path}: example {name} has no `answer`: the table has no `answer` column. "
            f"Its columns are {_shown(table.columns)}.{_suggest_answer(table)}"
        )
    for column in table.columns:
        meant = typo_of(column, table)
        if meant is not None:
            raise ValueError(f"{table.path}: unknown column {shorten(column)}. Did you mean {meant!r}?")
    for column in table.columns:
        if column not in COLUMNS and START_WORDS & set(re.findall(r"[^\W\d_]+", column.casefold())):
            _refuse_parts(table, column)


def _refuse_parts(table: Table, start: str) -> None:
    """Refuse rows that share a recording and start at different times: each would be its beginning.

    Args:
        table: of a corpus.
        start: the column of times, of which some tables have one only as a note.
    """
    starts: dict[tuple[str, str], str] = {}  # column and file -> time of the first row that names it
    for index, row in enumerate(table.rows):
        time = str(row.get(start, "")).strip(BLANKS)
        if TIME.fullmatch(time) is None:
            continue
        for column in MEDIA:
            file = row.get(column)
            if isinstance(file, str) and starts.setdefault((column, file), time) != time:
                raise ValueError(
                    f"{table.place(index)}: {shorten(file)} starts at {time} here and at {starts[column, file]} in an "
                    f"earlier row, but times such as those in the column {shorten(start)} are not read: both rows "
                    "would be the beginning of the file. Cut the recordings into one file for each row, for example "
                    "with ffmpeg -ss START -to END -i FILE PART, and name those."
                )


def _suggest_answer(table: Table) -> str:
    meant = [column for column in table.columns if "answer" in (typo_of(column, table), synonym_of(column, table))]
    if not meant:
        return " Add it, with each example's label or score."
    names = ", ".join(map(shorten, meant))
    return f" Did you mean {names}? Rename it to `answer`, or name it with --label_column (not in egmf convert)."


def typo_of(column: str, table: Table) -> str | None:
    """The missing column that this name is probably a typo of; None if it is not a typo."""
    if column in KNOWN_COLUMNS or synonym_of(column, table) is not None:
        return None
    missing = [known for known in COLUMNS if known not in table.columns]
    similar = difflib.get_close_matches(column.casefold(), missing, n=1, cutoff=0.75)
    if not similar or column.startswith(similar[0]):  # `video_id` is not a typo of `video`
        return None
    return similar[0]


def synonym_of(column: str, table: Table) -> str | None:
    """The missing column that this name is a synonym of; None if it is not a synonym."""
    for known, others in SYNONYMS.items():
        if column.casefold() in others and known not in table.columns:
            return known
    return None


def warn_of_unused(table: Table) -> None:
    """Name the columns that the model does not read: in a warning if one may be meant as an input or has no name,
    else, as for a language or a date, in a note."""
    unused = []
    is_doubtful = table.unnamed > 0
    for column in table.columns:
        if column not in COLUMNS and column != SPEAKER:
            meant = synonym_of(column, table) or _media_named_by(column, table)
            is_doubtful |= meant is not None
            unused.append(column if meant is None else f"{column} (did you mean `{meant}`?)")
    if table.unnamed:
        unused.append(f"{table.unnamed} without a name")
    if is_doubtful:
        logger.warning(f"{table.path}: these columns are not inputs: {_shown(unused)}.")
    elif unused:
        logger.info(
            f"{table.path}: the model does not read the extra columns {_shown(unused)}. They are kept: predictions "
            "list them, for groups in reports, and --where selects by them."
        )


def _media_named_by(column: str, table: Table) -> str | None:
    """The missing column for the media files that a column names, `audio` or `video`; None if it names none."""
    first = next((row[column] for row in table.rows if row.get(column)), None)
    kind = column_of_file(first) if isinstance(first, str) else None
    return None if kind in table.columns else kind


def _shown(columns: list[str]) -> str:
    shown = ", ".join(column if len(column) < 80 else shorten(column) for column in columns[:MAX_SHOWN_COLUMNS])
    more = len(columns) - MAX_SHOWN_COLUMNS
    return (shown or "none") if more <= 0 else f"{shown} and {more} more"
