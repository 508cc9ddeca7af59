"""Typed columns of a converted corpus: first those that training reads, then the release's own.

`datasets` is imported where it is used: it takes seconds, and `--help` does not need it.
"""

from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    import datasets

    from processing_egmf import EGMFTask


def typed_columns(
    task: "EGMFTask",
    audio_width: int | None = None,
    video_width: int | None = None,
    media: dict[str, Any] | None = None,
    context: bool = False,
    extra: dict[str, str] | None = None,
) -> "datasets.Features":
    """`id`, `task`, `text`, media, features, `context`, `answer`, and then the others.

    Args:
        task: decides the type of `answer`: labels are stored by name, scores as numbers.
        audio_width, video_width: width of the features; None if there are none.
        media: from `media_columns`.
        context: whether earlier turns are stored, as [speaker, text].
        extra: column -> `string`, `int32` or `float32`.
    """
    import datasets

    string = datasets.Value("string")
    columns: dict[str, Any] = {"id": string, "task": string, "text": string}
    columns |= media or {}
    if audio_width is not None:
        columns["audio_features"] = vectors(audio_width)
    if video_width is not None:
        columns["video_features"] = vectors(video_width)
    if context:
        columns["context"] = datasets.List(datasets.List(string))
    columns["answer"] = string if task.kind == "classification" else datasets.Value("float64")
    for name, dtype in (extra or {}).items():
        columns[name] = datasets.Value(dtype)
    return datasets.Features(columns)


def vectors(width: int) -> "datasets.List":
    """Type of a sequence of float32 vectors of this width."""
    import datasets

    return datasets.List(datasets.List(datasets.Value("float32"), length=width))


def media_columns(media: str, names: tuple[str, ...] = ("video",)) -> dict[str, Any]:
    """Types of the columns that hold clips.

    Args:
        media: a choice of `--media`: `paths`, `embed` or `none`.
        names: `audio`, `video`, or both.
    """
    import datasets

    if media == "none":
        return {}
    if media == "paths":
        return {name: datasets.Value("string") for name in names}
    embedded = {"video": datasets.Video(decode=False), "audio": datasets.Audio(decode=False)}
    return {name: embedded[name] for name in names}
