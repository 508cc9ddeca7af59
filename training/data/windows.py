"""Cuts long clips into windows.

A model takes at most `max_clip_seconds` of a clip: its beginning, if there are no windows. With a hop of h seconds, a
longer clip is cut into windows of `max_clip_seconds` that begin at 0, h, 2 h, ... as long as they fit, and one more
that ends with the clip. A shorter clip is a single window.

    training      every window is an example with the text and the answer of its clip
    evaluation,   every window is scored with the complete text; the answer is read from the unweighted mean of the
    prediction    windows' distributions

Precomputed features have no time in seconds and are never cut.
"""

import logging
import math
import os
from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch

from modeling_egmf import EGMFForConditionalGeneration
from processing_egmf import MODALITIES, EGMFProcessor
from processing_egmf.arguments_egmf import errors_named
from processing_egmf.audio_egmf import load_audio
from processing_egmf.faces_egmf import FACE_FRAME
from processing_egmf.frames_egmf import scale_frames
from processing_egmf.frontends_egmf import encoder_size
from processing_egmf.media_egmf import DecodingBudget, is_picture, open_media
from processing_egmf.pictures_egmf import load_picture, spread_frames
from processing_egmf.prompts_egmf import is_blank
from processing_egmf.video_egmf import load_frames

from .clips import read_stored


ROUNDING = 0.01  # seconds; containers round durations

logger = logging.getLogger(__name__)


class Window(NamedTuple):
    """A part of a clip, in seconds."""

    start: float
    seconds: float
    clip_seconds: float


def require_hop(hop: float | None, seconds: float) -> None:
    """Check the hop between windows of `seconds` seconds; None means that nothing is cut.

    Raises:
        ValueError: the hop is not above 0, or leaves gaps.
    """
    if hop is not None and not 0 < hop <= seconds:
        raise ValueError(
            f"--window_hop is {hop:g} s; it must be above 0 and at most --max_clip_seconds, which is {seconds:g}."
        )


def cut_windows(clip_seconds: float, seconds: float, hop: float) -> list[Window]:
    """The windows of a clip, in order.

    Args:
        clip_seconds: length of the clip.
        seconds: length of a window.
        hop: seconds from the beginning of one window to that of the next.

    Raises:
        ValueError: the hop is not above 0, or leaves gaps.
    """
    require_hop(hop, seconds)
    last_start = clip_seconds - seconds
    if last_start <= ROUNDING:
        return [Window(0.0, seconds, clip_seconds)]
    num_hops = math.ceil(last_start / hop - 1e-9)
    starts = [round(step * hop, 6) for step in range(num_hops)]
    return [Window(start, seconds, clip_seconds) for start in (*starts, last_start)]


def measure_clips(clips: Sequence[Any], processor: EGMFProcessor, name: str) -> float:
    """The declared length in seconds of a sample's longest clip, over the streams that the model takes; 0 without a
    clip.

    Raises:
        ValueError: a clip cannot be read, or declares no length.
    """
    used = {"audio": processor.audio_input == "waveform", "video": processor.video_input == "frames"}
    longest = 0.0
    for clip in clips:
        source = read_stored(clip)
        if is_picture(source, name):
            if used["video"]:
                longest = max(longest, _measure_picture(source, processor, name))
            continue
        with open_media(source, name) as container:
            streams = [stream for stream in container.streams if used.get(stream.type)]
            timed = [stream for stream in streams if stream.duration is not None]
            for stream in timed:
                longest = max(longest, float(stream.duration * stream.time_base))
            if streams and not timed:  # Matroska declares one length for all streams
                if container.duration is None:
                    raise ValueError(f"{name}: the file does not declare its length. Convert it to mp4 to cut it.")
                longest = max(longest, container.duration / 1_000_000)
    return longest


def _measure_picture(source: Any, processor: EGMFProcessor, name: str) -> float:
    """The length in seconds of an animation; 0 of any other picture."""
    ends = [0.0]

    def choose(times: Sequence[float], stop: float) -> list[int]:
        ends.append(stop)
        return [0]

    with errors_named(name):
        load_picture(source, choose, DecodingBudget(name, None, processor.max_decode_seconds))
    return ends[-1]


def cut_examples(
    examples: Sequence[dict[str, Any]], processor: EGMFProcessor, hop: float | None
) -> list[dict[str, Any]]:
    """Replace examples whose clips are too long with their windows; without a hop, return them unchanged.

    A window is an example with two more fields: `clip`, the id of the example that it was cut from, and `window`.

    Raises:
        ValueError: as for `require_hop`, or a clip cannot be read.
    """
    require_hop(hop, processor.max_clip_seconds)
    if hop is None:
        return list(examples)
    cut = []
    for example in examples:
        clips = [example[name] for name in ("audio", "video") if example.get(name) is not None]
        clip_seconds = measure_clips(clips, processor, f"example {example['id']!r}")
        windows = cut_windows(clip_seconds, processor.max_clip_seconds, hop)
        if len(windows) == 1:
            cut.append(example)
            continue
        for window in windows:
            name = f"{example['id']}@{window.start:g}s"
            cut.append({**example, "id": name, "clip": example["id"], "window": window})
    return cut


def num_clips(examples: Sequence[dict[str, Any]]) -> int:
    """Number of clips that these examples come from; each is a window or an entire clip."""
    return len({example.get("clip") or example["id"] for example in examples})


def load_window(
    processor: EGMFProcessor,
    window: Window,
    *,
    audio: Any = None,
    video: Any = None,
    modalities: Sequence[str] = ("audio", "video"),
    name: str = "the sample",
    **features: Any,
) -> dict[str, np.ndarray]:
    """Like `processor.load_media`, but for one window of a clip."""
    sources = dict(features)
    if "audio" in modalities and processor.audio_input == "waveform" and (audio is not None or video is not None):
        samples = _cut_audio(processor, window, audio, video, name)
        if samples is not None:
            sources["audio"] = samples
            sources["sampling_rate"] = processor.sampling_rate
    if "video" in modalities and processor.video_input == "frames" and video is not None:
        sources["video"] = _cut_frames(processor, window, video, name)
    return processor.load_media(name=name, modalities=modalities, **sources)


def _cut_audio(processor: EGMFProcessor, window: Window, audio: Any, video: Any, name: str) -> np.ndarray | None:
    """Samples of the window; None if there is no soundtrack, or it ends before the window begins."""
    rate = processor.sampling_rate
    source = audio if audio is not None else video
    samples = _last_audio.load(source, processor, name, missing_ok=audio is None)
    if window.start + window.seconds >= window.clip_seconds - ROUNDING:
        _last_audio.forget()
    first = round(window.start * rate)
    if samples is None or len(samples) <= first:
        return None
    # A copy, because a view would keep the entire audio in memory.
    return samples[first : round((window.start + window.seconds) * rate)].copy()


class LastAudio:
    """The audio of the recording that was decoded last, until its last window has been cut: its windows follow each
    other, and share it."""

    def __init__(self) -> None:
        self.entry: tuple[Any, np.ndarray | None] | None = None

    def load(self, source: Any, processor: EGMFProcessor, name: str, missing_ok: bool) -> np.ndarray | None:
        """The entire audio, as `load_audio` gives it."""
        rate = processor.sampling_rate
        state = None
        if isinstance(source, str | os.PathLike) and os.path.exists(source):
            status = os.stat(source)
            state = (status.st_mtime_ns, status.st_size)
        key = (source, state, rate, missing_ok)
        entry = self.entry
        if entry is None or entry[0] != key:
            work = processor.max_decode_seconds
            entry = key, load_audio(source, None, rate, None, name, missing_ok, work)
            self.entry = entry
        return entry[1]

    def forget(self) -> None:
        self.entry = None


_last_audio = LastAudio()


def _cut_frames(processor: EGMFProcessor, window: Window, video: Any, name: str) -> np.ndarray | None:
    """Frames of the window, sampled from the clip so that a window has as many as a clip of its length; None if the
    clip is damaged in this window."""
    count = math.ceil(processor.num_frames * window.clip_seconds / window.seconds)
    work = processor.max_decode_seconds
    size = FACE_FRAME if processor.frames == "face" else encoder_size(processor)
    scale = partial(scale_frames, size=size, view=processor.frames)
    choose = partial(_choose_frames, count=count, window=window)
    try:
        with errors_named(name):
            if is_picture(video, name):
                return load_picture(video, choose, DecodingBudget(name, None, work))
            return load_frames(video, choose, DecodingBudget(name, None, work), scale)
    except ValueError as error:
        if window.start == 0:
            raise
        logger.warning(f"{error} Video is left out of the window at {window.start:g} s.")
        return None


def _choose_frames(times: Sequence[float], stop: float, count: int, window: Window) -> list[int]:
    """Those of `count` frames of a clip that appear in the window; else the one that is on screen then."""
    chosen = np.array(spread_frames(times, stop, count))
    starts = np.array(times)[chosen] - times[0]
    end = window.start + window.seconds
    inside = chosen[(starts >= window.start) & (starts < end)]
    if len(inside):
        return inside.tolist()
    # A still image is one frame, which began before the window.
    return [int(chosen[max(np.searchsorted(starts, end) - 1, 0)])]


def predict_windows(
    model: EGMFForConditionalGeneration,
    processor: EGMFProcessor,
    inputs: dict[str, Any],
    hop: float,
    **options: Any,
) -> dict[str, Any] | None:
    """One sample's processor arguments -> its answer over all of its windows, without those in which nothing is said,
    heard or shown; None if it fits in one, or nothing is left.

    Args:
        model: on its device.
        processor: its processor.
        inputs: arguments of the processor.
        hop: seconds between the windows.
        options: those of `post_process_answers`, such as `top_k`.
    """
    name = inputs.get("sample_names") or "the clip"
    audio = inputs.get("audio")
    video = inputs.get("video")
    clips = [clip for clip in (audio, video) if clip is not None]
    clip_seconds = measure_clips(clips, processor, name)
    windows = cut_windows(clip_seconds, processor.max_clip_seconds, hop)
    if len(windows) == 1:
        return None
    shared = {key: value for key, value in inputs.items() if key not in ("audio", "video", "sample_names")}
    modalities = inputs.get("modalities") or MODALITIES
    has_text = "text" in modalities and not is_blank(shared.get("text") or "")
    has_features = any(shared.get(f"{modality}_features") is not None for modality in modalities)
    answers = []
    outputs = []
    try:
        for window in windows:
            part = f"{name}@{window.start:g}s"
            media = load_window(processor, window, audio=audio, video=video, modalities=modalities, name=part)
            if not (media or has_text or has_features):
                continue
            rate = {"sampling_rate": processor.sampling_rate} if "audio" in media else {}
            sample = processor.prepare(**shared, **media, **rate, name=part)
            outputs.append(model.score_answers(**processor.collate([sample]).to(model.device)))
            answers.append(processor.post_process_answers(outputs[-1])[0])
            if "face_share" in sample:
                answers[-1]["face_share"] = sample["face_share"]
    finally:
        _last_audio.forget()
    if not answers:
        return None
    probabilities = np.stack([output.probabilities[0].cpu().double().numpy() for output in outputs])
    log_probs = torch.stack([output.log_probs[0].cpu().double() for output in outputs])
    log_mean = torch.logsumexp(log_probs, dim=0) - math.log(len(outputs))
    return _merge_answers(
        processor, name, answers[0]["task"], answers, probabilities.mean(axis=0), log_mean, **options
    )


def merge_windows(
    processor: EGMFProcessor,
    examples: Sequence[dict[str, Any]],
    answers: Sequence[dict[str, Any]],
    probabilities: np.ndarray,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], np.ndarray]:
    """Merge windows into one example, answer and distribution per clip: the mean over its windows. Examples that were
    not cut stay unchanged.

    Args:
        processor: the processor.
        examples: as scored, with `id`, `task` and, for windows, `clip`.
        answers: from `post_process_answers`, one per example.
        probabilities: (N, largest answer set).
    """
    windows_of: dict[str, list[int]] = {}
    for index, example in enumerate(examples):
        windows_of.setdefault(example.get("clip") or example["id"], []).append(index)
    if len(windows_of) == len(examples):
        return list(examples), list(answers), probabilities
    merged_examples = []
    merged_answers = []
    means = []
    for clip, indices in windows_of.items():
        example = examples[indices[0]]
        parts = [answers[index] for index in indices]
        mean = probabilities[indices].mean(axis=0)
        means.append(mean)
        merged_examples.append({**example, "id": clip})
        if len(parts) == 1:
            merged_answers.append(parts[0])
        else:
            answer = _merge_answers(processor, clip, example["task"], parts, mean, torch.from_numpy(mean).log())
            merged_answers.append(answer)
    return merged_examples, merged_answers, np.stack(means)


def _merge_answers(
    processor: EGMFProcessor,
    clip: str,
    task: str,
    answers: Sequence[dict[str, Any]],
    probabilities: np.ndarray,
    log_probs: torch.Tensor,
    **options: Any,
) -> dict[str, Any]:
    """The answer of a clip, from its windows' answers and their mean distribution (A,) and its logarithms; `options`
    are those of `post_process_answers`."""
    first = answers[0]
    present = {modality for answer in answers for modality in answer["modalities"]}
    expert_weights = [_mean(answers, "experts", expert) for expert in first["experts"]]
    output = SimpleNamespace(
        probabilities=torch.from_numpy(probabilities[None]),
        log_probs=log_probs[None],
        expert_names=tuple(first["experts"]),
        expert_weights=torch.tensor([expert_weights]),
        residual_weight=torch.tensor([sum(answer["residual"] for answer in answers) / len(answers)]),
        modality_mask=torch.tensor([[modality in present for modality in MODALITIES]]),
    )
    merged = processor.post_process_answers(output, tasks=[task], **options)[0]
    if "truth" in first:
        merged |= {"id": clip, "truth": first["truth"]}
    if "columns" in first:
        merged["columns"] = first["columns"]
    if "gate" in first:
        merged["gate"] = {expert: _mean(answers, "gate", expert) for expert in first["gate"]}
    shares = [answer["face_share"] for answer in answers if "face_share" in answer]
    if shares:
        merged["face_share"] = sum(shares) / len(shares)
    merged["windows"] = len(answers)
    return merged


def merge_records(processor: EGMFProcessor, records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Evaluator records, one per subset and window -> one per subset and clip, in order of appearance."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for record in records:
        groups.setdefault((record["subset"], record["clip"]), []).append(record)
    merged = []
    for (_, clip), windows in groups.items():
        answered = [window for window in windows if window["answer"] is not None]
        record = (answered or windows)[0]
        if answered and len(windows) > 1:
            examples = [{"id": w["answer"]["id"], "clip": clip, "task": w["task"]} for w in answered]
            answers = [window["answer"] for window in answered]
            probabilities = np.array([window["probabilities"] for window in answered])
            _, (answer,), (mean,) = merge_windows(processor, examples, answers, probabilities)
            record = {**record, "answer": {**answer, "id": clip}, "probabilities": mean.tolist()}
        merged.append(record)
    return merged


def _mean(answers: Sequence[dict[str, Any]], field: str, name: str) -> float:
    return sum(answer[field][name] for answer in answers) / len(answers)
