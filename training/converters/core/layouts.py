"""File names of the corpora, to recognize a corpus that was given to the converter of another one."""

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from ...data.media_paths import AUDIO_SUFFIXES, VIDEO_SUFFIXES
from .conversion_report import ConversionReport


class Layout(NamedTuple):
    """How a corpus names its recordings.

    Args:
        title: name of the corpus.
        pattern: of a recording's name without its extension.
        example: such a name.
    """

    title: str
    pattern: re.Pattern[str]
    example: str


LAYOUTS = {  # argument of `egmf convert` -> names
    "ravdess": Layout("RAVDESS", re.compile(r"(?:\d\d-){6}\d\d"), "03-01-06-01-02-01-12.wav"),
    "crema_d": Layout("CREMA-D", re.compile(r"\d{4}_[A-Z]{3}_[A-Z]{3}_[A-Z]{1,2}"), "1001_DFA_ANG_XX.wav"),
    "iemocap": Layout("IEMOCAP", re.compile(r"Ses\d\d[FM]_\w+"), "Ses01F_impro01_F000.wav"),
    "meld": Layout("MELD", re.compile(r"dia\d+_utt\d+"), "dia0_utt0.mp4"),
}
MEDIA_SUFFIXES = frozenset((*AUDIO_SUFFIXES, *VIDEO_SUFFIXES))


def find_recordings(files: Iterable[Path], corpus: str, source: Path, report: ConversionReport) -> list[Path]:
    """The recordings of a corpus; media files with other names are noted, by the corpus that they belong to.

    Args:
        files: of the release.
        corpus: key of `LAYOUTS`.
        source: the folder, for the error.
        report: of the plan.

    Raises:
        FileNotFoundError: there is none.
    """
    layout = LAYOUTS[corpus]
    recordings = []
    others: Counter[str] = Counter()
    for path in files:
        if path.suffix.lower() not in MEDIA_SUFFIXES:
            continue
        if layout.pattern.fullmatch(path.stem):
            recordings.append(path)
            continue
        owner = corpus_of(path.stem)
        title = "no corpus known here" if owner is None else LAYOUTS[owner].title
        report.note(f"not a file of {layout.title}, but of {title}: ignored", path.name)
        others[owner or ""] += 1
    if not recordings:
        raise FileNotFoundError(
            f"{source} has no recordings named like {layout.title}'s ({layout.example}).{_describe(others)}"
        )
    return recordings


def corpus_of(stem: str) -> str | None:
    """The corpus that names its recordings like this; None if none does."""
    for name, layout in LAYOUTS.items():
        if layout.pattern.fullmatch(stem):
            return name
    return None


def _describe(others: Counter[str]) -> str:
    """What a folder holds instead."""
    if not others:
        return " It has no audio or video files at all; unpack the downloaded archives there."
    name, count = others.most_common(1)[0]
    if not name:
        return f" Its {count} audio and video files have other names; do not rename the files of the release."
    return f" It has {count} of {LAYOUTS[name].title}: use egmf convert {name}."
