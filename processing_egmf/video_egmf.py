"""Video: a few frames spread evenly over a clip, from a file, an array or a list of images.

    file ──► timestamps, without decoding ─► sampling times ─► decode, keep frames on screen ─┐
    array, images ─────────────────────────► indices ────────► select ────────────────────────┴─► uint8 (T, y, x, 3)

Sources and containers are opened in media_egmf.py.
"""

# T frames  y, x height and width

import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers.image_utils import is_pil_image
from transformers.utils import logging

from .media_egmf import (
    ARRAYS,
    MAX_FRAME_SIDE,
    MAX_SECONDS,
    TIME_TOLERANCE,
    check_max_seconds,
    check_source,
    decode_frames,
    import_av,
    open_media,
    to_numpy,
    warn_if_cut_off,
    warn_of_damage,
)


logger = logging.get_logger(__name__)

DEFAULT_FPS = 25  # for files that do not state their frame rate
MAX_FPS = 1000


class FrameTimes(NamedTuple):
    """Timestamps of the frames of a clip, ascending, and where the clip starts and stops; in seconds."""

    times: list[float]
    start: float
    stop: float


def load_video(
    source: Any,
    num_frames: int,
    fps: float | None = None,
    max_seconds: float | None = MAX_SECONDS,
    name: str = "the sample",
) -> np.ndarray:
    """At most `num_frames` frames, spread evenly in time.

    The clip is divided into `num_frames` equal spans; from each, the frame on screen at its midpoint is taken, by
    timestamp. No frame is taken twice; if a clip has fewer frames, each is taken once.

    Args:
        source: a path, bytes, a seekable binary file object, `{"path": ..., "bytes": ...}`, a list of PIL images of
            the same size, or an array (T, y, x, 3) or (T, 3, y, x), uint8 or float in [0, 1].
        num_frames: maximum number of frames.
        fps: frames per second of a list or array, for `max_seconds`; files state their own.
        max_seconds: longer clips are used only up to here, with a warning; None for no limit.
        name: the sample's name in messages.

    Returns:
        uint8 (T, y, x, 3) RGB, upright: a rotation stated in the file is applied.

    Raises:
        FileNotFoundError, ValueError: the source cannot be used; the message says why and what to do.
    """
    if num_frames < 1:
        raise ValueError(f"{name}: num_frames is {num_frames}; ask for at least one.")
    max_seconds = check_max_seconds(max_seconds, name)
    source = check_source(source, name)
    if isinstance(source, ARRAYS):
        return _sample_array(source, num_frames, fps, max_seconds, name)
    with open_media(source, name) as container:
        clip = read_frame_times(container, video_stream(container, name), max_seconds, name)
    sampling_times = None
    if len(clip.times) > num_frames:
        seconds = clip.stop - clip.start
        sampling_times = [(index + 0.5) * seconds / num_frames for index in range(num_frames)]
    # Opened again: not every container can seek back to its first frame.
    with open_media(source, name) as container:
        frames = _decode_at(container, video_stream(container, name), clip, sampling_times, name)
    return np.stack(frames[:num_frames])


def has_video(source: Any, name: str = "the sample") -> bool:
    """Whether a path, bytes or open file has a video track, regardless of its name; raises like `load_video`."""
    source = check_source(source, name)
    if isinstance(source, ARRAYS):
        raise ValueError(f"{name}: cannot read media from {type(source).__name__}; give one clip.")
    with open_media(source, name) as container:
        return len(_video_streams(container)) > 0


def resize_frames(frames: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Center-crop each frame to the aspect ratio of `size` and resize it.

    Args:
        frames: uint8 (T, y, x, 3).
        size: (height, width) in pixels.

    Returns:
        uint8 (T, height, width, 3), resized bilinearly with antialiasing; `frames` itself if it already has that size.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or 0 in frames.shape:
        raise ValueError(f"Frames are {frames.dtype} {frames.shape}; expected uint8 (T, height, width, 3).")
    if frames.shape[1:3] == tuple(size):
        return frames
    height, width = size
    old_height, old_width = frames.shape[1:3]
    scale = min(old_height / height, old_width / width)
    crop_height = max(1, round(height * scale))
    crop_width = max(1, round(width * scale))
    top = (old_height - crop_height) // 2
    left = (old_width - crop_width) // 2
    cropped = np.ascontiguousarray(frames[:, top : top + crop_height, left : left + crop_width])
    images = torch.from_numpy(cropped).permute(0, 3, 1, 2)  # (T, 3, y, x)
    resized = torch.nn.functional.interpolate(images, size=(height, width), mode="bilinear", antialias=True)
    return np.ascontiguousarray(resized.permute(0, 2, 3, 1).numpy())


# ---- files ---------------------------------------------------------------------------------------------------


def _video_streams(container: Any) -> list[Any]:
    """Video streams, except a song's cover image."""
    cover = import_av().stream.Disposition.attached_pic
    return [stream for stream in container.streams.video if not stream.disposition & cover]


def video_stream(container: Any, name: str) -> Any:
    """The first video stream, with its frame size checked."""
    streams = _video_streams(container)
    if not streams or streams[0].codec_context is None:
        raise ValueError(f"{name}: no video track that can be decoded. Give it as `audio`, or leave video out.")
    context = streams[0].codec_context
    _check_frame_size(context.height, context.width, name)
    context.options = {"max_pixels": str(MAX_FRAME_SIDE**2)}
    return streams[0]


def read_frame_times(container: Any, stream: Any, max_seconds: float, name: str) -> FrameTimes:
    """Read the timestamps of a clip without decoding it, up to `max_seconds` from its start."""
    step = float(stream.time_base)
    limit = max_seconds - TIME_TOLERANCE
    times = []
    stop = -math.inf
    try:
        for packet in container.demux(stream):
            ticks = _ticks(packet, container)
            ticks = packet.dts if ticks is None else ticks
            if packet.is_discard or ticks is None:
                continue
            times.append(ticks * step)
            duration = packet.duration * step if packet.duration else _frame_seconds(stream)
            stop = max(stop, times[-1] + duration)
            # Frames may be stored out of order, but none is shown before its decoding time.
            if packet.dts is not None and packet.dts * step - times[0] > limit:
                break
        else:
            warn_if_cut_off(stop - min(times) if times else 0.0, container, stream, "video", name)
    except import_av().FFmpegError:
        pass  # the decoder will hit the same damage and report it
    if not times:
        raise ValueError(f"{name}: the video track has no frames. Record the clip again, or leave video out.")
    start = min(times)
    if max(times) - start >= limit:
        _warn_of_length(max_seconds, name)
        times = [time for time in times if time - start < limit]
        stop = start + max_seconds
    return FrameTimes(sorted(times), start, stop)


def _decode_at(
    container: Any, stream: Any, clip: FrameTimes, sampling_times: list[float] | None, name: str
) -> list[np.ndarray]:
    """The frames (y, x, 3) on screen at the given seconds from the start of the clip; None: every frame."""
    damage = []
    timed_frames = _timed_frames(container, stream, clip, damage)
    if sampling_times is None:
        decoded = (frame for _, frame in timed_frames)
    else:
        decoded = _on_screen(timed_frames, sampling_times)
    frames = []
    for frame in decoded:
        first_size = frames[0].shape if frames else None
        frames.append(_to_upright_rgb(frame, first_size, name))
        del frame  # its buffer goes back to the decoder
    if not frames:
        reason = damage[0] if damage else "the track is empty"
        raise ValueError(f"{name}: no frame can be decoded ({reason}). Convert the clip to mp4, or leave video out.")
    warn_of_damage(damage, "video", name)
    return frames


def _timed_frames(container: Any, stream: Any, clip: FrameTimes, damage: list[str]) -> Iterator[tuple[float, Any]]:
    """The frames of the clip with the seconds from its start at which they appear."""
    step = float(stream.time_base)
    start = clip.start
    stop = clip.stop
    seconds = 0.0
    for index, frame in enumerate(decode_frames(container, stream, damage)):
        ticks = _ticks(frame, container)
        if index == 0 and ticks is not None and _is_avi(container):
            # The decoding times of frames lag by the decoder's delay.
            stop = stop + ticks * step - start
            start = ticks * step
        if ticks is None:
            seconds += _frame_seconds(stream)
        else:
            seconds = ticks * step - start
        if start + seconds >= stop - TIME_TOLERANCE:
            return
        yield seconds, frame


def _on_screen(timed_frames: Iterable[tuple[float, Any]], sampling_times: list[float]) -> Iterator[Any]:
    """The frame on screen at each of the times, ascending; a frame that is on screen at several is yielded once."""
    remaining = list(sampling_times)
    current = None
    for seconds, frame in timed_frames:
        num_passed = sum(time < seconds - TIME_TOLERANCE for time in remaining)
        if num_passed > 0 and current is not None:
            yield current
        del remaining[:num_passed]
        if not remaining:
            return
        current = frame
    if current is not None:
        yield current


def _is_avi(container: Any) -> bool:
    return container.format.name == "avi"


def _ticks(item: Any, container: Any) -> int | None:
    """The time of a packet or frame in ticks of its stream.

    AVI stores no presentation times, and those that PyAV gives for it are out of order; its decoding times are even.
    """
    return item.dts if _is_avi(container) else item.pts


def _frame_seconds(stream: Any) -> float:
    return 1 / float(stream.average_rate or DEFAULT_FPS)


def _to_upright_rgb(frame: Any, first_size: tuple[int, ...] | None, name: str) -> np.ndarray:
    """One decoded frame as uint8 (y, x, 3), rotated as its file specifies, in the size of the clip's first frame."""
    _check_frame_size(frame.height, frame.width, name)
    quarter_turns = round(frame.rotation / 90) % 4
    size = (frame.height, frame.width)
    if first_size is not None:  # it is upright; before the rotation, the sides may be swapped
        size = first_size[:2] if quarter_turns % 2 == 0 else first_size[1::-1]
    height, width = size
    pixels = frame.to_ndarray(format="rgb24", width=width, height=height)
    return np.ascontiguousarray(np.rot90(pixels, quarter_turns))


# ---- arrays and images ---------------------------------------------------------------------------------------


def _sample_array(source: Any, num_frames: int, fps: float | None, max_seconds: float, name: str) -> np.ndarray:
    """A list of images or an array, sampled like a file."""
    if fps is not None and not (isinstance(fps, int | float | np.number) and 0 < fps <= MAX_FPS):
        raise ValueError(
            f"{name}: fps is {fps!r}; give the frames per second of the array, above 0 and up to {MAX_FPS}."
        )
    is_images = isinstance(source, list | tuple) and any(is_pil_image(frame) for frame in source)
    if is_images:
        frames = source
        _check_images(frames, name)
    else:
        frames = _rgb_array(source, name)
    indices = _sampling_indices(len(frames), num_frames, fps, max_seconds, name)
    if is_images:
        sampled = np.stack([np.asarray(frames[index].convert("RGB")) for index in indices])
    else:
        sampled = frames[indices]
    return np.ascontiguousarray(_to_uint8(sampled, name))


def _check_images(images: list | tuple, name: str) -> None:
    if not all(is_pil_image(image) for image in images):
        raise ValueError(f"{name}: a list of frames mixes PIL images with other types. Make all of them PIL images.")
    sizes = sorted({image.size for image in images})
    if len(sizes) > 1:
        raise ValueError(f"{name}: frames of different sizes, {sizes[:3]}. Resize them to the same size.")
    width, height = sizes[0]
    _check_frame_size(height, width, name)


def _rgb_array(source: Any, name: str) -> np.ndarray:
    """An array (T, y, x, 3) of any type, from (T, y, x, 3) or (T, 3, y, x)."""
    frames = to_numpy(source, name)
    if frames.size == 0:
        raise ValueError(f"{name}: the video has no frames. Leave it out, or check how the clip was cut.")
    if frames.ndim == 4 and frames.shape[-1] != 3:
        frames = frames.transpose(0, 2, 3, 1)
    if frames.ndim != 4 or frames.shape[-1] != 3:
        raise ValueError(
            f"{name}: the array does not contain RGB frames; expected (T, height, width, 3) "
            f"or (T, 3, height, width), got {np.shape(source)}."
        )
    _check_frame_size(frames.shape[1], frames.shape[2], name)
    return frames


def _sampling_indices(count: int, num_frames: int, fps: float | None, max_seconds: float, name: str) -> list[int]:
    """Indices of the frames in the middle of each of `num_frames` equal spans of a clip of `count` frames."""
    if fps is not None and count / fps > max_seconds + TIME_TOLERANCE:
        _warn_of_length(max_seconds, name)
        count = max(1, math.ceil((max_seconds - TIME_TOLERANCE) * fps))
    num_sampled = min(count, num_frames)
    return [int((index + 0.5) * count / num_sampled + 1e-6) for index in range(num_sampled)]


def _to_uint8(frames: np.ndarray, name: str) -> np.ndarray:
    if frames.dtype.kind == "f":
        low = frames.min()
        high = frames.max()
        if not (low >= 0 and high <= 1):
            raise ValueError(
                f"{name}: float frames range from {low:g} to {high:g}; expected [0, 1]. "
                "Divide by 255, undo the normalization, replace NaN, or give uint8."
            )
        frames = np.rint(frames.astype(np.float32) * 255).astype(np.uint8)
    if frames.dtype != np.uint8:
        raise ValueError(f"{name}: frames of type {frames.dtype}; give uint8, or floats in [0, 1].")
    return frames


def _warn_of_length(max_seconds: float, name: str) -> None:
    logger.warning(f"{name}: the video is longer than {max_seconds:g} s; only its beginning is used.")


def _check_frame_size(height: int, width: int, name: str) -> None:
    if max(height, width) > MAX_FRAME_SIDE:
        raise ValueError(
            f"{name}: frames of {width} x {height} pixels; each side may have at most {MAX_FRAME_SIDE}. "
            "Scale the video down."
        )
