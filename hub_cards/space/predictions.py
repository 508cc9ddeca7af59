"""What the Space asks the checkpoint's pipeline: about the whole clip, without each modality, and part by part.

    clip ─► measured, refused or decoded once ─► pipeline, with all that was chosen and without each ─► Prediction
    long clip ─► equal parts, their sound and pictures ─────► pipeline, in batches ───────────────────► [Part]

All judging is done by the pipeline. Next: rendering.py, which writes the page.
"""

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from transformers import pipeline


PIPELINE = "multimodal-emotion-recognition"
MAX_MEGABYTES = 64
MAX_SECONDS = 60.0
MAX_TEXT = 2_000  # characters
TIMELINE_SECONDS = 10.0  # a longer clip gets a timeline
PART_SECONDS = 3.0  # of which no part is longer than this
SHORT_SIDE = 256  # pixels of a picture while the parts of a long clip are cut
BATCH_SIZE = 4

# No playlists: they point at other files.
CONTAINERS = "mov,mp4,matroska,webm,avi,flv,mpegts,mpeg,asf,ogg,wav,w64,flac,mp3,aac,aiff,au,caf,amr,mxf"
NAMES = {"text": "words", "audio": "sound", "video": "picture"}


class RefusedError(ValueError):
    """What is told to whoever sits before the page: what is wrong, and what to do."""


@dataclass(frozen=True)
class Prediction:
    """The answer about a clip, and the answers that leave one modality out.

    Args:
        answer: `EGMFAnswer` with experts.
        without: modality -> answer; empty where one modality is all there is.
        absent: those that were chosen and are not there.
        seconds: of the clip; 0 for words alone.
        looked_at: seconds of it that this answer is about.
    """

    answer: dict[str, Any]
    without: dict[str, dict[str, Any]]
    absent: list[str]
    seconds: float
    looked_at: float


@dataclass(frozen=True)
class Part:
    """The answer about the seconds from `start` to `end`, by sound and picture."""

    start: float
    end: float
    answer: dict[str, Any]


class Predictor:
    """A checkpoint, asked by its own pipeline.

    Args:
        model: folder or Hub id.
    """

    def __init__(self, model: str):
        self.pipe = pipeline(PIPELINE, model=model, trust_remote_code=True)
        processor = self.pipe.processor
        self.tasks = {task["name"]: task for task in processor.tasks}
        taken = {
            "text": True,
            "audio": processor.audio_input == "waveform",
            "video": processor.video_input == "frames",
        }
        self.modalities = [name for name, there in taken.items() if there]
        self._whole = copy.copy(processor)  # reads a clip to its end, not to the end of what the model looks at
        self._whole.max_clip_seconds = MAX_SECONDS + 1

    def whole(self, clip: str | None, text: str, task: str, modalities: list[str]) -> Prediction:
        """Predictor a clip with all of the chosen modalities, and with each of them left out.

        Args:
            clip: path of a sound or video file, if there is one.
            text: what was said; empty if unknown.

        Raises:
            RefusedError: nothing is chosen, nothing is there, or it is too large.
            ValueError: the clip cannot be read.
        """
        chosen = [name for name in self.modalities if name in modalities]
        if not chosen:
            raise RefusedError(f"Choose at least one of {', '.join(NAMES[name] for name in self.modalities)}.")
        text = (text or "").strip()
        if len(text) > MAX_TEXT:
            raise RefusedError(f"The words are {len(text):,} characters long; at most {MAX_TEXT:,} are read.")
        if clip is None and not text:
            raise RefusedError("Upload or record a clip, or type what was said.")
        unasked = clip is None or chosen == ["text"]
        seconds, media = (0.0, {}) if unasked else self._media(clip, chosen)
        sample = {"text": text, "name": "The clip", **media}
        there = [name for name in chosen if (text if name == "text" else name in media)]
        if not there:
            raise RefusedError(
                f"There is nothing to judge by: no {' and no '.join(NAMES[name] for name in chosen)}. Choose more, or "
                "give another clip."
            )
        rest = [[name for name in there if name != left] for left in there] if len(there) > 1 else []
        variants = [{**sample, "modalities": names} for names in (there, *rest)]
        answer, *without = self.pipe(variants, task=task, batch_size=len(variants), return_experts=True)
        return Prediction(
            answer=answer,
            without=dict(zip(there, without, strict=False)),
            absent=[name for name in chosen if name not in there],
            seconds=seconds,
            looked_at=min(seconds, self.pipe.processor.max_clip_seconds),
        )

    def parts(self, clip: str, task: str, modalities: list[str]) -> list[Part]:
        """Predictor equal parts of a long clip by its sound and picture; nobody knows when the words were said.

        Returns:
            Nothing for a clip that is not long, or where neither sound nor picture was chosen.
        """
        chosen = [name for name in self.modalities if name in modalities and name != "text"]
        if not chosen:
            return []
        seconds, pictures = measure(clip)
        longest = self.pipe.processor.max_clip_seconds
        if seconds <= min(TIMELINE_SECONDS, longest):
            return []
        count = math.ceil(seconds / min(PART_SECONDS, longest))
        length, processor = seconds / count, self.pipe.processor
        samples: list[dict[str, Any]] = [{} for _ in range(count)]
        if "audio" in chosen:
            source = {"video" if pictures else "audio": clip}
            heard = self._whole.load_media(**source, modalities=["audio"], name="The clip").get("audio", np.zeros(0))
            for number, sample in enumerate(samples):
                first, last = (round(edge * length * processor.sampling_rate) for edge in (number, number + 1))
                if last - first <= 2 * len(heard[first:last]):  # not a mere rest
                    sample |= {"audio": heard[first:last], "sampling_rate": processor.sampling_rate}
        if "video" in chosen and pictures:
            shots = processor.num_frames
            times = [(place + 0.5) * length / shots for place in range(count * shots)]
            seen = look(clip, times)
            for number, sample in enumerate(samples):
                if frames := [frame for frame in seen[number * shots : (number + 1) * shots] if frame is not None]:
                    sample |= {"video": np.stack(frames), "fps": shots / length}
        edges = [(number * length, (number + 1) * length) for number in range(count)]
        told = [(edge, sample) for edge, sample in zip(edges, samples, strict=True) if sample]
        answers = self.pipe([{**sample, "name": "The clip"} for _, sample in told], task=task, batch_size=BATCH_SIZE)
        return [Part(*edge, answer) for (edge, _), answer in zip(told, answers, strict=True)]

    def _media(self, clip: str, chosen: list[str]) -> tuple[float, dict[str, Any]]:
        """Seconds of a clip, and what the pipeline needs of it, decoded once."""
        seconds, pictures = measure(clip)
        wanted = [name for name in chosen if name == "audio" or (name == "video" and pictures)]
        if not wanted:
            return seconds, {}
        processor = self.pipe.processor
        source = {"video" if pictures else "audio": clip}
        media = processor.load_media(**source, modalities=wanted, name="The clip")
        return seconds, media | ({"sampling_rate": processor.sampling_rate} if "audio" in media else {})


# ---- files ---------------------------------------------------------------------------------------------------


@contextmanager
def opened(clip: str) -> Iterator[Any]:
    """A container over an open file, which can lead to no other file and no address."""
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
            "This is no sound or video that can be read, or it is cut off. Give an mp4, webm, mov, wav or mp3, or "
            "record it again."
        ) from error


def measure(clip: str) -> tuple[float, bool]:
    """Seconds of a clip, and whether it has moving pictures, read from its packets without decoding.

    Raises:
        RefusedError: no media, empty, too large or too long.
    """
    size = Path(clip).stat().st_size
    if size == 0:
        raise RefusedError("The file is empty, 0 bytes. Upload or record it again.")
    if size > MAX_MEGABYTES * 10**6:
        raise RefusedError(f"The file has {size / 1e6:.0f} MB; at most {MAX_MEGABYTES} MB are taken. Cut it first.")
    with opened(clip) as container:
        cover = av.stream.Disposition.attached_pic  # the picture of a song
        pictures = [stream for stream in container.streams.video if not stream.disposition & cover]
        if not pictures and not container.streams.audio:
            raise RefusedError("This file holds neither sound nor video. Give another one.")
        start, end = math.inf, 0.0
        for packet in container.demux([*pictures[:1], *container.streams.audio[:1]]):
            if packet.pts is None:
                continue
            start = min(start, float(packet.pts * packet.time_base))
            end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            if end - start > MAX_SECONDS + 0.5:
                raise RefusedError(f"The clip is longer than {MAX_SECONDS:g} s. Cut out what you want to have judged.")
    return max(0.0, end - start) if math.isfinite(start) else 0.0, bool(pictures)


def look(clip: str, times: list[float]) -> list[np.ndarray | None]:
    """The picture on screen at each of the times (seconds, ascending), made small: uint8 (y, x, 3); None behind the
    last one."""
    seen: list[np.ndarray | None] = []
    with opened(clip) as container:
        held, start, now = None, None, 0.0
        step = 1 / float(container.streams.video[0].average_rate or 25)
        for frame in container.decode(video=0):
            now = frame.time if frame.time is not None else now + step
            start = now if start is None else start
            while len(seen) < len(times) and times[len(seen)] < now - start and held is not None:
                seen.append(small(held))
            if len(seen) == len(times):
                return seen
            held = frame
        while held is not None and len(seen) < len(times) and times[len(seen)] <= now - start + 0.5:
            seen.append(small(held))
    return seen + [None] * (len(times) - len(seen))


def small(frame: av.VideoFrame) -> np.ndarray:
    """One picture with a short side of at most `SHORT_SIDE` pixels, upright."""
    share = min(1.0, SHORT_SIDE / min(frame.width, frame.height))
    size = {"width": max(2, round(frame.width * share)), "height": max(2, round(frame.height * share))}
    return np.rot90(frame.to_ndarray(format="rgb24", **size), round(frame.rotation / 90) % 4)
