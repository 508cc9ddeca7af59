"""The head around the face: hair, shoulders, ears, skin, beard, glasses. See `face.py` for the order of drawing."""

import numpy as np

from .face_pen import SIDES, TURN, Face, FaceSpeaker, mix_colors


GLASSES = (52, 46, 50)
FRECKLES = ((-0.08, 0.0), (0.0, 0.05), (0.08, -0.01), (0.02, -0.05), (-0.05, 0.08))
CHEEK_RINGS = ((0.20, 0.35), (0.15, 0.7), (0.10, 1.0))  # radius, share of the blush


def draw_back(face: Face) -> None:
    """Everything behind the head: hair, shoulders, neck and ears."""
    pen = face.pen
    _draw_back_hair(face)
    shirt = np.array(face.speaker.shirt, float)
    shoulder_x = [-1.7, -1.3, -0.5, 0.5, 1.3, 1.7, 1.7, -1.7]
    shoulder_y = [1.75, 1.3, 1.12, 1.12, 1.3, 1.75, 2.6, 2.6]
    pen.fill(shoulder_x, shoulder_y, shirt, -0.6)
    pen.ellipse(0, 1.14, 0.40, 0.17, shirt * 0.8, -0.6)
    dark_skin = mix_colors(face.skin, face.shade, 0.75)
    pen.fill([-0.31, 0.31, 0.35, 0, -0.35], [0.5, 0.5, 1.12, 1.24, 1.12], dark_skin, -0.3)
    width = face.speaker.head_width
    for side in SIDES:
        pen.ellipse(side * (width + 0.01), 0.06, 0.11, 0.19, mix_colors(face.skin, face.shade, 0.35), -0.2)
        pen.ellipse(side * (width + 0.02), 0.07, 0.055, 0.11, dark_skin, -0.2)


def _draw_back_hair(face: Face) -> None:
    pen = face.pen
    width = face.speaker.head_width
    dark_hair = face.hair * 0.72
    if face.speaker.style == "long":
        _draw_hanging_hair(face, width + 0.17, 1.45)
    if face.speaker.style == "bob":
        _draw_hanging_hair(face, width + 0.15, 0.62)
    if face.speaker.style == "bun":
        pen.ellipse(0.0, -1.12, 0.36, 0.33, face.hair * 0.85, -0.4)
    if face.speaker.style == "curly":
        for angle in np.linspace(-0.25, np.pi + 0.25, 13):
            x = (width + 0.06) * np.cos(angle)
            y = -0.2 - 0.84 * np.sin(angle)
            pen.ellipse(x, y, 0.27, 0.25, dark_hair, 0)


def _draw_hanging_hair(face: Face, side: float, end: float) -> None:
    """Hair down to the height `end`, reaching `side` to either side of the center."""
    down = np.linspace(0, 1, 9)
    bulge = side + 0.05 * np.sin(np.pi * down) - 0.03 * down
    arc = np.linspace(np.pi, 2 * np.pi, 25)
    x = np.concatenate([side * np.cos(arc), bulge, -bulge[::-1]])
    top = -0.05 + 1.12 * np.sin(arc)
    fall = -0.05 + (end + 0.05) * down
    rise = -0.05 + (end + 0.05) * down[::-1]
    face.pen.fill(x, np.concatenate([top, fall, rise]), face.hair * 0.72, 0)


def _head_outline(speaker: FaceSpeaker) -> tuple[np.ndarray, np.ndarray]:
    x = np.cos(TURN)
    y = np.sin(TURN)
    power = np.where(y > 0, 0.92 - 0.22 * speaker.jaw, 0.95)  # a square jaw bulges
    width = speaker.head_width * np.sign(x) * np.abs(x) ** power
    width *= np.where(y > 0, 1 - (0.20 - 0.12 * speaker.jaw) * y, 1)
    return width, np.where(y > 0, 0.90, 0.98) * y


def draw_head(face: Face) -> None:
    """Skin of the head with a soft shadow, beard, cheeks and freckles."""
    x, y = _head_outline(face.speaker)
    face.pen.fill(x, y, mix_colors(face.skin, face.shade, 0.38), 0)
    face.pen.fill(x * 0.955, y * 0.965 - 0.01, mix_colors(face.skin, face.shade, 0.14), 0.1)
    face.pen.fill(x * 0.90, y * 0.92 - 0.02, face.skin, 0.2)
    if face.speaker.beard:
        _draw_beard(face, x, y)
    for side in SIDES:
        _draw_cheek(face, side)


def _draw_beard(face: Face, head_x: np.ndarray, head_y: np.ndarray) -> None:
    color = mix_colors(face.skin, face.hair, 0.8)
    arc = np.linspace(0.03 * np.pi, 0.97 * np.pi, 25)
    down = np.sin(arc)
    outer_x = np.interp(arc, TURN, head_x)
    outer_y = np.interp(arc, TURN, head_y)
    inner_x = outer_x * (0.93 - 0.30 * down)
    inner_y = 0.10 + 0.27 * down**0.6
    x = np.concatenate([outer_x, inner_x[::-1]])
    y = np.concatenate([outer_y, inner_y[::-1]])
    face.pen.fill(x, y, color, 0.2)
    lip_y = 0.53 - 0.03 * face.affect.mouth_curve - 0.03 * face.affect.mouth_shift
    moustache = np.linspace(-1, 1, 15)
    moustache_y = lip_y - 0.13 + 0.07 * moustache**2
    face.pen.stroke(0.30 * moustache, moustache_y, 0.11 - 0.05 * moustache**2, color)


def _draw_cheek(face: Face, side: int) -> None:
    blush = 0.10 + 0.5 * max(0.0, face.affect.flush)
    lift = 0.06 * face.affect.lid_lower
    red = mix_colors(face.skin, 0.35 * face.skin + (137, 56, 50), 0.6)
    for radius, share in CHEEK_RINGS:
        if face.speaker.beard and radius > 0.15:
            continue
        color = mix_colors(face.skin, red, blush * share)
        face.pen.ellipse(side * 0.42, 0.25 - lift, radius, radius * 0.75, color, 0.8)
    if face.speaker.freckles:
        brown = mix_colors(face.skin, (140, 78, 48), 0.6)
        for dx, dy in FRECKLES:
            face.pen.ellipse(side * (0.40 + dx), 0.22 + dy, 0.014, 0.014, brown, 0.8)


def draw_glasses(face: Face) -> None:
    """Thin round frames."""
    speaker = face.speaker
    turn = np.append(TURN, TURN[:2])
    for side in SIDES:
        x = side * speaker.eye_gap + 0.245 * np.cos(turn)
        y = -0.05 + 0.215 * np.sin(turn)
        face.pen.stroke(x, y, 0.026, GLASSES)
        temple = side * np.array([speaker.eye_gap + 0.24, speaker.head_width - 0.05])
        face.pen.stroke(temple, np.array([-0.07, -0.1]), 0.026, GLASSES)
    face.pen.stroke(np.array([-0.08, 0, 0.08]), np.array([-0.06, -0.09, -0.06]), 0.026, GLASSES)


def draw_fringe(face: Face) -> None:
    """The hair in front of the forehead; its lower border stays above the raised brows."""
    style = face.speaker.style
    if style == "bald":
        return
    width = face.speaker.head_width
    arc = np.linspace(np.pi * 1.02, np.pi * 1.98, 31)
    thickness = {"cropped": 0.03, "curly": 0.12}.get(style, 0.09)
    outer_x = (width + 0.05) * np.cos(arc)
    outer_y = (0.96 + thickness) * np.sin(arc) - 0.03
    across = np.linspace(1, -1, 31)
    side_length = 0.42 + (0.15 if style in ("long", "bob") else 0.0)
    inner_x = (width - 0.02) * across
    inner_y = _hairline(style, across) + np.abs(across) ** 8 * side_length
    face.pen.fill(np.append(outer_x, inner_x), np.append(outer_y, inner_y), face.hair, 0.1)
    shine_x = np.linspace(-0.45, 0.15, 9)
    shine_y = -0.90 + 0.12 * shine_x**2 * 2
    shine_width = 0.035 * np.sin(np.linspace(0.2, np.pi - 0.2, 9))
    face.pen.stroke(shine_x, shine_y, shine_width, mix_colors(face.hair, (255, 244, 230), 0.22))


def _hairline(style: str, across: np.ndarray) -> np.ndarray:
    """Height of the hair's lower border: across (31,) from 1 to -1 -> (31,)."""
    if style == "short":
        return -0.62 - 0.10 * np.cos(5 * across) * (np.abs(across) < 0.8)
    if style == "parted":
        return -0.60 - 0.22 * np.exp(-((across + 0.35) ** 2) / 0.05) + 0.08 * across
    if style == "long":
        return -0.80 + 0.55 * np.abs(across) ** 3
    if style == "bun":
        return -0.74 + 0.25 * np.abs(across) ** 3
    if style == "curly":
        return -0.62 + 0.05 * np.cos(14 * across)
    if style == "cropped":
        return -0.70 + 0.22 * np.abs(across) ** 4
    return -0.585 + 0.02 * np.cos(20 * across) + 0.5 * np.clip(np.abs(across) - 0.8, 0, 1)  # bob
