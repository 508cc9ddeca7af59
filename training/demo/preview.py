"""A contact sheet of the demo corpus: seven emotions of four speakers, at the apex and larger than in the clips."""

import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .clips import FACE, speaker_rng
from .face import draw_face, make_face_speaker
from .face_affects import FACE_AFFECTS
from .face_pen import FaceSpeaker
from .phrases import EMOTIONS


GAP = 6
HEADER = 30
NUM_SPEAKERS = 4


def write_preview(corpus: str | Path, output_png: str | Path, tile: int = 176) -> None:
    """Draw the contact sheet.

    Args:
        corpus: folder of a built corpus.
        output_png: file to write.
        tile: height and width of one face in pixels.
    """
    faces = _choose_faces(Path(corpus))
    width = GAP + len(EMOTIONS) * (tile + GAP)
    height = HEADER + len(faces) * (tile + GAP)
    sheet = Image.new("RGB", (width, height), (255, 255, 255))
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=17)
    for column, emotion in enumerate(EMOTIONS):
        left = GAP + column * (tile + GAP)
        draw.text((left + tile / 2, HEADER / 2), emotion, fill=(40, 40, 48), font=font, anchor="mm")
        for row, face in enumerate(faces):
            frame = draw_face(face, FACE_AFFECTS[emotion], tile)
            sheet.paste(Image.fromarray(frame), (left, HEADER + row * (tile + GAP)))
    sheet.save(output_png)


def _choose_faces(corpus: Path) -> list[FaceSpeaker]:
    """Four speakers, from the darkest to the lightest skin, with different hairstyles where possible."""
    settings = json.loads((corpus / "build.json").read_text(encoding="utf-8"))["settings"]
    lines = (corpus / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    speakers = sorted({json.loads(line)["speaker"] for line in lines})
    faces = [make_face_speaker(speaker_rng(settings["seed"], speaker, FACE)) for speaker in speakers]
    faces.sort(key=lambda face: sum(face.skin))
    chosen: list[FaceSpeaker] = []
    for indices in np.array_split(np.arange(len(faces)), NUM_SPEAKERS):
        if len(indices) == 0:
            continue
        styles = {face.style for face in chosen}
        unused_styles = [faces[i] for i in indices if faces[i].style not in styles]
        chosen.append(unused_styles[0] if unused_styles else faces[indices[0]])
    return chosen
