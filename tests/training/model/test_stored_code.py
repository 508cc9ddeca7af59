"""A checkpoint that carries other code than the installed one is named, once; comments do not count."""

import shutil

import pytest

from tests.helpers.tiny_checkpoint import make_model_and_processor
from training.model import builder
from training.model.stored_code import SOURCES, warn_of_other_code


CODE = 'NEUTRAL = 128\n\n\ndef f():\n    """What it does."""\n    return 1\n'


@pytest.fixture
def checkpoint(tmp_path):
    for source in SOURCES:
        for path in source.glob("*_egmf.py"):
            shutil.copy(path, tmp_path)
    return tmp_path


def test_the_installed_code_is_not_named(checkpoint, caplog):
    warn_of_other_code(checkpoint)
    path = checkpoint / "frames_egmf.py"
    text = path.read_text(encoding="utf-8")
    path.write_bytes(f"# A comment.\n{text}".replace("in its own", "in another").replace("\n", "\r\n").encode())
    warn_of_other_code(checkpoint)
    warn_of_other_code("ORG/NAME")
    assert not caplog.messages


@pytest.mark.parametrize("change", ["another number", "a new file", "no Python"])
def test_other_code_is_named_once(checkpoint, caplog, change):
    name = "old_egmf.py" if change == "a new file" else "frames_egmf.py"
    text = (checkpoint / "frames_egmf.py").read_text(encoding="utf-8")
    changed = {"another number": text.replace("NEUTRAL = 128", "NEUTRAL = 0"), "a new file": CODE, "no Python": "def"}
    (checkpoint / name).write_text(changed[change], encoding="utf-8")
    warn_of_other_code(checkpoint)
    (message,) = caplog.messages
    assert f"carries another version of {name} (1 in all) than the installed code, which is used here" in message


@pytest.mark.parametrize("name", ["fusion_egmf.py", "configuration_egmf.py", "pipeline_egmf.py"])
def test_missing_code_is_named(checkpoint, caplog, name):
    (checkpoint / name).unlink()
    (checkpoint / "frames_egmf.py").write_bytes(b"\xff")
    warn_of_other_code(checkpoint)
    _, message = caplog.messages
    assert f"{checkpoint} lacks {name} (1 in all)" in message
    assert "not with trust_remote_code=True. Download it again" in message


def test_folder_without_code_has_none_that_is_missing(tmp_path, caplog):
    warn_of_other_code(tmp_path)
    assert not caplog.messages


def test_loading_names_other_code(tmp_path, caplog):
    model, processor = make_model_and_processor("features", "features", tmp_path / "parts")
    for part in (model, processor):
        part.save_pretrained(tmp_path / "parts/model")
    (tmp_path / "parts/model/frames_egmf.py").write_text(CODE)
    builder.load(tmp_path / "parts/model")
    assert [message for message in caplog.messages if "another version of frames_egmf.py" in message]
