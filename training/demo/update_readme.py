"""The figures of the README, rendered from the results files between two markers.

python -m training.demo.update_readme            # after `make demo-study` and the speed benchmark
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..cli import CommandParser, command_errors
from ..evaluation.subsets import ALL_MODALITIES, SUBSET_NAMES
from ..evaluation.tables import format_mean_std, format_number, format_subset, markdown_table
from ..paths import RESULTS
from ..records import read_json, write_text


README = Path(__file__).resolve().parents[2] / "README.md"
START = "<!-- results:start -->"
END = "<!-- results:end -->"
MEDIA = {"features": "with precomputed features", "raw": "from samples and frames"}
HEADER = ("modalities", "emotion accuracy", "best possible", "sentiment MAE", "best possible")
COMMANDS = {  # results file -> the command that makes it
    "demo.json": "make demo-study",
    "speed.json": "python -m training.benchmarks.cost.speed",
}


def render(results: dict[str, Any], speed: dict[str, Any]) -> str:
    """Markdown from `training/results/demo.json` and `training/results/speed.json`."""
    num_seeds = len(results["variants"]["egmf"]["seeds"])
    introduction = (
        f"The demo's synthetic test clips, {num_seeds} seeds (mean ± standard deviation), from "
        "`training/results/demo.json`, which `make demo-study` rebuilds:"
    )
    table = "\n".join(accuracy_table(results))
    return "\n\n".join([introduction, table, _describe_training(results), _describe_speed(speed)])


def accuracy_table(results: dict[str, Any]) -> list[str]:
    """Markdown table of every subset of modalities, and of the variants, beside the best possible figures."""
    variants = results["variants"]
    ceilings = results["ceilings"]
    rows = []
    for subset in SUBSET_NAMES:
        bound = format_number(ceilings["sentiment"].get(subset))
        rows.append(_table_row(format_subset(subset), variants["egmf"], subset, ceilings, bound))
    if "text_only" in variants:
        rows.append(_variant_row("text, model trained on text only", variants["text_only"], "text", ceilings))
    if "no_fusion_pretraining" in variants:
        variant = variants["no_fusion_pretraining"]
        rows.append(_variant_row("all three, no fusion pretraining", variant, ALL_MODALITIES, ceilings))
    return markdown_table(HEADER, rows)


def _variant_row(label: str, variant: dict[str, Any], subset: str, ceilings: dict[str, Any]) -> list[str]:
    label = f"{label} (n = {len(variant['seeds'])})"
    return _table_row(label, variant, subset, ceilings, format_number(None))


def _table_row(label: str, variant: dict[str, Any], subset: str, ceilings: dict[str, Any], best_mae: str) -> list[str]:
    tasks = variant["subsets"].get(subset, {})
    return [
        label,
        format_mean_std(tasks.get("emotion", {}).get("accuracy")),
        format_number(ceilings["emotion"][subset]),
        format_mean_std(tasks.get("sentiment", {}).get("mae")),
        best_mae,
    ]


def _describe_training(results: dict[str, Any]) -> str:
    egmf = results["variants"]["egmf"]
    return (
        f"Chance is {results['ceilings']['emotion']['chance']:.3f}. A run trains {egmf['trained_parameters']:,} "
        f"parameters; in these runs that took {_format_range(egmf['minutes']['values'])} minutes."
    )


def _format_range(values: Sequence[float]) -> str:
    low = f"{min(values):.1f}"
    high = f"{max(values):.1f}"
    return low if low == high else f"{low} to {high}"


def _describe_speed(speed: dict[str, Any]) -> str:
    settings = speed["settings"]
    ratios = speed["ratios"]
    return (
        f"On two CPU cores in {settings['dtype']}, {MEDIA[settings['media']]}, batch {settings['batch_size']}, a "
        f"training step takes {ratios['training_step']:.2f} times that of the bare language model with the same LoRA, "
        f"and `score_answers` over {speed['answers']} labels {ratios['score_answers']:.2f} times a plain prefill "
        f"({speed['answering_s_per_sample']:.3f} s per sample, without decoding and tokenizing), from "
        f"`training/results/speed.json` (`{COMMANDS['speed.json']}`; the file holds its settings)."
    )


def replace_block(text: str, block: str) -> str:
    """Replaces the text between the markers.

    Raises:
        ValueError: a marker is missing.
    """
    if START not in text or END not in text:
        raise ValueError(f"The README has no {START} ... {END}.")
    return re.sub(f"{START}.*{END}", lambda _: f"{START}\n{block}\n{END}", text, flags=re.DOTALL)


def main(argv: Sequence[str] | None = None) -> None:
    with command_errors():
        parser = CommandParser(description=__doc__.splitlines()[0])
        parser.add_argument("--readme", type=Path, default=README, help="file to update")
        arguments = parser.parse_args(argv)
        for name, command in COMMANDS.items():
            if not (RESULTS / name).is_file():
                raise ValueError(f"There is no {RESULTS / name}. Run `{command}` to make it.")
        block = render(read_json(RESULTS / "demo.json"), read_json(RESULTS / "speed.json"))
        text = arguments.readme.read_text(encoding="utf-8")
        write_text(arguments.readme, replace_block(text, block))


if __name__ == "__main__":
    main()
