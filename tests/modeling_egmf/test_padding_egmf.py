"""Batches of a language model that takes no padding: outputs keep the batch's columns."""

import pytest
import torch

from modeling_egmf import decoders_egmf
from modeling_egmf.decoders_egmf import DecoderSupport
from modeling_egmf.padding_egmf import must_regroup, read_groups, real_columns
from tests.helpers.model_inputs import assert_close
from training.model.backbones.decoders import build_model, make_inputs
from training.model.backbones.small_configs import build_small_model, small_config


MASK = torch.tensor([[0, 0, 1, 1, 1], [1, 0, 0, 1, 1], [0, 0, 0, 0, 1]])


@pytest.fixture(scope="module")
def lfm2():
    return build_model(build_small_model(small_config("lfm2")))


def test_real_columns():
    assert real_columns(MASK).tolist() == [[2, 3, 4], [0, 3, 4], [4, 0, 1]]
    assert real_columns(MASK, "left").tolist() == [[2, 3, 4], [0, 3, 4], [2, 3, 4]]


@pytest.mark.parametrize(
    ("padding", "rows", "expected"),
    [
        ("any", [0, 1, 2], False),
        ("left", [0, 2], False),
        ("left", [0, 1], True),
        ("right", [0, 2], True),
    ],
)
def test_which_batches_are_regrouped(padding, rows, expected):
    support = DecoderSupport("rows", padding)
    assert must_regroup(support, MASK[rows]) is expected
    assert must_regroup(support, torch.ones(2, 4)) is False
    assert must_regroup(support, None) is False
    assert must_regroup(support, MASK[:, None, None]) is False


def test_groups_that_share_a_cache():
    groups = list(read_groups(MASK, "right"))
    assert [samples.tolist() for samples, _ in groups] == [[2], [0, 1]]
    assert [columns.tolist() for _, columns in groups] == [[[4]], [[2, 3, 4], [0, 3, 4]]]
    ((samples, columns),) = read_groups(MASK, "left")
    assert samples.tolist() == [2, 0, 1]
    assert columns.tolist() == [[2, 3, 4], [2, 3, 4], [0, 3, 4]]


@pytest.mark.parametrize("model_type", ["lfm2", "llama", "llama4_text", "mistral"])
@torch.no_grad()
def test_logits_and_states_keep_the_columns(model_type, monkeypatch):
    monkeypatch.setattr(decoders_egmf, "PLAIN_TYPES", ["mistral"])  # llama stands for a model type that is unknown
    model = build_model(build_small_model(small_config(model_type)))
    inputs = make_inputs(model)
    together = model(**inputs, output_hidden_states=True)
    assert together.logits.shape[:2] == inputs["input_ids"].shape
    assert together.hidden_states[-1].shape[:2] == inputs["input_ids"].shape
    for sample in range(len(inputs["input_ids"])):
        is_real = inputs["attention_mask"][sample].bool()
        if not inputs["modality_mask"][sample, 0]:
            is_real &= ~inputs["utterance_mask"][sample].bool()
        embeds, _ = model.embed_prompt(
            **{name: value[sample : sample + 1] for name, value in inputs.items() if name != "attention_mask"}
        )
        alone = model.language_model(inputs_embeds=embeds[:, is_real], use_cache=False, output_hidden_states=True)
        assert_close(together.logits[sample, is_real], alone.logits[0])
        for states, expected in zip(together.hidden_states, alone.hidden_states, strict=True):
            assert_close(states[sample, is_real], expected[0])


@torch.no_grad()
def test_last_columns_only(lfm2):
    inputs = make_inputs(lfm2)
    everything = lfm2(**inputs).logits
    assert_close(lfm2(**inputs, logits_to_keep=2).logits, everything[:, -2:])
    columns = torch.tensor([3, 19, 20])
    assert_close(lfm2(**inputs, logits_to_keep=columns).logits, everything[:, columns])


def test_cache_of_a_padded_batch_is_refused(lfm2):
    inputs = make_inputs(lfm2)
    with pytest.raises(ValueError, match=r"'lfm2' language model cannot use a cache for a batch with padding"):
        lfm2(**inputs, use_cache=True)
    single = {name: value[:1] for name, value in inputs.items()}
    cache = lfm2(**single, use_cache=True).past_key_values
    assert cache.get_seq_length() == single["input_ids"].shape[1]


def test_cache_of_a_model_without_one_is_refused():
    model = build_model(build_small_model(small_config("mamba")))
    single = {name: value[:1] for name, value in make_inputs(model).items()}
    with pytest.raises(ValueError, match=r"'mamba' language model cannot use a cache for exact answers"):
        model(**single, use_cache=True)


def test_attention_weights_of_a_padded_batch_are_refused(lfm2):
    with pytest.raises(ValueError, match=r"no attention weights over the batch's columns"):
        lfm2(**make_inputs(lfm2), output_attentions=True)


def test_flex_attention_on_a_cpu_is_refused(setting, scores, labeled):
    """Torch cannot train with it there, and some shapes of it end in an error of the C++ compiler."""
    model, processor, samples = setting()
    model.language_model.set_attn_implementation("flex_attention")
    for call in (lambda: scores(model, processor, samples), lambda: model.train()(**labeled())):
        with pytest.raises(ValueError, match="Flex attention needs a GPU: use attn_implementation='sdpa'"):
            call()
    model.language_model.set_attn_implementation("sdpa")
    assert scores(model.eval(), processor, samples).isfinite().all()
