"""Free text: `generate` against full forwards without a cache, in batches, with beams, without the text."""

import numpy as np
import pytest
import torch

from modeling_egmf import EGMFForConditionalGeneration
from tests.helpers.model_inputs import INPUT_TYPES, media_of


STEPS = 5
GREEDY = {"max_new_tokens": STEPS, "min_new_tokens": STEPS, "do_sample": False}


load = EGMFForConditionalGeneration.from_pretrained


def new_tokens(model, inputs, **kwargs):
    return model.generate(**inputs, **{**GREEDY, **kwargs})[:, inputs["input_ids"].shape[1] :]


def greedy_by_hand(model, inputs):
    """Greedy decoding with a full forward pass per token, without a cache; the end marker is not allowed."""
    embeds, _ = model.embed_prompt(inputs["input_ids"], inputs["utterance_mask"], **media_of(inputs))
    results = []
    for _ in range(STEPS):
        logits = model.language_model(inputs_embeds=embeds, use_cache=False).logits[0, -1]
        logits[model.generation_config.eos_token_id] = -torch.inf
        results.append(int(logits.argmax()))
        embeds = torch.cat([embeds, model.get_input_embeddings().weight[None, results[-1:]]], dim=1)
    return results


@pytest.mark.parametrize(("audio", "video"), INPUT_TYPES)
@pytest.mark.parametrize("use_cache", [True, False])
@torch.no_grad()
def test_greedy_equals_full_forwards(setting, process, audio, video, use_cache):
    model, processor, samples = setting(audio, video)
    together = new_tokens(model, process(processor, samples), use_cache=use_cache).tolist()
    for i, sample in enumerate(samples):
        assert together[i] == greedy_by_hand(model, process(processor, [sample]))


def test_generation_in_a_batch_equals_single(setting, process):
    model, processor, samples = setting()
    together = new_tokens(model, process(processor, samples))
    for i, sample in enumerate(samples):
        assert torch.equal(together[i], new_tokens(model, process(processor, [sample]))[0])


@pytest.mark.parametrize("arguments", [{}, {"num_beams": 3}, {"do_sample": True}], ids=["greedy", "beam", "sample"])
def test_fusion_runs_once(setting, process, arguments):
    model, processor, samples = setting()
    calls = []
    model.egmf.register_forward_hook(lambda *_: calls.append(1))
    assert new_tokens(model, process(processor, samples), **arguments).shape == (3, STEPS)
    assert len(calls) == 1


def test_beams_in_a_batch_equal_single(setting, process):
    model, processor, samples = setting()
    together = new_tokens(model, process(processor, samples), num_beams=3)
    for i, sample in enumerate(samples):
        assert torch.equal(together[i], new_tokens(model, process(processor, [sample]), num_beams=3)[0])


@torch.no_grad()
def test_as_many_beams_as_tokens_find_the_likeliest_pair(setting, process):
    model, processor, samples = setting()
    inputs = process(processor, samples[:1])
    embeds, _ = model.embed_prompt(inputs["input_ids"], inputs["utterance_mask"], **media_of(inputs))
    table = model.get_input_embeddings().weight
    end = model.generation_config.eos_token_id
    pairs = torch.cat([embeds.expand(len(table), -1, -1), table[:, None]], dim=1)
    log_probs = torch.log_softmax(model.language_model(inputs_embeds=pairs).logits[:, -2:], dim=-1)
    score = log_probs[0, 0][:, None] + log_probs[:, 1]
    score[end, :] = -torch.inf
    score[:, end] = -torch.inf
    best = divmod(int(score.argmax()), len(table))
    actual = new_tokens(model, inputs, num_beams=len(table), max_new_tokens=2, min_new_tokens=2)
    assert actual[0].tolist() == list(best)


def test_static_cache_equals_dynamic(setting, process):
    model, processor, samples = setting()
    inputs = process(processor, samples)
    assert torch.equal(new_tokens(model, inputs, cache_implementation="static"), new_tokens(model, inputs))


@pytest.mark.parametrize("name", ["num_beams", "num_return_sequences", "max_new_tokens"])
@pytest.mark.parametrize("value", [0, -1, "2", 2.5])
def test_impossible_number_is_refused_by_name(setting, process, name, value):
    model, processor, samples = setting()
    with pytest.raises(ValueError, match=rf"`{name}` is {value!r}; give an integer, at least 1"):
        model.generate(**process(processor, samples), **{name: value})
    assert new_tokens(model, process(processor, samples), num_beams=np.int64(2)).shape == (3, STEPS)


@pytest.mark.parametrize("arguments", [{}, {"max_new_tokens": 3}, {"attention_mask": torch.ones(1, 4)}])
def test_text_without_a_prompt_is_refused(make_model, arguments):
    with pytest.raises(ValueError, match="No prompt: give all the processor returns"):
        make_model().generate(**arguments)


def test_a_prompt_with_its_answer_is_refused(setting, process):
    """The text after the answer was generated."""
    model, processor, samples = setting()
    with pytest.raises(ValueError, match="already contain an answer. Call the processor without `answer`"):
        model.generate(**process(processor, samples, answer=["joy", "anger", "fear"]), max_new_tokens=2)


@pytest.mark.parametrize("fields", [{}, {"max_new_tokens": 3}, "x", 5, []])
def test_settings_of_another_type_are_refused(setting, process, fields):
    model, processor, samples = setting()
    kind = type(fields).__name__
    with pytest.raises(TypeError, match=f"`generation_config` is a {kind}: give its fields"):
        model.generate(**process(processor, samples), generation_config=fields)


@pytest.mark.parametrize("kind", ["adapter", "standalone"])
def test_static_cache_of_a_loaded_model_hides_padding(request, kind):
    """`generate` makes its mask from `text_config`, which has to know the attention of the language model."""
    folder, _, inputs = request.getfixturevalue(kind)
    model = load(folder)
    assert model.config.text_config is model.language_model.config
    assert not inputs["attention_mask"].all()
    assert torch.equal(new_tokens(model, inputs, cache_implementation="static"), new_tokens(model, inputs))
    model.set_attn_implementation({"text_config": "eager"})
    assert model.language_model.config._attn_implementation == "eager"


@pytest.mark.parametrize(
    "arguments",
    [{}, {"use_cache": False}, {"cache_implementation": "static"}, {"num_beams": 3}],
    ids=["dynamic", "none", "static", "beams"],
)
def test_generation_ignores_switched_off_text(setting, process, arguments):
    model, processor, samples = setting()
    context = [["He left."], None, [("Ann", "Hi.")]]
    inputs = process(processor, samples, context=context)
    others = process(processor, samples, context=context)
    others["input_ids"][others["text_mask"].bool()] = 9  # other tokens, just as many
    assert not torch.equal(new_tokens(model, inputs, **arguments), new_tokens(model, others, **arguments))
    inputs["modality_mask"][:, 0] = others["modality_mask"][:, 0] = False
    assert torch.equal(new_tokens(model, inputs, **arguments), new_tokens(model, others, **arguments))


def test_media_change_the_generated_text(setting, process):
    model, processor, samples = setting()
    inputs = process(processor, samples)
    before = new_tokens(model, inputs)
    inputs["audio_values"] = -inputs["audio_values"]
    inputs["video_values"] = -inputs["video_values"]
    assert not torch.equal(new_tokens(model, inputs), before)
