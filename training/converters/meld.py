"""MELD as released: three tables and one mp4 an utterance.

    python -m training.converters.meld MELD.Raw data/meld --context_turns 5

SOURCE holds `{train,dev,test}_sent_emo.csv` and the clips `dia{X}_utt{Y}.mp4` in `train_splits/`,
`dev_splits_complete/` and `output_repeated_splits_test/`, each anywhere below it. Numbers of dialogues begin anew in
every split, so ids carry the split: `train_dia0_utt3`. Rows stand in the order of the dialogue, with their speaker. A
row whose clip is missing, broken or cut wrongly keeps its words.
"""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from processing_egmf import BUILT_IN_TASKS

from ..data.tables import read_csv
from .core.clips import files_below, find_file, finish_clip, media_columns, row_size
from .core.columns import typed_columns
from .core.command import dest_of, make_parser, run
from .core.conversion_report import ConversionReport
from .core.labels import check_answer, clean_text
from .core.shards import Corpus


# our split -> its name in the release, the folder of its clips
SPLITS = {
    "train": ("train", "train_splits"),
    "validation": ("dev", "dev_splits_complete"),
    "test": ("test", "output_repeated_splits_test"),
}
COLUMNS = ("Utterance", "Speaker", "Emotion", "Sentiment", "Dialogue_ID", "Utterance_ID", "StartTime", "EndTime")
LONGEST_SECONDS = 30.0  # the longest right cut lasts 29; the wrong ones 41, 235 and 305


def plan(arguments: argparse.Namespace) -> Corpus:
    """Read the tables, find the clips, put the turns in order.

    Raises:
        FileNotFoundError: a table is missing, or the clips of a split though they are wanted.
        ValueError: a column is missing, a number is none, or a table is broken.
    """
    task, report = BUILT_IN_TASKS["meld"], ConversionReport()
    files = files_below(arguments.source)
    rows: dict[str, list[dict[str, Any]]] = {}
    tables, used = [], []
    for split in arguments.splits:
        released, folder = SPLITS[split]
        tables.append(find_file(files, [f"{released}_sent_emo.csv"], arguments.source))
        clips = {path.stem: path for path in files if path.parent.name == folder and path.suffix.lower() == ".mp4"}
        if not clips and arguments.media != "none":
            raise FileNotFoundError(
                f"{arguments.source} holds no clips of split {split} ({folder}/dia0_utt0.mp4 and so on). Take --media "
                "none for the words alone, or --splits."
            )
        lines = sorted(_turns(tables[-1]), key=lambda line: line["turn"])
        report.read[split] += len(lines)
        _note_gaps(released, [line["turn"] for line in lines], report)
        rows[split] = _rows(arguments, released, lines, clips, report)
        named = {"dia{}_utt{}".format(*line["turn"]) for line in lines}
        for clip in sorted(clips.keys() - named):
            report.note("clip without a label", f"{released}_{clip}")
        used += [clips[clip] for clip in named & clips.keys()]
    return Corpus(
        name="MELD",
        rows=rows,
        finish=finish_clip,
        columns=typed_columns(
            task,
            media=media_columns(arguments.media),
            context=arguments.context_turns > 0,
            extra={
                **dict.fromkeys(("sentiment", "dialogue", "speaker", "season", "episode"), "string"),
                "turn": "int32",
                "start_seconds": "float32",
                "end_seconds": "float32",
            },
        ),
        report=report,
        bytes_per_row=row_size(used, arguments.media),
        card={
            "language": ["en"],
            "task_categories": ["video-classification"],
            "text": "MELD, emotions in the dialogues of a television series, as released: one row an utterance, in "
            "the order of the dialogue. Ids carry the split, because the numbers of dialogues begin anew in each.",
        },
        settings={
            "converter": "meld",
            "media": arguments.media,
            "task": arguments.task,
            "context_turns": arguments.context_turns,
            "splits": arguments.splits,
        },
        sources=tables,
        files=used if arguments.media != "none" else (),
    )


def _rows(
    arguments: argparse.Namespace,
    released: str,
    lines: list[dict[str, Any]],
    clips: dict[str, Path],
    report: ConversionReport,
) -> list[dict[str, Any]]:
    """Light rows of one split, with the turns before each where they are wanted."""
    task, rows = BUILT_IN_TASKS["meld"], []
    history: dict[int, list[list[str]]] = {}
    for line in lines:
        dialogue, number = line["turn"]
        clip = f"dia{dialogue}_utt{number}"
        identity = f"{released}_{clip}"
        text, speaker = clean_text(line["Utterance"]), clean_text(line["Speaker"])
        before = history.setdefault(dialogue, [])
        context = {"context": before[-arguments.context_turns :]} if arguments.context_turns else {}
        start, end = _times(line, identity, report)
        answer = check_answer(task, line["Emotion"], identity, report)
        if answer is not None:
            row = {
                "id": identity,
                "task": arguments.task or task.name,
                "text": text,
                "video": str(clips[clip]) if clip in clips else None,
                "answer": answer,
                "sentiment": line["Sentiment"].strip().casefold(),
                "dialogue": f"{released}_dia{dialogue}",
                "turn": number,
                "speaker": speaker,
                "season": line.get("Season"),
                "episode": line.get("Episode"),
                "start_seconds": start,
                "end_seconds": end,
                "media": arguments.media,
                "dest": dest_of(arguments),
                "longest": LONGEST_SECONDS,
            }
            rows.append(row | context)
        before.append([speaker, text])
    return rows


def _turns(table: Any) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    for number, line in enumerate(read_csv(table, COLUMNS), 2):
        try:
            turn = (int(line["Dialogue_ID"]), int(line["Utterance_ID"]))
        except ValueError as error:
            raise ValueError(
                f"{table}, row {number}: Dialogue_ID and Utterance_ID are no numbers ({error})."
            ) from error
        lines.append({**line, "turn": turn})
    return lines


def _note_gaps(released: str, turns: Sequence[tuple[int, int]], report: ConversionReport) -> None:
    dialogues = sorted({dialogue for dialogue, _ in turns})
    for dialogue in sorted(set(range(dialogues[-1] + 1 if dialogues else 0)) - set(dialogues)):
        report.note("number of a dialogue that is not there", f"{released}_dia{dialogue}")
    there = set(turns)
    last: dict[int, int] = {}
    for dialogue, number in turns:
        last[dialogue] = max(number, last.get(dialogue, 0))
    for dialogue, end in last.items():
        for number in range(end):
            if (dialogue, number) not in there:
                report.note("number of an utterance that is not there", f"{released}_dia{dialogue}_utt{number}")


def _times(line: dict[str, Any], name: str, report: ConversionReport) -> tuple[float | None, float | None]:
    """Seconds in the episode."""
    found = []
    for column in ("StartTime", "EndTime"):
        match = re.fullmatch(r"\s*(\d+):(\d+):(\d+)[,.](\d+)\s*", line[column])
        if match is None:
            report.repair("times cannot be read: left out", name)
            return None, None
        hours, minutes, seconds, fraction = match.groups()
        found.append(3600 * int(hours) + 60 * int(minutes) + int(seconds) + float(f"0.{fraction}"))
    if found[1] <= found[0]:
        report.repair("no time between start and end: times left out", name)
        return None, None
    return found[0], found[1]


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__.splitlines()[0], "folder with the three tables and the clips", media=True)
    parser.add_argument("--splits", nargs="+", choices=list(SPLITS), default=list(SPLITS), help="convert these alone")
    parser.add_argument("--context_turns", type=int, default=0, help="store so many earlier turns with each row")
    run(parser, plan, argv)


if __name__ == "__main__":
    main()
