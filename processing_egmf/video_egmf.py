"""Video: a few frames spread evenly over a clip, from a file, an array, an image or a list of images.

    file ──► timestamps, without decoding ─► frames to return ─► plan of seeks, checked against the budget
                                                                  │
                     uint8 (T, y, x, 3) ◄─ resize ◄─ upright, shown proportions, standard colors ◄─ decode
    picture, array, images, decoder object ──► pictures_egmf.py

Sources and containers are opened in media_egmf.py; what is done to a frame's pixels is in frames_egmf.py.
"""

# T frames  y, x height and width

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np

from .arguments_egmf import errors_named, logger
from .frames_egmf import HLG, PQ, is_blank, over_black, pad_frames, scale_frames, to_upright, tone_map
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
from .pictures_egmf import check_frame_size, load_picture, sample_pictures, shown_size, spread_frames


# For files that do not state their frame rate.
DEFAULT_FPS = 25
# Containers with an index of key frames.
SEEKABLE = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")
# Frames; a seek that skips fewer costs more than it saves.
MIN_SKIPPED = 16
# Color space (ITU-T H.273).
UNSPECIFIED = 2
# Pixels; of untagged videos, players take taller ones for BT.709, others for BT.601.
MAX_SD_HEIGHT = 576
# Larger frames of high dynamic range are scaled down before their colors are mapped.
MAX_HDR_PIXELS = 1024 * 576


class FrameTimes(NamedTuple):
    """Timestamps of the frames of a clip, ascending, and where the clip stops; in seconds.

    `key_frames` maps the indices of frames that can be decoded without any other to the ticks for seeking them; it is
    empty if the container cannot seek.
    """

    times: list[float]
    stop: float
    key_frames: dict[int, int]


class SeekError(Exception):
    """A seek did not lead to a frame before the one that is needed."""


def load_video(
    source: Any,
    num_frames: int,
    fps: float | None = None,
    max_seconds: float | None = MAX_SECONDS,
    name: str = "the sample",
    size: tuple[int, int] | None = None,
    view: str = "full",
    max_decode_seconds: float | None = MAX_DECODE_SECONDS,
) -> np.ndarray | None:
    """At most `num_frames` frames, spread evenly in time.

    The clip is divided into `num_frames` equal spans; from each, the frame on screen at its midpoint is taken, by
    timestamp. No frame is taken twice; if a clip has fewer frames, each is taken once.

    Args:
        source: a path, `data:` URI, bytes or seekable binary file of a video, picture or animation; `{"path": ...,
            "bytes": ...}`; a decoder object of `datasets`; a PIL image or a list of PIL images of the same size; an
            array, uint8 or float in [0, 1]: (T, y, x, 3), (T, 3, y, x), or a single picture (y, x, 3) or (3, y, x).
                Channels are last if the last size is 3 or 4, else first.
        num_frames: maximum number of frames.
        fps: frames per second of a list or array, for `max_seconds`; None to use all of it, however long. Files state
            their own.
        max_seconds: longer clips are used only up to here, with a warning; None for three hours.
        name: the sample's name in messages.
        size: (height, width) that each frame is brought to as it is decoded; None for the clip's own.
        view: `"full"`, `"center"` or `"face"`, as in `scale_frames`.
        max_decode_seconds: limit on the work of decoding; None for none.

    Returns:
        uint8 (T, y, x, 3) RGB, as a player shows it: upright, in the proportions and colors that the file states.
        None, with a warning, for a clip that shows nothing: all frames black, or of another single color.

    Raises:
        FileNotFoundError, ValueError: the source cannot be used; the message says why and what to do.
    """
    name = name_with_path(source, name)
    kind = media_kind(source)
    scale = partial(scale_frames, size=size, view=view)
    with errors_named(name):
        budget = DecodingBudget(name, max_seconds, max_decode_seconds)
        if is_rate_and_array(source) or (kind == "audio" and not isinstance(source, ARRAYS)):
            raise ValueError(f"{type(source).__name__} has no frames. Give it as `audio`.")
        choose = partial(spread_frames, num_frames=num_frames)
        if kind is not None:
            frames = scale(sample_pictures(source, num_frames, fps, budget))
        elif is_picture(source, name):
            frames = scale(load_picture(source, choose, budget))
        else:
            frames = load_frames(source, choose, budget, scale)[:num_frames]
    if is_blank(frames):
        logger.warning(f"{name}: all frames are of one color. Video is left out.")
        return None
    return frames if view == "face" else pad_frames(frames, size)


def has_video(source: Any, name: str = "the sample") -> bool:
    """Whether a file has frames: its content decides, not its name. Raises like `load_video`."""
    name = name_with_path(source, name)
    if is_picture(source, name):
        return True
    with open_media(source, name) as container:
        return choose_stream(container, "video") is not None


# ---- files ---------------------------------------------------------------------------------------------------


def load_frames(source: Any, choose: Callable, budget: DecodingBudget, scale: Callable) -> np.ndarray:
    """Frames of a video file, with the indices that `choose` returns for its frames' times and its end, in seconds."""
    with open_video(source, budget) as track:
        clip = read_frame_times(track)
    indices = choose(clip.times, clip.stop)
    try:
        return np.stack(_decode_clip(source, clip, indices, budget, scale))
    except SeekError:
        return np.stack(_decode_clip(source, clip._replace(key_frames={}), indices, budget, scale))


@contextmanager
def open_video(source: Any, budget: DecodingBudget) -> Iterator[Track]:
    """The video track that a player would show, with its frame size checked."""
    with open_track(source, "video", budget) as track:
        if track is None:
            raise ValueError("no video track that can be decoded. Give it as `audio`, or leave video out.")
        context = track.stream.codec_context
        check_frame_size(context.height, context.width, MAX_FRAME_PIXELS)
        context.options = {"max_pixels": str(MAX_FRAME_PIXELS)}
        yield track


def read_frame_times(track: Track) -> FrameTimes:
    """Read the timestamps of a clip without decoding it, up to `max_seconds` of its budget."""
    stream = track.stream
    limit = track.budget.max_seconds - TIME_TOLERANCE
    step = float(stream.time_base)
    # (seconds, ticks for seeking a key frame)
    frames = []
    stop = -math.inf
    try:
        for packet in track.container.demux(stream):
            track.budget.check_time()
            ticks = _ticks(packet, track)
            ticks = packet.dts if ticks is None else ticks
            if packet.is_discard or ticks is None:
                continue
            seconds = ticks * step
            frames.append((seconds, _seek_ticks(packet, track) if packet.is_keyframe else None))
            stop = max(stop, seconds + (packet.duration * step or _frame_seconds(stream)))
            # Frames may be stored out of order, but none is shown before its decoding time.
            if packet.dts is not None and packet.dts * step - frames[0][0] > limit:
                break
        else:
            track.warn_if_cut_off(stop - min(frames)[0] if frames else 0.0)
    except import_av().FFmpegError:
        # The decoder will hit the same damage and report it.
        pass
    if not frames:
        raise ValueError("the video track has no frames. Record it again, or leave video out.")
    frames.sort(key=itemgetter(0))
    start = frames[0][0]
    if frames[-1][0] - start >= limit:
        track.budget.warn_of_length("video")
        frames = [frame for frame in frames if frame[0] - start < limit]
        stop = start + track.budget.max_seconds
    can_seek = track.container.format.name in SEEKABLE
    key_frames = {index: ticks for index, (_, ticks) in enumerate(frames) if can_seek and ticks is not None}
    return FrameTimes([seconds for seconds, _ in frames], stop, key_frames)


def plan_seeks(clip: FrameTimes, indices: Sequence[int]) -> tuple[dict[int, int], int]:
    """Where to seek, so that long stretches between the frames to return are not decoded.

    Args:
        clip: from `read_frame_times`.
        indices: of the frames to return, ascending.

    Returns:
        `{index of a frame to return: index of the key frame to seek before it}`, and how many frames are decoded.
    """
    key_frames = sorted({0, *clip.key_frames})
    seeks = {}
    num_decoded = 0
    # The frame that has been decoded last.
    position = -1
    for index in indices:
        key_frame = key_frames[bisect_right(key_frames, index) - 1]
        if key_frame - position > MIN_SKIPPED:
            seeks[index] = key_frame
            position = key_frame - 1
        num_decoded += index - position
        position = index
    return seeks, num_decoded


def _decode_clip(
    source: Any,
    clip: FrameTimes,
    indices: Sequence[int],
    budget: DecodingBudget,
    scale: Callable,
) -> list[np.ndarray]:
    """The frames (y, x, 3) with these indices, all in the shown size of the first.

    Raises:
        SeekError: a part is damaged, or cannot be reached; without seeking, more may be decoded.
    """
    seeks, num_decoded = plan_seeks(clip, indices)
    frames = []
    size = None
    # Opened again: not every container can seek back to its first frame.
    with open_video(source, budget) as track:
        stream = track.stream
        context = stream.codec_context
        budget.check_pixels(num_decoded, context.height, context.width)
        max_pixels = MAX_HDR_PIXELS if context.color_trc in (PQ, HLG) else MAX_FRAME_PIXELS
        for frame in _decode_frames(track, clip, indices, seeks):
            if size is None:
                size = shown_size(frame.height, frame.width, stream.sample_aspect_ratio, budget.name, max_pixels)
            frames.append(scale(frame_to_rgb(frame, size, context.color_trc)[None])[0])
            # Its buffer goes back to the decoder.
            del frame
        if track.damage and seeks:
            raise SeekError
        if not frames:
            reason = track.damage[0] if track.damage else "the track is empty"
            raise ValueError(f"no frame can be decoded ({reason}). Convert it to mp4, or leave video out.")
    return frames


def _decode_frames(
    track: Track,
    clip: FrameTimes,
    indices: Sequence[int],
    seeks: dict[int, int],
) -> Iterator[Any]:
    """The frames on screen at the times of those with these indices, each once.

    Raises:
        SeekError: seeking fails, or leads past the frame.
    """
    decoded = _timed_frames(track, clip, seeks.get(indices[0]))
    # All of them, even if damaged timestamps repeat.
    if len(indices) == len(clip.times):
        yield from (frame for _, frame in decoded)
        return
    following = next(decoded, None)
    for index in indices:
        if index in seeks and index != indices[0]:
            decoded = _timed_frames(track, clip, seeks[index])
            following = next(decoded, None)
        shown = None
        while following is not None and following[0] <= clip.times[index] - clip.times[0] + TIME_TOLERANCE:
            shown = following[1]
            following = next(decoded, None)
        if shown is not None:
            yield shown
        elif index in seeks:
            raise SeekError


def _timed_frames(track: Track, clip: FrameTimes, key_frame: int | None) -> Iterator[tuple[float, Any]]:
    """Seconds from the clip's start, and the frame that appears then: all frames, or those from a key frame on."""
    step = float(track.stream.time_base)
    start = clip.times[0]
    first = -math.inf
    if key_frame is not None:
        first = clip.times[key_frame] - start - TIME_TOLERANCE
        try:
            track.container.seek(clip.key_frames[key_frame], stream=track.stream)
        except import_av().FFmpegError as error:
            raise SeekError from error
    seconds = 0.0
    for index, frame in enumerate(track.decode()):
        ticks = _ticks(frame, track)
        if ticks is None:
            seconds += _frame_seconds(track.stream)
        else:
            # The decoding times of frames lag by the decoder's delay.
            if index == 0 and _is_avi(track):
                start = ticks * step
            seconds = ticks * step - start
        if seconds >= clip.stop - clip.times[0] - TIME_TOLERANCE:
            return
        # It needs frames before the key frame, which were skipped.
        if seconds < first:
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


def frame_to_rgb(frame: Any, size: tuple[int, int], transfer: int) -> np.ndarray:
    """A decoded frame as uint8 (y, x, 3), as a player shows it.

    The cropping that a container declares is not honored, because PyAV does not expose it.

    Args:
        frame: of PyAV.
        size: (height, width) before the frame is turned upright.
        transfer: transfer characteristics of the stream (ITU-T H.273).
    """
    is_hdr = transfer in (PQ, HLG)
    has_alpha = any(component.is_alpha for component in frame.format.components)
    is_transparent = has_alpha or frame.format.has_palette
    is_untagged_hd = frame.colorspace == UNSPECIFIED and frame.height > MAX_SD_HEIGHT
    source = _top_field(frame) if frame.interlaced_frame else frame
    # Threads of the frame's own would take twice as long, and a forked process that collects the frame would wait
    # for them forever.
    pixels = source.to_ndarray(
        format="rgb48le" if is_hdr else "rgba" if is_transparent else "rgb24",
        width=size[1],
        height=size[0],
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
    # One of a kind that PyAV does not know.
    except ValueError:
        return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90) % 4))
    matrix = side_data.get("DISPLAYMATRIX")
    return to_upright(pixels, None if matrix is None else bytes(matrix))
