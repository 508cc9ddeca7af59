"""Loads the language model of a new model, in 4 bits if requested; checks it before any weights are loaded."""

import dataclasses
import importlib.util
import json
import logging
import os
import re
import shlex
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from modeling_egmf import EGMFConfig
from modeling_egmf.adapters_egmf import add_adapter, default_lora_targets, new_adapter_config
from modeling_egmf.decoders_egmf import check_decoder
from modeling_egmf.loading_egmf import load_new_text_model

from ..data.locations import refuse_file
from ..option_checks import check_quantization
from ..options import ModelArguments
from ..paths import python_command
from .backbones import backbone_names, backbone_settings


logger = logging.getLogger(__name__)


def check_model_location(model: str | Path) -> None:
    """Check that a model is a folder or has the form of a Hub id.

    Raises:
        ValueError: it is neither, or a file.
    """
    refuse_file(model)
    if not Path(model).is_dir() and not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(model)):
        raise ValueError(f"There is no folder {model}, and it is not a Hub id (ORG/NAME).")


def describe_hub_error(error: OSError) -> str:
    """Why a model could not be read from the Hub: it has no such model, or it could not be asked; and what to do."""
    reason = str(error).splitlines()[0]
    if isinstance(error.__cause__, LocalEntryNotFoundError):
        return (
            f"it is not in the Hub's cache, and the Hub cannot be reached ({reason}). Check the connection, or give "
            "the folder of a model that is here."
        )
    return f"the Hub has no such model that you may read ({reason}). Check the name, or log in with `hf auth login`."


def absolute_id(model_id: str) -> str:
    """A folder by its absolute path, a Hub id unchanged. A checkpoint stores the path from its own folder."""
    return os.path.abspath(model_id) if os.path.isdir(model_id) else model_id


def quantization(arguments: ModelArguments) -> BitsAndBytesConfig | None:
    """The configuration for linear layers in 4 bits, or None; LoRA, fusion and encoders stay in float32.

    Raises:
        ValueError: bitsandbytes or a GPU is missing, or 4 bits are not possible with the other options.
    """
    if not arguments.load_in_4bit:
        return None
    check_quantization(arguments)
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ValueError("--load_in_4bit needs bitsandbytes: pip install bitsandbytes, or leave out --load_in_4bit.")
    if not torch.cuda.is_available():
        raise ValueError("--load_in_4bit needs a CUDA device, but there is none. Leave out --load_in_4bit.")
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
        raise ValueError("FSDP cannot shard 4-bit weights. Use one GPU or DDP, or leave out --load_in_4bit.")
    compute_dtype = torch.bfloat16
    if arguments.text_model_dtype != "auto":
        compute_dtype = getattr(torch, arguments.text_model_dtype)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=arguments.bnb_4bit_quant_type,
        bnb_4bit_use_double_quant=arguments.bnb_4bit_use_double_quant,
        bnb_4bit_compute_dtype=compute_dtype,
    )


def has_fast_bfloat16() -> bool:
    """Whether this machine computes in bfloat16 as fast as in float32: on an accelerator, or a CPU with AVX-512."""
    return torch.accelerator.is_available() or torch.backends.cpu.get_cpu_capability().startswith("AVX512")


def choose_dtype(arguments: ModelArguments, config: PreTrainedConfig) -> torch.dtype | str:
    """The precision to load the language model in.

    A CPU without AVX-512 emulates bfloat16: a training step then takes 20 to 40 times as long as in float32.
    """
    if arguments.text_model_dtype != "auto":
        return arguments.text_model_dtype
    if config.dtype in (torch.bfloat16, torch.float16) and not has_fast_bfloat16():
        logger.warning(
            f"This CPU is slow in {config.dtype}, so the language model is loaded in float32. "
            f"Pass --text_model_dtype {str(config.dtype).removeprefix('torch.')} to keep the stored precision."
        )
        return torch.float32
    return "auto"


def check_text_model_location(text_model: str) -> None:
    """Check that a language model is a folder or has the form of a Hub id; the Hub is not asked.

    Raises:
        ValueError: it is neither, or the converted ChatGLM3, which is not there.
    """
    converted_glm3 = backbone_settings("glm3-6b")["text_model_name_or_path"]
    if text_model == converted_glm3 and not Path(text_model).is_dir():
        command = python_command("chatglm3.convert", "THUDM/chatglm3-6b-base", text_model)
        raise ValueError(
            f"There is no {text_model}, the converted ChatGLM3. Convert it ({shlex.join(command)}), "
            "or give another --text_model_name_or_path."
        )
    check_model_location(text_model)


def text_model_config(text_model: str, revision: str) -> PreTrainedConfig:
    """The configuration of the language model to build on.

    Raises:
        ValueError: there is no such language model.
    """
    check_text_model_location(text_model)
    try:
        return AutoConfig.from_pretrained(text_model, revision=revision)
    except OSError as error:
        if Path(text_model).is_dir():
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"{text_model} cannot be read ({reason}). Give another --text_model_name_or_path."
            ) from error
        raise ValueError(
            f"--text_model_name_or_path {text_model} is not a folder here, and {describe_hub_error(error)}"
        ) from error


def require_embeddings(text_model: str, config: PreTrainedConfig) -> None:
    """Refuse a language model that cannot read pseudo tokens, before its weights are loaded.

    Raises:
        ValueError: it is not a causal language model, or EGMF cannot score answers with it exactly.
    """
    examples = " or ".join(backbone_names()[:2])
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING or config.model_type == EGMFConfig.model_type:
        raise ValueError(
            f"{text_model} is a {config.model_type!r}, which is not a causal language model of "
            f"transformers. Give one, for example --backbone {examples}."
        )
    try:
        check_decoder(config)
    except ValueError as error:
        raise ValueError(f"{text_model}: {error} For example --backbone {examples}.") from error


def lora_fields(arguments: ModelArguments) -> dict[str, Any]:
    """`EGMFConfig.lora`, from the options.

    Raises:
        ValueError: `lora_options` are not JSON.
    """
    fields = {"r": arguments.lora_r, "lora_alpha": arguments.lora_alpha, "lora_dropout": arguments.lora_dropout}
    fields["target_modules"] = arguments.lora_target_modules
    if arguments.lora_options is None:
        return fields
    try:
        options = dict(json.loads(arguments.lora_options))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"--lora_options {arguments.lora_options!r} is not a JSON object ({error}). Give one such as "
            '{"use_dora": true}.'
        ) from error
    if "peft_type" in options:  # another method has other fields
        fields = {"target_modules": arguments.lora_target_modules}
    return {**fields, **options}


def with_lora_targets(arguments: ModelArguments) -> ModelArguments:
    """The options of a new model with the layers that get LoRA: those of the options or the architecture's default.

    Neither weights nor data are read for it: the language model is built on the meta device.

    Raises:
        ValueError: there is no such language model, EGMF cannot use it, it does not have the layers, or the adapter
            has wrong fields.
    """
    text_model = arguments.text_model_name_or_path
    if arguments.model_name_or_path is not None or text_model is None or not arguments.lora_r:
        return arguments
    config = text_model_config(text_model, arguments.text_model_revision or "main")
    require_embeddings(text_model, config)
    with torch.device("meta"):
        language_model = AutoModelForCausalLM.from_config(config)
    targets = arguments.lora_target_modules
    if targets is None:
        targets = default_lora_targets(language_model)
    arguments = dataclasses.replace(arguments, lora_target_modules=targets)
    try:
        add_adapter(language_model, new_adapter_config(language_model, lora_fields(arguments)), "default")
    except (TypeError, ValueError) as error:
        if arguments.lora_options is None:
            raise
        raise ValueError(f"--lora_options {arguments.lora_options}: {error}") from error
    return arguments


def load_language_model(
    arguments: ModelArguments,
    four_bit: BitsAndBytesConfig | None,
) -> PreTrainedModel:
    """Load the language model in the precision that the options request.

    Raises:
        ValueError: there is no such language model, or EGMF cannot use it.
        OSError, ValueError: its weights are damaged or incomplete.
    """
    text_model = arguments.text_model_name_or_path
    revision = arguments.text_model_revision or "main"
    config = text_model_config(text_model, revision)
    require_embeddings(text_model, config)
    load_kwargs = {"dtype": choose_dtype(arguments, config)}
    if arguments.attn_implementation is not None:
        load_kwargs["attn_implementation"] = arguments.attn_implementation
    if four_bit is not None:
        load_kwargs["quantization_config"] = four_bit
    return load_new_text_model(text_model, revision=revision, **load_kwargs)
