"""Drawing in head coordinates: polygons, ellipses and strokes that follow the pose of the head.

The head is about two units high, the origin is between the eyes and the nose, and y points down. Depth 1 is the plane
of the face, depth 0 the outline of the head; nearer points move more when the head turns.

Next: `face_parts.py` and `face_head.py` draw with it.
"""

import dataclasses

import numpy as np
from PIL import ImageDraw

from .face_affects import FaceAffect


Color = np.ndarray | tuple[float, float, float]
TURN = np.linspace(0, 2 * np.pi, 48, endpoint=False)
HEAD_UNIT = 0.345  # of the frame's width
NECK = 1.1  # the head rolls about this point below the origin
SIDES = (-1, 1)  # -1 is on the left of the frame


@dataclasses.dataclass(frozen=True)
class FaceSpeaker:
    """The looks of a speaker, the same in all of their clips."""

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


class Pen:
    """Draws shapes given in head coordinates onto an image.

    Args:
        draw: the image's drawing interface.
        pixels: height and width of the image.
        affect: the pose of the head.
        shift: offset of the entire person, in head units.
    """

    def __init__(
        self, draw: ImageDraw.ImageDraw, pixels: int, affect: FaceAffect, shift: tuple[float, float] = (0.0, 0.0)
    ):
        self.draw = draw
        self.affect = affect
        self.unit = pixels * HEAD_UNIT * (1 + affect.head_size)
        self.center = np.array([0.5 + HEAD_UNIT * shift[0], 0.535 + HEAD_UNIT * shift[1]]) * pixels
        self.cos = np.cos(affect.head_roll)
        self.sin = np.sin(affect.head_roll)

    def pixels_of(self, x: np.ndarray, y: np.ndarray, depth: float = 1.0) -> np.ndarray:
        """Pixels of points in head coordinates, (N, 2)."""
        x = np.asarray(x, float) + self.affect.head_yaw * (0.25 + 0.75 * depth)
        y = np.asarray(y, float) + self.affect.head_pitch * (0.35 + 0.65 * depth) - NECK
        points = np.empty((len(x), 2))
        points[:, 0] = self.center[0] + self.unit * (self.cos * x - self.sin * y)
        points[:, 1] = self.center[1] + self.unit * (self.sin * x + self.cos * y + NECK)
        return points

    def fill(self, x: np.ndarray, y: np.ndarray, color: Color, depth: float = 1.0) -> None:
        """A filled polygon."""
        points = self.pixels_of(x, y, depth)
        self.draw.polygon(points.ravel().tolist(), fill=_rgb(color))

    def fill_between(
        self, x: np.ndarray, upper: np.ndarray, lower: np.ndarray, color: Color, depth: float = 1.0
    ) -> None:
        """The area between two curves over the same x."""
        self.fill(np.concatenate([x, x[::-1]]), np.concatenate([upper, lower[::-1]]), color, depth)

    def ellipse(self, x: float, y: float, radius_x: float, radius_y: float, color: Color, depth: float = 1) -> None:
        """A filled ellipse around a point."""
        self.fill(x + radius_x * np.cos(TURN), y + radius_y * np.sin(TURN), color, depth)

    def stroke(self, x: np.ndarray, y: np.ndarray, width: float | np.ndarray, color: Color) -> None:
        """A line with round ends whose width may vary along it."""
        points = self.pixels_of(x, y)
        radii = np.full(len(points), self.unit / 2) * width
        along = np.empty_like(points)
        along[0] = points[1] - points[0]
        along[1:-1] = points[2:] - points[:-2]
        along[-1] = points[-1] - points[-2]
        lengths = np.sqrt((along**2).sum(axis=1)) + 1e-9
        along *= (radii / lengths)[:, None]
        normal = along[:, ::-1] * (-1, 1)
        outline = np.concatenate([points + normal, (points - normal)[::-1]])
        rgb = _rgb(color)
        self.draw.polygon(outline.ravel().tolist(), fill=rgb)
        for end in (0, -1):
            end_x, end_y = points[end].tolist()
            radius = float(radii[end])
            self.draw.ellipse((end_x - radius, end_y - radius, end_x + radius, end_y + radius), fill=rgb)


@dataclasses.dataclass(frozen=True)
class Face:
    """Everything needed to draw the parts of one frame."""

    pen: Pen
    speaker: FaceSpeaker
    affect: FaceAffect
    skin: np.ndarray  # colors, (3,) in [0, 255]
    shade: np.ndarray
    hair: np.ndarray


def mix_colors(first: Color, second: Color, share: float) -> np.ndarray:
    """Blend two colors; a share of 1 gives the second one."""
    return np.asarray(first, float) * (1 - share) + np.asarray(second, float) * share


def _rgb(color: Color) -> tuple[int, int, int]:
    red, green, blue = (min(255, max(0, int(value))) for value in color)
    return red, green, blue
