"""IEMOCAP: dialogues of ten actors in five sessions, with every rater's labels.

    python -m training.converters.iemocap IEMOCAP_full_release data/iemocap --labels four --context_turns 5

SOURCE holds, for each session, `dialog/EmoEvaluation/Ses01F_impro01.txt`, `dialog/transcriptions/*.txt`,
`sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav` and `dialog/avi/DivX/Ses01F_impro01.avi`. The label is the one
that the release derived from its raters; where they do not agree it writes `xxx`, and the utterance is dropped, but
remains in the context of the next ones. With `--video`, each utterance is cut out of its dialogue's video, whose
frames show both actors. The release has no splits: each fold holds out a session, that is two actors.
"""

import argparse
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..data.csv_tables import parse_number
from ..data.text_files import read_text
from .core.clips import example_bytes, list_files, map_files, store_clip
from .core.columns import media_columns, typed_columns
from .core.command import dest_path, make_parser, run
from .core.conversion_report import ConversionReport
from .core.corpus import Corpus
from .core.folds import add_fold_options, make_folds, split_examples
from .core.labels import clean_text
from .core.landmarks import LandmarkOptions, add_landmark_options, plan_landmarks
from .core.layouts import find_recordings
from .core.recordings import finish_recording


TASK = "iemocap"
NAMES = {
    "ang": "angry",
    "hap": "happy",
    "exc": "excited",
    "sad": "sad",
    "neu": "neutral",
    "fru": "frustrated",
    "fea": "fearful",
    "sur": "surprised",
    "dis": "disgust",
    "oth": "other",
}
# --labels -> the labels of the release that are used, and what they are called.
LABELS = {
    "four": {"ang": "angry", "hap": "happy", "exc": "happy", "sad": "sad", "neu": "neutral"},
    "six": {code: NAMES[code] for code in ("ang", "hap", "exc", "sad", "neu", "fru")},
    "all": {code: name for code, name in NAMES.items() if code != "oth"},
}
NO_AGREEMENT = "xxx"
VIDEO_SUFFIXES = (".avi", ".mp4")
SESSIONS = tuple(f"Session{number}" for number in range(1, 6))
NUM_FOLDS = 5
TIME = r"\d{1,5}(?:\.\d{1,9})?"
HEADER = re.compile(
    rf"\[(?P<start>{TIME}) - (?P<end>{TIME})\]\s+(?P<name>Ses0[1-5][FM]_\w+_[FM]\w+)\s+(?P<label>\S+)\s+"
    r"\[(?P<vad>[^\]]*)\]\s*",
    re.ASCII,
)
RATER = re.compile(r"(?P<kind>[CA])-(?P<rater>\w+):\s*(?P<values>[^()]*)(?:\((?P<comment>.*)\))?\s*")
TRANSCRIPT = re.compile(r"(?P<name>Ses\S+)\s+\[[^\]]*\]:(?P<text>.*)")
SCALE = (0.5, 5.5)  # of the attributes, which raters give in whole numbers from 1 to 5
ATTRIBUTES = {"val": "valence", "act": "activation", "dom": "dominance"}
EXTRA_COLUMNS = {
    "speaker": "string",
    "session": "string",
    "sex": "string",
    "dialogue": "string",
    "scenario": "string",
    "start_seconds": "float32",
    "end_seconds": "float32",
    "valence": "float32",
    "activation": "float32",
    "dominance": "float32",
    "released_label": "string",
    "ratings": "string",
}


class Turn(NamedTuple):
    """An utterance in an evaluation file.

    Args:
        name: such as `Ses01F_impro01_F000`.
        label: the release's code.
        start, end: in its dialogue, in seconds.
        attributes: mean valence, activation and dominance; None where the file has no number.
        ratings: rater -> `categories` and `comment`, and `valence`, `activation`, `dominance`.
    """

    name: str
    label: str
    start: float
    end: float
    attributes: dict[str, float | None]
    ratings: dict[str, dict[str, Any]]

    @property
    def dialogue(self) -> str:
        return self.name.rpartition("_")[0]

    @property
    def sex(self) -> str:
        """`F` or `M`: who speaks. The letter in the dialogue's name only says who wore the motion capture markers."""
        return self.name.rpartition("_")[2][:1]

    @property
    def speaker(self) -> str:
        """Such as `Ses01F`."""
        return f"{self.name[:5]}{self.sex}"

    @property
    def session(self) -> str:
        """Such as `Session1`."""
        return f"Session{int(self.name[3:5])}"


class Release(NamedTuple):
    """The files of the release, by the names of their utterances or dialogues.

    Args:
        evaluations: files with the labels.
        transcripts: utterance -> text.
        waves: utterance -> its sound.
        videos: dialogue -> its video; empty without `--video`.
        faces: utterance -> its table of landmarks.
    """

    evaluations: list[Path]
    transcripts: dict[str, str]
    waves: dict[str, Path]
    videos: dict[str, Path]
    faces: dict[str, Path]


def plan(arguments: argparse.Namespace) -> Corpus:
    """Read the evaluations and transcripts of every dialogue, and find its recordings.

    Raises:
        FileNotFoundError: there are no evaluations, or no recordings of IEMOCAP.
        ValueError: too few sessions, or options that do not fit.
    """
    report = ConversionReport()
    release = find_release(arguments, report)
    faces, landmarks = plan_landmarks(arguments, release.waves, report)
    release = release._replace(faces=faces)
    planned = []
    evaluated = set()
    for path in release.evaluations:
        turns = read_evaluations(path, report)
        evaluated |= {turn.name for turn in turns}
        planned += _plan_dialogue(arguments, turns, release, report)
    for name in sorted(release.waves.keys() - evaluated):
        report.note("recording without a label", name)
    sessions = {session for session, example in planned if example is not None}
    for session in SESSIONS:
        if session not in sessions:
            report.note("session missing from SOURCE", session)
    folds = make_folds(arguments, "session", sessions, "IEMOCAP", report)
    return Corpus(
        name="IEMOCAP",
        examples=split_examples(planned, folds, report),
        finish=finish,
        finish_options={"media": arguments.media, "dest": dest_path(arguments), "landmarks": landmarks},
        columns=_columns(arguments, landmarks),
        report=report,
        bytes_per_example=example_bytes(list(release.waves.values()), arguments.media),
        languages=["en"],
        description="IEMOCAP, one row per utterance on whose emotion its raters agree, in the order of the dialogue. "
        "`released_label` is the code of the release; `ratings` has the answers of every rater, the speaker's own "
        "included, in JSON.",
        settings={
            "converter": "iemocap",
            "media": arguments.media,
            "task": arguments.task,
            "labels": arguments.labels,
            "context_turns": arguments.context_turns,
            "video": arguments.video,
            "folds": folds.groups,
            "fold": folds.chosen,
            "tasks": make_tasks(arguments.labels),
        },
        sources=release.evaluations,
        files=[*release.waves.values(), *release.videos.values(), *release.faces.values()],
        folds=folds,
        tasks=make_tasks(arguments.labels),
    )


def make_tasks(labels: str) -> dict[str, dict[str, Any]]:
    """The task of a choice of `--labels`."""
    return {
        TASK: {
            "kind": "classification",
            "labels": list(dict.fromkeys(LABELS[labels].values())),
            "prompt": "\nThe speaker's emotion is",
        }
    }


def _columns(arguments: argparse.Namespace, landmarks: LandmarkOptions | None) -> Any:
    from processing_egmf import EGMFTask

    return typed_columns(
        EGMFTask.from_dict(make_tasks(arguments.labels)[TASK], TASK),
        video_width=None if landmarks is None else landmarks.width,
        media=media_columns(arguments.media, ("audio", "video") if arguments.video else ("audio",)),
        context=arguments.context_turns > 0,
        extra=EXTRA_COLUMNS,
    )


# ---- files of the release -------------------------------------------------------------------------------------


def find_release(arguments: argparse.Namespace, report: ConversionReport) -> Release:
    """Find the files, and read the transcripts.

    Raises:
        FileNotFoundError: there are no evaluations, or no recordings of IEMOCAP.
    """
    files = list_files(arguments.source)
    recordings = find_recordings(files, "iemocap", arguments.source, report)
    sounds = [path for path in recordings if path.suffix.lower() not in VIDEO_SUFFIXES]
    films = [path for path in recordings if path.suffix.lower() in VIDEO_SUFFIXES]
    evaluations = [path for path in files if path.parent.name == "EmoEvaluation" and path.suffix == ".txt"]
    if not evaluations:
        raise FileNotFoundError(
            f"{arguments.source} has no dialog/EmoEvaluation/*.txt, where the labels are. Give the folder "
            "IEMOCAP_full_release."
        )
    by_name = map_files(evaluations, lambda path: path.name, report)
    return Release(
        evaluations=[by_name[name] for name in sorted(by_name)],
        transcripts=read_transcripts([path for path in files if path.parent.name == "transcriptions"], report),
        waves=map_files(sounds, lambda path: path.stem, report),
        videos=map_files(films, lambda path: path.stem, report) if arguments.video else {},
        faces={},
    )


def read_transcripts(paths: Iterable[Path], report: ConversionReport) -> dict[str, str]:
    """Utterance -> text, from lines `Ses01F_impro01_F000 [006.2901-008.2357]: Excuse me.`"""
    transcripts: dict[str, str] = {}
    for path in map_files(paths, lambda path: path.name, report).values():
        for line in _read_lines(path, report):
            match = TRANSCRIPT.match(line)
            if match is None:
                continue
            if match["name"] in transcripts:
                report.note("second transcript of an utterance: ignored", match["name"])
            transcripts.setdefault(match["name"], clean_text(match["text"]))
    return transcripts


def _read_lines(path: Path, report: ConversionReport) -> list[str]:
    """The lines of a text file; none, with a note, if it cannot be read."""
    try:
        # Not `splitlines`, which also splits at characters that a transcript may contain.
        return re.split(r"\r\n|\r|\n", read_text(path))
    except (OSError, ValueError):
        report.note("text file that cannot be read", f"{path.parent.name}/{path.name}")
        return []


def read_evaluations(path: Path, report: ConversionReport) -> list[Turn]:
    """The utterances of a dialogue in the order of their times; a damaged file and damaged lines are noted.

    A block is a line `[start - end] name label [V, A, D]`, and a line for each rater: `C-E2: Neutral; ()` names
    categories, `A-E3: val 3; act 2; dom 2; ()` attributes. An empty line ends it.
    """
    turns = []
    ratings: dict[str, dict[str, Any]] | None = None  # of the block; those after a damaged line belong to nobody
    for number, line in enumerate(_read_lines(path, report), 1):
        header = HEADER.fullmatch(line)
        rating = RATER.fullmatch(line)
        if header is not None and _is_of_dialogue(header, path.stem):
            turns.append(_make_turn(header, report))
            ratings = turns[-1].ratings
        elif rating is not None and ratings is not None:
            _add_rating(ratings, rating)
        elif not line.strip():
            ratings = None
        elif not line.startswith("%") and rating is None:
            report.note("unreadable line in an evaluation file", f"{path.name}:{number}")
            ratings = None
    if not turns:
        report.note("evaluation file without utterances; was its download interrupted?", path.name)
    return sorted(turns, key=lambda turn: turn.start)


def _is_of_dialogue(header: re.Match[str], dialogue: str) -> bool:
    """Whether an utterance has the name of its dialogue, which tells its session, and times in order."""
    is_named = header["name"].rpartition("_")[0] == dialogue
    return is_named and float(header["end"]) > float(header["start"])


def _make_turn(header: re.Match[str], report: ConversionReport) -> Turn:
    numbers = [_read_attribute(text, header["name"], report) for text in header["vad"].split(",")]
    padded = (*numbers, None, None, None)
    return Turn(
        name=header["name"],
        label=header["label"],
        start=float(header["start"]),
        end=float(header["end"]),
        attributes=dict(zip(ATTRIBUTES.values(), padded, strict=False)),
        ratings={},
    )


def _read_attribute(text: str, name: str, report: ConversionReport) -> float | None:
    number = parse_number(text)
    if number is None or not SCALE[0] <= number <= SCALE[1]:
        report.repair("valence, activation or dominance that is not on their scale: left out", name)
        return None
    return number


def _add_rating(ratings: dict[str, dict[str, Any]], match: re.Match[str]) -> None:
    entry = ratings.setdefault(match["rater"], {})
    parts = [part.strip() for part in match["values"].split(";") if part.strip()]
    if match["kind"] == "C":
        entry["categories"] = parts
        entry["comment"] = match["comment"] or ""
        return
    for part in parts:
        name, _, value = part.partition(" ")
        if name in ATTRIBUTES:
            entry[ATTRIBUTES[name]] = parse_number(value)


# ---- examples -------------------------------------------------------------------------------------------------


def _plan_dialogue(
    arguments: argparse.Namespace, turns: Sequence[Turn], release: Release, report: ConversionReport
) -> list[tuple[str, dict[str, Any] | None]]:
    """Session and example of every utterance; None for those that are dropped, which stay in the context of others."""
    planned = []
    earlier: list[list[str]] = []
    for turn in turns:
        answer = _read_label(turn, arguments.labels, report)
        text = release.transcripts.get(turn.name, "")
        example = None
        if answer is not None:
            example = _make_example(arguments, turn, answer, release, report)
            if arguments.context_turns:
                example["context"] = earlier[-arguments.context_turns :]
        planned.append((turn.session, example))
        earlier.append([turn.speaker, text])
    return planned


def _read_label(turn: Turn, labels: str, report: ConversionReport) -> str | None:
    """The answer of an utterance; None, with an entry in the report, if it is dropped."""
    if turn.label in LABELS[labels]:
        return LABELS[labels][turn.label]
    if turn.label == NO_AGREEMENT:
        report.drop("raters do not agree (xxx)", turn.name)
    elif turn.label in NAMES:
        report.drop(f"label {NAMES[turn.label]} is not one of --labels {labels}", turn.name)
    else:
        report.drop(f"label {turn.label[:20]!r}, which IEMOCAP does not have", turn.name)
    return None


def _make_example(
    arguments: argparse.Namespace, turn: Turn, answer: str, release: Release, report: ConversionReport
) -> dict[str, Any]:
    wave = release.waves.get(turn.name)
    video = release.videos.get(turn.dialogue)
    face = release.faces.get(turn.name)
    if turn.name not in release.transcripts:
        report.repair("transcript missing: no text", turn.name)
    if wave is None:
        report.repair("audio file missing: left out, text kept", turn.name)
    if arguments.video and video is None:
        report.repair("video of the dialogue missing: no video", turn.name)
    return {
        "id": turn.name,
        "task": arguments.task or TASK,
        "text": release.transcripts.get(turn.name, ""),
        "audio": None if wave is None else str(wave),
        "video": None,
        "dialogue_video": None if video is None else str(video),
        "landmarks": None if face is None else str(face),
        "answer": answer,
        "speaker": turn.speaker,
        "session": turn.session,
        "sex": {"F": "female", "M": "male"}.get(turn.sex),
        "dialogue": turn.dialogue,
        "scenario": "improvised" if "_impro" in turn.name else "scripted",
        "start_seconds": turn.start,
        "end_seconds": turn.end,
        **turn.attributes,
        "released_label": turn.label,
        "ratings": json.dumps(turn.ratings),
    }


# ---- in the workers -------------------------------------------------------------------------------------------


def finish(
    example: dict[str, Any],
    report: ConversionReport,
    media: str,
    dest: str | None,
    landmarks: LandmarkOptions | None,
) -> dict[str, Any] | None:
    """The example with its sound, and its video cut out of the dialogue's; None if nothing usable is left."""
    planned = {name: value for name, value in example.items() if name != "dialogue_video"}
    finished = finish_recording(planned, report, media, dest, landmarks, keep_text=True)
    if finished is None or example["dialogue_video"] is None or media == "none":
        return finished
    from .core.cutting import cut_clip

    try:
        clip = cut_clip(Path(example["dialogue_video"]), example["start_seconds"], example["end_seconds"])
    except ValueError:
        report.repair("video cannot be cut out of its dialogue: left out", example["id"])
        return finished
    finished["video"] = store_clip(f"{example['id']}.mp4", clip, media, dest)
    return finished


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__.splitlines()[0], "folder IEMOCAP_full_release", media=True)
    parser.add_argument(
        "--labels",
        choices=list(LABELS),
        default="four",
        help="four (default): angry, happy (with excited), sad, neutral; six: also excited and frustrated; or all",
    )
    parser.add_argument(
        "--context_turns", type=int, minimum=0, default=0, help="earlier turns to store with each example"
    )
    parser.add_argument("--video", action="store_true", help="cut the videos of the dialogues into utterances")
    add_fold_options(parser, NUM_FOLDS)
    add_landmark_options(parser)
    run(parser, plan, argv)


if __name__ == "__main__":
    main()
