"""Conversion of MELD with real mp4 files: examples, context, quirks, and refused layouts."""

import pytest

from tests.helpers.media_files import gray_frames, write_video
from tests.helpers.release_files import meld_row, reasons, write_clip, write_csv
from training.converters import meld


@pytest.fixture(scope="module")
def long_clip(tmp_path_factory):
    """A clip of 31 s."""
    return write_video(tmp_path_factory.mktemp("clip") / "long.mp4", gray_frames(31, 16, 16), fps=1)


FOLDERS = {
    "train": "train/train_splits",
    "dev": "dev_splits_complete",
    "test": "test/output_repeated_splits_test",
}


def write_meld(source, clip, tables, missing=()):
    for split, rows in tables.items():
        write_csv(source / f"{split}_sent_emo.csv", rows)
        for row in rows:
            name = f"dia{row['Dialogue_ID']}_utt{row['Utterance_ID']}"
            if (split, name) not in missing:
                write_clip(source / FOLDERS[split] / f"{name}.mp4", clip)
    return source


@pytest.fixture
def meld_tables():
    return {
        "train": [
            meld_row(0, 0, "neutral", "“You’re” late…", Speaker="Ann"),
            meld_row(0, 1, "surprise", "Am I?", Speaker="Bob"),
            meld_row(0, 3, "joy", "Yes — you are.", Speaker="Ann"),
            meld_row(2, 0, "anger"),
        ],
        "dev": [meld_row(0, 0, "fear"), meld_row(0, 1, "sadness")],
        "test": [meld_row(0, 0, "disgust", StartTime="0:00:01,5", EndTime="0:00:02.25")],
    }


def test_meld_rows(tmp_path, convert, clip, meld_tables):
    meld_tables["train"].reverse()  # the order of the dialogue is restored
    source = write_meld(tmp_path / "MELD.Raw", clip, meld_tables)
    found, table = convert(meld, source, "--context_turns", "2")
    assert {split: [(row["id"], row["answer"]) for row in rows] for split, rows in found.items()} == {
        "train": [
            ("train_dia0_utt0", "neutral"), ("train_dia0_utt1", "surprise"), ("train_dia0_utt3", "joy"),
            ("train_dia2_utt0", "anger"),
        ],
        "validation": [("dev_dia0_utt0", "fear"), ("dev_dia0_utt1", "sadness")],
        "test": [("test_dia0_utt0", "disgust")],
    }  # fmt: skip
    row = found["train"][2]
    assert (row["dialogue"], row["turn"], row["speaker"]) == ("train_dia0", 3, "Ann")
    assert row["context"] == [["Ann", "“You’re” late…"], ["Bob", "Am I?"]]
    assert found["train"][0]["context"] == found["train"][3]["context"] == []
    assert (row["text"], row["sentiment"], row["season"], row["episode"]) == (
        "Yes — you are.",
        "positive",
        "8",
        "21",
    )
    assert (row["start_seconds"], row["end_seconds"]) == (
        pytest.approx(976.059),
        pytest.approx(981.731),
    )
    assert (found["test"][0]["start_seconds"], found["test"][0]["end_seconds"]) == (1.5, 2.25)
    assert row["video"] == "../../MELD.Raw/train/train_splits/dia0_utt3.mp4"
    assert found["validation"][0]["video"] == "../../MELD.Raw/dev_splits_complete/dia0_utt0.mp4"
    assert table["repaired"] == table["dropped"] == {}
    assert reasons(table, "notes") == {
        "dialogue number missing from the table": ["train_dia1"],
        "utterance number missing from the table": ["train_dia0_utt2"],
    }


def test_meld_quirks(tmp_path, convert, clip, long_clip, meld_tables):
    """The broken, missing, long and unlabeled clips of the release, and the row without a duration."""
    meld_tables["train"] += [meld_row(125, 3, "anger"), meld_row(309, 0), meld_row(310, 0, "happiness")]
    meld_tables["dev"] += [meld_row(110, 7)]
    meld_tables["test"] += [meld_row(38, 4), meld_row(220, 0), meld_row(155, 3, EndTime="00:16:16,059")]
    meld_tables["test"] += [
        meld_row(156, 0, StartTime="later"),
        meld_row(156, 0, "fear"),
        meld_row(157, 0, text=" "),
    ]
    source = write_meld(tmp_path / "MELD", clip, meld_tables, {("dev", "dia110_utt7"), ("test", "dia157_utt0")})
    train, dev, test = (source / FOLDERS[split] for split in ("train", "dev", "test"))
    (train / "dia125_utt3.mp4").write_bytes(clip.read_bytes()[:700])
    for path in (train / "dia309_utt0.mp4", test / "dia38_utt4.mp4", test / "dia220_utt0.mp4"):
        write_clip(path, long_clip)
    for path in (
        dev / "dia66_utt9.mp4",
        test / "dia108_utt2.mp4",
        test / "final_videos_testdia1_utt1.mp4",
    ):
        write_clip(path, clip)
    write_clip(test / "._dia0_utt0.mp4", clip)
    found, table = convert(meld, source)
    assert reasons(table, "repaired") == {
        "clip cannot be read: left out, text kept": ["train_dia125_utt3"],
        "clip longer than 30 s, wrongly cut: left out, text kept": [
            "train_dia309_utt0", "test_dia38_utt4", "test_dia220_utt0",
        ],
        "clip missing: left out, text kept": ["dev_dia110_utt7", "test_dia157_utt0"],
        "end is not after start: times left out": ["test_dia155_utt3"],
        "times cannot be read: left out": ["test_dia156_utt0"],
    }  # fmt: skip
    assert reasons(table, "dropped") == {
        "repeated id: the first example kept": ["test_dia156_utt0"],
        "neither text nor a clip": ["test_dia157_utt0"],
        "unknown label 'happiness'": ["train_dia310_utt0"],
    }
    assert reasons(table, "notes")["clip without a label"] == [
        "dev_dia66_utt9", "test_dia108_utt2", "test_final_videos_testdia1_utt1",
    ]  # fmt: skip
    assert table["rows"] == {
        "train": {"read": 7, "kept": 6, "repaired": 2, "dropped": 1},
        "validation": {"read": 3, "kept": 3, "repaired": 1, "dropped": 0},
        "test": {"read": 7, "kept": 5, "repaired": 4, "dropped": 2},
    }
    rows = {row["id"]: row for part in found.values() for row in part}
    without = {name for name, row in rows.items() if row["video"] is None}
    assert without == {
        "train_dia125_utt3", "train_dia309_utt0", "dev_dia110_utt7", "test_dia38_utt4", "test_dia220_utt0",
    }  # fmt: skip
    assert rows["train_dia125_utt3"]["text"] == "Hi."
    assert rows["test_dia155_utt3"]["start_seconds"] is None
    assert rows["test_dia155_utt3"]["video"].endswith("dia155_utt3.mp4")


def test_meld_selected_splits_without_clips(tmp_path, convert, refuse, meld_tables):
    write_csv(tmp_path / "MELD/dev_sent_emo.csv", meld_tables["dev"])
    assert "has no train_sent_emo.csv" in refuse(meld, tmp_path / "MELD")
    said = refuse(meld, tmp_path / "MELD", "--splits", "validation")
    assert "has no clips for split validation (dev_splits_complete/dia0_utt0.mp4" in said
    found, _ = convert(meld, tmp_path / "MELD", "--splits", "validation", "--media", "none")
    assert list(found) == ["validation"]


def test_meld_bad_table_is_refused(tmp_path, refuse, meld_tables):
    options = ("--splits", "train", "--media", "none")
    path = tmp_path / "MELD/train_sent_emo.csv"
    write_csv(path, [dict(meld_tables["train"][0], Utterance_ID="x")])
    assert "line 2: Utterance_ID is 'x'; it must be a whole number from 0 to 9999" in refuse(
        meld, tmp_path / "MELD", *options
    )
    write_csv(path, [{"Utterance": "Hi.", "Emotion": "joy"}])
    assert "has no column Speaker, Sentiment, Dialogue_ID" in refuse(meld, tmp_path / "MELD", *options)


@pytest.mark.parametrize("number", ["9" * 30, "99999999", "-1", "1_0", "1.5", ""])
def test_meld_numbers_are_bounded(tmp_path, refuse, meld_tables, number):
    """A dialogue of a huge number would be followed by a note on each that is missing before it."""
    write_csv(tmp_path / "MELD/train_sent_emo.csv", [*meld_tables["train"], meld_row(0, 9, Dialogue_ID=number)])
    said = refuse(meld, tmp_path / "MELD", "--splits", "train", "--media", "none")
    assert "line 6: Dialogue_ID is" in said and "from 0 to 9999" in said


def test_meld_swapped_columns_and_second_clips_are_reported(tmp_path, convert, refuse, clip, meld_tables):
    meld_tables["train"][0] |= {"Sentiment": "joy", "StartTime": "00:99:16,059"}
    source = write_meld(tmp_path / "MELD", clip, meld_tables)
    write_clip(source / "old/train_splits/dia0_utt1.mp4", clip)
    found, table = convert(meld, source)
    assert found["train"][0]["sentiment"] is None
    assert found["train"][1]["video"].endswith("MELD/old/train_splits/dia0_utt1.mp4")
    assert reasons(table, "repaired") == {
        "sentiment 'joy', which MELD does not have: left out": ["train_dia0_utt0"],
        "times cannot be read: left out": ["train_dia0_utt0"],
    }
    assert reasons(table, "notes")["second file of this name: ignored"] == ["train_splits/dia0_utt1.mp4"]
    for row in meld_tables["train"]:
        row["Emotion"], row["Sentiment"] = row["Sentiment"], row["Emotion"]
    write_csv(source / "train_sent_emo.csv", meld_tables["train"])
    assert "3 of 4 labels of MELD are not those of the task" in refuse(
        meld, source, "--splits", "train", "--media", "none"
    )


def test_meld_table_of_another_split_is_refused(tmp_path, refuse, meld_tables):
    for split in ("train", "dev", "test"):
        write_csv(tmp_path / f"MELD/{split}_sent_emo.csv", meld_tables["train" if split == "dev" else split])
    said = refuse(meld, tmp_path / "MELD", "--media", "none")
    assert "train_sent_emo.csv and" in said and "have the same content" in said


def test_meld_part_of_a_release_is_noted(tmp_path, convert, refuse, meld_tables):
    """A table that was cut off between two lines looks whole, and so does one whose labels are in another column."""
    for split, rows in meld_tables.items():
        write_csv(tmp_path / f"MELD/{split}_sent_emo.csv", rows)
    _, table = convert(meld, tmp_path / "MELD", "--media", "none")
    assert table["notes"]["split with fewer examples than the complete release"]["ids"] == [
        "train: 4 of 9989", "validation: 2 of 1109", "test: 1 of 2610",
    ]  # fmt: skip
    path = tmp_path / "MELD/test_sent_emo.csv"
    path.write_text(path.read_text().splitlines()[0] + "\n")
    assert "test_sent_emo.csv has no rows. Download it again" in refuse(meld, tmp_path / "MELD", "--media", "none")
    write_csv(path, [row | {"Emotion": "positive"} for row in meld_tables["test"]])
    said = refuse(meld, tmp_path / "MELD", "--media", "none")
    assert (
        "1 of 7 labels of MELD, among them all of test, are not those of the task (unknown label 'positive': 1)"
        in said
    )
