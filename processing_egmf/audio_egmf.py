"""Audio: one channel at one sampling rate, from a file, a video's audio track, a decoder object or an array.

    file ──► choose the track ─► decode ─► mix the channels, as floats ─► silence in gaps ─┐
    array ───────────────────► scale to [-1, 1] ─► mean of the channels ───────────────────┤
                                                                                                    ▼
                      float32 (samples,) ◄─ left out if it is digital silence ◄─ resample ◄─ cut to the limit

Sources and containers are opened in media_egmf.py.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import torch

from .arguments_egmf import errors_named, is_number, logger, shorten
from .media_egmf import (
    ARRAYS,
    MAX_DECODE_SECONDS,
    MAX_SECONDS,
    MEDIA_STARTS,
    MP4_BOXES,
    TENSORS,
    TIME_TOLERANCE,
    DecodingBudget,
    Track,
    choose_stream,
    import_av,
    is_audio_decoder,
    is_picture,
    is_rate_and_array,
    media_kind,
    name_with_path,
    open_track,
    to_numpy,
)


# One analysis window of a speech encoder.
MIN_SECONDS = 0.025
# Hz; the highest rate of recording hardware.
MAX_SAMPLING_RATE = 768_000
# Integers of 32 bits that reach no further are those of 16.
INT16_RANGE = 2**15
# Floats beyond it are integer samples that were never scaled to [-1, 1].
MAX_PEAK = 64.0
# Lossy codecs and augmentation overshoot 1; floats beyond this were normalized, or wrongly scaled.
USUAL_PEAK = 2.5
# Of an array.
MAX_CHANNELS = 8
# That FFmpeg decodes.
MAX_FILE_CHANNELS = 512
# Range of the samples of digital silence: the dither of 16 bits.
SILENCE = 2**-14
# A mix with a smaller share of the energy that unrelated channels would leave in it has lost what they have in common.
# Measured on speech: 0 to 0.19 for a channel that is inverted, up to a sample late at 16 kHz or as loud as 4 to 5; at
# least 0.4 for spaced microphones, two speakers, a speaker in one channel, and sides twice as loud as the middle.
CANCELED_SHARE = 0.2
# Gaps in the track that are filled with silence, in seconds. Shorter ones are jitter, longer ones damage.
MIN_GAP = 0.1
MAX_GAP = 60.0


class AudioPiece(NamedTuple):
    """A stretch of audio; the rate of a file may change between pieces."""

    # float32 (samples,), one channel.
    samples: np.ndarray
    sampling_rate: int  # Hz


def load_audio(
    source: Any,
    sampling_rate: int | None = None,
    target_sampling_rate: int = 16_000,
    max_seconds: float | None = MAX_SECONDS,
    name: str = "the sample",
    missing_ok: bool = False,
    max_decode_seconds: float | None = MAX_DECODE_SECONDS,
) -> np.ndarray | None:
    """Load audio as one channel at one rate.

    Args:
        source: a path, `data:` URI, bytes or a seekable binary file (audio, or a video with an audio track); an array
            (samples,), (channels, samples) or (samples, channels), whose smaller dimension is the channels;
            `{"path": ..., "bytes": ...}` or `{"array": ..., "sampling_rate": ...}` as in `datasets`; its decoder
            object; or a pair of sampling rate and array. Integers (8, 16, 32 bits) are scaled by the range of their
            type; floats are assumed to be in about [-1, 1]. The channels of an array are averaged; those of a file are
            mixed as by a player, to which three without names are 2.1: the third, for bass, is not read.
        sampling_rate: Hz of an array. All other sources state their own, which is used instead.
        target_sampling_rate: Hz of the result.
        max_seconds: longer clips are decoded only up to here, with a warning; None for three hours.
        name: the sample's name in messages.
        missing_ok: return None for a file without an audio track, instead of raising an error.
        max_decode_seconds: limit on the work of decoding; None for none.

    Returns:
        float32 (samples,) in about [-1, 1]. For a damaged file, the part that decodes, with a warning. None, with a
        warning, for a recording that holds nothing: digital silence, or less than `MIN_SECONDS`.

    Raises:
        FileNotFoundError, ValueError: the source cannot be used; the message says why and what to do.
    """
    name = name_with_path(source, name)
    with errors_named(name):
        budget = DecodingBudget(name, max_seconds, max_decode_seconds)
        mixer = ChannelMixer()
        pieces = _read_pieces(source, sampling_rate, budget, missing_ok, mixer)
        channel = mixer.loudest_of_canceled()
        if channel is not None:
            pieces = _read_pieces(source, sampling_rate, budget, missing_ok, ChannelMixer(channel))
        if pieces is None and not missing_ok:
            raise ValueError("no audio track that can be decoded. Give `audio`, or leave audio out.")
        if pieces is None:
            return None
        _check_peak(pieces, name)
    seconds = sum(len(samples) / rate for samples, rate in pieces)
    if seconds < MIN_SECONDS:
        logger.warning(
            f"{name}: only {seconds:.3f} s of audio; at least {MIN_SECONDS} s are needed. Audio is left out."
        )
        return None
    if _is_silent(pieces):
        logger.warning(f"{name}: the audio is digital silence. Audio is left out.")
        return None
    if channel is not None:
        logger.warning(f"{name}: the channels cancel each other, as when one is inverted; only the loudest is used.")
    return _resample(pieces, target_sampling_rate)


class ChannelMixer:
    """Mixes the channels of a recording, and measures whether they cancel each other.

    Args:
        channel: the only one to read, instead of a mix.
    """

    def __init__(self, channel: int | None = None):
        self.channel = channel
        # Sums of products of every two channels as they are in the mix: its energy is the sum of all, and the energies
        # of the channels are on the diagonal. Without constant offsets.
        self._products = np.zeros((MAX_FILE_CHANNELS, MAX_FILE_CHANNELS))
        # Format, layout and rate of frames -> a graph to floats, and the weights of the channels.
        self._kinds = {}

    def mix_frame(self, frame: Any) -> np.ndarray:
        """A decoded frame as float32 (samples,)."""
        kind = (frame.format.name, frame.layout.name, frame.sample_rate)
        if kind not in self._kinds:
            to_floats = _build_graph(frame, {"aformat": "sample_fmts=flt"})
            self._kinds[kind] = (to_floats, _mixing_weights(frame.layout.name))
        graph, weights = self._kinds[kind]
        graph.push(frame)
        return self.mix(graph.pull().to_ndarray().reshape(-1, len(weights)).T, weights)

    def mix(self, channels: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Channels, float32 (channels, samples), as one, (samples,)."""
        if self.channel is not None:
            return channels[min(self.channel, len(channels) - 1)]
        weighted = np.multiply(weights[:, None], channels, order="C")
        if len(channels) > 1:
            varying = weighted - weighted.mean(axis=1, keepdims=True)
            self._products[: len(channels), : len(channels)] += varying @ varying.T
        return weighted.sum(axis=0)

    def loudest_of_canceled(self) -> int | None:
        """Index of the channel that is the loudest in the mix, if the channels cancel each other."""
        energies = self._products.diagonal()
        is_canceled = self._products.sum() < CANCELED_SHARE * energies.sum()
        return int(energies.argmax()) if is_canceled else None


def _read_pieces(
    source: Any, sampling_rate: int | None, budget: DecodingBudget, missing_ok: bool, mixer: ChannelMixer
) -> list[AudioPiece] | None:
    """The audio of any source, up to `max_seconds` of the budget; None for a file without an audio track."""
    source, sampling_rate = _unpack(source, sampling_rate, mixer)
    if not isinstance(source, ARRAYS):
        return _load_file(source, budget, missing_ok, mixer)
    samples = _mono_from_array(source, mixer)
    _check_sampling_rate(sampling_rate)
    return list(_limit([AudioPiece(samples, int(sampling_rate))], budget))


def _unpack(source: Any, sampling_rate: int | None, mixer: ChannelMixer) -> tuple[Any, int | None]:
    """The array and sampling rate of a dict, a pair or a decoder object; other sources unchanged."""
    if isinstance(source, Mapping) and source.get("array") is not None:
        return source["array"], source.get("sampling_rate", sampling_rate)
    if is_rate_and_array(source):
        first, second = source
        return (first, second) if isinstance(first, TENSORS) else (second, first)
    if is_audio_decoder(source):
        try:
            decoded = source.get_all_samples()
        except (RuntimeError, OSError) as error:  # of torchcodec
            raise ValueError(f"the audio cannot be decoded ({error}). Convert it to wav.") from error
        # (channels, samples), which torchcodec does not name.
        samples = to_numpy(decoded.data)
        weights = _mixing_weights(f"{len(samples)} channels")
        return mixer.mix(samples, weights), decoded.sample_rate
    if media_kind(source) == "video" and not isinstance(source, ARRAYS):
        raise ValueError(f"{type(source).__name__} has no audio. Give it as `video`.")
    return source, sampling_rate


# ---- files ---------------------------------------------------------------------------------------------------


def _load_file(source: Any, budget: DecodingBudget, missing_ok: bool, mixer: ChannelMixer) -> list[AudioPiece] | None:
    """The audio of a file, or None if it has no audio track.

    Raises:
        ValueError: nothing of the track can be decoded, as when FFmpeg takes other bytes for audio. With `missing_ok`,
            of a video, a warning says so.
    """
    if is_picture(source, budget.name):
        return None
    with open_track(source, "audio", budget) as track:
        pieces = None if track is None else list(_limit(_decode(track, mixer), budget))
        if pieces == [] and track.damage and not (missing_ok and choose_stream(track.container, "video")):
            raise ValueError(f"not audio, or damaged ({track.damage[0]}). Copy it again as wav.")
    return pieces


def _decode(track: Track, mixer: ChannelMixer) -> Iterator[AudioPiece]:
    """The track from the start of the clip on, with silence where a player would play nothing."""
    seconds = 0.0
    filled = 0.0
    start = _clip_start(track)
    for frame in track.decode():
        if frame.is_corrupt:
            track.damage.append("a frame with errors")
        rate = frame.sample_rate
        _check_sampling_rate(rate)
        try:
            samples = mixer.mix_frame(frame)
        except import_av().FFmpegError as error:
            track.damage.append(str(error))
            continue
        gap = frame.time - start - seconds if frame.time is not None else 0.0
        if MIN_GAP < gap < MAX_GAP:
            yield AudioPiece(np.zeros(round(gap * rate), np.float32), rate)
            filled += gap if seconds == 0 else 0.0
            seconds += gap
        yield AudioPiece(samples, rate)
        seconds += len(samples) / rate
    track.warn_if_cut_off(seconds - filled)


def _clip_start(track: Track) -> float:
    """Seconds at which a player starts the clip: the beginning of the audio or of the video, whichever is first."""
    streams = [track.stream, choose_stream(track.container, "video")]
    timed = [stream for stream in streams if stream is not None and stream.start_time is not None]
    return min((float(stream.start_time * stream.time_base) for stream in timed), default=0.0)


def _mixing_weights(layout: str) -> np.ndarray:
    """The weights by which a player mixes the channels of a layout to one, float32 (channels,).

    Channels without names have the layout that FFmpeg and players assume for their number: 2.1 for three, then 4.0,
    5.0, 5.1, 6.1, 7.1. Those for bass are not mixed; those that FFmpeg cannot place are averaged.
    """
    av = import_av()
    count = av.AudioLayout(layout).nb_channels
    # In each of the samples, one channel is 1.
    unit = av.AudioFrame.from_ndarray(np.eye(count, dtype=np.float32).reshape(1, -1), "flt", layout)
    unit.sample_rate = MAX_SAMPLING_RATE
    # FFmpeg's default makes stereo floats 3 dB louder than stereo integers.
    mixing = {"aresample": "rematrix_maxval=1", "aformat": "channel_layouts=mono:sample_fmts=flt"}
    try:
        graph = _build_graph(unit, mixing)
        graph.push(unit)
        return graph.pull().to_ndarray()[0]
    except av.FFmpegError:
        return np.full(count, 1 / count, np.float32)


def _build_graph(frame: Any, filters: dict[str, str]) -> Any:
    """A graph of filters, name -> options, for frames like this one."""
    graph = import_av().filter.Graph()
    buffer = graph.add_abuffer(None, frame.sample_rate, frame.format.name, frame.layout.name)
    nodes = [graph.add(name, options) for name, options in filters.items()]
    graph.link_nodes(buffer, *nodes, graph.add("abuffersink")).configure()
    return graph


# ---- samples -------------------------------------------------------------------------------------------------


def _scale(samples: np.ndarray) -> np.ndarray:
    """Samples of any type as float32 in about [-1, 1]."""
    if samples.dtype.kind == "f":
        return samples.astype(np.float32, copy=False)
    half_range = 2.0 ** (8 * samples.dtype.itemsize - 1)
    zero = half_range if samples.dtype.kind == "u" else 0
    return ((samples.astype(np.float64) - zero) / half_range).astype(np.float32)


def _mono_from_array(array: Any, mixer: ChannelMixer) -> np.ndarray:
    """The mean of the channels, or what else the mixer makes of them, float32 (samples,) in about [-1, 1]."""
    array = to_numpy(array)
    is_float = array.dtype.kind == "f"
    is_small_integer = array.dtype.kind in "iu" and array.dtype.itemsize <= 4
    if not is_float and not is_small_integer:
        raise ValueError(
            f"audio of type {array.dtype}, whose range is unknown. Give floats in [-1, 1], int16 or int32."
        )
    if array.size == 0:
        raise ValueError(f"audio of zero length, shape {array.shape}. Leave it out, or check how it was cut.")
    head = array[:12].tobytes() if array.dtype == np.uint8 else b""
    if head.startswith(MEDIA_STARTS) or head[4:8] in MP4_BOXES:
        raise ValueError("the bytes of a file as an array of numbers. Give them as bytes, `array.tobytes()`.")
    peak = np.abs(array.astype(np.float64)).max() if array.dtype == np.int32 else 0
    if 0 < peak <= INT16_RANGE:
        raise ValueError(f"int32 samples that reach only {peak:.0f}, as if of 16 bits. Give those as int16.")
    if array.ndim == 1:
        return _scale(array)
    if array.ndim != 2 or min(array.shape) > MAX_CHANNELS:
        raise ValueError(
            f"audio has shape {array.shape}; expected (samples,), (channels, samples) or "
            f"(samples, channels) with at most {MAX_CHANNELS} channels. Give one clip at a time."
        )
    channels = _scale(array.T if array.shape[1] < array.shape[0] else array)
    return mixer.mix(channels, np.full(len(channels), 1 / len(channels), np.float32))


def _limit(pieces: Iterable[AudioPiece], budget: DecodingBudget) -> Iterator[AudioPiece]:
    """The pieces up to `max_seconds` of the budget."""
    seconds_left = budget.max_seconds
    for samples, rate in pieces:
        if len(samples) / rate > seconds_left + TIME_TOLERANCE:
            budget.warn_of_length("audio")
            yield AudioPiece(samples[: max(0, round(seconds_left * rate))], rate)
            return
        yield AudioPiece(samples, rate)
        seconds_left -= len(samples) / rate


def _check_peak(pieces: list[AudioPiece], name: str) -> None:
    peak = np.max([np.abs(samples).max(initial=0) for samples, _ in pieces], initial=0)
    if not np.isfinite(peak):
        raise ValueError("the audio contains NaN or infinite samples. Repair or replace the clip.")
    if peak > MAX_PEAK:
        raise ValueError(
            f"the audio reaches {peak:g}, but floats should be in about [-1, 1]. "
            "Divide by the range of the integers, 32768 for 16 bits."
        )
    if peak > USUAL_PEAK:
        logger.warning(
            f"{name}: the audio reaches {peak:.3g}, but floats should be in about [-1, 1]; it is used as it is. "
            "Undo its normalization, or divide it by its range."
        )


def _is_silent(pieces: list[AudioPiece]) -> bool:
    """Whether all samples are equal, up to the dither of 16 bits."""
    low = min(samples.min(initial=np.inf) for samples, _ in pieces)
    high = max(samples.max(initial=-np.inf) for samples, _ in pieces)
    return high - low <= SILENCE


def _resample(pieces: Iterable[AudioPiece], target_sampling_rate: int) -> np.ndarray:
    """The pieces as one float32 (samples,) at the target rate."""
    resampled = []
    for rate, run in groupby(pieces, key=lambda piece: piece.sampling_rate):
        samples = np.concatenate([piece.samples for piece in run])
        if rate == target_sampling_rate or len(samples) == 0:
            resampled.append(samples)
            continue
        av = import_av()
        frame = av.AudioFrame.from_ndarray(samples[None], "fltp", "mono")
        frame.sample_rate = rate
        resampler = av.AudioResampler(format="fltp", layout="mono", rate=target_sampling_rate)
        parts = [*resampler.resample(frame), *resampler.resample(None)]  # None flushes it
        resampled += [part.to_ndarray()[0] for part in parts]
    return np.concatenate(resampled).astype(np.float32, copy=False)


def _check_sampling_rate(rate: Any) -> None:
    is_scalar = isinstance(rate, torch.Tensor) and rate.ndim == 0
    if not (is_scalar or is_number(rate)) or not 1000 <= rate <= MAX_SAMPLING_RATE:
        raise ValueError(
            f"sampling_rate is {shorten(rate)} Hz; an array needs sampling_rate, in Hz, a number from 1000 up to "
            f"{MAX_SAMPLING_RATE}, e.g. sampling_rate=16000."
        )
