"""The push command: refusals before any work."""

import huggingface_hub
import pytest

from training.push_to_hub import main


def test_offline_is_described(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(SystemExit, match="HF_HUB_OFFLINE is set"):
        main([str(tmp_path), "ada/egmf", "--standalone"])


@pytest.mark.parametrize(("repo_id", "message"), [("egmf", "must be ORG/NAME"), ("a b/c", "Repo id must")])
def test_bad_repo_ids(tmp_path, repo_id, message):
    with pytest.raises(SystemExit, match=f"error: .*{message}"):
        main([str(tmp_path), repo_id])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--folder", "x"], "--folder can only be used with --dry_run"),
        (["--standalone", "--upload_text_model"], "--standalone pushes the language model with the rest"),
        (["--standalone", "--text_model_name_or_path", "ada/llm"], "--standalone pushes the language model"),
        (["--tag", "", "--folder", "x"], "only be used with --dry_run. --tag '' is no name for Git"),
        (["--tag", ""], "--tag '' is no name for Git"),
        (["--revision", "a b"], "--revision 'a b' is no name for Git"),
        (["--card", "nowhere.yaml"], "--card nowhere.yaml does not exist, or is not a file"),
    ],
)
def test_conflicting_options_are_refused(tmp_path, options, message, capsys):
    with pytest.raises(SystemExit):
        main([str(tmp_path), "ada/egmf", *options])
    assert message in capsys.readouterr().err
