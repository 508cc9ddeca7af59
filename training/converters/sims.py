"""CH-SIMS and CH-SIMS v2, raw: a table of labels and one mp4 per clip.

    python -m training.converters.sims SIMS data/sims_v2_raw --corpus sims_v2

SOURCE holds `label.csv` (v2: `meta.csv`) and `Raw/<video_id>/<clip_id>.mp4`. Both ids are text with leading zeros; if
a spreadsheet has stripped them from the table, they are restored from the clip's path. An example whose clip is
missing or broken keeps its text.
"""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.csv_tables import read_csv
from ..data.text_files import shorten
from .core.clips import example_bytes, find_file, finish_clip, list_files, map_files
from .core.columns import media_columns, typed_columns
from .core.command import dest_path, make_parser, run
from .core.conversion_report import ConversionReport
from .core.corpus import Corpus
from .core.labels import check_label, check_single_label, clean_text, find_blind_splits
from .core.splits import OFFICIAL, SPLIT_NAMES, note_sizes


if TYPE_CHECKING:
    from processing_egmf import EGMFTask


CORPORA = {"sims": ("CH-SIMS", "label.csv"), "sims_v2": ("CH-SIMS v2", "meta.csv")}
SIZES = {
    "sims": {"train": 1368, "validation": 456, "test": 457},
    "sims_v2": {"train": 2722, "validation": 647, "test": 1034},
}
COLUMNS = ("video_id", "clip_id", "text", "label", "mode")
SINGLE_LABELS = {"label_T": "label_text", "label_A": "label_audio", "label_V": "label_video"}
EXTRA_COLUMNS = {
    "video_id": "string",
    "clip_id": "string",
    "annotation": "string",
    **dict.fromkeys(SINGLE_LABELS.values(), "float32"),
}
STEP = 0.2  # distance between scores


def plan(arguments: argparse.Namespace) -> Corpus:
    """Read the table and find the clips.

    Raises:
        FileNotFoundError: there is no table or, without `--media none`, no clip.
        ValueError: the table is broken, or lacks a column.
    """
    from processing_egmf import BUILT_IN_TASKS

    name, table_name = CORPORA[arguments.corpus]
    task = BUILT_IN_TASKS["sims_v2"]
    report = ConversionReport()
    files = list_files(arguments.source)
    other_names = [other for _, other in CORPORA.values() if other != table_name]
    table = find_file(files, [table_name, *other_names], arguments.source)
    clips = Clips([path for path in files if path.suffix.lower() == ".mp4"], report)
    if arguments.media != "none" and not clips.paths:
        raise FileNotFoundError(f"{arguments.source} has no mp4 files. Use --media none to convert only the text.")
    examples: dict[str, list[dict[str, Any]]] = {split: [] for split in OFFICIAL}
    used: set[Path] = set()
    rows = read_csv(table, COLUMNS)
    for column in (*SINGLE_LABELS, "annotation"):
        if rows and column not in rows[0]:
            report.note("column missing from the table: left empty", column)
    labels = [(SPLIT_NAMES.get(row["mode"].strip().casefold(), ""), row["label"]) for row in rows]
    blind = find_blind_splits(labels, report)
    for row in rows:
        clip = clips.find(row["video_id"].strip(), row["clip_id"].strip())
        if clip is not None:
            used.add(clip)
        split, example = _plan_example(arguments, task, row, clip, report, blind)
        if example is not None:
            examples[split].append(example)
    note_sizes(SIZES[arguments.corpus], report)
    for path in sorted(set(clips.paths.values()) - used):
        report.note("clip without a label", f"{path.parent.name}$_${path.stem}")
    return Corpus(
        name=name,
        examples=examples,
        finish=finish_clip,
        finish_options={"media": arguments.media, "dest": dest_path(arguments)},
        columns=typed_columns(task, media=media_columns(arguments.media), extra=EXTRA_COLUMNS),
        report=report,
        bytes_per_example=example_bytes(used, arguments.media),
        languages=["zh"],
        description=f"{name} as released, one row per clip. `answer` is the sentiment rated from text, audio and "
        "video together; `label_text`, `label_audio` and `label_video` were rated from one modality each.",
        settings={
            "converter": "sims",
            "corpus": arguments.corpus,
            "media": arguments.media,
            "task": arguments.task,
        },
        sources=[table],
        files=used if arguments.media != "none" else (),
        disjoint=True,
    )


def _plan_example(
    arguments: argparse.Namespace,
    task: "EGMFTask",
    row: dict[str, str],
    clip: Path | None,
    report: ConversionReport,
    blind: set[str],
) -> tuple[str | None, dict[str, Any] | None]:
    """Split and example of a row of the table; the example is None if it is dropped. Those of `blind` splits have no
    answer."""
    video_id = row["video_id"].strip()
    clip_id = row["clip_id"].strip()
    if clip is not None and (clip.parent.name, clip.stem) != (video_id, clip_id):
        video_id = clip.parent.name
        clip_id = clip.stem
        report.repair("leading zeros of the ids restored from the clip's name", f"{video_id}$_${clip_id}")
    example_id = f"{video_id}$_${clip_id}"
    split = SPLIT_NAMES.get(row["mode"].strip().casefold())
    report.read[split or "unknown"] += 1
    if split is None:
        report.drop(f"unknown mode {shorten(row['mode'])}", example_id)
        return None, None
    if not video_id or not clip_id:
        report.drop("no video_id or clip_id", example_id)
        return split, None
    answer = None if split in blind else check_label(task, row["label"], example_id, report, step=STEP)
    if answer is None and split not in blind:
        return split, None
    example = {
        "id": example_id,
        "task": arguments.task or task.name,
        "text": clean_text(row["text"]),
        "video": None if clip is None else str(clip),
        "answer": answer,
        "video_id": video_id,
        "clip_id": clip_id,
        "annotation": row.get("annotation") or None,
    }
    for released, column in SINGLE_LABELS.items():
        example[column] = check_single_label(task, row.get(released), column, example_id, report)
    return split, example


class Clips:
    """Clips by the ids in their paths.

    Args:
        paths: `<video_id>/<clip_id>.mp4` in any folder.
        report: for second files with the same ids.
    """

    def __init__(self, paths: Iterable[Path], report: ConversionReport) -> None:
        self.paths = map_files(paths, lambda path: (path.parent.name, path.stem), report)
        self.without_zeros: dict[tuple[str, str], list[Path]] = {}
        for (video_id, clip_id), path in self.paths.items():
            key = (video_id.lstrip("0"), clip_id.lstrip("0"))
            self.without_zeros.setdefault(key, []).append(path)

    def find(self, video_id: str, clip_id: str) -> Path | None:
        """The clip with these ids, or the only clip with them when leading zeros are ignored."""
        exact = self.paths.get((video_id, clip_id))
        if exact is not None:
            return exact
        similar = self.without_zeros.get((video_id.lstrip("0"), clip_id.lstrip("0")), [])
        return similar[0] if len(similar) == 1 else None


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__.splitlines()[0], "folder with label.csv or meta.csv, and Raw/", media=True)
    parser.add_argument("--corpus", required=True, choices=list(CORPORA), help="corpus in SOURCE")
    run(parser, plan, argv)


if __name__ == "__main__":
    main()
