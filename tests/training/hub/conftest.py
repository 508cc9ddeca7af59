"""Finished runs, a Hub in this process, and one way to push: shared by the tests of all steps of a push."""

import json
import shutil
import subprocess
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from huggingface_hub import HfApi

from modeling_egmf.parts_egmf import fingerprint
from processing_egmf import BUILT_IN_TASKS
from tests.helpers.local_hub import LocalHub
from tests.helpers.run_files import write_run
from training.hub import upload
from training.hub.fresh_process import compute_answer, read_inputs
from training.hub.options import PushOptions
from training.hub.verify import write_example
from training.model.builder import load
from training.model.export import merge


PNG = bytes.fromhex("89504e470d0a1a0a")


@pytest.fixture(autouse=True)
def _client(monkeypatch):
    """Without xet, and without waiting between attempts."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(huggingface_hub.utils._http, "time", SimpleNamespace(sleep=lambda seconds: None))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture(scope="session")
def runs(tmp_path_factory, make_language_model, make_model, make_processor):
    """A folder with language models and four finished adapter runs of two tasks; `other` has other weights than
    `features`, `half` a language model in bfloat16."""
    root = tmp_path_factory.mktemp("runs")
    tasks = [BUILT_IN_TASKS[name] for name in ("emotion", "sentiment")]
    for name, audio, video, seed, llm, dtype in (
        ("features", "features", "features", 0, "llm", torch.float32),
        ("media", "waveform", "frames", 0, "llm", torch.float32),
        ("other", "features", "features", 5, "llm", torch.float32),
        ("half", "features", "features", 0, "llm_half", torch.bfloat16),
    ):
        run = root / name
        write_run(run, subsets=["text", "text+audio+video"])
        language_model = make_language_model(dtype=dtype)
        language_model.save_pretrained(root / llm)
        model = make_model(audio, video, seed=seed, language_model=language_model)
        model.config.text_model_id = f"../{llm}"
        model.config.text_model_fingerprint = fingerprint(language_model)
        model.save_pretrained(run)
        make_processor(audio, video, tasks=tasks).save_pretrained(run)
        (run / "gates.png").write_bytes(PNG + name.encode())
        (run / "report.md").write_text("# Report\n\n![gates](gates.png)\n")
        (run / "optimizer.pt").write_bytes(b"not for the Hub")
    return root


@pytest.fixture(scope="session")
def answer_of_run(runs, tmp_path_factory):
    """`answer_of_run("features", standalone=True)`: what the run itself answers."""

    def answer(name, standalone=False):
        model, processor = load(runs / name)
        if standalone:
            merge(model)
        path = write_example(processor, tmp_path_factory.mktemp("inputs") / "inputs.npz")
        return compute_answer(model, processor, read_inputs(str(path)))

    return answer


@pytest.fixture
def hub():
    people = {"hf_ada": "ada", "hf_eve": "eve", "hf_reader": "ada"}
    with LocalHub(people, organizations={"lab": ("ada",)}, readers=("hf_reader",)) as server:
        yield server


@pytest.fixture
def api(hub):
    return HfApi(endpoint=hub.url, token="hf_ada")  # noqa: S106


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """Cached exported folders by their run and options, because most tests are about the upload."""
    return {"root": tmp_path_factory.mktemp("exported")}


@pytest.fixture
def export_once(exported, monkeypatch):
    export = upload.export_folder

    def once(options, folder, text_model=None):
        content = (
            options.run,
            options.repo_id,
            options.standalone,
            options.endpoint,
            options.card,
            options.study,
        )
        key = repr((*content, options.tag or options.revision, text_model))
        if key not in exported:
            kept = exported["root"] / str(len(exported))
            exported[key] = (kept, export(options, kept, text_model))
        shutil.copytree(exported[key][0], folder)
        return exported[key][1]

    monkeypatch.setattr(upload, "export_folder", once)


@pytest.fixture
def send(runs, api, export_once):
    """`send(run, repo_id, **options)`: push a standalone checkpoint without the check, unless told otherwise; what is
    reported is in `report`."""

    def make(run="features", repo_id="ada/egmf", api=api, **options):
        lines = []
        options = {"standalone": True, "verify": False, **options}
        pushed = upload.push(PushOptions(runs / run, repo_id, **options), api, lines.append)
        pushed.report = "\n".join(lines)
        return pushed

    return make


@pytest.fixture
def public_card(tmp_path):
    """A card.yaml with everything that a public card needs."""
    path = tmp_path / "card.yaml"
    path.write_text(
        "dataset: made-up clips\nlanguage: [en]\nlicense: mit\nbase_model_license: none\ndata_license: CC0\n"
    )
    return path


@pytest.fixture
def run_afresh(hub, tmp_path, warm_python):
    """`run_afresh(code, *arguments)`: the JSON that the code prints in a fresh process with an empty cache."""

    def run(code, *arguments):
        completed = subprocess.run(
            [warm_python, "-c", code, *arguments],
            cwd=tmp_path,
            env=hub.environment(tmp_path / "cache", "hf_ada"),
            capture_output=True,
            text=True,
            check=False,
        )
        assert completed.returncode == 0, completed.stderr[-3000:]
        return json.loads(completed.stdout.splitlines()[-1])

    return run
