"""Checkpoints load bit for bit with the Auto classes in a process that knows only their folder."""

import json
import os
import subprocess

import pytest
import torch

from tests.helpers.checkpoint_files import outputs_of
from training.model.export import merge


AUTO_CLASSES = ("AutoModel", "AutoModelForCausalLM", "AutoModelForMultimodalLM")
FRESH_PROCESS = """
import importlib.util, json, sys
sys.meta_path = [finder for finder in sys.meta_path if "__editable__" not in repr(finder)]
assert importlib.util.find_spec("modeling_egmf") is None and importlib.util.find_spec("processing_egmf") is None
import torch, transformers
torch.set_num_threads(1)
jobs = json.load(open(sys.argv[1]))
results = {}
for job in jobs:
    try:
        config = transformers.AutoConfig.from_pretrained(job["path"], trust_remote_code=True)
        loader = getattr(transformers, job["auto_class"])
        model = loader.from_pretrained(job["path"], trust_remote_code=True, **job.get("keywords", {}))
        inputs = torch.load(job["inputs"])
        with torch.no_grad():
            for tensor in (*model.parameters(), *model.buffers()):
                tensor.data = tensor.data.clone()
            results[job["name"]] = {
                "logits": model(**inputs).logits,
                "probabilities": model.score_answers(**inputs).probabilities,
                "trainable": sorted(n for n, p in model.named_parameters() if p.requires_grad),
                "classes": [type(config).__name__, type(model).__name__],
                "training": model.training,
                "fusion_dropout": model.config.fusion_dropout,
                "dtype": str(model.dtype),
            }
    except Exception as error:
        results[job["name"]] = {"error": f"{type(error).__name__}: {error}"}
torch.save(results, sys.argv[2])
"""
CASES = {
    "adapter_float32": {},
    "adapter_bfloat16": {"base": "llm_bfloat16"},
    "adapter_tied": {"base": "llm_tied"},
    "adapter_without_lora": {"lora": None},
    "adapter_media": {
        "audio": "waveform",
        "video": "frames",
        "bidirectional_attention": True,
        "pseudo_token_projection": "separate",
    },
    "adapter_backbones": {"backbones": True},
    "standalone_float32": {"merged": True},
    "standalone_bfloat16": {"merged": True, "base": "llm_bfloat16"},
    "standalone_tied": {"merged": True, "base": "llm_tied"},
    "standalone_media": {"merged": True, "audio": "waveform", "video": "frames"},
    "standalone_backbones": {"merged": True, "backbones": True},
    "standalone_with_lora": {"text_model_id": None},
}
# Keywords of AutoModel.from_pretrained, and what they give: entries of the result.
KEYWORDS = {
    "fields": ({"fusion_dropout": 0.9}, {"fusion_dropout": 0.9}),
    "precision": ({"torch_dtype": "bfloat16"}, {"dtype": "torch.bfloat16"}),
    "typo": ({"fusion_droput": 0.9}, {"error": "UnknownFieldError: EGMFConfig has no field 'fusion_droput'"}),
    "unknown": ({"anything": 1}, {"error": "TypeError: "}),
}
LOADS = [
    *[(name, "AutoModel") for name in CASES],
    *[(name, auto) for name in ("adapter_float32", "standalone_float32") for auto in AUTO_CLASSES[1:]],
]


@pytest.fixture(scope="module")
def fresh_process(
    bases,
    make_adapter_model,
    make_backbones,
    inputs_for,
    tmp_path_factory,
    warm_python,
):
    """The outputs of every case before it was saved, and in a process that knows only the folder."""
    before = {}
    jobs = []
    for name, fields in CASES.items():
        model = build_case(make_adapter_model, make_backbones, **fields)
        inputs = inputs_for(model)
        before[name] = outputs_of(model, inputs)
        model.save_pretrained(bases / name)
        torch.save(inputs, bases / f"{name}.pt")
        for other, auto_class in LOADS:
            if other == name:
                job = {
                    "name": f"{name} {auto_class}",
                    "auto_class": auto_class,
                    "path": str(bases / name),
                    "inputs": str(bases / f"{name}.pt"),
                }
                jobs.append(job)
    for kind in ("adapter_float32", "standalone_float32"):
        for name, (keywords, _) in KEYWORDS.items():
            location = {"path": str(bases / kind), "inputs": str(bases / f"{kind}.pt"), "auto_class": "AutoModel"}
            jobs.append({"name": f"{kind} {name}", "keywords": keywords, **location})
    return before, run_fresh_process(warm_python, jobs, tmp_path_factory.mktemp("elsewhere"))


def build_case(
    make_adapter_model,
    make_backbones,
    merged=False,
    backbones=False,
    **fields,
):
    """The model of a case, with pretrained backbones or merged into a standalone model if requested."""
    if backbones:
        fields |= make_backbones("../vit")
    model = make_adapter_model(**fields)
    return merge(model) if merged else model


def run_fresh_process(python, jobs, folder):
    """Outputs of each job, from a process that cannot import this repository."""
    (folder / "jobs.json").write_text(json.dumps(jobs))
    (folder / "load.py").write_text(FRESH_PROCESS)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["HF_MODULES_CACHE"] = str(folder / "modules")
    environment["HF_HUB_OFFLINE"] = "1"
    subprocess.run(
        [python, "-I", "load.py", "jobs.json", "results.pt"],
        cwd=folder,
        env=environment,
        check=True,
        timeout=300,
    )
    return torch.load(folder / "results.pt")


@pytest.mark.integration
@pytest.mark.parametrize(("name", "auto_class"), LOADS)
def test_fresh_process_gives_the_same_bits(fresh_process, name, auto_class):
    before, after = fresh_process
    result = after[f"{name} {auto_class}"]
    assert "error" not in result, result["error"]
    assert result["classes"] == ["EGMFConfig", "EGMFForConditionalGeneration"]
    assert torch.equal(result["logits"], before[name]["logits"])
    assert torch.equal(result["probabilities"], before[name]["probabilities"])
    assert result["trainable"] == before[name]["trainable"]
    assert not result["training"]


@pytest.mark.integration
@pytest.mark.parametrize("name", KEYWORDS)
@pytest.mark.parametrize("kind", ["adapter_float32", "standalone_float32"])
def test_keywords_reach_the_model_through_the_auto_classes(fresh_process, kind, name):
    result = fresh_process[1][f"{kind} {name}"]
    for key, value in KEYWORDS[name][1].items():
        assert str(result[key]).startswith(str(value))
