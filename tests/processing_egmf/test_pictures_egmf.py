"""Pictures: single ones in every form, animations, transparency, decoder objects, and damaged files."""

import io
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from processing_egmf.audio_egmf import load_audio
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
    """The methods of torchcodec's decoder that `datasets` documents."""

    def __init__(self, frames, fps):
        self.frames = torch.from_numpy(frames).permute(0, 3, 1, 2)
        self.metadata = SimpleNamespace(num_frames=len(frames), average_fps=fps)

    def __len__(self):
        return len(self.frames)

    def __getitem__(self, index):
        return self.frames[index]

    def get_frames_in_range(self, start, stop):
        return SimpleNamespace(data=self.frames[start:stop])


def test_a_decoder_object_gives_the_frames_of_its_file(clip, warnings_of):
    decoder = VideoDecoder(gray_frames(25), 12.5)
    assert media_kind(decoder) == "video"
    assert gray_index(load_video(decoder, 5)) == gray_index(load_video(clip, 5))
    assert gray_index(load_video(decoder, 99, max_seconds=0.4)) == list(range(5))
    assert "longer than 0.4 s" in warnings_of()
    decoder.metadata.pixel_aspect_ratio = Fraction(2, 1)  # of torchcodec from 0.8 on
    assert load_video(decoder, 5).shape == (5, 48, 128, 3)
    with pytest.raises(ValueError, match="sample 3: VideoDecoder has no audio. Give it as `video`"):
        load_audio(decoder, name="sample 3")
