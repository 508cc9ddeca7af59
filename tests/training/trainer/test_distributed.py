"""Two processes (gloo, on the CPU) against one: the same batches, losses, weights, checkpoints and answers."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from accelerate import PartialState

from tests.helpers.training_runs import weights_of
from training.arguments import EGMFTrainingArguments, parse_arguments
from training.evaluation import evaluator, predictor
from training.predict import main as predict
from training.run_eval import main as evaluate
from training.trainer import alignment
from training.trainer.run import train


pytestmark = pytest.mark.integration
REPOSITORY = Path(__file__).parents[3]
LAUNCHER = ["-m", "accelerate.commands.accelerate_cli", "launch", "--main_process_port", "0"]
SMALL = {
    "text_model_dtype": "float32",
    "adam_epsilon": 1e-3,  # else Adam makes a gradient of the size of rounding errors a step of the learning rate
    "conv_channels": [4, 6],
    "encoder_hidden_size": 8,
    "fusion_hidden_size": 16,
    "num_frames": 2,
    "frame_size": 16,
    "max_clip_seconds": 1,
    "max_length": 160,
    "lora_r": 2,
    "learning_rate": 1e-2,
    "logging_steps": 1,
    "per_device_eval_batch_size": 2,
    "report_to": "none",
    "disable_tqdm": "true",
    "seed": 3,
    # Dropout inside the layers is drawn by every process for itself.
    "lora_dropout": 0,
    "fusion_dropout": 0,
    "encoder_dropout": 0,
}


def words(options):
    return [
        str(word)
        for key, value in options.items()
        for word in (f"--{key}", *(value if isinstance(value, list) else [value]))
    ]


def start(python, *command, processes=1, launch_file="ddp", check=True, **environment):
    """Run Python with these arguments, through the launcher if there are several processes."""
    config = REPOSITORY / f"training/accelerate_configs/{launch_file}.yaml"
    launcher = [*LAUNCHER, "--config_file", config, "--num_processes", processes] if processes > 1 else []
    environment["PYTHON_EXEC"] = python  # what the launcher starts
    done = subprocess.run(
        [python, *map(str, [*launcher, *command])],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert not check or done.returncode == 0, done.stderr[-3000:]
    return done


def run(python, place, name, processes, batch_size, launch_file="ddp", **changes):
    """Train with this number of processes; returns the record of each."""
    given = {
        "dataset": place / "corpus",
        "text_model_name_or_path": place / "llm",
        "output_dir": place / "runs" / name,
    }
    options = {**given, **SMALL, "per_device_train_batch_size": batch_size, **changes}
    script = ["tests/helpers/training_process.py", place / "notes" / name, *words(options)]
    split = {"FSDP2_ON_CPU": "1"} if launch_file == "fsdp2" else {}
    start(python, *script, processes=processes, launch_file=launch_file, **split)
    return [json.loads((place / f"notes/{name}/process-{n}.json").read_text()) for n in range(processes)]


def assert_same_log(log, expected):
    assert [set(entry) for entry in log] == [set(entry) for entry in expected]
    checked = 0
    for entry, other in zip(log, expected, strict=True):
        for name, value in other.items():
            if not any(word in name for word in ("runtime", "per_second", "flos", "preparation_time")):
                close = pytest.approx(value, abs=1e-4, rel=1e-5, nan_ok=True)
                assert entry[name] == close, (name, other.get("step"))
                checked += "loss" in name
    assert checked > 4


def assert_same_checkpoint(folder, other):
    """Tensors equal up to rounding and in the same precision, and equal configurations."""
    found, expected = (weights_of(path) for path in (folder, other))
    assert {name: (t.dtype, t.shape) for name, t in found.items()} == {
        name: (t.dtype, t.shape) for name, t in expected.items()
    }
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-4, msg=name)
    config, other_config = (json.loads((path / "config.json").read_text()) for path in (folder, other))
    checksum, other_checksum = (values.pop("weights_checksum") for values in (config, other_config))
    assert config == other_config
    assert checksum.keys() == other_checksum.keys() >= {"model.safetensors", "default/adapter_model.safetensors"}
    name = "processor_config.json"
    assert (folder / name).read_bytes() == (other / name).read_bytes()
    assert {path.name for path in folder.glob("*.py")} == {path.name for path in other.glob("*.py")}


# ---- training ------------------------------------------------------------------------------------------------

UNEVEN = {
    "num_train_epochs": 2,
    "max_train_samples": 5,  # the last batch of an epoch is one example: the first process has none of it
    "max_eval_samples": 3,
    "modality_dropout": 0.5,
    "augmentation": "true",
    "fusion_pretraining_epochs": 1,
    "fusion_pretraining_batch_size": 4,
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
}


@pytest.fixture(scope="module")
def one(place, warm_training_python):
    return run(warm_training_python, place, "one", 1, 4, **UNEVEN)


@pytest.fixture(scope="module")
def two(place, warm_training_python):
    return run(warm_training_python, place, "two", 2, 2, **UNEVEN)


def test_two_processes_really_ran(place, two):
    assert [found["process"] for found in two] == [0, 1]
    assert {found["processes"] for found in two} == {2}
    assert len({found["pid"] for found in two}) == 2
    assert json.loads((place / "runs/two/training.json").read_text())["processes"] == 2
    assert all(any(batch["weight"] > 0 for batch in found["batches"]) for found in two)


def test_two_processes_share_the_batches_of_one(one, two):
    """Each example is in only one process, with the same modalities as in a run of one process."""
    alone = one[0]["batches"]
    assert len(alone) == len(two[0]["batches"]) == len(two[1]["batches"]) == 4
    for batch, *parts in zip(alone, two[0]["batches"], two[1]["batches"], strict=True):
        real = [part for part in parts if part["weight"] > 0]
        assert [example for part in real for example in part["examples"]] == batch["examples"]
        assert [mask for part in real for mask in part["modalities"]] == batch["modalities"]
    assert [len(batch["examples"]) for batch in alone] == [4, 1] * 2
    assert len({tuple(mask) for batch in alone for mask in batch["modalities"]}) > 1


def test_two_processes_have_the_same_losses_as_one(one, two):
    assert_same_log(two[0]["log"], one[0]["log"])


@pytest.mark.parametrize("part", [".", "checkpoint-4"])
def test_two_processes_end_with_the_same_checkpoint_as_one(place, one, two, part):
    assert_same_checkpoint(place / "runs/two" / part, place / "runs/one" / part)


def test_two_processes_align_the_pseudo_tokens_together(place, warm_training_python):
    """Each measures its own examples, and both change the projection alike.

    Whether the change is kept depends on rounding: this language model is random, and its answers are far from linear.
    """
    options = {"only_tasks": "emotion", "fusion_pretraining_epochs": 2, "max_steps": 1, "eval_strategy": "no"}
    options |= {"fit_pseudo_tokens": "true", "distillation": "true", "fusion_learning_rate": 1e-3}
    found = run(warm_training_python, place, "aligned", 2, 2, **options)
    assert len(found[0]["corrections"]) == alignment.ROUNDS
    for own, other in zip(found[0]["corrections"], found[1]["corrections"], strict=True):
        assert own["bias"] == other["bias"]
        assert own["vectors"] > 0
        assert other["vectors"] > 0
    assert found[0]["corrections"][0]["bias"] != found[0]["corrections"][1]["bias"]
    assert found[0]["projection"] == found[1]["projection"]
    record = json.loads((place / "runs/aligned/training.json").read_text())["pseudo_token_alignment"]
    assert 0 < record["after"] <= record["before"]


# ---- weights that are split ----------------------------------------------------------------------------------

UNSPLIT = {"max_steps": 2, "modality_dropout": 0, "save_steps": 1, "eval_steps": 1}
UNSPLIT |= {"eval_strategy": "steps", "save_strategy": "steps", "max_train_samples": 4}


@pytest.fixture(scope="module")
def split(place, warm_training_python):
    return run(warm_training_python, place, "split", 2, 2, "fsdp2", **UNSPLIT)


@pytest.fixture(scope="module")
def unsplit(place, warm_training_python):
    return run(warm_training_python, place, "unsplit", 1, 4, **UNSPLIT)


def test_weights_are_really_sharded(split, unsplit):
    assert unsplit[0]["split"] == 0
    for found in split:
        assert found["split"] > 40
        assert found["held"] < 0.6 * found["parameters"]
        assert found["parameters"] == unsplit[0]["parameters"]


def test_sharded_steps_equal_unsharded_ones(split, unsplit):
    assert_same_log(split[0]["log"], unsplit[0]["log"])


@pytest.mark.parametrize("part", [".", "checkpoint-1", "checkpoint-2"])
def test_sharded_weights_are_saved_as_the_same_adapter_checkpoint(place, split, unsplit, part):
    folder = place / "runs/split" / part
    assert_same_checkpoint(folder, place / "runs/unsplit" / part)
    frozen = (place / "llm/model.safetensors").stat().st_size
    assert not [path for path in folder.iterdir() if path.name.startswith("pytorch_model")]
    assert sum(path.stat().st_size for path in folder.glob("model*")) < frozen


@pytest.mark.slow
def test_sharded_run_resumes_where_it_stopped(place, split):
    """Started as a user would, with nothing imported before."""
    shutil.copytree(place / "runs/split/checkpoint-1", place / "runs/again/checkpoint-1")
    resumed = {**UNSPLIT, "resume_from_checkpoint": "true"}
    run(sys.executable, place, "again", 2, 2, "fsdp2", **resumed)
    assert_same_checkpoint(place / "runs/again", place / "runs/split")


# ---- evaluation and prediction ----------------------------------------------------------------------------------


def flat(metrics, prefix=""):
    """Figures of nested dicts by their path."""
    figures = {}
    for name, value in metrics.items():
        path = f"{prefix}{name}"
        figures |= flat(value, f"{path}/") if isinstance(value, dict) else {path: value}
    return figures


def test_two_processes_evaluate_like_one(place, one, warm_training_python, tmp_path):
    """Seven subsets of five examples, one of which has no text."""
    command = [
        "-m",
        "training.run_eval",
        "--model_name_or_path",
        place / "runs/one",
        "--dataset",
        place / "corpus",
        "--split",
        "train",
    ]
    command += [
        "--subsets",
        "every",
        "--max_samples",
        "5",
        "--batch_size",
        "2",
        "--device",
        "cpu",
        "--output",
    ]
    start(warm_training_python, *command, tmp_path / "one.json")
    said = start(warm_training_python, *command, tmp_path / "two.json", processes=2).stdout
    assert len(set(re.findall(r"process [01] of 2 \((\d+)\)", said))) == 2  # both may write into one line
    assert "process 0 of 2" in said
    assert "process 1 of 2" in said
    one, two = (json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8")) for name in ("one", "two"))
    assert (one["processes"], two["processes"]) == (1, 2)
    assert list(two["subsets"]) == list(one["subsets"])
    for name, expected in one["subsets"].items():
        found = two["subsets"][name]
        assert found["left_out"] == expected["left_out"] == (name == "text")
        assert list(found["tasks"]) == list(expected["tasks"])
        for task, part in expected["tasks"].items():
            assert found["tasks"][task]["examples"] == part["examples"]
            metrics = flat(found["tasks"][task]["metrics"])
            for key, value in flat(part["metrics"]).items():
                # Answers that are all alike, and so have no correlation, may differ by a rounding.
                assert "correlation" in key or metrics[key] == pytest.approx(value, abs=1e-4, nan_ok=True)
            for answer, other in zip(found["tasks"][task]["predictions"], part["predictions"], strict=True):
                assert (answer["id"], answer["truth"]) == (other["id"], other["truth"])
                assert answer["probabilities"] == pytest.approx(other["probabilities"], abs=1e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.json", "two.json"]


def test_two_processes_predict_like_one(place, one, warm_training_python, tmp_path):
    folder = tmp_path / "clips"
    folder.mkdir()
    for number in range(3):
        shutil.copy(place / f"corpus/clips/{number}.mp4", folder)
    (folder / "1.txt").write_text("I'm fine.", encoding="utf-8")
    (folder / "broken.wav").write_text("no sound")
    (folder / "last.wav").write_text("no sound either")
    command = [
        "-m",
        "training.predict",
        "--model_name_or_path",
        place / "runs/one",
        "--folder",
        folder,
        "--device",
        "cpu",
    ]
    command.insert(0, warm_training_python)
    alone = start(*command, "--output", tmp_path / "one.jsonl", check=False)
    both = start(*command, "--output", tmp_path / "two.parquet", processes=2, check=False)
    assert alone.returncode == 1
    assert "2 of 5 clips could not be predicted" in alone.stderr
    assert "2 of 5 clips could not be predicted" in both.stderr
    expected = [json.loads(line) for line in (tmp_path / "one.jsonl").read_text(encoding="utf-8").splitlines()]
    found = pq.read_table(tmp_path / "two.parquet").to_pylist()
    assert [row["clip"] for row in found] == [answer["clip"] for answer in expected]
    assert [json.loads(row["answer"]) for row in found] == expected  # one clip at a time: bit for bit
    for row, answer in zip(found, expected, strict=True):
        names = ("task", "label", "score", "value", "error")
        assert {name: row[name] for name in names} == {name: answer.get(name) for name in names}
    assert not list(tmp_path.glob(".*"))


# ---- more processes than examples ----------------------------------------------------------------------------


@pytest.fixture
def three_processes(monkeypatch):
    """Pretends that a launcher has started three processes."""
    state = PartialState(cpu=True)
    monkeypatch.setitem(state.__dict__, "num_processes", 3)
    return state


def test_evaluation_refuses_more_processes_than_examples(place, three_processes, monkeypatch):
    monkeypatch.setattr(evaluator, "load", lambda *_: pytest.fail("the model was loaded first"))
    argv = [
        "--model_name_or_path",
        str(place),
        "--dataset",
        str(place / "corpus"),
        "--split",
        "test",
        "--device",
        "cpu",
    ]
    with pytest.raises(SystemExit, match="3 processes but only 2 .* of split 'test'. Start at most 2"):
        evaluate(argv)


def test_prediction_refuses_more_processes_than_clips(place, three_processes, monkeypatch, tmp_path):
    monkeypatch.setattr(predictor, "load", lambda *_: pytest.fail("the model was loaded first"))
    argv = ["--model_name_or_path", str(place), "--text", "a", "--device", "cpu"]
    with pytest.raises(SystemExit, match="3 processes but only 1 clips. Start at most 1"):
        predict([*argv, "--output", str(tmp_path / "answers.jsonl")])
    with pytest.raises(SystemExit, match="Several processes need --output"):
        predict(argv)


@pytest.mark.parametrize("split", ["train", "eval"])
def test_training_refuses_more_processes_than_examples(place, monkeypatch, split, tmp_path):
    monkeypatch.setattr(EGMFTrainingArguments, "world_size", property(lambda self: 3))
    options = {
        "dataset": place / "corpus",
        "text_model_name_or_path": place / "llm",
        "output_dir": tmp_path,
        f"max_{split}_samples": 2,
    }
    with pytest.raises(ValueError, match="3 processes but only 2 examples of split"):
        train(*parse_arguments([*words(options), "--use_cpu"]))
