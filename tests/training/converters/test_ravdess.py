"""Conversion of RAVDESS: sound, videos and landmarks of one performance, folds, and what a broken download lacks."""

import json

import pytest
import yaml

from tests.helpers.acted_speech import (
    copy_to,
    cut,
    face_points,
    openface_rows,
    ravdess_name,
    write_table,
    write_wave,
)
from tests.helpers.release_files import reasons
from training.converters import ravdess
from training.data.dataset import load_examples
from training.model.tasks_file import read_tasks


@pytest.fixture(scope="module")
def wave(tmp_path_factory):
    return write_wave(tmp_path_factory.mktemp("wave") / "a.wav")


def write_ravdess(source, wave, actors, emotions=(1, 3)):
    for actor in actors:
        names = [ravdess_name(actor, emotion) for emotion in emotions]
        copy_to(wave, *[source / f"Audio_Speech_Actors_01-24/Actor_{actor:02d}/{name}.wav" for name in names])
    return source


def test_files_of_a_performance_become_one_example(tmp_path, convert, clip, wave):
    source = write_ravdess(tmp_path / "R", wave, (1, 2, 3, 4, 5, 6))
    videos = source / "Video_Speech_Actor_02/Actor_02"
    copy_to(clip, videos / f"{ravdess_name(2, 3, '01')}.mp4", videos / f"{ravdess_name(2, 3, '02')}.mp4")
    copy_to(clip, videos / f"{ravdess_name(2, 8, '02')}.mp4")
    copy_to(wave, source / f"Audio_Song_Actors_01-24/Actor_02/{ravdess_name(2, 3, channel='02')}.wav")
    table = write_table(source / f"FacialTracking/{ravdess_name(2, 3, '01')}.csv", openface_rows(face_points()))
    found, stored = convert(ravdess, source)
    rows = {row["id"]: row for part in found.values() for row in part}
    assert len(rows) == 13
    row = rows["01-03-01-01-01-02"]
    assert (row["answer"], row["speaker"], row["sex"], row["text"]) == (
        "happy", "actor_02", "female", "Kids are talking by the door.",
    )  # fmt: skip
    assert (row["intensity"], row["statement"], row["repetition"], row["channel"]) == ("normal", 1, 1, "speech")
    assert row["audio"].endswith("03-01-03-01-01-01-02.wav")
    assert row["video"].endswith("01-01-03-01-01-01-02.mp4")
    assert len(row["video_features"]) == 15
    assert rows["01-08-01-01-01-02"]["audio"] is None
    assert rows["01-08-01-01-01-02"]["video"].endswith("02-01-08-01-01-01-02.mp4")
    assert len(reasons(stored, "repaired")["landmarks missing"]) == 12
    assert {split: {row["speaker"] for row in part} for split, part in found.items()} == {
        "train": {"actor_03", "actor_04", "actor_05", "actor_06"}, "validation": {"actor_02"}, "test": {"actor_01"},
    }  # fmt: skip
    task = read_tasks(tmp_path / "made/dest/tasks.yaml")["ravdess"]
    assert list(task.labels)[1:3] == ["calm", "happy"]
    _, both = convert(ravdess, source, "--channel", "both", "--landmarks", str(table.parent), "--overwrite")
    assert sum(counts["kept"] for counts in both["rows"].values()) == 14


def test_every_fold_holds_out_other_actors(tmp_path, convert, wave):
    source = write_ravdess(tmp_path / "R", wave, range(1, 7), (1,))
    convert(ravdess, source, "--folds", "3", "--fold", "2")
    dest = tmp_path / "made/dest"
    tested = []
    for fold in (1, 2, 3):
        splits = json.loads((dest / f"splits/fold_{fold}.json").read_text())["splits"]
        speakers = {split: {name[-2:] for name in names} for split, names in splits.items()}
        assert not speakers["train"] & speakers["test"] | speakers["validation"] & speakers["test"]
        assert not speakers["train"] & speakers["validation"]
        tested += sorted(speakers["test"])
        longer = json.loads((dest / f"splits/fold_{fold}_train_test.json").read_text())["splits"]
        assert set(longer["train"]) == {*splits["train"], *splits["validation"]}
        assert longer["test"] == splits["test"]
    assert tested == ["01", "02", "03", "04", "05", "06"]
    examples = load_examples(dest, "test")
    assert {example["extra"]["speaker"] for example in examples} == {"actor_03", "actor_04"}
    assert {example["id"] for example in load_examples(dest, "test", "fold_3")} == {
        "01-01-01-01-01-05", "01-01-01-01-01-06",
    }  # fmt: skip


def test_broken_download_is_counted_and_named(tmp_path, convert, clip, wave):
    source = write_ravdess(tmp_path / "R", wave, (1, 2, 3, 24))
    actor = source / "Audio_Speech_Actors_01-24/Actor_01"
    cut(actor / "03-01-01-01-01-01-01.wav")
    (actor / "03-01-03-01-01-01-01.wav").write_text("<html>not found</html>")
    copy_to(wave, actor / "1001_DFA_ANG_XX.wav", actor / "holiday.wav", actor / "04-01-01-01-01-01-01.wav")
    copy_to(wave, actor / "03-01-09-01-01-01-01.wav", actor / "03-01-01-01-01-01-25.wav")
    copy_to(clip, actor / f"{ravdess_name(1, 2, '01')}.mp4")
    found, table = convert(ravdess, source, "--folds", "4")
    assert [row["id"] for row in found["test"]] == ["01-02-01-01-01-01"]
    assert reasons(table, "repaired") == {
        "audio file cannot be read: left out": ["01-03-01-01-01-01"],
        "audio file is cut off: left out": ["01-01-01-01-01-01"],
    }
    assert reasons(table, "dropped") == {
        "actor 25, which RAVDESS does not have": ["01-01-01-01-01-25"],
        "emotion 09, which RAVDESS does not have": ["01-09-01-01-01-01"],
        "no file of the recording can be used": ["01-01-01-01-01-01", "01-03-01-01-01-01"],
    }
    notes = reasons(table, "notes")
    assert notes.pop("actor missing from SOURCE") == [f"actor_{number:02d}" for number in range(4, 24)]
    assert notes == {
        "actor with fewer than 60 recordings": ["actor_01: 3", "actor_02: 2", "actor_03: 2", "actor_24: 2"],
        "modality 04, which RAVDESS does not have: ignored": ["04-01-01-01-01-01-01.wav"],
        "not a file of RAVDESS, but of CREMA-D: ignored": ["1001_DFA_ANG_XX.wav"],
        "not a file of RAVDESS, but of no corpus known here: ignored": ["holiday.wav"],
    }


def test_landmarks_of_another_length_are_left_out(tmp_path, convert, wave):
    source = write_ravdess(tmp_path / "R", wave, (1, 2, 3), (1,))
    rows = {1: openface_rows(face_points()), 2: openface_rows(face_points(45)), 3: openface_rows(face_points())}
    rows[3] = [{name: value for name, value in row.items() if name != " AU12_c"} for row in rows[3]]
    for actor, table in rows.items():
        write_table(tmp_path / f"faces/{ravdess_name(actor)[3:]}.csv", table)
    found, table = convert(ravdess, source, "--landmarks", str(tmp_path / "faces"))
    assert found["validation"][0]["video_features"] is None
    assert reasons(table, "repaired") == {
        "landmark table with other columns than most: left out": ["01-01-01-01-01-03"],
        "landmarks of another length than the recording: left out": ["01-01-01-01-01-02"],
    }


def test_wrong_folders_are_refused(tmp_path, refuse, wave):
    crema_d = tmp_path / "C"
    copy_to(wave, crema_d / "AudioWAV/1001_DFA_ANG_XX.wav", crema_d / "AudioWAV/1002_DFA_ANG_XX.wav")
    assert refuse(ravdess, crema_d).endswith("It has 2 of CREMA-D: use egmf convert crema_d.")
    (tmp_path / "empty").mkdir()
    assert "no audio or video files at all; unpack" in refuse(ravdess, tmp_path / "empty")
    source = write_ravdess(tmp_path / "R", wave, (1, 2), (1,))
    assert "has 2 speaker(s) of RAVDESS (actor_01, actor_02)" in refuse(ravdess, source)
    assert "has no song; give --channel" in refuse(ravdess, source, "--channel", "song")
    write_ravdess(source, wave, (3, 4), (1,))
    assert "--folds is 5; with 4 speakers, give 3 to 4" in refuse(ravdess, source, "--folds", "5")
    assert "--fold is 5; give a number from 1 to 4" in refuse(ravdess, source, "--fold", "5")
    assert "has no .csv or .npz files" in refuse(ravdess, source, "--landmarks", str(source))
    write_table(tmp_path / "faces/a.csv", openface_rows(face_points()))
    said = refuse(ravdess, source, "--landmarks", str(tmp_path / "faces"))
    assert "No table of landmarks fits the recordings." in said


def test_tasks_file_is_plain(tmp_path, convert, wave):
    convert(ravdess, write_ravdess(tmp_path / "R", wave, (1, 2, 3), (1,)))
    stored = yaml.safe_load((tmp_path / "made/dest/tasks.yaml").read_text())
    assert stored["ravdess"]["labels"][-1] == "surprised"


def test_second_copies_and_repetitions_are_reported(tmp_path, convert, wave):
    source = write_ravdess(tmp_path / "R", wave, (1, 2, 3), (1,))
    copy_to(wave, source / "copy/Actor_01/03-01-01-01-01-01-01.wav", source / "03-01-01-01-01-07-02.wav")
    found, table = convert(ravdess, source)
    assert sum(map(len, found.values())) == 3
    assert reasons(table, "dropped") == {"repetition 07, which RAVDESS does not have": ["01-01-01-01-07-02"]}
    assert reasons(table, "notes")["second file of this name: ignored"] == ["Actor_01/03-01-01-01-01-01-01.wav"]
