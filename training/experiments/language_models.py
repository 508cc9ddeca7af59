"""Make a language model from another one: its first layers only, or its architecture with random weights.

    python -m training.experiments.language_models MODEL FOLDER --changes '{"layers": 10}'
    python -m training.experiments.language_models MODEL FOLDER --changes '{"layers": 8}' --fit_on data/demo-english
    python -m training.experiments.language_models MODEL FOLDER --changes '{"random": true, "hidden_size": 192}'

Plans of several backbones use it (`language_model` of a variant); the folder loads as any language model does. With
`--fit_on`, the output matrix reads the states of the last layer that is kept instead of those of the original's last:

    original:   states of layer 30 ─► norm ─► output matrix
    copy:       states of layer 8  ─► norm ─► linear map ─► output matrix     (one matrix in the copy)

The map is a ridge regression over the corpus's training texts in their prompts. Labels play no part in it.
"""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..cli import CommandParser, command_errors


if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


SEED = 0  # of random weights
RIDGE = 0.03  # of each input's variance


def write_changed_copy(
    source: str, folder: Path, changes: Mapping[str, Any], texts: Sequence[str] | None = None
) -> Path:
    """Write the copy with its tokenizer.

    Args:
        source: folder or Hub id of a language model.
        folder: to write.
        changes: `layers`: how many of the first layers are kept; `random`: new weights, with any other fields of the
            configuration.
        texts: that the output matrix is fitted on, for the first layers of a model; None to keep it.

    Raises:
        ValueError: the language model has fewer layers or no such field, or fields are changed without new weights.
        FileExistsError: the folder already exists.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    if folder.exists():
        raise FileExistsError(f"{folder} already exists. Remove it, or give another folder.")
    fields = dict(changes)
    is_random = bool(fields.pop("random", False))
    layers = fields.pop("layers", None)
    config = AutoConfig.from_pretrained(source)
    if layers is not None:
        if not isinstance(layers, int) or isinstance(layers, bool):
            raise ValueError(f"layers is {layers!r}; it must be a whole number.")
        if not 1 <= layers <= config.num_hidden_layers:
            raise ValueError(f"{source} has {config.num_hidden_layers} layers; it cannot keep {layers} of them.")
        fields["num_hidden_layers"] = layers
        types = config.to_dict().get("layer_types")
        if types is not None:
            fields["layer_types"] = types[:layers]
    elif fields and not is_random:
        raise ValueError(f'{", ".join(fields)} can only be changed together with new weights: add "random": true.')
    if texts is not None and (is_random or layers is None):
        raise ValueError("--fit_on is for the first layers of a language model: give layers, and not random.")
    unknown = [name for name in fields if name not in config.to_dict()]
    if unknown:
        raise ValueError(f"The configuration of {source} has no field {', '.join(unknown)}.")
    for name, value in fields.items():
        setattr(config, name, value)
    tokenizer = AutoTokenizer.from_pretrained(source)
    if is_random:
        torch.manual_seed(SEED)
        model = AutoModelForCausalLM.from_config(config)
    elif texts is not None:
        model = AutoModelForCausalLM.from_pretrained(source, dtype="float32")
        fit_first_layers(model, layers, tokenizer, texts)
    else:
        model = AutoModelForCausalLM.from_pretrained(source, config=config, dtype="auto")
    partial = folder.with_name(f".{folder.name}.partial")  # so that an interrupted copy is not taken for a whole one
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    os.replace(partial, folder)
    return folder


# ---- an output matrix for fewer layers ---------------------------------------------------------------------------


def fit_first_layers(
    model: "PreTrainedModel", layers: int, tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str]
) -> None:
    """Keep the first layers of a model of Llama's design, with an output matrix fitted to their states.

    Args:
        model: changed in place.
        layers: how many to keep.
        tokenizer: the model's.
        texts: that the states are computed on.
    """
    import torch

    states, targets = states_of(model, layers, tokenizer, texts)  # (N, H) each
    gram = states.T @ states
    ridge = RIDGE * torch.diag(gram)
    linear_map = torch.linalg.solve(gram + torch.diag(ridge), states.T @ targets)  # (H, H)
    output = model.lm_head
    head = torch.nn.Linear(output.in_features, output.out_features, bias=False)
    head.weight.data = (output.weight.detach() @ linear_map.T).contiguous()
    model.lm_head = head
    model.config.tie_word_embeddings = False
    model.model.norm.weight.data.fill_(1.0)  # the map has its scales
    model.model.layers = model.model.layers[:layers]
    model.config.num_hidden_layers = layers
    if model.config.to_dict().get("layer_types") is not None:
        model.config.layer_types = model.config.layer_types[:layers]


def states_of(
    model: "PreTrainedModel", layers: int, tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str]
) -> "tuple[torch.Tensor, torch.Tensor]":
    """States of a layer, divided by their root mean square, and those in front of the output matrix, (N, H) each.

    The first token of a text is left out: its states are hundreds of times as large as those of all others.
    """
    import torch

    states = []
    targets = []
    epsilon = model.config.rms_norm_eps
    for text in texts:
        tokens = tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            all_states = model(**tokens, use_cache=False, output_hidden_states=True).hidden_states
        kept = all_states[layers][0, 1:]
        states.append(kept * torch.rsqrt(kept.square().mean(dim=1, keepdim=True) + epsilon))
        targets.append(all_states[-1][0, 1:])
    return torch.cat(states), torch.cat(targets)


def prompts_of(corpora: Sequence[str]) -> list[str]:
    """The distinct training texts of corpora in the prompts of their tasks, each with one of the labels in turn.

    Raises:
        ValueError: a task is not built in, or there is no training text.
    """
    from processing_egmf import BUILT_IN_TASKS

    from ..data.dataset import load_examples

    texts = {
        (example["task"], example["text"]): None
        for corpus in corpora
        for example in load_examples(corpus, split="train")
        if example["text"]
    }
    names = {name for name, _ in texts}
    if not names or not names <= set(BUILT_IN_TASKS):
        raise ValueError(
            f"--fit_on {' '.join(corpora)}: needs training texts of built-in tasks ({', '.join(BUILT_IN_TASKS)}), but "
            f"the tasks with texts are {', '.join(map(repr, sorted(names, key=str))) or 'none'}."
        )
    answers = {name: cycle(BUILT_IN_TASKS[name].answers) for name in names}
    prompts = []
    for name, text in texts:
        task = BUILT_IN_TASKS[name]
        prompts.append(f"{task.prefix}{task.suffix}{text}{task.prompt}{task.separator}{next(answers[name])}")
    return prompts


def make_parser() -> CommandParser:
    parser = CommandParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", help="language model: a folder or a Hub id")
    parser.add_argument("folder", type=Path, help="folder to write")
    parser.add_argument("--changes", required=True, help="JSON: layers, random, or fields of the configuration")
    parser.add_argument("--fit_on", nargs="+", help="corpora with the texts to fit the output matrix on")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    with command_errors():
        arguments = make_parser().parse_args(argv)
        try:
            changes = dict(json.loads(arguments.changes))
        except (TypeError, ValueError) as error:
            raise ValueError(f"--changes {arguments.changes} is not a JSON object ({error}).") from error
        texts = None if arguments.fit_on is None else prompts_of(arguments.fit_on)
        print(f"language model: {write_changed_copy(arguments.source, arguments.folder, changes, texts)}")


if __name__ == "__main__":
    main()
