"""Frames: letterboxed or cropped, turned and mirrored, over black, tone-mapped, and blank ones."""

import numpy as np
import pytest
from transformers import CLIPImageProcessor

from processing_egmf.frames_egmf import (
    HLG,
    PQ,
    is_blank,
    over_black,
    pad_frames,
    scale_frames,
    to_upright,
    tone_map,
)
from processing_egmf.frontends_egmf import encode_frames


def fit_frames(frames, size, view="full"):
    return pad_frames(scale_frames(frames, size, view), size)


def test_letterbox_keeps_the_whole_frame_between_gray_bars():
    frames = np.zeros((2, 40, 80, 3), np.uint8)
    frames[:, :, :8] = 200  # at the left edge, where a center crop has nothing
    fitted = fit_frames(frames, (20, 20))
    assert fitted.shape == (2, 20, 20, 3)
    assert (fitted[:, :5] == 128).all() and (fitted[:, 15:] == 128).all()
    assert fitted[:, 5:15, 0].min() > 190
    assert fitted[:, 5:15, 4:].max() < 10
    tall = fit_frames(frames.transpose(0, 2, 1, 3), (20, 20))
    assert np.array_equal(tall, fitted.transpose(0, 2, 1, 3))


@pytest.mark.parametrize("view", ["full", "center"])
def test_frames_in_the_right_proportions_are_resized_alike(view):
    frames = np.random.default_rng(0).integers(0, 255, (2, 32, 64, 3), np.uint8)
    assert np.array_equal(fit_frames(frames, (8, 16), view), fit_frames(frames, (8, 16), "center"))
    assert fit_frames(frames, (32, 64), view) is frames


def test_crop_takes_the_middle_and_smooths():
    frames = np.zeros((2, 40, 80, 3), np.uint8)
    frames[:, :, 20:60] = np.arange(40)[None, None, :, None] % 2 * 200  # stripes in the middle, black beside them
    resized = fit_frames(frames, (10, 10), "center")
    assert resized.shape == (2, 10, 10, 3)
    assert resized.dtype == np.uint8
    assert np.abs(resized[:, :, 1:-1].astype(int) - 100).max() <= 15  # no black, no aliasing
    assert fit_frames(frames[:, :, :, ::-1], (20, 5), "center").shape == (2, 20, 5, 3)
    flat = np.full((1, 3, 5, 3), 77, np.uint8)
    assert fit_frames(flat, (8, 8), "center").tolist() == np.full((1, 8, 8, 3), 77).tolist()


def test_pretrained_encoders_see_the_whole_frame():
    processor = CLIPImageProcessor(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8})
    frames = np.zeros((1, 16, 32, 3), np.uint8)
    frames[:, :, :4] = 255  # at the left edge
    whole = encode_frames(frames, processor, "full")["video_values"]  # (1, 3, 8, 8)
    assert whole[0, :, 0].abs().max() < 0.05  # bars of the mean color are 0
    assert whole[0, 0, 4, 0] > 1.5
    cropped = encode_frames(frames, processor, "center")["video_values"]
    assert cropped.max() < 0


def matrix(*entries):
    xx, xy, yx, yy = (entry << 16 for entry in entries)
    return np.array([xx, xy, 0, yx, yy, 0, 0, 0, 1 << 30], np.int32).tobytes()


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ((1, 0, 0, 1), [[1, 2], [3, 4]]),
        ((-1, 0, 0, -1), [[4, 3], [2, 1]]),
        ((0, 1, -1, 0), [[3, 1], [4, 2]]),  # a quarter clockwise
        ((0, -1, 1, 0), [[2, 4], [1, 3]]),
        ((-1, 0, 0, 1), [[2, 1], [4, 3]]),  # mirrored, as selfie cameras do
        ((1, 0, 0, -1), [[3, 4], [1, 2]]),
        ((0, 1, 1, 0), [[1, 3], [2, 4]]),
        ((0, -1, -1, 0), [[4, 2], [3, 1]]),
    ],
)
def test_all_eight_orientations(entries, expected):
    pixels = np.array([[1, 2], [3, 4]], np.uint8)[..., None].repeat(3, axis=2)
    assert to_upright(pixels, matrix(*entries))[..., 0].tolist() == expected


def test_transparent_pixels_show_black():
    pixels = np.array([[[200, 100, 50, 255], [200, 100, 50, 0], [200, 100, 50, 51]]], np.uint8)
    assert over_black(pixels).tolist() == [[[200, 100, 50], [0, 0, 0], [40, 20, 10]]]


@pytest.mark.parametrize(("transfer", "white"), [(HLG, 0.75), (PQ, 0.58)])
def test_high_dynamic_range_is_mapped(transfer, white):
    levels = np.linspace(0, 1, 101)
    ramp = np.rint(levels * 65535).astype(np.uint16)[None, :, None].repeat(3, axis=2)
    mapped = tone_map(ramp, transfer)[0].astype(int)
    assert np.ptp(mapped, axis=1).max() <= 1  # gray stays gray
    assert (np.diff(mapped[:, 0]) >= 0).all()
    assert mapped[0, 0] == 0
    assert mapped[-1, 0] == 255
    assert 200 < mapped[round(white * 100), 0] < 240  # white of standard content keeps room for highlights


def test_mapped_colors_leave_the_wide_gamut():
    green = np.zeros((1, 1, 3), np.uint16)
    green[..., 1] = 30_000
    red, full, blue = tone_map(green, HLG)[0, 0]
    assert (red, blue) == (0, 0)
    assert full > 80


def test_blank_frames():
    black = np.zeros((4, 8, 8, 3), np.uint8)
    assert is_blank(black)
    assert is_blank(black + np.array([10, 200, 30], np.uint8))
    assert is_blank(black + np.random.default_rng(0).integers(0, 4, black.shape, np.uint8))
    dim = black.copy()
    dim[2, 3, 3] = 12
    assert not is_blank(dim)
    assert not is_blank(black + np.arange(0, 40, 10, np.uint8)[:, None, None, None])
