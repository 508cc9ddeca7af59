"""A Hub for tests: as much of its HTTP protocol as `huggingface_hub` needs to push and the loaders need to load.

    with LocalHub(tokens={"hf_ada": "ada"}) as hub:
        api = HfApi(endpoint=hub.url, token="hf_ada")      # push
        environment = hub.environment(tmp_path / "cache")   # load, in a process with an empty cache

Repos are in memory. `hub.requests` lists every request and `hub.received` counts the bytes of all uploads.
Uploads go through git-LFS or within the commit; xet is not supported, so clients need `HF_HUB_DISABLE_XET=1`.
`hub.interrupt_uploads` and `hub.lose_commits` simulate a network that fails. Next: hub_requests.py, which answers the
requests, and hub_repos.py.
"""

import http.server
import threading
from collections.abc import Mapping
from pathlib import Path

from tests.helpers.hub_repos import RejectedError, Repo
from tests.helpers.hub_requests import HubRequestHandler


class LocalHub:
    """The server with its repos and users. Use it as a context manager.

    Args:
        tokens: token -> name of its user. Any other token is rejected.
        organizations: name -> its members, who read and write its repos.
        readers: tokens that may only read.
    """

    def __init__(
        self,
        tokens: Mapping[str, str],
        organizations: Mapping[str, tuple[str, ...]] | None = None,
        readers: tuple[str, ...] = (),
    ):
        self.tokens = dict(tokens)
        self.organizations = dict(organizations or {})
        self.readers = set(readers)
        self.repos: dict[tuple[str, str], Repo] = {}
        self.requests: list[tuple[str, str]] = []
        self.received = 0
        self.lock = threading.RLock()
        self._interrupt_after = 0
        self._num_interruptions = 0
        self._num_lost_commits = 0
        handler = type("Handler", (HubRequestHandler,), {"hub": self})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "LocalHub":
        poll_seconds = 0.02
        thread = threading.Thread(target=self._server.serve_forever, args=(poll_seconds,), daemon=True)
        thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def environment(self, cache: Path, token: str | None = None) -> dict[str, str]:
        """Variables for a process that sees this Hub, an empty cache and nothing of the user's own."""
        variables = {
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
        if token:
            variables["HF_TOKEN"] = token
        return variables

    def repo(self, repo_id: str, kind: str = "models") -> Repo:
        return self.repos[kind, repo_id]

    def files(self, repo_id: str, kind: str = "models", revision: str = "main") -> dict[str, bytes]:
        """Content by path, of one revision."""
        commit = self.repo(repo_id, kind).at(revision)
        return {path: blob.content for path, blob in commit.files.items()}

    def interrupt_uploads(self, after_bytes: int, times: int = 1_000_000) -> None:
        """Close the connection of the next `times` uploads of large files after some bytes; `times=0` stops it."""
        self._interrupt_after = after_bytes
        self._num_interruptions = times

    def lose_commits(self, times: int = 1) -> None:
        """Make the next commits, but close the connection instead of responding."""
        self._num_lost_commits = times

    # ---- permissions ---------------------------------------------------------------------------------------------

    def user_of(self, header: str | None) -> tuple[str | None, bool]:
        """Name and whether they may write; (None, False) without a token."""
        if not header:
            return None, False
        token = header.removeprefix("Bearer ").strip()
        if token not in self.tokens:
            raise RejectedError(401, "Invalid credentials in Authorization header")
        return self.tokens[token], token not in self.readers

    def owns(self, user: str | None, repo_id: str) -> bool:
        owner = repo_id.split("/")[0]
        return user is not None and (owner == user or user in self.organizations.get(owner, ()))

    def visible(self, kind: str, repo_id: str, user: str | None) -> Repo:
        repo = self.repos.get((kind, repo_id))
        if repo is None or (repo.private and not self.owns(user, repo_id)):
            raise RejectedError(404 if user else 401, "Repository not found", "RepoNotFound")
        return repo

    def writable(self, kind: str, repo_id: str, user: str | None, may_write: bool) -> Repo:
        repo = self.visible(kind, repo_id, user)
        if not self.owns(user, repo_id) or not may_write:
            raise RejectedError(403, f"You don't have the rights to write to {repo_id}")
        return repo

    # ---- failures ------------------------------------------------------------------------------------------------

    def next_interruption(self) -> int | None:
        """Bytes after which this upload is interrupted; None if it is not."""
        with self.lock:
            if self._num_interruptions <= 0:
                return None
            self._num_interruptions -= 1
            return self._interrupt_after

    def loses_commit(self) -> bool:
        """Whether the response to this commit is lost."""
        with self.lock:
            self._num_lost_commits -= 1
            return self._num_lost_commits >= 0
