"""MELD, raw: three tables and one mp4 per utterance.

    python -m training.converters.meld MELD.Raw data/meld --context_turns 5

SOURCE holds `{train,dev,test}_sent_emo.csv` and the clips `dia{X}_utt{Y}.mp4` in `train_splits/`,
`dev_splits_complete/` and `output_repeated_splits_test/`, at any depth. Dialogue numbers restart in every split, so
ids include the split: `train_dia0_utt3`. Examples are in dialogue order and name their speaker. An example whose clip
is missing, broken or wrongly cut keeps its text.
"""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.csv_tables import read_rows
from ..data.text_files import shorten
from .core.clips import check_different, example_bytes, find_file, finish_clip, list_files, map_files
from .core.columns import media_columns, typed_columns
from .core.command import dest_path, make_parser, run
from .core.conversion_report import ConversionReport
from .core.corpus import Corpus
from .core.labels import check_label, clean_text, parse_whole
from .core.splits import note_sizes


if TYPE_CHECKING:
    from processing_egmf import EGMFTask


# our split -> (its name in the release, the folder of its clips)
SPLITS = {
    "train": ("train", "train_splits"),
    "validation": ("dev", "dev_splits_complete"),
    "test": ("test", "output_repeated_splits_test"),
}
SIZES = {"train": 9989, "validation": 1109, "test": 2610}
COLUMNS = ("Utterance", "Speaker", "Emotion", "Sentiment", "Dialogue_ID", "Utterance_ID", "StartTime", "EndTime")
EXTRA_COLUMNS = {
    "sentiment": "string",
    "dialogue": "string",
    "speaker": "string",
    "season": "string",
    "episode": "string",
    "turn": "int32",
    "start_seconds": "float32",
    "end_seconds": "float32",
}
SENTIMENTS = ("positive", "neutral", "negative")
MAX_NUMBER = 9999  # of a dialogue or an utterance
MAX_CLIP_SECONDS = 30.0  # the longest correct clip lasts 29 s; the wrongly cut ones last 41, 235 and 305 s


def plan(arguments: argparse.Namespace) -> Corpus:
    """Read the tables, find the clips, put the turns in order.

    Raises:
        FileNotFoundError: a table or, without `--media none`, the clips of a split are missing.
        ValueError: a table is broken, or lacks a column.
    """
    from processing_egmf import BUILT_IN_TASKS

    task = BUILT_IN_TASKS["meld"]
    report = ConversionReport()
    files = list_files(arguments.source)
    tables = []
    used_clips: list[Path] = []
    examples = {}
    for split in arguments.splits:
        released, _ = SPLITS[split]
        table = find_file(files, [f"{released}_sent_emo.csv"], arguments.source)
        clips = _find_clips(arguments, files, split, report)
        turns = read_turns(table)
        report.read[split] += len(turns)
        _note_gaps(released, [turn["number"] for turn in turns], report)
        labeled = {clip_name(turn) for turn in turns}
        for name in sorted(clips.keys() - labeled):
            report.note("clip without a label", f"{released}_{name}")
        tables.append(table)
        used_clips += [clips[name] for name in labeled & clips.keys()]
        examples[split] = _plan_split(arguments, task, released, turns, clips, report)
    check_different(tables)
    note_sizes({split: SIZES[split] for split in arguments.splits}, report)
    return Corpus(
        name="MELD",
        examples=examples,
        finish=finish_clip,
        finish_options={
            "media": arguments.media,
            "dest": dest_path(arguments),
            "max_seconds": MAX_CLIP_SECONDS,
        },
        columns=typed_columns(
            task,
            media=media_columns(arguments.media),
            context=arguments.context_turns > 0,
            extra=EXTRA_COLUMNS,
        ),
        report=report,
        bytes_per_example=example_bytes(used_clips, arguments.media),
        languages=["en"],
        description="MELD, emotions in the dialogues of a television series, as released: one row per utterance, in "
        "dialogue order. Ids include the split, because dialogue numbers restart in every split.",
        settings={
            "converter": "meld",
            "media": arguments.media,
            "task": arguments.task,
            "context_turns": arguments.context_turns,
            "splits": arguments.splits,
        },
        sources=tables,
        files=used_clips if arguments.media != "none" else (),
    )


def _find_clips(
    arguments: argparse.Namespace, files: Sequence[Path], split: str, report: ConversionReport
) -> dict[str, Path]:
    """Map the names of a split's clips to their paths."""
    _, folder = SPLITS[split]
    paths = [path for path in files if path.parent.name == folder and path.suffix.lower() == ".mp4"]
    clips = map_files(paths, lambda path: path.stem, report)
    if not clips and arguments.media != "none":
        raise FileNotFoundError(
            f"{arguments.source} has no clips for split {split} ({folder}/dia0_utt0.mp4 and so on). Use --media none "
            "to convert only the text, or --splits to leave the split out."
        )
    return clips


def read_turns(table: Path) -> list[dict[str, Any]]:
    """The table's rows in dialogue order, each with `number`: (dialogue, utterance).

    Raises:
        ValueError: the table is broken, is empty, lacks a column, or a number is none.
    """
    turns = []
    for place, row in read_rows(table, COLUMNS):
        number = []
        for column in ("Dialogue_ID", "Utterance_ID"):
            value = parse_whole(row[column], 0, MAX_NUMBER)
            if value is None:
                raise ValueError(
                    f"{place}: {column} is {shorten(row[column])}; it must be a whole number from 0 to {MAX_NUMBER}. "
                    "Correct the table, or download it again."
                )
            number.append(value)
        turns.append({**row, "number": tuple(number)})
    if not turns:
        raise ValueError(f"{table} has no rows. Download it again.")
    return sorted(turns, key=lambda turn: turn["number"])


def clip_name(turn: dict[str, Any]) -> str:
    """Name of a turn's clip, without the file extension."""
    dialogue, utterance = turn["number"]
    return f"dia{dialogue}_utt{utterance}"


def _note_gaps(released: str, numbers: Sequence[tuple[int, int]], report: ConversionReport) -> None:
    last: dict[int, int] = {}  # dialogue -> its last utterance
    for dialogue, utterance in numbers:
        last[dialogue] = max(utterance, last.get(dialogue, 0))
    for dialogue in range(max(last, default=-1) + 1):
        if dialogue not in last:
            report.note("dialogue number missing from the table", f"{released}_dia{dialogue}")
    known = set(numbers)
    for dialogue, end in last.items():
        for utterance in range(end):
            if (dialogue, utterance) not in known:
                report.note("utterance number missing from the table", f"{released}_dia{dialogue}_utt{utterance}")


def _plan_split(
    arguments: argparse.Namespace,
    task: "EGMFTask",
    released: str,
    turns: list[dict[str, Any]],
    clips: dict[str, Path],
    report: ConversionReport,
) -> list[dict[str, Any]]:
    """The examples of one split, each with up to `--context_turns` earlier turns."""
    examples = []
    history: dict[int, list[list[str]]] = {}  # dialogue -> turns so far
    for turn in turns:
        dialogue, utterance = turn["number"]
        name = clip_name(turn)
        example_id = f"{released}_{name}"
        text = clean_text(turn["Utterance"])
        speaker = clean_text(turn["Speaker"])
        start, end = _read_times(turn, example_id, report)
        example = {
            "id": example_id,
            "task": arguments.task or task.name,
            "text": text,
            "video": str(clips[name]) if name in clips else None,
            "answer": check_label(task, turn["Emotion"], example_id, report),
            "sentiment": _read_sentiment(turn, example_id, report),
            "dialogue": f"{released}_dia{dialogue}",
            "turn": utterance,
            "speaker": speaker,
            "season": turn.get("Season"),
            "episode": turn.get("Episode"),
            "start_seconds": start,
            "end_seconds": end,
        }
        earlier = history.setdefault(dialogue, [])
        if arguments.context_turns:
            example["context"] = earlier[-arguments.context_turns :]
        if example["answer"] is not None:
            examples.append(example)
        earlier.append([speaker, text])
    return examples


def _read_sentiment(turn: dict[str, Any], example_id: str, report: ConversionReport) -> str | None:
    sentiment = turn["Sentiment"].strip().casefold()
    if sentiment in SENTIMENTS:
        return sentiment
    report.repair(f"sentiment {shorten(sentiment)}, which MELD does not have: left out", example_id)
    return None


def _read_times(
    turn: dict[str, Any], example_id: str, report: ConversionReport
) -> tuple[float, float] | tuple[None, None]:
    """Start and end in the episode, in seconds."""
    start = _parse_time(turn["StartTime"])
    end = _parse_time(turn["EndTime"])
    if start is None or end is None:
        report.repair("times cannot be read: left out", example_id)
        return None, None
    if end <= start:
        report.repair("end is not after start: times left out", example_id)
        return None, None
    return start, end


def _parse_time(text: str) -> float | None:
    """Seconds of `hh:mm:ss,ms`; None for anything else."""
    match = re.fullmatch(r"\s*(\d{1,2}):([0-5]?\d):([0-5]?\d)[,.](\d{1,9})\s*", text)
    if match is None:
        return None
    hours, minutes, seconds, fraction = match.groups()
    return 3600 * int(hours) + 60 * int(minutes) + int(seconds) + float(f"0.{fraction}")


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__.splitlines()[0], "folder with the three tables and the clips", media=True)
    parser.add_argument(
        "--splits",
        nargs="+",
        choices=list(SPLITS),
        default=list(SPLITS),
        help="splits to convert (default: all)",
    )
    parser.add_argument(
        "--context_turns", type=int, minimum=0, default=0, help="earlier turns to store with each example"
    )
    run(parser, plan, argv)


if __name__ == "__main__":
    main()
