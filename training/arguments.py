"""Training arguments as dataclasses: model, data, and `transformers.TrainingArguments` with our additions.

    model_args, data_args, training_args = parse_arguments(["--config", "training/configs/demo.yaml"])

options.py defines the fields and checks their names without importing torch; this module parses their values.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import HfArgumentParser, TrainingArguments

from .option_checks import NO_HALF_PRECISION, check_training_options
from .options import DataArguments, FusionTrainingArguments, ModelArguments
from .recipes import read_settings


@dataclass
class EGMFTrainingArguments(FusionTrainingArguments, TrainingArguments):
    """`transformers.TrainingArguments` plus EGMF's learning rates, fusion pretraining and early stopping.

    Raises:
        ValueError: a value is not allowed.
    """

    def __post_init__(self):
        check_training_options(self)
        super().__post_init__()
        if self.label_names is None:
            self.label_names = ["label_index"]
        if self.save_total_limit is None:
            self.save_total_limit = 2  # the best checkpoint, and the last one to resume from
        if self.ddp_find_unused_parameters is None:
            self.ddp_find_unused_parameters = True  # a batch may not use every encoder
        if self.fp16 and self.device.type == "cpu":
            raise ValueError(NO_HALF_PRECISION)


def parse_arguments(
    argv: Sequence[str] | None = None,
) -> tuple[ModelArguments, DataArguments, EGMFTrainingArguments]:
    """Merge the options from the backbone's file, the YAML file and the command line; each overrides the one before.

    Args:
        argv: command-line arguments without the program name; None for those of this process.

    Raises:
        ValueError: a YAML file has an unknown key (the message suggests similar ones) or an invalid value.
        SystemExit: an unknown option on the command line, or a value of the wrong type (status 2).
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    settings = read_settings(arguments)
    types = (ModelArguments, DataArguments, EGMFTrainingArguments)
    usage = "egmf train [options]; egmf train --help lists them"  # not hundreds of lines before an error
    parser = HfArgumentParser(types, prog="egmf train", usage=usage, allow_abbrev=False)
    parser.add_argument("--config")
    parser.set_defaults(**settings)
    model_args, data_args, training_args, _ = parser.parse_args_into_dataclasses(arguments, look_for_args_file=False)
    return model_args, data_args, training_args
