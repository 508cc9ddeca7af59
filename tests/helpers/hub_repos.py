"""Repos of the Hub for tests, in memory: files, commits, branches and tags."""

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


class RejectedError(Exception):
    """A response with an error status, in the Hub's own words."""

    def __init__(self, status: int, message: str, code: str | None = None, body: dict[str, Any] | None = None):
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.body = body


@dataclass(frozen=True)
class Blob:
    """The content of one file, and whether git-LFS stores it."""

    content: bytes
    lfs: bool = False

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def git_oid(self) -> str:
        """The id that git gives the content, or the LFS pointer that replaces it."""
        stored = self.content
        if self.lfs:
            lines = [
                "version https://git-lfs.github.com/spec/v1",
                f"oid sha256:{self.sha256}",
                f"size {len(self.content)}",
            ]
            stored = "".join(f"{line}\n" for line in lines).encode()
        header = b"blob %d\0" % len(stored)
        return hashlib.sha1(header + stored, usedforsecurity=False).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.git_oid


@dataclass(frozen=True)
class Commit:
    """All files at one point in time, by path."""

    oid: str
    parent: str | None
    title: str
    files: Mapping[str, Blob]


@dataclass
class Repo:
    """A model, dataset or Space with its history, branches and tags."""

    kind: str  # "models", "datasets" or "spaces"
    id: str
    private: bool
    sdk: str | None = None
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)  # uploaded by git-LFS: SHA-256 -> content

    def commit(self, branch: str, files: Mapping[str, Blob], title: str) -> Commit:
        """Put a commit with exactly these files on top of a branch."""
        parent = self.branches.get(branch)
        identity = f"{self.kind}/{self.id} {parent} {title} {len(self.commits)}"
        digest = hashlib.sha1(identity.encode(), usedforsecurity=False)
        for path, blob in sorted(files.items()):
            digest.update(f"{path} {blob.git_oid}".encode())
        commit = Commit(digest.hexdigest(), parent, title, dict(files))
        self.commits[commit.oid] = commit
        self.branches[branch] = commit.oid
        return commit

    def at(self, revision: str) -> Commit | None:
        """The commit of a branch, a tag, or a commit id, which may be abbreviated."""
        oid = self.branches.get(revision) or self.tags.get(revision)
        if oid is None and re.fullmatch(r"[0-9a-f]{5,40}", revision):
            oid = next((known for known in self.commits if known.startswith(revision)), None)
        return self.commits.get(oid) if oid else None

    def history(self, revision: str) -> list[Commit]:
        """Newest first."""
        commits = []
        commit = self.at(revision)
        while commit is not None:
            commits.append(commit)
            commit = self.commits.get(commit.parent) if commit.parent else None
        return commits

    def apply(self, files: dict[str, Blob], operation: str, value: dict[str, Any]) -> dict[str, Blob]:
        """The files after one operation of a commit.

        Raises:
            RejectedError: an object that was never uploaded, a file that does not exist, an unknown operation.
        """
        path = value["path"]
        if operation == "file":
            return {**files, path: Blob(base64.b64decode(value["content"]))}
        if operation == "lfsFile":
            if value["oid"] not in self.objects:
                raise RejectedError(400, f"The content of {path} was never uploaded")
            return {**files, path: Blob(self.objects[value["oid"]], lfs=True)}
        if operation == "deletedFile":
            if path not in files:
                raise RejectedError(404, "A file with this name doesn't exist", "EntryNotFound")
            return {name: blob for name, blob in files.items() if name != path}
        if operation == "deletedFolder":
            folder = path.rstrip("/") + "/"
            return {name: blob for name, blob in files.items() if not name.startswith(folder)}
        raise RejectedError(400, f"Unknown operation {operation}")
