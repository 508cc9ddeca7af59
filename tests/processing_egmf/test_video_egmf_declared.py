"""What a video file declares about itself is honored: pixel aspect, mirroring, colors, transparency, tracks."""

import struct
from fractions import Fraction

import av
import numpy as np
import pytest

from processing_egmf import pictures_egmf
from processing_egmf.audio_egmf import load_audio
from processing_egmf.video_egmf import load_video
from tests.helpers.media_files import gray_frames, gray_index, sine, write_video


RATE = 16_000


def halves(count=3, height=48, width=64):
    """Black frames with a white right half."""
    frames = np.zeros((count, height, width, 3), np.uint8)
    frames[:, :, width // 2 :] = 255
    return frames


@pytest.mark.parametrize(("aspect", "shape"), [(2, (48, 128)), (Fraction(1, 2), (96, 64)), (1, (48, 64))])
@pytest.mark.parametrize("ending", [".mp4", ".mkv"])
def test_pixels_are_shown_in_their_aspect(tmp_path, ending, aspect, shape):
    path = write_video(tmp_path / f"clip{ending}", halves(), sample_aspect_ratio=aspect)
    frames = load_video(path, 2)
    assert frames.shape == (2, *shape, 3)
    assert frames[:, :, shape[1] // 2 + 4 :].min() > 200
    letterboxed = load_video(path, 2, size=(32, 32))
    bars = round(32 * (1 - min(shape) / max(shape)) / 2)
    if shape[1] > shape[0]:
        assert (letterboxed[:, : bars - 1] == 128).all()
        assert (letterboxed[:, bars + 1, -4:] > 200).all()


@pytest.mark.parametrize(
    ("codec", "pixel_format"), [("ffv1", "gray"), ("ffv1", "gray16le"), ("jpeg2000", "gray"), ("libx264", "gray")]
)
def test_gray_without_a_declared_range_is_read_as_ffmpeg_reads_it(tmp_path, codec, pixel_format):
    """Gray formats in full range; H.264, whose gray is decoded with colors, in the limited range of its standard."""
    ramp = np.tile(np.linspace(0, 255, 64).astype(np.uint8)[:, None], (2, 48, 1, 3))
    path = write_video(tmp_path / "gray.mkv", ramp, codec=codec, pixel_format=pixel_format)
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
    graph = av.filter.Graph()
    source = graph.add_buffer(width=64, height=48, format=frame.format.name, time_base=Fraction(1, 1000))
    conversion = graph.add("format", "pix_fmts=rgb24")
    graph.link_nodes(source, graph.add("scale"), conversion, graph.add("buffersink")).configure()
    graph.vpush(frame)
    expected = graph.vpull().to_ndarray()
    actual = load_video(path, 1)[0]
    assert np.abs(actual.astype(int) - expected).max() <= 2
    if codec != "libx264":
        assert np.abs(actual.astype(int) - ramp[0]).max() <= 2


def test_an_impossible_aspect_is_named(tmp_path, monkeypatch, warnings_of):
    monkeypatch.setattr(pictures_egmf, "MAX_STRETCH", 1.5)
    path = write_video(tmp_path / "clip.mp4", halves(), sample_aspect_ratio=2)
    assert load_video(path, 2).shape == (2, 48, 64, 3)
    assert "clip.mp4): pixels 2 times as wide as high" in warnings_of()


def with_matrix(path, entries):
    """The content of an mp4 file with another display matrix."""
    data = bytearray(path.read_bytes())
    start = data.find(b"tkhd") + 44
    xx, xy, yx, yy = (entry << 16 for entry in entries)
    data[start : start + 36] = struct.pack(">9i", xx, xy, 0, yx, yy, 0, 0, 0, 1 << 30)
    return bytes(data)


def test_a_mirrored_video(tmp_path):
    frames = load_video(with_matrix(write_video(tmp_path / "clip.mp4", halves()), (-1, 0, 0, 1)), 2)
    assert frames[:, :, :24].min() > 200
    assert frames[:, :, 40:].max() < 50


def test_a_turned_video_with_wide_pixels(tmp_path):
    path = write_video(tmp_path / "clip.mp4", halves(), sample_aspect_ratio=2)
    frames = load_video(with_matrix(path, (0, 1, -1, 0)), 2)
    assert frames.shape == (2, 128, 48, 3)
    assert frames[:, 72:].min() > 200


@pytest.mark.parametrize("space", [1, 5])  # BT.709, BT.601
@pytest.mark.parametrize("color_range", [1, 2])  # limited, full
def test_colors_are_converted_as_declared(tmp_path, space, color_range):
    color = np.array([200, 60, 30], np.uint8)
    frames = np.full((2, 48, 64, 3), color)
    frames[:, :8] = 0
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt, stream.options = 64, 48, "yuv420p", {"crf": "1"}
        stream.codec_context.colorspace = space
        stream.codec_context.color_range = color_range
        for pixels in frames:
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame = frame.reformat(format="yuv420p", dst_colorspace=space, dst_color_range=color_range)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert np.abs(load_video(path, 1)[0, 30, 30].astype(int) - color).max() <= 4


@pytest.mark.parametrize(("height", "error"), [(576, 0), (578, 8)])
def test_an_untagged_video_above_standard_definition_has_the_colors_of_hd(tmp_path, height, error):
    frames = np.full((1, height, 64, 3), (200, 60, 30), np.uint8)
    frames[:, :8] = 0
    path = write_video(tmp_path / "clip.mp4", frames)  # encoded as BT.601, and without a tag
    red, green, _ = load_video(path, 1)[0, height // 2, 32].astype(int)
    assert abs(red - 200) + abs(green - 60) == pytest.approx(2.6 * error, abs=5)


def test_an_interlaced_video_shows_one_moment(tmp_path):
    frames = halves()
    frames[:, 1::2] = frames[:, 1::2, ::-1]  # the lines of the other field are mirrored
    path = write_video(tmp_path / "clip.mp4", frames, codec_options={"x264-params": "tff=1"})
    shown = load_video(path, 1)[0]
    assert shown.shape == (48, 64, 3)
    assert shown[:, :28].max() < 50
    assert shown[:, 36:].min() > 200


def test_a_phone_video_of_high_dynamic_range_is_tone_mapped(tmp_path):
    levels = np.linspace(0, 65535, 64).astype(np.uint16)
    ramp = np.broadcast_to(levels[None, :, None], (48, 64, 3))
    path = tmp_path / "hlg.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p10le"
        context = stream.codec_context
        context.colorspace, context.color_range, context.color_trc, context.color_primaries = 9, 1, 18, 9
        for _ in range(2):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(ramp), format="rgb48le")
            frame = frame.reformat(format="yuv420p10le", dst_colorspace="BT2020", dst_color_range="MPEG")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    gray = load_video(path, 1)[0, 24].astype(int)
    assert np.ptp(gray, axis=1).max() <= 6
    assert gray[0].max() < 12
    assert gray[-1].min() > 250
    assert 200 < gray[48].mean() < 240  # white of standard content, 75 % of the signal


def test_transparent_parts_of_a_video_are_black(tmp_path):
    path = tmp_path / "clip.mov"
    pixels = np.full((48, 64, 4), 200, np.uint8)
    pixels[:, :32, 3] = 0
    pixels[:, 32:, 3] = 255
    with av.open(str(path), "w") as container:
        stream = container.add_stream("qtrle", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "argb"
        for _ in range(2):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgba").reformat(format="argb")))
        container.mux(stream.encode(None))
    frames = load_video(path, 1)
    assert frames[0, :, :31].max() == 0
    assert frames[0, :, 33:].min() == 200


def write_tracks(path, kind, default):
    """Three audio or video tracks, the k-th with a tone of 200 (k + 1) Hz or frame k of `gray_frames`."""
    with av.open(str(path), "w") as container:
        streams = []
        for index in range(3):
            stream = container.add_stream(
                "pcm_s16le" if kind == "audio" else "libx264", rate=RATE if kind == "audio" else 10
            )
            if kind == "audio":
                stream.layout = "mono"
            else:
                stream.width, stream.height, stream.pix_fmt, stream.options = 64, 48, "yuv420p", {"crf": "5"}
            stream.disposition = av.stream.Disposition.default if index == default else 0
            streams.append(stream)
        for index, stream in enumerate(streams):
            if kind == "audio":
                samples = np.rint(sine(200 * (index + 1), 0.5, RATE) * 32767).astype(np.int16)
                frame = av.AudioFrame.from_ndarray(samples[None], "s16", "mono")
                frame.sample_rate = RATE
            else:
                frame = av.VideoFrame.from_ndarray(gray_frames(3)[index], format="rgb24")
            container.mux([*stream.encode(frame), *stream.encode(None)])


@pytest.mark.parametrize(("default", "chosen"), [(1, 1), (2, 2), (None, 0)])
def test_the_default_track_is_taken(tmp_path, default, chosen):
    write_tracks(tmp_path / "audio.mkv", "audio", default)
    samples = load_audio(tmp_path / "audio.mkv")
    spectrum = np.abs(np.fft.rfft(samples[1000:-1000]))
    assert spectrum.argmax() * RATE / (len(samples) - 2000) == pytest.approx(200 * (chosen + 1), abs=4)
    write_tracks(tmp_path / "video.mkv", "video", default)
    assert gray_index(load_video(tmp_path / "video.mkv", 1)) == [chosen]
