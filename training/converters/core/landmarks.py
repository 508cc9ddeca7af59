"""Face landmarks and action units as features: `video_features` of a clip, read from a table of its frames.

    table ─► FaceTrack ─► frames without a face interpolated ─► points relative to their center, in units of the
                                     face's size ─► [x, y, movement, other columns], and how each changes (T, D)

A face in another place, or closer to the camera, gives the same features. Its movement within the clip is kept: the
center's distance from its median, also in face sizes. The changes from frame to frame say how lively a face is, which
depends less on whose face it is than its shape does (figures in training/log/encoders.md).
"""

# T frames  N points  D = 2 (2 N + 2 + other columns)

import argparse
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .arrays import repair_sequence
from .clips import list_files, map_files
from .conversion_report import ConversionReport
from .face_tables import TABLE_SUFFIXES, FaceTrack, face_sizes, read_track, table_columns


SAMPLED = 9  # tables whose columns are read to plan the features
MIN_SHARE = 0.5  # of the frames that must show the face
MAX_SHIFT_SECONDS = 0.25  # between the lengths of a table and its recording
MAX_SHIFT_SHARE = 0.1


class LandmarkOptions(NamedTuple):
    """How the tables of a corpus are read.

    Args:
        points, names: columns that every table must have.
        frames_per_second: of tables without times; None if unknown.
    """

    points: tuple[str, ...]
    names: tuple[str, ...]
    frames_per_second: float | None = None

    @property
    def width(self) -> int:
        """D of the features."""
        movement = 2 if self.points else 0
        return 2 * (2 * len(self.points) + movement + len(self.names))


def add_landmark_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of face landmarks to a converter."""
    parser.add_argument(
        "--landmarks",
        type=Path,
        metavar="FOLDER",
        help="folder of tables of OpenFace, py-feat or MediaPipe (.csv) or landmarks (.npz), one per clip, with the "
        "clip's name; they become video_features",
    )
    parser.add_argument(
        "--landmark_fps", type=float, metavar="X", help="frames per second of tables without time stamps"
    )


# ---- planning -------------------------------------------------------------------------------------------------


def table_files(files: Iterable[Path], report: ConversionReport) -> dict[str, Path]:
    """Map the name of every file that may be a table, without its extension, to its path."""
    tables = [path for path in files if path.suffix in TABLE_SUFFIXES]
    return map_files(tables, lambda path: path.stem, report)


def find_tables(folder: Path, report: ConversionReport) -> dict[str, Path]:
    """The files of a folder that may be tables, by name.

    Raises:
        FileNotFoundError: there is no folder, or no such file.
    """
    tables = table_files(list_files(folder), report)
    if not tables:
        raise FileNotFoundError(f"--landmarks {folder} has no .csv or .npz files.")
    return tables


def landmark_options(
    tables: Iterable[Path], frames_per_second: float | None, report: ConversionReport
) -> LandmarkOptions:
    """The columns that most of the first tables have, as far as they can be read; the others must have the same.

    Raises:
        ValueError: none can be read, or the frame rate is not positive.
    """
    if frames_per_second is not None and not frames_per_second > 0:
        raise ValueError(f"--landmark_fps is {frames_per_second:g}; give a number above 0.")
    problem = "There are none."
    counts: Counter[tuple[tuple[str, ...], tuple[str, ...]]] = Counter()
    first: dict[Any, Path] = {}  # columns -> a table with them
    for path in tables:
        try:
            columns = table_columns(path)
        except (OSError, ValueError) as error:
            problem = str(error)
            continue
        counts[columns] += 1
        first.setdefault(columns, path)
        if counts.total() == SAMPLED:
            break
    if not counts:
        raise ValueError(f"No table of landmarks fits the recordings. {problem}")
    points, names = chosen = counts.most_common(1)[0][0]
    if not points:
        report.note("landmark tables without points: only their other columns are used", first[chosen].name)
    return LandmarkOptions(points, names, frames_per_second)


def plan_landmarks(
    arguments: argparse.Namespace, names: Collection[str], report: ConversionReport
) -> tuple[dict[str, Path], LandmarkOptions | None]:
    """The tables of the clips with these names, and how they are read; none without `--landmarks`."""
    if arguments.landmarks is None:
        return {}, None
    found = find_tables(arguments.landmarks, report)
    tables = {name: path for name, path in found.items() if name in names}
    return tables, landmark_options(tables.values(), arguments.landmark_fps, report)


# ---- in the workers -------------------------------------------------------------------------------------------


def read_face_features(
    example: dict[str, Any], seconds: float | None, options: LandmarkOptions, report: ConversionReport
) -> np.ndarray | None:
    """Features of an example's table; None, with an entry in the report, if it has no usable one.

    Args:
        example: `landmarks` is the table's path or None.
        seconds: length of its recording; None if it has none.
        options: of the corpus.
        report: counts what is left out or repaired.

    Returns:
        (T, D) float32.
    """
    example_id = example["id"]
    if example["landmarks"] is None:
        report.repair("landmarks missing", example_id)
        return None
    path = Path(example["landmarks"])
    try:
        track = read_track(path)
    except (OSError, ValueError):
        report.repair("landmark table cannot be read, or shows no face: left out", example_id)
        return None
    problem = "landmark table with other columns than most"
    if (track.point_names, track.names) == (options.points, options.names):
        problem = _find_problem(track, seconds, options, example_id, report)
    if problem is not None:
        report.repair(f"{problem}: left out", example_id)
        return None
    if track.num_faces > 1:
        report.repair("landmarks of several faces: the largest and most constant one used", example_id)
    num_missing = int((~track.present).sum())
    if num_missing:
        report.repair("frames without a face: interpolated", example_id, num_missing)
    return repair_sequence(face_features(track), len(track.present), example_id, "landmark", report, options.width)


def _find_problem(
    track: FaceTrack, seconds: float | None, options: LandmarkOptions, example_id: str, report: ConversionReport
) -> str | None:
    if track.present.mean() < MIN_SHARE:
        return "face in fewer than half of the frames of a landmark table"
    step = track.seconds_per_frame
    if step is None and options.frames_per_second is not None:
        step = 1 / options.frames_per_second
    if seconds is None:
        return None
    if step is None:
        report.note("landmarks without time stamps: length not compared (give --landmark_fps)", example_id)
        return None
    shift = abs(len(track.present) * step - seconds)
    if shift > max(MAX_SHIFT_SECONDS, MAX_SHIFT_SHARE * seconds):
        return "landmarks of another length than the recording"
    return None


@np.errstate(over="ignore", invalid="ignore")  # numbers that float32 does not hold are repaired afterwards
def face_features(track: FaceTrack) -> np.ndarray:
    """Features that do not depend on where the face is, and how large.

    Returns:
        (T, D) float32: x of all points, y of all points, movement in x and y, the other columns; then the change of
        each of these since the frame before, 0 in the first frame.
    """
    indices = np.arange(len(track.present))
    known = indices[track.present]
    values = _interpolate(track.values, indices, known)
    num_points = track.points.shape[2]
    if not num_points:
        return with_changes(values)
    flat = track.points.reshape(len(indices), -1)
    points = _interpolate(flat, indices, known).reshape(-1, 2, num_points)
    centers = points.mean(axis=2)  # (T, 2)
    sizes = face_sizes(points)  # (T,)
    shapes = (points - centers[:, :, None]) / sizes[:, None, None]
    movement = (centers - np.median(centers, axis=0)) / np.median(sizes)
    return with_changes(np.concatenate([shapes.reshape(len(indices), -1), movement, values], axis=1))


def with_changes(columns: np.ndarray) -> np.ndarray:
    """(T, F) -> (T, 2 F) float32: the columns, and the change of each since the frame before."""
    changes = np.diff(columns, axis=0, prepend=columns[:1])
    return np.concatenate([columns, changes], axis=1).astype(np.float32)


def _interpolate(columns: np.ndarray, indices: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Fill frames between known ones linearly, and those before the first and after the last with these, (T, F)"""
    filled = [np.interp(indices, known, column[known]) for column in columns.T]
    return np.stack(filled, axis=1) if filled else np.zeros((len(indices), 0))
