r"""Evaluate a checkpoint with all modalities or with every subset of them, and write a results file.

    egmf evaluate --model_name_or_path runs/demo --dataset data/demo --subsets every
    accelerate launch --config_file training/accelerate_configs/ddp.yaml -m training.run_eval \
        --model_name_or_path runs/demo --dataset DATA
    egmf evaluate --model_name_or_path 'runs/meld-{seed}' --dataset data/meld --seeds 0 1 2 --config my_recipe.yaml
    egmf evaluate --model_name_or_path runs/mine --dataset ORG/NAME --label_column label --streaming --output hub.json

The third command evaluates several runs of one recipe (evaluation/seeds.py), the others a single run (evaluator.py).
"""

import argparse
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

from .cli import CommandParser, command_errors, did_you_mean
from .data.locations import check_checkpoint, check_dataset
from .options import add_dataset_options, take_dataset_options


def make_parser() -> CommandParser:
    parser = CommandParser(prog="egmf evaluate", description=__doc__.splitlines()[0])
    model = parser.add_argument_group("model")
    data = parser.add_argument_group("data")
    results = parser.add_argument_group("results")
    seeds = parser.add_argument_group("several runs of one recipe")
    add = parser.add_argument
    add("--model_name_or_path", required=True, group=model, help="checkpoint: a folder or a Hub id")
    add("--text_model_name_or_path", group=model, help="language model of an adapter checkpoint, if it was moved")
    add("--load_in_4bit", action="store_true", group=model, help="4-bit language model (needs bitsandbytes and CUDA)")
    add("--experts", nargs="+", group=model, help="experts to use, by name; the others get no weight; default: all")
    add("--device", group=model, help="cpu or cuda; default: cuda if there is a GPU")
    add_dataset_options(parser, data, required=True)
    add("--split", default="test", group=data, help="split to evaluate on; default: test")
    add(
        "--split_manifest",
        default="official",
        group=data,
        help="split manifest of a converted corpus: a file name in its splits/",
    )
    add("--only_tasks", nargs="+", group=data, help="tasks whose examples are evaluated; default: all")
    add("--where", nargs="+", group=data, help="values that the examples must have: COLUMN=VALUE, such as language=es")
    add(
        "--max_samples",
        type=int,
        minimum=1,
        group=data,
        help="number of examples to evaluate, stratified by label; with --streaming the first ones",
    )
    add(
        "--task_map",
        group=data,
        help="tasks and labels of the dataset -> those of the model: a YAML file or JSON (evaluation/task_map.py)",
    )
    add(
        "--window_hop",
        type=float,
        minimum=0.001,
        group=data,
        help="seconds between the windows that longer clips are cut into",
    )
    add("--encoder_cache", group=data, help="folder for the outputs of frozen pretrained encoders, used by all runs")
    add(
        "--speaker_normalization",
        action=argparse.BooleanOptionalAction,
        group=data,
        help="normalize each speaker's features and encoder outputs; default: as in training",
    )
    add("--batch_size", type=int, default=16, minimum=1, group=data, help="examples per batch; default: 16")
    add("--num_workers", type=int, default=0, minimum=0, group=data, help="processes that decode clips; default: 0")
    add(
        "--subsets",
        nargs="+",
        default=["all"],
        group=results,
        help="all (modalities together, the default), every (subset), or names such as text+audio",
    )
    add("--output", type=Path, group=results, help="results file; default: MODEL/results-SPLIT.json")
    add("--overwrite", action="store_true", group=results, help="replace an existing results file")
    add("--seed", type=int, default=0, minimum=0, group=results, help="random seed; default: 0")
    add(
        "--seeds",
        type=int,
        minimum=0,
        nargs="+",
        group=seeds,
        help="seeds of the runs, which replace {seed} in --model_name_or_path",
    )
    add("--config", type=Path, group=seeds, help="recipe to train missing runs with")
    return parser


def check_subsets(names: Sequence[str]) -> None:
    """Refuse unknown subsets of the modalities before torch is imported; evaluation/subsets.py reads the names."""
    modalities = ("text", "audio", "video")
    subsets = ["+".join(subset) for size in (1, 2, 3) for subset in combinations(modalities, size)]
    known = ["all", "every", *subsets]
    for name in names:
        if name not in known:
            hint = did_you_mean(name, known)
            raise ValueError(f"--subsets: unknown subset {name!r}; use any of {', '.join(known)}.{hint}")


def main(argv: Sequence[str] | None = None) -> None:
    with command_errors(
        "Existing results files are complete, and none was left half-written. Run the same command again."
    ):
        arguments = vars(make_parser().parse_args(argv))
        check_dataset(arguments["dataset"])
        check_subsets(arguments["subsets"])
        seeds = arguments.pop("seeds")
        recipe = arguments.pop("config")
        if seeds is None:
            check_checkpoint(arguments["model_name_or_path"])
        reading = take_dataset_options(arguments)
        from .data.dataset_options import DatasetOptions
        from .evaluation.evaluator import EvaluationOptions, evaluate_checkpoint

        options = EvaluationOptions(**arguments, reading=DatasetOptions.from_arguments(reading))
        if seeds is None:
            evaluate_checkpoint(options)
        else:
            from .evaluation.seeds import evaluate_seeds

            evaluate_seeds(options, seeds, recipe)


if __name__ == "__main__":
    main()
