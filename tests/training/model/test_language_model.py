"""Where a new model's language model is looked for, and the precision in which it is loaded."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError

from tests.helpers.corpus_files import tiny_llama
from training.data.locations import check_checkpoint
from training.model import encoders, language_model
from training.model.builder import load
from training.options import ModelArguments


@pytest.mark.parametrize(
    ("cpu", "option", "dtype"),
    [
        ("AVX2", "auto", torch.float32),
        ("AVX512", "auto", torch.bfloat16),
        ("AVX2", "bfloat16", torch.bfloat16),
        ("AVX512", "float32", torch.float32),
    ],
)
def test_slow_16_bit_cpu_gets_float32_by_default(cpu, option, dtype, tiny_tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: cpu)
    tiny_llama(tiny_tokenizer).to(torch.bfloat16).save_pretrained(tmp_path)
    arguments = ModelArguments(text_model_name_or_path=str(tmp_path), text_model_dtype=option)
    assert language_model.load_language_model(arguments, None).dtype == dtype


def test_accelerator_keeps_the_stored_precision(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert language_model.has_fast_bfloat16()


@pytest.mark.parametrize(
    ("cause", "message"),
    [
        (LocalEntryNotFoundError("no"), "not in the Hub's cache, and the Hub cannot be reached .* the connection, or"),
        (
            RepositoryNotFoundError("no", response=SimpleNamespace(headers={}, request=None)),
            "the Hub has no such model",
        ),
    ],
)
def test_a_model_that_the_hub_lacks_is_told_from_a_hub_that_cannot_be_reached(cause, message, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("first line\nsecond line") from cause

    monkeypatch.setattr(language_model.AutoConfig, "from_pretrained", fail)
    with pytest.raises(ValueError, match=f"--text_model_name_or_path org/name is not a folder here, and .*{message}"):
        language_model.text_model_config("org/name", "main")
    with pytest.raises(ValueError, match=f"{message}|nor a model on the Hub"):
        encoders.read_backbone_config("--audio org/name", "audio", "org/name", "")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_file_instead_of_its_folder(name, tmp_path, monkeypatch):
    file = tmp_path / name
    file.write_text("{}")
    message = f"{file} is a file. Give the folder that it is in: {tmp_path}$"
    arguments = ModelArguments(text_model_name_or_path=str(file), audio=str(file))
    with pytest.raises(ValueError, match=message):
        language_model.with_lora_targets(arguments)
    with pytest.raises(ValueError, match=message):
        encoders.build_encoder(arguments, "audio")
    for given in ((file, None), (tmp_path, str(file))):
        with pytest.raises(ValueError, match=message):
            load(*given)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"^{name} is a file. Give the folder that it is in: .$"):
        check_checkpoint(name)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            ["default/adapter_model.safetensors"],
            r"mine has no weights \(model.safetensors is missing\): copy the whole",
        ),
        (["model.safetensors"], r"mine has no weights \(default/adapter_model.safetensors is missing\): copy"),
        (["default/notes.txt"], r"\(model.safetensors and default/adapter_model.safetensors are missing\)"),
        (["model.safetensors.index.json", "default/adapter_model-00001-of-00002.safetensors"], None),
    ],
)
def test_a_folder_that_was_not_copied_completely(files, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine/default").mkdir(parents=True)
    (tmp_path / "mine/config.json").write_text('{"model_type": "egmf", "adapters": {"default": true}}')
    for name in files:
        (tmp_path / "mine" / name).touch()
    with pytest.raises(ValueError, match=message) if message else nullcontext():
        check_checkpoint("mine")
