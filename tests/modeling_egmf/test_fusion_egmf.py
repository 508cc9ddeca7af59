"""Equations 1 and 2 against plain loops, one query, one head and one key at a time."""

import math

import pytest
import torch

from modeling_egmf.fusion_egmf import EGMFAttention, EGMFFusion


WIDTH = 16
HEADS = 2
TEXT_WIDTH = 32
LENGTHS = (5, 1, 3, 0)  # transcript tokens of each sample; the last one has no text


def attend(attention, queries, keys):
    """Multi-head attention of a list of vectors over another, from its definition."""
    if not keys:
        return [torch.zeros(WIDTH) for _ in queries]
    size = WIDTH // HEADS
    outputs = []
    for query in queries:
        projected_query = attention.query.weight @ query + attention.query.bias
        heads = []
        for head in range(HEADS):
            part = slice(head * size, (head + 1) * size)
            scores = []
            for key in keys:
                projected_key = attention.key.weight @ key
                product = (projected_query[part] @ projected_key[part]).item()
                scores.append(math.exp(product / math.sqrt(size)))
            total = sum(scores)
            attended = torch.zeros(size)
            for score, key in zip(scores, keys, strict=True):
                value = attention.value.weight @ key + attention.value.bias
                attended = attended + score / total * value[part]
            heads.append(attended)
        outputs.append(attention.output.weight @ torch.cat(heads) + attention.output.bias)
    return outputs


def fuse(fusion, token_embeds, media):
    """f_fusion of one sample, from lists of its text tokens' embeddings and of its media tokens."""
    text = [fusion.text_norm(fusion.text_projection(embed)) for embed in token_embeds]
    if not text:
        text = [fusion.text_norm(fusion.no_text_query)]
    media = [fusion.media_norm(token) for token in media]
    if fusion.media_attention is not None and token_embeds:
        media = add(media, attend(fusion.media_attention, media, text))
    z_cross = add(text, attend(fusion.cross_attention, text, media))
    z_self = add(z_cross, attend(fusion.self_attention, z_cross, z_cross))
    return fusion.fused_norm(sum(z_self) / len(z_self))


def add(vectors, others):
    return [vector + other for vector, other in zip(vectors, others, strict=True)]


@pytest.fixture
def make_fusion(make_config, enliven):
    def make(bidirectional=False, dropout=0.0):
        torch.manual_seed(0)
        config = make_config(bidirectional_attention=bidirectional, fusion_dropout=dropout)
        return enliven(EGMFFusion(config)).eval()

    return make


@pytest.fixture
def batch():
    """Four samples: left-padded text with every combination of audio and video."""
    generator = torch.Generator().manual_seed(0)
    longest = max(LENGTHS)
    text_mask = torch.tensor([[position >= longest - n for position in range(longest)] for n in LENGTHS])
    return {
        "text_embeds": torch.randn(len(LENGTHS), longest, TEXT_WIDTH, generator=generator),
        "text_mask": text_mask,
        "media_tokens": torch.randn(len(LENGTHS), 2, WIDTH, generator=generator),
        "media_mask": torch.tensor([[True, True], [True, False], [False, False], [False, True]]),
    }


@pytest.mark.parametrize("keys", [1, 2, 5])
def test_attention_equals_loops(make_config, enliven, keys):
    torch.manual_seed(0)
    attention = enliven(EGMFAttention(make_config())).eval()
    queries = torch.randn(1, 3, WIDTH)
    projected_key = torch.randn(1, keys, WIDTH)
    expected = torch.stack(attend(attention, list(queries[0]), list(projected_key[0])))
    actual = attention(queries, projected_key, torch.ones(1, keys, dtype=torch.bool))[0]
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def test_keys_have_no_bias(make_config):
    """A constant that every key adds to a query's scores does not change the softmax."""
    assert EGMFAttention(make_config()).key.bias is None


def test_query_without_keys_gets_zeros(make_config, enliven):
    attention = enliven(EGMFAttention(make_config())).eval()
    keys = torch.randn(2, 3, WIDTH)
    actual = attention(torch.randn(2, 4, WIDTH), keys, torch.tensor([[False] * 3, [True] * 3]))
    assert torch.equal(actual[0], torch.zeros(4, WIDTH))
    assert actual[1].abs().min() > 0


@pytest.mark.parametrize("bidirectional", [False, True])
def test_fusion_equals_loops(make_fusion, batch, bidirectional):
    fusion = make_fusion(bidirectional)
    actual = fusion(*batch.values())
    for i in range(len(LENGTHS)):
        token_embeds = list(batch["text_embeds"][i][batch["text_mask"][i]])
        media = list(batch["media_tokens"][i][batch["media_mask"][i]])
        torch.testing.assert_close(actual[i], fuse(fusion, token_embeds, media), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_masked_content_never_matters(make_fusion, batch, bidirectional):
    fusion = make_fusion(bidirectional)
    expected = fusion(*batch.values())
    batch["text_embeds"][~batch["text_mask"]] = 1e3
    batch["media_tokens"][~batch["media_mask"]] = -1e3
    torch.testing.assert_close(fusion(*batch.values()), expected, atol=1e-6, rtol=0)


def test_more_left_padding_changes_nothing(make_fusion, batch):
    fusion = make_fusion()
    expected = fusion(*batch.values())
    padding = torch.randn(len(LENGTHS), 7, TEXT_WIDTH)
    padding_mask = torch.zeros(len(LENGTHS), 7, dtype=torch.bool)
    batch["text_embeds"] = torch.cat([padding, batch["text_embeds"]], dim=1)
    batch["text_mask"] = torch.cat([padding_mask, batch["text_mask"]], dim=1)
    torch.testing.assert_close(fusion(*batch.values()), expected, atol=1e-6, rtol=0)


def test_every_text_token_counts(make_fusion, batch):
    fusion = make_fusion()
    before = fusion(*batch.values())[0]
    for position in range(LENGTHS[0]):
        changed = {**batch, "text_embeds": batch["text_embeds"].clone()}
        changed["text_embeds"][0, position] += 1
        assert (fusion(*changed.values())[0] - before).abs().max() > 1e-3


@pytest.mark.parametrize("modality", [0, 1])
def test_each_media_token_counts(make_fusion, batch, modality):
    fusion = make_fusion()
    before = fusion(*batch.values())[0]
    batch["media_tokens"][0, modality] += torch.linspace(-1, 1, WIDTH)
    assert (fusion(*batch.values())[0] - before).abs().max() > 1e-3


def test_bidirectional_lets_media_read_the_text(make_fusion, batch):
    fusion = make_fusion(bidirectional=True)
    before = fusion(*batch.values())
    with torch.no_grad():
        fusion.media_attention.output.bias += torch.linspace(-1, 1, WIDTH)
    moved = (fusion(*batch.values()) - before).abs().amax(dim=1)
    assert moved[0] > 1e-3
    assert moved[2] == 0  # no media to move
    assert moved[3] == 0  # no text to read


def test_no_nan_in_gradients_of_missing_modalities(make_fusion, batch):
    fusion = make_fusion(bidirectional=True)
    fusion(*batch.values()).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in fusion.parameters() if p.grad is not None)


def test_dropout_only_in_training(make_fusion, batch):
    fusion = make_fusion(dropout=0.5)
    assert torch.equal(fusion(*batch.values()), fusion(*batch.values()))
    fusion.train()
    assert not torch.equal(fusion(*batch.values()), fusion(*batch.values()))
