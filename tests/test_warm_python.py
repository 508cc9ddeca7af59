"""The executable of `WarmPython` behaves like the Python that it stands for."""

import json
import os
import signal
import subprocess
import sys

import pytest

from tests.helpers.warm_python import WarmPython


SHOW = "import json, os, sys; print(json.dumps([sys.argv, sys.path[0], os.getcwd(), dict(os.environ), __name__]))"


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    with WarmPython(tmp_path_factory.mktemp("warm"), modules=()) as executable:
        yield executable


@pytest.fixture
def run(python, tmp_path):
    """`run(executable, *arguments)` in an empty folder with an environment of one variable."""

    def run(executable, *arguments):
        environment = {"PYTHONPATH": str(tmp_path / "modules"), "LC_CTYPE": "C.UTF-8"}
        command = [executable, *map(str, arguments)]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    return run


def test_arguments_path_folder_and_environment(python, run, tmp_path):
    (tmp_path / "modules").mkdir()
    for path in (tmp_path / "script.py", tmp_path / "modules/shown.py"):
        path.write_text(SHOW, encoding="utf-8")
    for arguments in (["-c", SHOW, "-m"], ["-I", "-c", SHOW], ["script.py", "a"], ["-m", "shown", "b"]):
        found, expected = (json.loads(run(executable, *arguments).stdout) for executable in (python, sys.executable))
        found[3].pop("PWD", None)  # the shell that starts the executable adds it
        assert found == expected


@pytest.mark.parametrize("code", ["1", "raise SystemExit(3)", "raise SystemExit('bad')", "raise ValueError('bad')"])
def test_exit_code_and_message(python, run, code):
    found, expected = (run(executable, "-c", code) for executable in (python, sys.executable))
    assert found.returncode == expected.returncode
    assert found.stderr.splitlines()[-1:] == expected.stderr.splitlines()[-1:]


def test_killed_process_ends_its_executable(python):
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    with subprocess.Popen([python, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        os.kill(int(process.stdout.readline()), signal.SIGKILL)
    assert process.returncode == 128 + signal.SIGKILL


def test_killed_executable_ends_its_process(python):
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    with subprocess.Popen([python, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        process.kill()
        assert process.stdout.read() == ""  # open until the last process that can write to it has ended


def test_server_survives_if_both_are_killed_at_once(run, tmp_path):
    warm = WarmPython(tmp_path, modules=())
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    with warm as python:
        with subprocess.Popen([python, "-c", code], stdout=subprocess.PIPE, text=True) as process:
            child = int(process.stdout.readline())
            os.kill(warm.process.pid, signal.SIGSTOP)  # so that it hears of both at once
            process.kill()
            os.kill(child, signal.SIGKILL)
            process.wait()
            os.kill(warm.process.pid, signal.SIGCONT)
        assert run(python, "-c", "print(5)").stdout == "5\n"


def test_server_is_shared_and_ends_with_its_last_user(run, tmp_path):
    first, second = WarmPython(tmp_path, modules=()), WarmPython(tmp_path, modules=())
    with second:
        with first as python:
            assert first.process is None
            assert run(python, "-c", "print(3)").stdout == "3\n"
        assert run(python, "-c", "print(4)").stdout == "4\n"
        server = second.process
    assert server.returncode == 0
    assert run(python, "-c", "1").returncode != 0
    with first:
        assert first.process is not None


def test_server_starts_from_another_one(python, run, tmp_path):
    with WarmPython(tmp_path, modules=("wave",), python=python) as warmer:
        code = "import sys; print('wave' in sys.modules)"
        assert run(warmer, "-c", code).stdout == "True\n"
        assert run(python, "-c", code).stdout == "False\n"
