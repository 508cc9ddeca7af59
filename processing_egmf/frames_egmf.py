"""Frames: what is done to the pixels of a frame once it is decoded.

    turned and mirrored as stored ─► upright          rgba ─► over black          high dynamic range ─► standard
    any size ─► scale_frames, pad_frames: letterboxed, or the center cropped ─► the encoder's size

Frames come from video_egmf.py and pictures_egmf.py.
"""

# T frames  y, x height and width

import numpy as np
import torch


# Gray of the bars of a letterboxed frame: 0 after scaling to [-1, 1].
NEUTRAL = 128
# Levels between the pixels of a blank clip; encoders leave a little noise.
BLANK_RANGE = 4
# Luminance of white in standard content shown beside HDR content (ITU-R BT.2408).
WHITE_NITS = 203.0
# Luminance that becomes the brightest white.
PEAK_NITS = 1000.0
# Share of white up to which the tone curve is straight.
KNEE = 0.3
# Transfer characteristics of high dynamic range (ITU-T H.273).
PQ = 16
HLG = 18
BT2020_TO_BT709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)
BT2020_LUMA = np.array([0.2627, 0.6780, 0.0593], np.float32)


def scale_frames(frames: np.ndarray, size: tuple[int, int] | None, view: str) -> np.ndarray:
    """Resize frames, uint8 (T, y, x, 3), in their own proportions, bilinearly with antialiasing.

    Args:
        frames: the frames.
        size: (height, width) in pixels; None to change nothing.
        view: `"full"` to fit the whole frame into `size`; `"center"` to fill `size` with its center; `"face"`, whose
            crop follows, to make larger frames fit.
    """
    if size is None or frames.shape[1:3] == tuple(size):
        return frames
    height, width = size
    ratios = (height / frames.shape[1], width / frames.shape[2])
    scale = max(ratios) if view == "center" else min(ratios)
    if view == "face" and scale > 1:
        return frames
    inner_height = max(1, round(frames.shape[1] * scale))
    inner_width = max(1, round(frames.shape[2] * scale))
    top = max(0, inner_height - height) // 2
    left = max(0, inner_width - width) // 2
    return resize(frames, (inner_height, inner_width))[:, top : top + height, left : left + width]


def pad_frames(
    frames: np.ndarray,
    size: tuple[int, int] | None,
    color: tuple[int, int, int] = (NEUTRAL,) * 3,
) -> np.ndarray:
    """The frames (T, y, x, 3) in the middle of larger ones (T, height, width, 3) of one color; None for their size."""
    height, width = frames.shape[1:3]
    if size is None or (height, width) == tuple(size):
        return frames
    padded = np.full((len(frames), *size, 3), color, np.uint8)
    top = (size[0] - height) // 2
    left = (size[1] - width) // 2
    padded[:, top : top + height, left : left + width] = frames
    return padded


def resize(frames: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Frames (T, y, x, 3) in another size (height, width), bilinearly with antialiasing."""
    if frames.shape[1:3] == tuple(size):
        return frames
    images = torch.from_numpy(np.require(frames, requirements="CW")).permute(0, 3, 1, 2)  # (T, 3, y, x)
    resized = torch.nn.functional.interpolate(images, size=size, mode="bilinear", antialias=True)
    return np.ascontiguousarray(resized.permute(0, 2, 3, 1).numpy())


def is_blank(frames: np.ndarray) -> bool:
    """Whether all pixels of all frames (T, y, x, 3) have one color: a camera that was covered or switched off."""
    low = frames.min(axis=(0, 1, 2)).astype(int)
    high = frames.max(axis=(0, 1, 2)).astype(int)
    return int((high - low).max()) <= BLANK_RANGE


def to_upright(pixels: np.ndarray, matrix: bytes | None) -> np.ndarray:
    """A frame (y, x, 3) turned and mirrored as a file's display matrix specifies, to the nearest quarter turn.

    Args:
        pixels: the frame as stored.
        matrix: nine 32-bit integers; None to change nothing.
    """
    if matrix is None:
        return pixels
    axes = np.frombuffer(matrix, np.int32, 9).astype(np.int64).reshape(3, 3)[:2, :2]
    if abs(axes[0, 1]) > abs(axes[0, 0]):  # rows become columns
        pixels = pixels.transpose(1, 0, 2)
        axes = axes[::-1]
    across, down = np.where(axes.diagonal() < 0, -1, 1)
    return np.ascontiguousarray(pixels[::down, ::across])


def over_black(pixels: np.ndarray) -> np.ndarray:
    """A frame with transparency, uint8 (..., 4), as a player shows it: (..., 3)."""
    opacity = pixels[..., 3:].astype(np.uint16)
    return ((pixels[..., :3] * opacity + 127) // 255).astype(np.uint8)


def tone_map(pixels: np.ndarray, transfer: int) -> np.ndarray:
    """A frame of high dynamic range as a standard one.

    The luminance of white stays, brighter parts are compressed by a Moebius curve (that of FFmpeg's `tonemap`), and
    the colors are brought from BT.2020 to BT.709.

    Args:
        pixels: uint16 (y, x, 3), RGB in BT.2020, as encoded.
        transfer: `PQ` or `HLG`.

    Returns:
        uint8 (y, x, 3).
    """
    encoded = pixels.astype(np.float32) / 65535
    light = _pq_to_nits(encoded) if transfer == PQ else _hlg_to_nits(encoded)
    light = np.maximum(light / WHITE_NITS @ BT2020_TO_BT709.T, 0)
    brightest = np.maximum(light.max(axis=-1, keepdims=True), 1e-6)
    mapped = light * (_moebius(brightest) / brightest)
    return np.rint(np.clip(mapped, 0, 1) ** (1 / 2.4) * 255).astype(np.uint8)


def _pq_to_nits(encoded: np.ndarray) -> np.ndarray:
    """SMPTE ST 2084."""
    power = encoded ** (32 / 2523)
    return 10_000 * (np.maximum(power - 3424 / 4096, 0) / (2413 / 128 - 2392 / 128 * power)) ** (16384 / 2610)


def _hlg_to_nits(encoded: np.ndarray) -> np.ndarray:
    """ARIB STD-B67, on a display of `PEAK_NITS`."""
    scene = np.where(encoded <= 0.5, encoded**2 / 3, (np.exp((encoded - 0.55991073) / 0.17883277) + 0.28466892) / 12)
    return PEAK_NITS * scene * np.maximum((scene @ BT2020_LUMA)[..., None], 1e-6) ** 0.2


def _moebius(light: np.ndarray) -> np.ndarray:
    """Straight up to `KNEE`, then bent so that `PEAK_NITS` becomes 1; with a continuous slope."""
    peak = PEAK_NITS / WHITE_NITS
    a = -(KNEE**2) * (peak - 1) / (KNEE**2 - 2 * KNEE + peak)
    b = (KNEE**2 - 2 * KNEE * peak + peak) / (peak - 1)
    bent = (b + KNEE) ** 2 / (b - a) * (light + a) / (light + b)
    return np.where(light <= KNEE, light, bent)
