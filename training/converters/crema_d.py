"""CREMA-D: twelve sentences spoken by 91 actors in six emotions, rated by many people from voice, face, or both.

    python -m training.converters.crema_d CREMA-D data/crema_d

SOURCE holds `AudioWAV/1001_DFA_ANG_XX.wav` (actor, sentence, emotion, level), the videos `VideoFlash/*.flv`, and the
tables `VideoDemographics.csv`, `processedResults/summaryTable.csv` and `finishedResponses.csv`; each may be missing.
`--label` chooses what `answer` is: the emotion that the actor was asked for, or the one that most raters named. The
release writes a tie as `A:D`; it has no single label, so such a clip is dropped, unless the actor's emotion is asked
for. All votes and ratings are kept. The release has no splits: folds hold out actors.
"""

import argparse
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..data.tables import read_csv
from .core.clips import example_bytes, find_file, list_files, map_files
from .core.command import dest_path, make_parser, run
from .core.conversion_report import ConversionReport
from .core.corpus import Corpus
from .core.folds import add_fold_options, make_folds, split_examples
from .core.labels import parse_whole
from .core.landmarks import add_landmark_options, plan_landmarks
from .core.layouts import find_recordings
from .core.recordings import finish_recording, note_missing, recording_columns


TASK = "crema_d"
EMOTIONS = {"ANG": "angry", "DIS": "disgust", "FEA": "fearful", "HAP": "happy", "NEU": "neutral", "SAD": "sad"}
LETTERS = {code[0]: label for code, label in EMOTIONS.items()}  # of the votes
TASKS: dict[str, dict[str, Any]] = {
    TASK: {
        "kind": "classification",
        "labels": list(EMOTIONS.values()),
        "prompt": "\nThe speaker's emotion is",
    }
}
LEVELS = {"LO": "low", "MD": "medium", "HI": "high", "XX": "unspecified", "X": "unspecified"}
SENTENCES = {
    "IEO": "It's eleven o'clock.",
    "TIE": "That is exactly what happened.",
    "IOM": "I'm on my way to the meeting.",
    "IWW": "I wonder what this is about.",
    "TAI": "The airplane is almost full.",
    "MTI": "Maybe tomorrow it will be cold.",
    "IWL": "I would like a new alarm clock.",
    "ITH": "I think I have a doctor's appointment.",
    "DFA": "Don't forget a jacket.",
    "ITS": "I think I've seen this before.",
    "TSI": "The surface is slick.",
    "WSI": "We'll stop in a couple of minutes.",
}
ACTORS = tuple(str(number) for number in range(1001, 1092))
PER_ACTOR = 76  # the fewest recordings of an actor in the complete release
AUDIO_SUFFIXES = (".wav", ".mp3", ".flac")
TABLES = ("VideoDemographics.csv", "summaryTable.csv", "finishedResponses.csv")
SEXES = ("male", "female")
MAX_AGE = 120
MAX_LEVEL = 100
NUM_FOLDS = 5
# Column of the converted corpus -> column of summaryTable.csv.
VOTES = {"label_voice": "VoiceVote", "label_face": "FaceVote", "label_both": "MultiModalVote"}
MODALITIES = {"1": "voice", "2": "face", "3": "both"}  # queryType of finishedResponses.csv
LABELS = {"intended": None, "voice": "label_voice", "face": "label_face", "both": "label_both"}  # of --label
EXTRA_COLUMNS = {
    "speaker": "string",
    "sex": "string",
    "age": "int32",
    "statement": "string",
    "intensity": "string",
    "label_intended": "string",
    **dict.fromkeys(VOTES, "string"),
    "ratings": "string",
}


class Tables(NamedTuple):
    """The tables of the release; empty where one is missing.

    Args:
        actors: actor -> sex and age.
        votes: name of a clip -> column -> label, several joined by a colon.
        ratings: name of a clip -> `[rater, modality, label, level]` of every rater.
        paths: the files.
    """

    actors: dict[str, dict[str, Any]]
    votes: dict[str, dict[str, str]]
    ratings: dict[str, list[list[Any]]]
    paths: list[Path]


def plan(arguments: argparse.Namespace) -> Corpus:
    """Find the recordings and read the tables.

    Raises:
        FileNotFoundError: there are no recordings of CREMA-D, or the table that `--label` needs is missing.
        ValueError: a broken table, too few actors, or options that do not fit.
    """
    report = ConversionReport()
    files = list_files(arguments.source)
    recordings = find_recordings(files, "crema_d", arguments.source, report)
    tables = read_tables(files, arguments.source, report)
    if LABELS[arguments.label] is not None and not tables.votes:
        raise FileNotFoundError(
            f"{arguments.source} has no summaryTable.csv, which has the votes for --label {arguments.label}. Use "
            "--label intended, or download processedResults/."
        )
    clips = group_clips(recordings, report)
    faces, landmarks = plan_landmarks(arguments, clips, report)
    planned = []
    for name, paths in sorted(clips.items()):
        actor = name[:4] if name[:4] in ACTORS else None
        planned.append((actor, _plan_example(arguments, name, paths, faces.get(name), tables, report)))
    actors = [actor for actor, example in planned if example is not None]
    note_missing("actor", Counter(actors), ACTORS, PER_ACTOR, report)
    folds = make_folds(arguments, "speaker", actors, "CREMA-D", report)
    used = [path for paths in clips.values() for path in paths.values()]
    return Corpus(
        name="CREMA-D",
        examples=split_examples(planned, folds, report),
        finish=finish_recording,
        finish_options={"media": arguments.media, "dest": dest_path(arguments), "landmarks": landmarks},
        columns=recording_columns(TASK, TASKS, arguments.media, landmarks, EXTRA_COLUMNS),
        report=report,
        bytes_per_example=example_bytes(used, arguments.media),
        languages=["en"],
        description=f"CREMA-D, one row per clip; `answer` is the label `{arguments.label}`. `label_intended` is the "
        "emotion that the actor was asked for; `label_voice`, `label_face` and `label_both` are the raters' votes, a "
        "tie as both labels with a colon; `ratings` lists every rater as [rater, modality, label, level] in JSON.",
        settings={
            "converter": "crema_d",
            "media": arguments.media,
            "task": arguments.task,
            "label": arguments.label,
            "folds": folds.groups,
            "fold": folds.chosen,
            "tasks": TASKS,
        },
        sources=tables.paths,
        files=[*used, *faces.values()],
        folds=folds,
        tasks=TASKS,
    )


def group_clips(recordings: Iterable[Path], report: ConversionReport) -> dict[str, dict[str, Path]]:
    """Map the name of each clip to its `audio` and `video` files; WAV is preferred to MP3."""
    recordings = list(recordings)
    clips: dict[str, dict[str, Path]] = {}
    for suffix in AUDIO_SUFFIXES:
        paths = [path for path in recordings if path.suffix.lower() == suffix]
        for name, path in map_files(paths, lambda path: path.stem, report).items():
            clips.setdefault(name, {}).setdefault("audio", path)
    videos = [path for path in recordings if path.suffix.lower() not in AUDIO_SUFFIXES]
    for name, path in map_files(videos, lambda path: path.stem, report).items():
        clips.setdefault(name, {})["video"] = path
    return clips


def _plan_example(
    arguments: argparse.Namespace,
    name: str,
    paths: dict[str, Path],
    face: Path | None,
    tables: Tables,
    report: ConversionReport,
) -> dict[str, Any] | None:
    """An example, or None if it is dropped: a code that CREMA-D does not have, or no single label."""
    actor, sentence, emotion, level = name.split("_")
    known = (
        ("actor", actor, ACTORS),
        ("sentence", sentence, SENTENCES),
        ("emotion", emotion, EMOTIONS),
        ("level", level, LEVELS),
    )
    for kind, code, values in known:
        if code not in values:
            report.drop(f"{kind} {code}, which CREMA-D does not have", name)
            return None
    votes = tables.votes.get(name, {})
    if tables.votes and not votes:
        report.note("clip without a row in summaryTable.csv", name)
    answer = EMOTIONS[emotion]
    column = LABELS[arguments.label]
    if column is not None:
        answer = votes.get(column, "")
        if answer not in LETTERS.values():
            report.drop("tie of the raters" if ":" in answer else f"no vote of the raters ({arguments.label})", name)
            return None
    example = {
        "id": name,
        "task": arguments.task or TASK,
        "text": SENTENCES[sentence],
        "audio": str(paths["audio"]) if "audio" in paths else None,
        "video": str(paths["video"]) if "video" in paths else None,
        "landmarks": None if face is None else str(face),
        "answer": answer,
        "speaker": actor,
        "statement": sentence,
        "intensity": LEVELS[level],
        "label_intended": EMOTIONS[emotion],
        "ratings": json.dumps(tables.ratings[name]) if name in tables.ratings else None,
    }
    return example | tables.actors.get(actor, {}) | {column: votes.get(column) for column in VOTES}


# ---- tables ---------------------------------------------------------------------------------------------------


def read_tables(files: Sequence[Path], source: Path, report: ConversionReport) -> Tables:
    """Read the tables of the release that exist; a missing one is noted.

    Raises:
        ValueError: a table is broken, or lacks a column, or there are several different ones of a name.
    """
    found = {path.name for path in files}
    paths = {name: find_file(files, [name], source) for name in TABLES if name in found}
    for name in TABLES:
        if name not in paths:
            report.note("table missing from SOURCE: its columns are empty", name)
    actors, votes, ratings = TABLES
    return Tables(
        actors=_read_actors(paths.get(actors), report),
        votes=_read_votes(paths.get(votes), report),
        ratings=_read_ratings(paths.get(ratings), report),
        paths=list(paths.values()),
    )


def _read_actors(path: Path | None, report: ConversionReport) -> dict[str, dict[str, Any]]:
    if path is None:
        return {}
    actors: dict[str, dict[str, Any]] = {}
    for row in read_csv(path, ("ActorID", "Age", "Sex")):
        actor = row["ActorID"].strip()
        if actor in actors:
            report.note("second row of an actor in VideoDemographics.csv: ignored", actor)
            continue
        sex = row["Sex"].strip().casefold()
        age = parse_whole(row["Age"], 0, MAX_AGE)
        if row["Age"].strip() and age is None:
            report.note("age that is not a whole number of years: left out", actor)
        if sex not in SEXES:
            report.note("sex that is neither male nor female: left out", actor)
        actors[actor] = {"sex": sex if sex in SEXES else None, "age": age}
    for actor in ACTORS:
        if actor not in actors:
            report.note("actor without a row in VideoDemographics.csv", actor)
    return actors


def _read_votes(path: Path | None, report: ConversionReport) -> dict[str, dict[str, str]]:
    if path is None:
        return {}
    votes: dict[str, dict[str, str]] = {}
    for row in read_csv(path, ("FileName", *VOTES.values())):
        name = row["FileName"].strip()
        if name in votes:
            report.note("second row of a clip in summaryTable.csv: ignored", name)
            continue
        votes[name] = {column: _read_letters(row[released], name, report) for column, released in VOTES.items()}
    return votes


def _read_letters(letters: str, name: str, report: ConversionReport) -> str:
    """`A:D` → `angry:disgust`; unknown letters are left out."""
    labels = []
    for letter in letters.strip().split(":"):
        if letter in LETTERS:
            labels.append(LETTERS[letter])
        elif letter:
            report.note(f"vote {letter[:20]!r}, which CREMA-D does not have: left out", name)
    return ":".join(labels)


def _read_ratings(path: Path | None, report: ConversionReport) -> dict[str, list[list[Any]]]:
    if path is None:
        return {}
    ratings: dict[str, list[list[Any]]] = {}
    for row in read_csv(path, ("localid", "queryType", "clipName", "respEmo", "respLevel")):
        name = row["clipName"].strip()
        modality = MODALITIES.get(row["queryType"].strip())
        label = LETTERS.get(row["respEmo"].strip())
        if modality is None or label is None:
            report.note("rating with an unknown emotion or modality: left out", name)
            continue
        level = parse_whole(row["respLevel"], 0, MAX_LEVEL)
        rating = [row["localid"].strip(), modality, label, level]
        ratings.setdefault(name, []).append(rating)
    return ratings


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__.splitlines()[0], "folder with AudioWAV/, VideoFlash/ and the tables", media=True)
    parser.add_argument(
        "--label",
        choices=list(LABELS),
        default="intended",
        help="`answer`: the actor's emotion (default), or the vote of the raters of voice, face, or both together",
    )
    add_fold_options(parser, NUM_FOLDS)
    add_landmark_options(parser)
    run(parser, plan, argv)


if __name__ == "__main__":
    main()
