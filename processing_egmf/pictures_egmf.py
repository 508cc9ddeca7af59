"""Pictures: frames that need no video decoder, from arrays, images, picture files and decoder objects.

    array, list of images, decoder of torchcodec ─► indices spread evenly ─► select ─┐
    jpg, png, webp, bmp, tiff ─► one frame ──────────────────────────────────────────┼─► uint8 (T, y, x, 3)
    animated gif, webp, png ─► times of its frames ─► frames on screen ──────────────┘

Videos in containers are in video_egmf.py.
"""

# T frames  y, x height and width

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
from transformers.image_utils import is_pil_image

from .arguments_egmf import is_number, logger, shorten
from .frames_egmf import HLG, PQ, over_black, resize, tone_map
from .media_egmf import (
    MAX_FRAME_PIXELS,
    MAX_FRAME_SIDE,
    TIME_TOLERANCE,
    DecodingBudget,
    is_picture_shape,
    is_video_decoder,
    open_file,
    to_numpy,
)


MAX_FPS = 1000
# Of a pixel's sides; beyond it, the declared aspect is damaged.
MAX_STRETCH = 16
# Pictures that Pillow reads; each decoder is one more way for a damaged file to do harm.
PICTURE_FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF")
# A TIFF file holds several pictures, not the frames of a clip.
ANIMATED_FORMATS = ("GIF", "WEBP", "PNG")
# Of high dynamic range, by the names that torchcodec has for them.
TRANSFERS = {"smpte2084": PQ, "arib-std-b67": HLG}
# Seconds; browsers show frames that state less for `DEFAULT_FRAME`.
SHORTEST_FRAME = 0.02
DEFAULT_FRAME = 0.1


def sample_pictures(source: Any, num_frames: int, fps: float | None, budget: DecodingBudget) -> np.ndarray:
    """Frames (T, y, x, 3) of an array, an image, a list of either or a decoder object, sampled like a file."""
    if fps is not None and not (is_number(fps) and 0 < fps <= MAX_FPS):
        raise ValueError(
            f"fps is {shorten(fps)}; give the frames per second of the array, above 0 and up to {MAX_FPS}."
        )
    if is_video_decoder(source):
        return _sample_decoder(source, num_frames, budget)
    if is_pil_image(source) and source.format in ANIMATED_FORMATS and source.n_frames > 1:
        return _sample_animation(source, partial(spread_frames, num_frames=num_frames), budget)
    frames = [source] if is_pil_image(source) else source
    if not _are_images(frames):
        frames = _to_clip(frames)
    count = len(frames)
    if fps and count / fps > budget.max_seconds + TIME_TOLERANCE:
        budget.warn_of_length("video")
        count = max(1, math.ceil((budget.max_seconds - TIME_TOLERANCE) * fps))
    pictures = [_to_pixels(frames[index]) for index in spread_frames(range(count), count, num_frames)]
    shapes = {picture.shape for picture in pictures}
    if len(shapes) > 1:
        raise ValueError(f"frames of different sizes, {shorten(shapes)}. Resize them to the same size.")
    return _to_rgb(np.stack(pictures))


def _sample_decoder(decoder: Any, num_frames: int, budget: DecodingBudget) -> np.ndarray:
    """The frames of a decoder of torchcodec, chosen by their times and shown as those of a file."""
    metadata = decoder.metadata
    start = metadata.begin_stream_seconds
    seconds = metadata.end_stream_seconds - start
    is_long = seconds > budget.max_seconds + TIME_TOLERANCE
    if is_long:
        budget.warn_of_length("video")
    middles = span_middles(start, start + min(seconds, budget.max_seconds), num_frames)
    try:
        if is_long or len(decoder) > num_frames:
            batch = decoder.get_frames_played_at(middles.tolist())
            frames = batch.data[np.unique(batch.pts_seconds, return_index=True)[1]]
        else:
            frames = decoder[:]
    except (RuntimeError, OSError, IndexError) as error:
        raise ValueError(f"the video cannot be decoded ({error}). Convert it to mp4.") from error
    pixels = _to_rgb(to_numpy(frames))
    # New in torchcodec 0.8 and later.
    aspect = getattr(metadata, "pixel_aspect_ratio", None)
    transfer = getattr(metadata, "color_transfer_characteristic", None)
    if transfer in TRANSFERS:
        pixels = np.stack([tone_map(frame.astype(np.uint16) * 257, TRANSFERS[transfer]) for frame in pixels])
    return resize(pixels, shown_size(*pixels.shape[1:3], aspect, budget.name))


def span_middles(start: float, stop: float, count: int) -> np.ndarray:
    """The middles of `count` equal spans of a clip, in seconds."""
    span = (stop - start) / count
    return start + (np.arange(count) + 0.5) * span + min(TIME_TOLERANCE, span / 4)


def spread_frames(times: Sequence[float], stop: float, num_frames: int) -> list[int]:
    """Indices of the frames on screen in the middle of `num_frames` equal spans of a clip, each once.

    Args:
        times: when each frame appears, ascending; the first one starts the clip.
        stop: the end of the clip.
        num_frames: maximum number of frames; if the clip has no more, all of them are chosen.
    """
    if len(times) <= num_frames:
        return list(range(len(times)))
    middles = span_middles(times[0], stop, num_frames)
    return np.unique(np.searchsorted(times, middles, side="right") - 1).tolist()


def load_picture(source: Any, choose: Callable, budget: DecodingBudget) -> np.ndarray:
    """Frames (T, y, x, 3) of a picture file: one, or several of an animation.

    Args:
        choose: returns the indices of an animation's frames, for their times and its end, in seconds.

    Raises:
        ValueError: the picture cannot be decoded, or is too large.
    """
    pillow = import_pillow()
    with open_file(source, budget.name) as file:
        with _errors_of_pillow():
            image = pillow.Image.open(file, formats=PICTURE_FORMATS)
            count = image.n_frames if image.format in ANIMATED_FORMATS else 1
        check_frame_size(image.height, image.width)
        # Once for the times, once for the pixels.
        budget.check_pixels(2 * count, image.height, image.width)
        with _errors_of_pillow():
            return _sample_animation(image, choose, budget) if count > 1 else image_to_rgb(image)[None]


def import_pillow() -> ModuleType:
    try:
        import PIL.Image
        import PIL.ImageOps
    except ImportError as error:
        raise ImportError("Reading images needs Pillow: pip install pillow") from error
    return PIL


@contextmanager
def _errors_of_pillow() -> Iterator[None]:
    try:
        yield
    # The decoders raise many types on damaged files.
    except Exception as error:
        raise ValueError(
            f"not a readable image, or cut off ({error}). Convert it to png or jpg, or copy it again."
        ) from error


def image_to_rgb(image: Any) -> np.ndarray:
    """A PIL image as uint8 (y, x, 3): upright, and over black where it is transparent."""
    image = import_pillow().ImageOps.exif_transpose(image)
    # 16 bits in one channel; `convert` would cut the levels off at 255.
    if image.mode.startswith(("I", "F")):
        levels = np.asarray(image, np.float32)
        peak = levels.max(initial=0)
        scale = 1 / 257 if peak > 255 else 255 if image.mode == "F" and peak <= 1 else 1
        gray = np.clip(np.rint(levels * scale), 0, 255).astype(np.uint8)
        return np.repeat(gray[..., None], 3, axis=2)
    if image.has_transparency_data:
        return over_black(np.asarray(image.convert("RGBA")))
    return np.asarray(image.convert("RGB"))


def check_frame_size(height: int, width: int, max_pixels: int = MAX_FRAME_SIDE**2) -> None:
    if not 0 < min(height, width) <= max(height, width) <= MAX_FRAME_SIDE or height * width > max_pixels:
        raise ValueError(
            f"frames of {width} x {height} pixels; each side may have at most {MAX_FRAME_SIDE}, "
            f"and a frame at most {max_pixels // 10**6} million. Scale the video down."
        )


def shown_size(
    height: int,
    width: int,
    aspect: Fraction | float | None,
    name: str,
    max_pixels: int = MAX_FRAME_PIXELS,
) -> tuple[int, int]:
    """Height and width with square pixels of frames whose pixels are `aspect` times as wide as high."""
    aspect = float(aspect or 1)
    if not 1 / MAX_STRETCH <= aspect <= MAX_STRETCH:
        logger.warning(f"{name}: pixels {aspect:g} times as wide as high; they are shown as squares.")
        aspect = 1.0
    stretched_height = height * max(1, 1 / aspect)
    stretched_width = width * max(1, aspect)
    scale = min(1, math.sqrt(max_pixels / (stretched_height * stretched_width)))
    return max(1, round(stretched_height * scale)), max(1, round(stretched_width * scale))


def _sample_animation(image: Any, choose: Callable, budget: DecodingBudget) -> np.ndarray:
    """The frames of an animation that `choose` returns, as in `load_picture`."""
    starts = []
    seconds = 0.0
    for index in range(image.n_frames):
        if seconds > budget.max_seconds - TIME_TOLERANCE:
            budget.warn_of_length("video")
            seconds = budget.max_seconds
            break
        image.seek(index)
        if image.format == "WEBP":
            # It states a frame's duration only then.
            image.load()
        starts.append(seconds)
        duration = image.info.get("duration", 0) / 1000
        seconds += duration if duration >= SHORTEST_FRAME else DEFAULT_FRAME
    frames = []
    for index in choose(starts, seconds):
        image.seek(index)
        frames.append(image_to_rgb(image))
    return np.stack(frames)


# ---- arrays and images ---------------------------------------------------------------------------------------


def _are_images(frames: Any) -> bool:
    """Whether a source is a list of PIL images."""
    kinds = {is_pil_image(frame) for frame in frames} if isinstance(frames, list | tuple) else {False}
    if len(kinds) > 1:
        raise ValueError("a list of frames mixes PIL images with other types. Make all of them PIL images.")
    return kinds == {True}


def _to_clip(source: Any) -> np.ndarray:
    """An array or a list of arrays as (T, y, x, 3 or 4) or (T, 3, y, x), of any type."""
    frames = to_numpy(source)
    if frames.size == 0:
        raise ValueError("the video has no frames. Leave it out, or check how it was cut.")
    if is_picture_shape(frames.shape):
        frames = frames[None]
    if frames.ndim != 4 or not is_picture_shape(frames.shape[1:]):
        raise ValueError(
            f"the array does not contain RGB frames; expected (T, height, width, 3) "
            f"or (T, 3, height, width), got {np.shape(source)}."
        )
    return frames


def _to_pixels(picture: Any) -> np.ndarray:
    """A PIL image, a tensor or an array as an array."""
    if is_pil_image(picture):
        check_frame_size(picture.height, picture.width)
        return image_to_rgb(picture)
    return to_numpy(picture)


def _to_rgb(frames: np.ndarray) -> np.ndarray:
    """Frames (T, y, x, 3 or 4) or (T, 3, y, x) of any type as uint8 (T, y, x, 3)."""
    if frames.shape[-1] not in (3, 4):
        frames = frames.transpose(0, 2, 3, 1)
    check_frame_size(frames.shape[1], frames.shape[2])
    if frames.dtype.kind == "f":
        low = frames.min()
        high = frames.max()
        if not (low >= 0 and high <= 1):
            raise ValueError(
                f"float frames range from {low:g} to {high:g}; expected [0, 1]. "
                "Divide by 255, undo the normalization, replace NaN, or give uint8."
            )
        frames = np.rint(frames.astype(np.float32) * 255).astype(np.uint8)
    if frames.dtype != np.uint8:
        raise ValueError(f"frames of type {frames.dtype}; give uint8, or floats in [0, 1].")
    return np.ascontiguousarray(over_black(frames) if frames.shape[-1] == 4 else frames)
