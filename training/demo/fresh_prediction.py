"""Predictions as a stranger would get them: a fresh process, the checkpoint's own code, and no source tree.

    python -I training/demo/fresh_prediction.py CHECKPOINT CLIPS.json CORPUS

CLIPS.json is a list of `{"text", "video", "task", "truth"}`, with paths relative to the folder CORPUS. Run by
`make demo` from an empty folder.
"""

import json
import os
import runpy
import sys
from pathlib import Path
from typing import Any


FRESH_PROCESS = Path(__file__).resolve().parents[1] / "hub/fresh_process.py"


def show_prediction(clip: dict[str, Any], answer: dict[str, Any]) -> None:
    """Print a clip, the model's answer, and the weights behind it."""
    print(f"clip      {clip['video']}")
    print(f"text      {clip['text']}")
    if "label" in answer:
        print(f"answer    {answer['label']} ({answer['score']:.2f}), true: {clip['truth']}")
    else:
        low, high = answer["interval"]
        print(f"answer    {answer['value']:+.1f}, 90% in [{low:+.1f}, {high:+.1f}], true: {clip['truth']:+.1f}")
    print(f"likeliest {_format_shares(answer['probabilities'])}")
    print(f"experts   {_format_shares(answer['experts'])}  residual {answer['residual']:.2f}")
    print(f"used      {', '.join(answer['modalities'])}\n", flush=True)


def _format_shares(shares: dict[str, float]) -> str:
    return "  ".join(f"{name} {share:.2f}" for name, share in shares.items())


def main() -> None:
    checkpoint, clips_file, corpus = sys.argv[1:]
    load_as_stranger = runpy.run_path(str(FRESH_PROCESS))["load_as_stranger"]  # our packages cannot be imported here
    model, processor = load_as_stranger(checkpoint)
    print(f"loaded {type(model).__name__} from {type(model).__module__}\n")
    with open(clips_file, encoding="utf-8") as file:
        clips = json.load(file)
    for clip in clips:
        video = os.path.join(corpus, clip["video"])
        inputs = processor(text=clip["text"], video=video, task=clip["task"])
        output = model.score_answers(**inputs)
        answers = processor.post_process_answers(output, top_k=3)
        show_prediction(clip, answers[0])


if __name__ == "__main__":
    main()
