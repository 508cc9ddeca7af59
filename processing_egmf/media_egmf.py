"""Media: sound and pictures from a path, bytes, a file object or an array, decoded by PyAV (FFmpeg).

    sound:    decode ─► average the channels ─► resample ─► float32 (samples,) in about [-1, 1]
    pictures: read the timestamps ─► choose times ─► decode once, keep the chosen ─► uint8 (T, y, x, 3)

FFmpeg follows URLs and playlists by itself, so it is never given a name: Python opens the file, FFmpeg sees the open
file only, in one of the containers listed below, and may use no protocol. Nothing is written, no connection opened.
"""

# T frames  y, x height and width of a picture

import io
import math
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import groupby
from typing import Any

import numpy as np
import torch
from transformers.utils import logging


logger = logging.get_logger(__name__)

MIN_SECONDS = 0.025  # of sound: one window of any encoder that listens to speech
MAX_SECONDS = 30.0  # default length of a clip; what comes later is not decoded
MAX_FRAME_SIDE = 8192  # pixels; a small file can unpack into pictures that fill the memory
MAX_SAMPLING_RATE = 768_000  # Hz; the highest that sound cards record
MAX_PEAK = 64.0  # louder "floating point sound in [-1, 1]" is integer samples in disguise
MAX_CHANNELS = 8

# Containers that hold their own media. Playlists (hls, dash, concat, sdp) point at other files and are left out.
CONTAINERS = "mov,mp4,matroska,webm,avi,flv,mpegts,mpeg,asf,ogg,wav,w64,flac,mp3,aac,aiff,au,caf,amr,mxf"
_TIME_TOLERANCE = 1e-3  # seconds; Matroska rounds timestamps to milliseconds

URL = re.compile(r"(?i)[a-z][a-z0-9+.-]*://|(data|blob):")
ARRAYS = np.ndarray | torch.Tensor | list | tuple
Pieces = Iterable[tuple[np.ndarray, int]]  # float32 (samples,) of one channel, with their sampling rate


def load_audio(
    source: Any,
    sampling_rate: int | None = None,
    target_sampling_rate: int = 16_000,
    max_seconds: float | None = MAX_SECONDS,
    name: str = "the sample",
    missing_ok: bool = False,
) -> np.ndarray | None:
    """Sound as one channel at one rate.

    Args:
        source: a path, bytes or a seekable binary file object (sound, or a video with a sound track); an array
            (samples,), (channels, samples) or (samples, channels), whose smaller dimension is the channels;
            `{"path": ..., "bytes": ...}` or `{"array": ..., "sampling_rate": ...}` as `datasets` has them. Integers
            (8, 16, 32 bits) are scaled by the range of their type, floats are taken to be in about [-1, 1].
        sampling_rate: Hz of an array. Files and dicts state their own, which counts.
        target_sampling_rate: Hz of what is returned.
        max_seconds: of a longer clip the beginning is taken, with a warning; later sound is not decoded. None: all.
        name: what messages call the sample.
        missing_ok: a file without sound gives None; otherwise it is an error.

    Returns:
        float32 (samples,) in about [-1, 1], or None. Of a damaged file, what decodes is returned with a warning.

    Raises:
        FileNotFoundError, ValueError: the source cannot be used; the message says why and what to do.
    """
    max_seconds = _seconds(max_seconds, name)
    if isinstance(source, dict) and source.get("array") is not None:
        source, sampling_rate = source["array"], source.get("sampling_rate", sampling_rate)
    source = _unwrap(source, name)
    with ExitStack() as stack:
        if isinstance(source, ARRAYS):
            _check_rate(sampling_rate, name)
            pieces: Pieces = [(_mono_from_array(source, name), int(sampling_rate))]
        else:
            container = stack.enter_context(open_media(source, name))
            streams = container.streams.audio
            if not streams or streams[0].codec_context is None:
                _require(missing_ok, name, "no sound track that can be decoded. Give `audio`, or leave sound out.")
                return None
            pieces = _decode_audio(container, streams[0], name)
        samples = _resampled(_limited(pieces, max_seconds, name), target_sampling_rate)
    if len(samples) >= MIN_SECONDS * target_sampling_rate:
        return samples
    said = f"only {len(samples)} samples of sound at {target_sampling_rate} Hz; at least {MIN_SECONDS} s are needed."
    _require(missing_ok, name, f"{said} Leave sound out, or record the clip again.")
    logger.warning(f"{name}: the sound track holds no sound; going on without it.")
    return None


def load_video(
    source: Any,
    num_frames: int,
    fps: float | None = None,
    max_seconds: float | None = MAX_SECONDS,
    name: str = "the sample",
) -> np.ndarray:
    """At most `num_frames` pictures, spread evenly in time: the one on screen in the middle of each of so many equal
    spans, by its timestamp. None is given twice; a clip of fewer frames gives each of them once.

    Args:
        source: a path, bytes, a seekable binary file object, `{"path": ..., "bytes": ...}`, a list of PIL images of
            one size, or an array (T, y, x, 3) or (T, 3, y, x), uint8 or float in [0, 1].
        num_frames: how many pictures at most.
        fps: frames a second of a list or array; files state their own. Without it none is too long.
        max_seconds, name: and what is raised, as `load_audio`.

    Returns:
        uint8 (T, y, x, 3) RGB, upright: rotation noted in the file is applied.
    """
    _require(num_frames >= 1, name, f"num_frames is {num_frames}; ask for at least one.")
    max_seconds, source = _seconds(max_seconds, name), _unwrap(source, name)
    if isinstance(source, ARRAYS):
        return _sample_array(source, num_frames, fps, max_seconds, name)
    with open_media(source, name) as container:
        times, start, stop = read_frame_times(container, video_stream(container, name), max_seconds, name)
    middles = [(index + 0.5) * (stop - start) / num_frames for index in range(num_frames)]
    wanted = None if len(times) <= num_frames else middles
    # Opened anew: not every container can seek back to its very first frame.
    with open_media(source, name) as container:
        chosen = _decode_video(container, video_stream(container, name), start, stop, wanted, name)
    return np.stack(chosen[:num_frames])


def has_video(source: Any, name: str = "the sample") -> bool:
    """Whether a path, bytes or open file holds a video track, whatever it is called; raises as `load_audio`."""
    source = _unwrap(source, name)
    _require(not isinstance(source, ARRAYS), name, f"cannot read media from {type(source).__name__}; give one clip.")
    with open_media(source, name) as container:
        return bool(_moving_pictures(container))


def resize_frames(frames: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 (T, y, x, 3) → uint8 (T, height, width, 3): the middle of each picture in the wanted proportions, resized
    bilinearly with antialiasing. Frames that have the size already come back as they are."""
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or 0 in frames.shape:
        raise ValueError(f"Frames are {frames.dtype} {frames.shape}; expected uint8 (T, height, width, 3).")
    (height, width), (old_height, old_width) = size, frames.shape[1:3]
    if (old_height, old_width) == (height, width):
        return frames
    scale = min(old_height / height, old_width / width)
    crop_height, crop_width = max(1, round(height * scale)), max(1, round(width * scale))
    top, left = (old_height - crop_height) // 2, (old_width - crop_width) // 2
    cropped = np.ascontiguousarray(frames[:, top : top + crop_height, left : left + crop_width])
    pictures = torch.from_numpy(cropped).permute(0, 3, 1, 2)  # (T, 3, y, x)
    resized = torch.nn.functional.interpolate(pictures, size=(height, width), mode="bilinear", antialias=True)
    return np.ascontiguousarray(resized.permute(0, 2, 3, 1).numpy())


def _require(fine: bool, name: str, message: str) -> None:
    if not fine:
        raise ValueError(f"{name}: {message}")


def _import_av():
    try:
        import av
    except ImportError as error:
        raise ImportError("Reading sound and video files needs PyAV: pip install av") from error
    return av


def _unwrap(source: Any, name: str) -> Any:
    """Check what a source is, and take a `datasets` dict apart."""
    if isinstance(source, dict):
        keys, source = sorted(source), source.get("path") if source.get("bytes") is None else source["bytes"]
        _require(source is not None, name, f"a dict with keys {keys} holds no media; fill `bytes`, `path` or `array`.")
    if isinstance(source, str):
        said = f"{source[:200]!r} is a URL, and this code opens no connection: download the file first, or give the "
        _require(not URL.match(source), name, said + "pipeline a `fetch`, from an http or https URL to its bytes.")
    if isinstance(source, str | os.PathLike):
        path = os.fspath(source)
        if not os.path.exists(path):
            raise FileNotFoundError(f"{name}: there is no file {path!r}. Check the path and the working directory.")
        _require(os.path.isfile(path), name, f"{path!r} is a directory or a device. Give the path of one media file.")
    elif isinstance(source, bytearray | memoryview):
        return bytes(source)
    elif not isinstance(source, bytes | ARRAYS):
        # Open files have no common base class (tempfile's wrappers, fsspec), so what they can do decides.
        can_seek = all(callable(getattr(source, method, None)) for method in ("read", "seek", "tell"))
        said = f"cannot read media from {type(source).__name__}. Give a path, bytes, an array, or a file open for "
        _require(can_seek and not isinstance(source, io.TextIOBase), name, said + "reading bytes, open(path, 'rb').")
    return source


@contextmanager
def open_media(source: Any, name: str) -> Iterator[Any]:
    """A PyAV container over an open file. A user's file object is read from its start and left where it was."""
    av = _import_av()
    with ExitStack() as stack:
        try:
            file = io.BytesIO(source) if isinstance(source, bytes) else source
            if isinstance(source, str | os.PathLike):
                name = name if os.fspath(source) in name else f"{name} ({os.fspath(source)})"
                file = stack.enter_context(open(source, "rb"))
            else:
                stack.callback(file.seek, file.tell())
            size = file.seek(0, io.SEEK_END) or file.tell()
            file.seek(0)
        except (OSError, ValueError) as error:
            raise ValueError(f"{name}: cannot be read ({error}). Check permissions, or give the bytes.") from error
        _require(size > 0, name, "empty, 0 bytes. Copy or download it again.")
        try:
            container = av.open(
                file,
                container_options={"format_whitelist": CONTAINERS, "protocol_whitelist": ""},
                options={"max_pixels": str(MAX_FRAME_SIDE**2)},
                metadata_errors="replace",  # titles in an old encoding are no reason to refuse a clip
            )
        except av.FFmpegError as error:
            said = f"{name}: not a media file that can be read, or cut off ({error.strerror}). Playlists are refused."
            raise ValueError(f"{said} Convert it to mp4 or wav, or copy it again.") from error
        yield stack.enter_context(container)


def _decode(container: Any, stream: Any, damage: list[str]) -> Iterator[Any]:
    """Frames of a stream. What cannot be decoded is stepped over and told to `damage`."""
    packets, packet = container.demux(stream), stream
    while packet is not None:
        try:
            packet = next(packets, None)
            frames = packet.decode() if packet is not None else []
        except _import_av().FFmpegError as error:
            damage.append(str(error))
            continue
        for frame in frames:
            if frame.is_corrupt:
                damage.append("a frame with errors")
            yield frame


def _warn_damage(damage: list[str], kind: str, name: str) -> None:
    if damage:
        logger.warning(f"{name}: damaged {kind} ({len(damage)} errors, first: {damage[0]}); using what decodes.")


def _warn_short(seconds: float, stream: Any, kind: str, name: str) -> None:
    """A file cut off while it was copied often decodes without an error, but says that it is longer."""
    declared = float((stream.duration or 0) * stream.time_base)
    estimated = stream.container.format.name in ("aac", "mp3", "mpeg", "mpegts")  # from the bit rate, often wrongly
    if not estimated and seconds < 0.95 * declared - 0.1:
        logger.warning(f"{name}: {kind} of {declared:.2f} s gives only {seconds:.2f} s; the file may be cut off.")


def _decode_audio(container: Any, stream: Any, name: str) -> Pieces:
    """Pieces of one channel."""
    damage, seconds = [], 0.0
    try:
        for frame in _decode(container, stream, damage):
            _check_rate(frame.sample_rate, name)
            samples = frame.to_ndarray()
            if not frame.format.is_planar:
                samples = samples.reshape(-1, frame.layout.nb_channels).T  # (channels, samples)
            # FFmpeg's own way to mono makes stereo floats 3 dB louder than stereo integers; the mean treats all alike.
            yield _scaled(samples).mean(axis=0), frame.sample_rate
            seconds += samples.shape[1] / frame.sample_rate
        _warn_short(seconds, stream, "sound", name)
    finally:  # also where nobody asks for more
        _warn_damage(damage, "sound", name)


def _scaled(samples: np.ndarray) -> np.ndarray:
    """Samples of any type → float32 in about [-1, 1]."""
    if samples.dtype.kind == "f":
        return samples.astype(np.float32, copy=False)
    half = 2.0 ** (8 * samples.dtype.itemsize - 1)
    return ((samples.astype(np.float64) - (half if samples.dtype.kind == "u" else 0)) / half).astype(np.float32)


def _mono_from_array(array: Any, name: str) -> np.ndarray:
    array = _numpy(array, name)
    known = array.dtype.kind == "f" or (array.dtype.kind in "iu" and array.dtype.itemsize <= 4)
    said = f"sound of type {array.dtype}, whose range is unknown. Give floats in [-1, 1], int16 or int32."
    _require(known, name, said)
    _require(array.size > 0, name, f"sound of zero length, shape {array.shape}. Leave it out, or check the cutting.")
    said = f"sound has shape {array.shape}; expected (samples,), (channels, samples) or (samples, channels)"
    fine = array.ndim == 1 or (array.ndim == 2 and min(array.shape) <= MAX_CHANNELS)
    _require(fine, name, f"{said} with at most {MAX_CHANNELS} channels. Give one clip at a time.")
    return _scaled(array) if array.ndim == 1 else _scaled(array).mean(axis=int(array.shape[1] < array.shape[0]))


def _limited(pieces: Pieces, max_seconds: float, name: str) -> Pieces:
    """Pieces up to `max_seconds`, checked."""
    left = max_seconds
    for samples, rate in pieces:
        if is_last := len(samples) / rate > left + _TIME_TOLERANCE:
            logger.warning(f"{name}: the sound is longer than {max_seconds:g} s; only its beginning is used.")
            samples = samples[: max(0, round(left * rate))]
        peak = np.abs(samples).max(initial=0)
        _require(np.isfinite(peak), name, "the sound holds NaN or infinite samples. Repair or replace the clip.")
        said = f"the sound reaches {peak:g}, but floats should be in about [-1, 1]. Divide by the range of the "
        _require(peak <= MAX_PEAK, name, said + "integers it was made from, 32768 for 16 bits.")
        yield samples, rate
        if is_last:
            break
        left -= len(samples) / rate


def _resampled(pieces: Pieces, target: int) -> np.ndarray:
    """Pieces → float32 (samples,) at the target rate. The rate may change between pieces."""
    found = [np.zeros(0, np.float32)]
    for rate, run in groupby(pieces, key=lambda piece: piece[1]):
        samples = np.concatenate([piece for piece, _ in run])
        if rate == target or not len(samples):
            found.append(samples)
            continue
        frame = _import_av().AudioFrame.from_ndarray(np.ascontiguousarray(samples[None]), "fltp", "mono")
        frame.sample_rate = rate
        resampler = _import_av().AudioResampler(format="fltp", layout="mono", rate=target)
        found += [part.to_ndarray()[0] for part in (*resampler.resample(frame), *resampler.resample(None))]
    return np.concatenate(found).astype(np.float32, copy=False)


def _moving_pictures(container: Any) -> list[Any]:
    """Video streams but for the cover picture of a song."""
    cover = _import_av().stream.Disposition.attached_pic
    return [stream for stream in container.streams.video if not stream.disposition & cover]


def video_stream(container: Any, name: str) -> Any:
    """The first video stream, of a bearable size."""
    streams = [stream for stream in _moving_pictures(container)[:1] if stream.codec_context is not None]
    _require(bool(streams), name, "no video track that can be decoded. Give it as `audio`, or leave video out.")
    context = streams[0].codec_context
    _check_side(context.height, context.width, name)
    context.options = {"max_pixels": str(MAX_FRAME_SIDE**2)}
    return streams[0]


def read_frame_times(container: Any, stream: Any, max_seconds: float, name: str) -> tuple[list[float], float, float]:
    """Timestamps, ascending, with start and end of the clip in seconds, read without decoding, up to `max_seconds`."""
    clock, step = _clock(container), float(stream.time_base)
    times, stop, average, limit = [], -math.inf, 1 / float(stream.average_rate or 25), max_seconds - _TIME_TOLERANCE
    try:
        for packet in container.demux(stream):
            ticks = packet.dts if getattr(packet, clock) is None else getattr(packet, clock)
            if packet.is_discard or ticks is None:
                continue
            times.append(ticks * step)
            stop = max(stop, ticks * step + (packet.duration * step if packet.duration else average))
            # Frames may be stored out of order, but none is shown before its decoding time.
            if packet.dts is not None and packet.dts * step - times[0] > limit:
                break
        else:
            _warn_short(stop - min(times) if times else 0.0, stream, "video", name)
    except _import_av().FFmpegError:
        pass  # the decoder meets the same damage and reports it
    _require(bool(times), name, "the video track holds no frames. Record the clip again, or leave video out.")
    start = min(times)
    if max(times) - start >= limit:
        logger.warning(f"{name}: the video is longer than {max_seconds:g} s; only its beginning is used.")
        times, stop = [time for time in times if time - start < limit], start + max_seconds
    return sorted(times), start, stop


def _decode_video(
    container: Any, stream: Any, start: float, stop: float, wanted: list[float] | None, name: str
) -> list[np.ndarray]:
    """The frames (y, x, 3) on screen at the `wanted` seconds from `start`, None: every one."""
    clock, step = _clock(container), float(stream.time_base)
    remaining = [math.inf] if wanted is None else list(wanted)
    damage, chosen, held, seconds = [], [], None, 0.0

    def keep_held(until: float) -> None:
        """Keep the frame that was on screen until now, if one of the wanted times has passed meanwhile."""
        passed = sum(time < until - _TIME_TOLERANCE for time in remaining)
        del remaining[:passed]
        if held is not None and (passed or wanted is None):
            chosen.append(_upright(held, chosen[0].shape if chosen else None, name))

    for frame in _decode(container, stream, damage):
        ticks = getattr(frame, clock)
        if clock == "dts" and held is None and ticks is not None:
            start, stop = ticks * step, stop + ticks * step - start  # they run late by the delay of the decoder
        seconds = ticks * step - start if ticks is not None else seconds + 1 / float(stream.average_rate or 25)
        if start + seconds >= stop - _TIME_TOLERANCE:
            break
        keep_held(seconds)
        held = frame
        if not remaining:
            break
    if remaining:
        keep_held(math.inf)
    why = damage[0] if damage else "the track is empty"
    _require(bool(chosen), name, f"no frame can be decoded ({why}). Convert the clip to mp4, or leave video out.")
    _warn_damage(damage, "video", name)
    return chosen


def _clock(container: Any) -> str:
    """AVI stores no presentation times, and what PyAV gives for them is out of order; its decoding times are even."""
    return "dts" if container.format.name == "avi" else "pts"


def _upright(frame: Any, size: tuple[int, ...] | None, name: str) -> np.ndarray:
    """One decoded frame → uint8 (y, x, 3), turned as the file says, in the `size` of the first frame if given."""
    _check_side(frame.height, frame.width, name)
    turns = round(frame.rotation / 90) % 4
    width, height = frame.width, frame.height
    if size is not None:
        height, width = size[:2] if turns % 2 == 0 else size[1::-1]
    pixels = frame.to_ndarray(format="rgb24", width=width, height=height)
    return np.ascontiguousarray(np.rot90(pixels, turns))


def _sample_array(source: Any, num_frames: int, fps: float | None, max_seconds: float, name: str) -> np.ndarray:
    """A list of images or an array, sampled as a file would be."""
    fine = fps is None or (isinstance(fps, int | float | np.number) and 0 < fps <= 1000)
    _require(fine, name, f"fps is {fps!r}; give the frames a second of the array, above 0 and up to 1000.")
    if isinstance(source, list | tuple) and any(hasattr(frame, "convert") for frame in source):
        said = "a list of frames mixes PIL images with other things. Make all of them PIL images."
        _require(all(hasattr(frame, "convert") for frame in source), name, said)
        sizes = sorted({frame.size for frame in source})
        _require(len(sizes) == 1, name, f"frames of differing sizes, {sizes[:3]}. Resize them to one size.")
        frames, (width, height) = source, sizes[0]
    else:
        frames = _numpy(source, name)
        _require(frames.size > 0, name, "a video of no frames. Leave it out, or check the cutting.")
        if frames.ndim == 4 and frames.shape[-1] != 3:
            frames = frames.transpose(0, 2, 3, 1)
        said = f"expected (T, height, width, 3) or (T, 3, height, width), got {np.shape(source)}."
        _require(frames.ndim == 4 and frames.shape[-1] == 3, name, f"the array holds no RGB frames; {said}")
        height, width = frames.shape[1:3]
    _check_side(height, width, name)
    count = len(frames)
    if fps is not None and count / fps > max_seconds + _TIME_TOLERANCE:
        logger.warning(f"{name}: the video is longer than {max_seconds:g} s; only its beginning is used.")
        count = max(1, math.ceil((max_seconds - _TIME_TOLERANCE) * fps))
    shown = min(count, num_frames)
    picks = [int((index + 0.5) * count / shown + 1e-6) for index in range(shown)]
    if isinstance(frames, np.ndarray):
        frames = frames[picks]
    else:
        frames = np.stack([np.asarray(frames[index].convert("RGB")) for index in picks])
    if frames.dtype.kind == "f":
        low, high = frames.min(), frames.max()
        said = f"float frames range from {low:g} to {high:g}; expected [0, 1]. Divide by 255, undo the normalization, "
        _require(low >= 0 and high <= 1, name, said + "replace NaN, or give uint8.")
        frames = np.rint(frames.astype(np.float32) * 255).astype(np.uint8)
    _require(frames.dtype == np.uint8, name, f"frames of type {frames.dtype}; give uint8, or floats in [0, 1].")
    return np.ascontiguousarray(frames)


def _numpy(array: Any, name: str) -> np.ndarray:
    if isinstance(array, torch.Tensor):
        array = array.detach().cpu()
        return (array.float() if array.is_floating_point() else array).numpy()
    try:
        return np.asarray(array)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name}: the list cannot be made one array ({error}). Give parts of one size.") from error


def _check_rate(rate: Any, name: str) -> None:
    _require(rate is not None, name, "an array of sound needs sampling_rate, in Hz. Say it, e.g. sampling_rate=16000.")
    number = isinstance(rate, int | float | np.number | torch.Tensor) and not isinstance(rate, bool)
    said = f"sampling_rate is {rate!r} Hz; expected a number from 1 up to {MAX_SAMPLING_RATE}."
    _require(number and 1 <= rate <= MAX_SAMPLING_RATE, name, said)


def _seconds(most: float | None, name: str) -> float:
    said = f"max_seconds is {most}; give a number above 0, or None for all of the clip."
    _require(most is None or most > 0, name, said)
    return math.inf if most is None else most


def _check_side(height: int, width: int, name: str) -> None:
    said = f"frames of {width} x {height} pixels; at most {MAX_FRAME_SIDE} a side are read. Scale the video down."
    _require(max(height, width) <= MAX_FRAME_SIDE, name, said)
