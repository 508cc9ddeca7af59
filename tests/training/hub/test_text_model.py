"""The language model that an adapter checkpoint names."""

import json
import shutil

import pytest

from training.hub.errors import PushError
from training.hub.text_model import upload_text_model


def test_public_adapter_checkpoint_names_no_private_language_model(send, hub, api, public_card):
    options = {"standalone": False, "public": True, "card": public_card}
    options |= {"text_model_name_or_path": "ada/llm", "upload_text_model": True}
    with pytest.raises(PushError, match="ada/llm is private, so no one else could load a public checkpoint"):
        send(**options)
    assert not api.repo_exists("ada/egmf")
    api.update_repo_settings("ada/llm", private=False)
    send(**options)
    assert not hub.repo("ada/egmf").private


def test_other_language_model_is_refused_before_anything_is_sent(send, runs, api):
    send(standalone=False, text_model_name_or_path="ada/llm", upload_text_model=True)
    config = json.loads((runs / "features/config.json").read_text(encoding="utf-8"))["text_config"]
    api.create_repo("ada/wider", private=True)
    width = config["hidden_size"]
    other = json.dumps({**config, "hidden_size": 2 * width}).encode()
    api.upload_file(path_or_fileobj=other, path_in_repo="config.json", repo_id="ada/wider")
    head = api.model_info("ada/egmf").sha
    with pytest.raises(
        PushError,
        match=f"not what this run was trained on: it has hidden_size .*{config['hidden_size']}",
    ):
        send(standalone=False, text_model_name_or_path="ada/wider", overwrite=True)
    with pytest.raises(PushError, match="--text_model_name_or_path is ada/llm, which is also the repo to push to"):
        send("features", "ada/llm", standalone=False, text_model_name_or_path="ada/llm", overwrite=True)
    assert api.model_info("ada/egmf").sha == head


def test_folder_as_language_model_is_refused(send):
    with pytest.raises(
        PushError, match=r"names a folder, '../llm', which no one else has.*--text_model_name_or_path.*--standalone"
    ):
        send(standalone=False)


def test_missing_language_model_is_refused(send, hub):
    with pytest.raises(PushError, match="ada/nowhere is not on the Hub.*--upload_text_model"):
        send(standalone=False, text_model_name_or_path="ada/nowhere")
    assert hub.repos == {}


@pytest.mark.parametrize("name", ["../llm", "/srv/llm", "a/b/c"])
def test_language_model_must_be_an_id(send, name):
    with pytest.raises(PushError, match="is not a Hub id"):
        send(standalone=False, text_model_name_or_path=name)


def test_only_the_files_of_a_language_model_are_uploaded(hub, api, runs, tmp_path):
    folder = tmp_path / "llm"
    shutil.copytree(runs / "llm", folder)
    kept = {"tokenizer.json", "merges.txt", "tokenizer.model", "LICENSE"}
    for name in (*kept, "train.json", "secrets.json", "token.txt", ".env", "notes.txt", "optimizer.safetensors"):
        (folder / name).write_text("hf_secret")
    lines = []
    upload_text_model(api, "ada/llm", folder, lines.append)
    expected = {"config.json", "generation_config.json", "model.safetensors"} | kept
    assert set(hub.files("ada/llm")) - {".gitattributes"} == expected
    assert lines[-1].strip() == (
        "not sent: .env, notes.txt, optimizer.safetensors, secrets.json, token.txt, train.json"
    )


def test_a_repo_with_another_kind_of_configuration_is_refused(send, api):
    api.create_repo("ada/list", private=True)
    api.upload_file(path_or_fileobj=b"[]", path_in_repo="config.json", repo_id="ada/list")
    with pytest.raises(PushError, match="config.json of ada/list is not that of a language model"):
        send(standalone=False, text_model_name_or_path="ada/list")


def test_existing_language_model_is_not_changed(send, hub, api):
    send(standalone=False, text_model_name_or_path="ada/llm", upload_text_model=True)
    before = hub.repo("ada/llm").at("main").oid
    pushed = send(standalone=False, text_model_name_or_path="ada/llm", upload_text_model=True)
    assert "ada/llm already exists" in pushed.report
    assert hub.repo("ada/llm").at("main").oid == before
