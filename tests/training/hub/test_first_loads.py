"""First loads of a repo: several processes at once with an empty cache, then offline, and in spawned processes."""

import json
import shutil
import subprocess
import sys

import pytest

from tests.helpers.warm_python import LIBRARIES, WarmPython
from training.hub.fresh_process import read_inputs
from training.hub.verify import write_example
from training.model.builder import load


pytestmark = pytest.mark.integration
REPO = "ada/egmf"
LOADERS = (
    *LIBRARIES,
    "transformers.modeling_utils",
    "transformers.processing_utils",
    "transformers.pipelines",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.processing_auto",
    "transformers.models.llama.modeling_llama",
)
LOAD = """
import importlib.util, json, pickle, sys
sys.meta_path = [finder for finder in sys.meta_path if "__editable__" not in repr(finder)]
assert importlib.util.find_spec("modeling_egmf") is None
import numpy as np
import torch
from transformers import AutoModel, AutoProcessor
torch.set_num_threads(1)


def answer(model, processor, inputs):
    output = model.score_answers(**processor(**inputs))
    return processor.post_process_answers(output)[0]["probabilities"]


def read(path):
    with np.load(path) as stored:
        return {name: stored[name] if stored[name].ndim else stored[name].item() for name in stored.files}


def load_all(revisions):
    for revision in revisions:
        options = {"revision": revision} if revision else {}
        model = AutoModel.from_pretrained("ada/egmf", trust_remote_code=True, **options)
        processor = AutoProcessor.from_pretrained("ada/egmf", trust_remote_code=True, **options)
        yield model, processor
"""
FIRST = """
(model, processor), = load_all([None])
print(json.dumps(answer(model, processor, read(sys.argv[1]))))
with open(sys.argv[2], "wb") as file:
    pickle.dump([sys.path, pickle.dumps([model, processor])], file)
"""
OFFLINE = """
inputs = read(sys.argv[1])
with open(sys.argv[2], "rb") as file:
    sys.path, pickled = pickle.load(file)  # a spawned process gets its parent's path first, too
answers = [answer(*pickle.loads(pickled), inputs)]
answers += [answer(*loaded, inputs) for loaded in load_all([None, *sys.argv[3:]])]
print(json.dumps(answers))
"""
SPAWN = """
from multiprocessing import get_context
from torch.utils.data import DataLoader


class Texts:
    def __init__(self, processor):
        self.processor = processor

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return self.processor(text=f"I'm fine {index}.")["input_ids"]


def answer_in_child(pipe, model, processor, inputs):
    pipe.send(answer(model, processor, inputs))


if __name__ == "__main__":
    inputs = read(sys.argv[1])
    (model, processor), = load_all([None])
    context = get_context("spawn")
    here, there = context.Pipe()
    child = context.Process(target=answer_in_child, args=(there, model, processor, inputs))
    child.start()
    loader = DataLoader(Texts(processor), batch_size=None, num_workers=2, multiprocessing_context="spawn")
    same = all(ids.equal(Texts(processor)[index]) for index, ids in enumerate(loader))
    print(json.dumps([here.recv(), answer(model, processor, inputs), same]))
"""


@pytest.fixture
def start(hub, tmp_path):
    """`start(python, code, cache, *arguments, **environment)`: a process that knows only the repo's name."""

    def start(python, code, cache, *arguments, **environment):
        script = tmp_path / "load.py"
        script.write_text(LOAD + code, encoding="utf-8")
        return subprocess.Popen(
            [python, str(script), *map(str, arguments)],
            cwd=tmp_path,
            env=hub.environment(cache, "hf_ada") | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


def result_of(process):
    output, errors = process.communicate()
    assert process.returncode == 0, errors[-3000:]
    return json.loads(output.splitlines()[-1])


@pytest.fixture
def pushed(send, runs, tmp_path):
    """The repo's commit, a file with inputs, and the run's answer to them."""
    commit = send(repo_id=REPO, tag="v1").commit
    model, processor = load(runs / "features")
    path = write_example(processor, tmp_path / "inputs.npz")
    output = model.score_answers(**processor(**read_inputs(str(path))))
    return commit, path, processor.post_process_answers(output)[0]["probabilities"]


def test_two_first_loads_at_once_then_offline_and_pickled(hub, start, pushed, warm_python, tmp_path):
    commit, inputs, expected = pushed
    cache = tmp_path / "cache"
    pickles = [tmp_path / f"{number}.pickle" for number in range(2)]
    processes = [start(warm_python, FIRST, cache, inputs, path) for path in pickles]
    for process in processes:
        assert result_of(process) == pytest.approx(expected, abs=1e-5)
    requests = len(hub.requests)
    offline = start(warm_python, OFFLINE, cache, inputs, pickles[0], "main", commit, HF_HUB_OFFLINE="1")
    answers = result_of(offline)
    assert len(answers) == 4
    for answer in answers:
        assert answer == pytest.approx(expected, abs=1e-5)
    assert len(hub.requests) == requests


@pytest.fixture
def warm_loader(hub, warm_python, tmp_path, monkeypatch):
    """A Python that has imported `transformers`, so that its processes load at once, and the cache that they share."""
    cache = tmp_path / "cache"
    for name, value in hub.environment(cache, "hf_ada").items():
        monkeypatch.setenv(name, value)
    folder = tmp_path / "warm"
    folder.mkdir()
    with WarmPython(folder, LOADERS, warm_python) as executable:
        yield executable, cache


@pytest.mark.slow
@pytest.mark.parametrize("at_once", [2, 8])
def test_ten_rounds_of_first_loads(start, pushed, warm_loader, tmp_path, at_once):
    _, inputs, expected = pushed
    python, cache = warm_loader
    pickles = [tmp_path / f"{number}.pickle" for number in range(at_once)]
    for _ in range(10):
        shutil.rmtree(cache, ignore_errors=True)
        processes = [start(python, FIRST, cache, inputs, path) for path in pickles]
        for process in processes:
            assert result_of(process) == pytest.approx(expected, abs=1e-5)


@pytest.mark.slow
def test_spawned_processes_take_model_and_processor(start, pushed, tmp_path):
    _, inputs, expected = pushed
    child, parent, same = result_of(start(sys.executable, SPAWN, tmp_path / "cache", inputs))
    assert child == parent == pytest.approx(expected, abs=1e-5)
    assert same
