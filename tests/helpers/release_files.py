"""Write tiny releases of the benchmarks, in the layouts in which they are distributed.

`mmsa_split(5)` -> the columns of one split of a feature pickle; `write_clip(path)` -> a real mp4 of 0.24 s.
"""

import csv
import json
import pickle
import shutil
from pathlib import Path

import datasets
import numpy as np

from tests.helpers.media_files import gray_frames, sine, write_video
from training.converters.core.splits import INCOMPLETE


AUDIO_WIDTH = 6  # as conftest's processors take them
VIDEO_WIDTH = 5
STEPS = 9
REAL = 6  # steps before the padding


def mmsa_split(count: int, video: str = "v", low: float = -1.0, high: float = 1.0, dtype: str = "float64") -> dict:
    """Columns of `count` rows: two clips per video, the last three steps padding, scores on steps of 0.2."""
    rng = np.random.default_rng(len(video) + count)
    audio = rng.normal(size=(count, STEPS, AUDIO_WIDTH)).astype(dtype)
    vision = rng.normal(size=(count, STEPS, VIDEO_WIDTH)).astype(dtype)
    audio[:, REAL:] = vision[:, REAL:] = 0
    scores = np.linspace(low, high, 11)[np.arange(count) % 11]
    return {
        "raw_text": np.array([f"words “{i}” 好" for i in range(count)]),
        "audio": audio,
        "vision": vision,
        "id": [f"{video}{i // 2:03d}$_${i:04d}" for i in range(count)],
        "text": rng.normal(size=(count, 4, 8)),
        "text_bert": rng.normal(size=(count, 3, 4)),
        "audio_lengths": [REAL] * count,
        "vision_lengths": np.full(count, REAL),
        "annotations": ["Neutral"] * count,
        "classification_labels": np.zeros(count),
        "regression_labels": scores.astype(np.float32),
    }


def mmsa(train: int = 6, valid: int = 3, test: int = 4, **options) -> dict:
    """The three splits; no video is in more than one."""
    counts = {"train": train, "valid": valid, "test": test}
    return {split: mmsa_split(count, f"{split}_", **options) for split, count in counts.items()}


def write_pickle(path: Path, value, protocol: int = 4) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return path


def write_csv(path: Path, rows: list[dict], encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding=encoding, newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_json(path: Path, value) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    return path


def write_clip(path: Path, original: Path | None = None) -> Path:
    """A clip with video and audio; a copy of `original` if given, which is faster."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if original is not None:
        shutil.copy(original, path)
        return path
    return write_video(path, gray_frames(3, 16, 16), audio=sine(200, 0.24, 16_000))


def meld_row(dialogue: int, utterance: int, emotion: str = "joy", text: str = "Hi.", **changes: str) -> dict:
    """A row of MELD's tables."""
    row = {
        "Sr No.": "1",
        "Utterance": text,
        "Speaker": "Ann",
        "Emotion": emotion,
        "Sentiment": "positive",
        "Dialogue_ID": str(dialogue),
        "Utterance_ID": str(utterance),
        "Season": "8",
        "Episode": "21",
        "StartTime": "00:16:16,059",
        "EndTime": "00:16:21,731",
    }
    return row | changes


def sims_row(video: str, clip: str, label: str = "0.2", mode: str = "train", text: str = "好") -> dict:
    """A row of SIMS' tables."""
    return {
        "video_id": video,
        "clip_id": clip,
        "text": text,
        "label": label,
        "label_T": "0.4",
        "label_A": "",
        "label_V": "-1",
        "annotation": "Positive",
        "mode": mode,
    }


def read_back(folder: Path, cache: Path) -> dict[str, list[dict]]:
    """split -> rows of a converted corpus, as `load_dataset` gives them."""
    loaded = datasets.load_dataset(str(folder), cache_dir=str(cache))
    return {split: list(part) for split, part in loaded.items()}


def table_of(folder: Path) -> dict:
    """The stored table of a converted corpus."""
    return json.loads((folder / "conversion.json").read_text(encoding="utf-8"))["table"]


def reasons(table: dict, kind: str) -> dict[str, list[str]]:
    """reason -> ids, without the note that every small release has: that it is incomplete."""
    return {reason: entry["ids"] for reason, entry in table[kind].items() if reason != INCOMPLETE}
