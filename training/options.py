"""Training options: their fields, help texts and checks, all without importing torch.

    fields of the dataclasses below ────────┐
    `transformers.TrainingArguments` ───────┴─► training_options ─► the parser of `egmf train`, recipes.py

The library's fields are read from its source code, because importing it would import torch. arguments.py fills the
dataclasses.
"""

import argparse
import ast
import contextlib
import dataclasses
import functools
import importlib.util
import inspect
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from .cli import CommandParser
from .model.backbones import backbone_names


LIBRARY_GROUP = "Trainer (transformers.TrainingArguments)"
# Fields of `transformers.TrainingArguments` that `--help` shows; `--help_all` shows all of them.
COMMON_LIBRARY_OPTIONS = (
    "num_train_epochs",
    "max_steps",
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
    "gradient_accumulation_steps",
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "bf16",
    "gradient_checkpointing",
    "eval_strategy",
    "save_strategy",
    "metric_for_best_model",
    "resume_from_checkpoint",
    "dataloader_num_workers",
    "logging_steps",
    "report_to",
    "seed",
    "use_cpu",
)

# Our options for experiments with the method and its encoders; also listed only by `--help_all`.
EXPERIMENT_OPTIONS = (
    *("experts", "gate", "expert_residual", "fusion_norms", "pseudo_token_norm", "readout"),
    *("pretrained_layers", "fit_layer_weights", "pretrained_dtype", "pretrained_chunk_seconds"),
)


def described(default: Any, help_text: str) -> Any:
    """A field with its help, as `transformers.HfArgumentParser` reads it."""
    metadata = {"help": help_text}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class ModelArguments:
    """The model to build, or the checkpoint to fine-tune."""

    model_name_or_path: str | None = described(
        None, "EGMF checkpoint to fine-tune: folder or Hub id. Without it, a new model is built."
    )
    backbone: str | None = described(
        None,
        f"Language model with its settings: {', '.join(backbone_names())}, or a YAML file of the same format.",
    )
    text_model_name_or_path: str | None = described(None, "Language model to build on: folder or Hub id.")
    text_model_revision: str | None = described(None, "Commit, branch or tag of the language model on the Hub.")
    text_model_dtype: str = described(
        "auto",
        "Precision of the frozen language model: float32, bfloat16, float16, or auto, which is as stored, but float32 "
        "on CPUs that are slow in 16 bits.",
    )
    attn_implementation: str | None = described(
        None, "Attention of the language model: sdpa, eager or flash_attention_2."
    )
    load_in_4bit: bool = described(
        False,
        "Quantize the language model to 4 bits (QLoRA). Needs bitsandbytes and a CUDA GPU.",
    )
    bnb_4bit_quant_type: str = described("nf4", "4-bit data type: nf4 or fp4.")
    bnb_4bit_use_double_quant: bool = described(True, "Quantize the scales of 4-bit weights as well.")
    audio: str | None = described(
        "waveform",
        "Audio input: waveform, features, none, or a pretrained audio encoder: whisper-base, wav2vec2-base, "
        "wavlm-base-plus, a folder or a Hub id.",
    )
    audio_feature_size: int | None = described(
        None, "Width of precomputed audio features; required by --audio features."
    )
    video: str | None = described(
        "frames",
        "Video input: frames, features, none, or a pretrained vision encoder: clip-vit-base, dinov2-small, a folder "
        "or a Hub id.",
    )
    video_feature_size: int | None = described(
        None, "Width of precomputed video features; required by --video features."
    )
    sequence_encoder: str = described("gru", "Sequence encoders: gru, transformer or none.")
    encoder_hidden_size: int = described(128, "Width of the audio and video encoders.")
    encoder_layers: int = described(1, "Number of layers of the sequence encoders.")
    encoder_dropout: float = described(0.1, "Dropout in the audio and video encoders.")
    conv_channels: list[int] = described(
        [32, 64, 128],
        "Channels of the convolutions over raw audio and frames; each one halves the resolution.",
    )
    encoder_pooling: str | None = described(
        None,
        "Pooling of a sequence to one vector: attention, or statistics (mean and standard deviation over time of "
        "features or encoder states; the default for pretrained encoders).",
    )
    pretrained_layers: str | None = described(
        None,
        "Layers of pretrained encoders: weighted (a learned weighted sum over all; the default) or last.",
    )
    fit_layer_weights: bool = described(
        False, "Initialize these weights by how well each layer alone predicts unfamiliar speakers; for few clips."
    )
    pretrained_dtype: str = described(
        "float32", "Precision of frozen pretrained encoders: float32, bfloat16, float16."
    )
    pretrained_chunk_seconds: float | None = described(
        None,
        "Seconds of audio that a pretrained encoder takes at once, which bounds memory (default: the whole clip).",
    )
    train_backbones: bool = described(False, "Train pretrained audio and vision encoders instead of freezing them.")
    num_frames: int = described(8, "Number of frames sampled from a clip.")
    frame_size: int = described(64, "Height and width of a frame in pixels.")
    frames: str = described(
        "full",
        "Part of each frame that the model sees: full (letterboxed), center, or face, which is detected, tracked and "
        "cropped; needs dlib: pip install 'egmf[faces]'.",
    )
    max_clip_seconds: float = described(30.0, "Maximum length of a clip in seconds; the rest is cut off.")
    max_length: int = described(512, "Maximum number of tokens in prompt plus answer.")
    fusion_hidden_size: int = described(256, "Width of the fusion (d_h in the paper).")
    fusion_dropout: float = described(0.1, "Dropout in the fusion's attention.")
    bidirectional_attention: bool = described(False, "Let audio and video attend to the text as well.")
    experts: list[str] = described(
        ["local", "semantic", "global"],
        "Experts: names of the paper's three, or NAME:RATIO:ACTIVATION with the ratio of fusion to hidden width, an "
        "activation of transformers or mixture (learned), and :learned for a learned width.",
    )
    gate: str = described("two_stage", "Weights of the experts: two_stage (as in the paper), one_stage or uniform.")
    expert_residual: bool = described(True, "Add the gated share of the fused vector to the experts' mixture.")
    fusion_norms: bool = described(True, "Layer norms around the fusion's attention, which the paper does not have.")
    num_pseudo_tokens: int = described(4, "Number of soft tokens that carry the fused modalities into the prompt.")
    pseudo_token_projection: str = described(
        "repeat",
        "Projection to pseudo tokens: repeat (as in the paper), separate, or per_task.",
    )
    pseudo_token_norm: bool = described(
        True, "Layer norm and learned scale of the pseudo tokens, which the paper does not have."
    )
    readout: str = described(
        "answers",
        "Source of the prediction: answers scores each with the language model; head is a linear layer on the last "
        "hidden state, for comparison (only for egmf evaluate and egmf predict).",
    )
    transcript_in_prompt: bool = described(True, "Put the transcript into the language model's prompt.")
    prompt_format: str | None = described(
        None,
        "Format of the prompts: chat wraps them in the language model's chat template (default: as each task says).",
    )
    lora_r: int = described(8, "Rank of LoRA; 0 trains without LoRA.")
    lora_alpha: int = described(16, "Scale of LoRA (alpha).")
    lora_dropout: float = described(0.05, "Dropout on the input of the LoRA layers.")
    lora_target_modules: list[str] | None = described(
        None,
        "Linear layers of the language model that get LoRA (default: the usual ones for its architecture).",
    )
    lora_options: str | None = described(
        None,
        'Further fields of the adapter\'s configuration in peft, as JSON: {"use_dora": true}. With `peft_type`, all '
        'fields of another method: {"peft_type": "LOHA", "r": 8}.',
    )


@dataclass
class DatasetArguments:
    """The dataset of training, evaluation and prediction; training/data/dataset_options.py reads these arguments."""

    dataset: str | None = described(
        None,
        "Dataset: a folder with metadata.jsonl, metadata.csv or Parquet, one such file, or ORG/NAME on the Hub.",
    )
    dataset_config: str | None = described(None, "Configuration of a dataset on the Hub.")
    dataset_revision: str | None = described(None, "Commit, branch or tag of a dataset on the Hub.")
    text_column: str | None = described(None, "Column of the transcript; default: `text`.")
    audio_column: str | None = described(None, "Column of the audio; default: `audio`.")
    video_column: str | None = described(None, "Column of the video; default: `video`.")
    label_column: str | None = described(None, "Column of the label or score; default: `answer`.")
    id_column: str | None = described(None, "Column of the example's name; default: `id`.")
    split_column: str | None = described(None, "Column of the split; default: `split`.")
    task_column: str | None = described(None, "Column of the task; default: `task`.")
    context_column: str | None = described(None, "Column of the earlier turns; default: `context`.")
    label_map: list[str] | None = described(None, "Labels to rename: OLD=NEW, such as happiness=joy sad=sadness.")
    streaming: bool = described(
        False, "Read a dataset on the Hub while it is used, without downloading all of it; not for training."
    )


@dataclass
class DataArguments(DatasetArguments):
    """The examples to train and evaluate on; training/data/dataset.py describes their format."""

    train_split: str = described("train", "Split to train on.")
    eval_split: str = described("validation", "Split that selects the best checkpoint.")
    split_manifest: str = described("official", "Split manifest of a converted corpus: a file name in its splits/.")
    tasks_file: str | None = described(None, "YAML file with custom tasks: `name:` with the fields of the task.")
    only_tasks: list[str] | None = described(None, "Tasks whose examples are used (default: all tasks).")
    where: list[str] | None = described(
        None,
        "Values of columns that the examples must have: COLUMN=VALUE, such as language=es (default: all examples).",
    )
    max_train_samples: int | None = described(None, "Number of training examples to draw, stratified by label.")
    max_eval_samples: int | None = described(None, "Number of evaluation examples to draw, stratified by label.")
    modalities: list[str] | None = described(
        None, "Modalities to train with: any of text, audio and video (default: all)."
    )
    modality_dropout: float = described(
        0.3, "Probability that a training example loses a random subset of its modalities."
    )
    augmentation: bool = described(False, "Randomly augment the audio and video of training clips.")
    voice_augmentation: bool = described(
        False,
        "Randomly change pitch, tempo and timbre; for corpora with few speakers.",
    )
    voice_copies: int = described(
        0,
        "Copies of each training clip with another voice in the encoder cache; for corpora with few speakers.",
    )
    window_hop: float | None = described(
        None,
        "Hop in seconds between the windows that clips longer than max_clip_seconds are cut into.",
    )
    encoder_cache: str | None = described(
        None,
        "Folder for the outputs of frozen pretrained encoders, which are computed once for all runs.",
    )
    speaker_normalization: bool = described(
        False,
        "Normalize each speaker's features and cached encoder outputs (column `speaker`) to the mean and standard "
        "deviation of the training set. Needs other clips of the speaker, but no labels.",
    )
    cache_media: bool = described(False, "Keep decoded clips in memory; for a few thousand short clips.")


@dataclass
class FusionTrainingArguments:
    """Options added to `transformers.TrainingArguments`, and three of its options with different defaults."""

    output_dir: str | None = described("runs/egmf", "Folder of the run.")
    overwrite: bool = described(False, "Start over; an existing run in output_dir is renamed, not deleted.")
    fusion_learning_rate: float | None = described(
        None,
        "Learning rate of encoders, fusion and experts (default: learning_rate, as for LoRA).",
    )
    fusion_pretraining_epochs: float = described(
        0.0,
        "Epochs of fusion pretraining: encoders, fusion and experts learn under a temporary "
        "head, without the language model.",
    )
    fusion_pretraining_learning_rate: float = described(1e-3, "Peak learning rate.")
    fusion_pretraining_weight_decay: float = described(0.01, "Its weight decay; 1 for a few hundred clips.")
    fusion_pretraining_batch_size: int = described(32, "Its batch size over all processes.")
    fusion_pretraining_mixup: float = described(0.0, "Mixup (alpha); 0.4 for a few hundred clips.")
    fusion_pretraining_token_dropout: float = described(0.0, "Share of a transcript's tokens that it leaves out.")
    fit_pseudo_tokens: bool = described(
        False, "Initialize the pseudo tokens from the answers of its head; for few clips."
    )
    distillation: bool = described(
        False, "Distill the fusion pretraining's head into the language model; for few clips."
    )
    transcript_dropout: float = described(0.0, "Share of the examples whose transcript only the fusion reads.")
    early_stopping_patience: int | None = described(
        None, "Number of evaluations without improvement after which training stops."
    )
    train_sampling_strategy: str = described(
        "group_by_length",
        "Order of the examples: group_by_length, random or sequential.",
    )
    remove_unused_columns: bool = described(False, "Must stay false: the collator reads every field of an example.")


# ---- all options, ours and the library's ----------------------------------------------------------------------


class Option(NamedTuple):
    """One option of training.

    Args:
        name: field of its dataclass, key in YAML.
        group: heading in the help.
        annotation: its type as written in the source, such as `int | None`.
        default: its default value as Python source.
        help: one sentence.
        choices: values that it may have; empty for any of its type.
    """

    name: str
    group: str
    annotation: str
    default: str
    help: str
    choices: tuple[str, ...] = ()

    @property
    def kinds(self) -> list[str]:
        """Types that a value may have, other than None."""
        return [kind for kind in self.annotation.split(" | ") if kind != "None"]

    @property
    def placeholder(self) -> str:
        """Placeholder for the value in the help: TEXT, N, X or true|false."""
        if "bool" in self.kinds:
            return "true|false"
        name = {int: "N", float: "X"}.get(self.scalar_type, "TEXT")
        return f"{name} ..." if self.is_list else name

    @property
    def default_value(self) -> Any:
        """Its default value; of an expression, such as a call, the source."""
        with contextlib.suppress(ValueError, SyntaxError):
            return ast.literal_eval(self.default)
        return self.default

    @property
    def is_list(self) -> bool:
        return len(self.kinds) == 1 and self.kinds[0].startswith("list[")

    @property
    def scalar_type(self) -> type | None:
        """`int`, `float` or `str`: the type of the value, or of a list's entries; None for any other type."""
        if self.kinds[0].startswith("dict") and "str" in self.kinds:
            return str  # JSON text
        kind = self.kinds[0].removeprefix("list[").removesuffix("]")
        if len(self.kinds) > 1 and self.kinds != ["str", "list[str]"]:
            return None
        return {"int": int, "float": float, "str": str}.get(kind)


def options_of(arguments: type, group: str) -> list[Option]:
    """Options of one of the dataclasses above."""
    options = []
    for entry in dataclasses.fields(arguments):
        default = entry.default
        if entry.default_factory is not dataclasses.MISSING:
            default = entry.default_factory()
        annotation = inspect.formatannotation(entry.type)
        options.append(Option(entry.name, group, annotation, str(default), entry.metadata["help"]))
    return options


@functools.cache
def library_options() -> tuple[Option, ...]:
    """Fields of `transformers.TrainingArguments`, read from the installed source without importing it."""
    package = Path(importlib.util.find_spec("transformers").origin).parent
    classes = {}
    for file_name in ("training_args.py", "trainer_utils.py"):
        module = ast.parse((package / file_name).read_text(encoding="utf-8"))
        classes |= {node.name: node for node in module.body if isinstance(node, ast.ClassDef)}
    training_arguments = classes["TrainingArguments"]
    options = []
    for node in training_arguments.body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.value, ast.Call):
            continue
        keywords = {keyword.arg: keyword.value for keyword in node.value.keywords}
        metadata = keywords["metadata"]
        help_text = next(value for key, value in zip(metadata.keys, metadata.values) if key.value == "help")
        name = node.target.id
        default = ast.unparse(keywords.get("default", ast.Constant(None)))
        annotation = ast.unparse(node.annotation)
        choices = constants_of(classes.get(annotation.removesuffix(" | str")))
        options.append(Option(name, LIBRARY_GROUP, annotation, default, ast.literal_eval(help_text), choices))
    return tuple(options)


def constants_of(enumeration: ast.ClassDef | None) -> tuple[str, ...]:
    """The values of an enumeration, read from its source."""
    lines = [] if enumeration is None else enumeration.body
    values = [line.value for line in lines if isinstance(line, ast.Assign)]
    return tuple(value.value for value in values if isinstance(value, ast.Constant))


def training_options() -> dict[str, Option]:
    """All options by name, in the order of the help; ours replace the library's of the same name."""
    ours = [
        *options_of(ModelArguments, "Model"),
        *options_of(DataArguments, "Data"),
        *options_of(FusionTrainingArguments, "Training"),
    ]
    options = {option.name: option for option in ours}
    for option in library_options():
        options.setdefault(option.name, option)
    return options


def option_names(option: Option) -> list[str]:
    """Spellings on the command line, as `transformers.HfArgumentParser` takes them."""
    names = [f"--{option.name}", f"--{option.name.replace('_', '-')}"]
    if option.default == "True" and "bool" in option.kinds:
        names += [f"--no_{option.name}", f"--no-{option.name.replace('_', '-')}"]
    return names


# ---- the command line -----------------------------------------------------------------------------------------


def add_dataset_options(parser: argparse.ArgumentParser, group: Any, required: bool) -> None:
    """Add the options of `DatasetArguments` to the parser of another command.

    Args:
        parser: of the command.
        group: for its help.
        required: whether `--dataset` is.
    """
    for option in options_of(DatasetArguments, ""):
        help_text = option.help[0].lower() + option.help[1:].removesuffix("; not for training.").removesuffix(".")
        name = f"--{option.name}"
        if option.kinds == ["bool"]:
            parser.add_argument(name, action="store_true", group=group, help=help_text)
        elif option.is_list:
            parser.add_argument(name, nargs="+", group=group, help=help_text)
        else:
            is_required = required and option.name == "dataset"
            parser.add_argument(name, required=is_required, group=group, help=help_text)


def take_dataset_options(arguments: dict[str, Any]) -> dict[str, Any]:
    """Remove the arguments of `add_dataset_options` except `dataset` from those of a command, and return them."""
    names = [option.name for option in options_of(DatasetArguments, "") if option.name != "dataset"]
    return {name: arguments.pop(name) for name in names}


def make_parser(show_all: bool = False) -> CommandParser:
    """The parser of `egmf train`. Its help lists the rare options of the library only with `show_all`."""
    parser = CommandParser(
        prog="egmf train",
        usage="egmf train [--config FILE] [--OPTION VALUE ...]",
        description="Train a model, or fine-tune a checkpoint.",
        epilog="All fields of transformers.TrainingArguments, and options for experiments: --help_all.",
    )
    parser.add_argument(
        "--config", metavar="FILE", help="YAML file with any of these options; recipes: training/configs"
    )
    parser.add_argument("--help_all", action="store_true", help="also list rare options")
    groups: dict[str, Any] = {}
    for option in training_options().values():
        if option.group not in groups:
            groups[option.group] = parser.add_argument_group(option.group)
        help_text = f"{option.help} (default: {option.default})"
        if "(default:" in option.help or option.default == "None":
            help_text = option.help
        is_rare = option.group == LIBRARY_GROUP and option.name not in COMMON_LIBRARY_OPTIONS
        is_rare = is_rare or option.name in EXPERIMENT_OPTIONS
        parser.add_argument(
            f"--{option.name}",
            metavar=option.placeholder,
            help=argparse.SUPPRESS if is_rare and not show_all else help_text,
            group=groups[option.group],
        )
        parser.option_names += option_names(option)
    return parser
