"""Mixup mixes media tokens, and the labels, of clips with the same task that are asked with the same modalities."""

import pytest
import torch
from accelerate import PartialState

from tests.helpers.training_runs import PRETRAINING, SHORT, run
from training.trainer import pretraining
from training.trainer.mixup import Mixup, choose_partners, make_mixup
from training.trainer.pretraining import AnswerHeads, fuse_modalities, pretraining_loss


pytestmark = pytest.mark.integration

AUDIO, BOTH, TEXT_AND_AUDIO = [False, True, False], [False, True, True], [True, True, False]
TASK_IDS = torch.tensor([0, 0, 0, 1, 0, 0, 0])
SUBSETS = torch.tensor([BOTH] * 4 + [AUDIO] * 2 + [TEXT_AND_AUDIO])


def test_partners_share_task_and_modalities():
    keys = torch.cat([TASK_IDS[:, None], SUBSETS.long()], dim=1)
    seen = set()
    for seed in range(30):
        torch.manual_seed(seed)
        partners = choose_partners(keys)
        assert sorted(partners.tolist()) == list(range(7))
        assert torch.equal(keys[partners], keys)
        assert partners[3] == 3 and partners[6] == 6  # alone in their groups
        seen.add(tuple(partners[:3].tolist()))
    assert len(seen) == 6  # all permutations of the three


def test_what_is_asked_with_its_text_stays_as_it_is():
    _, shares = Mixup(0.4).choose(TASK_IDS, SUBSETS)
    assert shares[6] == 1
    assert ((shares[:6] >= 0) & (shares[:6] < 1)).all()
    assert len(shares.unique()) == 7


@pytest.fixture
def model(make_model):
    return make_model("features", "features")


def make_batch(config):
    """Six clips, the last two with a transcript."""
    input_ids = torch.full((6, 8), 3)
    input_ids[:, : config.num_pseudo_tokens] = config.placeholder_token_id
    transcripts = torch.zeros(6, 8, dtype=torch.long)
    transcripts[4:, -1] = 1
    batch = {"input_ids": input_ids, "utterance_mask": transcripts}
    for modality, encoder in (("audio", config.audio_config), ("video", config.video_config)):
        batch[f"{modality}_values"] = torch.randn(6, 3, encoder.feature_size)
        batch[f"{modality}_mask"] = torch.ones(6, 3, dtype=torch.long)
    return {**batch, "task_ids": torch.zeros(6, dtype=torch.long), "label_index": torch.tensor([0, 1, 2, 0, 1, 2])}


def fix_shares(monkeypatch, mixup, share):
    monkeypatch.setattr(mixup.distribution, "sample", lambda shape: torch.full(shape, share))
    torch.manual_seed(1)  # of the partners


def test_media_of_a_clip_are_replaced_by_those_of_its_partner(model, monkeypatch):
    batch = make_batch(model.config)
    plain = fuse_modalities(model, batch)
    mixup = Mixup(0.4)
    fix_shares(monkeypatch, mixup, 0.0)
    mixed = fuse_modalities(model, batch, mixup)
    assert torch.equal(mixed.samples, plain.samples)
    assert not torch.equal(mixed.partners, plain.samples)
    assert mixed.shares.count_nonzero() == 8  # text, and text with each of the others, of two clips
    subsets = torch.bincount(plain.samples, minlength=6).tolist()
    assert subsets == [3, 3, 3, 3, 7, 7]
    for row, partner in enumerate(mixed.partners.tolist()):
        # In the same subset, without mixup.
        expected = [row] if mixed.shares[row] == 1 else torch.where(plain.samples == partner)[0].tolist()
        assert any(torch.allclose(mixed.vectors[row], plain.vectors[other], atol=1e-6) for other in expected)


def test_loss_of_mixed_clips(model, make_processor, monkeypatch):
    """Nothing changes if only one of both counts, and something in between does. Mixed labels are not smoothed."""
    monkeypatch.setattr(pretraining, "LABEL_SMOOTHING", 0.0)
    heads = AnswerHeads(make_processor("features", "features"), model.config.fusion_hidden_size)
    batch = make_batch(model.config)
    batch["utterance_mask"].zero_()
    plain = pretraining_loss(model, heads, batch)
    mixup = Mixup(0.4)
    losses = {}
    for share in (1.0, 0.0, 0.5):
        fix_shares(monkeypatch, mixup, share)
        losses[share] = pretraining_loss(model, heads, batch, mixup)
    torch.testing.assert_close(losses[1.0], plain)
    torch.testing.assert_close(losses[0.0], plain)
    assert abs(losses[0.5] - plain) > 1e-3
    monkeypatch.setattr(pretraining, "LABEL_SMOOTHING", 0.1)
    fix_shares(monkeypatch, mixup, 1.0)
    torch.testing.assert_close(pretraining_loss(model, heads, batch, mixup), plain)
    assert abs(pretraining_loss(model, heads, batch) - plain) > 1e-3


def test_mixup_of_a_model_of_text_alone_is_named(make_model, caplog):
    PartialState()  # which the logger needs
    assert make_mixup(make_model("features", None), 0) is None
    assert isinstance(make_mixup(make_model("features", None), 0.4), Mixup)
    assert not caplog.text
    assert make_mixup(make_model(None, None), 0.4) is None
    assert "--fusion_pretraining_mixup has no effect" in caplog.text


def test_negative_mixup_is_refused(place):
    with pytest.raises(ValueError, match="--fusion_pretraining_mixup is -1.0"):
        run(place, "refused", fusion_pretraining_mixup=-1, **PRETRAINING, **SHORT)
