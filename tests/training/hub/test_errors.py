"""Tokens and networks: failures are described and safe to retry."""

import json

import pytest
from huggingface_hub import HfApi

from training.hub import upload
from training.hub.errors import PushError
from training.hub.export_folder import MANIFEST


def test_read_only_token_is_refused_at_once(send, api, monkeypatch):
    monkeypatch.setattr(api, "whoami", lambda: {"name": "ada", "auth": {"accessToken": {"role": "read"}}})
    monkeypatch.setattr(upload, "export_folder", lambda *_, **__: pytest.fail("the folder was exported first"))
    with pytest.raises(PushError, match="it is read-only"):
        send()


@pytest.mark.parametrize(
    ("token", "repo_id", "message"),
    [
        ("hf_wrong", "ada/egmf", "rejected the token while checking the token. Log in"),
        (False, "ada/egmf", "There is no token. Log in"),
        ("hf_reader", "ada/egmf", "cannot write to ada/egmf"),
        ("hf_eve", "lab/egmf", "cannot write to lab/egmf"),
    ],
    ids=["wrong", "none", "reading only", "not a member"],
)
def test_wrong_token_is_described(send, hub, token, repo_id, message):
    with pytest.raises(PushError, match=message):
        send(repo_id=repo_id, api=HfApi(endpoint=hub.url, token=token))
    assert hub.repos == {}


def test_no_hub_is_described(send):
    with pytest.raises(PushError, match="The connection failed while checking the token .*Run the same command again"):
        send(api=HfApi(endpoint="http://127.0.0.1:9", token="hf_ada"))  # noqa: S106


def test_interrupted_upload_is_safe_to_repeat(send, hub):
    """Nothing is committed, and uploaded files are not sent again."""
    hub.interrupt_uploads(after_bytes=1000)
    with pytest.raises(PushError, match="The connection failed while uploading ada/egmf .*Run the same command again"):
        send()
    assert set(hub.files("ada/egmf")) == {".gitattributes"}
    assert hub.repo("ada/egmf").private
    hub.interrupt_uploads(0, times=0)
    pushed = send()
    assert json.loads(hub.files("ada/egmf")[MANIFEST])["kind"] == "standalone"
    assert pushed.commit == hub.repo("ada/egmf").at("main").oid


def test_short_interruption_is_not_noticed(send, hub):
    hub.interrupt_uploads(after_bytes=1000, times=2)
    assert send().commit == hub.repo("ada/egmf").at("main").oid


def test_large_files_that_arrived_are_not_sent_again(send, hub):
    """The response to the commit is lost after all uploads: the same command finds the commit."""
    hub.lose_commits(1)
    with pytest.raises(PushError, match="is either unchanged or complete"):
        send()
    before = hub.received
    complete = hub.files("ada/egmf")
    send()
    assert hub.received == before
    assert hub.files("ada/egmf") == complete
    assert len(hub.repo("ada/egmf").history("main")) == 2


def test_keyboard_interrupt_is_described(send, hub, api, monkeypatch):
    def stop(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "create_commit", stop)
    with pytest.raises(PushError, match="Interrupted while uploading ada/egmf.*Run the same command again"):
        send()
