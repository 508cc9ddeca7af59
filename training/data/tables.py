"""Reads tables: CSV and its relatives, JSON Lines, lists of JSON objects and Parquet, with errors that name file, line
and column.

    metadata.{jsonl,csv,tsv,json,parquet} ─► read_table ─► Table      tables of a release ─► read_csv, read_json_list

Such files are read only here; columns.py and examples.py turn a corpus's metadata into examples.
"""

import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..records import check_placeholder
from .csv_tables import Table, column_name, read_csv_table
from .csv_tables import read_csv as read_csv  # for modules that read other tables as well
from .text_files import MAX_SHOWN, check_value, read_text, shorten


MEDIA = ("audio", "video", "audio_features", "video_features")
COLUMNS = ("id", "split", "task", "text", *MEDIA, "context", "answer")  # of metadata; other columns are allowed
SPEAKER = "speaker"  # one of the others, read by --speaker_normalization
# Columns of `datasets`' audiofolder and videofolder, which hold paths of files.
FILE_NAME = "file_name"
FILE_COLUMNS = (FILE_NAME, *(f"{name}_{FILE_NAME}" for name in MEDIA))
KNOWN_COLUMNS = (*COLUMNS, *FILE_COLUMNS)
# The first one in a folder is read.
METADATA_FILES = (
    "metadata.jsonl",
    "metadata.csv",
    "metadata.tsv",
    "metadata.json",
    "metadata.parquet",
)


# ---- JSON -----------------------------------------------------------------------------------------------------


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read one JSON object per line; blank lines are skipped.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: not text, or a line is not a JSON object.
    """
    return _read_jsonl_table(path).rows


def _read_jsonl_table(path: Path) -> Table:
    rows = []
    lines = []
    for line, text in enumerate(io.StringIO(read_text(path), newline=None), 1):
        if not text.strip():
            continue
        place = f"{path}, line {line}"
        try:
            row = _parse_json(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{place}: not JSON ({_reason(error)}). Each line is one object.") from error
        if not isinstance(row, dict):
            raise ValueError(f"{place}: a row must be a JSON object, not {shorten(row)}.")
        check_value(row, place)
        rows.append(row)
        lines.append(line)
    return Table(Path(path), [], rows, lines)


def read_json_list(path: Path, required_keys: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Read a JSON list of objects.

    Args:
        path: the file.
        required_keys: keys that every object must have.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: not text, not JSON, not a list of objects, or an object without one of the keys.
    """
    text = read_text(path)
    try:
        entries = _parse_json(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON, or was cut off: {_reason(error)}.") from error
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f"{path} must hold a list of objects.")
    for number, entry in enumerate(entries):
        place = f"{path}, entry {number}"
        missing = [key for key in required_keys if key not in entry]
        if missing:
            raise ValueError(f"{place}: no {', '.join(missing)}. It has {', '.join(map(str, entry))[:MAX_SHOWN]}.")
        check_value(entry, place)
    return entries


def _parse_json(text: str) -> Any:
    """The value of a JSON text. A key that appears twice in an object is an error: its first value would be lost."""
    return json.loads(text, object_pairs_hook=_unique_keys)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        keys = [key for key, _ in pairs]
        repeated = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {shorten(repeated)} appears twice in an object")
    return entries


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if "integer string conversion" in str(error):  # Python's limit
        return "a number with more than 4,300 digits"
    return str(error)


# ---- metadata of a corpus -------------------------------------------------------------------------------------


def find_metadata(folder: Path) -> Path | None:
    """The metadata file of a folder, the first of `METADATA_FILES`; None if it has none."""
    for name in METADATA_FILES:
        if (folder / name).is_file():
            return folder / name
    return None


def read_metadata(path: Path) -> list[dict[str, Any]]:
    """The rows of a metadata file, as in `read_table`."""
    return read_table(path).rows


def read_table(path: Path) -> Table:
    """Read a metadata file. Empty cells of a table with separators are left out, and its `context` is parsed as JSON.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: as for `read_jsonl` and `read_csv`, or `context` is not JSON.
    """
    path = Path(path)
    if path.suffix == ".parquet":
        return _name_columns(_read_parquet_table(path))
    if path.suffix == ".jsonl":
        return _name_columns(_read_jsonl_table(path))
    if path.suffix == ".json":
        rows = read_json_list(path)
        return _name_columns(Table(path, [], rows, list(range(1, len(rows) + 1)), "row"))
    table = read_csv_table(path, KNOWN_COLUMNS)
    rows = []
    for index, cells in enumerate(table.rows):
        row: dict[str, Any] = {column: cell for column, cell in cells.items() if cell}
        if "context" in row:
            row["context"] = _parse_context(row["context"], table.place(index))
        check_value(row, table.place(index))
        rows.append(row)
    return table._replace(rows=rows)


def _parse_context(text: str, place: str) -> Any:
    try:
        return _parse_json(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place}: context must be a JSON list ({_reason(error)}).") from error


def _read_parquet_table(path: Path) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist, or is not a file. Check the path.")
    check_placeholder(path)
    try:
        rows = pq.read_table(path).to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a readable Parquet file ({shorten(str(error))}). Copy it again.") from error
    for number, row in enumerate(rows, 1):
        check_value(row, f"{path}, row {number}")
    return Table(path, [], rows, list(range(1, len(rows) + 1)), "row")


def _name_columns(table: Table) -> Table:
    """Name the columns of JSON and Parquet as those of CSV are named; missing values are left out.

    Raises:
        ValueError: two keys of a row are the same column.
    """
    names: dict[str, str] = {}
    rows = []
    for index, row in enumerate(table.rows):
        named = {}
        for key, value in row.items():
            if key not in names:
                names[key] = column_name(key, KNOWN_COLUMNS)
            if names[key] in named:
                raise ValueError(f"{table.place(index)}: more than one {names[key]}. Rename or remove one.")
            is_missing = isinstance(value, float) and math.isnan(value)  # as pandas writes it
            named[names[key]] = None if is_missing else value
        rows.append(named)
    return table._replace(columns=list(dict.fromkeys(names.values())), rows=rows)
