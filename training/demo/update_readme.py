"""The figures of the README, rendered from the results files between two markers.

python -m training.demo.update_readme            # after `make demo-study` and the speed benchmark
"""

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..evaluation.subsets import SUBSET_NAMES


ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "training/results"
MEDIA = {"features": "with precomputed features", "raw": "from samples and frames"}
START, END = "<!-- results:start -->", "<!-- results:end -->"


def _shown(summary: dict[str, Any] | None) -> str:
    if summary is None:
        return "–"
    spread = f" ± {summary['std']:.3f}" if summary["std"] is not None else ""
    return f"{summary['mean']:.3f}{spread}"


def _range(values: Sequence[float]) -> str:
    low, high = f"{min(values):.1f}", f"{max(values):.1f}"
    return low if low == high else f"{low} to {high}"


def _metric(variant: dict[str, Any], subset: str, task: str, metric: str) -> dict[str, Any] | None:
    return variant.get("subsets", {}).get(subset, {}).get(task, {}).get(metric)


def _accuracy_table(results: dict[str, Any]) -> list[str]:
    egmf, ceilings = results["variants"]["egmf"], results["ceilings"]
    lines = [
        "| modalities | emotion accuracy | best possible | sentiment MAE | best possible |",
        "|---|---|---|---|---|",
    ]
    for subset in SUBSET_NAMES:
        bound = ceilings["sentiment"].get(subset)
        lines.append(
            f"| {subset.replace('+', ' + ')} | {_shown(_metric(egmf, subset, 'emotion', 'accuracy'))} "
            f"| {ceilings['emotion'][subset]:.3f} | {_shown(_metric(egmf, subset, 'sentiment', 'mae'))} "
            f"| {'–' if bound is None else f'{bound:.3f}'} |"
        )
    for name, label in (
        ("text_only", "text, model trained on text alone"),
        ("no_fusion_pretraining", "all three, no warm-up"),
    ):
        variant = results["variants"].get(name)
        if variant is not None:
            subset = "text" if name == "text_only" else SUBSET_NAMES[-1]
            lines.append(
                f"| {label} (n = {len(variant['seeds'])}) | {_shown(_metric(variant, subset, 'emotion', 'accuracy'))} "
                f"| {ceilings['emotion'][subset]:.3f} | {_shown(_metric(variant, subset, 'sentiment', 'mae'))} | – |"
            )
    return lines


def render(results: dict[str, Any], speed: dict[str, Any]) -> str:
    """Markdown from `training/results/demo.json` and `training/results/speed.json`."""
    egmf = results["variants"]["egmf"]
    ratios = speed["ratios"]
    return "\n".join(
        [
            f"The demo's synthetic test clips, {len(egmf['seeds'])} seeds (mean ± standard deviation), from "
            "`training/results/demo.json`, which `make demo-study` rebuilds:",
            "",
            *_accuracy_table(results),
            "",
            f"Chance is {results['ceilings']['emotion']['chance']:.3f}. A run trains {egmf['trained_parameters']:,} "
            f"parameters; in these runs that took {_range(egmf['minutes']['values'])} minutes.",
            "",
            f"On two CPU cores in {speed['settings']['dtype']}, {MEDIA[speed['settings']['media']]}, batch "
            f"{speed['settings']['batch_size']}, a training step takes {ratios['training_step']:.2f} times that of "
            f"the bare language model with the same LoRA, and `score_answers` over {speed['answers']} labels "
            f"{ratios['score_answers']:.2f} times a plain prefill ({speed['answering_s_per_sample']:.3f} s a sample; "
            "decoding and tokenizing not counted), from `training/results/speed.json` "
            "(`python -m training.benchmarks.cost.speed`; its settings stand in the file).",
        ]
    )


def replace_block(text: str, block: str) -> str:
    """The text with what stands between the markers replaced.

    Raises:
        ValueError: the markers are not there.
    """
    if START not in text or END not in text:
        raise ValueError(f"The README has no {START} ... {END}.")
    return re.sub(f"{START}.*{END}", lambda _: f"{START}\n{block}\n{END}", text, flags=re.DOTALL)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md")
    arguments = parser.parse_args(argv)
    for name, command in (
        ("demo.json", "make demo-study"),
        ("speed.json", "python -m training.benchmarks.cost.speed"),
    ):
        if not (RESULTS / name).is_file():
            parser.error(f"there is no {RESULTS / name}; {command} makes it.")
    results = json.loads((RESULTS / "demo.json").read_text(encoding="utf-8"))
    speed = json.loads((RESULTS / "speed.json").read_text(encoding="utf-8"))
    text = replace_block(arguments.readme.read_text(encoding="utf-8"), render(results, speed))
    arguments.readme.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
