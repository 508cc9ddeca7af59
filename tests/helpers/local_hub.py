"""A Hub for tests: as much of its HTTP protocol as `huggingface_hub` needs to push and the loaders need to load.

    with LocalHub(tokens={"hf_ada": "ada"}) as hub:
        api = HfApi(endpoint=hub.url, token="hf_ada")      # push
        environment = hub.environment(tmp_path / "cache")   # load, in a process with an empty cache

Repos live in memory. Every request is noted in `hub.requests` and the bytes of every upload in `hub.received`.
Uploads go by git-LFS or within the commit; there is no xet here, so clients need `HF_HUB_DISABLE_XET=1`.
`hub.interrupt_uploads` and `hub.lose_commits` make a network that breaks off.
"""

import base64
import hashlib
import http.server
import json
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml


LFS_SUFFIXES = {".safetensors", ".parquet", ".arrow", ".npz", ".npy", ".mp4", ".wav", ".png", ".bin", ".gz"}
LFS_FROM_BYTES = 10_000_000
GIT_ATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in sorted(LFS_SUFFIXES))
NOW = "2026-01-02T03:04:05.000Z"
LICENCES = {
    "apache-2.0",
    "mit",
    "bsd-3-clause",
    "cc-by-4.0",
    "cc-by-sa-4.0",
    "cc-by-nc-4.0",
    "gpl-3.0",
    "other",
    "unknown",
}


@dataclass(frozen=True)
class Blob:
    """One file's content, and whether it went by git-LFS."""

    content: bytes
    lfs: bool = False

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def git_oid(self) -> str:
        """The id that git gives the content, or the pointer that stands for it."""
        content = self.content
        if self.lfs:
            lines = ("version https://git-lfs.github.com/spec/v1", f"oid sha256:{self.sha256}", f"size {len(content)}")
            content = "".join(f"{line}\n" for line in lines).encode()
        return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.git_oid


@dataclass(frozen=True)
class Commit:
    """All files at one point, by path."""

    oid: str
    parent: str | None
    title: str
    files: Mapping[str, Blob]


@dataclass
class Repo:
    """A model, dataset or Space with its history, branches and tags."""

    kind: str
    id: str
    private: bool
    sdk: str | None = None
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)

    def commit(self, branch: str, files: Mapping[str, Blob], title: str) -> Commit:
        """Put a commit with exactly these files on top of a branch."""
        parent = self.branches.get(branch)
        digest = hashlib.sha1(
            f"{self.kind}/{self.id} {parent} {title} {len(self.commits)}".encode(), usedforsecurity=False
        )
        for path, blob in sorted(files.items()):
            digest.update(f"{path} {blob.git_oid}".encode())
        made = Commit(digest.hexdigest(), parent, title, dict(files))
        self.commits[made.oid] = made
        self.branches[branch] = made.oid
        return made

    def at(self, revision: str) -> Commit | None:
        """The commit that a branch, a tag or (the start of) a commit's id names."""
        oid = self.branches.get(revision) or self.tags.get(revision)
        if oid is None and re.fullmatch(r"[0-9a-f]{5,40}", revision):
            oid = next((known for known in self.commits if known.startswith(revision)), None)
        return self.commits.get(oid) if oid else None

    def history(self, revision: str) -> list[Commit]:
        """Newest first."""
        found, commit = [], self.at(revision)
        while commit is not None:
            found.append(commit)
            commit = self.commits.get(commit.parent) if commit.parent else None
        return found


class RefusedError(Exception):
    """An answer with an error status, in the Hub's own words."""

    def __init__(self, status: int, message: str, code: str | None = None, body: dict | None = None):
        super().__init__(message)
        self.status, self.message, self.code, self.body = status, message, code, body


class LocalHub:
    """The server and what it holds. Use it as a context manager.

    Args:
        tokens: token -> name of the user it belongs to. Any other token is refused.
        organisations: name -> its members; they read and write what is in it.
        readers: tokens that may only read.
    """

    def __init__(
        self,
        tokens: Mapping[str, str],
        organisations: Mapping[str, tuple[str, ...]] | None = None,
        readers: tuple[str, ...] = (),
    ):
        self.tokens, self.organisations, self.readers = dict(tokens), dict(organisations or {}), set(readers)
        self.repos: dict[tuple[str, str], Repo] = {}
        self.requests: list[tuple[str, str]] = []
        self.received = 0
        self._cut_after, self._cuts, self._lost = 0, 0, 0
        self._lock = threading.RLock()
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "LocalHub":
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def environment(self, cache: Path, token: str | None = None) -> dict[str, str]:
        """Variables for a process that sees this Hub, an empty cache and nothing of the user's own."""
        found = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(cache),
            "HF_HOME": str(cache / "hf"),
            "HF_ENDPOINT": self.url,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_UPDATE_DOWNLOAD_COUNTS": "0",
            "OMP_NUM_THREADS": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "NO_PROXY": "127.0.0.1",
        }
        return found | ({"HF_TOKEN": token} if token else {})

    def repo(self, repo_id: str, kind: str = "models") -> Repo:
        return self.repos[kind, repo_id]

    def files(self, repo_id: str, kind: str = "models", revision: str = "main") -> dict[str, bytes]:
        """Content by path, of one revision."""
        return {path: blob.content for path, blob in self.repo(repo_id, kind).at(revision).files.items()}

    def interrupt_uploads(self, after_bytes: int, times: int = 1_000_000) -> None:
        """Close the connection of the next `times` uploads of large files when so many bytes have come; 0 ends it."""
        self._cut_after, self._cuts = after_bytes, times

    def lose_commits(self, times: int = 1) -> None:
        """Make the next commits, but close the connection in place of an answer."""
        self._lost = times

    # ---- who may do what -----------------------------------------------------------------------------------------

    def user_of(self, header: str | None) -> tuple[str | None, bool]:
        """Name and whether they may write; nobody without a token."""
        if not header:
            return None, False
        token = header.removeprefix("Bearer ").strip()
        if token not in self.tokens:
            raise RefusedError(401, "Invalid credentials in Authorization header")
        return self.tokens[token], token not in self.readers

    def owns(self, user: str | None, repo_id: str) -> bool:
        owner = repo_id.split("/")[0]
        return user is not None and (owner == user or user in self.organisations.get(owner, ()))

    def visible(self, kind: str, repo_id: str, user: str | None) -> Repo:
        found = self.repos.get((kind, repo_id))
        if found is None or (found.private and not self.owns(user, repo_id)):
            raise RefusedError(404 if user else 401, "Repository not found", "RepoNotFound")
        return found

    def writable(self, kind: str, repo_id: str, user: str | None, may_write: bool) -> Repo:
        found = self.visible(kind, repo_id, user)
        if not self.owns(user, repo_id) or not may_write:
            raise RefusedError(403, f"You don't have the rights to write to {repo_id}")
        return found

    def take_cut(self) -> int | None:
        """Bytes after which this upload is cut, or None."""
        with self._lock:
            if self._cuts <= 0:
                return None
            self._cuts -= 1
            return self._cut_after

    def take_loss(self) -> bool:
        with self._lock:
            self._lost -= 1
            return self._lost >= 0


class _Handler(http.server.BaseHTTPRequestHandler):
    """One connection. `ROUTES`, below, says which method answers what."""

    protocol_version = "HTTP/1.1"
    hub: LocalHub
    _body: bytes | None = None

    def log_message(self, *arguments: Any) -> None:
        pass

    def setup(self) -> None:
        super().setup()
        self.connection.settimeout(30)

    # ---- the frame -----------------------------------------------------------------------------------------------

    def _handle(self) -> None:
        self._body, self._answered = None, False
        address = urlsplit(self.path)
        self.query, path = parse_qs(address.query), address.path
        self.hub.requests.append((self.command, unquote(path)))
        try:
            for methods, pattern, name in ROUTES:
                match = re.fullmatch(pattern, path)
                if match and self.command in methods:
                    self.user, self.may_write = self.hub.user_of(self.headers.get("Authorization"))
                    parts = {key: unquote(value or "") for key, value in match.groupdict().items()}
                    with self.hub._lock if name != "_take_object" else threading.Lock():
                        getattr(self, name)(**parts)
                    break
            else:
                raise RefusedError(404, f"No such address: {self.command} {path}")
        except RefusedError as refusal:
            headers = {"X-Error-Message": refusal.message}
            if refusal.code:
                headers["X-Error-Code"] = refusal.code
            self._json(refusal.body or {"error": refusal.message}, refusal.status, headers)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _handle  # noqa: N815

    def _content(self) -> bytes:
        if self._body is None:
            if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
                chunks = []
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    chunks.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                self._body = b"".join(chunks)
            else:
                self._body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return self._body

    def _payload(self) -> dict[str, Any]:
        return json.loads(self._content() or b"{}")

    def _send(self, content: bytes, status: int, headers: dict[str, str]) -> None:
        self._content()  # what is left unread would be taken for the next request
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._send(json.dumps(value).encode(), status, {"Content-Type": "application/json", **(headers or {})})

    def _hang_up(self) -> None:
        self.close_connection = True  # without an answer

    def _commit_at(self, repo: Repo, revision: str) -> Commit:
        found = repo.at(revision or "main")
        if found is None:
            raise RefusedError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return found

    # ---- people and repos ----------------------------------------------------------------------------------------

    def _whoami(self) -> None:
        if self.user is None:
            raise RefusedError(401, "Invalid username or password.")
        organisations = [name for name, members in self.hub.organisations.items() if self.user in members]
        self._json(
            {
                "type": "user",
                "name": self.user,
                "orgs": [{"type": "org", "name": name} for name in organisations],
                "auth": {
                    "type": "access_token",
                    "accessToken": {"displayName": "a token", "role": "write" if self.may_write else "read"},
                },
            }
        )

    def _create(self) -> None:
        asked = self._payload()
        kind = f"{asked.get('type', 'model')}s"
        repo_id = f"{asked.get('organization') or self.user}/{asked['name']}"
        if self.user is None:
            raise RefusedError(401, "Invalid username or password.")
        if not self.hub.owns(self.user, repo_id) or not self.may_write:
            raise RefusedError(403, f"You don't have the rights to create a {kind[:-1]} under this namespace")
        prefix = "" if kind == "models" else f"{kind}/"
        address = {"url": f"{self.hub.url}/{prefix}{repo_id}", "name": repo_id}
        if (kind, repo_id) in self.hub.repos:
            body = {"error": "You already created this repo", **address}
            raise RefusedError(409, "You already created this repo", body=body)
        repo = Repo(kind, repo_id, asked.get("visibility") == "private", asked.get("sdk"))
        repo.commit("main", {".gitattributes": Blob(GIT_ATTRIBUTES.encode())}, "initial commit")
        self.hub.repos[kind, repo_id] = repo
        self._json(address)

    def _settings(self, kind: str, repo: str) -> None:
        found = self.hub.writable(kind, repo, self.user, self.may_write)
        found.private = self._payload().get("visibility", "private" if found.private else "public") == "private"
        self._json({"private": found.private})

    def _info(self, kind: str, repo: str, revision: str = "") -> None:
        found = self.hub.visible(kind, repo, self.user)
        commit = self._commit_at(found, revision)
        card = _metadata_of(commit.files["README.md"].content.decode()) if "README.md" in commit.files else {}
        self._json(
            {
                "_id": hashlib.sha256(repo.encode()).hexdigest()[:24],
                "id": repo,
                "author": repo.split("/")[0],
                "sha": commit.oid,
                "private": found.private,
                "gated": False,
                "disabled": False,
                "downloads": 0,
                "likes": 0,
                "tags": list(card.get("tags") or []),
                "lastModified": NOW,
                "createdAt": NOW,
                "cardData": card,
                "siblings": [{"rfilename": path} for path in sorted(commit.files)],
                **({"modelId": repo, "pipeline_tag": card.get("pipeline_tag")} if kind == "models" else {}),
                **({"sdk": found.sdk} if kind == "spaces" else {}),
            }
        )

    def _refs(self, kind: str, repo: str) -> None:
        found = self.hub.visible(kind, repo, self.user)

        def listed(names: dict[str, str], folder: str) -> list[dict[str, str]]:
            return [{"name": n, "ref": f"refs/{folder}/{n}", "targetCommit": oid} for n, oid in names.items()]

        branches, tags = listed(found.branches, "heads"), listed(found.tags, "tags")
        self._json({"branches": branches, "converts": [], "tags": tags, "pullRequests": []})

    def _commits(self, kind: str, repo: str, revision: str) -> None:
        found = self.hub.visible(kind, repo, self.user)
        self._commit_at(found, revision)
        shown = found.history(revision)
        self._json(
            [{"id": c.oid, "authors": [{"user": "ada"}], "date": NOW, "title": c.title, "message": ""} for c in shown]
        )

    def _branch(self, kind: str, repo: str, name: str) -> None:
        found = self.hub.writable(kind, repo, self.user, self.may_write)
        if self.command == "DELETE":
            found.branches.pop(name, None)
        elif name in found.branches:
            raise RefusedError(409, f"Reference already exists: {name}")
        else:
            found.branches[name] = self._commit_at(found, self._payload().get("startingPoint", "main")).oid
        self._json({})

    def _tag(self, kind: str, repo: str, name: str) -> None:
        found = self.hub.writable(kind, repo, self.user, self.may_write)
        if self.command == "DELETE":
            found.tags.pop(name, None)
        else:
            tag = self._payload()["tag"]
            if tag in found.tags:
                raise RefusedError(409, f"Tag reference exists already: {tag}")
            found.tags[tag] = self._commit_at(found, name).oid
        self._json({})

    # ---- what is in a repo ---------------------------------------------------------------------------------------

    def _tree(self, kind: str, repo: str, revision: str, folder: str = "") -> None:
        files = self._commit_at(self.hub.visible(kind, repo, self.user), revision).files
        recursive = self.query.get("recursive", ["false"])[0].lower() in ("true", "1")
        begin = f"{folder}/" if folder else ""
        inside = {path: blob for path, blob in files.items() if path.startswith(begin)}
        if folder and not inside:
            raise RefusedError(404, f"{folder} does not exist on {revision!r}", "EntryNotFound")
        folders = {
            str(parent)
            for path in inside
            for parent in PurePosixPath(path).parents
            if str(parent) != "." and str(parent).startswith(begin)
        }
        entries = [_entry(path, blob) for path, blob in inside.items()] + [_folder(path) for path in folders]
        if not recursive:
            entries = [entry for entry in entries if "/" not in entry["path"][len(begin) :]]
        self._json(sorted(entries, key=lambda entry: entry["path"]))

    def _paths_info(self, kind: str, repo: str, revision: str) -> None:
        files = self._commit_at(self.hub.visible(kind, repo, self.user), revision).files
        body = self._content().decode()
        asked = json.loads(body)["paths"] if body.startswith("{") else parse_qs(body).get("paths", [])
        found = []
        for path in asked:
            if path in files:
                found.append(_entry(path, files[path]))
            elif any(other.startswith(f"{path}/") for other in files):
                found.append(_folder(path))
        self._json(found)

    def _resolve(self, repo: str, revision: str, path: str, kind: str = "") -> None:
        kind = kind.rstrip("/") or "models"
        commit = self._commit_at(self.hub.visible(kind, repo, self.user), revision)
        headers = {"X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes"}
        if path not in commit.files:
            headers |= {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
            self._send(b"Entry not found", 404, headers)
            return
        blob = commit.files[path]
        headers |= {"ETag": f'"{blob.etag}"', "Content-Type": "application/octet-stream"}
        if blob.lfs:
            headers |= {"X-Linked-Etag": f'"{blob.etag}"', "X-Linked-Size": str(len(blob.content))}
        content, status = blob.content, 200
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted:
            begin, end = int(wanted[1]), int(wanted[2] or len(content) - 1)
            if begin >= len(content):
                raise RefusedError(416, "Range not satisfiable")
            headers["Content-Range"] = f"bytes {begin}-{min(end, len(content) - 1)}/{len(content)}"
            content, status = content[begin : end + 1], 206
        self._send(content, status, headers)

    # ---- putting something there ---------------------------------------------------------------------------------

    def _validate_yaml(self) -> None:
        asked = self._payload()
        errors = metadata_errors(asked["content"], asked.get("repoType", "model"))
        if errors:
            raise RefusedError(400, "Invalid metadata", body={"errors": [{"message": error} for error in errors]})
        self._json({"errors": [], "warnings": []})

    def _preupload(self, kind: str, repo: str, revision: str) -> None:
        found = self.hub.writable(kind, repo, self.user, self.may_write)
        there = self._commit_at(found, revision).files
        answers = []
        for file in self._payload()["files"]:
            path = file["path"]
            large = Path(path).suffix in LFS_SUFFIXES or file["size"] >= LFS_FROM_BYTES
            answer = {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
            if path in there:
                answer["oid"] = there[path].etag
            answers.append(answer)
        self._json({"files": answers})

    def _lfs_batch(self, repo: str, kind: str = "") -> None:
        kind = kind.rstrip("/") or "models"
        found = self.hub.writable(kind, repo, self.user, self.may_write)
        objects = []
        for wanted in self._payload()["objects"]:
            answer = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in found.objects:
                base = f"{self.hub.url}/lfs/{kind}/{repo}/{wanted['oid']}"
                answer["actions"] = {"upload": {"href": base, "header": {}}, "verify": {"href": f"{base}/verify"}}
            objects.append(answer)
        self._json({"transfer": "basic", "objects": objects})

    def _take_object(self, kind: str, repo: str, oid: str) -> None:
        """The address itself is the permission here, as with a signed one."""
        found, cut = self.hub.repos[kind, repo], self.hub.take_cut()
        if cut is not None:
            self.hub.received += len(self.rfile.read(min(cut, int(self.headers.get("Content-Length") or cut))))
            self._hang_up()
            return
        content = self._content()
        self.hub.received += len(content)
        if hashlib.sha256(content).hexdigest() != oid:
            raise RefusedError(400, "The content is not what its name says")
        found.objects[oid] = content
        self._json({})

    def _verify_object(self, kind: str, repo: str, oid: str) -> None:
        found = self.hub.writable(kind, repo, self.user, self.may_write)
        if len(found.objects.get(oid, b"")) != self._payload()["size"]:
            raise RefusedError(400, "The object did not arrive whole")
        self._json({})

    def _make_commit(self, kind: str, repo: str, revision: str) -> None:
        found = self.hub.writable(kind, repo, self.user, self.may_write)
        if revision not in found.branches:
            raise RefusedError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        self.hub.received += len(self._content())
        lines = [json.loads(line) for line in self._content().splitlines() if line]
        files, title = dict(found.at(revision).files), ""
        for line in lines:
            key, value = line["key"], line["value"]
            if key == "header":
                title = value["summary"]
                if value.get("parentCommit") not in (None, found.branches[revision]):
                    raise RefusedError(412, "A commit has happened since. Please refresh and try again.")
            elif key == "file":
                files[value["path"]] = Blob(base64.b64decode(value["content"]))
            elif key == "lfsFile":
                if value["oid"] not in found.objects:
                    raise RefusedError(400, f"The content of {value['path']} was never uploaded")
                files[value["path"]] = Blob(found.objects[value["oid"]], lfs=True)
            elif key == "deletedFile":
                if files.pop(value["path"], None) is None:
                    raise RefusedError(404, "A file with this name doesn't exist", "EntryNotFound")
            elif key == "deletedFolder":
                files = {p: b for p, b in files.items() if not p.startswith(value["path"].rstrip("/") + "/")}
            else:
                raise RefusedError(400, f"Unknown operation {key}")
        commit = found.commit(revision, files, title)
        if self.hub.take_loss():
            self._hang_up()
            return
        prefix = "" if kind == "models" else f"{kind}/"
        address = f"{self.hub.url}/{prefix}{repo}/commit/{commit.oid}"
        self._json({"success": True, "commitOid": commit.oid, "commitUrl": address, "hookOutput": ""})


_REPO = r"/api/(?P<kind>models|datasets|spaces)/(?P<repo>[^/]+/[^/]+)"
_PLAIN = r"/(?P<kind>datasets/|spaces/)?(?P<repo>[^/]+/[^/]+)"
ROUTES = (
    (("GET",), r"/api/whoami-v2", "_whoami"),
    (("POST",), r"/api/repos/create", "_create"),
    (("POST",), r"/api/validate-yaml", "_validate_yaml"),
    (("GET",), _REPO, "_info"),
    (("GET",), _REPO + r"/revision/(?P<revision>[^/]+)", "_info"),
    (("GET",), _REPO + r"/refs", "_refs"),
    (("GET",), _REPO + r"/commits/(?P<revision>[^/]+)", "_commits"),
    (("GET",), _REPO + r"/tree/(?P<revision>[^/]+)(?:/(?P<folder>.+))?", "_tree"),
    (("POST",), _REPO + r"/paths-info/(?P<revision>[^/]+)", "_paths_info"),
    (("PUT",), _REPO + r"/settings", "_settings"),
    (("POST", "DELETE"), _REPO + r"/branch/(?P<name>[^/]+)", "_branch"),
    (("POST", "DELETE"), _REPO + r"/tag/(?P<name>[^/]+)", "_tag"),
    (("POST",), _REPO + r"/preupload/(?P<revision>[^/]+)", "_preupload"),
    (("POST",), _REPO + r"/commit/(?P<revision>[^/]+)", "_make_commit"),
    (("POST",), _PLAIN + r"\.git/info/lfs/objects/batch", "_lfs_batch"),
    (("PUT",), r"/lfs/(?P<kind>\w+)/(?P<repo>[^/]+/[^/]+)/(?P<oid>\w+)", "_take_object"),
    (("POST",), r"/lfs/(?P<kind>\w+)/(?P<repo>[^/]+/[^/]+)/(?P<oid>\w+)/verify", "_verify_object"),
    (("GET", "HEAD"), _PLAIN + r"/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "_resolve"),
)


def _entry(path: str, blob: Blob) -> dict[str, Any]:
    found = {"type": "file", "path": path, "size": len(blob.content), "oid": blob.git_oid}
    if blob.lfs:
        found["lfs"] = {"oid": blob.sha256, "size": len(blob.content), "pointerSize": 134}
    return found


def _folder(path: str) -> dict[str, Any]:
    return {"type": "directory", "path": path, "size": 0, "oid": hashlib.sha256(path.encode()).hexdigest()[:40]}


def _metadata_of(text: str) -> dict[str, Any]:
    match = re.match(r"---\n(.*?\n)---\n", text, re.DOTALL)
    found = yaml.safe_load(match[1]) if match else {}
    return json.loads(json.dumps(found, default=str)) if isinstance(found, dict) else {}


def metadata_errors(text: str, repo_type: str) -> list[str]:
    """What the Hub would refuse of a card's metadata, as far as it is known: types, licenses, languages, results."""
    try:
        found = _metadata_of(text)
    except yaml.YAMLError as error:
        return [f"The metadata is no YAML: {error}"]
    errors = []
    license = found.get("license")
    if license is not None and license not in LICENCES:
        errors.append(f'"license" must be one of {sorted(LICENCES)}')
    languages = found.get("language") or []
    for language in [languages] if isinstance(languages, str) else languages:
        if not re.fullmatch(r"[a-z]{2,3}|code|multilingual", str(language)):
            errors.append(f'"language" {language!r} is no ISO 639 code')
    for key in ("tags", "datasets", "metrics"):
        value = found.get(key)
        if value is not None and not (isinstance(value, list) and all(isinstance(entry, str) for entry in value)):
            errors.append(f'"{key}" must be a list of words')
    for key in ("base_model", "datasets"):
        value = found.get(key) or []
        for name in [value] if isinstance(value, str) else value:
            if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(name)):
                errors.append(f'"{key}" {name!r} is no repo id')
    if repo_type == "space" and found.get("sdk") not in ("gradio", "streamlit", "docker", "static"):
        errors.append('"sdk" is needed')
    for entry in found.get("model-index") or []:
        for result in entry.get("results") or []:
            for path in (("task", "type"), ("dataset", "type"), ("dataset", "name"), ("metrics", None)):
                part = result.get(path[0])
                if not part or (path[1] and path[1] not in part):
                    errors.append(f'"model-index": a result lacks {".".join(filter(None, path))}')
            for metric in result.get("metrics") or []:
                if not {"type", "value"} <= set(metric):
                    errors.append('"model-index": a metric lacks type or value')
    for example in found.get("widget") or []:
        if not isinstance(example, dict) or not {"text", "src", "messages"} & set(example):
            errors.append('"widget": an example needs text or src')
    return errors
