"""Modalities dropped from prepared samples equal those that were never prepared."""

import numpy as np
import pytest
import torch

from processing_egmf.batches_egmf import modalities_of
from tests.helpers.processor_outputs import SUBSETS, sample_with_everything
from training.data.collator import drop_modalities


@pytest.fixture(scope="module")
def raw(make_processor):
    return make_processor("waveform", "frames")


@pytest.fixture(scope="module")
def features(make_processor):
    return make_processor()


@pytest.fixture
def arguments():
    return sample_with_everything()


def assert_same_sample(left, right):
    assert set(left) == set(right)
    for key, value in left.items():
        if isinstance(value, torch.Tensor):
            assert value.dtype == right[key].dtype
            assert torch.equal(value, right[key]), key
        else:
            assert value == right[key], key


@pytest.mark.parametrize("keep", SUBSETS, ids="+".join)
def test_dropping_equals_preparing_with_fewer_modalities(features, arguments, keep):
    sample = features.prepare(**arguments)
    before = dict(sample)
    assert_same_sample(
        drop_modalities(features, sample, list(keep)),
        features.prepare(**arguments, modalities=list(keep)),
    )
    assert_same_sample(sample, before)


def test_dropping_in_steps_equals_dropping_at_once(features, arguments):
    sample = features.prepare(**arguments)
    stepwise = drop_modalities(features, drop_modalities(features, sample, ["audio", "video"]), ("video",))
    assert_same_sample(stepwise, drop_modalities(features, sample, ["video"]))


def test_dropping_keeps_what_the_caller_added(features, arguments):
    sample = {**features.prepare(**arguments), "id": "a", "label_index": 3}
    reduced = drop_modalities(features, sample, ["audio"])
    assert (reduced["id"], reduced["label_index"]) == ("a", 3)


def test_dropping_what_is_missing_changes_nothing(features):
    sample = features.prepare(text="a")
    assert_same_sample(drop_modalities(features, sample, ["text", "audio"]), sample)


@pytest.mark.parametrize(
    ("keep", "error", "message"),
    [
        (
            ["video"],
            ValueError,
            r"clip 7 has neither .*among the chosen modalities \['video'\]",
        ),
        ([], ValueError, "clip 7: no chosen modalities"),
        (["smell"], ValueError, r"clip 7: .* the modalities \['smell'\]; use any of text"),
        ("text", TypeError, "clip 7: modalities must be a list"),
    ],
)
def test_keeping_no_or_unknown_modalities_is_refused(features, keep, error, message):
    sample = features.prepare(text="a", audio_features=np.ones((1, 6)), name="clip 7")
    with pytest.raises(error, match=message):
        drop_modalities(features, sample, keep)


@pytest.mark.parametrize("keep", SUBSETS, ids="+".join)
def test_states_are_dropped_like_media(raw, keep):
    arguments = {
        "text": "a",
        "audio_states": torch.ones(3, 9),
        "video_states": torch.ones(2, 9),
    }
    sample = drop_modalities(raw, raw.prepare(**arguments), list(keep))
    assert_same_sample(sample, raw.prepare(**arguments, modalities=list(keep)))


def test_without_text_its_context_is_dropped_too(features):
    sample = features.prepare(audio_features=np.ones((2, 6)), context=["He left."])
    assert modalities_of(drop_modalities(features, sample, ["audio"])) == ["audio"]
