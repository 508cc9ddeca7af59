"""CMU-MOSEI, raw: long videos, segmented transcripts, and MMSA's table of labels.

    python -m training.converters.mosei MOSEI data/mosei_raw

SOURCE holds `Videos/Full/Combined/<video>.mp4`, `Transcript/Segmented/Combined/<video>.txt` with lines
`video___index___start___end___text`, and `label.csv`. Every labeled segment is cut out of its video and re-encoded
into DEST's `clips/`, or into the table with `--media embed`. Of the videos listed in `--no_face`, only the audio is
used: some videos show no face, and the release does not say which.
"""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..data.tables import read_csv
from ..data.text_files import read_text
from .core.clips import find_file, is_file_name, list_files, map_files, store_clip
from .core.columns import media_columns, typed_columns
from .core.command import dest_path, make_parser, run
from .core.conversion_report import ConversionReport
from .core.corpus import Corpus
from .core.labels import check_label, clean_text, remove_pauses
from .core.splits import OFFICIAL, note_sizes, read_split


if TYPE_CHECKING:
    from processing_egmf import EGMFTask


SIZES = {"train": 16326, "validation": 1871, "test": 4659}
COLUMNS = ("video_id", "clip_id", "text", "label", "mode")
EXTRA_COLUMNS = {
    "video_id": "string",
    "clip_id": "string",
    "start_seconds": "float32",
    "end_seconds": "float32",
}
PLANNED_ONLY = ("source", "has_face")  # keys of a planned example that are not stored
BYTES_PER_CLIP = 400_000
MAX_SECONDS = 1e5  # of a time in a transcript
TOLERANCE = 0.5  # seconds; transcripts and videos are not exact


class Segment(NamedTuple):
    """Start and end of a segment in its video, in seconds, and its transcript."""

    start: float | None
    end: float | None
    text: str


class Transcripts:
    """Segments of the videos' transcripts, each handed out once.

    Args:
        paths: video -> path of its transcript.
        report: for unreadable lines.
    """

    def __init__(self, paths: dict[str, Path], report: ConversionReport) -> None:
        self.paths = paths
        self.report = report
        self.segments: dict[str, dict[str, Segment]] = {}  # those left of each video that was read

    def take(self, video_id: str, clip_id: str) -> Segment | None:
        if video_id not in self.segments:
            self.segments[video_id] = self._read(video_id)
        return self.segments[video_id].pop(_without_zeros(clip_id), None)

    def _read(self, video_id: str) -> dict[str, Segment]:
        if video_id not in self.paths:
            return {}
        path = self.paths[video_id]
        segments: dict[str, Segment] = {}
        try:
            # Not `splitlines`, which also splits at characters that a transcript may contain.
            lines = re.split(r"\r\n|\r|\n", read_text(path))
        except ValueError:
            self.report.note("unreadable transcript", path.name)
            return {}
        for number, line in enumerate(lines, 1):
            parsed = _parse_line(line, video_id)
            if parsed is None:
                if line.strip():
                    self.report.note("unreadable line in a transcript", f"{path.name}:{number}")
                continue
            clip_id, segment = parsed
            if clip_id in segments:
                self.report.note("repeated segment in a transcript: the first kept", f"{path.name}:{number}")
            segments.setdefault(clip_id, segment)
        return segments


def _parse_line(line: str, video_id: str) -> tuple[str, Segment] | None:
    """The id and the segment of a line of a video's transcript; None if it is not one."""
    prefix = f"{video_id}___"
    if not line.startswith(prefix):
        return None
    try:
        clip_id, start, end, text = line.removeprefix(prefix).split("___", 3)
        times = (float(start), float(end))
    except ValueError:
        return None
    if not all(abs(time) <= MAX_SECONDS for time in times):  # NaN too
        return None
    return _without_zeros(clip_id.strip()), Segment(*times, clean_text(text))


def _without_zeros(clip_id: str) -> str:
    """The number of a segment as transcripts write it: `0` for `00`, and for `0.0` of a table that held floats."""
    number = re.fullmatch(r"0*(\d+)(\.0)?", clip_id)
    return number[1] if number else clip_id


def plan(arguments: argparse.Namespace) -> Corpus:
    """Read labels and transcripts, find the videos.

    Raises:
        FileNotFoundError: there is no table, no transcript or, without `--media none`, no video.
        ValueError: the table is broken, or lacks a column.
    """
    from processing_egmf import BUILT_IN_TASKS

    task = BUILT_IN_TASKS["mosei"]
    report = ConversionReport()
    files = list_files(arguments.source)
    table = find_file(files, ["label.csv"], arguments.source)
    texts = [path for path in files if path.suffix == ".txt" and path.parent.name == "Combined"]
    videos = map_files([path for path in files if path.suffix.lower() == ".mp4"], lambda path: path.stem, report)
    if not texts:
        raise FileNotFoundError(f"{arguments.source} has no Transcript/Segmented/Combined/*.txt.")
    if not videos and arguments.media != "none":
        raise FileNotFoundError(f"{arguments.source} has no Videos/Full/Combined/*.mp4.")
    faceless = _read_names(arguments.no_face)
    for name in sorted(faceless - videos.keys()):
        report.note("video in --no_face that SOURCE does not have", name)
    transcripts = Transcripts(map_files(texts, lambda path: path.stem, report), report)
    examples: dict[str, list[dict[str, Any]]] = {split: [] for split in OFFICIAL}
    for row in read_csv(table, COLUMNS):
        ids = (row["video_id"].strip(), row["clip_id"].strip())
        split = read_split(row["mode"], ids, report)
        if split is None:
            continue
        example = _plan_example(arguments, task, row, ids, transcripts, report)
        if example is None:
            continue
        video = videos.get(example["video_id"])
        example["source"] = None if video is None else str(video)
        example["has_face"] = example["video_id"] not in faceless
        examples[split].append(example)
    note_sizes(SIZES, report)
    for video_id, left in transcripts.segments.items():
        for clip_id in left:
            report.note("segment without a label", f"{video_id}$_${clip_id}")
    return _corpus(arguments, task, examples, table, sorted(faceless), report)


def _plan_example(
    arguments: argparse.Namespace,
    task: "EGMFTask",
    row: dict[str, str],
    ids: tuple[str, str],
    transcripts: Transcripts,
    report: ConversionReport,
) -> dict[str, Any] | None:
    """Turn a row of the table, of the video and clip with these ids, into an example; None if it is dropped."""
    video_id, clip_id = ids
    example_id = f"{video_id}$_${clip_id}"
    answer = check_label(task, row["label"], example_id, report, clamp=True)
    if answer is None:
        return None
    segment = transcripts.take(video_id, clip_id)
    if segment is None:
        report.repair("segment not in the transcripts: text from the table, no clip", example_id)
        segment = Segment(None, None, clean_text(row["text"]))
    segment = _check_times(segment, example_id, report)
    return {
        "id": example_id,
        "task": arguments.task or task.name,
        "text": remove_pauses(segment.text, example_id, report),
        "answer": answer,
        "video_id": video_id,
        "clip_id": clip_id,
        "start_seconds": segment.start,
        "end_seconds": segment.end,
    }


def _check_times(segment: Segment, example_id: str, report: ConversionReport) -> Segment:
    """A segment that starts at 0 or later, or has no times."""
    if segment.start is None:
        return segment
    if segment.end <= max(segment.start, 0.0):
        report.repair("segment that does not end after its start: no clip, text kept", example_id)
        return segment._replace(start=None, end=None)
    if segment.start < 0:
        report.repair("segment with a negative start: starts at 0", example_id)
        return segment._replace(start=0.0)
    return segment


def _corpus(
    arguments: argparse.Namespace,
    task: "EGMFTask",
    examples: dict[str, list[dict[str, Any]]],
    table: Path,
    faceless: list[str],
    report: ConversionReport,
) -> Corpus:
    videos = {example["source"] for part in examples.values() for example in part if example["source"]}
    return Corpus(
        name="CMU-MOSEI",
        examples=examples,
        finish=finish,
        finish_options={"media": arguments.media, "dest": dest_path(arguments)},
        columns=typed_columns(
            task,
            media=media_columns(arguments.media, ("audio", "video")),
            extra=EXTRA_COLUMNS,
        ),
        report=report,
        bytes_per_example=BYTES_PER_CLIP if arguments.media == "embed" else 4 * BYTES_PER_CLIP,
        languages=["en"],
        description="CMU-MOSEI, cut from the full videos by the segments of its transcripts, with the labels of "
        "MMSA's table. Twelve videos show no face; those listed in `--no_face` have only audio.",
        settings={
            "converter": "mosei",
            "media": arguments.media,
            "task": arguments.task,
            "no_face": faceless,
        },
        sources=[table],
        files=videos if arguments.media != "none" else (),
    )


def _read_names(path: Path | None) -> set[str]:
    """The nonblank lines of a file."""
    if path is None:
        return set()
    lines = read_text(path).splitlines()
    return {line.strip() for line in lines if line.strip()}


# ---- in the workers -------------------------------------------------------------------------------------------


def finish(example: dict[str, Any], report: ConversionReport, media: str, dest: str | None) -> dict[str, Any] | None:
    """Cut the clip of an example; None if neither text nor a clip is left."""
    finished = {name: value for name, value in example.items() if name not in PLANNED_ONLY}
    clip = None
    if media != "none" and example["start_seconds"] is not None:
        clip = _store_clip(example, report, media, dest)
    if clip is not None:
        finished["video" if example["has_face"] else "audio"] = clip
    if not finished["text"] and clip is None:
        report.drop("neither text nor a clip", example["id"])
        return None
    return finished


def _store_clip(example: dict[str, Any], report: ConversionReport, media: str, dest: str | None) -> Any:
    """Stored form of the clip; None if it cannot be cut."""
    if example["source"] is None:
        report.repair("video missing: no clip, text kept", example["id"])
        return None
    if not example["has_face"]:
        report.repair("no face in the video: only its audio used", example["id"])
    name = f"{example['video_id']}___{example['clip_id']}.mp4"
    if not is_file_name(name):
        report.repair("id that cannot be the name of a file: no clip, text kept", example["id"])
        return None
    try:
        clip = _cut(example, report)
    except ValueError:
        report.repair("clip cannot be cut: left out, text kept", example["id"])
        return None
    return None if clip is None else store_clip(name, clip, media, dest)


def _cut(example: dict[str, Any], report: ConversionReport) -> bytes | None:
    """The clip as an mp4 file, only its audio if the frames are black; None if the video ends before the segment."""
    from .core.cutting import cut_clip, is_black, video_seconds

    path = Path(example["source"])
    start = example["start_seconds"]
    end = example["end_seconds"]
    seconds = video_seconds(path)
    if start >= seconds:
        report.repair("segment after the end of its video: no clip, text kept", example["id"])
        return None
    if end > seconds + TOLERANCE:
        report.repair("segment that ends after its video: clip cut off there", example["id"])
    clip = cut_clip(path, start, end, example["has_face"])
    if example["has_face"] and is_black(clip):
        report.repair("clip with only black frames: only its audio used", example["id"])
        example["has_face"] = False
        clip = cut_clip(path, start, end, with_video=False)
    return clip


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__.splitlines()[0], "folder with Videos/, Transcript/ and label.csv", media=True)
    parser.add_argument(
        "--no_face",
        type=Path,
        metavar="FILE",
        help="ids of videos without a face, one per line; only their audio is used",
    )
    run(parser, plan, argv)


if __name__ == "__main__":
    main()
