"""Conversion of CH-SIMS with real mp4 files: examples, quirks, and refused layouts."""

import pytest

from tests.helpers.release_files import reasons, sims_row, write_clip, write_csv
from training.converters import sims


def write_sims(folder_, clip, rows, table="meta.csv", missing=()):
    write_csv(folder_ / table, rows)
    for row in rows:
        if (row["video_id"], row["clip_id"]) not in missing:
            write_clip(folder_ / f"Raw/{row['video_id']}/{row['clip_id']}.mp4", clip)
    return folder_


SIMS = [
    sims_row("video_0001", "0001", "-1.0", "train", "我不想“嫁”给李茶"),
    sims_row("video_0001", "0002", "0.4", "valid"),
    sims_row("00020", "0003", "-0.1", "test"),
    sims_row("00020", "0010", "0.0", "train"),
]


@pytest.mark.parametrize(("corpus", "table"), [("sims", "label.csv"), ("sims_v2", "meta.csv")])
def test_sims_rows(tmp_path, convert, clip, corpus, table):
    source = write_sims(tmp_path / "SIMS", clip, SIMS, table)
    found, stored = convert(sims, source, "--corpus", corpus)
    assert {split: [row["id"] for row in rows] for split, rows in found.items()} == {
        "train": ["video_0001$_$0001", "00020$_$0010"],
        "validation": ["video_0001$_$0002"],
        "test": ["00020$_$0003"],
    }
    row = found["train"][0]
    assert (row["video_id"], row["clip_id"], row["text"]) == ("video_0001", "0001", "我不想“嫁”给李茶")
    assert (row["answer"], row["task"], row["annotation"]) == (-1.0, "sims_v2", "Positive")
    assert [row[name] for name in ("label_text", "label_audio", "label_video")] == [
        pytest.approx(0.4),
        None,
        -1,
    ]
    assert row["video"] == "../../SIMS/Raw/video_0001/0001.mp4"
    assert (tmp_path / "made/dest" / row["video"]).is_file()
    assert found["test"][0]["answer"] == -0.2
    assert list(stored["repaired"]) == ["score between the steps of 0.2: rounded to the nearest"]
    assert (tmp_path / "made/dest/splits/video_disjoint.json").is_file()


@pytest.mark.parametrize("label", ["", "nan"])
def test_test_split_without_labels(tmp_path, convert, clip, label):
    rows = [row if row["mode"] != "test" else {**row, "label": label} for row in SIMS]
    source = write_sims(tmp_path / "SIMS", clip, rows)
    found, stored = convert(sims, source, "--corpus", "sims_v2")
    assert [row["answer"] for row in found["test"]] == [None]
    assert [row["answer"] for row in found["train"]] == [-1.0, 0.0]
    assert reasons(stored, "notes")["split without labels: kept for egmf predict"] == ["test"]
    assert stored["dropped"] == {}


def test_sims_quirks(tmp_path, convert, clip):
    rows = [
        *SIMS,
        sims_row("v", "0001", "2"),
        sims_row("v", "0002", mode="extra"),
        sims_row("w", "0001", text=" "),
    ]
    source = write_sims(tmp_path / "SIMS", clip, rows, missing={("video_0001", "0001"), ("w", "0001")})
    (source / "Raw/video_0001/0002.mp4").write_bytes(clip.read_bytes()[:900])
    write_clip(source / "Raw/x/0009.mp4", clip)
    write_clip(source / "Raw/00020/._0010.mp4", clip)
    eaten = [dict(row, clip_id=row["clip_id"].lstrip("0")) for row in rows]
    eaten[2]["video_id"] = "20"
    write_csv(source / "meta.csv", eaten)
    found, table = convert(sims, source, "--corpus", "sims_v2")
    assert [row["id"] for row in found["train"]] == ["video_0001$_$1", "00020$_$0010"]
    assert [row["video"] for row in found["train"]] == [None, "../../SIMS/Raw/00020/0010.mp4"]
    assert found["validation"][0]["video"] is None
    assert found["test"][0]["id"] == "00020$_$0003"
    assert reasons(table, "repaired") == {
        "clip cannot be read: left out, text kept": ["video_0001$_$0002"],
        "clip missing: left out, text kept": ["video_0001$_$1", "w$_$1"],
        "leading zeros of the ids restored from the clip's name": [
            "video_0001$_$0002", "00020$_$0003", "00020$_$0010", "v$_$0001", "v$_$0002",
        ],
        "score between the steps of 0.2: rounded to the nearest": ["00020$_$0003"],
    }  # fmt: skip
    assert reasons(table, "dropped") == {
        "neither text nor a clip": ["w$_$1"],
        "score outside [-1, 1]": ["v$_$0001"],
        "unknown mode 'extra'": ["v$_$0002"],
    }
    assert reasons(table, "notes") == {
        "clip without a label": ["x$_$0009"],
        "too few videos: this split of video_disjoint is empty": ["test"],
    }


def test_ambiguous_leading_zeros_are_not_guessed(tmp_path, convert, clip):
    source = write_sims(tmp_path / "SIMS", clip, [sims_row("v", "01"), sims_row("v", "001"), sims_row("v", "1")])
    found, table = convert(sims, source, "--corpus", "sims")
    assert [row["video"][-8:] for row in found["train"]] == ["v/01.mp4", "/001.mp4", "/v/1.mp4"]
    assert table["repaired"] == {}
    (source / "Raw/v/1.mp4").unlink()
    found, table = convert(sims, source, "--corpus", "sims", "--overwrite")
    assert reasons(table, "repaired") == {"clip missing: left out, text kept": ["v$_$1"]}


def test_clips_are_embedded(tmp_path, convert, clip):
    source = write_sims(tmp_path / "SIMS", clip, SIMS)
    found = convert(sims, source, "--corpus", "sims_v2", "--media", "embed")[0]
    assert found["train"][0]["video"] == {"path": "0001.mp4", "bytes": clip.read_bytes()}


def test_text_only_needs_no_clips(tmp_path, convert, refuse, clip):
    write_csv(tmp_path / "SIMS/meta.csv", SIMS)
    assert "has no mp4 files. Use --media none" in refuse(sims, tmp_path / "SIMS", "--corpus", "sims_v2")
    found, table = convert(sims, tmp_path / "SIMS", "--corpus", "sims_v2", "--media", "none")
    assert "video" not in found["train"][0]
    assert "clip missing: left out, text kept" not in table["repaired"]


def test_sims_bad_layout_is_refused(tmp_path, refuse, clip):
    source = write_sims(tmp_path / "SIMS", clip, SIMS)
    rows = [{name: value for name, value in row.items() if name != "mode"} for row in SIMS]
    write_csv(source / "meta.csv", rows)
    assert "meta.csv has no column mode" in refuse(sims, source, "--corpus", "sims_v2")
    (source / "meta.csv").unlink()
    assert "has no meta.csv or label.csv" in refuse(sims, source, "--corpus", "sims_v2")
    assert "no folder" in refuse(sims, tmp_path / "absent", "--corpus", "sims_v2")


def test_labels_of_one_modality_are_checked(tmp_path, convert):
    """As a spreadsheet with decimal commas writes them, and damaged ones."""
    rows = [
        sims_row("a", "1") | {"label_T": "0,4"},
        sims_row("a", "2") | {"label_T": "inf"},
        sims_row("a", "3") | {"label_T": "7"},
    ]
    write_csv(tmp_path / "SIMS/meta.csv", rows)
    found, table = convert(sims, tmp_path / "SIMS", "--corpus", "sims_v2", "--media", "none")
    assert [row["label_text"] for row in found["train"]] == [pytest.approx(0.4), None, None]
    assert "column missing from the table: left empty" not in table["notes"]
    assert reasons(table, "repaired") == {
        "label_text is not a score of the task: left out": ["a$_$2", "a$_$3"],
    }
    for row in rows:
        del row["label_T"], row["annotation"]
    write_csv(
        tmp_path / "SIMS/meta.csv",
        [*rows, {name: value for name, value in sims_row("a", " ").items() if name in rows[0]}],
    )
    _, table = convert(sims, tmp_path / "SIMS", "--corpus", "sims_v2", "--media", "none", "--overwrite")
    assert reasons(table, "notes")["column missing from the table: left empty"] == ["label_T", "annotation"]
    assert reasons(table, "dropped") == {"no video_id or clip_id": ["a$_$"]}


def test_table_of_the_named_corpus_is_read(tmp_path, convert, refuse):
    """A folder with the tables of two corpora, as MMSA's download has them."""
    write_csv(tmp_path / "all/SIMS/label.csv", [sims_row("v", "1", "-0.2")])
    write_csv(tmp_path / "all/SIMS2/meta.csv", [sims_row("w", "1", "0.4")])
    found, _ = convert(sims, tmp_path / "all", "--corpus", "sims_v2", "--media", "none")
    assert [row["id"] for row in found["train"]] == ["w$_$1"]
    write_csv(tmp_path / "all/MOSI/label.csv", [sims_row("x", "1", "1.0")])
    said = refuse(sims, tmp_path / "all", "--corpus", "sims", "--media", "none")
    assert "has several label.csv with different content" in said and "Give the folder of one release" in said
