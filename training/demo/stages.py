"""Stages of `make demo` and `make real`: commands in processes of their own, with their durations and peak memory."""

import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..paths import python_command
from ..records import digest_of_file, read_json, write_json


TIMINGS = "timings.json"  # duration and memory of each stage, in the folder of the run
TRAINED_WITH = "trained_with.json"  # the options of a finished run, in its folder
SECONDS_BETWEEN_SAMPLES = 0.2


def run_stage(
    name: str,
    command: Sequence[str],
    timings: dict[str, Any],
    cwd: Path | None = None,
    offline: bool = True,
) -> None:
    """Run one stage and show its output.

    Args:
        name: heading on the screen, and key in `timings`.
        command: program and arguments.
        timings: receives `seconds` and `peak_gib` of the stage.
        cwd: working folder; None for the current one.
        offline: whether nothing is to be downloaded from the Hub.

    Raises:
        SystemExit: the stage failed, after printing its own message.
    """
    print(f"\n== {name} ==", flush=True)
    started = time.time()
    peak_gib = 0.0
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false"}
    if offline:
        environment["HF_HUB_OFFLINE"] = "1"
    process = subprocess.Popen(command, cwd=cwd, env=environment)
    try:
        while process.poll() is None:
            peak_gib = max(peak_gib, _peak_gib(process.pid))
            time.sleep(SECONDS_BETWEEN_SAMPLES)
    except KeyboardInterrupt:
        process.wait()
        raise SystemExit("\nInterrupted. Run the same command again to resume.") from None
    timings[name] = {"seconds": round(time.time() - started, 1), "peak_gib": round(peak_gib, 2)}
    if process.returncode:
        raise SystemExit(f"\nThe stage '{name}' failed (exit {process.returncode}); see its message above.")


def train_once(
    options: Sequence[str],
    config: Path,
    corpus: Any,
    output: Path,
    timings: dict[str, Any],
    offline: bool = True,
) -> None:
    """The stage `training`, unless a run with the same options on the same corpus is finished.

    Args:
        options: of training.train, without the folder of the run.
        config: the recipe among them, whose content counts, too.
        corpus: what identifies the corpus.
        output: folder of the run.
        timings, offline: as for `run_stage`.
    """
    key = {"options": list(options), "recipe": config.read_text(encoding="utf-8"), "corpus": corpus}
    record = output / TRAINED_WITH
    # Beside the run: it is left if this process is killed before it sees the end of the training.
    started = output.with_name(f".{output.name}.{TRAINED_WITH}")
    training = _digest_of_training(output)
    if training is not None and started.is_file():
        attempt = read_json(started)
        if attempt.pop("replaces") != training and attempt == key:
            write_json(record, key)
            started.unlink()
    finished = (output / "training.json").is_file() and record.is_file() and "--overwrite" not in options
    if finished and read_json(record) == key:
        if (output / TIMINGS).is_file():
            timings |= {"training": read_json(output / TIMINGS).get("training", {})}
        print(
            f"\n== training ==\n{output} is trained with these options; it is kept. To train again, move it away.",
            flush=True,
        )
        return
    write_json(started, key | {"replaces": training})
    command = python_command("train", *options, "--output_dir", output, *training_flags(output))
    run_stage("training", command, timings, offline=offline)
    write_json(record, key)
    started.unlink()


def _digest_of_training(output: Path) -> str | None:
    """SHA-256 of the record of a finished run; None if there is none."""
    path = output / "training.json"
    return digest_of_file(path) if path.is_file() else None


def _peak_gib(pid: int) -> float:
    """Peak resident memory of a process so far, in GiB; 0 if /proc does not provide it."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return 0.0
    for line in status.splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 2**20
    return 0.0


def training_flags(output: Path) -> list[str]:
    """Training options for an output folder that may already hold a run.

    Training resumes an interrupted run without further options; a finished run, or anything else, is moved aside by
    `--overwrite`.
    """
    if not output.is_dir() or not any(output.iterdir()):
        return []
    is_finished = (output / "training.json").is_file()
    is_run = (output / "settings.json").is_file()
    if is_run and not is_finished:
        return []
    return ["--overwrite", "true"]
