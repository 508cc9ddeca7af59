"""Video: the right frames at the right times, upright, resized, and bad frames."""

import struct

import av
import numpy as np
import pytest
import torch
from PIL import Image

from processing_egmf import pictures_egmf, video_egmf
from processing_egmf.audio_egmf import load_audio
from processing_egmf.video_egmf import has_video, load_video
from tests.helpers.media_files import gray_frames, gray_index, sine, write_audio, write_video


RATE = 16_000
SMALL = Image.new("RGB", (8, 8))
TALL = Image.new("RGB", (8, 9))


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
    assert len(video) < 10  # a still image is given once


def test_long_videos_are_cut_to_their_beginning_with_a_warning(clip, warnings_of):
    expected = [int((index + 0.5) * 12.5 / 4) for index in range(4)]
    for source, fps in ((clip, None), (gray_frames(25), 12.5)):
        video = load_video(source, 4, fps=fps, max_seconds=1.0, name="sample 7")
        assert gray_index(video) == pytest.approx(expected, abs=1)
        assert warnings_of().count("the video is longer than 1 s") == 1 + (fps is not None)
        assert warnings_of().count("sample 7") == 1 + (fps is not None)
    assert gray_index(load_video(clip, 99, max_seconds=0.4)) == list(range(5))


def test_video_of_the_maximum_length_gives_no_warning(clip, warnings_of):
    load_video(clip, 4, max_seconds=2.0)
    load_video(gray_frames(25), 4, fps=12.5, max_seconds=2.0)
    assert warnings_of() == ""


def test_only_needed_frames_are_converted_and_decoding_stops(clip, monkeypatch):
    converted = []
    decoded = []
    to_rgb = video_egmf.frame_to_rgb
    decode = video_egmf.Track.decode
    monkeypatch.setattr(video_egmf, "frame_to_rgb", lambda *args: converted.append(1) or to_rgb(*args))

    def counted(*args):
        for frame in decode(*args):
            decoded.append(1)
            yield frame

    monkeypatch.setattr(video_egmf.Track, "decode", counted)
    load_video(clip, 3, max_seconds=0.5)
    assert len(converted) == 3
    assert len(decoded) <= 8


def test_rotation_stated_in_the_file_is_applied(tmp_path):
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
    forms = [
        frames,
        torch.from_numpy(frames),
        frames.transpose(0, 3, 1, 2),
        list(frames),
        images,
        tuple(images),
    ]
    forms += [
        frames / 255,
        (frames / 255).astype(np.float32),
        [Image.fromarray(frame[..., 0]) for frame in frames],
    ]
    for form in forms:
        video = load_video(form, 5, fps=10)
        assert np.array_equal(video, frames[[1, 3, 6, 8, 10]])
    without_fps = load_video(frames, 5)
    assert np.array_equal(without_fps, frames[[1, 3, 6, 8, 10]])
    assert np.array_equal(load_video(frames, 12), frames)


@pytest.mark.parametrize(
    ("frames", "fps", "message"),
    [
        ([], 10, "no frames"),
        (np.zeros((0, 8, 8, 3), np.uint8), 10, "no frames"),
        (np.array(1), 10, r"does not contain RGB frames.*got \(\)"),
        (np.zeros((8, 8, 2), np.uint8), 10, r"does not contain RGB frames.*got \(8, 8, 2\)"),
        (np.zeros((4, 8, 8, 1), np.uint8), 10, "does not contain RGB frames"),
        (np.zeros((4, 0, 8, 3), np.uint8), 10, "no frames"),
        (np.zeros((4, 8, 8, 3), np.int64), 10, "type int64; give uint8"),
        (np.zeros((4, 8, 8, 3), object), 10, "type object"),
        (np.full((4, 8, 8, 3), 1.5), 10, r"1.5; expected \[0, 1\].*Divide by 255"),
        (np.full((4, 8, 8, 3), -0.1), 10, r"expected \[0, 1\]"),
        (np.full((4, 8, 8, 3), np.nan), 10, r"expected \[0, 1\]"),
        ([SMALL, TALL], 10, r"different sizes.*Resize"),
        ([np.zeros((8, 8, 3)), np.zeros((9, 8, 3))], 10, "cannot convert the list to an array"),
        ([SMALL, np.zeros((8, 8, 3))], 10, "mixes PIL images"),
        (["a.png", "b.png"], 10, "does not contain RGB frames"),
        (np.zeros((4, 8, 8, 3), np.uint8), 0, "fps is 0"),
        (np.zeros((4, 8, 8, 3), np.uint8), float("inf"), "fps is inf"),
        (
            np.broadcast_to(np.uint8(0), (2, 4, 8193, 3)),
            10,
            "8193 x 4 pixels; each side may have at most 8192",
        ),
        ([Image.new("1", (8193, 2))], 10, "may have at most 8192"),
    ],
)
def test_bad_frames(frames, fps, message):
    with pytest.raises(ValueError, match=f"sample 3: .*{message}"):
        load_video(frames, 2, fps=fps, name="sample 3")


def test_huge_frames_in_a_file_are_refused(clip, monkeypatch):
    monkeypatch.setattr(pictures_egmf, "MAX_FRAME_SIDE", 63)
    with pytest.raises(ValueError, match="64 x 48 pixels; each side may have at most 63"):
        load_video(clip, 4)


def test_audio_without_video(tmp_path):
    for ending in (".m4a", ".mp4", ".wav"):
        path = write_audio(tmp_path / f"sound{ending}", sine(440, 0.5, RATE), RATE)
        with pytest.raises(ValueError, match="sample 3.*: no video track.*as `audio`"):
            load_video(path, 4, name="sample 3")


def test_a_cover_image_is_not_a_video(tmp_path):
    path = tmp_path / "song.mp3"
    with av.open(str(path), "w") as container:
        sound = container.add_stream("libmp3lame", rate=RATE)
        cover = container.add_stream("mjpeg", rate=1)
        cover.width = 64
        cover.height = 48
        cover.pix_fmt = "yuvj420p"
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


def test_content_of_a_file_decides_whether_it_has_video(tmp_path, clip):
    song = write_audio(tmp_path / "song.mp4", sine(440, 0.5, RATE), RATE)
    assert has_video(clip) and has_video(clip.read_bytes())
    assert not has_video(song)
    with pytest.raises(ValueError, match="sample 3: cannot read media from list. Give a path"):
        has_video([SMALL], "sample 3")
