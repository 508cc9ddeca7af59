"""The whole model: pseudo tokens, invariances, missing modalities, learning, generation."""

import itertools

import pytest
import torch

from modeling_egmf.prompt_egmf import EGMFPseudoTokens
from training.model.builder import calibrate_pseudo_tokens


MODALITIES = ("text", "audio", "video")
SUBSETS = [set(s) for n in (1, 2, 3) for s in itertools.combinations(MODALITIES, n)]
KINDS = [("features", "features"), ("waveform", "frames")]
SOURCES = {
    "audio": ("audio_features", "audio", "sampling_rate"),
    "video": ("video_features", "video", "fps"),
    "text": ("text",),
}


def only(sample, modalities):
    """The sample without its other modalities."""
    dropped = {name for modality in MODALITIES if modality not in modalities for name in SOURCES[modality]}
    return {name: value for name, value in sample.items() if name not in dropped}


def media_of(inputs):
    return {name: value for name, value in inputs.items() if name.startswith(("audio_", "video_"))}


def named(subset):
    return "+".join(m for m in MODALITIES if m in subset)


@pytest.fixture
def setting(make_model, make_processor, make_samples):
    """`setting(audio, video)` -> model, processor and three samples that fit each other."""

    def make(audio="features", video="features", **fields):
        return make_model(audio, video, **fields), make_processor(audio, video), make_samples(3, audio, video)

    return make


@pytest.fixture
def scores(process):
    """`scores(model, processor, samples)` -> (B, A) probabilities of one batch."""
    return lambda model, processor, samples: model.score_answers(**process(processor, samples)).probabilities


def close(found, expected):
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


# ---- pseudo tokens -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("projection", ["repeat", "separate"])
def test_pseudo_tokens_equal_loops(make_config, enliven, projection):
    torch.manual_seed(0)
    module = enliven(EGMFPseudoTokens(make_config(pseudo_token_projection=projection)))
    enhanced = torch.randn(2, 16)
    found = module(enhanced)
    assert found.shape == (2, 3, 32)
    for i, vector in enumerate(enhanced):
        centerd = vector - vector.mean()
        normed = centerd / (centerd.square().mean() + module.norm.eps).sqrt() * module.norm.weight + module.norm.bias
        for p in range(3):
            rows = slice(0, 32) if projection == "repeat" else slice(32 * p, 32 * (p + 1))
            expected = module.scale * (module.projection.weight[rows] @ normed + module.projection.bias[rows])
            close(found[i, p], expected)


@pytest.mark.parametrize(("projection", "distinct"), [("repeat", 1), ("separate", 3)])
def test_repeat_repeats_and_separate_does_not(make_config, enliven, projection, distinct):
    module = enliven(EGMFPseudoTokens(make_config(pseudo_token_projection=projection)))
    assert len(module(torch.randn(1, 16))[0].unique(dim=0)) == distinct


def test_calibrated_pseudo_tokens_are_as_long_as_words(setting, process):
    model, processor, samples = setting(lively=False)
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(0.03)
    calibrate_pseudo_tokens(model)
    inputs = process(processor, samples)
    _, fusion = model.embed_prompt(inputs["input_ids"], inputs["utterance_mask"], **media_of(inputs))
    ratio = fusion.pseudo_tokens.norm(dim=-1).mean() / model.get_input_embeddings().weight.norm(dim=-1).mean()
    assert 0.5 < ratio < 2


# ---- the prompt ----------------------------------------------------------------------------------------------


def test_only_placeholders_are_replaced(setting, process):
    model, processor, samples = setting()
    inputs = process(processor, samples)
    media = media_of(inputs)
    embeds, fusion = model.embed_prompt(inputs["input_ids"], inputs["utterance_mask"], **media)
    slots = inputs["input_ids"] == processor.placeholder_token_id
    assert torch.equal(embeds[slots].view(3, 3, 32), fusion.pseudo_tokens)
    assert torch.equal(embeds[~slots], model.get_input_embeddings()(inputs["input_ids"][~slots]))


def test_cutting_the_prompt_around_the_transcript_changes_nothing(setting, process):
    model, processor, samples = setting()
    inputs = process(processor, samples)
    media = media_of(inputs)
    _, fusion = model.embed_prompt(inputs["input_ids"], inputs["utterance_mask"], **media)
    embeds = model.get_input_embeddings()(inputs["input_ids"].clamp(max=model.config.text_config.vocab_size - 1))
    close(model.egmf(embeds, inputs["utterance_mask"], **media).pseudo_tokens, fusion.pseudo_tokens)


@pytest.mark.parametrize("change", [-1, 1])
def test_wrong_number_of_placeholders_names_the_sample(setting, process, change):
    model, processor, samples = setting()
    inputs = process(processor, samples)
    slots = torch.where(inputs["input_ids"][1] == processor.placeholder_token_id)[0]
    place = slots[-1] if change < 0 else slots[-1] + 1
    inputs["input_ids"][1, place] = 5 if change < 0 else processor.placeholder_token_id
    with pytest.raises(ValueError, match=rf"Sample \[1\] .* holds \[{3 + change}\] .*, not 3"):
        model(**inputs)


def test_placeholder_id_must_be_set(setting, process):
    model, processor, samples = setting()
    model.config.placeholder_token_id = None
    with pytest.raises(ValueError, match="`config.placeholder_token_id` is not set"):
        model(**process(processor, samples))


def test_utterance_mask_is_asked_for(setting, process):
    model, processor, samples = setting()
    inputs = process(processor, samples)
    del inputs["utterance_mask"]
    with pytest.raises(ValueError, match="`utterance_mask` is missing"):
        model(**inputs)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("audio_features", (4, 9), "9 wide but the model was built for 6"),
        ("video", None, "frames are .16, 24. pixels"),
    ],
)
def test_wrong_media_shape_is_refused(setting, process, name, shape, message):
    model, processor, samples = setting("features", "frames") if name == "video" else setting()
    inputs = process(processor, samples)
    if name == "video":
        inputs["video_values"] = torch.zeros(3, 4, 3, 16, 24)
    else:
        inputs["audio_values"] = torch.zeros(*inputs["audio_mask"].shape, 9)
    with pytest.raises(ValueError, match=message):
        model(**inputs)


# ---- padding, batching, order --------------------------------------------------------------------------------


@pytest.mark.parametrize(("audio", "video"), KINDS)
def test_batch_equals_single(setting, scores, audio, video):
    model, processor, samples = setting(audio, video)
    together = scores(model, processor, samples)
    assert together.std(dim=0).max() > 0.01  # the samples differ
    for i, sample in enumerate(samples):
        close(together[i], scores(model, processor, [sample])[0])


def test_order_of_the_batch_changes_nothing(setting, scores):
    model, processor, samples = setting()
    close(scores(model, processor, samples[::-1]), scores(model, processor, samples).flip(0))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_more_left_padding_changes_nothing(setting, process, attention):
    model, processor, samples = setting()
    model.language_model.set_attn_implementation(attention)
    inputs = process(processor, samples)
    expected = model.score_answers(**inputs).probabilities
    for name, filler in (("input_ids", 7), ("attention_mask", 0), ("utterance_mask", 0)):
        inputs[name] = torch.cat([torch.full((3, 11), filler), inputs[name]], dim=1)
    close(model.score_answers(**inputs).probabilities, expected)


@pytest.mark.parametrize(("audio", "video"), KINDS)
def test_more_media_padding_changes_nothing(setting, process, audio, video):
    model, processor, samples = setting(audio, video)
    inputs = process(processor, samples)
    expected = model.score_answers(**inputs).probabilities
    for modality, extra in (("audio", 501 if audio == "waveform" else 4), ("video", 3)):
        values, mask = inputs[f"{modality}_values"], inputs[f"{modality}_mask"]
        values = torch.cat([values, torch.zeros(3, extra, *values.shape[2:])], dim=1)
        mask = torch.cat([mask, torch.zeros(3, extra, dtype=torch.bool)], dim=1)
        values[~mask] = -3.0
        inputs[f"{modality}_values"], inputs[f"{modality}_mask"] = values, mask
    close(model.score_answers(**inputs).probabilities, expected)


def test_eager_and_sdpa_agree(setting, process):
    model, processor, samples = setting()
    inputs = process(processor, samples)
    real = inputs["attention_mask"].bool()
    found = {}
    for attention in ("eager", "sdpa"):
        model.language_model.set_attn_implementation(attention)
        found[attention] = model(**inputs).logits[real]
    torch.testing.assert_close(found["eager"], found["sdpa"], atol=1e-4, rtol=0)


def test_logits_equal_the_plain_language_model(setting, process):
    model, processor, samples = setting()
    inputs = process(processor, samples[:1])
    media = media_of(inputs)
    embeds, _ = model.embed_prompt(inputs["input_ids"], inputs["utterance_mask"], **media)
    close(model(**inputs).logits, model.language_model(inputs_embeds=embeds).logits)


# ---- modalities ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("audio", "video"), KINDS)
def test_every_subset_in_one_batch_equals_alone(setting, make_samples, scores, process, audio, video):
    model, processor, _ = setting(audio, video)
    samples = [only(sample, subset) for sample, subset in zip(make_samples(7, audio, video), SUBSETS, strict=True)]
    found = model.score_answers(**process(processor, samples))
    assert found.modality_mask.tolist() == [[m in subset for m in MODALITIES] for subset in SUBSETS]
    for i, sample in enumerate(samples):
        close(found.probabilities[i], scores(model, processor, [sample])[0])


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("subset", SUBSETS, ids=named)
def test_switching_off_equals_leaving_out(make_model, media_batch, subset, bidirectional):
    egmf = make_model(bidirectional_attention=bidirectional).egmf
    embeds, spoken, media = torch.randn(3, 6, 32), torch.ones(3, 6), media_batch()
    switches = torch.tensor([[m in subset for m in MODALITIES]] * 3)
    off = egmf(embeds, spoken, **media, modality_mask=switches)
    kept = {name: value for name, value in media.items() if name[:5] in subset}
    out = egmf(embeds, spoken * ("text" in subset), **kept)
    close(off.pseudo_tokens, out.pseudo_tokens)
    assert torch.equal(off.modality_mask, switches)


@pytest.mark.parametrize("modality", ["audio", "video"])
def test_modality_mask_equals_leaving_out_of_the_prompt(setting, process, scores, modality):
    model, processor, samples = setting()
    inputs = process(processor, samples)
    inputs["modality_mask"][:, MODALITIES.index(modality)] = False
    without = [only(sample, set(MODALITIES) - {modality}) for sample in samples]
    close(model.score_answers(**inputs).probabilities, scores(model, processor, without))


def test_switched_off_text_reaches_nobody(setting, process):
    model, processor, samples = setting()
    inputs = process(processor, samples)
    inputs["modality_mask"][:, 0] = False
    expected = model.score_answers(**inputs).probabilities
    inputs["input_ids"][inputs["utterance_mask"].bool()] = 9  # other words, just as many
    close(model.score_answers(**inputs).probabilities, expected)


@pytest.mark.parametrize(("audio", "video"), KINDS)
@pytest.mark.parametrize("modality", ["audio", "video"])
def test_content_of_absent_media_never_matters(setting, process, audio, video, modality):
    model, processor, samples = setting(audio, video)
    inputs = process(processor, samples)
    inputs["modality_mask"][1, MODALITIES.index(modality)] = False
    expected = model.score_answers(**inputs).probabilities
    inputs[f"{modality}_values"][1] = 1e4
    close(model.score_answers(**inputs).probabilities, expected)


def test_sample_without_any_modality_is_named(setting, process):
    model, processor, samples = setting()
    inputs = process(processor, samples)
    inputs["modality_mask"][2] = False
    with pytest.raises(ValueError, match=r"Sample \[2\] of the batch has neither text nor audio nor video"):
        model(**inputs)


@pytest.mark.parametrize("modality", MODALITIES)
def test_each_modality_moves_the_pseudo_tokens(make_model, media_batch, modality):
    egmf = make_model().egmf
    embeds, media = torch.randn(3, 6, 32), media_batch()
    switches = torch.ones(3, 3)
    full = egmf(embeds, torch.ones(3, 6), **media, modality_mask=switches).pseudo_tokens
    switches[:, MODALITIES.index(modality)] = 0
    less = egmf(embeds, torch.ones(3, 6), **media, modality_mask=switches).pseudo_tokens
    assert (full - less).abs().amax(dim=(1, 2)).min() > 1e-3


@pytest.mark.parametrize("modality", MODALITIES)
def test_each_modality_moves_the_logits(setting, scores, modality):
    model, processor, samples = setting()
    without = [only(sample, set(MODALITIES) - {modality}) for sample in samples]
    moved = (scores(model, processor, without) - scores(model, processor, samples)).abs().amax(dim=1)
    assert moved.max() > 1e-3


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


# ---- learning ------------------------------------------------------------------------------------------------


@pytest.fixture
def labeled(make_processor, make_samples, process):
    """Inputs with answers; the last sample has no text, so that the learned query learns."""

    def make(audio="features", video="features"):
        samples = make_samples(3, audio, video)
        samples[2] = only(samples[2], {"audio", "video"})
        return process(make_processor(audio, video), samples, answer=["joy", "anger", "fear"])

    return make


def test_lora_starts_without_effect(make_model):
    with_lora = make_model(lively=False)
    b = [p for name, p in with_lora.language_model.named_parameters() if "lora_B" in name]
    assert len(b) == 4
    assert all(not p.any() for p in b)
    embeds = torch.randn(1, 5, 32)
    plain = make_model(lively=False, lora=None)
    close(with_lora.language_model(inputs_embeds=embeds).logits, plain.language_model(inputs_embeds=embeds).logits)


def test_building_leaves_the_language_model_alone(make_model, make_language_model):
    before = make_language_model().state_dict()
    after = make_model(lora=None, lively=False, language_model=make_language_model()).language_model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_our_linear_layers_start_at_xaviers_scale(make_model):
    """At a language model's 0.02 the gate would start, and stay, near uniform."""
    model = make_model("waveform", "frames", lively=False, bidirectional_attention=True)
    layers = {name: module for name, module in model.egmf.named_modules() if isinstance(module, torch.nn.Linear)}
    projection = layers.pop("pseudo_tokens.projection").weight.detach()
    assert projection.std() == pytest.approx(16**-0.5, rel=0.15)
    assert {"experts.gate.feature_gate.0", "fusion.cross_attention.key"} <= set(layers)
    for name, layer in layers.items():
        weight, bound = layer.weight.detach(), (6 / sum(layer.weight.shape)) ** 0.5
        assert weight.abs().max() <= bound, name
        if weight.numel() >= 128:
            assert weight.std() == pytest.approx(bound / 3**0.5, rel=0.25), name
        assert layer.bias is None or not layer.bias.any(), name


@pytest.fixture
def train(labeled):
    """`train(model, audio, video, steps)` -> parameters before, by name; the model has learned for so many steps."""

    def run(model, audio, video, steps):
        inputs = labeled(audio, video)
        before = {name: parameter.detach().clone() for name, parameter in model.train().named_parameters()}
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.0)
        for _ in range(steps):
            optimizer.zero_grad()
            model(**inputs).loss.backward()
            optimizer.step()
        return before

    return run


@pytest.mark.parametrize("fields", [{}, {"bidirectional_attention": True, "pseudo_token_projection": "separate"}])
@pytest.mark.parametrize(("audio", "video"), KINDS)
def test_one_step_changes_all_that_learns_and_nothing_else(make_model, train, audio, video, fields):
    model = make_model(audio, video, **fields)
    before = train(model, audio, video, steps=1)
    for name, parameter in model.named_parameters():
        learns = name.startswith("egmf.") or "lora_" in name
        assert parameter.requires_grad == learns, name
        if not learns:
            assert torch.equal(parameter, before[name]), name
        else:
            assert parameter.grad.abs().max() > 1e-7, name
            assert not torch.equal(parameter, before[name]), name


@pytest.mark.parametrize(("audio", "video"), KINDS)
def test_two_steps_from_the_start_change_all_that_learns(make_model, train, audio, video):
    model = make_model(audio, video, lively=False)
    before = train(model, audio, video, steps=2)  # in the first, LoRA's B is zero, and its A learns nothing
    still = [n for n, p in model.named_parameters() if p.requires_grad and torch.equal(p, before[n])]
    assert still == []


def test_loss_falls(make_model, labeled):
    model, inputs = make_model(lively=False).train(), labeled()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        loss = model(**inputs).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 1


MIXED = {"task": ["emotion", "mosei", "cherma"], "answer": ["joy", -1.5, "高兴"]}  # of different lengths in tokens


def test_loss_equals_the_answers_log_probability(setting, process):
    """Of each sample the mean over its tokens, and of these the mean over the samples."""
    model, processor, samples = setting()
    inputs = process(processor, samples, **MIXED)
    labels = inputs.pop("labels")
    log_probs = torch.log_softmax(model(**inputs).logits, dim=-1)
    means = []
    for i in range(3):
        terms = [-log_probs[i, s - 1, labels[i, s]] for s in range(labels.shape[1]) if labels[i, s] != -100]
        means.append(sum(terms) / len(terms))
    assert len({int((row != -100).sum()) for row in labels}) > 1
    close(model(**inputs, labels=labels).loss, sum(means) / 3)


def test_every_sample_counts_alike(setting, process):
    model, processor, samples = setting()
    together = model(**process(processor, samples, **MIXED)).loss
    alone = [
        model(**process(processor, [sample], task=task, answer=[answer])).loss
        for sample, task, answer in zip(samples, *MIXED.values(), strict=True)
    ]
    close(together, sum(alone) / 3)


def test_sample_without_an_answer_does_not_count(make_model, labeled):
    model, inputs = make_model(), labeled()
    inputs["labels"][1] = -100
    kept = {name: values[[0, 2]] for name, values in inputs.items()}
    close(model(**inputs).loss, model(**kept).loss)


def test_trainer_is_told_that_the_loss_is_a_mean(make_model):
    """Or it would hand in the number of tokens of several batches, and not divide by their number."""
    assert make_model().accepts_loss_kwargs is False


def test_labels_keep_only_the_logits_they_need(make_model, labeled):
    model, inputs = make_model(), labeled()
    answered = int((inputs["labels"] != -100).any(dim=0).sum())
    assert model(**inputs).logits.shape[1] == answered + 1
    assert model(**inputs, logits_to_keep=0).logits.shape[1] == inputs["labels"].shape[1]
    close(model(**inputs, logits_to_keep=0).loss, model(**inputs).loss)


def test_labels_without_an_answer_are_refused(make_model, labeled):
    model, inputs = make_model(), labeled()
    inputs["labels"][:] = -100
    with pytest.raises(ValueError, match="`labels` holds nothing but -100"):
        model(**inputs)


def test_bfloat16_language_model_with_float32_fusion_learns(make_model, labeled):
    model = make_model(dtype=torch.bfloat16).train()
    assert {p.dtype for p in model.egmf.parameters()} == {torch.float32}
    lora = [p for name, p in model.language_model.named_parameters() if "lora_" in name]
    assert {p.dtype for p in lora} == {torch.float32}
    assert model.get_input_embeddings().weight.dtype == torch.bfloat16
    model(**labeled()).loss.backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
    assert model.egmf.pseudo_tokens.projection.weight.grad.abs().max() > 0
    assert all(p.grad.abs().max() > 0 for p in lora)


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_gives_the_same_gradients(make_model, labeled, reentrant):
    inputs = labeled()
    found = []
    for checkpointing in (False, True):
        model = make_model().train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
            assert model.is_gradient_checkpointing
        model(**inputs).loss.backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name in found[0]:
        torch.testing.assert_close(found[0][name], found[1][name], atol=1e-5, rtol=1e-4)


def test_expert_fields_are_filled_on_demand(setting, process):
    model, processor, samples = setting()
    inputs = process(processor, samples)
    assert model(**inputs).expert_weights is None
    found = model(**inputs, output_experts=True)
    assert found.fused.shape == (3, 16)
    close(found.expert_weights.sum(dim=1), torch.ones(3))


# ---- generate ------------------------------------------------------------------------------------------------

STEPS = 5
GREEDY = {"max_new_tokens": STEPS, "min_new_tokens": STEPS, "do_sample": False}


def new_tokens(model, inputs, **kwargs):
    return model.generate(**inputs, **{**GREEDY, **kwargs})[:, inputs["input_ids"].shape[1] :]


def greedy_by_hand(model, inputs):
    """The likeliest token again and again, a full forward each, without a cache; the end marker is not allowed."""
    embeds, _ = model.embed_prompt(inputs["input_ids"], inputs["utterance_mask"], **media_of(inputs))
    found = []
    for _ in range(STEPS):
        logits = model.language_model(inputs_embeds=embeds, use_cache=False).logits[0, -1]
        logits[model.generation_config.eos_token_id] = -torch.inf
        found.append(int(logits.argmax()))
        embeds = torch.cat([embeds, model.get_input_embeddings().weight[None, found[-1:]]], dim=1)
    return found


@pytest.mark.parametrize(("audio", "video"), KINDS)
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
def test_as_many_beams_as_words_find_the_likeliest_pair(setting, process):
    model, processor, samples = setting()
    inputs = process(processor, samples[:1])
    embeds, _ = model.embed_prompt(inputs["input_ids"], inputs["utterance_mask"], **media_of(inputs))
    table, end = model.get_input_embeddings().weight, model.generation_config.eos_token_id
    pairs = torch.cat([embeds.expand(len(table), -1, -1), table[:, None]], dim=1)
    log_probs = torch.log_softmax(model.language_model(inputs_embeds=pairs).logits[:, -2:], dim=-1)
    score = log_probs[0, 0][:, None] + log_probs[:, 1]
    score[end, :], score[:, end] = -torch.inf, -torch.inf
    best = divmod(int(score.argmax()), len(table))
    found = new_tokens(model, inputs, num_beams=len(table), max_new_tokens=2, min_new_tokens=2)
    assert found[0].tolist() == list(best)


def test_static_cache_equals_dynamic(setting, process):
    model, processor, samples = setting()
    inputs = process(processor, samples)
    assert torch.equal(new_tokens(model, inputs, cache_implementation="static"), new_tokens(model, inputs))


@pytest.mark.parametrize(
    "arguments",
    [{}, {"use_cache": False}, {"cache_implementation": "static"}, {"num_beams": 3}],
    ids=["dynamic", "none", "static", "beams"],
)
def test_switched_off_text_is_not_generated_from(setting, process, arguments):
    model, processor, samples = setting()
    inputs, others = process(processor, samples), process(processor, samples)
    others["input_ids"][others["utterance_mask"].bool()] = 9  # other words, just as many
    assert not torch.equal(new_tokens(model, inputs, **arguments), new_tokens(model, others, **arguments))
    inputs["modality_mask"][:, 0] = others["modality_mask"][:, 0] = False
    assert torch.equal(new_tokens(model, inputs, **arguments), new_tokens(model, others, **arguments))


def test_media_move_what_is_generated(setting, process):
    model, processor, samples = setting()
    inputs = process(processor, samples)
    before = new_tokens(model, inputs)
    inputs["audio_values"] = -inputs["audio_values"]
    inputs["video_values"] = -inputs["video_values"]
    assert not torch.equal(new_tokens(model, inputs), before)


def test_batch_of_one(setting, process):
    model, processor, samples = setting()
    found = model.score_answers(**process(processor, samples[:1]))
    assert found.probabilities.shape == (1, 7)
    assert found.expert_weights.shape == (1, 3)


@pytest.mark.parametrize(("audio", "video"), [("features", None), (None, "frames"), (None, None)])
def test_models_without_a_modality(setting, process, audio, video):
    model, processor, samples = setting(audio, video)
    found = model.score_answers(**process(processor, samples))
    assert found.modality_mask.tolist() == [[True, audio is not None, video is not None]] * 3
    assert torch.isfinite(found.probabilities).all()
