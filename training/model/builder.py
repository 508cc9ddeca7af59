"""Builds model and processor from the training options.

    ModelArguments ─┬─ --model_name_or_path ──────────────────────► load: a checkpoint and its processor
                    └─ --backbone, --text_model_name_or_path ─┬───► language_model.py: the frozen language model
                                                              └───► encoders.py: audio and video

Settings that model and processor must agree on are made here, once: the preprocessing of a pretrained encoder, the
width of features, the number of pseudo tokens and the id of the placeholder.
"""

import copy
import dataclasses
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassClassValidationError, StrictDataclassError
from transformers import AutoTokenizer, BitsAndBytesConfig, PreTrainedTokenizerBase

from modeling_egmf import EGMFConfig, EGMFForConditionalGeneration
from modeling_egmf.configuration_egmf import PAPER_EXPERTS
from modeling_egmf.weights_egmf import explain_loading_errors
from processing_egmf import BUILT_IN_TASKS, EGMFProcessor, EGMFTask
from processing_egmf.agreement_egmf import check_agreement

from ..option_checks import check_model_options, read_expert
from ..options import ModelArguments
from ..records import read_json
from .encoders import Encoder, build_encoder
from .language_model import (
    absolute_id,
    check_model_location,
    describe_hub_error,
    load_language_model,
    lora_fields,
    quantization,
    with_lora_targets,
)
from .readout import EGMFWithHead, describe_tasks, model_class
from .stored_code import warn_of_other_code


# ---- checkpoints ----------------------------------------------------------------------------------------------


def load(
    checkpoint: str | Path,
    text_model: str | None = None,
    four_bit: BitsAndBytesConfig | None = None,
    active_experts: list[str] | None = None,
) -> tuple[EGMFForConditionalGeneration, EGMFProcessor]:
    """Load a checkpoint and its processor, with the code of this source tree.

    Args:
        checkpoint: folder or Hub id.
        text_model: folder or Hub id of the language model of an adapter checkpoint, if it is not where the
            checkpoint's configuration says.
        four_bit: from `quantization`; None keeps the language model's own precision.
        active_experts: names of the experts to use; None for all.

    Raises:
        ValueError: `checkpoint` is neither a folder nor a Hub id, or its processor does not fit its model.
        OSError: it cannot be read.
    """
    check_model_location(checkpoint)
    if text_model is not None:
        check_model_location(text_model)
    if (Path(checkpoint) / "config.json").is_file():
        # The library's errors about a file that is nested too deeply, or not text, do not name it.
        read_json(Path(checkpoint) / "config.json")
    warn_of_other_code(checkpoint)
    load_kwargs: dict[str, Any] = {"text_model_id": text_model}
    if active_experts is not None:
        load_kwargs["active_experts"] = active_experts
    try:
        if four_bit is not None:
            four_bit = copy.copy(four_bit)
            if EGMFConfig.from_pretrained(checkpoint).text_model_id is None:
                # A standalone checkpoint also holds our own layers, which stay in float32.
                four_bit.llm_int8_skip_modules = ["egmf", "lm_head"]
            load_kwargs["quantization_config"] = four_bit
        model = model_class(checkpoint).from_pretrained(checkpoint, **load_kwargs)
    except OSError as error:
        if Path(checkpoint).is_dir():
            raise
        raise OSError(f"There is no folder {checkpoint}, and {describe_hub_error(error)}") from error
    with explain_loading_errors(f"The processor of {checkpoint}"):
        processor = EGMFProcessor.from_pretrained(checkpoint)
    check_agreement(model.config, processor)
    set_labels(model.config, processor)
    return model, processor


def load_for_training(
    arguments: ModelArguments, tasks: dict[str, EGMFTask]
) -> tuple[EGMFForConditionalGeneration, EGMFProcessor]:
    """Load a checkpoint to fine-tune, and add the tasks of the new data to its own.

    Raises:
        ValueError: a task differs from the checkpoint's task of the same name.
    """
    checkpoint = arguments.model_name_or_path
    model, processor = load(checkpoint, arguments.text_model_name_or_path)
    warn_of_ignored_options(arguments)
    for stored in processor.task_objects.values():
        stored.calibration = {}  # measured for the weights before this training
    for task in tasks.values():
        stored = processor.task_objects.get(task.name)
        if stored is None and isinstance(model, EGMFWithHead):
            raise ValueError(
                f"{checkpoint} answers with a head that has no outputs for the task {task.name!r}. Give --only_tasks "
                f"{' '.join(processor.task_objects)}, or train a new model."
            )
        if stored is None:
            processor.add_task(task)
        elif task not in (stored, BUILT_IN_TASKS.get(task.name)):
            raise ValueError(
                f"Task {task.name!r} of {checkpoint} differs from yours in its labels, their order, or its prompt. "
                "Give your task another name."
            )
    set_labels(model.config, processor)
    return model, processor


def warn_of_ignored_options(arguments: ModelArguments) -> None:
    """Report options that have no effect because the checkpoint keeps its own settings."""
    defaults = ModelArguments()
    used = ("model_name_or_path", "text_model_name_or_path", "backbone")
    ignored = []
    for field in dataclasses.fields(arguments):
        is_default = getattr(arguments, field.name) == getattr(defaults, field.name)
        if field.name not in used and not is_default:
            ignored.append(field.name)
    if ignored:
        print(f"{arguments.model_name_or_path} keeps its own settings: {', '.join(ignored)} have no effect.")


# ---- new models -----------------------------------------------------------------------------------------------


def build(
    arguments: ModelArguments, tasks: dict[str, EGMFTask] | None = None
) -> tuple[EGMFForConditionalGeneration, EGMFProcessor]:
    """Build a new model around a language model, or load a checkpoint to fine-tune; with the matching processor.

    Args:
        arguments: options of the model.
        tasks: name -> task, the first being the default; None for the built-in ones.

    Raises:
        ValueError: no language model is given, it does not exist or cannot be used, 4 bits are requested but not
            possible, or settings contradict each other.
    """
    four_bit = quantization(arguments)
    check_model_options(arguments)
    if arguments.model_name_or_path is not None:
        return load_for_training(arguments, tasks or {})
    arguments = with_lora_targets(arguments)  # checked before any weights are loaded
    language_model = load_language_model(arguments, four_bit)
    tokenizer = AutoTokenizer.from_pretrained(
        arguments.text_model_name_or_path, revision=arguments.text_model_revision or "main"
    )
    with configuration_errors():
        audio = build_encoder(arguments, "audio")
        video = build_encoder(arguments, "video")
    processor = build_processor(arguments, tokenizer, tasks, audio, video)
    with configuration_errors():
        config = EGMFConfig(
            text_model_id=absolute_id(arguments.text_model_name_or_path),
            text_model_revision=arguments.text_model_revision,
            audio_config=audio.config,
            video_config=video.config,
            placeholder_token_id=processor.placeholder_token_id,
            **fusion_settings(arguments),
        )
    set_labels(config, processor)
    kind = EGMFForConditionalGeneration
    if arguments.readout == "head":
        kind = EGMFWithHead
        config.readout = describe_tasks(processor.task_objects)
    model = kind.from_language_model(language_model, config, audio.backbone, video.backbone)
    return model, processor


@contextmanager
def configuration_errors() -> Iterator[None]:
    """Turn a configuration's validation errors into ValueErrors with the same message."""
    try:
        yield
    except StrictDataclassClassValidationError as error:
        raise ValueError(str(error.__cause__)) from error
    except StrictDataclassError as error:
        raise ValueError(" ".join(str(error).split())) from error


def build_processor(
    arguments: ModelArguments,
    tokenizer: PreTrainedTokenizerBase,
    tasks: dict[str, EGMFTask] | None,
    audio: Encoder,
    video: Encoder,
) -> EGMFProcessor:
    """The processor that prepares the encoders' inputs."""
    return EGMFProcessor(
        tokenizer,
        **{encoder.frontend_name: encoder.frontend for encoder in (audio, video) if encoder.frontend},
        tasks=with_prompt_format(tasks or BUILT_IN_TASKS, arguments.prompt_format),
        num_pseudo_tokens=arguments.num_pseudo_tokens,
        audio_input=audio.config.input_type if audio.config else None,
        audio_feature_size=arguments.audio_feature_size,
        sampling_rate=audio.frontend.sampling_rate if audio.frontend else 16000,
        video_input=video.config.input_type if video.config else None,
        video_feature_size=arguments.video_feature_size,
        num_frames=video.num_frames or arguments.num_frames,
        frame_height=arguments.frame_size,
        frame_width=arguments.frame_size,
        frames=arguments.frames,
        max_clip_seconds=arguments.max_clip_seconds,
        max_length=arguments.max_length,
        transcript_in_prompt=arguments.transcript_in_prompt,
        task_slots=make_task_slots(arguments, tasks or BUILT_IN_TASKS),
    )


def make_task_slots(arguments: ModelArguments, tasks: Collection[str]) -> dict[str, list[int]] | None:
    """Slots of each task, which take turns with them; None if every task reads all.

    Raises:
        ValueError: there are more tasks than slots.
    """
    if arguments.pseudo_token_projection != "per_task":
        return None
    num_slots = arguments.num_pseudo_tokens
    if num_slots < len(tasks):
        raise ValueError(
            f"--num_pseudo_tokens {num_slots} is less than the {len(tasks)} tasks, each of which needs one of its own "
            "with --pseudo_token_projection per_task. Raise it."
        )
    return {name: list(range(index, num_slots, len(tasks))) for index, name in enumerate(tasks)}


def with_prompt_format(tasks: dict[str, EGMFTask], prompt_format: str | None) -> dict[str, EGMFTask]:
    """The tasks with another format of their prompts; None leaves each task its own."""
    if prompt_format is None:
        return tasks
    return {name: dataclasses.replace(task, prompt_format=prompt_format) for name, task in tasks.items()}


def set_labels(config: EGMFConfig, processor: EGMFProcessor) -> None:
    """Give the model's configuration the labels of the processor's first classification task, if there is one."""
    for task in processor.task_objects.values():
        if task.kind == "classification":
            config.id2label = dict(enumerate(task.labels))
            config.label2id = {label: index for index, label in config.id2label.items()}
            return


def fusion_settings(arguments: ModelArguments) -> dict[str, Any]:
    """Fields of `EGMFConfig` that follow directly from the options: fusion, pseudo tokens and LoRA."""
    return {
        "fusion_hidden_size": arguments.fusion_hidden_size,
        "fusion_dropout": arguments.fusion_dropout,
        "bidirectional_attention": arguments.bidirectional_attention,
        "experts": read_experts(arguments.experts),
        "gate": arguments.gate,
        "expert_residual": arguments.expert_residual,
        "fusion_norms": arguments.fusion_norms,
        "num_pseudo_tokens": arguments.num_pseudo_tokens,
        "pseudo_token_projection": "repeat" if arguments.pseudo_token_projection == "repeat" else "separate",
        "pseudo_token_norm": arguments.pseudo_token_norm,
        "lora": lora_fields(arguments) if arguments.lora_r else None,
    }


def read_experts(names: Sequence[str]) -> list[dict[str, Any]]:
    """Experts of `EGMFConfig` from the option: names of the paper's, or NAME:RATIO:ACTIVATION[:learned].

    Raises:
        ValueError: an entry is neither.
    """
    paper = {expert["name"]: expert for expert in PAPER_EXPERTS}
    experts = []
    for entry in names:
        custom = read_expert(entry)
        if custom is None:
            experts.append(paper[entry])
            continue
        name, ratio, activation, has_learned_width = custom
        experts.append({"name": name, "bottleneck_ratio": ratio, "activation": activation})
        if has_learned_width:
            experts[-1]["learned_width"] = True
    return experts


def effective_options(arguments: ModelArguments) -> dict[str, Any]:
    """The options that define the model; a fine-tuned checkpoint keeps its own."""
    options = dataclasses.asdict(arguments)
    if arguments.model_name_or_path is None:
        return options
    return {name: options[name] for name in ("model_name_or_path", "text_model_name_or_path")}
