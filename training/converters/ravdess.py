"""RAVDESS: acted speech and song of 24 actors, as audio, as video, or with face landmarks.

    python -m training.converters.ravdess RAVDESS data/ravdess --landmarks RAVDESS/FacialTracking

SOURCE holds the unpacked archives at any depth: `Actor_01/03-01-06-01-02-01-12.wav` (03 audio only), and the videos
`01-01-...mp4` (with sound) and `02-01-...mp4` (without). The numbers are modality, channel (01 speech, 02 song),
emotion, intensity, statement, repetition and actor. The files of one performance become one example. Resampled copies
in another format, named like the originals, are read as well, and so are tables of landmarks in SOURCE. The release
has no splits: folds hold out actors.
"""

import argparse
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .core.clips import example_bytes, list_files
from .core.command import dest_path, make_parser, run
from .core.conversion_report import ConversionReport
from .core.corpus import Corpus
from .core.folds import add_fold_options, make_folds, split_examples
from .core.landmarks import add_landmark_options, find_tables, landmark_options, table_files
from .core.layouts import find_recordings
from .core.recordings import finish_recording, note_missing, recording_columns


TASK = "ravdess"
EMOTIONS = {
    "01": "neutral",
    "02": "calm",
    "03": "happy",
    "04": "sad",
    "05": "angry",
    "06": "fearful",
    "07": "disgust",
    "08": "surprised",
}
TASKS: dict[str, dict[str, Any]] = {
    TASK: {
        "kind": "classification",
        "labels": list(EMOTIONS.values()),
        "prompt": "\nThe speaker's emotion is",
    }
}
CHANNELS = {"01": "speech", "02": "song"}
INTENSITIES = {"01": "normal", "02": "strong"}
REPETITIONS = ("01", "02")
STATEMENTS = {"01": "Kids are talking by the door.", "02": "Dogs are sitting by the door."}
ACTORS = tuple(f"{number:02d}" for number in range(1, 25))
PER_ACTOR = {"speech": 60, "song": 44}  # performances
AUDIO_ONLY = "03"
VIDEO_KINDS = ("01", "02")  # with sound, which is preferred, and without
NUM_FOLDS = 6
FRAMES_PER_SECOND = 30_000 / 1001
NAME_LENGTH = len("01-06-01-02-01-12")  # of a performance
EXTRA_COLUMNS = {
    "speaker": "string",
    "sex": "string",
    "channel": "string",
    "intensity": "string",
    "statement": "int32",
    "repetition": "int32",
}


class Performance(NamedTuple):
    """The codes of a file's name, without its modality."""

    channel: str
    emotion: str
    intensity: str
    statement: str
    repetition: str
    actor: str

    @property
    def name(self) -> str:
        return "-".join(self)


def plan(arguments: argparse.Namespace) -> Corpus:
    """Find the files, and put those of one performance together.

    Raises:
        FileNotFoundError: there are no recordings of RAVDESS.
        ValueError: too few actors, or options that do not fit.
    """
    report = ConversionReport()
    files = list_files(arguments.source)
    recordings = find_recordings(files, "ravdess", arguments.source, report)
    performances = _group_files(recordings, arguments.channel, report)
    if not performances:
        raise ValueError(f"{arguments.source} has no {arguments.channel}; give --channel, or unpack its archives.")
    tables = _find_landmarks(arguments.landmarks, files, performances, report)
    landmarks = None
    if tables or arguments.landmarks is not None:
        landmarks = landmark_options(tables.values(), arguments.landmark_fps or FRAMES_PER_SECOND, report)
    planned = [
        (speaker_of(performance), _plan_example(arguments, performance, kinds, tables, report))
        for performance, kinds in sorted(performances.items())
    ]
    speakers = [speaker for speaker, example in planned if example is not None]
    _note_missing_actors(arguments.channel, speakers, report)
    folds = make_folds(arguments, "speaker", speakers, "RAVDESS", report)
    used = [path for kinds in performances.values() for path in kinds.values()]
    return Corpus(
        name="RAVDESS",
        examples=split_examples(planned, folds, report),
        finish=finish_recording,
        finish_options={
            "media": arguments.media,
            "dest": dest_path(arguments),
            "landmarks": landmarks,
        },
        columns=recording_columns(TASK, TASKS, arguments.media, landmarks, EXTRA_COLUMNS),
        report=report,
        bytes_per_example=example_bytes(used, arguments.media),
        languages=["en"],
        description="RAVDESS, two sentences spoken or sung by actors in eight emotions, one row per performance. "
        "`answer` is the emotion that the actor was asked for; `text` is the sentence, which says nothing about it.",
        settings={
            "converter": "ravdess",
            "media": arguments.media,
            "task": arguments.task,
            "channel": arguments.channel,
            "folds": folds.groups,
            "fold": folds.chosen,
            "tasks": TASKS,
        },
        files=[*used, *tables.values()],
        folds=folds,
        tasks=TASKS,
    )


def _find_landmarks(
    folder: Path | None, files: Sequence[Path], performances: Iterable[Performance], report: ConversionReport
) -> dict[str, Path]:
    """Map the names of performances to their tables, which are named like the clips, with their modality or without.

    Args:
        folder: where they are; None for the release itself.
        files: of the release.
        performances: those that are converted.
        report: of the plan.
    """
    names = {performance.name for performance in performances}
    tables = table_files(files, report) if folder is None else find_tables(folder, report)
    return {stem[-NAME_LENGTH:]: path for stem, path in tables.items() if stem[-NAME_LENGTH:] in names}


def _group_files(
    recordings: Sequence[Path], channel: str, report: ConversionReport
) -> dict[Performance, dict[str, Path]]:
    """Map each performance to its files by modality; of two copies the first is taken."""
    performances: dict[Performance, dict[str, Path]] = {}
    for path in recordings:
        modality, *codes = path.stem.split("-")
        performance = Performance(*codes)
        if modality not in (AUDIO_ONLY, *VIDEO_KINDS):
            report.note(f"modality {modality}, which RAVDESS does not have: ignored", path.name)
        elif channel in ("both", CHANNELS.get(performance.channel, "both")):
            first = performances.setdefault(performance, {}).setdefault(modality, path)
            if first is not path:
                report.note("second file of this name: ignored", f"{path.parent.name}/{path.name}")
    return performances


def speaker_of(performance: Performance) -> str | None:
    """The value of the column `speaker`; None if RAVDESS does not have this actor."""
    return f"actor_{performance.actor}" if performance.actor in ACTORS else None


def _plan_example(
    arguments: argparse.Namespace,
    performance: Performance,
    kinds: dict[str, Path],
    tables: dict[str, Path],
    report: ConversionReport,
) -> dict[str, Any] | None:
    """An example, or None if its name has a code that RAVDESS does not have."""
    known = {
        "channel": CHANNELS,
        "emotion": EMOTIONS,
        "intensity": INTENSITIES,
        "statement": STATEMENTS,
        "repetition": REPETITIONS,
        "actor": ACTORS,
    }
    for code, values in known.items():
        value = getattr(performance, code)
        if value not in values:
            report.drop(f"{code} {value}, which RAVDESS does not have", performance.name)
            return None
    video = next((kinds[kind] for kind in VIDEO_KINDS if kind in kinds), None)
    audio = kinds.get(AUDIO_ONLY)
    table = tables.get(performance.name)
    return {
        "id": performance.name,
        "task": arguments.task or TASK,
        "text": STATEMENTS[performance.statement],
        "audio": None if audio is None else str(audio),
        "video": None if video is None else str(video),
        "landmarks": None if table is None else str(table),
        "answer": EMOTIONS[performance.emotion],
        "speaker": speaker_of(performance),
        "sex": "male" if int(performance.actor) % 2 else "female",
        "channel": CHANNELS[performance.channel],
        "intensity": INTENSITIES[performance.intensity],
        "statement": int(performance.statement),
        "repetition": int(performance.repetition),
    }


def _note_missing_actors(channel: str, speakers: Sequence[str], report: ConversionReport) -> None:
    kinds = PER_ACTOR if channel == "both" else (channel,)
    expected = [f"actor_{actor}" for actor in ACTORS]
    note_missing("actor", Counter(speakers), expected, sum(PER_ACTOR[kind] for kind in kinds), report)


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__.splitlines()[0], "folder with the unpacked archives of RAVDESS", media=True)
    parser.add_argument(
        "--channel",
        choices=[*PER_ACTOR, "both"],
        default="speech",
        help="performances to convert (default: speech)",
    )
    add_fold_options(parser, NUM_FOLDS)
    add_landmark_options(parser)
    run(parser, plan, argv)


if __name__ == "__main__":
    main()
