"""Clips: finding them in a release, telling the broken ones, and cutting them out of longer videos."""

import io
import os
from collections.abc import Collection, Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import datasets
import numpy as np

from processing_egmf.media_egmf import CONTAINERS

from .conversion_report import ConversionReport


MEDIA_CHOICES = ("paths", "embed", "none")


class Clip(NamedTuple):
    """What a media file holds."""

    seconds: float
    has_audio: bool
    has_video: bool


def files_below(folder: Path) -> list[Path]:
    """Every file of a release, nearest first; the shadow files of macOS (`._x`) are none."""
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}.")
    found = [
        Path(place) / name
        for place, folders, names in os.walk(folder)
        if not Path(place).name.startswith(".") or Path(place) == folder
        for name in names
        if not name.startswith("._")
    ]
    return sorted(found, key=lambda path: (len(path.parts), str(path)))


def find_file(files: Iterable[Path], names: Iterable[str], folder: Path) -> Path:
    """The nearest file of one of these names."""
    names = tuple(names)
    for path in files:
        if path.name in names:
            return path
    raise FileNotFoundError(f"{folder} holds no {' or '.join(names)}, not in any folder below it either.")


def probe(path: Path) -> Clip:
    """Look at a clip: one frame of each stream is decoded, and the packets are counted to the end.

    Raises:
        ValueError: it cannot be read, holds neither sound nor pictures, or is cut off.
    """
    try:
        with path.open("rb") as file, _open(file) as container:
            streams = [*container.streams.audio[:1], *container.streams.video[:1]]
            if not streams:
                raise ValueError("neither sound nor pictures")
            stated = (container.duration or 0) / av.time_base
            end, waiting = 0.0, {stream.index for stream in streams}
            for packet in container.demux(streams):
                if packet.pts is not None:
                    end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
                if packet.stream.index in waiting and packet.decode():
                    waiting.discard(packet.stream.index)
            start = (container.start_time or 0) / av.time_base
            if waiting:
                raise ValueError("a stream that does not decode")
            if stated and end - start < 0.8 * stated - 1:
                raise ValueError(f"{end - start:.1f} s of {stated:.1f} s")
            return Clip(stated or end - start, bool(container.streams.audio), bool(container.streams.video))
    except (av.FFmpegError, OSError) as error:
        raise ValueError(str(error)) from error


def _open(file: Any) -> Any:
    # As in processing_egmf/media_egmf.py: FFmpeg sees the open file only, in known containers, and opens nothing else.
    return av.open(
        file,
        container_options={"format_whitelist": CONTAINERS, "protocol_whitelist": ""},
        metadata_errors="replace",
    )


def check_clip(path: str | None, name: str, report: ConversionReport) -> Clip | None:
    """The clip of a row; a missing or broken one is told to the report, and None."""
    if path is None or not os.path.isfile(path):
        report.repair("clip missing: left out, words kept", name)
        return None
    try:
        return probe(Path(path))
    except ValueError:
        report.repair("clip cannot be read: left out, words kept", name)
        return None


def finish_clip(row: dict[str, Any], report: ConversionReport) -> dict[str, Any] | None:
    """The row with its clip as it is stored, or without it if it cannot be used; None if then nothing is left.

    Args:
        row: `video` is the clip's path or None, `media` one of `MEDIA_CHOICES`, `dest` the data set's folder,
            `longest` the seconds beyond which the clip is no single utterance, or None.
        report: takes what is wrong with the clip.
    """
    finished = {name: value for name, value in row.items() if name not in ("media", "dest", "longest")}
    if row["media"] != "none":
        clip = check_clip(row["video"], row["id"], report)
        if clip is not None and row["longest"] is not None and clip.seconds > row["longest"]:
            report.repair(f"clip longer than {row['longest']:g} s, cut wrongly: left out, words kept", row["id"])
            clip = None
        finished["video"] = media_cell(row["video"], row["media"], row["dest"]) if clip else None
    if not finished["text"] and finished.get("video") is None:
        report.drop("neither words nor a clip", row["id"])
        return None
    return finished


def row_size(paths: Collection[Path], media: str) -> int:
    """About how many bytes a row takes."""
    return 1000 + (sum(path.stat().st_size for path in paths) // max(1, len(paths)) if media == "embed" else 0)


def media_columns(media: str, *kinds: str) -> dict[str, Any]:
    """The `datasets` types of media columns (default: `video`)."""
    if media == "none":
        return {}
    embedded = {"video": datasets.Video(decode=False), "audio": datasets.Audio(decode=False)}
    return {kind: datasets.Value("string") if media == "paths" else embedded[kind] for kind in kinds or ("video",)}


def media_cell(path: str, media: str, dest: str | None) -> Any:
    """A clip as it is stored: its path relative to the data set's folder, or name and bytes."""
    if media == "embed":
        return {"path": os.path.basename(path), "bytes": Path(path).read_bytes()}
    return os.path.relpath(path, dest or ".")


def cut(path: Path, start: float, end: float, with_video: bool = True) -> bytes:
    """Seconds start to end of a video as an mp4 of its own, encoded anew so that it begins and ends there.

    Raises:
        ValueError: the video cannot be read, or has nothing there.
    """
    buffer = io.BytesIO()
    try:
        with path.open("rb") as file, _open(file) as source, av.open(buffer, "w", format="mp4") as target:
            streams = [*source.streams.audio[:1], *(source.streams.video[:1] if with_video else ())]
            writers = {stream.index: _writer(target, stream) for stream in streams}
            if not writers:
                raise ValueError("neither sound nor pictures")
            source.seek(max(0, int((start - 1) * av.time_base)))
            written, over = 0, set()
            for packet in source.demux(streams):
                for frame in packet.decode():
                    if frame.time is None or frame.time + _length(frame) <= start:
                        continue
                    if frame.time >= end:
                        over.add(packet.stream.index)
                        continue
                    written += 1
                    _write(target, writers[packet.stream.index], frame, start, end)
                if len(over) == len(writers):
                    break
            for writer in writers.values():
                for piece in writer["resampler"].resample(None) if "resampler" in writer and written else ():
                    target.mux(writer["stream"].encode(piece))
                target.mux(writer["stream"].encode(None))
    except (av.FFmpegError, OSError) as error:
        raise ValueError(str(error)) from error
    if not written:
        raise ValueError(f"nothing between {start:.2f} and {end:.2f} s")
    return buffer.getvalue()


def _length(frame: Any) -> float:
    return frame.samples / frame.sample_rate if isinstance(frame, av.AudioFrame) else 0.0


def _writer(target: Any, stream: Any) -> dict[str, Any]:
    """The stream that is written beside one that is read."""
    if stream.type == "audio":
        written = target.add_stream("aac", rate=stream.rate)
        written.layout = stream.layout
        return {"stream": written, "resampler": av.AudioResampler("fltp", stream.layout, stream.rate, 1024)}
    written = target.add_stream("libx264", rate=Fraction(stream.average_rate or 25).limit_denominator(1001))
    context = stream.codec_context
    written.width, written.height, written.pix_fmt = context.width // 2 * 2, context.height // 2 * 2, "yuv420p"
    written.options = {"preset": "veryfast", "crf": "20", "threads": "1"}
    written.codec_context.time_base = Fraction(1, 90_000)
    return {"stream": written}


def _write(target: Any, writer: dict[str, Any], frame: Any, start: float, end: float) -> None:
    stream = writer["stream"]
    if isinstance(frame, av.VideoFrame):
        frame = frame.reformat(stream.width, stream.height, "yuv420p")
        frame.pts, frame.time_base = max(0, round((float(frame.time) - start) * 90_000)), Fraction(1, 90_000)
        frame.pict_type = 0
        target.mux(stream.encode(frame))
        return
    rate = frame.sample_rate
    samples = frame.to_ndarray()
    per = 1 if frame.format.is_planar else frame.layout.nb_channels
    skip = max(0, round((start - frame.time) * rate))
    stop = max(skip, min(frame.samples, round((end - frame.time) * rate)))
    part = av.AudioFrame.from_ndarray(
        np.ascontiguousarray(samples[:, skip * per : stop * per]), format=frame.format.name, layout=frame.layout.name
    )
    part.sample_rate = rate
    part.pts, part.time_base = max(0, round((frame.time - start) * rate)), Fraction(1, rate)
    if stop > skip:
        for piece in writer["resampler"].resample(part):
            target.mux(stream.encode(piece))
