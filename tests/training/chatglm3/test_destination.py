"""Destination of a conversion: nothing is replaced unless requested, and an interrupted conversion resumes."""

import fcntl
import os
import shutil
import signal
import subprocess
import time

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.helpers.chatglm3_files import (
    ASSETS,
    TINY,
    TINY_SOURCE,
    TOKENIZER_SOURCE,
    assert_same,
    contents,
    native_tensors,
    random_tensors,
    tensors_of,
    write_config,
    write_shards,
)
from training.chatglm3 import convert as chatglm3
from training.chatglm3.convert import convert, main
from training.chatglm3.destination import LOCK
from training.chatglm3.tensor_files import write_shard


def test_existing_files_are_not_touched(source, tmp_path):
    dest = tmp_path / "dest"
    convert(source, dest, "weights")
    before = contents(dest)
    for only in (None, "weights"):
        with pytest.raises(ValueError, match="holds the weights.*--overwrite"):
            convert(source, dest, only)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds other files"):
        convert(source, tmp_path / "mine", "weights")
    with pytest.raises(ValueError, match="is a file"):
        convert(source, tmp_path / "mine" / "notes.txt", "weights")
    assert contents(dest) == before
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]
    assert not list(tmp_path.glob("*.partial"))


def test_overwrite_moves_existing_files_aside(source, tmp_path):
    dest = tmp_path / "dest"
    convert(source, dest, "weights")
    first = contents(dest)
    write_shards(source, random_tensors(source, seed=1))
    for _ in range(2):
        convert(source, dest, "weights", overwrite=True)
    assert contents(tmp_path / "dest.replaced-1") == first
    assert contents(tmp_path / "dest.replaced-2") == contents(dest) != first
    assert_same(tensors_of(dest), native_tensors(tensors_of(source)))


def test_one_half_is_replaced_separately(tmp_path):
    dest = tmp_path / "dest"
    convert(TINY_SOURCE, dest, "weights")
    convert(TOKENIZER_SOURCE, dest, "tokenizer")
    both = contents(dest)
    tokenizer_files = {"generation_config.json", "tokenizer.json", "tokenizer_config.json"}
    assert set(both) == {"config.json", "model.safetensors"} | tokenizer_files
    with pytest.raises(ValueError, match="holds the tokenizer and the weights"):
        convert(TOKENIZER_SOURCE, dest, "tokenizer")
    convert(TOKENIZER_SOURCE, dest, "tokenizer", overwrite=True)
    assert contents(dest) == both
    assert set(contents(tmp_path / "dest.replaced-1")) == tokenizer_files


def test_both_halves_at_once(tmp_path, capsys):
    source = write_config(tmp_path / "source", TINY | {"padded_vocab_size": 12_100})
    write_shards(source, random_tensors(source))
    shutil.copy(TOKENIZER_SOURCE / "tokenizer.model", source)
    (tmp_path / "dest").mkdir()  # an empty folder is as good as none
    main([str(source), str(tmp_path / "dest")])
    assert "equal to sentencepiece on 2000 strings" in capsys.readouterr().out
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "dest")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "dest")
    inputs = tokenizer(["joy", "真的 philosophy"], padding=True, return_tensors="pt")
    assert model.generate(**inputs, max_new_tokens=2, do_sample=False).shape[0] == 2
    main([str(source), str(tmp_path / "dest"), "--overwrite"])
    assert contents(tmp_path / "dest") == contents(tmp_path / "dest.replaced-1")
    assert not list(tmp_path.glob("*.partial"))


def test_destination_must_not_contain_the_source(source):
    for dest in (source, source.parent):
        with pytest.raises(ValueError, match="is inside"):
            convert(source, dest, "weights", overwrite=True)


def test_unwritable_destination_is_reported_at_once(source, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="Cannot write to"):
        convert(source, tmp_path / "file" / "dest", "weights")


def test_unrelated_folder_of_the_same_name_is_kept(source, tmp_path):
    (tmp_path / "dest.partial").mkdir()
    (tmp_path / "dest.partial" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not an unfinished conversion"):
        convert(source, tmp_path / "dest", "weights")
    assert (tmp_path / "dest.partial" / "notes.txt").read_text() == "mine"


def test_too_little_disk_space_is_reported_before_writing(source, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(chatglm3.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    monkeypatch.setattr(chatglm3, "write_shard", lambda *_: pytest.fail("wrote"))
    with pytest.raises(ValueError, match="needs 0.00 GB more, but only 0.00 GB are free"):
        convert(source, tmp_path / "dest", "weights")


# ---- interruptions -------------------------------------------------------------------------------------------


@pytest.fixture
def written(monkeypatch):
    """Small shards, and the names of those written so far."""
    names = []
    monkeypatch.setattr(chatglm3, "SHARD_BYTES", 2000)

    def write(path, *rest):
        names.append(path.name)
        write_shard(path, *rest)

    monkeypatch.setattr(chatglm3, "write_shard", write)
    return names


def fail_at(monkeypatch, count, error):
    """Makes writing fail in the middle of a file, from the `count`-th shard on."""
    done = []

    def write(path, pieces, progress):
        done.append(path.name)
        if len(done) >= count:
            path.with_name(f".{path.name}.part").write_bytes(b"half")
            raise error
        write_shard(path, pieces, progress)

    monkeypatch.setattr(chatglm3, "write_shard", write)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_interrupted_run_resumes(source, tmp_path, monkeypatch, error):
    monkeypatch.setattr(chatglm3, "SHARD_BYTES", 2000)
    convert(source, tmp_path / "whole", "weights")
    with monkeypatch.context() as patch:
        fail_at(patch, 3, error)
        with pytest.raises(SystemExit, match=r"Free some disk space. Run the same command again|130"):
            main([str(source), str(tmp_path / "dest"), "--only", "weights"])
    assert not (tmp_path / "dest").exists()
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "dest.partial").glob("model-*")}
    assert len(kept) == 2
    main([str(source), str(tmp_path / "dest"), "--only", "weights"])
    assert contents(tmp_path / "dest") == contents(tmp_path / "whole")
    assert {name: (tmp_path / "dest" / name).stat().st_mtime_ns for name in kept} == kept
    assert not list(tmp_path.glob("*.partial"))


def test_changed_source_starts_over(source, tmp_path, monkeypatch, written):
    with monkeypatch.context() as patch:
        fail_at(patch, 3, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            convert(source, tmp_path / "dest", "weights")
    time.sleep(0.01)
    write_shards(source, random_tensors(source, seed=1))
    convert(source, tmp_path / "dest", "weights")
    assert len(written) == len(list((tmp_path / "dest").glob("model-*.safetensors"))) > 3
    assert_same(tensors_of(tmp_path / "dest"), native_tensors(tensors_of(source)))


def test_shard_with_another_header_is_rewritten(source, tmp_path, monkeypatch, written):
    with monkeypatch.context() as patch:
        fail_at(patch, 3, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            convert(source, tmp_path / "dest", "weights")
    first, second = sorted((tmp_path / "dest.partial").glob("model-*"))
    os.truncate(first, first.stat().st_size - 1)
    convert(source, tmp_path / "dest", "weights")
    assert first.name in written
    assert second.name not in written
    assert_same(tensors_of(tmp_path / "dest"), native_tensors(tensors_of(source)))


@pytest.mark.integration
def test_killed_process_resumes(source, tmp_path, warm_training_python):
    """A process killed between two shards leaves no DEST, and the same command completes it."""
    code = (
        "import os, sys, time; from training.chatglm3 import convert as chatglm3; write = chatglm3.write_shard\n"
        "def slow(path, *rest):\n"
        "    write(path, *rest); print(os.getpid(), path.name, flush=True); time.sleep(60)\n"
        "chatglm3.write_shard, chatglm3.SHARD_BYTES = slow, 2000\n"
        "chatglm3.main(sys.argv[1:])"
    )
    command = [warm_training_python, "-c", code, str(source), str(tmp_path / "dest"), "--only", "weights"]
    with subprocess.Popen(
        command, cwd=ASSETS.parents[1], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        process_id, first = process.stdout.readline().split()
        os.kill(int(process_id), signal.SIGKILL)
    assert first.startswith(b"model-00001-of-")
    assert process.returncode == 128 + signal.SIGKILL
    assert not (tmp_path / "dest").exists()
    assert len(list((tmp_path / "dest.partial").glob("model-*"))) == 1
    convert(source, tmp_path / "dest", "weights")
    assert_same(tensors_of(tmp_path / "dest"), native_tensors(tensors_of(source)))


def test_second_conversion_at_once_is_refused(source, tmp_path):
    (tmp_path / "dest.partial").mkdir()
    with (tmp_path / "dest.partial" / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="Another conversion is writing"):
            convert(source, tmp_path / "dest", "weights")
    convert(source, tmp_path / "dest", "weights")


def test_failed_check_leaves_no_destination(source, tmp_path, monkeypatch):
    def spoil(path, pieces, progress):
        write_shard(path, pieces, progress)
        with path.open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(b"\xff")

    monkeypatch.setattr(chatglm3, "write_shard", spoil)
    with pytest.raises(ValueError, match="differs from the source"):
        convert(source, tmp_path / "dest", "weights")
    assert not (tmp_path / "dest").exists()
