"""Prepared samples in memory: equal to new ones, read once, and never where every use differs."""

import numpy as np
import pytest
import torch

from tests.helpers.media_files import gray_frames, sine, write_video
from training.data.augmentation import AugmentationSettings
from training.data.dataset import EGMFDataset, SampleIndex
from training.data.prepared_samples import PreparedSamples, size_of


def test_what_does_not_fit_is_not_kept():
    sample = (["text"], {"audio_values": np.zeros(1000, np.float32), "input_ids": [1, 2, 3]})
    assert 4000 < size_of(sample) < 4500
    assert size_of(torch.zeros(10, dtype=torch.float64)) == 80
    samples = PreparedSamples(max_bytes=9000)
    for index in range(3):
        samples.keep((index, 0), sample)
    samples.keep((3, 0), (["text"], {}))
    assert list(samples) == [(0, 0), (1, 0), (3, 0)]
    assert 0 <= samples.bytes_left < 1000


def make_dataset(folder, processor, **augmentation):
    path = write_video(folder / "clip.mp4", gray_frames(3, 16, 16), audio=sine(200, 0.24, 16_000))
    example = {"id": "a", "text": "Hi", "video": str(path or folder / "clip.mp4"), "task": "emotion", "answer": "joy"}
    return EGMFDataset([example], processor, True, augmentation=AugmentationSettings(**augmentation))


def test_second_use_reads_nothing_and_is_the_same(tmp_path, make_processor):
    dataset = make_dataset(tmp_path, make_processor("waveform", "frames"), modality_dropout=0.5)
    uses = [SampleIndex(0, 0, epoch, 1.0) for epoch in range(8)]
    first = dataset[uses[0]]
    assert set(dataset.prepared) == {(0, 0)}
    (tmp_path / "clip.mp4").unlink()
    again = dataset[uses[0]]
    assert again.keys() == first.keys()
    for name, value in first.items():
        same = torch.equal(value, again[name]) if isinstance(value, torch.Tensor) else np.all(value == again[name])
        assert same, name
    drawn = {tuple(dataset[use]["modalities"]) for use in uses}
    assert len(drawn) > 1
    with pytest.raises(FileNotFoundError):
        dataset.without_labels()[0]


@pytest.mark.parametrize("augmentation", ["augmentation", "voice_augmentation"])
def test_clip_that_changes_is_not_kept(tmp_path, make_processor, augmentation):
    dataset = make_dataset(tmp_path, make_processor("waveform", "frames"), **{augmentation: True})
    assert dataset[0]["id"] == "a"
    assert not dataset.prepared


def test_another_normalization_forgets_them(tmp_path, make_processor):
    dataset = make_dataset(tmp_path, make_processor("waveform", "frames"))
    plain = dataset[0]["audio_values"]
    dataset.normalize_speakers(lambda example, media, states: ({**media, "audio": media["audio"] / 2}, states))
    assert not np.array_equal(dataset[0]["audio_values"], plain)
    dataset.remove(["a"])
    assert not dataset.prepared
