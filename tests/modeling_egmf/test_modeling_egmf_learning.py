"""Learning: trained and frozen parameters, initialization, and the loss."""

import pytest
import torch

from tests.helpers.model_inputs import INPUT_TYPES, assert_close


# Tasks whose answers have different numbers of tokens.
MIXED = {"task": ["emotion", "mosei", "cherma"], "answer": ["joy", -1.5, "高兴"]}

# ---- what learns --------------------------------------------------------------------------------------------


def test_lora_starts_without_effect(make_model):
    with_lora = make_model(lively=False)
    b = [p for name, p in with_lora.language_model.named_parameters() if "lora_B" in name]
    assert len(b) == 4
    assert all(not p.any() for p in b)
    embeds = torch.randn(1, 5, 32)
    plain = make_model(lively=False, lora=None)
    assert_close(
        with_lora.language_model(inputs_embeds=embeds).logits, plain.language_model(inputs_embeds=embeds).logits
    )


def test_building_leaves_the_language_model_unchanged(make_model, make_language_model):
    before = make_language_model().state_dict()
    model = make_model(lora=None, lively=False, language_model=make_language_model())
    after = model.language_model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_our_linear_layers_start_at_xaviers_scale(make_model):
    """With a language model's 0.02, the gate would start near uniform and stay there."""
    model = make_model("waveform", "frames", lively=False, bidirectional_attention=True)
    modules = dict(model.egmf.named_modules())
    layers = {name: module for name, module in modules.items() if isinstance(module, torch.nn.Linear)}
    projection = layers.pop("pseudo_tokens.projection").weight.detach()
    assert projection.std() == pytest.approx(16**-0.5, rel=0.15)
    assert {"experts.gate.feature_gate.0", "fusion.cross_attention.key"} <= set(layers)
    for name, layer in layers.items():
        weight = layer.weight.detach()
        bound = (6 / sum(layer.weight.shape)) ** 0.5
        assert weight.abs().max() <= bound, name
        if weight.numel() >= 128:
            assert weight.std() == pytest.approx(bound / 3**0.5, rel=0.25), name
        assert layer.bias is None or not layer.bias.any(), name


@pytest.fixture
def train(labeled):
    """`train(model, audio, video, steps)` -> parameters before training, by name; trains the model in place."""

    def run(model, audio, video, steps):
        inputs = labeled(audio, video)
        parameters = dict(model.train().named_parameters())
        before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-2, weight_decay=0.0)
        for _ in range(steps):
            optimizer.zero_grad()
            model(**inputs).loss.backward()
            optimizer.step()
        return before

    return run


@pytest.mark.parametrize("fields", [{}, {"bidirectional_attention": True, "pseudo_token_projection": "separate"}])
@pytest.mark.parametrize(("audio", "video"), INPUT_TYPES)
def test_one_step_changes_only_and_all_trainable_parameters(
    make_model,
    train,
    audio,
    video,
    fields,
):
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


@pytest.mark.parametrize(("audio", "video"), INPUT_TYPES)
def test_two_steps_from_the_start_change_all_trainable_parameters(
    make_model,
    train,
    audio,
    video,
):
    model = make_model(audio, video, lively=False)
    before = train(model, audio, video, steps=2)  # in the first, LoRA's B is zero, and its A learns nothing
    still = [n for n, p in model.named_parameters() if p.requires_grad and torch.equal(p, before[n])]
    assert still == []


def test_loss_falls(make_model, labeled):
    model = make_model(lively=False).train()
    inputs = labeled()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        loss = model(**inputs).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 1


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
def test_gradient_checkpointing_gives_the_same_gradients(
    make_model,
    labeled,
    reentrant,
):
    inputs = labeled()
    results = []
    for checkpointing in (False, True):
        model = make_model().train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
            assert model.is_gradient_checkpointing
        model(**inputs).loss.backward()
        results.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert results[0].keys() == results[1].keys()
    for name in results[0]:
        torch.testing.assert_close(results[0][name], results[1][name], atol=1e-5, rtol=1e-4)


# ---- the loss -----------------------------------------------------------------------------------------------


def test_loss_equals_the_answers_log_probability(setting, process):
    """The mean over the samples of each sample's mean over its tokens."""
    model, processor, samples = setting()
    inputs = process(processor, samples, **MIXED)
    labels = inputs.pop("labels")
    log_probs = torch.log_softmax(model(**inputs).logits, dim=-1)
    means = []
    for i in range(3):
        terms = [-log_probs[i, s - 1, labels[i, s]] for s in range(labels.shape[1]) if labels[i, s] != -100]
        means.append(sum(terms) / len(terms))
    assert len({int((row != -100).sum()) for row in labels}) > 1
    assert_close(model(**inputs, labels=labels).loss, sum(means) / 3)


def test_every_sample_has_the_same_weight(setting, process):
    model, processor, samples = setting()
    together = model(**process(processor, samples, **MIXED)).loss
    single_losses = [
        model(**process(processor, [sample], task=task, answer=[answer])).loss
        for sample, task, answer in zip(samples, *MIXED.values(), strict=True)
    ]
    assert_close(together, sum(single_losses) / 3)


def test_sample_without_an_answer_does_not_count(make_model, labeled):
    model = make_model()
    inputs = labeled()
    inputs["labels"][1] = -100
    kept = {name: values[[0, 2]] for name, values in inputs.items()}
    assert_close(model(**inputs).loss, model(**kept).loss)


def test_trainer_knows_that_the_loss_is_a_mean(make_model):
    """Otherwise the trainer would pass the token count of several batches and not divide by their number."""
    assert make_model().accepts_loss_kwargs is False


def test_labels_keep_only_the_logits_they_need(make_model, labeled):
    model = make_model()
    inputs = labeled()
    answered = int((inputs["labels"] != -100).any(dim=0).sum())
    assert model(**inputs).logits.shape[1] == answered + 1
    assert model(**inputs, logits_to_keep=0).logits.shape[1] == inputs["labels"].shape[1]
    assert_close(model(**inputs, logits_to_keep=0).loss, model(**inputs).loss)


def test_labels_without_an_answer_are_refused(make_model, labeled):
    model = make_model()
    inputs = labeled()
    inputs["labels"][:] = -100
    with pytest.raises(ValueError, match="`labels` contains only -100"):
        model(**inputs)
