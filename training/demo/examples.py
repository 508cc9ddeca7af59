"""Example clips of the Space, made by the demo corpus's generator with drawn faces and synthetic voices.

    python -m training.demo.examples [--output hub_cards/space/examples]

Speakers and sentences are not in the corpus. The last clip, for the timeline, is longer than ten seconds: one speaker
with one emotion after another.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..cli import CommandParser, command_errors
from ..paths import HUB_CARDS
from ..records import write_json
from .clips import render_example, write_mp4


SEED = 20
FRAME_SIZE = 160


class ExampleClip(NamedTuple):
    """A short clip: its transcript, and the emotion or sentiment that voice and face show."""

    name: str
    task: str
    text: str
    voice: str | float
    face: str | float


CLIPS = (
    ExampleClip("All three agree", "emotion", "Look, the whole garden is in bloom!", "joy", "joy"),
    ExampleClip("Words that need a voice", "emotion", "I can't believe you did that.", "anger", "anger"),
    ExampleClip("The face tells another story", "emotion", "Everything is fine, thank you.", "neutral", "sadness"),
    ExampleClip("In Chinese", "emotion", "窗户外面有什么声音？", "fear", "fear"),
    ExampleClip("A score", "sentiment", "The battery died after two days and nobody answers my letters.", -2.2, -1.5),
)
LONG_CLIP_TEXT = "And then, as I told you before, all of it happened at once."
LONG_CLIP_EMOTIONS = ("neutral", "joy", "surprise", "fear", "anger", "sadness")


def render(clip: ExampleClip, speaker: str) -> tuple[np.ndarray, np.ndarray]:
    """Samples (S,) and frames (T, size, size, 3) of a short clip."""
    example: dict[str, Any] = {
        "id": clip.name,
        "task": clip.task,
        "text": clip.text,
        "cues": {"audio": clip.voice, "video": clip.face},
        "speaker": speaker,
    }
    return render_example(example, SEED, FRAME_SIZE)


def long_clip() -> tuple[np.ndarray, np.ndarray]:
    """Samples (S,) and frames (T, size, size, 3) of one speaker with one emotion after another."""
    samples = []
    frames = []
    for number, emotion in enumerate(LONG_CLIP_EMOTIONS):
        part = ExampleClip(f"part {number}", "emotion", LONG_CLIP_TEXT, emotion, emotion)
        part_samples, part_frames = render(part, "example of many")
        samples.append(part_samples)
        frames.append(part_frames)
    return np.concatenate(samples), np.concatenate(frames)


def write_examples(folder: Path) -> list[dict[str, str]]:
    """Write the clips and `examples.json`, which lists them."""
    folder.mkdir(parents=True, exist_ok=True)
    listed = []
    for number, clip in enumerate(CLIPS):
        video = f"{number}.mp4"
        write_mp4(folder / video, *render(clip, f"example of {clip.name}"))
        listed.append({"name": clip.name, "task": clip.task, "text": clip.text, "video": video})
    video = f"{len(CLIPS)}.mp4"
    write_mp4(folder / video, *long_clip())
    listed.append({"name": "One feeling after another", "task": "emotion", "text": "", "video": video})
    write_json(folder / "examples.json", listed)
    return listed


def main(argv: Sequence[str] | None = None) -> None:
    with command_errors():
        parser = CommandParser(description=__doc__.splitlines()[0])
        parser.add_argument("--output", type=Path, default=HUB_CARDS / "space/examples", help="folder to write")
        arguments = parser.parse_args(argv)
        for entry in write_examples(arguments.output):
            path = arguments.output / entry["video"]
            print(f"{path}  {path.stat().st_size:>8,} bytes  {entry['name']}")


if __name__ == "__main__":
    main()
