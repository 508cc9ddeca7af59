"""Long strings of a pickle, which stay in its file until they are read.

Next: pickles.py.
"""

from typing import NamedTuple

import numpy as np


LONG = 4096  # bytes; longer strings of a pickle stay in its file
MARK_EVERY = 1 << 20  # bytes of encoded text between two marks


class Span(NamedTuple):
    """Bytes in a file, or in memory if there are few.

    `marks` is for bytes that protocols 0 to 2 wrote as text: entry k is the number of decoded bytes before encoded
    byte k * MARK_EVERY, and the last entry is their total.
    """

    path: str
    offset: int
    size: int
    data: bytes | None = None
    marks: np.ndarray | None = None

    @property
    def decoded_size(self) -> int:
        """Number of bytes that `read` can return."""
        return self.size if self.marks is None else int(self.marks[-1])

    def read(self, start: int, stop: int) -> bytes:
        """Bytes `start` to `stop` (excluded).

        Raises:
            ValueError: the file is damaged there; the message names it.
        """
        if self.data is not None:
            return self.data[start:stop]
        if self.marks is not None:
            return self._read_text(start, stop)
        return self._read_file(start, stop)

    def __str__(self) -> str:
        """The text, if a long string was text."""
        return self.read(0, self.size).decode("utf-8", "replace")

    def _read_file(self, start: int, stop: int) -> bytes:
        with open(self.path, "rb") as file:
            file.seek(self.offset + start)
            return file.read(stop - start)

    def _read_text(self, start: int, stop: int) -> bytes:
        """Bytes `start` to `stop`, each of which is stored as a character of one or two bytes."""
        if stop <= start:
            return b""
        first = int(np.searchsorted(self.marks[:-1], start, side="right")) - 1
        last = int(np.searchsorted(self.marks, stop, side="left"))
        end = min(last * MARK_EVERY + 1, self.size)  # one more: the second byte of a character
        encoded = np.frombuffer(self._read_file(first * MARK_EVERY, end), np.uint8)
        character_starts = np.flatnonzero(encoded & 0xC0 != 0x80)
        skipped = int(self.marks[first])
        chosen = character_starts[start - skipped : stop - skipped + 1]
        until = chosen[-1] if len(chosen) > stop - start else len(encoded)
        try:
            return encoded[chosen[0] : until].tobytes().decode("utf-8").encode("latin-1")
        except UnicodeError as error:
            place = self.offset + first * MARK_EVERY + int(chosen[0])
            raise ValueError(f"{self.path} is damaged after byte {place} ({error}). Copy it again.") from error


def mark_characters(span: Span) -> Span:
    """Count characters, so that any part of a long text can be found without reading everything before it."""
    marks = [0]
    with open(span.path, "rb") as file:
        file.seek(span.offset)
        for begin in range(0, span.size, MARK_EVERY):
            part = np.frombuffer(file.read(min(MARK_EVERY, span.size - begin)), np.uint8)
            num_characters = int(np.count_nonzero(part & 0xC0 != 0x80))
            marks.append(marks[-1] + num_characters)
    return span._replace(marks=np.array(marks))
