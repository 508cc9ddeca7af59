"""The two formats of an exported program: writing a file, and running what was written.

ExportableFusion ── torch.export ──► ExportedProgram ─┬─► egmf.pt2    torch.export.load(path).module()(**inputs)
                                                      └─► egmf.onnx   onnxruntime.InferenceSession(path).run(...)
"""

import importlib.util
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from modeling_egmf import EGMFModel

from .fusion import OUTPUTS, ExportableFusion
from .interface import TensorSpec, random_inputs, shortest_lengths


FILES = {"torch": "egmf.pt2", "onnx": "egmf.onnx"}
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
# Of the inputs that are traced: lengths that appear nowhere in the model, so that none is taken for a constant.
TRACED_LENGTHS = {"batch": 3, "text_length": 7, "audio_length": 11, "video_length": 13}

Run = Callable[[dict[str, Tensor]], dict[str, Tensor]]


def check_formats(formats: Sequence[str]) -> None:
    """Check that the packages of the formats are installed.

    Raises:
        ValueError: one is not.
    """
    if "onnx" not in formats:
        return
    missing = [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(
            f"--format onnx needs {', '.join(missing)}, which is not installed. Install the extra: "
            "pip install 'egmf[onnx]', or use --format torch."
        )


def trace(model: EGMFModel, specs: Sequence[TensorSpec], shapes: dict[str, dict[int, Any]]) -> ExportedProgram:
    """The program of everything in front of the language model, for any batch size and any lengths.

    Args:
        model: the model.
        specs: its inputs.
        shapes: from `dynamic_shapes`.

    Raises:
        ValueError: a pretrained encoder cannot be traced.
    """
    shortest = shortest_lengths(model)
    lengths = {name: max(length, 2 * shortest[name]) for name, length in TRACED_LENGTHS.items() if name in shortest}
    inputs = random_inputs(specs, lengths)
    with torch.no_grad():
        try:
            return torch.export.export(
                ExportableFusion(model),
                args=(),
                kwargs=inputs,
                dynamic_shapes=shapes,
            )
        except Exception as error:
            video = model.config.video_config
            if video is None or video.backbone_config is None:
                raise
            reason = str(error).strip().partition("\n")[0]
            raise ValueError(
                f"The {video.backbone_config.model_type!r} video encoder cannot be exported: {reason}"
            ) from error


# ---- files ------------------------------------------------------------------------------------------------------


def write_program(program: ExportedProgram, shapes: dict[str, dict[int, Any]], format: str, path: Path) -> None:
    """Write a program in one of `FILES`' formats.

    Args:
        program: from `trace`.
        shapes: from `dynamic_shapes`; they name the dimensions of the ONNX file.
        format: `torch` or `onnx`.
        path: file to write.
    """
    with quiet():
        if format == "torch":
            torch.export.save(program, path)
            return
        converted = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            output_names=list(OUTPUTS),
            dynamic_shapes=shapes,
        )
    converted.save(path)


@contextmanager
def quiet() -> Iterator[None]:
    """Without torch's own warnings, which concern operators and devices that no program of ours has."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def load_program(format: str, path: Path) -> Run:
    """A function that runs a written file: input tensors by name -> output tensors by name."""
    if format == "torch":
        with quiet():
            program = torch.export.load(path).module()
        return lambda inputs: program(**inputs)
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in inputs.items()}
        outputs = session.run(list(OUTPUTS), arrays)
        return {name: torch.from_numpy(output) for name, output in zip(OUTPUTS, outputs, strict=True)}

    return run
