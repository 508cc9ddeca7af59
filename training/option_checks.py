"""Checks of training options that need no torch, no data and no model, so that `egmf train` makes them at once.

    command line, YAML files ─► recipes.chosen_options ─► check_options        before torch is imported
    EGMFTrainingArguments, build, Run ──────────────────► the checks of each   from Python as well

The arguments of every function are the dataclass with the options, or any other object with its fields.
"""

import importlib.util
import json
import math
from typing import Any

from .cli import did_you_mean
from .model.presets import check_encoder_name


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
    "transcript_dropout",
    "warmup_steps",
    "dataloader_num_workers",
    "neftune_noise_alpha",
    "eval_delay",
)
# None is possible.
POSITIVE = (
    "save_total_limit",
    "eval_accumulation_steps",
    "early_stopping_patience",
    "dataloader_prefetch_factor",
)
REQUIRED = (
    *COUNTS,
    "max_steps",
    "num_train_epochs",
    "label_smoothing_factor",
    "fusion_pretraining_epochs",
    "fusion_pretraining_mixup",
    "fusion_pretraining_token_dropout",
    "transcript_dropout",
)
# Fields of `TrainingArguments` without effect in this training, or without an implementation, and what to do instead.
IN_TRAINING = "evaluation during training has the precision of the model. Give --text_model_dtype"
OWN_BATCHES = "EGMF makes its own batches and metrics. Leave it out"
AFTER_TRAINING = "push the finished run: egmf push RUN ORG/NAME"
WHOLE_MODEL = "compile the language model in Python instead: model.language_model.compile()"
UNSUPPORTED = {
    "bf16_full_eval": IN_TRAINING,
    "fp16_full_eval": IN_TRAINING,
    "optim_target_modules": "it is for GaLore and APOLLO. Give --lora_target_modules",
    "use_liger_kernel": "there are no Liger kernels for EGMF. Leave it out",
    "liger_kernel_config": "there are no Liger kernels for EGMF. Leave it out",
    "torch_compile": WHOLE_MODEL,
    "torch_compile_backend": WHOLE_MODEL,
    "torch_compile_mode": WHOLE_MODEL,
    "include_for_metrics": OWN_BATCHES,
    "batch_eval_metrics": OWN_BATCHES,
    "eval_do_concat_batches": OWN_BATCHES,
    "label_names": OWN_BATCHES,
    "length_column_name": OWN_BATCHES,
    "remove_unused_columns": OWN_BATCHES,
    "accelerator_config": f"{OWN_BATCHES}, or give --gradient_accumulation_steps",
    "do_predict": "predict with the finished run: egmf predict",
    "push_to_hub": AFTER_TRAINING,
    "hub_model_id": AFTER_TRAINING,
    "hub_token": AFTER_TRAINING,
    "hub_strategy": AFTER_TRAINING,
    "hub_private_repo": AFTER_TRAINING,
    "hub_always_push": AFTER_TRAINING,
    "hub_revision": AFTER_TRAINING,
    "fsdp": "several GPUs share the work by DDP or FSDP2: training/accelerate_configs",
    "fsdp_config": "several GPUs share the work by DDP or FSDP2: training/accelerate_configs",
    "deepspeed": "several GPUs share the work by DDP or FSDP2: training/accelerate_configs",
    "parallelism_config": "several GPUs share the work by DDP or FSDP2: training/accelerate_configs",
    "debug": "it does not know masks. Leave it out",
}
EMPTY = (None, False, "", [])
# Defaults of the others.
DEFAULTS = {
    "eval_do_concat_batches": (True,),
    "length_column_name": ("length",),
    "hub_strategy": ("every_save",),
    "label_names": (None, ["label_index"]),  # what our dataclass sets
}
# Fields of `torch.utils.checkpoint.checkpoint`. Without `preserve_rng_state`, gradients would be of another dropout.
CHECKPOINTING = ("use_reentrant", "debug", "early_stop")
EXAMPLE = "such as '{\"use_reentrant\": false}'"
# Optimizers that need the model's layers, instead of groups of its parameters.
LAYERWISE = ("galore_", "apollo_", "lomo", "adalomo")
# Whole numbers of at least 0, and below the limit of NumPy.
SEEDS = ("seed", "data_seed")
SEED_LIMIT = 2**32
SAMPLING_STRATEGIES = ("group_by_length", "random", "sequential")
# None is possible where it is the default.
CHOICES = {
    "readout": ("answers", "head"),
    "text_model_dtype": ("auto", "float32", "bfloat16", "float16"),
    "sequence_encoder": ("gru", "transformer", "none"),
    "encoder_pooling": (None, "attention", "statistics"),
    "pretrained_layers": (None, "weighted", "last"),
    "pretrained_dtype": ("float32", "bfloat16", "float16"),
    "frames": ("full", "center", "face"),
    "gate": ("two_stage", "one_stage", "uniform"),
    "pseudo_token_projection": ("repeat", "separate", "per_task"),
}
MODEL_COUNTS = ("encoder_hidden_size", "encoder_layers", "num_frames", "frame_size", "fusion_hidden_size")
MODEL_COUNTS += ("num_pseudo_tokens",)
PAPER_EXPERTS = ("local", "semantic", "global")
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
    check_encoders(options)
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
    for name in ("fusion_pretraining_token_dropout", "transcript_dropout"):
        if getattr(options, name) >= 1:
            raise ValueError(f"--{name} is {getattr(options, name)}; it must be below 1.")
    for name in POSITIVE:
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name} is {value}; it must be at least 1. Without the option, the default is used.")
    check_library_options(options)
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


def check_library_options(options: Any) -> None:
    """Refuse fields of `TrainingArguments` that would have no effect, or fail after the data are read."""
    for name, advice in UNSUPPORTED.items():
        if getattr(options, name) not in DEFAULTS.get(name, EMPTY):
            raise ValueError(f"--{name} is not for egmf train: {advice}.")
    if str(options.optim).startswith(LAYERWISE):
        raise ValueError(
            f"--optim {options.optim} is for training whole language models. Use another, such as adamw_torch."
        )
    if options.do_eval and options.eval_strategy == "no":
        raise ValueError("--do_eval has no effect without --eval_strategy steps or epoch.")
    for strategy in ("eval", "save"):
        is_by_steps = getattr(options, f"{strategy}_strategy") == "steps"
        if is_by_steps and getattr(options, f"{strategy}_steps") == 0:
            raise ValueError(f"--{strategy}_steps is 0. Give a number of steps, or --{strategy}_strategy no.")
    for name in ("dataloader_persistent_workers", "dataloader_multiprocessing_context"):
        if getattr(options, name) and not options.dataloader_num_workers:
            raise ValueError(f"--{name} has no effect without --dataloader_num_workers.")
    kinds = [name for name in ("gradient_checkpointing", "activation_checkpointing") if hasattr(options, name)]
    if any(getattr(options, f"{kind}_kwargs") for kind in kinds) and not any(getattr(options, kind) for kind in kinds):
        raise ValueError(f"--{kinds[0]}_kwargs has no effect without --{kinds[0]} true.")
    for kind in kinds:
        check_checkpointing(f"--{kind}_kwargs", getattr(options, f"{kind}_kwargs"))
    read_fields("--lr_scheduler_kwargs", options.lr_scheduler_kwargs)
    if options.early_stopping_patience is not None:
        check_early_stopping(options)


def read_fields(name: str, value: Any) -> dict[str, Any]:
    """The fields of an option that takes JSON on the command line, or a block in a file.

    Raises:
        ValueError: not a JSON object.
    """
    try:
        fields = json.loads(value) if isinstance(value, str) else value or {}
    except ValueError as error:
        raise ValueError(f"{name} {value} is not JSON ({error}). Give an object in quotes, {EXAMPLE}.") from error
    if not isinstance(fields, dict):
        raise ValueError(f"{name} {value} is not a JSON object. Give one in quotes, {EXAMPLE}.")
    return fields


def check_checkpointing(name: str, value: Any) -> None:
    """Refuse fields of gradient checkpointing that would fail in the first step, or change the gradients."""
    fields = read_fields(name, value)
    for key, entry in fields.items():
        if key not in CHECKPOINTING:
            known = ", ".join(CHECKPOINTING)
            raise ValueError(f"{name}: {key!r} is not for egmf train; the fields are {known}.")
        if type(entry) is not bool:
            raise ValueError(f"{name}: {key} is {entry!r}; it must be true or false.")
    if fields.get("use_reentrant") and len(fields) > 1:
        raise ValueError(f"{name}: use_reentrant true takes no other fields. Leave it out, or them.")


def check_early_stopping(options: Any) -> None:
    """Refuse early stopping without evaluations, or without a metric."""
    if options.eval_strategy == "no":
        raise ValueError("--early_stopping_patience needs --eval_strategy steps or epoch.")
    if options.metric_for_best_model is None and not options.load_best_model_at_end:
        raise ValueError("--early_stopping_patience needs --metric_for_best_model, such as eval_loss.")


def check_model_options(options: Any) -> None:
    """Refuse options of the model that are not possible together."""
    for name, choices in CHOICES.items():
        value = getattr(options, name)
        if value not in choices:
            known = ", ".join(choice for choice in choices if choice is not None)
            raise ValueError(
                f"--{name} is {value!r}; use one of {known}.{did_you_mean(str(value), known.split(', '))}"
            )
    for name in MODEL_COUNTS:
        value = getattr(options, name)
        if value is None or value < 1:
            raise ValueError(f"--{name} is {value}; it must be a whole number of at least 1.")
    if not options.experts:
        raise ValueError(f"--experts is empty. Give one or more, such as {' '.join(PAPER_EXPERTS)}.")
    for entry in options.experts:
        read_expert(entry)
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


def check_encoders(options: Any) -> None:
    """Refuse misspelled encoders of a new model, which has none for modalities that it is not trained with."""
    if options.model_name_or_path is not None:
        return
    encoders = {"audio": options.audio, "video": options.video}
    widths = {"audio": options.audio_feature_size, "video": options.video_feature_size}
    for modality, name in encoders.items():
        if options.modalities is None or modality in options.modalities:
            check_encoder_name(modality, name, widths[modality])


def read_expert(entry: str) -> tuple[str, float, str, bool] | None:
    """Name, ratio, activation and whether the width is learned, of an expert NAME:RATIO:ACTIVATION[:learned]; None for
    one of the paper's by its name.

    Raises:
        ValueError: neither of them.
    """
    if entry in PAPER_EXPERTS:
        return None
    try:
        name, ratio, activation, *rest = entry.split(":")
        if rest not in ([], ["learned"]):
            raise ValueError
        return name, float(ratio), activation, bool(rest)
    except ValueError as error:
        raise ValueError(
            f"--experts {entry}: give one of {', '.join(PAPER_EXPERTS)}, or NAME:RATIO:ACTIVATION such as "
            "wide:2:gelu, with :learned appended for a learned width."
        ) from error


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
    if options.voice_copies < 0:
        raise ValueError(f"--voice_copies is {options.voice_copies}; it must be at least 0.")
    if options.voice_copies and not options.encoder_cache:
        raise ValueError(
            "--voice_copies needs --encoder_cache, a folder for what a frozen encoder makes of the copies. Without a "
            "frozen encoder, give --voice_augmentation true."
        )
    if options.encoder_cache:
        for name in ("augmentation", "voice_augmentation"):
            if getattr(options, name):
                raise ValueError(
                    f"--{name} changes clips every time they are used. Leave out --encoder_cache; where the "
                    "recipe sets it, give --encoder_cache ''. Frozen audio encoders have --voice_copies instead."
                )
