"""Loads a repo as a stranger would: in a process that has the repo's name and no other copy of our code.

    python -I training/hub/fresh_process.py JOB.json ANSWER.npz

JOB.json holds `repo` (a Hub id or a folder), `revision`, `inputs` (an npz with the processor's arguments) and
`pipeline` (the name of the custom pipeline, or null). verify.py runs it and compares the answer with the one
before the upload; both call `compute_answer`. The file imports none of our code, so that it can run outside the source
tree.
"""

import importlib.abc
import json
import sys
from typing import Any

import numpy as np


OUR_PACKAGES = ("modeling_egmf", "processing_egmf", "training", "egmf_training")


class SourceTreeOutOfReach(importlib.abc.MetaPathFinder):
    """Refuses our own packages, so that only the repo's copies of the code can be imported."""

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in OUR_PACKAGES:
            raise ImportError(f"{name} is deliberately out of reach here")


def load_as_stranger(repo: str, revision: str | None = None) -> tuple[Any, Any]:
    """Load model and processor with the Auto classes and the repo's own code; the source tree is out of reach.

    Args:
        repo: a Hub id or a folder.
        revision: a commit, tag or branch on the Hub.
    """
    sys.meta_path.insert(0, SourceTreeOutOfReach())
    from transformers import AutoModel, AutoProcessor

    model = AutoModel.from_pretrained(repo, revision=revision, trust_remote_code=True)
    processor = AutoProcessor.from_pretrained(repo, revision=revision, trust_remote_code=True)
    return model, processor


def read_inputs(path: str) -> dict[str, Any]:
    """The processor's arguments from an npz: arrays stay arrays, zero-dimensional ones become plain values."""
    with np.load(path) as stored:
        return {name: stored[name] if stored[name].ndim else stored[name].item() for name in stored.files}


def compute_answer(model: Any, processor: Any, inputs: dict[str, Any]) -> dict[str, np.ndarray]:
    """Logits after the prompt and the probability of every answer, both in float32, and the answer as text.

    The weights are copied first: exact bits may depend on memory alignment, which follows from offsets in the file.
    """
    import torch

    features = processor(**inputs)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.data = tensor.data.clone()
        logits = model(**features).logits[0, -1]
        output = model.score_answers(**features)
    answer = processor.post_process_answers(output)[0]
    return {
        "logits": logits.float().numpy(),
        "probabilities": output.probabilities[0].float().numpy(),
        "label": answer_text(answer),
    }


def answer_text(answer: dict[str, Any]) -> np.ndarray:
    """The label, or the number, as a text array for an npz file."""
    return np.array(str(answer["label"] if "label" in answer else answer["value"]))


def main() -> None:
    job_file, answer_file = sys.argv[1:]
    with open(job_file, encoding="utf-8") as file:
        job = json.load(file)
    model, processor = load_as_stranger(job["repo"], job["revision"])
    inputs = read_inputs(job["inputs"])
    answer = compute_answer(model, processor, inputs)
    answer["code"] = np.array(f"{type(model).__module__} {type(processor).__module__}")
    if job["pipeline"]:
        from transformers import pipeline

        pipe = pipeline(job["pipeline"], model=job["repo"], revision=job["revision"], trust_remote_code=True)
        output = model.score_answers(**processor(**inputs))
        answer["pipeline_label"] = answer_text(pipe(inputs))
        answer["pipeline_expected"] = answer_text(processor.post_process_answers(output)[0])
    np.savez(answer_file, **answer)


if __name__ == "__main__":
    main()
