"""Damaged metadata files and converted corpora, for damage.py."""

import contextlib
import csv
import io
import json
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from processing_egmf import EGMFProcessor
from tests.helpers.damage import Case, damage_file
from tests.helpers.tiny_tokenizer import train_tokenizer
from training.converters import folder as folder_converter
from training.data.dataset import EGMFDataset, load_examples


COMPARED = ("id", "split", "task", "text", "answer", "context")
LABELS = ("joy", "anger", "neutral", "sadness")
EXAMPLES = [
    {
        "id": f"a{i}",
        "split": "train" if i < 9 else "test",
        "task": "emotion",
        "text": f'wörd {i}; "x", y',
        "answer": LABELS[i % 4],
        "note": "" if i % 3 else "loud",
    }
    for i in range(12)
]
FILES = ("metadata.jsonl", "metadata.csv", "metadata.tsv", "metadata.json", "metadata.parquet", "converted")


def make_inputs(folder: Path) -> Callable[[int, random.Random | None, Path], Case]:
    for name in FILES[:5]:
        (folder / name).write_bytes(encode(name))
    own = folder / "own"
    own.mkdir()
    (own / "metadata.jsonl").write_bytes(encode("metadata.jsonl"))
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        folder_converter.main([str(own), str(folder / "converted")])
    processor = EGMFProcessor(train_tokenizer(), audio_input=None, video_input=None)

    def read(corpus: Path) -> list[dict[str, Any]]:
        dataset = EGMFDataset(load_examples(corpus), processor)
        for index in range(len(dataset)):
            dataset[index]
        return [pick(example, example["id"]) for example in dataset.examples]

    def damaged(index: int, rng: random.Random | None, place: Path) -> Case:
        corpus = place / "corpus"
        name = FILES[index % len(FILES)]
        if name == "converted":
            shutil.copytree(folder / name, corpus)
            files = sorted(path for path in corpus.rglob("*") if path.suffix in (".json", ".parquet"))
            path = files[index % len(files)]
            name = path.name
            way = damage_file(path, rng)
            return Case(f"converted {name} {way}", (str(corpus),), lambda: read(corpus), compare_converted)
        corpus.mkdir()
        path = corpus / name
        path.write_bytes((folder / name).read_bytes())
        leaves_value = rng is not None and index % 3 == 0 and path.suffix in REWRITES
        if leaves_value:
            way = rng.choice(sorted(REWRITES[path.suffix]))
            path.write_bytes(REWRITES[path.suffix][way](path.read_bytes()))
        else:
            way = damage_file(path, rng)

        def compare(value: Any, _: str) -> str:
            if same_examples(value, EXAMPLES):
                return "right"
            if leaves_value:
                return f"other value {str(value)[:200]}"
            return "as written" if same_examples(value, decode(path)) else f"other value {str(value)[:300]}"

        return Case(f"{name} {way}", (str(corpus), "example"), lambda: read(corpus), compare)

    return damaged


def compare_converted(value: Any, _: str) -> str:
    """The record has digests: only the right value may be read."""
    return "right" if same_examples(value, EXAMPLES) else f"other value {str(value)[:200]}"


def pick(example: dict[str, Any], name: Any) -> dict[str, Any]:
    """The compared columns that have a value."""
    values = {column: example.get(column) for column in COMPARED} | {"id": str(name)}
    return {column: value for column, value in values.items() if value not in (None, "")}


def same_examples(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> bool:
    names = [example.get("id", number) for number, example in enumerate(expected)]
    expected = [{"task": "emotion"} | pick(example, name) for example, name in zip(expected, names, strict=True)]
    return sorted(map(repr_sorted, found)) == sorted(map(repr_sorted, expected))


def repr_sorted(example: dict[str, Any]) -> str:
    return repr(sorted(example.items()))


# ---- files ----------------------------------------------------------------------------------------------------


def encode(name: str) -> bytes:
    """The examples in the format of a file name."""
    suffix = Path(name).suffix
    if suffix == ".jsonl":
        return "".join(json.dumps(example, ensure_ascii=False) + "\n" for example in EXAMPLES).encode()
    if suffix == ".json":
        return json.dumps(EXAMPLES, ensure_ascii=False).encode()
    if suffix == ".parquet":
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(EXAMPLES), sink)
        return sink.getvalue()
    text = io.StringIO()
    writer = csv.DictWriter(text, list(EXAMPLES[0]), delimiter="\t" if suffix == ".tsv" else ";", lineterminator="\n")
    writer.writeheader()
    writer.writerows(EXAMPLES)
    return text.getvalue().encode()


def decode(path: Path) -> list[dict[str, Any]]:
    """The examples in a damaged file, by other readers than the project's."""
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("cp1252")
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in re.split(r"\r\n|\r|\n", text) if line.strip()]
    if path.suffix == ".json":
        return json.loads(text)
    separator = "\t" if path.suffix == ".tsv" else ";"
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)
    records = [cells for cells in reader if any(cell.strip() for cell in cells)]
    names = [name.strip() for name in records[0]]
    return [dict(zip(names, cells, strict=False)) for cells in records[1:]]


def as_crlf(data: bytes) -> bytes:
    return data.replace(b"\n", b"\r\n")


def as_utf16(data: bytes) -> bytes:
    return data.decode().encode("utf-16")


def with_mark(data: bytes) -> bytes:
    return b"\xef\xbb\xbf" + data


def with_empty_lines(data: bytes) -> bytes:
    return data.replace(b"\n", b"\n\n") + b"\n \n"


def without_trailing_cells(data: bytes) -> bytes:
    return re.sub(rb"[;\t]\n", b"\n", data)


def without_last_newline(data: bytes) -> bytes:
    return data.rstrip(b"\n")


def with_empty_columns(data: bytes) -> bytes:
    separator = b"\t" if b"\t" in data else b";"
    return data.replace(b"\n", separator * 3 + b"\n")


TEXT = {"crlf": as_crlf, "mark": with_mark, "empty lines": with_empty_lines, "no newline": without_last_newline}
CELLS = {
    **TEXT,
    "utf-16": as_utf16,
    "trailing cells": without_trailing_cells,
    "empty columns": with_empty_columns,
}
REWRITES = {".jsonl": TEXT, ".csv": CELLS, ".tsv": CELLS}
