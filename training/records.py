"""Results files: reading and writing JSON, digests, versions, and atomic writes.

    write_json, write_text ─► replacing(path) ─► .name.tmp, fsync ─► path

A results file stores `versions()` and `commit()` with its figures, so that they can be reproduced.
"""

import fcntl
import hashlib
import json
import math
import os
import platform
import resource
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import yaml


# The first bytes of a file that may be a placeholder; processing_egmf/media_egmf.py looks at it closely.
PLACEHOLDER_STARTS = (b"version ", b"/annex/", b"../.git/", b".git/", b"<")
MAX_SHOWN = 80  # characters of a value in a message
PACKAGES = ("torch", "transformers", "peft", "accelerate", "datasets", "numpy", "av", "scikit-learn")


# ---- versions and commit --------------------------------------------------------------------------------------


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that affect the figures."""
    installed = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            installed[name] = version(name)
        except PackageNotFoundError:
            installed[name] = "not installed"
    return installed


def commit() -> str:
    """The commit of the source tree, with `+changes` if files differ from it; `unknown` outside a checkout."""
    git = ["git", "-C", str(Path(__file__).resolve().parent)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        changes = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    suffix = "+changes" if changes.stdout.strip() else ""
    return head.stdout.strip() + suffix


def short_commit(name: str) -> str:
    """`1856149`, or `1856149+changes`, of what `commit` returns."""
    head, plus, changes = name.partition("+")
    return head[:7] + plus + changes


def peak_gib(device: str) -> float:
    """Largest memory of this process so far in GiB: allocated on the GPU for `cuda`, else resident in main memory."""
    if device == "cuda":
        import torch  # not needed to read and write files

        return torch.cuda.max_memory_allocated() / 2**30
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)  # bytes on macOS, KiB on Linux


# ---- digests --------------------------------------------------------------------------------------------------


def digest_of_bytes(data: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def digest_of_chunks(chunks: Iterable[bytes]) -> str:
    """SHA-256 of the concatenated chunks, which are never in memory together."""
    sha256 = hashlib.sha256()
    for chunk in chunks:
        sha256.update(chunk)
    return sha256.hexdigest()


def digest_of_file(path: str | Path) -> str:
    """SHA-256 of a file's content, read in chunks."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of_json(value: Any, sort_keys: bool = False) -> str:
    """SHA-256 of a value's JSON text; values that JSON cannot represent are hashed as `str(value)`.

    Args:
        value: lists, dicts, strings, numbers.
        sort_keys: whether two dicts that differ only in the order of their keys have the same digest.
    """
    text = json.dumps(value, default=str, sort_keys=sort_keys)
    return digest_of_bytes(text.encode())


def checksum_of_array(array: np.ndarray) -> str:
    """BLAKE2b (16 bytes) of an array's content: faster than SHA-256, only for detecting corruption."""
    return hashlib.blake2b(np.ascontiguousarray(array), digest_size=16).hexdigest()


# ---- reading and writing --------------------------------------------------------------------------------------


def check_writable(folder: Path) -> None:
    """Check that files can be written to a folder, or to its closest existing parent.

    Raises:
        ValueError: nothing can be written there.
    """
    candidates = (folder.absolute(), *folder.absolute().parents)
    existing = next(path for path in candidates if path.exists())
    try:
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(b"1")
    except OSError as error:
        raise ValueError(f"{existing} is not writable ({error.strerror}). Give another folder.") from error


def check_new_folder(folder: Path) -> None:
    """Refuse the current folder and those around it, in whose place a command would put another folder.

    Raises:
        ValueError: it is one of them.
    """
    if Path.cwd().is_relative_to(real_path(folder)):
        raise ValueError(f"{folder} is the current folder, or around it. Give the name of a new folder.")


def expand_home(path: str | Path) -> Path:
    """A path in which `~` at the beginning is the home folder, as in a shell without quotes."""
    return Path(os.path.expanduser(path))


def new_folder(path: str | Path) -> Path:
    """The absolute path of a folder that a command creates or replaces as a whole; a link stays, and leads to it.

    Raises:
        ValueError: it is the current folder or around it, or a link leads back to itself.
    """
    folder = expand_home(path)
    check_new_folder(folder)
    return real_path(folder)


def check_replaceable(output: Path, entries: dict[str, Any], kind: str) -> None:
    """Check that a JSON file can be written, and that one that exists was written by the same command.

    Args:
        output: the file.
        entries: entries that such a file has, with their values; None for any value.
        kind: what such a file holds, for the message.

    Raises:
        ValueError: it cannot, or the file holds something else; it is kept.
    """
    if output.is_dir():
        raise ValueError(f"{output} is a folder. Give --output the name of a file.")
    check_writable(output.parent)
    if not output.exists():
        return
    stored = read_json(output)
    is_own = isinstance(stored, dict) and all(
        name in stored and value in (None, stored[name]) for name, value in entries.items()
    )
    if not is_own:
        raise ValueError(f"{output} already exists and does not hold {kind}. Give another --output.")


def temporary_name(path: str | Path) -> Path:
    """A hidden name next to `path` that no other process uses: `.results.json.1f2e3d4c.tmp`."""
    path = Path(path)
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yields a temporary file that becomes `path` if the block finishes without an error.

        with replacing("answers.parquet") as temporary:
            pq.write_table(table, temporary)

    File and folder are flushed to disk (fsync): a crash leaves either the old file or the new one. The temporary file
    of a killed process is reused by the next one that writes `path`. Of a link, the file that it leads to is replaced.

    Raises:
        OSError: the file cannot be written, because the disk is full for example; the error names `path`.
        ValueError: `path` is a device or a pipe, which would be replaced.
    """
    path = _follow_link(Path(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        temporary = _claim_temporary(path, stack)
        try:
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException as error:
            temporary.unlink(missing_ok=True)  # not after the rename: another process may have one of this name by now
            if not isinstance(error, OSError) or error.filename not in (None, temporary, str(temporary)):
                raise
            raise _name_file(error, path) from error
        sync_folder(path.parent)


def real_path(path: Path) -> Path:
    """The absolute path that links lead to.

    Raises:
        ValueError: a link leads back to itself.
    """
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        raise ValueError(f"{path} is a link that leads back to itself. Give another name.")
    return target


def _follow_link(path: Path) -> Path:
    target = real_path(path)
    if target.exists() and not target.is_file() and not target.is_dir():
        raise ValueError(f"{path} is not a regular file. Give the name of another one.")
    # In the Hub's cache, several snapshots link to one file, which is named by its digest.
    return path if target.parent.name == "blobs" else target


def _claim_temporary(path: Path, stack: ExitStack) -> Path:
    """`.NAME.tmp`, locked until this process ends; a unique name if another process holds the lock."""
    shared = path.with_name(f".{path.name}.tmp")
    file = stack.enter_context(shared.open("ab"))
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(file.fileno()), os.stat(shared)):
            return shared
    except OSError:  # another process writes it, or has just renamed it
        pass
    return temporary_name(path)


def _name_file(error: OSError, path: Path) -> OSError:
    if error.errno is None:  # Arrow's own errors
        return OSError(f"{path} cannot be written: {error}")
    return OSError(error.errno, error.strerror, str(path))


def sync_folder(folder: Path) -> None:
    """Flush the entries of a folder to disk, if the file system supports it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:  # some network file systems do not sync folders
        pass
    finally:
        os.close(descriptor)


@contextmanager
def only_writer(folder: Path, writer: str, other: str = "output") -> Iterator[None]:
    """Keep other processes out of a folder, which need not exist, by a locked file next to it.

    The lock is released when the process ends, however it ends.

    Args:
        folder: the folder to write.
        writer: what may run only once in the folder, for the message: `training run`.
        other: what to give instead, for the message: "another output".

    Raises:
        ValueError: another process has the lock, or nothing can be written there.
    """
    folder = real_path(folder)
    check_writable(folder.parent)
    folder.parent.mkdir(parents=True, exist_ok=True)
    path = folder.with_name(f".{folder.name}.lock")
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_current = os.path.samestat(os.fstat(file.fileno()), os.stat(path))
        except OSError:
            is_current = False
        if not is_current:  # another process has the file, or has just removed it
            raise ValueError(f"Another {writer} is writing to {folder}. Wait until it ends, or give another {other}.")
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def in_utf_8(text: str) -> str:
    """A text in which bytes of file names that are not UTF-8 are escapes, as JSON has them."""
    return text.encode("utf-8", "backslashreplace").decode()


def write_text(path: str | Path, text: str) -> Path:
    """Write a UTF-8 file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(in_utf_8(text), encoding="utf-8")
    return Path(path)


def write_json(path: str | Path, value: Any) -> Path:
    """Write JSON atomically; numbers that JSON cannot represent (NaN, infinity) become null."""
    text = json.dumps(as_json_value(value), indent=1, ensure_ascii=False)
    return write_text(path, text + "\n")


def print_record(record: dict[str, Any], output: str | Path | None = None) -> None:
    """Print a record as JSON, and write it into a file if there is an output."""
    print(json.dumps(record, indent=1))
    if output is not None:
        write_json(output, record)


def weight_files(checkpoint: Path) -> list[Path]:
    """The files with the weights of an EGMF checkpoint: its own, and those of PEFT adapters in their folders."""
    return sorted([*checkpoint.glob("model*.safetensors"), *checkpoint.glob("*/adapter_model*.safetensors")])


def weights_digest(checkpoint: Path) -> str | None:
    """A digest that tells checkpoints apart, from both ends and the sizes of their weight files; None if it has none.

    A file of 15 GB is not read in full for it.
    """
    chunks = []
    for path in weight_files(checkpoint):
        size = path.stat().st_size
        with path.open("rb") as file:
            chunks += [str(size).encode(), file.read(2**20)]
            file.seek(max(size - 2**20, 0))
            chunks.append(file.read())
    return digest_of_chunks(chunks) if chunks else None


def check_placeholder(path: str | Path) -> None:
    """Refuse a file that is only a placeholder for its content.

    Raises:
        OSError: the file cannot be read.
        ValueError: a pointer of Git LFS or git-annex, or a saved web page.
    """
    with open(path, "rb") as file:
        head = file.read(1024)
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(PLACEHOLDER_STARTS):
        from processing_egmf.media_egmf import check_content  # imports torch

        check_content(head, str(path))


def read_json(path: str | Path) -> Any:
    """The content of a JSON file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not JSON.
    """
    check_placeholder(path)
    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except RecursionError as error:
        raise ValueError(f"{path} cannot be read as JSON: it is nested too deeply.") from error
    except ValueError as error:
        raise ValueError(f"{path} is not a JSON file ({error}).") from error


@dataclass(frozen=True)
class Each:
    """The shape of an object with any keys whose values all have this shape."""

    shape: Any


def check_shape(value: Any, shape: Any, path: str | Path, advice: str, place: str = "") -> None:
    """Check that a JSON value has the entries that are read from it.

    Args:
        value: the content of a file, or a part of it.
        shape: a type or several; `[shape]` for a list; a dict for an object with these keys, of which those that end
            in `?` may be missing or null, and any others; or `Each`.
        path: of the file, for the message.
        advice: what the file should be, and what to do.
        place: keys of the part in the file.

    Raises:
        ValueError: an entry is missing, has another type, or is NaN or infinite; the message says where.
    """
    kinds = shape if isinstance(shape, type | tuple) else list if isinstance(shape, list) else dict
    is_flag = isinstance(value, bool) and kinds is not bool
    is_infinite = isinstance(value, float) and not math.isfinite(value)  # `write_json` writes null
    if not isinstance(value, kinds) or is_flag or is_infinite:
        shown = str(value) if len(str(value)) < MAX_SHOWN else f"{str(value)[:MAX_SHOWN]}..."
        raise ValueError(f"{path}: {place or 'its content'} is {shown!r}. {advice}")
    within = f"{place}/" if place else ""
    if isinstance(shape, list):
        for number, entry in enumerate(value):
            check_shape(entry, shape[0], path, advice, f"{within}{number}")
    elif isinstance(shape, Each):
        for key, entry in value.items():
            check_shape(entry, shape.shape, path, advice, f"{within}{key}")
    elif isinstance(shape, dict):
        for name, entry_shape in shape.items():
            key = name.removesuffix("?")
            if key not in value and key == name:
                raise ValueError(f"{path} has no entry {within}{key}. {advice}")
            if value.get(key) is not None or key == name:
                check_shape(value[key], entry_shape, path, advice, f"{within}{key}")


class UniqueKeyLoader(yaml.SafeLoader):
    """Refuses a key that is given twice, of which the last one would count without a word."""

    # Not when the mapping is constructed: by then, those of `<<` may have been merged into it.
    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            name = (key.tag, str(key.value))
            if name in seen and not key.tag.endswith(":merge"):
                raise yaml.composer.ComposerError(None, None, f"the key {key.value!r} appears twice", key.start_mark)
            seen.add(name)
        return node


def parse_yaml(text: str) -> Any:
    """The content of a YAML text, of plain types.

    Raises:
        yaml.YAMLError: it is not YAML, or has a key twice.
    """
    loader = UniqueKeyLoader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def read_yaml(path: str | Path) -> Any:
    """The content of a YAML file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not YAML, not UTF-8, or nested too deeply; the message is one line.
    """
    try:
        return parse_yaml(Path(path).read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{path} is not a YAML file: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deeply.") from error


def as_json_value(value: Any) -> Any:
    """Convert a value to JSON types: NumPy numbers become plain, NaN and infinity None, and other types text."""
    if isinstance(value, dict):
        return {str(key): as_json_value(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [as_json_value(entry) for entry in value]
    if isinstance(value, np.generic):
        return as_json_value(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str | int | bool) or value is None:
        return value
    return str(value)
