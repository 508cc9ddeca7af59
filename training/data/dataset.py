"""Rows: one sample each, as they lie on disk.

A corpus is a folder with `metadata.jsonl` or `metadata.csv` (UTF-8) beside its media, what a converter has made (see
converted.py), or another folder of Parquet files.
Columns, all but `answer` optional:

    id             name used in messages and results (default: its number)
    split          train, validation, test
    task           a task of the processor (default: its first)
    text           what was said
    audio, video   paths relative to the folder; without `audio` the video's own sound track is heard
    audio_features, video_features   paths of .npy files, (steps, width)
    context        earlier turns, oldest first: a list of words or [speaker, words] (JSON in a CSV cell)
    answer         label, or score
"""

import difflib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset
from tqdm import tqdm

from processing_egmf import EGMFProcessor

from .encoder_cache import EncoderCache
from .parquet import StoredMedia, is_converted, load_converted
from .tables import COLUMNS, MEDIA, find_metadata, read_metadata
from .windows import load_window


def load_examples(folder: str | Path, split: str | None = None, manifest: str = "official") -> list[dict[str, Any]]:
    """The rows of a corpus, with media as absolute paths; of a converted one, arrays and embedded clips stay on disk.

    Args:
        folder: the corpus.
        split: these rows alone.
        manifest: which splits of a converted corpus, by the name of a file under its `splits/`.

    Raises:
        ValueError: no corpus there, a missing column or file, a duplicated id, or an empty split.
    """
    folder = Path(folder)
    metadata = find_metadata(folder)
    converted = is_converted(folder)
    if manifest != "official" and not converted:
        raise ValueError(f"{folder} was not made by a converter: it has no split manifest {manifest!r}.")
    if converted:
        rows = load_converted(folder, manifest)
    elif metadata is not None:
        rows = read_metadata(metadata)
    elif list(folder.glob("**/*.parquet")):
        import datasets

        loaded = datasets.load_dataset("parquet", data_dir=str(folder))  # by its files: see converted.py
        rows = [dict(row, split=row.get("split") or name) for name, part in loaded.items() for row in part]
    else:
        raise ValueError(f"{folder} is no corpus: it holds neither metadata.jsonl, metadata.csv nor Parquet files.")
    for column in dict.fromkeys(column for row in rows if not converted for column in row):
        near = [] if column in COLUMNS else difflib.get_close_matches(column, COLUMNS, n=1, cutoff=0.75)
        if near and near[0] not in rows[0]:
            raise ValueError(f"{folder}: unknown column {column!r}. Did you mean {near[0]!r}?")
    seen: dict[str, int] = {}
    for number, row in enumerate(rows):
        row["id"] = str(row.get("id") if row.get("id") is not None else number)
        if row["id"] in seen:
            raise ValueError(f"{folder}: rows {seen[row['id']]} and {number} share the id {row['id']!r}.")
        seen[row["id"]] = number
    if split is not None:
        splits = sorted({str(row.get("split")) for row in rows})
        rows = [row for row in rows if row.get("split") == split]
        if not rows:
            raise ValueError(f"{folder} has no rows of split {split!r}. It has {', '.join(splits)}.")
    for row in rows:
        if row.get("answer") in (None, ""):
            raise ValueError(f"{folder}: row {row['id']!r} has no `answer`.")
        for name in MEDIA:
            if isinstance(row.get(name), str):
                path = folder / row[name]
                if not path.is_file():
                    raise ValueError(f"{folder}: row {row['id']!r} names {name} {row[name]!r}, which is not there.")
                row[name] = str(path.absolute())
    return rows


def _load_features(features: Any, name: str) -> Any:
    """An array as it is, or from the .npy file that a row names."""
    if not isinstance(features, str):
        return features
    try:
        return np.load(features, allow_pickle=False)
    except Exception as error:  # what numpy raises depends on the damage: a damaged header is parsed as Python
        raise ValueError(f"{name}: {features} is no readable .npy file of numbers ({error}).") from error


def _stored(clip: Any) -> Any:
    """A clip as it is, or its bytes where it lies in a converted corpus."""
    return clip.read() if isinstance(clip, StoredMedia) else clip


class EGMFDataset(Dataset):
    """Rows as a torch data set; with `cache_media` each clip is decoded once and kept.

    Args:
        rows: from `load_examples`.
        processor: decodes the media and knows the tasks; every answer is checked against its task here.
        cache_media: keep decoded clips in memory.
        encoder_cache: what frozen encoders gave for the clips; these are not decoded again.
    """

    def __init__(
        self,
        rows: list[dict[str, Any]],
        processor: EGMFProcessor,
        cache_media: bool = False,
        encoder_cache: EncoderCache | None = None,
    ):
        self.rows = []
        self.processor, self.encoder_cache = processor, encoder_cache
        default = next(iter(processor.task_objects))
        for row in rows:
            row = dict(row, task=row.get("task") or default)
            task = processor.task_objects.get(row["task"])
            if task is None:
                raise ValueError(
                    f"Row {row['id']!r}: unknown task {row['task']!r}. Known are {', '.join(processor.task_objects)}. "
                    "Define your own where the model is trained (--tasks_file)."
                )
            if not isinstance(row.get("text") or "", str):
                raise ValueError(f"Row {row['id']!r}: text is {row['text']!r}; it must be a string. Quote it.")
            if task.kind == "regression" and isinstance(row["answer"], str):
                try:
                    row["answer"] = float(row["answer"])
                except ValueError as error:
                    raise ValueError(f"Row {row['id']!r}: {row['answer']!r} is no number.") from error
            row["label_index"] = task.index(row["answer"], f"row {row['id']!r}")
            if encoder_cache is not None:
                row["states"] = encoder_cache.keys(row)
            self.rows.append(row)
        self.media: list[dict[str, np.ndarray]] | None = None
        if cache_media:
            self.media = self._decode_all()

    def _decode_all(self) -> list[dict[str, np.ndarray]]:
        pool = ThreadPoolExecutor(os.cpu_count())  # FFmpeg decodes without Python's lock
        try:
            decoded = pool.map(self.decode, self.rows)
            return list(tqdm(decoded, total=len(self.rows), desc="decoding clips", unit="clip"))
        finally:
            pool.shutdown(cancel_futures=True)

    def decode(self, row: dict[str, Any], modalities: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """The clip of a row as arrays that the processor takes; what this model has no encoder for is left alone.

        Args:
            modalities: these alone; None for all whose encoder's outputs are not stored.
        """
        name = f"row {row['id']!r}"
        if modalities is None:
            modalities = [
                name
                for name in ("audio", "video")
                if self.encoder_cache is None or name not in self.encoder_cache.stems
            ]
        kinds = {"audio": self.processor.audio_input, "video": self.processor.video_input}
        wanted = {name: kinds[name] for name in modalities if kinds[name] is not None}
        sources: dict[str, Any] = {}
        for modality, kind in wanted.items():
            if kind == "features":
                sources[f"{modality}_features"] = _load_features(row.get(f"{modality}_features"), name)
            else:
                sources[modality] = _stored(row.get(modality))
        if wanted.get("audio") == "waveform" and row.get("audio") is None and "video" not in sources:
            # The processor hears the video's own sound track.
            heard = "audio" if wanted.get("video") == "features" else "video"
            sources[heard] = _stored(row.get("video"))
        if row.get("window") is not None:
            return load_window(self.processor, row["window"], name=name, modalities=tuple(wanted), **sources)
        return self.processor.load_media(name=name, modalities=tuple(wanted), **sources)

    def without(self, modalities: Sequence[str]) -> list[str]:
        """Ids of the rows that have none of these modalities. Where clips are not in memory, what a row names counts:
        of a video, that it can be heard too."""
        columns = {"waveform": ("audio", "video"), "frames": ("video",), None: ()}
        kinds = {"audio": self.processor.audio_input, "video": self.processor.video_input}
        named = {modality: columns.get(kind, (f"{modality}_features",)) for modality, kind in kinds.items()}
        empty = []
        for index, row in enumerate(self.rows):
            if self.media is not None:
                there = {name.removesuffix("_features") for name in (*self.media[index], *row.get("states", ()))}
            else:
                there = {m for m, names in named.items() if any(row.get(name) is not None for name in names)}
            if (row.get("text") or "").strip():
                there.add("text")
            if not there & set(modalities):
                empty.append(row["id"])
        return empty

    def leave_out(self, ids: Sequence[str]) -> None:
        """Go on without these rows."""
        gone = set(ids)
        kept = [index for index, row in enumerate(self.rows) if row["id"] not in gone]
        if self.media is not None:
            self.media = [self.media[index] for index in kept]
        self.rows = [self.rows[index] for index in kept]

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row's words, for grouping rows of like length."""
        words = [" ".join([row.get("text") or "", *map(str, row.get("context") or ())]) for row in self.rows]
        return [len(ids) for ids in self.processor.tokenizer(words, add_special_tokens=False)["input_ids"]]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.rows[index]
        media = self.media[index] if self.media is not None else self.decode(row)
        kept = {name: row.get(name) for name in ("id", "clip", "task", "text", "context", "answer", "label_index")}
        states = {m: self.encoder_cache.read(m, key) for m, key in row.get("states", {}).items()}
        kept["states"] = {modality: values for modality, values in states.items() if len(values)}
        return {**kept, "media": media}
