"""Rows: jsonl, csv and Parquet corpora, their errors, and the data set over them."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.media_files import gray_frames, sine, write_video
from training.data.collator import SUBSETS, EGMFDataCollator
from training.data.dataset import EGMFDataset, load_examples


ROWS = [
    {"id": "a", "split": "train", "text": "Hi, there", "video": "clip.mp4", "task": "emotion", "answer": "joy"},
    {"id": "b", "split": "test", "text": "好", "context": [["Ann", "Hi."], "Yes"], "task": "mosei", "answer": 0.5},
    {"id": "c", "split": "train", "audio_features": "deep/a.npy", "task": "emotion", "answer": "fear"},
]


@pytest.fixture
def folder(tmp_path):
    """A corpus folder with media and no metadata yet."""
    write_video(tmp_path / "clip.mp4", gray_frames(3, 16, 16), audio=sine(200, 0.24, 16_000))
    (tmp_path / "deep").mkdir()
    np.save(tmp_path / "deep/a.npy", np.ones((4, 6), np.float32))
    return tmp_path


def write_jsonl(folder, rows, encoding="utf-8"):
    text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (folder / "metadata.jsonl").write_text(text, encoding=encoding)


def write_csv(folder, text, encoding="utf-8"):
    (folder / "metadata.csv").write_text(text, encoding=encoding)


CSV = """id,split,text,video,audio_features,context,task,answer
a,train,"Hi, there",clip.mp4,,,emotion,joy
b,test,好,,,"[[""Ann"", ""Hi.""], ""Yes""]",mosei,0.5
c,train,,,deep/a.npy,,emotion,fear
"""


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_jsonl_and_csv_say_the_same(folder, encoding):
    write_jsonl(folder, ROWS, encoding)
    from_jsonl = load_examples(folder)
    (folder / "metadata.jsonl").unlink()
    write_csv(folder, CSV, encoding)
    from_csv = load_examples(folder)
    from_csv[1]["answer"] = float(from_csv[1]["answer"])
    assert from_csv == from_jsonl
    assert from_jsonl[1]["context"] == [["Ann", "Hi."], "Yes"]
    assert from_jsonl[0]["text"] == "Hi, there"


def test_parquet_says_the_same(folder, tmp_path_factory, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    rows = [dict(row, context=[["Ann", "Hi."]]) for row in ROWS]
    for row in rows:
        row["answer"] = str(row["answer"])
    for split in ("train", "test"):
        columns = [
            {name: row.get(name) for name in ("id", "text", "video", "audio_features", "context", "task", "answer")}
            for row in rows
            if row["split"] == split
        ]
        datasets.Dataset.from_list(columns).to_parquet(folder / f"data/{split}-00000-of-00001.parquet")
    found = {row["id"]: row for row in load_examples(folder)}
    assert {name: row["split"] for name, row in found.items()} == {"a": "train", "b": "test", "c": "train"}
    assert found["a"]["video"] == str((folder / "clip.mp4").resolve())
    assert found["b"]["context"] == [["Ann", "Hi."]]
    assert [row["id"] for row in load_examples(folder, "train")] == ["a", "c"]


def test_media_become_absolute_paths(folder, monkeypatch):
    write_jsonl(folder, ROWS)
    monkeypatch.chdir(folder.parent)
    for where in (folder, Path(folder.name), folder.name):
        rows = load_examples(where)
        assert rows[0]["video"] == str((folder / "clip.mp4").resolve())
        assert rows[2]["audio_features"] == str((folder / "deep/a.npy").resolve())


def test_absolute_media_are_kept(folder, tmp_path_factory):
    clip = tmp_path_factory.mktemp("elsewhere") / "b.mp4"
    clip.write_bytes((folder / "clip.mp4").read_bytes())
    write_jsonl(folder, [dict(ROWS[0], video=str(clip))])
    assert load_examples(folder)[0]["video"] == str(clip)


def test_ids_default_to_the_number(folder):
    write_jsonl(
        folder, [{"text": "x", "answer": "joy"}, {"id": 0.5, "text": "y", "answer": "joy"}, {"id": 7, "answer": 0}]
    )
    assert [row["id"] for row in load_examples(folder)] == ["0", "0.5", "7"]


def test_split_is_chosen(folder):
    write_jsonl(folder, ROWS)
    assert [row["id"] for row in load_examples(folder, "train")] == ["a", "c"]


def test_blank_lines_are_no_rows(folder):
    (folder / "metadata.jsonl").write_text('\n{"id": "a", "answer": "joy"}\n\n  \n', encoding="utf-8")
    assert len(load_examples(folder)) == 1


@pytest.mark.parametrize("answer", [0, 0.0, "joy", -1])
def test_zero_is_an_answer(folder, answer):
    write_jsonl(folder, [{"id": "a", "answer": answer}])
    assert load_examples(folder)[0]["answer"] == answer


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('{"id": "a", "answer": "joy"}\n{"id": ', "line 2: not JSON"),
        ('{"id": "a", "answer": "joy"}\n\n["a"]', r"line 3: a row is an object, not \['a'\]"),
        ('{"id": "a"}', "row 'a' has no `answer`"),
        ('{"id": "a", "answer": ""}', "row 'a' has no `answer`"),
        ('{"id": "a", "answer": null}', "row 'a' has no `answer`"),
        ('{"id": "a", "answer": "joy"}\n{"id": "a", "answer": "joy"}', "rows 0 and 1 share the id 'a'"),
        ('{"id": 1, "answer": "joy"}\n{"answer": "joy"}', "rows 0 and 1 share the id '1'"),
        ('{"id": "a", "answer": "joy", "video": "no.mp4"}', "row 'a' names video 'no.mp4', which is not there"),
        ('{"id": "a", "answer": "joy", "audio": "deep"}', "row 'a' names audio 'deep', which is not there"),
        ('{"id": "a", "answer": "joy", "audio_features": "x.npy"}', "row 'a' names audio_features 'x.npy'"),
    ],
)
def test_bad_jsonl_says_where(folder, lines, message):
    (folder / "metadata.jsonl").write_text(lines, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        load_examples(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,context,answer\na,Hi there,joy\n", "line 2: context must be a JSON list"),
        ("id,text\na,b\n", "row 'a' has no `answer`"),
        ("id,answer\na,joy\na,joy\n", "share the id 'a'"),
        ("id,video,answer\na,no.mp4,joy\n", "row 'a' names video 'no.mp4'"),
        ("id,answer,text\na,joy,Hi\nb,joy\n", "metadata.csv, line 3: fewer cells than columns"),
        ("id,answer,answer\na,joy,fear\n", "metadata.csv has more than one column answer"),
        ("id,text,answer\na," + "x" * 200_000 + ",joy\n", "metadata.csv, line 2: not CSV"),
    ],
)
def test_bad_csv_says_where(folder, text, message):
    write_csv(folder, text)
    with pytest.raises(ValueError, match=message):
        load_examples(folder)


def test_csv_row_with_too_many_cells_is_refused(folder):
    write_csv(folder, "id,answer,text\na,joy,Well, so be it\n")  # the comma was not quoted
    with pytest.raises(ValueError, match="line 2"):
        load_examples(folder)


@pytest.mark.parametrize("context", ["Hi there", {"speaker": "Ann"}, 3])
def test_context_must_be_a_list(folder, make_processor, context):
    write_jsonl(folder, [{"id": "a", "text": "b", "answer": "joy", "context": context}])
    with pytest.raises((ValueError, TypeError), match="'a'.*context"):
        EGMFDataCollator(make_processor(), True)([EGMFDataset(load_examples(folder), make_processor())[0]])


def test_mistyped_column_is_not_dropped_in_silence(folder, capsys):
    write_jsonl(folder, [{"id": "a", "text": "b", "answer": "joy", "vidoe": "clip.mp4"}])
    try:
        load_examples(folder)
        said = "".join(capsys.readouterr())
    except ValueError as error:
        said = str(error)
    assert "vidoe" in said


def test_empty_split_names_those_there(folder):
    write_jsonl(folder, ROWS)
    with pytest.raises(ValueError, match=r"no rows of split 'dev'. It has test, train"):
        load_examples(folder, "dev")


@pytest.mark.parametrize("name", ["", "absent"])
def test_folder_without_a_corpus(folder, name):
    with pytest.raises(ValueError, match="is no corpus: it holds neither metadata.jsonl, metadata.csv nor Parquet"):
        load_examples(folder / name)


# ---- the data set --------------------------------------------------------------------------------------------


def test_data_set_decodes_and_checks(folder, make_processor):
    write_jsonl(folder, ROWS[:2])
    processor = make_processor("waveform", "frames")
    for cached in (False, True):
        dataset = EGMFDataset(load_examples(folder), processor, cache_media=cached)
        assert len(dataset) == 2
        first, second = dataset[0], dataset[1]
        assert (first["id"], first["task"], first["label_index"]) == ("a", "emotion", 4)
        assert set(first["media"]) == {"audio", "video"}
        assert first["media"]["video"].shape == (3, 16, 16, 3)
        assert (second["label_index"], second["media"]) == (35, {})


def test_cached_clips_are_not_read_again(folder, make_processor):
    write_jsonl(folder, ROWS[:1])
    dataset = EGMFDataset(load_examples(folder), make_processor("waveform", "frames"), cache_media=True)
    before = dataset[0]["media"]
    (folder / "clip.mp4").unlink()
    assert np.array_equal(dataset[0]["media"]["audio"], before["audio"])


def test_features_come_from_npy(folder, make_processor):
    write_jsonl(folder, ROWS[2:])
    media = EGMFDataset(load_examples(folder), make_processor("features", "features"))[0]["media"]
    assert media["audio_features"].tolist() == [[1.0] * 6] * 4


def test_what_the_model_has_no_encoder_for_is_not_decoded(folder, make_processor):
    (folder / "clip.mp4").write_text("no film")
    np.save(folder / "deep/a.npy", np.ones((4, 6), np.float32))
    write_jsonl(folder, [dict(ROWS[0], audio_features="deep/a.npy", video_features="deep/a.npy")])
    for audio, expected in ((None, set()), ("features", {"audio_features"})):
        media = EGMFDataset(load_examples(folder), make_processor(audio, None))[0]["media"]
        assert set(media) == expected


def test_sound_track_is_heard_by_a_model_that_does_not_see(folder, make_processor):
    write_jsonl(folder, ROWS[:1])
    rows = load_examples(folder)
    media = EGMFDataset(rows, make_processor("waveform", None))[0]["media"]
    both = EGMFDataset(rows, make_processor("waveform", "frames"))[0]["media"]
    assert set(media) == {"audio"}
    assert np.array_equal(media["audio"], both["audio"])


# id, what the row names, and which modalities a model of raw media finds in it
PARTS = {
    "all": ({"text": "a", "video": "clip.mp4"}, {"text", "audio", "video"}),
    "silent": ({"text": " ", "video": "silent.mp4"}, {"video"}),
    "words": ({"text": "a"}, {"text"}),
    "sound": ({"audio": "clip.mp4"}, {"audio"}),
    "vectors": ({"text": "", "audio_features": "deep/a.npy"}, set()),
}


@pytest.fixture
def parts(folder):
    write_video(folder / "silent.mp4", gray_frames(3, 16, 16))
    write_jsonl(folder, [{"id": name, "answer": "joy", **fields} for name, (fields, _) in PARTS.items()])
    return load_examples(folder)


@pytest.mark.parametrize("subset", SUBSETS, ids="+".join)
@pytest.mark.parametrize("cached", [True, False])
def test_rows_without_the_modalities_are_found(parts, make_processor, subset, cached):
    dataset = EGMFDataset(parts, make_processor("waveform", "frames"), cache_media=cached)
    has = {
        name: found | ({"audio"} if name == "silent" and not cached else set()) for name, (_, found) in PARTS.items()
    }
    assert dataset.without(subset) == [name for name in PARTS if not has[name] & set(subset)]


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        (("features", None), ["all", "silent", "words", "sound"]),
        ((None, "frames"), ["words", "sound", "vectors"]),
        ((None, None), list(PARTS)),
    ],
)
def test_what_the_model_has_no_encoder_for_counts_as_missing(parts, make_processor, kinds, expected, cached):
    dataset = EGMFDataset(parts, make_processor(*kinds), cache_media=cached)
    assert dataset.without(["audio", "video"]) == expected


@pytest.mark.parametrize("cached", [True, False])
def test_rows_left_out_are_gone(parts, make_processor, cached):
    processor = make_processor("waveform", "frames")
    whole = EGMFDataset(parts, processor, cache_media=cached)
    rest = EGMFDataset(parts, processor, cache_media=cached)
    rest.leave_out(["all", "words"])
    assert len(rest) == len(rest.lengths) == 3
    for found, expected in zip(rest, [whole[1], whole[3], whole[4]], strict=True):
        assert found["id"] == expected["id"]
        assert set(found["media"]) == set(expected["media"])
        for name, values in expected["media"].items():
            assert np.array_equal(found["media"][name], values)


def test_first_task_is_the_default(folder, make_processor):
    write_jsonl(folder, [{"id": "a", "text": "b", "answer": "joy"}])
    processor = make_processor()
    assert EGMFDataset(load_examples(folder), processor)[0]["task"] == next(iter(processor.task_objects))


@pytest.mark.parametrize("written", ["0.5", " 0.5", "5e-1"])
def test_scores_of_csv_become_numbers(folder, make_processor, written):
    write_csv(folder, f"id,text,task,answer\na,b,mosei,{written}\n")
    row = EGMFDataset(load_examples(folder), make_processor())[0]
    assert row["answer"] == 0.5
    assert row["label_index"] == 35


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text": 5}, r"Row 'a': text is 5; it must be a string"),
        ({"text": ["b"]}, r"Row 'a': text is \['b'\]; it must be a string"),
        ({"task": "mood"}, r"Row 'a': unknown task 'mood'. Known are emotion.*--tasks_file"),
        ({"answer": "glee"}, r"row 'a': unknown label 'glee'"),
        ({"task": "mosei", "answer": "good"}, r"Row 'a': 'good' is no number"),
        ({"task": "mosei", "answer": 9}, r"row 'a': score 9 is outside"),
        ({"task": "mosei", "answer": "nan"}, r"row 'a': .*needs a number"),
    ],
)
def test_bad_answers_name_the_row(folder, make_processor, changes, message):
    write_jsonl(folder, [{"id": "a", "text": "b", "task": "emotion", "answer": "joy"} | changes])
    with pytest.raises(ValueError, match=message):
        EGMFDataset(load_examples(folder), make_processor())


def write_pickle(path):
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)


def write_archive(path):
    with path.open("wb") as file:
        np.savez(file, a=np.ones((2, 6)))


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_text("0.1 0.2"),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"\x93NUMPY"),
        write_pickle,
        write_archive,
        lambda path: np.save(path, np.ones((2, 7))),
        lambda path: np.save(path, np.full((2, 6), np.nan)),
    ],
    ids=["words", "empty", "cut", "pickle", "archive", "width", "nan"],
)
def test_bad_feature_file_names_the_row(folder, make_processor, write):
    write(folder / "deep/a.npy")
    write_jsonl(folder, ROWS[2:])
    dataset = EGMFDataset(load_examples(folder), make_processor())
    with pytest.raises((ValueError, TypeError), match="row 'c'"):
        dataset[0]


def test_broken_clip_names_the_row(folder, make_processor):
    (folder / "clip.mp4").write_text("no film")
    write_jsonl(folder, ROWS[:1])
    with pytest.raises(ValueError, match=r"row 'a' \(.*clip.mp4\): not a media file"):
        EGMFDataset(load_examples(folder), make_processor("waveform", "frames"), cache_media=True)


def test_lengths_grow_with_the_words(folder, make_processor):
    write_jsonl(
        folder,
        [
            {"id": "a", "text": "one", "answer": "joy"},
            {"id": "b", "text": "one two three four", "answer": "joy"},
            {"id": "c", "text": "one two three four", "context": ["a turn before", ["Ann", "b"]], "answer": "joy"},
            {"id": "d", "answer": "joy"},
        ],
    )
    lengths = EGMFDataset(load_examples(folder), make_processor()).lengths
    assert lengths[3] == 0 < lengths[0] < lengths[1] < lengths[2]
