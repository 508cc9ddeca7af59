"""Runs plans: trains what is missing, evaluates, and leaves finished work alone.

    plans ─► Runner each ─► runs, evaluations, ... (runs.py), those of all plans together, each once
                               └─► copies of language models ─► trainings ─► trainings that start from them

Plans share runs: the reference of all plans for the demo is trained once. `--jobs N` runs N commands side by side. A
killed command resumes when the plans are started again.
"""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data.locations import check_dataset
from ..evaluation.run_records import read_results, read_training
from ..paths import RESULTS
from ..records import read_json, write_json
from .commands import Commands
from .plan import Plan
from .runs import (
    Diagnosis,
    Evaluation,
    LanguageModelCopy,
    Measurement,
    Run,
    dataset_of,
    experiment_folder,
    make_evaluation,
    make_run,
    text_model_of,
    unique_runs,
)


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
        self.measurements: dict[tuple[str, int], Measurement] = {}
        for variant in plan.variants:
            for seed in seeds:
                run = make_run(plan, variant, seed, folder, train_options or {})
                self.evaluations[variant, seed] = make_evaluation(plan, variant, run, evaluate_options or {})
                if plan.measure:
                    self.measurements[variant, seed] = Measurement(run, dataset_of(run))
        self.diagnosis = self.make_diagnosis() if plan.diagnose else None
        self.check_options()

    def check_options(self) -> None:
        """Check the options of all trainings and evaluations.

        Raises:
            ValueError: an option does not exist, or has a value that is not possible.
        """
        for variant in self.plan.variants:
            evaluation = self.evaluations[variant, self.seeds[0]]
            try:
                evaluation.run.check_options()
                evaluation.check_options()
            except ValueError as error:
                raise ValueError(f"plan {self.plan.name}, variant {variant}: {error}") from error

    def make_diagnosis(self) -> Diagnosis:
        run = self.evaluations[self.plan.reference, self.seeds[0]].run
        output = experiment_folder(self.plan, self.folder) / "diagnosis.json"
        return Diagnosis(text_model_of(run.options, run.recipe), dataset_of(run), self.plan.groups, output)

    @property
    def runs(self) -> list[Run]:
        """The trainings, each once, and those that others start from."""
        runs = [run for entry in self.evaluations.values() for run in (entry.run.start, entry.run)]
        return list(unique_runs(runs).values())

    def results(self) -> dict[str, dict[int, dict[str, Any]]]:
        """Variant -> seed -> content of its results file, of all finished evaluations.

        Results of a model's task for another corpus's task (`task_map`) are under the name of the corpus's task.
        """
        found: dict[str, dict[int, dict[str, Any]]] = {}
        for (variant, seed), evaluation in self.evaluations.items():
            if evaluation.is_finished:
                results = read_json(evaluation.output)
                found.setdefault(variant, {})[seed] = rename_tasks(results, results.get("task_map") or {})
        return found


def rename_tasks(results: dict[str, Any], task_map: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Results with the names of the corpus's tasks, where the model answered one of its own instead."""
    corpus_tasks: dict[str, list[str]] = {}
    for name, entry in task_map.items():
        if entry["task"] is not None:
            corpus_tasks.setdefault(entry["task"], []).append(name)
    names = {task: "+".join(of_corpus) for task, of_corpus in corpus_tasks.items()}
    if not names:
        return results

    def renamed(of_tasks: Mapping[str, Any]) -> dict[str, Any]:
        others = {task: entry for task, entry in of_tasks.items() if task not in names}
        # They replace a task of the model that has the name of the corpus's task.
        return others | {name: of_tasks[task] for task, name in names.items() if task in of_tasks}

    subsets = {subset: part | {"tasks": renamed(part["tasks"])} for subset, part in results["subsets"].items()}
    return results | {"subsets": subsets, "tasks": renamed(results["tasks"])}


# ---- carrying out ----------------------------------------------------------------------------------------------


class Laboratory:
    """Everything that some plans need, each run and each file once.

    Args:
        runners: of the plans.
    """

    def __init__(self, runners: Sequence[Runner]):
        self.runners = list(runners)
        self.runs = unique_runs(run for runner in runners for run in runner.runs)
        self.evaluations: dict[Path, Evaluation] = {}
        self.measurements: dict[Path, Measurement] = {}
        self.diagnoses: dict[Path, Diagnosis] = {}
        for runner in runners:
            for evaluation in runner.evaluations.values():
                known = self.evaluations.get(evaluation.output)
                self.evaluations[evaluation.output] = evaluation if known is None else _merged(known, evaluation)
            self.measurements |= {entry.output: entry for entry in runner.measurements.values()}
            if runner.diagnosis is not None:
                self.diagnoses[runner.diagnosis.output] = runner.diagnosis
        self.language_models: dict[Path, LanguageModelCopy] = {}
        for copy in (run.language_model for run in self.runs.values() if run.language_model is not None):
            if copy != self.language_models.setdefault(copy.folder, copy):
                raise ValueError(
                    f"{copy.folder} would be the copy of two language models, {copy.source} and "
                    f"{self.language_models[copy.folder].source}. Carry the plans out in another --folder each."
                )

    def missing(self) -> dict[str, list[Any]]:
        """Kind of command -> what is not finished."""
        parts = {
            "language model": self.language_models,
            "diagnosis": self.diagnoses,
            "training": self.runs,
            "evaluation": self.evaluations,
            "measurement": self.measurements,
        }
        return {
            kind: [entry for entry in entries.values() if not entry.is_finished] for kind, entries in parts.items()
        }

    def datasets(self) -> list[str]:
        """Those of the trainings and evaluations that are missing, each once."""
        missing = self.missing()
        trained_on = [dataset_of(run) for run in missing["training"]]
        return list(dict.fromkeys([*trained_on, *(entry.options["dataset"] for entry in missing["evaluation"])]))

    def check_datasets(self) -> None:
        """Look for the datasets of what is missing.

        Raises:
            ValueError: some are nowhere; the message names each.
        """
        problems = []
        for dataset in self.datasets():
            try:
                check_dataset(dataset)
            except ValueError as error:
                problems.append(str(error))
        if problems:
            raise ValueError(" ".join(problems))

    def describe(self, jobs: int = 1) -> list[str]:
        """The runs with their state, and an estimate of the time that is left."""
        lines = []
        for run in self.runs.values():
            evaluations = [entry for entry in self.evaluations.values() if entry.run.folder == run.folder]
            missing = [entry for entry in evaluations if not entry.is_finished]
            state = "finished" if run.is_finished else "to resume" if run.folder.exists() else "to train"
            lines.append(f"{run.folder}: {state}, {len(missing)} of {len(evaluations)} evaluations missing")
        counts = {kind: len(entries) for kind, entries in self.missing().items()}
        lines.append(f"{counts['training']} trainings and {counts['evaluation']} evaluations to do.")
        others = {"language models to copy": "language model", "diagnoses": "diagnosis", "measurements": "measurement"}
        also = [f"{counts[kind]} {name}" for name, kind in others.items() if counts[kind]]
        if also:
            lines.append(f"Also {', '.join(also)}.")
        estimate = self.estimate_minutes()
        if estimate is None:
            lines.append("No run of this recipe is finished yet, so that there is no estimate of the time.")
        else:
            side_by_side = "one after another" if jobs == 1 else f"{jobs} side by side"
            lines.append(f"About {estimate / jobs:.0f} minutes, {side_by_side}.")
        return lines

    def estimate_minutes(self) -> float | None:
        """Of all that is missing, from finished runs of the same recipes and protocols, or from stored results; None
        without any."""
        missing = self.missing()
        known = {folder: _seconds_of(folder) for folder in {run.folder.parent for run in self.runs.values()}}
        for runner in self.runners:
            seconds = known.get(experiment_folder(runner.plan, runner.folder))
            if seconds is not None and not seconds["training"]:
                seconds["training"] = _stored_seconds(runner.plan)
        total = 0.0
        for run in missing["training"]:
            seconds = known[run.folder.parent]["training"]
            if not seconds:
                return None
            total += statistics.median(seconds)
        for evaluation in missing["evaluation"]:
            seconds = known[evaluation.run.folder.parent]["evaluation"]
            total += statistics.median(seconds) if seconds else 0.0
        return total / 60

    def carry_out(self, jobs: int = 1) -> None:
        """Train and evaluate what is missing.

        Raises:
            ValueError: a folder holds something else (nothing has been started then), or a command failed.
        """
        for entry in (*self.runs.values(), *self.language_models.values()):
            entry.check()
        self.check_datasets()
        missing = self.missing()
        commands = Commands(jobs, {kind: len(entries) for kind, entries in missing.items()})
        commands.run_all(
            [lambda copy=copy: self.copy_language_model(copy, commands) for copy in missing["language model"]]
        )
        commands.run_all([lambda entry=entry: self.diagnose(entry, commands) for entry in missing["diagnosis"]])
        for starts_anew in (True, False):
            runs = [run for run in self.runs.values() if (run.start is None) == starts_anew]
            commands.run_all([lambda run=run: self.finish(run, commands) for run in runs])

    def copy_language_model(self, copy: LanguageModelCopy, commands: Commands) -> None:
        write_json(copy.record, copy.describe())
        commands.run("language model", copy.folder.name, copy.command(), copy.log)

    def diagnose(self, diagnosis: Diagnosis, commands: Commands) -> None:
        name = f"diagnosis of {diagnosis.text_model}"
        commands.run("diagnosis", name, diagnosis.command(), diagnosis.output.with_suffix(".log"))

    def finish(self, run: Run, commands: Commands) -> None:
        """Train a run, evaluate and measure it, as far as that is missing."""
        name = run.folder.name
        if not run.is_finished:
            write_json(run.record, run.describe())
            commands.run("training", f"{name}: training", run.command(), run.log)
        for evaluation in self.evaluations.values():
            if evaluation.run.folder == run.folder and not evaluation.is_finished and not commands.stopped:
                asked = {"options": evaluation.options, "subsets": evaluation.all_subsets()}
                log = evaluation.output.with_suffix(".log")
                commands.run("evaluation", f"{name}: {evaluation.output.name}", evaluation.command(), log)
                if not commands.stopped:
                    write_json(evaluation.output, {"asked": asked, **read_json(evaluation.output)})
        for measurement in self.measurements.values():
            if measurement.run.folder == run.folder and not measurement.is_finished:
                log = measurement.output.with_suffix(".log")
                commands.run("measurement", f"{name}: cost", measurement.command(), log)


def _merged(first: Evaluation, second: Evaluation) -> Evaluation:
    """One evaluation for two plans: the subsets of both.

    Raises:
        ValueError: they need the same file with other options.
    """
    if first.options != second.options:
        raise ValueError(f"Two plans evaluate {first.output} with other options. Carry them out one after the other.")
    subsets = list(dict.fromkeys([*first.subsets, *second.subsets]))
    return Evaluation(first.run, first.output, first.options, subsets)


def _seconds_of(folder: Path) -> dict[str, list[float]]:
    """Seconds of the finished trainings and evaluations in a folder of runs."""
    trained = [read_training(path.parent, for_report=True) for path in folder.glob("*/training.json")]
    evaluated = [read_results(path).get("seconds") or 0.0 for path in folder.glob("*/results-test*.json")]
    return {
        "training": [record["seconds"]["all"] for record in trained if not record.get("resumed_from")],
        "evaluation": evaluated,
    }


def _stored_seconds(plan: Plan) -> list[float]:
    """Seconds of the trainings in the stored results of a recipe and a protocol."""
    seconds = []
    for path in (RESULTS / "experiments").glob("*.json"):
        stored = read_json(path)
        if (stored["recipe"], stored["protocol"]) == (plan.recipe_name, plan.protocol_name):
            seconds += [60 * value for part in stored["variants"].values() for value in part["minutes"]]
    return seconds
