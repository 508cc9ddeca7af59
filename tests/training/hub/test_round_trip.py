"""Round trip over HTTP: pushed by the real client, and loaded in a fresh process by the repo's name."""

import json
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest

from training.hub import verify
from training.hub.export_folder import MANIFEST
from training.hub.verify import TOLERANCE
from training.model.builder import load
from training.push_to_hub import main


pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[3]
CODE = {path.name for name in ("modeling_egmf", "processing_egmf") for path in (ROOT / name).glob("*.py")}
CODE -= {"__init__.py"}
OUT_OF_REACH = """
import importlib.util, json, sys
sys.meta_path = [finder for finder in sys.meta_path if "__editable__" not in repr(finder)]
assert importlib.util.find_spec("modeling_egmf") is None
import torch
torch.set_num_threads(1)
"""


@pytest.fixture
def warm_verification(monkeypatch, warm_python):
    """Pushed repos are loaded in processes in which torch is already imported."""
    monkeypatch.setattr(verify, "sys", SimpleNamespace(executable=warm_python))


def test_adapter_checkpoint(send, hub, answer_of_run, warm_verification):
    """The logits are equal bit for bit."""
    options = {"text_model_name_or_path": "ada/llm", "upload_text_model": True}
    pushed = send("media", "lab/adapter", standalone=False, verify=True, tag="v1", **options)
    assert pushed.difference == 0.0
    assert pushed.label == str(answer_of_run("media")["label"])
    assert "verified   in a fresh process with an empty cache: AutoModel, AutoProcessor" in pushed.report
    assert "logits equal bit for bit" in pushed.report
    repo = hub.repo("lab/adapter")
    assert repo.private
    assert [commit.title for commit in repo.history("main")][1:] == ["initial commit"]  # all in one
    assert repo.tags == {"v1": pushed.commit}
    files = hub.files("lab/adapter")
    assert set(files) >= CODE | {
        "config.json",
        "model.safetensors",
        "default/adapter_config.json",
        "default/adapter_model.safetensors",
        "processor_config.json",
        "README.md",
        MANIFEST,
    }
    assert set(files) >= {"results-test.json", "training.json", "report.md", "gates.png"}
    assert "optimizer.pt" not in files
    config = json.loads(files["config.json"])
    assert (config["text_model_id"], config["text_model_revision"]) == (
        "ada/llm",
        hub.repo("ada/llm").at("main").oid,
    )
    assert len(files["model.safetensors"]) < 200_000  # the language model is not in it
    assert hub.repo("ada/llm").private


@pytest.mark.parametrize("start", ["warm", pytest.param("cold", marks=pytest.mark.slow)])
def test_standalone_checkpoint_pushed_by_the_command(
    start, hub, api, runs, answer_of_run, monkeypatch, capsys, request
):
    """The language model is out of reach. In the cold start, nothing is imported before."""
    if start == "warm":
        request.getfixturevalue("warm_verification")
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: api)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    main([str(runs / "features"), "ada/standalone", "--standalone", "--message", "First"])
    report = capsys.readouterr().out
    assert "logits equal bit for bit" in report
    assert f"answer {answer_of_run('features', standalone=True)['label']}," in report
    assert f"revision='{hub.repo('ada/standalone').at('main').oid}'" in report
    assert hub.repo("ada/standalone").history("main")[0].title == "First"
    config = json.loads(hub.files("ada/standalone")["config.json"])
    assert config["text_model_id"] is config["lora"] is None
    assert list(hub.repos) == [("models", "ada/standalone")]


def test_standalone_checkpoint_in_bfloat16_answers_like_the_run(send, hub, answer_of_run, warm_verification):
    """Merging would change the answers: LoRA stays separate, and the fresh process gives equal bits."""
    pushed = send("half", "ada/half", verify=True)
    assert pushed.difference == 0.0
    assert pushed.label == str(answer_of_run("half")["label"])
    merging = json.loads(hub.files("ada/half")[MANIFEST])["merging"]
    assert not merging["merged"]
    assert merging["moved"] > merging["tolerance"] == TOLERANCE
    assert (
        f"merging would change probabilities by up to {merging['moved']:.1e} on {merging['samples']}" in pushed.report
    )
    card = hub.files("ada/half")["README.md"].decode()
    assert "LoRA stays in separate layers (`pip install peft`)" in card
    assert f"changed a probability by up to {merging['moved']:.1e}, over {merging['samples']} made-up samples" in card
    config = json.loads(hub.files("ada/half")["config.json"])
    assert config["adapters"] == {"default": True}
    assert config["text_model_id"] is config["text_model_fingerprint"] is None


ENDPOINT = """
from huggingface_hub import snapshot_download
path = snapshot_download("lab/adapter")
sys.path.insert(0, path)
from handler import EndpointHandler
print(json.dumps(EndpointHandler(path)({"inputs": {"text": "I'm fine."}, "parameters": {"task": "emotion"}})))
"""


def test_endpoint_answers_from_the_repo(send, hub, runs, run_afresh):
    """As on Inference Endpoints: the handler is imported from the downloaded repo, built with its path, and called."""
    options = {"text_model_name_or_path": "ada/llm", "upload_text_model": True}
    send("media", "lab/adapter", standalone=False, endpoint=True, **options)
    assert len(hub.repo("lab/adapter").history("main")) == 2
    files = hub.files("lab/adapter")
    for name in ("handler.py", "requirements.txt"):
        assert files[name] == (ROOT / "hub_cards/endpoint" / name).read_bytes()
        assert name in json.loads(files[MANIFEST])["files"]
    assert "An Inference Endpoint of this repo runs its `handler.py`" in files["README.md"].decode()
    response = run_afresh(OUT_OF_REACH + ENDPOINT)
    model, processor = load(runs / "media")
    inputs = processor(text="I'm fine.", task="emotion")
    expected = processor.post_process_answers(model.score_answers(**inputs))[0]
    assert response["status"] == 200
    assert response["answer"]["probabilities"] == expected["probabilities"]


PINNED = """
from transformers import AutoModel, AutoProcessor
found = {}
for name, options in json.loads(sys.argv[1]).items():
    model = AutoModel.from_pretrained("ada/egmf", trust_remote_code=True, **options)
    processor = AutoProcessor.from_pretrained("ada/egmf", trust_remote_code=True, **options)
    found[name] = [
        model.egmf.pseudo_tokens.scale.item(),
        getattr(sys.modules[type(model).__module__], "EDITION", 1),
        getattr(sys.modules[type(processor).__module__], "EDITION", 1),
    ]
print(json.dumps(found))
"""


def test_revision_pins_weights_and_code(send, hub, api, runs, run_afresh):
    """A tag, a branch, a commit, and code of one commit with weights of another."""
    first = send(tag="v1").commit
    send("other", overwrite=True)
    for name in ("modeling_egmf.py", "processing_egmf.py"):
        edited = hub.files("ada/egmf")[name] + b"\n\nEDITION = 2\n"
        api.upload_file(path_or_fileobj=edited, path_in_repo=name, repo_id="ada/egmf")
    asked = {
        "newest": {},
        "tag": {"revision": "v1"},
        "commit": {"revision": first},
        "code": {"code_revision": first},
    }
    found = run_afresh(OUT_OF_REACH + PINNED, json.dumps(asked))
    old, new = (load(runs / name)[0].egmf.pseudo_tokens.scale.item() for name in ("features", "other"))
    assert old != new
    assert found["newest"] == [new, 2, 2]
    assert found["tag"] == found["commit"] == [old, 1, 1]
    assert found["code"][:2] == [new, 1]
