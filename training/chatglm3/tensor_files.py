"""Tensors of a checkpoint as ranges of bytes, read from safetensors or `.bin` shards and written as safetensors.

    folder ─► open_checkpoint ─► {name: StoredTensor} ─► Piece(new name, rows of one) ─► write_shard

Consecutive rows are consecutive bytes, so a tensor is renamed or split along its first dimension by copying through
one small buffer. No tensor is ever entirely in memory, and nothing in a file is executed: `.bin` shards may hold only
tensors.
"""

import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..records import Each, check_shape, read_json


if TYPE_CHECKING:
    import torch


BUFFER_BYTES = 8 * 2**20
MAX_HEADER_BYTES = 100 * 2**20
ITEM_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip
HEADER_ENTRY = {"dtype": str, "shape": [int], "data_offsets": [int]}
DTYPE_NAMES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "int32": "I32",
    "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip


class StoredTensor(NamedTuple):
    """Location of a tensor: from byte `start` of a safetensors file, or under `key` in a `.bin` file."""

    dtype: str  # by its safetensors name, such as "F16"
    shape: tuple[int, ...]
    path: Path
    start: int = 0
    key: str | None = None

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape[1:]) * ITEM_BYTES[self.dtype]

    def read_rows(self, first: int, last: int) -> Iterator[memoryview]:
        """The bytes of rows `first` to `last` (excluded), one buffer at a time, each overwritten by the next.

        Raises:
            ValueError: the file ends before the tensor does.
        """
        if self.key is None:
            yield from self._read_safetensors(first, last)
        else:
            yield from self._read_bin(first, last)

    def _read_safetensors(self, first: int, last: int) -> Iterator[memoryview]:
        remaining = (last - first) * self.row_bytes
        buffer = memoryview(bytearray(min(remaining, BUFFER_BYTES)))
        with self.path.open("rb", buffering=0) as file:
            file.seek(self.start + first * self.row_bytes)
            while remaining:
                count = file.readinto(buffer[: min(remaining, len(buffer))])
                if not count:
                    raise ValueError(f"{self.path} ends in the middle of a tensor. Download it again.")
                remaining -= count
                yield buffer[:count]

    def _read_bin(self, first: int, last: int) -> Iterator[memoryview]:
        import torch

        tensors = _map_bin(self.path)  # mapped again each time, because an open mapping keeps the pages it has read
        rows = tensors[self.key][first:last].contiguous()
        data = rows.reshape(-1).view(torch.uint8).numpy()
        for start in range(0, len(data), BUFFER_BYTES):
            yield memoryview(data[start : start + BUFFER_BYTES])


class Piece(NamedTuple):
    """Rows `first` to `last` (excluded) of a stored tensor, under a new name."""

    name: str
    source: StoredTensor
    first: int
    last: int

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.last - self.first, *self.source.shape[1:])

    @property
    def num_bytes(self) -> int:
        return (self.last - self.first) * self.source.row_bytes


def read_header(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a safetensors file.

    Raises:
        ValueError: it is not a safetensors file, or was cut short.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if start == b"version ":
            raise ValueError(f"{path} is a Git LFS pointer, not the file. Run `git lfs pull` in its folder.")
        if len(start) < 8 or length > min(MAX_HEADER_BYTES, size - 8):
            raise ValueError(f"{path} is not a complete safetensors file ({size} bytes). Download it again.")
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is not a safetensors file: its header is not JSON ({error}).") from error
    check_shape(header, dict, path, "It is not the header of a safetensors file. Download it again.")
    header.pop("__metadata__", None)
    data_start = 8 + length
    tensors = {}
    for name, entry in header.items():
        check_shape(entry, HEADER_ENTRY, path, "The header is damaged. Download it again.", name)
        if len(entry["data_offsets"]) != 2 or min(*entry["data_offsets"], *entry["shape"], 0) < 0:
            raise ValueError(f"{path}: the header's entry of {name} is damaged. Download it again.")
        dtype = entry["dtype"]
        shape = tuple(entry["shape"])
        first, last = entry["data_offsets"]
        if dtype not in ITEM_BYTES or last - first != math.prod(shape) * ITEM_BYTES[dtype]:
            raise ValueError(f"{path}: {name} should be {dtype} {list(shape)} but has {last - first} bytes.")
        if data_start + last > size:
            raise ValueError(f"{path} was cut short within {name}, at {size} bytes. Download it again.")
        tensors[name] = StoredTensor(dtype, shape, path, data_start + first)
    _check_overlaps(path, header)
    return tensors


def _check_overlaps(path: Path, header: dict[str, Any]) -> None:
    """Refuse a header in which two tensors share bytes, one of which would have the other's weights."""
    end = 0
    for name in sorted(header, key=lambda name: header[name]["data_offsets"]):
        first, last = header[name]["data_offsets"]
        if first < end:
            raise ValueError(f"{path}: {name} shares bytes with another tensor. Download it again.")
        end = last


def _map_bin(path: Path) -> "dict[str, torch.Tensor]":
    """The tensors of a `.bin` file, mapped into memory; only tensors are unpickled."""
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # a broken pickle or archive may raise anything
        lines = [*str(error).strip().splitlines(), type(error).__name__]
        raise ValueError(
            f"{path} could not be read as plain tensors ({lines[0]}). Download it again, or use the safetensors files."
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ValueError(f"{path} holds something other than named tensors.")
    return state


def _read_bin(path: Path) -> dict[str, StoredTensor]:
    tensors = {}
    for name, value in _map_bin(path).items():
        dtype = str(value.dtype).removeprefix("torch.")
        if dtype not in DTYPE_NAMES:
            raise ValueError(f"{path}: {name} has dtype {dtype}; supported dtypes: {', '.join(DTYPE_NAMES)}.")
        tensors[name] = StoredTensor(DTYPE_NAMES[dtype], tuple(value.shape), path, key=name)
    return tensors


def find_shards(folder: Path) -> tuple[list[Path], dict[str, str] | None]:
    """The weight files of a folder: safetensors if it has them, otherwise `.bin`.

    Returns:
        The files, and the index as tensor name -> file name; None without an index.

    Raises:
        ValueError: the folder has no weights, or the index names missing files.
    """
    for stem, ending in (("model", ".safetensors"), ("pytorch_model", ".bin")):
        index = folder / f"{stem}{ending}.index.json"
        if index.is_file():
            content = read_json(index)
            advice = "It is not the index of a checkpoint, or damaged. Download it again."
            check_shape(content, {"weight_map": Each(str)}, index, advice)
            weight_map = content["weight_map"]
            outside = [name for name in weight_map.values() if Path(name).name != name]
            if outside:
                raise ValueError(f"{index} names {outside[0]!r}, which is not a file next to it. {advice}")
            paths = [folder / name for name in sorted(set(weight_map.values()))]
            missing = [path.name for path in paths if not path.is_file()]
            if missing:
                raise ValueError(f"{index} names missing files: {', '.join(missing)}. Download them.")
            return paths, weight_map
        if (folder / f"{stem}{ending}").is_file():
            return [folder / f"{stem}{ending}"], None
    raise ValueError(f"{folder} has no weights: model.safetensors or pytorch_model.bin, or shards with their index.")


def open_checkpoint(folder: Path) -> dict[str, StoredTensor]:
    """Locations of all tensors of the checkpoint in a folder; no data is read yet.

    Raises:
        ValueError: a file is missing or broken, or the tensors are not those in the index.
    """
    paths, weight_map = find_shards(folder)
    tensors: dict[str, StoredTensor] = {}
    for path in paths:
        stored = _read_bin(path) if path.suffix == ".bin" else read_header(path)
        for name in stored.keys() & tensors.keys():
            raise ValueError(f"{name} is in {tensors[name].path.name} and again in {path.name}.")
        tensors |= stored
    if weight_map is not None:
        wrong = sorted(weight_map.keys() ^ tensors.keys())
        if wrong:
            raise ValueError(f"Index and shards of {folder} differ in {len(wrong)} tensors: {', '.join(wrong[:3])}.")
    return tensors


def split_into_shards(pieces: Sequence[Piece], max_bytes: int) -> list[list[Piece]]:
    """Group the pieces, in order, into shards of at most `max_bytes`; a larger piece is a shard of its own."""
    shards: list[list[Piece]] = []
    remaining = -1
    for piece in pieces:
        if piece.num_bytes > remaining:
            shards.append([])
            remaining = max_bytes
        shards[-1].append(piece)
        remaining -= piece.num_bytes
    return shards


def encode_header(pieces: Sequence[Piece]) -> bytes:
    """The length and the header of a safetensors file that holds the pieces one after another."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for piece in pieces:
        header[piece.name] = {
            "dtype": piece.source.dtype,
            "shape": list(piece.shape),
            "data_offsets": [offset, offset + piece.num_bytes],
        }
        offset += piece.num_bytes
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    return len(encoded).to_bytes(8, "little") + encoded


def is_written(path: Path, pieces: Sequence[Piece]) -> bool:
    """Whether the file exists with exactly this header and the right size."""
    header = encode_header(pieces)
    num_bytes = len(header) + sum(piece.num_bytes for piece in pieces)
    if not path.is_file() or path.stat().st_size != num_bytes:
        return False
    with path.open("rb") as file:
        return file.read(len(header)) == header


def write_shard(path: Path, pieces: Sequence[Piece], progress: Callable[[int], Any]) -> None:
    """Write a safetensors file, completely or not at all.

    Args:
        path: the file; until it is complete it is called `.NAME.part`.
        pieces: its tensors, in this order.
        progress: called with the number of bytes of every write.
    """
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as file:
        file.write(encode_header(pieces))
        for piece in pieces:
            for chunk in piece.source.read_rows(piece.first, piece.last):
                file.write(chunk)
                progress(len(chunk))
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)
