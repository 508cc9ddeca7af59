"""Damaged files of a stored processor: the same inputs as before, or one error that names the file and what to do."""

import json
import random
import re
import shutil

import pytest
from transformers import AutoProcessor

from processing_egmf import EGMFProcessor
from tests.helpers.processor_outputs import assert_same


REMEDY = (
    "Copy or download|copy these files|Download it again|Run `git lfs pull`|download the file again|"
    "Give the folder or id"
)


def replace_by(content):
    return lambda path: path.write_bytes(content)


def replace_fields(value):
    """Every field of a JSON file becomes `value`."""

    def replace(path):
        if path.suffix == ".json":
            path.write_text(json.dumps(dict.fromkeys(json.loads(path.read_text()), value)))

    return replace


DAMAGES = {
    "missing": lambda path: path.unlink(),
    "empty": replace_by(b""),
    "cut in half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "no JSON": replace_by(b"this is no JSON"),
    "null": replace_by(b"null"),
    "a list": replace_by(b"[]"),
    "a number": replace_by(b"3"),
    "no fields": replace_by(b"{}"),
    "nested": replace_by(b"[" * 100_000),
    "fields of null": replace_fields(None),
    "fields of a number": replace_fields(17),
    "fields of a list": replace_fields([1, 2]),
    "fields of text": replace_fields("x"),
    "binary": replace_by(random.Random(0).randbytes(500)),
    "Git LFS pointer": replace_by(b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 3\n"),
    "web page": replace_by(b"<!doctype html><html></html>"),
}
NAMES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "processor_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)
CASES = [
    *((EGMFProcessor, name) for name in NAMES),
    # It reads the other files itself, before it imports the processor.
    *((AutoProcessor, name) for name in NAMES[:2]),
]


@pytest.fixture(scope="module")
def stored(make_processor, tmp_path_factory):
    """A folder with the files of a processor, of old versions of `transformers` too, and what it makes of a text."""
    folder = tmp_path_factory.mktemp("stored")
    processor = make_processor()
    processor.tokenizer.chat_template = "{{ messages }}"
    processor.save_pretrained(folder)
    (folder / "special_tokens_map.json").write_text('{"bos_token": "<s>", "eos_token": "</s>"}')
    return folder, processor(text="I'm fine.")


@pytest.mark.parametrize(("loader", "name"), CASES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_file(stored, tmp_path, loader, name, damage):
    folder, expected = stored
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    DAMAGES[damage](tmp_path / name)
    try:
        processor = loader.from_pretrained(tmp_path, trust_remote_code=loader is AutoProcessor)
    except (OSError, ValueError) as error:
        message = str(error)
    else:
        assert_same(processor(text="I'm fine."), expected)
        return
    assert name in message
    assert re.search(REMEDY, message), message


def test_a_file_instead_of_its_folder(stored):
    file = stored[0] / "processor_config.json"
    with pytest.raises(OSError, match=f"^{file} is a file: give its folder.$"):
        EGMFProcessor.from_pretrained(file)


def test_every_damage_of_a_tokenizer_is_noticed(stored, tmp_path):
    """None of them may load as if nothing had happened."""
    folder, _ = stored
    for damage, change in DAMAGES.items():
        damaged = shutil.copytree(folder, tmp_path / damage)
        change(damaged / "tokenizer.json")
        with pytest.raises((OSError, ValueError), match=r"tokenizer\.json"):
            EGMFProcessor.from_pretrained(damaged)


def swap_tokens(content):
    vocabulary = content["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]


EDITS = {  # of tokenizer.json; each changes the token ids of some text
    "vocabulary": swap_tokens,
    "merges": lambda content: content["model"]["merges"].pop(),
    "normalizer": lambda content: content.update(normalizer={"type": "Lowercase"}),
    "pre-tokenizer": lambda content: content["pre_tokenizer"].update(add_prefix_space=True),
    "added tokens": lambda content: content["added_tokens"][0].update(lstrip=True),
}


def test_another_tokenizer_is_refused_by_the_name_of_its_file(stored, tmp_path):
    folder, expected = stored
    for name, edit in EDITS.items():
        edited = shutil.copytree(folder, tmp_path / name)
        path = edited / "tokenizer.json"
        content = json.loads(path.read_text())
        edit(content)
        path.write_text(json.dumps(content))
        message = r"^tokenizer.json of .* differs from the file saved .* Download it again.*tokenizer_checksum=None"
        with pytest.raises(OSError, match=message):
            EGMFProcessor.from_pretrained(edited)
    # As the message says; the next processor that is saved has the edit.
    EGMFProcessor.from_pretrained(edited, tokenizer_checksum=None).save_pretrained(edited)
    EGMFProcessor.from_pretrained(edited)

    (tmp_path / "merges/tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes().replace(b"\n", b"\r\n"))
    assert_same(EGMFProcessor.from_pretrained(tmp_path / "merges")(text="I'm fine."), expected)
    (tmp_path / "merges/chat_template.jinja").unlink()
    with pytest.raises(OSError, match=r"^chat_template.jinja of .* differs"):
        EGMFProcessor.from_pretrained(tmp_path / "merges")


def test_a_tokenizer_without_a_token_to_pad_with_is_refused(stored, tmp_path):
    folder, _ = stored
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        (tmp_path / name).unlink()
    with pytest.raises((OSError, ValueError), match=r"neither a padding nor an end token.*tokenizer_config\.json"):
        EGMFProcessor.from_pretrained(tmp_path)


def test_tokens_may_be_added_to_a_stored_tokenizer(make_processor, tmp_path):
    processor = make_processor()
    processor.tokenizer.add_tokens(["<laughs>"])
    processor.tokenizer.add_special_tokens({"pad_token": "a"})
    processor.save_pretrained(tmp_path)
    again = EGMFProcessor.from_pretrained(tmp_path)
    assert len(again.tokenizer) == len(processor.tokenizer)
    assert again.tokenizer.get_vocab() == processor.tokenizer.get_vocab()


def test_a_bad_field_in_a_keyword_is_named(stored):
    with pytest.raises(ValueError, match="`num_frames` is 0; give a whole number, at least 1"):
        EGMFProcessor.from_pretrained(stored[0], num_frames=0)


# ---- changed fields -----------------------------------------------------------------------------------------


def edit(folder, **changes):
    path = folder / "processor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}, indent=1))


def test_changed_fields_are_refused_by_name(stored, tmp_path):
    folder, expected = stored
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    edit(tmp_path, max_decode_seconds=5.0, processor_class="Other", auto_map={})
    assert_same(EGMFProcessor.from_pretrained(tmp_path)(text="I'm fine."), expected)
    assert EGMFProcessor.from_pretrained(tmp_path, num_frames=2).num_frames == 2
    edit(tmp_path, num_frames=3, frames="center", tasks=EGMFProcessor.from_pretrained(folder).tasks[:1])
    message = "processor_config.json of .* was saved with another value of frames, num_frames, tasks. Download it"
    with pytest.raises(OSError, match=message):
        EGMFProcessor.from_pretrained(tmp_path)
    edit(tmp_path, settings_checksum=None)  # as the message says
    processor = EGMFProcessor.from_pretrained(tmp_path)
    assert (processor.num_frames, len(processor.tasks)) == (3, 1)
    processor.save_pretrained(tmp_path)
    assert EGMFProcessor.from_pretrained(tmp_path).num_frames == 3


@pytest.mark.parametrize(("keyword", "meant"), [("privat", "private"), ("commit_mesage", "commit_message")])
def test_misspelled_keyword_of_save_pretrained_is_refused(make_processor, tmp_path, keyword, meant):
    """It was ignored without a word."""
    processor = make_processor("features", "features")
    message = rf"save_pretrained: unknown arguments \['{keyword}'\]; .* Did you mean '{meant}' instead of '{keyword}'"
    with pytest.raises(TypeError, match=message):
        processor.save_pretrained(tmp_path / "saved", **{keyword: True})
    with pytest.raises(TypeError, match=r"unknown arguments \['variant'\]"):
        processor.save_pretrained(tmp_path / "saved", variant="fp16")
    assert not (tmp_path / "saved").exists()
    processor.save_pretrained(tmp_path / "saved", max_shard_size="1GB")


def test_the_older_name_of_frames_is_read(stored, tmp_path):
    shutil.copytree(stored[0], tmp_path, dirs_exist_ok=True)
    path = tmp_path / "processor_config.json"
    fields = json.loads(path.read_text())
    del fields["frames"], fields["settings_checksum"]
    path.write_text(json.dumps({**fields, "frame_fit": "crop"}))
    assert EGMFProcessor.from_pretrained(tmp_path).frames == "center"


def test_field_of_another_version_names_how_to_renew_the_checkpoint(stored, tmp_path):
    shutil.copytree(stored[0], tmp_path, dirs_exist_ok=True)
    tasks = EGMFProcessor.from_pretrained(tmp_path).tasks
    edit(tmp_path, settings_checksum=None, tasks=[{**tasks[0], "scale": "log"}])
    with pytest.raises(ValueError, match=r"unknown keys \['scale'\].*renew the checkpoint: training/PYTHON_API.md"):
        EGMFProcessor.from_pretrained(tmp_path)
