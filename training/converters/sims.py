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
from ..data.split_names import SPLIT_NAMES
from .core.clips import example_bytes, find_file, finish_clip, list_files, map_files
from .core.columns import media_columns, typed_columns
from .core.command import dest_path, make_parser, run
from .core.conversion_report import ConversionReport
from .core.corpus import Corpus
from .core.labels import check_label, check_single_label, clean_text, find_blind_splits
from .core.splits import OFFICIAL, note_sizes, read_split


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
    rows = read_csv(table, COLUMNS)
    for column in (*SINGLE_LABELS, "annotation"):
        if rows and column not in rows[0]:
            report.note("column missing from the table: left empty", column)
    examples, used = _plan_examples(arguments, task, rows, clips, report)
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


def _plan_examples(
    arguments: argparse.Namespace,
    task: "EGMFTask",
    rows: Sequence[dict[str, str]],
    clips: "Clips",
    report: ConversionReport,
) -> tuple[dict[str, list[dict[str, Any]]], set[Path]]:
    """The examples of each split, and the clips that the table has. Those of a split without labels have no answer."""
    examples: dict[str, list[dict[str, Any]]] = {split: [] for split in OFFICIAL}
    used: set[Path] = set()
    labels = [(SPLIT_NAMES.get(row["mode"].strip().casefold(), ""), row["label"]) for row in rows]
    blind = find_blind_splits(labels, report)
    for row in rows:
        ids = (row["video_id"].strip(), row["clip_id"].strip())
        clip = clips.find(*ids)
        if clip is not None:
            used.add(clip)
            ids = _restore_zeros(ids, clip, report)
        split = read_split(row["mode"], ids, report)
        if split is None:
            continue
        answer = None if split in blind else check_label(task, row["label"], "$_$".join(ids), report, step=STEP)
        if answer is not None or split in blind:
            examples[split].append(_plan_example(arguments, task, row, ids, clip, answer, report))
    return examples, used


def _restore_zeros(ids: tuple[str, str], clip: Path, report: ConversionReport) -> tuple[str, str]:
    """The ids in a clip's path, for those of its row in the table."""
    restored = (clip.parent.name, clip.stem)
    if restored != ids:
        report.repair("leading zeros of the ids restored from the clip's name", "$_$".join(restored))
    return restored


def _plan_example(
    arguments: argparse.Namespace,
    task: "EGMFTask",
    row: dict[str, str],
    ids: tuple[str, str],
    clip: Path | None,
    answer: str | float | None,
    report: ConversionReport,
) -> dict[str, Any]:
    """Turn a row of the table, of the video and clip with these ids, into an example."""
    video_id, clip_id = ids
    example_id = f"{video_id}$_${clip_id}"
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
    return example


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
