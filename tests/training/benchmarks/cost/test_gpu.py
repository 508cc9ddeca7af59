"""The GPU benchmark, run completely on a CPU in its tiny shape."""

import re
import subprocess
from pathlib import Path

import pytest
import torch

from training.benchmarks.cost import encoder_cache, gpu, gpu_work, memory, padding, speed
from training.records import read_json


REPOSITORY = Path(__file__).parents[4]
TINY = ["--shape", "tiny", "--device", "cpu", "--dtype", "float32", "--batch_size", "2", "--repeats", "1"]
SIZES = ["--length", "40", "--words", "6"]


@pytest.mark.integration
@pytest.mark.parametrize(
    "options",
    [[], ["--media", "raw", "--dtype", "bfloat16", "--gradient_checkpointing"]],
    ids=["features", "raw media with checkpointing"],
)
def test_benchmark_runs_on_a_cpu(tmp_path, capsys, options, monkeypatch):
    monkeypatch.setattr(gpu_work, "CLIP_SECONDS", 0.5)
    monkeypatch.setattr(gpu_work, "NUM_FRAMES", 2)
    output = tmp_path / "gpu.json"
    gpu.main([*TINY, *SIZES, *options, "--output", str(output)])
    assert '"tokens_per_s_ratio"' in capsys.readouterr().out
    record = read_json(output)
    assert record["device"] == "CPU"
    assert 0 < record["parameters"]["trained"] < record["parameters"]["all"]
    assert record["targets"] is None  # they are those of a full-size backbone
    check_training(record)
    check_answering(record)


def check_training(record):
    training = record["training"]
    for name in ("egmf", "language_model"):
        rates = training[name]
        assert rates["samples_per_s"] == pytest.approx(2 * rates["calls_per_s"])
        assert rates["tokens_per_s"] == pytest.approx(2 * 40 / rates["median_s"])
        assert rates["peak_bytes"] is None
    ratio = training["egmf"]["tokens_per_s"] / training["language_model"]["tokens_per_s"]
    assert training["tokens_per_s_ratio"] == pytest.approx(ratio)
    assert training["tflops"] == pytest.approx(training["flops_per_step"] / training["egmf"]["median_s"] / 1e12)
    assert training["utilization_of_matmul"] == pytest.approx(training["tflops"] / record["matmul_tflops"])
    assert training["model_flop_utilization"] is None


def check_answering(record):
    assert list(record["answering"]) == ["1", "8", "32"]
    for size, rates in record["answering"].items():
        seconds = rates["score_answers"]["median_s"]
        assert rates["score_answers"]["samples_per_s"] == pytest.approx(int(size) / seconds)
        assert rates["seconds_ratio"] == pytest.approx(seconds / rates["prefill"]["median_s"])


@pytest.mark.parametrize(
    ("training", "answering", "reached"),
    [
        (
            {"egmf": {"peak_bytes": 23.9e9}, "tokens_per_s_ratio": 0.9},
            {"seconds_ratio": 1.2},
            [True, True, True],
        ),
        (
            {"egmf": {"peak_bytes": 24e9}, "tokens_per_s_ratio": 0.89},
            {"seconds_ratio": 1.21},
            [False, False, False],
        ),
        ({"egmf": {"peak_bytes": None}, "tokens_per_s_ratio": 0.9}, {}, [True, None, None]),
        ({"out_of_memory": True}, {"out_of_memory": True}, [None, None, None]),
    ],
    ids=["just reached", "just missed", "on a CPU", "out of memory"],
)
def test_targets(training, answering, reached):
    targets = gpu.targets_reached({"training": training, "answering": {"32": answering}})
    assert list(targets) == ["training_within_10_percent", "below_24_gb", "answers_within_1.2"]
    assert list(targets.values()) == reached


def test_out_of_memory_is_reported():
    def fail():
        raise torch.OutOfMemoryError("CUDA out of memory")

    assert gpu.compare({"egmf": fail}, 8, 10, 1, torch.device("cpu")) == {"out_of_memory": True}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--device", "cpu"], "The shape glm3-6b is for a GPU; on cpu use --shape tiny"),
        ([*TINY, "--length", "20"], "--length 20 is too short for a transcript of 32 tokens"),
        ([*TINY, "--batch_size", "0"], "--batch_size is 0; it must be at least 1"),
        pytest.param(
            [],
            "No CUDA device is available. To try the script without one: --shape tiny --device cpu",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is one"),
        ),
    ],
)
def test_settings_that_cannot_be_measured_are_refused(options, message):
    with pytest.raises(SystemExit, match=message):
        gpu.main(options)


@pytest.mark.parametrize(
    ("module", "options"),
    [
        (gpu, TINY),
        (memory, ["--backbone", "glm3-6b"]),
        (padding, ["--text_model_name_or_path", "nowhere"]),
        (encoder_cache, ["--text_model_name_or_path", "nowhere"]),
        (speed, ["--text_model_name_or_path", "nowhere"]),
    ],
)
def test_unwritable_output_is_refused_before_any_work(module, options, tmp_path, capsys):
    """Every benchmark checks its output before any work."""
    (tmp_path / "file").write_text("not a folder")
    refused = {str(tmp_path / "file/deep/a.json"): "file is not writable", str(tmp_path): "is a folder"}
    for output, message in refused.items():
        with pytest.raises(SystemExit):
            module.main([*options, "--output", output])
        assert re.search(message, capsys.readouterr().err)


FEW_PACKAGES = """
import sys
for name in "av datasets evaluate pandas pyarrow scipy sklearn tensorboard torchaudio".split():
    sys.modules[name] = None
from training.benchmarks.cost import gpu
gpu.main(sys.argv[1:])
"""


@pytest.mark.integration
def test_only_torch_transformers_and_peft_are_needed(warm_python):
    command = [warm_python, "-c", FEW_PACKAGES, *TINY, *SIZES, "--gradient_checkpointing"]
    completed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stderr[-2000:]
    assert '"tokens_per_s_ratio"' in completed.stdout


@pytest.mark.gpu
def test_full_shape_on_a_gpu(tmp_path):
    gpu.main(["--repeats", "3", "--output", str(tmp_path / "gpu.json")])
    record = read_json(tmp_path / "gpu.json")
    assert record["training"]["egmf"]["peak_bytes"] > 12e9
    assert record["targets"]["training_within_10_percent"] is True
