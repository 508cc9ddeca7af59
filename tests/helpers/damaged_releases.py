"""Damaged releases of corpora for the converters, for damage.py.

A release is read by its converter's command. What the conversion report names counts as a warning.
"""

import contextlib
import copy
import csv
import io
import json
import logging
import math
import pickle
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tests.helpers.damage import Case, damage_file
from tests.helpers.damaged_tables import CELLS, TEXT
from tests.helpers.small_releases import SmallRelease, copy_release, stored_rows, stored_table, write_releases


JUNK = (
    "", " ", "nan", "inf", "-inf", "1e999", "-1", "-7.5", "0,5", "1_0", "9" * 30, "9" * 5000, "²", "٣", "NULL",
    "#N/A", "True", "joy", "happy", "Positive", "高兴", "a/b", "../../../escaped", "x" * 300, "x" * 3000, "a\nb",
    "café", "00:16:21,731", "00:99:99,999", "24", "1.0", "train", "extra", "=1+1", "0x10",
)  # fmt: skip
NUMBERS = (
    math.nan,
    math.inf,
    -math.inf,
    1e300,
    -1,
    10**30,
    0.5,
    True,
    "1",
    "",
    None,
    [],
    [0.5],
    {"a": 1},
    b"\xff",
    "x" * 300,
)
MEDIA = ("audio", "video", "audio_features", "video_features")
REPORTED = logging.getLogger("training.converters")
REPORTED.addHandler(logging.NullHandler())


class Outcome(NamedTuple):
    """What a conversion made: rows by id, and its report."""

    rows: dict[str, dict[str, Any]]
    table: dict[str, Any]


def make_inputs(folder: Path) -> Callable[[int, random.Random | None, Path], Case]:
    releases = write_releases(folder / "releases")
    names = list(releases)
    expected = {}
    for name, release in releases.items():
        place = folder / "undamaged" / name
        copy_release(folder / "releases", name, place)
        expected[name] = convert(release, place)

    def damaged(index: int, rng: random.Random | None, place: Path) -> Case:
        name = names[index % len(names)]
        source = copy_release(folder / "releases", name, place)
        keeps_value = is_of_files = False
        way = "undamaged"
        if rng is not None:
            path = rng.choice(sorted(path for path in source.rglob("*") if path.is_file()))
            damage, keeps_value = rng.choice(damages_of(path))
            is_of_files = damage in (replace_file, add_copy)
            way = f"{path.name} {damage.__name__}: {damage(path, rng)}"

        def compare(value: Outcome, warnings: str) -> str:
            return compare_outcomes(value, expected[name], keeps_value, is_of_files)

        places = (str(place), "No example of", "labels of")
        return Case(f"{name} {way}", places, lambda: convert(releases[name], place), compare)

    return damaged


def convert(release: SmallRelease, place: Path) -> Outcome:
    """Convert a release in a folder.

    Raises:
        ValueError: the converter's error.
        RuntimeError: it left an output behind.
    """
    dest = place / "dest"
    arguments = [str(place / release.source), str(dest), "--no_progress", "--num_workers", "1", *release.options]
    try:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            release.converter.main(arguments)
    except SystemExit as error:
        if dest.exists() or not str(error.code).startswith("error: "):
            raise RuntimeError(f"DEST exists, or the error is {str(error.code)[:200]}") from error
        raise ValueError(str(error.code)) from error
    outside = [path for path in place.rglob("*escaped*") if not path.is_relative_to(dest)]
    if outside:
        raise RuntimeError(f"{outside} was written")
    REPORTED.warning(f"{place}: {printed.getvalue()}")
    rows = stored_rows(dest)
    by_id = {row["id"]: row for row in rows}
    if len(by_id) != len(rows):
        raise RuntimeError("an id is stored twice")
    return Outcome(by_id, stored_table(dest))


# ---- comparison -----------------------------------------------------------------------------------------------


def compare_outcomes(found: Outcome, expected: Outcome, keeps_value: bool, is_of_files: bool) -> str:
    """`right`, `as written` or `partial`, or what is wrong.

    Args:
        found: of the damaged release.
        expected: of the undamaged one.
        keeps_value: whether the damage leaves every value, so that the same rows must be found.
        is_of_files: whether a file was replaced or added, so that nothing may change without a word.
    """
    problem = find_invalid(found)
    if problem is not None:
        return problem
    if same(found.rows, expected.rows):
        return "right"
    if keeps_value:
        return f"other rows: {differences(found.rows, expected.rows)[:200]}"
    reported = reported_by(found.table) - reported_by(expected.table)
    num_new = len(found.rows.keys() - expected.rows.keys())
    lost = [name for name in expected.rows.keys() - found.rows.keys() if name not in {entry[-1] for entry in reported}]
    if not reported and (is_of_files or len(lost) > num_new):
        return f"changed without a word: {differences(found.rows, expected.rows)[:200]}"
    return "partial" if reported else "as written"


def reported_by(table: dict[str, Any]) -> set[tuple[str, str, str]]:
    """Kind, reason and name of every entry of a conversion report."""
    kinds = ("dropped", "repaired", "notes")
    return {(kind, reason, name) for kind in kinds for reason in table[kind] for name in table[kind][reason]["ids"]}


def find_invalid(found: Outcome) -> str | None:
    """What no converted corpus may hold; None if there is nothing."""
    kept = Counter(row["split"] for row in found.rows.values())
    for split, counts in found.table["rows"].items():
        if counts["kept"] != kept.get(split, 0) or counts["read"] != counts["kept"] + counts["dropped"]:
            return f"counts {counts} of {split}, but {kept.get(split, 0)} rows"
    for name, row in found.rows.items():
        for column, value in row.items():
            numbers = np.ravel(value) if column.endswith("_features") and value is not None else [value]
            for number in numbers:
                if isinstance(number, float) and not (math.isfinite(number) and abs(number) <= 1e6):
                    return f"{column} of {name} is {number}"
        if row["answer"] is None or (not row.get("text") and not any(row.get(part) for part in MEDIA)):
            return f"{name} has neither text nor media, or no answer"
        if "\ufffd" in str(row):
            return f"{name} has a replacement character"
    return None


def same(first: Any, second: Any) -> bool:
    return repr(sorted(first.items())) == repr(sorted(second.items()))


def differences(found: dict[str, dict[str, Any]], expected: dict[str, dict[str, Any]]) -> str:
    """For messages: ids only in one, and columns that differ."""
    parts = [f"-{name}" for name in expected if name not in found] + [
        f"+{name}" for name in found if name not in expected
    ]
    for name in found.keys() & expected.keys():
        for column, value in found[name].items():
            if value != expected[name].get(column):
                parts.append(f"{name}.{column}: {str(expected[name].get(column))[:60]} -> {str(value)[:60]}")
    return "; ".join(sorted(parts))


# ---- damage ---------------------------------------------------------------------------------------------------

Damage = Callable[[Path, random.Random], str]


def damages_of(path: Path) -> list[tuple[Damage, bool]]:
    """The ways to damage a file, and whether they leave its values."""
    ways: list[tuple[Damage, bool]] = [(damage_bytes_of, False), (replace_file, False), (add_copy, False)]
    if path.suffix == ".csv":
        ways += [(rewrite_text, True), (rewrite_table, True)]
        ways += 3 * [(change_cell, False), (change_columns, False), (change_rows, False)]
    elif path.suffix in (".json", ".txt"):
        ways += [(rewrite_text, True), (change_lines, False)]
    if path.suffix == ".json":
        ways += 4 * [(change_entry, False)]
    if path.suffix == ".pkl":
        ways += 8 * [(change_pickle, False)]
    if path.suffix == ".npy":
        ways += 2 * [(change_array, False)]
    return ways


def damage_bytes_of(path: Path, rng: random.Random) -> str:
    return damage_file(path, rng)


def replace_file(path: Path, rng: random.Random) -> str:
    way = rng.choice(("removed", "folder", "loop", "broken link", "link", "empty"))
    content = path.read_bytes()
    path.unlink()
    if way == "folder":
        path.mkdir()
    elif way == "loop":
        path.symlink_to(path.name)
    elif way == "broken link":
        path.symlink_to("absent")
    elif way == "link":
        moved = path.with_name(f".{path.name}.moved")
        moved.write_bytes(content)
        path.symlink_to(moved.name)
    elif way == "empty":
        path.touch()
    return way


def add_copy(path: Path, rng: random.Random) -> str:
    """A second, damaged copy in another folder."""
    folder = rng.choice((".Trash/files", "old", "zz/copy"))
    other = path.parent / folder / path.parent.name / path.name
    other.parent.mkdir(parents=True)
    other.write_bytes(path.read_bytes())
    return f"{folder} {damage_file(other, rng)}"


def rewrite_text(path: Path, rng: random.Random) -> str:
    rewrites = CELLS if path.suffix == ".csv" else TEXT
    if path.suffix == ".json":
        rewrites = {name: rewrites[name] for name in ("crlf", "mark", "no newline")}
    way = rng.choice(sorted(rewrites.keys() - {"empty columns", "trailing cells"}))
    path.write_bytes(rewrites[way](path.read_bytes()))
    return way


def read_rows(path: Path) -> list[list[str]]:
    return list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"), newline="")))


def write_rows(path: Path, rows: list[list[str]], **options: Any) -> None:
    text = io.StringIO()
    csv.writer(text, **options).writerows(rows)
    path.write_text(text.getvalue(), encoding="utf-8", newline="")


def rewrite_table(path: Path, rng: random.Random) -> str:
    """Another separator, quotes, order of columns, or an extra column."""
    header, *rows = read_rows(path)
    is_of_faces = " x_0" in header  # all tables of landmarks must have the same columns
    way = rng.choice((";", "\t", "|", "quotes") if is_of_faces else (";", "\t", "|", "quotes", "columns", "extra"))
    if way == "columns":
        order = rng.sample(range(len(header)), len(header))
        header, *rows = [[row[i] for i in order] for row in [header, *rows]]
    elif way == "extra" and path.name != "metadata.csv":
        header.append("note")
        rows = [[*row, "kept?"] for row in rows]
    options: dict[str, Any] = {"delimiter": way} if len(way) == 1 else {}
    if way == "quotes":
        options["quoting"] = csv.QUOTE_ALL
    write_rows(path, [header, *rows], **options)
    return way


def change_cell(path: Path, rng: random.Random) -> str:
    header, *rows = read_rows(path)
    column = rng.randrange(len(header))
    value = rng.choice(JUNK)
    chosen = rows if rng.random() < 0.2 else [rng.choice(rows)]
    for row in chosen:
        row[column] = value
    write_rows(path, [header, *rows])
    return f"{header[column]} = {value[:20]!r} in {len(chosen)}"


def change_columns(path: Path, rng: random.Random) -> str:
    header, *rows = read_rows(path)
    way = rng.choice(("dropped", "renamed", "swapped", "twice", "emptied"))
    i, j = rng.sample(range(len(header)), 2)
    name = f"{header[i]} {way} {header[j]}"
    if way == "renamed":
        header[i] += "_"
    elif way == "swapped":
        header[i], header[j] = header[j], header[i]
    elif way == "twice":
        header[i] = header[j]
    else:
        for row in rows:
            row[i] = ""
        if way == "dropped":
            header, *rows = [row[:i] + row[i + 1 :] for row in [header, *rows]]
    write_rows(path, [header, *rows])
    return name


def change_rows(path: Path, rng: random.Random) -> str:
    header, *rows = read_rows(path)
    way = rng.choice(("repeated", "repeated with another value", "cut", "cell too many", "header twice", "no rows"))
    row = rng.choice(rows)
    if way.startswith("repeated"):
        other = list(row)
        if way != "repeated":
            column = rng.randrange(len(header))
            other[column] = rng.choice(rows)[column]
        rows.insert(rng.randrange(len(rows) + 1), other)
    elif way == "cut":
        del row[rng.randrange(len(row)) :]
    elif way == "cell too many":
        row.append("x")
    elif way == "header twice":
        rows.append(header)
    else:
        rows = []
    write_rows(path, [header, *rows])
    return way


def change_lines(path: Path, rng: random.Random) -> str:
    """A line removed, repeated, moved or mixed up."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    number = rng.randrange(len(lines))
    way = rng.choice(("removed", "repeated", "swapped", "changed"))
    if way == "removed":
        del lines[number]
    elif way == "repeated":
        lines.insert(number, lines[number])
    elif way == "swapped":
        other = rng.randrange(len(lines))
        lines[number], lines[other] = lines[other], lines[number]
    else:
        words = lines[number].split(" ")
        words[rng.randrange(len(words))] = rng.choice(JUNK)
        lines[number] = " ".join(words)
    path.write_text("".join(lines), encoding="utf-8")
    return f"{way} {number}"


def change_entry(path: Path, rng: random.Random) -> str:
    entries = json.loads(path.read_text(encoding="utf-8"))
    entry = rng.choice(entries)
    key = rng.choice(sorted(entry))
    way = rng.choice(("no key", "junk", "value", "repeated", "swapped"))
    if way == "no key":
        del entry[key]
    elif way in ("junk", "value"):
        entry[key] = rng.choice(
            JUNK if way == "junk" else [number for number in NUMBERS if not isinstance(number, bytes)]
        )
    elif way == "repeated":
        entries.append(dict(entry, video_label="愤怒"))
    else:
        other = rng.choice(sorted(entry))
        for each in entries:
            each[key], each[other] = each[other], each[key]
        key = f"{key} and {other}"
    path.write_text(json.dumps(entries, ensure_ascii=False), encoding="utf-8")
    return f"{way} {key}"


def change_pickle(path: Path, rng: random.Random) -> str:
    """Change a value in a column of MMSA's pickle, or in an entry of the processed ones."""
    content = pickle.loads(path.read_bytes())  # noqa: S301  its own
    if isinstance(content, dict) and rng.random() < 0.1:
        way = change_key(content, rng)
    else:
        part = rng.choice(list(content.values()) if isinstance(content, dict) else content)
        part = part["features"] if "features" in part and rng.random() < 0.8 else part
        way = change_part(part, rng)
    path.write_bytes(pickle.dumps(content, protocol=rng.randint(2, 5)))
    return way


def change_key(part: dict[str, Any], rng: random.Random) -> str:
    key = rng.choice(sorted(part))
    way = rng.choice(("no key", "renamed", "swapped"))
    value = part.pop(key)
    if way == "renamed":
        part[f"{key}_"] = value
    elif way == "swapped":
        other = rng.choice(sorted(part))
        part[key], part[other] = part[other], value
    return f"{way} {key}"


def change_part(part: dict[str, Any], rng: random.Random) -> str:
    if rng.random() < 0.25:
        return change_key(part, rng)
    key = rng.choice(sorted(part))
    part[key] = copy.deepcopy(part[key])
    value = part[key]
    if not isinstance(value, list | np.ndarray):
        part[key] = rng.choice(NUMBERS)
        return f"{key} = {part[key]!r:.20}"
    if isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.ndim > 1:
        part[key], way = damage_array(value, rng)
        return f"{key} {way}"
    row = rng.randrange(len(value))
    values = list(value)
    way = rng.choice(("junk", "value", "repeated", "shorter"))
    if way == "repeated":
        values[row] = values[0]
    elif way == "shorter":
        del values[row]
    else:
        values[row] = rng.choice(JUNK if way == "junk" else NUMBERS)
    part[key] = values
    return f"{key}[{row}] {way} {values[min(row, len(values) - 1)]!r:.20}"


def damage_array(values: np.ndarray, rng: random.Random) -> tuple[Any, str]:
    way = rng.choice(
        ("nan", "inf", "huge", "flat", "transposed", "wider", "text", "objects", "complex", "zeros", "ints", "none")
    )
    flat = values.reshape(-1)
    if way in ("nan", "inf", "huge"):
        flat[rng.randrange(flat.size)] = {"nan": math.nan, "inf": -math.inf, "huge": 1e30}[way]
        return values, way
    changed: dict[str, Any] = {
        "flat": flat,
        "transposed": np.ascontiguousarray(values.T),
        "wider": np.concatenate([values, values], axis=-1),
        "text": values.astype(str),
        "objects": values.astype(object),
        "complex": values.astype(complex),
        "zeros": np.zeros_like(values),
        "ints": (100 * values).astype(np.int64),
        "none": None,
    }
    return changed[way], way


def change_array(path: Path, rng: random.Random) -> str:
    values, way = damage_array(np.load(path), rng)
    if values is None:
        values = np.array(values, dtype=object)
    with path.open("wb") as file:
        np.save(file, values, allow_pickle=True)
    return way
