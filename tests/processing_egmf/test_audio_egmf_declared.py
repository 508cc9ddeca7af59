"""What an audio file declares about itself is honored: channels, sample format, start; and silence is left out."""

import io
import struct
from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch

from processing_egmf import audio_egmf
from processing_egmf.audio_egmf import load_audio
from processing_egmf.media_egmf import is_recording, media_kind, open_track
from processing_egmf.video_egmf import load_video
from tests.helpers.media_files import gray_frames, sine, write_audio, write_video


RATE = 16_000
TONE = sine(440, 0.5, RATE)


def level(samples):
    return float(np.sqrt(2 * np.square(samples[1000:-1000], dtype=np.float64).mean()))


# ---- channels and formats ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("channel", "share"),
    [(0, 0.207), (1, 0.207), (2, 0.293), (3, 0.0), (4, 0.146), (5, 0.146)],  # as FFmpeg mixes 5.1 to one channel
)
def test_surround_is_mixed_as_a_player_does(tmp_path, channel, share):
    channels = np.zeros((6, len(TONE)), np.float32)
    channels[channel] = TONE
    channels[0, ::100] += 0.01  # not silent
    samples = load_audio(write_audio(tmp_path / "surround.flac", channels, RATE))
    assert level(samples) == pytest.approx(0.5 * share, abs=2e-3)


def wavpack(channels, layout):
    """A file of planar floats."""
    content = io.BytesIO()
    with av.open(content, "w", format="matroska") as container:
        stream = container.add_stream("wavpack", rate=RATE, layout=layout, format="fltp")
        frame = av.AudioFrame.from_ndarray(channels.T.reshape(1, -1).copy(), "flt", layout)
        frame.sample_rate = RATE
        resampler = av.AudioResampler("fltp", layout, RATE)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return content.getvalue()


@pytest.mark.parametrize(
    ("layout", "shares"),
    [
        ("7.1", [0.159, 0.159, 0.225, 0, 0.113, 0.113, 0.113, 0.113]),
        ("BL+BR", [0.5, 0.5]),  # places that FFmpeg cannot mix
    ],
)
def test_planar_channels_of_other_layouts(layout, shares):
    for channel, share in enumerate(shares):
        channels = np.zeros((len(shares), len(TONE)), np.float32)
        channels[channel] = TONE
        channels[0, ::100] += 0.01  # not silent
        content = wavpack(channels, layout)
        assert level(load_audio(content)) == pytest.approx(0.5 * share, abs=2e-3)


@pytest.mark.parametrize(
    ("count", "layout"),
    [(2, "stereo"), (3, "2.1"), (4, "4.0"), (5, "5.0"), (6, "5.1"), (7, "6.1"), (8, "7.1")],
)
def test_channels_without_names_have_the_layout_that_ffmpeg_assumes(count, layout):
    """So the third of three microphones, and the fourth of six, is taken for bass and not read, as in a player."""
    weights = audio_egmf._mixing_weights(f"{count} channels")
    assert weights.tolist() == audio_egmf._mixing_weights(layout).tolist()
    bass = {3: 2, 6: 3, 7: 3, 8: 3}.get(count)
    assert [index for index, weight in enumerate(weights) if weight == 0] == ([] if bass is None else [bass])


def test_six_channels_without_names_are_taken_for_surround(tmp_path):
    channels = np.zeros((6, len(TONE)), np.int16)
    channels[2] = np.rint(TONE * 32767)
    content = channels.T.tobytes()
    header = struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        b"RIFF",
        36 + len(content),
        b"WAVE",
        b"fmt ",
        16,
        1,
        6,
        RATE,
        RATE * 12,
        12,
        16,
        b"data",
        len(content),
    )
    assert level(load_audio(header + content)) == pytest.approx(0.5 * 0.293, abs=2e-3)


def test_pcm_of_64_bits():
    content = np.rint(TONE.astype(np.float64) * 2**62).astype(np.int64).tobytes()
    header = struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        b"RIFF",
        36 + len(content),
        b"WAVE",
        b"fmt ",
        16,
        1,
        1,
        RATE,
        RATE * 8,
        8,
        64,
        b"data",
        len(content),
    )
    assert np.abs(load_audio(header + content) - TONE / 2).max() < 1e-6


@pytest.mark.parametrize("ending", [".mp4", ".mkv"])
def test_audio_that_starts_after_the_video_is_preceded_by_silence(tmp_path, ending):
    path = tmp_path / f"late{ending}"
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=10)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        audio = container.add_stream("flac", rate=RATE)
        audio.layout = "mono"
        for pixels in gray_frames(12):
            container.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(video.encode(None))
        frame = av.AudioFrame.from_ndarray(np.rint(TONE * 32767).astype(np.int16)[None], "s16", "mono")
        frame.sample_rate = RATE
        frame.pts = RATE // 2
        frame.time_base = Fraction(1, RATE)
        resampler = av.AudioResampler("s16", "mono", RATE, 4096)
        for chunk in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(audio.encode(chunk))
        container.mux(audio.encode(None))
    samples = load_audio(path)
    assert len(samples) == pytest.approx(RATE, abs=40)
    assert np.abs(samples[: RATE // 2 - 40]).max() == 0
    assert level(samples[RATE // 2 :]) == pytest.approx(0.5, rel=0.02)


# ---- silence -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".wav", ".m4a", ".mp3", ".ogg"])
def test_digital_silence_in_a_file_is_left_out(tmp_path, ending, warnings_of):
    path = write_audio(tmp_path / f"silent{ending}", np.zeros(48_000, np.float32), 48_000)
    assert load_audio(path, name="sample 3") is None
    assert f"silent{ending}): the audio is digital silence. Audio is left out." in warnings_of()


CANCELED = "the channels cancel each other, as when one is inverted; only the loudest is used."


@pytest.mark.parametrize("ending", [".wav", ".flac", ".m4a"])
def test_of_channels_that_cancel_each_other_the_loudest_is_used(tmp_path, ending, warnings_of):
    path = write_audio(tmp_path / f"inverted{ending}", np.stack([TONE, -TONE]), RATE)
    samples = load_audio(path, name="sample 3")
    assert level(samples) == pytest.approx(0.5, rel=0.02)
    assert CANCELED in warnings_of()


@pytest.mark.parametrize("kind", ["channels first", "channels last", "pair", "decoder"])
def test_of_channels_of_an_array_that_cancel_each_other_the_loudest_is_used(kind, warnings_of):
    channels = np.stack([TONE, -TONE])
    decoded = SimpleNamespace(data=torch.from_numpy(channels), sample_rate=RATE)
    sources = {
        "channels first": channels,
        "channels last": channels.T,
        "pair": (RATE, (channels.T * 32767).astype(np.int16)),
        "decoder": SimpleNamespace(get_all_samples=lambda: decoded),
    }
    samples = load_audio(sources[kind], RATE if kind.startswith("channels") else None)
    np.testing.assert_allclose(samples, TONE, atol=1e-4)
    assert CANCELED in warnings_of()


NOISE = np.random.default_rng(0).normal(size=TONE.shape).astype(np.float32)


@pytest.mark.parametrize(
    ("channels", "loudest"),
    [
        ([TONE, -0.95 * TONE + 0.004 * NOISE], 0),
        ([0.95 * TONE + 0.004 * NOISE, -TONE], 1),
        ([-np.roll(TONE, 1), 1.05 * TONE], 1),  # a sample late
        ([TONE + 0.1, -TONE - 0.1], 0),  # with a constant offset
        ([-0.5 * TONE, TONE, -0.5 * TONE], 1),
        ([TONE, -TONE, 0.01 * NOISE], 0),
        ([0.5 * TONE, -0.5 * TONE, 0.9 * TONE, -0.9 * TONE], 2),
    ],
)
def test_of_channels_that_nearly_cancel_each_other_the_loudest_is_used(channels, loudest, warnings_of):
    channels = np.stack(channels).astype(np.float32)
    samples = load_audio(channels, RATE)
    np.testing.assert_array_equal(samples, channels[loudest])
    assert CANCELED in warnings_of()
    # Places that FFmpeg averages.
    content = wavpack(channels, "+".join(["BL", "BR", "SL", "SR"][: len(channels)]))
    np.testing.assert_allclose(load_audio(content, name="sample 3"), channels[loudest], atol=1e-6)
    assert f"sample 3: {CANCELED}" in warnings_of()


@pytest.mark.parametrize(
    "channels",
    [
        [TONE, 0 * TONE],  # a voice in one channel
        [0.001 * NOISE, TONE],
        [TONE, np.roll(TONE, 4)],  # spaced microphones
        [TONE, NOISE / 4],
        [TONE + NOISE / 2, TONE - NOISE / 2],  # wide: the sides are as loud as the middle
        [TONE / 100 + 0.1, TONE / 100 - 0.1],  # opposite offsets
        [TONE, TONE, -TONE],
        [TONE, -TONE / 4],
    ],
)
def test_other_channels_are_mixed(channels, warnings_of):
    channels = np.stack(channels).astype(np.float32)
    np.testing.assert_allclose(load_audio(channels, RATE), channels.mean(axis=0), atol=1e-7)
    assert CANCELED not in warnings_of()


def test_a_voice_in_one_channel_of_surround_is_mixed_as_a_player_does(warnings_of):
    channels = np.zeros((8, len(TONE)), np.float32)
    channels[4] = TONE
    channels[3] = NOISE / 4  # of the subwoofer, which a player leaves out
    assert level(load_audio(wavpack(channels, "7.1"))) == pytest.approx(0.5 * 0.113, abs=2e-3)
    assert CANCELED not in warnings_of()


def test_a_silent_file_is_decoded_once(tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(audio_egmf, "open_track", lambda *args: opened.append(args) or open_track(*args))
    path = write_audio(tmp_path / "silent.wav", np.zeros((2, 9000), np.float32), RATE)
    assert load_audio(path) is None
    assert len(opened) == 1


def test_silent_channels_do_not_cancel_each_other(tmp_path, warnings_of):
    path = write_audio(tmp_path / "silent.wav", np.zeros((2, 9000), np.float32), RATE)
    assert load_audio(path) is None
    assert load_audio(np.zeros((2, 9000), np.float32), RATE) is None
    assert CANCELED not in warnings_of()


def test_equal_samples_are_silence_and_quiet_speech_is_not():
    for value in (0, 0.25, -1):
        assert load_audio(np.full(9000, value, np.float32), RATE) is None
    assert load_audio(np.full(9000, 128, np.uint8), RATE) is None
    assert load_audio(TONE / 500, RATE) is not None


def test_silence_of_a_video_leaves_its_frames(tmp_path):
    path = write_video(tmp_path / "clip.mp4", gray_frames(6), audio=np.zeros(8000, np.float32))
    assert load_audio(path, missing_ok=True) is None
    assert len(load_video(path, 4)) == 4


# ---- pairs and decoder objects -------------------------------------------------------------------------------


def test_pairs_of_rate_and_array_are_one_recording():
    stereo = np.rint(np.stack([TONE, np.zeros_like(TONE)], axis=1) * 32767).astype(np.int16)
    expected = load_audio(stereo, RATE)
    for pair in ((RATE, stereo), [RATE, stereo], (stereo, RATE), (torch.from_numpy(stereo.T.copy()), RATE)):
        assert is_recording(pair)
        assert media_kind(pair) == "audio"
        assert np.array_equal(load_audio(pair, 8000), expected)
        with pytest.raises(ValueError, match="has no frames. Give it as `audio`"):
            load_video(pair, 4)
    assert level(expected) == pytest.approx(0.25, rel=0.01)


class AudioDecoder:
    """The method of torchcodec's decoder that `datasets` documents, and the keys of its wrapper."""

    def __init__(self, samples, rate):
        self.samples = SimpleNamespace(data=torch.from_numpy(samples), sample_rate=rate)

    def get_all_samples(self):
        return self.samples

    def __getitem__(self, key):
        return {"array": self.samples.data.numpy().mean(axis=0), "sampling_rate": self.samples.sample_rate}[key]


def test_a_decoder_object_is_one_recording():
    decoder = AudioDecoder(np.stack([TONE, np.zeros_like(TONE)]), RATE)
    assert is_recording(decoder)
    assert media_kind(decoder) == "audio"
    assert np.array_equal(load_audio(decoder), TONE / 2)
    surround = np.zeros((6, len(TONE)), np.float32)
    surround[2] = TONE
    assert level(load_audio(AudioDecoder(surround, RATE))) == pytest.approx(0.5 * 0.293, abs=2e-3)
    with pytest.raises(ValueError, match="AudioDecoder has no frames. Give it as `audio`"):
        load_video(decoder, 4)


def test_a_decoder_that_fails_is_named():
    class Broken(AudioDecoder):
        def get_all_samples(self):
            raise RuntimeError("no stream")

    with pytest.raises(ValueError, match=r"sample 3: the audio cannot be decoded \(no stream\)"):
        load_audio(Broken(TONE[None], RATE), name="sample 3")


def test_collections_are_not_one_recording():
    for collection in (["a.wav", "b.wav"], [TONE, TONE], (TONE, TONE), [], iter([TONE]), range(2)):
        assert not is_recording(collection)


def test_floats_far_beyond_one_are_named(warnings_of):
    assert load_audio(TONE * 8, RATE, name="sample 3") is not None
    assert "sample 3: the audio reaches 4, but floats should be in about [-1, 1]" in warnings_of()
