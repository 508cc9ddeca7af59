"""Text files in the encodings that spreadsheet programs write, and values shortened for messages.

    path ─► bytes ─► not binary ─► byte order mark, UTF-16, UTF-8, Mac Roman, Windows-1252 ─► text

The two old encodings are guesses, so they are tried only where the text looks Western, and a warning quotes a word.
"""

import codecs
import logging
import os
import re
import reprlib
from pathlib import Path
from typing import Any

from ..records import check_placeholder


MAX_SHOWN = 80  # characters of a value in a message
MAX_DEPTH = 50  # of lists and objects in a cell

MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
# First bytes of files that are not text -> what they are, and what to do.
BINARY = {
    b"PK\x03\x04": "a workbook or a zip archive. Open it and save the table as CSV UTF-8",
    b"\xd0\xcf\x11\xe0": "an old workbook. Open it and save the table as CSV UTF-8",
    b"PAR1": "a Parquet file. Name it metadata.parquet",
    b"\x1f\x8b": "compressed. Unpack it",
    b"%PDF": "a PDF document. Save its table as CSV UTF-8",
}
# Pairs of bytes that are common in Chinese, Japanese, Korean and Cyrillic encodings and rare in Windows-1252.
NOT_WESTERN = re.compile(rb"[\xa1-\xdf][\xa1-\xfe]|[\x82\x83][\x80-\xff]|[\xc0-\xff]{4}")

logger = logging.getLogger(__name__)


def read_text(path: str | Path) -> str:
    """The text of a file, without its byte order mark; line endings stay as they are.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not text, is a placeholder for another one, or has an unknown encoding.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{shorten_path(path)} does not exist, or is not a file. Check the path.")
    check_placeholder(path)
    data = Path(path).read_bytes()
    for start, description in BINARY.items():
        if data.startswith(start):
            raise ValueError(f"{path} is {description}.")
    text = _decode(data, path)
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise ValueError(f"{path}, line {line}: a NUL character. The file is damaged, or is not a text file.")
    return text


def _decode(data: bytes, path: str | Path) -> str:
    for mark, encoding in MARKS.items():
        if data.startswith(mark):
            return _decode_as(data, encoding, path)
    if _has_many_zeros(data[1:1000:2]):
        return _decode_as(data, "utf-16-le", path)
    if _has_many_zeros(data[:1000:2]):
        return _decode_as(data, "utf-16-be", path)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        return _decode_old(data, path, error)


def _has_many_zeros(data: bytes) -> bool:
    """Whether these are the upper halves of UTF-16, which are 0 in a table's separators and names."""
    return data.count(0) > max(3, len(data) / 10)


def _decode_as(data: bytes, encoding: str, path: str | Path) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} begins as {encoding.upper()} but is not valid ({error}). Save it as UTF-8."
        ) from error


def _decode_old(data: bytes, path: str | Path, error: UnicodeDecodeError) -> str:
    """Windows-1252, or Mac Roman if the line endings are those of an old Mac; a warning quotes a word."""
    is_mac = b"\r" in data and b"\n" not in data
    encoding = "mac_roman" if is_mac else "cp1252"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        text = None
    if text is None or (not is_mac and NOT_WESTERN.search(data)):
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path}, line {line}: is not UTF-8 ({error.reason} {data[error.start]:#x}), and its encoding cannot be "
            'determined. Save it as UTF-8 (Excel: "CSV UTF-8").'
        ) from error
    word = re.search(r"\w*[^\x00-\x7f]\w*", text).group()
    name = "Mac Roman" if is_mac else "Windows-1252"
    logger.warning(f"{path} is not UTF-8; it is read as {name}, for example {shorten(word)}. Save it as UTF-8.")
    return text


# ---- values ---------------------------------------------------------------------------------------------------


def check_value(value: Any, place: str, depth: int = 0) -> None:
    """Check a cell that came from JSON or Parquet.

    Raises:
        ValueError: half of a surrogate pair, a NUL character, or lists nested too deeply.
    """
    if isinstance(value, str):
        if not value.isascii() or "\0" in value:
            _check_characters(value, place)
    elif isinstance(value, list | tuple | dict):
        if depth == MAX_DEPTH:
            raise ValueError(f"{place}: lists or objects are nested more than {MAX_DEPTH} deep.")
        entries = [*value, *value.values()] if isinstance(value, dict) else value
        for entry in entries:
            if isinstance(entry, str | list | tuple | dict):
                check_value(entry, place, depth + 1)


def _check_characters(text: str, place: str) -> None:
    for character in text:
        if character == "\0" or "\ud800" <= character <= "\udfff":
            kind = "a NUL character" if character == "\0" else "half of a surrogate pair"
            raise ValueError(f"{place}: {shorten(text)} holds {kind}. Was the text cut inside a character?")


class _Shortener(reprlib.Repr):
    """`repr` of nested values with few entries, few levels and no long numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 3
        self.maxstring = self.maxother = MAX_SHOWN

    def repr_int(self, x: int, level: int) -> str:
        return str(x) if x.bit_length() < 8 * MAX_SHOWN else f"a number of {x.bit_length()} bits"


def shorten(value: Any) -> str:
    """The `repr` of a value, shortened for a message."""
    if isinstance(value, str) and len(value) > MAX_SHOWN:
        return f"{value[:MAX_SHOWN]!r}..."
    shown = _Shortener().repr(value)
    return shown if len(shown) <= 2 * MAX_SHOWN else f"{shown[: 2 * MAX_SHOWN]}..."


def shorten_path(path: str | Path) -> str:
    """A path for a message: only the beginning of a long one, with unprintable characters escaped."""
    text = str(path)[: 4 * MAX_SHOWN].encode("utf-8", "backslashreplace").decode("utf-8")
    return text if len(str(path)) <= 4 * MAX_SHOWN else f"{text}..."
