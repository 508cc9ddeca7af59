"""Pictures: single ones in every form, animations, transparency, decoder objects, and damaged files."""

import io
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from processing_egmf.audio_egmf import load_audio
from processing_egmf.frames_egmf import HLG, PQ, tone_map
from processing_egmf.media_egmf import media_kind
from processing_egmf.video_egmf import has_video, load_video
from tests.helpers.media_files import gray_frames, gray_index


FACE = gray_frames(1, 24, 32)[0]


def saved(image, file_format, **options):
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
def test_a_picture_file_is_one_frame(tmp_path, file_format):
    content = saved(Image.fromarray(FACE), file_format)
    (tmp_path / "face.dat").write_bytes(content)
    for source in (content, tmp_path / "face.dat", {"bytes": content, "path": "face.dat"}, io.BytesIO(content)):
        frames = load_video(source, 8)
        assert frames.shape == (1, 24, 32, 3)
        assert np.abs(frames[0].astype(int) - FACE).max() < 12
        assert has_video(source)
    assert load_audio(content, missing_ok=True) is None


def test_an_image_or_array_is_one_frame():
    for source in (Image.fromarray(FACE), FACE, FACE.transpose(2, 0, 1), torch.from_numpy(FACE), FACE / 255):
        assert np.array_equal(load_video(source, 8), FACE[None])
        assert media_kind(source) == "video"


@pytest.mark.parametrize("file_format", ["GIF", "PNG", "WEBP"])
def test_an_image_of_an_animation_is_read_as_its_file(file_format):
    others = [Image.fromarray(np.roll(FACE, shift, axis=1)) for shift in (8, 16)]
    content = saved(Image.fromarray(FACE), file_format, save_all=True, append_images=others, duration=100)
    image = Image.open(io.BytesIO(content))
    assert len(load_video(content, 8)) == 3
    for _ in range(2):
        assert np.array_equal(load_video(image, 8), load_video(content, 8))
    assert len(load_video(Image.open(io.BytesIO(saved(Image.fromarray(FACE), file_format))), 8)) == 1


def test_an_image_without_pixels_is_refused():
    with pytest.raises(ValueError, match="sample 3: frames of 0 x 9 pixels; each side may have at most 8192"):
        load_video(Image.new("RGB", (0, 9)), 4, name="sample 3")


@pytest.mark.parametrize("as_torch_has_them", [False, True])
def test_frames_without_a_rate_are_one_clip_of_any_length(as_torch_has_them, warnings_of):
    """Channels are last, or first as torch has them."""
    clip = np.repeat(np.arange(90, dtype=np.uint8)[:, None, None, None], 16, axis=1) + FACE[None, :16, :16] % 100
    source = torch.from_numpy(clip.transpose(0, 3, 1, 2)) if as_torch_has_them else clip
    frames = load_video(source, 3, max_seconds=1.0)
    assert np.array_equal(frames, clip[[15, 45, 75]])
    assert warnings_of() == ""
    frames = load_video(source, 3, fps=30, max_seconds=1.0)
    assert np.array_equal(frames, clip[[5, 15, 25]])
    assert "the video is longer than 1 s" in warnings_of()


def test_a_photo_is_turned_upright():
    image = Image.fromarray(FACE)
    exif = image.getexif()
    exif[0x0112] = 6  # a quarter clockwise
    frames = load_video(saved(image, "PNG", exif=exif), 1)
    assert np.array_equal(frames[0], np.rot90(FACE, -1))


def test_transparent_parts_are_black():
    opacity = np.zeros((24, 32, 1), np.uint8)
    opacity[:, 16:] = 255
    image = Image.fromarray(np.concatenate([FACE, opacity], axis=2))
    for source in (saved(image, "PNG"), image, np.asarray(image)):
        frames = load_video(source, 1)
        assert frames[0, :, :16].max() == 0
        assert np.array_equal(frames[0, :, 16:], FACE[:, 16:])


def test_sixteen_bits_are_scaled():
    gray = FACE[..., 0].astype(np.uint16) * 257
    frames = load_video(saved(Image.fromarray(gray), "PNG"), 1)
    assert np.array_equal(frames[0], FACE)


@pytest.mark.parametrize("scale", [1.0, 1 / 255])
def test_floating_point_pictures_have_levels_up_to_255_or_1(scale):
    picture = Image.fromarray(FACE[..., 0].astype(np.float32) * np.float32(scale))
    for source in (picture, saved(picture, "TIFF")):
        assert np.array_equal(load_video(source, 1)[0], np.repeat(FACE[..., :1], 3, axis=2))


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "PNG"])
def test_animations_are_sampled_in_time(file_format, warnings_of):
    frames = gray_frames(10, 24, 32)
    images = [Image.fromarray(frame) for frame in frames]
    durations = [100] * 9 + [900]
    options = {"lossless": True} if file_format == "WEBP" else {}
    content = saved(images[0], file_format, save_all=True, append_images=images[1:], duration=durations, **options)
    assert gray_index(load_video(content, 4)) == [2, 6, 9]  # the last frame is on screen for half of the time
    assert gray_index(load_video(content, 99)) == list(range(10))
    assert gray_index(load_video(content, 99, max_seconds=0.4)) == list(range(4))
    assert "longer than 0.4 s" in warnings_of()


def test_damaged_and_huge_pictures_are_refused(monkeypatch):
    content = saved(Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)), "PNG")
    with pytest.raises(ValueError, match="sample 3: not a readable image, or cut off"):
        load_video(content[: len(content) // 2], 1, name="sample 3")
    wide = saved(Image.new("1", (9000, 2)), "PNG")
    with pytest.raises(ValueError, match="sample 3: frames of 9000 x 2 pixels; each side may have at most 8192"):
        load_video(wide, 1, name="sample 3")


class VideoDecoder:
    """The methods of torchcodec's decoder that `datasets` documents; its frames appear at `times`, after 1.5 s."""

    def __init__(self, frames, times, stop):
        self.frames = torch.from_numpy(frames).permute(0, 3, 1, 2)
        self.times = torch.tensor(times) + 1.5
        self.metadata = SimpleNamespace(begin_stream_seconds=1.5, end_stream_seconds=1.5 + stop)

    def __len__(self):
        return len(self.frames)

    def __getitem__(self, index):
        return self.frames[index]

    def get_frames_in_range(self, start, stop):
        return SimpleNamespace(data=self.frames[start:stop])

    def get_frames_played_at(self, seconds):
        assert max(seconds) < self.metadata.end_stream_seconds
        indices = torch.searchsorted(self.times, torch.tensor(seconds), side="right") - 1
        return SimpleNamespace(data=self.frames[indices], pts_seconds=self.times[indices])


def test_a_decoder_object_gives_the_frames_of_its_file(clip, warnings_of):
    decoder = VideoDecoder(gray_frames(25), np.arange(25) / 12.5, 2.0)
    assert media_kind(decoder) == "video"
    assert gray_index(load_video(decoder, 5)) == gray_index(load_video(clip, 5))
    assert gray_index(load_video(decoder, 99, max_seconds=0.4)) == list(range(5))
    assert "longer than 0.4 s" in warnings_of()
    decoder.metadata.pixel_aspect_ratio = Fraction(2, 1)  # of torchcodec from 0.8 on
    assert load_video(decoder, 5).shape == (5, 48, 128, 3)
    with pytest.raises(ValueError, match="sample 3: VideoDecoder has no audio. Give it as `video`"):
        load_audio(decoder, name="sample 3")


def test_frames_of_a_decoder_are_chosen_by_their_times():
    """As on a phone that records fewer frames in the dark."""
    times = [*np.arange(15) / 20, 0.75, 1.35, 1.95, 2.55, 3.15]
    decoder = VideoDecoder(gray_frames(20), times, 3.75)
    assert gray_index(load_video(decoder, 5)) == [7, 15, 16, 18, 19]  # at 0.375, 1.125, 1.875, 2.625 and 3.375 s
    assert gray_index(load_video(decoder, 20)) == list(range(20))
    assert gray_index(load_video(decoder, 50, max_seconds=1.0)) == list(range(16))


def test_a_decoder_object_of_high_dynamic_range_is_tone_mapped():
    times = [0.0, 0.1]
    decoder = VideoDecoder(gray_frames(2), times, 0.2)
    plain = load_video(decoder, 2)
    for name, transfer in (("arib-std-b67", HLG), ("smpte2084", PQ), ("bt709", None)):
        decoder.metadata.color_transfer_characteristic = name
        expected = plain if transfer is None else tone_map(plain.astype(np.uint16) * 257, transfer)
        assert np.array_equal(load_video(decoder, 2), expected)
        assert (transfer is None) == np.array_equal(expected, plain)
