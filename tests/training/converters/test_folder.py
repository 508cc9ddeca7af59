"""Conversion of a folder with metadata and media: examples, extra columns, quirks, and refused metadata."""

import json
import os
import unicodedata

import numpy as np
import pytest

from tests.helpers.acted_speech import face_points, openface_rows, write_table
from tests.helpers.media_files import sine, write_audio
from tests.helpers.release_files import read_back, reasons, write_clip
from training.converters import folder
from training.data.dataset import load_examples


TASKS = """mood:
  kind: classification
  labels: [calm, glad]
  prompt: "\\nThe mood is"
"""


@pytest.fixture
def own(tmp_path, clip):
    """A folder with media; `own(rows)` writes its metadata."""
    source = tmp_path / "mine"
    write_clip(source / "clips/a.mp4", clip)
    write_audio(source / "b.wav", sine(200, 0.2, 16_000), 16_000)
    np.save(source / "a.npy", np.ones((3, 4), np.float32))
    np.save(source / "b.npy", np.ones((3, 7), np.float32))
    np.save(source / "zero.npy", np.zeros((3, 4), np.float32))
    (tmp_path / "tasks.yaml").write_text(TASKS, encoding="utf-8")

    def write(rows):
        (source / "metadata.jsonl").write_text(
            "\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8"
        )
        return source

    return write


def test_rows(tmp_path, convert, own):
    source = own(
        [
            {"id": "007", "split": "train", "task": "mood", "text": "“Not again”", "video": "clips/a.mp4",
             "answer": "calm", "context": [["Ann", "Hi."], "Well"], "speaker": "x", "age": 3, "tags": ["a"]},
            {"id": "b", "split": "dev", "task": "mood", "audio": "b.wav", "audio_features": "a.npy",
             "answer": "glad", "age": 4.5, "tags": {"k": 1}},
        ]
    )  # fmt: skip
    found, table = convert(folder, source, "--tasks_file", str(tmp_path / "tasks.yaml"))
    first = found["train"][0]
    second = found["validation"][0]
    assert first["context"] == [["Ann", "Hi."], ["", "Well"]]
    assert (first["id"], first["text"], first["answer"], first["task"]) == (
        "007",
        "“Not again”",
        "calm",
        "mood",
    )
    assert (first["speaker"], first["age"], first["tags"]) == ("x", 3.0, '["a"]')
    assert second["tags"] == '{"k": 1}' and second["speaker"] is None
    assert first["video"] == "../../mine/clips/a.mp4"
    assert second["audio"] == "../../mine/b.wav" and second["text"] is None
    assert second["audio_features"] == [[1.0] * 4] * 3 and first["audio_features"] is None
    assert table["repaired"] == table["dropped"] == table["notes"] == {}


@pytest.mark.parametrize("missing", [None, "", float("nan"), "NaN"])
@pytest.mark.parametrize("answers", [("joy", "sadness"), (1.0, -2.5), ("joy", 1.5)])
def test_a_split_without_answers_is_kept(convert, own, missing, answers):
    tasks = ["sentiment" if isinstance(answer, float) else "emotion" for answer in answers]
    rows = [
        {"split": "train", "text": "a", "task": task, "answer": answer}
        for task, answer in zip(tasks, answers, strict=True)
    ]
    rows += [{"split": "test", "text": "b", "task": tasks[0], "answer": missing}] * 2
    found, table = convert(folder, own(rows))
    is_mixed = len(set(tasks)) > 1
    assert [row["answer"] for row in found["train"]] == [str(a) if is_mixed else a for a in answers]
    assert [row["answer"] for row in found["test"]] == [None, None]
    assert reasons(table, "notes") == {"split without labels: kept for egmf predict": ["test"]}


def test_a_split_that_may_be_a_typo_is_noted(convert, own):
    splits = ("train", "trian", "vaildation", "test_2")
    rows = [{"id": split, "split": split, "text": "a", "answer": "joy"} for split in splits]
    found, table = convert(folder, own(rows))
    assert set(found) == set(splits)
    listed = "the splits are train, trian, vaildation, test_2"
    assert reasons(table, "notes") == {
        f"split that may be a typo of train; {listed}": ["trian"],
        f"split that may be a typo of validation; {listed}": ["vaildation"],
    }


@pytest.mark.parametrize("options", [(), ("--check",)])
def test_a_split_that_may_be_a_typo_is_a_warning(own, tmp_path, capsys, options):
    """It was a line of the report, among others."""
    source = own([{"split": split, "text": "a", "answer": "joy"} for split in ("trian", "dev")])
    folder.main([str(source), str(tmp_path / "converted"), "--no_progress", *options])
    warnings = [line for line in capsys.readouterr().err.splitlines() if "may be a typo" in line]
    assert len(warnings) == 1
    assert "The split 'trian' may be a typo of 'train'; its examples are not used under that name." in warnings[0]


def test_a_label_named_null_is_no_missing_answer(convert, own, tmp_path):
    (tmp_path / "null.yaml").write_text(
        "arousal: {kind: classification, labels: ['null', high], prompt: '\\nArousal:'}"
    )
    rows = [{"split": split, "text": "a", "answer": "null"} for split in ("train", "test", "test")]
    rows.append({"split": "train", "text": "b", "answer": "high"})
    found, table = convert(folder, own(rows), "--tasks_file", str(tmp_path / "null.yaml"), "--task", "arousal")
    assert [row["answer"] for row in found["test"]] == ["null", "null"]
    assert table["notes"] == {}


def test_a_training_split_without_answers_is_refused(convert, own):
    with pytest.raises(SystemExit, match="No example of mine can be used"):
        convert(folder, own([{"split": "train", "text": "a", "answer": None}]))


def test_names_in_composed_letters(tmp_path, convert, own):
    """As Windows and Linux write them, and as macOS does."""
    names = [unicodedata.normalize(form, "gaieté") for form in ("NFC", "NFD")]
    tasks = f"{names[1]}: {{kind: classification, labels: [{names[0]}, low], prompt: It is}}\n"
    (tmp_path / "tasks.yaml").write_text(tasks, encoding="utf-8")
    source = own([{"split": name, "task": name, "text": "a", "answer": f"{name}\u00a0"} for name in names])
    found, _ = convert(folder, source, "--tasks_file", str(tmp_path / "tasks.yaml"))
    assert [(row["task"], row["answer"]) for row in found[names[0]]] == [(names[0], names[0])] * 2


def test_csv_with_scores(tmp_path, convert, own):
    source = own([])
    (source / "metadata.jsonl").unlink()
    (source / "metadata.csv").write_text(
        "id,split,task,text,video_features,answer\n0001,train,mosei,Hi,,0.5\n2,test,mosei,,a.npy,-3\n3,train,mosei,x,,4\n",
        encoding="utf-8",
    )
    found, table = convert(folder, source)
    assert [(row["id"], row["answer"]) for row in found["train"]] == [("0001", 0.5)]
    assert found["test"][0]["answer"] == -3.0
    assert reasons(table, "dropped") == {"score outside [-3, 3]": ["3"]}


def test_videos_make_a_second_manifest(tmp_path, convert, own):
    rows = [{"text": "a", "answer": "joy", "split": ("train", "test")[i % 2], "video_id": i // 4} for i in range(16)]
    convert(folder, own(rows))
    splits = json.loads((tmp_path / "made/dest/splits/video_disjoint.json").read_text(encoding="utf-8"))["splits"]
    assert sorted(map(int, splits["train"] + splits["test"])) == list(range(16))
    assert not {int(name) // 4 for name in splits["train"]} & {int(name) // 4 for name in splits["test"]}
    assert len(splits["train"]) == 8
    convert(folder, own([*rows, {"text": "a", "answer": "joy"}]), "--overwrite")
    assert not (tmp_path / "made/dest/splits/video_disjoint.json").exists()


def test_changed_files_are_detected(tmp_path, convert, own, capsys):
    source = own([{"text": "a", "answer": "joy", "video": "clips/a.mp4", "audio_features": "late.npy"}])
    assert "audio features missing: left out" in convert(folder, source)[1]["repaired"]
    for path, change in (
        (source / "clips/a.mp4", lambda path: os.utime(path, ns=(1, 1))),
        (source / "late.npy", lambda path: np.save(path, np.ones((3, 4)))),
    ):
        convert(folder, source)
        assert "already holds this conversion" in capsys.readouterr().err
        change(path)
        with pytest.raises(SystemExit, match="from different files, with different options"):
            convert(folder, source)
        _, table = convert(folder, source, "--overwrite")
    assert table["repaired"] == {}


def test_tasks_of_both_kinds_share_a_corpus(convert, own):
    found, _ = convert(folder, own([{"text": "a", "answer": "joy"}, {"text": "b", "task": "mosei", "answer": -1}]))
    assert [(row["id"], row["answer"]) for row in found["train"]] == [("0", "joy"), ("1", "-1.0")]


def test_quirks(convert, own):
    source = own(
        [
            {"id": "a", "answer": "joy", "video": "clips/no.mp4", "text": "a"},
            {"id": "b", "answer": "joy", "audio_features": "a.npy"},
            {"id": "b", "answer": "joy", "text": "again"},
            {"id": "c", "answer": "joy", "audio_features": "b.npy", "text": "c"},
            {"id": "d", "answer": "joy", "audio_features": "zero.npy"},
            {"id": "e", "answer": "glee", "text": "e"},
            {"id": "f", "text": "f"},
            {"id": "g", "split": "test", "answer": "joy", "text": "g", "context": "no list"},
            {"id": "g", "split": "train", "answer": "joy", "text": "g"},
            {"id": "h", "answer": "joy", "audio_features": [[1, 2, 3, 4]]},
            {"id": "i", "answer": "joy", "text": "i", "video_features": 3},
        ]
    )
    found, table = convert(folder, source)
    assert [row["id"] for row in found["train"]] == ["a", "b", "c", "h", "i"]
    assert reasons(table, "repaired") == {
        "audio features are all padding: left out": ["d"],
        "audio features whose width is not 4: left out": ["c"],
        "clip missing: left out, text kept": ["a"],
        "context is not a list of turns: left out": ["g"],
        "video features are not a sequence of vectors: left out": ["i"],
    }
    assert reasons(table, "dropped") == {
        "also in split test: left out of train": ["g"],
        "repeated id: the first example kept": ["b"],
        "no text, audio or video": ["d"],
        "no answer": ["f"],
        "unknown label 'glee'": ["e"],
    }
    assert reasons(table, "notes") == {
        "no split: put into train": ["a", "b", "b", "c", "d", "e", "f", "h", "i"],
        "label that the task 'emotion' lacks; it has neutral, surprise, fear, sadness, joy, disgust, anger": ["e"],
    }


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"id": "a"}], "has no `answer` column"),
        ([{"answer": "joy", "vidoe": "a.mp4"}], "unknown column 'vidoe'. Did you mean 'video'?"),
        ([{"answer": "joy", "task": "mood"}], "unknown task 'mood'. Known tasks are emotion"),
        ([{"answer": "joy", "task": "emotoin"}], "your own in --tasks_file. Did you mean 'emotion'?"),
        ([{"answer": "joy", "split": "../x"}], "has the split '../x'; use letters"),
        ([{"answer": "joy", "video": 5}], "line 1: row '0': video is 5; it must be a file path"),
        ([{"answer": "joy", "task": ["emotion"]}], "unknown task ['emotion']"),
        ([{"answer": "joy", "text": ["Hi.", "Ho."]}], "line 1: row '0': text is ['Hi.', 'Ho.']; it must be text"),
        ([3], "line 1: a row must be a JSON object"),
    ],
)
def test_bad_metadata_is_refused(refuse, own, rows, message):
    assert message in refuse(folder, own(rows))


def test_metadata_of_excel(tmp_path, convert, own, capsys):
    source = own([])
    (source / "metadata.jsonl").unlink()
    table = "ID;Task;Video;Answer;Text;\r\n01;mosei;clips\\a.mp4;2,4;It’s “grün”;\r\n;;;;;\r\n"
    (source / "metadata.csv").write_bytes(table.encode("cp1252"))
    found, _ = convert(folder, source)
    (row,) = found["train"]
    assert (row["id"], row["text"], row["answer"]) == ("01", "It’s “grün”", 2.4)
    assert row["video"] == "../../mine/clips/a.mp4"
    assert "metadata.csv is not UTF-8; it is read as Windows-1252" in capsys.readouterr().err


def test_columns_with_names_of_ours_are_kept(convert, own):
    names = ("media", "dest", "widths", "extra", "window", "clip", "label_index", "example", "report", "files")
    row = {"id": "a", "text": "Hi.", "answer": "joy", **{name: f"my {name}" for name in names}}
    found, table = convert(folder, own([row, {**row, "id": "b", "media": 10**30}]), "--media", "embed")
    first, second = found["train"]
    assert all(first[name] == json.dumps(f"my {name}") or first[name] == f"my {name}" for name in names)
    assert json.loads(second["media"]) == 10**30
    assert table["dropped"] == {}


def test_misspelled_labels_and_names_of_missing_values_are_named(convert, own):
    texts = ("Hi.", "null", "NA", "Na", "nan")
    rows = [{"id": text, "split": "train", "text": text, "answer": "joy"} for text in texts]
    _, table = convert(folder, own([*rows, {"id": "x", "split": "train", "text": "No.", "answer": "Angerr"}]))
    assert reasons(table, "dropped") == {"unknown label 'Angerr' (did you mean 'anger'?)": ["x"]}
    why = "transcript that names a missing value: read as words; leave the cell empty"
    assert reasons(table, "notes")[why] == ["null", "NA", "nan"]


def test_a_forgotten_task_column_is_named(tmp_path, convert, refuse, own):
    tasks = ("--tasks_file", str(tmp_path / "tasks.yaml"))
    assumed = (
        "No example has a `task`, so the task is 'emotion', the first of the built-in ones; --tasks_file defines "
        "mood. Add a column `task` with mood."
    )
    rows = [{"id": label, "split": "train", "text": "Hi.", "answer": label} for label in ("joy", "anger", "calm")]
    _, table = convert(folder, own(rows), *tasks)
    assert reasons(table, "notes")[assumed] == ["metadata.jsonl"]
    message = refuse(folder, own(rows[2:]), *tasks)
    assert "(unknown label 'calm': 1). " + assumed + " --task gives all examples the same one." in message
    _, table = convert(folder, own(rows[2:]), *tasks, "--task", "mood", "--overwrite")
    assert table["notes"] == {}


def test_folder_without_metadata(tmp_path, refuse):
    assert "has neither metadata.jsonl nor metadata.csv" in refuse(folder, tmp_path)


def test_paths_do_not_depend_on_the_working_folder(tmp_path, own, monkeypatch):
    own([{"answer": "joy", "video": "clips/a.mp4"}])
    monkeypatch.chdir(tmp_path)
    folder.main(["mine", "x/y", "--no_progress", "--num_workers", "1"])
    row = read_back(tmp_path / "x/y", tmp_path / "cache")["train"][0]
    assert row["video"] == os.path.join("..", "..", "mine", "clips", "a.mp4")
    assert (tmp_path / "x/y" / row["video"]).is_file()


def test_moved_clips_of_a_converted_corpus_are_missed_where_they_were(tmp_path, convert, own):
    convert(folder, own([{"split": "train", "text": "a", "answer": "joy", "video": "clips/a.mp4"}]))
    load_examples(tmp_path / "made/dest")
    (tmp_path / "mine").rename(tmp_path / "moved")
    message = (
        r" is not a file\. When the corpus was converted, the clips were in \.\./\.\./mine/clips seen from this "
        rf"folder, which is {tmp_path}/mine/clips now\. Move them, or this folder, back, or convert again: `--media"
    )
    with pytest.raises(ValueError, match=message):
        load_examples(tmp_path / "made/dest")


def test_the_home_folder_around_the_current_one_is_not_replaced(tmp_path, own, monkeypatch):
    source = own([{"answer": "joy", "text": "a"}])
    (tmp_path / "home/here").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "home/here")
    with pytest.raises(SystemExit, match="is the current folder, or around it"):
        folder.main([str(source), "~", "--no_progress", "--num_workers", "1"])
    folder.main([str(source), "~/corpus", "--no_progress", "--num_workers", "1"])
    assert (tmp_path / "home/corpus/conversion.json").is_file()


def test_landmark_tables_become_video_features(tmp_path, convert, refuse, own):
    rows = [
        {"id": "r1", "answer": "calm", "task": "mood", "audio": "b.wav"},
        {"id": "r2", "answer": "glad", "task": "mood", "text": "Hi."},
        {"id": "r3", "answer": "glad", "task": "mood", "video": "clips/a.mp4"},
    ]
    options = ("--tasks_file", str(tmp_path / "tasks.yaml"), "--landmarks", str(tmp_path / "faces"))
    write_table(tmp_path / "faces/b.csv", openface_rows(face_points(6)))
    write_table(tmp_path / "faces/r2.csv", openface_rows(face_points(5)))
    write_table(tmp_path / "faces/a.csv", openface_rows(face_points(60)))
    found, table = convert(folder, own(rows), *options)
    assert [len(row["video_features"] or ()) for row in found["train"]] == [6, 5, 0]
    assert reasons(table, "repaired") == {"landmarks of another length than the recording: left out": ["r3"]}
    rows[0]["video_features"] = "a.npy"
    assert "--landmarks would replace them" in refuse(folder, own(rows), *options)


@pytest.mark.parametrize("turn", [{"speaker": "Ann", "text": "Hi."}, ["Hi."], ["Ann", None], ["a", "b", "c"], 5])
def test_turns_of_other_forms_are_reported(convert, own, turn):
    rows = [{"id": "a", "text": "Ho.", "answer": "joy", "context": [[None, "Hi."], turn]}]
    rows.append({"id": "b", "text": "Ho.", "answer": "joy", "context": [[None, "Hi."]]})
    found, table = convert(folder, own(rows))
    assert [row["context"] for row in found["train"]] == [[], [["", "Hi."]]]
    assert reasons(table, "repaired") == {
        "context with a turn that is neither text nor [speaker, text]: left out": ["a"]
    }
