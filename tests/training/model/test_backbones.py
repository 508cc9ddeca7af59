"""Backbones: settings that a run can override, training of every architecture, and refusals."""

import copy
import dataclasses
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, CpmAntConfig, T5Config

from processing_egmf import BUILT_IN_TASKS
from tests.helpers.corpus_files import write_language_model
from training import predict, run_eval
from training.arguments import ModelArguments, parse_arguments
from training.model import builder, language_model
from training.model.backbones import backbone_config, backbone_names, backbone_settings
from training.model.builder import build, load
from training.model.export import merge
from training.model.language_model import quantization, require_embeddings
from training.trainer.run import train


pytestmark = pytest.mark.integration
SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}
TASKS = ("emotion", "sentiment", "cherma", "sims_v2")  # two are asked in English, two in Chinese


def parse(*argv):
    return parse_arguments([*map(str, argv), "--use_cpu"])


# ---- settings ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", backbone_names())
def test_settings_become_options(name, tmp_path):
    settings = backbone_settings(name)
    assert {"text_model_name_or_path", "text_model_dtype", "attn_implementation", "lora_target_modules"} <= set(
        settings
    )
    model, _, run = parse("--backbone", name, "--output_dir", tmp_path)
    for key, value in settings.items():
        assert getattr(run if key == "gradient_checkpointing" else model, key) == value
    assert (model.backbone, model.load_in_4bit) == (name, False)


def test_run_overrides_the_backbone_and_the_command_line_overrides_both(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("backbone: glm3-6b\ntext_model_name_or_path: elsewhere\nlora_target_modules: [o_proj]\n")
    model, _, run = parse("--config", path, "--output_dir", tmp_path)
    assert (model.text_model_name_or_path, model.lora_target_modules) == ("elsewhere", ["o_proj"])
    assert (model.text_model_dtype, run.gradient_checkpointing) == ("bfloat16", True)
    line = ("--text_model_dtype", "float16", "--gradient_checkpointing", "false", "--lora_target_modules", "q_proj")
    model, _, run = parse("--config", path, "--output_dir", tmp_path, *line)
    assert (model.text_model_dtype, run.gradient_checkpointing) == ("float16", False)
    assert model.lora_target_modules == ["q_proj"]
    assert (
        parse("--config", path, "--backbone", "qwen2.5-7b", "--output_dir", tmp_path)[0].text_model_name_or_path
        == "elsewhere"
    )


def test_own_backbone_is_a_file_or_a_folder(tmp_path, tiny_tokenizer, make_language_model):
    path = tmp_path / "mine.yaml"
    path.write_text("model_type: llama\ntraining:\n  text_model_name_or_path: org/mine\n  lora_r: 3\n")
    model, _, _ = parse("--backbone", path, "--output_dir", tmp_path)
    assert (model.text_model_name_or_path, model.lora_r) == ("org/mine", 3)
    assert backbone_config(path).model_type == "llama"
    write_language_model(tmp_path / "llm", make_language_model(), tiny_tokenizer)
    assert parse("--backbone", tmp_path / "llm", "--output_dir", tmp_path)[0].text_model_name_or_path == str(
        tmp_path / "llm"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "model_type: llama\ntraining: {lora_rank: 3}\n",
            r"mine.yaml: unknown key 'lora_rank'. Did you mean .*lora_r",
        ),
        ("model_type: llama\ntraining: {lora_r: many}\n", "takes an integer"),
        ("hidden_size: 3\n", "including `model_type`"),
    ],
)
def test_wrong_file_is_refused(tmp_path, text, message):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        parse("--backbone", tmp_path / "mine.yaml", "--output_dir", tmp_path)


def test_unknown_backbone_names_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match=r"no backbone 'gpt-5'. Choose from glm-4-9b, glm3-6b"):
        parse("--backbone", "gpt-5", "--output_dir", tmp_path)


def test_checkpoint_and_backbone_contradict_each_other():
    with pytest.raises(ValueError, match=r"Give either --model_name_or_path.*or --backbone"):
        build(ModelArguments(model_name_or_path="runs/x", backbone="glm3-6b"))


# ---- every architecture trains and answers -------------------------------------------------------------------


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Examples with precomputed features for every task, six for training and four for validation."""
    folder = tmp_path_factory.mktemp("features")
    rng = np.random.default_rng(0)
    rows = []
    for number in range(10):
        task = TASKS[number % 4]
        answer = next(iter(BUILT_IN_TASKS[task].labels)) if BUILT_IN_TASKS[task].kind == "classification" else 0.0
        for name, width in (("audio", 6), ("video", 5)):
            np.save(folder / f"{number}-{name}.npy", rng.normal(size=(4, width)).astype(np.float32))
        text = "I'm fine, thank you." if number % 4 < 2 else "我很好，谢谢你。"
        media = {f"{name}_features": f"{number}-{name}.npy" for name in ("audio", "video")}
        split = "train" if number < 6 else "validation"
        rows.append({"id": str(number), "split": split, "task": task, "text": text, "answer": answer, **media})
    text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (folder / "metadata.jsonl").write_text(text + "\n", encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", backbone_names())
def test_tiny_model_of_every_architecture_trains_and_answers(name, corpus, tmp_path, trained_tokenizer):
    tokenizer = copy.deepcopy(trained_tokenizer)
    config = backbone_config(name, vocab_size=len(tokenizer) + 8, **SMALL)  # some tokenizers add tokens of their own
    torch.manual_seed(0)
    write_language_model(tmp_path / "llm", AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16), tokenizer)
    options = {
        "backbone": name,
        "text_model_name_or_path": tmp_path / "llm",
        "dataset": corpus,
        "output_dir": tmp_path / "run",
        "audio": "features",
        "audio_feature_size": 6,
        "video": "features",
        "video_feature_size": 5,
        "encoder_hidden_size": 8,
        "fusion_hidden_size": 16,
        "max_steps": 2,
        "per_device_train_batch_size": 3,
        "eval_strategy": "no",
        "save_strategy": "no",
        "logging_steps": 1,
        "learning_rate": 1e-2,
        "report_to": "none",
        "disable_tqdm": "true",
    }
    trainer = train(*parse(*[word for key, value in options.items() for word in (f"--{key}", value)]))
    model = trainer.model
    processor = trainer.processing_class
    assert model.config.text_config.model_type == config.model_type
    assert model.language_model.dtype == torch.bfloat16
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert model.language_model.is_gradient_checkpointing == backbone_settings(name)["gradient_checkpointing"]
    assert trainer.state.global_step == 2
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 2
    assert np.isfinite(losses).all()
    moved = [value for key, value in model.named_parameters() if "lora_B" in key]
    assert len(moved) == 4  # q_proj and v_proj of two layers
    assert all(value.any() for value in moved)
    model.eval()
    for task in TASKS:
        features = {"audio_features": np.ones((3, 6), np.float32), "video_features": np.ones((2, 5), np.float32)}
        inputs = processor(text="真没想到！" if task in TASKS[2:] else "Not again.", task=task, **features)
        answer = processor.post_process_answers(model.score_answers(**inputs))[0]
        assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-5)
        assert answer["task"] == task
        written = model.generate(**inputs, max_new_tokens=3, do_sample=False)
        assert 1 <= written.shape[1] - inputs["input_ids"].shape[1] <= 3


# ---- what cannot be used -------------------------------------------------------------------------------------


def test_model_without_input_embeddings_is_refused(tmp_path):
    CpmAntConfig(
        vocab_size=50, hidden_size=8, num_attention_heads=2, dim_head=4, dim_ff=8, num_hidden_layers=1
    ).save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match=r"type 'cpmant' cannot be used: it builds its own prompt.*--backbone glm-4-9b"
    ):
        build(ModelArguments(text_model_name_or_path=str(tmp_path)))  # there are no weights: nothing was loaded


def test_model_without_text_output_is_refused(tmp_path):
    T5Config().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"is a 't5', which is not a causal language model"):
        build(ModelArguments(text_model_name_or_path=str(tmp_path)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--backbone", "glm3-6b"),
            r"no backbones/glm3-6b, .*chatglm3.convert THUDM/.*or give another --text_model_name_or_path",
        ),
        (
            ("--backbone", "qwen2.5-7b"),
            r"Qwen/Qwen2.5-7B is not a folder here, .*the Hub cannot be reached .*give the folder of a model",
        ),
        (("--text_model_name_or_path", "/no/such/llm"), "There is no folder /no/such/llm, and it is not a Hub id"),
        (
            ("--text_model_name_or_path", "EMPTY"),
            "Unrecognized model in EMPTY. Should have a `model_type` key in its config.json",
        ),
    ],
)
def test_missing_language_model_is_reported(options, message, corpus, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    Path("EMPTY").mkdir()
    with pytest.raises(ValueError, match=message) as caught:
        train(*parse(*options, "--dataset", corpus, "--output_dir", tmp_path / "run"))
    assert len(str(caught.value).splitlines()) == 1
    assert not Path("run").exists()


@pytest.mark.parametrize("name", backbone_names())
def test_shipped_backbones_are_not_refused(name):
    require_embeddings(name, backbone_config(name))


# ---- 4 bit ---------------------------------------------------------------------------------------------------


@pytest.fixture
def four_bit(monkeypatch):
    """Pretends that bitsandbytes and a GPU are available."""
    monkeypatch.setattr(
        language_model, "importlib", SimpleNamespace(util=SimpleNamespace(find_spec=lambda name: True))
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    return ModelArguments(text_model_name_or_path="nowhere", load_in_4bit=True)


def test_4_bit_is_a_setting(four_bit):
    found = quantization(dataclasses.replace(four_bit, bnb_4bit_quant_type="fp4", bnb_4bit_use_double_quant=False))
    assert (found.load_in_4bit, found.bnb_4bit_quant_type, found.bnb_4bit_use_double_quant) == (True, "fp4", False)
    assert found.bnb_4bit_compute_dtype == torch.bfloat16
    assert (
        quantization(dataclasses.replace(four_bit, text_model_dtype="float16")).bnb_4bit_compute_dtype == torch.float16
    )
    assert quantization(ModelArguments()) is None


def test_missing_bitsandbytes_is_reported_before_anything_is_read(four_bit, monkeypatch, tmp_path):
    monkeypatch.setattr(language_model.importlib.util, "find_spec", lambda name: None)
    options = (
        "--text_model_name_or_path",
        "nowhere",
        "--load_in_4bit",
        "true",
        "--dataset",
        tmp_path,
        "--output_dir",
        tmp_path,
    )
    with pytest.raises(ValueError, match="needs bitsandbytes: pip install bitsandbytes"):
        train(*parse(*options))


def test_missing_gpu_is_reported_before_anything_is_read(four_bit, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    options = (
        "--text_model_name_or_path",
        "nowhere",
        "--load_in_4bit",
        "true",
        "--dataset",
        tmp_path,
        "--output_dir",
        tmp_path,
    )
    with pytest.raises(ValueError, match="needs a CUDA device"):
        train(*parse(*options))


@pytest.mark.parametrize("module", [run_eval, predict])
def test_4_bit_is_refused_by_all_commands(module, four_bit, monkeypatch, tmp_path):
    asked = {run_eval: ("--dataset", "."), predict: ("--text", "a")}[module]
    words = ["--model_name_or_path", str(tmp_path), *asked, "--device", "cpu", "--load_in_4bit"]
    with monkeypatch.context() as patched:
        patched.setattr(torch.cuda, "is_available", lambda: False)
        with pytest.raises(SystemExit, match="error: --load_in_4bit needs a CUDA device"):
            module.main(words)
    monkeypatch.setattr(language_model.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="error: --load_in_4bit needs bitsandbytes"):
        module.main(words)


def test_4_bit_is_not_sharded(four_bit, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match="FSDP cannot shard 4-bit weights"):
        quantization(four_bit)


def test_4_bit_is_for_new_models(four_bit):
    with pytest.raises(ValueError, match="--load_in_4bit is for a new model"):
        quantization(dataclasses.replace(four_bit, model_name_or_path="runs/x"))


@pytest.mark.parametrize(
    "wanted", [ModelArguments(text_model_name_or_path="x", bnb_4bit_quant_type="nf5", load_in_4bit=True)]
)
def test_unknown_numbers_are_refused(four_bit, wanted):
    with pytest.raises(ValueError, match="nf5"):
        quantization(wanted)


def test_only_the_language_model_is_quantized(corpus, tmp_path, trained_tokenizer, monkeypatch):
    """Runs if bitsandbytes is installed; it also works on a CPU, so no GPU is needed."""
    pytest.importorskip("bitsandbytes")
    tokenizer = copy.deepcopy(trained_tokenizer)
    config = backbone_config(
        "glm3-6b", vocab_size=len(tokenizer), **SMALL | {"hidden_size": 64, "head_dim": 16, "intermediate_size": 64}
    )
    write_language_model(tmp_path / "llm", AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16), tokenizer)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    how = quantization(ModelArguments(load_in_4bit=True))
    monkeypatch.undo()
    monkeypatch.setattr(builder, "quantization", lambda arguments: how)
    features = {"audio": "features", "audio_feature_size": 6, "video": "none"}
    model, processor = build(
        ModelArguments(text_model_name_or_path=str(tmp_path / "llm"), load_in_4bit=True, **features)
    )
    kinds = {name: type(p).__name__ for name, p in model.named_parameters()}
    assert all(kind == "Params4bit" for name, kind in kinds.items() if name.endswith("o_proj.weight"))
    ours = {p.dtype for name, p in model.named_parameters() if name.startswith("egmf.") or "lora_" in name}
    assert ours == {torch.float32}
    inputs = processor(text="no", audio_features=np.ones((3, 6), np.float32), task="emotion", answer="joy")
    model.train()
    model(**inputs).loss.backward()
    assert any(p.grad is not None and p.grad.any() for name, p in model.named_parameters() if "lora_B" in name)
    model.save_pretrained(tmp_path / "run")
    assert "quantization_config" not in json.loads((tmp_path / "run/config.json").read_text())["text_config"]
    assert "bitsandbytes" in sys.modules
    loaded = type(model).from_pretrained(tmp_path / "run", text_model_id=str(tmp_path / "llm"))
    assert loaded.language_model.dtype == torch.bfloat16
    stored = load_file(tmp_path / "run/model.safetensors")
    assert all(name.startswith("egmf.") for name in stored)
    processor.save_pretrained(tmp_path / "run")
    held, _ = load(tmp_path / "run", str(tmp_path / "llm"), how)
    assert {name: type(p).__name__ for name, p in held.named_parameters()} == kinds
    asked = processor(text="no", audio_features=np.ones((3, 6), np.float32), task="emotion")
    assert torch.equal(held.score_answers(**asked).log_probs, model.eval().score_answers(**asked).log_probs)
    assert not torch.equal(loaded.score_answers(**asked).log_probs, held.score_answers(**asked).log_probs)
    for part in (merge(loaded), processor):
        part.save_pretrained(tmp_path / "full")
    full, _ = load(tmp_path / "full", four_bit=how)
    found = {name: (type(p).__name__, p.dtype) for name, p in full.named_parameters()}
    assert {found[name][0] for name in found if name.endswith("_proj.weight")} == {"Params4bit"}
    assert {kind for name, kind in found.items() if name.startswith("egmf.")} == {("Parameter", torch.float32)}
    assert found["language_model.lm_head.weight"] == ("Parameter", torch.bfloat16)
    assert full.score_answers(**asked).probabilities.sum() == pytest.approx(1, abs=1e-5)
