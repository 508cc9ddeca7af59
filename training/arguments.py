"""Training arguments as dataclasses: model, data, and `transformers.TrainingArguments` with our additions.

    model_args, data_args, training_args = parse_arguments(["--config", "training/configs/demo.yaml"])

options.py defines the fields and checks their names without importing torch; this module parses their values.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import HfArgumentParser, TrainingArguments

from .options import DataArguments, FusionTrainingArguments, ModelArguments
from .recipes import read_settings


SAMPLING_STRATEGIES = ("group_by_length", "random", "sequential")


@dataclass
class EGMFTrainingArguments(FusionTrainingArguments, TrainingArguments):
    """`transformers.TrainingArguments` plus EGMF's learning rates, fusion pretraining and early stopping.

    Raises:
        ValueError: a value is not allowed.
    """

    def __post_init__(self):
        self._check_numbers()
        super().__post_init__()
        if self.label_names is None:
            self.label_names = ["label_index"]
        if self.save_total_limit is None:
            self.save_total_limit = 2  # the best checkpoint, and the last one to resume from
        if self.ddp_find_unused_parameters is None:
            self.ddp_find_unused_parameters = True  # a batch may not use every encoder
        if self.train_sampling_strategy not in SAMPLING_STRATEGIES:
            raise ValueError(
                f"--train_sampling_strategy is {self.train_sampling_strategy!r}. "
                f"Use one of {', '.join(SAMPLING_STRATEGIES)}."
            )
        for name in ("epochs", "batch_size", "weight_decay", "mixup"):
            value = getattr(self, f"fusion_pretraining_{name}")
            if value < 0:
                raise ValueError(f"--fusion_pretraining_{name} is {value}; it must not be negative.")
        if not 0 <= self.label_smoothing_factor < 1:
            raise ValueError(
                f"--label_smoothing_factor is {self.label_smoothing_factor}; it must be at least 0 and below 1."
            )
        if self.distillation and self.label_smoothing_factor != 0:
            raise ValueError("--distillation gives soft labels itself. Leave out --label_smoothing_factor.")

    def _check_numbers(self) -> None:
        """Refuse numbers that `TrainingArguments` would ignore, or that would fail without the option's name."""
        for name in ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} is {getattr(self, name)}; it must be at least 1.")
        if self.max_steps != -1 and self.max_steps < 1:
            raise ValueError(f"--max_steps is {self.max_steps}; it must be at least 1, or -1 to train whole epochs.")
        for name in ("learning_rate", "fusion_learning_rate", "fusion_pretraining_learning_rate", "warmup_steps"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ValueError(f"--{name} is {value}; it must be a number of at least 0.")


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
