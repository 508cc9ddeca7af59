"""Load a checkpoint as a stranger would: a fresh process, `AutoModel` with the checkpoint's own code, no source tree.

    python training/demo/fresh_prediction.py CHECKPOINT CLIPS.json CORPUS

CLIPS.json is a list of `{"text", "video", "task", "truth"}`, with paths within the folder CORPUS. Run by `make demo`
from an empty folder.
"""

import importlib.abc
import json
import os
import sys


class SourceTreeOutOfReach(importlib.abc.MetaPathFinder):
    """Refuses our own packages, so that only the checkpoint's copies of the code can answer."""

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("modeling_egmf", "processing_egmf", "training"):
            raise ImportError(f"{name} is out of reach here on purpose")


def main() -> None:
    sys.meta_path.insert(0, SourceTreeOutOfReach())
    from transformers import AutoModel, AutoProcessor

    checkpoint, clips_file, corpus = sys.argv[1:]
    model = AutoModel.from_pretrained(checkpoint, trust_remote_code=True)
    processor = AutoProcessor.from_pretrained(checkpoint, trust_remote_code=True)
    print(f"loaded {type(model).__name__} from {type(model).__module__}\n")
    with open(clips_file, encoding="utf-8") as file:
        clips = json.load(file)
    for clip in clips:
        video = os.path.join(corpus, clip["video"])
        inputs = processor(text=clip["text"], video=video, task=clip["task"])
        answer = processor.post_process_answers(model.score_answers(**inputs), top_k=3)[0]
        print(f"clip      {clip['video']}")
        print(f"words     {clip['text']}")
        if "label" in answer:
            print(f"answer    {answer['label']} ({answer['score']:.2f}), true: {clip['truth']}")
        else:
            low, high = answer["interval"]
            print(f"answer    {answer['score']:+.1f}, 90 % in [{low:+.1f}, {high:+.1f}], true: {clip['truth']:+.1f}")
        shown = "  ".join(f"{name} {value:.2f}" for name, value in answer["probabilities"].items())
        print(f"likeliest {shown}")
        experts = "  ".join(f"{name} {value:.2f}" for name, value in answer["experts"].items())
        print(f"experts   {experts}  residual {answer['residual']:.2f}")
        print(f"used      {', '.join(answer['modalities'])}\n", flush=True)


if __name__ == "__main__":
    main()
