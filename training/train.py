"""Train EGMF: `transformers.Trainer` under Accelerate.

    python -m training.train --config training/configs/demo.yaml
    accelerate launch -m training.train --config my.yaml --dataset my_corpus --output_dir runs/mine

Writes checkpoints that are each a loadable repo, TensorBoard logs, and at the end the best checkpoint itself into
`output_dir` with `training.json` beside it. An interrupted run is resumed when the same command is run again, with the
same numbers; a finished one is refused, unless `--overwrite` moves it aside. The steps of a run are in trainer/run.py.
"""

from collections.abc import Sequence

from .arguments import parse_arguments
from .cli import command_errors


def main(argv: Sequence[str] | None = None) -> None:
    with command_errors():
        arguments = parse_arguments(argv)
        from .trainer.run import train  # takes seconds, which --help does not need

        train(*arguments).end_training()


if __name__ == "__main__":
    main()
