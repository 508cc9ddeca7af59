"""Arguments of training as dataclasses: model, data, and `transformers.TrainingArguments` with our additions.

    model_args, data_args, training_args = parse_arguments(["--config", "training/configs/demo.yaml"])

options.py describes the fields and checks the names, without torch; here they get their values.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import HfArgumentParser, TrainingArguments

from .options import DataArguments, FusionTrainingArguments, ModelArguments, read_settings


SAMPLING_STRATEGIES = ("group_by_length", "random", "sequential")


@dataclass
class EGMFTrainingArguments(FusionTrainingArguments, TrainingArguments):
    """`transformers.TrainingArguments` with learning rates, fusion pretraining and early stopping of EGMF.

    Raises:
        ValueError: a value that training cannot work with.
    """

    def __post_init__(self):
        super().__post_init__()
        if self.label_names is None:
            self.label_names = ["label_index"]
        if self.save_total_limit is None:
            self.save_total_limit = 2  # the best checkpoint, and the last one to resume from
        if self.ddp_find_unused_parameters is None:
            self.ddp_find_unused_parameters = True  # an encoder is not used where a batch lacks its modality
        if self.train_sampling_strategy not in SAMPLING_STRATEGIES:
            raise ValueError(
                f"--train_sampling_strategy is {self.train_sampling_strategy!r}. "
                f"Use one of {', '.join(SAMPLING_STRATEGIES)}."
            )
        if self.fusion_pretraining_epochs < 0:
            raise ValueError(
                f"--fusion_pretraining_epochs is {self.fusion_pretraining_epochs}; it must not be negative."
            )
        if self.fusion_pretraining_batch_size < 0:
            raise ValueError(
                f"--fusion_pretraining_batch_size is {self.fusion_pretraining_batch_size}; it must not be negative."
            )


def parse_arguments(
    argv: Sequence[str] | None = None,
) -> tuple[ModelArguments, DataArguments, EGMFTrainingArguments]:
    """The options of training: those of the backbone's file, of the YAML file and of the command line, which wins.

    Args:
        argv: the command line without the program's name; None for that of this process.

    Raises:
        ValueError: an unknown key in a YAML file, with the most similar ones, or a value that does not fit.
        SystemExit: an unknown option on the command line, or a value that it does not take (status 2).
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    settings = read_settings(arguments)
    types = (ModelArguments, DataArguments, EGMFTrainingArguments)
    parser = HfArgumentParser(types, prog="egmf train", allow_abbrev=False)
    parser.add_argument("--config")
    parser.set_defaults(**settings)
    model_args, data_args, training_args, _ = parser.parse_args_into_dataclasses(arguments, look_for_args_file=False)
    return model_args, data_args, training_args
