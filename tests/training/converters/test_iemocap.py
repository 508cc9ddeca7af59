"""Conversion of IEMOCAP: labels, raters, context, sessions held out, cut videos, and incomplete releases."""

import json

import pytest

from tests.helpers.acted_speech import copy_to, cut, write_iemocap, write_wave
from tests.helpers.media_files import gray_frames, sine, write_video
from tests.helpers.release_files import reasons
from training.converters import iemocap


DIALOGUES = {
    "Ses01F_impro01": ["neu", "xxx", "exc", "fru"],
    "Ses02M_script01_1": ["hap", "sad"],
    "Ses03F_impro02": ["ang", "sur"],
}


@pytest.fixture(scope="module")
def wave(tmp_path_factory):
    return write_wave(tmp_path_factory.mktemp("wave") / "a.wav")


def rows_of(found):
    return {row["id"]: row for part in found.values() for row in part}


def test_four_labels_with_context(tmp_path, convert, wave):
    source = write_iemocap(tmp_path / "IEMOCAP_full_release", wave, DIALOGUES)
    found, table = convert(iemocap, source, "--context_turns", "2")
    rows = rows_of(found)
    assert {name: row["answer"] for name, row in rows.items()} == {
        "Ses01F_impro01_F000": "neutral", "Ses01F_impro01_F001": "happy",
        "Ses02M_script01_1_F000": "happy", "Ses02M_script01_1_M000": "sad", "Ses03F_impro02_F000": "angry",
    }  # fmt: skip
    row = rows["Ses01F_impro01_F001"]
    assert (row["speaker"], row["session"], row["sex"], row["scenario"]) == (
        "Ses01F", "Session1", "female", "improvised",
    )  # fmt: skip
    assert row["context"] == [["Ses01F", "Line 0."], ["Ses01M", "Line 1."]]
    assert (row["text"], row["released_label"], row["start_seconds"]) == ("Line 2.", "exc", 2.0)
    assert (row["valence"], row["activation"], row["dominance"]) == (2.5, 3.0, 2.0)
    ratings = json.loads(row["ratings"])
    assert ratings["E4"] == {"categories": ["Anger", "Frustration"], "comment": "tense"}
    assert ratings["F1"] == {
        "categories": ["Neutral"], "comment": "", "valence": 2.0, "activation": 4.0, "dominance": 1.0,
    }  # fmt: skip
    assert {split: {row["session"] for row in part} for split, part in found.items()} == {
        "test": {"Session1"}, "validation": {"Session2"}, "train": {"Session3"},
    }  # fmt: skip
    assert reasons(table, "dropped") == {
        "label frustrated is not one of --labels four": ["Ses01F_impro01_M001"],
        "label surprised is not one of --labels four": ["Ses03F_impro02_M000"],
        "raters do not agree (xxx)": ["Ses01F_impro01_M000"],
    }
    assert reasons(table, "notes") == {"session missing from SOURCE": ["Session4", "Session5"]}


def test_all_labels_and_videos(tmp_path, convert, wave):
    source = write_iemocap(tmp_path / "I", wave, DIALOGUES)
    video = source / "Session2/dialog/avi/DivX/Ses02M_script01_1.avi"
    video.parent.mkdir(parents=True)
    write_video(video, gray_frames(20, 16, 16), 10, audio=sine(200, 2, 16_000), codec="mpeg4")
    copy_to(video, source / "Session1/dialog/avi/DivX/Ses01F_impro01.avi")
    (source / "Session1/dialog/avi/DivX/Ses01F_impro01.avi").write_bytes(b"cut")
    found, table = convert(iemocap, source, "--labels", "all", "--video")
    rows = rows_of(found)
    assert rows["Ses03F_impro02_M000"]["answer"] == "surprised"
    assert rows["Ses01F_impro01_M001"]["answer"] == "frustrated"
    assert rows["Ses01F_impro01_F001"]["answer"] == "excited"
    assert rows["Ses02M_script01_1_F000"]["video"] == "clips/Ses02M_script01_1_F000.mp4"
    assert (tmp_path / "made/dest/clips/Ses02M_script01_1_M000.mp4").is_file()
    repaired = reasons(table, "repaired")
    assert len(repaired["video cannot be cut out of its dialogue: left out"]) == 3
    assert repaired["video of the dialogue missing: no video"] == ["Ses03F_impro02_F000", "Ses03F_impro02_M000"]


def test_incomplete_release(tmp_path, convert, refuse, wave):
    missing = ("Ses02M_script01_1_F000", "Ses03F_impro02_F000")
    dialogues = DIALOGUES | {"Ses04F_impro01": ["bor", "neu"], "Ses05F_impro01": ["neu"]}
    source = write_iemocap(tmp_path / "I", wave, dialogues, missing)
    cut(source / "Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav")
    copy_to(wave, source / "Session1/sentences/wav/Ses01F_impro09/Ses01F_impro09_F000.wav")
    copy_to(wave, source / "Session1/dia0_utt0.wav")
    (source / "Session3/dialog/transcriptions/Ses03F_impro02.txt").unlink()
    (source / "Session5/dialog/EmoEvaluation/Ses05F_impro01.txt").write_text("% [START")
    found, table = convert(iemocap, source)
    rows = rows_of(found)
    assert rows["Ses01F_impro01_F000"]["audio"] is None
    assert rows["Ses01F_impro01_F000"]["text"] == "Line 0."
    assert "Ses03F_impro02_F000" not in rows
    assert reasons(table, "repaired") == {
        "audio file is cut off: left out": ["Ses01F_impro01_F000"],
        "audio file missing: left out, text kept": list(missing),
        "transcript missing: no text": ["Ses03F_impro02_F000"],
    }
    dropped = reasons(table, "dropped")
    assert dropped["label 'bor', which IEMOCAP does not have"] == ["Ses04F_impro01_F000"]
    assert dropped["no file of the recording can be used"] == ["Ses03F_impro02_F000"]
    assert reasons(table, "notes") == {
        "evaluation file without utterances; was its download interrupted?": ["Ses05F_impro01.txt"],
        "not a file of IEMOCAP, but of MELD: ignored": ["dia0_utt0.wav"],
        "recording without a label": ["Ses01F_impro09_F000", "Ses05F_impro01_F000"],
        "session missing from SOURCE": ["Session5"],
    }
    for path in source.rglob("EmoEvaluation/*"):
        path.unlink()
    assert "has no dialog/EmoEvaluation/*.txt, where the labels are" in refuse(iemocap, source)


def test_damaged_evaluations_are_reported(tmp_path, convert, wave):
    """The raters of an utterance whose line is damaged are not those of the one before."""
    source = write_iemocap(tmp_path / "I", wave, DIALOGUES | {"Ses04F_impro01": ["neu"] * 5})
    path = source / "Session4/dialog/EmoEvaluation/Ses04F_impro01.txt"
    lines = path.read_text().replace("C-E2:\tNeutral", "C-E2:\tFear").splitlines(keepends=True)
    headers = [number for number, line in enumerate(lines) if line.startswith("[")]
    lines[headers[0] + 1] = "C-E2:\tNeutral;\t()\n"
    damages = [
        ("[1.0000", "[1.00.00"),
        ("\tSes04F", "\tSes01F"),
        ("_M001", "_M001/../../outside"),
        ("4.9000", "3.9000"),
    ]
    for number, (old, new) in zip(headers[1:], damages, strict=True):
        assert old in lines[number]
        lines[number] = lines[number].replace(old, new)
    lines[headers[0]] = lines[headers[0]].replace("[2.5000, 3.0000, 2.0000]", "[25.000, 3.0000, nan]")
    path.write_text("".join(lines))
    found, table = convert(iemocap, source)
    rows = {name: row for name, row in rows_of(found).items() if row["dialogue"] == "Ses04F_impro01"}
    assert list(rows) == ["Ses04F_impro01_F000"]
    row = rows["Ses04F_impro01_F000"]
    assert json.loads(row["ratings"])["E2"]["categories"] == ["Neutral"]
    assert (row["valence"], row["activation"], row["dominance"]) == (None, 3.0, None)
    assert reasons(table, "notes")["unreadable line in an evaluation file"] == [
        f"Ses04F_impro01.txt:{number + 1}" for number in headers[1:]
    ]
    assert reasons(table, "repaired")["valence, activation or dominance that is not on their scale: left out"] == list(
        rows
    )


def test_transcripts_in_other_encodings(tmp_path, convert, wave):
    source = write_iemocap(tmp_path / "I", wave, DIALOGUES)
    first, second, third = sorted(source.rglob("transcriptions/*.txt"))
    line = "{}_F000 [000.0000-000.9000]: I’m in a café.\n"
    first.write_bytes(line.format(first.stem).encode("cp1252"))
    second.write_bytes(line.format(second.stem).encode("utf-16"))
    third.write_bytes(b"\xff\xfe\x81")
    found, table = convert(iemocap, source)
    texts = {name: row["text"] for name, row in rows_of(found).items()}
    assert texts[f"{first.stem}_F000"] == texts[f"{second.stem}_F000"] == "I’m in a café."
    assert reasons(table, "notes")["text file that cannot be read"] == [f"transcriptions/{third.name}"]
    first.write_text(2 * line.format(first.stem))
    copy_to(first, source / f"Session1/old/dialog/transcriptions/{first.name}")
    notes = reasons(convert(iemocap, source, "--overwrite")[1], "notes")
    assert notes["second transcript of an utterance: ignored"] == [f"{first.stem}_F000"]
    assert notes["second file of this name: ignored"] == [f"transcriptions/{first.name}"]
