"""Several runs of one recipe, judged together: n, mean and standard deviation beside published figures.

    python -m training.run_eval --model_name_or_path 'runs/meld-{seed}' --dataset data/meld --seeds 0 1 2 --config my_recipe.yaml

    runs/meld-0, -1, -2 ─► a results file each ─► runs/meld-seeds/results-test.json, and a table in results-test.md

A run that is not there is trained by the recipe, if one is given; one that was judged already is not judged again
(unless with --overwrite). Every run is also asked with its words alone, so that the table says what sound and picture
add. The published figures and their sources stand in published.yaml.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from ..records import commit, versions, write_json
from .metrics import summarize


PUBLISHED = Path(__file__).with_name("published.yaml")
SEED, WORDS_ALONE = "{seed}", "text"


def read_published() -> dict[str, dict[str, Any]]:
    """Task -> `shown`, names of figures, and `systems`, each with `name`, `source` and any figures."""
    return yaml.safe_load(PUBLISHED.read_text(encoding="utf-8"))


def _call(module: str, *options: object) -> None:
    """Run a module of ours in a process of its own.

    Raises:
        SystemExit: it failed; its own message stands above.
    """
    if subprocess.run([sys.executable, "-m", module, *map(str, options)], check=False).returncode:
        raise SystemExit(f"{module} failed; what it said stands above.")


def _train_missing(run: Path, seed: int, arguments: argparse.Namespace) -> None:
    if (run / "training.json").is_file() or (arguments.config is None and (run / "config.json").is_file()):
        return
    if arguments.config is None:
        raise ValueError(f"There is no run {run}. Give --config, the recipe that it is to be trained by.")
    place = ["--dataset", arguments.dataset, "--split_manifest", arguments.split_manifest, "--output_dir", run]
    text_model = (
        ["--text_model_name_or_path", arguments.text_model_name_or_path] if arguments.text_model_name_or_path else []
    )
    _call("training.train", "--config", arguments.config, "--seed", seed, *place, *text_model)


def _judge(run: Path, seed: int, subsets: Sequence[str], arguments: argparse.Namespace) -> dict[str, Any]:
    """The results of one run; those that are there are taken if they are of the same rows and subsets.

    Raises:
        ValueError: they are of others.
    """
    path = run / f"results-{arguments.split}.json"
    if path.is_file() and not arguments.overwrite:
        found = json.loads(path.read_text(encoding="utf-8"))
        same = (found["data"], found["split"]) == (str(arguments.dataset), arguments.split)
        same &= found.get("split_manifest", "official") == arguments.split_manifest
        same &= found.get("max_samples") == arguments.max_samples
        same &= found.get("window_hop") == arguments.window_hop
        same &= found.get("load_in_4bit", False) == arguments.load_in_4bit
        if same and set(subsets) <= set(found["subsets"]):
            return found
        raise ValueError(f"{path} is of other data, rows, subsets or settings than were asked now. Give --overwrite.")
    options = [
        "--model_name_or_path",
        run,
        "--dataset",
        arguments.dataset,
        "--split",
        arguments.split,
        "--seed",
        seed,
        "--overwrite",
    ]
    options += ["--split_manifest", arguments.split_manifest, "--batch_size", arguments.batch_size]
    options += ["--device", arguments.device, "--subsets", *subsets]
    options += (
        ["--text_model_name_or_path", arguments.text_model_name_or_path] if arguments.text_model_name_or_path else []
    )
    options += ["--max_samples", arguments.max_samples] if arguments.max_samples is not None else []
    options += ["--window_hop", arguments.window_hop] if arguments.window_hop is not None else []
    options += ["--load_in_4bit"] if arguments.load_in_4bit else []
    _call("training.run_eval", *options)
    return json.loads(path.read_text(encoding="utf-8"))


def sum_up(results: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Results of runs -> `{subset: {task: {"rows", "published", "metrics", "skipped"}}}`, each figure as `summarize`
    gives it; a figure that a run does not have is left out of its n."""
    found: dict[str, dict[str, Any]] = {}
    for subset, first in results[0]["subsets"].items():
        found[subset] = {}
        for task, part in first["tasks"].items():
            parts = [r["subsets"][subset]["tasks"][task] for r in results]
            found[subset][task] = {"rows": part["rows"], "skipped": part["published"].get("skipped")}
            for kind in ("published", "metrics"):
                found[subset][task][kind] = {
                    name: summarize(values)
                    for name, value in part[kind].items()
                    if not isinstance(value, dict | str)
                    and (values := [p[kind][name] for p in parts if p[kind].get(name) is not None])
                }
    return found


def _cell(figure: Any, n: int | None = None) -> str:
    """A number, or a dict with `mean` and `std`, as it stands in a table; also of how many runs, if not of `n`."""
    if figure is None:
        return "–"
    if isinstance(figure, dict):
        some = f" (n={figure['n']})" if n is not None and figure["n"] != n else ""
        return f"{figure['mean']:.4f}" + (f" ± {figure['std']:.4f}" if figure["std"] is not None else "") + some
    return f"{figure:.4f}"


def _largest(subsets: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Task -> what is said of it in the subset that has most rows."""
    found: dict[str, Any] = {}
    for parts in subsets.values():
        found |= {task: part for task, part in parts.items() if part["rows"] > found.get(task, {"rows": 0})["rows"]}
    return found


def table(task: str, subsets: dict[str, dict[str, Any]], n: int) -> list[str]:
    """Markdown: our subsets, the largest first and the words alone last, then the published systems."""
    known = read_published().get(task, {"systems": []})
    ours = {name: parts[task] for name, parts in subsets.items() if task in parts}
    kind = "metrics" if any(part["skipped"] for part in ours.values()) else "published"
    shown = known.get("shown") or list(next(iter(ours.values()))[kind])
    lines = [f"| {task} | n | {' | '.join(shown)} | source |", f"|{'---|' * (len(shown) + 3)}"]
    names = sorted((name for name in subsets if name != WORDS_ALONE), key=lambda name: -name.count("+"))
    for name in (*names, WORDS_ALONE):
        figures = ours.get(name, {kind: {}})[kind]
        label = "words alone" if name == WORDS_ALONE else name.replace("+", " + ")
        cells = " | ".join(_cell(figures.get(figure), n) for figure in shown)
        lines.append(f"| **ours**, {label} | {n if figures else 0} | {cells} | this run |")
    for system in known["systems"]:
        cells = " | ".join(_cell(system.get(figure)) for figure in shown)
        source = system["source"] + (f" ({system['note']})" if "note" in system else "")
        lines.append(f"| {system['name']} | {system.get('n', '–')} | {cells} | {source} |")
    skipped = {part["skipped"] for part in ours.values()} - {None}
    notes = [
        f"Published metrics left out ({reason}): ours are those of training/evaluation/metrics.py."
        for reason in skipped
    ]
    return [*lines, *(["", *notes] if notes else [])]


def evaluate_seeds(arguments: argparse.Namespace, subsets: Sequence[str]) -> Path:
    """Train what is missing, judge every run, write the JSON and, beside it, the table. Returns the JSON's path.

    Args:
        arguments: those of training.evaluation.evaluator, with `seeds`, and `model` holding `{seed}`.
        subsets: names of what is asked; the words alone are asked in any case.

    Raises:
        ValueError: no `{seed}` in `model`, a seed twice, a run is missing and no recipe given, or several processes.
    """
    pattern, seeds = arguments.model_name_or_path, arguments.seeds
    if SEED not in pattern or len(set(seeds)) != len(seeds):
        raise ValueError(
            f"--model_name_or_path is {pattern} and --seeds {seeds}; write {SEED} where each run has its seed, once."
        )
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("--seeds starts processes of its own: call it in one, and train on several devices before.")
    folder = Path(pattern.replace(SEED, "seeds"))
    output = arguments.output or folder / f"results-{arguments.split}.json"
    results = []
    for seed in seeds:
        run = Path(pattern.replace(SEED, str(seed)))
        _train_missing(run, seed, arguments)
        results.append(_judge(run, seed, list(dict.fromkeys([*subsets, WORDS_ALONE])), arguments))
    found = sum_up(results)
    tasks = list(dict.fromkeys(task for parts in found.values() for task in parts))
    lines = [line for task in tasks for line in (*table(task, found, len(seeds)), "")]
    rows = ", ".join(f"{part['rows']} rows of {task}" for task, part in _largest(found).items())
    splits, shown = f"{arguments.split} ({arguments.split_manifest})", ", ".join(map(str, seeds))
    about = f"Split {splits}, seeds {shown}, {rows}: mean ± standard deviation."
    record = {
        "model": pattern,
        "data": str(arguments.dataset),
        "split": arguments.split,
        "split_manifest": arguments.split_manifest,
        "max_samples": arguments.max_samples,
        "seeds": seeds,
        "n": len(seeds),
        "commits": sorted({str(result["commit"]) for result in results}),
        "commit": commit(),
        "versions": versions(),
        "subsets": found,
        "published": {task: read_published().get(task, {}).get("systems", []) for task in tasks},
    }
    path = write_json(output, record)
    text = "\n".join([about, "", *lines])
    path.with_suffix(".md").write_text(text, encoding="utf-8")
    print(f"{text}\nresults: {path}")
    return path
