"""Memory estimate: exact bytes of weights, gradients, optimizer and cache, and the peaks with activations.

Next: `memory_formulas.py` has the activations of the language model, `memory_model.py` counts everything else.
"""

from typing import Any

from transformers import PreTrainedConfig

from modeling_egmf import EGMFForConditionalGeneration

from ...options import ModelArguments
from ...records import versions
from .memory_formulas import (
    CONTEXT_BYTES,
    Batch,
    Precision,
    answering_activations,
    cache_per_token,
    smallest_gpu,
    text_shape,
    training_activations,
)
from .memory_model import (
    Load,
    adapters_of,
    egmf_activations,
    meta_model,
    parameters_by_part,
    quantized_layers,
    saved_in_four_bit,
    weight_bytes,
)


ADAM_STATES = 2


def estimate(
    arguments: ModelArguments, text_config: PreTrainedConfig, load: Load, double_quantization: bool = True
) -> dict[str, Any]:
    """The estimate as one record; `memory.render` shows it as a table.

    Args:
        arguments: options from which the model is built.
        text_config: configuration of the language model.
        load: the batch.
        double_quantization: quantize the scales of 4-bit weights as well.
    """
    model = meta_model(arguments, text_config)
    parameters = parameters_by_part(model)
    trainable = sum(counts["trainable"] for counts in parameters.values())
    total = sum(counts["total"] for counts in parameters.values())
    sizes = count_bytes(model, load, arguments, double_quantization)
    return {
        "batch": {**load.batch._asdict(), "seconds": load.seconds, "words": load.words},
        "dtype": dtype_name(model),
        "parameters": parameters,
        "trainable_share": trainable / total,
        "bytes": sizes,
        "peaks": peak_bytes(model, load.batch, precision_of(model, arguments), sizes),
        "versions": versions(),
    }


def precision_of(model: EGMFForConditionalGeneration, arguments: ModelArguments) -> Precision:
    is_eager = arguments.attn_implementation == "eager"
    return Precision(model.language_model.dtype.itemsize, is_eager)


def dtype_name(model: EGMFForConditionalGeneration) -> str:
    return str(model.language_model.dtype).removeprefix("torch.")


def count_bytes(
    model: EGMFForConditionalGeneration, load: Load, arguments: ModelArguments, double_quantization: bool
) -> dict[str, Any]:
    """Bytes of everything that training or answering holds."""
    batch = load.batch
    precision = precision_of(model, arguments)
    shape = text_shape(model.config.text_config)
    adapters = adapters_of(model)
    weights = weight_bytes(model)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients = sum(parameter.numel() * parameter.element_size() for parameter in trained)
    per_token = cache_per_token(shape, precision.itemsize)
    return {
        "weights": weights,
        "weights_4_bit": sum(weights.values()) - saved_in_four_bit(model, double_quantization),
        "gradients": gradients,
        "optimizer": ADAM_STATES * gradients,
        "activations": {
            "plain": training_activations(shape, adapters, batch, precision, checkpointing=False),
            "checkpointed": training_activations(shape, adapters, batch, precision, checkpointing=True),
            "encoders_and_fusion": batch.samples * egmf_activations(model.config, load, arguments.num_frames),
        },
        "cache_per_token": per_token,
        "cache": batch.samples * batch.length * per_token,
        "context": CONTEXT_BYTES,
    }


def peak_bytes(
    model: EGMFForConditionalGeneration, batch: Batch, precision: Precision, sizes: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """Peak bytes of a training step and of answering, with the weights in their own dtype and in 4 bits."""
    # A 4-bit matrix is unpacked when it is used.
    widest = max(layer.weight.numel() * precision.itemsize for layer in quantized_layers(model))
    stored = {
        dtype_name(model): sum(sizes["weights"].values()),
        "4-bit": sizes["weights_4_bit"] + widest,
    }
    activations = sizes["activations"]
    answering = answering_activations(text_shape(model.config.text_config), batch, precision)
    peaks: dict[str, dict[str, Any]] = {"training": {}, "answering": {}}
    for name, weights in stored.items():
        fixed = weights + CONTEXT_BYTES
        trained = fixed + sizes["gradients"] + sizes["optimizer"] + activations["encoders_and_fusion"]
        for way in ("plain", "checkpointed"):
            peaks["training"][f"{name}, {way}"] = _peak(trained + activations[way])
        peaks["answering"][name] = _peak(fixed + sizes["cache"] + answering)
    return peaks


def _peak(num_bytes: int) -> dict[str, Any]:
    return {"bytes": num_bytes, "gpu_gb": smallest_gpu(num_bytes)}
