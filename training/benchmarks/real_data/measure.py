"""Measurement of one benchmark: convert the release, split it, train, evaluate and compare.

Existing corpora, runs and results are reused.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from processing_egmf import EGMFTask

from ...arguments import parse_arguments
from ...converters import folder as folder_converter
from ...converters import meld as meld_converter
from ...data.dataset import load_examples
from ...data.examples import EXTRA
from ...demo.stages import training_flags
from ...evaluation.calibration import calibration_figures, fit_calibration, summarize_calibration
from ...evaluation.evaluator import EvaluationOptions, evaluate_checkpoint
from ...evaluation.metrics import summarize
from ...model.tasks_file import read_tasks
from ...records import digest_of_bytes, read_json, versions, write_json
from ...trainer.run import train
from .baselines import evaluate_baseline
from .benchmarks import BENCHMARKS, Benchmark
from .corpora import GROUP, REPORTED, TASKS, first_groups


MANIFEST = "inner"


@dataclasses.dataclass(frozen=True)
class BenchmarkOptions:
    """Options of all benchmarks.

    Args:
        dataset: folder that holds the releases' folders.
        text_model_name_or_path: language model, a folder or a Hub id.
        work: folder in which corpora and runs are kept.
        seeds: seeds, with one run each.
        all_examples: train on all examples, even where a benchmark uses a part by default.
        training_options: further training options.
    """

    dataset: Path
    text_model_name_or_path: str
    work: Path
    seeds: Sequence[int] = (0,)
    all_examples: bool = False
    training_options: Sequence[str] = ()

    def max_train_samples(self, benchmark: Benchmark) -> int | None:
        return None if self.all_examples else benchmark.max_train_samples


def measure(name: str, options: BenchmarkOptions) -> dict[str, Any]:
    """Measure one benchmark and return its entry in the results file.

    Args:
        name: name of the benchmark.
        options: options of the benchmark.

    Raises:
        ValueError: the release is missing.
    """
    benchmark = BENCHMARKS[name]
    corpus = convert(name, options)
    counts = write_manifest(benchmark, corpus, options.max_train_samples(benchmark))
    task = read_tasks(write_tasks_file(options.work))[benchmark.task]
    baseline = measure_baseline(benchmark, task, corpus)
    figures = ", ".join(f"{figure} {baseline['figures'][figure]:.4f}" for figure in benchmark.shown)
    print(f"{name}: {baseline['name']}: {figures}", flush=True)
    runs = [train_and_evaluate(name, corpus, seed, options) for seed in options.seeds]
    egmf = summarize_runs(benchmark, runs, options)
    return {
        "title": benchmark.title,
        "about": benchmark.about,
        "examples": counts,
        "task": task.to_dict(),
        "text_model": Path(options.text_model_name_or_path).name,
        "subset_titles": benchmark.subset_titles,
        "shown": benchmark.shown,
        "baseline": baseline,
        "egmf": egmf,
        "aims": check_aims(benchmark, egmf["subsets"][egmf["everything"]], baseline["figures"]),
        "commit": runs[0]["commit"],
        "versions": versions(),
    }


# ---- corpus ---------------------------------------------------------------------------------------------------


def convert(name: str, options: BenchmarkOptions) -> Path:
    """The converted corpus of a benchmark."""
    benchmark = BENCHMARKS[name]
    source = options.dataset / benchmark.folder
    if not source.is_dir():
        raise ValueError(f"{options.dataset} has no folder {benchmark.folder}/, which the benchmark {name!r} needs.")
    corpus = options.work / "corpora" / name
    if corpus.is_dir():
        return corpus
    quiet = ["--num_workers", "1", "--no_progress"]
    if benchmark.read is None:
        parts = ["--media", "none", "--splits", "train", REPORTED, *benchmark.converter_options]
        meld_converter.main([str(source), str(corpus), *parts, *quiet])
    else:
        release = benchmark.read(source, options.work / "releases" / name)
        tasks = ["--tasks_file", str(write_tasks_file(options.work))]
        folder_converter.main([str(release), str(corpus), *tasks, *quiet])
    return corpus


def write_manifest(benchmark: Benchmark, corpus: Path, max_train_samples: int | None) -> dict[str, int]:
    """Write the splits: some groups of train become `inner`, and those beyond the limit `unused`.

    Returns:
        Split -> number of examples.
    """
    examples = load_examples(corpus)
    groups = [example[EXTRA][benchmark.group] for example in examples if example["split"] == "train"]
    inner = set(first_groups(groups, round(benchmark.inner * len(groups))))
    others = [group for group in groups if group not in inner]
    train = set(others if max_train_samples is None else first_groups(others, max_train_samples))
    splits: dict[str, list[str]] = {"train": [], "inner": [], "unused": [], REPORTED: []}
    for example in examples:
        group = example[EXTRA][benchmark.group]
        split = example["split"]
        if split == "train" and group in inner:
            split = "inner"
        elif split == "train" and group not in train:
            split = "unused"
        splits[split].append(example["id"])
    about = "Groups of train that the epoch is chosen on."
    write_json(corpus / f"splits/{MANIFEST}.json", {"name": MANIFEST, "about": about, "splits": splits})
    return {split: len(ids) for split, ids in splits.items()}


def write_tasks_file(work: Path) -> Path:
    """Write the tasks that are not built in, as JSON, which is also YAML."""
    return write_json(work / "tasks.yaml", TASKS)


def measure_baseline(benchmark: Benchmark, task: EGMFTask, corpus: Path) -> dict[str, Any]:
    examples = load_examples(corpus, manifest=MANIFEST)
    for example in examples:
        example[GROUP] = example[EXTRA][benchmark.group]
    return evaluate_baseline(benchmark.baseline, task, examples)


# ---- EGMF -----------------------------------------------------------------------------------------------------


def train_and_evaluate(name: str, corpus: Path, seed: int, options: BenchmarkOptions) -> dict[str, Any]:
    """Results of one run on the reported split, with its training record and `calibration`."""
    benchmark = BENCHMARKS[name]
    training = {
        **benchmark.training_options(),
        "text_model_name_or_path": options.text_model_name_or_path,
        "seed": seed,
    }
    # The name of the run's folder identifies its options.
    settings = (
        sorted(training.items()),
        benchmark.inner,
        options.max_train_samples(benchmark),
        *options.training_options,
    )
    run = options.work / "runs" / f"{name}-{seed}-{digest_of_bytes(repr(settings).encode())[:8]}"
    if not (run / "training.json").is_file():
        training["dataset"] = corpus
        training["split_manifest"] = MANIFEST
        training["eval_split"] = MANIFEST if benchmark.inner else "train"
        training["output_dir"] = run
        training["tasks_file"] = write_tasks_file(options.work)
        argv = [*command_line(training), *training_flags(run), *options.training_options]
        train(*parse_arguments(argv))
    results = evaluate(benchmark, run, corpus, REPORTED, seed)
    calibration = measure_calibration(benchmark, run, corpus, results) if benchmark.inner else {}
    return {**results, "training": read_json(run / "training.json"), "calibration": calibration}


def evaluate(benchmark: Benchmark, run: Path, corpus: Path, split: str, seed: int) -> dict[str, Any]:
    """Results of a run on a split; existing ones are reused."""
    path = run / f"results-{split}.json"
    if not path.is_file():
        evaluation = EvaluationOptions(
            model_name_or_path=str(run),
            dataset=str(corpus),
            split=split,
            split_manifest=MANIFEST,
            subsets=list(benchmark.subsets),
            seed=seed,
        )
        evaluate_checkpoint(evaluation)
    return read_json(path)


def measure_calibration(
    benchmark: Benchmark, run: Path, corpus: Path, results: dict[str, Any]
) -> dict[str, dict[str, float]]:
    """Figures of each subset before and after calibration, which is fitted on the examples that chose the epoch.

    Returns:
        Subset -> its figures, as from `calibration_figures`.
    """
    fitted_on = evaluate(benchmark, run, corpus, MANIFEST, results["seed"])
    calibration = fit_calibration(fitted_on["subsets"], benchmark.task)
    return {
        subset: calibration_figures(part["tasks"][benchmark.task]["predictions"], calibration)
        for subset, part in results["subsets"].items()
    }


def command_line(options: dict[str, Any]) -> list[str]:
    """`{"lora_r": 8, "conv_channels": [4, 6]}` -> `["--lora_r", "8", "--conv_channels", "4", "6"]`."""
    argv = []
    for name, value in options.items():
        values = value if isinstance(value, list) else [value]
        argv += [f"--{name}", *map(str, values)]
    return argv


def metrics_of(run: dict[str, Any], subset: str, benchmark: Benchmark) -> dict[str, Any]:
    return run["subsets"][subset]["tasks"][benchmark.task]["metrics"]


def summarize_runs(benchmark: Benchmark, runs: Sequence[dict[str, Any]], options: BenchmarkOptions) -> dict[str, Any]:
    """Summarize the figures of the runs with different seeds, and their training settings."""
    subsets: dict[str, Any] = {}
    for subset in runs[0]["subsets"]:
        subsets[subset] = {}
        for figure in benchmark.shown:
            values = [metrics_of(run, subset, benchmark)[figure] for run in runs]
            subsets[subset][figure] = summarize([value for value in values if value is not None])
    everything = list(subsets)[-1]
    intervals = metrics_of(runs[0], everything, benchmark)["confidence_intervals"]
    return {
        "seeds": list(options.seeds),
        "subsets": subsets,
        "everything": everything,
        "confidence_intervals": {figure: intervals[figure] for figure in benchmark.shown},
        "calibration": summarize_calibration([run["calibration"] for run in runs]),
        "minutes": [run["training"]["seconds"]["all"] / 60 for run in runs],
        "trained_parameters": runs[0]["training"]["parameters"]["trained"],
        "settings": {**benchmark.training_options(), "further": list(options.training_options)},
    }


def check_aims(benchmark: Benchmark, egmf: dict[str, Any], baseline: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Figure -> the values that it should reach, and whether it does.

    Args:
        benchmark: the benchmark with its aims.
        egmf: figure -> summary over the seeds.
        baseline: figure -> value.
    """
    aims = {}
    for figure in benchmark.aims:
        is_first = figure == benchmark.aims[0]
        minimum = benchmark.min_first_aim if is_first else None
        mean = egmf[figure]["mean"]
        reached = mean is not None and mean > baseline[figure]
        if minimum is not None:
            reached = reached and mean >= minimum
        aims[figure] = {"above": baseline[figure], "at_least": minimum, "reached": reached}
    return aims
