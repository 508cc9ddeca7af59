"""Conversion of ChatGLM3: placement of the weights, memory, and the command line."""

import json
import re
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

from tests.helpers.chatglm3_files import (
    ASSETS,
    EXPECTED,
    TINY_SOURCE,
    assert_same,
    changed_tokenizer,
    native_tensors,
    random_tensors,
    tensors_of,
    write_config,
    write_shards,
    write_sparse,
)
from training.chatglm3 import convert as chatglm3
from training.chatglm3 import tensor_files
from training.chatglm3.convert import convert, locate_source, main
from training.chatglm3.layout import DROPPED
from training.chatglm3.tensor_files import open_checkpoint


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_every_weight_ends_up_in_its_place(tmp_path, kind, dtype):
    folder = write_config(tmp_path / "source")
    tensors = random_tensors(folder, dtype)
    write_shards(folder, tensors, kind)
    convert(folder, tmp_path / "dest", "weights")
    assert_same(tensors_of(tmp_path / "dest"), native_tensors(tensors))
    loaded, info = AutoModelForCausalLM.from_pretrained(tmp_path / "dest", output_loading_info=True)
    assert type(loaded).__name__ == "GlmForCausalLM"
    assert loaded.dtype == dtype
    assert not any(info.values())


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_single_file_checkpoint(tmp_path, kind):
    folder = write_config(tmp_path / "source")
    tensors = random_tensors(folder)
    if kind == "bin":
        torch.save(tensors, folder / "pytorch_model.bin")
    else:
        save_file(tensors, folder / "model.safetensors")
    convert(folder, tmp_path / "dest", "weights")
    assert_same(tensors_of(tmp_path / "dest"), native_tensors(tensors))


def test_sharded_checkpoint_loads(source, tmp_path, monkeypatch):
    monkeypatch.setattr(chatglm3, "SHARD_BYTES", 2000)
    monkeypatch.setattr(tensor_files, "BUFFER_BYTES", 100)  # no multiple of a row
    convert(source, tmp_path / "dest", "weights")
    index = json.loads((tmp_path / "dest" / "model.safetensors.index.json").read_text())
    shards = sorted(path.name for path in (tmp_path / "dest").glob("model-*.safetensors"))
    assert len(shards) > 3
    assert sorted(set(index["weight_map"].values())) == shards
    tensors = tensors_of(source)
    assert_same(tensors_of(tmp_path / "dest"), native_tensors(tensors))
    assert index["metadata"]["total_size"] == sum(v.nbytes for n, v in tensors.items() if n != DROPPED)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "dest")
    assert torch.equal(loaded.lm_head.weight, tensors["transformer.output_layer.weight"])


def test_license_is_copied(source, tmp_path):
    (source / "MODEL_LICENSE").write_text("terms")
    convert(source, tmp_path / "dest", "weights")
    assert (tmp_path / "dest" / "MODEL_LICENSE").read_text() == "terms"
    left = {path.name for path in (tmp_path / "dest").iterdir()}
    assert left == {"MODEL_LICENSE", "config.json", "model.safetensors"}


def large_tokenizer(count=64_789):
    """A tokenizer with as many pieces as the real one: those of the small one, and pairs of them."""

    def grow(model):
        words = [piece.piece for piece in model.pieces if piece.type == 1]
        known = set(words)
        i = 0
        while len(model.pieces) < count:
            joined = words[i * 7919 % len(words)] + words[(i * 104_729 + i // len(words)) % len(words)]
            i += 1
            if joined not in known:
                known.add(joined)
                model.pieces.add(piece=joined, score=-float(len(model.pieces)))

    return changed_tokenizer(grow)


@pytest.mark.slow
def test_full_size_peaks_below_a_gigabyte(tmp_path):
    """The real shapes, read from sparse files; 12.5 GB are really written."""
    if shutil.disk_usage(tmp_path).free < 14 * 10**9:
        pytest.skip("needs 14 GB of disk")
    source = write_sparse(tmp_path / "source")
    (source / "tokenizer.model").write_bytes(large_tokenizer())
    code = (
        "import sys; from training.chatglm3.convert import main; main(sys.argv[1:])\n"
        "print(open('/proc/self/status').read())"  # getrusage would count what this process held when it forked
    )
    command = [sys.executable, "-c", code, str(source), str(tmp_path / "dest")]
    done = subprocess.run(command, cwd=ASSETS.parents[1], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    peak = int(re.search(r"VmHWM:\s+(\d+) kB", done.stdout).group(1)) * 1024
    print(f"peak {peak / 1e9:.2f} GB")
    assert peak < 10**9
    written = open_checkpoint(tmp_path / "dest")
    assert len(written) == 4 + 28 * 11 - 1
    assert AutoConfig.from_pretrained(tmp_path / "dest").rms_norm_eps == 1e-5
    shutil.rmtree(tmp_path / "dest")


# ---- command line ------------------------------------------------------------------------------------------------


def test_convert_and_verify_from_the_shell(tmp_path, capsys):
    options = [str(TINY_SOURCE), str(tmp_path / "dest"), "--only", "weights", "--verify", str(EXPECTED)]
    main(options)
    printed = capsys.readouterr()
    assert "36 tensors" in printed.out
    assert "verified: 6 cases within 1e-06" in printed.out
    assert "100%" in printed.err  # progress
    main(options)
    assert "is already converted: only verifying it" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="differs from the stored logits by more than 1e-12 in cached_leftpad"):
        main([*options, "--tolerance", "1e-12"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["nowhere", "dest"], "There is no folder nowhere"),
        (["./owner/name", "dest"], "There is no folder"),
        ([str(TINY_SOURCE), "dest"], "There is no .*tokenizer.model.*--only weights"),
        ([str(TINY_SOURCE), "dest", "--verify", "nowhere"], "--verify nowhere does not exist, or is not a file"),
    ],
)
def test_bad_requests_give_a_reason(tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=message):
        main(options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("names", "halves", "weights"),
    [
        (["model-1.safetensors", "pytorch_model.bin"], ("weights", "tokenizer"), "*.safetensors"),
        (["pytorch_model.bin"], ("weights",), "*.bin"),
        (["pytorch_model.bin"], ("tokenizer",), None),
    ],
)
def test_only_the_needed_files_of_a_hub_id_are_downloaded(tmp_path, monkeypatch, names, halves, weights):
    import huggingface_hub

    asked = {}

    def download(repo, revision, allow_patterns):
        asked.update(repo=repo, revision=revision, patterns=allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda self, repo, revision: names)
    assert locate_source("owner/name", halves, "v1") == tmp_path
    assert (asked["repo"], asked["revision"]) == ("owner/name", "v1")
    assert "tokenizer.model" in asked["patterns"]
    assert {pattern for pattern in asked["patterns"] if pattern in ("*.safetensors", "*.bin")} == {weights} - {None}


def test_unreachable_hub_is_reported(monkeypatch):
    import huggingface_hub

    def fail(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(
        ValueError,
        match="owner/name is not a folder, and could not be downloaded from the Hub: no network",
    ):
        locate_source("owner/name", ("tokenizer",))
