"""Checks of training options that need no torch, no data and no model, so that `egmf train` makes them at once.

    command line, YAML files ─► recipes.chosen_options ─► check_options        before torch is imported
    EGMFTrainingArguments, build, Run ──────────────────► the checks of each   from Python as well

The arguments of every function are the dataclass with the options, or any other object with its fields.
"""

import importlib.util
import math
from typing import Any


COUNTS = (
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
    "gradient_accumulation_steps",
    "fusion_pretraining_batch_size",
)
AMOUNTS = (
    "learning_rate",
    "fusion_learning_rate",
    "fusion_pretraining_learning_rate",
    "weight_decay",
    "fusion_pretraining_weight_decay",
    "num_train_epochs",
    "fusion_pretraining_epochs",
    "fusion_pretraining_mixup",
    "fusion_pretraining_token_dropout",
    "warmup_steps",
    "dataloader_num_workers",
)
REQUIRED = (
    *COUNTS,
    "max_steps",
    "num_train_epochs",
    "label_smoothing_factor",
    "fusion_pretraining_epochs",
    "fusion_pretraining_mixup",
    "fusion_pretraining_token_dropout",
)
# Whole numbers of at least 0, and below the limit of NumPy.
SEEDS = ("seed", "data_seed")
SEED_LIMIT = 2**32
SAMPLING_STRATEGIES = ("group_by_length", "random", "sequential")
READOUTS = ("answers", "head")
DTYPES = ("auto", "float32", "bfloat16", "float16")
QUANTIZATION_TYPES = ("nf4", "fp4")
NO_HALF_PRECISION = (
    "--fp16 needs a GPU: on the CPU, training would be in float32. Leave it out, or give --bf16 true --use_cpu true."
)


def check_options(options: Any) -> None:
    """All checks below.

    Raises:
        ValueError: a value is not possible, or options contradict each other; the message names them.
    """
    check_training_options(options)
    check_model_options(options)
    check_data_options(options)


def check_training_options(options: Any) -> None:
    """Refuse values that `TrainingArguments` would ignore, or that would fail without the option's name."""
    for name in REQUIRED:
        if getattr(options, name) is None:
            raise ValueError(f"--{name} has no value. Give a number, or leave the option out.")
    for name in SEEDS:
        value = getattr(options, name)
        if value is not None and not 0 <= value < SEED_LIMIT:
            raise ValueError(f"--{name} is {value}; it must be at least 0 and below 2**32.")
    for name in COUNTS:
        if getattr(options, name) < 1:
            raise ValueError(f"--{name} is {getattr(options, name)}; it must be at least 1.")
    if options.max_steps != -1 and options.max_steps < 1:
        raise ValueError(f"--max_steps is {options.max_steps}; it must be at least 1, or -1 to train whole epochs.")
    for name in AMOUNTS:
        value = getattr(options, name)
        if value is not None and not (math.isfinite(value) and value >= 0):
            raise ValueError(f"--{name} is {value}; it must be a number of at least 0.")
    if options.fusion_pretraining_token_dropout >= 1:
        raise ValueError(
            f"--fusion_pretraining_token_dropout is {options.fusion_pretraining_token_dropout}; it must be below 1."
        )
    if options.train_sampling_strategy not in SAMPLING_STRATEGIES:
        raise ValueError(
            f"--train_sampling_strategy is {options.train_sampling_strategy!r}. "
            f"Use one of {', '.join(SAMPLING_STRATEGIES)}."
        )
    smoothing = options.label_smoothing_factor
    if not 0 <= smoothing < 1:
        raise ValueError(f"--label_smoothing_factor is {smoothing}; it must be at least 0 and below 1.")
    if options.distillation and smoothing != 0:
        raise ValueError("--distillation gives soft labels itself. Leave out --label_smoothing_factor.")
    if options.fp16 and options.bf16:
        raise ValueError("--fp16 and --bf16 are two precisions. Leave one of them out.")
    if options.fp16 and options.use_cpu:
        raise ValueError(NO_HALF_PRECISION)


def check_model_options(options: Any) -> None:
    """Refuse options of the model that are not possible together."""
    if options.readout not in READOUTS:
        raise ValueError(f"--readout is {options.readout!r}; use one of {', '.join(READOUTS)}.")
    if options.text_model_dtype not in DTYPES:
        raise ValueError(f"--text_model_dtype is {options.text_model_dtype!r}; use one of {', '.join(DTYPES)}.")
    if not options.conv_channels or min(options.conv_channels) < 1:
        given = " ".join(map(str, options.conv_channels)) or "empty"
        raise ValueError(f"--conv_channels is {given}; give one or more numbers of channels, each at least 1.")
    has_checkpoint = options.model_name_or_path is not None
    check_quantization(options)
    if options.frames == "face" and not has_checkpoint and importlib.util.find_spec("dlib") is None:
        raise ValueError("--frames face needs dlib: pip install 'egmf[faces]', or pip install dlib-bin.")
    if has_checkpoint and options.backbone is not None:
        raise ValueError(
            "Give either --model_name_or_path, which has its own language model, or --backbone for a new model."
        )
    if not has_checkpoint and options.text_model_name_or_path is None:
        raise ValueError(
            "Give --backbone or --text_model_name_or_path, a language model to build on, "
            "or --model_name_or_path, an EGMF checkpoint."
        )


def check_quantization(options: Any) -> None:
    """Refuse 4 bits for a checkpoint, or of an unknown kind."""
    if options.load_in_4bit and options.model_name_or_path is not None:
        raise ValueError(
            "--load_in_4bit is for a new model. With --model_name_or_path, the checkpoint keeps its own precision."
        )
    if options.load_in_4bit and options.bnb_4bit_quant_type not in QUANTIZATION_TYPES:
        raise ValueError(f"--bnb_4bit_quant_type is {options.bnb_4bit_quant_type!r}; use nf4 or fp4.")


def check_data_options(options: Any) -> None:
    """Refuse options of the data that are not possible together."""
    if options.streaming:
        raise ValueError(
            "Training draws its examples at random, so it needs all of them. Leave out --streaming, which is for "
            "egmf evaluate and egmf predict."
        )
    if options.encoder_cache:
        for name in ("augmentation", "voice_augmentation"):
            if getattr(options, name):
                raise ValueError(
                    f"--{name} changes clips every time they are used. Leave out --encoder_cache; where the "
                    "recipe sets it, give --encoder_cache ''."
                )
