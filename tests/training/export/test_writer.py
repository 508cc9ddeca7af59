"""`egmf export`: the files run and give the model's outputs, the folder is described, and refusals."""

import dataclasses
import importlib.util
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers.backbone_configs import AUDIO_BACKBONES, VISION_BACKBONES
from tests.helpers.model_inputs import media_of
from training.export import programs, writer
from training.export.__main__ import main
from training.export.interface import describe_inputs, dynamic_shapes, shortest_lengths
from training.export.programs import FILES, ONNX_PACKAGES, load_program, trace, write_program
from training.export.writer import RECORD, TOLERANCE, check_program, keep_encoders_outside


HAS_ONNX = all(importlib.util.find_spec(name) for name in ONNX_PACKAGES)
needs_onnx = pytest.mark.skipif(not HAS_ONNX, reason=f"needs {', '.join(ONNX_PACKAGES)}: pip install 'egmf[onnx]'")
TEXT = "I'm fine, thank you."


@pytest.fixture(scope="module")
def model(make_model, make_encoder_config):
    """Audio features and no video; without a GRU, which takes seconds to trace."""
    return make_model(make_encoder_config("features", sequence_encoder="none"), None, lora=None)


@pytest.fixture(scope="module")
def checkpoint(model, make_processor, tmp_path_factory):
    """The model as a standalone checkpoint."""
    folder = tmp_path_factory.mktemp("checkpoint")
    model.save_pretrained(folder)
    make_processor("features", None).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["torch", pytest.param("onnx", marks=[pytest.mark.slow, needs_onnx])])
def exported(request, checkpoint, tmp_path_factory):
    """The format, the folder that the command writes, and a function that runs the file in it."""
    folder = tmp_path_factory.mktemp("exported") / "egmf"
    main([str(checkpoint), str(folder), "--format", request.param])
    return request.param, folder, load_program(request.param, folder / FILES[request.param])


# ---- what is written ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3])
def test_pseudo_tokens_of_the_processors_inputs(exported, model, make_processor, make_samples, process, count):
    _, _, run = exported
    samples = make_samples(count, "features", None)
    if count == 3:
        del samples[0]["audio_features"], samples[1]["text"]
    batch = process(make_processor("features", None), samples)
    masks = {name: batch[name] for name in ("utterance_mask", "modality_mask")}
    with torch.no_grad():
        _, expected = model.embed_prompt(batch["input_ids"], **masks, **media_of(batch))
        placeholders = model.get_placeholder_mask(batch["input_ids"])
        embeds = model.get_input_embeddings()(batch["input_ids"].masked_fill(placeholders, 0))
    actual = run({"text_embeds": embeds, **masks, **media_of(batch)})
    torch.testing.assert_close(actual["pseudo_tokens"], expected.pseudo_tokens, atol=TOLERANCE, rtol=0)
    assert torch.equal(actual["used_modalities"], expected.modality_mask)


def test_description(exported):
    format, folder, _ = exported
    record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    readme = (folder / "README.md").read_text(encoding="utf-8")
    names = [entry["name"] for entry in record["inputs"]]
    assert names == ["text_embeds", "utterance_mask", "modality_mask", "audio_values", "audio_mask"]
    assert record["inputs"][3]["shape"] == ["batch", "audio_length", 6]
    assert record["outputs"][0]["shape"] == ["batch", 3, 32]
    assert record["language_model"]["model_type"] == "llama"
    for entry in record["inputs"] + record["outputs"]:
        assert f"| `{entry['name']}` | {entry['dtype']} |" in readme
    assert record["files"][FILES[format]]["largest_difference"] <= TOLERANCE
    assert {path.name for path in folder.iterdir()} == {FILES[format], RECORD, "README.md"}
    assert list(folder.parent.iterdir()) == [folder]


# ---- refusals -------------------------------------------------------------------------------------------------------


def refusal(capsys, *arguments):
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    return f"{caught.value} {capsys.readouterr().err}"


def test_nothing_is_overwritten_in_silence(checkpoint, tmp_path, capsys):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / RECORD).write_text("{}")
    assert "already holds an export" in refusal(capsys, checkpoint, tmp_path / "old", "--format", "torch")
    (tmp_path / "thesis.txt").write_text("years of work")
    assert "holds other files" in refusal(capsys, checkpoint, tmp_path, "--format", "torch", "--overwrite")
    assert "is a file" in refusal(capsys, checkpoint, tmp_path / "thesis.txt", "--format", "torch")
    assert "is not writable" in refusal(capsys, checkpoint, tmp_path / "thesis.txt/new", "--format", "torch")
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_what_else_is_in_an_earlier_export_is_kept(checkpoint, tmp_path, capsys, monkeypatch):
    old = tmp_path / "old"
    old.mkdir()
    for name in (RECORD, FILES["onnx"], "egmf.onnx.data", "thesis.txt"):
        (old / name).write_text(name)
    message = refusal(capsys, checkpoint, old, "--format", "torch", "--overwrite")
    assert "old also holds thesis.txt, which --overwrite would remove" in message
    assert (old / "thesis.txt").read_text() == "thesis.txt"
    (old / "thesis.txt").unlink()
    monkeypatch.setattr(writer, "write_folder", lambda *args: (args[-1] / RECORD).write_text("{}"))
    writer.export_run(writer.ExportOptions(str(checkpoint), old, ["torch"], overwrite=True))
    assert [path.name for path in old.iterdir()] == [RECORD]


def test_an_earlier_export_survives_a_failure_or_a_kill_while_it_is_replaced(checkpoint, tmp_path, monkeypatch):
    old = tmp_path / "old"
    old.mkdir()
    (old / RECORD).write_text("earlier")
    rename = os.replace

    def fail(source, target):
        if str(source).endswith(".partial"):
            raise OSError(5, "Input/output error")
        rename(source, target)

    options = writer.ExportOptions(str(checkpoint), old, ["torch"], overwrite=True)
    monkeypatch.setattr(writer, "write_folder", lambda *args: (args[-1] / RECORD).write_text("{}"))
    with monkeypatch.context() as patch:
        patch.setattr(writer.os, "replace", fail)
        with pytest.raises(OSError, match="Input/output error"):
            writer.export_run(options)
    assert (old / RECORD).read_text() == "earlier"
    rename(old, tmp_path / ".old.old")  # as a process leaves it that is killed in between
    with pytest.raises(ValueError, match="already holds an export"):
        writer.export_run(dataclasses.replace(options, overwrite=False))
    assert (old / RECORD).read_text() == "earlier"
    assert list(tmp_path.iterdir()) == [old]


def test_a_link_leads_to_the_export(checkpoint, tmp_path, monkeypatch):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to("disk")
    monkeypatch.setattr(writer, "write_folder", lambda *args: (args[-1] / RECORD).write_text("{}"))
    writer.export_run(writer.ExportOptions(str(checkpoint), tmp_path / "link", ["torch"]))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "link"]
    assert (tmp_path / "link").is_symlink() and (tmp_path / "disk" / RECORD).is_file()
    monkeypatch.chdir(tmp_path / "disk")
    with pytest.raises(ValueError, match=r"\. is the current folder"):
        writer.export_run(writer.ExportOptions(str(checkpoint), Path("."), ["torch"]))
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ValueError, match=f"{tmp_path} is the current folder, or around it"):
        writer.export_run(writer.ExportOptions(str(checkpoint), Path("~"), ["torch"]))


def test_missing_packages_are_named(checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(programs.importlib.util, "find_spec", lambda name: None)
    assert "pip install 'egmf[onnx]', or use --format torch" in refusal(capsys, checkpoint, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_file_with_other_outputs_is_not_placed(checkpoint, tmp_path, capsys, monkeypatch):
    def load_damaged(format, path):
        return lambda inputs: {name: torch.full((1,), np.nan) for name in programs.OUTPUTS}

    monkeypatch.setattr(writer, "load_program", load_damaged)
    monkeypatch.setattr(writer, "trace", lambda *arguments: None)
    monkeypatch.setattr(writer, "write_program", lambda *arguments: arguments[-1].touch())
    message = refusal(capsys, checkpoint, tmp_path / "out", "--format", "torch")
    assert "gives another pseudo_tokens than the model" in message
    assert list(tmp_path.iterdir()) == []


# ---- all encoders ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
@needs_onnx
@pytest.mark.parametrize("format", FILES)
@pytest.mark.parametrize(
    ("audio", "video", "fields"),
    [
        ("waveform", "frames", {}),
        ("waveform", None, {"sequence_encoder": "transformer"}),
        ("features", "features", {"num_layers": 2}),
        ("features", None, {}),
        (None, "frames", {"sequence_encoder": "none"}),
        (None, "frames", {"backbone_config": VISION_BACKBONES["vit"]}),
        ("waveform", None, {"backbone_config": AUDIO_BACKBONES["whisper"]}),
    ],
)
def test_every_encoder(make_model, make_encoder_config, make_processor, tmp_path, format, audio, video, fields):
    model = make_model(
        make_encoder_config(audio, "audio", **fields),
        make_encoder_config(video, "video", **fields),
        lora=None,
        bidirectional_attention=True,
    )
    keep_encoders_outside(model.egmf)
    specs = describe_inputs(model.egmf, make_processor(audio, video))
    shapes = dynamic_shapes(specs, shortest_lengths(model.egmf))
    path = tmp_path / FILES[format]
    write_program(trace(model.egmf, specs, shapes), shapes, format, path)
    assert check_program(load_program(format, path), model.egmf, specs) <= TOLERANCE
