"""Workload of the GPU benchmark: its model and batches, and its count of operations against torch's own."""

import argparse

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from training.benchmarks.cost.gpu_work import NUM_LABELS, bare_inputs, build_model, make_batch, training_flops


def make_arguments(**changes):
    arguments = argparse.Namespace(
        shape="tiny",
        device="cpu",
        dtype="float32",
        media="features",
        lora_r=8,
        length=40,
        words=6,
        answer_tokens=3,
        gradient_checkpointing=False,
    )
    for name, value in changes.items():
        setattr(arguments, name, value)
    return arguments


@pytest.fixture
def model():
    return build_model(make_arguments())


def test_flops_match_the_count_of_torch(model):
    """Only the language model is counted; encoders and fusion are left out of both counts."""
    batch = make_batch(model, 2, make_arguments(), labeled=True)
    prompt = {name: value for name, value in batch.items() if name not in ("labels", "attention_mask")}
    embeds, _ = model.train().embed_prompt(**prompt)
    embeds = embeds.detach().requires_grad_()
    model.language_model.set_attn_implementation("eager")  # the fused one is not counted on a CPU
    with FlopCounterMode(display=False) as counter:
        output = model.language_model(inputs_embeds=embeds, use_cache=False, logits_to_keep=torch.arange(36, 40))
        output.logits.sum().backward()
    rotary = 0.01 * counter.get_total_flops()
    assert training_flops(model, 2, 40, 4) == pytest.approx(counter.get_total_flops(), abs=rotary)


def test_labeled_batch_is_valid_for_training(model):
    batch = make_batch(model, 3, make_arguments(), labeled=True)
    assert ((batch["labels"] != -100).sum(dim=1) == 3).all()
    placeholders = model.get_placeholder_mask(batch["input_ids"])
    assert (placeholders.sum(dim=1) == model.config.num_pseudo_tokens).all()


def test_unlabeled_batch_is_valid_for_score_answers(model):
    batch = make_batch(model, 3, make_arguments(), labeled=False)
    assert model.eval().score_answers(**batch).probabilities.shape == (3, NUM_LABELS)
    bare = bare_inputs(model, batch)
    assert bare["input_ids"].shape == batch["input_ids"].shape
    assert bare["input_ids"].max() < model.config.text_config.vocab_size


def test_full_shape_matches_the_paper():
    """The model that a GPU would build, on the meta device."""
    model = build_model(make_arguments(shape="glm3-6b", device="meta", dtype="bfloat16"))
    text_config = model.config.text_config
    assert (text_config.num_hidden_layers, text_config.hidden_size, text_config.vocab_size) == (28, 4096, 65024)
    parameters = model.language_model.named_parameters()
    num_weights = sum(parameter.numel() for name, parameter in parameters if "lora_" not in name)
    assert 6.2e9 < num_weights < 6.3e9
    assert model.language_model.dtype == torch.bfloat16
