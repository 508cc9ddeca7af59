"""The command that publishes the metrics: refusals before any work."""

import huggingface_hub
import pytest

from training.push_metrics import main


@pytest.mark.parametrize(
    ("organization", "message"),
    [("lab/egmf_erc", "the organization or user alone"), ("my lab", "Repo id must"), ("lab", "HF_HUB_OFFLINE is set")],
)
def test_impossible_requests_are_refused(organization, message, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(SystemExit, match=f"error: .*{message}"):
        main([organization])
