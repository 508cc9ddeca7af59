"""Media sources and containers, shared by audio and video.

    path, bytes, open file ─► check_source ─► open_media ─► decode_frames ─┬─► audio_egmf.py, video_egmf.py
    array, list of images ──► check_source ─► to_numpy ────────────────────┘

Files are decoded by PyAV (FFmpeg). FFmpeg follows URLs and playlists on its own, so it is never given a file name:
Python opens the file, and FFmpeg gets only the open file, with no protocols and only the containers listed below.
Nothing is written, and no connection is opened.
"""

import io
import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any

import numpy as np
import torch
from transformers.image_utils import is_pil_image
from transformers.utils import logging


logger = logging.get_logger(__name__)

# Containers that hold their own media. Playlists (hls, dash, concat, sdp) point at other files and are left out.
CONTAINERS = "mov,mp4,matroska,webm,avi,flv,mpegts,mpeg,asf,ogg,wav,w64,flac,mp3,aac,aiff,au,caf,amr,mxf"
# Containers whose duration FFmpeg estimates from the bit rate, often wrongly.
ESTIMATED_DURATION = ("aac", "mp3", "mpeg", "mpegts")

MAX_SECONDS = 30.0  # default limit on the length of a clip; the rest is not decoded
MAX_FRAME_SIDE = 8192  # pixels; a small file can unpack into frames that fill the memory
TIME_TOLERANCE = 1e-3  # seconds; Matroska rounds timestamps to milliseconds

URL = re.compile(r"(?i)[a-z][a-z0-9+.-]*://|(data|blob):")
ARRAYS = np.ndarray | torch.Tensor | list | tuple


# ---- kinds of sources ----------------------------------------------------------------------------------------


def is_recording(value: Any) -> bool:
    """Whether a value is one recording, rather than a collection of recordings.

    One recording is a path, bytes, an open file, an array, an image, a dict, a pair of sampling rate and array as
    Gradio and torchaudio give it, or a decoder of torchcodec, as `datasets` gives it.
    """
    if isinstance(value, str | bytes | bytearray | memoryview | os.PathLike | Mapping | np.ndarray | torch.Tensor):
        return True
    if is_pil_image(value) or is_decoder(value) or is_rate_and_array(value) or hasattr(value, "read"):
        return True
    return not hasattr(value, "__iter__") and not hasattr(value, "__getitem__")


def media_kind(source: Any) -> str | None:
    """`"audio"` or `"video"` of a source that is already decoded; None for a file, whose content decides."""
    if isinstance(source, Mapping):
        return "audio" if source.get("array") is not None else None
    if is_audio_decoder(source) or is_rate_and_array(source):
        return "audio"
    if is_video_decoder(source) or is_pil_image(source):
        return "video"
    if isinstance(source, np.ndarray | torch.Tensor):
        return "video" if source.ndim == 4 or is_picture_shape(source.shape) else "audio"
    if isinstance(source, list | tuple):
        is_waveform = len(source) > 0 and isinstance(source[0], int | float | np.number)
        return "audio" if is_waveform else "video"
    return None


def is_rate_and_array(value: Any) -> bool:
    """A pair of sampling rate and samples, in either order."""
    if not isinstance(value, list | tuple) or len(value) != 2:
        return False
    rates = [isinstance(part, int | float | np.number) and not isinstance(part, bool) for part in value]
    arrays = [isinstance(part, np.ndarray | torch.Tensor) and part.ndim in (1, 2) for part in value]
    return any(rates) and any(arrays)


def is_picture_shape(shape: tuple[int, ...]) -> bool:
    """(y, x, 3), (y, x, 4) or (3, y, x)."""
    return len(shape) == 3 and (shape[-1] in (3, 4) or shape[0] == 3)


def is_decoder(value: Any) -> bool:
    return is_audio_decoder(value) or is_video_decoder(value)


def is_audio_decoder(value: Any) -> bool:
    """An `AudioDecoder` of torchcodec, known by its method: torchcodec need not be installed."""
    return callable(getattr(value, "get_all_samples", None))


def is_video_decoder(value: Any) -> bool:
    """A `VideoDecoder` of torchcodec."""
    return callable(getattr(value, "get_frames_in_range", None))


# ---- sources -------------------------------------------------------------------------------------------------


def check_source(source: Any, name: str) -> Any:
    """Check a media source: a path, bytes, an open file or an array. A `datasets` dict is replaced by its content.

    Raises:
        FileNotFoundError, ValueError: the source cannot be read as media.
    """
    if isinstance(source, dict):
        source = _content_of_dict(source, name)
    if isinstance(source, str) and URL.match(source):
        raise ValueError(
            f"{name}: {source[:200]!r} is a URL, and this code opens no connections: download the file first, "
            "or give the pipeline `fetch`, a function that returns the bytes of an http or https URL."
        )
    if isinstance(source, str | os.PathLike):
        _check_path(os.fspath(source), name)
    elif isinstance(source, bytearray | memoryview):
        source = bytes(source)
    elif not isinstance(source, bytes | ARRAYS) and not _is_binary_file(source):
        raise ValueError(
            f"{name}: cannot read media from {type(source).__name__}. "
            "Give a path, bytes, an array, or a file opened in binary mode, open(path, 'rb')."
        )
    return source


def _content_of_dict(source: dict[str, Any], name: str) -> Any:
    if source.get("bytes") is not None:
        return source["bytes"]
    if source.get("path") is not None:
        return source["path"]
    raise ValueError(f"{name}: a dict with keys {sorted(source)} has no media; fill in `bytes`, `path` or `array`.")


def _check_path(path: str, name: str) -> None:
    if not os.path.exists(path):
        raise FileNotFoundError(f"{name}: there is no file {path!r}. Check the path and the working directory.")
    if not os.path.isfile(path):
        raise ValueError(f"{name}: {path!r} is a directory or a device. Give the path of one media file.")


def _is_binary_file(source: Any) -> bool:
    """Open files have no common base class (tempfile's wrappers, fsspec), so their methods decide."""
    can_seek = all(callable(getattr(source, method, None)) for method in ("read", "seek", "tell"))
    return can_seek and not isinstance(source, io.TextIOBase)


def to_numpy(array: Any, name: str) -> np.ndarray:
    if isinstance(array, torch.Tensor):
        array = array.detach().cpu()
        return (array.float() if array.is_floating_point() else array).numpy()
    try:
        return np.asarray(array)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name}: cannot convert the list to an array ({error}). Use parts of one size.") from error


def check_max_seconds(max_seconds: float | None, name: str) -> float:
    """The limit in seconds; infinity for None."""
    if max_seconds is None:
        return math.inf
    if not max_seconds > 0:
        raise ValueError(f"{name}: max_seconds is {max_seconds}; give a number above 0, or None for the whole clip.")
    return max_seconds


# ---- containers ----------------------------------------------------------------------------------------------


def import_av() -> ModuleType:
    try:
        import av
    except ImportError as error:
        raise ImportError("Reading audio and video files needs PyAV: pip install av") from error
    return av


@contextmanager
def open_media(source: Any, name: str) -> Iterator[Any]:
    """A PyAV container over a path, bytes or an open file.

    A user's file object is read from its start and is then returned to its previous position.
    """
    av = import_av()
    with ExitStack() as stack:
        if isinstance(source, str | os.PathLike) and os.fspath(source) not in name:
            name = f"{name} ({os.fspath(source)})"
        try:
            file = _open_file(source, stack)
            size = file.seek(0, io.SEEK_END) or file.tell()
            file.seek(0)
        except (OSError, ValueError) as error:
            raise ValueError(f"{name}: cannot be read ({error}). Check permissions, or give the bytes.") from error
        if size == 0:
            raise ValueError(f"{name}: empty, 0 bytes. Copy or download it again.")
        try:
            container = av.open(
                file,
                container_options={"format_whitelist": CONTAINERS, "protocol_whitelist": ""},
                options={"max_pixels": str(MAX_FRAME_SIDE**2)},
                metadata_errors="replace",  # do not reject a clip because of titles in an old encoding
            )
        except av.FFmpegError as error:
            raise ValueError(
                f"{name}: not a readable media file, or cut off ({error.strerror}). "
                "Playlists are refused. Convert it to mp4 or wav, or copy it again."
            ) from error
        yield stack.enter_context(container)


def _open_file(source: Any, stack: ExitStack) -> Any:
    if isinstance(source, str | os.PathLike):
        return stack.enter_context(open(source, "rb"))
    if isinstance(source, bytes):
        return io.BytesIO(source)
    stack.callback(source.seek, source.tell())
    return source


def decode_frames(container: Any, stream: Any, damage: list[str]) -> Iterator[Any]:
    """The decoded frames of an audio or video stream; errors are added to `damage` and skipped."""
    av = import_av()
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
            frames = packet.decode() if packet is not None else []
        except av.FFmpegError as error:
            damage.append(str(error))
            continue
        if packet is None:
            return
        for frame in frames:
            if frame.is_corrupt:
                damage.append("a frame with errors")
            yield frame


def warn_of_damage(damage: list[str], kind: str, name: str) -> None:
    if damage:
        logger.warning(f"{name}: damaged {kind} ({len(damage)} errors, first: {damage[0]}); using the rest.")


def warn_if_cut_off(seconds: float, container: Any, stream: Any, kind: str, name: str) -> None:
    """A file that was cut off while being copied often decodes without an error, but declares a longer duration."""
    declared = float((stream.duration or 0) * stream.time_base)
    is_estimate = container.format.name in ESTIMATED_DURATION
    if not is_estimate and seconds < 0.95 * declared - 0.1:
        logger.warning(f"{name}: only {seconds:.2f} of {declared:.2f} s of {kind} decode; the file may be cut off.")
