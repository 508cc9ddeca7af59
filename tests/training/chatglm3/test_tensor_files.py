"""Tensor files: written through one small buffer, and broken ones refused with a reason."""

import json
import os
import shutil
import tracemalloc
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.helpers.chatglm3_files import write_config
from training.chatglm3.convert import convert
from training.chatglm3.tensor_files import Piece, StoredTensor, read_header, write_shard


def test_writing_needs_one_buffer(tmp_path):
    """Writing a tensor of 64 MB from a sparse file takes at most 9 MB."""
    (tmp_path / "large").touch()
    os.truncate(tmp_path / "large", 64 * 2**20)
    large = StoredTensor("F16", (2**15, 2**10), tmp_path / "large")
    tracemalloc.start()
    try:
        write_shard(tmp_path / "out.safetensors", [Piece("a", large, 0, 2**15)], lambda count: None)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 9 * 2**20
    assert read_header(tmp_path / "out.safetensors")["a"].shape == (2**15, 2**10)


def cut(path):
    os.truncate(path, path.stat().st_size - 1)


def with_header(header):
    """Write a safetensors file with this header and 8 bytes of data."""

    def write(path):
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))

    return write


def entry(offsets, shape=(2,), dtype="F16"):
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (with_header([1]), "-00002-of-00003.safetensors: its content is .* not the header of a safetensors file"),
        (with_header({"a": 3}), r"safetensors: a is '3'\. The header is damaged"),
        (with_header({"a": {"dtype": "F16", "shape": [2]}}), "has no entry a/data_offsets"),
        (with_header({"a": entry([0, 4], ["2"])}), "a/shape/0 is '2'"),
        (with_header({"a": entry([-4, 0])}), "the header's entry of a is damaged"),
        (with_header({"a": entry([0])}), "the header's entry of a is damaged"),
        (with_header({"a": entry([0, 4]), "b": entry([2, 6])}), "b shares bytes with another tensor"),
        (with_header(b"[" * 100_000), "not JSON"),
        (cut, "cut short"),
        (lambda path: os.truncate(path, 5), "not a complete safetensors file"),
        (lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
        (lambda path: path.write_bytes((4).to_bytes(8, "little") + b"{{{{"), "not JSON"),
        (
            lambda path: path.write_bytes((2**40).to_bytes(8, "little") + b"{}"),
            "not a complete safetensors file",
        ),
        (Path.unlink, "names missing files: model-00002"),
        (lambda path: save_file({"other": torch.ones(1)}, path), "differ in"),
        (
            lambda path: shutil.copy(path.with_name(path.name.replace("2-of", "1-of")), path),
            "and again in",
        ),
    ],
)
def test_broken_files_are_refused_with_a_reason(source, tmp_path, harm, message):
    harm(source / "model-00002-of-00003.safetensors")
    with pytest.raises(ValueError, match=message):
        convert(source, tmp_path / "dest", "weights")
    assert not list(tmp_path.glob("dest*"))


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("{", "index.json is not a JSON file"),
        ("{}", "index.json has no entry weight_map"),
        ('{"weight_map": {"a": 3}}', "weight_map/a is '3'"),
        (
            '{"weight_map": {"a": "../model.safetensors"}}',
            "names '../model.safetensors', which is not a file next to it",
        ),
    ],
)
def test_broken_index_is_named(source, tmp_path, index, message):
    (source / "model.safetensors.index.json").write_text(index)
    with pytest.raises(ValueError, match=message):
        convert(source, tmp_path / "dest", "weights")


def test_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(ValueError, match="has no weights"):
        convert(write_config(tmp_path / "source"), tmp_path / "dest", "weights")


class Harm:
    """Creates a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_bin_files_execute_nothing(tmp_path):
    folder = write_config(tmp_path / "source")
    torch.save({"transformer.output_layer.weight": Harm(tmp_path / "harm")}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="could not be read as plain tensors"):
        convert(folder, tmp_path / "dest", "weights")
    assert not (tmp_path / "harm").exists()
    torch.save({"transformer.output_layer.weight": 3}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="something other than named tensors"):
        convert(folder, tmp_path / "dest", "weights")
