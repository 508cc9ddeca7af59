"""Readers of CSV, JSON lines and lists of JSON objects: text stays text, and errors name file, line and column."""

import pytest

from training.data.tables import find_metadata, read_csv, read_json_list, read_jsonl, read_metadata


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_csv_cells_are_text(tmp_path, encoding):
    path = tmp_path / "a.csv"
    path.write_text('id,text,note\n0001,"“Oh, no!”\nHe’s…",\n', encoding=encoding)
    row = {"id": "0001", "text": "“Oh, no!”\nHe’s…"}
    assert read_csv(path, ["id"]) == [row | {"note": ""}]
    assert read_metadata(path) == [row]  # without its empty cell


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"id,text\n1,2\n", "has no column label. It has id, text"),
        (b"", "has no column id, label. It has none"),
        (b"id,label,label\n1,2,3\n", "has more than one column label"),
        (b"id,label\n1", "line 2: fewer cells than columns"),
        (b"id,label\n1,2\n1,2,3\n", "line 3: more cells than columns"),
        (b"id,label\n1," + b"x" * 200_000 + b"\n", "line 2: not CSV"),
        ("id,label\n1,好\n".encode("gbk"), "line 2: is not UTF-8"),
    ],
)
def test_a_broken_csv_is_refused(tmp_path, content, message):
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"a.csv.*{message}"):
        read_csv(path, ["id", "label"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'[{"a": 1}, {"a"', "is not JSON, or was cut off"),
        (b'{"a": 1}', "must hold a list of objects"),
        (b"[1]", "must hold a list of objects"),
        (b'[{"a": 1}, {"b": 1}]', "entry 1: no a. It has b"),
        (b"\xff\xfea", "begins as UTF-16 but is not valid"),
        ("[" * 9999, "nested too deeply"),
        ('[{"a": ' + "[" * 60 + "]" * 60 + "}]", "entry 0: lists or objects are nested more than 50 deep"),
        ('[{"a": ' + "9" * 5000 + "}]", "a number with more than 4,300 digits"),
        ('[{"a": 1, "a": 2}]', "the key 'a' appears twice"),
        ('[{"a": "\\ud83d"}]', "entry 0: .* holds half of a surrogate pair"),
        ('[{"a": "\\u0000"}]', "entry 0: .* holds a NUL character"),
    ],
)
def test_a_broken_json_list_is_refused(tmp_path, content, message):
    path = tmp_path / "a.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=f"a.json.*{message}"):
        read_json_list(path, ["a"])


@pytest.mark.parametrize("read", [read_csv, read_jsonl, read_json_list, read_metadata])
def test_a_missing_file_is_named(tmp_path, read):
    with pytest.raises(FileNotFoundError, match=r"x\.csv does not exist"):
        read(tmp_path / "x.csv")


def test_jsonl_is_preferred_to_csv(tmp_path):
    assert find_metadata(tmp_path) is None
    for name in ("metadata.csv", "metadata.jsonl"):
        (tmp_path / name).touch()
        assert find_metadata(tmp_path).name == name
