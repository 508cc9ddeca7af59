"""Reads UTF-8 tables: CSV, JSON Lines and lists of JSON objects, with errors that name file, line and column.

    metadata.jsonl, metadata.csv of a corpus ─► read_metadata        tables of a release ─► read_csv, read_json_list

Such files are read only here; dataset.py, the converters and the benchmarks import this module.
"""

import csv
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO


MEDIA = ("audio", "video", "audio_features", "video_features")
COLUMNS = ("id", "split", "task", "text", *MEDIA, "context", "answer")  # of metadata; other columns are allowed
METADATA_FILES = ("metadata.jsonl", "metadata.csv")  # the first one in a folder is read


@contextmanager
def open_table(path: Path) -> Iterator[TextIO]:
    """The file as text, with or without a byte order mark.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not UTF-8.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    newline = "" if path.suffix == ".csv" else None
    try:
        with path.open(encoding="utf-8-sig", newline=newline) as file:
            yield file
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error}). Save it as UTF-8.") from error


# ---- CSV ------------------------------------------------------------------------------------------------------


def read_csv(path: Path, required_columns: Sequence[str] = ()) -> list[dict[str, str]]:
    """Read the rows of a CSV file. Every cell stays text, so leading zeros are kept.

    Args:
        path: the file; its first line names the columns.
        required_columns: columns that must be present.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not UTF-8, not CSV, a column is missing or appears twice, or a row has more or fewer cells than
            columns.
    """
    rows = []
    with open_table(path) as file:
        reader = csv.DictReader(file)
        try:
            _check_header(path, list(reader.fieldnames or ()), required_columns)
            for row in reader:
                _check_cells(f"{path}, line {reader.line_num}", row)
                rows.append(row)
        except csv.Error as error:
            line = reader.line_num + 1
            raise ValueError(f"{path}, line {line}: not CSV ({error}). Is a quote left open?") from error
    return rows


def _check_header(path: Path, columns: Sequence[str], required_columns: Sequence[str]) -> None:
    missing = [name for name in required_columns if name not in columns]
    if missing:
        raise ValueError(f"{path} has no column {', '.join(missing)}. It has {', '.join(columns) or 'none'}.")
    repeated = [name for name in dict.fromkeys(columns) if name and columns.count(name) > 1]
    if repeated:
        raise ValueError(f"{path} has more than one column {', '.join(repeated)}. Rename or remove one.")


def _check_cells(place: str, row: dict[str | None, Any]) -> None:
    if None in row:
        raise ValueError(f"{place}: more cells than columns. Quote a cell that holds a comma.")
    if None in row.values():
        raise ValueError(f"{place}: fewer cells than columns. Was the file cut off?")


# ---- JSON -----------------------------------------------------------------------------------------------------


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read one JSON object per line; blank lines are skipped.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not UTF-8, or a line is not a JSON object.
    """
    rows = []
    with open_table(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (json.JSONDecodeError, RecursionError) as error:
                raise ValueError(f"{path}, line {number}: not JSON ({error}). Each line is one object.") from error
            if not isinstance(row, dict):
                raise ValueError(f"{path}, line {number}: a row must be a JSON object, not {row!r}.")
            rows.append(row)
    return rows


def read_json_list(path: Path, required_keys: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Read a JSON list of objects.

    Args:
        path: the file.
        required_keys: keys that every object must have.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not UTF-8, not JSON, not a list of objects, or an object without one of the keys.
    """
    with open_table(path) as file:
        try:
            entries = json.load(file)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ValueError(f"{path} is not JSON, or was cut off: {error}.") from error
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f"{path} must hold a list of objects.")
    for number, entry in enumerate(entries):
        missing = [key for key in required_keys if key not in entry]
        if missing:
            raise ValueError(f"{path}, entry {number}: no {', '.join(missing)}. It has {', '.join(entry)}.")
    return entries


# ---- metadata of a corpus -------------------------------------------------------------------------------------


def find_metadata(folder: Path) -> Path | None:
    """`metadata.jsonl` or `metadata.csv` of a folder; None if it has neither."""
    for name in METADATA_FILES:
        if (folder / name).is_file():
            return folder / name
    return None


def read_metadata(path: Path) -> list[dict[str, Any]]:
    """Read `metadata.jsonl` or `metadata.csv`. In CSV, empty cells are left out and `context` is parsed as JSON.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: as for `read_jsonl` and `read_csv`, or `context` is not JSON.
    """
    if path.suffix == ".jsonl":
        return read_jsonl(path)
    rows = []
    for number, cells in enumerate(read_csv(path), 2):
        row: dict[str, Any] = {column: cell for column, cell in cells.items() if column and cell}
        if "context" in row:
            try:
                row["context"] = json.loads(row["context"])
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}, line {number}: context must be a JSON list ({error}).") from error
        rows.append(row)
    return rows
