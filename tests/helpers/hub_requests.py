"""The requests that the Hub for tests answers: one method per address of the Hub's HTTP API."""

import hashlib
import http.server
import json
import re
from contextlib import nullcontext
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.helpers.hub_metadata import card_metadata, metadata_errors
from tests.helpers.hub_repos import Blob, Commit, RejectedError, Repo


if TYPE_CHECKING:
    from tests.helpers.local_hub import LocalHub

LFS_SUFFIXES = {".safetensors", ".parquet", ".arrow", ".npz", ".npy", ".mp4", ".wav", ".png", ".bin", ".gz"}
LFS_FROM_BYTES = 10_000_000
GIT_ATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in sorted(LFS_SUFFIXES))
NOW = "2026-01-02T03:04:05.000Z"


class HubRequestHandler(http.server.BaseHTTPRequestHandler):
    """One connection. `ROUTES`, at the end, maps addresses to methods."""

    protocol_version = "HTTP/1.1"
    hub: "LocalHub"
    _body: bytes | None = None

    def log_message(self, *arguments: Any) -> None:
        pass

    def setup(self) -> None:
        super().setup()
        self.connection.settimeout(30)

    # ---- the frame -----------------------------------------------------------------------------------------------

    def _handle(self) -> None:
        self._body = None
        address = urlsplit(self.path)
        self.query = parse_qs(address.query)
        self.hub.requests.append((self.command, unquote(address.path)))
        try:
            self._route(address.path)
        except RejectedError as error:
            headers = {"X-Error-Message": error.message}
            if error.code:
                headers["X-Error-Code"] = error.code
            self._json(error.body or {"error": error.message}, error.status, headers)

    def _route(self, path: str) -> None:
        for methods, pattern, name in ROUTES:
            match = re.fullmatch(pattern, path)
            if match and self.command in methods:
                self.user, self.may_write = self.hub.user_of(self.headers.get("Authorization"))
                arguments = {key: unquote(value or "") for key, value in match.groupdict().items()}
                # Large uploads may arrive at the same time.
                lock = nullcontext() if name == "_receive_object" else self.hub.lock
                with lock:
                    getattr(self, name)(**arguments)
                return
        raise RejectedError(404, f"No such address: {self.command} {path}")

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _handle  # noqa: N815

    def _content(self) -> bytes:
        if self._body is None:
            if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
                self._body = self._read_chunks()
            else:
                self._body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return self._body

    def _read_chunks(self) -> bytes:
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _payload(self) -> dict[str, Any]:
        return json.loads(self._content() or b"{}")

    def _send(self, content: bytes, status: int, headers: dict[str, str]) -> None:
        self._content()  # unread bytes would be parsed as the next request
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        headers = {"Content-Type": "application/json", **(headers or {})}
        self._send(json.dumps(value).encode(), status, headers)

    def _hang_up(self) -> None:
        self.close_connection = True  # without a response

    def _commit_at(self, repo: Repo, revision: str) -> Commit:
        commit = repo.at(revision or "main")
        if commit is None:
            raise RejectedError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    def _readable(self, kind: str, repo_id: str) -> Repo:
        return self.hub.visible(kind, repo_id, self.user)

    def _writable(self, kind: str, repo_id: str) -> Repo:
        return self.hub.writable(kind, repo_id, self.user, self.may_write)

    def _check_user(self) -> None:
        if self.user is None:
            raise RejectedError(401, "Invalid username or password.")

    # ---- people and repos ----------------------------------------------------------------------------------------

    def _whoami(self) -> None:
        self._check_user()
        organizations = [name for name, members in self.hub.organizations.items() if self.user in members]
        role = "write" if self.may_write else "read"
        self._json(
            {
                "type": "user",
                "name": self.user,
                "orgs": [{"type": "org", "name": name} for name in organizations],
                "auth": {
                    "type": "access_token",
                    "accessToken": {"displayName": "a token", "role": role},
                },
            }
        )

    def _create(self) -> None:
        request = self._payload()
        self._check_user()
        kind = f"{request.get('type', 'model')}s"
        repo_id = f"{request.get('organization') or self.user}/{request['name']}"
        if not self.hub.owns(self.user, repo_id) or not self.may_write:
            message = f"You don't have the rights to create a {kind[:-1]} under this namespace"
            raise RejectedError(403, message)
        address = {"url": self._address(kind, repo_id), "name": repo_id}
        if (kind, repo_id) in self.hub.repos:
            message = "You already created this repo"
            raise RejectedError(409, message, body={"error": message, **address})
        is_private = request.get("visibility") == "private"
        repo = Repo(kind, repo_id, is_private, request.get("sdk"))
        attributes = Blob(GIT_ATTRIBUTES.encode())
        repo.commit("main", {".gitattributes": attributes}, "initial commit")
        self.hub.repos[kind, repo_id] = repo
        self._json(address)

    def _address(self, kind: str, repo_id: str) -> str:
        prefix = "" if kind == "models" else f"{kind}/"
        return f"{self.hub.url}/{prefix}{repo_id}"

    def _settings(self, kind: str, repo_id: str) -> None:
        repo = self._writable(kind, repo_id)
        visibility = self._payload().get("visibility")
        if visibility:
            repo.private = visibility == "private"
        self._json({"private": repo.private})

    def _info(self, kind: str, repo_id: str, revision: str = "") -> None:
        repo = self._readable(kind, repo_id)
        commit = self._commit_at(repo, revision)
        card = {}
        if "README.md" in commit.files:
            card = card_metadata(commit.files["README.md"].content.decode())
        info = {
            "_id": hashlib.sha256(repo_id.encode()).hexdigest()[:24],
            "id": repo_id,
            "author": repo_id.split("/")[0],
            "sha": commit.oid,
            "private": repo.private,
            "gated": False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": list(card.get("tags") or []),
            "lastModified": NOW,
            "createdAt": NOW,
            "cardData": card,
            "siblings": [{"rfilename": path} for path in sorted(commit.files)],
        }
        if kind == "models":
            info["modelId"] = repo_id
            info["pipeline_tag"] = card.get("pipeline_tag")
        if kind == "spaces":
            info["sdk"] = repo.sdk
        self._json(info)

    # ---- revisions -----------------------------------------------------------------------------------------------

    def _refs(self, kind: str, repo_id: str) -> None:
        repo = self._readable(kind, repo_id)
        refs = {
            "branches": ref_entries(repo.branches, "heads"),
            "converts": [],
            "tags": ref_entries(repo.tags, "tags"),
            "pullRequests": [],
        }
        self._json(refs)

    def _commits(self, kind: str, repo_id: str, revision: str) -> None:
        repo = self._readable(kind, repo_id)
        self._commit_at(repo, revision)
        entries = []
        for commit in repo.history(revision):
            entry = {
                "id": commit.oid,
                "authors": [{"user": "ada"}],
                "date": NOW,
                "title": commit.title,
                "message": "",
            }
            entries.append(entry)
        self._json(entries)

    def _branch(self, kind: str, repo_id: str, name: str) -> None:
        repo = self._writable(kind, repo_id)
        if self.command == "DELETE":
            repo.branches.pop(name, None)
        elif name in repo.branches:
            raise RejectedError(409, f"Reference already exists: {name}")
        else:
            start = self._payload().get("startingPoint", "main")
            repo.branches[name] = self._commit_at(repo, start).oid
        self._json({})

    def _tag(self, kind: str, repo_id: str, name: str) -> None:
        """Delete the tag `name`, or put the tag of the payload on the revision `name`."""
        repo = self._writable(kind, repo_id)
        if self.command == "DELETE":
            repo.tags.pop(name, None)
        else:
            tag = self._payload()["tag"]
            if tag in repo.tags:
                raise RejectedError(409, f"Tag reference exists already: {tag}")
            repo.tags[tag] = self._commit_at(repo, name).oid
        self._json({})

    # ---- files ---------------------------------------------------------------------------------------------------

    def _tree(self, kind: str, repo_id: str, revision: str, folder: str = "") -> None:
        files = self._commit_at(self._readable(kind, repo_id), revision).files
        prefix = f"{folder}/" if folder else ""
        inside = {path: blob for path, blob in files.items() if path.startswith(prefix)}
        if folder and not inside:
            raise RejectedError(404, f"{folder} does not exist on {revision!r}", "EntryNotFound")
        parents = {str(parent) for path in inside for parent in PurePosixPath(path).parents}
        folders = [path for path in parents if path != "." and path.startswith(prefix)]
        entries = [file_entry(path, blob) for path, blob in inside.items()]
        entries += [folder_entry(path) for path in folders]
        is_recursive = self.query.get("recursive", ["false"])[0].lower() in ("true", "1")
        if not is_recursive:
            entries = [entry for entry in entries if "/" not in entry["path"].removeprefix(prefix)]
        self._json(sorted(entries, key=lambda entry: entry["path"]))

    def _paths_info(self, kind: str, repo_id: str, revision: str) -> None:
        files = self._commit_at(self._readable(kind, repo_id), revision).files
        body = self._content().decode()
        paths = json.loads(body)["paths"] if body.startswith("{") else parse_qs(body).get("paths", [])
        entries = []
        for path in paths:
            if path in files:
                entries.append(file_entry(path, files[path]))
            elif any(other.startswith(f"{path}/") for other in files):
                entries.append(folder_entry(path))
        self._json(entries)

    def _resolve(self, repo_id: str, revision: str, path: str, kind: str = "") -> None:
        repo = self._readable(kind.rstrip("/") or "models", repo_id)
        commit = self._commit_at(repo, revision)
        headers = {"X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes"}
        if path not in commit.files:
            headers["X-Error-Code"] = "EntryNotFound"
            headers["X-Error-Message"] = "Entry not found"
            self._send(b"Entry not found", 404, headers)
            return
        blob = commit.files[path]
        headers["ETag"] = f'"{blob.etag}"'
        headers["Content-Type"] = "application/octet-stream"
        if blob.lfs:
            headers["X-Linked-Etag"] = f'"{blob.etag}"'
            headers["X-Linked-Size"] = str(len(blob.content))
        content_range = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not content_range:
            self._send(blob.content, 200, headers)
            return
        size = len(blob.content)
        begin = int(content_range[1])
        end = min(int(content_range[2] or size - 1), size - 1)
        if begin >= size:
            raise RejectedError(416, "Range not satisfiable")
        headers["Content-Range"] = f"bytes {begin}-{end}/{size}"
        self._send(blob.content[begin : end + 1], 206, headers)

    # ---- uploads -------------------------------------------------------------------------------------------------

    def _validate_yaml(self) -> None:
        request = self._payload()
        errors = metadata_errors(request["content"], request.get("repoType", "model"))
        if errors:
            body = {"errors": [{"message": error} for error in errors]}
            raise RejectedError(400, "Invalid metadata", body=body)
        self._json({"errors": [], "warnings": []})

    def _preupload(self, kind: str, repo_id: str, revision: str) -> None:
        files = self._commit_at(self._writable(kind, repo_id), revision).files
        entries = []
        for file in self._payload()["files"]:
            path = file["path"]
            is_large = Path(path).suffix in LFS_SUFFIXES or file["size"] >= LFS_FROM_BYTES
            entry = {
                "path": path,
                "uploadMode": "lfs" if is_large else "regular",
                "shouldIgnore": False,
            }
            if path in files:
                entry["oid"] = files[path].etag
            entries.append(entry)
        self._json({"files": entries})

    def _lfs_batch(self, repo_id: str, kind: str = "") -> None:
        kind = kind.rstrip("/") or "models"
        repo = self._writable(kind, repo_id)
        entries = []
        for requested in self._payload()["objects"]:
            oid = requested["oid"]
            entry = {"oid": oid, "size": requested["size"]}
            if oid not in repo.objects:
                address = f"{self.hub.url}/lfs/{kind}/{repo_id}/{oid}"
                entry["actions"] = {
                    "upload": {"href": address, "header": {}},
                    "verify": {"href": f"{address}/verify"},
                }
            entries.append(entry)
        self._json({"transfer": "basic", "objects": entries})

    def _receive_object(self, kind: str, repo_id: str, oid: str) -> None:
        """The address itself is the permission, as with a signed one."""
        interrupt_after = self.hub.next_interruption()
        if interrupt_after is not None:
            size = int(self.headers.get("Content-Length") or interrupt_after)
            self.hub.received += len(self.rfile.read(min(interrupt_after, size)))
            self._hang_up()
            return
        content = self._content()
        self.hub.received += len(content)
        if hashlib.sha256(content).hexdigest() != oid:
            raise RejectedError(400, "The content does not match its hash")
        self.hub.repos[kind, repo_id].objects[oid] = content
        self._json({})

    def _verify_object(self, kind: str, repo_id: str, oid: str) -> None:
        repo = self._writable(kind, repo_id)
        if len(repo.objects.get(oid, b"")) != self._payload()["size"]:
            raise RejectedError(400, "The object is incomplete")
        self._json({})

    def _make_commit(self, kind: str, repo_id: str, revision: str) -> None:
        repo = self._writable(kind, repo_id)
        if revision not in repo.branches:
            raise RejectedError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        self.hub.received += len(self._content())
        title = ""
        files = dict(repo.at(revision).files)
        for line in self._content().splitlines():
            if not line:
                continue
            operation = json.loads(line)
            value = operation["value"]
            if operation["key"] == "header":
                title = value["summary"]
                if value.get("parentCommit") not in (None, repo.branches[revision]):
                    raise RejectedError(412, "A commit has happened since. Please refresh and try again.")
            else:
                files = repo.apply(files, operation["key"], value)
        commit = repo.commit(revision, files, title)
        if self.hub.loses_commit():
            self._hang_up()
            return
        response = {
            "success": True,
            "commitOid": commit.oid,
            "commitUrl": f"{self._address(kind, repo_id)}/commit/{commit.oid}",
            "hookOutput": "",
        }
        self._json(response)


REPO_PATH = r"/api/(?P<kind>models|datasets|spaces)/(?P<repo_id>[^/]+/[^/]+)"
PLAIN_PATH = r"/(?P<kind>datasets/|spaces/)?(?P<repo_id>[^/]+/[^/]+)"
ROUTES = (
    (("GET",), r"/api/whoami-v2", "_whoami"),
    (("POST",), r"/api/repos/create", "_create"),
    (("POST",), r"/api/validate-yaml", "_validate_yaml"),
    (("GET",), REPO_PATH, "_info"),
    (("GET",), REPO_PATH + r"/revision/(?P<revision>[^/]+)", "_info"),
    (("GET",), REPO_PATH + r"/refs", "_refs"),
    (("GET",), REPO_PATH + r"/commits/(?P<revision>[^/]+)", "_commits"),
    (("GET",), REPO_PATH + r"/tree/(?P<revision>[^/]+)(?:/(?P<folder>.+))?", "_tree"),
    (("POST",), REPO_PATH + r"/paths-info/(?P<revision>[^/]+)", "_paths_info"),
    (("PUT",), REPO_PATH + r"/settings", "_settings"),
    (("POST", "DELETE"), REPO_PATH + r"/branch/(?P<name>[^/]+)", "_branch"),
    (("POST", "DELETE"), REPO_PATH + r"/tag/(?P<name>[^/]+)", "_tag"),
    (("POST",), REPO_PATH + r"/preupload/(?P<revision>[^/]+)", "_preupload"),
    (("POST",), REPO_PATH + r"/commit/(?P<revision>[^/]+)", "_make_commit"),
    (("POST",), PLAIN_PATH + r"\.git/info/lfs/objects/batch", "_lfs_batch"),
    (("PUT",), r"/lfs/(?P<kind>\w+)/(?P<repo_id>[^/]+/[^/]+)/(?P<oid>\w+)", "_receive_object"),
    (("POST",), r"/lfs/(?P<kind>\w+)/(?P<repo_id>[^/]+/[^/]+)/(?P<oid>\w+)/verify", "_verify_object"),
    (("GET", "HEAD"), PLAIN_PATH + r"/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "_resolve"),
)


def ref_entries(names: dict[str, str], folder: str) -> list[dict[str, str]]:
    entries = []
    for name, oid in names.items():
        entries.append({"name": name, "ref": f"refs/{folder}/{name}", "targetCommit": oid})
    return entries


def file_entry(path: str, blob: Blob) -> dict[str, Any]:
    size = len(blob.content)
    entry = {"type": "file", "path": path, "size": size, "oid": blob.git_oid}
    if blob.lfs:
        entry["lfs"] = {"oid": blob.sha256, "size": size, "pointerSize": 134}
    return entry


def folder_entry(path: str) -> dict[str, Any]:
    oid = hashlib.sha256(path.encode()).hexdigest()[:40]
    return {"type": "directory", "path": path, "size": 0, "oid": oid}
