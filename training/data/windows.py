"""Long clips, cut into windows.

A model hears and sees `max_clip_seconds` of a clip; without windows that is its beginning. With a hop of h seconds, a
clip that is longer is cut into windows of `max_clip_seconds` that begin at 0, h, 2 h, ... as long as they fit, and one
more that ends with the clip. A clip that is no longer is one window.

    training      every window is a row with the words and the answer of its clip
    evaluation,   every window is asked, with all the words; the answer is the mean of the windows' distributions,
    prediction    each counting alike, and label, score and interval are read from it

Precomputed features have no seconds: they are used as they are.
"""

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch

from modeling_egmf import EGMFForConditionalGeneration
from processing_egmf import EGMFProcessor
from processing_egmf.audio_egmf import load_audio
from processing_egmf.media_egmf import open_media
from processing_egmf.processing_egmf import MODALITIES
from processing_egmf.video_egmf import load_video, read_frame_times, video_stream

from .parquet import StoredMedia


class Window(NamedTuple):
    """From when, how much, and of how long a clip; in seconds."""

    start: float
    seconds: float
    whole: float


def require_hop(hop: float | None, seconds: float) -> None:
    """Raises ValueError where windows of so many seconds cannot begin every `hop` seconds; None: nothing is cut."""
    if hop is not None and not 0 < hop <= seconds:
        raise ValueError(f"`window_hop` is {hop:g} s; it must lie above 0 and up to max_clip_seconds, {seconds:g}.")


def windows_of(whole: float, seconds: float, hop: float) -> list[Window]:
    """The windows of a clip of `whole` seconds, in order.

    Raises:
        ValueError: the hop is not above 0, or leaves gaps.
    """
    require_hop(hop, seconds)
    last = whole - seconds
    if last <= 0.01:  # containers round
        return [Window(0.0, seconds, whole)]
    starts = [round(step * hop, 6) for step in range(math.ceil(last / hop - 1e-9))]
    return [Window(start, seconds, whole) for start in (*starts, last)]


def seconds_of(clips: Sequence[Any], processor: EGMFProcessor, name: str) -> float:
    """How long the longest of a sample's clips says it is, in what this model hears and sees; 0 without a clip.

    Raises:
        ValueError: a clip cannot be read, or does not say.
    """
    kinds = {"audio": processor.audio_input == "waveform", "video": processor.video_input == "frames"}
    lengths = [0.0]
    for clip in clips:
        with open_media(clip.read() if isinstance(clip, StoredMedia) else clip, name) as container:
            streams = [stream for stream in container.streams if kinds.get(stream.type)]
            lengths += [float(s.duration * s.time_base) for s in streams if s.duration is not None]
            if streams and all(stream.duration is None for stream in streams):  # Matroska says it once for all
                if container.duration is None:
                    raise ValueError(f"{name}: the file does not say how long it is. Convert it to mp4 to cut it.")
                lengths.append(container.duration / 1_000_000)
    return max(lengths)


def cut_examples(rows: Sequence[dict[str, Any]], processor: EGMFProcessor, hop: float | None) -> list[dict[str, Any]]:
    """Rows with one row a window in the place of each row whose clip is too long; None: the rows as they are.

    A window's row has `clip`, the id of the row that it was cut from, and `window`.

    Raises:
        ValueError: as `require_hop`, and where a clip cannot be read.
    """
    require_hop(hop, processor.max_clip_seconds)
    if hop is None:
        return list(rows)
    found = []
    for row in rows:
        clips = [row[name] for name in ("audio", "video") if row.get(name) is not None]
        whole = seconds_of(clips, processor, f"row {row['id']!r}")
        windows = windows_of(whole, processor.max_clip_seconds, hop)
        if len(windows) == 1:
            found.append(row)
        else:
            found += [{**row, "id": f"{row['id']}@{w.start:g}s", "clip": row["id"], "window": w} for w in windows]
    return found


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
    """What `processor.load_media` gives for a clip, of one window of it."""
    end, cut = window.start + window.seconds, dict(features)
    if "audio" in modalities and processor.audio_input == "waveform" and (audio is not None or video is not None):
        rate = processor.sampling_rate
        source = audio if audio is not None else video
        heard = load_audio(source, None, rate, None, name, missing_ok=audio is None)
        if heard is not None and len(heard) > round(window.start * rate):
            cut |= {"audio": heard[round(window.start * rate) : round(end * rate)], "sampling_rate": rate}
    if "video" in modalities and processor.video_input == "frames" and video is not None:
        # As many over the whole clip as give each window its own.
        count = math.ceil(processor.num_frames * window.whole / window.seconds)
        frames = load_video(video, count, None, None, name)
        times = _times_of(video, count, name)[: len(frames)]
        inside = np.flatnonzero((times >= window.start) & (times < end))
        # A picture that stands still is given once, where it begins.
        cut["video"] = frames[inside] if len(inside) else frames[max(np.searchsorted(times, end) - 1, 0)][None]
    return processor.load_media(name=name, modalities=modalities, **cut)


def _times_of(video: Any, count: int, name: str) -> np.ndarray:
    """When each picture that `load_video` chooses of a file begins, in seconds."""
    with open_media(video, name) as container:
        times, start, stop = read_frame_times(container, video_stream(container, name), math.inf, name)
    begins = np.array(times) - start
    if len(begins) <= count:
        return begins
    middles = (np.arange(count) + 0.5) * (stop - start) / count
    return begins[np.unique(np.maximum(np.searchsorted(begins, middles, side="right") - 1, 0))]


def predict_windows(
    model: EGMFForConditionalGeneration,
    processor: EGMFProcessor,
    inputs: dict[str, Any],
    hop: float,
    top_k: int | None = None,
) -> dict[str, Any] | None:
    """One sample's processor arguments -> its answer over all of its windows; None if it is no longer than one."""
    name, clips = inputs.get("sample_names") or "the clip", [inputs.get(kind) for kind in ("audio", "video")]
    whole = seconds_of([clip for clip in clips if clip is not None], processor, name)
    windows = windows_of(whole, processor.max_clip_seconds, hop)
    if len(windows) == 1:
        return None
    plain = {key: value for key, value in inputs.items() if key not in ("audio", "video")}
    wanted = inputs.get("modalities") or MODALITIES
    answers, probabilities = [], []
    for window in windows:
        media = load_window(processor, window, audio=clips[0], video=clips[1], modalities=wanted, name=name)
        features = processor(**plain, **media, sampling_rate=processor.sampling_rate).to(model.device)
        output = model.score_answers(**features)
        answers.append(processor.post_process_answers(output)[0])
        probabilities.append(output.probabilities[0].double().cpu().numpy())
    rows = [{"id": name, "clip": name, "task": answer["task"]} for answer in answers]
    return merge_windows(processor, rows, answers, np.stack(probabilities), top_k)[1][0]


def merge_windows(
    processor: EGMFProcessor,
    rows: Sequence[dict[str, Any]],
    answers: Sequence[dict[str, Any]],
    probabilities: np.ndarray,
    top_k: int | None = None,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], np.ndarray]:
    """One row, answer and distribution a clip: the mean over its windows. Rows that were not cut stay as they are.

    Args:
        rows: as asked, with `id`, `task` and, of windows, `clip`.
        answers: of `post_process_answers`, one a row.
        probabilities: (N, most answers).
        top_k: keep so many probabilities of each answer; None for all.
    """
    parts: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        parts.setdefault(row.get("clip") or row["id"], []).append(place)
    if len(parts) == len(rows):
        return list(rows), list(answers), probabilities
    merged_rows, merged, means = [], [], []
    for clip, places in parts.items():
        row, first = rows[places[0]], answers[places[0]]
        means.append(probabilities[places].mean(axis=0))
        merged_rows.append({**row, "id": clip})
        if len(places) == 1:
            merged.append(first)
            continue
        took_part = {name for place in places for name in answers[place]["modalities"]}
        output = SimpleNamespace(
            probabilities=torch.from_numpy(means[-1][None]),
            expert_names=tuple(first["experts"]),
            expert_weights=torch.tensor([[_mean(answers, places, "experts", e) for e in first["experts"]]]),
            residual_weight=torch.tensor([sum(answers[place]["residual"] for place in places) / len(places)]),
            modality_mask=torch.tensor([[name in took_part for name in MODALITIES]]),
        )
        answer = processor.post_process_answers(output, top_k=top_k, tasks=[row["task"]])[0]
        kept = {"id": clip, "truth": first["truth"]} if "truth" in first else {}
        if "gate" in first:
            kept["gate"] = {name: _mean(answers, places, "gate", name) for name in first["gate"]}
        merged.append({**answer, **kept, "windows": len(places)})
    return merged_rows, merged, np.stack(means)


def merge_records(processor: EGMFProcessor, records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records of rows, of `predict_dataset` -> one a subset and clip, in the order of their first."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for record in records:
        groups.setdefault((record["subset"], record["clip"]), []).append(record)
    merged = []
    for (_, clip), parts in groups.items():
        said = [part for part in parts if part["answer"] is not None]
        record = (said or parts)[0]
        if said and len(parts) > 1:
            rows = [{"id": part["answer"]["id"], "clip": clip, "task": part["task"]} for part in said]
            answers = [part["answer"] for part in said]
            probabilities = np.array([part["probabilities"] for part in said])
            _, (answer,), (mean,) = merge_windows(processor, rows, answers, probabilities)
            record = {**record, "answer": {**answer, "id": clip}, "probabilities": mean.tolist()}
        merged.append(record)
    return merged


def _mean(answers: Sequence[dict[str, Any]], places: Sequence[int], field: str, name: str) -> float:
    return sum(answers[place][field][name] for place in places) / len(places)
