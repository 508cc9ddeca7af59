"""`push_to_hub` of model, processor and the plain `Trainer`: a repo that loads anywhere, or a refusal."""

import json
import subprocess

import pytest
from huggingface_hub import HfApi, constants

from tests.helpers.local_hub import LocalHub
from tests.helpers.tiny_checkpoint import make_model_and_processor


PUSH = """
import importlib.util, json, sys
sys.meta_path = [finder for finder in sys.meta_path if "__editable__" not in repr(finder)]
assert importlib.util.find_spec("modeling_egmf") is None
from transformers import AutoModel, AutoProcessor, Trainer, TrainingArguments

def refusal(call, *arguments):
    try:
        call(*arguments)
    except ValueError as error:
        return str(error)

def answer(repo):
    model = AutoModel.from_pretrained(repo, trust_remote_code=True)
    processor = AutoProcessor.from_pretrained(repo, trust_remote_code=True)
    output = model.score_answers(**processor(text="I'm fine.", task="emotion"))
    return processor.post_process_answers(output)[0]["probabilities"]

model = AutoModel.from_pretrained("run", trust_remote_code=True)
processor = AutoProcessor.from_pretrained("run", trust_remote_code=True)
results = {"folder": refusal(model.push_to_hub, "ada/x")}
model.config.text_model_id = "ada/llm"
model.push_to_hub("ada/x")
results["answers"] = {"run": answer("run"), "model": answer("ada/x")}

model.name_or_path = ""  # as of a model that was not loaded from a folder
results["processor"] = refusal(model.push_to_hub, "ada/y")
processor.push_to_hub("ada/y")
AutoProcessor.from_pretrained("ada/y", trust_remote_code=True)
model.push_to_hub("ada/y")
results["answers"]["both"] = answer("ada/y")

arguments = TrainingArguments("trained", push_to_hub=True, hub_model_id="ada/z", report_to="none", use_cpu=True)
Trainer(model, arguments, processing_class=processor).push_to_hub()
results["answers"]["trainer"] = answer("ada/z")
print(json.dumps(results))
"""


@pytest.mark.integration
def test_pushed_repo_loads_anywhere_or_is_refused(tmp_path, warm_python, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    model, processor = make_model_and_processor("features", "features", tmp_path)
    model.save_pretrained(tmp_path / "run")
    processor.save_pretrained(tmp_path / "run")
    with LocalHub({"hf_ada": "ada"}) as hub:
        api = HfApi(endpoint=hub.url, token="hf_ada")  # noqa: S106
        api.create_repo("ada/llm")
        for path in (tmp_path / "llm").iterdir():
            api.upload_file(path_or_fileobj=path.read_bytes(), path_in_repo=path.name, repo_id="ada/llm")
        completed = subprocess.run(
            [warm_python, "-c", PUSH],
            cwd=tmp_path,
            env=hub.environment(tmp_path / "cache", "hf_ada"),
            capture_output=True,
            text=True,
            check=False,
        )
        assert completed.returncode == 0, completed.stderr[-3000:]
        results = json.loads(completed.stdout.splitlines()[-1])
        assert {"config.json", "modeling_egmf.py", "default/adapter_model.safetensors"} <= set(hub.files("ada/x"))
        assert {"processor_config.json", "processing_egmf.py"} <= set(hub.files("ada/x")) & set(hub.files("ada/y"))
    assert "model.config.text_model_id = 'ORG/NAME'" in results["folder"]
    assert "processor.push_to_hub('ada/y')" in results["processor"]
    for probabilities in results["answers"].values():
        assert probabilities == pytest.approx(results["answers"]["run"], abs=1e-6)
