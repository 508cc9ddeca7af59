"""A planned corpus: the result of a converter's `plan`, and the input of `convert_corpus`."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .conversion_report import ConversionReport
from .folds import SpeakerFolds


if TYPE_CHECKING:
    import datasets


@dataclass
class Corpus:
    """The examples of a corpus before their arrays and clips are read, and how to finish them.

    Args:
        name: of the corpus, in its card.
        examples: split -> planned examples in order: their values, and where their arrays and clips are. Each has
            `id`.
        finish: module-level function `finish(example, report, **finish_options)` that completes a planned example, or
            returns None if it has nothing usable.
        columns: typed columns of the corpus.
        report: what the plan repaired, dropped and noted, and how many examples of each split were read.
        bytes_per_example: approximate size of a finished example.
        languages: codes, for the card.
        description: for the card: what is special about this release.
        settings: options on which the result depends.
        finish_options: keyword arguments of `finish`, the same for every example.
        sources: files whose size and modification time identify the release.
        files: clips and features named by the examples, whether or not they exist; they also identify the release.
        disjoint: also write a video-disjoint manifest, by the examples' `video_id`.
        folds: also write a manifest for each of these folds; None if the release has splits of its own.
        tasks: name -> fields of tasks that are not built in; they are written to `tasks.yaml`.
        advice: for the error if most labels are not those of the task; empty for the usual one.
    """

    name: str
    examples: dict[str, list[dict[str, Any]]]
    finish: Callable[..., dict[str, Any] | None]
    columns: "datasets.Features"
    report: ConversionReport
    bytes_per_example: int
    languages: list[str]
    description: str
    settings: dict[str, Any]
    finish_options: dict[str, Any] = field(default_factory=dict)
    sources: list[Path] = field(default_factory=list)
    files: Iterable[str | Path] = ()
    disjoint: bool = False
    folds: SpeakerFolds | None = None
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)
    advice: str = ""
