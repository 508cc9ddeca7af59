"""The complete model: padding, batching and order, missing modalities, no idle part."""

import itertools

import peft
import pytest
import torch

from tests.helpers.model_inputs import INPUT_TYPES, MODALITIES, assert_close, keep_modalities, media_of


SUBSETS = [set(subset) for size in (1, 2, 3) for subset in itertools.combinations(MODALITIES, size)]


ANSWERS = ("answer_ids", "task_ids")


def subset_name(subset):
    return "+".join(modality for modality in MODALITIES if modality in subset)


MEDIA_CHANGES = {
    "features of another extractor": ("audio_values", lambda values: values[..., :5]),
    "features of whole numbers": ("audio_values", lambda values: values.long()),
    "features without samples": ("audio_values", lambda values: values[0]),
    "features of fewer samples": ("audio_values", lambda values: values[:1]),
    "mask of fewer steps": ("audio_mask", lambda mask: mask[:, 1:]),
    "frames of another size": ("video_values", lambda values: values[..., :8]),
    "channels last": ("video_values", lambda values: values.permute(0, 1, 3, 4, 2)),
    "bytes": ("video_values", lambda values: (values * 255).byte()),
    "complex numbers": ("video_values", lambda values: values.to(torch.complex64)),
    "one frame": ("video_values", lambda values: values[:, 0]),
}


@pytest.mark.parametrize("kind", MEDIA_CHANGES)
def test_wrong_shape_or_type_of_media_is_refused(setting, process, kind):
    name, change = MEDIA_CHANGES[kind]
    model, processor, samples = setting("features", "frames")
    inputs = process(processor, samples)
    inputs[name] = change(inputs[name])
    wanted = r"3, steps, 6" if name.startswith("audio") else r"3, steps, 3, 16, 16"
    message = rf"^`{name[:5]}_values` has shape \(.*\) and type torch.*`{name[:5]}_mask` .* Give floats \({wanted}\)"
    with pytest.raises(ValueError, match=message):
        model(**inputs)
    if kind != "features of fewer samples":
        with pytest.raises(ValueError, match="Give floats"):
            getattr(model, f"get_{name[:5]}_features")(inputs[f"{name[:5]}_values"], inputs[f"{name[:5]}_mask"])


@pytest.mark.parametrize("change", ["fewer samples", "no samples", "whole numbers"])
def test_waveform_of_a_wrong_shape_or_type_is_refused(setting, process, change):
    model, processor, samples = setting("waveform", None)
    inputs = process(processor, samples)
    values = inputs["audio_values"]
    changed = {"fewer samples": values[:1], "no samples": values[0], "whole numbers": values.short()}[change]
    with pytest.raises(ValueError, match=r"^`audio_values` has shape .* Give floats \(3, steps\) and their mask"):
        model.score_answers(**{**inputs, "audio_values": changed})


def test_what_is_not_read_beside_embeddings_is_refused(setting, process):
    """Media and transcript were left out without a word."""
    model, processor, samples = setting()
    inputs = process(processor, samples)
    embeds, _ = model.embed_prompt(**{k: v for k, v in inputs.items() if k not in ("attention_mask", *ANSWERS)})
    message = r"^`inputs_embeds` replaces input_ids and all media: give one of them"
    with pytest.raises(ValueError, match=message):
        model(**inputs, inputs_embeds=embeds)
    with pytest.raises(ValueError, match=message):
        model(input_ids=inputs["input_ids"], inputs_embeds=embeds)
    mask = inputs["attention_mask"]
    with pytest.raises(ValueError, match="^`inputs_embeds` replaces audio_values and all media"):
        model(inputs_embeds=embeds, attention_mask=mask, audio_values=inputs["audio_values"])
    assert_close(model(inputs_embeds=embeds, attention_mask=mask).logits[:, -1], model(**inputs).logits[:, -1])


@pytest.mark.parametrize(
    ("change", "given"),
    [
        (lambda labels: labels[:, 1:], r"shape \(3, \d+\) and type torch.int64"),
        (lambda labels: labels[:1], r"shape \(1, \d+\) and type torch.int64"),
        (lambda labels: labels.float(), r"shape \(3, \d+\) and type torch.float32"),
    ],
)
def test_labels_of_another_shape_or_type_are_refused(setting, process, change, given):
    model, processor, samples = setting()
    inputs = process(processor, samples, answer=["joy", "anger", "fear"])
    inputs["labels"] = change(inputs["labels"])
    with pytest.raises(ValueError, match=rf"^`labels` has {given}; give whole numbers of shape \(3, \d+\)"):
        model.train()(**inputs)


@pytest.mark.parametrize("value", [-1, 1.5, "all"])
def test_number_of_logits_that_cannot_be_is_refused(setting, process, value):
    """-1 left out the first column."""
    model, processor, samples = setting()
    with pytest.raises(ValueError, match=f"^`logits_to_keep` is {value!r}; give a number of columns"):
        model(**process(processor, samples), logits_to_keep=value)


@pytest.mark.parametrize("kind", ["prompts", "examples", "examples to be scored"])
def test_output_as_a_tuple(setting, process, labeled, kind):
    model, processor, samples = setting()
    prompts = dict(process(processor, samples))
    inputs = dict(labeled())
    if kind == "prompts":
        inputs = {name: value for name, value in prompts.items() if name != "answer_ids"}
    if kind == "examples to be scored":
        inputs["answer_ids"] = prompts["answer_ids"]
    expected = model(**inputs).to_tuple()
    actual = model(**inputs, return_dict=False)
    assert isinstance(actual, tuple)
    assert len(actual) == len(expected)
    assert torch.equal(actual[0], expected[0])


def test_expert_fields_are_filled_on_demand(setting, process):
    model, processor, samples = setting()
    inputs = process(processor, samples)
    assert model(**inputs).expert_weights is None
    output = model(**inputs, output_experts=True)
    assert output.fused.shape == (3, 16)
    assert_close(output.expert_weights.sum(dim=1), torch.ones(3))


def test_batch_of_one(setting, process):
    model, processor, samples = setting()
    output = model.score_answers(**process(processor, samples[:1]))
    assert output.probabilities.shape == (1, 7)
    assert output.expert_weights.shape == (1, 3)


@pytest.mark.parametrize(("audio", "video"), [("features", None), (None, "frames"), (None, None)])
def test_models_without_a_modality(setting, process, audio, video):
    model, processor, samples = setting(audio, video)
    output = model.score_answers(**process(processor, samples))
    assert output.modality_mask.tolist() == [[True, audio is not None, video is not None]] * 3
    assert torch.isfinite(output.probabilities).all()


@pytest.mark.parametrize(("audio", "video"), INPUT_TYPES)
def test_media_features_are_the_tokens_of_the_fusion(
    make_model,
    media_batch,
    audio,
    video,
):
    model = make_model(audio, video)
    media = media_batch(audio, video)
    media["video_mask"][1] = False
    tokens, mask = model.egmf.audio_visual_encoder(torch.ones(3, 2, dtype=torch.bool), **media)
    audio_features = model.get_audio_features(media["audio_values"], media["audio_mask"])
    video_features = model.get_video_features(media["video_values"], media["video_mask"])
    assert mask.tolist() == [[True, True], [True, False], [True, True]]
    assert torch.equal(audio_features, tokens[:, 0])
    assert torch.equal(video_features, tokens[:, 1])
    assert not video_features[1].any()


# ---- padding, batching, order -------------------------------------------------------------------------------


@pytest.mark.parametrize(("audio", "video"), INPUT_TYPES)
def test_batch_equals_single(setting, scores, audio, video):
    model, processor, samples = setting(audio, video)
    together = scores(model, processor, samples)
    assert together.std(dim=0).max() > 0.01  # the samples differ
    for i, sample in enumerate(samples):
        assert_close(together[i], scores(model, processor, [sample])[0])


def test_order_of_the_batch_changes_nothing(setting, scores):
    model, processor, samples = setting()
    assert_close(scores(model, processor, samples[::-1]), scores(model, processor, samples).flip(0))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_more_left_padding_changes_nothing(setting, process, attention):
    model, processor, samples = setting()
    model.language_model.set_attn_implementation(attention)
    inputs = process(processor, samples)
    expected = model.score_answers(**inputs).probabilities
    for name, filler in (("input_ids", 7), ("attention_mask", 0), ("utterance_mask", 0), ("text_mask", 0)):
        inputs[name] = torch.cat([torch.full((3, 11), filler), inputs[name]], dim=1)
    assert_close(model.score_answers(**inputs).probabilities, expected)


@pytest.mark.parametrize(("audio", "video"), INPUT_TYPES)
def test_more_media_padding_changes_nothing(setting, process, audio, video):
    model, processor, samples = setting(audio, video)
    inputs = process(processor, samples)
    expected = model.score_answers(**inputs).probabilities
    for modality, extra in (("audio", 501 if audio == "waveform" else 4), ("video", 3)):
        values = inputs[f"{modality}_values"]
        mask = inputs[f"{modality}_mask"]
        values = torch.cat([values, torch.zeros(3, extra, *values.shape[2:])], dim=1)
        mask = torch.cat([mask, torch.zeros(3, extra, dtype=torch.bool)], dim=1)
        values[~mask] = -3.0
        inputs[f"{modality}_values"] = values
        inputs[f"{modality}_mask"] = mask
    assert_close(model.score_answers(**inputs).probabilities, expected)


def test_eager_and_sdpa_agree(setting, process):
    model, processor, samples = setting()
    inputs = process(processor, samples)
    real = inputs["attention_mask"].bool()
    results = {}
    for attention in ("eager", "sdpa"):
        model.language_model.set_attn_implementation(attention)
        results[attention] = model(**inputs).logits[real]
    torch.testing.assert_close(results["eager"], results["sdpa"], atol=1e-4, rtol=0)


def test_logits_equal_the_plain_language_model(setting, process):
    model, processor, samples = setting()
    inputs = process(processor, samples[:1])
    media = media_of(inputs)
    embeds, _ = model.embed_prompt(inputs["input_ids"], inputs["utterance_mask"], **media)
    assert_close(model(**inputs).logits, model.language_model(inputs_embeds=embeds).logits)


def test_tokens_of_the_tokenizer_alone_are_a_call_of_the_language_model(setting):
    model, processor, _ = setting()
    tokens = processor.tokenizer("I'm fine.", return_tensors="pt")
    labels = tokens["input_ids"]
    expected = model.language_model(**tokens, labels=labels)
    output = model(**tokens)
    assert torch.equal(output.logits, expected.logits)
    assert_close(model(**tokens, labels=labels).loss, expected.loss)
    assert output.pseudo_tokens is None
    greedy = {"max_new_tokens": 4, "do_sample": False}
    assert torch.equal(model.generate(**tokens, **greedy), model.language_model.generate(**tokens, **greedy))
    # A part of the processor's tensors is refused, even where the embedding matrix has room for the placeholder.
    model.config.placeholder_token_id = int(labels.max())
    with pytest.raises(ValueError, match="Give all that the checkpoint's own processor returns"):
        model(**tokens)


# ---- modalities ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("audio", "video"), INPUT_TYPES)
def test_every_subset_in_one_batch_equals_single(
    setting,
    make_samples,
    scores,
    process,
    audio,
    video,
):
    model, processor, _ = setting(audio, video)
    samples = [
        keep_modalities(sample, subset) for sample, subset in zip(make_samples(7, audio, video), SUBSETS, strict=True)
    ]
    output = model.score_answers(**process(processor, samples))
    assert output.modality_mask.tolist() == [[m in subset for m in MODALITIES] for subset in SUBSETS]
    for i, sample in enumerate(samples):
        assert_close(output.probabilities[i], scores(model, processor, [sample])[0])


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("subset", SUBSETS, ids=subset_name)
def test_switching_off_equals_leaving_out(
    make_model,
    media_batch,
    subset,
    bidirectional,
):
    egmf = make_model(bidirectional_attention=bidirectional).egmf
    embeds = torch.randn(3, 6, 32)
    utterance_mask = torch.ones(3, 6)
    media = media_batch()
    switches = torch.tensor([[m in subset for m in MODALITIES]] * 3)
    off = egmf(embeds, utterance_mask, **media, modality_mask=switches)
    kept = {name: value for name, value in media.items() if name[:5] in subset}
    out = egmf(embeds, utterance_mask * ("text" in subset), **kept)
    assert_close(off.pseudo_tokens, out.pseudo_tokens)
    assert torch.equal(off.modality_mask, switches)


@pytest.mark.parametrize("modality", ["audio", "video"])
def test_modality_mask_equals_leaving_out_of_the_prompt(
    setting,
    process,
    scores,
    modality,
):
    model, processor, samples = setting()
    inputs = process(processor, samples)
    inputs["modality_mask"][:, MODALITIES.index(modality)] = False
    without = [keep_modalities(sample, set(MODALITIES) - {modality}) for sample in samples]
    assert_close(model.score_answers(**inputs).probabilities, scores(model, processor, without))


@torch.no_grad()
def test_slots_of_other_tasks_change_nothing(make_model, make_processor, make_samples, scores):
    fields = {"pseudo_token_projection": "separate"}
    model = make_model(**fields)
    processor = make_processor(task_slots={"emotion": [0, 2]})
    samples = make_samples(2)
    before = scores(model, processor, samples)
    projection = model.egmf.pseudo_tokens.projection
    projection.weight.unflatten(0, (3, -1))[1] += 1
    assert torch.equal(scores(model, processor, samples), before)
    projection.weight.unflatten(0, (3, -1))[2] += 1
    assert not torch.allclose(scores(model, processor, samples), before, atol=1e-3)


@pytest.mark.parametrize("in_prompt", [True, False])
def test_switched_off_text_takes_the_earlier_turns_with_it(
    make_model, make_processor, make_samples, process, in_prompt
):
    """By the mask, as if neither had been in the prompt, whatever the words: scores and loss."""
    model = make_model()
    processor = make_processor(transcript_in_prompt=in_prompt)
    samples = make_samples(2)
    context = [["He left.", ("Ann", "Hi.")], ["No!"]]
    without = [keep_modalities(sample, {"audio", "video"}) for sample in samples]

    inputs = process(processor, samples, context=context)
    read = model.score_answers(**inputs)
    inputs["modality_mask"][:, 0] = False
    output = model.score_answers(**inputs)
    assert_close(output.probabilities, model.score_answers(**process(processor, without)).probabilities)
    assert output.modality_mask.tolist() == [[False, True, True]] * 2
    assert not torch.allclose(output.probabilities, read.probabilities, atol=1e-3)

    labeled = process(processor, samples, context=context, answer=["joy", "fear"])
    labeled["modality_mask"][:, 0] = False
    assert_close(model(**labeled).loss, model(**process(processor, without, answer=["joy", "fear"])).loss)


def test_earlier_turns_without_a_transcript_are_text_that_was_read(setting, process):
    model, processor, samples = setting()
    without_text = [keep_modalities(sample, {"audio"}) for sample in samples[:2]]
    inputs = process(processor, without_text, context=[["He left."], None])
    output = model.score_answers(**inputs)
    assert output.modality_mask.tolist() == [[True, True, False], [False, True, False]]
    alone = model.score_answers(**process(processor, without_text[:1], context=[["He left."]], modalities=[["text"]]))
    assert alone.modality_mask.tolist() == [[True, False, False]]
    assert alone.probabilities.isfinite().all()


def test_switched_off_text_changes_nothing(setting, process):
    model, processor, samples = setting()
    inputs = process(processor, samples)
    inputs["modality_mask"][:, 0] = False
    expected = model.score_answers(**inputs).probabilities
    inputs["input_ids"][inputs["utterance_mask"].bool()] = 9  # other tokens, just as many
    assert_close(model.score_answers(**inputs).probabilities, expected)


@pytest.mark.parametrize(("audio", "video"), INPUT_TYPES)
@pytest.mark.parametrize("modality", ["audio", "video"])
def test_content_of_absent_media_never_matters(
    setting,
    process,
    audio,
    video,
    modality,
):
    model, processor, samples = setting(audio, video)
    inputs = process(processor, samples)
    inputs["modality_mask"][1, MODALITIES.index(modality)] = False
    expected = model.score_answers(**inputs).probabilities
    inputs[f"{modality}_values"][1] = 1e4
    assert_close(model.score_answers(**inputs).probabilities, expected)


def test_sample_without_any_modality_is_named(setting, process):
    model, processor, samples = setting()
    inputs = process(processor, samples)
    inputs["modality_mask"][2] = False
    with pytest.raises(ValueError, match=r"Sample \[2\] of the batch has neither text nor audio nor video"):
        model(**inputs)


@pytest.mark.parametrize("modality", MODALITIES)
def test_each_modality_moves_the_pseudo_tokens(make_model, media_batch, modality):
    egmf = make_model().egmf
    embeds = torch.randn(3, 6, 32)
    media = media_batch()
    switches = torch.ones(3, 3)
    every = egmf(embeds, torch.ones(3, 6), **media, modality_mask=switches).pseudo_tokens
    switches[:, MODALITIES.index(modality)] = 0
    fewer = egmf(embeds, torch.ones(3, 6), **media, modality_mask=switches).pseudo_tokens
    assert (every - fewer).abs().amax(dim=(1, 2)).min() > 1e-3


@pytest.mark.parametrize("modality", MODALITIES)
def test_each_modality_moves_the_logits(setting, scores, modality):
    model, processor, samples = setting()
    without = [keep_modalities(sample, set(MODALITIES) - {modality}) for sample in samples]
    moved = scores(model, processor, without) - scores(model, processor, samples)
    assert moved.abs().max() > 1e-3


@pytest.mark.parametrize(
    "name",
    [
        "experts.gate.feature_gate.2.bias",
        "experts.gate.context_gate.2.bias",
        "experts.gate.residual_gate.bias",
        "experts.experts.0.up.weight",
        "experts.experts.1.up.weight",
        "experts.experts.2.up.weight",
        "pseudo_tokens.scale",
        "fusion.cross_attention.value.weight",
        "fusion.self_attention.value.weight",
        "audio_visual_encoder.modality_embeds",
    ],
)
def test_no_part_is_idle(setting, process, name):
    model, processor, samples = setting()
    inputs = process(processor, samples)
    before = model(**inputs, logits_to_keep=1).logits
    parameter = model.egmf.get_parameter(name)
    with torch.no_grad():
        parameter.add_(torch.linspace(-2, 2, parameter.numel()).view_as(parameter) + 0.5)
    assert (model(**inputs, logits_to_keep=1).logits - before).abs().max() > 1e-3


@pytest.mark.parametrize("part", ["language_model", "egmf"])
def test_wrapped_parts_are_refused(make_model, part):
    """A wrapper hides the arguments of the language model, which would be left out, and renames the weights."""
    model = make_model()
    with pytest.raises(TypeError, match=rf"`{part}` is a OptimizedModule: use {part}\.compile\(\)"):
        setattr(model, part, torch.compile(getattr(model, part), backend="eager"))
    with pytest.raises(TypeError, match=r"`language_model` is a PeftModelForCausalLM: .* or model\.add_adapter\(\)"):
        model.language_model = peft.get_peft_model(model.language_model, peft.LoraConfig(r=2, task_type="CAUSAL_LM"))


@pytest.mark.slow
def test_a_compiled_model_gives_the_same(setting, process):
    """In parts, because inputs are checked between them."""
    model, processor, samples = setting()
    inputs = process(processor, samples)
    with_labels = process(processor, samples, answer=["joy", "anger", "fear"])
    compiled = torch.compile(model, backend="eager")
    assert_close(compiled(**inputs).logits, model(**inputs).logits)
    assert_close(compiled(**with_labels).loss, model(**with_labels).loss)
    expected = model.score_answers(**inputs).probabilities
    model.language_model.compile(backend="eager")
    assert_close(model.score_answers(**inputs).probabilities, expected)
