"""A Python that has imported its libraries before it starts: a fresh process in three seconds instead of twelve.

    with WarmPython(folder) as python:
        subprocess.run([python, "-I", "-c", code], env=environment, cwd=elsewhere)

`python` is an executable that takes `-c`, `-m` or a script as `sys.executable` does. It hands arguments, environment,
folder and output to a server, whose fork runs them. The fork differs from a new process only in the modules that are
already imported. `LIBRARIES` are those below huggingface_hub: where its caches are, whether it is offline, and where
our own code comes from is decided in the fork. `TRAINING` has our own modules as well.

Processes that name the same folder share one server: the first starts it, and it ends when the last has left.
"""

import contextlib
import fcntl
import gc
import importlib
import itertools
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple


LIBRARIES = (
    "torch",
    "torch._dynamo",
    "torch.distributed.fsdp",
    "torch.distributed.tensor",
    "torch.distributed.checkpoint",
    "torchaudio",
    "scipy.stats",
    "sklearn.preprocessing",
    "pandas",
    "pyarrow.parquet",
    "av",
    "jinja2",
    "regex",
    "yaml",
    "PIL.Image",
)
TRAINING = (
    *LIBRARIES,
    "accelerate.commands.accelerate_cli",
    "torch.distributed.run",
    "transformers.models.llama.modeling_llama",
    "sklearn.metrics",
    "evaluate",
    "training.trainer.run",
    "training.run_eval",
    "training.predict",
)
ROOT = Path(__file__).parents[2]


class WarmPython:
    """The server. As a context manager it gives the path of the executable.

    Args:
        folder: an existing folder for the executable, its socket and a lock.
        modules: imported before anything runs; our own ones are imported from this tree.
        python: what starts the server: another executable of this kind has imported its modules already.
    """

    def __init__(self, folder: Path, modules: Sequence[str] = LIBRARIES, python: str = sys.executable):
        self.folder = folder
        self.executable = folder / "python"
        self.socket = folder / "socket"
        self.modules = modules
        self.python = python
        self.process: subprocess.Popen | None = None

    def __enter__(self) -> str:
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            # The server ends when all such connections are closed, however the processes that hold them end.
            self.connection = self.connect() or self.start()
        return str(self.executable)

    def __exit__(self, *exception: object) -> None:
        self.connection.close()
        if self.process is not None:
            self.process.wait()

    def connect(self) -> socket.socket | None:
        """A connection to the server if it runs and will not end before the connection does."""
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(str(self.socket))
            connection.sendall(b"\nnull\n")
            if connection.recv(1):
                return connection
        except OSError:
            pass
        connection.close()
        return None

    def start(self) -> socket.socket:
        script = f'#!/bin/sh\nexec "{sys.executable}" -I -S "{__file__}" request "{self.socket}" "$@"\n'
        self.executable.write_text(script, encoding="utf-8")
        self.executable.chmod(0o755)
        self.socket.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(self.socket))
            listener.listen()
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(str(self.socket))
            connection.sendall(b"\nnull\n")
            self.process = subprocess.Popen(
                [self.python, "-I", __file__, "serve", *self.modules],
                stdin=listener,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        return connection


# ---- the executable ------------------------------------------------------------------------------------------


def request(address: str, *arguments: str) -> int:
    """Run Python in a fork of the server, with the output of this process. Returns its exit code."""
    job = {"arguments": arguments, "environment": dict(os.environ), "folder": os.getcwd()}
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        socket.send_fds(connection, [b"\n"], [0, 1, 2])
        connection.sendall(json.dumps(job).encode() + b"\n")
        code = int(connection.makefile().readline())
    return code if code >= 0 else 128 - code


# ---- the server ----------------------------------------------------------------------------------------------


class Fork(NamedTuple):
    """A child, and the connection to the process that waits for it."""

    process_id: int
    connection: socket.socket


USER = "user"  # a process that needs this server


def serve(*modules: str) -> dict[str, Any]:
    """Fork for every request at the socket on stdin. Returns only in a child: what it has to run."""
    listener = socket.socket(fileno=os.dup(0))
    sys.path.append(str(ROOT))
    for name in modules:
        importlib.import_module(name)
    sys.path.remove(str(ROOT))
    gc.freeze()  # a child's garbage collector need not look at these modules
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    accept(listener, selector)  # the process that has started the server
    while len(selector.get_map()) > 1:
        for key, _ in selector.select():
            if selector.get_map().get(key.fd) is not key:
                continue  # a child and the process that waits for it ended at once
            if key.fileobj is listener:
                job = accept(listener, selector)
                if job is not None:
                    return job
            elif key.data == USER:  # it has left
                selector.unregister(key.fileobj)
                key.fileobj.close()
            elif isinstance(key.data, Fork):  # the child has ended
                finish(key.fileobj, key.data, selector)
            else:  # the process that waits was killed
                selector.unregister(key.fileobj)
                os.kill(key.data, signal.SIGKILL)
    sys.exit()


def accept(listener: socket.socket, selector: selectors.BaseSelector) -> dict[str, Any] | None:
    """Start a child for the next request. Returns its job in the child, None in the server."""
    connection, _ = listener.accept()
    _, descriptors, _, _ = socket.recv_fds(connection, 1, 3)
    job = json.loads(connection.makefile().readline())
    if job is None:
        connection.sendall(b"\n")
        selector.register(connection, selectors.EVENT_READ, USER)
        return None
    process_id = os.fork()
    if process_id == 0:
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
            os.close(descriptor)
        for opened in (connection, listener, selector):
            opened.close()
        return job
    for descriptor in descriptors:
        os.close(descriptor)
    ended = os.pidfd_open(process_id)
    selector.register(ended, selectors.EVENT_READ, Fork(process_id, connection))
    selector.register(connection, selectors.EVENT_READ, process_id)
    return None


def finish(ended: int, child: Fork, selector: selectors.BaseSelector) -> None:
    """Tell the process that waits how the child ended."""
    _, status = os.waitpid(child.process_id, 0)
    selector.unregister(ended)
    os.close(ended)
    if child.connection in selector.get_map():
        selector.unregister(child.connection)
        with contextlib.suppress(OSError):  # it has just been killed
            child.connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
    child.connection.close()


def run(arguments: list[str], environment: dict[str, str], folder: str) -> None:
    """Do as `python *arguments` does."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.dont_write_bytecode = "PYTHONDONTWRITEBYTECODE" in environment
    options = list(itertools.takewhile(lambda argument: argument in ("-I", "-u"), arguments))
    arguments = arguments[len(options) :]
    kind = arguments[0] if arguments[0] in ("-c", "-m") else "script"
    if "-I" not in options:
        script_folder = str(Path(arguments[0]).resolve().parent)
        first = {"-c": "", "-m": os.getcwd(), "script": script_folder}[kind]
        sys.path[:0] = [first, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    if kind == "script":
        sys.argv = arguments
        runpy.run_path(arguments[0], run_name="__main__")
    elif kind == "-m":
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = ["-c", *arguments[2:]]
        sys.modules["__main__"] = types.ModuleType("__main__")
        exec(arguments[1], sys.modules["__main__"].__dict__)  # noqa: S102


if __name__ == "__main__":
    if sys.argv[1] == "request":
        sys.exit(request(*sys.argv[2:]))
    run(**serve(*sys.argv[2:]))
