"""Landmarks as features: place and size do not matter, missing frames are filled, the main face is followed."""

import numpy as np
import pytest

from tests.helpers.acted_speech import FRAMES, face_points, openface_rows, write_table
from training.converters.core.conversion_report import ConversionReport
from training.converters.core.face_tables import read_track, table_columns
from training.converters.core.landmarks import face_features, landmark_options, read_face_features


SECONDS = FRAMES / 30


def features_of(path, seconds=SECONDS, fps=None):
    """The features of a table, and the report's entries."""
    report = ConversionReport()
    options = landmark_options([path], fps, report)
    values = read_face_features({"id": "a", "landmarks": str(path)}, seconds, options, report)
    assert values is None or values.shape[1] == options.width
    reasons = [reason for kind in ("repaired", "notes") for reason in report.reasons[kind]]
    return values, reasons, report


def test_openface_columns_are_chosen(tmp_path):
    path = write_table(tmp_path / "a.csv", openface_rows(face_points()))
    assert table_columns(path) == (("0", "1", "2", "3"), ("AU01_r", "AU12_c"))
    values, reasons, _ = features_of(path)
    assert values.shape == (FRAMES, 2 * (4 + 4 + 2 + 2))
    assert reasons == []
    assert values[:, 10] == pytest.approx(0.1 * np.arange(FRAMES))
    assert values[:, 22] == pytest.approx([0.0] + [0.1] * (FRAMES - 1))


def test_face_in_another_place_gives_the_same_features(tmp_path):
    near = features_of(write_table(tmp_path / "a.csv", openface_rows(face_points())))[0]
    far = face_points(place=(700, -30), scale=0.4)
    assert features_of(write_table(tmp_path / "b.csv", openface_rows(far)))[0] == pytest.approx(near, abs=1e-5)
    turned = face_points()[:, ::-1]
    assert np.abs(features_of(write_table(tmp_path / "c.csv", openface_rows(turned)))[0] - near).max() > 0.1


def test_frames_without_a_face_are_interpolated_and_counted(tmp_path):
    rows = openface_rows(face_points())
    complete = features_of(write_table(tmp_path / "a.csv", rows))[0]
    rows[4] |= {" success": 0, " x_0": 0, " AU01_r": 0}
    del rows[9]  # not even a row
    values, reasons, report = features_of(write_table(tmp_path / "b.csv", rows))
    assert values.shape == complete.shape
    assert values[[4, 9], 10] == pytest.approx([0.4, 0.9])
    assert reasons == ["frames without a face: interpolated"]
    assert report.num_values["frames without a face: interpolated"] == 2
    for row in rows[:9]:
        row[" success"] = 0
    values, reasons, _ = features_of(write_table(tmp_path / "c.csv", rows))
    assert values is None
    assert reasons == ["face in fewer than half of the frames of a landmark table: left out"]


@pytest.mark.parametrize("with_ids", [True, False])
def test_main_face_is_the_largest_and_most_constant(tmp_path, with_ids):
    main = openface_rows(face_points(place=(300, 0)), 7)
    small = openface_rows(face_points(scale=0.5), 8)
    passing = openface_rows(face_points(3, place=(900, 0), scale=2), 9)
    rows = sorted([*small, *main, *passing], key=lambda row: row["frame"])
    if not with_ids:
        rows = [{name: value for name, value in row.items() if name != " face_id"} for row in rows]
    track = read_track(write_table(tmp_path / "a.csv", rows))
    assert track.num_faces == 3
    assert track.points == pytest.approx(face_points(place=(300, 0)))
    assert "landmarks of several faces: the largest and most constant one used" in features_of(tmp_path / "a.csv")[1]


def test_py_feat_and_mediapipe(tmp_path):
    rows = []
    for number, (x, y) in enumerate(face_points()):
        row = {"": number, "FaceRectX": x[0], "FaceRectWidth": 50, "FaceScore": 0.9}
        row |= {f"x_{i}": value for i, value in enumerate(x)} | {f"y_{i}": value for i, value in enumerate(y)}
        rows.append(row | {"Pitch": 0.1, "AU01": 0.1, "AU12": 0.2, "input": "a.mp4", "frame": number})
    path = write_table(tmp_path / "feat.csv", rows)
    assert table_columns(path)[1] == ("AU01", "AU12")
    values, reasons, _ = features_of(path)
    assert values.shape == (FRAMES, 24)
    assert reasons == ["landmarks without time stamps: length not compared (give --landmark_fps)"]
    assert features_of(path, fps=30)[1] == []
    assert features_of(path, fps=10)[1] == ["landmarks of another length than the recording: left out"]
    shapes = [{"timestamp_ms": 33.3 * i, "jawOpen": 0.1 * i, "nose_x": 5, "nose_y": 6, "nose_z": 1} for i in range(9)]
    for row in shapes:
        row |= {"chin_x": 5, "chin_y": 9}
    path = write_table(tmp_path / "mediapipe.csv", shapes)
    assert table_columns(path) == (("nose", "chin"), ("jawOpen",))
    assert features_of(path, 0.3)[0].shape == (9, 14)
    assert features_of(path, 1.0)[1] == ["landmarks of another length than the recording: left out"]


def test_npz(tmp_path):
    points = face_points()
    points[3] = 0
    np.savez(tmp_path / "a.npz", landmarks=points.reshape(FRAMES, 8).round().astype(np.int16))
    values, reasons, _ = features_of(tmp_path / "a.npz", fps=30)
    assert values.shape == (FRAMES, 20)
    assert reasons == ["frames without a face: interpolated"]
    assert values == pytest.approx(face_features(read_track(tmp_path / "a.npz")))


def test_damaged_tables(tmp_path):
    rows = openface_rows(face_points())
    good = write_table(tmp_path / "good.csv", rows)
    text = good.read_text()
    (tmp_path / "cut.csv").write_text(text[: len(text) // 2 - 7])
    (tmp_path / "other.csv").write_text("a,b\nx,y\n")
    np.savez(tmp_path / "other.npz", points=np.zeros((3, 4)))
    write_table(tmp_path / "none.csv", [row | {" success": 0} for row in rows])
    report = ConversionReport()
    options = landmark_options([tmp_path / "other.csv", good], None, report)
    for name in ("cut.csv", "other.csv", "other.npz", "none.csv", "absent.csv"):
        assert read_face_features({"id": name, "landmarks": str(tmp_path / name)}, 0.5, options, report) is None
    assert report.reasons["repaired"] == {
        "landmark table cannot be read, or shows no face: left out": [
            "cut.csv", "other.csv", "other.npz", "none.csv", "absent.csv",
        ],
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"neither landmarks \(x_0, y_0"):
        landmark_options([tmp_path / "other.csv"], None, report)
    with pytest.raises(ValueError, match="--landmark_fps is 0"):
        landmark_options([good], 0, report)


def test_absurd_numbers_take_no_memory_and_leave_no_nan(tmp_path):
    """A frame number of 1e12 would be a terabyte of frames; coordinates of 1e200 have no finite size."""
    rows = openface_rows(face_points())
    rows[3] |= {"frame": 10**12}
    assert features_of(write_table(tmp_path / "frame.csv", rows))[1] == [
        "landmark table cannot be read, or shows no face: left out"
    ]
    rows = openface_rows(face_points())
    rows[3] |= {" x_0": 1e200}
    values, reasons, _ = features_of(write_table(tmp_path / "point.csv", rows))
    assert np.isfinite(values).all()
    assert reasons == ["frames without a face: interpolated"]
    rows = openface_rows(face_points())
    rows[3] |= {" AU01_r": 1e200}
    values, reasons, _ = features_of(write_table(tmp_path / "unit.csv", rows))
    assert np.abs(values).max() <= 1e4
    assert reasons[0] == "landmark features with NaN or infinite values: set to 0"


def test_tables_of_other_programs(tmp_path):
    """Excel in German: semicolons and decimal commas."""
    expected = features_of(write_table(tmp_path / "a.csv", openface_rows(face_points())))[0]
    text = (tmp_path / "a.csv").read_text().replace(",", ";").replace(".", ",")
    (tmp_path / "b.csv").write_text(text)
    values, reasons, _ = features_of(tmp_path / "b.csv")
    assert reasons == []
    assert values == pytest.approx(expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace(" AU12_c", "x" * 200_000, 1), "is not CSV"),
        (lambda text: text.replace(" AU12_c", " AU01_r", 1), "more than one column AU01_r"),
    ],
)
def test_broken_header_is_an_error(tmp_path, change, message):
    path = write_table(tmp_path / "a.csv", openface_rows(face_points()))
    path.write_text(change(path.read_text()))
    with pytest.raises(ValueError, match=message):
        table_columns(path)


def test_one_odd_table_does_not_decide_for_the_others(tmp_path):
    rows = openface_rows(face_points())
    odd = [{name: value for name, value in row.items() if name != " AU12_c"} for row in rows]
    paths = [write_table(tmp_path / f"{i}.csv", odd if i == 0 else rows) for i in range(3)]
    assert landmark_options(paths, None, ConversionReport()).names == ("AU01_r", "AU12_c")
