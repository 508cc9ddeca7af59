"""The metrics as Spaces, so that `evaluate.load("ORG/egmf_erc")` loads them anywhere.

hub_cards/metrics/NAME ─► its examples name the Space ─► one commit ─► loaded in a fresh process, figures compared
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import evaluate
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import RepositoryNotFoundError

from ..paths import HUB_CARDS
from ..records import write_text
from .card_metadata import check_card
from .errors import PushError, hub_errors
from .upload import check_token
from .verify import fresh_environment


METRICS = HUB_CARDS / "metrics"
EXAMPLES: dict[str, dict[str, list[Any]]] = {  # name of a metric -> examples that are computed here and from its Space
    "egmf_erc": {
        "predictions": ["joy", None, "anger", "joy", "joy"],
        "references": ["joy", "joy", "anger", "joy", "anger"],
    },
    "egmf_msa": {"predictions": [0.5, None, -0.8, 0.4, 0.9], "references": [1.0, 0.0, -0.4, 1.0, 0.6]},
}
CREATED_BY_THE_HUB = {".gitattributes", "README.md"}


def push_metrics(
    organization: str,
    api: HfApi,
    public: bool = False,
    report: Callable[[str], None] = print,
) -> dict[str, str]:
    """Publish every metric. Returns the commit of each Space by its id.

    Args:
        organization: organization or user that owns the Spaces.
        api: endpoint and token of the Hub.
        public: make the Spaces public after the check; new ones are private until then.
        report: called with progress lines.

    Raises:
        PushError: a Space holds something else or is public already, or its figures differ from those computed here.
    """
    repo_ids = {name: f"{organization}/{name}" for name in EXAMPLES}
    check_token(api, organization)
    heads = {name: check_space(api, repo_id, name, public) for name, repo_id in repo_ids.items()}
    commits = {}
    for name, repo_id in repo_ids.items():
        commits[repo_id] = send_space(api, repo_id, name, heads[name])
        report(f"pushed     {repo_id}, commit {commits[repo_id]}")
    check_figures(api, commits)
    report("verified   in a fresh process with an empty cache: evaluate.load gives the figures of this checkout")
    for repo_id in commits:
        if public:
            with hub_errors(f"publishing {repo_id}", repo_id):
                api.update_repo_settings(repo_id, private=False, repo_type="space")
        report(f"use it     evaluate.load({repo_id!r})")
    return commits


def check_space(api: HfApi, repo_id: str, name: str, public: bool) -> str | None:
    """The newest commit of a metric's Space; None if there is no such Space yet.

    Raises:
        PushError: it holds something else, or is public although `public` is not set.
    """
    with hub_errors(f"reading {repo_id}", repo_id):
        try:
            info = api.space_info(repo_id)
        except RepositoryNotFoundError:
            return None
    files = {entry.rfilename for entry in info.siblings or []}
    if files - CREATED_BY_THE_HUB and f"{name}.py" not in files:
        raise PushError(f"The Space {repo_id} holds something else: it has no {name}.py. Rename or delete it.")
    if not info.private and not public:
        raise PushError(f"The Space {repo_id} is public: give --public if everyone may see this version.")
    return info.sha


def send_space(api: HfApi, repo_id: str, name: str, head: str | None) -> str:
    """Commit all files of a metric to its Space. Returns the commit's id.

    Args:
        api: endpoint and token of the Hub.
        repo_id: the Space.
        name: name of the metric.
        head: the newest commit; if there is another one by then, the Hub refuses. None to create the Space.
    """
    with tempfile.TemporaryDirectory() as folder, hub_errors(f"uploading {repo_id}", repo_id):
        paths = write_space(Path(folder), repo_id, name)
        if head is None:
            api.create_repo(repo_id, repo_type="space", space_sdk="gradio", private=True)
        commit = api.create_commit(
            repo_id,
            [CommitOperationAdd(path.name, path) for path in paths],
            commit_message=f"The metric {name} of EGMF",
            repo_type="space",
            parent_commit=head,
        )
    return commit.oid


def write_space(folder: Path, repo_id: str, name: str) -> list[Path]:
    """Write the files of a metric's Space, in which the examples load the metric by the name of the Space."""
    paths = []
    for source in sorted(path for path in (METRICS / name).iterdir() if path.is_file()):
        text = source.read_text(encoding="utf-8").replace(f'"hub_cards/metrics/{name}"', f'"{repo_id}"')
        paths.append(write_text(folder / source.name, text))
    check_card((folder / "README.md").read_text(encoding="utf-8"), "space")
    return paths


def check_figures(api: HfApi, commits: dict[str, str]) -> None:
    """Load the Spaces in a fresh process, and compare their figures with those computed here.

    Args:
        api: endpoint and token of the Hub.
        commits: commit of each Space by its id.

    Raises:
        PushError: a metric does not load, or its figures differ.
    """
    jobs = []
    expected = []
    for repo_id, commit in commits.items():
        name = repo_id.split("/")[-1]
        metric = evaluate.load(str(METRICS / name), keep_in_memory=True)
        expected.append(metric.compute(**EXAMPLES[name]))
        jobs.append({"repo": repo_id, "revision": commit, "columns": EXAMPLES[name]})
    script = Path(__file__).with_name("fresh_metrics.py")
    with tempfile.TemporaryDirectory() as cache:
        completed = subprocess.run(
            [sys.executable, "-I", str(script), json.dumps(jobs)],
            cwd=cache,
            env={**fresh_environment(Path(cache), api), "HF_UPDATE_DOWNLOAD_COUNTS": "0"},
            capture_output=True,
            text=True,
            check=False,
        )
    if completed.returncode:
        last_lines = "\n".join(completed.stderr.strip().splitlines()[-12:])
        raise PushError(f"The Spaces are on the Hub but do not load in a fresh process:\n{last_lines}")
    figures = json.loads(completed.stdout.splitlines()[-1])
    if figures != expected:
        raise PushError(f"The Spaces are on the Hub, but their figures are {figures}; here they are {expected}.")
