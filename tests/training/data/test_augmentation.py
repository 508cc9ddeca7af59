"""Augmentation: changed light and noise; same length, dtype and shape, and reproducible by the seed."""

from collections import Counter

import numpy as np
import pytest

from processing_egmf.frames_egmf import is_blank
from training.data.augmentation import (
    AUGMENTATIONS,
    MAX_FACE_GROWTH,
    MAX_FACE_SHIFT,
    MAX_GAIN_DECIBELS,
    MAX_VOICE_CHANGE,
    NOISE_DECIBELS,
    AugmentationSettings,
    augment,
    augment_audio,
    augment_face,
    augment_features,
    augment_frames,
    augment_voice,
    choose_modalities,
)
from training.data.collator import SUBSETS
from training.data.faces import FACE_SHARE
from training.data.tables import MEDIA


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.fixture
def media():
    source = np.random.default_rng(1)
    return {
        "audio": source.uniform(-0.5, 0.5, 4000).astype(np.float32),
        "video": source.integers(60, 180, (9, 16, 24, 3)).astype(np.uint8),
        "audio_features": source.normal(size=(40, 6)).astype(np.float32),
        "video_features": source.normal(size=(30, 5)).astype(np.float32),
    }


def test_every_modality_has_its_augmentation():
    assert set(AUGMENTATIONS) == set(MEDIA)


@pytest.mark.parametrize("seed", range(5))
def test_shape_and_dtype_are_kept(media, seed):
    found = augment(media, rng(seed))
    assert list(found) == list(media)
    for name, values in media.items():
        assert found[name].shape == values.shape, name
        assert found[name].dtype == values.dtype, name
        assert np.isfinite(found[name]).all()
        assert min(found[name].strides) > 0  # torch takes no array that runs backwards


def test_dark_and_bright_clips_are_never_made_one_color():
    ramp = np.arange(8, dtype=np.uint8)[:, None, None, None]
    for darkest in (0, 248):
        frames = np.broadcast_to(ramp + darkest, (8, 4, 4, 3))
        assert not is_blank(frames)
        assert not any(is_blank(augment_frames(frames, rng(seed))) for seed in range(20))


@pytest.mark.parametrize("name", MEDIA)
def test_seed_decides(media, name):
    values = media[name]
    before = values.copy()
    first, again, other = (AUGMENTATIONS[name](values, rng(seed)) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first, values)
    assert np.array_equal(values, before)


@pytest.mark.parametrize("name", MEDIA)
@pytest.mark.parametrize("length", [1, 2, 3, 7])
def test_any_length_is_kept(media, name, length):
    for seed in range(5):
        assert len(AUGMENTATIONS[name](media[name][:length], rng(seed))) == length


def test_clip_without_media_remains_empty():
    assert augment({}, rng()) == {}


def test_one_change_for_the_whole_clip():
    """All frames change alike: frames that were equal stay equal."""
    frames = np.repeat(np.random.default_rng(1).integers(0, 256, (1, 8, 8, 3)).astype(np.uint8), 4, axis=0)
    for seed in range(5):
        found = augment_frames(frames, rng(seed))
        assert (found == found[:1]).all()


def test_frames_are_mirrored_half_of_the_time():
    frames = np.full((2, 8, 8, 3), 60, np.uint8)
    frames[:, :, :4] = 180  # bright on the left
    left = [
        found[:, :, :4].mean() > found[:, :, 4:].mean()
        for found in (augment_frames(frames, rng(s)) for s in range(200))
    ]
    assert 70 < sum(left) < 130


def test_brightness_neither_wraps_nor_diverges():
    frames = np.stack([np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 255, np.uint8)])
    for seed in range(50):
        dark, bright = augment_frames(frames, rng(seed))
        assert dark.max() < 64
        assert bright.min() > 180


def test_gain_and_noise_stay_within_bounds():
    times = np.arange(16_000) / 16_000
    tone = np.sqrt(2) * 0.1 * np.sin(2 * np.pi * 200 * times)
    tone = tone.astype(np.float32)
    for seed in range(50):
        found = augment_audio(tone, rng(seed)).astype(np.float64)
        gain = (found * tone).mean() / (tone.astype(np.float64) ** 2).mean()
        noise = 20 * np.log10((found - gain * tone).std())
        assert abs(20 * np.log10(gain)) < MAX_GAIN_DECIBELS + 0.1
        assert NOISE_DECIBELS[0] - 0.5 < noise < NOISE_DECIBELS[1] + 0.5


def loudest_pitch(samples):
    return np.abs(np.fft.rfft(samples * np.hanning(len(samples)), 2**18)).argmax() * 16_000 / 2**18


@pytest.mark.parametrize("length", [16_000, 15_999, 40_001])
def test_voice_augmentation_changes_pitch_and_tempo(length):
    tone = np.sin(2 * np.pi * 440 * np.arange(length) / 16_000).astype(np.float32)
    before = tone.copy()
    pitches = []
    tempos = []
    levels = []
    for seed in range(40):
        found = augment_voice(tone, rng(seed))
        assert found.dtype == np.float32
        pitches.append(loudest_pitch(found) / 440)
        tempos.append(length / len(found))
        levels.append(20 * np.log10(found.std() / tone.std()))
    for changes in (pitches, tempos):
        assert max(np.abs(np.array(changes) - 1)) < MAX_VOICE_CHANGE + 0.01
        assert np.ptp(changes) > MAX_VOICE_CHANGE
    assert abs(np.corrcoef(pitches, tempos)[0, 1]) < 0.5
    assert 1 < np.std(levels) < 6
    assert np.array_equal(tone, before)
    assert np.array_equal(augment_voice(tone, rng(3)), augment_voice(tone, rng(3)))


@pytest.mark.parametrize("length", [0, 1, 2, 7, 410, 1023, 1024, 1500])
def test_short_voice_stays_long_enough(length):
    """A clip that is long enough to be encoded (25 ms) stays long enough."""
    samples = np.full(length, 0.5, np.float32)
    for seed in range(20):
        found = augment_voice(samples, rng(seed))
        assert np.isfinite(found).all()
        assert np.array_equal(found, samples) if length < 1024 else 800 < len(found) < 1.2 * length


def test_timbre_changes_some_bands_more_than_others():
    noise = np.random.default_rng(5).normal(size=32_000).astype(np.float32)
    tilts = []
    for seed in range(10):
        power = np.abs(np.fft.rfft(augment_voice(noise, rng(seed)))) ** 2
        tilts.append(10 * np.log10(power[: len(power) // 40].mean() / power[len(power) // 2 :].mean()))
    assert 1 < np.std(tilts) < 8


def test_masked_features_become_their_mean(media):
    values = media["audio_features"]
    found = augment_features(values, rng())
    hidden = (found != values).any(axis=1)
    assert 0 < hidden.sum() < len(values) / 3
    np.testing.assert_allclose(found[hidden], np.broadcast_to(values.mean(axis=0), found[hidden].shape), atol=1e-6)


def test_short_feature_sequences_are_unchanged(media):
    values = media["audio_features"][:3]
    for seed in range(50):
        assert np.array_equal(augment_features(values, rng(seed)), values)


# ---- modality dropout ----------------------------------------------------------------------------------------


def chosen(present, rate, count):
    generator = rng()
    return Counter(tuple(choose_modalities(present, rate, generator)) for _ in range(count))


@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_dropout_has_its_rate_and_keeps_a_modality(rate):
    count = 4000
    counts = chosen(SUBSETS[-1], rate, count)
    assert () not in counts
    dropped = (count - counts[SUBSETS[-1]]) / count
    assert dropped == pytest.approx(rate, abs=4 * (rate * (1 - rate) / count) ** 0.5)
    for subset in SUBSETS[:-1]:
        share = rate / 6
        assert counts[subset] / count == pytest.approx(share, abs=5 * (share * (1 - share) / count) ** 0.5)


def test_dropout_never_drops_a_single_modality():
    for modality in SUBSETS[-1]:
        assert chosen([modality], 1.0, 20) == {(modality,): 20}


def test_dropout_of_two_modalities_keeps_one():
    assert set(chosen(["text", "video"], 1.0, 100)) == {("text",), ("video",)}


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_dropout_must_be_a_probability(rate):
    with pytest.raises(ValueError, match="modality_dropout"):
        AugmentationSettings(modality_dropout=rate)


def test_nothing_is_changed_by_default():
    settings = AugmentationSettings()
    assert (settings.modality_dropout, settings.augmentation, settings.voice_augmentation) == (
        0.0,
        False,
        False,
    )


# ---- faces --------------------------------------------------------------------------------------------------


def dot(size=48, side=12):
    frames = np.full((3, size, size, 3), 40, np.uint8)
    first = (size - side) // 2
    frames[:, first : first + side, first : first + side] = 240
    return frames


def center_and_side(frame):
    light = frame[..., 0].astype(float) - 40
    rows, columns = np.arange(len(light)) + 0.5, np.arange(light.shape[1]) + 0.5
    total = light.sum()
    return (light.sum(axis=0) @ columns / total, light.sum(axis=1) @ rows / total, (total / 200) ** 0.5)


def test_a_face_moves_and_grows_within_limits_and_the_same_in_all_frames():
    frames = dot()
    found = []
    for seed in range(60):
        changed = augment_face(frames, rng(seed))
        assert (changed.shape, changed.dtype) == (frames.shape, frames.dtype)
        assert (changed == changed[:1]).all()
        found.append(center_and_side(changed[0]))
    x, y, side = np.array(found).T
    for center in (x, y):
        assert np.abs(center - 24).max() < 48 * MAX_FACE_SHIFT * (1 + MAX_FACE_GROWTH) + 0.1
        assert np.ptp(center) > 48 * MAX_FACE_SHIFT
    assert np.abs(side / 12 - 1).max() < MAX_FACE_GROWTH + 0.03
    assert np.ptp(side / 12) > MAX_FACE_GROWTH
    assert frames.max() == 240  # the original is kept


def test_a_face_is_sometimes_less_sharp():
    stripes = np.tile(np.array([40, 240], np.uint8).repeat(2), 12)
    frames = np.broadcast_to(stripes[None, None, :, None], (2, 48, 48, 3))
    contrasts = [float(np.std(augment_face(frames, rng(seed)))) for seed in range(40)]
    assert min(contrasts) < 50 < 80 < max(contrasts)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (48, 30)])
def test_faces_of_any_size_are_changed(size):
    frames = np.random.default_rng(0).integers(0, 255, (2, *size, 3)).astype(np.uint8)
    assert augment_face(frames, rng()).shape == frames.shape


def test_only_a_face_that_was_found_is_moved():
    frames = np.random.default_rng(0).integers(60, 180, (4, 16, 16, 3)).astype(np.uint8)
    whole = augment({"video": frames}, rng())["video"]
    assert np.array_equal(augment({"video": frames, FACE_SHARE: 0.0}, rng())["video"], whole)
    face = augment({"video": frames, FACE_SHARE: 0.5}, rng())
    assert face[FACE_SHARE] == 0.5
    assert not np.array_equal(face["video"], whole)
