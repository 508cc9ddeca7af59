"""Outputs of a model, and the stored weights of a checkpoint, read and edited."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file


@torch.no_grad()
def outputs_of(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Logits, probabilities, and the names of what is trainable.

    The weights are copied first: where a weight begins in memory, which a file's offsets decide, can change bits.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()
    return {
        "logits": model(**inputs).logits,
        "probabilities": model.score_answers(**inputs).probabilities,
        "trainable": sorted(name for name, parameter in model.named_parameters() if parameter.requires_grad),
    }


def stored_keys(folder: Path, name: str = "model.safetensors") -> set[str]:
    return set(load_file(folder / name))


def edit_weights(
    folder: Path, change: Callable[[dict[str, torch.Tensor]], Any], name: str = "model.safetensors"
) -> None:
    """Call `change` with the weights of a checkpoint, or of its file `name`, and store them as it leaves them."""
    path = folder / name
    state = load_file(path)
    change(state)
    save_file(state, path, metadata={"format": "pt"})
