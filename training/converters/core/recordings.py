"""Recordings of acted speech: an audio file, a video, a table of face landmarks, or several of them per example.

A short recording that was cut off by an interrupted download still plays; its header says how long it should be.
"""

import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ...records import check_placeholder
from .clips import ClipInfo, media_cell, probe_clip
from .columns import media_columns, typed_columns
from .conversion_report import ConversionReport
from .landmarks import LandmarkOptions, read_face_features


MODALITIES = ("audio", "video")
MIN_SHARE = 0.95  # of the stated length; the last packet of some encoders is not counted in full
SLACK_SECONDS = 0.1
RIFF_HEADER = 8
UNKNOWN_SIZES = (0, 0xFFFFFFFF)  # of a WAV file that was written to a pipe


class Recording(NamedTuple):
    """A checked file: the reason why it cannot be used, or what it holds."""

    problem: str | None
    info: ClipInfo | None


def check_recording(path: Path) -> Recording:
    """Check that a file is whole and plays."""
    try:
        check_placeholder(path)
        info = probe_clip(path)
    except (OSError, ValueError):
        return Recording("cannot be read", None)
    too_short = info.packet_seconds < MIN_SHARE * info.seconds - SLACK_SECONDS
    if too_short or is_cut_wav(path):
        return Recording("is cut off", None)
    return Recording(None, info)


def is_cut_wav(path: Path) -> bool:
    """Whether a WAV file is shorter than its header says."""
    with path.open("rb") as file:
        header = file.read(RIFF_HEADER)
    if len(header) < RIFF_HEADER or header[:4] != b"RIFF":
        return False
    (size,) = struct.unpack("<I", header[4:])
    return (
        size not in UNKNOWN_SIZES and size + RIFF_HEADER > path.stat().st_size + 1
    )  # a final pad byte may be missing


def finish_recording(
    example: dict[str, Any],
    report: ConversionReport,
    media: str,
    dest: str | None,
    landmarks: LandmarkOptions | None = None,
    keep_text: bool = False,
) -> dict[str, Any] | None:
    """The example with its files in stored form, and `video_features` read from its landmarks; None if none is usable.

    Args:
        example: `audio`, `video` and `landmarks` are paths or None.
        report: counts what is damaged, and why.
        media: one of `MEDIA_CHOICES`.
        dest: folder of the converted corpus.
        landmarks: how the tables are read; None if there are none.
        keep_text: whether the transcript alone is an example.
    """
    finished = {name: value for name, value in example.items() if name != "landmarks"}
    seconds = None
    usable = (media == "none" and landmarks is None) or (keep_text and bool(example["text"]))
    for modality in MODALITIES:
        finished[modality] = None
        if example[modality] is None or media == "none":
            continue
        recording = check_recording(Path(example[modality]))
        if recording.info is None:
            report.repair(f"{modality} file {recording.problem}: left out", example["id"])
            continue
        finished[modality] = media_cell(example[modality], media, dest)
        seconds = seconds or recording.info.seconds
        usable = True
    if landmarks is not None:
        finished["video_features"] = read_face_features(example, seconds, landmarks, report)
        usable = usable or finished["video_features"] is not None
    if not usable:
        report.drop("no file of the recording can be used", example["id"])
        return None
    return finished


def recording_columns(
    task: str,
    tasks: Mapping[str, Mapping[str, Any]],
    media: str,
    landmarks: LandmarkOptions | None,
    extra: Mapping[str, str],
) -> Any:
    """The typed columns of recordings with audio, video or landmarks.

    Args:
        task: name of their task.
        tasks: the corpus's tasks, name -> fields.
        media: one of `MEDIA_CHOICES`.
        landmarks: how the tables are read; None if there are none.
        extra: other columns, name -> type.
    """
    from processing_egmf import EGMFTask  # imports torch

    return typed_columns(
        EGMFTask.from_dict(tasks[task], task),
        video_width=None if landmarks is None else landmarks.width,
        media=media_columns(media, MODALITIES),
        extra=extra,
    )


def note_missing(
    kind: str, counts: dict[str, int], expected: Iterable[str], per_group: int, report: ConversionReport
) -> None:
    """Note which speakers of a release are missing, and which have only a part of their recordings.

    Args:
        kind: such as `actor`.
        counts: recordings of each speaker that was found.
        expected: all speakers of the release.
        per_group: recordings of each speaker in the release.
    """
    for name in expected:
        count = counts.get(name, 0)
        if count == 0:
            report.note(f"{kind} missing from SOURCE", name)
        elif count < per_group:
            report.note(f"{kind} with fewer than {per_group} recordings", f"{name}: {count}")
