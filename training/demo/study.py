"""Study of the demo: several seeds and variants, summarized as n, mean and standard deviation in one results file.

    python -m training.demo.study                      # all variants, three seeds: hours on two cores
    python -m training.demo.study --seeds 0 --variants egmf

    runs/study/<variant>-<seed>  ->  training/results/demo.json  ->  update_readme.py, model cards

Finished runs are kept and interrupted runs resume; the results file summarizes all finished runs.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..cli import CommandParser, command_errors
from ..evaluation.gates import gate_spread
from ..evaluation.metrics import summarize, summarize_metrics
from ..evaluation.subsets import ALL_MODALITIES
from ..paths import CONFIGS, RESULTS, python_command
from ..records import commit, read_json, versions, write_json
from .assets import prepare_language_model
from .stages import run_stage, training_flags


class Variant(NamedTuple):
    """Options that differ from training/configs/demo.yaml, and the subsets of modalities to evaluate."""

    options: list[str]
    subsets: list[str]


VARIANTS: dict[str, Variant] = {
    "egmf": Variant([], ["every"]),
    "text_only": Variant(["--modalities", "text"], ["text"]),
    "labels_only": Variant(
        [
            *("--fusion_pretraining_epochs", "6", "--fusion_pretraining_mixup", "0"),
            *("--fusion_pretraining_token_dropout", "0"),
            *("--fit_pseudo_tokens", "false", "--distillation", "false"),
        ],
        ["every"],
    ),
    # As long as with fusion pretraining, but always together with the language model, and the fusion learns faster.
    "no_fusion_pretraining": Variant(
        [
            *("--fusion_pretraining_epochs", "0", "--num_train_epochs", "2.4", "--fusion_learning_rate", "1e-3"),
            *("--fit_pseudo_tokens", "false", "--distillation", "false"),  # both need the pretraining's head
        ],
        ["all"],
    ),
}


def collect(folder: Path) -> dict[str, Any]:
    """Summarize the finished runs in a folder.

    Returns:
        `{variant: {"seeds", "minutes", "subsets": {subset: {task: {metric: summary}}}, ...}}`.
    """
    variants = {}
    for name in VARIANTS:
        runs = finished_runs(folder, name)
        if runs:
            variants[name] = summarize_runs(runs)
    return variants


def finished_runs(folder: Path, variant: str) -> list[Path]:
    """Folders of a variant's evaluated runs, without those moved aside, whose names have more than the seed."""
    runs = [path.parent for path in folder.glob(f"{variant}-*/results-test.json")]
    return sorted(run for run in runs if run.name.removeprefix(f"{variant}-").isdigit())


def summarize_runs(runs: Sequence[Path]) -> dict[str, Any]:
    """Mean and spread over the seeds of one variant."""
    results = [read_json(run / "results-test.json") for run in runs]
    records = [read_json(run / "training.json") for run in runs]
    minutes = [record["seconds"]["all"] / 60 for record in records if record.get("resumed_from") is None]
    subsets = {subset: _summarize_subset(results, subset) for subset in results[0]["subsets"]}
    summary = {
        "seeds": [record["seed"] for record in records],
        "commits": sorted({record["commit"] for record in records}),
        "minutes": summarize(minutes),
        "trained_parameters": records[0]["parameters"]["trained"],
        "subsets": subsets,
    }
    if "emotion" in subsets.get(ALL_MODALITIES, {}):
        spreads = [
            gate_spread(result["subsets"][ALL_MODALITIES]["tasks"]["emotion"]["predictions"]) for result in results
        ]
        summary["gate_spread"] = {expert: summarize([spread[expert] for spread in spreads]) for expert in spreads[0]}
    return summary


def _summarize_subset(results: Sequence[dict[str, Any]], subset: str) -> dict[str, Any]:
    """`{task: {metric: summary}}`."""
    summaries = {}
    for task in results[0]["subsets"][subset]["tasks"]:
        summaries[task] = summarize_metrics(
            [result["subsets"][subset]["tasks"][task]["metrics"] for result in results]
        )
    return summaries


def run_variant(name: str, seed: int, arguments: argparse.Namespace, language_model: Path) -> None:
    """Train and evaluate one seed of a variant, unless that is already done."""
    variant = VARIANTS[name]
    run = arguments.folder / f"{name}-{seed}"
    timings: dict[str, Any] = {}
    if not (run / "training.json").is_file():
        train = python_command("train", "--config", arguments.config, "--dataset", arguments.dataset)
        train += ["--output_dir", str(run), "--text_model_name_or_path", str(language_model)]
        train += ["--seed", str(seed), *training_flags(run), *variant.options]
        run_stage(f"{name}, seed {seed}", train, timings)
    if not (run / "results-test.json").is_file():
        evaluate = python_command("run_eval", "--model_name_or_path", run, "--dataset", arguments.dataset)
        evaluate += ["--subsets", *variant.subsets]
        run_stage(f"{name}, seed {seed}: evaluation", evaluate, timings)


def make_parser() -> CommandParser:
    parser = CommandParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, minimum=0, nargs="+", default=[0, 1, 2])
    parser.add_argument("--variants", nargs="+", choices=tuple(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--folder", type=Path, default=Path("runs/study"), help="folder for all runs")
    parser.add_argument(
        "--dataset", type=Path, default=Path("data/demo"), help="folder of the corpus, built if missing"
    )
    parser.add_argument("--cache", type=Path, default=Path(".cache/assets"), help="folder for downloaded assets")
    parser.add_argument("--config", type=Path, default=CONFIGS / "demo.yaml", help="YAML file with training options")
    parser.add_argument("--output", type=Path, default=RESULTS / "demo.json", help="results file")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    with command_errors():
        arguments = make_parser().parse_args(argv)
        language_model = prepare_language_model(arguments.cache)
        corpus = python_command("demo.corpus", "--output", arguments.dataset, "--sources", arguments.cache)
        run_stage("corpus", corpus, timings={})
        for name in arguments.variants:
            for seed in arguments.seeds:
                run_variant(name, seed, arguments, language_model)
        record = {
            "command": "python -m training.demo.study",
            "versions": versions(),
            "commit": commit(),
            "ceilings": read_json(arguments.dataset / "ceilings.json"),
            "variants": collect(arguments.folder),
        }
        print(f"\nresults: {write_json(arguments.output, record)}")


if __name__ == "__main__":
    main()
