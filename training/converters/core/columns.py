"""Columns of a converted corpus, typed: those that training reads, in their order, and what else a release tells."""

from typing import Any

import datasets

from processing_egmf import EGMFTask


def typed_columns(
    task: EGMFTask,
    audio_width: int | None = None,
    video_width: int | None = None,
    media: dict[str, Any] | None = None,
    context: bool = False,
    extra: dict[str, str] | None = None,
) -> datasets.Features:
    """`id`, `task`, `text`, media, features, `context`, `answer`, and then the others.

    Args:
        task: a label is stored by its name, a score as a number.
        audio_width, video_width: F of the features, None where there are none.
        media: `audio` and `video` -> their `datasets` type.
        context: earlier turns as [speaker, words].
        extra: column -> `string`, `int32` or `float32`.
    """
    string = datasets.Value("string")
    columns: dict[str, Any] = {"id": string, "task": string, "text": string, **(media or {})}
    for name, width in (("audio_features", audio_width), ("video_features", video_width)):
        if width is not None:
            columns[name] = vectors(width)
    if context:
        columns["context"] = datasets.List(datasets.List(string))
    columns["answer"] = string if task.kind == "classification" else datasets.Value("float64")
    columns |= {name: datasets.Value(kind) for name, kind in (extra or {}).items()}
    return datasets.Features(columns)


def vectors(width: int) -> datasets.List:
    """Any number of steps, each a float32 vector of this width."""
    return datasets.List(datasets.List(datasets.Value("float32"), length=width))
