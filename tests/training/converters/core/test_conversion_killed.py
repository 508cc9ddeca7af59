"""Conversions that are killed: DEST is absent or complete, and the same command ends with the same files."""

import random
import shutil

import pytest

from tests.helpers.corpus_files import write_corpus
from tests.helpers.killing import Command
from training.data.dataset import load_examples
from training.records import digest_of_file, read_json


KILLS = 10


def content(folder):
    """Digests of the corpus, and what its report counted."""
    files = sorted(path for name in ("data", "splits") for path in (folder / name).rglob("*"))
    report = read_json(folder / "conversion.json")
    return {path.name: digest_of_file(path) for path in files}, report["files"], report["table"]


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--media", "embed")])
def test_ten_conversions_killed_at_random_end_equal(warm_training_python, tmp_path, options):
    source = write_corpus(tmp_path / "source")
    parent = tmp_path / "made"
    dest = parent / "corpus"
    command = Command(warm_training_python, ["convert", "folder", source, dest, "--no_progress", *options])
    seconds = command.finish()
    expected = content(dest)
    ids = {example["id"] for example in load_examples(dest)}
    rng = random.Random(0)
    kills = 0
    while kills < KILLS:
        shutil.rmtree(parent)
        kills += command.kill_after(rng.uniform(0.1, 0.98) * seconds)
        if dest.exists():
            assert content(dest) == expected
        command.finish()
        assert content(dest) == expected
        assert {example["id"] for example in load_examples(dest)} == ids
        assert [path.name for path in parent.iterdir()] == [dest.name]
