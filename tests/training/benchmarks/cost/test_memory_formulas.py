"""Formulas of the memory estimate against the memory that a step really keeps and allocates."""

import pytest
import torch
from transformers import AutoModelForCausalLM, DynamicCache

from tests.helpers.tensor_memory import TensorMemory, kept_bytes
from training.benchmarks.cost.memory_formulas import (
    Batch,
    Precision,
    answering_activations,
    cache_per_token,
    four_bit_bytes,
    kept_per_token,
    smallest_gpu,
    text_shape,
    training_activations,
)
from training.benchmarks.cost.memory_model import adapters_of, meta_model, weight_bytes
from training.model.backbones import backbone_config
from training.options import ModelArguments


SIZE = 4
LENGTH = 96
LOGIT_TOKENS = 4
CPU_DROPOUT_BYTES = 4
# The paper's own, and one of each other architecture.
ARCHITECTURES = ("glm3-6b", "llama-3-8b", "qwen2.5-1.5b")


def of_every_architecture(*settings):
    """Cases of each architecture; with one of them, every other setting is tested in the quick suite too."""
    others = [
        pytest.param(name, *values, marks=pytest.mark.slow) for name in ARCHITECTURES[1:] for values in settings[2:]
    ]
    quick = [(name, *values) for name in ARCHITECTURES for values in settings[:2]]
    return [*quick, *((ARCHITECTURES[0], *values) for values in settings[2:]), *others]


def shape_of(model):
    return text_shape(model.config.text_config)


def precision_of(dtype, eager=False):
    return Precision(getattr(torch, dtype).itemsize, eager, CPU_DROPOUT_BYTES)


# ---- training -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backbone", "dtype", "attention"),
    of_every_architecture(
        ("float32", "sdpa"),
        ("bfloat16", "eager"),
        ("float32", "eager"),
        ("bfloat16", "sdpa"),
    ),
)
def test_formula_matches_the_memory_kept_by_a_step(make_text_model, make_text_batch, backbone, dtype, attention):
    """Within a fiftieth. The formula leaves out encoders and fusion, which are a hundredth of it here."""
    model, _ = make_text_model(backbone, dtype, attention, lora_dropout=0.1)
    inputs = make_text_batch(model, SIZE, LENGTH)
    kept = kept_bytes(lambda: model.train()(**inputs).loss, model)
    shape = shape_of(model)
    per_token = kept_per_token(shape, adapters_of(model), precision_of(dtype, attention == "eager"), LENGTH)
    expected = SIZE * (LENGTH * (per_token + 4 * shape.width) + 4 * LOGIT_TOKENS * shape.vocabulary)
    assert kept == pytest.approx(expected, rel=1 / 50)


def peak_of_a_step(model, inputs, checkpointing):
    """Bytes without the weights and their gradients, which exist from the start."""
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    with TensorMemory() as memory:
        model.train()(**inputs).loss.backward()
    return memory.peak


@pytest.mark.parametrize(
    ("backbone", "dtype", "checkpointing"),
    of_every_architecture(
        ("float32", False),
        ("bfloat16", True),
        ("float32", True),
        ("bfloat16", False),
    ),
)
def test_training_peak_is_within_a_fortieth(make_text_model, make_text_batch, backbone, dtype, checkpointing):
    model, _ = make_text_model(backbone, dtype, lora_dropout=0.1)
    batch = Batch(SIZE, LENGTH, LOGIT_TOKENS)
    expected = training_activations(shape_of(model), adapters_of(model), batch, precision_of(dtype), checkpointing)
    peak = peak_of_a_step(model, make_text_batch(model, SIZE, LENGTH), checkpointing)
    assert peak == pytest.approx(expected, rel=1 / 40)


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
def test_training_peak_of_the_demo_backbone(with_language_model, make_text_batch, checkpointing):
    """SmolLM2-135M in full size, with random weights in bfloat16."""
    text_config = backbone_config("smollm2-135m")
    arguments = ModelArguments(audio="none", video="none", fusion_hidden_size=8, lora_r=8)
    on_meta = meta_model(arguments, text_config)
    language_model = AutoModelForCausalLM.from_config(text_config, dtype=torch.bfloat16)
    model = with_language_model(language_model, on_meta.config)
    tensors = (*model.parameters(), *model.buffers())
    assert sum(weight_bytes(on_meta).values()) == sum(value.nbytes for value in tensors)
    batch = Batch(SIZE, LENGTH, LOGIT_TOKENS)
    precision = precision_of("bfloat16")
    expected = training_activations(text_shape(text_config), adapters_of(on_meta), batch, precision, checkpointing)
    peak = peak_of_a_step(model, make_text_batch(model, SIZE, LENGTH), checkpointing)
    assert peak == pytest.approx(expected, rel=1 / 40)


# ---- answering ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("backbone", ARCHITECTURES)
def test_prefill_peak_is_within_a_sixth(make_text_model, make_text_batch, backbone, dtype):
    """The formula assumes gate and up in one matrix; two matrices need a little less."""
    model, _ = make_text_model(backbone, dtype)
    inputs = make_text_batch(model, SIZE, LENGTH, num_labels=0)
    with torch.no_grad(), TensorMemory() as memory:
        output = model.eval()(**inputs, use_cache=True, logits_to_keep=1)
    precision = precision_of(dtype)
    cache = SIZE * LENGTH * cache_per_token(shape_of(model), precision.itemsize)
    expected = cache + answering_activations(shape_of(model), Batch(SIZE, LENGTH, 1), precision)
    assert memory.peak == pytest.approx(expected, rel=1 / 6)
    assert output.logits.shape[1] == 1


def test_cache_bytes_match_a_real_cache(make_text_model):
    model, _ = make_text_model("qwen2.5-1.5b", "bfloat16")
    cache = DynamicCache(config=model.config.text_config)
    with torch.no_grad():
        model.language_model(torch.ones(SIZE, LENGTH, dtype=torch.long), past_key_values=cache, use_cache=True)
    num_bytes = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert num_bytes == SIZE * LENGTH * cache_per_token(shape_of(model), 2)


def test_cache_of_glm3():
    assert cache_per_token(text_shape(backbone_config("glm3-6b")), 2) == 28_672


# ---- 4-bit weights and GPUs -----------------------------------------------------------------------------------


@pytest.mark.parametrize("double_quantization", [False, True])
@pytest.mark.parametrize("shape", [(256, 192), (100, 52), (640, 640)])
def test_four_bit_bytes_match_bitsandbytes(shape, double_quantization):
    bitsandbytes = pytest.importorskip("bitsandbytes")
    weight = bitsandbytes.nn.Params4bit(
        torch.randn(shape), requires_grad=False, quant_type="nf4", compress_statistics=double_quantization
    ).to("cpu")
    state = weight.quant_state
    tensors = [weight, state.absmax, state.code]
    if double_quantization:
        tensors += [state.offset, state.state2.absmax, state.state2.code]
    num_weights = weight.numel() * 2  # two in a byte
    assert sum(value.nbytes for value in tensors) == four_bit_bytes(num_weights, double_quantization)


def test_four_bit_by_hand():
    assert four_bit_bytes(64 * 256, False) == 64 * 128 + 4 * 256 + 64
    assert four_bit_bytes(64 * 256, True) == 64 * 128 + 256 + 4 + 1028 + 64
    assert four_bit_bytes(65, False) == 33 + 8 + 64


def test_smallest_gpu():
    assert smallest_gpu(0) == 16
    assert smallest_gpu(0.93 * 16 * 2**30) == 16
    assert smallest_gpu(0.93 * 16 * 2**30 + 1) == 24
    assert [smallest_gpu(n * 2**30) for n in (22, 23, 37, 38, 45, 75)] == [24, 40, 40, 48, 80, 141]
    assert smallest_gpu(132 * 2**30) is None
