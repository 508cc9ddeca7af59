"""The check of a pushed commit: its comparisons and refusals."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from huggingface_hub import HfApi

from training.hub import upload, verify
from training.hub.errors import PushError
from training.hub.fresh_process import compute_answer, read_inputs
from training.hub.verify import fresh_environment, write_example
from training.model.builder import load


PIPELINE = "multimodal-emotion-recognition"


@pytest.fixture
def fresh_process(monkeypatch):
    """`fresh_process(returncode, stderr, **answer)` replaces the process that loads the pushed repo."""

    def make(returncode=0, stderr="", **answer):
        def run(command, env, **options):
            np.savez(command[-1], **answer)
            calls.append({"command": command, "env": env, "job": json.loads(Path(command[-2]).read_text())})
            return SimpleNamespace(returncode=returncode, stderr=stderr)

        calls = []
        monkeypatch.setattr(verify, "subprocess", SimpleNamespace(run=run))
        return calls

    return make


def test_different_answer_is_refused(send, hub, runs, make_language_model, tmp_path, fresh_process):
    """This happens if the language model on the Hub has different weights from the one used in training."""
    make_language_model(seed=9).save_pretrained(tmp_path / "llm")
    model, processor = load(runs / "features", tmp_path / "llm")
    inputs = read_inputs(str(write_example(processor, tmp_path / "inputs.npz")))
    fresh_process(**compute_answer(model, processor, inputs))
    options = {"text_model_name_or_path": "ada/llm", "upload_text_model": True}
    with pytest.raises(PushError, match="its answer differs from the run's.*other weights"):
        send(standalone=False, verify=True, tag="v1", **options)
    assert hub.repo("ada/egmf").tags == {}


def test_repo_that_does_not_load_is_reported(send, fresh_process):
    fresh_process(1, "Traceback\n  File ...\nModuleNotFoundError: No module named 'nowhere'")
    message = r"is on the Hub \(commit \w+\) but does not load in a fresh process:"
    with pytest.raises(PushError, match=message) as caught:
        send(verify=True)
    assert "No module named 'nowhere'" in str(caught.value)


def test_fresh_process_has_none_of_our_code(send, hub, answer_of_run, fresh_process, monkeypatch):
    """The pipeline must also give the model's answer."""
    for name in (
        "HF_HUB_CACHE",
        "HF_HUB_OFFLINE",
        "TRANSFORMERS_CACHE",
        "PYTHONPATH",
        "HF_MODULES_CACHE",
    ):
        monkeypatch.setenv(name, "1")
    expected = answer_of_run("features", standalone=True)
    calls = fresh_process(**expected, pipeline_label="joy", pipeline_expected="joy")
    pushed = send(verify=True)
    assert f"AutoModel, AutoProcessor, pipeline {PIPELINE}; answer" in pushed.report
    environment = calls[0]["env"]
    of_libraries = {name for name in environment if name.startswith(("HF_", "TRANSFORMERS_", "PYTHONPATH"))}
    assert of_libraries == {"HF_HOME", "HF_ENDPOINT", "HF_TOKEN", "HF_HUB_DISABLE_XET"}
    assert not Path(environment["HF_HOME"]).exists()
    assert (environment["HF_ENDPOINT"], environment["HF_TOKEN"]) == (hub.url, "hf_ada")
    assert (calls[0]["job"]["revision"], calls[0]["job"]["pipeline"]) == (pushed.commit, PIPELINE)
    assert "-I" in calls[0]["command"]
    fresh_process(**expected, pipeline_label="joy", pipeline_expected="fear")
    with pytest.raises(PushError, match="The pipeline of ada/egmf .* answers joy, its model fear"):
        send(verify=True)


def test_fresh_process_has_a_saved_token(api, monkeypatch, tmp_path):
    """The token is saved as by `hf auth login`."""
    monkeypatch.setattr(verify, "get_token", lambda: "hf_saved")
    assert fresh_environment(tmp_path, HfApi(endpoint=api.endpoint))["HF_TOKEN"] == "hf_saved"
    assert fresh_environment(tmp_path, HfApi(endpoint=api.endpoint, token="hf_given"))["HF_TOKEN"] == "hf_given"  # noqa: S106


def test_repo_that_fails_the_check_stays_private(send, hub, public_card, monkeypatch):
    def fail(*arguments):
        raise PushError("gives another answer")

    monkeypatch.setattr(upload, "verify", fail)
    with pytest.raises(PushError, match="gives another answer"):
        send(public=True, card=public_card, verify=True, tag="v1")
    assert hub.repo("ada/egmf").private
    assert hub.repo("ada/egmf").tags == {}


def test_answer_depends_on_every_modality(runs, tmp_path):
    """Otherwise the check would miss that a part of the model was loaded incorrectly."""
    model, processor = load(runs / "media")
    inputs = read_inputs(str(write_example(processor, tmp_path / "inputs.npz")))
    assert set(inputs) == {"text", "audio", "sampling_rate", "video", "fps"}
    complete = compute_answer(model, processor, inputs)
    for left_out in (("audio", "sampling_rate"), ("video", "fps"), ("text",)):
        rest = {name: value for name, value in inputs.items() if name not in left_out}
        assert not np.array_equal(compute_answer(model, processor, rest)["logits"], complete["logits"])
    assert torch.get_num_threads() == 1
