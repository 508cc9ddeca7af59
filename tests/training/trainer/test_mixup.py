"""Mixup mixes what encoders pool, and the labels, of clips with the same task and modalities."""

import pytest
import torch
from torch import nn

from training.trainer.mixup import Mixup, choose_partners, mixing, present_modalities


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


def test_only_encoders_that_pool_statistics_are_mixed(make_model):
    assert not Mixup(make_model("waveform", "frames"), 0.4).encoders
    mixup = Mixup(make_model("features", "frames", audio_changes={"pooling": "statistics"}), 0.4)
    assert [*mixup.encoders] == ["audio"]
