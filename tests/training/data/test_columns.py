"""Columns of metadata: file names of audiofolder, answers under other names, unused columns and media."""

import json
import unicodedata

import pytest

from training.converters.folder import main as convert
from training.data.dataset import load_examples
from training.data.examples import describe_errors


@pytest.fixture
def folder(tmp_path):
    """A folder with (empty) media: nothing is decoded here."""
    for name in ("Clips/a b.wav", "c.mp4", unicodedata.normalize("NFD", "Ärger.flac"), "x/d.npy"):
        path = tmp_path / "mine" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "mine"


def write(folder, *rows, name="metadata.csv"):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("\n".join(rows) + "\n", encoding="utf-8")


def test_file_names_go_to_audio_and_video(folder):
    write(folder, "file_name,answer", "Clips/a b.wav,joy", "c.mp4,fear")
    first, second = load_examples(folder)
    assert (first["audio"], "video" in first) == (str(folder / "Clips/a b.wav"), False)
    assert (second["video"], "audio" in second) == (str(folder / "c.mp4"), False)
    write(folder, "Audio File Name;video_file_name;audio_features_file_name;answer", "Clips/a b.wav;c.mp4;x/d.npy;joy")
    (example,) = load_examples(folder)
    assert example["audio"].endswith("a b.wav") and example["video"].endswith("c.mp4")
    assert example["audio_features"].endswith("x/d.npy")


def test_folders_of_splits(folder):
    write(folder / "Clips", "file_name,answer", "a b.wav,joy")
    (folder / "Clips").rename(folder / "train")
    write(folder / "dev", '{"text": "Hi.", "answer": "fear"}', name="metadata.jsonl")
    examples = load_examples(folder)
    assert [(example["id"], example["split"]) for example in examples] == [("0", "train"), ("1", "validation")]
    assert examples[0]["audio"] == str(folder / "train/a b.wav")


def test_splits_that_may_be_typos_are_named(folder, caplog):
    write(folder, "split,text,answer", "train,Hi.,joy", "trian,Ho.,joy", "valdiation,He.,joy")
    load_examples(folder)
    assert "the split 'trian' may be a typo of 'train'" in caplog.text
    assert "The splits are train, trian, valdiation." in caplog.text
    assert "'valdiation'" not in caplog.text  # no example is left out without a word: there is no other validation
    (folder / "metadata.csv").unlink()
    for name in ("train", "vaildation"):
        write(folder / name, "text,answer", "Hi.,joy")
    load_examples(folder)
    assert "the folder vaildation is not read; rename it if it is the split validation" in caplog.text


def test_parquet_and_json_metadata(folder):
    import pyarrow as pa
    import pyarrow.parquet as pq

    write(folder, json.dumps([{"File_Name": "c.mp4", "answer": "joy", "text": None}]), name="metadata.json")
    from_json = load_examples(folder)
    (folder / "metadata.json").unlink()
    pq.write_table(pa.table({"file_name": ["c.mp4"], "answer": ["joy"]}), folder / "metadata.parquet")
    assert load_examples(folder) == from_json
    assert from_json[0]["video"] == str(folder / "c.mp4")


@pytest.mark.parametrize(
    "name", ["Clips\\\\a b.wav", " Clips/a b.wav", ".\\\\Clips\\\\a b.wav", "\u202aClips/a b.wav"]
)
def test_paths_of_other_systems_are_found(folder, name):
    write(folder, json.dumps({"audio": name.replace("\\\\", "\\"), "answer": "joy"}), name="metadata.jsonl")
    assert load_examples(folder)[0]["audio"] == str(folder / "Clips/a b.wav")


def test_composed_letters_equal_decomposed_ones(folder):
    write(folder, "audio,answer", "Ärger.flac,joy")
    assert load_examples(folder)[0]["audio"] == str(folder / unicodedata.normalize("NFD", "Ärger.flac"))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("clips/A B.wav", r"\(there is 'Clips/a b.wav'\)"),
        ("Clips/a%20b.wav", r"\(there is 'Clips/a b.wav'\)"),
        ("Clips/a b", r"\(there is 'Clips/a b.wav'\)"),
        ("C:\\clips\\a b.wav", r"\(an absolute path on another computer\)"),
        ("https://a.b/c.wav", r"\(a URL: download the file, and give its path\)"),
        ("Clips", r"\(a folder\)"),
        ("n" * 300 + ".wav", r"\(File name too long\)"),
        ("loop.wav", r"\(Too many levels of symbolic links\)"),
    ],
)
def test_missing_media_name_similar_files(folder, name, reason):
    (folder / "loop.wav").symlink_to("loop.wav")
    write(folder, json.dumps({"audio": name, "answer": "joy"}), name="metadata.jsonl")
    with pytest.raises(ValueError, match=rf"example '0': audio .* is not a file {reason} .*metadata.jsonl, line 1"):
        load_examples(folder)


def test_all_missing_media_are_counted(folder):
    write(folder, "video,answer", *[f"{i}.mp4,joy" for i in range(7)])
    with pytest.raises(ValueError, match=r"example '4': video '4.mp4' is .*line 6\); and 2 more, 7 in all") as error:
        load_examples(folder)
    assert "5.mp4" not in str(error.value)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("id,label", "Did you mean 'label'\\? Rename it to `answer`"),
        ("id,Emotion", "Did you mean 'Emotion'\\? Rename it to `answer`"),
        ("id,anwser", "Did you mean 'anwser'\\? Rename it to `answer`"),
        ("id,note", "Its columns are id, note. Add it"),
    ],
)
def test_answers_under_another_name_are_suggested(folder, header, message):
    write(folder, header, "a,joy")
    with pytest.raises(ValueError, match=f"metadata.csv: example 'a' has no `answer`.*{message}"):
        load_examples(folder)


def test_unused_columns_and_media_are_named_once(folder, caplog):
    write(folder, "video_id,transcript,answer,video,clip,window,", "v,Hi.,joy,c.mp4,x,y,z", "w,Ho.,joy,c.mp4,x,y,")
    examples = load_examples(folder)
    unused, media = caplog.messages
    assert unused.endswith("video_id, transcript (did you mean `text`?), clip, window, 1 without a name.")
    assert "2 media files are not used, because no row names them: " in media and "'Clips/a b.wav'" in media
    assert examples[0]["extra"] == {"video_id": "v", "transcript": "Hi.", "clip": "x", "window": "y"}
    assert not {"clip", "window"} & examples[0].keys()  # fields of windows.py


def test_a_column_of_media_files_with_another_name_is_warned_of(folder, caplog):
    write(folder, "id,answer,text,recording", "a,joy,Hi.,c.mp4", "b,joy,Ho.,")
    load_examples(folder)
    assert "these columns are not inputs: recording (did you mean `video`?)." in caplog.text
    write(folder, "id,answer,video,source", "a,joy,c.mp4,take 7/c.mp4")
    caplog.clear()
    load_examples(folder)
    assert "not inputs" not in caplog.text


def test_extra_columns_that_no_input_is_meant_by_are_a_note(folder, caplog):
    write(folder, "id,answer,text,language,cues", "a,joy,Hi.,en,voice")
    with caplog.at_level("INFO"):
        load_examples(folder)
    notes = [record for record in caplog.records if "extra columns" in record.message]
    assert [record.levelname for record in notes] == ["INFO"]
    assert notes[0].message == (
        f"{folder}/metadata.csv: the model does not read the extra columns language, cues. They are kept: predictions "
        "list them, for groups in reports, and --where selects by them."
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Metadata.CSV", "It has Metadata.CSV: rename it to metadata.csv"),
        ("table.xlsx", "It has 'table.xlsx': open it and save it as metadata.csv"),
        ("labels.tsv", "It has 'labels.tsv': rename it to metadata.tsv if it is that table"),
    ],
)
def test_tables_of_other_names_are_mentioned(folder, name, message):
    (folder / name).touch()
    with pytest.raises(ValueError, match=f"is not a corpus.*{message}"):
        load_examples(folder)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"file_name": "notes.pdf"}, "line 1: file_name 'notes.pdf' has no extension of an audio or video file"),
        ({"file_name": "c.mp4", "video": "c.mp4"}, "line 1: file_name and video both name the video"),
        ({"video": 5}, "example '0' .*line 1.*: video is 5; give the path of a file"),
        ({"id": ["a"]}, r"line 1: id is \['a'\]; it must be text or a number"),
        ({"split": ["train"]}, r"line 1: split is \['train'\]; it must be text or a number"),
        ({"task": {"name": "emotion"}}, r"line 1: task is \{'name': 'emotion'\}; it must be text or a number"),
        ({"id": "a" * 9999}, "line 1: id 'aaa.* has more than 500 characters"),
    ],
)
def test_values_that_cannot_be_used_name_the_line(folder, row, message):
    write(folder, json.dumps({"answer": "joy", **row}), name="metadata.jsonl")
    with pytest.raises(ValueError, match=message):
        load_examples(folder)


@pytest.mark.parametrize("value", [2, 2.0, "2"])
def test_splits_that_are_numbers_are_found_by_their_text(folder, value):
    """Folds are numbered in JSON and Parquet; the examples of such a split used to be left out without a word."""
    write(folder, json.dumps({"answer": "joy", "text": "Hi.", "split": value}), name="metadata.jsonl")
    (example,) = load_examples(folder, "2")
    assert example["split"] == "2"


def test_all_errors_of_a_kind_are_counted():
    errors = [(str(i), f"example '{i}': unknown label 'glee'.") for i in range(7)]
    message = describe_errors([*errors, ("x", "example 'x': unknown task 'mood'.")])
    assert message == (
        "8 examples cannot be used. 7 examples, '0', '1', '2', '3', '4', ...: unknown label 'glee'. "
        "example 'x': unknown task 'mood'."
    )


def test_tables_of_splits_in_one_folder_are_to_be_joined(folder):
    for name in ("train.csv", "dev.csv"):
        write(folder, "id,answer,text", "a,joy,Hi.", name=name)
    with pytest.raises(
        ValueError, match="It has dev.csv, train.csv: join them into one metadata.csv with a column `sp"
    ):
        load_examples(folder)


def test_splits_that_differ_only_in_case_are_refused(folder):
    write(folder, "text,answer,split", "Hi.,joy,train", "Ho.,joy,Train", "Ha.,joy,test")
    with pytest.raises(ValueError, match="the splits Train, train differ only in case. Write them alike."):
        load_examples(folder, "train")


def test_examples_without_a_split_are_warned_of(folder, caplog):
    write(folder, "id,text,answer,split", "a,Hi.,joy,train", "b,Ho.,joy,", "c,Ha.,joy,test")
    assert [example["id"] for example in load_examples(folder, "train")] == ["a"]
    assert "1 of 3 examples have no split, such as 'b', and are in none of test, train. Fill it in" in caplog.text
    caplog.clear()
    write(folder, "id,text,answer", "a,Hi.,joy", "b,Ho.,joy")
    load_examples(folder)
    assert "have no split" not in caplog.text


@pytest.mark.parametrize("value", ["nan", "NaN", "NULL", "<NA>", "#N/A", "NA", "N/A"])
def test_missing_values_written_as_transcripts_are_warned_of(folder, value, caplog):
    write(folder, "id,text,answer", "a,Hi.,joy", f"b,{value},joy", "c,None.,joy", "d,null and void,joy", "e,Na,joy")
    load_examples(folder)
    assert f"1 of 5 transcripts are '{value}' or the like, such as that of 'b', and are read as words" in caplog.text


@pytest.mark.parametrize("column", ["start", "Begin Time - ss.msec", "StartTime", "onset_s"])
def test_rows_that_are_parts_of_one_recording_are_refused(folder, column):
    write(folder, f"id,answer,video,{column},end", "a,joy,c.mp4,0:00.5,0:01", "b,fear,c.mp4,0:01.0,0:02")
    with pytest.raises(ValueError, match=r"line 3: 'c.mp4' starts at 0:01.0 here and at 0:00.5 in .*ffmpeg -ss START"):
        load_examples(folder)
    with pytest.raises(SystemExit, match="line 3: 'c.mp4' starts at 0:01.0 here"):
        convert([str(folder), str(folder.parent / "converted"), "--check"])


def test_rows_of_whole_recordings_may_have_times(folder):
    rows = ("a,joy,c.mp4,,1.5,x", "b,fear,c.mp4,,1.5,y", "c,fear,,Clips/a b.wav,2.0,z")
    write(folder, "id,answer,video,audio,start,startle", *rows)  # two raters of one clip
    assert len(load_examples(folder)) == 3
