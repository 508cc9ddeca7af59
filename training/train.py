"""Train EGMF: `transformers.Trainer` under Accelerate.

    python -m training.train --config training/configs/demo.yaml
    accelerate launch -m training.train --config my.yaml --dataset my_corpus --output_dir runs/mine

Writes checkpoints that are each a loadable repo, TensorBoard logs, and at the end the best checkpoint itself into
`output_dir` with `training.json` beside it. An interrupted run is resumed when the same command is run again, with the
same numbers; a finished one is refused, unless `--overwrite` moves it aside. The steps of a run are in trainer/run.py.
"""

from collections.abc import Sequence

from .cli import command_errors
from .options import read_settings


def main(argv: Sequence[str] | None = None) -> None:
    with command_errors():
        read_settings(argv)  # answers --help and misspelled options before torch is imported
        from .arguments import parse_arguments
        from .trainer.run import train

        train(*parse_arguments(argv)).end_training()


if __name__ == "__main__":
    main()
