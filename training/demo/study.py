"""Several seeds and variants of the demo, and one results file with n, mean and standard deviation.

    python -m training.demo.study                      # all variants, three seeds: hours on two cores
    python -m training.demo.study --seeds 0 --variants egmf

Each run lies in `runs/study/<variant>-<seed>`; finished ones are kept, interrupted ones go on, and
`training/results/demo.json` is made from all that are there.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..evaluation.metrics import gate_spread, summarize, summarize_metrics
from ..evaluation.subsets import ALL_MODALITIES
from ..records import commit, versions, write_json
from .__main__ import run_stage, training_flags
from .assets import prepare_language_model


# What is changed against training/configs/demo.yaml, and which subsets are worth asking.
VARIANTS: dict[str, tuple[list[str], list[str]]] = {
    "egmf": ([], ["every"]),
    "text_only": (["--modalities", "text"], ["text"]),
    # As long in time as with the warm-up, all of it with the language model; the fusion has all to learn.
    "no_fusion_pretraining": (
        ["--fusion_pretraining_epochs", "0", "--num_train_epochs", "2.4", "--fusion_learning_rate", "1e-3"],
        ["all"],
    ),
}
RESULTS = Path(__file__).resolve().parents[1] / "results/demo.json"


def collect(folder: Path) -> dict[str, Any]:
    """Every finished run of the folder: `{variant: {"seeds", "subsets": {subset: {task: {metric: summary}}}}}`."""
    found: dict[str, Any] = {}
    for variant in VARIANTS:
        # A run that --overwrite moved aside has more in its name than the seed.
        found_runs = (path.parent for path in folder.glob(f"{variant}-*/results-test.json"))
        runs = sorted(run for run in found_runs if run.name.removeprefix(f"{variant}-").isdigit())
        if not runs:
            continue
        results = [json.loads((run / "results-test.json").read_text(encoding="utf-8")) for run in runs]
        records = [json.loads((run / "training.json").read_text(encoding="utf-8")) for run in runs]
        subsets: dict[str, Any] = {}
        for subset, part in results[0]["subsets"].items():
            subsets[subset] = {}
            for task in part["tasks"]:
                metrics = [r["subsets"][subset]["tasks"][task]["metrics"] for r in results]
                subsets[subset][task] = summarize_metrics(metrics)
        found[variant] = {
            "seeds": [record["seed"] for record in records],
            "commits": sorted({record["commit"] for record in records}),
            "minutes": summarize([r["seconds"]["all"] / 60 for r in records if r.get("resumed_from") is None]),
            "trained_parameters": records[0]["parameters"]["trained"],
            "subsets": subsets,
        }
        if ALL_MODALITIES in subsets and "emotion" in subsets[ALL_MODALITIES]:
            spreads = [gate_spread(r["subsets"][ALL_MODALITIES]["tasks"]["emotion"]["predictions"]) for r in results]
            found[variant]["gate_spread"] = {name: summarize([s[name] for s in spreads]) for name in spreads[0]}
    return found


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--variants", nargs="+", choices=tuple(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--folder", type=Path, default=Path("runs/study"))
    parser.add_argument("--dataset", type=Path, default=Path("data/demo"))
    parser.add_argument("--cache", type=Path, default=Path(".cache/assets"))
    parser.add_argument("--config", type=Path, default=Path("training/configs/demo.yaml"))
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args(argv)
    timings: dict[str, Any] = {}
    python = [sys.executable, "-m"]
    language_model = prepare_language_model(arguments.cache)
    corpus = ["training.demo.corpus", "--output", str(arguments.dataset), "--sources", str(arguments.cache)]
    run_stage("corpus", [*python, *corpus], timings)
    for variant in arguments.variants:
        for seed in arguments.seeds:
            run = arguments.folder / f"{variant}-{seed}"
            options, subsets = VARIANTS[variant]
            if not (run / "training.json").is_file():
                train = ["training.train", "--config", str(arguments.config), "--dataset", str(arguments.dataset)]
                train += [
                    "--output_dir",
                    str(run),
                    "--text_model_name_or_path",
                    str(language_model),
                    "--seed",
                    str(seed),
                ]
                run_stage(f"{variant}, seed {seed}", [*python, *train, *training_flags(run), *options], timings)
            if not (run / "results-test.json").is_file():
                evaluate = ["training.run_eval", "--model_name_or_path", str(run), "--dataset", str(arguments.dataset)]
                run_stage(f"{variant}, seed {seed}: evaluation", [*python, *evaluate, "--subsets", *subsets], timings)
    ceilings = json.loads((arguments.dataset / "ceilings.json").read_text(encoding="utf-8"))
    record = {
        "command": "python -m training.demo.study",
        "versions": versions(),
        "commit": commit(),
        "ceilings": ceilings,
        "variants": collect(arguments.folder),
    }
    print(f"\nresults: {write_json(arguments.output, record)}")


if __name__ == "__main__":
    main()
