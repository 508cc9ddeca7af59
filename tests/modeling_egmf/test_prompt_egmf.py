"""Pseudo tokens against plain loops, and their place in the prompt."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from modeling_egmf.prompt_egmf import (
    EGMFPseudoTokens,
    check_masks,
    hide_switched_off_text,
    make_position_ids,
    transcript_columns,
)
from tests.helpers.model_inputs import assert_close, media_of


@pytest.mark.parametrize("projection", ["repeat", "separate"])
def test_pseudo_tokens_equal_loops(make_config, enliven, projection):
    torch.manual_seed(0)
    module = enliven(EGMFPseudoTokens(make_config(pseudo_token_projection=projection)))
    enhanced = torch.randn(2, 16)
    actual = module(enhanced)
    assert actual.shape == (2, 3, 32)
    for i, vector in enumerate(enhanced):
        centered = vector - vector.mean()
        deviation = (centered.square().mean() + module.norm.eps).sqrt()
        normed = centered / deviation * module.norm.weight + module.norm.bias
        for p in range(3):
            rows = slice(0, 32) if projection == "repeat" else slice(32 * p, 32 * (p + 1))
            projected = module.projection.weight[rows] @ normed + module.projection.bias[rows]
            expected = module.scale * projected
            assert_close(actual[i, p], expected)


@pytest.mark.parametrize("convert", [torch.Tensor.numpy, torch.Tensor.tolist], ids=["array", "list"])
@pytest.mark.parametrize("method", ["score_answers", "forward", "generate"])
def test_arrays_and_lists_are_refused_by_name(setting, process, method, convert):
    model, processor, samples = setting()
    inputs = dict(process(processor, samples))
    del inputs["task_ids"]
    if method != "score_answers":
        del inputs["answer_ids"]
    settings = {"max_new_tokens": 1} if method == "generate" else {}
    getattr(model, method)(**inputs, **settings)
    for name in inputs:
        with pytest.raises(TypeError, match=rf'`{name}` is a (ndarray|list), not a tensor.*return_tensors="pt"'):
            getattr(model, method)(**{**inputs, name: convert(inputs[name])}, **settings)


@pytest.mark.parametrize(("projection", "distinct"), [("repeat", 1), ("separate", 3)])
def test_repeat_repeats_and_separate_does_not(
    make_config,
    enliven,
    projection,
    distinct,
):
    module = enliven(EGMFPseudoTokens(make_config(pseudo_token_projection=projection)))
    assert len(module(torch.randn(1, 16))[0].unique(dim=0)) == distinct


def test_calibrated_pseudo_tokens_are_as_long_as_embeddings(setting, process):
    model, processor, samples = setting(lively=False)
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(0.03)
    model.calibrate_pseudo_tokens()
    inputs = process(processor, samples)
    _, fusion = model.embed_prompt(inputs["input_ids"], inputs["utterance_mask"], **media_of(inputs))
    embedding_norm = model.get_input_embeddings().weight.norm(dim=-1).mean()
    ratio = fusion.pseudo_tokens.norm(dim=-1).mean() / embedding_norm
    assert 0.5 < ratio < 2


def test_only_placeholders_are_replaced(setting, process):
    model, processor, samples = setting()
    inputs = process(processor, samples)
    media = media_of(inputs)
    embeds, fusion = model.embed_prompt(inputs["input_ids"], inputs["utterance_mask"], **media)
    placeholders = inputs["input_ids"] == processor.placeholder_token_id
    assert torch.equal(embeds[placeholders].view(3, 3, 32), fusion.pseudo_tokens)
    others = inputs["input_ids"][~placeholders]
    assert torch.equal(embeds[~placeholders], model.get_input_embeddings()(others))


def test_cutting_the_prompt_around_the_transcript_changes_nothing(setting, process):
    model, processor, samples = setting()
    inputs = process(processor, samples)
    media = media_of(inputs)
    _, fusion = model.embed_prompt(inputs["input_ids"], inputs["utterance_mask"], **media)
    input_ids = inputs["input_ids"].clamp(max=model.config.text_config.vocab_size - 1)
    embeds = model.get_input_embeddings()(input_ids)
    uncut = model.egmf(embeds, inputs["utterance_mask"], **media)
    assert_close(uncut.pseudo_tokens, fusion.pseudo_tokens)


@pytest.mark.parametrize("change", [-1, 1])
def test_wrong_number_of_placeholders_names_the_sample(setting, process, change):
    model, processor, samples = setting()
    inputs = process(processor, samples)
    placeholders = torch.where(inputs["input_ids"][1] == processor.placeholder_token_id)[0]
    place = placeholders[-1] if change < 0 else placeholders[-1] + 1
    inputs["input_ids"][1, place] = 5 if change < 0 else processor.placeholder_token_id
    with pytest.raises(ValueError, match=rf"Sample \[1\] .* has \[{3 + change}\] .*, not 3"):
        model(**inputs)


def test_placeholder_id_must_be_set(setting, process):
    model, processor, samples = setting()
    model.config.placeholder_token_id = None
    with pytest.raises(ValueError, match="`config.placeholder_token_id` is not set"):
        model(**process(processor, samples))


def test_utterance_mask_is_required(setting, process):
    model, processor, samples = setting()
    inputs = process(processor, samples)
    del inputs["utterance_mask"]
    with pytest.raises(ValueError, match=r"`utterance_mask` is missing; give all that processor\(text=...\) returns"):
        model(**inputs)
    placeholders = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    with pytest.raises(ValueError, match="contains token .*Give all that the checkpoint's own processor"):
        model.generate(**placeholders)
    with pytest.raises(ValueError, match=r"`input_ids` is missing; give all that processor\(text=...\) returns"):
        model()
    with pytest.raises(ValueError, match=r"keeps its vocabulary: leave resize_token_embeddings\(\) out"):
        model.resize_token_embeddings(len(processor.tokenizer))


@pytest.mark.parametrize("name", ["input_ids", "attention_mask", "utterance_mask", "answer_ids"])
def test_missing_inputs_are_named(setting, process, name):
    """`generate` calls `forward` without an `attention_mask` if there is no padding."""
    model, processor, samples = setting()
    inputs = dict(process(processor, samples))
    del inputs["task_ids"]
    message = rf"`{name}` is missing; give all that processor\(text=...\) returns"
    with pytest.raises(ValueError, match=message):
        model.score_answers(**{**inputs, name: None})
    del inputs["answer_ids"]
    if name in ("attention_mask", "utterance_mask"):
        with pytest.raises(ValueError, match=message):
            model.generate(**{**inputs, name: None})
    if name in ("input_ids", "utterance_mask"):
        with pytest.raises(ValueError, match=message):
            model(**{**inputs, name: None})


def test_prompts_that_are_padded_on_the_right_are_refused(setting, process):
    """Their answers would follow padding."""
    model, processor, samples = setting()
    inputs = dict(process(processor, samples))
    del inputs["task_ids"]
    lengths = inputs["attention_mask"].sum(dim=1).tolist()
    for name in ("input_ids", "attention_mask", "utterance_mask", "text_mask"):
        inputs[name] = torch.stack([row.roll(length) for row, length in zip(inputs[name], lengths, strict=True)])
    answer_ids = inputs.pop("answer_ids")
    message = "`attention_mask` has values other than 0 and 1, or padding on the right"
    with pytest.raises(ValueError, match=message):
        model.score_answers(**inputs, answer_ids=answer_ids)
    with pytest.raises(ValueError, match=message):
        model.generate(**inputs)


def test_sample_without_padding_needs_no_attention_mask(setting, process):
    model, processor, samples = setting()
    inputs = dict(process(processor, samples[:1]))
    del inputs["answer_ids"], inputs["task_ids"]
    without_mask = {**inputs, "attention_mask": None}
    assert_close(model(**without_mask).logits, model(**inputs).logits)
    options = {"max_new_tokens": 3, "num_beams": 2}
    assert torch.equal(model.generate(**without_mask, **options), model.generate(**inputs, **options))
    with pytest.raises(ValueError, match="No prompt"):
        model.generate(**{**inputs, "input_ids": None})


def test_placeholders_are_counted_per_sample(make_model):
    model = make_model(num_pseudo_tokens=2, placeholder_token_id=9)
    input_ids = torch.tensor([[7, 9, 9], [9, 7, 9]])
    assert model.get_placeholder_mask(input_ids).tolist() == [[False, True, True], [True, False, True]]
    message = r"Sample \[0, 1\] of the batch has \[3, 1\] placeholders \(token 9\), not 2\. Give `input_ids`"
    with pytest.raises(ValueError, match=message):
        model.get_placeholder_mask(torch.tensor([[9, 9, 9], [9, 7, 7]]))  # four in all, as there should be


@pytest.mark.parametrize(
    ("utterance_mask", "expected"),
    [
        ([[0, 1, 1, 0], [0, 0, 1, 0]], slice(1, 3)),
        ([[1, 0, 0, 0], [0, 0, 0, 1]], slice(0, 4)),
        ([[0, 0, 0, 0], [0, 0, 0, 0]], slice(0, 1)),
    ],
)
def test_transcript_columns_cover_every_sample(utterance_mask, expected):
    assert transcript_columns(torch.tensor(utterance_mask)) == expected


def test_switched_off_text_is_hidden():
    attention_mask = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]])
    utterance_mask = torch.tensor([[0, 0, 1], [0, 1, 0]])  # one token was generated since
    text_mask = torch.tensor([[0, 1, 1], [0, 1, 0]])
    modality_mask = torch.tensor([[0, 1, 1], [1, 1, 1]])
    hidden = hide_switched_off_text(attention_mask, utterance_mask, text_mask, modality_mask)
    assert hidden.tolist() == [[0, 0, 0, 1], [1, 1, 1, 1]]
    transcript_only = hide_switched_off_text(attention_mask, utterance_mask, None, modality_mask)
    assert transcript_only.tolist() == [[0, 1, 0, 1], [1, 1, 1, 1]]
    without_padding = hide_switched_off_text(None, utterance_mask, text_mask, modality_mask)
    assert without_padding.tolist() == [[1, 0, 0], [1, 1, 1]]
    tree_mask = torch.zeros(2, 1, 4, 4)
    assert hide_switched_off_text(tree_mask, utterance_mask, text_mask, modality_mask) is tree_mask
    assert hide_switched_off_text(attention_mask, utterance_mask, text_mask, None) is attention_mask


def test_positions_start_at_the_first_real_token():
    attention_mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    assert make_position_ids(attention_mask, 4).tolist() == [[0, 0, 0, 1], [0, 1, 2, 3]]
    assert make_position_ids(attention_mask, 1).tolist() == [[1], [3]]
    assert make_position_ids(None, 4) is None


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("input_ids", lambda ids: ids.where(ids > 5, 10**6), "contains token 1000000; the language model has"),
        ("input_ids", lambda ids: ids.where(ids > 5, -1), "contains token -1; the language model has"),
        ("input_ids", lambda ids: ids.float(), "has type torch.float32; give whole numbers"),
        ("input_ids", lambda ids: ids[0], r"has shape \(\d+,\); give \(samples, tokens\)"),
        ("attention_mask", lambda mask: mask[:, 1:], "Give all that the processor returned"),
        ("modality_mask", lambda mask: mask[:, :1], r"has shape \(3, 1\), not \(3, 3\)"),
        ("text_mask", lambda mask: mask[0], r"has shape \(\d+,\), not \(3, \d+\), for `input_ids`"),
        ("attention_mask", lambda mask: -100 * mask, "values other than 0 and 1"),
        ("utterance_mask", lambda mask: 2 * mask, "values other than 0 and 1"),
        ("audio_values", lambda values: None, "and `audio_mask` go together"),
        ("audio_mask", lambda mask: mask[0], "as the processor returns them"),
        ("audio_values", lambda values: values[..., None], "`audio_mask`"),
    ],
)
def test_inputs_that_do_not_belong_together_are_refused(setting, process, name, change, message):
    model, processor, samples = setting("waveform", "frames")
    inputs = process(processor, samples)
    inputs[name] = change(inputs[name])
    with pytest.raises(ValueError, match=f"`{name}`.*{message}"):
        model.score_answers(**inputs)


def test_media_in_float64_are_read_in_float32(setting, process):
    model, processor, samples = setting("waveform", "frames")
    inputs = process(processor, samples)
    expected = model.score_answers(**inputs).probabilities
    for name in ("audio_values", "video_values"):
        inputs[name] = inputs[name].double()
    assert torch.equal(model.score_answers(**inputs).probabilities, expected)


def test_masks_are_checked_in_one_look_at_the_device():
    class CountLooks(TorchDispatchMode):
        looks = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.looks += func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.equal.default)
            return func(*args, **kwargs or {})

    masks = {name: torch.ones(2, 3, dtype=torch.long) for name in ("attention_mask", "text_mask", "modality_mask")}
    with CountLooks() as counter:
        check_masks(torch.ones(2, 3, dtype=torch.long), **masks)
    assert counter.looks == 0  # besides `tolist`, which copies all results at once


@pytest.mark.parametrize("name", ["text_mask", "utterance_mask", "modality_mask"])
def test_forward_generate_and_embed_prompt_refuse_masks_of_another_shape(setting, process, name):
    model, processor, samples = setting("waveform", "frames")
    inputs = process(processor, samples)
    for each in ("answer_ids", "task_ids"):
        del inputs[each]
    inputs[name] = inputs[name][:, 1:]
    prompt = {key: value for key, value in inputs.items() if key != "attention_mask"}
    for method, given in ((model, inputs), (model.generate, inputs), (model.embed_prompt, prompt)):
        with pytest.raises(ValueError, match=f"`{name}` has shape .*Give all that the processor returned"):
            method(**given)


@pytest.mark.parametrize("name", ["audio_values", "video_values"])
@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_input_that_is_not_finite_is_named(setting, process, labeled, name, number):
    """Also in training, where it would turn all weights into NaN, and in `generate`, which would write anything."""
    model, processor, samples = setting("waveform", "frames")
    inputs = process(processor, samples)
    example = labeled("waveform", "frames")
    for each in (inputs, example):
        each[name][1, 0] = number
    prompt = {key: value for key, value in inputs.items() if key not in ("answer_ids", "task_ids")}
    message = rf"`{name}` of sample \[1\] of the batch has NaN or infinity"
    for method, given in ((model.score_answers, inputs), (model.generate, prompt)):
        with pytest.raises(ValueError, match=message):
            method(**given)
    with pytest.raises(ValueError, match=message):
        model.train()(**example)
    inputs["modality_mask"][1, 1 if name == "audio_values" else 2] = 0
    assert model.eval().score_answers(**inputs).probabilities.isfinite().all()


@pytest.mark.parametrize("count", [1, 2, 6])
def test_answers_of_another_number_of_samples_are_refused(setting, process, count):
    model, processor, samples = setting()
    inputs = process(processor, samples)
    answer_ids = inputs.pop("answer_ids")
    with pytest.raises(ValueError, match=rf"`answer_ids` has shape \({count}, .*give \(samples, answers, tokens\)"):
        model.score_answers(**inputs, answer_ids=answer_ids.repeat(2, 1, 1)[:count])


def test_inputs_in_a_dict_and_empty_prompts_are_refused(setting, process):
    model, processor, samples = setting()
    inputs = process(processor, samples)
    for method in (model, model.generate):
        with pytest.raises(TypeError, match="`input_ids` is a EGMFBatch, not a tensor"):
            method(inputs)
        with pytest.raises(ValueError, match="`input_ids` is missing"):
            method(torch.zeros(1, 0, dtype=torch.long))
