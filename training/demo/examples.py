"""The clips that the Space offers to try, made by the generator of the demo corpus: drawn faces, synthetic voices.

    python -m training.demo.examples [--output hub_cards/space/examples]

Speakers and sentences are not those of the corpus. The last clip is longer than ten seconds: one speaker with one
feeling after another, for the timeline.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..records import write_json
from .corpus import render_row, write_mp4


SEED, FRAME_SIZE = 20, 160
# name, task, words, what the voice and what the face shows
CLIPS = (
    ("All three agree", "emotion", "Look, the whole garden is in bloom!", "joy", "joy"),
    ("Words that need a voice", "emotion", "I can't believe you did that.", "anger", "anger"),
    ("The face tells another story", "emotion", "Everything is fine, thank you.", "neutral", "sadness"),
    ("In Chinese", "emotion", "窗户外面有什么声音？", "fear", "fear"),
    ("A score", "sentiment", "The battery died after two days and nobody answers my letters.", -2.2, -1.5),
)
FEELINGS = ("neutral", "joy", "surprise", "fear", "anger", "sadness")


def row(name: str, task: str, text: str, audio: Any, video: Any) -> dict[str, Any]:
    """What `render_row` needs."""
    cues = {"audio": audio, "video": video}
    return {"id": name, "task": task, "text": text, "cues": cues, "speaker": f"example of {name}"}


def long_clip() -> tuple[np.ndarray, np.ndarray]:
    """Sound (S,) and frames (T, size, size, 3) of one speaker with one feeling after another."""
    said = "And then, as I told you before, all of it happened at once."
    rows = [row(f"part {place}", "emotion", said, feeling, feeling) for place, feeling in enumerate(FEELINGS)]
    parts = [render_row({**each, "speaker": "example of many"}, SEED, FRAME_SIZE) for each in rows]
    sounds, frames = zip(*parts, strict=True)
    return np.concatenate(sounds), np.concatenate(frames)


def write_examples(folder: Path) -> list[dict[str, str]]:
    """Clips and `examples.json`, which lists them."""
    folder.mkdir(parents=True, exist_ok=True)
    listed = []
    for place, (name, task, text, audio, video) in enumerate(CLIPS):
        path = folder / f"{place}.mp4"
        write_mp4(path, *render_row(row(name, task, text, audio, video), SEED, FRAME_SIZE))
        listed.append({"name": name, "task": task, "text": text, "video": path.name})
    path = folder / f"{len(CLIPS)}.mp4"
    write_mp4(path, *long_clip())
    listed.append({"name": "One feeling after another", "task": "emotion", "text": "", "video": path.name})
    write_json(folder / "examples.json", listed)
    return listed


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("hub_cards/space/examples"))
    arguments = parser.parse_args(argv)
    for each in write_examples(arguments.output):
        size = (arguments.output / each["video"]).stat().st_size
        print(f"{arguments.output / each['video']}  {size:>8,} bytes  {each['name']}")


if __name__ == "__main__":
    main()
