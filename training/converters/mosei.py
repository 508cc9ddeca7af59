"""CMU-MOSEI as released: long videos, transcripts in segments, and the table of labels that MMSA distributes.

    python -m training.converters.mosei MOSEI data/mosei_raw

SOURCE holds `Videos/Full/Combined/<video>.mp4`, `Transcript/Segmented/Combined/<video>.txt` with lines
`video___index___start___end___text`, and `label.csv`. Every labeled segment is cut out of its video and encoded anew
into `clips/` of DEST, or into the rows with `--media embed`. Of videos that show no face only the sound is taken, if
`--no_face` lists them: the release does not say which they are.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from processing_egmf import BUILT_IN_TASKS

from ..data.tables import read_csv
from .core.clips import cut, files_below, find_file, media_columns
from .core.columns import typed_columns
from .core.command import dest_of, make_parser, run
from .core.conversion_report import ConversionReport
from .core.labels import check_answer, clean_text
from .core.shards import Corpus, partial_folder
from .core.splits import SPLIT_NAMES


COLUMNS = ("video_id", "clip_id", "text", "label", "mode")
BYTES_PER_CLIP = 400_000


class Segment(NamedTuple):
    """A part of a video, in seconds, and its words."""

    start: float | None
    end: float | None
    text: str


def plan(arguments: argparse.Namespace) -> Corpus:
    """Read labels and transcripts, find the videos.

    Raises:
        FileNotFoundError: no table, no transcripts, or no videos though they are wanted.
        ValueError: a column is missing, or the table is broken.
    """
    task, report = BUILT_IN_TASKS["mosei"], ConversionReport()
    files = files_below(arguments.source)
    table = find_file(files, ["label.csv"], arguments.source)
    transcripts = {path.stem: path for path in files if path.suffix == ".txt" and path.parent.name == "Combined"}
    videos = {path.stem: path for path in files if path.suffix.lower() == ".mp4"}
    for what, found in (("Transcript/Segmented/Combined/*.txt", transcripts), ("Videos/Full/Combined/*.mp4", videos)):
        if not found and (arguments.media != "none" or what.startswith("Transcript")):
            raise FileNotFoundError(f"{arguments.source} holds no {what}.")
    faceless = _read_list(arguments.no_face)
    segments: dict[str, dict[str, Segment]] = {}
    rows: dict[str, list[dict[str, Any]]] = {"train": [], "validation": [], "test": []}
    for line in read_csv(table, COLUMNS):
        video, clip = line["video_id"].strip(), line["clip_id"].strip()
        identity = f"{video}$_${clip}"
        split = SPLIT_NAMES.get(line["mode"].strip().casefold())
        report.read[split or "unknown"] += 1
        if split is None:
            report.drop(f"unknown mode {line['mode']!r}", identity)
            continue
        answer = check_answer(task, line["label"], identity, report)
        if answer is None:
            continue
        if video not in segments:
            segments[video] = _read_transcript(transcripts[video], report) if video in transcripts else {}
        found = segments[video].pop(clip, None) or segments[video].pop(clip.lstrip("0") or "0", None)
        if found is None:
            report.repair("segment not in the transcripts: words of the table, no clip", identity)
            found = Segment(None, None, clean_text(line["text"]))
        rows[split].append(
            {
                "id": identity,
                "task": arguments.task or task.name,
                "text": found.text,
                "answer": answer,
                "video_id": video,
                "clip_id": clip,
                "start_seconds": found.start,
                "end_seconds": found.end,
                "source": str(videos[video]) if video in videos else None,
                "face": video not in faceless,
                "media": arguments.media,
                "dest": dest_of(arguments),
            }
        )
    for video, left in segments.items():
        for clip in left:
            report.note("segment without a label", f"{video}$_${clip}")
    return _corpus(arguments, rows, table, sorted(faceless), report)


def _corpus(
    arguments: argparse.Namespace,
    rows: dict[str, list[dict]],
    table: Path,
    faceless: list[str],
    report: ConversionReport,
) -> Corpus:
    return Corpus(
        name="CMU-MOSEI",
        rows=rows,
        finish=finish,
        columns=typed_columns(
            BUILT_IN_TASKS["mosei"],
            media=media_columns(arguments.media, "audio", "video"),
            extra={
                "video_id": "string",
                "clip_id": "string",
                "start_seconds": "float32",
                "end_seconds": "float32",
            },
        ),
        report=report,
        bytes_per_row=BYTES_PER_CLIP if arguments.media == "embed" else 4 * BYTES_PER_CLIP,
        card={
            "language": ["en"],
            "task_categories": ["video-classification"],
            "text": "CMU-MOSEI, cut from the full videos by the segments of its transcripts, with the labels of "
            "MMSA's table. Twelve videos show no face; those that were named at conversion have sound alone.",
        },
        settings={
            "converter": "mosei",
            "media": arguments.media,
            "task": arguments.task,
            "no_face": faceless,
        },
        sources=[table],
        files={row["source"] for part in rows.values() for row in part if row["source"] and row["media"] != "none"},
    )


def _read_list(path: Path | None) -> set[str]:
    if path is None:
        return set()
    return {line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()}


def _read_transcript(path: Path, report: ConversionReport) -> dict[str, Segment]:
    """Index -> start and end in seconds, words."""
    found: dict[str, Segment] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8-sig", errors="replace").splitlines(), 1):
        parts = line.split("___", 4)
        try:
            start, end = float(parts[2]), float(parts[3])
            found[parts[1].strip()] = Segment(start, end, clean_text(parts[4]))
        except (IndexError, ValueError):
            if line.strip():
                report.note("line of a transcript that cannot be read", f"{path.name}:{number}")
    return found


def finish(row: dict[str, Any], report: ConversionReport) -> dict[str, Any] | None:
    """Cut the clip of a row."""
    finished = {name: value for name, value in row.items() if name not in ("source", "face", "media", "dest")}
    clip = _cut(row, report) if row["media"] != "none" and row["start_seconds"] is not None else None
    if clip is not None:
        finished["video" if row["face"] else "audio"] = clip
    if not finished["text"] and clip is None:
        report.drop("neither words nor a clip", row["id"])
        return None
    return finished


def _cut(row: dict[str, Any], report: ConversionReport) -> Any:
    name = f"{row['video_id']}___{row['clip_id']}.mp4"
    if row["source"] is None:
        report.repair("video missing: no clip, words kept", row["id"])
        return None
    if not row["face"]:
        report.repair("no face in the video: sound alone", row["id"])
    path = None
    if row["media"] == "paths" and row["dest"] is not None:
        path = partial_folder(Path(row["dest"])) / "clips" / name
        if path.is_file():  # from a conversion that was stopped
            return f"clips/{name}"
    try:
        encoded = cut(Path(row["source"]), row["start_seconds"], row["end_seconds"], row["face"])
    except ValueError:
        report.repair("clip cannot be cut: left out, words kept", row["id"])
        return None
    if row["media"] == "embed":
        return {"path": name, "bytes": encoded}
    if path is not None:
        path.parent.mkdir(exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_bytes(encoded)
        os.replace(temporary, path)
    return f"clips/{name}"


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__.splitlines()[0], "folder with Videos/, Transcript/ and label.csv", media=True)
    parser.add_argument("--no_face", type=Path, help="file with one video id a line: take only the sound of these")
    run(parser, plan, argv)


if __name__ == "__main__":
    main()
