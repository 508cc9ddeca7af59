"""What users of transformers, peft and datasets type: all of it works, or is refused with what to type instead.

`python tests/helpers/habits.py CHECKPOINT CLIP FOLDER` prints the outcome of each habit for any checkpoint.
"""

import json
import os
import subprocess
import sys

import pytest

from tests.helpers.media_files import gray_frames, sine, write_video
from tests.helpers.sources import ROOT
from tests.helpers.tiny_checkpoint import make_model_and_processor


# Errors of transformers itself: the tiny model has no pretrained encoder, so its repo has neither of the two; code of
# a repo is only found beside its root; and without `trust_remote_code` the task of a pipeline is asked of the Hub.
OF_THE_LIBRARY = {
    False: {"feature_extractor_of_the_repo", "image_processor_of_the_repo", "subfolder"},
    True: {
        "feature_extractor_of_the_repo",
        "image_processor_of_the_repo",
        "pipeline_without_a_task",
        "pipeline_saved_elsewhere",
    },
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("habits")
    model, processor = make_model_and_processor("waveform", "frames", folder)
    labels = next(iter(processor.task_objects.values())).labels
    model.config.id2label = dict(enumerate(labels))
    model.config.label2id = {label: index for index, label in model.config.id2label.items()}
    model.save_pretrained(folder / "checkpoint")
    processor.save_pretrained(folder / "checkpoint")
    write_video(folder / "clip.mp4", gray_frames(20), fps=12.5, audio=sine(440, 1.6, 16000), sampling_rate=16000)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("installed", [False, True], ids=["remote_code", "installed"])
def test_every_habit_works_or_is_refused(place, installed):
    command = [sys.executable, str(ROOT / "tests/helpers/habits.py"), "checkpoint", "clip.mp4", f"out-{installed}"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    if installed:
        command.append("--installed")
        environment["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    outcomes = json.loads(done.stdout)
    failing = {name: outcome for name, outcome in outcomes.items() if outcome.startswith("fails")}
    assert set(failing) == OF_THE_LIBRARY[installed], failing
    assert sum(outcome == "works" for outcome in outcomes.values()) >= 60
