"""Clips cut out of longer videos and re-encoded, so that they start and end at the given times.

source.seek ─► demux, decode ─► frames within [start, end) ─► times from 0 ─► encode ─► mp4 in memory
"""

import io
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from processing_egmf.media_egmf import choose_stream, open_media


BLACK_LUMA = 20  # of 255; compression leaves some noise in black frames
UNNAMED_LAYOUTS = {"1 channels": "mono", "2 channels": "stereo"}
VIDEO_CLOCK_RATE = 90_000  # timestamps of frames per second


def cut_clip(path: Path, start: float, end: float, with_video: bool = True) -> bytes:
    """Part of a video as an mp4 file.

    Args:
        path: the video.
        start, end: in seconds.
        with_video: False to keep only the audio.

    Raises:
        ValueError: the video cannot be read, or has nothing between these times.
    """
    buffer = io.BytesIO()
    try:
        with open_media(path, str(path)) as source, av.open(buffer, "w", format="mp4") as target:
            num_frames = _copy_frames(source, target, start, end, with_video)
    except (av.FFmpegError, OSError) as error:
        raise ValueError(f"{path}: {error}") from error
    if num_frames == 0:
        raise ValueError(f"{path} has nothing between {start:.2f} and {end:.2f} s.")
    return buffer.getvalue()


def video_seconds(path: Path) -> float:
    """Length that a video declares; infinity if it declares none.

    Raises:
        ValueError: the video cannot be read.
    """
    with open_media(path, str(path)) as source:
        return math.inf if source.duration is None else source.duration / av.time_base


def is_black(clip: bytes) -> bool:
    """Whether a clip has frames, and all of them are black."""
    with open_media(clip, "the clip") as source:
        if not source.streams.video:
            return False
        lightest = 0
        for frame in source.decode(video=0):
            luma = frame.reformat(format="gray", threads=1).to_ndarray()
            lightest = max(lightest, int(luma.max()))
            if lightest > BLACK_LUMA:
                return False
    return True


def _copy_frames(source: Any, target: Any, start: float, end: float, with_video: bool) -> int:
    """Write the frames between two times, from the one that is on screen at the first, and return their number."""
    kinds = ("audio", "video") if with_video else ("audio",)
    streams = [stream for kind in kinds if (stream := choose_stream(source, kind)) is not None]
    if not streams:
        raise ValueError("The video has neither audio nor frames.")
    writers = {stream.index: make_writer(target, stream) for stream in streams}
    source.seek(max(0, int((start - 1) * av.time_base)))
    num_frames = 0
    finished = set()
    on_screen = None  # the video's frame at the start of the clip
    for packet in source.demux(streams):
        index = packet.stream.index
        for frame in packet.decode():
            if frame.time is None:
                continue
            if isinstance(frame, av.VideoFrame):
                if frame.time <= start:
                    on_screen = frame
                    continue
                if on_screen is not None:
                    num_frames += 1
                    writers[index].write(on_screen, start, end)
                    on_screen = None
            if frame.time >= end:
                finished.add(index)
            elif frame.time + _duration(frame) > start:
                num_frames += 1
                writers[index].write(frame, start, end)
        if len(finished) == len(writers):
            break
    if on_screen is not None and on_screen.time + _duration(on_screen) > start:
        num_frames += 1
        next(writer for writer in writers.values() if isinstance(writer, VideoWriter)).write(on_screen, start, end)
    for writer in writers.values():
        writer.close(flush=num_frames > 0)
    return num_frames


def _duration(frame: Any) -> float:
    """Seconds of a frame, as far as the file states them."""
    if isinstance(frame, av.AudioFrame):
        return frame.samples / frame.sample_rate
    return float((frame.duration or 0) * frame.time_base)


def make_writer(target: Any, stream: Any) -> "AudioWriter | VideoWriter":
    """The writer for a stream of the source."""
    return AudioWriter(target, stream) if stream.type == "audio" else VideoWriter(target, stream)


class AudioWriter:
    """AAC with the sampling rate and channels of the source, trimmed to the exact sample.

    AVI files do not say which speakers their channels are for; one channel is then mono, and two are stereo.
    """

    def __init__(self, target: Any, source: Any) -> None:
        self.target = target
        self.stream = target.add_stream("aac", rate=source.rate)
        self.layout = UNNAMED_LAYOUTS.get(source.layout.name, source.layout.name)
        self.stream.layout = self.layout
        self.resampler = av.AudioResampler("fltp", self.layout, source.rate, 1024)

    def write(self, frame: Any, start: float, end: float) -> None:
        rate = frame.sample_rate
        first = max(0, round((start - frame.time) * rate))
        last = max(first, min(frame.samples, round((end - frame.time) * rate)))
        if last == first:
            return
        columns = 1 if frame.format.is_planar else frame.layout.nb_channels  # per sample
        samples = np.ascontiguousarray(frame.to_ndarray()[:, first * columns : last * columns])
        part = av.AudioFrame.from_ndarray(samples, format=frame.format.name, layout=self.layout)
        part.sample_rate = rate
        part.pts = max(0, round((frame.time - start) * rate))
        part.time_base = Fraction(1, rate)
        self._encode(part)

    def close(self, flush: bool) -> None:
        if flush:
            self._encode(None)
        self.target.mux(self.stream.encode(None))

    def _encode(self, frame: Any) -> None:
        for resampled in self.resampler.resample(frame):
            self.target.mux(self.stream.encode(resampled))


class VideoWriter:
    """H.264 with the size and frame rate of the source."""

    def __init__(self, target: Any, source: Any) -> None:
        self.target = target
        rate = Fraction(source.average_rate or 25).limit_denominator(1001)
        self.stream = target.add_stream("libx264", rate=rate)
        self.stream.width = source.codec_context.width // 2 * 2
        self.stream.height = source.codec_context.height // 2 * 2
        self.stream.pix_fmt = "yuv420p"
        if source.sample_aspect_ratio:  # the pixels need not be squares
            self.stream.codec_context.sample_aspect_ratio = source.sample_aspect_ratio
        self.stream.options = {"preset": "veryfast", "crf": "20", "threads": "1"}
        self.stream.codec_context.time_base = Fraction(1, VIDEO_CLOCK_RATE)

    def write(self, frame: Any, start: float, end: float) -> None:
        frame = frame.reformat(self.stream.width, self.stream.height, "yuv420p", threads=1)
        frame.pts = max(0, round((float(frame.time) - start) * VIDEO_CLOCK_RATE))
        frame.time_base = Fraction(1, VIDEO_CLOCK_RATE)
        frame.pict_type = 0  # the encoder chooses the key frames
        self.target.mux(self.stream.encode(frame))

    def close(self, flush: bool) -> None:
        self.target.mux(self.stream.encode(None))
