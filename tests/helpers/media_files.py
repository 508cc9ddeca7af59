"""Small media files, written with PyAV.

`write_video("clip.mp4", frames, fps=12.5, audio=sine(440, 1.0, 16000), sampling_rate=16000)` writes a real clip.
"""

import random
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np


# container -> codec and the sample format that it takes
AUDIO_CODECS = {
    ".wav": ("pcm_s16le", "s16"),
    ".flac": ("flac", "s16"),
    ".ogg": ("libopus", "flt"),
    ".mp3": ("libmp3lame", "fltp"),
    ".m4a": ("aac", "fltp"),
    ".mp4": ("aac", "fltp"),
    ".mkv": ("pcm_s16le", "s16"),
    ".avi": ("pcm_s16le", "s16"),
    ".ts": ("aac", "fltp"),
}


JUNK = ("random", "text", "empty", "aac", "mp3")


def junk(kind: str) -> bytes:
    """Content that is no medium: `"random"` bytes, `"text"`, `"empty"`, what FFmpeg takes for `"aac"` or `"mp3"`."""
    content = bytearray({"text": b"I'm fine. " * 200, "empty": b""}.get(kind, random.Random(0).randbytes(1_000)))
    marks = {"aac": (b"\xff\xf1", 200), "mp3": (b"\xff\xfb\x90\0", 417)}
    if kind in marks:
        mark, step = marks[kind]
        for start in range(0, len(content), step):
            content[start : start + len(mark)] = mark
    return bytes(content)


def sine(frequency: float, seconds: float, sampling_rate: int, level: float = 0.5) -> np.ndarray:
    """float32 (samples,): a tone of `frequency` Hz."""
    times = np.arange(round(seconds * sampling_rate)) / sampling_rate
    return (level * np.sin(2 * np.pi * frequency * times)).astype(np.float32)


def gray_frames(count: int, height: int = 48, width: int = 64) -> np.ndarray:
    """uint8 (T, y, x, 3): the mean of frame i is 16 + 3i, its halves are a little darker and brighter, so that it is
    not blank. `gray_index` reads i back."""
    levels = (16 + 3 * np.arange(count)).astype(np.uint8)
    frames = np.broadcast_to(levels[:, None, None, None], (count, height, width, 3)).copy()
    frames[:, :, : width // 2] -= 8
    frames[:, :, width - width // 2 :] += 8
    return frames


def gray_index(frames: np.ndarray) -> list[int]:
    """uint8 (T, y, x, 3) -> the indices that `gray_frames` wrote into them."""
    return [round((float(frame.mean()) - 16) / 3) for frame in frames]


def write_audio(
    path: str | Path, samples: np.ndarray, sampling_rate: int, codec: tuple[str, str] | None = None, **metadata: str
) -> Path:
    """Write float32 (samples,) or (channels, samples) in [-1, 1]; the suffix of the path selects the container,
    and the codec (name, sample format) unless it is given."""
    with av.open(str(path), "w") as container:
        container.metadata.update(metadata)
        stream = _add_audio_stream(container, path, samples, sampling_rate, codec)
        _encode_audio(container, stream, samples, sampling_rate)
    return Path(path)


def write_video(
    path: str | Path,
    frames: np.ndarray,
    fps: float | Fraction = 12.5,
    audio: np.ndarray | None = None,
    sampling_rate: int = 16_000,
    timestamps: list[float] | None = None,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    pixel_format: str = "yuv420p",
    codec_options: dict[str, str] | None = None,
    **context: Any,
) -> Path:
    """Write uint8 (T, y, x, 3) with `audio`, float32 (samples,) or (channels, samples), if given. `timestamps` in
    seconds make a variable frame rate. `options` go to the container, e.g. {"movflags": "faststart"}, and `context`
    to the encoder, e.g. sample_aspect_ratio=2."""
    rate = Fraction(fps).limit_denominator(1001)
    with av.open(str(path), "w", container_options=options or {}) as container:
        video = container.add_stream(codec, rate=rate)
        video.height, video.width = frames.shape[1:3]
        video.pix_fmt = pixel_format
        if codec == "libx264":
            video.options = {"preset": "ultrafast", "crf": "10", "bf": "2"} | (codec_options or {})
        for field, value in context.items():
            setattr(video.codec_context, field, value)
        if timestamps is not None:
            video.codec_context.time_base = Fraction(1, 1000)
        audio_stream = None if audio is None else _add_audio_stream(container, path, audio, sampling_rate, None)
        for index, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            if timestamps is not None:
                frame.pts = round(timestamps[index] * 1000)
                frame.time_base = Fraction(1, 1000)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if audio_stream is not None:
            _encode_audio(container, audio_stream, audio, sampling_rate)
    return Path(path)


def _add_audio_stream(container, path, samples, sampling_rate, codec):
    name, sample_format = codec or AUDIO_CODECS[Path(path).suffix]
    stream = container.add_stream(name, rate=sampling_rate)
    stream.layout = {1: "mono", 2: "stereo", 6: "5.1"}[np.atleast_2d(samples).shape[0]]
    stream.format = sample_format
    return stream


def _encode_audio(container, stream, samples, sampling_rate):
    samples = np.ascontiguousarray(np.atleast_2d(samples), dtype=np.float32)
    layout = stream.layout.name
    resampler = av.AudioResampler(stream.format, layout, sampling_rate, stream.codec_context.frame_size or 1024)
    frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=layout)
    frame.sample_rate = sampling_rate
    frame.pts = 0
    frame.time_base = Fraction(1, sampling_rate)
    for chunk in [*resampler.resample(frame), *resampler.resample(None)]:
        container.mux(stream.encode(chunk))
    container.mux(stream.encode(None))
