"""Tables of faces as OpenFace, py-feat and MediaPipe users write them: one row per face and frame.

    clip.csv or clip.npz ─► choose columns ─► rows ─► tracks of faces ─► the main face, one row per frame ─► FaceTrack

OpenFace: `frame, face_id, timestamp, confidence, success, x_0.., y_0.., AU01_r..`; py-feat: `FaceRectX.., x_0..,
y_0.., AU01.., frame`; MediaPipe, which has no format of its own: any points `NAME_x`, `NAME_y` or `x_3`, `y_3`, and
any other columns of numbers, such as blendshapes. A .npz file holds `landmarks` (T, 2 N): x of all points, then y.

Next: landmarks.py makes features of a track.
"""

# R rows of the table  T frames  N points  F other columns

import csv
import io
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...data.csv_tables import find_separator, parse_number
from ...data.text_files import read_text


TABLE_SUFFIXES = (".csv", ".npz")
MAX_FRAMES_PER_ROW = 100  # of a table that skips frames; beyond it, a number is damaged
NPZ_KEY = "landmarks"
POINT = re.compile(r"(?P<axis>[xyz])_?(?P<number>\d+)|(?P<name>\w+)_(?P<name_axis>[xyz])")
# Columns that are neither points nor features: bookkeeping, and what depends on where the face is or looks.
IGNORED = re.compile(
    r"|index|unnamed.*|frame.*|face|face_?id|person_?id|time.*|seconds|approx_time|confidence|success|input"
    r"|Face(?:Rect|Score)\w*|Identity\w*|(?:gaze|pose|eye_lmk|p)_.*|[XYZ](?:_\d+)?|Pitch|Roll|Yaw"
)
FRAME_COLUMNS = ("frame", "frame_id", "frame_number", "frame_index")
FACE_COLUMNS = ("face_id", "face", "person_id")
TIME_COLUMNS = {"timestamp": 1.0, "time": 1.0, "seconds": 1.0, "timestamp_ms": 1e-3, "time_ms": 1e-3}
FACE_BOX = ("FaceRectX", "FaceRectY", "FaceRectWidth", "FaceRectHeight")


class FaceColumns(NamedTuple):
    """Columns of a table, as positions in a row.

    Args:
        points: names of the points.
        x, y: positions of their coordinates.
        names: names of the other features.
        values: their positions.
        positions: name -> position of every column.
    """

    points: tuple[str, ...]
    x: list[int]
    y: list[int]
    names: tuple[str, ...]
    values: list[int]
    positions: dict[str, int]

    def first_of(self, names: tuple[str, ...]) -> int | None:
        """Position of the first of these columns that exists."""
        return next((self.positions[name] for name in names if name in self.positions), None)


class FaceTrack(NamedTuple):
    """The main face of a clip on a regular grid of frames.

    Args:
        point_names: names of the points.
        names: names of the other features.
        points: (T, 2, N) coordinates; NaN where there is no face.
        values: (T, F) other features; NaN where there is no face.
        present: (T,) whether the face was found.
        seconds_per_frame: None if the table has no times.
        num_faces: number of different faces in the table.
    """

    point_names: tuple[str, ...]
    names: tuple[str, ...]
    points: np.ndarray
    values: np.ndarray
    present: np.ndarray
    seconds_per_frame: float | None
    num_faces: int


class _Face(NamedTuple):
    """One row of the table that shows a face."""

    row: int
    frame: int
    center: np.ndarray
    size: float


# ---- columns --------------------------------------------------------------------------------------------------


def table_columns(path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the points and of the other features of a table.

    Raises:
        ValueError: it cannot be read, or has neither.
    """
    if path.suffix == ".npz":
        return _number_points(_read_npz(path)), ()
    columns, _ = _read_rows(path)
    return columns.points, columns.names


def choose_columns(header: list[str], numeric: np.ndarray) -> FaceColumns:
    """Sort the columns of a table into points and other features.

    Args:
        header: names of the columns.
        numeric: for each column, whether it has a number in any row.
    """
    positions: dict[str, int] = {}
    axes: dict[str, dict[str, int]] = {"x": {}, "y": {}, "z": {}}
    others = {}
    for position, name in enumerate(header):
        positions.setdefault(name, position)
        if IGNORED.fullmatch(name) or not numeric[position]:
            continue
        match = POINT.fullmatch(name)
        if match is None:
            others[name] = position
            continue
        axis = match["axis"] or match["name_axis"]
        axes[axis][match["number"] or match["name"]] = position
    points = tuple(name for name in axes["x"] if name in axes["y"])
    return FaceColumns(
        points=points,
        x=[axes["x"][name] for name in points],
        y=[axes["y"][name] for name in points],
        names=tuple(others),
        values=list(others.values()),
        positions=positions,
    )


def _read_rows(path: Path) -> tuple[FaceColumns, np.ndarray]:
    """Columns and (R, columns) numbers of a CSV table; NaN where a cell holds none."""
    text = read_text(path)
    separator = find_separator(text)
    try:
        lines = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator) if row]
    except csv.Error as error:
        raise ValueError(f"{path} is not CSV ({error}).") from error
    if len(lines) < 2:
        raise ValueError(f"{path} has no rows.")
    header = [name.strip() for name in lines[0]]
    if any(len(row) != len(header) for row in lines):
        raise ValueError(f"{path} has rows of different lengths; was its download interrupted?")
    repeated = [name for name in dict.fromkeys(header) if name and header.count(name) > 1]
    if repeated:
        raise ValueError(f"{path} has more than one column {', '.join(repeated[:5])}.")
    rows = np.array([[_as_number(cell) for cell in row] for row in lines[1:]])
    columns = choose_columns(header, np.isfinite(rows).any(axis=0))
    if not columns.points and not columns.names:
        raise ValueError(f"{path} has neither landmarks (x_0, y_0, ...) nor action units (AU01_r, ...).")
    return columns, rows


def _as_number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        number = parse_number(cell)  # it may have a decimal comma
        return np.nan if number is None else number


def _read_npz(path: Path) -> np.ndarray:
    """(T, 2, N) points of a .npz file.

    Raises:
        ValueError: it cannot be read, or has no such array.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            points = np.asarray(arrays[NPZ_KEY], dtype=float)
    except Exception as error:  # the type depends on the damage
        raise ValueError(f"{path} has no readable array {NPZ_KEY!r}: {error}") from error
    if points.ndim != 2 or points.shape[0] == 0 or points.shape[1] == 0 or points.shape[1] % 2:
        raise ValueError(f"{path}: {NPZ_KEY!r} has the shape {points.shape}; it must be (frames, 2 * points).")
    return points.reshape(len(points), 2, -1)


def _number_points(points: np.ndarray) -> tuple[str, ...]:
    """Names of points that have none, (T, 2, N)"""
    return tuple(str(number) for number in range(points.shape[2]))


# ---- the main face --------------------------------------------------------------------------------------------


def read_track(path: Path) -> FaceTrack:
    """The main face of a table: the one that is largest and seen longest.

    Raises:
        ValueError: the table cannot be read, or never shows a face.
    """
    if path.suffix == ".npz":
        points = _read_npz(path)
        present = np.isfinite(points).all(axis=(1, 2)) & points.any(axis=(1, 2))
        if not present.any():
            raise ValueError(f"{path} shows no face.")
        return FaceTrack(
            point_names=_number_points(points),
            names=(),
            points=np.where(present[:, None, None], points, np.nan),
            values=np.zeros((len(points), 0)),
            present=present,
            seconds_per_frame=None,
            num_faces=1,
        )
    columns, rows = _read_rows(path)
    frames = _number_frames(columns, rows)
    faces = _find_faces(columns, rows, frames)
    if not faces:
        raise ValueError(f"{path} shows no face.")
    tracks = _link_faces(columns, rows, faces)
    main = max(tracks, key=lambda track: sum(face.size for face in track))
    length = int(frames.max()) + 1
    points = np.full((length, 2, len(columns.points)), np.nan)
    values = np.full((length, len(columns.values)), np.nan)
    present = np.zeros(length, bool)
    for face in sorted(main, key=lambda face: face.size):  # of two in one frame, the larger one stays
        points[face.frame] = [rows[face.row, columns.x], rows[face.row, columns.y]]
        values[face.frame] = rows[face.row, columns.values]
        present[face.frame] = True
    return FaceTrack(
        point_names=columns.points,
        names=columns.names,
        points=points,
        values=values,
        present=present,
        seconds_per_frame=_seconds_per_frame(columns, rows, frames),
        num_faces=len(tracks),
    )


def _number_frames(columns: FaceColumns, rows: np.ndarray) -> np.ndarray:
    """(R,) index of each row's frame on a regular grid, from 0; frames that the table skips have no row."""
    position = columns.first_of((*FRAME_COLUMNS, *TIME_COLUMNS))
    if position is None or not np.isfinite(rows[:, position]).all():
        return np.arange(len(rows))
    keys = rows[:, position]
    steps = np.diff(np.unique(keys))
    if not len(steps):
        return np.zeros(len(rows), int)
    frames = np.rint((keys - keys.min()) / np.median(steps))
    if not frames.max() < MAX_FRAMES_PER_ROW * len(rows):  # NaN too
        raise ValueError(f"The frames of a table of {len(rows)} rows reach to {keys.max():g}.")
    return frames.astype(int)


def _seconds_per_frame(columns: FaceColumns, rows: np.ndarray, frames: np.ndarray) -> float | None:
    name = next((name for name in TIME_COLUMNS if name in columns.positions), None)
    if name is None or frames.max() == 0:
        return None
    times = rows[:, columns.positions[name]] * TIME_COLUMNS[name]
    if not np.isfinite(times).all():
        return None
    return float(times.max() - times.min()) / int(frames.max())


@np.errstate(over="ignore", invalid="ignore")  # of damaged numbers, whose sizes are not finite
def _find_faces(columns: FaceColumns, rows: np.ndarray, frames: np.ndarray) -> list[_Face]:
    """The rows in which a face was found, with its place and size."""
    used = [*columns.x, *columns.y, *columns.values]
    found = np.isfinite(rows[:, used]).all(axis=1)
    if "success" in columns.positions:
        found &= rows[:, columns.positions["success"]] != 0
    if columns.points:
        points = np.stack([rows[:, columns.x], rows[:, columns.y]], axis=1)  # (R, 2, N)
        centers = points.mean(axis=2)
        sizes = face_sizes(points)
        found &= (sizes > 0) & np.isfinite(sizes)
    elif all(name in columns.positions for name in FACE_BOX):
        box = rows[:, [columns.positions[name] for name in FACE_BOX]]
        centers = box[:, :2] + box[:, 2:] / 2
        sizes = box[:, 2:].mean(axis=1)
    else:
        centers = np.zeros((len(rows), 2))
        sizes = np.ones(len(rows))
    indices = np.flatnonzero(found)
    return [_Face(int(i), int(frames[i]), centers[i], float(sizes[i])) for i in indices]


def face_sizes(points: np.ndarray) -> np.ndarray:
    """Root mean square distance of the points from their center, (T, 2, N) → (T,)"""
    offsets = points - points.mean(axis=2, keepdims=True)
    return np.sqrt((offsets**2).sum(axis=1).mean(axis=1))


def _link_faces(columns: FaceColumns, rows: np.ndarray, faces: list[_Face]) -> list[list[_Face]]:
    """Faces that belong to one person: by the table's ids, or else by the closest place in the frames before."""
    position = columns.first_of(FACE_COLUMNS)
    tracks: list[list[_Face]] = []
    if position is not None:
        by_id: dict[float, list[_Face]] = {}
        for face in faces:
            by_id.setdefault(rows[face.row, position], []).append(face)
        return list(by_id.values())
    for face in sorted(faces, key=lambda face: face.frame):
        track = _closest_track(face, tracks)
        if track is None:
            tracks.append([face])
        else:
            track.append(face)
    return tracks


def _closest_track(face: _Face, tracks: list[list[_Face]]) -> list[_Face] | None:
    """The track whose last face is closer than two face sizes, and from an earlier frame."""
    best = None
    best_distance = np.inf
    for track in tracks:
        last = track[-1]
        distance = float(np.linalg.norm(face.center - last.center))
        if last.frame < face.frame and distance < min(best_distance, 2 * max(face.size, last.size)):
            best = track
            best_distance = distance
    return best
