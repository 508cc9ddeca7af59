"""Converted corpora as examples: text and answers in memory, arrays and clips on disk until they are used.

    load_converted("data/mosei") ─► examples as in dataset.py, with StoredFeatures and StoredMedia instead of paths

`datasets` converts the Parquet shards once into Arrow files in its cache. These are memory-mapped: every worker reads
an example's vectors from disk when it uses them, and none holds a copy of the corpus.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ..records import read_json
from .manifest import check_files, read_record
from .text_files import shorten


RECORD = "conversion.json"
LAZY = ("audio", "video", "audio_features", "video_features")


class _Column:
    """One column of a dataset in Arrow files, indexed by row."""

    def __init__(self, part: Any, name: str) -> None:
        self.part = part
        self.name = name
        self._open()

    def _open(self) -> None:
        column = self.part.data.column(self.name)
        self.chunks = column.chunks
        self.starts = np.cumsum([0, *map(len, self.chunks)])
        self.present = np.concatenate([chunk.is_valid().to_numpy(zero_copy_only=False) for chunk in self.chunks])

    def __getstate__(self) -> dict[str, Any]:
        return {"part": self.part, "name": self.name}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.part = state["part"]
        self.name = state["name"]
        self._open()

    def __getitem__(self, index: int) -> pa.Scalar:
        chunk = int(np.searchsorted(self.starts, index, side="right")) - 1
        return self.chunks[chunk][index - int(self.starts[chunk])]


class StoredFeatures:
    """Features (steps, F) in a converted corpus; `np.asarray` reads them as float32."""

    def __init__(self, column: _Column, index: int) -> None:
        self.column = column
        self.index = index

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        vectors = self.column[self.index].values
        values = vectors.flatten().to_numpy(zero_copy_only=True).reshape(len(vectors), -1)
        return values.astype(np.float32 if dtype is None else dtype, copy=True)

    def mark(self) -> list[Any]:
        """A cheap fingerprint that does not read all steps: the number of steps, and the first step."""
        vectors = self.column[self.index].values
        return [len(vectors), vectors[:1].to_pylist()]


class StoredMedia:
    """A clip embedded in a converted corpus."""

    def __init__(self, column: _Column, index: int) -> None:
        self.column = column
        self.index = index

    def read(self) -> bytes:
        """The file's bytes."""
        return self.column[self.index]["bytes"].as_py()

    def mark(self) -> list[Any]:
        """A cheap fingerprint that does not read the clip: its name and its size in bytes."""
        clip = self.column[self.index]
        return [clip["path"].as_py(), clip["bytes"].as_buffer().size]


def is_converted(folder: str | Path) -> bool:
    """Whether a converter of training/converters/ made this folder."""
    return (Path(folder) / RECORD).is_file()


def load_converted(folder: str | Path, manifest: str = "official") -> list[dict[str, Any]]:
    """Load a converted corpus, examples without an answer (of a split `unlabeled`, or of a blind test split) included.

    Args:
        folder: the output of a converter.
        manifest: split manifest, `official` or the name of another file in `splits/`.

    Returns:
        Examples as from `load_examples`: clips as absolute paths or `StoredMedia`, features as `StoredFeatures`.

    Raises:
        ValueError: there is no such manifest, or an example is not listed in it.
    """
    import datasets  # takes seconds, and a corpus of files does not need it

    folder = Path(folder)
    record = read_record(folder / RECORD)
    check_files(folder, record, ("data", "clips"))
    # File by file: `datasets` caches a folder with a card under the folder's name, and would return the rows of
    # another folder with that name, or of an earlier conversion.
    files: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    for path in sorted(folder.glob("data/*.parquet")):
        files.setdefault(path.stem.rsplit("-", 3)[0], []).append(str(path))
    files = {split: names for split, names in files.items() if names}
    if not files:
        raise ValueError(f"{folder} is incomplete: it has no data/*.parquet. Convert it again.")
    split_of = _read_manifest(folder, manifest)
    examples = []
    for part in datasets.load_dataset("parquet", data_files=files).values():
        for example in _read_part(part, folder):
            if example["id"] not in split_of:
                raise ValueError(
                    f"{folder}: example {example['id']!r} is not in splits/{manifest}.json. Convert it again."
                )
            example["split"] = split_of[example["id"]]
            examples.append(example)
    missing = split_of.keys() - {example["id"] for example in examples}
    if missing:
        raise ValueError(
            f"{folder}: {len(missing)} examples of splits/{manifest}.json are not in data/. Convert it again."
        )
    check_files(folder, record, ("splits",))
    return examples


def _read_part(part: Any, folder: Path) -> list[dict[str, Any]]:
    """The examples in one split's Arrow table; large columns are not read yet."""
    lazy = [name for name in LAZY if name in part.column_names]
    plain = [name for name in part.column_names if name not in lazy and not _is_vectors(part.data.column(name).type)]
    examples = part.data.table.select(plain).to_pylist()
    columns = {name: _Column(part, name) for name in lazy} if len(part) else {}
    for index, example in enumerate(examples):
        if example.get("context") is not None:
            # An empty speaker marks a turn without one.
            example["context"] = [turn if turn[0] else turn[1] for turn in example["context"]]
        for name, column in columns.items():
            example[name] = _read_cell(column, index, folder) if column.present[index] else None
    return examples


def _is_vectors(kind: pa.DataType) -> bool:
    """Whether a column holds vectors that training does not read, such as `text_features` of CHERMA."""
    return pa.types.is_list(kind) and pa.types.is_fixed_size_list(kind.value_type)


def _read_manifest(folder: Path, manifest: str) -> dict[str, str]:
    """Id -> split."""
    path = folder / f"splits/{manifest}.json"
    if not path.is_file():
        manifests = ", ".join(sorted(other.stem for other in folder.glob("splits/*.json")))
        raise ValueError(f"{folder} has no split manifest {manifest!r}. Use one of {manifests}.")
    content = read_json(path)
    splits = content.get("splits") if isinstance(content, dict) else None
    if not isinstance(splits, dict) or not all(isinstance(names, list) for names in splits.values()):
        raise ValueError(f"{path} is damaged: it must hold `splits`, lists of ids. Convert the corpus again.")
    split_of: dict[str, str] = {}
    for split, names in splits.items():
        for name in names:
            if not isinstance(name, str) or name in split_of:
                raise ValueError(
                    f"{path}: {shorten(name)} is in two splits, or is not an id. Convert the corpus again."
                )
            split_of[name] = split
    return split_of


def _read_cell(column: _Column, index: int, folder: Path) -> Any:
    kind = column.chunks[0].type
    if pa.types.is_list(kind):
        return StoredFeatures(column, index)
    if pa.types.is_struct(kind):
        return StoredMedia(column, index)
    return str((folder / column[index].as_py()).absolute())
