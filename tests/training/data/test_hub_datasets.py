"""Datasets of the `datasets` library in local folders, single tables, folders named by labels, and their options."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Audio, ClassLabel, Dataset, DatasetDict, Features, Image, Value

from tests.helpers.media_files import sine, write_audio
from training.data.collator import SampleCollator
from training.data.dataset import EGMFDataset, SampleIndex, load_examples
from training.data.dataset_options import DatasetOptions
from training.data.hub_datasets import stream_tables
from training.data.locations import is_hub_id
from training.data.parquet import StoredMedia


COLUMNS = {"audio": "recording", "text": "sentence", "answer": "emotion", "id": "name"}
LABELS = ["happy", "anger"]


@pytest.fixture(scope="module")
def wav(tmp_path_factory):
    path = tmp_path_factory.mktemp("media") / "a.wav"
    write_audio(path, sine(300, 0.3, 16_000), 16_000)
    return path


@pytest.fixture(scope="module")
def parts(wav):
    """Two splits with a clip's bytes, a clip's path, class labels, and a column of pictures."""
    features = Features(
        {
            "name": Value("string"),
            "recording": Audio(),
            "sentence": Value("string"),
            "emotion": ClassLabel(names=LABELS),
            "picture": Image(),
        }
    )
    clips = [{"bytes": wav.read_bytes(), "path": None}, {"bytes": None, "path": str(wav)}, None]

    def make(prefix):
        columns = {
            "name": [f"{prefix}{i}" for i in range(3)],
            "recording": clips,
            "sentence": ["One.", None, "Three."],
            "emotion": [0, 1, 1],
            "picture": [None, None, None],
        }
        return Dataset.from_dict(columns).cast(features)  # encoding examples would need torchcodec

    return DatasetDict(train=make("a"), dev=make("b"))


@pytest.fixture(scope="module", params=["save_to_disk", "parquet"])
def folder(request, parts, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param) / "dataset"
    if request.param == "save_to_disk":
        parts.save_to_disk(folder)
    else:
        for split, name in (("train", "train"), ("dev", "validation")):
            parts[split].to_parquet(folder / f"{name}.parquet")
    return folder


def test_files_whose_split_may_be_a_typo_are_named(tmp_path, caplog):
    for name in ("train-00000-of-00001", "vaildation-00000-of-00001"):
        pq.write_table(pa.table({"text": ["Hi."], "answer": ["joy"]}), tmp_path / f"{name}.parquet")
    assert [example["split"] for example in load_examples(tmp_path)] == ["train"]
    assert "vaildation-00000-of-00001.parquet is not read as the split validation; rename it" in caplog.text
    assert "train-00000" not in caplog.text


def test_columns_labels_and_clips_of_a_dataset(folder, wav, make_processor, caplog):
    options = DatasetOptions(columns=COLUMNS, label_map={"happy": "joy"})
    examples = load_examples(folder, "validation", options=options)
    assert [example["id"] for example in examples] == ["b0", "b1", "b2"]
    assert [example["answer"] for example in examples] == ["joy", "anger", "anger"]
    assert [example.get("text") for example in examples] == ["One.", None, "Three."]
    assert isinstance(examples[0]["audio"], StoredMedia)
    assert examples[0]["audio"].read() == wav.read_bytes()
    assert examples[0]["audio"].mark() == [None, wav.stat().st_size]
    assert "audio" not in examples[2]
    assert "not inputs: picture" in caplog.text

    processor = make_processor("waveform", None)
    dataset = EGMFDataset(examples, processor)
    batch = SampleCollator(processor)([dataset[0], dataset[1]])
    expected = processor(text=["One.", None], audio=[str(wav)] * 2)
    np.testing.assert_array_equal(batch["audio_values"], expected["audio_values"])


def test_labels_that_the_task_lacks_are_listed_once_with_the_ways_to_map_them(folder, make_processor):
    examples = load_examples(folder, options=DatasetOptions(columns=COLUMNS))
    with pytest.raises(ValueError, match=r"2 examples, .*'happy'.*use any of.*--label_map OLD=NEW.*--tasks_file"):
        EGMFDataset(examples, make_processor("waveform", None))


def test_options_that_the_dataset_does_not_fit(folder):
    with pytest.raises(ValueError, match=r"no such column: --text_column 'words'\. Its columns are name, recording"):
        load_examples(folder, options=DatasetOptions(columns={**COLUMNS, "text": "words"}))
    with pytest.raises(ValueError, match=r"--label_map names 'sad', which no example has"):
        load_examples(folder, options=DatasetOptions(columns=COLUMNS, label_map={"sad": "sadness"}))
    with pytest.raises(ValueError, match=r"no `answer`.*Did you mean 'emotion'\? .*--label_column"):
        load_examples(folder)
    with pytest.raises(ValueError, match=r"no examples of split 'test'. Its splits are train, validation: give"):
        load_examples(folder, "test", options=DatasetOptions(columns=COLUMNS))
    with pytest.raises(ValueError, match="--streaming is for egmf evaluate and egmf predict"):
        load_examples(folder, options=DatasetOptions(streaming=True))


@pytest.mark.parametrize("saved", [True, False])
def test_names_of_columns_that_differ_only_in_case(tmp_path, saved):
    columns = {"Text": ["wrong"], "text": ["right"], "answer": ["joy"]}
    if saved:
        Dataset.from_dict(columns).save_to_disk(tmp_path)
    else:
        pq.write_table(pa.table(columns), tmp_path / "train.parquet")
    with pytest.raises(ValueError, match="more than one column text. Rename or remove one."):
        load_examples(tmp_path)


def test_options_may_name_one_column_and_write_it_as_the_file_does(tmp_path, wav):
    (tmp_path / "metadata.csv").write_text("Text,clip,Label\nHello.,a.wav,joy\n", encoding="utf-8")
    (tmp_path / "a.wav").write_bytes(wav.read_bytes())
    columns = {"text": "Text", "audio": "clip", "id": "clip", "answer": "Label"}
    (example,) = load_examples(tmp_path, options=DatasetOptions(columns=columns))
    assert (example["id"], example["audio"], example["text"]) == ("a.wav", str(tmp_path / "a.wav"), "Hello.")
    with pytest.raises(ValueError, match="--label_column and --text_column both name the column 'Label': the model"):
        load_examples(tmp_path, options=DatasetOptions(columns={**columns, "text": "Label"}))


def test_prediction_needs_no_answers(tmp_path):
    (tmp_path / "table.csv").write_text("transcript\nHello.\nNo.\n", encoding="utf-8")
    options = DatasetOptions(columns={"text": "transcript"})
    examples = load_examples(tmp_path / "table.csv", options=options, with_answers=False)
    assert [(example["id"], example["text"]) for example in examples] == [("0", "Hello."), ("1", "No.")]


def test_table_with_clips_next_to_it(tmp_path, wav):
    (tmp_path / "my.jsonl").write_text('{"file_name": "a.wav", "label": "joy", "split": "test"}\n', encoding="utf-8")
    (tmp_path / "a.wav").write_bytes(wav.read_bytes())
    (example,) = load_examples(tmp_path / "my.jsonl", "test", options=DatasetOptions(columns={"answer": "label"}))
    assert (example["answer"], example["audio"]) == ("joy", str(tmp_path / "a.wav"))


def test_folders_named_by_labels(tmp_path, wav):
    for name in ("train/joy/a.wav", "train/anger/b.wav", "val/joy/c.wav"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(wav.read_bytes())
    examples = load_examples(tmp_path)
    found = {example["id"]: (example["split"], example["answer"]) for example in examples}
    assert found == {
        "train/anger/b.wav": ("train", "anger"),
        "train/joy/a.wav": ("train", "joy"),
        "val/joy/c.wav": ("validation", "joy"),
    }
    assert examples[0]["audio"] == str(tmp_path / examples[0]["id"])


def test_recordings_outside_folders_of_labels_are_named(tmp_path, wav, caplog):
    def write(*names):
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(wav.read_bytes())

    write("train/joy/ann/a.wav", "b.wav")
    with pytest.raises(ValueError, match=r"its recordings \(2, such as 'b.wav'\) are not in folders of their"):
        load_examples(tmp_path)
    write("Train/joy/a.wav", "TRAIN/anger/b.wav")
    examples = load_examples(tmp_path)
    assert {(example["split"], example["answer"]) for example in examples} == {("train", "joy"), ("train", "anger")}
    assert "2 of 4 recordings are left out: they are not in folders of their labels" in caplog.text


def test_names_of_files_that_are_not_utf_8_give_ids_that_are(tmp_path, wav, make_processor):
    for name in (b"joy/a.wav", b"anger/caf\xe9.wav"):
        path = Path(os.fsdecode(bytes(tmp_path) + b"/" + name))
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(wav.read_bytes())
    examples = load_examples(tmp_path)
    assert [example["id"] for example in examples] == ["anger/caf\\udce9.wav", "joy/a.wav"]
    dataset = EGMFDataset(examples, make_processor("waveform", None))
    assert dataset[SampleIndex(0, 0, 0, 1.0)]["sample_seed"][0] == 0


def test_ids_on_the_hub_and_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    assert is_hub_id("org/name.v2")
    assert not [path for path in ("data/typo", "name", "./a/b", "/a/b", "a/b/c", str(tmp_path)) if is_hub_id(path)]


@pytest.mark.parametrize("entries", [["happy"], ["=joy"], ["a=b", "a=c"]])
def test_label_map_that_is_not_one(entries):
    names = ("text", "audio", "video", "label", "id", "split", "task", "context")
    arguments = dict.fromkeys([f"{name}_column" for name in names])
    arguments |= {"dataset_config": None, "dataset_revision": None, "streaming": False}
    with pytest.raises(ValueError, match="--label_map"):
        DatasetOptions.from_arguments({**arguments, "label_map": entries})


@pytest.mark.parametrize("cell", [None, {"bytes": None, "path": None}])
def test_streamed_rows_may_have_no_clip(tmp_path, cell):
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"text": ["a"], "audio": pa.array([cell], kind)})
    features = Features({"text": Value("string"), "audio": Audio()})
    pq.write_table(table.replace_schema_metadata(features.arrow_schema.metadata), tmp_path / "test-0.parquet")
    (found,) = stream_tables(tmp_path, "test", DatasetOptions(streaming=True), 2)
    assert found.rows == [{"text": "a", "audio": None, "split": "test"}]
