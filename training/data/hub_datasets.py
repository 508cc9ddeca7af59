"""Datasets that the `datasets` library reads: on the Hub, saved by `save_to_disk`, and folders of Parquet files.

    ORG/NAME ─┬─► read_tables ─► a Table for each split, with clips as paths or StoredMedia
              └─► stream_tables ─► Tables of a few rows, with clips as paths or bytes      with --streaming

Clips are never decoded here, so torchcodec is not needed: the processor decodes them. The index of a class label
becomes its name.
"""

import logging
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from .csv_tables import Table, column_name
from .dataset_options import DatasetOptions
from .locations import is_hub_id
from .parquet import StoredMedia
from .split_names import SPLIT_NAMES, misspelled_splits
from .tables import KNOWN_COLUMNS


SAVED = ("dataset_dict.json", "state.json")  # by `save_to_disk`

logger = logging.getLogger(__name__)


def is_saved(folder: Path) -> bool:
    """Whether `datasets` saved this folder with `save_to_disk`."""
    return any((folder / name).is_file() for name in SAVED)


def open_splits(dataset: str | Path, options: DatasetOptions) -> dict[str, Any]:
    """Open a dataset.

    Returns:
        Split -> `datasets.Dataset`, or `IterableDataset` with `options.streaming`.

    Raises:
        ValueError: it does not exist, cannot be reached, or has no such configuration; in one line.
    """
    import datasets  # takes seconds

    try:
        if is_hub_id(dataset):
            parts = datasets.load_dataset(
                str(dataset), options.config, revision=options.revision, streaming=options.streaming
            )
        elif is_saved(Path(dataset)):
            parts = datasets.load_from_disk(str(dataset))
        else:  # without a name to cache it by; parquet.py gives the reason
            _warn_of_misspelled_files(Path(dataset))
            parts = datasets.load_dataset("parquet", data_dir=str(dataset), streaming=options.streaming)
    except Exception as error:  # `datasets` and its readers of formats raise many types
        raise ValueError(_explain(dataset, options, error)) from error
    if not isinstance(parts, dict):
        parts = {str(parts.split or "train"): parts}
    return {SPLIT_NAMES.get(split, split): part for split, part in parts.items()}


def _warn_of_misspelled_files(folder: Path) -> None:
    """Warn of Parquet files that are not read as a split, because `datasets` looks for its name in theirs."""
    names = sorted(str(path.relative_to(folder)) for path in folder.glob("**/*.parquet"))
    for name, meant in misspelled_splits(names).items():
        logger.warning(f"{folder}: {name} is not read as the split {meant}; rename it if it is that split.")


def _explain(dataset: str | Path, options: DatasetOptions, error: Exception) -> str:
    reason = " ".join(str(error).split())[:400]
    if isinstance(error, FileNotFoundError) and is_hub_id(dataset):
        revision = "" if options.revision is None else f" at the revision {options.revision!r}"
        return (
            f"--dataset {dataset} is neither a folder here nor a dataset on the Hub{revision} that you may read "
            f"({reason}). Check the name, or log in with `hf auth login`."
        )
    if isinstance(error, ConnectionError) and is_hub_id(dataset):
        return f"--dataset {dataset} is not a folder here, and the Hub cannot be reached ({reason}). Check the path."
    if "onfig" in reason:
        return f"--dataset {dataset}: {reason} Give --dataset_config."
    return f"--dataset {dataset} cannot be read: {type(error).__name__}: {reason}"


# ---- tables ---------------------------------------------------------------------------------------------------


def read_tables(dataset: str | Path, options: DatasetOptions) -> list[Table]:
    """The splits of a dataset as tables. Columns of kinds that EGMF does not read, such as images, have no values.

    Raises:
        ValueError: as for `open_splits`.
    """
    tables = []
    for split, part in open_splits(dataset, options).items():
        media, plain = _sort_columns(part.features)
        values = part.select_columns(plain).with_format(None)[:] if plain else {}
        values = {name: _name_labels(part.features[name], values[name]) for name in plain}
        values |= {name: _read_clips(part, name) for name in media}
        names = _name_columns(f"{dataset}, split {split}", values)
        rows = [{"split": split} for _ in range(len(part))]
        for name, column in values.items():
            for row, value in zip(rows, column, strict=True):
                row[names[name]] = value
        rows = [dict(row, split=row.get("split") or split) for row in rows]
        tables.append(_as_table(dataset, split, part.column_names, rows, first=1))
    return tables


def _name_columns(place: str, names: Iterable[str]) -> dict[str, str]:
    """Column of a dataset -> its name in EGMF.

    Raises:
        ValueError: two are the same column; `Text` and `text` are.
    """
    named: dict[str, str] = {}
    for name in names:
        ours = column_name(name, KNOWN_COLUMNS)
        if ours in named.values():
            raise ValueError(f"{place}: more than one column {ours}. Rename or remove one.")
        named[name] = ours
    return named


def _as_table(dataset: str | Path, split: str, names: list[str], rows: list[dict[str, Any]], first: int) -> Table:
    columns = [column_name(name, KNOWN_COLUMNS) for name in names]
    lines = list(range(first, first + len(rows)))
    return Table(Path(dataset), list(dict.fromkeys([*columns, "split"])), rows, lines, f"{split} row")


def _sort_columns(features: Any) -> tuple[list[str], list[str]]:
    """Names of the columns with clips, and of those with plain values."""
    from datasets import Audio, Video
    from datasets.features.features import require_decoding

    media = [name for name, feature in features.items() if isinstance(feature, Audio | Video)]
    plain = [name for name, feature in features.items() if not require_decoding(feature, ignore_decode_attribute=True)]
    return media, plain


def _name_labels(feature: Any, values: list[Any]) -> list[Any]:
    """The names of class labels; -1 stands for none. Other values are unchanged."""
    from datasets import ClassLabel

    if not isinstance(feature, ClassLabel):
        return values
    return [None if value is None or value < 0 else feature.int2str(value) for value in values]


class _Cells:
    """One column of clips, indexed by row; a cell is read when it is used."""

    def __init__(self, part: Any, name: str) -> None:
        self.part = part.select_columns([name]).with_format("arrow")

    def __getitem__(self, index: int) -> pa.Scalar:
        return self.part[index].column(0)[0]


def _read_clips(part: Any, name: str) -> list[str | StoredMedia | None]:
    """A clip for each row: the path of its file, or its bytes, which stay on disk."""
    cells = _Cells(part, name)
    column = cells.part[:].column(0)
    is_embedded = pc.is_valid(pc.struct_field(column, "bytes")).to_pylist()
    paths = pc.struct_field(column, "path").to_pylist()
    return [
        StoredMedia(cells, index) if embedded else path
        for index, (embedded, path) in enumerate(zip(is_embedded, paths, strict=True))
    ]


# ---- streaming ------------------------------------------------------------------------------------------------


def stream_tables(dataset: str | Path, split: str, options: DatasetOptions, size: int) -> Iterator[Table]:
    """Tables of `size` rows of a split, read one after the other.

    Raises:
        ValueError: as for `open_splits`, or there is no such split.
    """
    parts = open_splits(dataset, options)
    if split not in parts:
        raise ValueError(f"{dataset} has no split {split!r}. Its splits are {', '.join(parts)}: give --split.")
    part = parts[split]
    features = part.features
    media: list[str] = []
    if features is not None:
        media, plain = _sort_columns(features)
        part = part.select_columns([*media, *plain])
        for name in media:
            part = part.cast_column(name, type(features[name])(decode=False))
    rows = iter(part)
    first = 1
    while chunk := list(islice(rows, size)):
        names = list(features or dict.fromkeys(name for row in chunk for name in row))
        for row in chunk:
            for name in media:
                row[name] = _fetch(row[name])
            for name in set(row) & set(features or ()):
                row[name] = _name_labels(features[name], [row[name]])[0]
        ours = _name_columns(f"{dataset}, split {split}", dict.fromkeys(name for row in chunk for name in row))
        chunk = [{ours[name]: value for name, value in row.items()} for row in chunk]
        yield _as_table(dataset, split, names, [dict(row, split=split) for row in chunk], first)
        first += len(chunk)


def _fetch(clip: dict[str, Any] | None) -> bytes | None:
    """The bytes of a clip; those of a file on the Hub are downloaded."""
    if clip is None or clip["bytes"] is not None or clip["path"] is None:
        return None if clip is None else clip["bytes"]
    import fsspec  # a requirement of `datasets`

    with fsspec.open(clip["path"], "rb") as file:
        return file.read()
