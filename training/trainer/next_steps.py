"""The commands that come after a training run: calibration, evaluation, report.

arguments of the run ─► next_steps ─► lines to print
"""

import shlex
from pathlib import Path

from ..arguments import DataArguments
from ..data.dataset_options import DatasetOptions
from ..evaluation.run_records import has_eval_split


def next_steps(run: Path, arguments: DataArguments, uses_cache: bool) -> list[str]:
    """Commands for a finished run, that read its dataset as the training did.

    Args:
        run: its folder.
        arguments: of the training.
        uses_cache: whether it cached the outputs of its encoders.
    """
    evaluate = ["egmf", "evaluate", "--model_name_or_path", str(run), "--dataset", arguments.dataset]
    evaluate += [*DatasetOptions.from_arguments(vars(arguments)).command_line(), "--subsets", "every"]
    if arguments.where:
        evaluate += ["--where", *arguments.where]
    if uses_cache:
        evaluate += ["--encoder_cache", arguments.encoder_cache]
    calibrate = [["egmf", "calibrate", str(run)]] if has_eval_split(vars(arguments)) else []
    return [shlex.join(command) for command in (*calibrate, evaluate, ["egmf", "report", str(run)])]
