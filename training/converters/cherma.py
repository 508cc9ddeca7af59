"""CHERMA as released: JSON lists of labels and one .npy file a clip and modality.

    python -m training.converters.cherma CHERMA0723 data/cherma

SOURCE holds `{train,dev,test}.json` (or valid, val), entries with `audio_file` ("x.wav"), `video_file`, `txt_label`,
`audio_label`, `visual_label` and `video_label`, and the features `audio/{split}/x.npy`, `visual/{split}/x.mp4.npy` and
`text/{split}/x.npy`. `video_label` is the multimodal one. The release has no transcripts: `--text_features` takes the
vectors of the text, which training does not read.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from processing_egmf import BUILT_IN_TASKS, EGMFTask

from ..data.tables import read_json_list
from .core.arrays import common_width, load_npy, npy_width, repair_sequence
from .core.columns import typed_columns, vectors
from .core.command import make_parser, run
from .core.conversion_report import ConversionReport
from .core.labels import check_answer
from .core.shards import Corpus
from .core.splits import OFFICIAL, SPLIT_NAMES


KEYS = ("audio_file", "video_file", "txt_label", "audio_label", "visual_label", "video_label")
SINGLE = {"txt_label": "label_text", "audio_label": "label_audio", "visual_label": "label_video"}
FOLDERS = {"audio": ("audio", ".npy"), "video": ("visual", ".mp4.npy"), "text": ("text", ".npy")}


def plan(arguments: argparse.Namespace) -> Corpus:
    """Read the lists, look at the heads of the features.

    Raises:
        FileNotFoundError: no folder, or a split's list is missing.
        ValueError: a list is cut off, or an entry has a key too few.
    """
    task, report = BUILT_IN_TASKS["cherma"], ConversionReport()
    lists = _find_lists(arguments.source)
    modalities = [name for name in FOLDERS if name != "text" or arguments.text_features]
    rows: dict[str, list[dict[str, Any]]] = {}
    for split, path in lists.items():
        entries = read_json_list(path, KEYS)
        report.read[split] += len(entries)
        rows[split] = [
            row for entry in entries if (row := _row(entry, path, modalities, task, arguments, report)) is not None
        ]
    everything = [row for part in rows.values() for row in part]
    widths = {name: common_width(npy_width(Path(row["files"][name])) for row in everything) for name in modalities}
    for row in everything:
        row["widths"] = widths
    columns = typed_columns(
        task, widths["audio"], widths["video"], extra=dict.fromkeys(("audio_file", *SINGLE.values()), "string")
    )
    if widths.get("text"):
        columns["text_features"] = vectors(widths["text"])
    sizes = [
        Path(path).stat().st_size for row in everything[:100] for path in row["files"].values() if Path(path).is_file()
    ]
    return Corpus(
        name="CHERMA",
        rows=rows,
        finish=finish,
        columns=columns,
        report=report,
        bytes_per_row=sum(sizes) // max(1, min(100, len(everything))),
        card={
            "language": ["zh"],
            "task_categories": ["video-classification"],
            "text": "CHERMA, emotions in Chinese television, as released: features, no transcripts and no clips. "
            "`answer` is the label given to everything together, `label_text`, `label_audio` and `label_video` to one "
            "modality alone.",
        },
        settings={"converter": "cherma", "task": arguments.task, "text_features": arguments.text_features},
        sources=list(lists.values()),
        files=[file for row in everything for file in row["files"].values()],
    )


def _find_lists(source: Path) -> dict[str, Path]:
    if not source.is_dir():
        raise FileNotFoundError(f"There is no folder {source}.")
    found = {}
    for split in OFFICIAL:
        names = [f"{name}.json" for name, ours in SPLIT_NAMES.items() if ours == split]
        path = next((source / name for name in names if (source / name).is_file()), None)
        if path is None:
            raise FileNotFoundError(f"{source} holds no {' or '.join(names)}.")
        found[split] = path
    return found


def _row(
    entry: dict[str, Any],
    path: Path,
    modalities: Sequence[str],
    task: EGMFTask,
    arguments: argparse.Namespace,
    report: ConversionReport,
) -> dict[str, Any] | None:
    stem = str(entry["audio_file"]).removesuffix(".wav")
    answer = check_answer(task, entry["video_label"], stem, report)
    if answer is None:
        return None
    row = {
        "id": stem,
        "task": arguments.task or task.name,
        "text": None,
        "answer": answer,
        "audio_file": str(entry["audio_file"]),
        "files": {
            name: str(arguments.source / folder / path.stem / f"{Path(stem).name}{ending}")
            for name, (folder, ending) in FOLDERS.items()
            if name in modalities
        },
    }
    for released, column in SINGLE.items():
        label = str(entry[released]).strip()
        row[column] = label if label in task.labels else None
        if row[column] is None:
            report.repair(f"{column} is no label of the task: left out", stem)
    return row


def finish(row: dict[str, Any], report: ConversionReport) -> dict[str, Any] | None:
    """Read and repair the vectors of a row."""
    finished = {key: value for key, value in row.items() if key not in ("files", "widths")}
    for modality, path in row["files"].items():
        width, values = row["widths"][modality], load_npy(Path(path), row["id"], modality, report)
        if values is not None and width is None:
            report.repair(f"{modality} features are no sequence of vectors: left out", row["id"])
        elif values is not None:
            finished[f"{modality}_features"] = repair_sequence(values, None, row["id"], modality, report, width)
    if finished.get("audio_features") is None and finished.get("video_features") is None:
        report.drop("no features that can be used", row["id"])
        return None
    return finished


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__.splitlines()[0], "folder CHERMA0723, with the JSON lists")
    parser.add_argument("--text_features", action="store_true", help="take the vectors of the text as well")
    run(parser, plan, argv)


if __name__ == "__main__":
    main()
