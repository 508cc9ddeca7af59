"""Media become one token per modality, regardless of the rest of the batch."""

import math

import numpy as np
import pytest
import torch

from modeling_egmf.encoders_egmf import (
    EGMFAudioVisualEncoder,
    EGMFFeatureStem,
    EGMFFrameStem,
    EGMFModalityEncoder,
    EGMFWaveformStem,
    mean_and_deviation,
)
from tests.helpers.model_inputs import assert_close


FUSION_WIDTH = 16
INPUT_TYPES = [("features", "audio"), ("waveform", "audio"), ("features", "video"), ("frames", "video")]
SEQUENCE_ENCODERS = ["gru", "transformer", "none"]


@pytest.fixture
def make_encoder(make_encoder_config, enliven):
    """An encoder of one modality in eval mode, none of its weights at zero."""

    def make(input_type, modality, **fields):
        torch.manual_seed(0)
        config = make_encoder_config(input_type, modality, **fields)
        return enliven(EGMFModalityEncoder(config, FUSION_WIDTH)).eval()

    return make


@pytest.fixture
def one_stream(media_batch):
    """Values and mask of three clips of one modality."""

    def make(input_type, modality):
        batch = media_batch(**{"audio": None, "video": None, modality: input_type})
        return batch[f"{modality}_values"], batch[f"{modality}_mask"]

    return make


def all_present(mask):
    return torch.ones(len(mask), dtype=torch.bool)


# ---- our own encoders ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("sequence_encoder", SEQUENCE_ENCODERS)
@pytest.mark.parametrize(("input_type", "modality"), INPUT_TYPES)
def test_batch_equals_single(
    make_encoder,
    one_stream,
    input_type,
    modality,
    sequence_encoder,
):
    encoder = make_encoder(input_type, modality, sequence_encoder=sequence_encoder)
    values, mask = one_stream(input_type, modality)
    together = encoder(values, mask, all_present(mask))
    for i, length in enumerate(mask.sum(dim=1)):
        single = encoder(values[i : i + 1, :length], mask[i : i + 1, :length], all_present(mask[:1]))
        assert_close(together[i], single[0])


@pytest.mark.parametrize("sequence_encoder", SEQUENCE_ENCODERS)
@pytest.mark.parametrize(("input_type", "modality"), INPUT_TYPES)
def test_padding_content_never_matters(
    make_encoder,
    one_stream,
    input_type,
    modality,
    sequence_encoder,
):
    encoder = make_encoder(input_type, modality, sequence_encoder=sequence_encoder)
    values, mask = one_stream(input_type, modality)
    expected = encoder(values, mask, all_present(mask))
    extra = 500 if input_type == "waveform" else 3
    values = torch.cat([values, torch.zeros(3, extra, *values.shape[2:])], dim=1)
    mask = torch.cat([mask, torch.zeros(3, extra, dtype=torch.bool)], dim=1)
    values[~mask] = 7.0
    assert_close(encoder(values, mask, all_present(mask)), expected)


@pytest.mark.parametrize(("input_type", "modality"), INPUT_TYPES)
def test_every_real_step_counts(make_encoder, one_stream, input_type, modality):
    encoder = make_encoder(input_type, modality)
    values, mask = one_stream(input_type, modality)
    before = encoder(values, mask, all_present(mask))[0]
    length = int(mask[0].sum())
    for step in (0, length // 2, length - 1):
        changed = values.clone()
        changed[0, step] += 1
        assert (encoder(changed, mask, all_present(mask))[0] - before).abs().max() > 1e-5


@pytest.mark.parametrize(("sequence_encoder", "ordered"), [("gru", True), ("transformer", True), ("none", False)])
def test_order_in_time(make_encoder, one_stream, sequence_encoder, ordered):
    encoder = make_encoder("features", "audio", sequence_encoder=sequence_encoder)
    values, _ = one_stream("features", "audio")
    full_mask = torch.ones(values.shape[:2], dtype=torch.bool)
    moved = encoder(values, full_mask, all_present(full_mask)) - encoder(
        values.flip(1), full_mask, all_present(full_mask)
    )
    assert (moved.abs().max() > 1e-3) == ordered


@pytest.mark.parametrize(("input_type", "modality"), INPUT_TYPES)
def test_absent_sample_gets_zeros_and_moves_no_other(
    make_encoder,
    one_stream,
    input_type,
    modality,
):
    encoder = make_encoder(input_type, modality)
    values, mask = one_stream(input_type, modality)
    expected = encoder(values, mask, all_present(mask))
    actual = encoder(values, mask, torch.tensor([True, False, True]))
    assert torch.equal(actual[1], torch.zeros(FUSION_WIDTH))
    torch.testing.assert_close(actual[[0, 2]], expected[[0, 2]], atol=1e-6, rtol=0)


def test_no_sample_with_the_modality_gives_zeros(make_encoder, one_stream):
    values, mask = one_stream("frames", "video")
    actual = make_encoder("frames", "video")(values, mask, ~all_present(mask))
    assert torch.equal(actual, torch.zeros(3, FUSION_WIDTH))


def test_features_are_standardized(make_encoder_config):
    stem = EGMFFeatureStem(make_encoder_config("features"))
    stem.mean.fill_(2.0)
    stem.std.fill_(4.0)
    values = torch.full((1, 1, 6), 3.0)
    actual, _ = stem(values, torch.ones(1, 1, dtype=torch.bool))
    torch.testing.assert_close(actual, stem.projection(torch.full((1, 1, 6), 0.25)))


def test_constant_features_do_not_explode(make_encoder_config):
    stem = EGMFFeatureStem(make_encoder_config("features"))
    stem.std.zero_()
    actual, _ = stem(torch.full((1, 1, 6), 1e6), torch.ones(1, 1, dtype=torch.bool))
    torch.testing.assert_close(actual, stem.projection(torch.full((1, 1, 6), 10.0)))


def test_pooling_scores_have_no_bias(make_encoder):
    """A constant added to every score does not change the softmax."""
    assert make_encoder("features", "audio").pooling_score.bias is None


def test_frames_equal_a_plain_computation(make_encoder_config, enliven):
    """Each frame and twice its difference to the clip's first, convolved, then averaged over a 4x4 grid."""
    torch.manual_seed(0)
    config = make_encoder_config("frames", "video", frame_height=32, frame_width=32)
    stem = enliven(EGMFFrameStem(config)).eval()
    values = torch.rand(2, 3, 3, 32, 32) * 2 - 1
    mask = torch.tensor([[True, True, True], [True, True, False]])
    actual, actual_mask = stem(values, mask)
    assert torch.equal(actual_mask, mask)
    assert not actual[~mask].any()
    for i, t in torch.argwhere(mask).tolist():
        image = torch.cat([values[i, t], 2 * (values[i, t] - values[i, 0])])  # (6, y, x)
        for convolution, norm in zip(stem.convolutions, stem.norms, strict=True):
            image = convolution(image[None])[0]
            image = (image - image.mean()) / (image.var(correction=0) + norm.eps).sqrt()
            image = image * norm.weight[:, None, None] + norm.bias[:, None, None]
            image = image * 0.5 * (1 + torch.erf(image / math.sqrt(2)))
        assert image.shape == (8, 8, 8)
        grid = torch.zeros(8, 4, 4)
        for y in range(4):
            for x in range(4):
                cell = image[:, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2]
                grid[:, y, x] = cell.mean(dim=(1, 2))
        expected = stem.projection.weight @ grid.flatten() + stem.projection.bias
        torch.testing.assert_close(actual[i, t], expected, atol=1e-5, rtol=1e-5)


# ---- log-mel -------------------------------------------------------------------------------------------------


def log_mel_by_hand(samples, rate, window, hop, size, bins):
    """Discrete Fourier transform of centered Hann windows, triangles on the mel scale, decibels to about [-1, 1]."""
    padded = np.concatenate([np.zeros(size // 2), samples, np.zeros(size // 2)])
    hann = np.zeros(size)
    for n in range(window):
        hann[(size - window) // 2 + n] = 0.5 - 0.5 * math.cos(2 * math.pi * n / window)
    lowest = 2595 * math.log10(1 + 20 / 700)
    highest = 2595 * math.log10(1 + rate / 2 / 700)
    mels = np.linspace(lowest, highest, bins + 2)
    edges = 700 * (10 ** (mels / 2595) - 1)
    rows = []
    for start in range(0, len(samples) + 1, hop):
        piece = padded[start : start + size] * hann
        power = []
        for k in range(size // 2 + 1):
            wave = np.exp(-2j * np.pi * k * np.arange(size) / size)
            power.append(abs((piece * wave).sum()) ** 2)
        row = []
        for low, middle, high in zip(edges[:-2], edges[1:-1], edges[2:], strict=True):
            total = 0.0
            for k, value in enumerate(power):
                hertz = k * rate / size
                rising = (hertz - low) / (middle - low)
                falling = (high - hertz) / (high - middle)
                total += value * max(0.0, min(rising, falling))
            row.append((10 * math.log10(max(total, 1e-10)) + 30) / 40)
        rows.append(row)
    return np.array(rows)


def test_log_mel_equals_a_plain_transform(make_encoder_config):
    stem = EGMFWaveformStem(make_encoder_config("waveform", num_mel_bins=8))
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 700)
    expected = log_mel_by_hand(samples, 16_000, window=400, hop=160, size=512, bins=8)
    actual, mask = stem.log_mel(torch.tensor(samples)[None].float(), torch.ones(1, 700, dtype=torch.bool))
    assert actual.shape[1] == mask.sum() == 5
    np.testing.assert_allclose(actual[0].numpy(), expected, atol=1e-4)


def test_a_higher_tone_is_in_a_higher_band(make_encoder_config):
    stem = EGMFWaveformStem(make_encoder_config("waveform", num_mel_bins=32))
    times = torch.arange(1600) / 16_000
    tones = torch.stack([torch.sin(2 * math.pi * hertz * times) for hertz in (200, 800, 3200)])
    log_mel, _ = stem.log_mel(tones, torch.ones(3, 1600, dtype=torch.bool))
    bands = log_mel.mean(dim=1).argmax(dim=1)
    assert bands[0] < bands[1] < bands[2]


def test_mean_level_of_a_clip_is_subtracted(make_encoder_config, one_stream):
    stem = EGMFWaveformStem(make_encoder_config("waveform"))
    values, mask = one_stream("waveform", "audio")
    seen = []
    stem.convolutions[0].register_forward_hook(lambda _, given, __: seen.append(given[0].transpose(1, 2)))
    stem(values, mask)
    levels, frame_mask = stem.log_mel(values, mask)
    for i in range(3):
        real = levels[i][frame_mask[i]]
        assert_close(seen[0][i][frame_mask[i]], real - real.mean())
        assert not seen[0][i][~frame_mask[i]].any()


def test_distance_to_the_microphone_does_not_matter(make_encoder, one_stream):
    encoder = make_encoder("waveform", "audio")
    values, mask = one_stream("waveform", "audio")
    near, far = (encoder(values * gain, mask, all_present(mask)) for gain in (1.0, 0.25))
    torch.testing.assert_close(near, far, atol=1e-4, rtol=0)


@pytest.mark.parametrize("samples", [1, 159, 160, 161, 1600])
def test_audio_of_any_length_is_encoded(make_encoder, samples):
    encoder = make_encoder("waveform", "audio")
    mask = torch.ones(1, samples, dtype=torch.bool)
    actual = encoder(torch.rand(1, samples), mask, torch.tensor([True]))
    assert torch.isfinite(actual).all()
    assert actual.abs().max() > 0


# ---- both modalities -----------------------------------------------------------------------------------------


BOTH = torch.ones(3, 2, dtype=torch.bool)  # three samples, audio and video enabled


@pytest.fixture
def audio_visual(make_config, enliven):
    def make(audio="features", video="features"):
        torch.manual_seed(0)
        return enliven(EGMFAudioVisualEncoder(make_config(audio, video))).eval()

    return make


def test_one_token_per_modality(audio_visual, media_batch):
    tokens, present_mask = audio_visual()(BOTH, **media_batch())
    assert tokens.shape == (3, 2, FUSION_WIDTH)
    assert present_mask.all()


def test_left_out_modality_is_masked(audio_visual, media_batch):
    tokens, present_mask = audio_visual()(BOTH, **media_batch(video=None))
    assert present_mask.tolist() == [[True, False]] * 3
    assert torch.equal(tokens[:, 1], torch.zeros(3, FUSION_WIDTH))


def test_present_switches_modalities_off(audio_visual, media_batch):
    encoder = audio_visual()
    batch = media_batch()
    present = torch.tensor([[True, True], [False, True], [True, False]])
    tokens, present_mask = encoder(present, **batch)
    assert torch.equal(present_mask, present)
    assert tokens[~present_mask].abs().max() == 0
    expected, _ = encoder(BOTH, **batch)
    torch.testing.assert_close(tokens[present_mask], expected[present_mask], atol=1e-6, rtol=0)


def test_present_cannot_invent_a_modality(audio_visual, media_batch):
    batch = media_batch()
    batch["audio_mask"][0] = False
    tokens, present_mask = audio_visual()(BOTH, **batch)
    assert present_mask.tolist() == [[False, True], [True, True], [True, True]]
    assert torch.equal(tokens[0, 0], torch.zeros(FUSION_WIDTH))
    assert torch.isfinite(tokens).all()


def test_modality_embeds_tell_audio_from_video(audio_visual, media_batch):
    encoder = audio_visual()
    batch = media_batch()
    before, _ = encoder(BOTH, **batch)
    with torch.no_grad():
        encoder.modality_embeds[1] += 1
    after, _ = encoder(BOTH, **batch)
    torch.testing.assert_close(after - before, torch.tensor([0.0, 1.0])[None, :, None].expand_as(after))


def test_modality_the_model_lacks_is_refused(audio_visual, media_batch):
    with pytest.raises(ValueError, match="has video, but this model was built without video"):
        audio_visual(video=None)(BOTH, **media_batch())


@pytest.mark.parametrize("steps", [[0, 1, 1], [1, 0, 1], [1, 2, 0], [1, math.nan, 0]])
def test_mask_with_padding_before_or_between_real_steps_is_refused(audio_visual, steps):
    encode = audio_visual().encode_modality
    mask = torch.tensor([[1.0, 1.0, 0.0], steps])
    with pytest.raises(ValueError, match="`video_mask` must be ones, then zeros"):
        encode("video", torch.zeros(2, 3, 5), mask)
    with pytest.raises(ValueError, match=r"`video_values` has shape \(2, 6, 5\) and .* `video_mask` \(2, 4\)"):
        encode("video", torch.zeros(2, 6, 5), torch.ones(2, 4))


def test_values_without_mask_are_refused(audio_visual, media_batch):
    batch = media_batch()
    del batch["audio_mask"]
    with pytest.raises(ValueError, match="`audio_values` and `audio_mask` go together"):
        audio_visual()(BOTH, **batch)


# ---- statistics ---------------------------------------------------------------------------------------------


def test_mean_and_deviation_over_real_steps():
    states = torch.randn(2, 5, 3)
    mask = torch.tensor([[True] * 5, [True, True, False, False, False]])
    actual = mean_and_deviation(states, mask)
    for row, length in enumerate((5, 2)):
        real = states[row, :length]
        expected = torch.cat([real.mean(dim=0), real.std(dim=0, unbiased=False)])
        torch.testing.assert_close(actual[row], expected, rtol=1e-4, atol=1e-5)


def test_statistics_of_one_step_have_a_gradient(make_encoder):
    encoder = make_encoder("features", "audio", pooling="statistics")
    values = torch.randn(1, 1, encoder.stem.width, requires_grad=True)
    encoder(values, torch.ones(1, 1, dtype=torch.bool), torch.ones(1, dtype=torch.bool)).sum().backward()
    assert values.grad.isfinite().all()
