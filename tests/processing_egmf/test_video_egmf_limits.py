"""Bounds on the decoding of video: seeking, budgets of pixels, samples and seconds, and blank clips."""

import struct

import numpy as np
import pytest

from processing_egmf import media_egmf, video_egmf
from processing_egmf.audio_egmf import load_audio
from processing_egmf.video_egmf import FrameTimes, load_video, plan_seeks
from tests.helpers.media_files import gray_frames, gray_index, write_video


@pytest.fixture
def decoded(monkeypatch):
    """Counts the frames that are decoded."""
    counts = []
    decode = video_egmf.Track.decode

    def counted(*arguments):
        for frame in decode(*arguments):
            counts.append(1)
            yield frame

    monkeypatch.setattr(video_egmf.Track, "decode", counted)
    return counts


@pytest.mark.parametrize("ending", [".mp4", ".mkv"])
@pytest.mark.parametrize("key_interval", ["12", "20"])
def test_seeking_gives_the_same_frames_and_decodes_fewer(tmp_path, monkeypatch, decoded, ending, key_interval):
    frames = np.concatenate([gray_frames(60), gray_frames(60)[::-1], gray_frames(60)])
    options = {"g": key_interval, "sc_threshold": "0"}
    path = write_video(tmp_path / f"clip{ending}", frames, 25, codec_options=options)
    found = load_video(path, 3)
    assert gray_index(found) == [30, 29, 30]
    num_decoded = len(decoded)
    assert num_decoded < 110
    monkeypatch.setattr(video_egmf, "SEEKABLE", ())
    assert np.array_equal(found, load_video(path, 3))
    assert len(decoded) - num_decoded > 150


def test_a_seek_that_fails_decodes_from_the_start(tmp_path, monkeypatch, decoded):
    frames = np.concatenate([gray_frames(60), gray_frames(60)[::-1]])
    path = write_video(tmp_path / "clip.mkv", frames, 25, codec_options={"g": "12", "sc_threshold": "0"})
    found = load_video(path, 2)
    monkeypatch.setattr(video_egmf, "_seek_ticks", lambda packet, track: 10**9)  # past the end
    assert np.array_equal(found, load_video(path, 2))


def test_the_plan_of_a_clip():
    times = [index / 10 for index in range(100)]
    clip = FrameTimes(times, 10.0, {0: 0, 30: 30, 60: 60, 90: 90})
    indices = [2, 62, 70, 98]
    assert plan_seeks(clip, indices) == ({62: 60, 98: 90}, 3 + 11 + 9)
    assert plan_seeks(clip._replace(key_frames={}), indices) == ({}, 99)
    assert plan_seeks(clip, range(100)) == ({}, 100)


def test_too_many_pixels_are_refused_before_decoding(clip, monkeypatch, decoded):
    monkeypatch.setattr(media_egmf, "PIXELS_PER_SECOND", 1000)
    with pytest.raises(
        ValueError, match="24 frames of 64 x 48 pixels must be decoded, about 74 s .*`max_decode_seconds`"
    ):
        load_video(clip, 10)
    assert decoded == []
    assert len(load_video(clip, 10, max_decode_seconds=None)) == 10


def test_too_long_decoding_is_an_error(clip, monkeypatch):
    seconds = iter(range(1000))
    monkeypatch.setattr(media_egmf.time, "monotonic", lambda: next(seconds))
    for load in (load_audio, lambda clip, **options: load_video(clip, 4, **options)):
        with pytest.raises(ValueError, match="sample 3 .*decoding takes longer than 5 s.*`max_decode_seconds`"):
            load(clip, name="sample 3", max_decode_seconds=5)


def test_frames_of_too_many_pixels_are_refused(clip, monkeypatch):
    monkeypatch.setattr(video_egmf, "MAX_FRAME_PIXELS", 64 * 48 - 1)
    with pytest.raises(ValueError, match="64 x 48 pixels; .*a frame at most 0 million. Scale the video down"):
        load_video(clip, 4)


@pytest.mark.parametrize("sample_size", [0, 100])
def test_a_file_that_declares_millions_of_samples_is_refused(clip, sample_size):
    data = bytearray(clip.read_bytes())
    start = data.find(b"stsz") + 8
    data[start : start + 8] = struct.pack(">II", sample_size, 50_000_000)
    for load in (
        lambda: load_video(bytes(data), 4, name="sample 3"),
        lambda: load_audio(bytes(data), name="sample 3"),
    ):
        with pytest.raises(ValueError, match="sample 3: the file declares 500000.. samples; at most 2000000"):
            load()


def test_boxes_within_boxes_end():
    nested = b""
    for _ in range(3000):
        nested = struct.pack(">I4s", 8 + len(nested), b"moov") + nested
    with pytest.raises(ValueError, match="not a readable media file|no video track"):
        load_video(struct.pack(">I4s8s", 16, b"ftyp", b"isom0000") + nested, 4)


@pytest.mark.parametrize("level", [0, 90])
def test_a_clip_of_one_color_is_left_out(tmp_path, level, warnings_of):
    path = write_video(tmp_path / "black.mp4", np.full((10, 48, 64, 3), level, np.uint8))
    assert load_video(path, 4, size=(32, 32)) is None
    assert "black.mp4): all frames are of one color. Video is left out." in warnings_of()
    assert load_video(np.full((10, 48, 64, 3), level, np.uint8), 4) is None


def test_frames_are_scaled_as_they_are_decoded(clip):
    small = load_video(clip, 4, size=(24, 32))
    assert small.shape == (4, 24, 32, 3)
    assert gray_index(small) == gray_index(load_video(clip, 4))
