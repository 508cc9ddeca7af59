"""Load a repo as a stranger would, in a process that knows nothing but its name, and answer one made-up sample.

    python -I training/hub/fresh_process.py JOB.json ANSWER.npz

JOB.json holds `repo` (a Hub id or a folder), `revision`, `inputs` (an npz with the processor's arguments) and
`pipeline` (the name of the custom pipeline, or null). Run by `training.hub.upload`, which compares the answer with
the one before the upload. `answer_of` is what both sides call.
"""

import importlib.abc
import json
import sys
from typing import Any

import numpy as np


class SourceTreeOutOfReach(importlib.abc.MetaPathFinder):
    """Refuses our own packages, so that only the repo's copies of the code can answer."""

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("modeling_egmf", "processing_egmf", "training"):
            raise ImportError(f"{name} is out of reach here on purpose")


def read_inputs(path: str) -> dict[str, Any]:
    """The processor's arguments from an npz: arrays stay arrays, what has no dimension becomes a plain value."""
    with np.load(path) as stored:
        return {name: stored[name] if stored[name].ndim else stored[name].item() for name in stored.files}


def answer_of(model: Any, processor: Any, inputs: dict[str, Any]) -> dict[str, np.ndarray]:
    """Logits behind the prompt and the probability of every answer, both in float32.

    The weights are copied first: bits may depend on where in memory one begins, which a file's offsets decide.
    """
    import torch

    features = processor(**inputs)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.data = tensor.data.clone()
        logits = model(**features).logits[0, -1]
        answer = model.score_answers(**features)
    return {
        "logits": logits.float().numpy(),
        "probabilities": answer.probabilities[0].float().numpy(),
        "label": np.array(str(_said(processor.post_process_answers(answer)[0]))),
    }


def _said(answer: dict[str, Any]) -> Any:
    return answer.get("label", answer["score"])


def main() -> None:
    sys.meta_path.insert(0, SourceTreeOutOfReach())
    from transformers import AutoModel, AutoProcessor, pipeline

    with open(sys.argv[1], encoding="utf-8") as file:
        job = json.load(file)
    remote = {"revision": job["revision"], "trust_remote_code": True}
    model = AutoModel.from_pretrained(job["repo"], **remote)
    processor = AutoProcessor.from_pretrained(job["repo"], **remote)
    inputs = read_inputs(job["inputs"])
    found = answer_of(model, processor, inputs)
    found["code"] = np.array(f"{type(model).__module__} {type(processor).__module__}")
    if job["pipeline"]:
        judge = pipeline(job["pipeline"], model=job["repo"], **remote)
        expected = processor.post_process_answers(model.score_answers(**processor(**inputs)))[0]
        found["pipeline_label"] = np.array(str(_said(judge(inputs))))
        found["pipeline_expected"] = np.array(str(_said(expected)))
    np.savez(sys.argv[2], **found)


if __name__ == "__main__":
    main()
