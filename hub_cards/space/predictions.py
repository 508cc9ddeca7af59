"""Predictions for the Space: for the whole clip, without each modality, and for each part of a long clip.

    clip ─► measured, refused or decoded once ─► pipeline, with all chosen modalities and without each ─► Prediction
    long clip ─► equal parts of its audio and frames ─► pipeline, in batches ──────────────────────────► [Part]

The checkpoint's own pipeline makes every prediction. Next: rendering.py, which writes the page.
"""

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import av
import numpy as np
from transformers import pipeline


PIPELINE = "multimodal-emotion-recognition"
MODALITIES = ("text", "audio", "video")
MAX_MEGABYTES = 64
MAX_SECONDS = 60.0
MAX_TEXT = 2_000  # characters
TIMELINE_SECONDS = 10.0  # a longer clip gets a timeline
MAX_PART_SECONDS = 3.0
SHORT_SIDE = 256  # pixels of a frame while the parts of a long clip are cut
BATCH_SIZE = 4
CLIP_NAME = "The clip"  # in messages

# No playlists: they point at other files.
CONTAINERS = "mov,mp4,matroska,webm,avi,flv,mpegts,mpeg,asf,ogg,wav,w64,flac,mp3,aac,aiff,au,caf,amr,mxf"


class RefusedError(ValueError):
    """Input that the page refuses; the message tells the visitor what is wrong and what to do."""


@dataclass(frozen=True)
class Prediction:
    """The prediction for a clip, and the predictions with one modality left out.

    Args:
        answer: `EGMFAnswer` with experts.
        without: modality -> the answer without it; empty if the clip has only one modality.
        absent: modalities that were chosen but that the clip does not have.
        seconds: length of the clip; 0 for text only.
        used_seconds: how much of it, from its beginning, the model used.
        calibrated: whether the probabilities were calibrated for the modalities they are based on.
    """

    answer: dict[str, Any]
    without: dict[str, dict[str, Any]]
    absent: list[str]
    seconds: float
    used_seconds: float
    calibrated: bool = False


@dataclass(frozen=True)
class Part:
    """The answer for the seconds from `start` to `end`, based on audio and video."""

    start: float
    end: float
    answer: dict[str, Any]


class Predictor:
    """A checkpoint, run by its own pipeline.

    Args:
        model: folder or Hub id.
    """

    def __init__(self, model: str):
        self.pipe = pipeline(PIPELINE, model=model, trust_remote_code=True)
        self.processor = self.pipe.processor
        self.tasks = {task["name"]: task for task in self.processor.tasks}
        self.modalities = ["text"]
        if self.processor.audio_input == "waveform":
            self.modalities.append("audio")
        if self.processor.video_input == "frames":
            self.modalities.append("video")
        # Reads the entire clip; the checkpoint's own processor stops at `max_clip_seconds`.
        self.full_length_processor = copy.copy(self.processor)
        self.full_length_processor.max_clip_seconds = MAX_SECONDS + 1

    def predict(self, clip: str | None, text: str, task: str, modalities: list[str]) -> Prediction:
        """Predict a clip with all of the chosen modalities, and with each of them left out.

        Args:
            clip: path of an audio or video file, if there is one.
            text: the transcript; empty if unknown.
            task: name of one of `self.tasks`.
            modalities: names of the modalities to use.

        Raises:
            RefusedError: no modality or no input was given, or the input is too large.
            ValueError: the clip cannot be read.
        """
        chosen = [name for name in self.modalities if name in (modalities or ())]
        text = (text or "").strip()
        self.check_input(clip, text, chosen)
        seconds = 0.0
        media: dict[str, Any] = {}
        if clip is not None and chosen != ["text"]:
            seconds, media = self.decode(clip, chosen)
        sample = {"text": text, "name": CLIP_NAME, **media}
        present = [name for name in chosen if (text if name == "text" else name in media)]
        if not present:
            raise RefusedError(
                f"The clip has no {' and no '.join(chosen)}. Choose more modalities, or give another clip."
            )
        subsets = [present]
        if len(present) > 1:
            subsets += [[name for name in present if name != left_out] for left_out in present]
        variants = [{**sample, "modalities": subset} for subset in subsets]
        options = self.calibration_options(task)
        answers = self.pipe(variants, task=task, batch_size=len(variants), return_experts=True, **options)
        return Prediction(
            answer=answers[0],
            without=dict(zip(present, answers[1:], strict=False)),
            absent=[name for name in chosen if name not in present],
            seconds=seconds,
            used_seconds=min(seconds, self.processor.max_clip_seconds),
            calibrated=bool(options),
        )

    def calibration_options(self, task: str) -> dict[str, bool]:
        """`calibrated=True` if the task is calibrated for every subset of the modalities."""
        calibration = self.tasks[task].get("calibration", {})  # checkpoints had none before
        counts = range(1, len(self.modalities) + 1)
        subsets = [subset for count in counts for subset in combinations(self.modalities, count)]
        return {"calibrated": True} if all("+".join(subset) in calibration for subset in subsets) else {}

    def check_input(self, clip: str | None, text: str, chosen: list[str]) -> None:
        """Raises RefusedError if there is nothing to predict from, or too much text."""
        if not chosen:
            raise RefusedError(f"Choose at least one of {', '.join(self.modalities)}.")
        if len(text) > MAX_TEXT:
            raise RefusedError(f"The text has {len(text):,} characters; at most {MAX_TEXT:,} are accepted.")
        if clip is None and not text:
            raise RefusedError("Upload or record a clip, or type the transcript.")

    def decode(self, clip: str, chosen: list[str]) -> tuple[float, dict[str, Any]]:
        """Length of a clip in seconds, and the pipeline's media arguments, decoded once."""
        seconds, has_video = measure(clip)
        modalities = [name for name in chosen if name == "audio" or (name == "video" and has_video)]
        if not modalities:
            return seconds, {}
        source = {"video" if has_video else "audio": clip}
        media = self.processor.load_media(**source, modalities=modalities, name=CLIP_NAME)
        if "audio" in media:
            media = {**media, "sampling_rate": self.processor.sampling_rate}
        return seconds, media

    def predict_parts(self, clip: str, task: str, modalities: list[str]) -> list[Part]:
        """Predict equal parts of a long clip from audio and video, without the text, whose timing is unknown.

        Returns:
            An empty list for a short clip, or if neither audio nor video was chosen.
        """
        chosen = [name for name in self.modalities if name in modalities and name != "text"]
        if not chosen:
            return []
        seconds, has_video = measure(clip)
        max_seconds = self.processor.max_clip_seconds
        if seconds <= min(TIMELINE_SECONDS, max_seconds):
            return []
        count = math.ceil(seconds / min(MAX_PART_SECONDS, max_seconds))
        part_seconds = seconds / count
        samples: list[dict[str, Any]] = [{} for _ in range(count)]
        if "audio" in chosen:
            source = {"video" if has_video else "audio": clip}
            self.add_audio(samples, source, part_seconds)
        if "video" in chosen and has_video:
            self.add_frames(samples, clip, part_seconds)
        filled = [(number, sample) for number, sample in enumerate(samples) if sample]
        inputs = [{**sample, "name": CLIP_NAME} for _, sample in filled]
        answers = self.pipe(inputs, task=task, batch_size=BATCH_SIZE, **self.calibration_options(task))
        return [
            Part(number * part_seconds, (number + 1) * part_seconds, answer)
            for (number, _), answer in zip(filled, answers, strict=True)
        ]

    def add_audio(self, samples: list[dict[str, Any]], source: dict[str, str], part_seconds: float) -> None:
        """Give each part its piece of the audio."""
        media = self.full_length_processor.load_media(**source, modalities=["audio"], name=CLIP_NAME)
        audio = media.get("audio", np.zeros(0))
        samples_per_part = part_seconds * self.processor.sampling_rate
        for number, sample in enumerate(samples):
            first = round(number * samples_per_part)
            last = round((number + 1) * samples_per_part)
            piece = audio[first:last]
            if 2 * len(piece) >= last - first:  # at least half a part
                sample["audio"] = piece
                sample["sampling_rate"] = self.processor.sampling_rate

    def add_frames(self, samples: list[dict[str, Any]], clip: str, part_seconds: float) -> None:
        """Give each part its frames, evenly spread."""
        num_frames = self.processor.num_frames
        times = [(index + 0.5) * part_seconds / num_frames for index in range(len(samples) * num_frames)]
        shown = frames_at(clip, times)
        for number, sample in enumerate(samples):
            own_frames = shown[number * num_frames : (number + 1) * num_frames]
            frames = [frame for frame in own_frames if frame is not None]
            if frames:
                sample["video"] = np.stack(frames)
                sample["fps"] = num_frames / part_seconds


# ---- files ---------------------------------------------------------------------------------------------------


@contextmanager
def open_clip(clip: str) -> Iterator[Any]:
    """A container over an open file, which cannot open other files or URLs."""
    try:
        with (
            open(clip, "rb") as file,
            av.open(
                file,
                container_options={"format_whitelist": CONTAINERS, "protocol_whitelist": ""},
                metadata_errors="replace",
            ) as container,
        ):
            yield container
    except av.FFmpegError as error:
        raise RefusedError(
            "This is not a readable audio or video file, or it was cut off. Give an mp4, webm, mov, wav or mp3, or "
            "record it again."
        ) from error


def measure(clip: str) -> tuple[float, bool]:
    """Length of a clip in seconds, and whether it has video, read from its packets without decoding.

    Raises:
        RefusedError: the file is empty, too large, too long, or neither audio nor video.
    """
    size = Path(clip).stat().st_size
    if size == 0:
        raise RefusedError("The file is empty, 0 bytes. Upload or record it again.")
    if size > MAX_MEGABYTES * 10**6:
        raise RefusedError(f"The file is {size / 1e6:.0f} MB; at most {MAX_MEGABYTES} MB are accepted. Cut it first.")
    with open_clip(clip) as container:
        cover_art = av.stream.Disposition.attached_pic
        video_streams = [stream for stream in container.streams.video if not stream.disposition & cover_art]
        if not video_streams and not container.streams.audio:
            raise RefusedError("This file has neither audio nor video. Give another one.")
        start = math.inf
        end = 0.0
        for packet in container.demux([*video_streams[:1], *container.streams.audio[:1]]):
            if packet.pts is None:
                continue
            start = min(start, float(packet.pts * packet.time_base))
            end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            if end - start > MAX_SECONDS + 0.5:
                raise RefusedError(f"The clip is longer than {MAX_SECONDS:g} s. Cut out the part that matters.")
    seconds = max(0.0, end - start) if math.isfinite(start) else 0.0
    return seconds, bool(video_streams)


def frames_at(clip: str, times: list[float]) -> list[np.ndarray | None]:
    """The frame on screen at each time (seconds, ascending), scaled down: uint8 (y, x, 3); None after the last."""
    shown: list[np.ndarray | None] = []
    with open_clip(clip) as container:
        held = None  # the frame on screen
        start = None
        now = 0.0
        step = 1 / float(container.streams.video[0].average_rate or 25)
        for frame in container.decode(video=0):
            now = frame.time if frame.time is not None else now + step
            start = now if start is None else start
            while len(shown) < len(times) and times[len(shown)] < now - start and held is not None:
                shown.append(reduced(held))
            if len(shown) == len(times):
                return shown
            held = frame
        while held is not None and len(shown) < len(times) and times[len(shown)] <= now - start + 0.5:
            shown.append(reduced(held))
    return shown + [None] * (len(times) - len(shown))


def reduced(frame: av.VideoFrame) -> np.ndarray:
    """One frame with a short side of at most `SHORT_SIDE` pixels, upright."""
    scale = min(1.0, SHORT_SIDE / min(frame.width, frame.height))
    width = max(2, round(frame.width * scale))
    height = max(2, round(frame.height * scale))
    quarter_turns = round(frame.rotation / 90) % 4
    return np.rot90(frame.to_ndarray(format="rgb24", width=width, height=height, threads=1), quarter_turns)
