"""Damaged audio and video files, for damage.py."""

import random
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np

from processing_egmf.audio_egmf import load_audio
from processing_egmf.video_egmf import load_video
from tests.helpers.damage import Case, damage_file
from tests.helpers.media_files import gray_frames, sine, write_audio, write_video


Media = dict[str, np.ndarray | None]
COMMENT = "recorded on a Tuesday morning in the kitchen"
AUDIO = (".wav", ".flac", ".mp3", ".ogg", ".m4a")
VIDEO = (".mp4", ".mkv", ".avi")
TOLERANCE = 1e-4


def make_inputs(folder: Path) -> Callable[[int, random.Random | None, Path], Case]:
    originals = {}
    tone = sine(200, 0.5, 16_000)
    for suffix in AUDIO:
        originals[f"a{suffix}"] = write_audio(folder / f"a{suffix}", tone, 16_000, comment=COMMENT)
    for suffix in VIDEO:
        codec = {"codec": "mpeg4"} if suffix == ".avi" else {}
        originals[f"v{suffix}"] = write_video(folder / f"v{suffix}", gray_frames(8, 32, 48), audio=tone, **codec)
    contents = {name: path.read_bytes() for name, path in originals.items()}
    expected = {name: read_media(path) for name, path in originals.items()}
    names = list(contents)

    def damaged(index: int, rng: random.Random | None, place: Path) -> Case:
        name = names[index % len(names)]
        path = place / name
        content = contents[name]
        path.write_bytes(content)
        leaves_value = rng is not None and index % 4 == 0 and COMMENT.encode() in content
        if leaves_value:
            way = "comment"
            path.write_bytes(content.replace(COMMENT.encode(), change_text(COMMENT, rng)))
        else:
            way = damage_file(path, rng)

        def compare(value: Media, warnings: str) -> str:
            if same_media(value, expected[name]):
                return "right"
            if leaves_value:
                return "other value"
            if any(not is_valid(array) for array in value.values() if array is not None):
                return "not finite, or of another type"
            if name in warnings:
                return "partial"
            return "as written" if decodes_without_error(path) else "other value without a warning"

        return Case(f"{name} {way}", (name,), lambda: read_media(path), compare)

    return damaged


def change_text(text: str, rng: random.Random) -> bytes:
    """The same number of bytes, one of them changed."""
    changed = bytearray(text.encode())
    changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(7)
    return bytes(changed)


def read_media(path: Path) -> Media:
    name = f"example {path.name!r}"
    value: Media = {"audio": load_audio(path, target_sampling_rate=16_000, name=name)}
    if path.suffix in VIDEO:
        value["video"] = load_video(path, num_frames=4, name=name)
    return value


def decodes_without_error(path: Path) -> bool:
    """Whether FFmpeg's decoders see no damage; that of titles is none of theirs."""
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            for stream in [*container.streams.audio[:1], *container.streams.video[:1]]:
                stream.thread_type = "NONE"
            for packet in container.demux():
                if packet.stream.type in ("audio", "video"):
                    packet.decode()
    except (av.FFmpegError, ValueError):
        return False
    return True


def is_valid(array: np.ndarray) -> bool:
    """float32 (samples,), or uint8 (T, y, x, 3)."""
    if array.ndim == 4:
        return array.dtype == np.uint8
    return array.dtype == np.float32 and array.ndim == 1 and bool(np.isfinite(array).all())


def same_media(first: Media, second: Media) -> bool:
    """Whether both hold the same audio and video."""
    if first.keys() != second.keys():
        return False
    for name, array in first.items():
        other = second[name]
        if array is None or other is None:
            if array is not other:
                return False
        elif array.shape != other.shape or np.abs(array.astype(np.float32) - other).max(initial=0) > TOLERANCE:
            return False
    return True
