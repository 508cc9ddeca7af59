"""Files that a table names: found however Windows, macOS or Linux writes their names, or the reason why not.

    "clips\\a.wav" ─► MediaFolder.find ─► absolute path
                              └─► None ─► MediaFolder.explain: another case, another encoding, another computer

A name that differs from a file's only in case or percent encoding is not accepted: the message names the file.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from .csv_tables import BLANKS, compose
from .tables import MEDIA
from .text_files import shorten


AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".spx", ".mp3", ".mp2", ".m4a", ".m4b", ".aac", ".aiff",
                  ".aif", ".aifc", ".au", ".snd", ".caf", ".amr", ".wma", ".w64", ".mka", ".weba")  # fmt: skip
VIDEO_SUFFIXES = (".mp4", ".mkv", ".mov", ".qt", ".avi", ".webm", ".m4v", ".flv", ".f4v", ".3gp", ".3g2", ".mpg",
                  ".mpeg", ".vob", ".ts", ".mts", ".m2ts", ".wmv", ".asf", ".mxf", ".ogv")  # fmt: skip
FEATURES_SUFFIXES = (".npy",)

DIRECTION_MARKS = "\u202a\u202b\u202c\u202d\u202e\u200e\u200f"  # "Copy as path" in Windows puts them before a path
OTHER_COMPUTER = re.compile(r"[A-Za-z]:[\\/]|\\\\")
URL = re.compile(r"(?i)[a-z][a-z0-9+.-]+://")


class MediaFolder:
    """Finds files by their names in a table.

    Args:
        folder: the names are relative to it.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = os.path.abspath(folder)
        self.names: dict[str, list[str]] = {}  # folder -> names in it

    def find(self, name: str) -> str | None:
        """The absolute path of a file; None if there is none.

        Backslashes separate folders unless a file's name contains them, and composed letters equal decomposed ones
        (macOS writes é as two characters).
        """
        stripped = name.strip(BLANKS + DIRECTION_MARKS)
        candidates = dict.fromkeys([name, stripped, stripped.replace("\\", "/")])
        for candidate in candidates:
            path = os.path.join(self.folder, candidate)
            if os.path.isfile(path):
                return str(Path(path))
        for candidate in candidates:
            path = None if candidate.isascii() else self._walk(candidate, compose)
            if path is not None and os.path.isfile(path):
                return path
        return None

    def explain(self, name: str) -> str:
        """Why `find` found nothing, in parentheses for a message; empty if the reason is unknown."""
        stripped = name.strip(BLANKS + DIRECTION_MARKS)
        if URL.match(stripped):
            return " (a URL: download the file, and give its path)"
        if OTHER_COMPUTER.match(stripped):
            return " (an absolute path on another computer)"
        path = os.path.join(self.folder, stripped.replace("\\", "/"))
        if os.path.isdir(path):
            return " (a folder)"
        error = _stat_error(path)
        if error is not None:
            return f" ({error})"
        similar = self._find_similar(stripped.replace("\\", "/"))
        return "" if similar is None else f" (there is {shorten(os.path.relpath(similar, self.folder))})"

    def _find_similar(self, name: str) -> str | None:
        """A path that differs only in case or percent encoding, or that has a file extension which the name lacks."""
        for candidate, simplify in ((name, _fold), (unquote(name), _fold), (name, _fold_stem)):
            path = self._walk(candidate, simplify)
            if path is not None and os.path.isfile(path):
                return path
        return None

    def _walk(self, name: str, simplify: Callable[[str], str]) -> str | None:
        """The only path whose parts are the same as those of the name once both are simplified."""
        path = "/" if name.startswith("/") else self.folder
        for part in name.split("/"):
            exact = os.path.join(path, part)
            if os.path.exists(exact):
                path = exact
                continue
            same = [entry for entry in self._list(path) if simplify(entry) == simplify(part)]
            if len(same) != 1:
                return None
            path = os.path.join(path, same[0])
        return os.path.abspath(path)

    def _list(self, folder: str) -> list[str]:
        if folder not in self.names:
            self.names[folder] = os.listdir(folder) if os.path.isdir(folder) else []
        return self.names[folder]


def _fold(name: str) -> str:
    return compose(name).casefold()


def _fold_stem(name: str) -> str:
    stem, suffix = os.path.splitext(_fold(name))
    is_media = suffix in AUDIO_SUFFIXES + VIDEO_SUFFIXES + FEATURES_SUFFIXES
    return stem if is_media else _fold(name)


def _stat_error(path: str) -> str | None:
    """The reason why a path cannot be looked up: a symlink loop, a name that is too long, no permission."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        return error.strerror
    except ValueError:
        return "a character that no file name can have"
    return None


def is_absolute(name: str) -> bool:
    """Whether a name is an absolute path, on this computer or another, or a URL."""
    return name.startswith("/") or bool(OTHER_COMPUTER.match(name)) or bool(URL.match(name))


def column_of_file(name: str) -> str | None:
    """`audio` or `video` by a file's extension; None if it is neither."""
    suffix = os.path.splitext(name.strip(BLANKS))[1].casefold()
    if suffix in AUDIO_SUFFIXES:
        return "audio"
    return "video" if suffix in VIDEO_SUFFIXES else None


def list_media(folder: str | Path, suffixes: Iterable[str]) -> Iterator[str]:
    """Absolute paths of the files with these extensions in a folder and its subfolders, without hidden ones."""
    endings = tuple(suffixes)
    for parent, folders, names in os.walk(os.path.abspath(folder)):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and name.casefold().endswith(endings):
                yield os.path.join(parent, name)


def relative_media(example: dict[str, Any], dataset: Path) -> dict[str, str]:
    """The files of an example, relative to its dataset's folder: results files hold no path of a machine."""
    files = {}
    for column in MEDIA:
        value = example.get(column)
        if isinstance(value, str):
            path = Path(value)
            folder = dataset.resolve()
            files[column] = str(path.relative_to(folder)) if path.is_relative_to(folder) else path.name
    return files
