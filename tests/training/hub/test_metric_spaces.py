"""The metrics as Spaces: pushed by the real client to a Hub in this process, and loaded by the names of the Spaces."""

from types import SimpleNamespace

import pytest

from tests.helpers.hub_metadata import card_metadata
from training.hub import metric_spaces
from training.hub.errors import PushError
from training.hub.metric_spaces import METRICS, push_metrics


SPACES = ("lab/egmf_erc", "lab/egmf_msa")


@pytest.fixture
def unchecked(monkeypatch):
    """Without the fresh process."""
    monkeypatch.setattr(metric_spaces, "check_figures", lambda api, commits: None)


@pytest.mark.integration
def test_metrics_are_published_and_load_by_the_names_of_their_spaces(hub, api, monkeypatch, warm_python):
    monkeypatch.setattr(metric_spaces, "sys", SimpleNamespace(executable=warm_python))
    report = []
    commits = push_metrics("lab", api, report=report.append)
    assert set(commits) == set(SPACES)
    assert any(line.startswith("verified   in a fresh process") for line in report)
    for repo_id, commit in commits.items():
        name = repo_id.split("/")[1]
        repo = hub.repo(repo_id, "spaces")
        assert (repo.private, repo.sdk) == (True, "gradio")
        assert repo.at("main").oid == commit
        assert len(repo.history("main")) == 2  # the first one is the Hub's
        files = hub.files(repo_id, "spaces")
        assert set(files) - {".gitattributes"} == {path.name for path in (METRICS / name).iterdir() if path.is_file()}
        assert card_metadata(files["README.md"].decode())["app_file"] == "app.py"
        for file in ("README.md", f"{name}.py"):
            assert f'evaluate.load("{repo_id}"' in files[file].decode()
            assert "hub_cards" not in files[file].decode()
    downloads = [path for method, path in hub.requests if method == "GET" and "/resolve/" in path]
    assert {f"/spaces/{repo_id}/resolve/{commit}/{repo_id[4:]}.py" for repo_id, commit in commits.items()} <= set(
        downloads
    )


def test_space_that_gives_other_figures_is_not_made_public(hub, api, monkeypatch):
    answer = SimpleNamespace(returncode=0, stdout='[{"rate": 0.2}, {}]\n')
    monkeypatch.setattr(metric_spaces, "subprocess", SimpleNamespace(run=lambda *arguments, **options: answer))
    with pytest.raises(PushError, match="their figures are .*'rate'.*; here they are .*'unreadable_rate'"):
        push_metrics("lab", api, public=True)
    answer.returncode = 1
    answer.stderr = "Traceback\nImportError: sklearn"
    with pytest.raises(PushError, match="do not load in a fresh process:\nTraceback\nImportError: sklearn"):
        push_metrics("lab", api, public=True)
    assert all(hub.repo(repo_id, "spaces").private for repo_id in SPACES)


def test_spaces_are_public_only_on_request(hub, api, unchecked):
    first = push_metrics("lab", api)
    assert push_metrics("lab", api, public=True) == first  # nothing has changed
    assert not any(hub.repo(repo_id, "spaces").private for repo_id in SPACES)
    with pytest.raises(PushError, match="lab/egmf_erc is public: give --public"):
        push_metrics("lab", api)


def test_space_with_other_content_stays(hub, api, unchecked):
    api.create_repo("lab/egmf_msa", repo_type="space", space_sdk="gradio")
    api.upload_file(path_or_fileobj=b"x", path_in_repo="game.py", repo_id="lab/egmf_msa", repo_type="space")
    with pytest.raises(PushError, match="lab/egmf_msa holds something else: it has no egmf_msa.py"):
        push_metrics("lab", api)
    assert ("spaces", "lab/egmf_erc") not in hub.repos
