"""Destination folder of a conversion: its checks, the staging folder DEST.partial, and moving old files aside.

check_destination ─► staging: DEST.partial, locked ─► promote: DEST.partial becomes DEST, or its files join DEST
"""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from .tensor_files import find_shards


HALVES = ("weights", "tokenizer")
# Loaders first look for the last pattern of each half, so its file is the last to be moved into an existing folder.
FILES = {
    "weights": ("*LICENSE*", "model*.safetensors", "model.safetensors.index.json", "config.json"),
    "tokenizer": ("generation_config.json", "tokenizer_config.json", "tokenizer.json"),
}
PLAN = "plan.json"
LOCK = ".lock"


def files_of(folder: Path, half: str) -> list[Path]:
    """The files of one half of a converted checkpoint, in the order in which they are moved."""
    return [path for pattern in FILES[half] for path in sorted(folder.glob(pattern))]


def check_destination(dest: Path, source: Path, halves: Sequence[str], overwrite: bool) -> None:
    """Check that DEST may be written.

    Raises:
        ValueError: it contains the source, is a file, or holds files that only `overwrite` may replace.
    """
    if source.is_relative_to(dest):
        raise ValueError(f"{source} is inside {dest}. Choose another DEST.")
    if not dest.exists() or (dest.is_dir() and not any(dest.iterdir())):
        return
    if not dest.is_dir():
        raise ValueError(f"{dest} is a file. Give a folder.")
    present = sorted(half for half in HALVES if files_of(dest, half))
    if overwrite or (present and not set(present) & set(halves)):
        return
    content = f"the {' and the '.join(present)}" if present else "other files"
    raise ValueError(f"{dest} already exists and holds {content}. Choose another DEST, or use --overwrite.")


# ---- staging --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def staging(dest: Path, source: Path, halves: Sequence[str], shard_bytes: int) -> Iterator[Path]:
    """The folder `DEST.partial`, locked. Files of an interrupted run are kept if its source files were the same.

    Raises:
        ValueError: it cannot be written, holds something else, or is being written by another conversion.
    """
    folder = dest.with_name(f"{dest.name}.partial")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK).open("w")
    except OSError as error:
        raise ValueError(f"Cannot write to {folder} ({error.strerror}). Choose another DEST.") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ValueError(f"Another conversion is writing {folder}.") from error
        _prepare(folder, describe_plan(source, halves, shard_bytes))
        try:
            yield folder
        except BaseException:
            if folder.is_dir() and not any(folder.glob("model*.safetensors")):
                shutil.rmtree(folder)  # there is nothing to resume from
            raise


def describe_plan(source: Path, halves: Sequence[str], shard_bytes: int) -> str:
    """JSON that identifies the source's files and the options."""
    paths = find_shards(source)[0] if "weights" in halves else []
    paths += [path for path in (source / "config.json", source / "tokenizer.model") if path.is_file()]
    states = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in paths]
    plan = {"halves": list(halves), "shard_bytes": shard_bytes, "source": states}
    return json.dumps(plan, indent=1)


def _prepare(folder: Path, plan: str) -> None:
    """Empty the staging folder, unless it belongs to the same plan."""
    present = {path.name for path in folder.iterdir()} - {LOCK}
    if present and PLAN not in present:
        raise ValueError(f"{folder} exists and is not an unfinished conversion. Move it away.")
    if present and (folder / PLAN).read_text(encoding="utf-8") == plan:
        return
    for name in present - {PLAN}:
        (folder / name).unlink()
    (folder / PLAN).write_text(plan, encoding="utf-8")


# ---- promotion ------------------------------------------------------------------------------------------------


def promote(folder: Path, dest: Path, halves: Sequence[str]) -> Path | None:
    """Move the staged files to DEST, and the files they replace aside; returns the folder of the latter, if any."""
    replaced = move_aside(dest, halves)
    if dest.is_dir() and any(dest.iterdir()):  # it holds the other half
        for half in halves:
            for path in files_of(folder, half):
                os.replace(path, dest / path.name)
        shutil.rmtree(folder)
    else:
        os.rename(folder, dest)
        for name in (PLAN, LOCK):
            (dest / name).unlink()
    return replaced


def move_aside(dest: Path, halves: Sequence[str]) -> Path | None:
    """Move the files to be replaced, all of DEST or one half, to `DEST.replaced-N`; returns that folder, if any."""
    if not dest.is_dir() or not any(dest.iterdir()):
        return None
    replace_all = len(halves) == len(HALVES)
    present = [path for half in halves for path in files_of(dest, half)]
    if not replace_all and not present:
        return None
    number = 1
    while dest.with_name(f"{dest.name}.replaced-{number}").exists():
        number += 1
    replaced = dest.with_name(f"{dest.name}.replaced-{number}")
    if replace_all:
        os.rename(dest, replaced)
        return replaced
    replaced.mkdir()
    for path in reversed(present):
        os.rename(path, replaced / path.name)
    return replaced
