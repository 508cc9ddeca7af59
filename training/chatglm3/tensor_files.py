"""Tensors of a checkpoint as ranges of bytes: found in safetensors or `.bin` shards, written as safetensors.

    folder ─► open_checkpoint ─► {name: StoredTensor} ─► Piece(new name, rows of one) ─► write_shard

A run of rows is one run of bytes, so a tensor is renamed or split along its first dimension by copying through one
small buffer. Nothing is ever held whole, and nothing is executed: `.bin` shards are read as tensors only.
"""

import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple


if TYPE_CHECKING:
    import torch


BUFFER_BYTES = 8 * 2**20
LONGEST_HEADER = 100 * 2**20
ITEM_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip
DTYPE_NAMES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "int32": "I32",
    "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip


class StoredTensor(NamedTuple):
    """Where a tensor lies: from byte `start` of a safetensors file, or under `key` in a `.bin` file."""

    dtype: str  # as safetensors writes it, "F16"
    shape: tuple[int, ...]
    path: Path
    start: int = 0
    key: str | None = None

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape[1:]) * ITEM_BYTES[self.dtype]

    def read_rows(self, first: int, last: int) -> Iterator[memoryview]:
        """The bytes of rows `first` to `last` (not included), a buffer at a time; each is overwritten by the next.

        Raises:
            ValueError: the file ends before the tensor does.
        """
        if self.key is not None:
            import torch

            # Mapped anew each time: a mapping that is kept holds on to every page that was read.
            rows = _map_bin(self.path)[self.key][first:last].contiguous().reshape(-1).view(torch.uint8).numpy()
            for start in range(0, len(rows), BUFFER_BYTES):
                yield memoryview(rows[start : start + BUFFER_BYTES])
            return
        left = (last - first) * self.row_bytes
        buffer = memoryview(bytearray(min(left, BUFFER_BYTES)))
        with self.path.open("rb", buffering=0) as file:
            file.seek(self.start + first * self.row_bytes)
            while left:
                count = file.readinto(buffer[: min(left, len(buffer))])
                if not count:
                    raise ValueError(f"{self.path} ended in the middle of a tensor. Fetch it again.")
                left -= count
                yield buffer[:count]


class Piece(NamedTuple):
    """Rows `first` to `last` (not included) of a stored tensor, under a new name."""

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
        ValueError: it is no safetensors file, or was cut short.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if start == b"version ":
            raise ValueError(f"{path} is a Git LFS pointer, not the file itself. Run `git lfs pull` beside it.")
        if len(start) < 8 or length > min(LONGEST_HEADER, size - 8):
            raise ValueError(f"{path} is no whole safetensors file ({size} bytes). Fetch it again.")
        try:
            header = json.loads(file.read(length))
        except ValueError as error:
            raise ValueError(f"{path} is no safetensors file: its header is not JSON ({error}).") from error
    found = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        dtype, shape, (first, last) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        if dtype not in ITEM_BYTES or last - first != math.prod(shape) * ITEM_BYTES[dtype]:
            raise ValueError(f"{path}: {name} says {dtype} {list(shape)} but holds {last - first} bytes.")
        if 8 + length + last > size:
            raise ValueError(f"{path} was cut short within {name}, at {size} bytes. Fetch it again.")
        found[name] = StoredTensor(dtype, shape, path, 8 + length + first)
    return found


def _map_bin(path: Path) -> "dict[str, torch.Tensor]":
    """The tensors of a `.bin` file, mapped and not read; nothing but tensors is unpickled."""
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # whatever a broken pickle or archive raises
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"{path} could not be read as plain tensors ({reason}). Fetch it again, or take the safetensors files."
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ValueError(f"{path} holds something else than named tensors.")
    return state


def _read_bin(path: Path) -> dict[str, StoredTensor]:
    found = {}
    for name, value in _map_bin(path).items():
        dtype = str(value.dtype).removeprefix("torch.")
        if dtype not in DTYPE_NAMES:
            raise ValueError(f"{path}: {name} is {dtype}; known are {', '.join(DTYPE_NAMES)}.")
        found[name] = StoredTensor(DTYPE_NAMES[dtype], tuple(value.shape), path, key=name)
    return found


def find_shards(folder: Path) -> tuple[list[Path], dict[str, str] | None]:
    """The weight files of a folder, safetensors before `.bin`, and what its index says: name -> file, if it has one.

    Raises:
        ValueError: none are there, or the index names files that are not.
    """
    for stem, ending in (("model", ".safetensors"), ("pytorch_model", ".bin")):
        index = folder / f"{stem}{ending}.index.json"
        if index.is_file():
            weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            paths = [folder / name for name in sorted(set(weight_map.values()))]
            missing = [path.name for path in paths if not path.is_file()]
            if missing:
                raise ValueError(f"{index} names files that are not there: {', '.join(missing)}. Fetch them.")
            return paths, weight_map
        if (folder / f"{stem}{ending}").is_file():
            return [folder / f"{stem}{ending}"], None
    raise ValueError(f"{folder} holds no weights: model.safetensors or pytorch_model.bin, or shards with their index.")


def open_checkpoint(folder: Path) -> dict[str, StoredTensor]:
    """Every tensor of the checkpoint in a folder, none of them read yet.

    Raises:
        ValueError: a file is missing, broken, or holds other tensors than the index says.
    """
    paths, weight_map = find_shards(folder)
    found: dict[str, StoredTensor] = {}
    for path in paths:
        for name, stored in (_read_bin if path.suffix == ".bin" else read_header)(path).items():
            if name in found:
                raise ValueError(f"{name} lies in {found[name].path.name} and again in {path.name}.")
            found[name] = stored
    if weight_map is not None:
        wrong = sorted(name for name in set(weight_map) | set(found) if name not in found or name not in weight_map)
        if wrong:
            raise ValueError(f"Index and shards of {folder} differ in {len(wrong)} tensors: {', '.join(wrong[:3])}.")
    return found


def split_into_shards(pieces: Sequence[Piece], most_bytes: int) -> list[list[Piece]]:
    """Pieces in their order, in groups of at most `most_bytes`; a larger piece is a group of its own."""
    shards: list[list[Piece]] = []
    room = -1
    for piece in pieces:
        if piece.num_bytes > room:
            shards.append([])
            room = most_bytes
        shards[-1].append(piece)
        room -= piece.num_bytes
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
    """Whether the file is there, with exactly this header and of the right size."""
    header = encode_header(pieces)
    if not path.is_file() or path.stat().st_size != len(header) + sum(piece.num_bytes for piece in pieces):
        return False
    with path.open("rb") as file:
        return file.read(len(header)) == header


def write_shard(path: Path, pieces: Sequence[Piece], progress: Callable[[int], Any]) -> None:
    """Write a safetensors file, whole or not at all.

    Args:
        path: the file; until it is whole its bytes lie in `.NAME.part` beside it.
        pieces: what it holds, in this order.
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
