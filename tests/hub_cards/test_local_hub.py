"""The Hub for tests, as its real clients see it: `huggingface_hub`, `evaluate`, and `datasets`."""

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.helpers.hub_metadata import metadata_errors
from tests.helpers.local_hub import LocalHub
from training.converters import folder as folder_converter


ROOT = Path(__file__).parents[2]
METRICS = ROOT / "hub_cards/metrics"


@pytest.fixture(autouse=True)
def _client(monkeypatch):
    """No xet, and no delay between attempts."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(huggingface_hub.utils._http, "time", SimpleNamespace(sleep=lambda seconds: None))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def hub():
    tokens = {"hf_ada": "ada", "hf_eve": "eve", "hf_reader": "ada"}
    with LocalHub(tokens, organizations={"lab": ("ada",)}, readers=("hf_reader",)) as server:
        yield server


@pytest.fixture
def api(hub):
    return HfApi(endpoint=hub.url, token="hf_ada")  # noqa: S106


@pytest.fixture
def private_model(api):
    """The commit of a private model with a small file, a large one and one in a folder."""
    api.create_repo("ada/model", private=True)
    files = {
        "config.json": b"{}",
        "model.safetensors": bytes(range(256)) * 40,
        "folder/notes.txt": b"notes\n",
    }
    operations = [CommitOperationAdd(path, content) for path, content in files.items()]
    return api.create_commit("ada/model", operations, commit_message="all").oid


# ---- permissions ------------------------------------------------------------------------------------------------


def test_tokens_are_checked(hub, api):
    assert api.whoami()["name"] == "ada"
    assert [entry["name"] for entry in api.whoami()["orgs"]] == ["lab"]
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        HfApi(endpoint=hub.url, token="hf_wrong").whoami()  # noqa: S106


@pytest.mark.parametrize(("token", "repo_id"), [("hf_eve", "ada/x"), ("hf_eve", "lab/x"), ("hf_reader", "ada/x")])
def test_only_owners_with_write_access_create_repos(hub, token, repo_id):
    with pytest.raises(HfHubHTTPError, match="403"):
        HfApi(endpoint=hub.url, token=token).create_repo(repo_id)
    assert hub.repos == {}


def test_private_repo_is_hidden_and_public_one_is_read_only(hub, api, private_model):
    others = [HfApi(endpoint=hub.url, token=token) for token in ("hf_eve", False)]
    for other in others:
        with pytest.raises(RepositoryNotFoundError):
            other.model_info("ada/model")
    assert HfApi(endpoint=hub.url, token="hf_reader").model_info("ada/model").sha == private_model  # noqa: S106
    api.update_repo_settings("ada/model", private=False)
    for other in others:
        assert other.model_info("ada/model").private is False
    with pytest.raises(HfHubHTTPError, match="403"):
        others[0].upload_file(path_or_fileobj=b"x", path_in_repo="x", repo_id="ada/model")


def test_repo_is_created_once(api):
    assert api.create_repo("lab/model", private=True).repo_id == "lab/model"
    api.create_repo("lab/model", exist_ok=True)
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_repo("lab/model")


# ---- files -------------------------------------------------------------------------------------------------------


def test_downloaded_files_equal_the_uploaded_ones(hub, api, private_model, tmp_path):
    for name, content in hub.files("ada/model").items():
        path = api.hf_hub_download("ada/model", name, cache_dir=tmp_path)
        assert Path(path).read_bytes() == content
        assert private_model in path
    blobs = hub.repo("ada/model").at(private_model).files
    assert {name for name, blob in blobs.items() if blob.lfs} == {"model.safetensors"}


def test_metadata_of_files(hub, api, private_model):
    large = hub.repo("ada/model").at(private_model).files["model.safetensors"]
    metadata = huggingface_hub.get_hf_file_metadata(
        f"{hub.url}/ada/model/resolve/main/model.safetensors",
        token="hf_ada",  # noqa: S106
    )
    assert (metadata.commit_hash, metadata.etag, metadata.size) == (private_model, large.sha256, 10240)
    assert large.git_oid != large.sha256


def test_git_id_matches_git(api, private_model):
    (entry,) = api.get_paths_info("ada/model", "folder/notes.txt")
    command = ["git", "hash-object", "--stdin"]
    process = subprocess.run(command, input=b"notes\n", capture_output=True, check=True)
    assert entry.blob_id == process.stdout.decode().strip()


def test_part_of_a_file(hub, private_model):
    client = huggingface_hub.utils.get_session()
    headers = {"Authorization": "Bearer hf_ada", "Range": "bytes=10-13"}
    address = f"{hub.url}/ada/model/resolve/main/model.safetensors"
    response = client.get(address, headers=headers)
    assert (response.status_code, response.content) == (206, bytes([10, 11, 12, 13]))
    assert response.headers["Content-Range"] == "bytes 10-13/10240"
    assert client.get(address, headers=headers | {"Range": "bytes=99999-"}).status_code == 416


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"filename": "nowhere"}, EntryNotFoundError),
        ({"filename": "config.json", "revision": "nowhere"}, RevisionNotFoundError),
        ({"filename": "config.json", "repo_id": "ada/nowhere"}, RepositoryNotFoundError),
    ],
)
def test_missing_files_revisions_and_repos(api, private_model, tmp_path, arguments, error):
    with pytest.raises(error):
        api.hf_hub_download(**{"repo_id": "ada/model", "cache_dir": tmp_path, **arguments})


def test_tree(api, private_model):
    flat = {entry.path: type(entry).__name__ for entry in api.list_repo_tree("ada/model")}
    assert flat == {
        ".gitattributes": "RepoFile",
        "config.json": "RepoFile",
        "folder": "RepoFolder",
        "model.safetensors": "RepoFile",
    }
    assert {entry.path for entry in api.list_repo_tree("ada/model", recursive=True)} == {*flat, "folder/notes.txt"}
    (entry,) = api.list_repo_tree("ada/model", "folder")
    assert (entry.path, entry.size) == ("folder/notes.txt", 6)
    (large,) = api.get_paths_info("ada/model", ["model.safetensors", "nowhere"])
    assert large.lfs.size == large.size == 10240
    with pytest.raises(EntryNotFoundError):
        list(api.list_repo_tree("ada/model", "nowhere"))


# ---- commits, branches, tags -------------------------------------------------------------------------------------


def test_commit_adds_changes_and_deletes(hub, api, private_model):
    operations = [
        CommitOperationAdd("config.json", b"[]"),
        CommitOperationAdd("new.txt", b"new"),
        CommitOperationDelete("folder/"),
    ]
    second = api.create_commit("ada/model", operations, commit_message="second").oid
    assert set(hub.files("ada/model")) == {".gitattributes", "config.json", "model.safetensors", "new.txt"}
    assert hub.files("ada/model")["config.json"] == b"[]"
    assert hub.files("ada/model", revision=private_model)["config.json"] == b"{}"
    assert [commit.commit_id for commit in api.list_repo_commits("ada/model")][:2] == [second, private_model]
    with pytest.raises(EntryNotFoundError):
        api.create_commit("ada/model", [CommitOperationDelete("nowhere")], commit_message="third")


def test_unchanged_files_make_no_commit(hub, api, private_model):
    same = [CommitOperationAdd(name, content) for name, content in hub.files("ada/model").items()]
    before = hub.received
    assert api.create_commit("ada/model", same, commit_message="again").oid == private_model
    assert hub.received == before


def test_commit_on_an_outdated_parent_is_rejected(api, private_model):
    api.upload_file(path_or_fileobj=b"x", path_in_repo="x", repo_id="ada/model")
    operations = [CommitOperationAdd("y", b"y")]
    with pytest.raises(HfHubHTTPError, match="412"):
        api.create_commit("ada/model", operations, commit_message="late", parent_commit=private_model)


def test_branches_and_tags(hub, api, private_model):
    api.create_branch("ada/model", branch="next")
    api.upload_file(path_or_fileobj=b"x", path_in_repo="x", repo_id="ada/model", revision="next")
    api.create_tag("ada/model", tag="v1", revision="next")
    refs = api.list_repo_refs("ada/model")
    commits = {ref.name: ref.target_commit for ref in refs.branches + refs.tags}
    assert commits["main"] == private_model
    assert commits["next"] == commits["v1"] != private_model
    assert "x" not in hub.files("ada/model")
    assert api.model_info("ada/model", revision="v1").sha == commits["v1"]
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_branch("ada/model", branch="next")
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_tag("ada/model", tag="v1")
    api.delete_tag("ada/model", tag="v1")
    api.delete_branch("ada/model", branch="next")
    with pytest.raises(RevisionNotFoundError):
        api.model_info("ada/model", revision="v1")


# ---- network failures ---------------------------------------------------------------------------------------------


def test_interrupted_upload(hub, api):
    api.create_repo("ada/model")
    hub.interrupt_uploads(after_bytes=1_000, times=3)
    api.upload_file(path_or_fileobj=bytes(50_000), path_in_repo="a.bin", repo_id="ada/model")
    assert hub.received >= 53_000
    hub.interrupt_uploads(after_bytes=1_000)
    with pytest.raises(RuntimeError, match=r"Error while uploading 'b\.bin'"):
        api.upload_file(path_or_fileobj=bytes(60_000), path_in_repo="b.bin", repo_id="ada/model")
    assert set(hub.files("ada/model")) == {".gitattributes", "a.bin"}


def test_uploaded_content_must_match_its_hash(hub, api, private_model):
    client = huggingface_hub.utils.get_session()
    assert client.put(f"{hub.url}/lfs/models/ada/model/{'0' * 64}", content=b"other").status_code == 400
    line = json.dumps({"key": "lfsFile", "value": {"path": "a.bin", "algo": "sha256", "oid": "0" * 64, "size": 1}})
    headers = {"Authorization": "Bearer hf_ada"}
    response = client.post(f"{hub.url}/api/models/ada/model/commit/main", content=line, headers=headers)
    assert response.status_code == 400
    assert "a.bin" not in hub.files("ada/model")


def test_lost_response_leaves_a_commit(hub, api, private_model):
    hub.lose_commits(1)
    with pytest.raises(Exception, match="disconnected|closed|reset"):
        api.upload_file(path_or_fileobj=b"x", path_in_repo="x", repo_id="ada/model")
    assert hub.files("ada/model")["x"] == b"x"
    api.upload_file(path_or_fileobj=b"x", path_in_repo="x", repo_id="ada/model")
    assert len(hub.repo("ada/model").history("main")) == 3


# ---- cards -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metadata", "repo_type", "message"),
    [
        ("license: gratis", "model", '"license" must be one of'),
        ("language: english", "model", "not an ISO 639 code"),
        ("tags: emotion", "model", '"tags" must be a list'),
        ("base_model: llama", "model", "not a repo id"),
        ("a: [", "model", "not YAML"),
        ("widget: [{title: x}]", "model", "needs text or src"),
        ("model-index: [{name: x, results: [{task: {}, dataset: {type: x, name: y}}]}]", "model", "lacks task.type"),
        ("sdk: flask", "space", '"sdk" must be one of'),
    ],
)
def test_bad_metadata_is_rejected(api, metadata, repo_type, message):
    text = f"---\n{metadata}\n---\n# A card\n"
    assert message in " ".join(metadata_errors(text, repo_type))
    api.create_repo("ada/x", repo_type=repo_type, space_sdk="static" if repo_type == "space" else None)
    with pytest.raises(ValueError, match="Invalid metadata"):
        api.upload_file(path_or_fileobj=text.encode(), path_in_repo="README.md", repo_id="ada/x", repo_type=repo_type)


def test_repo_info_has_the_card_data(api):
    api.create_repo("ada/x")
    text = "---\nlicense: mit\ntags: [egmf]\npipeline_tag: video-classification\n---\n# A card\n"
    api.upload_file(path_or_fileobj=text.encode(), path_in_repo="README.md", repo_id="ada/x")
    info = api.model_info("ada/x")
    assert (info.pipeline_tag, info.tags, info.card_data.license) == ("video-classification", ["egmf"], "mit")
    assert ModelCard(text).data.to_dict() == info.card_data.to_dict()


# ---- a fresh process: metrics from Spaces, examples from a dataset -----------------------------------------------

PROCESS = """
import importlib.abc
import json
import sys


class WithoutTransformers(importlib.abc.MetaPathFinder):
    # evaluate and datasets import transformers if it is installed, which takes seconds.
    def find_spec(self, name, path=None, target=None):
        if name == "transformers":
            raise ImportError(name)


sys.meta_path.insert(0, WithoutTransformers())
import datasets
import evaluate

loaded = {}
for name, columns in json.loads(sys.argv[1]).items():
    loaded[name] = evaluate.load("ada/" + name).compute(**columns)
for name in ("folder", "pushed"):
    splits = datasets.load_dataset("ada/" + name)
    loaded[name] = {split: examples.to_list() for split, examples in splits.items()}
loaded["length at v1"] = len(datasets.load_dataset("ada/folder", revision="v1", split="train"))
print(json.dumps(loaded))
"""
METRIC_EXAMPLES = {
    "egmf_erc": {"predictions": ["joy", None, "fear"], "references": ["joy", "joy", "joy"]},
    "egmf_msa": {"predictions": [0.5, -0.5, 1.0], "references": [0.5, -1.0, 1.0]},
}


def convert_corpus(source, target):
    """Five examples, converted by `training.converters.folder`: shards, manifests, record and card."""
    source.mkdir()
    lines = []
    for i in range(5):
        line = {
            "id": f"r{i}",
            "split": "train" if i < 3 else "test",
            "text": "Not again.",
            "answer": "joy",
            "task": "emotion",
            "audio_features": f"r{i}.npy",
        }
        np.save(source / line["audio_features"], np.array([[0.5, i]], np.float32))
        lines.append(json.dumps(line))
    (source / "metadata.jsonl").write_text("\n".join(lines))
    folder_converter.main([str(source), str(target), "--no_progress", "--num_workers", "1"])


def push_metric(api, name):
    repo = {"repo_id": f"ada/{name}", "repo_type": "space"}
    api.create_repo(**repo, space_sdk="gradio")
    api.upload_folder(**repo, folder_path=METRICS / name, ignore_patterns=["__pycache__/*"])


def push_dataset(api, folder):
    repo = {"repo_id": "ada/folder", "repo_type": "dataset"}
    api.create_repo(**repo, private=True, exist_ok=True)
    api.upload_folder(**repo, folder_path=folder)


@pytest.mark.integration
def test_metrics_and_datasets_load_in_a_fresh_process(hub, api, tmp_path, monkeypatch, warm_python):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", hub.url)
    for name in METRIC_EXAMPLES:
        push_metric(api, name)
        files = {f"{name}.py", "README.md", "app.py", "requirements.txt"}
        assert set(hub.files(f"ada/{name}", "spaces")) >= files
    folder = tmp_path / "converted"
    convert_corpus(tmp_path / "own", folder)
    splits = datasets.load_dataset(str(folder))
    examples = {split: part.to_list() for split, part in splits.items()}
    features = [example["audio_features"] for example in examples["train"]]
    assert features == [[[0.5, i]] for i in range(3)]

    push_dataset(api, folder)
    api.create_tag("ada/folder", repo_type="dataset", tag="v1")
    pushed_files = hub.files("ada/folder", "datasets")
    assert set(pushed_files) > {"README.md", "conversion.json", "splits/official.json"}
    assert pushed_files["README.md"] == (folder / "README.md").read_bytes()
    (shard,) = (folder / "data").glob("train-*.parquet")
    changed = examples["train"][:2] * 2
    datasets.Dataset.from_list(changed).to_parquet(shard)
    push_dataset(api, folder)
    pushed = datasets.DatasetDict(train=datasets.Dataset.from_list(examples["train"]))
    pushed.push_to_hub("ada/pushed", private=True, token="hf_ada")  # noqa: S106
    assert hub.repo("ada/pushed", "datasets").private

    process = subprocess.run(
        [warm_python, "-c", PROCESS, json.dumps(METRIC_EXAMPLES)],
        cwd=tmp_path,
        env=hub.environment(tmp_path / "cache", "hf_ada") | {"USE_TORCH": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    loaded = json.loads(process.stdout.splitlines()[-1])
    assert loaded["egmf_erc"]["accuracy"] == pytest.approx(1 / 3)
    assert loaded["egmf_erc"]["unreadable_rate"] == pytest.approx(1 / 3)
    assert loaded["egmf_msa"]["mae"] == pytest.approx(0.5 / 3)
    assert loaded["folder"] == {"train": changed, "test": examples["test"]}
    assert loaded["length at v1"] == 3
    assert loaded["pushed"] == {"train": examples["train"]}
