"""Exports a checkpoint: traces it, writes the files into a hidden folder, checks them, and renames the folder.

load ─► describe ─► trace ─► .OUTPUT_DIR.partial/ ─► check against the PyTorch model ─► OUTPUT_DIR/
                                                                                        egmf.onnx, egmf.pt2
                                                                                        export.json, README.md
"""

import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modeling_egmf import EGMFForConditionalGeneration, EGMFModel
from modeling_egmf.parts_egmf import with_relative_parts
from processing_egmf import EGMFProcessor

from ..model.builder import load
from ..records import (
    check_writable,
    commit,
    digest_of_file,
    new_folder,
    only_writer,
    sync_folder,
    versions,
    write_json,
    write_text,
)
from .fusion import OUTPUTS
from .interface import (
    TensorSpec,
    describe_inputs,
    describe_outputs,
    dynamic_shapes,
    random_inputs,
    shortest_lengths,
    takes_encoder_outputs,
)
from .programs import FILES, Run, check_formats, load_program, trace, write_program
from .readme import render_readme


RECORD = "export.json"
# What an export may consist of; ONNX keeps large weights in a file of their own.
WRITTEN = {RECORD, "README.md", *FILES.values(), *(f"{name}.data" for name in FILES.values())}
TOLERANCE = 1e-4  # of every output, relative to its largest value where that is above 1

logger = logging.getLogger(__name__)


@dataclass
class ExportOptions:
    """Options of `egmf export`.

    Args:
        run: checkpoint, a folder or a Hub id.
        output_dir: folder to write.
        format: formats to write, of `FILES`.
        text_model_name_or_path: language model of an adapter checkpoint, if it was moved.
        overwrite: replace an earlier export in `output_dir`.
    """

    run: str
    output_dir: Path
    format: Sequence[str] = ("onnx",)
    text_model_name_or_path: str | None = None
    overwrite: bool = False


def export_run(options: ExportOptions) -> dict[str, Any]:
    """Write, check and place the files.

    Returns:
        The content of export.json.

    Raises:
        ValueError: a package is missing, the folder must not be overwritten, the checkpoint cannot be exported, or a
            written file gives other outputs than the model. The folder is then as it was.
    """
    check_formats(options.format)
    options.output_dir = new_folder(options.output_dir)
    check_writable(options.output_dir.parent)
    with only_writer(options.output_dir, "export"):
        restore_earlier(options.output_dir)
        check_output_dir(options.output_dir, options.overwrite)
        model, processor = load(options.run, options.text_model_name_or_path)
        partial = options.output_dir.with_name(f".{options.output_dir.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            record = write_folder(model, processor, options, partial)
            replace_folder(partial, options.output_dir)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return record


def write_folder(
    model: EGMFForConditionalGeneration, processor: EGMFProcessor, options: ExportOptions, folder: Path
) -> dict[str, Any]:
    """Write the programs and their description into an empty folder; returns the content of export.json."""
    keep_encoders_outside(model.egmf)
    inputs = describe_inputs(model.egmf, processor)
    shapes = dynamic_shapes(inputs, shortest_lengths(model.egmf))
    program = trace(model.egmf, inputs, shapes)
    files = {}
    for format in dict.fromkeys(options.format):
        path = folder / FILES[format]
        write_program(program, shapes, format, path)
        difference = check_program(load_program(format, path), model.egmf, inputs)
        files[path.name] = {"format": format, "sha256": digest_of_file(path), "largest_difference": difference}
        logger.info(f"{path.name} equals the model to {difference:.1e}.")
    named_parts = with_relative_parts(model.config, options.run)
    record = {
        "run": options.run,
        "language_model": {
            "id": options.text_model_name_or_path or named_parts.text_model_id or options.run,
            "revision": model.config.text_model_revision,
            "model_type": model.config.text_config.model_type,
        },
        "pseudo_tokens": {
            "number": model.config.num_pseudo_tokens,
            "placeholder": processor.placeholder_token,
            "placeholder_token_id": model.config.placeholder_token_id,
        },
        "files": files,
        "shortest_lengths": shortest_lengths(model.egmf),
        "inputs": [describe(spec) for spec in inputs],
        "outputs": [describe(spec) for spec in describe_outputs(model.egmf)],
        "versions": versions(),
        "commit": commit(),
    }
    write_json(folder / RECORD, record)
    write_text(folder / "README.md", render_readme(record))
    return record


def keep_encoders_outside(model: EGMFModel) -> None:
    """Let the model take the outputs of the pretrained encoders that a program cannot hold."""
    encoder = model.audio_visual_encoder
    parts = ((model.config.audio_config, encoder.audio), (model.config.video_config, encoder.video))
    for config, part in parts:
        if config is not None and takes_encoder_outputs(config):
            part.stem.precomputed = True
            logger.warning(
                f"The {config.backbone_config.model_type!r} encoder stays outside of the program, which takes its "
                "outputs; README.md in the folder says how."
            )


def describe(spec: TensorSpec) -> dict[str, Any]:
    """An input or output for export.json."""
    return {"name": spec.name, "dtype": spec.type_name, "shape": list(spec.shape), "meaning": spec.meaning}


# ---- the check --------------------------------------------------------------------------------------------------


def check_program(run: Run, model: EGMFModel, specs: Sequence[TensorSpec]) -> float:
    """Compare a written file with the PyTorch model on random inputs.

    Args:
        run: from `load_program`.
        model: the model that was exported.
        specs: its inputs.

    Returns:
        The largest difference, relative to an output's largest value where that is above 1.

    Raises:
        ValueError: it is above `TOLERANCE`.
    """
    largest = 0.0
    for name, inputs in trial_inputs(model, specs).items():
        with torch.no_grad():
            expected = model.eval()(**inputs)
        actual = run(inputs)
        for output, field in OUTPUTS.items():
            reference = expected[field].float()
            difference = (actual[output].float() - reference).abs().max() / reference.abs().max().clamp(min=1)
            if not difference <= TOLERANCE:  # so that NaN is refused as well
                raise ValueError(
                    f"The exported program gives another {output} than the model: {float(difference):.1e} apart, for "
                    f"{name}. Nothing was written. Please report it, with the configuration of the checkpoint."
                )
            largest = max(largest, float(difference))
    return largest


def trial_inputs(model: EGMFModel, specs: Sequence[TensorSpec]) -> dict[str, dict[str, Tensor]]:
    """Description -> inputs of other sizes than those that were traced, with modalities missing or switched off."""
    shortest = shortest_lengths(model)
    longer = {name: 2 * length + 17 for name, length in shortest.items()}
    trials = {
        "a single sample": random_inputs(specs, longer | {"batch": 1}, seed=1),
        "the shortest lengths": random_inputs(specs, shortest | {"batch": 2}, seed=2),
        "five samples": random_inputs(specs, longer | {"batch": 5}, seed=3),
    }
    for i, modality in enumerate(("audio", "video"), start=1):
        if f"{modality}_length" in shortest:
            inputs = random_inputs(specs, longer | {"batch": 3}, seed=3 + i)
            inputs[f"{modality}_mask"][0] = False
            inputs["modality_mask"][1, 0] = False  # that sample is left with its media
            trials[f"samples without {modality} or text"] = inputs
            inputs = random_inputs(specs, longer | {"batch": 2}, seed=5 + i)
            inputs["modality_mask"][:, i] = False
            trials[f"{modality} switched off"] = inputs
    return trials


# ---- the folder ---------------------------------------------------------------------------------------------------


def check_output_dir(folder: Path, overwrite: bool) -> None:
    """Check that the folder may be replaced.

    Raises:
        ValueError: it is a file, or holds something that must not be replaced.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file. Give the name of a folder.")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not (folder / RECORD).is_file():
        raise ValueError(f"{folder} holds other files than an export. Give another OUTPUT_DIR.")
    if not overwrite:
        raise ValueError(f"{folder} already holds an export. Give another OUTPUT_DIR, or --overwrite.")
    other = sorted(path.name for path in folder.iterdir() if path.name not in WRITTEN)
    if other:
        raise ValueError(
            f"{folder} also holds {other[0]}, which --overwrite would remove. Move it, or give another one."
        )


def replace_folder(source: Path, target: Path) -> None:
    """Flush a complete folder to disk and rename it, in place of an earlier export."""
    for path in source.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    sync_folder(source)
    replaced = earlier_export(target)
    shutil.rmtree(replaced, ignore_errors=True)
    if target.exists():
        os.replace(target, replaced)
    try:
        os.replace(source, target)
    except OSError:
        restore_earlier(target)
        raise
    sync_folder(target.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def earlier_export(folder: Path) -> Path:
    """Where an export is while another one takes its place."""
    return folder.with_name(f".{folder.name}.old")


def restore_earlier(folder: Path) -> None:
    """Bring an earlier export back whose place was not taken, because the disk failed or the process was killed."""
    if earlier_export(folder).is_dir() and not folder.exists():
        os.replace(earlier_export(folder), folder)
