"""Audio: length, frequency and level, truncation at the limit, and bad arrays."""

import av
import numpy as np
import pytest
import torch

from processing_egmf.audio_egmf import load_audio
from tests.helpers.media_files import JUNK, gray_frames, junk, sine, write_audio, write_video


RATE = 16_000


def assert_tone(samples, frequency, level, sampling_rate=RATE):
    """The strongest frequency and the level in the middle of the audio."""
    middle = samples[len(samples) // 5 : -(len(samples) // 5)]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert spectrum.argmax() * sampling_rate / len(middle) == pytest.approx(frequency, abs=4)
    assert np.sqrt(2 * (middle.astype(np.float64) ** 2).mean()) == pytest.approx(level, rel=0.06)  # LAME is 5% softer


@pytest.mark.parametrize("rate", [8000, 16_000, 44_100, 48_000])
@pytest.mark.parametrize("ending", [".wav", ".flac"])
def test_lossless_files_keep_length_frequency_and_level(tmp_path, ending, rate):
    samples = load_audio(write_audio(tmp_path / f"tone{ending}", sine(440, 1.0, rate), rate), None, RATE)
    assert samples.dtype == np.float32
    assert samples.shape == (RATE,)
    assert_tone(samples, 440, 0.5)


@pytest.mark.parametrize("ending", [".ogg", ".mp3", ".m4a", ".mp4"])
def test_lossy_files_keep_length_frequency_and_level(tmp_path, ending):
    samples = load_audio(write_audio(tmp_path / f"tone{ending}", sine(440, 1.0, 48_000), 48_000), None, RATE)
    assert RATE <= len(samples) <= RATE + 1500  # codecs pad to whole frames
    assert_tone(samples, 440, 0.5)


@pytest.mark.parametrize(
    "codec",
    [("pcm_s16le", "s16"), ("pcm_f32le", "flt"), ("pcm_u8", "u8"), ("pcm_s32le", "s32")],
)
def test_stereo_files_are_averaged_whatever_their_sample_format(tmp_path, codec):
    left = sine(440, 1.0, RATE)
    path = write_audio(tmp_path / "stereo.wav", np.stack([left, np.zeros_like(left)]), RATE, codec)
    assert np.abs(load_audio(path, None, RATE) - left / 2).max() < 0.01
    assert_tone(load_audio(path, None, 8000), 440, 0.25, 8000)


def test_audio_track_of_a_video(clip):
    samples = load_audio(clip, None, RATE)
    assert abs(len(samples) - 2 * RATE) <= 1024
    assert_tone(samples, 440, 0.5)


def test_video_without_audio(tmp_path):
    silent_clip = write_video(tmp_path / "silent.mp4", gray_frames(10))
    assert load_audio(silent_clip, None, RATE, missing_ok=True) is None
    with pytest.raises(ValueError, match=r"sample 3 \(silent.mp4\): no audio track.*leave audio out"):
        load_audio(silent_clip, None, RATE, name="sample 3 (silent.mp4)")


@pytest.mark.parametrize("rate", [8000, 44_100, 48_000, 48_013])
def test_arrays_keep_length_frequency_and_level(rate):
    samples = load_audio(sine(440, 1.0, rate), rate, RATE)
    assert samples.shape == (RATE,)
    assert_tone(samples, 440, 0.5)


def test_file_and_array_are_resampled_alike(tmp_path):
    path = write_audio(tmp_path / "tone.wav", sine(440, 1.0, 48_000), 48_000)
    assert np.array_equal(load_audio(path, None, RATE), load_audio(load_audio(path, None, 48_000), 48_000, RATE))


def test_every_form_of_array_gives_the_same():
    left = sine(440, 0.5, RATE)
    stereo = np.stack([left, np.zeros_like(left)])
    forms = [
        left,
        left.astype(np.float64),
        torch.from_numpy(left),
        left.tolist(),
        left[None],
        left[:, None],
    ]
    for form in forms:
        assert np.array_equal(load_audio(form, RATE, RATE), left)
    for form in [stereo, stereo.T, torch.from_numpy(stereo), stereo.tolist()]:
        assert np.array_equal(load_audio(form, RATE, RATE), left / 2)
    assert np.array_equal(load_audio({"array": left, "sampling_rate": RATE, "path": None}), left)


@pytest.mark.parametrize(("dtype", "scale"), [("int16", 2**15), ("int32", 2**31), ("int8", 2**7)])
def test_integers_are_scaled_by_the_range_of_their_type(dtype, scale):
    assert load_audio(np.array([0, scale // 2, -scale] * 200, dtype), RATE).tolist() == [0.0, 0.5, -1.0] * 200
    assert load_audio(np.array([128, 192, 0] * 200, "uint8"), RATE).tolist() == [0.0, 0.5, -1.0] * 200


def test_long_audio_is_cut_to_its_beginning_with_a_warning(tmp_path, warnings_of):
    tone = sine(440, 2.0, 48_000)
    path = write_audio(tmp_path / "tone.wav", tone, 48_000)
    for source in (path, tone):
        cut = load_audio(source, 48_000, RATE, max_seconds=0.5, name="sample 7")
        assert cut.shape == (RATE // 2,)
        assert np.abs(cut[:-100] - load_audio(source, 48_000, RATE)[: RATE // 2 - 100]).max() < 1e-4
    assert "tone.wav): the audio is longer than 0.5 s" in warnings_of()
    assert "sample 7: the audio is longer than 0.5 s" in warnings_of()


def test_a_cut_between_two_packets_is_reported(tmp_path, warnings_of):
    path = write_audio(tmp_path / "tone.wav", sine(440, 1.024, RATE), RATE)  # packets of 1024 samples
    assert len(load_audio(path, max_seconds=0.512, name="sample 7")) == round(0.512 * RATE)
    assert "tone.wav): the audio is longer than 0.512 s" in warnings_of()


def test_audio_of_the_maximum_length_gives_no_warning(tmp_path, warnings_of):
    path = write_audio(tmp_path / "tone.wav", sine(440, 0.5, RATE), RATE)
    assert len(load_audio(path, max_seconds=0.5)) == len(load_audio(path, max_seconds=None)) == RATE // 2
    assert warnings_of() == ""


def with_value(value):
    samples = sine(440, 0.1, RATE)
    samples[5] = value
    return samples


@pytest.mark.parametrize(
    ("array", "rate", "message"),
    [
        (np.zeros(9, np.float32), None, "needs sampling_rate, in Hz"),
        (np.zeros(9, np.float32), 0, "sampling_rate is 0 Hz"),
        (np.zeros(9, np.float32), 16, "sampling_rate is 16 Hz"),  # in kHz
        (np.zeros(9, np.float32), -16_000, "sampling_rate is -16000 Hz"),
        (np.zeros(9, np.float32), 10**7, "up to 768000"),
        (np.zeros(9, np.float32), float("nan"), "sampling_rate is nan"),
        (np.zeros(0, np.float32), RATE, "zero length.*Leave it out"),
        ([], RATE, "zero length"),
        (np.zeros((2, 0), np.float32), RATE, "zero length"),
        (
            np.zeros((2, 2, 9), np.float32),
            RATE,
            r"shape \(2, 2, 9\); expected \(samples,\).*one clip",
        ),
        (np.zeros((9, 20), np.float32), RATE, "at most 8 channels"),
        (np.array(1.0), RATE, r"shape \(\)"),
        (np.zeros(9, complex), RATE, "type complex128"),
        (np.array(["a", None], object), RATE, "type object.*int16"),
        (np.zeros(9, bool), RATE, "type bool"),
        (
            np.array([0, 12_000, -12_000] * 200, "int32"),
            RATE,
            "reach only 12000, as if of 16 bits. Give those as int16",
        ),
        ([0, 100, -100], RATE, "type int64, whose range is unknown"),
        ([[0.0, 1.0], [0.0]], RATE, "cannot convert the list to an array"),
        (torch.zeros(9, device="meta"), RATE, "cannot convert the Tensor to an array"),
        (np.frombuffer(b"RIFF....WAVEfmt ", np.uint8), RATE, "the bytes of a file as an array.*array.tobytes()"),
        (torch.tensor(list(b"\0\0\0\x20ftypisom....")).byte(), RATE, "the bytes of a file as an array"),
        (with_value(np.nan), RATE, "NaN or infinite"),
        (with_value(-np.inf), RATE, "NaN or infinite"),
        (with_value(12_000), RATE, "reaches 12000.*32768"),
    ],
)
def test_bad_audio_arrays(array, rate, message):
    with pytest.raises(ValueError, match=f"sample 3: .*{message}"):
        load_audio(array, rate, RATE, name="sample 3")


def test_nan_in_a_file_of_floats(tmp_path):
    path = write_audio(tmp_path / "nan.wav", with_value(np.nan), RATE, ("pcm_f32le", "flt"))
    with pytest.raises(ValueError, match="NaN or infinite"):
        load_audio(path, None, RATE)


def test_audio_file_without_samples(tmp_path, warnings_of):
    path = write_audio(tmp_path / "none.wav", sine(440, 1.0, RATE), RATE)
    header = path.read_bytes()[: path.read_bytes().find(b"data")] + b"data\0\0\0\0"
    assert load_audio(header, None, RATE, name="sample 3") is None
    assert "sample 3: only 0.000 s of audio; at least 0.025 s are needed" in warnings_of()


@pytest.mark.parametrize("kind", JUNK)
@pytest.mark.parametrize("missing_ok", [False, True])
def test_a_file_of_junk_does_not_count_as_silence(tmp_path, kind, missing_ok):
    """Nothing of it can be decoded, although FFmpeg finds the beginnings of frames in some junk."""
    path = tmp_path / "clip.wav"
    path.write_bytes(junk(kind))
    for source in (path, junk(kind)):
        with pytest.raises(ValueError, match="sample 3.*(not a readable media file|not audio, or damaged|empty)"):
            load_audio(source, None, RATE, name="sample 3", missing_ok=missing_ok)


def test_a_video_whose_audio_is_damaged_keeps_its_frames(tmp_path, warnings_of):
    path = write_video(tmp_path / "clip.mp4", gray_frames(8), audio=sine(440, 0.6, RATE))
    with av.open(path) as container:
        packets = [bytes(packet) for packet in container.demux(audio=0) if packet.size]
    content = path.read_bytes()
    for packet in packets:
        content = content.replace(packet, b"\xff" * len(packet))
    with pytest.raises(ValueError, match="not audio, or damaged"):
        load_audio(content)
    assert load_audio(content, missing_ok=True, name="sample 3") is None
    assert "sample 3: damaged audio" in warnings_of()
