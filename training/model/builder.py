"""Model and processor from arguments: the one seam where `modeling_egmf` and `processing_egmf` meet.

The front end of a pretrained encoder, the width of features, the number of pseudo tokens and the placeholder's id are
decided here once and written into both halves.
"""

import copy
import dataclasses
import difflib
import importlib.util
import inspect
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml
from huggingface_hub.errors import StrictDataclassError
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from modeling_egmf import EGMFConfig, EGMFEncoderConfig, EGMFForConditionalGeneration
from modeling_egmf.checkpoints_egmf import fingerprint, locate_part
from processing_egmf import BUILT_IN_TASKS, EGMFProcessor, EGMFTask

from ..arguments import ModelArguments
from ..trainer.distributed import whole
from .backbones import backbone_names, backbone_settings


FOUR_BIT_HELP = "hold the language model in 4 bit; needs bitsandbytes and CUDA"
TASK_TYPES = {str: str, float: int | float}  # of what YAML makes of a task's fields


def require_place(where: str | Path) -> None:
    """Raises ValueError where a model is neither a folder nor named like one of the Hub."""
    if not Path(where).is_dir() and not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(where)):
        raise ValueError(f"There is no folder {where}, and it is no id of the Hub (ORG/NAME).")


def load(
    checkpoint: str | Path, text_model: str | None = None, four_bit: BitsAndBytesConfig | None = None
) -> tuple[EGMFForConditionalGeneration, EGMFProcessor]:
    """A checkpoint with this source tree's code, and its processor.

    Args:
        checkpoint: a folder or a Hub id.
        text_model: where the language model of a light checkpoint lies, if not where its configuration says.
        four_bit: how the language model is held, from `quantization`; None: in the precision it was trained beside.
    """
    require_place(checkpoint)
    # Known here, the checkpoint's own code is not asked for when its tokenizer is looked up.
    AutoConfig.register("egmf", EGMFConfig, exist_ok=True)
    how: dict[str, Any] = {"text_model_id": text_model}
    try:
        if four_bit is not None:
            how["quantization_config"] = four_bit = copy.copy(four_bit)
            if EGMFConfig.from_pretrained(checkpoint).text_model_id is None:  # full: what is ours lies in it too
                four_bit.llm_int8_skip_modules = ["egmf", "lm_head"]
        model = EGMFForConditionalGeneration.from_pretrained(checkpoint, **how)
    except OSError as error:
        if Path(checkpoint).is_dir():
            raise
        raise OSError(f"There is no folder {checkpoint}, and the Hub gave no such model: {error}") from error
    return model, EGMFProcessor.from_pretrained(checkpoint)


def read_tasks(path: str | Path | None) -> dict[str, EGMFTask]:
    """The built-in tasks and those of a YAML file (name -> fields), which win."""
    tasks = dict(BUILT_IN_TASKS)
    if path is not None:
        if not Path(path).is_file():
            raise ValueError(f"There is no tasks file {path}.")
        found = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        if not isinstance(found, dict) or not all(isinstance(fields, dict) for fields in found.values()):
            raise ValueError(f"{path} must hold `name:` blocks with a task's fields under each.")
        for name, fields in found.items():
            for known in dataclasses.fields(EGMFTask):
                value, kinds = fields.get(known.name, known.default), TASK_TYPES.get(known.type, object)
                if known.name in fields and (not isinstance(value, kinds) or isinstance(value, bool)):
                    wanted = "words, in quotes" if kinds is str else "a number"
                    raise ValueError(f"{path}: {known.name} of the task {name!r} is {value!r}; give {wanted}.")
            tasks[name] = EGMFTask.from_dict(fields, name)
    return tasks


def portable_id(model_id: str, output_dir: str | Path) -> str:
    """A local folder as a path relative to the run, so that no absolute path goes into a checkpoint."""
    return os.path.relpath(model_id, output_dir) if os.path.isdir(model_id) else model_id


@contextmanager
def configuration_errors() -> Iterator[None]:
    """What a configuration refuses becomes a ValueError, with the message of its check."""
    try:
        yield
    except StrictDataclassError as error:
        raise ValueError(str(error.__cause__ or error)) from error


def _encoder(
    arguments: ModelArguments, modality: str, raw: str, output_dir: str | Path
) -> tuple[EGMFEncoderConfig | None, PreTrainedModel | None, dict | None]:
    """Configuration, loaded backbone and front end of one modality."""
    kind = getattr(arguments, modality)
    shared: dict[str, Any] = {
        "sequence_encoder": arguments.sequence_encoder,
        "hidden_size": arguments.encoder_hidden_size,
        "num_layers": arguments.encoder_layers,
        "dropout": arguments.encoder_dropout,
        "conv_channels": arguments.conv_channels,
        "frame_height": arguments.frame_size,
        "frame_width": arguments.frame_size,
    }
    if kind in (None, "none"):
        return None, None, None
    if kind == "features":
        width = getattr(arguments, f"{modality}_feature_size")
        if width is None:
            raise ValueError(f"{modality}=features needs {modality}_feature_size, the width of one vector.")
        return EGMFEncoderConfig(input_type="features", feature_size=width, **shared), None, None
    if kind == raw:
        return EGMFEncoderConfig(input_type=raw, **shared), None, None
    near = difflib.get_close_matches(kind, (raw, "features", "none"), n=1, cutoff=0.7)
    if near and not Path(kind).exists():
        raise ValueError(f"{modality}={kind!r} is no encoder. Did you mean {near[0]!r}?")
    backbone_config = AutoConfig.from_pretrained(kind)
    backbone_config = getattr(backbone_config, "vision_config" if modality == "video" else "audio_config", None) or (
        backbone_config
    )
    backbone = AutoModel.from_pretrained(kind, config=backbone_config)
    loader = AutoImageProcessor if modality == "video" else AutoFeatureExtractor
    frontend = loader.from_pretrained(kind).to_dict()
    config = EGMFEncoderConfig(
        input_type=raw,
        backbone_config=backbone.config,
        backbone_id=portable_id(kind, output_dir),
        backbone_trainable=arguments.train_backbones,
        **shared,
    )
    return config, backbone, frontend


def calibrate_pseudo_tokens(model: EGMFForConditionalGeneration) -> None:
    """Start the pseudo tokens at the average length of the language model's own embeddings (a new model only)."""
    weight = model.get_input_embeddings().weight
    with torch.no_grad(), whole(weight):
        model.egmf.pseudo_tokens.scale.fill_(weight.float().square().mean().sqrt().item())


def _say_what_is_ignored(arguments: ModelArguments) -> None:
    """A checkpoint's settings stand; other model options that were given change nothing."""
    given = [
        field.name
        for field in dataclasses.fields(arguments)
        if field.name not in ("model_name_or_path", "text_model_name_or_path", "backbone")
        and getattr(arguments, field.name) != _default(field)
    ]
    if given:
        print(f"{arguments.model_name_or_path} keeps its own settings: {', '.join(given)} have no effect.")


def _default(field: dataclasses.Field) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def quantization(arguments: ModelArguments) -> BitsAndBytesConfig | None:
    """How the language model's linear layers are held in 4 bit, LoRA and all that is ours being left in float32.

    Raises:
        ValueError: what 4 bit needs is not there, or it goes with nothing that was asked for.
    """
    if not arguments.load_in_4bit:
        return None
    if arguments.model_name_or_path is not None:
        raise ValueError(
            "load_in_4bit is for a new model: --model_name_or_path goes on with a checkpoint in its own precision."
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ValueError("load_in_4bit needs bitsandbytes: pip install bitsandbytes, or set load_in_4bit to false.")
    if not torch.cuda.is_available():
        raise ValueError("load_in_4bit needs a CUDA device, and there is none here. Set load_in_4bit to false.")
    sharded = {"ACCELERATE_USE_FSDP": "FSDP", "ACCELERATE_USE_DEEPSPEED": "DeepSpeed"}
    for variable, name in sharded.items():
        if os.environ.get(variable, "false").lower() == "true":
            raise ValueError(f"{name} does not split weights of 4 bit. Use one GPU or DDP, or 16 bit with {name}.")
    if arguments.bnb_4bit_quant_type not in ("nf4", "fp4"):
        raise ValueError(f"bnb_4bit_quant_type is {arguments.bnb_4bit_quant_type!r}; use nf4 or fp4.")
    dtype = arguments.text_model_dtype
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=arguments.bnb_4bit_quant_type,
        bnb_4bit_use_double_quant=arguments.bnb_4bit_use_double_quant,
        bnb_4bit_compute_dtype=torch.bfloat16 if dtype == "auto" else getattr(torch, dtype),
    )


def text_model_config(text_model: str, revision: str) -> PreTrainedConfig:
    """The configuration of the language model to build on.

    Raises:
        ValueError: it is not there; what to do is said.
    """
    if not Path(text_model).is_dir() and text_model == backbone_settings("glm3-6b")["text_model_name_or_path"]:
        raise ValueError(
            f"There is no {text_model}, converted from ChatGLM3. Make it (python -m training.chatglm3.convert "
            f"THUDM/chatglm3-6b-base {text_model}), or say by --text_model_name_or_path where it lies."
        )
    require_place(text_model)
    try:
        return AutoConfig.from_pretrained(text_model, revision=revision)
    except OSError as error:
        found = "cannot be read" if Path(text_model).is_dir() else "is no folder, and the Hub gave no such model"
        raise ValueError(
            f"{text_model} {found} ({str(error).splitlines()[0]}). Give another --text_model_name_or_path."
        ) from error


def require_embeddings(text_model: str, config: PreTrainedConfig) -> None:
    """Refuse a language model that cannot read pseudo tokens, before its weights are loaded.

    Raises:
        ValueError: it is no causal language model, or lacks an argument that EGMF calls it with.
    """
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ValueError(
            f"{text_model} is a {config.model_type!r}, which is no causal language model of transformers. "
            f"Give one, for instance --backbone {' or '.join(backbone_names()[:2])}."
        )
    model_class = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    missing = {"inputs_embeds", "past_key_values", "logits_to_keep"} - set(
        inspect.signature(model_class.forward).parameters
    )
    if missing:
        raise ValueError(
            f"{text_model} cannot stand behind the fusion: {model_class.__name__} takes no "
            f"{', no '.join(sorted(missing))}. EGMF puts its pseudo tokens among the language model's input "
            f"embeddings; take another one, for instance --backbone {' or '.join(backbone_names()[:2])}."
        )


def fusion_settings(arguments: ModelArguments) -> dict[str, Any]:
    """The fields of `EGMFConfig` that the options say by themselves: fusion, pseudo tokens and LoRA."""
    names = ("fusion_hidden_size", "fusion_dropout", "bidirectional_attention", "num_pseudo_tokens")
    lora = {
        "r": arguments.lora_r,
        "lora_alpha": arguments.lora_alpha,
        "lora_dropout": arguments.lora_dropout,
        "target_modules": list(arguments.lora_target_modules),
    }
    return {
        **{name: getattr(arguments, name) for name in (*names, "pseudo_token_projection")},
        "lora": lora if arguments.lora_r else None,
    }


def build(
    arguments: ModelArguments, tasks: dict[str, EGMFTask] | None = None, output_dir: str | Path = "."
) -> tuple[EGMFForConditionalGeneration, EGMFProcessor]:
    """A new model around a language model, or an existing checkpoint, and the processor that fits it.

    Args:
        arguments: what to build.
        tasks: name -> task, the first being the default; None for the built-in ones.
        output_dir: where the model will be saved: local language models are stored relative to it.

    Raises:
        ValueError: neither `model` nor `text_model_name_or_path` is given, the language model takes no `inputs_embeds`, 4 bit is
            asked for where it cannot be had, or settings contradict one another.
    """
    four_bit = quantization(arguments)
    if arguments.model_name_or_path is not None and arguments.backbone is not None:
        raise ValueError(
            "Give --model_name_or_path, which has its language model, or --backbone for a new one; not both."
        )
    if arguments.model_name_or_path is not None:
        model, processor = load(arguments.model_name_or_path, arguments.text_model_name_or_path)
        _say_what_is_ignored(arguments)
        for task in (tasks or {}).values():
            stored = processor.task_objects.get(task.name)
            if stored is None:
                processor.add_task(task)
            elif task not in (stored, BUILT_IN_TASKS.get(task.name)):
                raise ValueError(
                    f"Task {task.name!r} of {arguments.model_name_or_path} has other labels or words than the one that was given. "
                    "Give yours another name."
                )
        if model.config.text_model_id is not None:
            located = locate_part(model.config.text_model_id, arguments.model_name_or_path)
            model.config.text_model_id = portable_id(located, output_dir)
        return model, processor
    if arguments.text_model_name_or_path is None:
        raise ValueError(
            "Give `backbone` or `text_model_name_or_path`, a language model to build on, or `model`, an EGMF checkpoint."
        )
    revision = arguments.text_model_revision or "main"
    require_embeddings(
        arguments.text_model_name_or_path, text_model_config(arguments.text_model_name_or_path, revision)
    )
    how = {"attn_implementation": arguments.attn_implementation, "quantization_config": four_bit}
    language_model = AutoModelForCausalLM.from_pretrained(
        arguments.text_model_name_or_path,
        revision=revision,
        dtype=arguments.text_model_dtype,
        **{name: value for name, value in how.items() if value is not None},
    )
    tokenizer = AutoTokenizer.from_pretrained(arguments.text_model_name_or_path, revision=revision)
    with configuration_errors():
        audio_config, audio_backbone, audio_frontend = _encoder(arguments, "audio", "waveform", output_dir)
        video_config, video_backbone, video_frontend = _encoder(arguments, "video", "frames", output_dir)
    processor = EGMFProcessor(
        tokenizer,
        tasks=tasks,
        num_pseudo_tokens=arguments.num_pseudo_tokens,
        audio_input=audio_config.input_type if audio_config else None,
        audio_feature_size=arguments.audio_feature_size,
        sampling_rate=audio_frontend["sampling_rate"] if audio_frontend else 16000,
        audio_frontend=audio_frontend,
        video_input=video_config.input_type if video_config else None,
        video_feature_size=arguments.video_feature_size,
        num_frames=arguments.num_frames,
        frame_height=arguments.frame_size,
        frame_width=arguments.frame_size,
        video_frontend=video_frontend,
        max_clip_seconds=arguments.max_clip_seconds,
        max_length=arguments.max_length,
        transcript_in_prompt=arguments.transcript_in_prompt,
    )
    language_model.config._name_or_path = ""
    language_model.config.dtype = language_model.dtype
    text_config = language_model.config
    if four_bit is not None:  # how it was held in training; a checkpoint is loaded in whatever precision is asked for
        text_config = copy.copy(text_config)
        del text_config.quantization_config
    with whole(language_model.get_input_embeddings().weight):
        mark = fingerprint(language_model)
    with configuration_errors():
        config = EGMFConfig(
            text_config=text_config,
            text_model_id=portable_id(arguments.text_model_name_or_path, output_dir),
            text_model_revision=arguments.text_model_revision,
            text_model_fingerprint=mark,
            audio_config=audio_config,
            video_config=video_config,
            placeholder_token_id=processor.placeholder_token_id,
            **fusion_settings(arguments),
        )
    model = EGMFForConditionalGeneration(config, language_model, audio_backbone, video_backbone)
    calibrate_pseudo_tokens(model)
    return model, processor
