"""Five public corpora, written in the format of the folder converter, with a group for each example.

A group is a video, a speaker or a session, and must not be divided between splits. Only the format is changed here;
`measure.py` does the rest.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...data.tables import read_csv
from ...records import digest_of_bytes


REPORTED = "validation"  # the split whose figures are reported
GROUP = "group"  # the column with the groups
MOSI_REPORTED_SHARE = 0.2

TASKS: dict[str, dict[str, Any]] = {
    "sims_v2_english": {
        "kind": "regression",
        "low": -1,
        "high": 1,
        "step": 0.2,
        "prompt": "\nThe speaker's sentiment from -1 to 1 is",
    },
    # In English, because the language model does not read the Chinese transcript, and knows no Chinese labels.
    "emotiontalk": {
        "kind": "classification",
        "labels": ["neutral", "angry", "happy", "surprised", "disgusted", "sad", "fearful"],
        "prompt": "\nThe speaker's emotion is",
    },
    "ravdess": {
        "kind": "classification",
        "labels": ["neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised"],
        "prompt": "\nThe speaker's emotion is",
    },
}


def read_sims_v2(source: Path, folder: Path, column: str = "chinese", task: str = "sims_v2") -> Path:
    """Texts and scores of CH-SIMS v2; the clips of one video are a group."""
    examples = []
    for row in read_csv(source / "train_valid.csv", ("name", "split", "label", column)):
        examples.append(
            {
                "id": row["name"],
                "split": row["split"],
                "task": task,
                "text": row[column],
                "answer": float(row["label"]),
                GROUP: row["name"].rpartition("_")[0],
            }
        )
    return write_metadata(folder, examples)


def read_emotiontalk(source: Path, folder: Path) -> Path:
    """Texts of EmotionTalk and their emotions, which were labeled from the text only; a session is a group."""
    examples = []
    for row in read_csv(source / "train_val.csv", ("name", "split", "session", "emotion_text", "text_clean")):
        examples.append(
            {
                "id": row["name"],
                "split": row["split"],
                "task": "emotiontalk",
                "text": row["text_clean"],
                "answer": row["emotion_text"],
                GROUP: row["session"],
            }
        )
    return write_metadata(folder, examples)


def read_mosi(source: Path, folder: Path) -> Path:
    """Texts and three vectors per example of CMU-MOSI; about a fifth of the examples, by video, are reported.

    The vectors of text and audio, concatenated, are the audio features; the vector of video is the video features.
    """

    def split_videos(videos: Sequence[str]) -> dict[str, str]:
        reported = first_groups(videos, round(MOSI_REPORTED_SHARE * len(videos)))
        return dict.fromkeys(videos, "train") | dict.fromkeys(reported, REPORTED)

    return write_mosi(source, folder, ("text_feat", "audio_feat"), split_videos)


def write_mosi(
    source: Path,
    folder: Path,
    audio_vectors: Sequence[str],
    split_videos: Callable[[Sequence[str]], dict[str, str]],
) -> Path:
    """Write CMU-MOSI with one vector per modality, as .npy files of shape (1, width).

    Args:
        source: folder with train.npz.
        folder: folder to write.
        audio_vectors: arrays of the source that, concatenated, are the audio features.
        split_videos: from the video of every example, in order, to the split of every video.

    Raises:
        OSError: there is no train.npz in the source.
    """
    names = ("id", "text", "video_feat", "label", *audio_vectors)
    with np.load(source / "train.npz", allow_pickle=False) as arrays:
        columns = {name: arrays[name] for name in names}
    videos = [str(name).rpartition("_")[0] for name in columns["id"]]
    splits = split_videos(videos)
    folder.mkdir(parents=True, exist_ok=True)
    examples = []
    for i, video in enumerate(videos):
        audio = np.concatenate([columns[name][i] for name in audio_vectors])
        np.save(folder / f"{i}-audio.npy", audio[None].astype(np.float32))
        np.save(folder / f"{i}-video.npy", columns["video_feat"][i][None].astype(np.float32))
        examples.append(
            {
                "id": str(columns["id"][i]),
                "split": splits[video],
                "task": "sentiment",
                GROUP: video,
                "text": str(columns["text"][i]).capitalize(),
                "answer": round(float(columns["label"][i]), 6),
                "audio_features": f"{i}-audio.npy",
                "video_features": f"{i}-video.npy",
            }
        )
    return write_metadata(folder, examples)


def read_ravdess(source: Path, folder: Path, reported_actors: Sequence[str] = ("11", "12")) -> Path:
    """Audio of RAVDESS speech, without text, because its two sentences carry no emotion. An actor is a group."""
    labels = TASKS["ravdess"]["labels"]
    examples = []
    for path in sorted(source.glob("03-01-*.flac")):
        codes = path.stem.split("-")
        emotion = int(codes[2])
        actor = codes[6]
        examples.append(
            {
                "id": path.stem,
                "split": REPORTED if actor in reported_actors else "train",
                "task": "ravdess",
                "audio": str(path.resolve()),
                "answer": labels[emotion - 1],
                GROUP: f"actor {actor}",
            }
        )
    return write_metadata(folder, examples)


def write_metadata(folder: Path, examples: list[dict[str, Any]]) -> Path:
    """Write `metadata.jsonl` for the folder converter."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(example, ensure_ascii=False) + "\n" for example in examples]
    (folder / "metadata.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


def first_groups(groups: Sequence[str], max_examples: int) -> list[str]:
    """The first groups, in the order of a hash of their names, that hold about `max_examples` examples.

    Args:
        groups: the group of every example.
        max_examples: the limit; the last group is added if at least half of it is within the limit.
    """
    sizes = Counter(groups)
    chosen: list[str] = []
    count = 0
    for group in sorted(sizes, key=_hash_of):
        if count + sizes[group] / 2 > max_examples:
            break
        chosen.append(group)
        count += sizes[group]
    return chosen


def _hash_of(name: str) -> str:
    return digest_of_bytes(name.encode("utf-8"))
