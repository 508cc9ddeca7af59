"""One language model of each kind: answers, losses and texts of a batch equal those of each sample alone.

All kinds are tried by tests/training/model/test_decoders.py, which is slow.
"""

import pytest
import torch

from tests.helpers.decoder_reference import answer_loss, answer_probabilities, greedy_tokens, prompt_embeds
from training.model.backbones.decoders import build_model, make_inputs
from training.model.backbones.small_configs import build_small_model, small_config


ANSWERS = [[5], [6, 7], [6, 8, 9], [6, 8, 10]]
LABEL = [6, 8]
NUM_NEW_TOKENS = 2
KINDS = {
    "plain": ("llama", {}),
    "positions from 2": ("opt", {}),
    "narrow embeddings": ("opt", {"word_embed_proj_dim": 16}),
    "learned positions": ("gpt2", {}),
    "sinusoidal positions": ("xglm", {}),
    "experts": ("mixtral", {}),
    "experts with a loss": ("mixtral", {"output_router_logits": True}),
    "latent attention": ("deepseek_v3", {}),
    "sparse attention": ("deepseek_v32", {}),
    "sliding": ("mistral", {}),
    "sliding and full": ("gemma3_text", {}),
    "a window of one token": ("gemma3_text", {"sliding_window": 1}),
    "soft caps": ("gemma2", {}),
    "two head sizes": ("gemma4_text", {}),
    "sinks": ("gpt_oss", {}),
    "local layers": ("gpt_neo", {}),
    "chunked": ("llama4_text", {}),
    "alibi": ("bloom", {}),
    "alibi by column": ("mpt", {}),
    "alibi as an option": ("falcon", {"alibi": True}),
    "positions by column": ("bart", {}),
    "convolutions": ("lfm2", {}),
    "convolutions only": ("lfm2", {"layer_types": ["conv", "conv"]}),
    "linear attention": ("qwen3_5_text", {}),
    "linear attention and experts": ("qwen3_next", {}),
    "mamba": ("mamba", {}),
    "mamba2": ("mamba2", {}),
    "mamba and attention": ("jamba", {}),
    "mamba2 and attention": ("bamba", {}),
    "shared attention": ("zamba", {}),
    "recurrent and sliding": ("recurrent_gemma", {}),
    "rwkv": ("rwkv", {}),
    "xlstm": ("xlstm", {}),
}


def build(model_type, fields):
    return build_model(build_small_model(small_config(model_type, **fields)))


SLOW_KINDS = {
    "sparse attention",
    "sinks",
    "two head sizes",
    "alibi by column",
    "linear attention and experts",
    "mamba2 and attention",
    "recurrent and sliding",
}


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.slow if kind in SLOW_KINDS else ()) for kind in KINDS]
)
def test_batch_equals_each_sample_alone(kind):
    model = build(*KINDS[kind])
    inputs = make_inputs(model)
    num_samples = len(inputs["input_ids"])
    alone = [prompt_embeds(model, inputs, sample).detach() for sample in range(num_samples)]

    answer_ids = torch.tensor([answer + [-1] * (3 - len(answer)) for answer in ANSWERS]).expand(num_samples, -1, -1)
    actual = model.score_answers(**inputs, answer_ids=answer_ids).log_probs
    with torch.no_grad():
        expected = torch.stack([answer_probabilities(model, embeds, ANSWERS) for embeds in alone]).log()
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=0)
    assert (expected[0] - expected[1]).abs().max() > 0.1  # the prompt matters

    labeled = make_inputs(model, tuple(LABEL))
    labels = torch.full_like(labeled["input_ids"], -100)
    labels[:, -len(LABEL) :] = torch.tensor(LABEL)
    with torch.no_grad():
        loss = model(**labeled, labels=labels).loss
        expected = torch.stack([answer_loss(model, embeds, LABEL) for embeds in alone]).mean()
    torch.testing.assert_close(loss, expected, atol=1e-4, rtol=1e-4)

    text = model.generate(**inputs, max_new_tokens=NUM_NEW_TOKENS, min_new_tokens=NUM_NEW_TOKENS, do_sample=False)
    with torch.no_grad():
        expected = [greedy_tokens(model, embeds, NUM_NEW_TOKENS) for embeds in alone]
    assert text[:, -NUM_NEW_TOKENS:].tolist() == expected
    assert torch.equal(text[:, :-NUM_NEW_TOKENS], inputs["input_ids"])


LONG_ROPE = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
CHANGING_POSITIONS = {
    "dynamic": {"max_position_embeddings": 16, "rope_parameters": {"rope_type": "dynamic", "factor": 4.0}},
    "longrope": {"rope_parameters": {**LONG_ROPE, "original_max_position_embeddings": 16}},
}


@pytest.mark.parametrize("kind", CHANGING_POSITIONS)
def test_positions_that_change_with_the_length_are_refused(kind):
    """The cache would hold other positions than those of a longer prompt, and a batch those of its longest sample."""
    model = build("llama", CHANGING_POSITIONS[kind])
    inputs = make_inputs(model)  # up to 21 tokens
    answer_ids = torch.tensor([answer + [-1] * (3 - len(answer)) for answer in ANSWERS])
    calls = {
        "score_answers": lambda: model.score_answers(**inputs, answer_ids=answer_ids.expand(4, -1, -1)),
        "forward": lambda: model(**inputs),
        "generate": lambda: model.generate(**inputs, max_new_tokens=1),
    }
    for call in calls.values():
        with pytest.raises(ValueError, match=r"positions change after 16 tokens\. Lower max_length"):
            call()
    short = {name: value[2:3] for name, value in make_inputs(model).items()}  # 13 tokens
    short = {name: value[:, -13:] if value.shape[1] == 21 else value for name, value in short.items()}
    embeds = prompt_embeds(model, short, 0).detach()
    with torch.no_grad():
        expected = answer_probabilities(model, embeds, ANSWERS)
    actual = model.score_answers(**short, answer_ids=answer_ids[None]).probabilities[0]
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("model_type", ["lfm2", "mistral"])
def test_bfloat16_batch_equals_single(model_type):
    model = build(model_type, {})
    model.language_model.bfloat16()
    inputs = make_inputs(model)
    answer_ids = torch.tensor([answer + [-1] * (3 - len(answer)) for answer in ANSWERS]).expand(4, -1, -1)
    together = model.score_answers(**inputs, answer_ids=answer_ids).probabilities
    for sample in range(4):
        one = {name: value[sample : sample + 1] for name, value in inputs.items()}
        single = model.score_answers(**one, answer_ids=answer_ids[:1]).probabilities
        torch.testing.assert_close(together[sample], single[0], atol=0.02, rtol=0)


def test_gradients_of_a_padded_batch_equal_those_of_single_samples():
    model = build("lfm2", {})
    labeled = make_inputs(model, tuple(LABEL))
    labels = torch.full_like(labeled["input_ids"], -100)
    labels[:, -len(LABEL) :] = torch.tensor(LABEL)
    model(**labeled, labels=labels).loss.backward()
    parameter = model.egmf.pseudo_tokens.projection.weight
    together = parameter.grad.clone()
    parameter.grad = None
    inputs = make_inputs(model)
    alone = [answer_loss(model, prompt_embeds(model, inputs, sample), LABEL) for sample in range(4)]
    torch.stack(alone).mean().backward()
    assert together.abs().max() > 1e-4
    torch.testing.assert_close(together, parameter.grad, atol=1e-5, rtol=1e-4)
