"""Mixup mixes what encoders pool, and the labels, of clips with the same task and modalities."""

import pytest
import torch
from torch import nn

from tests.helpers.training_runs import PRETRAINING, SHORT, run
from training.trainer.mixup import Mixup, choose_partners, mixing, present_modalities
from training.trainer.pretraining import AnswerHeads, pretraining_loss


pytestmark = pytest.mark.integration


@pytest.fixture
def batch():
    """Four clips with sound and faces, two with sound only, one with text and sound."""
    texts = torch.zeros(7, 3, dtype=torch.long)
    texts[6, 0] = 1
    faces = torch.ones(7, 2, dtype=torch.long)
    faces[4:] = 0
    return {
        "task_ids": torch.tensor([0, 0, 0, 1, 0, 0, 0]),
        "utterance_mask": texts,
        "audio_mask": torch.ones(7, 5, dtype=torch.long),
        "video_mask": faces,
    }


def test_modalities_that_a_batch_lacks_altogether_are_absent(batch):
    del batch["video_mask"]
    assert present_modalities(batch).tolist() == [[False, True, False]] * 6 + [[True, True, False]]


def test_partners_share_task_and_modalities(batch):
    present = present_modalities(batch)
    keys = torch.cat([batch["task_ids"][:, None], present.long()], dim=1)
    seen = set()
    for seed in range(30):
        torch.manual_seed(seed)
        partners = choose_partners(keys)
        assert sorted(partners.tolist()) == list(range(7))
        assert torch.equal(keys[partners], keys)
        assert partners[3] == 3 and partners[6] == 6  # alone in their groups
        seen.add(tuple(partners[:3].tolist()))
    assert len(seen) == 6  # all permutations of the three


def test_statistics_are_mixed_with_those_of_the_partner():
    present = torch.tensor([False, True, True, True])
    partners = torch.tensor([0, 3, 2, 1])
    shares = torch.tensor([0.5, 0.75, 0.2, 1.0])
    statistics = torch.tensor([[0.0, 1.0], [10.0, 20.0], [4.0, 5.0]])  # of samples 1 to 3
    (mixed,) = mixing(present, partners, shares)(nn.Identity(), (statistics,))
    torch.testing.assert_close(mixed, torch.tensor([[1.0, 2.0], [10.0, 20.0], [4.0, 5.0]]))


@pytest.fixture
def model(make_model, make_encoder_config):
    """Sound pools mean and deviation, video pools by attention."""
    return make_model(make_encoder_config("features", "audio", pooling="statistics"), "features")


def test_only_encoders_that_pool_statistics_are_mixed(model, make_model):
    assert [*Mixup(model, 0.4).encoders] == ["audio"]
    assert not Mixup(make_model("features", "features"), 0.4).encoders


def test_loss_of_mixed_clips(model, make_processor, monkeypatch):
    """Nothing changes if only one of both counts, and something in between; hooks do not outlive the batch."""
    processor = make_processor("features", "features")
    heads = AnswerHeads(processor, model.config.fusion_hidden_size)
    config = model.config
    input_ids = torch.ones(6, 4, dtype=torch.long)
    input_ids[:, : config.num_pseudo_tokens] = config.placeholder_token_id
    batch = {
        "input_ids": input_ids,
        "utterance_mask": torch.zeros(6, 4, dtype=torch.long),
        "audio_values": torch.randn(6, 3, config.audio_config.feature_size),
        "audio_mask": torch.ones(6, 3, dtype=torch.long),
        "task_ids": torch.zeros(6, dtype=torch.long),
        "label_index": torch.tensor([0, 1, 2, 0, 1, 2]),
    }
    mixup = Mixup(model, 0.4)
    plain = pretraining_loss(model, heads, batch)
    losses = {}
    for share in (1.0, 0.0, 0.5):
        torch.manual_seed(1)
        monkeypatch.setattr(mixup.distribution, "sample", lambda shape, share=share: torch.full(shape, share))
        losses[share] = pretraining_loss(model, heads, batch, mixup)
    torch.testing.assert_close(losses[1.0], plain)
    torch.testing.assert_close(losses[0.0], plain)
    assert abs(losses[0.5] - plain) > 1e-3
    torch.testing.assert_close(pretraining_loss(model, heads, batch), plain)


def test_mixup_that_cannot_work_is_named(place, caplog):
    run(place, "unmixed", fusion_pretraining_mixup=0.4, **PRETRAINING, **SHORT)
    assert "--fusion_pretraining_mixup has no effect" in caplog.text
    with pytest.raises(ValueError, match="--fusion_pretraining_mixup is -1.0"):
        run(place, "refused", fusion_pretraining_mixup=-1, **PRETRAINING, **SHORT)
