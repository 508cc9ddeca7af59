"""The files that a generated corpus consists of: recorded when it is made, checked whenever it is loaded.

    describe_files ─► conversion.json or build.json: {"files": {name: {"bytes", "rows", "sha256"}}} ─► check_files

A missing, truncated or changed file is an error: without the check, a run would continue without its examples.
"""

import os
from pathlib import Path
from typing import Any

from ..records import digest_of_file, read_json


FILES = "files"
DIGESTED_FOLDERS = ("data", "splits")
MAX_DIGESTED_BYTES = 1 << 30  # a larger corpus is checked by sizes and numbers of rows: digests take a second per GB
MAX_SHOWN = 5


def describe_files(folder: Path, subfolders: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """The files in some subfolders of a corpus.

    Args:
        folder: the corpus.
        subfolders: names; one that does not exist has no files. Those in `DIGESTED_FOLDERS` get digests.

    Returns:
        Path relative to the folder -> `bytes`, `rows` of a Parquet file, and `sha256`.
    """
    described = {}
    for name in subfolders:
        for path in sorted((folder / name).glob("*")):
            entry: dict[str, Any] = {"bytes": path.stat().st_size}
            if path.suffix == ".parquet":
                entry["rows"] = num_rows(path)
            if name in DIGESTED_FOLDERS:
                entry["sha256"] = digest_of_file(path)
            described[f"{name}/{path.name}"] = entry
    return described


def num_rows(path: Path) -> int | None:
    """Number of rows of a Parquet file, from its footer; None if it is damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_metadata(path).num_rows
    except (pa.ArrowException, OSError):
        return None


def read_record(path: Path) -> dict[str, Any]:
    """The record of a generated corpus.

    Raises:
        ValueError: it is damaged.
    """
    record = read_json(path)
    if not isinstance(record, dict) or not isinstance(record.get(FILES, {}), dict):
        raise ValueError(f"{path} is damaged: it is not the record of a corpus. Make the corpus again.")
    return record


def check_files(folder: Path, record: dict[str, Any], subfolders: tuple[str, ...]) -> None:
    """Check that all files of a corpus exist and are unchanged.

    Args:
        folder: the corpus.
        subfolders: check the files in these.
        record: from `read_record`. An earlier version wrote only the numbers of examples, which are checked then.

    Raises:
        ValueError: a file is missing, has another size, number of rows or content, or does not belong there; or the
            record itself is damaged.
    """
    try:
        if "table" in record:
            _check_splits(folder, record["table"]["rows"])
        elif FILES not in record:
            raise KeyError(FILES)
        files = record.get(FILES, {})
        chosen = {name: entry for name, entry in files.items() if name.split("/")[0] in subfolders}
        problems = _find_problems(folder, chosen)
        if FILES in record and "data" in subfolders:
            problems += _find_unlisted(folder, chosen)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{folder}: its record is damaged ({error}). Convert it again (--overwrite).") from error
    if problems:
        more = f"; and {len(problems) - MAX_SHOWN} more" if len(problems) > MAX_SHOWN else ""
        raise ValueError(
            f"{folder} is incomplete or damaged: {'; '.join(problems[:MAX_SHOWN])}{more}. "
            "Recreate it with --overwrite, or copy it again."
        )


def _check_splits(folder: Path, counts_of: dict[str, dict[str, int]]) -> None:
    """Compare the rows of each split with the conversion report."""
    for split, counts in counts_of.items():
        found = sum(num_rows(path) or 0 for path in folder.glob(f"data/{split}-*.parquet"))
        if found != counts["kept"]:
            raise ValueError(
                f"{folder} is incomplete: its data/ holds {found} of the {counts['kept']} examples of {split}. "
                "Convert it again with --overwrite, or copy it again."
            )


def _find_problems(folder: Path, files: dict[str, dict[str, Any]]) -> list[str]:
    total = sum(entry["bytes"] for entry in files.values() if "sha256" in entry)
    problems = []
    for name, entry in files.items():
        problem = _find_problem(folder / name, entry, total)
        if problem is not None:
            problems.append(f"{name} {problem}")
    return problems


def _find_unlisted(folder: Path, files: dict[str, dict[str, Any]]) -> list[str]:
    names = [f"data/{path.name}" for path in sorted((folder / "data").glob("*.parquet"))]
    return [f"{name} does not belong to it" for name in names if name not in files]


def _find_problem(path: Path, entry: dict[str, Any], total_bytes: int) -> str | None:
    """What is wrong with a file; None if nothing is."""
    if not path.is_file():
        return "is missing"
    size = os.path.getsize(path)
    if size != entry["bytes"]:
        return f"has {size} of {entry['bytes']} bytes"
    if "rows" in entry and num_rows(path) != entry["rows"]:
        return f"has {num_rows(path)} rows, not {entry['rows']}"
    if "sha256" in entry and total_bytes <= MAX_DIGESTED_BYTES and digest_of_file(path) != entry["sha256"]:
        return "has changed since it was made"
    return None
