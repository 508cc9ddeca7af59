"""Examples of JSONL, CSV and Parquet corpora, errors in them, and the dataset over them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers.media_files import JUNK, gray_frames, junk, sine, write_video
from training.data.augmentation import AugmentationSettings, augment, augment_voice
from training.data.collator import SUBSETS
from training.data.dataset import EGMFDataset, SampleIndex, load_examples


ROWS = [
    {
        "id": "a",
        "split": "train",
        "text": "Hi, there",
        "video": "clip.mp4",
        "task": "emotion",
        "answer": "joy",
    },
    {
        "id": "b",
        "split": "test",
        "text": "好",
        "context": [["Ann", "Hi."], "Yes"],
        "task": "mosei",
        "answer": 0.5,
    },
    {"id": "c", "split": "train", "audio_features": "deep/a.npy", "task": "emotion", "answer": "fear"},
]


@pytest.fixture
def folder(tmp_path):
    """A corpus folder with media and without metadata."""
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
def test_jsonl_and_csv_give_the_same_examples(folder, encoding):
    write_jsonl(folder, ROWS, encoding)
    from_jsonl = load_examples(folder)
    (folder / "metadata.jsonl").unlink()
    write_csv(folder, CSV, encoding)
    from_csv = load_examples(folder)
    from_csv[1]["answer"] = float(from_csv[1]["answer"])
    assert from_csv == from_jsonl
    assert from_jsonl[1]["context"] == [["Ann", "Hi."], "Yes"]
    assert from_jsonl[0]["text"] == "Hi, there"


def test_parquet_gives_the_same_examples(folder, tmp_path_factory, monkeypatch):
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
    assert {name: row["split"] for name, row in found.items()} == {
        "a": "train",
        "b": "test",
        "c": "train",
    }
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


def test_ids_default_to_the_row_number(folder):
    write_jsonl(
        folder,
        [
            {"text": "x", "answer": "joy"},
            {"id": 0.5, "text": "y", "answer": "joy"},
            {"id": 7, "answer": 0},
        ],
    )
    assert [row["id"] for row in load_examples(folder)] == ["0", "0.5", "7"]


def test_split_is_chosen(folder):
    write_jsonl(folder, ROWS)
    assert [row["id"] for row in load_examples(folder, "train")] == ["a", "c"]


def test_blank_lines_are_skipped(folder):
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
        ('{"id": "a", "answer": "joy"}\n\n["a"]', r"line 3: a row must be a JSON object, not \['a'\]"),
        ('{"id": "a"}', "example 'a' has no `answer`"),
        ('{"id": "a", "answer": ""}', "example 'a' has no `answer`"),
        ('{"id": "a", "answer": null}', "example 'a' has no `answer`"),
        (
            '{"id": "a", "answer": "joy"}\n{"id": "a", "answer": "joy"}',
            "rows 0 and 1 have the same id 'a'",
        ),
        ('{"id": 1, "answer": "joy"}\n{"answer": "joy"}', "rows 0 and 1 have the same id '1'"),
        (
            '{"id": "a", "answer": "joy", "video": "no.mp4"}',
            "example 'a': video 'no.mp4' is not a file",
        ),
        ('{"id": "a", "answer": "joy", "audio": "deep"}', "example 'a': audio 'deep' is not a file"),
        (
            '{"id": "a", "answer": "joy", "audio_features": "x.npy"}',
            "example 'a': audio_features 'x.npy' is not a file",
        ),
    ],
)
def test_error_in_jsonl_names_the_line(folder, lines, message):
    (folder / "metadata.jsonl").write_text(lines, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        load_examples(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,context,answer\na,Hi there,joy\n", "line 2: context must be a JSON list"),
        ("id,text\na,b\n", "example 'a' has no `answer`"),
        ("id,answer\na,joy\na,joy\n", "have the same id 'a'"),
        ("id,video,answer\na,no.mp4,joy\n", "example 'a': video 'no.mp4' is not a file"),
        ("id,answer,text\na,joy,Hi\nb,joy", "metadata.csv, line 3: fewer cells than columns"),
        ("id,answer,answer\na,joy,fear\n", "metadata.csv has more than one column answer"),
        ("id,text,answer\na," + "x" * 200_000 + ",joy\n", "metadata.csv, line 2: not CSV"),
    ],
)
def test_error_in_csv_names_the_line(folder, text, message):
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
        EGMFDataset(load_examples(folder), make_processor())[0]


def test_mistyped_column_is_not_dropped_silently(folder, capsys):
    write_jsonl(folder, [{"id": "a", "text": "b", "answer": "joy", "vidoe": "clip.mp4"}])
    try:
        load_examples(folder)
        said = "".join(capsys.readouterr())
    except ValueError as error:
        said = str(error)
    assert "vidoe" in said


def test_empty_split_names_the_existing_ones(folder):
    write_jsonl(folder, ROWS)
    with pytest.raises(ValueError, match=r"no examples of split 'dev'. Its splits are test, train"):
        load_examples(folder, "dev")


def test_folder_without_a_corpus(folder):
    message = "is not a corpus: it has neither metadata.jsonl nor metadata.csv nor Parquet"
    with pytest.raises(ValueError, match=message):
        load_examples(folder)
    with pytest.raises(ValueError, match="--dataset .*absent does not exist"):
        load_examples(folder / "absent")


# ---- the dataset ---------------------------------------------------------------------------------------------


def test_dataset_decodes_and_checks(folder, make_processor):
    write_jsonl(folder, ROWS[:2])
    processor = make_processor("waveform", "frames")
    for cached in (False, True):
        dataset = EGMFDataset(load_examples(folder), processor, cache_media=cached)
        assert len(dataset) == 2
        first = dataset[0]
        second = dataset[1]
        assert (first["id"], first["task"], first["label_index"]) == ("a", "emotion", 4)
        assert first["modalities"] == ["text", "audio", "video"]
        assert first["video_values"].shape == (3, 3, 16, 16)
        assert (second["label_index"], second["modalities"]) == (35, ["text"])
        assert set(dataset.load_media(0)) == {"audio", "video"}
        assert dataset.load_media(0)["video"].shape == (3, 16, 16, 3)
        assert dataset.load_media(1) == {}


def test_cached_clips_are_not_read_again(folder, make_processor):
    write_jsonl(folder, ROWS[:1])
    dataset = EGMFDataset(load_examples(folder), make_processor("waveform", "frames"), cache_media=True)
    before = dataset[0]
    (folder / "clip.mp4").unlink()
    assert torch.equal(dataset[0]["audio_values"], before["audio_values"])


def test_features_come_from_npy(folder, make_processor):
    write_jsonl(folder, ROWS[2:])
    media = EGMFDataset(load_examples(folder), make_processor("features", "features")).load_media(0)
    assert media["audio_features"].tolist() == [[1.0] * 6] * 4


def test_modality_without_an_encoder_is_not_decoded(folder, make_processor):
    (folder / "clip.mp4").write_text("no film")
    np.save(folder / "deep/a.npy", np.ones((4, 6), np.float32))
    write_jsonl(folder, [dict(ROWS[0], audio_features="deep/a.npy", video_features="deep/a.npy")])
    for audio, expected in ((None, set()), ("features", {"audio_features"})):
        media = EGMFDataset(load_examples(folder), make_processor(audio, None)).load_media(0)
        assert set(media) == expected


def test_audio_track_reaches_a_model_without_video(folder, make_processor):
    write_jsonl(folder, ROWS[:1])
    rows = load_examples(folder)
    media = EGMFDataset(rows, make_processor("waveform", None)).load_media(0)
    both = EGMFDataset(rows, make_processor("waveform", "frames")).load_media(0)
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
def test_examples_without_the_modalities_are_found(parts, make_processor, subset, cached):
    dataset = EGMFDataset(parts, make_processor("waveform", "frames"), cache_media=cached)
    has = {
        name: found | ({"audio"} if name == "silent" and not cached else set()) for name, (_, found) in PARTS.items()
    }
    assert dataset.ids_without(subset) == [name for name in PARTS if not has[name] & set(subset)]


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        (("features", None), ["all", "silent", "words", "sound"]),
        ((None, "frames"), ["words", "sound", "vectors"]),
        ((None, None), list(PARTS)),
    ],
)
def test_modality_without_an_encoder_counts_as_missing(parts, make_processor, kinds, expected, cached):
    dataset = EGMFDataset(parts, make_processor(*kinds), cache_media=cached)
    assert dataset.ids_without(["audio", "video"]) == expected


@pytest.mark.parametrize("cached", [True, False])
def test_removed_examples_are_gone(parts, make_processor, cached):
    processor = make_processor("waveform", "frames")
    complete = EGMFDataset(parts, processor, cache_media=cached)
    rest = EGMFDataset(parts, processor, cache_media=cached)
    rest.remove(["all", "words"])
    assert len(rest) == len(rest.lengths) == 3
    for index, number in enumerate([1, 3, 4]):
        assert rest.examples[index]["id"] == complete.examples[number]["id"]
        media = rest.load_media(index)
        expected = complete.load_media(number)
        assert set(media) == set(expected)
        for name, values in expected.items():
            assert np.array_equal(media[name], values)


def test_example_without_any_modality_has_only_its_fields(parts, make_processor):
    """Evaluation leaves such an example out and counts it."""
    sample = EGMFDataset(parts, make_processor("waveform", "frames"))[4]
    assert sample == {
        "id": "vectors",
        "task": "emotion",
        "answer": "joy",
        "label_index": 4,
        "modalities": [],
    }


def test_first_task_is_the_default(folder, make_processor):
    write_jsonl(folder, [{"id": "a", "text": "b", "answer": "joy"}])
    processor = make_processor()
    assert EGMFDataset(load_examples(folder), processor)[0]["task"] == next(iter(processor.task_objects))


@pytest.mark.parametrize("written", ["0.5", " 0.5", "5e-1"])
def test_scores_of_csv_become_numbers(folder, make_processor, written):
    write_csv(folder, f"id,text,task,answer\na,b,mosei,{written}\n")
    sample = EGMFDataset(load_examples(folder), make_processor())[0]
    assert sample["answer"] == 0.5
    assert sample["label_index"] == 35


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text": 5}, r"example 'a': text is 5; it must be a string"),
        ({"text": ["b"]}, r"example 'a': text is \['b'\]; it must be a string"),
        ({"task": "emotio"}, r"'a': unknown task 'emotio'; the model knows emotion.* mean 'emotion'\?.*--tasks_file"),
        ({"answer": "glee"}, r"example 'a': unknown label .*'glee'"),
        ({"task": "mosei", "answer": "good"}, r"example 'a': 'good' is not a number"),
        ({"task": "mosei", "answer": 9}, r"example 'a': score 9 is outside"),
        ({"task": "mosei", "answer": "nan"}, r"example 'a': .*needs a number"),
    ],
)
def test_bad_answers_name_the_example(folder, make_processor, changes, message):
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
def test_bad_feature_file_names_the_example(folder, make_processor, write):
    write(folder / "deep/a.npy")
    write_jsonl(folder, ROWS[2:])
    dataset = EGMFDataset(load_examples(folder), make_processor())
    with pytest.raises((ValueError, TypeError), match="example 'c'"):
        dataset[0]


@pytest.mark.parametrize("kind", JUNK)
def test_broken_clip_names_the_example(folder, make_processor, kind):
    (folder / "clip.mp4").write_bytes(junk(kind))
    write_jsonl(folder, ROWS[:1])
    with pytest.raises(ValueError, match=r"example 'a' \(.*clip.mp4\): (not a readable media file|not audio|empty)"):
        EGMFDataset(load_examples(folder), make_processor("waveform", "frames"), cache_media=True)


def test_lengths_grow_with_the_transcript(folder, make_processor):
    write_jsonl(
        folder,
        [
            {"id": "a", "text": "one", "answer": "joy"},
            {"id": "b", "text": "one two three four", "answer": "joy"},
            {
                "id": "c",
                "text": "one two three four",
                "context": ["a turn before", ["Ann", "b"]],
                "answer": "joy",
            },
            {"id": "d", "answer": "joy"},
        ],
    )
    lengths = EGMFDataset(load_examples(folder), make_processor()).lengths
    assert lengths[3] == 0 < lengths[0] < lengths[1] < lengths[2]


# ---- random changes ------------------------------------------------------------------------------------------


def samples_of(folder, processor, **augmentation):
    dataset = EGMFDataset(
        load_examples(folder),
        processor,
        True,
        augmentation=AugmentationSettings(**augmentation),
        cache_media=True,
    )
    return dataset, [dataset[SampleIndex(0, seed, 0, 1.0)] for seed in (0, 0, 1)]


@pytest.mark.parametrize(
    ("augmentation", "changed"),
    [
        ({"augmentation": True}, {"audio_values", "video_values"}),
        ({"voice_augmentation": True}, {"audio_values"}),
    ],
    ids=["augmentation", "voice"],
)
def test_augmentation_changes_only_the_clip(folder, make_processor, augmentation, changed):
    write_jsonl(folder, ROWS[:1])
    plain, (expected, *_) = samples_of(folder, make_processor("waveform", "frames"))
    dataset, samples = samples_of(folder, make_processor("waveform", "frames"), **augmentation)
    assert samples[0].keys() == expected.keys()
    for name in ("input_ids", "labels", "audio_values", "video_values", "modalities"):
        first, again, other = (
            torch.as_tensor(sample[name]) if "values" in name else sample[name] for sample in samples
        )
        same = torch.equal if "values" in name else lambda a, b: a == b
        assert same(first, again), name
        assert same(first, other) == (name not in changed), name
        assert same(first, expected[name]) == (name not in changed), name
    for name, values in plain.load_media(0).items():  # the clip in memory stays as it is
        assert np.array_equal(dataset.load_media(0)[name], values)


def test_one_generator_draws_the_modalities_then_the_voice_then_the_rest(folder, make_processor):
    write_jsonl(folder, ROWS[:1])
    settings = {"modality_dropout": 0.5, "augmentation": True, "voice_augmentation": True}
    dataset, (sample, *_) = samples_of(folder, make_processor("waveform", "frames"), **settings)
    rng = np.random.default_rng(sample["sample_seed"])
    assert rng.random() >= 0.5  # keeps all
    assert sample["modalities"] == ["text", "audio", "video"]
    media = dataset.load_media(0)
    media = augment({**media, "audio": augment_voice(media["audio"], rng)}, rng)
    assert np.array_equal(sample["audio_values"], media["audio"])
    expected = torch.from_numpy(media["video"]).permute(0, 3, 1, 2).float() / 127.5 - 1.0
    assert torch.equal(sample["video_values"], expected)


def test_without_labels_shares_clips_and_drops_nothing(folder, make_processor):
    write_jsonl(folder, ROWS[:1])
    dataset, _ = samples_of(folder, make_processor("waveform", "frames"), modality_dropout=1.0, augmentation=True)
    pretraining = dataset.without_labels()
    assert pretraining.media is dataset.media
    assert pretraining.augmentation == AugmentationSettings(augmentation=True)
    assert pretraining[0]["modalities"] == ["text", "audio", "video"]
    assert pretraining[0]["labels"] is None
    assert dataset[0]["labels"] is not None and len(dataset[0]["modalities"]) < 3
