"""Checks a pushed commit: loads it in a fresh process with an empty cache, and compares its answer with the run's.

example_sample ─► npz ─┬─► the exported model, here ────────────────► expected ─┐
                       └─► fresh_process.py, from the Hub by name ──► answer ───┴─► equal bits, or within TOLERANCE
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import HfApi, constants, get_token

from processing_egmf import EGMFProcessor

from ..records import write_json
from .errors import PushError


TOLERANCE = 1e-3  # largest allowed change of a probability
SENTENCES = ("I'm fine.", "I can't believe it!", "Leave me alone.", "我很好，谢谢你。")
CACHE_VARIABLES = re.compile(r"HF_|HUGGING|TRANSFORMERS_|PYTHONPATH|XDG_CACHE")


def example_sample(processor: EGMFProcessor, seed: int = 0) -> dict[str, Any]:
    """A made-up sample with every input that the processor takes: a sentence, a tone, colored frames.

    Args:
        seed: index of a sentence.

    Returns:
        Arguments of the processor.
    """
    rng = np.random.default_rng(seed)
    sample: dict[str, Any] = {"text": SENTENCES[seed]}
    if processor.audio_input == "features":
        sample["audio_features"] = rng.normal(size=(20, processor.audio_feature_size)).astype(np.float32)
    elif processor.audio_input is not None:
        seconds = np.arange(processor.sampling_rate) / processor.sampling_rate
        tone = 0.3 * np.sin(2 * np.pi * 220 * (1 + seed) * seconds)
        sample["audio"] = tone.astype(np.float32)
        sample["sampling_rate"] = processor.sampling_rate
    if processor.video_input == "features":
        sample["video_features"] = rng.normal(size=(10, processor.video_feature_size)).astype(np.float32)
    elif processor.video_input is not None:
        shape = (processor.num_frames, processor.frame_height, processor.frame_width, 3)
        sample["video"] = rng.integers(0, 256, size=shape).astype(np.uint8)
        sample["fps"] = 8.0
    return sample


def write_example(processor: EGMFProcessor, path: Path) -> Path:
    """Write an npz file with one made-up sample."""
    np.savez(path, **example_sample(processor))
    return path


def fresh_environment(cache: Path, api: HfApi) -> dict[str, str]:
    """This process's environment variables, but with empty caches, the Hub that was pushed to, and its token."""
    environment = {name: value for name, value in os.environ.items() if not CACHE_VARIABLES.match(name)}
    environment["HF_HOME"] = str(cache)
    environment["HF_ENDPOINT"] = api.endpoint
    environment["OMP_NUM_THREADS"] = str(torch.get_num_threads())
    token = api.token if isinstance(api.token, str) else get_token()  # of HF_TOKEN, or saved by `hf auth login`
    if token:
        environment["HF_TOKEN"] = token
    if constants.HF_HUB_DISABLE_XET:
        environment["HF_HUB_DISABLE_XET"] = "1"
    return environment


def answer_in_fresh_process(
    api: HfApi, repo_id: str, revision: str, inputs: Path, pipeline: str | None
) -> dict[str, np.ndarray]:
    """Run fresh_process.py on a commit. Returns its answer.

    Raises:
        PushError: it does not load.
    """
    script = Path(__file__).with_name("fresh_process.py")
    with tempfile.TemporaryDirectory() as folder:
        job = Path(folder, "job.json")
        answer_file = Path(folder, "answer.npz")
        write_json(job, {"repo": repo_id, "revision": revision, "inputs": str(inputs), "pipeline": pipeline})
        completed = subprocess.run(
            [sys.executable, "-I", str(script), str(job), str(answer_file)],
            cwd=folder,
            env=fresh_environment(Path(folder, "cache"), api),
            capture_output=True,
            text=True,
            check=False,
        )
        if completed.returncode:
            last_lines = completed.stderr.strip().splitlines()[-12:]
            raise PushError(
                f"{repo_id} is on the Hub (commit {revision[:12]}) but does not load in a fresh process:\n"
                + "\n".join(last_lines)
            )
        with np.load(answer_file) as stored:
            return {name: stored[name] for name in stored.files}


def verify(
    api: HfApi, repo_id: str, revision: str, expected: dict[str, np.ndarray], inputs: Path, pipeline: str | None
) -> dict[str, np.ndarray]:
    """Load a commit in a fresh process with an empty cache, and compare its answer. Returns the answer.

    Args:
        api: endpoint and token of the Hub.
        repo_id: the repo.
        revision: the commit.
        expected: answer before the upload, from `compute_answer`.
        inputs: npz file with the sample.
        pipeline: name of the repo's custom pipeline, if it has one.

    Raises:
        PushError: it does not load, or gives a different answer.
    """
    answer = answer_in_fresh_process(api, repo_id, revision, inputs, pipeline)
    difference = float(np.abs(answer["probabilities"] - expected["probabilities"]).max())
    if difference > TOLERANCE:
        raise PushError(
            f"{repo_id} is on the Hub (commit {revision[:12]}) and loads, but its answer differs from the run's: "
            f"{answer['label']} instead of {expected['label']}, a probability differs by {difference:.4f}. Does the "
            "language model that it names have other weights than the one that it was trained with?"
        )
    if pipeline and str(answer["pipeline_label"]) != str(answer["pipeline_expected"]):
        raise PushError(
            f"The pipeline of {repo_id} (commit {revision[:12]}) answers {answer['pipeline_label']}, its model "
            f"{answer['pipeline_expected']}, for the same sample."
        )
    return answer
