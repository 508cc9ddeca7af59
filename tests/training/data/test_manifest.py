"""Damaged converted corpora: missing, truncated and changed files are named, and nothing loads as if complete."""

import json
import shutil

import pyarrow.parquet as pq
import pytest

from tests.helpers.release_files import mmsa, write_pickle
from training.converters import mmsa as mmsa_converter
from training.converters.core import shards
from training.data.dataset import load_examples


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """A converted corpus with three shards of train."""
    folder = tmp_path_factory.mktemp("converted")
    source = write_pickle(folder / "a.pkl", mmsa(train=6, valid=2, test=2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "ROWS_PER_SHARD", 2)
        mmsa_converter.main([str(source), str(folder / "dest"), "--corpus", "mosi", "--no_progress"])
    return folder / "dest"


@pytest.fixture
def corpus(converted, tmp_path):
    """A copy, to be damaged."""
    return shutil.copytree(converted, tmp_path / "corpus")


SHARD = "data/train-00001-of-00003.parquet"


def change(path, function):
    content = json.loads(path.read_text(encoding="utf-8"))
    function(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def cut_rows(path):
    pq.write_table(pq.read_table(path).slice(1), path)


def flip_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "missing shard": (lambda c: (c / SHARD).unlink(), "its data/ holds 4 of the 6 examples of train"),
    "cut shard": (lambda c: (c / SHARD).write_bytes((c / SHARD).read_bytes()[:-9]), "holds 4 of the 6 examples"),
    "shard of fewer rows": (lambda c: cut_rows(c / SHARD), "holds 5 of the 6 examples of train"),
    "flipped bit": (lambda c: flip_bit(c / SHARD), f"{SHARD} has changed since it was made"),
    "shard of another corpus": (
        lambda c: shutil.copy(c / SHARD, c / "data/other-00000-of-00001.parquet"),
        "data/other-00000-of-00001.parquet does not belong to it",
    ),
    "no data": (lambda c: shutil.rmtree(c / "data"), "its data/ holds 0 of the 6 examples of train"),
    "cut record": (lambda c: (c / "conversion.json").write_text('{"corpus": '), "conversion.json is not a JSON file"),
    "record of something else": (lambda c: (c / "conversion.json").write_text("[]"), "is not the record of a corpus"),
    "record without counts": (
        lambda c: change(c / "conversion.json", lambda record: record["table"].clear()),
        "its record is damaged",
    ),
    "empty record": (lambda c: (c / "conversion.json").write_text("{}"), "its record is damaged"),
    "list of files of another kind": (
        lambda c: change(c / "conversion.json", lambda record: record["files"].update({SHARD: 3})),
        "its record is damaged",
    ),
    "no record": (lambda c: (c / "conversion.json").unlink(), "is a converted corpus without its conversion.json"),
    "no manifest": (lambda c: (c / "splits/official.json").unlink(), "has no split manifest 'official'"),
    "manifest with fewer ids": (
        lambda c: change(c / "splits/official.json", lambda manifest: manifest["splits"]["train"].pop()),
        "example '.*' is not in splits/official.json",
    ),
    "manifest with more ids": (
        lambda c: change(c / "splits/official.json", lambda manifest: manifest["splits"]["train"].append("x")),
        "1 examples of splits/official.json are not in data/",
    ),
    "manifest with another order": (
        lambda c: change(c / "splits/official.json", lambda manifest: manifest["splits"]["train"].reverse()),
        "splits/official.json has ",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_named(corpus, name):
    damage, message = DAMAGES[name]
    damage(corpus)
    with pytest.raises(ValueError, match=message):
        load_examples(corpus)


def test_whole_corpus_loads(corpus, tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    assert len(load_examples(corpus)) == 10
    change(corpus / "conversion.json", lambda record: record.pop("files"))  # of an earlier version
    assert len(load_examples(corpus)) == 10
    other = corpus / "splits/other.json"
    for splits, message in (
        ({"train": ["x"]}, "is not in splits/other.json"),
        ({"train": ["x", "x"]}, "'x' is in two splits"),
        ([], "must hold `splits`"),
    ):
        other.write_text(json.dumps({"splits": splits}), encoding="utf-8")
        with pytest.raises(ValueError, match=message):
            load_examples(corpus, manifest="other")
