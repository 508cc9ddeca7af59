"""Delimited text tables, as spreadsheet programs, databases and pandas write them.

    path ─► read_text ─► "sep=;" ─► find_separator ─► csv.reader ─► names of the columns ─► Table

The separator is a comma, semicolon, tab or vertical bar. Cells stay text: leading zeros and dates are kept.
"""

import csv
import io
import re
import unicodedata
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .text_files import read_text


SEPARATORS = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a vertical bar"}
NO_SEPARATOR = "\x1f"  # for a table with one column: a character that occurs in no text
SAMPLED_ROWS = 20
SEPARATOR_LINE = re.compile(r'"?sep=(.)"?[ \t]*(\r\n|\r|\n)', re.IGNORECASE)
BLANKS = " \t\r\n\v\f\u00a0\u200b\u2007\u202f\u2060\u3000\ufeff"  # stripped from names and values
NUMBER = re.compile(r"[-+]?(\d+([.,]\d*)?|[.,]\d+)([eE][-+]?\d+)?")


class Table(NamedTuple):
    """The rows of a file.

    Args:
        path: the file.
        columns: names of the columns, as `column_name` gives them.
        rows: column -> value.
        lines: line number of each row in the file, from 1; for Parquet, the row number.
        unit: `line` or `row`, for messages.
        unnamed: number of columns that have values but no name; they are left out.
    """

    path: Path
    columns: list[str]
    rows: list[dict[str, Any]]
    lines: list[int]
    unit: str = "line"
    unnamed: int = 0

    def place(self, index: int) -> str:
        """The location of a row, for messages."""
        return f"{self.path}, {self.unit} {self.lines[index]}"


def read_csv(path: Path, required_columns: Sequence[str] = ()) -> list[dict[str, str]]:
    """Read the rows of a delimited table. Every cell stays text, so leading zeros are kept.

    Args:
        path: the file; its first line names the columns.
        required_columns: columns that must be present.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: not text, not CSV, a column is missing or appears twice, a row has more cells than columns, or the
            file ends within a row.
    """
    return [row for _, row in read_rows(path, required_columns)]


def read_rows(path: Path, required_columns: Sequence[str] = ()) -> list[tuple[str, dict[str, str]]]:
    """As `read_csv`; each row with its location, for messages."""
    table = read_csv_table(path, required_columns)
    missing = [name for name in required_columns if name not in table.columns]
    if missing:
        raise ValueError(f"{path} has no column {', '.join(missing)}. It has {', '.join(table.columns) or 'none'}.")
    return [(table.place(index), row) for index, row in enumerate(table.rows)]


def read_csv_table(path: Path, known_columns: Collection[str] = ()) -> Table:
    """Read a delimited table without its empty lines and unnamed columns.

    Args:
        path: the file; its first line names the columns.
        known_columns: names to expect. They help to find the separator, and match regardless of case.

    Raises:
        FileNotFoundError, ValueError: as for `read_csv`.
    """
    path = Path(path)
    text = read_text(path)
    declared = SEPARATOR_LINE.match(text)
    if declared is not None:
        text = text[declared.end() :]
    first_line = 1 if declared is None else 2
    separator = find_separator(text, known_columns) if declared is None else declared[1]
    records = _read_records(path, text, separator, first_line)
    _, header = next(records, (0, []))
    names = [column_name(name, known_columns) for name in header]
    columns = [name for name in names if name]
    repeated = [name for name in dict.fromkeys(columns) if columns.count(name) > 1]
    if repeated:
        raise ValueError(f"{path} has more than one column {', '.join(repeated)}. Rename or remove one.")
    rows = []
    lines = []
    unnamed: set[int] = set()
    is_short = False
    for line, cells in records:
        is_short = any(names[len(cells) :])
        cells = _fit_cells(f"{path}, line {line}", cells, names, separator)
        unnamed.update(index for index, name in enumerate(names) if not name and cells[index].strip(BLANKS))
        rows.append({name: cell for name, cell in zip(names, cells, strict=True) if name})
        lines.append(line)
    if is_short and not text.endswith(("\n", "\r")):
        raise ValueError(f"{path}, line {line}: fewer cells than columns. Was the file cut off?")
    return Table(path, columns, rows, lines, unnamed=len(unnamed))


def _read_records(path: Path, text: str, separator: str, first_line: int) -> Iterator[tuple[int, list[str]]]:
    """Line and cells of every record that is not empty."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True)
    line = first_line
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise ValueError(
                f"{path}, line {line}: not CSV ({error}). Is a quote left open, or a quote inside a cell not doubled?"
            ) from error
        if cells is None:
            return
        if any(cell.strip(BLANKS) for cell in cells):
            yield line, cells
        line = first_line + reader.line_num


def _fit_cells(place: str, cells: list[str], names: Sequence[str], separator: str) -> list[str]:
    """Fit a row to the columns: spreadsheet programs add empty cells at the end of a row, or leave them out."""
    extra = cells[len(names) :]
    if any(cell.strip(BLANKS) for cell in extra):
        kind = SEPARATORS.get(separator, repr(separator))
        raise ValueError(f"{place}: more cells than columns. Quote a cell that holds {kind}.")
    return cells[: len(names)] + [""] * (len(names) - len(cells))


# ---- separators -----------------------------------------------------------------------------------------------


def find_separator(text: str, known_columns: Collection[str] = ()) -> str:
    """The separator that gives the most known columns in the first line; among equals, the one with which most rows
    have as many cells as that line, then the one with the most columns. In a table with one column there is none.
    """
    scores = {separator: _score(text, separator, known_columns) for separator in SEPARATORS}
    best = max(SEPARATORS, key=scores.__getitem__)
    _, _, num_columns = scores[best]
    return best if num_columns > 1 else NO_SEPARATOR


def _score(text: str, separator: str, known_columns: Collection[str]) -> tuple[int, float, int]:
    """Number of known columns, share of the first rows that fit, and number of columns."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)
    records = []
    try:
        for cells in reader:
            if any(cell.strip(BLANKS) for cell in cells):
                records.append(cells)
            if len(records) > SAMPLED_ROWS:
                break
    except csv.Error:  # a quote is left open: the rows before it decide
        pass
    if not records:
        return 0, 0.0, 0
    header, *rows = records
    names = {column_name(name, known_columns) for name in header}
    fitting = sum(len(cells) == len(header) for cells in rows)
    return len(names & set(known_columns)), fitting / max(1, len(rows)), len(header)


# ---- names and values -----------------------------------------------------------------------------------------


def column_name(name: str, known_columns: Collection[str] = ()) -> str:
    """A column's name, stripped; that of a known column if it differs only in case, spaces or hyphens."""
    name = compose(name).strip(BLANKS)
    if name in known_columns:
        return name
    simple = _simple_name(name)
    for known in known_columns:
        if _simple_name(known) == simple:
            return known
    return name


def _simple_name(name: str) -> str:
    return re.sub(r"[\s-]+", "_", name.casefold())


def compose(text: str) -> str:
    """Composed letters (NFC): "é" may be one character or two, as macOS writes it in file names."""
    return unicodedata.normalize("NFC", text)


def tidy_name(name: str) -> str:
    """A label, split, task or speaker with composed letters and single spaces, without spaces around it."""
    return re.sub(r"\s+", " ", compose(name).strip(BLANKS))


def parse_number(text: str) -> float | None:
    """The number that a cell holds, with a decimal point or a decimal comma; None for anything else."""
    text = text.strip(BLANKS).replace("\u2212", "-")
    if NUMBER.fullmatch(text) is None:
        return None
    return float(text.replace(",", "."))
