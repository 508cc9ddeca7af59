"""Carries out a plan: trains what is missing, evaluates, and leaves finished work alone.

    plan ─► Run: one training (options of a variant, seed) ─► Evaluation: one results file
            FOLDER/demo-small/gate=uniform-seed0/             results-test.json, results-test-experts=....json

Runs are named after what differs from the recipe, so that plans share them: the reference of all plans for the demo is
trained once. `--jobs N` runs N commands side by side. A killed command resumes when the plan is started again.
"""

import json
import os
import re
import signal
import statistics
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..paths import RESULTS, python_command
from ..records import digest_of_json, read_json, write_json
from .plan import PROTOCOLS, Plan, find_file, read_settings, recipe_path


MAX_NAME = 100


@dataclass(frozen=True)
class Run:
    """One training.

    Args:
        folder: its output folder.
        recipe: YAML file of the recipe.
        options: options of `egmf train` that differ from the recipe, `seed` among them.
    """

    folder: Path
    recipe: Path
    options: dict[str, Any]

    @property
    def is_finished(self) -> bool:
        return (self.folder / "training.json").is_file()

    @property
    def record(self) -> Path:
        """The file next to the folder that says what it was trained with."""
        return self.folder.with_name(f"{self.folder.name}.options.json")

    def describe(self) -> dict[str, Any]:
        """The content of `record`."""
        return {"recipe": self.recipe.read_text(encoding="utf-8"), "options": self.options}

    def command(self) -> list[str]:
        return python_command(
            "train", "--config", self.recipe, "--output_dir", self.folder, *command_line(self.options)
        )


@dataclass(frozen=True)
class Evaluation:
    """One results file of a run.

    Args:
        run: the run that is evaluated.
        output: the results file.
        options: options of `egmf evaluate`, `dataset` among them.
        subsets: subsets of the modalities.
    """

    run: Run
    output: Path
    options: dict[str, Any]
    subsets: list[str]

    @property
    def is_finished(self) -> bool:
        """Whether the file exists, with these subsets and the same options."""
        if not self.output.is_file():
            return False
        stored = read_json(self.output)
        asked = stored.get("asked", {})
        return asked.get("options") == self.options and set(self.subsets) <= set(asked.get("subsets", ()))

    def command(self) -> list[str]:
        fixed = ["--model_name_or_path", self.run.folder, "--output", self.output, "--overwrite"]
        options = command_line(self.options | {"subsets": self.subsets}, flags=True)
        return python_command("run_eval", *fixed, *options)


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
            arguments.append(json.dumps(value))
        else:
            arguments.append(str(value))
    return arguments


def options_name(options: Mapping[str, Any]) -> str:
    """A folder's name for options: `gate=uniform,lora_r=8`, or a digest where that would be too long."""
    text = ",".join(f"{key}={_value_name(value)}" for key, value in sorted(options.items()))
    text = re.sub(r"[^\w.,=+-]", "_", text)
    if len(text) > MAX_NAME:
        text = f"{text[:40]}-{digest_of_json(options, sort_keys=True)[:12]}"
    return text


def _value_name(value: Any) -> str:
    return "+".join(map(str, value)) if isinstance(value, list) else str(value)


# ---- what a plan needs ------------------------------------------------------------------------------------------


def protocol_options(plan: Plan) -> dict[str, Any]:
    """Options of the plan's protocol, which shorten every run."""
    if plan.protocol is None:
        return {}
    return read_settings(find_file(plan.protocol, PROTOCOLS, "protocol"))


def experiment_folder(plan: Plan, folder: Path) -> Path:
    """The folder of the runs of a recipe and a protocol, which all plans share."""
    return folder / "-".join([Path(plan.recipe).stem, plan.protocol or "full"])


def make_run(plan: Plan, variant: str, seed: int, folder: Path, shared: Mapping[str, Any]) -> Run:
    """The training of a variant and a seed.

    Args:
        shared: options given on the command line for all runs, such as `dataset`.
    """
    own = plan.variants[plan.run_of(variant)].train
    name = f"{options_name(own) or 'default'}-seed{seed}"
    options = {**protocol_options(plan), **shared, **own, "seed": seed}
    return Run(experiment_folder(plan, folder) / name, recipe_path(plan), options)


def make_evaluation(plan: Plan, variant: str, run: Run, shared: Mapping[str, Any]) -> Evaluation:
    """The evaluation of a variant of a trained run."""
    own = plan.variants[variant].evaluate
    recipe = read_settings(run.recipe)
    dataset = own.get("dataset") or run.options.get("dataset") or recipe["dataset"]
    options = {**shared, **own, "dataset": str(dataset)}
    name = options_name(own)
    output = run.folder / (f"results-test-{name}.json" if name else "results-test.json")
    return Evaluation(run, output, options, list(plan.subsets_of(variant)))


# ---- carrying it out --------------------------------------------------------------------------------------------


def check_run(run: Run) -> None:
    """Refuse a folder whose run was started with other options.

    Raises:
        ValueError: the folder holds another run.
    """
    if run.record.is_file():
        if read_json(run.record) != json.loads(json.dumps(run.describe())):
            raise ValueError(
                f"{run.folder} was started with another recipe or other options. Give another --folder, or move it."
            )
    elif run.folder.exists():
        raise ValueError(f"{run.folder} is not a run of an experiment. Give another --folder, or move it.")


class Commands:
    """Runs commands side by side, each with its part of the processor's cores and its own log.

    Args:
        jobs: number of commands at once.
    """

    def __init__(self, jobs: int):
        self.jobs = jobs
        self.processes: set[subprocess.Popen] = set()
        self.stopped = False

    def run(self, name: str, command: Sequence[str], log: Path) -> None:
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
        print(f"{name}: done in {(time.time() - started) / 60:.1f} min", flush=True)

    def stop(self) -> None:
        """Interrupt what runs, as Ctrl-C does, and start nothing more."""
        self.stopped = True
        for process in list(self.processes):
            process.send_signal(signal.SIGINT)
        for process in list(self.processes):
            process.wait()

    def run_all(self, tasks: Iterable[Any]) -> None:
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


class Runner:
    """A plan with its seeds and folders.

    Args:
        plan: the plan.
        seeds: of the runs.
        folder: folder of all runs.
        train_options: options of `egmf train` for all runs.
        evaluate_options: options of `egmf evaluate` for all evaluations.
    """

    def __init__(
        self,
        plan: Plan,
        seeds: Sequence[int],
        folder: Path,
        train_options: Mapping[str, Any] | None = None,
        evaluate_options: Mapping[str, Any] | None = None,
    ):
        self.plan = plan
        self.seeds = list(seeds)
        self.folder = folder
        self.evaluations: dict[tuple[str, int], Evaluation] = {}
        for variant in plan.variants:
            for seed in seeds:
                run = make_run(plan, variant, seed, folder, train_options or {})
                self.evaluations[variant, seed] = make_evaluation(plan, variant, run, evaluate_options or {})

    @property
    def runs(self) -> list[Run]:
        """The trainings, each once."""
        return list({evaluation.run.folder: evaluation.run for evaluation in self.evaluations.values()}.values())

    def describe(self) -> list[str]:
        """The runs with their state, and an estimate of the time that is left."""
        lines = []
        for run in self.runs:
            evaluations = [entry for entry in self.evaluations.values() if entry.run.folder == run.folder]
            missing = [entry for entry in evaluations if not entry.is_finished]
            state = "finished" if run.is_finished else "to resume" if run.folder.exists() else "to train"
            lines.append(f"{run.folder}: {state}, {len(missing)} of {len(evaluations)} evaluations missing")
        missing_runs = [run for run in self.runs if not run.is_finished]
        missing_evaluations = [entry for entry in self.evaluations.values() if not entry.is_finished]
        lines.append(f"{len(missing_runs)} trainings and {len(missing_evaluations)} evaluations to do.")
        estimate = self.estimate_minutes(len(missing_runs), len(missing_evaluations))
        if estimate is None:
            lines.append("No run of this recipe is finished yet, so that there is no estimate of the time.")
        else:
            lines.append(f"About {estimate:.0f} minutes, one after another.")
        return lines

    def estimate_minutes(self, num_runs: int, num_evaluations: int) -> float | None:
        """From the finished runs of the same recipe and protocol, or from stored results; None without any."""
        root = experiment_folder(self.plan, self.folder)
        trained = [read_json(path) for path in root.glob("*/training.json")]
        seconds = [record["seconds"]["all"] for record in trained if not record.get("resumed_from")]
        evaluated = [read_json(path)["seconds"] for path in root.glob("*/results-test*.json")]
        if not seconds:
            for path in (RESULTS / "experiments").glob("*.json"):
                stored = read_json(path)
                if (stored["recipe"], stored["protocol"]) == (self.plan.recipe, self.plan.protocol):
                    seconds += [60 * value for part in stored["variants"].values() for value in part["minutes"]]
        if not seconds:
            return None
        return (
            num_runs * statistics.median(seconds)
            + num_evaluations * (statistics.median(evaluated) if evaluated else 0.0)
        ) / 60

    def carry_out(self, jobs: int = 1) -> None:
        """Train and evaluate what is missing.

        Raises:
            ValueError: a folder holds something else (nothing has been started then), or a command failed.
        """
        for run in self.runs:
            check_run(run)
        commands = Commands(jobs)
        commands.run_all([lambda run=run: self.finish(run, commands) for run in self.runs])

    def finish(self, run: Run, commands: Commands) -> None:
        """Train a run and evaluate it, as far as that is missing."""
        if not run.is_finished:
            log = run.folder.with_name(f"{run.folder.name}.log")
            write_json(run.record, run.describe())
            commands.run(f"{run.folder.name}: training", run.command(), log)
        for evaluation in self.evaluations.values():
            if evaluation.run.folder == run.folder and not evaluation.is_finished and not commands.stopped:
                log = evaluation.output.with_suffix(".log")
                commands.run(f"{run.folder.name}: {evaluation.output.name}", evaluation.command(), log)
                asked = {"options": evaluation.options, "subsets": evaluation.subsets}
                write_json(evaluation.output, {"asked": asked, **read_json(evaluation.output)})

    def results(self) -> dict[str, dict[int, dict[str, Any]]]:
        """Variant -> seed -> content of its results file, of all finished evaluations."""
        found: dict[str, dict[int, dict[str, Any]]] = {}
        for (variant, seed), evaluation in self.evaluations.items():
            if evaluation.is_finished:
                found.setdefault(variant, {})[seed] = read_json(evaluation.output)
        return found
