"""A drawn face whose expression is a point in a table: the picture of the demo corpus.

Every emotion is a set of muscle movements after the facial action units (AU) of Ekman and Friesen's Facial Action
Coding System as commonly listed for it (in brackets in the table): brows, lids, nose, cheeks, lips, jaw and head
pose. A speaker has his own proportions, colors, hair and room. Over a clip the expression goes from onset to apex,
the eyes blink, the head moves, the light changes and the mouth follows the loudness of the speech.

    speaker + expression + pose  ->  polygons, drawn four times too large  ->  reduced  ->  light  ->  RGB frame

Coordinates: the head is about two units high, the origin is between the eyes and the nose, y points down.
Next: `demo_voice.py` makes the sound, `demo_corpus.py` joins both.
"""

import dataclasses

import numpy as np
from PIL import Image, ImageDraw


_SUPERSAMPLING = 4
_TURN = np.linspace(0, 2 * np.pi, 48, endpoint=False)
_COS, _SIN = np.cos(_TURN), np.sin(_TURN)
_ACROSS = np.linspace(-1, 1, 25)


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
        brow_inner=1.0, brow_outer=1.0, lid_upper=0.75, lid_lower=-0.3, mouth_open=1.0, mouth_width=-0.42,
        head_pitch=-0.05, head_size=-0.02,
    ),
    "fear": FaceAffect(  # AU1+2+4+5+20+25
        brow_inner=0.95, brow_outer=0.1, brow_squeeze=0.9, lid_upper=0.7, lid_lower=0.1, mouth_curve=-0.35,
        mouth_open=0.3, mouth_width=0.32, mouth_square=1.0, teeth=0.75, gaze_x=0.3, head_pitch=-0.02,
        head_size=-0.06, head_yaw=0.04, flush=-0.6, tremble=1.0,
    ),
    "sadness": FaceAffect(  # AU1+4+15
        brow_inner=0.85, brow_outer=-0.55, brow_squeeze=0.5, lid_upper=-0.5, lid_slope=0.6, mouth_curve=-0.85,
        mouth_width=-0.12, gaze_y=0.7, head_pitch=0.09, head_roll=0.10, head_size=-0.02, flush=-0.2, sway=-0.5,
    ),
    "joy": FaceAffect(  # AU6+12
        brow_inner=0.15, brow_outer=0.2, lid_upper=-0.15, lid_lower=0.85, fold=0.45, mouth_curve=1.0, mouth_open=0.42,
        mouth_width=0.28, teeth=0.62, head_pitch=-0.03, head_roll=-0.06, flush=0.6, sway=1.0,
    ),
    "disgust": FaceAffect(  # AU9+10+15+17
        brow_inner=-0.55, brow_outer=-0.25, brow_squeeze=0.5, lid_upper=-0.5, lid_lower=0.6, nose_wrinkle=1.0,
        fold=1.0, mouth_curve=-0.45, mouth_open=0.2, mouth_width=-0.05, mouth_shift=1.0, teeth=0.45, gaze_x=-0.5,
        gaze_y=0.2, head_yaw=0.12, head_roll=-0.1, head_pitch=-0.03, flush=-0.15,
    ),
    "anger": FaceAffect(  # AU4+5+7+23
        brow_inner=-0.95, brow_outer=0.35, brow_squeeze=1.0, lid_upper=-0.1, lid_lower=0.5, lid_slope=-0.6, fold=0.2,
        mouth_curve=-0.4, mouth_width=-0.05, mouth_square=1.0, lip_press=1.0, head_pitch=0.05, head_size=0.08,
        flush=1.0, tremble=0.25,
    ),
}  # fmt: skip

_SKINS = ((255, 224, 196), (244, 205, 172), (232, 186, 148), (214, 163, 120), (186, 132, 92), (153, 103, 70),
          (120, 78, 54), (92, 60, 44))  # fmt: skip
_HAIRS = ((38, 28, 26), (62, 40, 28), (98, 62, 36), (150, 98, 50), (206, 160, 92), (146, 62, 34), (160, 158, 160),
          (24, 24, 32))  # fmt: skip
_DARK_HAIRS = ((38, 28, 26), (24, 22, 28), (52, 34, 28), (66, 42, 30), (150, 148, 150))
_IRISES = ((86, 56, 34), (60, 40, 28), (64, 108, 150), (84, 120, 74), (120, 92, 48))
_ROOMS = ((172, 200, 214), (214, 200, 178), (186, 206, 176), (212, 184, 186), (190, 186, 214), (150, 164, 178),
          (226, 208, 160), (160, 190, 186))  # fmt: skip
_SHIRTS = ((64, 96, 140), (164, 72, 66), (84, 130, 96), (218, 180, 84), (98, 84, 130), (60, 66, 78), (226, 222, 214),
           (206, 124, 90))  # fmt: skip
_STYLES = ("short", "parted", "long", "bun", "curly", "cropped", "bob", "bald")


@dataclasses.dataclass(frozen=True)
class FaceSpeaker:
    """What stays the same in all clips of one speaker."""

    skin: tuple[int, int, int]
    hair: tuple[int, int, int]
    iris: tuple[int, int, int]
    room: tuple[int, int, int]
    shirt: tuple[int, int, int]
    style: str
    head_width: float
    jaw: float
    eye_gap: float
    eye_size: float
    brow_weight: float
    brow_height: float
    nose_length: float
    mouth_width: float
    lip: float
    beard: bool
    glasses: bool
    freckles: bool


def make_face_speaker(rng: np.random.Generator) -> FaceSpeaker:
    """Draws a speaker's looks."""

    def color(palette: tuple, spread: float = 7) -> tuple[int, int, int]:
        values = np.asarray(palette[rng.integers(len(palette))]) + rng.normal(0, spread) + rng.normal(0, spread / 4, 3)
        return tuple(int(v) for v in np.clip(values, 12, 255))

    tone = int(rng.integers(len(_SKINS)))
    hair = color(_HAIRS if tone < 4 else _DARK_HAIRS)
    style = str(rng.choice(_STYLES, p=(0.2, 0.18, 0.2, 0.11, 0.1, 0.08, 0.1, 0.03)))
    beardable = style in ("short", "parted", "cropped", "bald")
    return FaceSpeaker(
        skin=color(_SKINS[tone : tone + 1], 4), hair=hair, iris=color(_IRISES[: 5 if tone < 4 else 2]),
        room=color(_ROOMS, 10),
        shirt=color(_SHIRTS, 10), style=style, head_width=float(rng.uniform(0.72, 0.82)),
        jaw=float(rng.uniform(0.0, 1.0)), eye_gap=float(rng.uniform(0.30, 0.345)),
        eye_size=float(rng.uniform(0.92, 1.1)), brow_weight=float(rng.uniform(0.75, 1.25)),
        brow_height=float(rng.normal(0, 0.012)), nose_length=float(rng.uniform(0.9, 1.15)),
        mouth_width=float(rng.uniform(0.27, 0.32)), lip=float(rng.uniform(0.8, 1.2)),
        beard=bool(beardable and rng.uniform() < 0.3), glasses=bool(rng.uniform() < 0.15),
        freckles=bool(rng.uniform() < 0.15),
    )  # fmt: skip


def mix_face_affects(weights: dict[str, float]) -> FaceAffect:
    """Weighted sum of table points; what is missing to one is neutral."""
    names = [field.name for field in dataclasses.fields(FaceAffect)]
    return FaceAffect(**{n: sum(w * getattr(FACE_AFFECTS[e], n) for e, w in weights.items()) for n in names})


def render_clip(
    speaker: FaceSpeaker, affect: FaceAffect, speech: np.ndarray, frames_per_second: float, size: int,
    rng: np.random.Generator,
) -> np.ndarray:  # fmt: skip
    """Draws all frames of a clip.

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
    num_frames = len(speech)
    times = np.arange(num_frames) / frames_per_second
    onset_seconds, rise_seconds = rng.uniform(0.0, 0.12), rng.uniform(0.25, 0.45)
    level = np.clip((times - onset_seconds) / rise_seconds, 0, 1)
    level = level**2 * (3 - 2 * level)  # (T,)
    blink_centers = np.cumsum(rng.exponential(1.8, size=4) + 0.4)
    blink = np.clip(1.25 - np.abs(times[:, None] - blink_centers) / 0.08, 0, 1).max(axis=1)  # (T,)
    sway = (1 + 0.6 * affect.sway) * np.array([0.022, 0.016, 0.022])
    pace, start = rng.uniform(0.25, 0.7, 3), rng.uniform(0, 2 * np.pi, 3)
    offset = rng.normal(0, [0.03, 0.025, 0.02])
    moves = offset + sway * np.sin(2 * np.pi * pace * times[:, None] + start)  # (T, 3) yaw, pitch, roll
    moves[:, :2] += 0.011 * affect.tremble * level[:, None] * rng.normal(size=(num_frames, 2))
    place = rng.normal(0, 0.03, 2)
    light = 1 + rng.normal(0, 0.06) + 0.04 * np.sin(2 * np.pi * rng.uniform(0.1, 0.5) * times + rng.uniform(0, 6))
    warmth, side = rng.normal(0, 0.025), rng.uniform(-0.16, 0.16)
    room = _room(speaker, size * _SUPERSAMPLING)
    frames = []
    for t in range(num_frames):
        now = FaceAffect(**{name: value * float(level[t]) for name, value in vars(affect).items()})
        now = dataclasses.replace(
            now,
            head_yaw=now.head_yaw + float(moves[t, 0]),
            head_pitch=now.head_pitch + float(moves[t, 1]),
            head_roll=now.head_roll + float(moves[t, 2]),
        )
        picture = draw_face(speaker, now, size, float(blink[t]), float(speech[t]), tuple(place), room)
        frames.append(_light(picture, light[t], warmth, side))
    return np.stack(frames)


def draw_face(
    speaker: FaceSpeaker, affect: FaceAffect, size: int, blink: float = 0.0, speech: float = 0.0,
    place: tuple[float, float] = (0.0, 0.0), room: Image.Image | None = None,
) -> np.ndarray:  # fmt: skip
    """Draws one picture, uint8 RGB of shape (size, size, 3).

    Args:
        speaker: the looks.
        affect: expression and head pose.
        size: height and width in pixels.
        blink: 0 open, 1 closed.
        speech: 0 silent, 1 loudest; opens the mouth a little.
        place: shift of the whole person in head units.
        room: background of size times the supersampling, drawn once a clip.
    """
    pixels = size * _SUPERSAMPLING
    image = (_room(speaker, pixels) if room is None else room).copy()
    pen = _Pen(ImageDraw.Draw(image), pixels, affect, place)
    skin, shade = np.array(speaker.skin, float), np.array(speaker.skin, float) * (0.80, 0.72, 0.70)
    tint = np.array([14, -12, -10]) * affect.flush if affect.flush > 0 else np.array([16, 6, -2]) * affect.flush
    tint = tint * skin.mean() / 255
    skin = np.clip(skin + 0.6 * tint, 0, 255)
    hair = np.array(speaker.hair, float)
    _draw_back(pen, speaker, skin, shade, hair)
    _draw_head(pen, speaker, affect, skin, shade, hair)
    _draw_mouth(pen, speaker, affect, skin, shade, speech)
    _draw_nose(pen, speaker, affect, skin, shade)
    for side in (-1, 1):
        _draw_eye(pen, speaker, affect, skin, shade, side, blink)
        _draw_brow(pen, speaker, affect, hair, shade, side)
    if speaker.glasses:
        _draw_glasses(pen, speaker)
    _draw_fringe(pen, speaker, hair)
    return np.asarray(image.reduce(_SUPERSAMPLING))


class _Pen:
    """Draws polygons and strokes given in head coordinates; `depth` 1 is the face plane, 0 the head's outline."""

    def __init__(self, draw: ImageDraw.ImageDraw, pixels: int, affect: FaceAffect, place: tuple[float, float]):
        self.draw = draw
        self.affect = affect
        self.unit = pixels * 0.345 * (1 + affect.head_size)
        self.center = np.array([0.5 + 0.345 * place[0], 0.535 + 0.345 * place[1]]) * pixels
        self.cos, self.sin = np.cos(affect.head_roll), np.sin(affect.head_roll)

    def at(self, x: np.ndarray, y: np.ndarray, depth: float = 1.0) -> np.ndarray:
        """Pixels of points in head coordinates, (N, 2)."""
        x = np.asarray(x, float) + self.affect.head_yaw * (0.25 + 0.75 * depth)
        y = np.asarray(y, float) + self.affect.head_pitch * (0.35 + 0.65 * depth) - 1.1
        points = np.empty((len(x), 2))
        points[:, 0] = self.center[0] + self.unit * (self.cos * x - self.sin * y)
        points[:, 1] = self.center[1] + self.unit * (self.sin * x + self.cos * y + 1.1)
        return points

    def fill(self, x: np.ndarray, y: np.ndarray, color: np.ndarray | tuple, depth: float = 1.0) -> None:
        self.draw.polygon(self.at(x, y, depth).ravel().tolist(), fill=_rgb(color))

    def ellipse(self, x: float, y: float, rx: float, ry: float, color: np.ndarray | tuple, depth: float = 1) -> None:
        self.fill(x + rx * _COS, y + ry * _SIN, color, depth)

    def stroke(self, x: np.ndarray, y: np.ndarray, width: float | np.ndarray, color: np.ndarray | tuple) -> None:
        """A line with round ends whose width may change along it."""
        points = self.at(x, y)
        radii = np.full(len(points), self.unit / 2) * width
        along = np.empty_like(points)
        along[1:-1], along[0], along[-1] = points[2:] - points[:-2], points[1] - points[0], points[-1] - points[-2]
        along *= (radii / (np.sqrt((along**2).sum(axis=1)) + 1e-9))[:, None]
        normal = along[:, ::-1] * (-1, 1)
        color = _rgb(color)
        self.draw.polygon(np.concatenate([points + normal, (points - normal)[::-1]]).ravel().tolist(), fill=color)
        for end in (0, -1):
            (px, py), r = points[end].tolist(), float(radii[end])
            self.draw.ellipse((px - r, py - r, px + r, py + r), fill=color)


def _rgb(color: np.ndarray | tuple) -> tuple[int, int, int]:
    red, green, blue = color
    return min(255, max(0, int(red))), min(255, max(0, int(green))), min(255, max(0, int(blue)))


def _mix(a: np.ndarray, b: np.ndarray | tuple, share: float) -> np.ndarray:
    return np.asarray(a, float) * (1 - share) + np.asarray(b, float) * share


def _room(speaker: FaceSpeaker, pixels: int) -> Image.Image:
    """Background: a soft glow behind the head."""
    y, x = np.mgrid[0:64, 0:64] / 63 - 0.5
    glow = np.exp(-((x**2) + (y + 0.1) ** 2) / 0.18)[..., None]
    wall = np.array(speaker.room, float) * (0.82 + 0.22 * glow)
    return Image.fromarray(np.clip(wall, 0, 255).astype(np.uint8)).resize((pixels, pixels), Image.Resampling.BILINEAR)


def _light(picture: np.ndarray, gain: float, warmth: float, side: float) -> np.ndarray:
    """Brightness, color of the light and the side that it comes from."""
    across = np.linspace(-1, 1, picture.shape[1])[None, :, None]
    color = np.array([1 + warmth, 1.0, 1 - warmth])
    return np.clip(picture * (gain * (1 + side * across) * color), 0, 255).astype(np.uint8)


def _head_outline(speaker: FaceSpeaker, grow: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.cos(_TURN), np.sin(_TURN)
    power = np.where(y > 0, 0.92 - 0.22 * speaker.jaw, 0.95)  # a square jaw bulges
    width = (speaker.head_width + grow) * np.sign(x) * np.abs(x) ** power
    width *= np.where(y > 0, 1 - (0.20 - 0.12 * speaker.jaw) * y, 1)
    return width, np.where(y > 0, 0.90 + grow, 0.98 + grow) * y


def _draw_back(pen: _Pen, speaker: FaceSpeaker, skin: np.ndarray, shade: np.ndarray, hair: np.ndarray) -> None:
    """Everything behind the head: hair, shoulders, neck and ears."""
    dark, wide = hair * 0.72, speaker.head_width
    if speaker.style in ("long", "bob"):
        side, end = wide + (0.17 if speaker.style == "long" else 0.15), 1.45 if speaker.style == "long" else 0.62
        down = np.linspace(0, 1, 9)
        bulge = side + 0.05 * np.sin(np.pi * down) - 0.03 * down
        arc = np.linspace(np.pi, 2 * np.pi, 25)
        x = np.concatenate([side * np.cos(arc), bulge, -bulge[::-1]])
        y = np.concatenate(
            [-0.05 + 1.12 * np.sin(arc), -0.05 + (end + 0.05) * down, -0.05 + (end + 0.05) * down[::-1]]
        )
        pen.fill(x, y, dark, 0)
    if speaker.style == "bun":
        pen.ellipse(0.0, -1.12, 0.36, 0.33, hair * 0.85, -0.4)
    if speaker.style == "curly":
        for angle in np.linspace(-0.25, np.pi + 0.25, 13):
            pen.ellipse((wide + 0.06) * np.cos(angle), -0.2 - 0.84 * np.sin(angle), 0.27, 0.25, dark, 0)
    shirt = np.array(speaker.shirt, float)
    pen.fill([-1.7, -1.3, -0.5, 0.5, 1.3, 1.7, 1.7, -1.7], [1.75, 1.3, 1.12, 1.12, 1.3, 1.75, 2.6, 2.6], shirt, -0.6)
    pen.ellipse(0, 1.14, 0.40, 0.17, shirt * 0.8, -0.6)
    pen.fill([-0.31, 0.31, 0.35, 0, -0.35], [0.5, 0.5, 1.12, 1.24, 1.12], _mix(skin, shade, 0.75), -0.3)
    for side in (-1, 1):
        pen.ellipse(side * (wide + 0.01), 0.06, 0.11, 0.19, _mix(skin, shade, 0.35), -0.2)
        pen.ellipse(side * (wide + 0.02), 0.07, 0.055, 0.11, _mix(skin, shade, 0.75), -0.2)


def _draw_head(
    pen: _Pen, speaker: FaceSpeaker, affect: FaceAffect, skin: np.ndarray, shade: np.ndarray, hair: np.ndarray
) -> None:
    """Skin of the head with a soft shadow, cheeks, beard and freckles."""
    x, y = _head_outline(speaker)
    pen.fill(x, y, _mix(skin, shade, 0.38), 0)
    pen.fill(x * 0.955, y * 0.965 - 0.01, _mix(skin, shade, 0.14), 0.1)
    pen.fill(x * 0.90, y * 0.92 - 0.02, skin, 0.2)
    if speaker.beard:
        grown = _mix(skin, hair, 0.8)
        arc = np.linspace(0.03 * np.pi, 0.97 * np.pi, 25)
        down = np.sin(arc)
        outer_x, outer_y = np.interp(arc, _TURN, x), np.interp(arc, _TURN, y)
        inner_x, inner_y = outer_x * (0.93 - 0.30 * down), 0.10 + 0.27 * down**0.6
        pen.fill(np.concatenate([outer_x, inner_x[::-1]]), np.concatenate([outer_y, inner_y[::-1]]), grown, 0.2)
        lip_y = 0.53 - 0.03 * affect.mouth_curve - 0.03 * affect.mouth_shift
        moustache = np.linspace(-1, 1, 15)
        pen.stroke(0.30 * moustache, lip_y - 0.13 + 0.07 * moustache**2, 0.11 - 0.05 * moustache**2, grown)
    blush = 0.10 + 0.5 * max(0.0, affect.flush)
    lift = 0.06 * affect.lid_lower
    for side in (-1, 1):
        for radius, share in ((0.20, 0.35), (0.15, 0.7), (0.10, 1.0)):
            color = _mix(skin, _mix(skin, 0.35 * skin + (137, 56, 50), 0.6), blush * share)
            if not (speaker.beard and radius > 0.15):
                pen.ellipse(side * 0.42, 0.25 - lift, radius, radius * 0.75, color, 0.8)
        if speaker.freckles:
            for dx, dy in ((-0.08, 0.0), (0.0, 0.05), (0.08, -0.01), (0.02, -0.05), (-0.05, 0.08)):
                pen.ellipse(side * (0.40 + dx), 0.22 + dy, 0.014, 0.014, _mix(skin, (140, 78, 48), 0.6), 0.8)


def _draw_mouth(
    pen: _Pen, speaker: FaceSpeaker, affect: FaceAffect, skin: np.ndarray, shade: np.ndarray, speech: float
) -> None:
    """Lips, opening, teeth and tongue, with the furrows beside them."""
    half = speaker.mouth_width * (1 + affect.mouth_width - 0.12 * speech)
    opening = 0.23 * affect.mouth_open + 0.075 * speech * (1 - 0.55 * affect.lip_press)
    middle = 0.53 - 0.03 * affect.mouth_curve - 0.03 * affect.mouth_shift
    x = half * _ACROSS
    base = middle - 0.155 * affect.mouth_curve * (_ACROSS**2 - 0.45)
    arch = (1 - np.abs(_ACROSS) ** (2 + 3 * affect.mouth_square)) ** (1 - max(0.0, -1.1 * affect.mouth_width))
    lifted = affect.mouth_shift * (0.055 * np.exp(-((_ACROSS + 0.45) ** 2) / 0.18) + 0.03) * arch
    upper = base - 0.42 * opening * arch - lifted  # (25,)
    lower = base + 0.75 * opening * arch
    lip = _mix(_mix(skin, (196, 70, 76), 0.5), shade, 0.25)
    thin = 1 - 0.55 * affect.lip_press
    if affect.fold > 0.02:
        furrow = _mix(skin, shade * 0.85, min(1.0, 0.35 + 0.65 * affect.fold))
        raise_by = 0.04 * affect.nose_wrinkle
        for side in (-1, 1):
            fx = side * np.array([0.17, 0.24, 0.31, 0.34 + 0.03 * affect.mouth_curve])
            fy = np.array([0.26, 0.31, 0.40, 0.50]) - raise_by
            pen.stroke(fx, fy, 0.038 * affect.fold, furrow)
    if speaker.lip > 0.9 and not speaker.beard:
        pen.stroke(x[8:17] * 0.9, lower[8:17] + 0.115, 0.022, _mix(skin, shade, 0.55))
    lip_up, lip_low = 0.045 * speaker.lip * thin, 0.075 * speaker.lip * thin
    cupid = 1 - 0.35 * np.exp(-((_ACROSS) ** 2) / 0.02)
    soft = np.sqrt(np.clip(1 - _ACROSS**2, 0, 1))
    outer = np.concatenate([upper - lip_up * soft * cupid - 0.008, (lower + lip_low * soft + 0.008)[::-1]])
    pen.fill(np.concatenate([x, x[::-1]]) * 1.03, outer, lip)
    if opening > 0.012:
        inside = np.concatenate([upper, lower[::-1]])
        pen.fill(np.concatenate([x, x[::-1]]), inside, (74, 22, 26))
        gap = lower - upper
        if opening > 0.08:
            tongue = np.maximum(lower - 0.42 * gap * np.clip(1 - (_ACROSS / 0.75) ** 2, 0, 1), upper)
            pen.fill(np.concatenate([x, x[::-1]]), np.concatenate([tongue, lower[::-1]]), (196, 88, 88))
        share = min(1.0, affect.teeth + 0.15 * speech)
        if share > 0.05:
            edge = upper + share * gap * np.clip(1.1 - 0.5 * _ACROSS**4, 0, 1)
            inner = slice(2, -2)
            pen.fill(
                np.concatenate([x[inner], x[inner][::-1]]),
                np.concatenate([upper[inner], np.minimum(edge, lower)[inner][::-1]]), (248, 246, 240),
            )  # fmt: skip
    line = 0.026 + 0.012 * affect.lip_press
    pen.stroke(x, (upper + lower) / 2 if opening <= 0.012 else upper, line * 0.9, _mix(lip, (70, 20, 24), 0.7))
    for side in (0, -1):
        pen.ellipse(float(x[side]), float(base[side]), 0.022, 0.022, _mix(lip, (70, 20, 24), 0.6))


def _draw_nose(pen: _Pen, speaker: FaceSpeaker, affect: FaceAffect, skin: np.ndarray, shade: np.ndarray) -> None:
    """Bridge, tip and wings; wrinkles across the bridge for AU9."""
    tip = 0.26 * speaker.nose_length - 0.045 * affect.nose_wrinkle
    line, wing = _mix(skin, shade, 0.85), 0.115 + 0.02 * affect.nose_wrinkle
    pen.stroke([0.055, 0.06, 0.085], [-0.06, 0.06, tip - 0.06], 0.022, _mix(skin, shade, 0.5))
    pen.ellipse(0, tip - 0.03, 0.085, 0.075, _mix(skin, (255, 240, 228), 0.22), 1.2)
    arc = np.linspace(0.15 * np.pi, 0.85 * np.pi, 11)
    pen.stroke(0.1 * np.cos(arc), tip - 0.035 + 0.07 * np.sin(arc), 0.028, line)
    for side in (-1, 1):
        curl = np.linspace(-0.55 * np.pi, 0.45 * np.pi, 9)
        pen.stroke(side * (wing + 0.03 * np.cos(curl)), tip + 0.045 * np.sin(curl), 0.028, line)
    if affect.nose_wrinkle > 0.05:
        crease = _mix(skin, shade * 0.8, min(1.0, affect.nose_wrinkle))
        for k, y in enumerate((-0.20, -0.12, -0.04)):
            bend = np.linspace(-1, 1, 7)
            pen.stroke(
                (0.10 - 0.012 * k) * bend, y + 0.035 * (1 - bend**2) - 0.02, 0.028 * affect.nose_wrinkle, crease
            )
        for side in (-1, 1):
            pen.stroke(side * np.array([0.10, 0.16]), np.array([0.02, 0.10]), 0.026 * affect.nose_wrinkle, crease)


def _draw_eye(
    pen: _Pen, speaker: FaceSpeaker, affect: FaceAffect, skin: np.ndarray, shade: np.ndarray, side: int, blink: float
) -> None:
    """White, iris and lids of one eye (side -1 is on the left of the picture)."""
    center_x, center_y, half = side * speaker.eye_gap, -0.07, 0.165 * speaker.eye_size
    x = half * _ACROSS
    outward = side * _ACROSS
    dome = np.clip(1 - _ACROSS**2, 0, 1) ** 0.6
    up_height = 0.118 * speaker.eye_size * max(0.12, 1 + 0.62 * affect.lid_upper)
    low_height = 0.082 * speaker.eye_size * (1 - 0.75 * affect.lid_lower)
    upper = -up_height * dome + 0.05 * affect.lid_slope * outward  # (25,)
    lower = low_height * dome + 0.03 * affect.lid_slope * outward - 0.035 * max(0.0, affect.lid_lower) * dome
    closed = 0.6 * lower + 0.4 * upper + 0.012 * dome
    upper = np.minimum((1 - blink) * upper + blink * closed, lower - 0.008)
    lower = (1 - blink) * lower + blink * np.maximum(closed, upper + 0.004)

    pen.ellipse(center_x, center_y - 0.01, half * 1.22, 0.16 * speaker.eye_size, _mix(skin, shade, 0.24))
    outline_x = np.concatenate([x, x[::-1]]) + center_x
    pen.fill(outline_x, np.concatenate([upper, lower[::-1]]) + center_y, (250, 249, 246))
    gaze = np.array([0.05 * affect.gaze_x, 0.045 * affect.gaze_y])
    for radius, color in ((0.092, np.array(speaker.iris) * 0.75), (0.078, speaker.iris), (0.042, (16, 12, 14))):
        ix, iy = gaze[0] + radius * _COS, gaze[1] - 0.012 + radius * _SIN
        iy = np.clip(iy, np.interp(ix, x, upper), np.interp(ix, x, lower))
        pen.fill(ix + center_x, iy + center_y, color)
    glint_y = gaze[1] - 0.045
    if blink < 0.4 and glint_y > float(np.interp(gaze[0], x, upper)) + 0.012:
        pen.ellipse(center_x + gaze[0] + 0.028, center_y + glint_y, 0.021, 0.021, (255, 255, 255))
    lash = _mix(shade * 0.4, (30, 22, 22), 0.7)
    pen.stroke(x + center_x, upper + center_y, 0.026 + 0.014 * (outward + 1) / 2, lash)
    pen.stroke(x[3:-3] + center_x, lower[3:-3] + center_y, 0.014, _mix(shade, lash, 0.35))
    crease = upper - 0.045 - 0.02 * dome
    if affect.lid_upper > -0.3:
        pen.stroke(x[3:-3] * 1.05 + center_x, crease[3:-3] + center_y, 0.014, _mix(skin, shade, 0.8))
    if affect.lid_lower > 0.2:  # the cheek pushes a bag under the eye
        bag = np.linspace(-0.9, 0.9, 9)
        bag_y = low_height + 0.055 - 0.03 * bag**2
        pen.stroke(half * bag + center_x, bag_y + center_y, 0.018, _mix(skin, shade, 0.8 * affect.lid_lower))
        outer = center_x + side * half * np.array([1.15, 1.45])
        for dy in (-0.03, 0.03):
            if affect.mouth_curve > 0.3:  # crow's feet
                pen.stroke(outer, np.array([-0.0, dy]) + center_y, 0.014, _mix(skin, shade, 0.7))


def _draw_brow(
    pen: _Pen, speaker: FaceSpeaker, affect: FaceAffect, hair: np.ndarray, shade: np.ndarray, side: int
) -> None:
    """One brow, thick at the nose, with the frown line beside it."""
    t = np.linspace(0, 1, 15)
    inner = speaker.eye_gap - 0.165 - 0.05 * affect.brow_squeeze
    x = inner + (speaker.eye_gap + 0.20 - inner) * t
    top = -0.315 + speaker.brow_height
    raised = affect.brow_inner * (1 - t) ** 1.3 + affect.brow_outer * t
    arch = 0.05 * np.sin(np.pi * np.clip(t * 1.05, 0, 1)) * (1 - 0.5 * affect.brow_squeeze)
    y = top - 0.125 * raised - arch + 0.03 * t
    width = (0.085 - 0.05 * t**2) * speaker.brow_weight
    color = _mix(hair * 0.8, shade, 0.15)
    if affect.brow_squeeze > 0.1:
        line = _mix(shade, (70, 36, 30), 0.35)
        frown_y = np.linspace(-0.40, -0.22, 5)
        pen.stroke(side * np.full(5, 0.055), frown_y, 0.022 * affect.brow_squeeze, line)
    if affect.brow_inner > 0.5:  # the forehead wrinkles above raised brows
        bend = np.linspace(-0.8, 0.8, 9) if side < 0 else np.linspace(-0.55, 0.55, 9)
        height = -0.60 if side < 0 else -0.54
        pen.stroke(
            0.34 * bend, height - 0.02 * (1 - bend**2), 0.016 * affect.brow_inner, _mix(shade, shade * 0.8, 0.4)
        )
    pen.stroke(side * x, y, width, color)


def _draw_glasses(pen: _Pen, speaker: FaceSpeaker) -> None:
    """Thin round frames."""
    for side in (-1, 1):
        turn = np.append(_TURN, _TURN[:2])
        x, y = side * speaker.eye_gap + 0.245 * np.cos(turn), -0.05 + 0.215 * np.sin(turn)
        pen.stroke(x, y, 0.026, (52, 46, 50))
        temple = side * np.array([speaker.eye_gap + 0.24, speaker.head_width - 0.05])
        pen.stroke(temple, np.array([-0.07, -0.1]), 0.026, (52, 46, 50))
    pen.stroke(np.array([-0.08, 0, 0.08]), np.array([-0.06, -0.09, -0.06]), 0.026, (52, 46, 50))


def _draw_fringe(pen: _Pen, speaker: FaceSpeaker, hair: np.ndarray) -> None:
    """The hair in front of the forehead; its lower border stays above the raised brows."""
    if speaker.style == "bald":
        return
    wide = speaker.head_width
    arc = np.linspace(np.pi * 1.02, np.pi * 1.98, 31)
    thick = {"cropped": 0.03, "curly": 0.12}.get(speaker.style, 0.09)
    outer_x, outer_y = (wide + 0.05) * np.cos(arc), (0.96 + thick) * np.sin(arc) - 0.03
    t = np.linspace(1, -1, 31)
    border = {
        "short": -0.62 - 0.10 * np.cos(5 * t) * (np.abs(t) < 0.8),
        "parted": -0.60 - 0.22 * np.exp(-((t + 0.35) ** 2) / 0.05) + 0.08 * t,
        "long": -0.80 + 0.55 * np.abs(t) ** 3,
        "bun": -0.74 + 0.25 * np.abs(t) ** 3,
        "curly": -0.62 + 0.05 * np.cos(14 * t),
        "cropped": -0.70 + 0.22 * np.abs(t) ** 4,
        "bob": -0.585 + 0.02 * np.cos(20 * t) + 0.5 * np.clip(np.abs(t) - 0.8, 0, 1),
    }[speaker.style]
    sides = np.abs(t) ** 8
    inner_x = (wide - 0.02) * t
    inner_y = border + sides * (0.42 + (0.15 if speaker.style in ("long", "bob") else 0.0))
    pen.fill(np.append(outer_x, inner_x), np.append(outer_y, inner_y), hair, 0.1)
    shine = np.linspace(-0.45, 0.15, 9)
    pen.stroke(shine, -0.90 + 0.12 * shine**2 * 2, 0.035 * np.sin(np.linspace(0.2, np.pi - 0.2, 9)),
               _mix(hair, (255, 244, 230), 0.22))  # fmt: skip
