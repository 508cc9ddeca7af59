"""Evaluations that are killed: no half-written results, and the same command ends with the same figures."""

import json
import random

import pytest

from tests.helpers.corpus_files import write_corpus
from tests.helpers.killing import Command


KILLS = 10


def figures(path):
    """The results without the time and the memory that they took."""
    results = json.loads(path.read_text(encoding="utf-8"))
    return {name: value for name, value in results.items() if name not in ("seconds", "peak_gib")}


@pytest.mark.slow
def test_ten_evaluations_killed_at_random_end_equal(make_model, make_processor, warm_training_python, tmp_path):
    checkpoint = tmp_path / "checkpoint"
    make_model("waveform", "frames", lora=None).save_pretrained(checkpoint)
    make_processor("waveform", "frames").save_pretrained(checkpoint)
    corpus = write_corpus(tmp_path / "corpus")
    output = tmp_path / "results/results.json"
    arguments = ["evaluate", "--model_name_or_path", checkpoint, "--dataset", corpus, "--split", "train"]
    arguments += ["--subsets", "every", "--device", "cpu", "--output", output]
    command = Command(warm_training_python, arguments)
    seconds = command.finish()
    expected = figures(output)
    rng = random.Random(0)
    kills = 0
    while kills < KILLS:
        output.unlink()
        kills += command.kill_after(rng.uniform(0.1, 0.98) * seconds)
        if output.exists():
            assert figures(output) == expected
        else:
            command.finish()
        assert figures(output) == expected
        assert [path.name for path in output.parent.iterdir()] == [output.name]
