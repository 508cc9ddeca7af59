"""Clips to predict: every recording in a folder, or every example of a dataset.

find_clips, read_clips ─► Clip ─► Clip.processor_arguments ─► Predictor.predict, in predictor.py
"""

import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from processing_egmf import EGMFProcessor
from processing_egmf.video_egmf import has_video

from ..data.clips import load_features, read_stored
from ..data.csv_tables import compose
from ..data.dataset import load_examples, stream_examples
from ..data.dataset_options import DatasetOptions
from ..data.examples import speaker_of
from ..data.media_paths import AUDIO_SUFFIXES, VIDEO_SUFFIXES


PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
# Extensions that the processor decodes; the content of a file decides whether it is audio or video.
RECORDING_SUFFIXES = (*VIDEO_SUFFIXES, *AUDIO_SUFFIXES, *PICTURE_SUFFIXES)
OTHER_INPUTS = ("audio_features", "video_features", "context", "task")  # of an example
STREAMED = 64  # examples that are in memory together

logger = logging.getLogger(__name__)


@dataclass
class Clip:
    """One clip to predict.

    Args:
        name: its name in the predictions and in messages.
        text: its transcript.
        audio: its audio: a file, or what the processor takes.
        video: its video, likewise.
        others: other arguments of the processor, such as `context` and `audio_features`.
        recording: a file whose content decides whether it is audio or video, instead of these.
        transcript_file: text file with the transcript, read if it exists.
        speaker: who is recorded, if known.
    """

    name: str
    text: str | None = None
    audio: Any = None
    video: Any = None
    others: dict[str, Any] = field(default_factory=dict)
    recording: str | None = None
    transcript_file: Path | None = None
    speaker: str | None = None

    def processor_arguments(self, processor: EGMFProcessor) -> dict[str, Any]:
        """Keyword arguments of the processor for this clip.

        Raises:
            OSError, ValueError: the transcript or the recording cannot be read.
        """
        audio = read_stored(self.audio)
        video = read_stored(self.video)
        if self.recording is not None:
            is_video = processor.video_input == "frames" and has_video(self.recording, self.name)
            audio = None if is_video else self.recording
            video = self.recording if is_video else None
        text = self.text
        if self.transcript_file is not None and self.transcript_file.is_file():
            text = _read_transcript(self.transcript_file)
        others = {
            name: load_features(value, self.name) if name.endswith("_features") else value
            for name, value in self.others.items()
        }
        return {"text": text, "audio": audio, "video": video, "sample_names": self.name, **others}


def _read_transcript(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: a transcript that is not UTF-8 ({error.reason}). Save it as UTF-8.") from error


def find_clips(folder: Path) -> tuple[list[Clip], Counter]:
    """All recordings in a folder and its subfolders, sorted by path, and the number of other files by extension.

    Links to folders are not followed, and hidden files, as macOS's `._x` and all in hidden folders, are left out; both
    are counted. The speaker of a clip is the subfolder that it is in, for `--speaker_normalization`.

    Raises:
        ValueError: there are none.
    """
    clips = []
    others = []
    left_out: Counter = Counter()
    for path in sorted(folder.rglob("*")):
        if any(part.startswith(".") for part in path.relative_to(folder).parts):
            left_out["hidden files"] += not path.is_dir()
            continue
        if path.is_dir():
            left_out["linked folders"] += path.is_symlink()
            left_out["unreadable folders"] += not os.access(path, os.R_OK | os.X_OK)
            continue
        if path.suffix.lower() in RECORDING_SUFFIXES and path.is_file():
            inner = path.relative_to(folder).parts[:-1]
            speaker = inner[0] if inner else folder.resolve().name
            transcript_file = path.with_suffix(".txt")
            clips.append(Clip(str(path), recording=str(path), transcript_file=transcript_file, speaker=speaker))
        else:
            others.append(path)
    texts = {compose(str(path.with_suffix(".txt"))): path for path in others if path.suffix.lower() == ".txt"}
    for clip in clips:
        clip.transcript_file = texts.get(compose(str(clip.transcript_file)), clip.transcript_file)
    transcripts = {clip.transcript_file for clip in clips}
    skipped = Counter(path.suffix.lower() or "no extension" for path in others if path not in transcripts)
    skipped += left_out
    if not clips:
        suffixes = " ".join(RECORDING_SUFFIXES)
        raise ValueError(f"--folder {folder} has no media files. Supported extensions: {suffixes}.")
    return clips, skipped


def read_clips(dataset: str, split: str, reading: DatasetOptions) -> list[Clip] | Iterator[Clip]:
    """The examples of a split of a dataset; an iterator if they are streamed.

    Raises:
        ValueError: as for `load_examples` and `stream_examples`.
    """
    if reading.streaming:
        chunks = stream_examples(dataset, split, reading, STREAMED, with_answers=False)
        return (_as_clip(example) for chunk in chunks for example in chunk)
    examples = load_examples(dataset, split, options=reading, with_answers=False)
    return [_as_clip(example) for example in examples]


def _as_clip(example: dict[str, Any]) -> Clip:
    others = {name: example[name] for name in OTHER_INPUTS if example.get(name) is not None}
    media = (example.get("audio"), example.get("video"))
    return Clip(example["id"], example.get("text"), *media, others, speaker=speaker_of(example))


def check_speaker_folders(folder: Path, clips: Sequence[Clip]) -> None:
    """Refuse a folder with clips beside folders of speakers, and warn of clips that are taken for one speaker's.

    Raises:
        ValueError: whose clips the ones beside the folders are is unknown.
    """
    beside = [clip for clip in clips if Path(clip.name).parent == folder]
    if beside and len(beside) < len(clips):
        raise ValueError(
            f"--speaker_normalization: {folder} has {len(beside)} clips beside its folders, such as {beside[0].name}. "
            "Move each into the folder of its speaker."
        )
    if beside:
        logger.warning(
            f"--speaker_normalization: the {len(beside)} clips directly in {folder} are taken for one speaker's. "
            "Give each speaker a folder in it if there are several."
        )
