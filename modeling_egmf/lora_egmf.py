"""LoRA inside the language model: which of its layers can get it, and how it is injected.

    EGMFConfig.lora   keyword arguments of `peft.LoraConfig`, such as {"r": 8, "target_modules": ["q_proj", "v_proj"]}

peft ignores a target that the model does not have as long as another one matches; here every target must match. The
matrices A and B are never offloaded: they stay on the device that their layer computes on.
"""

from types import ModuleType
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from .weights_egmf import in_memory


LINEAR_LAYERS = (nn.Linear, Conv1D)  # quantized linear layers are subclasses of nn.Linear
# For an architecture without an entry in peft's table: query and value, or the layer that computes them together.
DEFAULT_TARGETS = (["q_proj", "v_proj"], ["qkv_proj"], ["query_key_value"], ["c_attn"], ["Wqkv"])
# LoRA of a layer that is offloaded must not read the layer's own weights, which other fields would do.
OFFLOADABLE_FIELDS = """
    r lora_alpha lora_dropout target_modules exclude_modules layers_to_transform layers_pattern rank_pattern
    alpha_pattern use_rslora
"""


def import_peft() -> ModuleType:
    """peft, which only models with LoRA need.

    Raises:
        ImportError: it is not installed; the message says how to install it.
    """
    try:
        import peft
    except ImportError as error:
        raise ImportError("This model has LoRA in its language model, which needs: pip install peft") from error
    return peft


def linear_layer_names(language_model: PreTrainedModel) -> list[str]:
    """Full names of the linear layers of a language model without LoRA, such as `model.layers.0.self_attn.q_proj`."""
    return [name for name, module in language_model.named_modules() if isinstance(module, LINEAR_LAYERS)]


def short_names(layer_names: list[str]) -> list[str]:
    """The last parts of the names, each once: `q_proj`."""
    return sorted({name.rpartition(".")[2] for name in layer_names})


def default_lora_targets(language_model: PreTrainedModel) -> list[str] | str:
    """The layers that usually get LoRA in this architecture, from peft's table or else `DEFAULT_TARGETS`.

    Raises:
        ValueError: peft does not know the architecture, and it has no such layers.
    """
    known = short_names(linear_layer_names(language_model))
    model_type = language_model.config.model_type
    targets = import_peft().utils.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.get(model_type)
    for candidates in (targets, *DEFAULT_TARGETS):
        if isinstance(candidates, list) and set(candidates) <= set(known):
            return list(candidates)
    raise ValueError(
        f"LoRA has no default layers for a {model_type!r} language model. Choose `target_modules` "
        f"(--lora_target_modules) out of its linear layers: {', '.join(known)}."
    )


def check_lora_targets(language_model: PreTrainedModel, targets: list[str] | str) -> None:
    """Refuse targets that are not linear layers of the language model, which may be on the meta device.

    Args:
        targets: names of layers, short or full; or a string that peft reads as a regular expression.

    Raises:
        ValueError: a target is missing or not a linear layer; the message names the linear layers.
    """
    if isinstance(targets, str):
        return  # peft itself refuses a pattern that matches nothing
    layer_names = linear_layer_names(language_model)
    missing = []
    for target in targets:
        if not any(name == target or name.endswith(f".{target}") for name in layer_names):
            missing.append(target)
    if missing or not targets:
        raise ValueError(
            f"LoRA's `target_modules` (--lora_target_modules) are {list(targets)}, but this "
            f"{language_model.config.model_type!r} language model has no linear layer {', '.join(missing)}. "
            f"Its linear layers: {', '.join(short_names(layer_names))}."
        )


def inject_lora(language_model: PreTrainedModel, lora: dict[str, Any]) -> None:
    """Inject LoRA layers into the language model, in place.

    Args:
        language_model: of any dtype, its layers offloaded or not; the LoRA matrices A and B stay in float32.
        lora: keyword arguments of `peft.LoraConfig`; without `target_modules`, the architecture's default.

    Raises:
        ValueError: the language model does not have the layers.
    """
    peft = import_peft()
    targets = lora.get("target_modules")
    if targets is None:
        targets = default_lora_targets(language_model)
    check_lora_targets(language_model, targets)
    peft.inject_adapter_in_model(peft.LoraConfig(**{**lora, "target_modules": targets}), language_model)
    place_lora_of_offloaded_layers(language_model, lora)
    for name, module in language_model.named_modules():
        if "lora_" in name:
            module.float()
            module._is_hf_initialized = True  # so post_init keeps peft's values, with no effect yet


def place_lora_of_offloaded_layers(language_model: PreTrainedModel, lora: dict[str, Any]) -> None:
    """Create the matrices of offloaded layers, which peft leaves on the meta device, where their layer computes.

    Raises:
        ValueError: this kind of LoRA reads the layer's own weights, which are not in memory.
    """
    lora_layer = import_peft().tuners.lora.LoraLayer
    for layer in language_model.modules():
        if not isinstance(layer, lora_layer) or not layer.get_base_layer().weight.is_meta:
            continue
        with in_memory(layer.get_base_layer()):
            device = layer.get_base_layer().weight.device
        if device.type == "meta":  # the whole model is still to be loaded
            return
        unsupported = sorted(set(lora) - set(OFFLOADABLE_FIELDS.split()))
        if unsupported:
            raise ValueError(
                f"LoRA with {', '.join(unsupported)} does not work for layers that `device_map` offloads to CPU or "
                "disk. Load the model without offloading."
            )
        for name in layer.adapter_layer_names:
            getattr(layer, name).to_empty(device=device)
        layer.reset_lora_parameters("default", init_lora_weights=True)
