"""The steps of a push: a trained run is uploaded to the Hub in one commit, then loaded back and compared.

    look_at_repo ─► check_target ─► choose_text_model ─► export_folder ─► send ─► verify ─► tag, make public

`pushed.json` in the repo says which model it holds: the hash of the run's trained weights. The same run may be pushed
again, as adapter or standalone checkpoint, with a new card or new code. A repo with other weights, or with files that
were not pushed by this command, belongs to another model: it is refused unless `overwrite` is set, which replaces its
files but keeps its history.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import LocalTokenNotFoundError, RepositoryNotFoundError

from modeling_egmf import EGMFConfig
from modeling_egmf.configuration_egmf import PIPELINE_TASK
from modeling_egmf.parts_egmf import with_located_parts

from ..records import check_writable, new_folder, only_writer, read_json
from .card_facts import CardFacts
from .errors import PushError, hub_errors
from .export_folder import (
    MANIFEST,
    ExportedModel,
    check_finished,
    describe_merging,
    export_folder,
    find_facts,
    list_files,
    require_shared_encoders,
    weights_fingerprint,
)
from .fresh_process import compute_answer, read_inputs
from .options import PushOptions
from .text_model import choose_text_model
from .verify import verify, write_example


NOT_OURS = {".gitattributes"}  # created by the Hub in every repo
ADAPTER_BYTES = 40_000_000  # more is reported as unusual


@dataclass
class RemoteRepo:
    """The state of a repo before a push."""

    exists: bool = False
    private: bool = True
    head: str | None = None
    branch_exists: bool = False
    files: frozenset[str] = frozenset()
    manifest: dict[str, Any] | None = None
    tags: tuple[tuple[str, str], ...] = ()

    def tagged(self, tag: str | None) -> str | None:
        """The commit that a tag names."""
        return dict(self.tags).get(tag)


@dataclass
class Pushed:
    """Result of a push: the commit, its size in bytes, and how its answer compared (None if not verified)."""

    repo_id: str
    commit: str
    size: int
    files: int
    difference: float | None = None
    label: str | None = None
    pipeline: str | None = None


# ---- checks -----------------------------------------------------------------------------------------------------


def check_token(api: HfApi, repo_id: str) -> None:
    """Refuse a token that cannot write, before any work is done.

    Raises:
        PushError: there is no token, or it is read-only.
    """
    with hub_errors("checking the token", repo_id):
        try:
            user = api.whoami()
        except (LocalTokenNotFoundError, ValueError) as error:
            raise PushError("There is no token. Log in with `hf auth login`, or set HF_TOKEN.") from error
        if user.get("auth", {}).get("accessToken", {}).get("role") == "read":
            raise PushError(f"The token cannot write to {repo_id}: it is read-only. Use one with the role 'write'.")


def look_at_repo(api: HfApi, repo_id: str, revision: str | None) -> RemoteRepo:
    """The state of the repo on the branch to push to, or on main if that branch does not exist yet."""
    with hub_errors(f"reading {repo_id}", repo_id):
        try:
            refs = api.list_repo_refs(repo_id)
        except RepositoryNotFoundError:
            return RemoteRepo()
        branches = {ref.name: ref.target_commit for ref in refs.branches}
        branch = revision or "main"
        info = api.model_info(repo_id, revision=branches.get(branch) or branches.get("main"))
        files = frozenset(entry.rfilename for entry in info.siblings or [])
        return RemoteRepo(
            exists=True,
            private=bool(info.private),
            head=info.sha,
            branch_exists=branch in branches,
            files=files,
            manifest=_read_manifest(api, repo_id, info.sha) if MANIFEST in files else None,
            tags=tuple((ref.name, ref.target_commit) for ref in refs.tags),
        )


def _read_manifest(api: HfApi, repo_id: str, revision: str) -> dict[str, Any] | None:
    """The manifest of a repo; None if it is not one of ours."""
    manifest = None
    with tempfile.TemporaryDirectory() as cache:
        path = api.hf_hub_download(repo_id, MANIFEST, revision=revision, cache_dir=cache)
        with contextlib.suppress(ValueError):
            manifest = read_json(path)
    is_ours = isinstance(manifest, dict) and "model" in manifest and isinstance(manifest.get("files"), dict)
    return manifest if is_ours else None


def check_target(remote: RemoteRepo, options: PushOptions, fingerprint: str) -> None:
    """Refuse a push that would replace or publish something by mistake.

    Raises:
        PushError: the repo holds another model, is public already, or the tag is taken.
    """
    repo_id = options.repo_id
    present = remote.files - NOT_OURS
    if present and not options.overwrite:
        if remote.manifest is None:
            shown = ", ".join(sorted(present)[:3])
            raise PushError(
                f"{repo_id} holds files that were not pushed by this command ({shown}, {len(present)} in all). Choose "
                "another name, or replace them with --overwrite."
            )
        if remote.manifest["model"] != fingerprint:
            raise PushError(
                f"{repo_id} holds another model: its {MANIFEST} names the trained weights "
                f"{str(remote.manifest['model'])[:12]}, this run's are {fingerprint[:12]}. Choose another name, or "
                "replace it with --overwrite; its history stays."
            )
    if remote.exists and not remote.private and not options.public:
        raise PushError(f"{repo_id} is public: give --public if everyone may see this run, or choose another name.")
    tagged = remote.tagged(options.tag)
    if tagged is not None and tagged != remote.head:
        raise PushError(f"The tag {options.tag} is taken by commit {tagged[:12]}. Tags never move: choose another.")


def check_facts(facts: CardFacts, public: bool, report: Callable[[str], None]) -> None:
    """Report the required facts that the card lacks.

    Raises:
        PushError: facts are missing, and the repo will be public.
    """
    missing = ", ".join(facts.missing())
    if missing and public:
        raise PushError(f"A public card must have {missing}. Give --card with these fields.")
    if missing:
        report(f"card       lacks {missing}: give --card before making the repo public")


# ---- the commit -------------------------------------------------------------------------------------------------


def send(api: HfApi, folder: Path, options: PushOptions, remote: RemoteRepo, message: str, replace: bool) -> str:
    """Commit all files of a folder, and delete those that are no longer part of the model. Returns the commit's id.

    Args:
        api: endpoint and token of the Hub.
        folder: the future content of the repo.
        options: repo and branch.
        remote: state of the repo; if it has changed since, the Hub refuses the commit.
        message: commit message.
        replace: also delete the files of another model.
    """
    repo_id = options.repo_id
    paths = {str(path.relative_to(folder)): path for path in list_files(folder)}
    pushed_before = {*remote.manifest["files"], MANIFEST} if remote.manifest else set()
    removable = remote.files - NOT_OURS if replace else remote.files & pushed_before
    # Not upload_folder: with hf_xet it may split a folder into several commits, and a reader could load half of it.
    operations: list[Any] = [CommitOperationAdd(name, path) for name, path in paths.items()]
    operations += [CommitOperationDelete(name) for name in sorted(removable - set(paths))]
    with hub_errors(f"uploading {repo_id}", repo_id):
        if not remote.exists:
            api.create_repo(repo_id, private=True, exist_ok=True)
        if options.revision is not None and not remote.branch_exists:
            api.create_branch(repo_id, branch=options.revision, exist_ok=True)
        commit = api.create_commit(
            repo_id,
            operations,
            commit_message=message,
            revision=options.revision,
            parent_commit=remote.head,
        )
    return commit.oid


def publish(api: HfApi, options: PushOptions, remote: RemoteRepo, commit: str, report: Callable[[str], None]) -> None:
    """Tag the commit and make the repo public, if requested.

    Raises:
        PushError: the tag was taken in the meantime, or the Hub refused.
    """
    repo_id = options.repo_id
    with hub_errors(f"tagging or publishing {repo_id}", repo_id):
        if options.tag is not None:
            if remote.tagged(options.tag) not in (None, commit):
                raise PushError(
                    f"{repo_id} was pushed, but the tag {options.tag} stays on another commit: choose another."
                )
            api.create_tag(repo_id, tag=options.tag, revision=commit, exist_ok=True)
            report(f"tagged     {options.tag}")
        if options.public and remote.private:
            api.update_repo_settings(repo_id, private=False)
            report(f"published  {repo_id} is public")


# ---- the push ---------------------------------------------------------------------------------------------------


def push(options: PushOptions, api: HfApi, report: Callable[[str], None] = print) -> Pushed:
    """Export, send, load back, compare, then tag and publish.

    Args:
        options: the run and its target.
        api: endpoint and token of the Hub.
        report: called with progress lines.

    Raises:
        PushError: a step failed; the message says what to do.
    """
    fingerprint = weights_fingerprint(options.run)
    check_token(api, options.repo_id)
    remote = look_at_repo(api, options.repo_id, options.revision)
    check_target(remote, options, fingerprint)
    text_model = None if options.standalone else choose_text_model(api, options, report)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "repo")
        inputs = Path(temporary, "inputs.npz")
        exported = export_folder(options, folder, text_model)
        if exported.merging is not None:
            report(describe_merging(exported.merging))
        check_facts(exported.facts, options.public, report)
        expected = {}
        if options.verify:
            sample = read_inputs(str(write_example(exported.processor, inputs)))
            expected = compute_answer(exported.model, exported.processor, sample)
        size = _report_size(folder, exported, report)
        another_model = remote.manifest is None or remote.manifest["model"] != fingerprint
        message = options.message or f"EGMF, {exported.kind}, trained weights {fingerprint[:12]}"
        commit = send(api, folder, options, remote, message, replace=options.overwrite and another_model)
        report(f"pushed     {options.repo_id}, commit {commit}")
        pipeline = PIPELINE_TASK
        pushed = Pushed(options.repo_id, commit, size, len(list_files(folder)), pipeline=pipeline)
        if options.verify:
            answer = verify(api, options.repo_id, commit, expected, inputs, pipeline)
            pushed.difference = float(np.abs(answer["logits"] - expected["logits"]).max())
            pushed.label = str(answer["label"])
            report(_describe_verification(pushed))
    publish(api, options, remote, commit, report)
    report(f"pin it     AutoModel.from_pretrained({options.repo_id!r}, revision={commit!r}, trust_remote_code=True)")
    return pushed


def _report_size(folder: Path, exported: ExportedModel, report: Callable[[str], None]) -> int:
    """Report the folder's size. Returns it, in bytes."""
    paths = list_files(folder)
    size = sum(path.stat().st_size for path in paths)
    report(f"folder     {exported.kind}, {len(paths)} files, {size / 1e6:.1f} MB")
    if exported.kind == "adapter" and size > ADAPTER_BYTES:
        limit = f"{ADAPTER_BYTES / 1e6:.0f} MB"
        report(f"           more than {limit} for an adapter checkpoint: are the results that large?")
    return size


def _describe_verification(pushed: Pushed) -> str:
    classes = "AutoModel, AutoProcessor"
    if pushed.pipeline:
        classes += f", pipeline {pushed.pipeline}"
    equality = "logits equal bit for bit" if pushed.difference == 0 else f"logits within {pushed.difference:.1e}"
    return f"verified   in a fresh process with an empty cache: {classes}; answer {pushed.label}, {equality}"


def check_dry_run(options: PushOptions, folder: Path) -> None:
    """Name all obstacles to a push that are known without network access, before the model is loaded.

    Raises:
        PushError: there are some.
    """
    run = options.run
    obstacles = []

    def attempt(check: Callable[..., Any], *arguments: Any) -> None:
        try:
            check(*arguments)
        except (OSError, ValueError) as error:
            obstacles.append(str(error))

    attempt(weights_fingerprint, run)
    attempt(check_empty, folder)
    if (run / "config.json").is_file():
        attempt(check_finished, run)
        attempt(find_facts, run, options.card, None)
        if not options.standalone:
            attempt(choose_text_model, None, options)
            attempt(check_encoders, run)
    if len(obstacles) > 1:
        raise PushError("\n- ".join([f"there are {len(obstacles)} obstacles.", *obstacles]))
    if obstacles:
        raise PushError(obstacles[0])


def check_empty(folder: Path) -> None:
    """Refuse a file, or a folder with anything in it."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise PushError(f"{folder} is not empty, or a file. Give another --folder, or empty it.")


def check_encoders(run: Path) -> None:
    """Refuse an adapter checkpoint that names a local folder with an encoder, by its configuration alone."""
    with contextlib.suppress(OSError, TypeError):  # `choose_text_model` names a damaged one
        config = EGMFConfig.from_pretrained(run)
        require_shared_encoders(with_located_parts(config, run))


def dry_run(options: PushOptions, folder: Path, report: Callable[[str], None] = print) -> None:
    """Write the folder and list its files, without network access.

    Raises:
        PushError: as for `push`, or the folder is not empty. Obstacles that are known before the model is loaded are
            named together.
    """
    folder = new_folder(folder)
    check_dry_run(options, folder)
    check_writable(folder)
    text_model = None if options.standalone else choose_text_model(None, options, report)
    partial = folder.with_name(f".{folder.name}.partial")  # so that an interrupted folder is not taken for a whole one
    with only_writer(folder, "dry run", "--folder"):
        shutil.rmtree(partial, ignore_errors=True)
        try:
            exported = export_folder(options, partial, text_model)
            os.replace(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    if exported.merging is not None:
        report(describe_merging(exported.merging))
    paths = list_files(folder)
    for path in paths:
        report(f"{path.stat().st_size:>12,}  {path.relative_to(folder)}")
    report(f"{sum(path.stat().st_size for path in paths):>12,}  bytes in {folder}; nothing was sent")
    check_facts(exported.facts, False, report)
