"""Faces of a dataset's clips: searched once, however often a clip is used."""

import json

import numpy as np
import pytest

from tests.helpers.media_files import sine, write_video
from tests.helpers.processor_outputs import assert_same
from training.data.augmentation import AugmentationSettings
from training.data.dataset import EGMFDataset, SampleIndex, load_examples


@pytest.fixture
def corpus(tmp_path):
    """A clip with a bright square, the face, and one without."""
    rows = []
    for name, with_face in (("a", True), ("b", False)):
        frames = np.full((4, 48, 80, 3), 40, np.uint8)
        frames[:, :, :40, 2] = 120
        if with_face:
            frames[:, 14:34, 50:70] = 230
        write_video(tmp_path / f"{name}.mp4", frames, audio=sine(200, 0.4, 16_000))
        rows.append({"id": name, "split": "train", "video": f"{name}.mp4", "text": "Fine.", "answer": "joy"})
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


class Detector:
    """Finds the bright square, and counts its calls."""

    def __init__(self):
        self.calls = 0

    def __call__(self, frames):
        self.calls += 1
        return [self._find(frame) for frame in frames]

    def _find(self, frame):
        rows, columns = np.nonzero(frame.min(axis=-1) > 180)
        if len(rows) == 0:
            return []
        return [(columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1, 0.9)]


@pytest.mark.parametrize("augmentation", [False, True])
def test_faces_of_clips_in_memory_are_searched_once(corpus, make_processor, augmentation):
    detector = Detector()
    processor = make_processor("waveform", "frames", frames="face", face_detector=detector)
    settings = AugmentationSettings(augmentation=augmentation)
    dataset = EGMFDataset(load_examples(corpus), processor, augmentation=settings, cache_media=True)
    assert detector.calls == 2
    for epoch in range(3):
        samples = [dataset[SampleIndex(index, 0, epoch, 1.0)] for index in range(2)]
        assert [sample["face_share"] for sample in samples] == [1.0, 0.0]
    assert detector.calls == 2
    assert dataset.load_media(0)["video"].shape == (4, 16, 16, 3)  # not the enlarged frames


def test_samples_are_the_processors_own(corpus, make_processor):
    processor = make_processor("waveform", "frames", frames="face", face_detector=Detector())
    examples = load_examples(corpus)
    for cached in (False, True):
        dataset = EGMFDataset(examples, processor, cache_media=cached)
        for index, example in enumerate(examples):
            sample = dataset[index]
            expected = processor.prepare(video=example["video"], text="Fine.", name=f"example {example['id']!r}")
            assert sample["face_share"] == expected["face_share"]
            assert_same(processor.collate([sample]), processor.collate([expected]))


def test_a_sample_without_video_has_no_share(corpus, make_processor):
    processor = make_processor("waveform", "frames", frames="face", face_detector=Detector())
    dataset = EGMFDataset(load_examples(corpus), processor, modalities=["text", "audio"], cache_media=True)
    assert "face_share" not in dataset[0]
    assert "video_values" not in dataset[0]
