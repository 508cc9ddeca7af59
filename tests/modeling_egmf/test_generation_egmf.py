"""`generate` in groups of equal length, and its refusals."""

import pytest
import torch
from transformers import GenerationConfig

from tests.helpers.tiny_tokenizer import train_tokenizer
from training.model.backbones.decoders import build_model, make_inputs
from training.model.backbones.small_configs import build_small_model, small_config


GREEDY = {"max_new_tokens": 6, "do_sample": False}


@pytest.fixture(scope="module")
def lfm2():
    return build_model(build_small_model(small_config("lfm2")))


@pytest.fixture(scope="module")
def llama():
    return build_model(build_small_model(small_config("llama")))


def single(inputs, sample):
    return {name: value[sample : sample + 1] for name, value in inputs.items()}


def test_texts_of_different_lengths_are_padded_after_their_end(lfm2):
    inputs = make_inputs(lfm2)
    # The second token of the first sample ends all texts in which it occurs.
    end = int(lfm2.generate(**single(inputs, 0), **GREEDY)[0, inputs["input_ids"].shape[1] + 1])
    together = lfm2.generate(**inputs, **GREEDY, eos_token_id=end, pad_token_id=99)
    assert torch.equal(together[:, : inputs["input_ids"].shape[1]], inputs["input_ids"])
    lengths = set()
    for sample, sequence in enumerate(together):
        alone = lfm2.generate(**single(inputs, sample), **GREEDY, eos_token_id=end, pad_token_id=99)[0]
        assert sequence[: len(alone)].tolist() == alone.tolist()
        assert (sequence[len(alone) :] == 99).all()
        lengths.add(len(alone))
    assert len(lengths) > 1


@pytest.mark.parametrize("arguments", [{"num_beams": 3}, {"num_beams": 2, "num_return_sequences": 2}])
def test_beams_in_groups_equal_single(lfm2, arguments):
    inputs = make_inputs(lfm2)
    together = lfm2.generate(**inputs, **GREEDY, min_new_tokens=6, **arguments)
    num_sequences = arguments.get("num_return_sequences", 1)
    for sample in range(len(inputs["input_ids"])):
        alone = lfm2.generate(**single(inputs, sample), **GREEDY, min_new_tokens=6, **arguments)
        of_sample = together[sample * num_sequences : (sample + 1) * num_sequences]
        assert torch.equal(of_sample[:, -6:], alone[:, -6:])


@pytest.mark.parametrize(
    "arguments", [{"return_dict_in_generate": True}, {"streamer": object()}, {"prefix_allowed_tokens_fn": len}]
)
def test_what_cannot_be_grouped_is_refused(lfm2, arguments):
    name = next(iter(arguments))
    with pytest.raises(ValueError, match=rf"'lfm2'.*`{name}` does not support.*one sample at a time"):
        lfm2.generate(**make_inputs(lfm2), **GREEDY, **arguments)


def test_one_sample_gives_a_dict(lfm2):
    output = lfm2.generate(**single(make_inputs(lfm2), 0), **GREEDY, return_dict_in_generate=True)
    assert output.sequences.shape == (1, 27)


def test_cache_of_a_model_without_one_is_refused():
    model = build_model(build_small_model(small_config("mamba")))
    with pytest.raises(ValueError, match=r"'mamba'.*without a cache: leave out `cache_implementation`"):
        model.generate(**make_inputs(model), **GREEDY, cache_implementation="static")


def test_static_cache_of_a_sliding_model():
    model = build_model(build_small_model(small_config("mistral")))
    inputs = make_inputs(model)
    expected = model.generate(**inputs, **GREEDY, min_new_tokens=6)
    inputs = {name: value[:3] for name, value in inputs.items()}  # without hidden text in the middle
    assert torch.equal(
        model.generate(**inputs, **GREEDY, min_new_tokens=6, cache_implementation="static"), expected[:3]
    )


def test_switched_off_text_needs_the_mask(llama):
    inputs = single(make_inputs(llama), 0)
    expected = llama.generate(**inputs, **GREEDY)
    del inputs["attention_mask"]
    assert torch.equal(llama.generate(**inputs, **GREEDY), expected)
    inputs["modality_mask"][:, 0] = 0
    with pytest.raises(ValueError, match="Text is switched off: give the processor's `attention_mask`"):
        llama.generate(**inputs, **GREEDY)


# ---- typos ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        ("__call__", TypeError, r"'audio_value'. Did you mean `audio_values`\?"),
        ("score_answers", TypeError, r"^score_answers\(\) got .* 'audio_value'. Did you mean `audio_values`\?"),
        ("generate", TypeError, r"^generate\(\) got .* 'audio_value'. Did you mean `audio_values`\?"),
    ],
)
def test_typo_is_an_error(llama, call, error, message):
    inputs = make_inputs(llama)
    inputs["audio_value"] = inputs.pop("audio_values")
    if call == "score_answers":
        inputs["answer_ids"] = torch.tensor([[[5], [6]]]).expand(4, -1, -1)
    with pytest.raises(error, match=message):
        getattr(llama, call)(**inputs)


@pytest.mark.parametrize(
    "arguments",
    [{"output_hidden_states": True}, {"output_attentions": True}, {"return_dict": True}, {"use_cache": False}],
)
def test_arguments_of_the_language_model_pass(llama, arguments):
    assert llama(**make_inputs(llama), **arguments).logits.isfinite().all()


@pytest.mark.parametrize("name", ["max_new_token", "max_tokens"])
def test_typo_of_a_generation_option(llama, name):
    message = rf"^generate\(\) got an unexpected keyword argument '{name}'. Did you mean `max_new_tokens`\?"
    with pytest.raises(TypeError, match=message):
        llama.generate(**make_inputs(llama), **{name: 3})


@pytest.mark.parametrize(
    "settings",
    [{"assistant_early_exit": 1}, {"prefill_chunk_size": 4}, {"encoder_repetition_penalty": 1.3}],
)
def test_settings_that_would_lose_the_pseudo_tokens_are_refused(llama, settings):
    message = f"`{next(iter(settings))}` does not work with EGMF: leave it out"
    with pytest.raises(ValueError, match=message):
        llama.generate(**make_inputs(llama), **settings)
    with pytest.raises(ValueError, match=message):
        llama.generate(**make_inputs(llama), generation_config=GenerationConfig(**settings))


def test_settings_without_effect_pass(llama):
    expected = llama.generate(**make_inputs(llama), **GREEDY)
    config = GenerationConfig(**GREEDY, encoder_repetition_penalty=1.0)
    assert torch.equal(llama.generate(**make_inputs(llama), generation_config=config), expected)


def test_assistant_model_reads_only_plain_prompts(llama):
    with pytest.raises(ValueError, match="`assistant_model` does not work with EGMF"):
        llama.generate(**make_inputs(llama), assistant_model=llama.language_model)
    plain = {"input_ids": torch.tensor([[5, 6, 7]]), "attention_mask": torch.ones(1, 3, dtype=torch.long)}
    expected = llama.generate(**plain, **GREEDY)
    assert torch.equal(llama.generate(**plain, **GREEDY, assistant_model=llama.language_model), expected)


def test_stop_strings(llama):
    inputs = make_inputs(llama)
    tokenizer = train_tokenizer()
    expected = llama.generate(**inputs, **GREEDY)
    assert torch.equal(llama.generate(**inputs, **GREEDY, stop_strings=["never"], tokenizer=tokenizer), expected)
    every_letter = [chr(code) for code in range(256)]
    stopped = llama.generate(**inputs, **GREEDY, stop_strings=every_letter, tokenizer=tokenizer)
    assert stopped.shape[1] < expected.shape[1]


def test_a_model_in_training_generates(llama):
    inputs = {**make_inputs(llama), "answer_ids": torch.tensor([[[5], [6]]]).expand(4, -1, -1)}
    expected = llama.generate(**inputs, **GREEDY)
    llama.train()
    try:
        assert torch.equal(llama.generate(**inputs, **GREEDY), expected)
    finally:
        llama.eval()


def test_arguments_that_the_library_takes_from_keywords(llama):
    inputs = make_inputs(llama)
    expected = llama.generate(**inputs, **GREEDY)
    none = dict.fromkeys(("tokenizer", "assistant_tokenizer", "token_type_ids"))
    assert torch.equal(llama.generate(**inputs, **GREEDY, trust_remote_code=True, **none), expected)

    def stop_at_once(model, input_ids, flag=None, **kwargs):
        assert flag == 3
        return input_ids

    assert torch.equal(llama.generate(**inputs, custom_generate=stop_at_once, flag=3), inputs["input_ids"])
