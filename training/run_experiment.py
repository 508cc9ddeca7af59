"""Run experiment plans: train what is missing, evaluate, and test the plans' claims.

    egmf experiment gating --seeds 0 1 2 --jobs 2
    egmf experiment gating expert_ablation lora      # share the runs that they have in common
    egmf experiment my_plan.yaml --dry_run

Plans are in training/experiments/plans; training/experiments/README.md shows what they found.
"""

import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .cli import CommandParser, command_errors, did_you_mean


if TYPE_CHECKING:
    from .experiments.plan import Plan


def make_parser() -> CommandParser:
    parser = CommandParser(prog="egmf experiment", description=__doc__.splitlines()[0])
    parser.add_argument("plans", nargs="+", help="names of plans in training/experiments/plans, or YAML files")
    parser.add_argument("--seeds", type=int, minimum=0, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--variants", nargs="+", help="variants to run, besides the references; default: all")
    parser.add_argument("--recipe", help="another recipe: a name in training/configs, or a YAML file")
    parser.add_argument("--protocol", help="another file of options that shorten the runs, or full for none")
    parser.add_argument("--dataset", help="dataset folder, if it is not the recipe's")
    parser.add_argument("--text_model_name_or_path", help="language model, if it is not the recipe's")
    parser.add_argument("--max_samples", type=int, minimum=1, help="number of test examples, stratified by label")
    parser.add_argument("--folder", type=Path, default=Path("runs/experiments"), help="folder of all runs")
    parser.add_argument("--output", type=Path, help="results file of a single plan; default: FOLDER/PLAN.json")
    parser.add_argument(
        "--jobs", type=int, minimum=1, default=1, help="number of commands to run in parallel; default: 1"
    )
    parser.add_argument("--dry_run", action="store_true", help="only list the runs, with an estimate of their time")
    return parser


def read_plans(arguments: Any) -> "list[Plan]":
    """The plans of the command line, adapted to the recipe.

    Raises:
        ValueError: there is no such plan, or an option does not fit.
    """
    from .experiments.plan import read_plan, select_variants, with_recipe
    from .experiments.recipe_fit import fit_to_recipe, leave_out_repeated

    if arguments.output is not None and len(arguments.plans) > 1:
        raise ValueError("--output is for a single plan. Give --folder, where every plan has its own file.")
    plans = []
    for name in dict.fromkeys(arguments.plans):
        plan = with_recipe(read_plan(name), arguments.recipe, arguments.protocol, arguments.seeds)
        plans.append(leave_out_repeated(fit_to_recipe(plan)))
    names = [plan.name for plan in plans]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"Two of the plans are named {name}, and so are their results. Rename one of the files.")
    if arguments.variants is None:
        return plans
    known = [name for plan in plans for name in plan.variants]
    for name in arguments.variants:
        if name not in known:
            raise ValueError(f"--variants {name}: there is no such variant.{did_you_mean(name, known)}")
    return [select_variants(plan, arguments.variants) for plan in plans]


def results_file(plan: "Plan", arguments: Any) -> Path:
    """`--output`, or a file in `--folder` named after the plan and, with `--recipe`, the recipe."""
    recipe = "" if arguments.recipe is None else f"-{Path(arguments.recipe).stem}"
    return arguments.output or arguments.folder / f"{plan.name}{recipe}.json"


@contextmanager
def ended_as_by_ctrl_c() -> Iterator[None]:
    """Let SIGTERM do what Ctrl-C does, so that `kill` stops the commands that run as well."""
    previous = signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGINT))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def main(argv: Sequence[str] | None = None) -> None:
    with command_errors("Finished runs are kept, and the interrupted ones resume. Run the same command again."):
        arguments = make_parser().parse_args(argv)
        plans = read_plans(arguments)
        from .experiments.runner import Laboratory, Runner
        from .records import check_replaceable, only_writer, read_json

        shared = {"dataset": arguments.dataset, "text_model_name_or_path": arguments.text_model_name_or_path}
        train_options = {name: value for name, value in shared.items() if value is not None}
        evaluate_options = {} if arguments.max_samples is None else {"max_samples": arguments.max_samples}
        runners = [Runner(plan, arguments.seeds, arguments.folder, train_options, evaluate_options) for plan in plans]
        laboratory = Laboratory(runners)
        left_out = [f"{plan.name} without {entry}" for plan in plans for entry in plan.left_out]
        print("\n".join([*left_out, *laboratory.describe(arguments.jobs)]), flush=True)
        if arguments.dry_run:
            laboratory.check_datasets()
            return
        for plan in plans:
            output = results_file(plan, arguments)
            check_replaceable(output, {"plan": plan.name}, f"results of the plan {plan.name}")
        # Imported before the runs, which may take days: their report is not to be written by code of another version.
        from .experiments.report import render_experiment, write_experiment

        with ExitStack() as locks:
            for run in laboratory.runs:  # other experiments may use the folder for other runs, such as other seeds
                place = run.with_name(f"{run.name}.experiment")
                locks.enter_context(only_writer(place, "experiment", f"--folder than {arguments.folder}"))
            with ended_as_by_ctrl_c():
                laboratory.carry_out(arguments.jobs)
            for runner in runners:
                output = write_experiment(runner, results_file(runner.plan, arguments))
                print(f"\n{render_experiment(read_json(output))}\nresults: {output}")


if __name__ == "__main__":
    main()
