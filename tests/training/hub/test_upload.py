"""Uploads: ownership of the repo, branches, tags, and visibility."""

import json

import pytest
from huggingface_hub import ModelCard

from training.hub import upload
from training.hub.errors import PushError
from training.hub.export_folder import MANIFEST, export_folder, weights_fingerprint


def test_endpoint_is_removed_when_no_longer_requested(send, hub):
    send(endpoint=True)
    assert "handler.py" in hub.files("ada/egmf")
    send()
    assert not {"handler.py", "requirements.txt"} & set(hub.files("ada/egmf"))
    assert "handler.py" not in hub.files("ada/egmf")["README.md"].decode()


def test_pushing_the_same_run_again_changes_nothing(send, hub, monkeypatch):
    monkeypatch.setattr(upload, "export_folder", export_folder)  # the export is repeated as well
    first = send()
    before = hub.received
    second = send()
    assert second.commit == first.commit
    assert len(hub.repo("ada/egmf").history("main")) == 2
    assert hub.received == before


def test_adapter_becomes_standalone_and_stale_files_are_deleted(send, hub, api, monkeypatch):
    """Only files that were pushed before and are no longer part of the push are deleted."""
    send(standalone=False, text_model_name_or_path="ada/llm", upload_text_model=True)
    api.upload_file(path_or_fileobj=b"mine", path_in_repo="notes.txt", repo_id="ada/egmf")
    export = upload.export_folder

    def without_report(options, folder, text_model):
        exported = export(options, folder, text_model)
        (folder / "report.md").unlink()
        return exported

    monkeypatch.setattr(upload, "export_folder", without_report)
    assert "report.md" in hub.files("ada/egmf")
    send(standalone=True)
    files = hub.files("ada/egmf")
    assert json.loads(files["config.json"])["text_model_id"] is None
    assert "report.md" not in files
    assert files["notes.txt"] == b"mine"
    assert ".gitattributes" in files


def test_another_model_is_not_overwritten(send, hub):
    send("features")
    before = hub.files("ada/egmf")
    with pytest.raises(PushError, match="holds another model.*--overwrite"):
        send("other")
    assert hub.files("ada/egmf") == before


@pytest.mark.parametrize("manifest", [b"[]", b'{"model": "x"}', b'{"model": "x", "files": 3}', b"{"])
def test_files_of_others_are_kept(send, hub, api, manifest):
    api.create_repo("ada/egmf", private=True)
    api.upload_file(path_or_fileobj=b"{}", path_in_repo="config.json", repo_id="ada/egmf")
    api.upload_file(path_or_fileobj=manifest, path_in_repo=MANIFEST, repo_id="ada/egmf")
    with pytest.raises(
        PushError, match=r"were not pushed by this command \(config.json, pushed.json, 2 in all\).*--overwrite"
    ):
        send()
    assert len(hub.files("ada/egmf")) == 3


def test_overwriting_replaces_all_and_keeps_the_history(send, hub, api, runs):
    first = send("features").commit
    api.upload_file(path_or_fileobj=b"old", path_in_repo="old/notes.txt", repo_id="ada/egmf")
    send("other", overwrite=True)
    files = hub.files("ada/egmf")
    assert "old/notes.txt" not in files
    assert json.loads(files[MANIFEST])["model"] == weights_fingerprint(runs / "other")
    assert len(hub.files("ada/egmf", revision=first)) > 10


def test_concurrent_change_is_not_overwritten(send, hub, api, monkeypatch):
    send()
    export = upload.export_folder

    def slowly(options, folder, text_model):
        api.upload_file(path_or_fileobj=b"new", path_in_repo="notes.txt", repo_id="ada/egmf")
        exported = export(options, folder, text_model)
        (folder / "new.txt").write_text("x")
        return exported

    monkeypatch.setattr(upload, "export_folder", slowly)
    with pytest.raises(PushError, match="was changed by someone else in the meantime"):
        send()
    assert "new.txt" not in hub.files("ada/egmf")


def test_branch_is_created_and_main_is_unchanged(send, hub):
    first = send("features").commit
    pushed = send("features", revision="next", study=None, message="On a branch", tag="v2")
    repo = hub.repo("ada/egmf")
    assert repo.branches["main"] == first
    assert repo.tags["v2"] == pushed.commit == repo.branches["next"]
    assert 'revision="v2"' in hub.files("ada/egmf", revision="next")["README.md"].decode()


def test_branch_of_a_new_repo(send, hub):
    pushed = send(revision="next")
    assert set(hub.files("ada/egmf")) == {".gitattributes"}
    assert hub.repo("ada/egmf").branches["next"] == pushed.commit


def test_tag_is_never_moved(send, hub):
    first = send("features", tag="v1").commit
    send("other", overwrite=True)
    with pytest.raises(PushError, match="The tag v1 is taken by commit"):
        send("other", tag="v1")
    assert hub.repo("ada/egmf").tags == {"v1": first}


def test_same_tag_again_is_fine(send, hub):
    assert send(tag="v1").commit == send(tag="v1").commit


def test_repo_is_public_only_on_request(send, hub, api, public_card):
    send()
    assert hub.repo("ada/egmf").private
    with pytest.raises(PushError, match="A public card must have dataset, language, base_model_license, data_license"):
        send(public=True)
    send(public=True, card=public_card)
    assert not hub.repo("ada/egmf").private
    with pytest.raises(PushError, match="is public: give --public"):
        send(card=public_card)


def test_card_on_the_hub_matches_the_repo(send, hub, api):
    send()
    card = ModelCard(hub.files("ada/egmf")["README.md"].decode())
    assert card.data.pipeline_tag == "video-text-to-text"
    assert 'from_pretrained("ada/egmf", trust_remote_code=True)' in card.content
    assert "A standalone checkpoint" in card.content
    assert api.model_info("ada/egmf").card_data.model_name == "EGMF"
