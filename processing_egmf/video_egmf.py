"""Video: a few frames spread evenly over a clip, from a file, an array, an image or a list of images.

    file ──► timestamps, without decoding ─► sampling times ─► plan of seeks, checked against the budget
                                                                  │
                     uint8 (T, y, x, 3) ◄─ resize ◄─ upright, shown proportions, standard colors ◄─ decode
    picture, array, images, decoder object ──► pictures_egmf.py

Sources and containers are opened in media_egmf.py; what is done to a frame's pixels is in frames_egmf.py.
"""

# T frames  y, x height and width

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from transformers.utils import logging

from .frames_egmf import HLG, PQ, check_frame_fit, is_blank, over_black, pad_frames, scale_frames, to_upright, tone_map
from .media_egmf import (
    ARRAYS,
    MAX_DECODE_SECONDS,
    MAX_FRAME_PIXELS,
    MAX_SECONDS,
    TIME_TOLERANCE,
    DecodingBudget,
    Track,
    choose_stream,
    import_av,
    is_picture,
    is_rate_and_array,
    media_kind,
    name_with_path,
    open_media,
    open_track,
)
from .pictures_egmf import check_frame_size, load_picture, sample_pictures, shown_size


logger = logging.get_logger(__name__)

DEFAULT_FPS = 25  # for files that do not state their frame rate
SEEKABLE = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")  # containers with an index of key frames
MIN_SKIPPED = 16  # frames; a seek that skips fewer costs more than it saves
UNSPECIFIED = 2  # color space (ITU-T H.273)
MAX_SD_HEIGHT = 576  # pixels; of untagged videos, players take taller ones for BT.709, others for BT.601
MAX_HDR_SIDE = 1024  # pixels; larger frames of high dynamic range are scaled down before their colors are mapped


class FrameTimes(NamedTuple):
    """Timestamps of the frames of a clip, ascending, and where the clip starts and stops; in seconds.

    `key_frames` maps the indices of those that are decoded without any other to the ticks for seeking them.
    """

    times: list[float]
    start: float
    stop: float
    key_frames: dict[int, int]


class Segment(NamedTuple):
    """A part of a clip that is decoded in one go, from the frame with index `first`.

    `seek_ticks` leads there; it is None for the start of the clip. `wanted` are the indices of the frames to return.
    """

    first: int
    seek_ticks: int | None
    wanted: list[int]


class SeekError(Exception):
    """A seek did not lead to a frame before the one that is needed."""


def load_video(
    source: Any,
    num_frames: int,
    fps: float | None = None,
    max_seconds: float | None = MAX_SECONDS,
    name: str = "the sample",
    size: tuple[int, int] | None = None,
    frame_fit: str = "letterbox",
    max_decode_seconds: float | None = MAX_DECODE_SECONDS,
) -> np.ndarray | None:
    """At most `num_frames` frames, spread evenly in time.

    The clip is divided into `num_frames` equal spans; from each, the frame on screen at its midpoint is taken, by
    timestamp. No frame is taken twice; if a clip has fewer frames, each is taken once.

    Args:
        source: a path, bytes or a seekable binary file object of a video, picture or animation; `{"path": ...,
            "bytes": ...}`; a decoder object of `datasets`; a PIL image or a list of PIL images of the same size; an
            array (T, y, x, 3) or (T, 3, y, x), uint8 or float in [0, 1], or a single picture (y, x, 3).
        num_frames: maximum number of frames.
        fps: frames per second of a list or array, for `max_seconds`; files state their own.
        max_seconds: longer clips are used only up to here, with a warning; None for three hours.
        name: the sample's name in messages.
        size: (height, width) that each frame is brought to as it is decoded; None for the clip's own.
        frame_fit: `"letterbox"` or `"crop"`, how.
        max_decode_seconds: limit on the work of decoding; None for none.

    Returns:
        uint8 (T, y, x, 3) RGB, as a player shows it: upright, in the proportions and colors that the file states.
        None, with a warning, for a clip that shows nothing: all frames black, or of another single color.

    Raises:
        FileNotFoundError, ValueError: the source cannot be used; the message says why and what to do.
    """
    if num_frames < 1:
        raise ValueError(f"{name}: num_frames is {num_frames}; give at least 1.")
    check_frame_fit(frame_fit)
    name = name_with_path(source, name)
    budget = DecodingBudget(name, max_seconds, max_decode_seconds)
    kind = media_kind(source)
    if is_rate_and_array(source) or (kind == "audio" and not isinstance(source, ARRAYS)):
        raise ValueError(f"{name}: {type(source).__name__} has no frames. Give it as `audio`.")
    scale = partial(scale_frames, size=size, frame_fit=frame_fit)
    if kind is None:
        frames = _load_file(source, num_frames, budget, scale)
    else:
        frames = scale(sample_pictures(source, num_frames, fps, budget))
    if is_blank(frames):
        logger.warning(f"{name}: all frames are of one color. Video is left out.")
        return None
    return pad_frames(frames, size)


def has_video(source: Any, name: str = "the sample") -> bool:
    """Whether a recording has frames: its type or its content decides, not its name. Raises like `load_video`."""
    kind = media_kind(source)
    if isinstance(source, list | tuple) and not is_rate_and_array(source):
        raise ValueError(f"{name}: cannot read media from {type(source).__name__}; give one clip.")
    if kind is not None:
        return kind == "video"
    name = name_with_path(source, name)
    if is_picture(source, name):
        return True
    with open_media(source, name) as container:
        return choose_stream(container, "video") is not None


# ---- files ---------------------------------------------------------------------------------------------------


def _load_file(
    source: Any,
    num_frames: int,
    budget: DecodingBudget,
    scale: Callable,
) -> np.ndarray:
    if is_picture(source, budget.name):
        return scale(load_picture(source, num_frames, budget))
    with open_video(source, budget) as track:
        clip = read_frame_times(track)
        can_seek = track.container.format.name in SEEKABLE
    wanted = range(len(clip.times))
    if len(clip.times) > num_frames:
        span = (clip.stop - clip.start) / num_frames
        middles = [clip.start + (index + 0.5) * span + TIME_TOLERANCE for index in range(num_frames)]
        wanted = sorted({max(bisect_right(clip.times, time) - 1, 0) for time in middles})
    try:
        frames = _decode_clip(source, clip, plan_segments(clip, wanted, can_seek), budget, scale)
    except SeekError:
        frames = _decode_clip(source, clip, plan_segments(clip, wanted, False), budget, scale)
    return np.stack(frames[:num_frames])


@contextmanager
def open_video(source: Any, budget: DecodingBudget) -> Iterator[Track]:
    """The video track that a player would show, with its frame size checked."""
    with open_track(source, "video", budget) as track:
        if track is None:
            raise ValueError(
                f"{budget.name}: no video track that can be decoded. Give it as `audio`, or leave video out."
            )
        context = track.stream.codec_context
        check_frame_size(context.height, context.width, budget.name, MAX_FRAME_PIXELS)
        context.options = {"max_pixels": str(MAX_FRAME_PIXELS)}
        yield track


def read_frame_times(track: Track) -> FrameTimes:
    """Read the timestamps of a clip without decoding it, up to `max_seconds` of its budget."""
    stream = track.stream
    max_seconds = track.budget.max_seconds
    step = float(stream.time_base)
    limit = max_seconds - TIME_TOLERANCE
    times = []
    key_frames = {}
    stop = -math.inf
    try:
        for packet in track.container.demux(stream):
            track.budget.check_time()
            ticks = _ticks(packet, track)
            ticks = packet.dts if ticks is None else ticks
            if packet.is_discard or ticks is None:
                continue
            times.append(ticks * step)
            if packet.is_keyframe:
                key_frames[times[-1]] = _seek_ticks(packet, track)
            duration = packet.duration * step if packet.duration else _frame_seconds(stream)
            stop = max(stop, times[-1] + duration)
            # Frames may be stored out of order, but none is shown before its decoding time.
            if packet.dts is not None and packet.dts * step - times[0] > limit:
                break
        else:
            track.warn_if_cut_off(stop - min(times) if times else 0.0)
    except import_av().FFmpegError:
        pass  # the decoder will hit the same damage and report it
    if not times:
        raise ValueError(f"{track.name}: the video track has no frames. Record the clip again, or leave video out.")
    start = min(times)
    if max(times) - start >= limit:
        track.budget.warn_of_length("video")
        times = [time for time in times if time - start < limit]
        stop = start + max_seconds
    times.sort()
    return FrameTimes(times, start, stop, {bisect_left(times, time): ticks for time, ticks in key_frames.items()})


def plan_segments(clip: FrameTimes, wanted: Sequence[int], can_seek: bool) -> list[Segment]:
    """Divide the wanted frames of a clip into segments, so that long stretches between them are not decoded.

    Args:
        clip: from `read_frame_times`.
        wanted: indices of frames, ascending.
        can_seek: whether the container can seek; if not, there is one segment.
    """
    segments = [Segment(0, None, [])]
    key_frames = sorted({0, *clip.key_frames})
    position = 0  # the frame that has been decoded last
    for index in wanted:
        first = key_frames[bisect_right(key_frames, index) - 1]
        if can_seek and first - position >= MIN_SKIPPED:
            segments.append(Segment(first, clip.key_frames[first], []))
        segments[-1].wanted.append(index)
        position = index
    return [segment for segment in segments if segment.wanted]


def _decode_clip(
    source: Any,
    clip: FrameTimes,
    segments: list[Segment],
    budget: DecodingBudget,
    scale: Callable,
) -> list[np.ndarray]:
    """The wanted frames (y, x, 3) of the segments.

    Raises:
        SeekError: a segment is damaged, or cannot be reached; without seeking, more may be decoded.
    """
    num_decoded = sum(segment.wanted[-1] - segment.first + 1 for segment in segments)
    frames = []
    # Opened again: not every container can seek back to its first frame.
    with open_video(source, budget) as track:
        context = track.stream.codec_context
        budget.check_pixels(num_decoded, context.height, context.width)
        converter = FrameConverter(track.stream, budget.name)
        for segment in segments:
            for frame in _decode_segment(track, clip, segment):
                frames.append(scale(converter.to_rgb(frame)[None])[0])
                del frame  # its buffer goes back to the decoder
        if track.damage and segments[-1].seek_ticks is not None:
            raise SeekError
        if not frames:
            reason = track.damage[0] if track.damage else "the track is empty"
            raise ValueError(
                f"{budget.name}: no frame can be decoded ({reason}). Convert the clip to mp4, or leave video out."
            )
    return frames


def _decode_segment(track: Track, clip: FrameTimes, segment: Segment) -> Iterator[Any]:
    """The frames on screen at the times of the wanted ones, each once.

    Raises:
        SeekError: seeking fails, or leads past the first of them.
    """
    if segment.seek_ticks is not None:
        try:
            track.container.seek(segment.seek_ticks, stream=track.stream)
        except import_av().FFmpegError as error:
            raise SeekError from error
    if len(segment.wanted) == len(clip.times):  # all of them, even if damaged timestamps repeat
        yield from (frame for _, frame in _timed_frames(track, clip, segment))
        return
    times = [clip.times[index] - clip.start for index in segment.wanted]
    current = None
    for seconds, frame in _timed_frames(track, clip, segment):
        num_passed = bisect_left(times, seconds - TIME_TOLERANCE)
        if num_passed > 0:
            if current is not None:
                yield current
            elif segment.seek_ticks is not None:
                raise SeekError
            del times[:num_passed]
        if not times:
            return
        current = frame
    if current is not None:
        yield current
    elif segment.seek_ticks is not None:
        raise SeekError


def _timed_frames(
    track: Track,
    clip: FrameTimes,
    segment: Segment,
) -> Iterator[tuple[float, Any]]:
    """The frames from a segment's first one on, with the seconds from the clip's start at which they appear."""
    step = float(track.stream.time_base)
    start = clip.start
    first = -math.inf if segment.seek_ticks is None else clip.times[segment.first] - start - TIME_TOLERANCE
    seconds = 0.0
    for index, frame in enumerate(track.decode()):
        ticks = _ticks(frame, track)
        if ticks is None:
            seconds += _frame_seconds(track.stream)
        else:
            if index == 0 and _is_avi(track):  # the decoding times of frames lag by the decoder's delay
                start = ticks * step
            seconds = ticks * step - start
        if seconds >= clip.stop - clip.start - TIME_TOLERANCE:
            return
        if seconds < first:  # it needs frames before the key frame, which were skipped
            continue
        if frame.is_corrupt:
            track.damage.append("a frame with errors")
        yield seconds, frame


def _is_avi(track: Track) -> bool:
    return track.container.format.name == "avi"


def _ticks(item: Any, track: Track) -> int | None:
    """The time of a packet or frame in ticks of its stream.

    AVI stores no presentation times, and those that PyAV gives for it are out of order; its decoding times are even.
    """
    return item.dts if _is_avi(track) else item.pts


def _seek_ticks(packet: Any, track: Track) -> int:
    """The ticks by which the index of a container finds a key frame: Matroska's has presentation times."""
    has_decoding_times = packet.dts is not None and "matroska" not in track.container.format.name
    return packet.dts if has_decoding_times else packet.pts


def _frame_seconds(stream: Any) -> float:
    return 1 / float(stream.average_rate or DEFAULT_FPS)


# ---- pixels --------------------------------------------------------------------------------------------------


class FrameConverter:
    """Brings the decoded frames of a stream to RGB as a player shows them, all in the size of the first.

    The cropping that a container declares is not honored, because PyAV does not expose it.

    Args:
        stream: has the aspect of the pixels, and the transfer characteristic of high dynamic range.
        name: the sample's name in messages.
    """

    def __init__(self, stream: Any, name: str):
        self.stream = stream
        self.name = name
        self.size: tuple[int, int] | None = None  # (height, width) of the frames before they are turned upright

    def to_rgb(self, frame: Any) -> np.ndarray:
        """One decoded frame as uint8 (y, x, 3)."""
        check_frame_size(frame.height, frame.width, self.name, MAX_FRAME_PIXELS)
        if self.size is None:
            aspect = float(self.stream.sample_aspect_ratio or 1)
            self.size = shown_size(frame.height, frame.width, aspect, self.name)
        height, width = self.size
        transfer = self.stream.codec_context.color_trc
        is_hdr = transfer in (PQ, HLG)
        has_alpha = any(component.is_alpha for component in frame.format.components)
        is_transparent = has_alpha or frame.format.has_palette
        pixel_format = "rgba" if is_transparent else "rgb24"
        if is_hdr:
            pixel_format = "rgb48le"
            scale = min(1, MAX_HDR_SIDE / max(height, width))
            height = max(1, round(height * scale))
            width = max(1, round(width * scale))
        is_untagged_hd = frame.colorspace == UNSPECIFIED and frame.height > MAX_SD_HEIGHT
        source = _top_field(frame) if frame.interlaced_frame else frame
        # Threads of the frame's own would take twice as long, and a forked process that collects the frame would wait
        # for them forever.
        pixels = source.to_ndarray(
            format=pixel_format,
            width=width,
            height=height,
            src_colorspace="ITU709" if is_untagged_hd else None,
            threads=1,
        )
        if is_hdr:
            pixels = tone_map(pixels, transfer)
        elif is_transparent:
            pixels = over_black(pixels)
        return _upright(pixels, frame)


def _top_field(frame: Any) -> Any:
    """Every other line of an interlaced frame: the lines between are from another moment."""
    graph = import_av().filter.Graph()
    buffer = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format.name, time_base=Fraction(1, 1000)
    )
    graph.link_nodes(buffer, graph.add("field"), graph.add("buffersink")).configure()
    graph.vpush(frame)
    return graph.vpull()


def _upright(pixels: np.ndarray, frame: Any) -> np.ndarray:
    try:
        side_data = frame.side_data
    except ValueError:  # one of a kind that PyAV does not know
        return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90) % 4))
    matrix = side_data.get("DISPLAYMATRIX")
    return to_upright(pixels, None if matrix is None else bytes(matrix))
