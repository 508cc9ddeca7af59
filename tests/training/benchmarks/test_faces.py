"""The benchmark of faces elsewhere in the frame."""

import numpy as np
import pytest

from training.benchmarks import faces
from training.benchmarks.faces import ALL_MODALITIES, CENTERED, place, summarize


def clip_with_dot(height=90, width=160):
    frames = np.full((2, height, width, 3), 40, np.uint8)
    frames[:, height // 2 - 8 : height // 2 + 8, width // 2 - 8 : width // 2 + 8] = 250
    return frames


def center_of_dot(frames):
    rows, columns = np.nonzero(frames[0, ..., 0] > 150)
    return (columns.min() + columns.max() + 1) / 2, (rows.min() + rows.max() + 1) / 2


def test_variants_move_scale_and_letterbox_the_clip():
    variants = place(clip_with_dot())
    assert {frames.shape for name, frames in variants.items() if name != "letterboxed, moved"} == {(2, 90, 160, 3)}
    assert center_of_dot(variants[CENTERED]) == (80, 45)
    assert center_of_dot(variants["left third"]) == (45, 45)
    assert center_of_dot(variants["right third"]) == (115, 45)
    assert center_of_dot(variants["half size"]) == pytest.approx((80, 45), abs=1)
    assert center_of_dot(variants["half size, below left"]) == pytest.approx((40, 67), abs=1)
    assert center_of_dot(variants["moved by a pixel"]) == (81, 46)
    boxed = variants["letterboxed, moved"]
    assert boxed.shape == (2, 120, 160, 3)
    assert (boxed[:, :10] == 0).all()
    assert (boxed[:, -20:] == 0).all()
    assert place(clip_with_dot(90, 91))[CENTERED].shape == (2, 90, 160, 3)


def test_summary_compares_with_the_centered_clip():
    def result(share, video, everything):
        return {"face_share": share, "probabilities": np.array([video, everything])}

    clips = [
        {CENTERED: result(1.0, [0.7, 0.3], [0.5, 0.5]), "left third": result(1.0, [0.6, 0.4], [0.52, 0.48])},
        {CENTERED: result(1.0, [0.6, 0.4], [0.9, 0.1]), "left third": result(0.0, [0.3, 0.7], [0.9, 0.1])},
    ]
    figures = summarize(clips)["left third"]
    assert figures["clips_without_face"] == 1
    assert figures["video"] == pytest.approx({"largest": 0.3, "mean": 0.2, "clips_above_limit": 2, "other_answers": 1})
    assert figures[ALL_MODALITIES] == pytest.approx(
        {"largest": 0.02, "mean": 0.01, "clips_above_limit": 0, "other_answers": 0}
    )


def test_without_clips_the_options_are_named(capsys):
    with pytest.raises(SystemExit):
        faces.main([])
    assert "Give --dataset, --folder, or both." in capsys.readouterr().err
