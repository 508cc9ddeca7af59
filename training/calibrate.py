"""Calibrate a finished run: fit three numbers for each task and subset of the modalities, and store them in it.

    egmf calibrate runs/demo
    egmf calibrate runs/demo --results runs/demo/results-validation.json

Evaluates the run on its validation split with every subset of the modalities, unless a results file has the
predictions. Then `calibrated=True` in `post_process_answers` and the pipeline gives calibrated probabilities. The
numbers and their fitting are in evaluation/calibration.py.
"""

from collections.abc import Sequence
from pathlib import Path

from .cli import CommandParser, command_errors
from .data.locations import check_checkpoint


def make_parser() -> CommandParser:
    parser = CommandParser(prog="egmf calibrate", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("run", type=Path, help="folder of a finished run")
    add("--results", type=Path, help="results file with every subset; default: the run's, or a new evaluation")
    add("--dataset", help="dataset; default: that of the training")
    add("--split", help="split to fit on, never the test split; default: the validation split of the training")
    add("--text_model_name_or_path", help="language model of an adapter checkpoint, if it was moved")
    add("--encoder_cache", help="folder for the outputs of frozen pretrained encoders; default: that of the training")
    add("--batch_size", type=int, default=16, minimum=1, help="examples per batch; default: 16")
    add("--num_workers", type=int, default=0, minimum=0, help="processes that decode clips; default: 0")
    add("--device", help="cpu or cuda; default: cuda if there is a GPU")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    with command_errors("The checkpoint is unchanged. Run the same command again."):
        arguments = vars(make_parser().parse_args(argv))
        run = arguments.pop("run")
        check_checkpoint(run)
        from .evaluation.calibrator import calibrate  # imports torch

        print(calibrate(run, arguments.pop("results"), **arguments))


if __name__ == "__main__":
    main()
