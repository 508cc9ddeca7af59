"""Audio: one channel at one sampling rate, from a file, a video's audio track or an array.

    file ──► decode ─► scale to [-1, 1] ─► mean of the channels ─┐
    array ───────────► scale to [-1, 1] ─► mean of the channels ─┴─► cut to the limit ─► resample ─► float32 (samples,)

Sources and containers are opened in media_egmf.py.
"""

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers.utils import logging

from .media_egmf import (
    ARRAYS,
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

MIN_SECONDS = 0.025  # one analysis window of a speech encoder
MAX_SAMPLING_RATE = 768_000  # Hz; the highest rate of recording hardware
MAX_PEAK = 64.0  # floats beyond it are integer samples that were never scaled to [-1, 1]
MAX_CHANNELS = 8


class AudioPiece(NamedTuple):
    """A stretch of audio; the rate of a file may change between pieces."""

    samples: np.ndarray  # float32 (samples,), one channel
    sampling_rate: int  # Hz


def load_audio(
    source: Any,
    sampling_rate: int | None = None,
    target_sampling_rate: int = 16_000,
    max_seconds: float | None = MAX_SECONDS,
    name: str = "the sample",
    missing_ok: bool = False,
) -> np.ndarray | None:
    """Load audio as one channel at one rate.

    Args:
        source: a path, bytes or a seekable binary file object (audio, or a video with an audio track); an array
            (samples,), (channels, samples) or (samples, channels), whose smaller dimension is the channels;
            `{"path": ..., "bytes": ...}` or `{"array": ..., "sampling_rate": ...}` as in `datasets`. Integers
            (8, 16, 32 bits) are scaled by the range of their type; floats are assumed to be in about [-1, 1].
        sampling_rate: Hz of an array. Files and dicts state their own, which is used instead.
        target_sampling_rate: Hz of the result.
        max_seconds: longer clips are decoded only up to here, with a warning; None for no limit.
        name: the sample's name in messages.
        missing_ok: return None for a file without audio, instead of raising an error.

    Returns:
        float32 (samples,) in about [-1, 1], or None. For a damaged file, the part that decodes, with a warning.

    Raises:
        FileNotFoundError, ValueError: the source cannot be used; the message says why and what to do.
    """
    max_seconds = check_max_seconds(max_seconds, name)
    if isinstance(source, dict) and source.get("array") is not None:
        sampling_rate = source.get("sampling_rate", sampling_rate)
        source = source["array"]
    source = check_source(source, name)
    if isinstance(source, ARRAYS):
        _check_sampling_rate(sampling_rate, name)
        pieces = [AudioPiece(_mono_from_array(source, name), int(sampling_rate))]
        samples = _resample(_limit(pieces, max_seconds, name), target_sampling_rate)
    else:
        samples = _load_file(source, target_sampling_rate, max_seconds, name)
    if samples is None:
        if missing_ok:
            return None
        raise ValueError(f"{name}: no audio track that can be decoded. Give `audio`, or leave audio out.")
    if len(samples) < MIN_SECONDS * target_sampling_rate:
        if not missing_ok:
            raise ValueError(
                f"{name}: only {len(samples)} samples of audio at {target_sampling_rate} Hz; "
                f"at least {MIN_SECONDS} s are needed. Leave audio out, or record the clip again."
            )
        logger.warning(f"{name}: the audio track is empty; continuing without audio.")
        return None
    return samples


def _load_file(source: Any, target_sampling_rate: int, max_seconds: float, name: str) -> np.ndarray | None:
    """The audio of a file, or None if it has no audio track."""
    with open_media(source, name) as container:
        streams = container.streams.audio
        if not streams or streams[0].codec_context is None:
            return None
        pieces = _decode(container, streams[0], name)
        return _resample(_limit(pieces, max_seconds, name), target_sampling_rate)


def _decode(container: Any, stream: Any, name: str) -> Iterator[AudioPiece]:
    damage = []
    seconds = 0.0
    try:
        for frame in decode_frames(container, stream, damage):
            _check_sampling_rate(frame.sample_rate, name)
            samples = frame.to_ndarray()
            if not frame.format.is_planar:
                samples = samples.reshape(-1, frame.layout.nb_channels).T  # (channels, samples)
            # FFmpeg's own mix to mono makes stereo floats 3 dB louder than stereo integers; the mean treats all alike.
            yield AudioPiece(_scale(samples).mean(axis=0), frame.sample_rate)
            seconds += samples.shape[1] / frame.sample_rate
        warn_if_cut_off(seconds, container, stream, "audio", name)
    finally:  # also when decoding stops at the limit
        warn_of_damage(damage, "audio", name)


def _scale(samples: np.ndarray) -> np.ndarray:
    """Samples of any type as float32 in about [-1, 1]."""
    if samples.dtype.kind == "f":
        return samples.astype(np.float32, copy=False)
    half_range = 2.0 ** (8 * samples.dtype.itemsize - 1)
    zero = half_range if samples.dtype.kind == "u" else 0
    return ((samples.astype(np.float64) - zero) / half_range).astype(np.float32)


def _mono_from_array(array: Any, name: str) -> np.ndarray:
    array = to_numpy(array, name)
    is_float = array.dtype.kind == "f"
    is_small_integer = array.dtype.kind in "iu" and array.dtype.itemsize <= 4
    if not is_float and not is_small_integer:
        raise ValueError(
            f"{name}: audio of type {array.dtype}, whose range is unknown. Give floats in [-1, 1], int16 or int32."
        )
    if array.size == 0:
        raise ValueError(
            f"{name}: audio of zero length, shape {array.shape}. Leave it out, or check how the clip was cut."
        )
    if array.ndim == 1:
        return _scale(array)
    if array.ndim != 2 or min(array.shape) > MAX_CHANNELS:
        raise ValueError(
            f"{name}: audio has shape {array.shape}; expected (samples,), (channels, samples) or "
            f"(samples, channels) with at most {MAX_CHANNELS} channels. Give one clip at a time."
        )
    channel_axis = 1 if array.shape[1] < array.shape[0] else 0
    return _scale(array).mean(axis=channel_axis)


def _limit(pieces: Iterable[AudioPiece], max_seconds: float, name: str) -> Iterator[AudioPiece]:
    """The pieces up to `max_seconds`, checked."""
    seconds_left = max_seconds
    for samples, rate in pieces:
        is_last = len(samples) / rate > seconds_left + TIME_TOLERANCE
        if is_last:
            logger.warning(f"{name}: the audio is longer than {max_seconds:g} s; only its beginning is used.")
            samples = samples[: max(0, round(seconds_left * rate))]
        _check_peak(samples, name)
        yield AudioPiece(samples, rate)
        if is_last:
            return
        seconds_left -= len(samples) / rate


def _check_peak(samples: np.ndarray, name: str) -> None:
    peak = np.abs(samples).max(initial=0)
    if not np.isfinite(peak):
        raise ValueError(f"{name}: the audio contains NaN or infinite samples. Repair or replace the clip.")
    if peak > MAX_PEAK:
        raise ValueError(
            f"{name}: the audio reaches {peak:g}, but floats should be in about [-1, 1]. "
            "Divide by the range of the original integers, 32768 for 16 bits."
        )


def _resample(pieces: Iterable[AudioPiece], target_sampling_rate: int) -> np.ndarray:
    """The pieces as one float32 (samples,) at the target rate."""
    resampled = [np.zeros(0, np.float32)]
    for rate, run in groupby(pieces, key=lambda piece: piece.sampling_rate):
        samples = np.concatenate([piece.samples for piece in run])
        if rate == target_sampling_rate or len(samples) == 0:
            resampled.append(samples)
        else:
            resampled += _resample_run(samples, rate, target_sampling_rate)
    return np.concatenate(resampled).astype(np.float32, copy=False)


def _resample_run(samples: np.ndarray, rate: int, target_sampling_rate: int) -> list[np.ndarray]:
    av = import_av()
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[None]), "fltp", "mono")
    frame.sample_rate = rate
    resampler = av.AudioResampler(format="fltp", layout="mono", rate=target_sampling_rate)
    frames = [*resampler.resample(frame), *resampler.resample(None)]  # None flushes it
    return [resampled.to_ndarray()[0] for resampled in frames]


def _check_sampling_rate(rate: Any, name: str) -> None:
    if rate is None:
        raise ValueError(f"{name}: an audio array needs sampling_rate, in Hz. Pass it, e.g. sampling_rate=16000.")
    is_number = isinstance(rate, int | float | np.number | torch.Tensor) and not isinstance(rate, bool)
    if not is_number or not 1 <= rate <= MAX_SAMPLING_RATE:
        raise ValueError(
            f"{name}: sampling_rate is {rate!r} Hz; expected a number from 1 up to {MAX_SAMPLING_RATE}. "
            "Check the unit: it is samples per second."
        )
