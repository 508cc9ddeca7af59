"""A drawn face whose expression is a point in a table: the video of the demo corpus.

Each speaker has their own proportions, colors, hair and room. Over a clip, the expression goes from onset to apex, the
eyes blink, the head moves, the light changes, and the mouth follows the loudness of the speech.

    speaker + expression + pose  ->  polygons, drawn four times too large  ->  reduced  ->  light  ->  RGB frame

Next: `face_affects.py` holds the emotions, `face_head.py` and `face_parts.py` draw the parts, `clips.py` combines
voice and face.
"""

import dataclasses

import numpy as np
from PIL import Image, ImageDraw

from .face_affects import FaceAffect
from .face_head import draw_back, draw_fringe, draw_glasses, draw_head
from .face_parts import draw_brow, draw_eye, draw_mouth, draw_nose
from .face_pen import SIDES, Face, FaceSpeaker, Pen


SUPERSAMPLING = 4

_SKINS = (
    (255, 224, 196),
    (244, 205, 172),
    (232, 186, 148),
    (214, 163, 120),
    (186, 132, 92),
    (153, 103, 70),
    (120, 78, 54),
    (92, 60, 44),
)
_LIGHT_SKINS = 4  # the first of them have every color of hair and eyes
_HAIRS = (
    (38, 28, 26),
    (62, 40, 28),
    (98, 62, 36),
    (150, 98, 50),
    (206, 160, 92),
    (146, 62, 34),
    (160, 158, 160),
    (24, 24, 32),
)
_DARK_HAIRS = (
    (38, 28, 26),
    (24, 22, 28),
    (52, 34, 28),
    (66, 42, 30),
    (150, 148, 150),
)
_IRISES = (
    (86, 56, 34),
    (60, 40, 28),
    (64, 108, 150),
    (84, 120, 74),
    (120, 92, 48),
)
_ROOMS = (
    (172, 200, 214),
    (214, 200, 178),
    (186, 206, 176),
    (212, 184, 186),
    (190, 186, 214),
    (150, 164, 178),
    (226, 208, 160),
    (160, 190, 186),
)
_SHIRTS = (
    (64, 96, 140),
    (164, 72, 66),
    (84, 130, 96),
    (218, 180, 84),
    (98, 84, 130),
    (60, 66, 78),
    (226, 222, 214),
    (206, 124, 90),
)
_STYLE_SHARES = {
    "short": 0.2,
    "parted": 0.18,
    "long": 0.2,
    "bun": 0.11,
    "curly": 0.1,
    "cropped": 0.08,
    "bob": 0.1,
    "bald": 0.03,
}
_BEARD_STYLES = ("short", "parted", "cropped", "bald")


def make_face_speaker(rng: np.random.Generator) -> FaceSpeaker:
    """Draw a speaker's looks at random."""
    tone = int(rng.integers(len(_SKINS)))
    is_light = tone < _LIGHT_SKINS
    hair = _draw_color(_HAIRS if is_light else _DARK_HAIRS, rng)
    style = str(rng.choice(list(_STYLE_SHARES), p=list(_STYLE_SHARES.values())))
    can_have_beard = style in _BEARD_STYLES
    return FaceSpeaker(
        skin=_draw_color(_SKINS[tone : tone + 1], rng, spread=4),
        hair=hair,
        iris=_draw_color(_IRISES if is_light else _IRISES[:2], rng),
        room=_draw_color(_ROOMS, rng, spread=10),
        shirt=_draw_color(_SHIRTS, rng, spread=10),
        style=style,
        head_width=float(rng.uniform(0.72, 0.82)),
        jaw=float(rng.uniform(0.0, 1.0)),
        eye_gap=float(rng.uniform(0.30, 0.345)),
        eye_size=float(rng.uniform(0.92, 1.1)),
        brow_weight=float(rng.uniform(0.75, 1.25)),
        brow_height=float(rng.normal(0, 0.012)),
        nose_length=float(rng.uniform(0.9, 1.15)),
        mouth_width=float(rng.uniform(0.27, 0.32)),
        lip=float(rng.uniform(0.8, 1.2)),
        beard=bool(can_have_beard and rng.uniform() < 0.3),
        glasses=bool(rng.uniform() < 0.15),
        freckles=bool(rng.uniform() < 0.15),
    )


def _draw_color(palette: tuple, rng: np.random.Generator, spread: float = 7) -> tuple[int, int, int]:
    """A color from the palette, slightly varied in brightness and tone."""
    color = np.asarray(palette[rng.integers(len(palette))])
    values = color + rng.normal(0, spread) + rng.normal(0, spread / 4, 3)
    red, green, blue = (int(value) for value in np.clip(values, 12, 255))
    return red, green, blue


def render_clip(
    speaker: FaceSpeaker,
    affect: FaceAffect,
    speech: np.ndarray,
    frames_per_second: float,
    size: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Draw all frames of a clip.

    Args:
        speaker: the looks.
        affect: the expression at the apex.
        speech: loudness of the speech in [0, 1] at every frame, (T,).
        frames_per_second: frame rate.
        size: height and width in pixels.
        rng: source of everything that varies between two clips.

    Returns:
        RGB frames, uint8 of shape (T, size, size, 3).
    """
    times = np.arange(len(speech)) / frames_per_second
    level = _onset_to_apex(times, rng)
    blink = _blinks(times, rng)
    moves = _head_moves(times, level, affect, rng)
    shift = tuple(rng.normal(0, 0.03, 2))
    gain, warmth, side = _light_of_clip(times, rng)
    room = draw_room(speaker, size * SUPERSAMPLING)
    frames = []
    for t in range(len(speech)):
        pose = _affect_at(affect, float(level[t]), moves[t])
        frame = draw_face(speaker, pose, size, float(blink[t]), float(speech[t]), shift, room)
        frames.append(_relight(frame, gain[t], warmth, side))
    return np.stack(frames)


def _onset_to_apex(times: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Strength of the expression at every frame, (T,): rises smoothly from 0 to 1 and stays there."""
    onset_seconds = rng.uniform(0.0, 0.12)
    rise_seconds = rng.uniform(0.25, 0.45)
    level = np.clip((times - onset_seconds) / rise_seconds, 0, 1)
    return level**2 * (3 - 2 * level)


def _blinks(times: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """How far the eyes are closed at every frame, (T,)."""
    centers = np.cumsum(rng.exponential(1.8, size=4) + 0.4)
    distance = np.abs(times[:, None] - centers)  # (T, 4) seconds
    return np.clip(1.25 - distance / 0.08, 0, 1).max(axis=1)


def _head_moves(times: np.ndarray, level: np.ndarray, affect: FaceAffect, rng: np.random.Generator) -> np.ndarray:
    """Yaw, pitch and roll to add to those of the expression, (T, 3)."""
    sway = (1 + 0.6 * affect.sway) * np.array([0.022, 0.016, 0.022])
    pace = rng.uniform(0.25, 0.7, 3)
    start = rng.uniform(0, 2 * np.pi, 3)
    offset = rng.normal(0, [0.03, 0.025, 0.02])
    moves = offset + sway * np.sin(2 * np.pi * pace * times[:, None] + start)
    moves[:, :2] += 0.011 * affect.tremble * level[:, None] * rng.normal(size=(len(times), 2))
    return moves


def _light_of_clip(times: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, float, float]:
    """Brightness at every frame (T,), warmth of the light, and the side it comes from."""
    brightness = 1 + rng.normal(0, 0.06)
    gain = brightness + 0.04 * np.sin(2 * np.pi * rng.uniform(0.1, 0.5) * times + rng.uniform(0, 6))
    warmth = rng.normal(0, 0.025)
    side = rng.uniform(-0.16, 0.16)
    return gain, warmth, side


def _affect_at(affect: FaceAffect, level: float, move: np.ndarray) -> FaceAffect:
    """The expression of one frame: a share of the apex, plus the head's movement."""
    scaled = FaceAffect(**{name: value * level for name, value in dataclasses.asdict(affect).items()})
    return dataclasses.replace(
        scaled,
        head_yaw=scaled.head_yaw + float(move[0]),
        head_pitch=scaled.head_pitch + float(move[1]),
        head_roll=scaled.head_roll + float(move[2]),
    )


def draw_face(
    speaker: FaceSpeaker,
    affect: FaceAffect,
    size: int,
    blink: float = 0.0,
    speech: float = 0.0,
    shift: tuple[float, float] = (0.0, 0.0),
    room: Image.Image | None = None,
) -> np.ndarray:
    """Draw one frame, uint8 RGB of shape (size, size, 3).

    Args:
        speaker: the looks.
        affect: expression and head pose.
        size: height and width in pixels.
        blink: 0 open, 1 closed.
        speech: 0 silent, 1 loudest; opens the mouth a little.
        shift: offset of the entire person, in head units.
        room: background with supersampled `size`; None to draw it here.
    """
    pixels = size * SUPERSAMPLING
    image = draw_room(speaker, pixels) if room is None else room.copy()
    skin = np.array(speaker.skin, float)
    face = Face(
        pen=Pen(ImageDraw.Draw(image), pixels, affect, shift),
        speaker=speaker,
        affect=affect,
        skin=_flushed(skin, affect.flush),
        shade=skin * (0.80, 0.72, 0.70),
        hair=np.array(speaker.hair, float),
    )
    draw_back(face)
    draw_head(face)
    draw_mouth(face, speech)
    draw_nose(face)
    for side in SIDES:
        draw_eye(face, side, blink)
        draw_brow(face, side)
    if speaker.glasses:
        draw_glasses(face)
    draw_fringe(face)
    return np.asarray(image.reduce(SUPERSAMPLING))


def _flushed(skin: np.ndarray, flush: float) -> np.ndarray:
    """Color of the skin, redder above zero and paler below."""
    tint = np.array([14, -12, -10]) if flush > 0 else np.array([16, 6, -2])
    tint = tint * flush * skin.mean() / 255
    return np.clip(skin + 0.6 * tint, 0, 255)


def draw_room(speaker: FaceSpeaker, pixels: int) -> Image.Image:
    """The background: a wall with a soft glow around the head."""
    y, x = np.mgrid[0:64, 0:64] / 63 - 0.5
    glow = np.exp(-((x**2) + (y + 0.1) ** 2) / 0.18)[..., None]
    wall = np.array(speaker.room, float) * (0.82 + 0.22 * glow)
    image = Image.fromarray(np.clip(wall, 0, 255).astype(np.uint8))
    return image.resize((pixels, pixels), Image.Resampling.BILINEAR)


def _relight(frame: np.ndarray, gain: float, warmth: float, side: float) -> np.ndarray:
    """Change the brightness, the color of the light and the side it comes from."""
    across = np.linspace(-1, 1, frame.shape[1])[None, :, None]
    color = np.array([1 + warmth, 1.0, 1 - warmth])
    return np.clip(frame * (gain * (1 + side * across) * color), 0, 255).astype(np.uint8)
