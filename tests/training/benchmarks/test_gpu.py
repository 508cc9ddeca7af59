"""The GPU benchmark, run whole on a CPU in its tiny shape."""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from training.benchmarks.cost import encoder_cache, gpu, memory, padding, speed


TINY = ["--shape", "tiny", "--device", "cpu", "--dtype", "float32", "--batch_size", "2", "--repeats", "2"]
SIZES = ["--length", "40", "--words", "6"]
REPOSITORY = Path(__file__).parents[3]


def settings(**changes) -> argparse.Namespace:
    given = {"shape": "tiny", "device": "cpu", "dtype": "float32", "media": "features", "lora_r": 8, "length": 40}
    given |= {"words": 6, "answer_tokens": 3, "gradient_checkpointing": False, "autocast": False, "repeats": 1}
    return argparse.Namespace(**{**given, **changes})


@pytest.mark.integration
@pytest.mark.parametrize(
    "changes",
    [[], ["--media", "raw", "--dtype", "bfloat16"], ["--gradient_checkpointing"]],
    ids=["plain", "raw", "less"],
)
def test_whole_benchmark_on_a_cpu(tmp_path, capsys, changes):
    gpu.main([*TINY, *SIZES, *changes, "--output", str(tmp_path / "gpu.json")])
    record = json.loads(capsys.readouterr().out)
    assert json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8")) == record
    assert record["device"] == "CPU"
    assert 0 < record["parameters"]["trained"] < record["parameters"]["all"]
    training = record["training"]
    for name in ("egmf", "language_model"):
        part = training[name]
        assert part["samples_per_s"] == pytest.approx(2 * part["calls_per_s"])
        assert part["tokens_per_s"] == pytest.approx(2 * 40 / part["median_s"])
        assert part["peak_bytes"] is None
    ratio = training["egmf"]["tokens_per_s"] / training["language_model"]["tokens_per_s"]
    assert training["tokens_per_s_ratio"] == pytest.approx(ratio)
    assert training["tflops"] == pytest.approx(training["flops_per_step"] / training["egmf"]["median_s"] / 1e12)
    assert training["utilisation_of_matmul"] == pytest.approx(training["tflops"] / record["matmul_tflops"])
    assert training["model_flop_utilisation"] is None
    assert list(record["answering"]) == ["1", "8", "32"]
    for size, part in record["answering"].items():
        assert part["score_answers"]["samples_per_s"] == pytest.approx(int(size) / part["score_answers"]["median_s"])
        ratio = part["score_answers"]["median_s"] / part["prefill"]["median_s"]
        assert part["seconds_ratio"] == pytest.approx(ratio)
    assert record["targets"] is None  # they are the full shape's


def test_targets_are_read_from_what_was_measured():
    fits = {"egmf": {"peak_bytes": 23.9e9}, "tokens_per_s_ratio": 0.9}
    names = ("training_within_10_percent", "below_24_gb", "answers_within_1.2")
    for training, seconds, expected in (
        (fits, {"seconds_ratio": 1.2}, (True, True, True)),
        ({"egmf": {"peak_bytes": 24e9}, "tokens_per_s_ratio": 0.89}, {"seconds_ratio": 1.21}, (False, False, False)),
        ({"out_of_memory": True}, {"out_of_memory": True}, (None, None, None)),
        ({**fits, "egmf": {"peak_bytes": None}}, {}, (True, None, None)),
    ):
        found = gpu.targets_reached({"training": training, "answering": {"32": seconds}})
        assert found == dict(zip(names, expected, strict=True))


def test_flops_are_those_that_torch_counts():
    """Of the language model: what is ours is left out of the count, as of the formula."""
    arguments = settings()
    model = gpu.build(arguments).train()
    batch = gpu.make_batch(model, 2, arguments, answered=True)
    embeds, _ = model.embed_prompt(
        **{name: value for name, value in batch.items() if name not in ("labels", "attention_mask")}
    )
    embeds = embeds.detach().requires_grad_()
    last = torch.arange(36, 40)
    model.language_model.set_attn_implementation("eager")  # the fused one is not counted on a CPU
    with FlopCounterMode(display=False) as counter:
        output = model.language_model(inputs_embeds=embeds, use_cache=False, logits_to_keep=last)
        output.logits.sum().backward()
    rotary = 0.01 * counter.get_total_flops()
    assert gpu.training_flops(model, 2, 40, 4) == pytest.approx(counter.get_total_flops(), abs=rotary)


def test_batch_is_what_the_model_takes():
    arguments = settings()
    model = gpu.build(arguments)
    batch = gpu.make_batch(model, 3, arguments, answered=True)
    assert ((batch["labels"] != -100).sum(dim=1) == 3).all()
    assert (model.get_placeholder_mask(batch["input_ids"]).sum(dim=1) == model.config.num_pseudo_tokens).all()
    asked = gpu.make_batch(model, 3, arguments, answered=False)
    assert model.eval().score_answers(**asked).probabilities.shape == (3, gpu.LABELS)
    bare = gpu.bare_inputs(model, asked)
    assert bare["input_ids"].shape == asked["input_ids"].shape
    assert bare["input_ids"].max() < model.config.text_config.vocab_size


def test_full_shape_is_the_papers(monkeypatch):
    """What would be built on a GPU, on no device at all."""
    shape = gpu.backbone_config("glm3-6b")
    assert (shape.num_hidden_layers, shape.hidden_size, shape.vocab_size) == (28, 4096, 65024)
    model = gpu.build(settings(shape="glm3-6b", device="meta", dtype="bfloat16"))
    weights = sum(p.numel() for name, p in model.language_model.named_parameters() if "lora_" not in name)
    assert 6.2e9 < weights < 6.3e9
    assert model.language_model.dtype == torch.bfloat16


def test_memory_that_runs_out_is_reported():
    def too_much():
        raise torch.OutOfMemoryError("CUDA out of memory")

    assert gpu.compare({"egmf": too_much}, 8, 10, 1, torch.device("cpu")) == {"out_of_memory": True}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--device", "cpu"], "the shape glm3-6b is for a GPU; on cpu give --shape tiny"),
        ([*TINY, "--length", "20"], "--length 20 is too short for 32 words"),
        ([*TINY, "--batch_size", "0"], "--batch_size is 0; it must be at least 1"),
        pytest.param(
            [],
            "there is no CUDA device here. Without one, try the script: --shape tiny --device cpu",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is one"),
        ),
    ],
)
def test_what_cannot_be_measured_is_refused(words, said):
    with pytest.raises(SystemExit, match=said):
        gpu.main(words)


def test_output_that_cannot_be_written_is_refused_first(tmp_path, monkeypatch, capsys):
    """By every benchmark, before it works."""
    (tmp_path / "file").write_text("no folder")
    refused = {str(tmp_path / "file/deep/a.json"): "Nothing can be written into .*file", str(tmp_path): "is a folder"}
    for module, words in (
        (gpu, TINY),
        (memory, ["--backbone", "glm3-6b"]),
        (padding, ["--text_model_name_or_path", "nowhere"]),
        (encoder_cache, ["--text_model_name_or_path", "nowhere"]),
        (speed, []),
    ):
        for output, said in refused.items():
            with pytest.raises(SystemExit):
                module.main([*words, "--output", output])
            assert re.search(said, capsys.readouterr().err)


ALONE = """
import sys
for name in "av datasets evaluate pandas pyarrow scipy sklearn tensorboard torchaudio".split():
    sys.modules[name] = None
from training.benchmarks.cost import gpu
gpu.main(sys.argv[1:])
"""


@pytest.mark.integration
def test_needs_torch_transformers_and_peft_alone():
    command = [sys.executable, "-c", ALONE, *TINY, *SIZES]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert '"tokens_per_s_ratio"' in done.stdout


@pytest.mark.gpu
def test_full_shape_on_a_gpu(capsys):
    gpu.main(["--repeats", "3"])
    record = json.loads(capsys.readouterr().out)
    assert record["training"]["egmf"]["peak_bytes"] > 12e9
    assert record["targets"]["training_within_10_percent"] is True
