"""Several runs of one recipe, evaluated together: n, mean and standard deviation next to published figures.

    egmf evaluate --model_name_or_path 'runs/meld-{seed}' --dataset data/meld --seeds 0 1 2 \
        --config my_recipe.yaml

    runs/meld-0, -1, -2 ─► a results file each ─► runs/meld-seeds/results-test.json, and a table in results-test.md

A run that does not exist is trained with the recipe, if one is given; a run that has been evaluated is not evaluated
again, unless --overwrite is given. Every run is also evaluated with text only, so that the table shows what audio and
video add. The published figures and their sources are in published.yaml.
"""

import dataclasses
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from ..paths import python_command
from ..records import commit, versions, write_json, write_text
from .evaluator import EvaluationOptions, describe_evaluation
from .metrics import summarize_metrics
from .run_records import read_results
from .subsets import modalities_of_run, parse_subsets, subset_name
from .tables import MISSING, format_mean_std, format_number, format_subset, markdown_table


PUBLISHED = Path(__file__).with_name("published.yaml")
SEED = "{seed}"
TEXT_ONLY = "text"
DECIMALS = 4


def read_published() -> dict[str, dict[str, Any]]:
    """Task -> `shown`, names of metrics, and `systems`, each with `name`, `source` and any metrics."""
    return yaml.safe_load(PUBLISHED.read_text(encoding="utf-8"))


# ---- one run ----------------------------------------------------------------------------------------------------


def run_command(module: str, *options: Any) -> None:
    """Run one of our commands in a separate process.

    Raises:
        SystemExit: it failed; it has printed the reason.
    """
    if subprocess.run(python_command(module, *options), check=False).returncode:
        raise SystemExit(f"error: {module} failed; see its message above.")


def train_if_missing(run: Path, seed: int, options: EvaluationOptions, recipe: Path | None) -> None:
    """Train a run with the recipe, unless it exists.

    Raises:
        ValueError: it does not exist, and there is no recipe.
    """
    if (run / "training.json").is_file():
        return
    if recipe is None:
        if (run / "config.json").is_file():
            return
        raise ValueError(f"There is no run {run}. Give --config, the recipe to train it with.")
    arguments = ["--config", recipe, "--seed", seed, "--output_dir", run]
    arguments += ["--dataset", options.dataset, "--split_manifest", options.split_manifest]
    arguments += dataclasses.replace(options.reading, streaming=False).command_line()
    if options.text_model_name_or_path:
        arguments += ["--text_model_name_or_path", options.text_model_name_or_path]
    run_command("train", *arguments)


def evaluate_run(options: EvaluationOptions) -> dict[str, Any]:
    """The results of one run; existing results are reused.

    Raises:
        ValueError: existing results are for other data, subsets or settings.
    """
    path = Path(options.model_name_or_path) / f"results-{options.split}.json"
    if path.is_file() and not options.overwrite:
        results = read_results(path, Path(options.model_name_or_path))
        expected = describe_evaluation(options)
        same = all(results.get(name) == value for name, value in expected.items() if name != "model")
        if same and set(options.subsets) <= set(results["subsets"]):
            return results
        raise ValueError(f"{path} holds results for other data, subsets or settings. Use --overwrite to replace it.")
    run_command("run_eval", *command_line(options))
    return read_results(path)


def command_line(options: EvaluationOptions) -> list[Any]:
    """The options as arguments of run_eval.py; an existing results file is replaced."""
    arguments: list[Any] = ["--overwrite"]
    for option in dataclasses.fields(options):
        value = getattr(options, option.name)
        if option.name in ("output", "overwrite", "reading") or value is None or value is False:
            continue
        arguments.append(f"--{option.name}")
        if isinstance(value, list):
            arguments += value
        elif value is not True:
            arguments.append(value)
    return [*arguments, *options.reading.command_line()]


# ---- all runs ---------------------------------------------------------------------------------------------------


def summarize_runs(results: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Results of runs -> `{subset: {task: {"examples", "metrics"}}}`, each figure as `summarize` returns it.

    Raises:
        ValueError: the runs were evaluated on different examples.
    """
    summary: dict[str, dict[str, Any]] = {}
    for other in results[1:]:
        if count_examples(other) != count_examples(results[0]):
            raise ValueError(
                f"{results[0]['model']} and {other['model']} were evaluated on different examples: "
                f"{count_examples(results[0])} and {count_examples(other)}. Has the dataset changed? Give --overwrite."
            )
    for subset, first in results[0]["subsets"].items():
        summary[subset] = {}
        for task, part in first["tasks"].items():
            runs = [run["subsets"][subset]["tasks"][task]["metrics"] for run in results]
            summary[subset][task] = {"examples": part["examples"], "metrics": summarize_metrics(runs)}
    return summary


def count_examples(results: dict[str, Any]) -> dict[str, dict[str, int]]:
    """Subset -> task -> number of examples."""
    return {
        subset: {task: figures["examples"] for task, figures in part["tasks"].items()}
        for subset, part in results["subsets"].items()
    }


def table(task: str, subsets: dict[str, dict[str, Any]], n: int) -> list[str]:
    """Markdown table: our subsets, the largest first and text only last, then the published systems.

    Args:
        task: its published figures decide which columns are shown.
        subsets: of `summarize_runs`.
        n: number of runs.
    """
    published = read_published().get(task, {"systems": []})
    of_task = {name: parts[task] for name, parts in subsets.items() if task in parts}
    shown = published.get("shown") or list(next(iter(of_task.values()))["metrics"])
    names = [name for name in subsets if name != TEXT_ONLY]
    names.sort(key=lambda name: -name.count("+"))
    if TEXT_ONLY in subsets:
        names.append(TEXT_ONLY)
    rows = [_our_row(name, of_task.get(name, {}).get("metrics", {}), shown, n) for name in names]
    rows += [_published_row(system, shown) for system in published["systems"]]
    return markdown_table([task, "n", *shown, "source"], rows)


def _our_row(subset: str, figures: dict[str, Any], shown: Sequence[str], n: int) -> list[Any]:
    name = "text only" if subset == TEXT_ONLY else format_subset(subset)
    cells = []
    for figure in shown:
        summary = figures.get(figure)
        cell = format_mean_std(summary, DECIMALS)
        if summary is not None and summary["n"] != n:
            cell += f" (n={summary['n']})"
        cells.append(cell)
    return [f"**ours**, {name}", n if figures else 0, *cells, "this run"]


def _published_row(system: dict[str, Any], shown: Sequence[str]) -> list[Any]:
    cells = []
    for figure in shown:
        value = system.get(figure)
        several_runs = isinstance(value, dict)
        cells.append(format_mean_std(value, DECIMALS) if several_runs else format_number(value, DECIMALS))
    source = system["source"]
    if "note" in system:
        source += f" ({system['note']})"
    return [system["name"], system.get("n", MISSING), *cells, source]


def evaluate_seeds(options: EvaluationOptions, seeds: Sequence[int], recipe: Path | None = None) -> Path:
    """Train missing runs, evaluate all, write a JSON file and a table next to it. Returns the JSON file's path.

    Args:
        options: `model_name_or_path` contains `{seed}`; text only is evaluated in addition to `subsets`.
        seeds: the seeds of the runs.
        recipe: YAML file to train missing runs with.

    Raises:
        ValueError: `model_name_or_path` has no `{seed}`, a seed is repeated, a run is missing and there is no recipe,
            or this is one of several processes.
    """
    pattern = options.model_name_or_path
    parse_subsets(options.subsets)  # a misspelled name is reported before anything is trained
    if SEED not in pattern or len(set(seeds)) != len(seeds):
        raise ValueError(
            f"--model_name_or_path is {pattern} and --seeds {seeds}; write {SEED} where the run names contain the "
            "seed, and give each seed once."
        )
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError(
            "--seeds starts its own processes: run it in a single process. To train in several processes, train the "
            "runs first."
        )
    results = []
    for seed in seeds:
        run = pattern.replace(SEED, str(seed))
        train_if_missing(Path(run), seed, options, recipe)
        modalities = modalities_of_run(Path(run))
        subsets = [subset_name(subset) for subset in parse_subsets(options.subsets, modalities)]
        if TEXT_ONLY in modalities and TEXT_ONLY not in subsets:
            subsets.append(TEXT_ONLY)
        of_run = dataclasses.replace(options, model_name_or_path=run, seed=seed, subsets=subsets)
        results.append(evaluate_run(of_run))
    output = options.output or Path(pattern.replace(SEED, "seeds")) / f"results-{options.split}.json"
    return write_summary(output, options, seeds, results)


def write_summary(
    output: Path, options: EvaluationOptions, seeds: Sequence[int], results: Sequence[dict[str, Any]]
) -> Path:
    """Write the JSON file of all runs, and their table next to it. Returns the JSON file's path."""
    summary = summarize_runs(results)
    tasks = list(dict.fromkeys(task for parts in summary.values() for task in parts))
    published = read_published()
    record = {
        **describe_evaluation(options),
        "seeds": list(seeds),
        "n": len(seeds),
        "commits": sorted({str(result["commit"]) for result in results}),
        "commit": commit(),
        "versions": versions(),
        "subsets": summary,
        "published": {task: published.get(task, {}).get("systems", []) for task in tasks},
    }
    path = write_json(output, record)
    lines = [_describe_runs(options, seeds, summary, tasks)]
    for task in tasks:
        lines += ["", *table(task, summary, len(seeds))]
    text = "\n".join(lines) + "\n"
    write_text(path.with_suffix(".md"), text)
    print(f"{text}\nresults: {path}")
    return path


def _describe_runs(
    options: EvaluationOptions, seeds: Sequence[int], summary: dict[str, dict[str, Any]], tasks: Sequence[str]
) -> str:
    counts = []
    for task in tasks:
        examples = max(parts[task]["examples"] for parts in summary.values() if task in parts)
        counts.append(f"{examples} examples of {task}")
    return (
        f"Split {options.split} ({options.split_manifest}), seeds {', '.join(map(str, seeds))}, {', '.join(counts)}: "
        "mean ± standard deviation."
    )
