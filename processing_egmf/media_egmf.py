"""Media sources and containers, shared by audio and video.

    path, bytes, open file ─► open_file ─► open_media ─► Track.decode ─┬─► audio_egmf.py, video_egmf.py
    array, images, decoder objects ──────► media_kind, to_numpy ───────┘

Files are decoded by PyAV (FFmpeg). FFmpeg follows URLs and playlists on its own, so it is never given a file name:
Python opens the file, and FFmpeg gets only the open file, with no protocols and only the containers listed below.
Nothing is written, and no connection is opened; `data:` URIs hold their content. A small file can unpack into hours of
work: `DecodingBudget` and `check_sample_tables` bound it.
"""

import base64
import binascii
import io
import math
import os
import re
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np
import torch
from transformers.image_utils import is_pil_image

from .arguments_egmf import errors_named, is_number, logger, shorten
from .declared_egmf import HEAD_BYTES, check_sample_tables, declared_size


# Containers that hold their own media. Playlists (hls, dash, concat, sdp) point at other files and are left out.
CONTAINERS = "mov,mp4,matroska,webm,avi,flv,mpegts,mpeg,asf,ogg,wav,w64,flac,mp3,aac,aiff,au,caf,amr,mxf"
# Containers for whose tracks FFmpeg estimates a duration from the bit rate, often wrongly.
ESTIMATED_DURATION = ("aac", "asf", "matroska,webm", "mp3", "mpeg", "mpegts")
# Default limit on the length of a clip; the rest is not decoded.
MAX_SECONDS = 30.0
# Seconds; the limit if none is set, for the memory's sake.
LONGEST_CLIP = 3 * 3600.0
# Default limit on the work of decoding a clip.
MAX_DECODE_SECONDS = 30.0
# Decoded by a slow processor; converts the limit into pixels.
PIXELS_PER_SECOND = 250_000_000
# Of a video; a decoder keeps up to 17 frames in memory.
MAX_FRAME_PIXELS = 4096 * 4096
MAX_FRAME_SIDE = 8192  # pixels
# Seconds; Matroska rounds timestamps to milliseconds.
TIME_TOLERANCE = 1e-3
LESS_WORK = "Cut the clip or scale it down, or raise `max_decode_seconds` of the processor."
# Characters; 200 MB of media in base64.
MAX_DATA_URI = 2**28
URL = re.compile(r"(?i)\s*([a-z][a-z0-9+.-]*://|(data|blob):)")
DATA_URI = re.compile(r"(?i)\s*data:")
TENSORS = np.ndarray | torch.Tensor
ARRAYS = TENSORS | list | tuple
# WAV, AVI and WebP; FLAC; Ogg; mp3 with tags; Matroska and WebM.
MEDIA_STARTS = (b"RIFF", b"fLaC", b"OggS", b"ID3", b"\x1aE\xdf\xa3")
PICTURE_STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"II*\0", b"MM\0*")
# Boxes that an mp4 or mov file begins with.
MP4_BOXES = (b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"sidx", b"free", b"skip", b"wide")
WEB_PAGE_MARKS = (b"<!doctype html", b"<html", b"<head", b"<error>")


# ---- kinds of sources ----------------------------------------------------------------------------------------


def is_recording(value: Any) -> bool:
    """Whether a value is one recording, not a collection: a path, bytes, an open file, an array, an image, a dict, a
    pair of sampling rate and array as of Gradio and torchaudio, or a decoder of torchcodec, as of `datasets`."""
    if isinstance(value, list | tuple):
        return is_rate_and_array(value)
    is_file = isinstance(value, str | bytes | bytearray | memoryview | os.PathLike | Mapping) or hasattr(value, "read")
    is_collection = hasattr(value, "__iter__") or hasattr(value, "__getitem__")
    return is_file or media_kind(value) is not None or not is_collection


def take_from_list(source: Any) -> Any:
    """The file of a list of one, as `videos=[["clip.mp4"]]` nests it for other processors; other sources unchanged."""
    if not isinstance(source, list | tuple) or not source or not isinstance(source[0], str | bytes | os.PathLike):
        return source
    if len(source) > 1:
        raise ValueError(f"{len(source)} files for one sample. Give one clip, or its frames as PIL images.")
    return source[0]


def media_kind(source: Any) -> str | None:
    """`"audio"` or `"video"` of a source that is already decoded; None for a file, whose content decides."""
    if isinstance(source, Mapping):
        return "audio" if source.get("array") is not None else None
    if is_audio_decoder(source) or is_rate_and_array(source):
        return "audio"
    if is_video_decoder(source) or is_pil_image(source):
        return "video"
    if isinstance(source, TENSORS):
        return "video" if source.ndim == 4 or is_picture_shape(source.shape) else "audio"
    if isinstance(source, list | tuple):
        return "audio" if source and is_number(source[0]) else "video"
    return None


def is_rate_and_array(value: Any) -> bool:
    """A pair of sampling rate and samples, in either order."""
    if not isinstance(value, list | tuple) or len(value) != 2:
        return False
    arrays = [isinstance(part, TENSORS) and part.ndim in (1, 2) for part in value]
    return any(map(is_number, value)) and any(arrays)


def is_picture_shape(shape: tuple[int, ...]) -> bool:
    """(y, x, 3), (y, x, 4) or (3, y, x)."""
    return len(shape) == 3 and (shape[-1] in (3, 4) or shape[0] == 3)


def is_audio_decoder(value: Any) -> bool:
    """An `AudioDecoder` of torchcodec, known by its method: torchcodec need not be installed."""
    return callable(getattr(value, "get_all_samples", None))


def is_video_decoder(value: Any) -> bool:
    """A `VideoDecoder` of torchcodec."""
    return callable(getattr(value, "get_frames_in_range", None))


# ---- sources -------------------------------------------------------------------------------------------------


def name_with_path(source: Any, name: str) -> str:
    """The sample's name for messages, with the path of its file if the name does not contain it."""
    path = source.get("path") if isinstance(source, dict) else source
    if not isinstance(path, str | os.PathLike) or URL.match(str(path)):
        return name
    path = str(path)
    is_named = os.path.basename(path) in name or path[:100] in name
    return name if is_named else f"{name} ({shorten(path)[1:-1]})"


def to_numpy(array: Any) -> np.ndarray:
    if np.ma.is_masked(array):
        raise ValueError("a masked array, whose masked values would be read. Fill or remove them.")
    try:
        if isinstance(array, torch.Tensor):
            array = array.detach().cpu()
            array = array.float() if array.is_floating_point() else array
        return np.asarray(array)
    # The last one for tensors on the meta device, and lists of tensors with gradients.
    except (ValueError, TypeError, RuntimeError) as error:
        kind = type(array).__name__
        raise ValueError(f"cannot convert the {kind} to an array ({error}). Use parts of one size.") from error


# ---- content -------------------------------------------------------------------------------------------------


def check_content(head: bytes, name: str) -> None:
    """Refuse a placeholder in the place of a file. Any kind of file can be checked.

    Args:
        head: the beginning of the file, `HEAD_BYTES` of it or all.
        name: of the file, for the message.

    Raises:
        ValueError: a pointer of Git LFS or git-annex, or a saved web page.
    """
    start = head[:HEAD_BYTES].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"version https://git-lfs.", b"version https://hawser.")):
        raise ValueError(f"{name}: a Git LFS pointer, not the file itself. Run `git lfs pull`, or download it again.")
    if start.startswith((b"/annex/objects/", b"../.git/annex/", b".git/annex/")):
        raise ValueError(f"{name}: a git-annex pointer, not the file itself. Run `git annex get`.")
    if start.startswith(b"<") and any(mark in start for mark in WEB_PAGE_MARKS):
        raise ValueError(
            f"{name}: a web page that was saved in the file's place. "
            "Open the address in a browser, and download the file again."
        )


def is_picture(source: Any, name: str) -> bool:
    """Whether a path, bytes or an open file holds a picture or an animation of a kind that Pillow reads."""
    with open_file(source, name) as file:
        head = file.read(12)
    is_webp = head.startswith(b"RIFF") and head[8:] == b"WEBP"
    is_bitmap = head.startswith(b"BM") and head[6:10] == bytes(4)
    return is_webp or is_bitmap or head.startswith(PICTURE_STARTS)


# ---- limits --------------------------------------------------------------------------------------------------


class DecodingBudget:
    """Limits on a clip and on the work of decoding it.

    Args:
        name: the sample's name in messages.
        max_seconds: length of a clip; the rest is not used. None for three hours.
        max_decode_seconds: seconds of work, by the clock and, before decoding, by the number of pixels; None for no
            limit.
    """

    def __init__(self, name: str, max_seconds: float | None, max_decode_seconds: float | None):
        if max_seconds is not None and not max_seconds > 0:
            raise ValueError(f"max_seconds is {max_seconds}; give a number above 0, or None for the whole clip.")
        self.name = name
        self.max_seconds = LONGEST_CLIP if max_seconds is None else max_seconds
        self.max_decode_seconds = math.inf if max_decode_seconds is None else max_decode_seconds
        self._deadline = time.monotonic() + self.max_decode_seconds

    def warn_of_length(self, kind: str) -> None:
        logger.warning(f"{self.name}: the {kind} is longer than {self.max_seconds:g} s; only its beginning is used.")

    def check_time(self) -> None:
        if time.monotonic() > self._deadline:
            raise ValueError(f"decoding takes longer than {self.max_decode_seconds:g} s. {LESS_WORK}")

    def check_pixels(self, num_frames: int, height: int, width: int) -> None:
        seconds = num_frames * height * width / PIXELS_PER_SECOND
        if seconds > self.max_decode_seconds:
            raise ValueError(
                f"{num_frames} frames of {width} x {height} pixels must be decoded, about "
                f"{seconds:.0f} s of work; the limit is {self.max_decode_seconds:g} s. {LESS_WORK}"
            )


# ---- containers ----------------------------------------------------------------------------------------------


def import_av() -> ModuleType:
    try:
        import av
    except ImportError as error:
        raise ImportError("Reading audio and video files needs PyAV: pip install av") from error
    return av


@contextmanager
def open_file(source: Any, name: str) -> Iterator[Any]:
    """A media source as an open file at its start, checked by its size and its first bytes.

    Args:
        source: a path, a `data:` URI, bytes, a file object, which is returned to its previous position at
            the end, or a `datasets` dict of one of these.
        name: the sample's name in messages.

    Raises:
        FileNotFoundError, ValueError: the source cannot be read as media.
    """
    with ExitStack() as stack, errors_named(name):
        file = _open_source(source, stack)
        try:
            stack.callback(file.seek, file.tell())
            size = file.seek(0, io.SEEK_END) or file.tell()
            file.seek(0)
            head = file.read(HEAD_BYTES)
        except (OSError, EOFError, RuntimeError, ValueError) as error:
            raise ValueError(f"cannot be read ({error}). Check permissions, or give the bytes.") from error
        if size == 0:
            raise ValueError("empty, 0 bytes. Copy or download it again.")
        check_content(head, name)
        try:
            if head[4:8] in MP4_BOXES:
                check_sample_tables(file, size)
            file.seek(0)
            yield file
        # Of a disk, a network, or a file object of one's own.
        except (OSError, EOFError, RuntimeError) as error:
            raise ValueError(f"cannot be read to its end ({error}). Copy it again, or give the bytes.") from error


def _open_source(source: Any, stack: ExitStack) -> Any:
    """The file of a source of `open_file`; the stack closes it if it is opened here."""
    if isinstance(source, dict):
        contents = [source[key] for key in ("bytes", "path") if source.get(key) is not None]
        if not contents:
            keys = shorten(sorted(map(str, source)))
            raise ValueError(f"a dict with keys {keys} has no media; fill in `bytes`, `path` or `array`.")
        source = contents[0]
    if isinstance(source, str) and DATA_URI.match(source):
        source = _decode_data_uri(source)
    if isinstance(source, str | os.PathLike):
        return stack.enter_context(_open_path(os.fsdecode(source)))
    if isinstance(source, bytes | bytearray | memoryview):
        return io.BytesIO(source)
    # Open files have no common base class (tempfile's wrappers, fsspec), so their methods decide.
    can_seek = all(callable(getattr(source, method, None)) for method in ("read", "seek", "tell"))
    if not can_seek or isinstance(source, io.TextIOBase):
        raise ValueError(
            f"cannot read media from {type(source).__name__}. Give a path, bytes, "
            "an array, or a file from open(path, 'rb'); None if it is missing."
        )
    return source


def _decode_data_uri(uri: str) -> bytes:
    """The content of a `data:` URI, which is percent-encoded if it is not in base64, or both."""
    if len(uri) > MAX_DATA_URI:
        raise ValueError(f"a `data:` URI of {len(uri)} characters; at most {MAX_DATA_URI}. Give the path.")
    header, _, encoded = uri.partition(",")
    # As quoted-printable, which is the same with another sign, and fast.
    content = re.sub(rb"%(?![0-9a-fA-F]{2})", b"%25", encoded.encode("utf-8", "replace"))
    content = binascii.a2b_qp(content.replace(b"=", b"%3D").replace(b"%", b"="))
    if not header.lower().rstrip().endswith(";base64"):
        return content
    try:
        return base64.b64decode(re.sub(rb"\s", b"", content), validate=True)
    except ValueError as error:
        raise ValueError(f"not valid base64 ({error}). Encode the file's bytes again.") from error


def _open_path(path: str) -> Any:
    if URL.match(path):
        raise ValueError(
            f"{path[:200]!r} is a URL, and this code opens no connections: download the file first, "
            "or give the pipeline `fetch`, a function that returns the bytes of an http or https URL."
        )
    shown = shorten(path)
    try:
        if stat.S_ISREG(os.stat(path).st_mode):
            return open(path, "rb")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(
            f"{shown} does not exist. Check the path and working directory, or give a transcript as text=..."
        ) from error
    # A symlink loop, a name too long, a null character, half a character.
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "a character that no file name can have"
        raise ValueError(
            f"{shown} cannot be opened ({reason}). Check the path and permissions; base64 needs "
            "'data:audio/wav;base64,' before it."
        ) from error
    raise ValueError(f"{shown} is a directory or a device. Give the path of one media file.")


@contextmanager
def open_media(source: Any, name: str) -> Iterator[Any]:
    """A PyAV container over a source of `open_file`."""
    av = import_av()
    name = name_with_path(source, name)
    with open_file(source, name) as file:
        try:
            container = av.open(
                file,
                # Else that of the file, which may have been opened for writing, too.
                mode="r",
                container_options={"format_whitelist": CONTAINERS, "protocol_whitelist": ""},
                options={"max_pixels": str(MAX_FRAME_SIDE**2)},
                # Do not reject a clip because of titles in an old encoding.
                metadata_errors="replace",
            )
        except av.FFmpegError as error:
            raise ValueError(
                f"{name}: not a readable media file, or cut off ({error.strerror}). "
                "Convert it to mp4, wav or jpg, or copy it again; no playlists."
            ) from error
        with container:
            yield container


def choose_stream(container: Any, kind: str) -> Any | None:
    """The track that a player would choose, or None: the default one; among several, the largest, then the first.

    A song's cover image and the thumbnails of a file are not videos; a commentary or an audio description is chosen
    only if there is nothing else.
    """
    disposition = import_av().stream.Disposition
    images = disposition.attached_pic | disposition.timed_thumbnails
    side_tracks = disposition.comment | disposition.visual_impaired | disposition.hearing_impaired

    def rank(stream: Any) -> tuple[bool, bool, int]:
        is_default = bool(stream.disposition & disposition.default)
        is_main = not stream.disposition & side_tracks
        pixels = stream.codec_context.width * stream.codec_context.height if kind == "video" else 0
        return is_default, is_main, pixels

    streams = container.streams.video if kind == "video" else container.streams.audio
    usable = [stream for stream in streams if stream.codec_context is not None and not stream.disposition & images]
    return max(usable, key=rank, default=None)


@dataclass
class Track:
    """A track of an open container, decoded within a budget.

    Args:
        container: from `open_media`.
        stream: one of its streams.
        budget: its name is that of the sample in messages.
        declared_size: bytes that the file declares, if it does.
        damage: errors of decoding so far.
    """

    container: Any
    stream: Any
    budget: DecodingBudget
    declared_size: float = 0
    damage: list[str] = field(default_factory=list)

    def decode(self) -> Iterator[Any]:
        """The decoded frames; errors are added to `damage` and skipped."""
        av = import_av()
        try:
            for packet in self.container.demux(self.stream):
                self.budget.check_time()
                try:
                    yield from packet.decode()
                except av.FFmpegError as error:
                    self.damage.append(str(error))
        except av.FFmpegError as error:
            self.damage.append(str(error))

    def warn_if_cut_off(self, seconds: float) -> None:
        """A file that was cut off while being copied often decodes without an error, but declares more seconds."""
        declared = float((self.stream.duration or 0) * self.stream.time_base)
        if self.container.format.name in ESTIMATED_DURATION:
            declared = 0
        # FFmpeg corrects the duration of some by the bytes that are left.
        declared = max(declared, seconds * self.declared_size / self.container.size)
        if seconds < 0.95 * declared - 0.1:
            decoded = f"only {seconds:.2f} of {declared:.2f} s of {self.stream.type} decode"
            if declared == math.inf:
                decoded = "the end is missing"
            logger.warning(f"{self.budget.name}: {decoded}; the file may be cut off.")


@contextmanager
def open_track(source: Any, kind: str, budget: DecodingBudget) -> Iterator[Track | None]:
    """The `"audio"` or `"video"` track that a player would choose, or None; a warning reports damage."""
    with open_media(source, budget.name) as container:
        stream = choose_stream(container, kind)
        if stream is None:
            yield None
            return
        with open_file(source, budget.name) as file:
            track = Track(container, stream, budget, declared_size(file))
        yield track
        if track.damage:
            errors = f"{len(track.damage)} errors, first: {track.damage[0]}"
            logger.warning(f"{budget.name}: damaged {kind} ({errors}); using the rest.")
