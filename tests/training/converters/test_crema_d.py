"""Conversion of CREMA-D: names, votes and ratings, ties, and tables or actors that are missing."""

import json

import pytest

from tests.helpers.acted_speech import copy_to, cut, face_points, openface_rows, write_table, write_wave
from tests.helpers.release_files import reasons, write_csv
from training.converters import crema_d


NAMES = ("1001_DFA_ANG_XX", "1001_IEO_ANG_HI", "1002_IEO_SAD_LO", "1003_TIE_NEU_XX", "1040_ITH_SAD_X")


@pytest.fixture(scope="module")
def wave(tmp_path_factory):
    return write_wave(tmp_path_factory.mktemp("wave") / "a.wav")


def vote(name, voice, face, both):
    row = {"": "1", "FileName": name, "VoiceVote": voice, "VoiceLevel": "50", "FaceVote": face, "FaceLevel": "60"}
    return row | {"MultiModalVote": both, "MultiModalLevel": "57:61"}


def rating(name, rater, query, emotion, level="60"):
    row = {"": "1", "localid": rater, "pos": "1", "ans": f"{emotion}_{level}", "ttr": "2000", "queryType": query}
    return row | {"clipName": name, "respEmo": emotion, "respLevel": level, "dispEmo": "A"}


@pytest.fixture
def source(tmp_path, wave, clip):
    folder = tmp_path / "CREMA-D"
    copy_to(wave, *[folder / f"AudioWAV/{name}.wav" for name in NAMES])
    copy_to(clip, folder / "VideoFlash/1001_DFA_ANG_XX.flv")
    ages = {"1001": ("51", "Male"), "1002": ("21", "Female"), "1040": ("", "Female")}
    rows = [{"ActorID": actor, "Age": age, "Sex": sex, "Race": "x"} for actor, (age, sex) in ages.items()]
    write_csv(folder / "VideoDemographics.csv", rows)
    votes = [vote(NAMES[0], "A", "A:D", "A"), vote(NAMES[1], "A", "A", "A:D"), vote(NAMES[2], "S", "N", "N")]
    votes.append(vote(NAMES[4], "S", "Q", "S"))
    write_csv(folder / "processedResults/summaryTable.csv", votes)
    ratings = [rating(NAMES[0], "7", "1", "A"), rating(NAMES[0], "8", "3", "D", "NA"), rating(NAMES[1], "8", "2", "Q")]
    write_csv(folder / "finishedResponses.csv", ratings)
    return folder


def test_intended_label_and_all_raters(tmp_path, convert, source):
    write_table(tmp_path / "faces/1002_IEO_SAD_LO.csv", openface_rows(face_points()))
    found, table = convert(crema_d, source, "--landmarks", str(tmp_path / "faces"))
    rows = {row["id"]: row for part in found.values() for row in part}
    assert {name: row["answer"] for name, row in rows.items()} == dict(
        zip(NAMES, ("angry", "angry", "sad", "neutral", "sad"), strict=True)
    )
    first = rows[NAMES[0]]
    assert (first["speaker"], first["sex"], first["age"], first["intensity"]) == ("1001", "male", 51, "unspecified")
    assert (first["text"], first["statement"]) == ("Don't forget a jacket.", "DFA")
    assert (first["label_voice"], first["label_face"], first["label_both"]) == ("angry", "angry:disgust", "angry")
    assert json.loads(first["ratings"]) == [["7", "voice", "angry", 60], ["8", "both", "disgust", None]]
    assert first["audio"].endswith(".wav")
    assert first["video"].endswith(".flv")
    assert rows[NAMES[3]]["sex"] is None
    assert rows[NAMES[4]]["age"] is None
    assert len(rows[NAMES[2]]["video_features"]) == 15
    assert len({row["speaker"] for row in found["train"]} | {row["speaker"] for row in found["test"]}) == 3
    notes = reasons(table, "notes")
    assert notes["clip without a row in summaryTable.csv"] == [NAMES[3]]
    assert "1003" in notes["actor without a row in VideoDemographics.csv"]
    assert notes["vote 'Q', which CREMA-D does not have: left out"] == [NAMES[4]]
    assert notes["rating with an unknown emotion or modality: left out"] == [NAMES[1]]
    assert len(notes["actor missing from SOURCE"]) == 91 - 4


def test_label_of_the_raters(convert, source):
    found, table = convert(crema_d, source, "--label", "both", "--folds", "3")
    answers = {row["id"]: row["answer"] for part in found.values() for row in part}
    assert answers == {NAMES[0]: "angry", NAMES[2]: "neutral", NAMES[4]: "sad"}
    assert reasons(table, "dropped") == {
        "no vote of the raters (both)": [NAMES[3]],
        "tie of the raters": [NAMES[1]],
    }


def test_half_of_a_release(convert, refuse, source, wave):
    for path in (source / "processedResults/summaryTable.csv", source / "finishedResponses.csv"):
        path.unlink()
    assert "has no summaryTable.csv, which has the votes for --label voice" in refuse(
        crema_d, source, "--label", "voice"
    )
    cut(source / f"AudioWAV/{NAMES[2]}.wav")
    copy_to(wave, source / "AudioWAV/03-01-01-01-01-01-01.wav", source / "AudioWAV/1005_DFA_SUR_XX.wav")
    copy_to(wave, source / "AudioWAV/2001_DFA_ANG_XX.wav", source / "AudioWAV/1005_QQQ_ANG_XX.wav")
    found, table = convert(crema_d, source, "--folds", "3")
    assert sum(map(len, found.values())) == 4
    assert reasons(table, "dropped") == {
        "actor 2001, which CREMA-D does not have": ["2001_DFA_ANG_XX"],
        "emotion SUR, which CREMA-D does not have": ["1005_DFA_SUR_XX"],
        "no file of the recording can be used": [NAMES[2]],
        "sentence QQQ, which CREMA-D does not have": ["1005_QQQ_ANG_XX"],
    }
    assert reasons(table, "repaired") == {"audio file is cut off: left out": [NAMES[2]]}
    notes = reasons(table, "notes")
    assert notes["table missing from SOURCE: its columns are empty"] == ["summaryTable.csv", "finishedResponses.csv"]
    assert notes["not a file of CREMA-D, but of RAVDESS: ignored"] == ["03-01-01-01-01-01-01.wav"]
    assert "1001: 2" in notes["actor with fewer than 76 recordings"]


def test_other_corpora_are_refused(tmp_path, refuse, wave):
    copy_to(wave, tmp_path / "I/Session1/Ses01F_impro01_F000.wav")
    assert refuse(crema_d, tmp_path / "I").endswith("It has 1 of IEMOCAP: use egmf convert iemocap.")


def test_damaged_tables_are_reported(convert, refuse, source, wave):
    people = [{"ActorID": "1001", "Age": "²", "Sex": "51"}, {"ActorID": "1002", "Age": "9" * 30, "Sex": "Female"}]
    people += [{"ActorID": "1002", "Age": "30", "Sex": "Male"}, {"ActorID": "1003", "Age": "40", "Sex": "Male"}]
    write_csv(source / "VideoDemographics.csv", people)
    votes = [vote(NAMES[0], "A", "A", "A"), vote(NAMES[0], "S", "S", "S")]
    write_csv(source / "processedResults/summaryTable.csv", votes)
    write_csv(source / "finishedResponses.csv", [rating(NAMES[0], "7", "1", "A", "9" * 30)])
    copy_to(wave, source / f"old/{NAMES[0]}.wav")
    found, table = convert(crema_d, source)
    rows = {row["id"]: row for part in found.values() for row in part}
    assert [(rows[name]["sex"], rows[name]["age"]) for name in NAMES[1:4]] == [
        (None, None),
        ("female", None),
        ("male", 40),
    ]
    assert rows[NAMES[0]]["label_voice"] == "angry"
    assert json.loads(rows[NAMES[0]]["ratings"]) == [["7", "voice", "angry", None]]
    notes = reasons(table, "notes")
    assert notes["age that is not a whole number of years: left out"] == ["1001", "1002"]
    assert notes["sex that is neither male nor female: left out"] == ["1001"]
    assert notes["second row of an actor in VideoDemographics.csv: ignored"] == ["1002"]
    assert notes["second row of a clip in summaryTable.csv: ignored"] == [NAMES[0]]
    assert notes["second file of this name: ignored"] == [f"old/{NAMES[0]}.wav"]
    write_csv(source / "processedResults/old/summaryTable.csv", votes[:1])
    assert "has several summaryTable.csv with different content" in refuse(crema_d, source)
    (source / "processedResults/old/summaryTable.csv").unlink()
    write_csv(source / "processedResults/summaryTable.csv", [vote(NAMES[0], "", "", "")])
    said = refuse(crema_d, source, "--label", "face")
    assert "has 0 speaker(s) of CREMA-D" in said and "were dropped (no vote of the raters (face): 5" in said
