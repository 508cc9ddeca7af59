"""Faces: the main face of a clip, detected, followed and cropped, for `frames="face"`.

    frames ─► detector ─► boxes of each frame ─► linked from frame to frame ─► the largest and most constant face
                                                                                    │
    (T, side, side, 3) ◄─ one side for the clip, positions smoothed ◄─ gaps interpolated

A detector is a callable from frames (T, y, x, 3), uint8, to one list per frame of boxes (x, y, width, height, score)
in pixels. The default is dlib, whose detector of frontal faces is part of its code: nothing is downloaded.
"""

# T frames  y, x height and width

import threading
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import islice
from typing import Any

import numpy as np

from .arguments_egmf import logger, shorten
from .frames_egmf import resize
from .media_egmf import to_numpy


# Longer side in pixels of the frames that dlib searches, whose smallest face has about 80; larger ones only if no face
# has been found, because the time grows with the area.
SEARCH_SIDES = (480, 960)
# Height and width in pixels; larger frames are made to fit before a face is cropped.
FACE_FRAME = (960, 960)
# Side of a crop in sides of the face's box.
MARGIN = 1.8
# Sides of the box that a face may move before its crop does.
SLACK = 0.25
# Weights of the positions in the frame before, in the frame and in the one after.
SMOOTHING = (0.25, 0.5, 0.25)
# Of a side, by rounding.
TOLERANCE = 1e-6
# Of a face from one frame to the next.
MAX_GROWTH = 2.0
# Side of the square that is searched again around a face, in sides of its box.
SURROUNDINGS = 2.4
# Of this square: within one step of dlib's pyramid of sizes.
REFINED_SIDES = (230, 239, 248, 257, 267)
# The detector's own state is not safe in several threads at once: two end in a crash.
DLIB_LOCK = threading.Lock()


def check_face_detector(view: str, video_input: str | None, detector: Any) -> Callable | None:
    """The detector of a processor, or None if it crops no faces.

    Args:
        view: the processor's `frames`.
        video_input: of the processor.
        detector: a callable, the name that was stored for one, or None for dlib.

    Raises:
        ImportError: dlib is missing.
        ValueError: a detector that would not be used, or only the name of one.
    """
    if view != "face" or video_input != "frames":
        if callable(detector):
            raise ValueError("`face_detector` is used only with frames='face' and video_input='frames'.")
        return None
    if callable(detector):
        return detector
    if detector not in (None, detect_with_dlib.__name__):
        raise ValueError(f"`face_detector` is {shorten(detector)}; give the callable of the training.")
    load_dlib()
    return detect_with_dlib


@cache
def load_dlib() -> Any:
    """dlib's detector of frontal faces, a second's work; run it under `DLIB_LOCK`."""
    try:
        import dlib
    except ImportError as error:
        raise ImportError("frames='face' needs dlib: pip install dlib-bin, or pass a `face_detector`.") from error
    return dlib.get_frontal_face_detector()


def crop_main_face(frames: np.ndarray, detector: Callable, name: str) -> tuple[np.ndarray, float]:
    """Crop the largest and most constant face of a clip.

    Args:
        frames: uint8 (T, y, x, 3).
        detector: from `check_face_detector`.
        name: the sample's name in messages.

    Returns:
        Square crops (T, side, side, 3), and the share of the frames in which the face was found. Between these, its
        position is interpolated; before and after them, it stays. Without a face, with a warning, the frames and 0.

    Raises:
        ValueError: the detector failed, or returned something else than boxes.
    """
    track = follow_face(read_boxes(detect(frames, detector, name), frames, name))
    if not track:
        logger.warning(f"{name}: no face was found in {len(frames)} frames. The whole frames are used.")
        return frames, 0.0
    # (frames with the face, 3)
    positions = np.array(list(track.values()))
    usual_x, usual_y, usual_side = np.median(positions, axis=0)
    side = round(MARGIN * usual_side) + 1
    centers = []
    for axis, usual in enumerate((usual_x, usual_y)):
        offsets = np.interp(np.arange(len(frames)), list(track), positions[:, axis] - usual)
        slack = np.clip(offsets, -SLACK * usual_side, SLACK * usual_side)
        centers.append(usual + np.convolve(np.pad(offsets - slack, 1, "edge"), SMOOTHING, "valid"))
    crops = [_cut(frame, x, y, side) for frame, x, y in zip(frames, *centers)]
    return np.stack(crops), len(track) / len(frames)


def detect(frames: np.ndarray, detector: Callable, name: str) -> Any:
    """What a detector returns for a copy of the frames, which it may change. Its errors name the sample."""
    try:
        boxes = detector(frames.copy())
        # One more than wanted, which is refused.
        return list(islice(boxes, len(frames) + 1)) if isinstance(boxes, Iterator) else boxes
    # Whatever a detector raises.
    except Exception as error:
        raise ValueError(
            f"{name}: the face detector failed on {len(frames)} frames: {shorten(error)}. "
            "Correct `face_detector`, or leave video out."
        ) from error


def read_boxes(boxes: Any, frames: np.ndarray, name: str) -> list[np.ndarray]:
    """For each frame, center x, center y and side (faces, 3) of what a detector returned, by descending score."""
    height, width = frames.shape[1:3]
    faces = []
    try:
        for of_frame in boxes:
            numbers = to_numpy(of_frame).astype(np.float64, casting="same_kind").reshape(len(of_frame), 5)
            x, y, box_width, box_height, _ = numbers[np.argsort(-numbers[:, 4])].T
            side = np.sqrt(np.maximum(box_width, 0) * np.maximum(box_height, 0))
            faces.append(np.stack([x + box_width / 2, y + box_height / 2, side], axis=1))
        # In pixels; a side below one is a share of the frame.
        low = (0, 0, 1 - TOLERANCE)
        high = (width, height, 2 * max(width, height))
        is_valid = len(faces) == len(frames) and all(((face > low) & (face < high)).all() for face in faces)
    # Of whatever types it is made.
    except Exception:
        is_valid = False
    if not is_valid:
        raise ValueError(
            f"{name}: the face detector returned {shorten(boxes)} for {len(frames)} frames of {width} x {height} "
            "pixels; expected a list of boxes (x, y, width, height, score) for each frame, in its pixels."
        )
    return faces


def follow_face(faces: Sequence[np.ndarray]) -> dict[int, np.ndarray]:
    """Frame index -> center x, center y and side of the face whose sides have the largest sum over the frames."""
    tracks: list[dict[int, np.ndarray]] = []
    for index, of_frame in enumerate(faces):
        free = list(tracks)
        for face in of_frame:
            distances = [_distance(track[max(track)], face) for track in free]
            if min(distances, default=np.inf) <= 1:
                track = free.pop(np.argmin(distances))
            else:
                track = {}
                tracks.append(track)
            track[index] = face
    return max(tracks, key=lambda track: sum(face[2] for face in track.values()), default={})


def _distance(before: np.ndarray, after: np.ndarray) -> float:
    """Distance between two boxes in sides of the larger one; infinite if they are too different to be of one face."""
    small, large = sorted((before[2], after[2]))
    return np.abs(after[:2] - before[:2]).max() / large if large <= MAX_GROWTH * small else np.inf


def _cut(frame: np.ndarray, x: float, y: float, side: int) -> np.ndarray:
    """A square (side, side, 3) around a point of a frame; beyond the frame, its edge is repeated."""
    pixels = np.arange(side) - side // 2
    rows = np.clip(round(y) + pixels, 0, len(frame) - 1)
    columns = np.clip(round(x) + pixels, 0, frame.shape[1] - 1)
    return frame[rows[:, None], columns]


# ---- dlib ----------------------------------------------------------------------------------------------------


def detect_with_dlib(frames: np.ndarray) -> list[list[np.ndarray]]:
    """Boxes (5,) of the faces in each frame: x, y, width, height, score, by dlib's detector of frontal faces."""
    height, width = frames.shape[1:3]
    for side in SEARCH_SIDES:
        scale = side / max(height, width)
        scaled = resize(frames, (max(1, round(height * scale)), max(1, round(width * scale))))
        boxes = [_run_dlib(frame, scale) for frame in scaled]
        if any(map(len, boxes)):
            break
    return [[_refine(frame, _refine(frame, box)) for box in of_frame] for frame, of_frame in zip(frames, boxes)]


def _run_dlib(frame: np.ndarray, scale: float) -> np.ndarray:
    """Boxes (faces, 5) of a frame that was scaled by `scale`, in the pixels of the original."""
    with DLIB_LOCK:
        rectangles, scores, _ = load_dlib().run(frame, 0, 0.0)
    boxes = [(box.left(), box.top(), box.width(), box.height()) for box in rectangles]
    return np.column_stack([np.reshape(boxes, (-1, 4)) / scale, scores])


def _refine(frame: np.ndarray, box: np.ndarray) -> np.ndarray:
    """A box (5,) more exactly: dlib's lie on a grid of a tenth of their side, so several sizes are averaged."""
    x, y = box[:2] + box[2:4] / 2
    side = 2 * round(SURROUNDINGS * box[2] / 2) + 1
    patch = _cut(frame, x, y, side)[None]
    corner = (round(x) - side // 2, round(y) - side // 2, 0, 0, 0)
    boxes = [box]
    for size in REFINED_SIDES:
        boxes.extend(_run_dlib(resize(patch, (size, size))[0], size / side) + corner)
    return np.mean([again for again in boxes if np.abs(again - box)[:4].max() < box[2] / 2], axis=0)
