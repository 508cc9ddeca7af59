"""The memory estimate as a record and as a table, and its command line."""

import json

import pytest
import torch

from training.benchmarks.cost.memory import main
from training.benchmarks.cost.memory_estimate import estimate
from training.benchmarks.cost.memory_formulas import Batch
from training.benchmarks.cost.memory_model import Load
from training.model.backbones import backbone_config
from training.options import ModelArguments
from training.records import read_json


def record_of(samples=8, length=128, **options):
    load = Load(Batch(samples, length, 6), seconds=2.0, words=16)
    return estimate(ModelArguments(**options), backbone_config("glm3-6b"), load)


@pytest.fixture(scope="module")
def record():
    return record_of()


def test_tensor_bytes_match_a_training_step(make_text_model, make_text_batch):
    model, arguments = make_text_model("glm3-6b", "bfloat16")
    load = Load(Batch(4, 96, 4), seconds=1.0, words=10)
    sizes = estimate(arguments, model.config.text_config, load)["bytes"]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    model.train()(**make_text_batch(model, 4, 96)).loss.backward()
    optimizer.step()
    tensors = (*model.parameters(), *model.buffers())
    states = [state[name] for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
    assert sum(sizes["weights"].values()) == sum(value.nbytes for value in tensors)
    assert sizes["gradients"] == sum(parameter.grad.nbytes for parameter in trained)
    assert all(parameter.grad is None for parameter in model.parameters() if not parameter.requires_grad)
    assert sizes["optimizer"] == sum(value.nbytes for value in states)


def test_peaks_add_up(record):
    sizes = record["bytes"]
    weights = sum(sizes["weights"].values())
    activations = sizes["activations"]
    training = {name: peak["bytes"] for name, peak in record["peaks"]["training"].items()}
    fixed = weights + sizes["gradients"] + sizes["optimizer"] + sizes["context"]
    assert training["float16, plain"] == fixed + activations["plain"] + activations["encoders_and_fusion"]
    saved_by_checkpointing = activations["plain"] - activations["checkpointed"]
    assert training["float16, plain"] - training["float16, checkpointed"] == saved_by_checkpointing > 0
    widest = 2 * 2 * 13696 * 4096  # gate and up in one, unpacked to 16 bit
    saved_by_four_bit = weights - sizes["weights_4_bit"] - widest
    assert training["float16, plain"] - training["4-bit, plain"] == saved_by_four_bit > 0
    assert sizes["cache"] == 8 * 128 * 28_672
    trainable = sum(counts["trainable"] for counts in record["parameters"].values())
    total = sum(counts["total"] for counts in record["parameters"].values())
    assert record["trainable_share"] == pytest.approx(trainable / total)


def test_activations_follow_the_batch(record):
    activations = record["bytes"]["activations"]
    half = record_of(samples=4)["bytes"]["activations"]
    assert {name: 2 * value for name, value in half.items()} == pytest.approx(activations, abs=1)
    longer = record_of(length=256)["bytes"]
    assert longer["activations"]["plain"] > 1.9 * activations["plain"]
    assert longer["gradients"] == record["bytes"]["gradients"]


def test_eager_attention_needs_more_memory():
    fused = record_of(length=1024, attn_implementation="sdpa")["bytes"]["activations"]
    eager = record_of(length=1024, attn_implementation="eager")["bytes"]["activations"]
    assert eager["plain"] > 1.5 * fused["plain"]


def test_lora_settings_are_counted(record):
    smaller = record_of(lora_r=4)
    without = record_of(lora_r=0)
    assert 2 * smaller["parameters"]["LoRA"]["total"] == record_of(lora_r=8)["parameters"]["LoRA"]["total"]
    assert without["parameters"]["LoRA"]["total"] == 0
    assert without["bytes"]["activations"]["plain"] < smaller["bytes"]["activations"]["plain"]


# ---- command line ---------------------------------------------------------------------------------------------


def test_table(capsys):
    main(["--backbone", "glm3-6b", "--lora_r", "16"])
    table = capsys.readouterr().out
    for text in (
        "6,243,584,000",
        "28,672 bytes per token",
        "24 GB",
        "pseudo tokens",
        "4-bit, checkpointed",
        "trained",
    ):
        assert text in table
    assert max(map(len, table.splitlines())) < 120


def test_record(capsys, tmp_path):
    output = tmp_path / "memory.json"
    main(["--backbone", "smollm2-135m", "--json", "--batch_size", "2", "--output", str(output)])
    record = read_json(output)
    assert json.loads(capsys.readouterr().out) == record
    assert record["backbone"] == "smollm2-135m"
    assert record["batch"]["samples"] == 2
    assert set(record["peaks"]["answering"]) == {"bfloat16", "4-bit"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--backbone", "gpt-5"], "gpt-5"),
        (["--backbone", "glm3-6b", "--length", "0"], "--length is 0; it must be at least 1"),
        (["--backbone", "glm3-6b", "--audio", "features"], "audio_feature_size"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(SystemExit, match=message):
        main(options)


def test_misspelled_options_are_errors(capsys):
    with pytest.raises(SystemExit):
        main(["--backbone", "glm3-6b", "--lora_rank", "4"])
    assert "There is no option --lora_rank" in capsys.readouterr().err
