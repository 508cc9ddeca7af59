"""Clips of a release: finding the files, checking that they play, and storing them as paths or bytes.

Cutting clips out of longer videos is in cutting.py.
"""

import filecmp
import itertools
import os
from collections.abc import Callable, Collection, Hashable, Iterable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeVar

from ...data.text_files import shorten
from ...records import check_placeholder, replacing
from .conversion_report import ConversionReport


MEDIA_CHOICES = ("paths", "embed", "none")
MAX_NAME_BYTES = 200  # of a clip's file; file systems take 255, and a temporary file has a longer name

Key = TypeVar("Key", bound=Hashable)


# ---- files ----------------------------------------------------------------------------------------------------


def list_files(folder: Path) -> list[Path]:
    """All files of a release, outer folders first, without hidden folders and macOS's shadow files (`._x`).

    Links to folders are followed, but no folder is read twice, and none that SOURCE is in.

    Raises:
        OSError: there is no folder, or a subfolder cannot be read.
        ValueError: a name is not UTF-8, so no table could store it.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}.")
    paths = []
    source = Path(os.path.realpath(folder))
    visited = {str(source), *map(str, source.parents)}
    for parent, folders, names in os.walk(folder, onerror=_raise, followlinks=True):
        chosen = []
        for name in sorted(folders):
            real = os.path.realpath(os.path.join(parent, name))
            if not name.startswith(".") and real not in visited:
                visited.add(real)
                chosen.append(name)
        folders[:] = chosen
        paths += [Path(parent) / name for name in names if not name.startswith("._")]
    for path in paths:
        _check_name(path)
    return sorted(paths, key=lambda path: (len(path.parts), str(path)))


def _raise(error: OSError) -> NoReturn:
    raise error


def _check_name(path: Path) -> None:
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"The name of the file {str(path)!r} is not UTF-8. Rename it, or move it away.") from error


def find_file(files: Iterable[Path], names: Collection[str], folder: Path) -> Path:
    """The file with the first of these names that exists; `folder` is for the error message.

    Raises:
        FileNotFoundError: there is none.
        ValueError: there are several with different content, such as those of two corpora.
    """
    by_name: dict[str, list[Path]] = {}
    for path in files:
        by_name.setdefault(path.name, []).append(path)
    for name in names:
        first, *others = by_name.get(name, [None])
        for other in others:
            if first.is_file() and other.is_file() and not filecmp.cmp(first, other, shallow=False):
                raise ValueError(
                    f"{folder} has several {name} with different content: {first} and {other}. Give the folder of "
                    "one release, or remove one of them."
                )
        if first is not None:
            return first
    raise FileNotFoundError(f"{folder} has no {' or '.join(names)}, and neither do its subfolders.")


def check_different(paths: Iterable[Path]) -> None:
    """Refuse a release in which the file of one split stands for another one's: the splits would overlap.

    Raises:
        ValueError: two of the files have the same content.
    """
    for first, second in itertools.combinations(paths, 2):
        if filecmp.cmp(first, second, shallow=False):
            raise ValueError(
                f"{first} and {second} have the same content, so two splits would have the same examples. Download "
                "the release again."
            )


def map_files(paths: Iterable[Path], key: Callable[[Path], Key], report: ConversionReport) -> dict[Key, Path]:
    """Map the key of each file to the first file that has it; others with the same key are noted.

    Args:
        paths: in order of preference.
        key: of a file, such as its name without the extension.
        report: of the plan.
    """
    chosen: dict[Key, Path] = {}
    for path in paths:
        first = chosen.setdefault(key(path), path)
        if first is not path:
            report.note("second file of this name: ignored", f"{path.parent.name}/{path.name}")
    return chosen


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

    Raises:
        ValueError: the name is too long, or names another folder.
    """
    from .conversion import partial_folder

    if not is_file_name(name):
        raise ValueError(f"A clip cannot be named {shorten(name)}.")
    if media == "embed":
        return {"path": name, "bytes": clip}
    if dest is not None:
        with replacing(partial_folder(Path(dest)) / "clips" / name) as temporary:
            temporary.write_bytes(clip)
    return f"clips/{name}"


def is_file_name(name: str) -> bool:
    """Whether an id of a release can be the name of a file in `clips/`: no folders, and not too long."""
    return os.path.basename(name) == name and "\0" not in name and len(os.fsencode(name)) <= MAX_NAME_BYTES


def example_bytes(clips: Collection[Path], media: str) -> int:
    """Approximate size of a stored example."""
    if media != "embed" or not clips:
        return 1000
    return 1000 + sum(path.stat().st_size for path in clips if path.is_file()) // len(clips)
