"""Write tiny releases of RAVDESS, CREMA-D and IEMOCAP in their layouts, and tables of faces.

The recordings are copies of one file each; nothing of the real corpora is in them.
"""

import csv
import shutil
from pathlib import Path

import numpy as np

from tests.helpers.media_files import sine, write_audio


SECONDS = 0.5
FRAMES = 15  # of a table of faces, at 30 a second


def write_wave(path: Path) -> Path:
    """Half a second of a tone; 16 kHz, mono."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_audio(path, sine(220, SECONDS, 16_000), 16_000)


def copy_to(original: Path, *paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(original, path)


def cut(path: Path) -> None:
    """Keep the first two thirds of a file, as an interrupted download does."""
    content = path.read_bytes()
    path.write_bytes(content[: 2 * len(content) // 3])


def face_points(count: int = FRAMES, place: tuple[float, float] = (0.0, 0.0), scale: float = 1.0) -> np.ndarray:
    """(T, 2, 4): four points of a face whose third moves, in pixels."""
    points = np.tile(np.array([[100.0, 140, 120, 120], [100, 100, 150, 120]]), (count, 1, 1))
    points[:, 1, 2] += 5 * np.sin(np.arange(count))
    return scale * points + np.array(place)[:, None]


def openface_rows(points: np.ndarray, face_id: int = 0, fps: float = 30.0, **changes: float) -> list[dict]:
    """Rows of OpenFace's table, of which only the columns that matter are written."""
    rows = []
    for number, (x, y) in enumerate(points):
        row = {
            "frame": number + 1,
            " face_id": face_id,
            " timestamp": number / fps,
            " confidence": 0.98,
            " success": 1,
        }
        row |= {" gaze_angle_x": 0.1 * number, " pose_Tx": x[0], " eye_lmk_x_0": x[0], " p_scale": 1.5}
        row |= {f" x_{i}": value for i, value in enumerate(x)} | {f" y_{i}": value for i, value in enumerate(y)}
        row |= {" X_0": x[0], " AU01_r": 0.1 * number, " AU12_c": number % 2}
        rows.append(row | changes)
    return rows


def write_table(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def ravdess_name(actor: int, emotion: int = 1, modality: str = "03", channel: str = "01", statement: int = 1) -> str:
    """A file's name without its extension: intensity 01, repetition 01."""
    return f"{modality}-{channel}-{emotion:02d}-01-{statement:02d}-01-{actor:02d}"


IEMOCAP_BLOCK = """[{start:.4f} - {end:.4f}]\t{name}\t{label}\t[2.5000, 3.0000, 2.0000]
C-E2:\tNeutral;\t()
C-E4:\tAnger; Frustration;\t(tense)
C-F1:\tNeutral;\t()
A-E3:\tval 3; act 2; dom  2;\t()
A-F1:\tval 2; act 4; dom  1;\t()

"""


def write_iemocap(source: Path, wave: Path, labels: dict[str, list[str]], missing: tuple[str, ...] = ()) -> Path:
    """A release with one dialogue per entry.

    Args:
        source: the folder.
        wave: the sound of every utterance.
        labels: dialogue, such as `Ses01F_impro01`, -> code of each utterance; speakers take turns, F first.
        missing: utterances without a sound file.
    """
    for dialogue, codes in labels.items():
        session = source / f"Session{int(dialogue[3:5])}"
        blocks = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n"]
        lines = []
        for index, code in enumerate(codes):
            name = f"{dialogue}_{'FM'[index % 2]}{index // 2:03d}"
            blocks.append(IEMOCAP_BLOCK.format(start=index, end=index + 0.9, name=name, label=code))
            lines.append(f"{name} [{index:08.4f}-{index + 0.9:08.4f}]: Line {index}.\n")
            if name not in missing:
                copy_to(wave, session / f"sentences/wav/{dialogue}/{name}.wav")
        for folder, text in (("EmoEvaluation", "".join(blocks)), ("transcriptions", "".join(lines))):
            path = session / f"dialog/{folder}/{dialogue}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    return source
