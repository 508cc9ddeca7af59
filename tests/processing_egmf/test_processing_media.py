"""Media in the processor: files and arrays of every form, audio tracks of videos, and chosen modalities."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from processing_egmf import MODALITIES
from tests.helpers.media_files import gray_frames, sine
from tests.helpers.processor_outputs import SUBSETS, assert_same


def test_video_brings_its_own_audio(raw, clips):
    batch = raw(text="a", video=clips["both"])
    assert batch["modality_mask"].tolist() == [[True, True, True]]
    assert batch["audio_values"].shape[1] == pytest.approx(0.48 * 16_000, abs=2100)
    assert batch["audio_values"].abs().max() > 0.3
    assert batch["video_values"].shape == (1, 4, 3, 16, 16)
    assert batch["video_values"].min() >= -1
    assert batch["video_values"].max() <= 1


def test_video_without_audio(raw, clips):
    batch = raw(video=clips["silent"])
    assert "audio_values" not in batch
    assert batch["modality_mask"].tolist() == [[False, False, True]]


def test_only_audio(raw, clips):
    batch = raw(audio=clips["audio"])
    assert "video_values" not in batch
    assert batch["audio_values"].shape == (1, 4800)
    assert batch["modality_mask"].tolist() == [[False, True, False]]


def test_given_audio_replaces_the_audio_track(raw, clips):
    batch = raw(video=clips["both"], audio=clips["audio"])
    torch.testing.assert_close(batch["audio_values"], raw(audio=clips["audio"])["audio_values"])


@pytest.mark.parametrize(
    "wrap",
    [str, Path, lambda p: Path(p).read_bytes(), lambda p: io.BytesIO(Path(p).read_bytes())],
)
def test_every_kind_of_file_gives_the_same(raw, clips, wrap):
    assert_same(raw(video=wrap(clips["both"])), raw(video=clips["both"]))
    assert_same(raw(audio=[wrap(clips["audio"])]), raw(audio=clips["audio"]))
    assert_same(raw(video=[wrap(clips["both"])]), raw(video=clips["both"]))


def test_files_in_a_batch_where_anything_is_missing(raw, clips):
    batch = raw(
        text=["a", None, "c", None],
        video=[clips["both"], clips["silent"], None, None],
        audio=[None, None, None, clips["audio"]],
    )
    expected = [
        [True, True, True],
        [False, False, True],
        [True, False, False],
        [False, True, False],
    ]
    assert batch["modality_mask"].tolist() == expected
    assert batch["audio_mask"].any(dim=1).tolist() == [True, False, False, True]
    assert batch["video_mask"].any(dim=1).tolist() == [True, True, False, False]


@pytest.mark.parametrize("subset", SUBSETS, ids="+".join)
def test_modalities_choose_a_subset(raw, clips, subset):
    batch = raw(text="a", video=clips["both"], modalities=list(subset))
    assert batch["modality_mask"].tolist() == [[m in subset for m in MODALITIES]]
    assert batch["utterance_mask"].any() == ("text" in subset)
    assert ("audio_values" in batch) == ("audio" in subset)
    assert ("video_values" in batch) == ("video" in subset)


def test_modalities_per_sample(raw, clips):
    batch = raw(
        text=["a", "b", "c"],
        video=[clips["both"]] * 3,
        modalities=[["text"], None, ("audio", "video")],
    )
    assert batch["modality_mask"].tolist() == [
        [True, False, False],
        [True, True, True],
        [False, True, True],
    ]


@pytest.mark.parametrize("name", ["both", "silent", "audio"])
def test_loaded_media_give_equal_tensors_again(raw, clips, name):
    kind = "audio" if name == "audio" else "video"
    media = raw.load_media(**{kind: clips[name]})
    rate = {"sampling_rate": 16_000} if "audio" in media else {}
    assert_same(raw(text="a", **rate, **media), raw(text="a", **{kind: clips[name]}))


def test_loaded_features_give_equal_tensors_again(features):
    given = {"audio_features": np.ones((3, 6)), "video_features": torch.ones(2, 5)}
    assert_same(features(**features.load_media(**given)), features(**given))


def test_frames_as_array_images_and_list_are_equal(raw):
    frames = gray_frames(5, 20, 24)
    expected = raw(video=frames)
    assert_same(raw(video=[Image.fromarray(frame) for frame in frames]), expected)
    assert_same(raw(video=list(frames)), expected)
    assert_same(raw(video=[frames]), expected)
    assert_same(raw(video=[[Image.fromarray(frame) for frame in frames]]), expected)


def test_one_picture_is_one_frame(raw):
    picture = Image.fromarray(gray_frames(1, 20, 24)[0])
    assert_same(raw(video=picture), raw(video=[picture]))
    assert raw(video=[[picture], [picture]])["video_values"].shape[:2] == (2, 1)


def test_audio_as_array_dict_and_list_is_equal(raw):
    tone = sine(200, 0.1, 8_000)
    expected = raw(audio=tone, sampling_rate=8_000)
    assert_same(raw(audio=(8_000, tone)), expected)
    assert_same(raw(audio=[(8_000, tone)]), expected)
    assert_same(raw(audio={"array": tone, "sampling_rate": 8_000}), expected)
    assert_same(raw(audio=[tone], sampling_rate=8_000), expected)
    assert_same(raw(audio=[tone], sampling_rate=[8_000]), expected)
    assert_same(raw(audio=tone.tolist(), sampling_rate=8_000), expected)


@pytest.mark.parametrize("kind", [np.asarray, torch.tensor, list])
def test_features_keep_their_values(features, kind):
    values = np.arange(12, dtype=np.float32).reshape(2, 6)
    batch = features(audio_features=kind(values))
    assert batch["audio_values"].tolist() == [values.tolist()]
    assert batch["audio_values"].dtype == torch.float32
    assert_same(features(audio_features=[kind(values)]), batch)
