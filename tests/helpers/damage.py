"""Seeded damage to inputs: each one is read correctly, or refused by an error that names it.

    python -m tests.helpers.damage --number 200 --seed 0
    python -m tests.helpers.damage checkpoints --seed 0 --only 97

Each damaged input is read in a process of its own, forked from one that has imported everything, with limits on memory
and time. Results:

    right       the undamaged value
    as written  another value, which another reader finds in the damaged file too: the damage changed the value itself
    partial     the part that is not damaged, with a warning that names the file
    refused     a ValueError or OSError that names the file

All other results are failures.
"""

import argparse
import importlib
import json
import logging
import os
import random
import resource
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch


KINDS = {  # kind -> module with `make_inputs(folder)`, which returns `damaged(index, rng, folder) -> Case`
    "media": "tests.helpers.damaged_media",
    "tables": "tests.helpers.damaged_tables",
    "pickles": "tests.helpers.damaged_pickles",
    "checkpoints": "tests.helpers.damaged_checkpoints",
    "requests": "tests.helpers.damaged_requests",
    "converters": "tests.helpers.damaged_releases",
}
CONTROLS = 24  # inputs that are first read without damage
GOOD = ("right", "as written", "partial", "refused")
SECONDS = 10
MEMORY = 1 << 30  # bytes
MAX_MESSAGE = 2_000  # characters
FORBIDDEN = ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "socket.connect")


class Case(NamedTuple):
    """One damaged input.

    Args:
        label: what was damaged, and how.
        names: an error or warning must contain one of them.
        read: reads the input.
        compare: value, warnings -> `right`, `as written`, `partial`, or what is wrong with the value.
    """

    label: str
    names: tuple[str, ...]
    read: Callable[[], Any]
    compare: Callable[[Any, str], str]


class Result(NamedTuple):
    """The result of a case."""

    kind: str
    index: int
    label: str
    outcome: str
    seconds: float  # CPU time
    megabytes: float  # largest resident memory


# ---- damage ---------------------------------------------------------------------------------------------------


def damage_bytes(data: bytes, rng: random.Random) -> bytes:
    """One to three changes: a bit flipped, cut off, bytes inserted, repeated, set to zero, or replaced."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        start = rng.randrange(max(1, len(changed)))
        stop = min(len(changed), start + rng.randint(1, 64))
        way = rng.randrange(6)
        if way == 0 and changed:
            changed[min(start, len(changed) - 1)] ^= 1 << rng.randrange(8)
        elif way == 1:
            del changed[start:]
        elif way == 2:
            changed[start:start] = rng.randbytes(rng.randint(1, 16))
        elif way == 3:
            changed[start:start] = changed[start:stop] * rng.randint(1, 50)
        elif way == 4:
            changed[start:stop] = bytes(stop - start)
        else:
            changed[start:stop] = rng.randbytes(stop - start)
    return bytes(changed)


PLACEHOLDERS = (
    b"",
    b"<!DOCTYPE html><html><body>404</body></html>",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
)


def damage_file(path: Path, rng: random.Random | None) -> str:
    """Damage the bytes of a file, or replace it with a placeholder; returns what was done.
    Without `rng`, the file stays as it is."""
    if rng is None:
        return "undamaged"
    if rng.random() < 0.05:
        path.write_bytes(rng.choice(PLACEHOLDERS))
        return "placeholder"
    path.write_bytes(damage_bytes(path.read_bytes(), rng))
    return "bytes"


# ---- one case in a process ------------------------------------------------------------------------------------


class Warnings(logging.Handler):
    """Collects the text of warnings."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text += f"{record.getMessage()}\n"


def read_case(case: Case) -> str:
    """The outcome of a case."""
    heard = Warnings()
    for name in (None, "transformers", "training", "datasets"):
        logging.getLogger(name).addHandler(heard)
    forbidden = []
    sys.addaudithook(lambda event, _: forbidden.append(event) if event in FORBIDDEN else None)
    try:
        value = case.read()
    except MemoryError:
        return "over memory"
    except (ValueError, OSError) as error:
        message = str(error)
        if not any(name in message for name in case.names):
            return f"not named: {type(error).__name__}: {message[:300]}"
        if len(message) > MAX_MESSAGE:
            return f"message of {len(message)} characters"
        return f"code run: {forbidden}" if forbidden else "refused"
    except BaseException as error:
        return f"other exception: {type(error).__name__}: {str(error)[:300]}"
    if forbidden:
        return f"code run: {forbidden}"
    outcome = case.compare(value, heard.text)
    if outcome == "partial" and not any(name in heard.text for name in case.names):
        return "another value, without a warning that names the file"
    return outcome


def read_in_process(case: Case) -> tuple[str, float, float]:
    """Outcome, seconds and megabytes of a case in a forked process with limits."""
    receiver, sender = os.pipe()
    process = os.fork()
    if process == 0:
        os.close(receiver)
        try:
            limit_process()
            outcome = read_case(case)
        except BaseException as error:
            outcome = f"comparison failed: {type(error).__name__}: {str(error)[:300]}"
        os.write(sender, outcome.encode("utf-8", "backslashreplace")[:2000])
        os._exit(0)
    os.close(sender)
    with os.fdopen(receiver, "rb") as pipe:
        outcome = pipe.read().decode()
    _, status, usage = os.wait4(process, 0)
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        outcome = "hang" if number in (signal.SIGALRM, signal.SIGXCPU) else f"crash by signal {number}"
    return outcome, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def limit_process() -> None:
    """At most 1 GB more than this process has, 10 s of CPU time, and nothing printed."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1)
    os.dup2(devnull, 2)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 1))
    signal.alarm(60 * SECONDS)  # waiting for nothing; long, because a busy computer is slow


# ---- all cases ------------------------------------------------------------------------------------------------


def run(kind: str, number: int, seed: int = 0, only: Sequence[int] = ()) -> list[Result]:
    """The results of `number` damaged inputs of one kind, or of those with the numbers `only`."""
    results = []
    with tempfile.TemporaryDirectory() as name:
        damaged = importlib.import_module(KINDS[kind]).make_inputs(Path(name))
        for index in range(CONTROLS):
            with tempfile.TemporaryDirectory(dir=name) as folder:
                case = damaged(index, None, Path(folder))
                outcome, _, _ = read_in_process(case)
            if outcome != ("refused" if "crafted" in case.label else "right"):
                raise RuntimeError(f"{kind} {case.label}, undamaged: {outcome}")
        for index in only or range(number):
            with tempfile.TemporaryDirectory(dir=name) as folder:
                case = damaged(index, random.Random(f"{seed} {kind} {index}"), Path(folder))
                outcome, seconds, megabytes = read_in_process(case)
            if megabytes > MEMORY >> 20:
                outcome = f"{megabytes:.0f} MB, {outcome}"
            results.append(Result(kind, index, case.label, outcome, seconds, megabytes))
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kinds", nargs="*", default=[], choices=[[], *KINDS], help="default: all")
    parser.add_argument("--number", type=int, default=200, help="damaged inputs of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, nargs="+", default=(), help="numbers of single inputs")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    failures = 0
    for kind in arguments.kinds or KINDS:
        start = time.monotonic()
        results = run(kind, arguments.number, arguments.seed, arguments.only)
        bad = [result for result in results if result.outcome not in GOOD]
        failures += len(bad)
        counts = Counter(result.outcome for result in results if result.outcome in GOOD)
        slowest = max(result.seconds for result in results)
        largest = max(result.megabytes for result in results)
        for result in bad:
            print(f"{kind} {result.index} {result.label}: {result.outcome}")
        summary = {"kind": kind, **{name: counts[name] for name in GOOD}, "failures": len(bad)}
        limits = {"slowest_seconds": round(slowest, 1), "largest_megabytes": round(largest)}
        print(json.dumps({**summary, **limits, "total_seconds": round(time.monotonic() - start)}), flush=True)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
