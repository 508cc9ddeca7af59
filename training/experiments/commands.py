"""Runs commands in parallel, each with its own log, and reports the progress of an experiment.

Commands(jobs, counts) ─► run(kind, name, command, log) ─► "[3 of 12] ...: done in 8.2 min, about 40 min left"
"""

import json
import os
import signal
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any


def command_line(options: Mapping[str, Any], flags: bool = False) -> list[str]:
    """Options as command-line arguments.

    Args:
        options: name -> value; None and, as flags, false are left out.
        flags: whether true is written as `--name` and not as `--name true`.
    """
    arguments: list[str] = []
    for name, value in options.items():
        if value is None or (flags and value is False):
            continue
        arguments.append(f"--{name}")
        if isinstance(value, list):
            arguments += map(str, value)
        elif isinstance(value, bool):
            arguments += [] if flags else [str(value).lower()]
        elif isinstance(value, dict):
            arguments.append(json.dumps(value, ensure_ascii=False))
        else:
            arguments.append(str(value))
    return arguments


class Commands:
    """Runs commands side by side, each with its part of the processor's cores and its own log.

    Args:
        jobs: number of commands at once.
        counts: kind of command, such as `training` -> how many there will be.
    """

    def __init__(self, jobs: int, counts: Mapping[str, int] | None = None):
        self.jobs = jobs
        self.counts = dict(counts or {})
        self.seconds: dict[str, list[float]] = {kind: [] for kind in self.counts}
        self.processes: set[subprocess.Popen] = set()
        self.stopped = False
        self.lock = threading.Lock()

    def run(self, kind: str, name: str, command: Sequence[str], log: Path) -> None:
        """Run a command to its end.

        Raises:
            ValueError: it failed; the message has the end of its log.
        """
        if self.stopped:
            return
        threads = max(1, (os.cpu_count() or 1) // self.jobs)
        environment = {"OMP_NUM_THREADS": str(threads), **os.environ, "TOKENIZERS_PARALLELISM": "false"}
        log.parent.mkdir(parents=True, exist_ok=True)
        started = time.time()
        with log.open("ab") as file:
            # A session of its own: Ctrl-C reaches it through `stop`, once.
            process = subprocess.Popen(
                command, stdout=file, stderr=subprocess.STDOUT, env=environment, start_new_session=True
            )
        self.processes.add(process)
        try:
            code = process.wait()
        finally:
            self.processes.discard(process)
        if self.stopped:
            return
        if code:
            last_lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:]
            raise ValueError(f"{name} failed (exit {code}): {' / '.join(last_lines)}. Its log is {log}.")
        self.report(kind, name, time.time() - started)

    def report(self, kind: str, name: str, seconds: float) -> None:
        """Print that a command is done, and how long the others will take."""
        with self.lock:
            self.seconds.setdefault(kind, []).append(seconds)
            done = sum(map(len, self.seconds.values()))
            total = max(done, sum(self.counts.values()))
            print(f"[{done} of {total}] {name}: done in {seconds / 60:.1f} min{self.describe_rest()}", flush=True)

    def describe_rest(self) -> str:
        """`, about 40 min left`; an empty string if nothing is left, or no command of a kind is done yet."""
        left = 0.0
        for kind, count in self.counts.items():
            missing = count - len(self.seconds[kind])
            if missing > 0 and not self.seconds[kind]:
                return ""
            if missing > 0:
                left += missing * statistics.mean(self.seconds[kind])
        return f", about {left / self.jobs / 60:.0f} min left" if left else ""

    def stop(self) -> None:
        """Interrupt what runs, as Ctrl-C does, and start nothing more."""
        self.stopped = True
        for process in list(self.processes):
            process.send_signal(signal.SIGINT)
        for process in list(self.processes):
            process.wait()

    def run_all(self, tasks: Iterable[Callable[[], None]]) -> None:
        """Call functions without arguments, `jobs` at a time.

        Raises:
            ValueError: the first failure, after all others have ended.
        """
        with ThreadPoolExecutor(self.jobs) as pool:
            futures = [pool.submit(task) for task in tasks]
            try:
                errors = [error for future in futures if (error := future.exception()) is not None]
            except KeyboardInterrupt:
                self.stop()
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        if errors:
            raise errors[0]
