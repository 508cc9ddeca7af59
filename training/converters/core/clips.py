"""Clips of a release: finding the files, checking that they play, and storing them as paths or bytes.

Cutting clips out of longer videos is in cutting.py.
"""

import os
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from ...records import check_placeholder, replacing
from .conversion_report import ConversionReport


MEDIA_CHOICES = ("paths", "embed", "none")


# ---- files ----------------------------------------------------------------------------------------------------


def list_files(folder: Path) -> list[Path]:
    """All files of a release, outer folders first, without hidden folders and macOS's shadow files (`._x`)."""
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}.")
    paths = []
    for parent, _, names in os.walk(folder):
        if Path(parent).name.startswith(".") and Path(parent) != folder:
            continue
        paths += [Path(parent) / name for name in names if not name.startswith("._")]
    return sorted(paths, key=lambda path: (len(path.parts), str(path)))


def find_file(files: Iterable[Path], names: Collection[str], folder: Path) -> Path:
    """The first file with one of these names; `folder` is for the error message."""
    for path in files:
        if path.name in names:
            return path
    raise FileNotFoundError(f"{folder} has no {' or '.join(names)}, and neither do its subfolders.")


# ---- checks ---------------------------------------------------------------------------------------------------


class ClipInfo(NamedTuple):
    """Length and tracks of a media file.

    Args:
        seconds: the length that the file states, or that of its packets if it states none.
        has_audio, has_video: which tracks it has.
        packet_seconds: the length of its packets.
    """

    seconds: float
    has_audio: bool
    has_video: bool
    packet_seconds: float


def probe_clip(path: Path) -> ClipInfo:
    """Check that a clip plays: one frame of each track is decoded, and the packets are read to the end.

    Raises:
        ValueError: the clip cannot be read, has neither audio nor video, or is truncated.
    """
    import av

    from processing_egmf.media_egmf import open_media

    try:
        with open_media(path, str(path)) as container:
            return _probe(container)
    except (av.FFmpegError, OSError) as error:
        raise ValueError(f"{path}: {error}") from error


def _probe(container: Any) -> ClipInfo:
    import av

    from processing_egmf.media_egmf import choose_stream

    audio = choose_stream(container, "audio")
    video = choose_stream(container, "video")
    streams = [stream for stream in (audio, video) if stream is not None]
    if not streams:
        raise ValueError("The clip has neither audio nor video.")
    undecoded = {stream.index for stream in streams}
    end = 0.0
    for packet in container.demux(streams):
        if packet.pts is not None:
            packet_end = (packet.pts + (packet.duration or 0)) * packet.time_base
            end = max(end, float(packet_end))
        if packet.stream.index in undecoded and packet.decode():
            undecoded.discard(packet.stream.index)
    if undecoded:
        raise ValueError("A track of the clip cannot be decoded.")
    seconds = end - (container.start_time or 0) / av.time_base
    stated_seconds = (container.duration or 0) / av.time_base
    if stated_seconds and seconds < 0.8 * stated_seconds - 1:
        raise ValueError(f"The clip is truncated: it has {seconds:.1f} of {stated_seconds:.1f} s.")
    return ClipInfo(stated_seconds or seconds, audio is not None, video is not None, seconds)


def check_clip(path: str | None, example_id: str, report: ConversionReport) -> ClipInfo | None:
    """Length and tracks of an example's clip; None, with an entry in the report, if it is missing or broken."""
    if path is None or not os.path.isfile(path):
        report.repair("clip missing: left out, text kept", example_id)
        return None
    try:
        check_placeholder(path)
    except (OSError, ValueError):
        report.repair("clip is a Git LFS pointer, a web page or not readable: left out, text kept", example_id)
        return None
    try:
        return probe_clip(Path(path))
    except ValueError:
        report.repair("clip cannot be read: left out, text kept", example_id)
        return None


# ---- storing --------------------------------------------------------------------------------------------------


def finish_clip(
    example: dict[str, Any],
    report: ConversionReport,
    media: str,
    dest: str | None,
    max_seconds: float | None = None,
) -> dict[str, Any] | None:
    """The example with its clip in stored form, or without an unusable clip; None if nothing is left.

    Args:
        example: `video` is the clip's path or None.
        report: counts missing, broken and overlong clips.
        media: one of `MEDIA_CHOICES`.
        dest: folder of the converted corpus.
        max_seconds: a longer clip is not a single utterance and is left out; None for no limit.
    """
    finished = dict(example)
    if media != "none":
        clip = check_clip(example["video"], example["id"], report)
        if clip is not None and max_seconds is not None and clip.seconds > max_seconds:
            report.repair(f"clip longer than {max_seconds:g} s, wrongly cut: left out, text kept", example["id"])
            clip = None
        finished["video"] = None if clip is None else media_cell(example["video"], media, dest)
    if not finished["text"] and finished.get("video") is None:
        report.drop("neither text nor a clip", example["id"])
        return None
    return finished


def media_cell(path: str, media: str, dest: str | None) -> Any:
    """Stored form of a clip: its path relative to the corpus's folder, or its name and bytes."""
    if media == "embed":
        return {"path": os.path.basename(path), "bytes": Path(path).read_bytes()}
    return os.path.relpath(path, dest or ".")


def store_clip(name: str, clip: bytes, media: str, dest: str | None) -> Any:
    """Stored form of a clip that was cut: its name and bytes, or its path after writing it to `clips/` of the corpus.

    Args:
        name: of the file.
        clip: the file.
        media: `paths` or `embed`.
        dest: folder of the converted corpus; None to write nothing.
    """
    from .conversion import partial_folder

    if media == "embed":
        return {"path": name, "bytes": clip}
    if dest is not None:
        with replacing(partial_folder(Path(dest)) / "clips" / name) as temporary:
            temporary.write_bytes(clip)
    return f"clips/{name}"


def example_bytes(clips: Collection[Path], media: str) -> int:
    """Approximate size of a stored example."""
    if media != "embed" or not clips:
        return 1000
    return 1000 + sum(path.stat().st_size for path in clips) // len(clips)
