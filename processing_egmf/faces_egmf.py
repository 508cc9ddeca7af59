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
from itertools import count, islice
from typing import Any

import numpy as np

from .arguments_egmf import logger, shorten
from .frames_egmf import resize
from .media_egmf import to_numpy


# Score above which a box is looked at more closely, and averaged.
LIKELY = -0.4
# One after the other, until a face is found: the longer side in pixels of the frames that dlib searches, and a score.
# The smallest face has about 80 pixels; the time grows with the area.
SEARCHES = ((480, 0.0), (960, 0.0), (960, LIKELY))
# Height and width in pixels; larger frames are made to fit before a face is cropped.
FACE_FRAME = (960, 960)
# Highest level of a pixel in the bars of a letterbox; compression leaves a little of the frame beside them.
BLACK = 32
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
# How often a box is refined.
ROUNDS = 2
# Side of the square that is searched again around a face, in sides of its box.
SURROUNDINGS = 1.6
# Of this square: one step of dlib's pyramid of sizes. The face has at least 80 pixels.
REFINED_SIDES = range(128, 154, 2)
# Distance in pixels between the places that dlib searches.
GRID = 8
# Multiples of these, modulo 1, are spread evenly over a square.
SPREAD = np.array([0.7549, 0.5698])
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
    quarter = len(positions) // 4
    usual_x, usual_y, usual_side = np.sort(positions, axis=0)[quarter : len(positions) - quarter].mean(axis=0)
    centers = []
    for axis, usual in enumerate((usual_x, usual_y)):
        offsets = np.interp(np.arange(len(frames)), list(track), positions[:, axis] - usual)
        slack = np.clip(offsets, -SLACK * usual_side, SLACK * usual_side)
        centers.append(usual + np.convolve(np.pad(offsets - slack, 1, "edge"), SMOOTHING, "valid"))
    is_light = (frames > BLACK).any(axis=(0, 3))
    rows = _between_bars(is_light.any(axis=1))
    columns = _between_bars(is_light.any(axis=0))
    corner = np.array([columns.start, rows.start])
    crops = []
    for frame, center in zip(frames[:, rows, columns], np.stack(centers, axis=1) - corner):
        crops.append(_cut(frame, center, MARGIN * usual_side))
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


def _between_bars(is_light: np.ndarray) -> slice:
    """The part of a row or column of a clip (n,) between two dark bars; without both of them, all of it."""
    light = np.flatnonzero(is_light)
    has_bars = len(light) > 0 and not is_light[0] and not is_light[-1]
    return slice(light[0], light[-1] + 1) if has_bars else slice(0, len(is_light))


def _cut(frame: np.ndarray, center: np.ndarray, side: float) -> np.ndarray:
    """A square (pixels, pixels, 3) around a point of a frame, x and y, which may lie between pixels; its edge is
    repeated."""
    pixels = max(1, round(side))
    offsets = ((np.arange(pixels) + 0.5) / pixels - 0.5) * side - 0.5
    rows = _interpolate(frame, center[1] + offsets)
    square = _interpolate(rows.swapaxes(0, 1), center[0] + offsets)
    return np.rint(square.swapaxes(0, 1)).astype(np.uint8)


def _interpolate(rows: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Rows (y, x, 3) at other positions, linearly: (positions, x, 3)."""
    positions = np.clip(positions, 0, len(rows) - 1)
    before = np.floor(positions).astype(int)
    after = np.ceil(positions).astype(int)
    share = (positions - before).astype(np.float32)[:, None, None]
    return rows[before] * (1 - share) + rows[after] * share


# ---- dlib ----------------------------------------------------------------------------------------------------


def detect_with_dlib(frames: np.ndarray) -> list[list[np.ndarray]]:
    """Boxes (5,) of the faces in each frame: x, y, width, height, score, by dlib's detector of frontal faces.

    A face is found where its score, once refined, is above 0. In frames without one, it is searched where the nearest
    frame has it.
    """
    height, width = frames.shape[1:3]
    numbers = count()
    for side, threshold in SEARCHES:
        scale = side / max(height, width)
        scaled = resize(frames, (max(1, round(height * scale)), max(1, round(width * scale))))
        likely = [_run_dlib(frame, scale, threshold) for frame in scaled]
        boxes = [_refine_all(*pair, 0.0, numbers) for pair in zip(frames, likely)]
        with_faces = np.flatnonzero([len(faces) for faces in boxes])
        if len(with_faces):
            break
    for index, frame in enumerate(frames):
        if len(with_faces) and index not in with_faces:
            nearest = with_faces[np.abs(with_faces - index).argmin()]
            boxes[index] = _refine_all(frame, boxes[nearest], LIKELY, numbers)
    return boxes


def _refine_all(frame: np.ndarray, boxes: Any, threshold: float, numbers: Iterator[int]) -> list[np.ndarray]:
    """Those of a frame's boxes (5,) whose refined score is above a threshold, refined."""
    for _ in range(ROUNDS):
        boxes = [_refine(frame, box, numbers) for box in boxes]
    return [box for box in boxes if box[4] > threshold]


def _run_dlib(frame: np.ndarray, scale: float, threshold: float = LIKELY) -> np.ndarray:
    """Boxes (faces, 5) of a frame that was scaled by `scale`, in the pixels of the original."""
    with DLIB_LOCK:
        rectangles, scores, _ = load_dlib().run(frame, 0, threshold)
    boxes = [(box.left(), box.top(), box.width(), box.height()) for box in rectangles]
    return np.column_stack([np.reshape(boxes, (-1, 4)) / scale, scores])


def _refine(frame: np.ndarray, box: np.ndarray, numbers: Iterator[int]) -> np.ndarray:
    """A box (5,) more exactly, with the highest score found there; `LIKELY` if there is no face.

    dlib's boxes lie on a grid of 8 pixels, and their sizes are a fifth apart. Those found at places and sizes spread
    evenly between are averaged, without weights: so the mean does not depend on where the grid lies.
    """
    center = box[:2] + box[2:4] / 2
    side = SURROUNDINGS * box[2]
    patch = _cut(frame, center, side)[None]
    boxes = []
    for size in REFINED_SIDES:
        left, top = start = (GRID * (next(numbers) * SPREAD % 1)).astype(int)
        searched = resize(patch, (size, size))[0, top:, left:]
        corner = center - side / 2 + start * side / size
        again = _run_dlib(np.ascontiguousarray(searched), size / side) + np.pad(corner, (0, 3))
        is_near = np.abs(again - box)[:, :4].max(axis=1) < box[2] / 2
        boxes.extend(again[is_near])
    if not boxes:
        return np.array([*box[:4], LIKELY])
    return np.array([*np.mean(boxes, axis=0)[:4], np.max(boxes, axis=0)[4]])
