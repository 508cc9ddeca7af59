"""What goes in is what was recorded: the right sound, the right frames at the right times, or a clear refusal."""

import builtins
import io
import os
import struct
import sys

import av
import numpy as np
import pytest
import torch
from PIL import Image

from processing_egmf import video_egmf
from processing_egmf.audio_egmf import load_audio
from processing_egmf.video_egmf import load_video, resize_frames
from tests.helpers.media_files import gray_frames, gray_index, sine, write_audio, write_video


RATE = 16_000


def assert_tone(samples, frequency, level, sampling_rate=RATE):
    """The strongest frequency and the level of the middle of a sound."""
    middle = samples[len(samples) // 5 : -(len(samples) // 5)]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert spectrum.argmax() * sampling_rate / len(middle) == pytest.approx(frequency, abs=4)
    assert np.sqrt(2 * (middle.astype(np.float64) ** 2).mean()) == pytest.approx(level, rel=0.06)  # LAME is 5% softer


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """2 s: 25 gray frames at 12.5 a second with a tone of 440 Hz."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    return write_video(path, gray_frames(25), 12.5, sine(440, 2.0, RATE))


@pytest.fixture(scope="module")
def silent_clip(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("silent") / "silent.mp4", gray_frames(10))


@pytest.fixture
def warnings_of(caplog):
    return lambda: " ".join(record.getMessage() for record in caplog.records)


# ---- sound ---------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("codec", [("pcm_s16le", "s16"), ("pcm_f32le", "flt"), ("pcm_u8", "u8"), ("pcm_s32le", "s32")])
def test_stereo_files_are_averaged_whatever_their_sample_format(tmp_path, codec):
    left = sine(440, 1.0, RATE)
    path = write_audio(tmp_path / "stereo.wav", np.stack([left, np.zeros_like(left)]), RATE, codec)
    assert np.abs(load_audio(path, None, RATE) - left / 2).max() < 0.01
    assert_tone(load_audio(path, None, 8000), 440, 0.25, 8000)


def test_the_sound_track_of_a_video(clip):
    samples = load_audio(clip, None, RATE)
    assert abs(len(samples) - 2 * RATE) <= 1024
    assert_tone(samples, 440, 0.5)


def test_a_video_without_sound(silent_clip):
    assert load_audio(silent_clip, None, RATE, missing_ok=True) is None
    with pytest.raises(ValueError, match=r"sample 3 \(silent.mp4\): no audio track.*leave audio out"):
        load_audio(silent_clip, None, RATE, name="sample 3 (silent.mp4)")


@pytest.mark.parametrize("form", [str, lambda path: path.read_bytes(), lambda path: bytearray(path.read_bytes())])
def test_path_bytes_and_dict_give_the_same(clip, form):
    source = form(clip)
    key = "path" if isinstance(source, str) else "bytes"
    for same in (source, {key: source}):
        assert np.array_equal(load_audio(same, None, RATE), load_audio(clip, None, RATE))
        assert np.array_equal(load_video(same, 4), load_video(clip, 4))


def test_a_file_object_serves_sound_and_pictures_and_stays_where_it_was(clip):
    with open(clip, "rb") as file:
        file.seek(7)
        for _ in range(2):
            assert np.array_equal(load_audio(file, None, RATE), load_audio(clip, None, RATE))
            assert np.array_equal(load_video(file, 4), load_video(clip, 4))
        assert file.tell() == 7
    assert np.array_equal(load_audio(io.BytesIO(clip.read_bytes())), load_audio(clip))


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
    forms = [left, left.astype(np.float64), torch.from_numpy(left), left.tolist(), left[None], left[:, None]]
    for form in forms:
        assert np.array_equal(load_audio(form, RATE, RATE), left)
    for form in [stereo, stereo.T, torch.from_numpy(stereo), stereo.tolist()]:
        assert np.array_equal(load_audio(form, RATE, RATE), left / 2)
    assert np.array_equal(load_audio({"array": left, "sampling_rate": RATE, "path": None}), left)


@pytest.mark.parametrize(("dtype", "scale"), [("int16", 2**15), ("int32", 2**31), ("int8", 2**7)])
def test_integers_are_scaled_by_the_range_of_their_type(dtype, scale):
    assert load_audio(np.array([0, scale // 2, -scale] * 200, dtype), RATE).tolist() == [0.0, 0.5, -1.0] * 200
    assert load_audio(np.array([128, 192, 0] * 200, "uint8"), RATE).tolist() == [0.0, 0.5, -1.0] * 200


def test_long_sound_is_cut_to_its_beginning_with_a_warning(tmp_path, warnings_of):
    tone = sine(440, 2.0, 48_000)
    path = write_audio(tmp_path / "tone.wav", tone, 48_000)
    for source in (path, tone):
        cut = load_audio(source, 48_000, RATE, max_seconds=0.5, name="sample 7")
        assert cut.shape == (RATE // 2,)
        assert np.abs(cut[:-100] - load_audio(source, 48_000, RATE)[: RATE // 2 - 100]).max() < 1e-4
    assert "sample 7: the audio is longer than 0.5 s" in warnings_of()


def test_a_cut_that_falls_between_two_packets_is_told(tmp_path, warnings_of):
    path = write_audio(tmp_path / "tone.wav", sine(440, 1.024, RATE), RATE)  # packets of 1024 samples
    assert len(load_audio(path, max_seconds=0.512, name="sample 7")) == round(0.512 * RATE)
    assert "sample 7: the audio is longer than 0.512 s" in warnings_of()


def test_sound_as_long_as_allowed_brings_no_warning(tmp_path, warnings_of):
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
        (np.zeros(9, np.float32), -16_000, "sampling_rate is -16000 Hz"),
        (np.zeros(9, np.float32), 10**7, "up to 768000"),
        (np.zeros(9, np.float32), float("nan"), "sampling_rate is nan"),
        (np.zeros(0, np.float32), RATE, "zero length.*Leave it out"),
        ([], RATE, "zero length"),
        (np.zeros((2, 0), np.float32), RATE, "zero length"),
        (np.zeros((2, 2, 9), np.float32), RATE, r"shape \(2, 2, 9\); expected \(samples,\).*one clip"),
        (np.zeros((9, 20), np.float32), RATE, "at most 8 channels"),
        (np.array(1.0), RATE, r"shape \(\)"),
        (np.zeros(9, complex), RATE, "type complex128"),
        (np.array(["a", None], object), RATE, "type object.*int16"),
        (np.zeros(9, bool), RATE, "type bool"),
        ([0, 100, -100], RATE, "type int64, whose range is unknown"),
        ([[0.0, 1.0], [0.0]], RATE, "cannot be made one array"),
        (with_value(np.nan), RATE, "NaN or infinite"),
        (with_value(-np.inf), RATE, "NaN or infinite"),
        (with_value(12_000), RATE, "reaches 12000.*32768"),
    ],
)
def test_bad_arrays_of_sound(array, rate, message):
    with pytest.raises(ValueError, match=f"sample 3: .*{message}"):
        load_audio(array, rate, RATE, name="sample 3")


def test_nan_in_a_file_of_floats(tmp_path):
    path = write_audio(tmp_path / "nan.wav", with_value(np.nan), RATE, ("pcm_f32le", "flt"))
    with pytest.raises(ValueError, match="NaN or infinite"):
        load_audio(path, None, RATE)


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_bad_max_seconds(clip, seconds):
    with pytest.raises(ValueError, match="max_seconds is"):
        load_audio(clip, max_seconds=seconds)
    with pytest.raises(ValueError, match="max_seconds is"):
        load_video(clip, 4, max_seconds=seconds)


# ---- pictures ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fps", [12.5, 24_000 / 1001, 30_000 / 1001, 60])
@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".avi", ".ts"])
def test_the_frame_in_the_middle_of_each_span_is_taken(tmp_path, ending, fps):
    video = load_video(write_video(tmp_path / f"clip{ending}", gray_frames(50), fps), 8)
    expected = [int((index + 0.5) * 50 / 8) for index in range(8)]
    assert video.dtype == np.uint8
    assert video.shape == (8, 48, 64, 3)
    assert gray_index(video) == expected


@pytest.mark.parametrize("num_frames", [1, 2, 5, 12, 13, 24])
def test_any_number_of_frames(clip, num_frames):
    expected = [int((index + 0.5) * 25 / num_frames + 1e-9) for index in range(num_frames)]
    assert gray_index(load_video(clip, num_frames)) == expected


@pytest.mark.parametrize("num_frames", [25, 26, 100])
def test_a_clip_of_few_frames_gives_each_once(clip, num_frames):
    video = load_video(clip, num_frames)
    assert gray_index(video) == list(range(25))


def test_one_frame(tmp_path):
    video = load_video(write_video(tmp_path / "one.mp4", gray_frames(1)), 8)
    assert gray_index(video) == [0]


def test_a_variable_frame_rate_is_sampled_in_time(tmp_path):
    # Twenty frames in the first second, then five that stay for a second each.
    timestamps = [index / 20 for index in range(20)] + [1.0, 2.0, 3.0, 4.0, 5.0]
    video = load_video(write_video(tmp_path / "vfr.mkv", gray_frames(25), 20, timestamps=timestamps), 10)
    shown = [
        max(i for i, time in enumerate(timestamps) if time <= middle) for middle in np.arange(10) * 0.505 + 0.2525
    ]
    assert gray_index(video) == sorted(set(shown))
    assert len(video) < 10  # a picture that stands still is given once


def test_long_videos_are_cut_to_their_beginning_with_a_warning(clip, warnings_of):
    expected = [int((index + 0.5) * 12.5 / 4) for index in range(4)]
    for source, fps in ((clip, None), (gray_frames(25), 12.5)):
        video = load_video(source, 4, fps=fps, max_seconds=1.0, name="sample 7")
        assert gray_index(video) == pytest.approx(expected, abs=1)
        assert warnings_of().count("sample 7: the video is longer than 1 s") == 1 + (fps is not None)
    assert gray_index(load_video(clip, 99, max_seconds=0.4)) == list(range(5))


def test_a_video_as_long_as_allowed_brings_no_warning(clip, warnings_of):
    load_video(clip, 4, max_seconds=2.0)
    load_video(gray_frames(25), 4, fps=12.5, max_seconds=2.0)
    assert warnings_of() == ""


def test_only_what_is_needed_is_converted_and_decoding_stops(clip, monkeypatch):
    converted, decoded = [], []
    upright, decode = video_egmf._to_upright_rgb, video_egmf.decode_frames
    monkeypatch.setattr(video_egmf, "_to_upright_rgb", lambda *args: converted.append(1) or upright(*args))

    def counted(*args):
        for frame in decode(*args):
            decoded.append(1)
            yield frame

    monkeypatch.setattr(video_egmf, "decode_frames", counted)
    load_video(clip, 3, max_seconds=0.5)
    assert len(converted) == 3
    assert len(decoded) <= 8


def test_rotation_noted_in_the_file_is_applied(tmp_path):
    frames = np.zeros((3, 48, 64, 3), np.uint8)
    frames[:, :, 32:] = 255  # right half white
    data = bytearray(write_video(tmp_path / "clip.mp4", frames).read_bytes())
    matrix = data.find(b"tkhd") + 44
    data[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    turned = load_video(bytes(data), 3)
    assert turned.shape == (3, 64, 48, 3)  # a quarter clockwise: right goes down
    assert turned[:, 40:].min() > 200
    assert turned[:, :24].max() < 50


def test_every_form_of_frames_gives_the_same():
    frames = gray_frames(12)
    images = [Image.fromarray(frame) for frame in frames]
    forms = [frames, torch.from_numpy(frames), frames.transpose(0, 3, 1, 2), list(frames), images, tuple(images)]
    forms += [frames / 255, (frames / 255).astype(np.float32), [Image.fromarray(frame[..., 0]) for frame in frames]]
    for form in forms:
        video = load_video(form, 5, fps=10)
        assert np.array_equal(video, frames[[1, 3, 6, 8, 10]])
    without_fps = load_video(frames, 5)
    assert np.array_equal(without_fps, frames[[1, 3, 6, 8, 10]])
    assert np.array_equal(load_video(frames, 12), frames)


SMALL, TALL = Image.new("RGB", (8, 8)), Image.new("RGB", (8, 9))


@pytest.mark.parametrize(
    ("frames", "fps", "message"),
    [
        ([], 10, "no frames"),
        (np.zeros((0, 8, 8, 3), np.uint8), 10, "no frames"),
        (np.array(1), 10, r"holds no RGB frames.*got \(\)"),
        (np.zeros((8, 8, 3), np.uint8), 10, r"holds no RGB frames.*got \(8, 8, 3\)"),
        (np.zeros((4, 8, 8, 1), np.uint8), 10, "holds no RGB frames"),
        (np.zeros((4, 0, 8, 3), np.uint8), 10, "no frames"),
        (np.zeros((4, 8, 8, 3), np.int64), 10, "type int64; give uint8"),
        (np.zeros((4, 8, 8, 3), object), 10, "type object"),
        (np.full((4, 8, 8, 3), 1.5), 10, r"1.5; expected \[0, 1\].*Divide by 255"),
        (np.full((4, 8, 8, 3), -0.1), 10, r"expected \[0, 1\]"),
        (np.full((4, 8, 8, 3), np.nan), 10, r"expected \[0, 1\]"),
        ([SMALL, TALL], 10, r"differing sizes.*Resize"),
        ([np.zeros((8, 8, 3)), np.zeros((9, 8, 3))], 10, "cannot be made one array"),
        ([SMALL, np.zeros((8, 8, 3))], 10, "mixes PIL images"),
        (["a.png", "b.png"], 10, "holds no RGB frames"),
        (np.zeros((4, 8, 8, 3), np.uint8), 0, "fps is 0"),
        (np.zeros((4, 8, 8, 3), np.uint8), float("inf"), "fps is inf"),
        (np.broadcast_to(np.uint8(0), (2, 4, 8193, 3)), 10, "8193 x 4 pixels; each side may have at most 8192"),
        ([Image.new("1", (8193, 2))], 10, "may have at most 8192"),
    ],
)
def test_bad_frames(frames, fps, message):
    with pytest.raises(ValueError, match=f"sample 3: .*{message}"):
        load_video(frames, 2, fps=fps, name="sample 3")


def test_bad_num_frames(clip):
    with pytest.raises(ValueError, match="num_frames is 0"):
        load_video(clip, 0)


def test_huge_pictures_in_a_file_are_refused(clip, monkeypatch):
    monkeypatch.setattr(video_egmf, "MAX_FRAME_SIDE", 63)
    with pytest.raises(ValueError, match="64 x 48 pixels; each side may have at most 63"):
        load_video(clip, 4)


def test_sound_without_pictures(tmp_path):
    for ending in (".m4a", ".mp4", ".wav"):
        path = write_audio(tmp_path / f"sound{ending}", sine(440, 0.5, RATE), RATE)
        with pytest.raises(ValueError, match="sample 3: no video track.*as `audio`"):
            load_video(path, 4, name="sample 3")


def test_resize_crops_the_middle_and_smooths():
    frames = np.zeros((2, 40, 80, 3), np.uint8)
    frames[:, :, 20:60] = np.arange(40)[None, None, :, None] % 2 * 200  # stripes in the middle, black beside them
    resized = resize_frames(frames, (10, 10))
    assert resized.shape == (2, 10, 10, 3)
    assert resized.dtype == np.uint8
    assert np.abs(resized[:, :, 1:-1].astype(int) - 100).max() <= 15  # no black, no aliasing
    assert resize_frames(frames[:, :, :, ::-1], (20, 5)).shape == (2, 20, 5, 3)
    assert resize_frames(np.full((1, 3, 5, 3), 77, np.uint8), (8, 8)).tolist() == np.full((1, 8, 8, 3), 77).tolist()
    assert resize_frames(frames, (40, 80)) is frames
    for bad in (frames[0], frames.astype(np.float32), frames[:, :0]):
        with pytest.raises(ValueError, match="expected uint8"):
            resize_frames(bad, (10, 10))


# ---- files that cannot be used -------------------------------------------------------------------------------


def both(source, match, error=ValueError):
    with pytest.raises(error, match=f"sample 3.*: .*{match}"):
        load_audio(source, None, RATE, name="sample 3", missing_ok=True)
    with pytest.raises(error, match=f"sample 3.*: .*{match}"):
        load_video(source, 4, name="sample 3")


def test_missing_directory_empty_and_foreign_files(tmp_path, clip):
    both(tmp_path / "none.mp4", "no file .*none.mp4.*Check the path", FileNotFoundError)
    both(str(tmp_path), "is a directory")
    both("/dev/zero", "a directory or a device")
    (tmp_path / "empty.mp4").touch()
    both(tmp_path / "empty.mp4", "empty, 0 bytes")
    with pytest.raises(ValueError, match=r"sample 3 \(.*/empty\.mp4\): empty"):
        load_video(tmp_path / "empty.mp4", 4, name="sample 3")
    both(b"", "empty, 0 bytes")
    for ending in ("mp4", "wav", "mp3", "mpg"):
        (tmp_path / f"text.{ending}").write_text("This is a text.\n" * 200)
        both(tmp_path / f"text.{ending}", "not a media file.*Convert")
    both(clip.read_bytes()[:20], "not a media file")
    both(42, "cannot read media from int")
    both(None, "cannot read media from NoneType")
    both({"path": None, "bytes": None}, "holds no media")
    both(io.StringIO("text"), "open\\(path, 'rb'\\)")


def test_a_file_that_may_not_be_read(clip, monkeypatch):
    def refuse(path, *args, **kwargs):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(builtins, "open", refuse)
    both(clip, "cannot be read .*Permission denied.*permissions")


@pytest.mark.parametrize(
    "url", ["http://x.org/a.mp4", "https://x.org/a.mp4", "file:///etc/passwd", "rtsp://x", "data:,"]
)
def test_urls_are_refused(url):
    both(url, "is a URL.*download the file first")
    both({"path": url}, "is a URL")


@pytest.mark.parametrize("as_bytes", [False, True])
def test_playlists_never_reach_another_file(tmp_path, monkeypatch, as_bytes):
    monkeypatch.chdir(tmp_path)
    secret = write_audio(tmp_path / "secret.wav", sine(440, 1.0, RATE), RATE)
    hls = "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n"
    concat = "ffconcat version 1.0\nfile secret.wav\n"
    playlists = {
        "list.m3u8": hls.format("secret.wav"),
        "list.mp4": hls.format(f"file://{secret}"),
        "list.ffconcat": concat,
        "list.wav": concat,
        "list.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 9999 RTP/AVP 0\n",
        "list.mpd": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" profiles="urn:mpeg:dash:profile">'
        "<Period><AdaptationSet><Representation><BaseURL>secret.wav</BaseURL></Representation></AdaptationSet>"
        "</Period></MPD>",
    }
    for file_name, text in playlists.items():
        (tmp_path / file_name).write_text(text)

    # Reading sets a time of access that is older than the modification; not every file system keeps it.
    os.utime(secret, (1, 2**31 - 1))
    with open("list.ffconcat", "rb") as file, av.open(file) as container:  # what happens without our guard
        assert container.streams.audio
    is_kept = os.stat(secret).st_atime != 1

    os.utime(secret, (1, 2**31 - 1))
    for file_name in playlists:
        path = tmp_path / file_name
        both(path.read_bytes() if as_bytes else path, "not a media file.*Playlists are refused")
    for path in ("concat:secret.wav", "subfile,,start,0,end,0,,:secret.wav", "file:secret.wav", "async:secret.wav"):
        both(path, "there is no file", FileNotFoundError)
    assert os.stat(secret).st_atime == 1 or not is_kept


@pytest.mark.parametrize("ending", [".mkv", ".ts", ".mp4"])
def test_a_file_cut_in_half_gives_what_is_there_with_a_warning(tmp_path, ending, warnings_of):
    noise = np.random.default_rng(0).integers(0, 255, (40, 48, 64, 3), np.uint8)
    frames = np.concatenate([gray_frames(20), noise])
    options = {"movflags": "faststart"} if ending == ".mp4" else None
    data = write_video(tmp_path / f"whole{ending}", frames, 20, options=options).read_bytes()
    video = load_video(data[: len(data) // 2], 99, name="sample 3")
    assert gray_index(video[:20]) == list(range(20))
    assert 20 < len(video) < 50
    if ending == ".mp4":  # the others do not say how long they should be
        assert "sample 3" in warnings_of()


def test_an_mp4_without_its_index_is_refused(clip):
    data = clip.read_bytes()
    both(data[: data.find(b"moov") - 4], "not a media file|no video|no audio")


def test_damage_in_the_middle_is_told(tmp_path, warnings_of):
    data = bytearray(write_audio(tmp_path / "tone.mp3", sine(440, 2.0, RATE), RATE).read_bytes())
    data[len(data) // 2 : len(data) // 2 + 200] = bytes(range(200))
    samples = load_audio(bytes(data), None, RATE, name="sample 3")
    assert RATE < len(samples) < 2 * RATE
    assert "sample 3: damaged audio (1 errors" in warnings_of()

    noise = np.random.default_rng(0).integers(0, 255, (40, 48, 64, 3), np.uint8)
    data = bytearray(write_video(tmp_path / "noise.mkv", noise).read_bytes())
    data[len(data) // 2 : len(data) // 2 + 5000] = bytes(5000)
    assert len(load_video(bytes(data), 99, name="sample 4")) > 10
    assert "sample 4: damaged video" in warnings_of()


def test_sound_and_pictures_of_no_length(tmp_path):
    path = write_audio(tmp_path / "none.wav", sine(440, 1.0, RATE), RATE)
    header = path.read_bytes()[: path.read_bytes().find(b"data")] + b"data\0\0\0\0"
    with pytest.raises(ValueError, match="sample 3: only 0 samples of audio|sample 3: not a media file"):
        load_audio(header, None, RATE, name="sample 3")


def test_a_cover_picture_is_no_video(tmp_path):
    path = tmp_path / "song.mp3"
    with av.open(str(path), "w") as container:
        sound = container.add_stream("libmp3lame", rate=RATE)
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        frame = av.AudioFrame.from_ndarray(sine(440, 1.0, RATE)[None], "fltp", "mono")
        frame.sample_rate = RATE
        container.mux(cover.encode(av.VideoFrame.from_ndarray(gray_frames(1)[0], format="rgb24")))
        container.mux([*sound.encode(frame), *sound.encode(None)])
    with av.open(str(path)) as container:
        assert len(container.streams.video) == 1
    assert len(load_audio(path, None, RATE)) >= RATE
    with pytest.raises(ValueError, match="no video track"):
        load_video(path, 4)


def test_a_title_in_an_old_encoding_is_no_hindrance(tmp_path):
    path = write_audio(tmp_path / "tone.wav", sine(440, 0.5, RATE), RATE, title="QQQQQQ")
    data = path.read_bytes()
    assert b"QQQQQQ" in data
    assert len(load_audio(data.replace(b"QQQQQQ", b"caf\xe9\xff\xfe"), None, RATE)) == RATE // 2


def test_without_pyav_the_message_names_it_and_arrays_still_work(clip, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match="pip install av"):
        load_audio(clip, None, RATE)
    with pytest.raises(ImportError, match="pip install av"):
        load_video(clip, 4)
    assert len(load_audio(sine(440, 0.5, RATE), RATE, RATE)) == RATE // 2
    assert len(load_video(gray_frames(9), 4)) == 4
