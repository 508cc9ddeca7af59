"""The parts of the face that show an expression: mouth, nose, eyes, brows. See `face.py` for the order of drawing."""

import numpy as np

from .face_affects import FaceAffect
from .face_pen import SIDES, TURN, Face, mix_colors


ACROSS = np.linspace(-1, 1, 25)  # from the left to the right end of a mouth or an eye
INSIDE_MOUTH = (74, 22, 26)
TONGUE = (196, 88, 88)
TEETH = (248, 246, 240)
EYE_WHITE = (250, 249, 246)
PUPIL = (16, 12, 14)
VISIBLE_OPENING = 0.012


def draw_mouth(face: Face, speech: float) -> None:
    """Lips, opening, teeth and tongue, with the furrows beside them.

    Args:
        face: what is drawn.
        speech: 0 silent, 1 loudest; opens the mouth a little.
    """
    affect = face.affect
    half_width = face.speaker.mouth_width * (1 + affect.mouth_width - 0.12 * speech)
    opening = 0.23 * affect.mouth_open + 0.075 * speech * (1 - 0.55 * affect.lip_press)
    x = half_width * ACROSS
    middle = 0.53 - 0.03 * affect.mouth_curve - 0.03 * affect.mouth_shift
    base = middle - 0.155 * affect.mouth_curve * (ACROSS**2 - 0.45)  # (25,)
    arch = (1 - np.abs(ACROSS) ** (2 + 3 * affect.mouth_square)) ** (1 - max(0.0, -1.1 * affect.mouth_width))
    lifted = affect.mouth_shift * (0.055 * np.exp(-((ACROSS + 0.45) ** 2) / 0.18) + 0.03) * arch
    upper = base - 0.42 * opening * arch - lifted
    lower = base + 0.75 * opening * arch
    if affect.fold > 0.02:
        _draw_folds(face)
    if face.speaker.lip > 0.9 and not face.speaker.beard:
        shadow = mix_colors(face.skin, face.shade, 0.55)
        face.pen.stroke(x[8:17] * 0.9, lower[8:17] + 0.115, 0.022, shadow)
    lip_color = mix_colors(mix_colors(face.skin, (196, 70, 76), 0.5), face.shade, 0.25)
    _draw_lips(face, x, upper, lower, lip_color)
    if opening > VISIBLE_OPENING:
        _draw_inside_of_mouth(face, x, upper, lower, opening, speech)
    line_y = upper if opening > VISIBLE_OPENING else (upper + lower) / 2
    line_width = 0.026 + 0.012 * affect.lip_press
    face.pen.stroke(x, line_y, line_width * 0.9, mix_colors(lip_color, (70, 20, 24), 0.7))
    corner_color = mix_colors(lip_color, (70, 20, 24), 0.6)
    for corner in (0, -1):
        face.pen.ellipse(float(x[corner]), float(base[corner]), 0.022, 0.022, corner_color)


def _draw_folds(face: Face) -> None:
    """Furrows from the nose to the lip corners."""
    affect = face.affect
    color = mix_colors(face.skin, face.shade * 0.85, min(1.0, 0.35 + 0.65 * affect.fold))
    for side in SIDES:
        x = side * np.array([0.17, 0.24, 0.31, 0.34 + 0.03 * affect.mouth_curve])
        y = np.array([0.26, 0.31, 0.40, 0.50]) - 0.04 * affect.nose_wrinkle
        face.pen.stroke(x, y, 0.038 * affect.fold, color)


def _draw_lips(face: Face, x: np.ndarray, upper: np.ndarray, lower: np.ndarray, color: np.ndarray) -> None:
    thin = 1 - 0.55 * face.affect.lip_press
    upper_lip = 0.045 * face.speaker.lip * thin
    lower_lip = 0.075 * face.speaker.lip * thin
    cupid = 1 - 0.35 * np.exp(-((ACROSS) ** 2) / 0.02)
    soft = np.sqrt(np.clip(1 - ACROSS**2, 0, 1))
    top = upper - upper_lip * soft * cupid - 0.008
    bottom = lower + lower_lip * soft + 0.008
    face.pen.fill_between(x * 1.03, top, bottom, color)


def _draw_inside_of_mouth(
    face: Face, x: np.ndarray, upper: np.ndarray, lower: np.ndarray, opening: float, speech: float
) -> None:
    face.pen.fill_between(x, upper, lower, INSIDE_MOUTH)
    gap = lower - upper
    if opening > 0.08:
        bulge = np.clip(1 - (ACROSS / 0.75) ** 2, 0, 1)
        tongue = np.maximum(lower - 0.42 * gap * bulge, upper)
        face.pen.fill_between(x, tongue, lower, TONGUE)
    share = min(1.0, face.affect.teeth + 0.15 * speech)
    if share > 0.05:
        edge = upper + share * gap * np.clip(1.1 - 0.5 * ACROSS**4, 0, 1)
        inner = slice(2, -2)
        face.pen.fill_between(x[inner], upper[inner], np.minimum(edge, lower)[inner], TEETH)


def draw_nose(face: Face) -> None:
    """Bridge, tip and wings; wrinkles across the bridge for AU9."""
    wrinkle = face.affect.nose_wrinkle
    tip = 0.26 * face.speaker.nose_length - 0.045 * wrinkle
    line = mix_colors(face.skin, face.shade, 0.85)
    wing = 0.115 + 0.02 * wrinkle
    face.pen.stroke([0.055, 0.06, 0.085], [-0.06, 0.06, tip - 0.06], 0.022, mix_colors(face.skin, face.shade, 0.5))
    face.pen.ellipse(0, tip - 0.03, 0.085, 0.075, mix_colors(face.skin, (255, 240, 228), 0.22), 1.2)
    arc = np.linspace(0.15 * np.pi, 0.85 * np.pi, 11)
    face.pen.stroke(0.1 * np.cos(arc), tip - 0.035 + 0.07 * np.sin(arc), 0.028, line)
    curl = np.linspace(-0.55 * np.pi, 0.45 * np.pi, 9)
    for side in SIDES:
        face.pen.stroke(side * (wing + 0.03 * np.cos(curl)), tip + 0.045 * np.sin(curl), 0.028, line)
    if wrinkle > 0.05:
        _draw_nose_wrinkles(face)


def _draw_nose_wrinkles(face: Face) -> None:
    wrinkle = face.affect.nose_wrinkle
    color = mix_colors(face.skin, face.shade * 0.8, min(1.0, wrinkle))
    bend = np.linspace(-1, 1, 7)
    for number, height in enumerate((-0.20, -0.12, -0.04)):
        half_width = 0.10 - 0.012 * number
        y = height + 0.035 * (1 - bend**2) - 0.02
        face.pen.stroke(half_width * bend, y, 0.028 * wrinkle, color)
    for side in SIDES:
        face.pen.stroke(side * np.array([0.10, 0.16]), np.array([0.02, 0.10]), 0.026 * wrinkle, color)


def draw_eye(face: Face, side: int, blink: float) -> None:
    """White, iris and lids of one eye.

    Args:
        face: what is drawn.
        side: -1 is on the left of the frame.
        blink: 0 open, 1 closed.
    """
    size = face.speaker.eye_size
    center_x = side * face.speaker.eye_gap
    center_y = -0.07
    half_width = 0.165 * size
    x = half_width * ACROSS
    outward = side * ACROSS
    upper, lower = _eyelids(face.affect, size, outward, blink)
    socket = mix_colors(face.skin, face.shade, 0.24)
    face.pen.ellipse(center_x, center_y - 0.01, half_width * 1.22, 0.16 * size, socket)
    face.pen.fill_between(x + center_x, upper + center_y, lower + center_y, EYE_WHITE)
    _draw_iris(face, (center_x, center_y), x, upper, lower)
    _draw_glint(face, (center_x, center_y), x, upper, blink)

    lash = mix_colors(face.shade * 0.4, (30, 22, 22), 0.7)
    inner = slice(3, -3)
    face.pen.stroke(x + center_x, upper + center_y, 0.026 + 0.014 * (outward + 1) / 2, lash)
    face.pen.stroke(x[inner] + center_x, lower[inner] + center_y, 0.014, mix_colors(face.shade, lash, 0.35))
    if face.affect.lid_upper > -0.3:
        crease = upper - 0.045 - 0.02 * _dome()
        crease_color = mix_colors(face.skin, face.shade, 0.8)
        face.pen.stroke(x[inner] * 1.05 + center_x, crease[inner] + center_y, 0.014, crease_color)
    if face.affect.lid_lower > 0.2:
        _draw_raised_cheek(face, side, (center_x, center_y), half_width)


def _dome() -> np.ndarray:
    return np.clip(1 - ACROSS**2, 0, 1) ** 0.6


def _lower_lid_height(affect: FaceAffect, size: float) -> float:
    return 0.082 * size * (1 - 0.75 * affect.lid_lower)


def _eyelids(affect: FaceAffect, size: float, outward: np.ndarray, blink: float) -> tuple[np.ndarray, np.ndarray]:
    """Borders of the upper and the lower lid, (25,) each, relative to the eye's center."""
    dome = _dome()
    upper_height = 0.118 * size * max(0.12, 1 + 0.62 * affect.lid_upper)
    lower_height = _lower_lid_height(affect, size)
    upper = -upper_height * dome + 0.05 * affect.lid_slope * outward
    lower = lower_height * dome + 0.03 * affect.lid_slope * outward - 0.035 * max(0.0, affect.lid_lower) * dome
    closed = 0.6 * lower + 0.4 * upper + 0.012 * dome
    upper = np.minimum((1 - blink) * upper + blink * closed, lower - 0.008)
    lower = (1 - blink) * lower + blink * np.maximum(closed, upper + 0.004)
    return upper, lower


def _draw_iris(face: Face, center: tuple[float, float], x: np.ndarray, upper: np.ndarray, lower: np.ndarray) -> None:
    """Rim, iris and pupil, where the lids do not cover them."""
    gaze_x = 0.05 * face.affect.gaze_x
    gaze_y = 0.045 * face.affect.gaze_y
    rings = ((0.092, np.array(face.speaker.iris) * 0.75), (0.078, face.speaker.iris), (0.042, PUPIL))
    for radius, color in rings:
        ring_x = gaze_x + radius * np.cos(TURN)
        ring_y = gaze_y - 0.012 + radius * np.sin(TURN)
        ring_y = np.clip(ring_y, np.interp(ring_x, x, upper), np.interp(ring_x, x, lower))
        face.pen.fill(ring_x + center[0], ring_y + center[1], color)


def _draw_glint(face: Face, center: tuple[float, float], x: np.ndarray, upper: np.ndarray, blink: float) -> None:
    """The light in the eye, where the upper lid does not cover it."""
    gaze_x = 0.05 * face.affect.gaze_x
    glint_y = 0.045 * face.affect.gaze_y - 0.045
    lid_y = float(np.interp(gaze_x, x, upper))
    if blink < 0.4 and glint_y > lid_y + 0.012:
        face.pen.ellipse(center[0] + gaze_x + 0.028, center[1] + glint_y, 0.021, 0.021, (255, 255, 255))


def _draw_raised_cheek(face: Face, side: int, center: tuple[float, float], half_width: float) -> None:
    """The bag that the cheek pushes under the eye, and crow's feet beside a smile."""
    affect = face.affect
    bag = np.linspace(-0.9, 0.9, 9)
    bag_y = _lower_lid_height(affect, face.speaker.eye_size) + 0.055 - 0.03 * bag**2
    bag_color = mix_colors(face.skin, face.shade, 0.8 * affect.lid_lower)
    face.pen.stroke(half_width * bag + center[0], bag_y + center[1], 0.018, bag_color)
    if affect.mouth_curve > 0.3:
        outer = center[0] + side * half_width * np.array([1.15, 1.45])
        color = mix_colors(face.skin, face.shade, 0.7)
        for height in (-0.03, 0.03):
            face.pen.stroke(outer, np.array([-0.0, height]) + center[1], 0.014, color)


def draw_brow(face: Face, side: int) -> None:
    """One brow, thick at the nose, with the frown line beside it.

    Args:
        face: what is drawn.
        side: -1 is on the left of the frame.
    """
    affect = face.affect
    along = np.linspace(0, 1, 15)  # from the inner to the outer end
    inner = face.speaker.eye_gap - 0.165 - 0.05 * affect.brow_squeeze
    x = inner + (face.speaker.eye_gap + 0.20 - inner) * along
    top = -0.315 + face.speaker.brow_height
    raised = affect.brow_inner * (1 - along) ** 1.3 + affect.brow_outer * along
    arch = 0.05 * np.sin(np.pi * np.clip(along * 1.05, 0, 1)) * (1 - 0.5 * affect.brow_squeeze)
    y = top - 0.125 * raised - arch + 0.03 * along
    width = (0.085 - 0.05 * along**2) * face.speaker.brow_weight
    if affect.brow_squeeze > 0.1:
        frown_color = mix_colors(face.shade, (70, 36, 30), 0.35)
        frown_y = np.linspace(-0.40, -0.22, 5)
        face.pen.stroke(side * np.full(5, 0.055), frown_y, 0.022 * affect.brow_squeeze, frown_color)
    if affect.brow_inner > 0.5:
        _draw_forehead_wrinkle(face, side)
    face.pen.stroke(side * x, y, width, mix_colors(face.hair * 0.8, face.shade, 0.15))


def _draw_forehead_wrinkle(face: Face, side: int) -> None:
    """The forehead wrinkles above raised brows: a long line with one brow, a shorter line with the other."""
    extent = 0.8 if side < 0 else 0.55
    height = -0.60 if side < 0 else -0.54
    bend = np.linspace(-extent, extent, 9)
    color = mix_colors(face.shade, face.shade * 0.8, 0.4)
    face.pen.stroke(0.34 * bend, height - 0.02 * (1 - bend**2), 0.016 * face.affect.brow_inner, color)
