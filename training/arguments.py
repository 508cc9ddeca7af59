"""What a run is told: three dataclasses, filled from a YAML file and then from the command line.

    python -m training.train --config training/configs/demo.yaml --learning_rate 3e-4
    python -m training.train --backbone glm3-6b --load_in_4bit true --dataset my_corpus

Keys are the field names below and those of `transformers.TrainingArguments`. An unknown key is an error. What a
backbone's file under training/model/backbones/ says comes first, the run's YAML over it, the command line over both.
"""

import argparse
import difflib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from transformers import HfArgumentParser, TrainingArguments

from .model.backbones import backbone_names, backbone_path, backbone_settings


@dataclass
class ModelArguments:
    """The model to build, or the checkpoint to go on from."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "EGMF checkpoint to fine-tune further; None builds a new model."}
    )
    backbone: str | None = field(
        default=None,
        metadata={
            "help": f"Language model with its settings: {', '.join(backbone_names())}, or a YAML file like them."
        },
    )
    text_model_name_or_path: str | None = field(
        default=None, metadata={"help": "Language model: a Hub id or a folder."}
    )
    text_model_revision: str | None = field(default=None, metadata={"help": "Commit or tag of the language model."})
    text_model_dtype: str = field(
        default="auto", metadata={"help": "Precision of the frozen language model: auto, float32, bfloat16, float16."}
    )
    attn_implementation: str | None = field(default=None, metadata={"help": "sdpa, eager or flash_attention_2."})
    load_in_4bit: bool = field(
        default=False, metadata={"help": "Hold the language model in 4 bit (QLoRA); needs bitsandbytes and CUDA."}
    )
    bnb_4bit_quant_type: str = field(default="nf4", metadata={"help": "4-bit numbers: nf4 or fp4."})
    bnb_4bit_use_double_quant: bool = field(default=True, metadata={"help": "Quantize the scales of 4-bit weights."})
    audio: str | None = field(
        default="waveform", metadata={"help": "waveform, features, none, or the Hub id of a pretrained audio encoder."}
    )
    audio_feature_size: int | None = field(default=None, metadata={"help": "Width of precomputed audio features."})
    video: str | None = field(
        default="frames", metadata={"help": "frames, features, none, or the Hub id of a pretrained vision encoder."}
    )
    video_feature_size: int | None = field(default=None, metadata={"help": "Width of precomputed video features."})
    sequence_encoder: str = field(default="gru", metadata={"help": "gru, transformer or none, over each modality."})
    encoder_hidden_size: int = field(default=128, metadata={"help": "Width of the modality encoders."})
    encoder_layers: int = field(default=1, metadata={"help": "Layers of the sequence encoders."})
    encoder_dropout: float = field(default=0.1, metadata={"help": "Dropout of the modality encoders."})
    conv_channels: list[int] = field(
        default_factory=lambda: [32, 64, 128], metadata={"help": "Channels of our own convolutions, one a halving."}
    )
    train_backbones: bool = field(default=False, metadata={"help": "Train pretrained encoders instead of freezing."})
    num_frames: int = field(default=8, metadata={"help": "Frames looked at in a clip."})
    frame_size: int = field(default=64, metadata={"help": "Height and width of a frame in pixels."})
    max_clip_seconds: float = field(default=30.0, metadata={"help": "Longer clips are cut to their beginning."})
    max_length: int = field(default=512, metadata={"help": "Tokens of prompt and answer."})
    fusion_hidden_size: int = field(default=256, metadata={"help": "Width of the fusion, the paper's d_h."})
    fusion_dropout: float = field(default=0.1, metadata={"help": "Dropout of the fusion's attentions."})
    bidirectional_attention: bool = field(default=False, metadata={"help": "Let audio and video attend to text too."})
    num_pseudo_tokens: int = field(default=4, metadata={"help": "Soft tokens in the prompt."})
    pseudo_token_projection: str = field(default="repeat", metadata={"help": "repeat (the paper's) or separate."})
    transcript_in_prompt: bool = field(default=True, metadata={"help": "Let the language model read the words."})
    lora_r: int = field(default=8, metadata={"help": "Rank of LoRA; 0 for none."})
    lora_alpha: int = field(default=16, metadata={"help": "Scale of LoRA."})
    lora_dropout: float = field(default=0.05, metadata={"help": "Dropout in front of LoRA."})
    lora_target_modules: list[str] = field(
        default_factory=lambda: ["q_proj", "v_proj"], metadata={"help": "Linear layers that get LoRA."}
    )


@dataclass
class DataArguments:
    """The rows to train and evaluate on. See training/data/dataset.py for their format."""

    dataset: str | None = field(
        default=None, metadata={"help": "Folder with metadata.jsonl or metadata.csv, or Parquet."}
    )
    train_split: str = field(default="train", metadata={"help": "Name of the split to train on."})
    eval_split: str = field(default="validation", metadata={"help": "Name of the split to choose the best by."})
    split_manifest: str = field(
        default="official", metadata={"help": "Which splits of a converted corpus: a name under its splits/."}
    )
    tasks_file: str | None = field(default=None, metadata={"help": "YAML with one's own tasks: name -> fields."})
    only_tasks: list[str] | None = field(default=None, metadata={"help": "Keep the rows of these tasks."})
    max_train_samples: int | None = field(default=None, metadata={"help": "Use only so many rows, for a quick try."})
    max_eval_samples: int | None = field(default=None, metadata={"help": "Use only so many rows, for a quick try."})
    modalities: list[str] | None = field(default=None, metadata={"help": "Train on these alone: text, audio, video."})
    modality_dropout: float = field(
        default=0.3, metadata={"help": "How often a training sample loses a random part of its modalities."}
    )
    augmentation: bool = field(
        default=False, metadata={"help": "Change sound and pictures of training clips at random."}
    )
    voice_augmentation: bool = field(
        default=False,
        metadata={"help": "Change pitch, tempo and timbre of training sound at random: for few speakers."},
    )
    window_hop: float | None = field(
        default=None,
        metadata={"help": "Cut longer clips into windows of max_clip_seconds, one every so many seconds."},
    )
    encoder_cache: str | None = field(
        default=None, metadata={"help": "Folder for what frozen pretrained encoders give, computed once for all runs."}
    )
    cache_media: bool = field(
        default=False, metadata={"help": "Keep decoded clips in memory: for corpora of a few thousand short clips."}
    )


@dataclass
class EGMFTrainingArguments(TrainingArguments):
    """`transformers.TrainingArguments` and what is ours."""

    output_dir: str | None = field(default="runs/egmf", metadata={"help": "Where the run is written."})
    overwrite: bool = field(default=False, metadata={"help": "Move a run that is already in output_dir aside."})
    fusion_learning_rate: float | None = field(
        default=None,
        metadata={"help": "Learning rate of encoders, fusion and experts; None: that of LoRA and pseudo tokens."},
    )
    fusion_pretraining_epochs: float = field(
        default=0.0,
        metadata={
            "help": "Epochs in which encoders, fusion and experts learn alone, under a head dropped afterwards."
        },
    )
    fusion_pretraining_learning_rate: float = field(
        default=1e-3, metadata={"help": "Peak learning rate of the warm-up."}
    )
    fusion_pretraining_batch_size: int = field(default=32, metadata={"help": "Batch size of the warm-up."})
    early_stopping_patience: int | None = field(
        default=None, metadata={"help": "Stop after so many evaluations without a better metric."}
    )
    train_sampling_strategy: str = field(
        default="group_by_length", metadata={"help": "Order of the rows: group_by_length, random or sequential."}
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "Rows are dicts for the collator: keep."})

    def __post_init__(self):
        super().__post_init__()
        if self.label_names is None:
            self.label_names = ["label_index"]
        if self.save_total_limit is None:
            self.save_total_limit = 2  # the best, and the last to go on from
        if self.ddp_find_unused_parameters is None:
            self.ddp_find_unused_parameters = True  # an encoder rests where a batch lacks its modality
        if self.train_sampling_strategy not in ("group_by_length", "random", "sequential"):
            said = f"`train_sampling_strategy` is {self.train_sampling_strategy!r}"
            raise ValueError(f"{said}; use group_by_length, random or sequential.")
        for name in ("fusion_pretraining_epochs", "fusion_pretraining_batch_size"):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` is {getattr(self, name)}; it must not be negative.")


def parse_arguments(
    argv: Sequence[str] | None = None,
) -> tuple[ModelArguments, DataArguments, EGMFTrainingArguments]:
    """YAML named by `--config`, overridden by the rest of the command line.

    Raises:
        ValueError: an unknown key in the YAML file, with the nearest known ones.
        SystemExit: an unknown option on the command line, as argparse does it.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    types = (ModelArguments, DataArguments, EGMFTrainingArguments)
    parser = HfArgumentParser(types, description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--config", type=Path, help="YAML file with any of these options.")
    known, _ = parser.parse_known_args([a for a in argv if a not in ("-h", "--help")])
    settings = read_yaml(known.config, parser) if known.config is not None else {}
    backbone = known.backbone or settings.get("backbone")
    if backbone is not None:
        path = backbone_path(backbone)
        parser.set_defaults(**check_settings(backbone_settings(backbone), parser, path))
    parser.set_defaults(**settings)
    *parsed, _ = parser.parse_args_into_dataclasses(argv, look_for_args_file=False)
    return tuple(parsed)


def read_yaml(path: Path, parser: HfArgumentParser) -> dict:
    """The file's settings, each checked to be an option of the parser."""
    if not path.is_file():
        raise ValueError(f"There is no configuration {path}. Shipped ones are in training/configs/.")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold `name: value` lines, not a {type(values).__name__}.")
    return check_settings(values, parser, path)


def check_settings(values: dict[str, Any], parser: HfArgumentParser, path: Path) -> dict[str, Any]:
    """Settings that a file holds, each as its option takes it.

    Raises:
        ValueError: an unknown key, with the nearest known ones, or a value of another type.
    """
    known = {action.dest: action for action in parser._actions if action.dest not in ("help", "config")}
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=3)
            raise ValueError(f"{path}: unknown key {key!r}." + (f" Did you mean {', '.join(near)}?" if near else ""))
    return {key: _checked(value, known[key], f"{path}: {key}") for key, value in values.items()}


def _checked(value: Any, action: argparse.Action, name: str) -> Any:
    """A YAML value as its option takes it: a list where lists are taken, a number where a number is."""
    if value is None:
        return None
    if action.nargs in ("+", "*"):
        return [_checked_scalar(entry, action.type, name) for entry in (value if isinstance(value, list) else [value])]
    return _checked_scalar(value, action.type, name)


def _checked_scalar(value: Any, kind: Any, name: str) -> Any:
    if isinstance(value, list) or (kind in (int, float) and isinstance(value, bool)):
        raise ValueError(f"{name} is {value!r}; it takes one value" + (f" ({kind.__name__})." if kind else "."))
    if kind is str and not isinstance(value, str):
        raise ValueError(f"{name} is {value!r}; it takes text. Quote it.")
    if kind not in (int, float):
        return value
    try:
        return kind(str(value))
    except ValueError as error:
        raise ValueError(f"{name} is {value!r}; it takes {'a whole' if kind is int else 'a'} number.") from error
