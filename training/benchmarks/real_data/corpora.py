"""Five public corpora as rows that the folder converter reads, each with the group that a split must not cut through.

A group is a video, a speaker or a session. Nothing is changed but the form; see real_data.py for what is done with it.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...data.tables import read_csv


REPORTED, GROUP = "validation", "group"
CHINESE = {"prefix": "声音和表情：", "suffix": "\n话语：\n", "separator": ""}

TASKS: dict[str, dict[str, Any]] = {
    "sims_v2_english": {
        "kind": "regression", "low": -1, "high": 1, "step": 0.2, "prompt": "\nThe speaker's sentiment from -1 to 1 is",
    },
    "emotiontalk": {
        "kind": "classification",
        "labels": {
            "neutral": "平静", "angry": "愤怒", "happy": "高兴", "surprised": "惊奇", "disgusted": "厌恶",
            "sad": "悲伤", "fearful": "恐惧",
        },
        "prompt": "\n说话人的情绪是：",
        **CHINESE,
    },
    "ravdess": {
        "kind": "classification",
        "labels": ["neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised"],
        "prompt": "\nThe speaker's emotion is",
    },
}  # fmt: skip


def _write(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """`metadata.jsonl` as the folder converter reads it."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(row, ensure_ascii=False) for row in rows)
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def read_sims_v2(source: Path, folder: Path, column: str = "chinese", task: str = "sims_v2") -> Path:
    """Words and score of CH-SIMS v2; clips of one video are a group."""
    lines = read_csv(source / "train_valid.csv", ("name", "split", "label", column))
    return _write(
        folder,
        [
            {
                "id": line["name"], "split": line["split"], "task": task, "text": line[column],
                "answer": float(line["label"]), GROUP: line["name"].rpartition("_")[0],
            }
            for line in lines
        ],
    )  # fmt: skip


def read_emotiontalk(source: Path, folder: Path) -> Path:
    """Words of EmotionTalk and the emotion that was judged from the words alone; a session is a group."""
    lines = read_csv(source / "train_val.csv", ("name", "split", "session", "emotion_text", "text_clean"))
    return _write(
        folder,
        [
            {
                "id": line["name"], "split": line["split"], "task": "emotiontalk", "text": line["text_clean"],
                "answer": line["emotion_text"], GROUP: line["session"],
            }
            for line in lines
        ],
    )  # fmt: skip


def read_mosi(source: Path, folder: Path) -> Path:
    """CMU-MOSI's words and three vectors: those of text and audio side by side as audio, that of video as video. A
    fifth of the videos is the reported split."""
    with np.load(source / "train.npz", allow_pickle=False) as arrays:
        data = {name: arrays[name] for name in ("id", "text", "text_feat", "audio_feat", "video_feat", "label")}
    videos = [str(name).rpartition("_")[0] for name in data["id"]]
    held = set(first_groups(videos, round(0.2 * len(videos))))
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for i, (name, video) in enumerate(zip(data["id"], videos, strict=True)):
        heard = np.concatenate([data["text_feat"][i], data["audio_feat"][i]])
        for modality, vector in (("audio", heard), ("video", data["video_feat"][i])):
            np.save(folder / f"{i}-{modality}.npy", vector[None].astype(np.float32))
        rows.append(
            {
                "id": str(name), "split": REPORTED if video in held else "train", "task": "sentiment", GROUP: video,
                "text": str(data["text"][i]).capitalize(), "answer": round(float(data["label"][i]), 6),
                "audio_features": f"{i}-audio.npy", "video_features": f"{i}-video.npy",
            }
        )  # fmt: skip
    return _write(folder, rows)


def read_ravdess(source: Path, folder: Path, held: Sequence[str] = ("11", "12")) -> Path:
    """RAVDESS speech as sound alone: its two sentences say nothing. A speaker is a group, and two are reported on."""
    labels, rows = TASKS["ravdess"]["labels"], []
    for path in sorted(source.glob("03-01-*.flac")):
        codes = path.stem.split("-")
        rows.append(
            {
                "id": path.stem, "split": REPORTED if codes[6] in held else "train", "task": "ravdess",
                "audio": str(path.resolve()), "answer": labels[int(codes[2]) - 1], GROUP: f"actor {codes[6]}",
            }
        )  # fmt: skip
    return _write(folder, rows)


def first_groups(groups: Sequence[str], most: int) -> list[str]:
    """Groups in the order of a hash of their names, until they hold about `most` rows."""
    chosen, count = [], 0
    for group in sorted(set(groups), key=lambda name: hashlib.sha256(name.encode("utf-8")).hexdigest()):
        size = groups.count(group)
        if count + size / 2 > most:
            break
        chosen.append(group)
        count += size
    return chosen
