"""Logits in float32: they are the float32 product of the last hidden states, scaled as the model scales them."""

import threading

import peft
import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from modeling_egmf import EGMFForConditionalGeneration
from modeling_egmf.precision_egmf import float32_linear, float32_logits
from tests.helpers.tensor_memory import TensorMemory


SIZES = {
    "vocab_size": 96,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "pad_token_id": 0,
}
# What each of these models does with the product of the last hidden states and the output layer.
ARCHITECTURES = {
    "llama": ({}, lambda logits: logits),
    "qwen2": ({"tie_word_embeddings": True}, lambda logits: logits),
    "granite": ({"logits_scaling": 4.0}, lambda logits: logits / 4.0),
    "cohere": ({"logit_scale": 0.25}, lambda logits: logits * 0.25),
    "gemma2": ({"final_logit_softcapping": 2.0}, lambda logits: torch.tanh(logits / 2.0) * 2.0),
}
IDS = torch.arange(1, 9).view(2, 4)


def make_causal_lm(name, dtype=torch.bfloat16):
    fields, _ = ARCHITECTURES[name]
    torch.manual_seed(0)
    config = AutoConfig.for_model(name, **{**SIZES, **fields}, initializer_range=0.3)
    return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


def float32_product(model, ids):
    """Last hidden states, as the model has them, times the output layer in float32."""
    states = []
    output_layer = model.get_output_embeddings()
    hook = output_layer.register_forward_pre_hook(lambda _, inputs: states.append(inputs[0]))
    model(ids)
    hook.remove()
    with torch.autocast("cpu", enabled=False):
        return states[0].float() @ output_layer.weight.float().T


@torch.no_grad()
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_logits_are_float32_and_scaled(name, monkeypatch):
    monkeypatch.setattr("modeling_egmf.precision_egmf.CPU_CHUNK_ELEMENTS", 16 * 36)  # 36, 36 and 24 tokens
    model = make_causal_lm(name)
    expected = ARCHITECTURES[name][1](float32_product(model, IDS))
    with float32_logits(model):
        logits = model(IDS).logits
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    assert model(IDS).logits.dtype == torch.bfloat16


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_does_not_round_the_logits(dtype):
    model = make_causal_lm("llama", torch.float32)
    with torch.autocast("cpu", dtype):
        expected = float32_product(model, IDS)
        with float32_logits(model):
            logits = model(IDS).logits
        assert model(IDS).logits.dtype == dtype
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    assert (logits != logits.to(dtype)).any()


@torch.no_grad()
def test_float32_models_are_unchanged():
    model = make_causal_lm("llama", torch.float32)
    expected = model(IDS).logits
    with float32_logits(model):
        assert torch.equal(model(IDS).logits, expected)


def test_bias_is_added():
    layer = nn.Linear(8, 20, dtype=torch.bfloat16)
    states = torch.randn(2, 3, 8).bfloat16()
    expected = nn.functional.linear(states.float(), layer.weight.float(), layer.bias.float())
    with torch.no_grad():
        torch.testing.assert_close(float32_linear(states, layer.weight, layer.bias), expected)


class QuantizedTensor(torch.Tensor):
    """Stands for the tensor subclasses in which libraries keep quantized weights."""


@torch.no_grad()
def test_weights_of_other_types_keep_their_computation():
    model = make_causal_lm("llama")
    layer = model.get_output_embeddings()
    layer.weight = nn.Parameter(layer.weight.detach().as_subclass(QuantizedTensor))
    with float32_logits(model):
        assert model(IDS).logits.dtype == torch.bfloat16


@torch.no_grad()
def test_adapter_of_the_output_layer_is_added():
    model = make_causal_lm("llama")
    states = torch.randn(4, 16).bfloat16()
    expected = float32_linear(states, model.lm_head.weight, None)
    model.add_adapter(peft.LoraConfig(r=2, target_modules=["lm_head"], init_lora_weights=False))
    adapter = model.lm_head
    delta = states.float() @ adapter.get_delta_weight("default").float().T
    with float32_logits(model):
        logits = adapter(states)
    assert delta.abs().max() > 0.1
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, expected + delta, atol=0.05, rtol=0.05)
    assert (logits != logits.bfloat16()).float().mean() > 0.9


def test_whole_weight_is_never_copied(monkeypatch):
    monkeypatch.setattr("modeling_egmf.precision_egmf.CPU_CHUNK_ELEMENTS", 16)
    copied = []
    copy = torch.Tensor.float

    def record(tensor):
        copied.append(tensor.numel())
        return copy(tensor)

    monkeypatch.setattr(torch.Tensor, "float", record)
    float32_linear(torch.randn(1, 8), torch.randn(7, 8).bfloat16(), None)
    assert copied == [8, 16, 16, 16, 8]


@pytest.mark.parametrize("bias", [False, True])
def test_logits_are_in_memory_once(monkeypatch, bias):
    monkeypatch.setattr("modeling_egmf.precision_egmf.CPU_CHUNK_ELEMENTS", 8 * 64)
    layer = nn.Linear(8, 1024, bias=bias, dtype=torch.bfloat16).requires_grad_(False)
    states = torch.randn(32, 8).bfloat16()
    with TensorMemory() as memory:
        logits = float32_linear(states, layer.weight, layer.bias)
    assert memory.peak < 1.2 * logits.nbytes


def test_gradients_are_those_of_the_whole_product(monkeypatch):
    monkeypatch.setattr("modeling_egmf.precision_egmf.CPU_CHUNK_ELEMENTS", 8 * 7)
    layer = nn.Linear(8, 20, dtype=torch.bfloat16)
    states = torch.randn(2, 3, 8).bfloat16().requires_grad_()
    whole = nn.functional.linear(states.float(), layer.weight.float(), layer.bias.float())
    inputs = (states, layer.weight, layer.bias)
    expected = torch.autograd.grad(whole.square().sum(), inputs)
    gradients = torch.autograd.grad(float32_linear(*inputs).square().sum(), inputs)
    torch.testing.assert_close(gradients, expected)


@torch.no_grad()
def test_other_threads_are_left_alone():
    model = make_causal_lm("llama")
    dtypes = {}
    inside = threading.Barrier(2)

    def score():
        with float32_logits(model):
            inside.wait()
            dtypes["scoring"] = model(IDS).logits.dtype
            inside.wait()

    thread = threading.Thread(target=score)
    thread.start()
    inside.wait()
    dtypes["other"] = model(IDS).logits.dtype
    with float32_logits(model):
        dtypes["both"] = model(IDS).logits.dtype
        inside.wait()
        thread.join()
        dtypes["after the other"] = model(IDS).logits.dtype
    float32 = torch.float32
    assert dtypes == {"scoring": float32, "other": torch.bfloat16, "both": float32, "after the other": float32}


@torch.no_grad()
def test_errors_leave_nothing_behind():
    model = make_causal_lm("llama")
    output_layer = model.get_output_embeddings()
    with pytest.raises(RuntimeError), float32_logits(model):
        output_layer(torch.randn(1, 5).bfloat16())  # 5 instead of 16
    assert model(IDS).logits.dtype == torch.bfloat16


def test_answers_are_scored_with_float32_logits(make_model, make_processor, make_samples, process):
    model = make_model(dtype=torch.bfloat16)
    dtypes = []
    model.language_model.register_forward_hook(lambda _model, _inputs, output: dtypes.append(output.logits.dtype))
    inputs = process(make_processor(), make_samples(3))
    model.score_answers(**inputs)
    assert dtypes == [torch.float32, torch.float32]  # prompts, then inner nodes


@pytest.fixture
def default_dtype():
    """`default_dtype(dtype)` sets torch's, until the end of the test."""
    before = torch.get_default_dtype()
    yield torch.set_default_dtype
    torch.set_default_dtype(before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_torchs_default_dtype_changes_no_answer(
    make_model, make_processor, make_samples, process, default_dtype, dtype
):
    """As code for other language models sets it: sums over answers' tokens were rounded to it."""
    model = make_model("features", "features")
    processor = make_processor("features", "features")
    samples = make_samples(3, "features", "features")
    before = model.score_answers(**process(processor, samples, task="sentiment"))
    default_dtype(dtype)
    after = model.score_answers(**process(processor, samples, task="sentiment"))
    torch.testing.assert_close(before.probabilities, after.probabilities, atol=1e-5, rtol=0)
    assert after.log_probs.dtype == torch.float32


@pytest.mark.parametrize("kind", ["adapter", "standalone"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_checkpoint_is_loaded_alike_under_another_default_dtype(request, default_dtype, kind, dtype):
    folder, model, inputs = request.getfixturevalue(kind)
    default_dtype(dtype)
    loaded = EGMFForConditionalGeneration.from_pretrained(folder)
    assert {weight.dtype for weight in loaded.state_dict().values()} == {torch.float32}
    expected = model.score_answers(**inputs).probabilities
    torch.testing.assert_close(loaded.score_answers(**inputs).probabilities, expected, atol=1e-5, rtol=0)


def test_labels_of_32_bits(make_model, make_processor, make_samples, process):
    model = make_model("features", "features")
    inputs = process(make_processor("features", "features"), make_samples(2), task="emotion", answer=["joy", "fear"])
    losses = [model(**{**inputs, "labels": inputs["labels"].to(dtype)}).loss for dtype in (torch.int64, torch.int32)]
    assert losses[0] == losses[1]
