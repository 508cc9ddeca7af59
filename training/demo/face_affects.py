"""The affects of the demo's face: every emotion is a point in a table of muscle movements.

The movements are the facial action units (AU) of Ekman and Friesen's Facial Action Coding System as commonly listed
for the emotion (in the comments of the table): brows, lids, nose, cheeks, lips, jaw and head pose.

Next: `face.py` draws the face.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class FaceAffect:
    """One point of the expression space; zero everywhere is the neutral face."""

    brow_inner: float = 0.0  # inner brow raised (AU1) or, below zero, lowered (AU4)
    brow_outer: float = 0.0  # outer brow raised (AU2)
    brow_squeeze: float = 0.0  # brows drawn together (AU4)
    lid_upper: float = 0.0  # upper lid raised (AU5) or drooping
    lid_lower: float = 0.0  # lower lid tightened (AU7), cheek raised (AU6)
    lid_slope: float = 0.0  # outer corner of the lid falls
    nose_wrinkle: float = 0.0  # AU9
    fold: float = 0.0  # furrow from nose to lip corner
    mouth_curve: float = 0.0  # lip corners up (AU12) or down (AU15)
    mouth_open: float = 0.0  # jaw drop (AU26)
    mouth_width: float = 0.0  # stretched (AU20) or rounded
    mouth_square: float = 0.0  # an opening with straight rather than round borders
    mouth_shift: float = 0.0  # upper lip raised, more on one side (AU10)
    teeth: float = 0.0  # share of the opening that shows teeth
    lip_press: float = 0.0  # lips tightened and pressed (AU23, AU24)
    gaze_x: float = 0.0
    gaze_y: float = 0.0
    head_yaw: float = 0.0
    head_pitch: float = 0.0  # down is positive
    head_roll: float = 0.0  # radians
    head_size: float = 0.0  # leaning forward is positive
    flush: float = 0.0  # red cheeks; below zero pale
    tremble: float = 0.0  # fast movement
    sway: float = 0.0  # slow movement beyond what everybody has


FACE_AFFECTS: dict[str, FaceAffect] = {
    "neutral": FaceAffect(),
    "surprise": FaceAffect(  # AU1+2+5+26
        brow_inner=1.0,
        brow_outer=1.0,
        lid_upper=0.75,
        lid_lower=-0.3,
        mouth_open=1.0,
        mouth_width=-0.42,
        head_pitch=-0.05,
        head_size=-0.02,
    ),
    "fear": FaceAffect(  # AU1+2+4+5+20+25
        brow_inner=0.95,
        brow_outer=0.1,
        brow_squeeze=0.9,
        lid_upper=0.7,
        lid_lower=0.1,
        mouth_curve=-0.35,
        mouth_open=0.3,
        mouth_width=0.32,
        mouth_square=1.0,
        teeth=0.75,
        gaze_x=0.3,
        head_pitch=-0.02,
        head_size=-0.06,
        head_yaw=0.04,
        flush=-0.6,
        tremble=1.0,
    ),
    "sadness": FaceAffect(  # AU1+4+15
        brow_inner=0.85,
        brow_outer=-0.55,
        brow_squeeze=0.5,
        lid_upper=-0.5,
        lid_slope=0.6,
        mouth_curve=-0.85,
        mouth_width=-0.12,
        gaze_y=0.7,
        head_pitch=0.09,
        head_roll=0.10,
        head_size=-0.02,
        flush=-0.2,
        sway=-0.5,
    ),
    "joy": FaceAffect(  # AU6+12
        brow_inner=0.15,
        brow_outer=0.2,
        lid_upper=-0.15,
        lid_lower=0.85,
        fold=0.45,
        mouth_curve=1.0,
        mouth_open=0.42,
        mouth_width=0.28,
        teeth=0.62,
        head_pitch=-0.03,
        head_roll=-0.06,
        flush=0.6,
        sway=1.0,
    ),
    "disgust": FaceAffect(  # AU9+10+15+17
        brow_inner=-0.55,
        brow_outer=-0.25,
        brow_squeeze=0.5,
        lid_upper=-0.5,
        lid_lower=0.6,
        nose_wrinkle=1.0,
        fold=1.0,
        mouth_curve=-0.45,
        mouth_open=0.2,
        mouth_width=-0.05,
        mouth_shift=1.0,
        teeth=0.45,
        gaze_x=-0.5,
        gaze_y=0.2,
        head_yaw=0.12,
        head_roll=-0.1,
        head_pitch=-0.03,
        flush=-0.15,
    ),
    "anger": FaceAffect(  # AU4+5+7+23
        brow_inner=-0.95,
        brow_outer=0.35,
        brow_squeeze=1.0,
        lid_upper=-0.1,
        lid_lower=0.5,
        lid_slope=-0.6,
        fold=0.2,
        mouth_curve=-0.4,
        mouth_width=-0.05,
        mouth_square=1.0,
        lip_press=1.0,
        head_pitch=0.05,
        head_size=0.08,
        flush=1.0,
        tremble=0.25,
    ),
}


def mix_face_affects(weights: dict[str, float]) -> FaceAffect:
    """Weighted sum of table points; if the weights sum to less than one, the rest is neutral."""
    values = {}
    for field in dataclasses.fields(FaceAffect):
        values[field.name] = sum(weight * getattr(FACE_AFFECTS[name], field.name) for name, weight in weights.items())
    return FaceAffect(**values)
