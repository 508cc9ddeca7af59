"""CH-SIMS and CH-SIMS v2 as released: a table of labels and one mp4 a clip.

    python -m training.converters.sims SIMS data/sims_v2 --corpus sims_v2

SOURCE holds `label.csv` (v2: `meta.csv`) and `Raw/<video_id>/<clip_id>.mp4`. Both ids are text with leading zeros;
where a spreadsheet has eaten those of the table, the file's name brings them back. A row whose clip is missing or
broken keeps its words.
"""

import argparse
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
from .core.splits import SPLIT_NAMES


CORPORA = {"sims": ("CH-SIMS", "label.csv"), "sims_v2": ("CH-SIMS v2", "meta.csv")}
COLUMNS = ("video_id", "clip_id", "text", "label", "mode")
SINGLE = {"label_T": "label_text", "label_A": "label_audio", "label_V": "label_video"}


def plan(arguments: argparse.Namespace) -> Corpus:
    """Read the table and find the clips.

    Raises:
        FileNotFoundError: no table, or no clips though they are wanted.
        ValueError: a column is missing, or the table is broken.
    """
    name, usual = CORPORA[arguments.corpus]
    task, report = BUILT_IN_TASKS["sims_v2"], ConversionReport()
    files = files_below(arguments.source)
    table = find_file(files, [usual, *(other for _, other in CORPORA.values())], arguments.source)
    clips = {(path.parent.name, path.stem): path for path in files if path.suffix.lower() == ".mp4"}
    if arguments.media != "none" and not clips:
        raise FileNotFoundError(f"{arguments.source} holds no mp4 files. Take --media none for the words alone.")
    bare: dict[tuple[str, str], list[Path]] = {}
    for (video, clip), path in clips.items():
        bare.setdefault((video.lstrip("0"), clip.lstrip("0")), []).append(path)
    rows: dict[str, list[dict[str, Any]]] = {"train": [], "validation": [], "test": []}
    used: set[Path] = set()
    for line in read_csv(table, COLUMNS):
        video, clip = line["video_id"].strip(), line["clip_id"].strip()
        path = find_clip(clips, bare, video, clip)
        if path is not None:
            used.add(path)
            if (path.parent.name, path.stem) != (video, clip):
                video, clip = path.parent.name, path.stem
                report.repair("leading zeros of the ids taken from the clip's name", f"{video}$_${clip}")
        split = SPLIT_NAMES.get(line["mode"].strip().casefold())
        report.read[split or "unknown"] += 1
        if split is None:
            report.drop(f"unknown mode {line['mode']!r}", f"{video}$_${clip}")
        elif (row := _row(arguments, video, clip, line, path, report)) is not None:
            rows[split].append(row)
    for path in sorted(set(clips.values()) - used):
        report.note("clip without a label", f"{path.parent.name}$_${path.stem}")
    return Corpus(
        name=name,
        rows=rows,
        finish=finish_clip,
        columns=typed_columns(
            task,
            media=media_columns(arguments.media),
            extra={
                **dict.fromkeys(("video_id", "clip_id", "annotation"), "string"),
                **dict.fromkeys(SINGLE.values(), "float32"),
            },
        ),
        report=report,
        bytes_per_row=row_size(used, arguments.media),
        card={
            "language": ["zh"],
            "task_categories": ["video-classification"],
            "text": f"{name} as released, one row a clip. `answer` is the sentiment judged from everything, "
            "`label_text`, `label_audio` and `label_video` from one modality alone.",
        },
        settings={"converter": "sims", "corpus": arguments.corpus, "media": arguments.media, "task": arguments.task},
        sources=[table],
        files=used if arguments.media != "none" else (),
        disjoint=True,
    )


def _row(
    arguments: argparse.Namespace,
    video: str,
    clip: str,
    line: dict[str, str],
    path: Path | None,
    report: ConversionReport,
) -> dict[str, Any] | None:
    task, identity = BUILT_IN_TASKS["sims_v2"], f"{video}$_${clip}"
    answer = check_answer(task, line["label"], identity, report, grid=0.2)
    if answer is None:
        return None
    return {
        "id": identity,
        "task": arguments.task or task.name,
        "text": clean_text(line["text"]),
        "video": str(path) if path else None,
        "answer": answer,
        "video_id": video,
        "clip_id": clip,
        "annotation": line.get("annotation") or None,
        **{column: single_label(line.get(released)) for released, column in SINGLE.items()},
        "media": arguments.media,
        "dest": dest_of(arguments),
        "longest": None,
    }


def find_clip(
    clips: dict[tuple[str, str], Path], bare: dict[tuple[str, str], list[Path]], video: str, clip: str
) -> Path | None:
    """The clip of these ids, or the only one that has them but for leading zeros."""
    near = bare.get((video.lstrip("0"), clip.lstrip("0")), [])
    return clips.get((video, clip), near[0] if len(near) == 1 else None)


def single_label(value: str | None) -> float | None:
    """A label of one modality; what is no number is none."""
    try:
        return float(value) if value else None
    except ValueError:
        return None


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__.splitlines()[0], "folder with label.csv or meta.csv, and Raw/", media=True)
    parser.add_argument("--corpus", required=True, choices=list(CORPORA), help="which corpus it is")
    run(parser, plan, argv)


if __name__ == "__main__":
    main()
