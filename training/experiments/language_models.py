"""Write a language model made from another one: its first layers only, or the same design with random weights.

    python -m training.experiments.language_models MODEL FOLDER --changes '{"layers": 10}'
    python -m training.experiments.language_models MODEL FOLDER --changes '{"random": true, "hidden_size": 192}'

Plans of several backbones use it (`language_model` of a variant); the folder loads as any language model does.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..cli import CommandParser, command_errors


SEED = 0  # of random weights


def write_changed_copy(source: str, folder: Path, changes: Mapping[str, Any]) -> Path:
    """Write the copy with its tokenizer.

    Args:
        source: folder or Hub id of a language model.
        folder: to write.
        changes: `layers`: how many of the first layers are kept; `random`: new weights, with any other fields of the
            configuration.

    Raises:
        ValueError: the language model has fewer layers or no such field, or fields are changed without new weights.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    fields = dict(changes)
    is_random = bool(fields.pop("random", False))
    layers = fields.pop("layers", None)
    config = AutoConfig.from_pretrained(source)
    if layers is not None:
        if not 1 <= layers <= config.num_hidden_layers:
            raise ValueError(f"{source} has {config.num_hidden_layers} layers; it cannot keep {layers} of them.")
        fields["num_hidden_layers"] = layers
        types = config.to_dict().get("layer_types")
        if types is not None:
            fields["layer_types"] = types[:layers]
    elif fields and not is_random:
        raise ValueError(f'{", ".join(fields)} can only be changed together with new weights: add "random": true.')
    unknown = [name for name in fields if name not in config.to_dict()]
    if unknown:
        raise ValueError(f"The configuration of {source} has no field {', '.join(unknown)}.")
    for name, value in fields.items():
        setattr(config, name, value)
    if is_random:
        torch.manual_seed(SEED)
        model = AutoModelForCausalLM.from_config(config)
    else:
        model = AutoModelForCausalLM.from_pretrained(source, config=config, dtype="auto")
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    return folder


def make_parser() -> CommandParser:
    parser = CommandParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", help="language model: a folder or a Hub id")
    parser.add_argument("folder", type=Path, help="folder to write")
    parser.add_argument("--changes", required=True, help="JSON: layers, random, or fields of the configuration")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    with command_errors():
        arguments = make_parser().parse_args(argv)
        try:
            changes = dict(json.loads(arguments.changes))
        except (TypeError, ValueError) as error:
            raise ValueError(f"--changes {arguments.changes} is not a JSON object ({error}).") from error
        print(f"language model: {write_changed_copy(arguments.source, arguments.folder, changes)}")


if __name__ == "__main__":
    main()
