"""CHERMA: JSON lists of labels, and one .npy file per clip and modality.

    python -m training.converters.cherma CHERMA0723 data/cherma

SOURCE holds `{train,dev,test}.json` (or valid, val), whose entries have `audio_file` ("x.wav"), `video_file`,
`txt_label`, `audio_label`, `visual_label` and `video_label`, and the features `audio/{split}/x.npy`,
`visual/{split}/x.mp4.npy` and `text/{split}/x.npy`. `video_label` is the multimodal label. The release has no
transcripts; `--text_features` stores its text features, which training ignores.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.split_names import SPLIT_NAMES
from ..data.tables import read_json_list
from ..data.text_files import shorten
from .core.arrays import common_width, load_npy, npy_width, repair_sequence
from .core.clips import check_different
from .core.columns import typed_columns, vectors
from .core.command import make_parser, run
from .core.conversion_report import ConversionReport
from .core.corpus import Corpus
from .core.labels import check_label
from .core.splits import OFFICIAL


if TYPE_CHECKING:
    from processing_egmf import EGMFTask


KEYS = ("audio_file", "video_file", "txt_label", "audio_label", "visual_label", "video_label")
SINGLE_LABELS = {"txt_label": "label_text", "audio_label": "label_audio", "visual_label": "label_video"}
FOLDERS = {"audio": ("audio", ".npy"), "video": ("visual", ".mp4.npy"), "text": ("text", ".npy")}
SAMPLED = 100  # examples whose files are measured


def plan(arguments: argparse.Namespace) -> Corpus:
    """Read the lists and the headers of the feature files.

    Raises:
        FileNotFoundError: the folder or a split's list is missing.
        ValueError: a list is broken, or an entry lacks a key.
    """
    from processing_egmf import BUILT_IN_TASKS

    task = BUILT_IN_TASKS["cherma"]
    report = ConversionReport()
    lists = find_lists(arguments.source)
    check_different(lists.values())
    modalities = ["audio", "video", "text"] if arguments.text_features else ["audio", "video"]
    examples: dict[str, list[dict[str, Any]]] = {}
    for split, path in lists.items():
        entries = read_json_list(path, KEYS)
        if not entries:
            raise ValueError(f"{path} has no entries. Download it again.")
        for number, entry in enumerate(entries):
            _check_name(entry["audio_file"], f"{path}, entry {number}")
        report.read[split] += len(entries)
        planned = [_plan_example(entry, path, modalities, task, arguments, report) for entry in entries]
        examples[split] = [example for example in planned if example is not None]
    everything = [example for part in examples.values() for example in part]
    widths = {}
    for modality in modalities:
        widths[modality] = common_width(npy_width(Path(example["files"][modality])) for example in everything)
    extra = ("audio_file", *SINGLE_LABELS.values())
    columns = typed_columns(task, widths["audio"], widths["video"], extra=dict.fromkeys(extra, "string"))
    if widths.get("text"):
        columns["text_features"] = vectors(widths["text"])
    return Corpus(
        name="CHERMA",
        examples=examples,
        finish=finish,
        finish_options={"widths": widths},
        columns=columns,
        report=report,
        bytes_per_example=_bytes_per_example(everything[:SAMPLED]),
        languages=["zh"],
        description="CHERMA, emotions in Chinese television, as released: features, no transcripts and no clips. "
        "`answer` is the label of text, audio and video together; `label_text`, `label_audio` and `label_video` are "
        "the labels of one modality each.",
        settings={"converter": "cherma", "task": arguments.task, "text_features": arguments.text_features},
        sources=list(lists.values()),
        files=[file for example in everything for file in example["files"].values()],
    )


def find_lists(source: Path) -> dict[str, Path]:
    """Map each split to its JSON list, which may have any of the split's names."""
    if not source.is_dir():
        raise FileNotFoundError(f"There is no folder {source}.")
    lists = {}
    for split in OFFICIAL:
        names = [f"{name}.json" for name, ours in SPLIT_NAMES.items() if ours == split]
        paths = [source / name for name in names if (source / name).is_file()]
        if not paths:
            raise FileNotFoundError(f"{source} has no {' or '.join(names)}.")
        lists[split] = paths[0]
    return lists


def _check_name(name: Any, place: str) -> None:
    if not isinstance(name, str) or not Path(name).stem:
        raise ValueError(f"{place}: audio_file is {shorten(name)}; it must be the name of a file, such as x.wav.")


def _plan_example(
    entry: dict[str, Any],
    path: Path,
    modalities: Sequence[str],
    task: "EGMFTask",
    arguments: argparse.Namespace,
    report: ConversionReport,
) -> dict[str, Any] | None:
    """Turn an entry into an example; None if it is dropped."""
    name = entry["audio_file"].removesuffix(".wav")
    answer = check_label(task, entry["video_label"], name, report)
    if answer is None:
        return None
    files = {}
    for modality in modalities:
        folder, ending = FOLDERS[modality]
        files[modality] = str(arguments.source / folder / path.stem / f"{Path(name).name}{ending}")
    example = {
        "id": name,
        "task": arguments.task or task.name,
        "text": None,
        "answer": answer,
        "audio_file": entry["audio_file"],
        "files": files,
    }
    if Path(str(entry["video_file"])).stem != Path(name).name:
        report.note("video_file of another name than audio_file, by which the features are found", name)
    for released, column in SINGLE_LABELS.items():
        label = str(entry[released]).strip()
        example[column] = label if label in task.labels else None
        if example[column] is None:
            report.repair(f"{column} is not a label of the task: left out", name)
    return example


def _bytes_per_example(examples: Sequence[dict[str, Any]]) -> int:
    paths = [Path(file) for example in examples for file in example["files"].values()]
    total = sum(path.stat().st_size for path in paths if os.path.isfile(path))
    return total // max(1, len(examples))


def finish(example: dict[str, Any], report: ConversionReport, widths: dict[str, int | None]) -> dict[str, Any] | None:
    """Read and repair the vectors of an example; None if neither audio nor video features are left."""
    finished = {name: value for name, value in example.items() if name != "files"}
    for modality, path in example["files"].items():
        width = widths[modality]
        values = load_npy(Path(path), example["id"], modality, report)
        if values is None:
            continue
        if width is None:
            report.repair(f"{modality} features are not a sequence of vectors: left out", example["id"])
            continue
        finished[f"{modality}_features"] = repair_sequence(values, None, example["id"], modality, report, width)
    if finished.get("audio_features") is None and finished.get("video_features") is None:
        report.drop("no usable features", example["id"])
        return None
    return finished


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__.splitlines()[0], "folder CHERMA0723, with the JSON lists")
    parser.add_argument("--text_features", action="store_true", help="also store the text features")
    run(parser, plan, argv)


if __name__ == "__main__":
    main()
