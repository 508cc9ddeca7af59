"""Train EGMF: `transformers.Trainer` under Accelerate.

    egmf train --config training/configs/demo.yaml
    accelerate launch -m training.train --config my.yaml --dataset my_corpus --output_dir runs/mine

Writes checkpoints (each a loadable repo) and TensorBoard logs to `output_dir`, and at the end the best model with
`training.json`. Running the same command again resumes an interrupted run and gives the same numbers; a finished run
is refused, unless `--overwrite` moves it aside. The steps of a run are in trainer/run.py.
"""

from collections.abc import Sequence

from .cli import command_errors
from .data.locations import check_checkpoint, check_dataset, refuse_file
from .option_checks import check_options
from .recipes import chosen_options, read_settings


def main(argv: Sequence[str] | None = None) -> None:
    with command_errors(
        "Complete checkpoints are kept in --output_dir; run the same command again to resume from the last one."
    ):
        # Before torch is imported, for immediate answers: --help, misspelled options, no such dataset, contradictions.
        options = chosen_options(argv, read_settings(argv))
        check_dataset(options.dataset)
        if options.text_model_name_or_path is not None:
            refuse_file(options.text_model_name_or_path)
        if options.model_name_or_path is not None:
            check_checkpoint(options.model_name_or_path)
        check_options(options)
        from .arguments import parse_arguments
        from .trainer.run import train

        train(*parse_arguments(argv)).end_training()


if __name__ == "__main__":
    main()
