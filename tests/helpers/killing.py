"""Commands in processes of their own, which are killed at random moments.

command = Command(python, ["evaluate", "--dataset", ...])
seconds = command.finish()
was_killed = command.kill_after(0.5 * seconds)
"""

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path


PROGRAM = """
import os, sys
from training.cli import main
print(os.getpid(), flush=True)
main(sys.argv[1:])
"""
ROOT = Path(__file__).parents[2]


class Command:
    """`egmf` with arguments.

    Args:
        python: an executable like `sys.executable`, or a warm one.
        arguments: of `egmf`.
    """

    def __init__(self, python: str, arguments: Sequence[object]):
        self.words = [python, "-c", PROGRAM, *map(str, arguments)]

    def start(self) -> tuple[subprocess.Popen, int]:
        """The process that waits for the command, and the command's own id."""
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        process = subprocess.Popen(self.words, cwd=ROOT, **pipes)
        return process, int(process.stdout.readline())

    def finish(self) -> float:
        """Run the command to its end; returns the seconds that it took."""
        process, _ = self.start()
        started = time.monotonic()
        output, _ = process.communicate()
        assert process.returncode == 0, output[-3000:]
        return time.monotonic() - started

    def kill_after(self, seconds: float) -> bool:
        """SIGKILL after some seconds; False if the command had ended before."""
        process, process_id = self.start()
        with suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=seconds)
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(process_id, signal.SIGKILL)
        process.communicate()
        return process.returncode != 0
