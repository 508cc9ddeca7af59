"""Memory that EGMF needs with a given language model: parameters, bytes, and the smallest GPU that fits them.

    python -m training.benchmarks.cost.memory --backbone glm3-6b
    python -m training.benchmarks.cost.memory --backbone qwen2.5-7b --batch_size 16 --length 256 --json
    python -m training.benchmarks.cost.memory --backbone all --output training/results/memory.json

The model is built on the meta device, from the shapes in training/model/backbones/. Besides the options below, every
model option of training is accepted, such as the rank and targets of LoRA, with the same defaults. Parameters,
weights, gradients, optimizer and cache are exact; activations follow formulas, except those of encoders and fusion,
which are counted while running one sample.

Next: `memory_estimate.py` adds everything up.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from ...cli import CommandParser, command_errors, output_file
from ...model.backbones import backbone_config, backbone_names, backbone_settings
from ...options import ModelArguments, option_names, options_of
from ...records import write_json
from ..option_ranges import check_ranges
from .memory_formulas import USABLE_SHARE, Batch


# ---- the record as a table ------------------------------------------------------------------------------------


def render(record: dict[str, Any]) -> str:
    """The record as text."""
    title = f"{record['backbone']}, language model in {record['dtype']}, LoRA and all other parts in float32"
    share = f"{100 * USABLE_SHARE:.0f}%"
    lines = [
        title,
        "",
        *_parameter_lines(record),
        "",
        *_size_lines(record),
        "",
        *_peak_lines(record),
        "",
        f"{share} of a GPU's memory counts as usable. Formulas: memory_formulas.py.",
    ]
    return "\n".join(lines)


def _parameter_lines(record: dict[str, Any]) -> list[str]:
    weights = record["bytes"]["weights"]
    lines = [f"{'parameters':<24}{'all':>16}{'trained':>14}{'weights':>16}"]
    for part, counts in record["parameters"].items():
        lines.append(_parameter_line(part, counts["total"], counts["trainable"], weights[part]))
    total = sum(counts["total"] for counts in record["parameters"].values())
    trainable = sum(counts["trainable"] for counts in record["parameters"].values())
    lines.append(_parameter_line("together", total, trainable, sum(weights.values())))
    lines.append(f"  trained: {100 * record['trainable_share']:.3f}% of all")
    return lines


def _parameter_line(name: str, total: int, trainable: int, num_bytes: int) -> str:
    return f"  {name:<22}{total:>16,}{trainable:>14,}{_gibibytes(num_bytes):>16}"


def _size_lines(record: dict[str, Any]) -> list[str]:
    batch = record["batch"]
    sizes = record["bytes"]
    activations = sizes["activations"]
    rows = {
        "weights in 4 bit": sizes["weights_4_bit"],
        "gradients": sizes["gradients"],
        "optimizer (AdamW)": sizes["optimizer"],
        "activations": activations["plain"],
        "  with checkpointing": activations["checkpointed"],
        "  encoders and fusion": activations["encoders_and_fusion"],
        f"cache, {sizes['cache_per_token']:,} bytes per token": sizes["cache"],
    }
    header = (
        f"a batch of {batch['samples']} samples of {batch['length']} tokens ({batch['logit_tokens']} with logits), "
        f"{batch['seconds']:g} seconds each"
    )
    return [header, *[f"  {name:<36}{_gibibytes(num_bytes):>16}" for name, num_bytes in rows.items()]]


def _peak_lines(record: dict[str, Any]) -> list[str]:
    context = _gibibytes(record["bytes"]["context"]).strip()
    lines = [f"{f'at the peak, with {context} of CUDA':<54}  fits a GPU of"]
    for work, settings in record["peaks"].items():
        for setting, peak in settings.items():
            gpu = f"{peak['gpu_gb']} GB" if peak["gpu_gb"] else "none of these"
            lines.append(f"  {f'{work}, {setting}':<36}{_gibibytes(peak['bytes']):>16}  {gpu}")
    return lines


def _gibibytes(num_bytes: float) -> str:
    return f"{num_bytes / 2**30:9.3f} GiB"


# ---- the command ----------------------------------------------------------------------------------------------

MAX_TOKENS = 10**7
RANGES = {
    "batch_size": (1, MAX_TOKENS),
    "length": (1, MAX_TOKENS),
    "answer_tokens": (1, MAX_TOKENS),
    "seconds": (0.01, 86400.0),
    "words": (0, MAX_TOKENS),
}


def make_parser() -> CommandParser:
    """The options of the estimate itself."""
    parser = CommandParser(description=__doc__.splitlines()[0])
    backbones = f"{', '.join(backbone_names())}; all of these; a YAML file; or a folder with a config.json"
    parser.add_argument("--backbone", required=True, help=backbones)
    parser.add_argument("--batch_size", type=int, default=8, help="samples on one GPU")
    parser.add_argument("--length", type=int, default=128, help="tokens per sample: prompt, padding and answer")
    parser.add_argument("--answer_tokens", type=int, default=5, help="tokens of the longest answer, with its end")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of each clip")
    parser.add_argument("--words", type=int, default=32, help="tokens of each transcript")
    parser.add_argument(
        "--double_quantization", action=argparse.BooleanOptionalAction, default=True, help="also quantize the scales"
    )
    parser.add_argument("--json", action="store_true", help="print the record instead of the table")
    parser.add_argument("--output", type=output_file, help="also write the record to this JSON file")
    return parser


def make_full_parser() -> CommandParser:
    """The estimate's options and training's model options, for `--help` and to detect mistyped options."""
    parser = make_parser()
    group = parser.add_argument_group("Model, as in training")
    for option in options_of(ModelArguments, "Model"):
        if f"--{option.name}" in parser.option_names:
            continue
        parser.add_argument(f"--{option.name}", metavar=option.placeholder, help=option.help, group=group)
        parser.option_names += option_names(option)
    return parser


def parse_arguments(argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """The options of the estimate, and the remaining ones for the model.

    Raises:
        SystemExit: help was asked for (status 0), or an option does not exist (status 2).
        ValueError: a number is out of range.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    full_parser = make_full_parser()
    if "--help" in arguments or "-h" in arguments:
        full_parser.print_help()
        sys.exit(0)
    full_parser.check_option_names(arguments)
    own, model_options = make_parser().parse_known_args(arguments)
    check_ranges(own, RANGES)
    return own, model_options


def parse_model_arguments(options: Sequence[str], backbone: str) -> ModelArguments:
    """The model options of a command line; the backbone's settings are the defaults."""
    from transformers import HfArgumentParser

    parser = HfArgumentParser(ModelArguments, allow_abbrev=False)
    names = {field.name for field in fields(ModelArguments)}
    settings = backbone_settings(backbone)
    parser.set_defaults(**{name: value for name, value in settings.items() if name in names})
    (arguments,) = parser.parse_args_into_dataclasses(options, look_for_args_file=False)
    return arguments


def estimate_backbone(backbone: str, own: argparse.Namespace, model_options: Sequence[str]) -> dict[str, Any]:
    """The record of one backbone.

    Args:
        backbone: its name, a YAML file, or a folder with a config.json.
        own: the options of the estimate itself.
        model_options: the model options of training, as given on the command line.
    """
    from .memory_estimate import estimate
    from .memory_model import Load

    model_arguments = parse_model_arguments(model_options, backbone)
    logit_tokens = min(own.answer_tokens + 1, own.length)
    load = Load(Batch(own.batch_size, own.length, logit_tokens), own.seconds, own.words)
    return {
        "backbone": backbone,
        **estimate(model_arguments, backbone_config(backbone), load, own.double_quantization),
    }


def main(argv: Sequence[str] | None = None) -> None:
    with command_errors():
        own, model_options = parse_arguments(argv)
        backbones = backbone_names() if own.backbone == "all" else [own.backbone]
        records = [estimate_backbone(backbone, own, model_options) for backbone in backbones]
        record = records[0] if own.backbone != "all" else {"backbones": records}
        print(json.dumps(record, indent=1) if own.json else "\n\n".join(map(render, records)))
        if own.output is not None:
            write_json(own.output, record)


if __name__ == "__main__":
    main()
