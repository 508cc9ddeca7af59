"""Write small releases of the five corpora of the benchmark on real data, in their own layouts.

`write_releases(folder)` -> 32 examples each, of 8 videos, dialogues, sessions or speakers.
"""

import csv
from pathlib import Path
from typing import Any

import numpy as np

from processing_egmf import BUILT_IN_TASKS
from tests.helpers.media_files import sine, write_audio
from training.benchmarks.real_data.corpora import TASKS


SECRET = "zanzibar"  # in every transcript: results must not repeat it
NUM_EXAMPLES = 32
SPLITS = ["train"] * 24 + ["val"] * 8
MEDIA_WIDTHS = {"text": 100, "audio": 73, "video": 100}


def english(i: int) -> str:
    """A transcript whose words determine its label."""
    return f"{SECRET} good {i}" if i % 2 else f"{SECRET} bad {i}"


def chinese(i: int) -> str:
    return f"{SECRET}{'好' if i % 2 else '坏'}"


def write_releases(folder: Path) -> Path:
    """All five corpora in one folder."""
    write_meld(folder / "meld_text")
    write_sims_v2(folder / "ch_sims_v2_text")
    write_emotiontalk(folder / "emotiontalk_text")
    write_mosi(folder / "cmu_mosi_trimodal")
    write_ravdess(folder / "ravdess_speech_16k")
    return folder


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_meld(folder: Path) -> None:
    emotions = list(BUILT_IN_TASKS["meld"].labels)
    for split, count in (("train", NUM_EXAMPLES), ("dev", 8)):
        rows = [
            {
                "Sr No.": i,
                "Utterance": english(i),
                "Speaker": "Ann",
                "Emotion": emotions[i % 2],
                "Sentiment": "neutral",
                "Dialogue_ID": i // 4,
                "Utterance_ID": i % 4,
                "Season": 1,
                "Episode": 1,
                "StartTime": "00:00:01,000",
                "EndTime": "00:00:02,000",
            }
            for i in range(count)
        ]
        write_csv(folder / f"{split}_sent_emo.csv", rows)


def write_sims_v2(folder: Path) -> None:
    rows = [
        {
            "name": f"video_{i // 4:04d}_{i:04d}",
            "split": split,
            "label": 0.6 if i % 2 else -0.4,
            "chinese": chinese(i),
            "english": english(i),
        }
        for i, split in enumerate(SPLITS)
    ]
    write_csv(folder / "train_valid.csv", rows)


def write_emotiontalk(folder: Path) -> None:
    emotions = list(TASKS["emotiontalk"]["labels"])
    rows = [
        {
            "name": f"G{i}",
            "split": split,
            "session": f"S{i // 4}",
            "emotion_text": emotions[i % 2],
            "text_clean": chinese(i),
        }
        for i, split in enumerate(SPLITS)
    ]
    write_csv(folder / "train_val.csv", rows)


def write_mosi(folder: Path) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    scores = np.linspace(-3, 3, NUM_EXAMPLES).round(1)
    columns = {
        "id": np.array([f"video{i % 8}_x_{i}" for i in range(NUM_EXAMPLES)]),
        "text": np.array([english(i).upper() for i in range(NUM_EXAMPLES)]),
        "label": scores.astype(np.float32),
    }
    for name, width in MEDIA_WIDTHS.items():
        noise = rng.normal(0, 0.1, (NUM_EXAMPLES, width))
        columns[f"{name}_feat"] = (noise + scores[:, None]).astype(np.float32)
    np.savez(folder / "train.npz", **columns)


def write_ravdess(folder: Path) -> None:
    folder.mkdir(parents=True)
    for i in range(NUM_EXAMPLES):
        emotion = (1, 5)[i % 2]
        actor = 5 + i // 4
        name = f"03-01-{emotion:02d}-01-01-{i % 4:02d}-{actor:02d}.flac"
        write_audio(folder / name, sine(200 * emotion, 0.2, 16_000), 16_000)
