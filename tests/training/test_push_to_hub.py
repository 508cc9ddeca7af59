"""Push over HTTP, load back in a fresh process with an empty cache; what is refused, and what is safe to repeat."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
import torch
from huggingface_hub import HfApi, ModelCard

from modeling_egmf import EGMFForConditionalGeneration
from modeling_egmf.checkpoints_egmf import fingerprint
from tests.helpers.local_hub import LocalHub
from tests.helpers.run_files import write_run
from training.hub import upload as push_to_hub
from training.hub.fresh_process import answer_of, read_inputs
from training.hub.upload import (
    MANIFEST,
    PushError,
    build_folder,
    copy_code,
    example_inputs,
    find_facts,
    fresh_environment,
    main,
    merge_lora,
    portable,
    push,
    weights_fingerprint,
)
from training.model.builder import load
from training.model.export import merge
from training.records import write_json


ROOT = Path(__file__).parents[2]
CODE = {path.name for name in ("modeling_egmf", "processing_egmf") for path in (ROOT / name).glob("*.py")} - {
    "__init__.py"
}
PIXEL = bytes.fromhex("89504e470d0a1a0a")


@pytest.fixture(autouse=True)
def _client(monkeypatch):
    """No xet, and no waiting between attempts."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(huggingface_hub.utils._http, "time", SimpleNamespace(sleep=lambda seconds: None))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture(scope="module")
def runs(tmp_path_factory, make_language_model, make_model, make_processor):
    """A folder with language models and four finished light runs; `other` has other weights than `features`, `half` a
    language model in bfloat16."""
    root = tmp_path_factory.mktemp("runs")
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
        make_processor(audio, video).save_pretrained(run)
        (run / "gates.png").write_bytes(PIXEL + name.encode())
        (run / "report.md").write_text("# Report\n\n![gates](gates.png)\n")
        (run / "optimizer.pt").write_bytes(b"not for the Hub")
    return root


@pytest.fixture
def hub():
    people = {"hf_ada": "ada", "hf_eve": "eve", "hf_reader": "ada"}
    with LocalHub(people, organisations={"lab": ("ada",)}, readers=("hf_reader",)) as server:
        yield server


@pytest.fixture
def api(hub):
    return HfApi(endpoint=hub.url, token="hf_ada")  # noqa: S106


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Folders that were built already, by what they were built from: most tests are about where they go."""
    return {"root": tmp_path_factory.mktemp("built")}


@pytest.fixture
def build_once(built, monkeypatch):
    build = push_to_hub.build_folder

    def once(run, folder, repo_id, **options):
        key = repr((run, repo_id, sorted(options.items(), key=str)))
        if key not in built:
            kept = built["root"] / str(len(built))
            built[key] = (kept, build(run, kept, repo_id, **options))
        shutil.copytree(built[key][0], folder)
        return built[key][1]

    monkeypatch.setattr(push_to_hub, "build_folder", once)


@pytest.fixture
def send(runs, api, build_once):
    """`send(run, repo_id, **options)`: a full push without the check, unless said otherwise; its lines in `said`."""

    def make(run="features", repo_id="ada/egmf", **options):
        said = []
        options = {"full": True, "verified": False, "api": api, **options}
        found = push(runs / run, repo_id, options.pop("api"), say=said.append, **options)
        found.said = "\n".join(said)
        return found

    return make


def answer(run, tmp_path, full=False):
    """What the run itself answers."""
    model, processor = load(run)
    if full:
        merge(model)
    return answer_of(model, processor, read_inputs(str(example_inputs(processor, tmp_path / "inputs.npz"))))


def said_afresh(hub, folder, code, *arguments):
    """What code prints as JSON in a fresh process with an empty cache."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=folder,
        env=hub.environment(folder / "cache", "hf_ada"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


# ---- there and back ------------------------------------------------------------------------------------------


@pytest.mark.integration
def test_light_round_trip(send, hub, runs, tmp_path):
    """The real client both ways; a fresh process that has only the name; every bit of the logits."""
    done = send(
        "media", "lab/light", full=False, verified=True, text_model="ada/llm", upload_text_model=True, tag="v1"
    )
    assert done.difference == 0.0
    assert done.label == str(answer(runs / "media", tmp_path)["label"])
    assert "verified   in a fresh process with an empty cache: AutoModel, AutoProcessor" in done.said
    assert "logits equal bit for bit" in done.said
    repo = hub.repo("lab/light")
    assert repo.private
    assert [commit.title for commit in repo.history("main")][1:] == ["initial commit"]  # all in one
    assert repo.tags == {"v1": done.commit}
    files = hub.files("lab/light")
    assert set(files) >= CODE | {"config.json", "model.safetensors", "processor_config.json", "README.md", MANIFEST}
    assert set(files) >= {"results-test.json", "training.json", "report.md", "gates.png"}
    assert "optimizer.pt" not in files
    config = json.loads(files["config.json"])
    assert (config["text_model_id"], config["text_model_revision"]) == ("ada/llm", hub.repo("ada/llm").at("main").oid)
    assert len(files["model.safetensors"]) < 200_000  # the language model is not in it
    assert hub.repo("ada/llm").private


@pytest.mark.integration
def test_full_round_trip_from_the_shell(hub, api, runs, tmp_path, monkeypatch, capsys):
    """And the language model is out of reach."""
    monkeypatch.setattr(push_to_hub, "HfApi", lambda: api)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    main([str(runs / "features"), "ada/full", "--full", "--message", "First"])
    said = capsys.readouterr().out
    assert "logits equal bit for bit" in said
    assert f"answer {answer(runs / 'features', tmp_path, full=True)['label']}," in said
    assert f"revision='{hub.repo('ada/full').at('main').oid}'" in said
    assert hub.repo("ada/full").history("main")[0].title == "First"
    config = json.loads(hub.files("ada/full")["config.json"])
    assert config["text_model_id"] is config["lora"] is None
    assert list(hub.repos) == [("models", "ada/full")]


@pytest.mark.integration
def test_full_of_bfloat16_answers_as_the_run_did(send, hub, runs, tmp_path):
    """Merging would move its answers: LoRA stays in layers of its own, and the fresh process gives the run's bits."""
    done = send("half", "ada/half", verified=True)
    assert done.difference == 0.0
    assert done.label == str(answer(runs / "half", tmp_path)["label"])
    merging = json.loads(hub.files("ada/half")[MANIFEST])["merging"]
    assert not merging["merged"]
    assert merging["moved"] > merging["tolerance"] == push_to_hub.TOLERANCE
    assert f"merging would move a probability by up to {merging['moved']:.1e} in {merging['samples']}" in done.said
    card = hub.files("ada/half")["README.md"].decode()
    assert "LoRA stays in layers of its own (`pip install peft`)" in card
    assert f"moved a probability by up to {merging['moved']:.1e}, over {merging['samples']} made-up samples" in card
    config = json.loads(hub.files("ada/half")["config.json"])
    assert config["lora"] is not None
    assert config["text_model_id"] is config["text_model_fingerprint"] is None


@pytest.mark.parametrize("run", ["features", "half"])
def test_what_merging_moves_is_measured(runs, run):
    model, processor = load(runs / run)
    inputs = processor(**push_to_hub.made_up(processor), task="emotion")
    before = model.score_answers(**inputs).probabilities
    merging = merge_lora(model, processor)
    moved = (model.score_answers(**inputs).probabilities - before).abs().max().item()
    assert 0 < moved <= merging["moved"]
    assert merging["merged"] == (merging["moved"] <= 1e-3) == (run == "features")
    assert merging["samples"] == 8 * len(processor.task_objects)


ENDPOINT = """
import importlib.util, json, sys
sys.meta_path = [finder for finder in sys.meta_path if "__editable__" not in repr(finder)]
assert importlib.util.find_spec("modeling_egmf") is None
import torch
from huggingface_hub import snapshot_download
torch.set_num_threads(1)
path = snapshot_download("lab/light")
sys.path.insert(0, path)
from handler import EndpointHandler
print(json.dumps(EndpointHandler(path)({"inputs": {"text": "I'm fine."}, "parameters": {"task": "emotion"}})))
"""


@pytest.mark.integration
def test_endpoint_answers_from_the_repo(send, hub, runs, tmp_path):
    """As Inference Endpoints start it: the repo on disk, its handler imported, made with the path, asked."""
    send("media", "lab/light", full=False, endpoint=True, text_model="ada/llm", upload_text_model=True)
    assert len(hub.repo("lab/light").history("main")) == 2
    files = hub.files("lab/light")
    for name in ("handler.py", "requirements.txt"):
        assert files[name] == (ROOT / "hub_cards/endpoint" / name).read_bytes()
        assert name in json.loads(files[MANIFEST])["files"]
    assert "On Inference Endpoints `handler.py` answers" in files["README.md"].decode()
    found = said_afresh(hub, tmp_path, ENDPOINT)
    model, processor = load(runs / "media")
    inputs = processor(text="I'm fine.", task="emotion")
    expected = processor.post_process_answers(model.score_answers(**inputs))[0]
    assert found["status"] == 200
    assert found["answer"]["probabilities"] == expected["probabilities"]


def test_endpoint_goes_where_it_is_no_longer_asked_for(send, hub):
    send(endpoint=True)
    assert "handler.py" in hub.files("ada/egmf")
    send()
    assert not {"handler.py", "requirements.txt"} & set(hub.files("ada/egmf"))
    assert "handler.py" not in hub.files("ada/egmf")["README.md"].decode()


PINNED = """
import importlib.util, json, sys
sys.meta_path = [finder for finder in sys.meta_path if "__editable__" not in repr(finder)]
assert importlib.util.find_spec("modeling_egmf") is None
import torch
from transformers import AutoModel, AutoProcessor
torch.set_num_threads(1)
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


@pytest.mark.integration
def test_revision_pins_weights_and_code(send, hub, api, runs, tmp_path):
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
    found = said_afresh(hub, tmp_path, PINNED, json.dumps(asked))
    old, new = (load(runs / name)[0].egmf.pseudo_tokens.scale.item() for name in ("features", "other"))
    assert old != new
    assert found["newest"] == [new, 2, 2]
    assert found["tag"] == found["commit"] == [old, 1, 1]
    assert found["code"][:2] == [new, 1]


@pytest.fixture
def fresh_process(monkeypatch):
    """`fresh_process(returncode, stderr, **answer)` stands in for the process that loads the repo back."""

    def make(returncode=0, stderr="", **answer):
        def run(command, env, **options):
            np.savez(command[-1], **answer)
            made.append({"command": command, "env": env, "job": json.loads(Path(command[-2]).read_text())})
            return SimpleNamespace(returncode=returncode, stderr=stderr)

        made = []
        monkeypatch.setattr(push_to_hub, "subprocess", SimpleNamespace(run=run))
        return made

    return make


def test_another_answer_is_no_success(send, hub, runs, make_language_model, tmp_path, fresh_process):
    """As it comes where the language model on the Hub has other weights than the one that was trained beside."""
    make_language_model(seed=9).save_pretrained(tmp_path / "llm")
    model, processor = load(runs / "features", tmp_path / "llm")
    fresh_process(**answer_of(model, processor, read_inputs(str(example_inputs(processor, tmp_path / "inputs.npz")))))
    with pytest.raises(PushError, match="answers otherwise than the run.*other weights"):
        send(full=False, verified=True, text_model="ada/llm", upload_text_model=True, tag="v1")
    assert hub.repo("ada/egmf").tags == {}


def test_repo_that_does_not_load_is_reported(send, fresh_process):
    fresh_process(1, "Traceback\n  File ...\nModuleNotFoundError: No module named 'nowhere'")
    with pytest.raises(
        PushError, match=r"is on the Hub \(commit \w+\) but does not load in a fresh process:"
    ) as caught:
        send(verified=True)
    assert "No module named 'nowhere'" in str(caught.value)


def test_pipeline_must_say_what_the_model_says(send, runs, tmp_path, fresh_process):
    expected = answer(runs / "features", tmp_path, full=True)
    asked = fresh_process(**expected, pipeline_label="joy", pipeline_expected="joy")
    name = "multimodal-emotion-recognition"
    assert f"AutoModel, AutoProcessor, pipeline {name}; answer" in send(verified=True).said
    assert asked[0]["job"]["pipeline"] == name
    fresh_process(**expected, pipeline_label="joy", pipeline_expected="fear")
    with pytest.raises(PushError, match="The pipeline of ada/egmf .* says joy, its model fear"):
        send(verified=True)


def test_fresh_process_has_nothing_of_ours(send, runs, tmp_path, hub, fresh_process, monkeypatch):
    for name in ("HF_HUB_CACHE", "HF_HUB_OFFLINE", "TRANSFORMERS_CACHE", "PYTHONPATH", "HF_MODULES_CACHE"):
        monkeypatch.setenv(name, "1")
    expected = answer(runs / "features", tmp_path, full=True)
    asked = fresh_process(**expected, pipeline_label="joy", pipeline_expected="joy")
    done = send(verified=True)
    environment = asked[0]["env"]
    assert {name for name in environment if name.startswith(("HF_", "TRANSFORMERS_", "PYTHONPATH"))} == {
        "HF_HOME",
        "HF_ENDPOINT",
        "HF_TOKEN",
        "HF_HUB_DISABLE_XET",
    }
    assert not Path(environment["HF_HOME"]).exists()
    assert (environment["HF_ENDPOINT"], environment["HF_TOKEN"]) == (hub.url, "hf_ada")
    assert asked[0]["job"]["revision"] == done.commit
    assert "-I" in asked[0]["command"]


# ---- the folder ----------------------------------------------------------------------------------------------


def test_dry_run_builds_the_folder_only(hub, runs, tmp_path, capsys):
    main(
        [
            str(runs / "features"),
            "ada/egmf",
            "--text_model_name_or_path",
            "ada/llm",
            "--dry-run",
            "--folder",
            str(tmp_path / "out"),
        ]
    )
    files = {path.name: path for path in (tmp_path / "out").iterdir()}
    assert set(files) >= CODE | {"config.json", "model.safetensors", "README.md", MANIFEST}
    assert json.loads(files["config.json"].read_text())["text_model_id"] == "ada/llm"
    assert "nothing was sent" in capsys.readouterr().out
    assert hub.requests == []
    with pytest.raises(SystemExit, match="is not empty"):
        main([str(runs / "features"), "ada/egmf", "--full", "--dry-run", "--folder", str(tmp_path / "out")])


def test_code_of_the_folder_is_that_of_the_source(runs, tmp_path):
    build_folder(runs / "features", tmp_path, "ada/egmf", full=True)
    for name in CODE:
        source = next(path for folder in push_to_hub.CODE_FOLDERS if (path := folder / name).is_file())
        assert (tmp_path / name).read_bytes() == source.read_bytes()
    assert {path.name for path in tmp_path.glob("*.py")} == CODE


def test_figures_of_several_seeds_go_along(runs, tmp_path):
    summary = {"n": 2, "mean": 0.515625, "std": 0.03125, "values": [0.5, 0.53125]}
    subsets = {"text": {"emotion": {"accuracy": summary}}}
    study = {"variants": {"egmf": {"seeds": [0, 1], "subsets": subsets}}, "folder": "/srv/someone/runs"}
    path = write_json(tmp_path / "demo.json", study)
    build_folder(runs / "features", tmp_path / "out", "ada/egmf", full=True, study=path)
    assert "| text | 2 | 0.516 ± 0.031 |" in (tmp_path / "out/README.md").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "out/study.json").read_text()) == {**study, "folder": "runs"}


def test_gates_are_drawn_where_no_report_did(runs, tmp_path):
    for path in (runs / "features").iterdir():
        if path.name not in ("gates.png", "report.md"):
            (tmp_path / "run").mkdir(exist_ok=True)
            (tmp_path / "run" / path.name).symlink_to(path)
    (tmp_path / "llm").symlink_to(runs / "llm")
    build_folder(tmp_path / "run", tmp_path / "out", "ada/egmf", full=True)
    assert (tmp_path / "out/gates.png").read_bytes().startswith(PIXEL)
    assert "](gates.png)" in (tmp_path / "out/README.md").read_text(encoding="utf-8")


def test_files_of_one_name_are_refused(tmp_path, monkeypatch):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "same.py").write_text("")
        (tmp_path / name / "__init__.py").write_text("")
    monkeypatch.setattr(push_to_hub, "CODE_FOLDERS", (tmp_path / "one", tmp_path / "two"))
    with pytest.raises(PushError, match=r"same\.py is in both code folders"):
        copy_code(tmp_path)


def test_records_say_nothing_of_the_machine(runs, tmp_path):
    record = json.loads((runs / "features/training.json").read_text())
    record["training_arguments"] = {"output_dir": "/srv/someone/runs/x", "hub_token": "hf_x", "logging_dir": "/l/host"}
    record["data_arguments"] = {"dataset": "~/corpora/meld", "splits": ["train", "/srv/y"], "seed": 0}
    shutil_run = tmp_path / "run"
    shutil_run.mkdir()
    for path in (runs / "features").iterdir():
        (shutil_run / path.name).write_bytes(path.read_bytes()) if path.is_file() else None
    (tmp_path / "llm").symlink_to(runs / "llm")
    write_json(shutil_run / "training.json", record)
    build_folder(shutil_run, tmp_path / "out", "ada/egmf", full=True)
    found = json.loads((tmp_path / "out/training.json").read_text())
    assert found["training_arguments"] == {"output_dir": "x"}
    assert found["data_arguments"] == {"dataset": "meld", "splits": ["train", "y"], "seed": 0}
    for path in (tmp_path / "out").rglob("*"):
        if path.suffix in (".json", ".md"):
            assert str(tmp_path) not in path.read_text(encoding="utf-8"), path
            assert str(runs) not in path.read_text(encoding="utf-8"), path


def test_portable_leaves_the_rest():
    record = {"a": [1, None, "runs/x", "/"], "text": "\nThe answer / is", "max_token": 3}
    assert portable(record) == {"a": [1, None, "runs/x", "/"], "text": "\nThe answer / is"}


@pytest.mark.parametrize(
    ("missing", "message"),
    [("model.safetensors", "is no checkpoint"), ("config.json", "is no checkpoint"), ("training.json", "no record")],
)
def test_unfinished_run_is_refused(runs, tmp_path, missing, message):
    for path in (runs / "features").iterdir():
        if path.name != missing:
            (tmp_path / path.name).symlink_to(path)
    with pytest.raises(PushError, match=message):
        build_folder(tmp_path, tmp_path / "out", "ada/egmf", full=True)


def test_bad_facts_of_a_card_are_refused(runs, tmp_path):
    (tmp_path / "card.yaml").write_text("name: x\nauthor: me\n")
    with pytest.raises(PushError, match="unknown fields author"):
        build_folder(runs / "features", tmp_path / "out", "ada/egmf", full=True, card=tmp_path / "card.yaml")


# ---- whose repo it is ----------------------------------------------------------------------------------------


def test_same_run_again_changes_nothing(send, hub, monkeypatch):
    monkeypatch.setattr(push_to_hub, "build_folder", build_folder)  # building is repeated as well
    first = send()
    before = hub.received
    second = send()
    assert second.commit == first.commit
    assert len(hub.repo("ada/egmf").history("main")) == 2
    assert hub.received == before


def test_light_becomes_full_and_what_is_stale_goes(send, hub, api, monkeypatch):
    """What this command put there and does not put there any more; nothing else."""
    send(full=False, text_model="ada/llm", upload_text_model=True)
    api.upload_file(path_or_fileobj=b"mine", path_in_repo="notes.txt", repo_id="ada/egmf")
    build = push_to_hub.build_folder

    def without_report(run, folder, repo_id, **options):
        found = build(run, folder, repo_id, **options)
        (folder / "report.md").unlink()
        return found

    monkeypatch.setattr(push_to_hub, "build_folder", without_report)
    assert "report.md" in hub.files("ada/egmf")
    send(full=True)
    files = hub.files("ada/egmf")
    assert json.loads(files["config.json"])["text_model_id"] is None
    assert "report.md" not in files
    assert files["notes.txt"] == b"mine"
    assert ".gitattributes" in files


def test_another_model_is_left_alone(send, hub):
    send("features")
    before = hub.files("ada/egmf")
    with pytest.raises(PushError, match="holds another model.*--overwrite"):
        send("other")
    assert hub.files("ada/egmf") == before


def test_files_of_somebody_else_are_left_alone(send, hub, api):
    api.create_repo("ada/egmf", private=True)
    api.upload_file(path_or_fileobj=b"{}", path_in_repo="config.json", repo_id="ada/egmf")
    api.upload_file(path_or_fileobj=b"[]", path_in_repo=MANIFEST, repo_id="ada/egmf")
    with pytest.raises(PushError, match=r"did not put there \(config.json, pushed.json, 2 in all\).*--overwrite"):
        send()
    assert len(hub.files("ada/egmf")) == 3


def test_overwriting_replaces_all_and_keeps_the_history(send, hub, api, runs):
    first = send("features").commit
    api.upload_file(path_or_fileobj=b"old", path_in_repo="old/notes.txt", repo_id="ada/egmf")
    send("other", overwrite=True)
    files = hub.files("ada/egmf")
    assert "old/notes.txt" not in files
    assert json.loads(files[MANIFEST])["model"] == weights_fingerprint(runs / "other")
    assert len(hub.files("ada/egmf", revision=first)) > 10


def test_fingerprint_is_that_of_the_trained_weights(runs, tmp_path):
    found = {name: weights_fingerprint(runs / name) for name in ("features", "media", "other")}
    assert len(set(found.values())) == 3
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((runs / "features" / name).read_bytes())
    (tmp_path / "README.md").write_text("a new card")
    assert weights_fingerprint(tmp_path) == found["features"]


def test_change_meanwhile_is_not_overwritten(send, hub, api, monkeypatch):
    send()
    build = push_to_hub.build_folder

    def slowly(*arguments, **options):
        api.upload_file(path_or_fileobj=b"new", path_in_repo="notes.txt", repo_id="ada/egmf")
        found = build(*arguments, **options)
        (arguments[1] / "new.txt").write_text("x")
        return found

    monkeypatch.setattr(push_to_hub, "build_folder", slowly)
    with pytest.raises(PushError, match="was changed by somebody else meanwhile"):
        send()
    assert "new.txt" not in hub.files("ada/egmf")


# ---- branches, tags, who may see it --------------------------------------------------------------------------


def test_branch_is_made_and_main_stays(send, hub):
    first = send("features").commit
    done = send("features", revision="next", study=None, message="On a branch", tag="v2")
    repo = hub.repo("ada/egmf")
    assert repo.branches["main"] == first
    assert repo.tags["v2"] == done.commit == repo.branches["next"]
    assert 'revision="v2"' in hub.files("ada/egmf", revision="next")["README.md"].decode()


def test_branch_of_a_new_repo(send, hub):
    done = send(revision="next")
    assert set(hub.files("ada/egmf")) == {".gitattributes"}
    assert hub.repo("ada/egmf").branches["next"] == done.commit


def test_tag_is_never_moved(send, hub):
    first = send("features", tag="v1").commit
    send("other", overwrite=True)
    with pytest.raises(PushError, match="The tag v1 is taken, by commit"):
        send("other", tag="v1")
    assert hub.repo("ada/egmf").tags == {"v1": first}


def test_same_tag_again_is_fine(send, hub):
    assert send(tag="v1").commit == send(tag="v1").commit


def test_public_only_when_said(send, hub, api, tmp_path):
    facts = tmp_path / "card.yaml"
    facts.write_text(
        "dataset: made-up clips\nlanguage: [en]\nlicense: mit\nbase_model_license: none\ndata_license: CC0\n"
    )
    send()
    assert hub.repo("ada/egmf").private
    with pytest.raises(PushError, match="A public card must say dataset, language, base_model_license, data_license"):
        send(public=True)
    send(public=True, card=facts)
    assert not hub.repo("ada/egmf").private
    with pytest.raises(PushError, match="is public: say --public"):
        send(card=facts)


def test_public_light_push_names_no_private_language_model(send, hub, api, tmp_path):
    facts = tmp_path / "card.yaml"
    facts.write_text(
        "dataset: made-up clips\nlanguage: [en]\nlicense: mit\nbase_model_license: none\ndata_license: CC0\n"
    )
    light = {"full": False, "text_model": "ada/llm", "upload_text_model": True, "public": True, "card": facts}
    with pytest.raises(PushError, match="ada/llm is private, so that nobody else could load a public checkpoint"):
        send(**light)
    assert not api.repo_exists("ada/egmf")
    api.update_repo_settings("ada/llm", private=False)
    send(**light)
    assert not hub.repo("ada/egmf").private


def test_other_language_model_is_refused_before_anything_is_sent(send, runs, api):
    send(full=False, text_model="ada/llm", upload_text_model=True)
    config = json.loads((runs / "features/config.json").read_text(encoding="utf-8"))["text_config"]
    api.create_repo("ada/wider", private=True)
    width = config["hidden_size"]
    other = json.dumps({**config, "hidden_size": 2 * width}).encode()
    api.upload_file(path_or_fileobj=other, path_in_repo="config.json", repo_id="ada/wider")
    head = api.model_info("ada/egmf").sha
    with pytest.raises(
        PushError, match=f"not what this run was trained on: it has hidden_size .*{config['hidden_size']}"
    ):
        send(full=False, text_model="ada/wider", overwrite=True)
    with pytest.raises(PushError, match="--text_model_name_or_path is ada/llm itself"):
        send("features", "ada/llm", full=False, text_model="ada/llm", overwrite=True)
    assert api.model_info("ada/egmf").sha == head


def test_token_that_may_only_read_is_refused_at_once(send, api, monkeypatch):
    monkeypatch.setattr(api, "whoami", lambda: {"name": "ada", "auth": {"accessToken": {"role": "read"}}})
    monkeypatch.setattr(push_to_hub, "build_folder", lambda *_, **__: pytest.fail("the folder was built first"))
    with pytest.raises(PushError, match="may only read"):
        send()


def test_fresh_process_has_a_saved_token(api, monkeypatch, tmp_path):
    """As `hf auth login` leaves it."""
    monkeypatch.setattr("training.hub.upload.get_token", lambda: "hf_saved")
    assert fresh_environment(tmp_path, HfApi(endpoint=api.endpoint))["HF_TOKEN"] == "hf_saved"
    assert fresh_environment(tmp_path, HfApi(endpoint=api.endpoint, token="hf_given"))["HF_TOKEN"] == "hf_given"  # noqa: S106


def test_nothing_is_published_that_failed_the_check(send, hub, tmp_path, monkeypatch):
    facts = tmp_path / "card.yaml"
    facts.write_text(
        "dataset: made-up clips\nlanguage: [en]\nlicense: mit\nbase_model_license: none\ndata_license: CC0\n"
    )

    def fail(*arguments):
        raise PushError("answers otherwise")

    monkeypatch.setattr(push_to_hub, "verify", fail)
    with pytest.raises(PushError, match="answers otherwise"):
        send(public=True, card=facts, verified=True, tag="v1")
    assert hub.repo("ada/egmf").private
    assert hub.repo("ada/egmf").tags == {}


# ---- the language model of a light checkpoint ----------------------------------------------------------------


def test_folder_as_language_model_is_refused(send):
    with pytest.raises(
        PushError, match=r"names a folder, '../llm', which nobody else has.*--text_model_name_or_path.*--full"
    ):
        send(full=False)


def test_absent_language_model_is_refused(send, hub):
    with pytest.raises(PushError, match="ada/nowhere is not on the Hub.*--upload_text_model"):
        send(full=False, text_model="ada/nowhere")
    assert hub.repos == {}


@pytest.mark.parametrize("name", ["../llm", "/srv/llm", "a/b/c"])
def test_language_model_must_be_an_id(send, name):
    with pytest.raises(PushError, match="is no Hub id"):
        send(full=False, text_model=name)


def test_language_model_that_is_there_stays(send, hub, api):
    send(full=False, text_model="ada/llm", upload_text_model=True)
    before = hub.repo("ada/llm").at("main").oid
    done = send(full=False, text_model="ada/llm", upload_text_model=True)
    assert "ada/llm is there already" in done.said
    assert hub.repo("ada/llm").at("main").oid == before


# ---- tokens and networks -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("token", "repo_id", "message"),
    [
        ("hf_wrong", "ada/egmf", "does not know this token, asking who you are. Log in"),
        (False, "ada/egmf", "There is no token. Log in"),
        ("hf_reader", "ada/egmf", "no right to write to ada/egmf"),
        ("hf_eve", "lab/egmf", "no right to write to lab/egmf"),
    ],
    ids=["wrong", "none", "reading only", "not a member"],
)
def test_wrong_token_is_said_plainly(send, hub, token, repo_id, message):
    with pytest.raises(PushError, match=message):
        send(repo_id=repo_id, api=HfApi(endpoint=hub.url, token=token))
    assert hub.repos == {}


def test_no_hub_is_said_plainly(send):
    with pytest.raises(PushError, match="The connection broke off, asking who you are .*Run the same command again"):
        send(api=HfApi(endpoint="http://127.0.0.1:9", token="hf_ada"))  # noqa: S106


def test_interrupted_upload_is_safe_to_repeat(send, hub):
    """Nothing is committed; what has arrived is not sent again."""
    hub.interrupt_uploads(after_bytes=1000)
    with pytest.raises(PushError, match="The connection broke off, sending ada/egmf .*Run the same command again"):
        send()
    assert set(hub.files("ada/egmf")) == {".gitattributes"}
    assert hub.repo("ada/egmf").private
    hub.interrupt_uploads(0, times=0)
    done = send()
    assert json.loads(hub.files("ada/egmf")[MANIFEST])["kind"] == "full"
    assert done.commit == hub.repo("ada/egmf").at("main").oid


def test_short_interruption_is_not_noticed(send, hub):
    hub.interrupt_uploads(after_bytes=1000, times=2)
    assert send().commit == hub.repo("ada/egmf").at("main").oid


def test_large_files_that_arrived_are_not_sent_again(send, hub):
    """The commit's answer gets lost after all files went up: the same command finds the commit."""
    hub.lose_commits(1)
    with pytest.raises(PushError, match="is as it was, or already whole"):
        send()
    before, whole = hub.received, hub.files("ada/egmf")
    send()
    assert hub.received == before
    assert hub.files("ada/egmf") == whole
    assert len(hub.repo("ada/egmf").history("main")) == 2


def test_key_press_is_said_plainly(send, hub, api, monkeypatch):
    def stop(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "create_commit", stop)
    with pytest.raises(PushError, match="Interrupted, sending ada/egmf.*Run the same command again"):
        send()


def test_offline_is_said_plainly(runs, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(SystemExit, match="HF_HUB_OFFLINE is set"):
        main([str(runs / "features"), "ada/egmf", "--full"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["egmf"], "must be ORG/NAME"),
        (["a b/c"], "Repo id must"),
        (["ada/egmf", "--folder", "x"], "--folder belongs to --dry-run"),
        (["ada/egmf", "--card", "nowhere.yaml"], "There is no nowhere.yaml"),
    ],
)
def test_bad_arguments(runs, options, message, capsys):
    with pytest.raises(SystemExit):
        main([str(runs / "features"), *options])
    assert message in capsys.readouterr().err


# ---- the answer that is compared -----------------------------------------------------------------------------


def test_answer_moves_with_every_modality(runs, tmp_path):
    """Or the check would not notice that half of the model came back wrong."""
    model, processor = load(runs / "media")
    inputs = read_inputs(str(example_inputs(processor, tmp_path / "inputs.npz")))
    assert set(inputs) == {"text", "audio", "sampling_rate", "video", "fps"}
    whole = answer_of(model, processor, inputs)
    for left_out in (("audio", "sampling_rate"), ("video", "fps"), ("text",)):
        rest = {name: value for name, value in inputs.items() if name not in left_out}
        assert not np.array_equal(answer_of(model, processor, rest)["logits"], whole["logits"])
    assert isinstance(model, EGMFForConditionalGeneration)
    assert torch.get_num_threads() == 1


def test_card_on_the_hub_is_that_of_the_repo(send, hub, api, tmp_path):
    send()
    card = ModelCard(hub.files("ada/egmf")["README.md"].decode())
    assert card.data.pipeline_tag == "video-classification"
    assert 'from_pretrained("ada/egmf", trust_remote_code=True)' in card.content
    assert "Everything is in this repo" in card.content
    assert api.model_info("ada/egmf").card_data.model_name == "EGMF"


@pytest.mark.parametrize("beside", ["run", "data"])
def test_demo_is_known_by_its_ceilings_in_the_run_or_the_corpus(tmp_path, beside):
    run, data = tmp_path / "run", tmp_path / "data"
    for folder in (run, data):
        folder.mkdir()
    assert not find_facts(run, None, data).synthetic
    (tmp_path / beside / "ceilings.json").write_text("{}", encoding="utf-8")
    assert find_facts(run, None, None if beside == "run" else data).synthetic
    (tmp_path / "card.yaml").write_text("license: mit\n", encoding="utf-8")  # says one thing, and unsays nothing
    found = find_facts(run, tmp_path / "card.yaml", data)
    assert (found.license, found.synthetic, found.dataset) == ("mit", True, "EGMF demo corpus")
