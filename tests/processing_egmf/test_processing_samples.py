"""Prepared samples: their modalities, stored encoder outputs instead of media, and their batch."""

import numpy as np
import pytest
import torch

from processing_egmf import MODALITIES
from processing_egmf.batches_egmf import modalities_of
from tests.helpers.processor_outputs import SUBSETS, sample_with_everything


@pytest.fixture
def arguments():
    return sample_with_everything()


@pytest.mark.parametrize("subset", SUBSETS, ids="+".join)
def test_modalities_of_a_sample_are_those_of_the_mask(features, arguments, subset):
    sample = features.prepare(**arguments, modalities=list(subset))
    assert modalities_of(sample) == list(subset)
    mask = features.collate([sample])["modality_mask"]
    assert mask.tolist() == [[modality in subset for modality in MODALITIES]]


@pytest.mark.parametrize("kind", [torch.from_numpy, np.asarray])
def test_stored_states_replace_decoding(raw, kind):
    states = np.random.default_rng(0).normal(size=(7, 9)).astype(np.float32)
    sample = raw.prepare(
        text="a",
        audio="absent.wav",
        video="absent.mp4",
        audio_states=kind(states),
        video_states=kind(states[:2]),
    )
    assert modalities_of(sample) == ["text", "audio", "video"]
    batch = raw.collate([sample])
    assert batch["audio_values"].tolist() == [states.tolist()]
    assert batch["video_values"].tolist() == [states[:2].tolist()]
    assert batch["audio_mask"].tolist() == [[True] * 7]
    assert batch["video_mask"].tolist() == [[True] * 2]


def test_stored_states_keep_their_type(raw):
    sample = raw.prepare(audio_states=torch.ones(3, 9, dtype=torch.bfloat16))
    assert sample["audio_values"].dtype == torch.bfloat16


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_stored_states_must_be_finite(raw, number):
    states = np.ones((3, 9), np.float32)
    states[1, 2] = number
    with pytest.raises(ValueError, match="clip 7: video_states contain NaN or infinite values"):
        raw.prepare(audio_states=np.ones((3, 9), np.float32), video_states=states, name="clip 7")


def test_one_encoder_may_be_stored_and_the_other_decoded(raw):
    frames = np.arange(3 * 20 * 24 * 3).reshape(3, 20, 24, 3).astype(np.uint8)
    sample = raw.prepare(audio_states=torch.ones(3, 9), video=frames)
    assert torch.equal(sample["video_values"], raw.prepare(video=frames)["video_values"])
    assert sample["audio_values"].shape == (3, 9)


def test_states_without_steps_mean_that_the_clip_has_none(raw):
    sample = raw.prepare(
        text="a",
        video="absent.mp4",
        audio_states=torch.zeros(0, 9),
        video_states=torch.ones(1, 9),
    )
    assert modalities_of(sample) == ["text", "video"]
    with pytest.raises(ValueError, match="has neither text nor audio nor video"):
        raw.prepare(audio_states=torch.zeros(0, 9))


@pytest.mark.parametrize("shape", [(9,), (1, 3, 9)])
def test_states_of_another_shape_are_refused(raw, shape):
    with pytest.raises(
        ValueError,
        match=r"clip 7: audio_states have shape .*expected \(steps, encoder width\)",
    ):
        raw.prepare(audio_states=torch.ones(shape), name="clip 7")
