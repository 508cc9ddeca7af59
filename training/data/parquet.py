"""Converted corpora as rows: words and answers in memory, arrays and clips on disk until they are asked for.

    load_converted("data/mosei", "train") ─► rows as in rows.py, with StoredFeatures and StoredMedia in place of files

`datasets` turns the Parquet shards into Arrow files in its cache once; these are mapped into memory, so that a row's
vectors are read from disk when it is used, in each worker, without a copy of the corpus.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa


RECORD = "conversion.json"
LAZY = ("audio", "video", "audio_features", "video_features")


class _Column:
    """One column of a data set in Arrow files, by row."""

    def __init__(self, part: Any, name: str) -> None:
        self.part, self.name = part, name
        self._open()

    def _open(self) -> None:
        column = self.part.data.column(self.name)
        self.chunks = column.chunks
        self.starts = np.cumsum([0, *map(len, self.chunks)])
        self.present = np.concatenate([chunk.is_valid().to_numpy(zero_copy_only=False) for chunk in self.chunks])

    def __getstate__(self) -> dict[str, Any]:
        return {"part": self.part, "name": self.name}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.part, self.name = state["part"], state["name"]
        self._open()

    def __getitem__(self, index: int) -> pa.Scalar:
        chunk = int(np.searchsorted(self.starts, index, side="right")) - 1
        return self.chunks[chunk][index - int(self.starts[chunk])]


class StoredFeatures:
    """(steps, F) float32 that `np.asarray` reads."""

    def __init__(self, column: _Column, index: int) -> None:
        self.column, self.index = column, index

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        vectors = self.column[self.index].values
        values = vectors.flatten().to_numpy(zero_copy_only=True).reshape(len(vectors), -1)
        return values.astype(np.float32 if dtype is None else dtype, copy=True)

    def mark(self) -> list[Any]:
        """What tells them from others without reading all of them: how many steps, and the first."""
        vectors = self.column[self.index].values
        return [len(vectors), vectors[:1].to_pylist()]


class StoredMedia:
    """A clip that lies in the data set."""

    def __init__(self, column: _Column, index: int) -> None:
        self.column, self.index = column, index

    def read(self) -> bytes:
        """The file's bytes."""
        return self.column[self.index]["bytes"].as_py()

    def mark(self) -> list[Any]:
        """What tells it from another without reading it: its name, and how many bytes it has."""
        clip = self.column[self.index]
        return [clip["path"].as_py(), clip["bytes"].as_buffer().size]


def is_converted(folder: str | Path) -> bool:
    """Whether one of training/converters/ made this folder."""
    return (Path(folder) / RECORD).is_file()


def load_converted(folder: str | Path, manifest: str = "official") -> list[dict[str, Any]]:
    """The rows of a converted corpus; those without an answer (of an `unlabeled` split) are left out and counted.

    Args:
        folder: what a converter has made.
        manifest: which splits: `official`, or another file under `splits/`.

    Returns:
        Rows as of `load_examples`: clips as absolute paths or `StoredMedia`, features as `StoredFeatures`.

    Raises:
        ValueError: there is no such manifest, or it and the rows do not belong together.
    """
    import datasets  # seconds; not needed for a corpus of files

    folder = Path(folder)
    # By its files: of a folder with a card, `datasets` knows the name alone in its cache, and would give the rows of
    # another folder of that name, or those from before it was converted again.
    files: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    for path in sorted(folder.glob("data/*.parquet")):
        files.setdefault(path.stem.rsplit("-", 3)[0], []).append(str(path))
    files = {split: names for split, names in files.items() if names}
    parts = datasets.load_dataset("parquet", data_files=files)
    split_of = _read_manifest(folder, manifest)
    rows, without = [], 0
    for part in parts.values():
        lazy = [name for name in LAZY if name in part.column_names]
        # The plain columns alone, read without going through the others.
        plain = part.data.table.select([name for name in part.column_names if name not in lazy]).to_pylist()
        columns = {name: _Column(part, name) for name in lazy} if len(part) else {}
        for index, row in enumerate(plain):
            if row["answer"] is None:
                without += 1
                continue
            if row["id"] not in split_of:
                raise ValueError(f"{folder}: row {row['id']!r} is not in splits/{manifest}.json. Convert it again.")
            row["split"] = split_of[row["id"]]
            if row.get("context") is not None:
                row["context"] = [turn if turn[0] else turn[1] for turn in row["context"]]  # "": no speaker named
            for name, column in columns.items():
                row[name] = _entry(column, index, folder) if column.present[index] else None
            rows.append(row)
    if without:
        print(f"{folder}: {without} rows without an answer are left out.")
    return rows


def _read_manifest(folder: Path, manifest: str) -> dict[str, str]:
    path = folder / f"splits/{manifest}.json"
    if not path.is_file():
        found = ", ".join(sorted(other.stem for other in folder.glob("splits/*.json")))
        raise ValueError(f"{folder} has no split manifest {manifest!r}. It has {found}.")
    splits = json.loads(path.read_text(encoding="utf-8"))["splits"]
    return {name: split for split, names in splits.items() for name in names}


def _entry(column: _Column, index: int, folder: Path) -> Any:
    kind = column.chunks[0].type
    if pa.types.is_list(kind):
        return StoredFeatures(column, index)
    if pa.types.is_struct(kind):
        return StoredMedia(column, index)
    return str((folder / column[index].as_py()).absolute())
