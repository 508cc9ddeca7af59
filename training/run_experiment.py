"""Carry out an experiment plan: train what is missing, evaluate, and decide the plan's claims.

    egmf experiment gating --seeds 0 1 2 --jobs 2
    egmf experiment my_plan.yaml --dry_run

Plans are in training/experiments/plans; training/experiments/README.md shows what they found.
"""

from collections.abc import Sequence
from pathlib import Path

from .cli import CommandParser, command_errors


def make_parser() -> CommandParser:
    parser = CommandParser(prog="egmf experiment", description=__doc__.splitlines()[0])
    parser.add_argument("plan", help="name of a plan in training/experiments/plans, or a YAML file")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--variants", nargs="+", help="only these, and the reference; default: all of the plan")
    parser.add_argument("--recipe", help="another recipe: a name in training/configs, or a YAML file")
    parser.add_argument("--protocol", help="another protocol, or full for the recipe as it is")
    parser.add_argument("--dataset", help="dataset folder, if it is not the recipe's")
    parser.add_argument("--text_model_name_or_path", help="language model, if it is not the recipe's")
    parser.add_argument("--max_samples", type=int, help="number of test examples, stratified by label")
    parser.add_argument("--folder", type=Path, default=Path("runs/experiments"), help="folder of all runs")
    parser.add_argument("--output", type=Path, help="results file; default: FOLDER/PLAN.json")
    parser.add_argument("--jobs", type=int, default=1, help="commands that run side by side; default: 1")
    parser.add_argument("--dry_run", action="store_true", help="only list the runs, with an estimate of their time")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    with command_errors("Finished runs are kept, and the interrupted ones resume. Run the same command again."):
        arguments = make_parser().parse_args(argv)
        if arguments.jobs < 1:
            raise ValueError(f"--jobs is {arguments.jobs}; it must be at least 1.")
        from .experiments.plan import read_plan, select_variants, with_recipe
        from .experiments.runner import Runner

        plan = with_recipe(read_plan(arguments.plan), arguments.recipe, arguments.protocol, arguments.seeds)
        plan = select_variants(plan, arguments.variants)
        shared = {"dataset": arguments.dataset, "text_model_name_or_path": arguments.text_model_name_or_path}
        train_options = {name: value for name, value in shared.items() if value is not None}
        evaluate_options = {} if arguments.max_samples is None else {"max_samples": arguments.max_samples}
        runner = Runner(plan, arguments.seeds, arguments.folder, train_options, evaluate_options)
        print("\n".join(runner.describe()), flush=True)
        if arguments.dry_run:
            return
        runner.carry_out(arguments.jobs)
        from .experiments.report import render_experiment, write_experiment  # imports numpy and scikit-learn
        from .records import read_json

        output = write_experiment(runner, arguments.output or arguments.folder / f"{plan.name}.json")
        print(f"\n{render_experiment(read_json(output))}\nresults: {output}")


if __name__ == "__main__":
    main()
