"""What EGMF with a given language model needs: parameters, bytes, and the smallest card that has them.

    python -m training.benchmarks.cost.memory --backbone glm3-6b
    python -m training.benchmarks.cost.memory --backbone qwen2.5-7b --batch_size 16 --length 256 --json

Nothing of the language model is loaded or fetched: the model is built on the meta device, from the shapes in
training/model/backbones/. Beside the options below, every model option of training/arguments.py is taken, such as the rank
and targets of LoRA (the backbone's settings and the defaults are the same). Parameters, weights, gradients, optimizer
and cache are exact; activations follow memory_formulas.py, except those of encoders and fusion, which are counted in a
run of one sample.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, HfArgumentParser, PreTrainedConfig

from modeling_egmf import EGMFConfig, EGMFEncoderConfig, EGMFForConditionalGeneration, EGMFModel

from ...arguments import ModelArguments
from ...cli import output_file
from ...model.backbones import backbone_config, backbone_names, backbone_settings
from ...model.builder import fusion_settings
from ...records import versions, write_json
from .memory_formulas import (
    CONTEXT_BYTES,
    USABLE_SHARE,
    Adapters,
    Batch,
    answering_activations,
    cache_per_token,
    four_bit_bytes,
    smallest_card,
    text_shape,
    training_activations,
)


PARTS = {
    "egmf.audio_visual_encoder.": "encoders",
    "egmf.fusion.": "fusion",
    "egmf.experts.": "experts",
    "egmf.pseudo_tokens.": "pseudo tokens",
}
ADAM_STATES = 2


class Load(NamedTuple):
    """What one step holds beside the model."""

    batch: Batch
    seconds: float  # of each clip
    words: int  # tokens of each transcript, which the fusion reads


def meta_model(arguments: ModelArguments, text_config: PreTrainedConfig) -> EGMFForConditionalGeneration:
    """The model that `training.model.builder` would make of these options, without any weights.

    Args:
        arguments: `text_model` is not looked at.
        text_config: of the language model.

    Raises:
        ValueError: features are asked for without their width.
    """
    config = EGMFConfig(
        text_config=text_config,
        audio_config=_encoder(arguments, "audio", "waveform"),
        video_config=_encoder(arguments, "video", "frames"),
        placeholder_token_id=text_config.vocab_size,
        **fusion_settings(arguments),
    )
    with torch.device("meta"):
        dtype = precision(arguments, text_config)
        return EGMFForConditionalGeneration(config, AutoModelForCausalLM.from_config(text_config, dtype=dtype))


def precision(arguments: ModelArguments, text_config: PreTrainedConfig) -> torch.dtype:
    """Of the language model: what the options say, else what it is stored in, else bfloat16."""
    if arguments.text_model_dtype != "auto":
        return getattr(torch, arguments.text_model_dtype)
    return text_config.dtype or torch.bfloat16


def _encoder(arguments: ModelArguments, modality: str, raw: str) -> EGMFEncoderConfig | None:
    kind = getattr(arguments, modality)
    if kind in (None, "none"):
        return None
    fields: dict[str, Any] = {
        "input_type": kind if kind == "features" else raw,
        "sequence_encoder": arguments.sequence_encoder,
        "hidden_size": arguments.encoder_hidden_size,
        "num_layers": arguments.encoder_layers,
        "dropout": arguments.encoder_dropout,
        "conv_channels": arguments.conv_channels,
        "frame_height": arguments.frame_size,
        "frame_width": arguments.frame_size,
    }
    if kind == "features":
        width = getattr(arguments, f"{modality}_feature_size")
        if width is None:
            raise ValueError(f"{modality}=features needs {modality}_feature_size, the width of one vector.")
        fields["feature_size"] = width
    elif kind != raw:
        backbone = AutoConfig.from_pretrained(kind)
        half = getattr(backbone, "vision_config" if modality == "video" else "audio_config", None)
        fields |= {"backbone_config": half or backbone, "backbone_trainable": arguments.train_backbones}
    return EGMFEncoderConfig(**fields)


def part_of(name: str) -> str:
    """Which part of the model a parameter's name belongs to."""
    if name.startswith("language_model."):
        return "LoRA" if "lora_" in name else "language model"
    return next(part for prefix, part in PARTS.items() if name.startswith(prefix))


def parameters_by_part(model: nn.Module) -> dict[str, dict[str, int]]:
    """Part -> how many parameters it has, and how many of them are trained."""
    found = {part: {"total": 0, "trainable": 0} for part in ("language model", "LoRA", *PARTS.values())}
    for name, parameter in model.named_parameters():
        counts = found[part_of(name)]
        counts["total"] += parameter.numel()
        counts["trainable"] += parameter.numel() if parameter.requires_grad else 0
    return found


def weight_bytes(model: EGMFForConditionalGeneration) -> dict[str, int]:
    """Part -> bytes of its parameters and buffers."""
    found = dict.fromkeys(("language model", "LoRA", *PARTS.values()), 0)
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        found[part_of(name)] += value.numel() * value.element_size()
    return found


def quantized_layers(model: EGMFForConditionalGeneration) -> list[nn.Linear]:
    """The language model's linear layers that 4-bit loading replaces: all but LoRA's and the output matrix."""
    output = model.get_output_embeddings()
    return [
        module
        for name, module in model.language_model.named_modules()
        if isinstance(module, nn.Linear) and "lora_" not in name and module is not output
    ]


def saved_in_four_bit(model: EGMFForConditionalGeneration, double_quantization: bool = True) -> int:
    """Bytes of weights that 4-bit loading saves."""
    sizes = [(layer.weight.numel(), layer.weight.element_size()) for layer in quantized_layers(model)]
    return sum(count * size - four_bit_bytes(count, double_quantization) for count, size in sizes)


def adapters_of(model: EGMFForConditionalGeneration) -> Adapters:
    """Inputs and ranks of every LoRA layer, added up."""
    shapes = [p.shape for name, p in model.language_model.named_parameters() if "lora_A" in name]
    dropout = (model.config.lora or {}).get("lora_dropout", 0.0)
    return Adapters(sum(shape[1] for shape in shapes), sum(shape[0] for shape in shapes), dropout)


def egmf_activations(config: EGMFConfig, load: Load, num_frames: int, dropout_bytes: int = 1) -> int:
    """Bytes that encoders, fusion and experts keep for the backward pass of one sample.

    Counted in a run of them, which are small, on the CPU; features of audio are taken to come at 50 a second. A
    pretrained encoder is left out: frozen, it keeps nothing, and its outputs stand for features. One that is trained
    keeps more than is counted here.
    """
    config = EGMFConfig.from_dict(config.to_dict())
    batch = {}
    for modality in ("audio", "video"):
        encoder = getattr(config, f"{modality}_config")
        if encoder is None:
            continue
        steps = round(load.seconds * 50) if modality == "audio" else num_frames
        if encoder.backbone_config is not None:
            width = getattr(encoder.backbone_config, "hidden_size", None) or encoder.backbone_config.hidden_sizes[-1]
            encoder.backbone_config, encoder.input_type, encoder.feature_size = None, "features", width
        shape = {
            "features": (steps, encoder.feature_size),
            "waveform": (round(load.seconds * encoder.sampling_rate),),
            "frames": (num_frames, 3, encoder.frame_height, encoder.frame_width),
        }[encoder.input_type]
        batch[f"{modality}_values"] = torch.zeros(1, *shape)
        batch[f"{modality}_mask"] = torch.ones(1, shape[0], dtype=torch.bool)
    model = EGMFModel(config).train()
    ours = {value.untyped_storage().data_ptr() for value in (*model.parameters(), *model.buffers())}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(value: torch.Tensor) -> torch.Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in ours:
            kept[storage.data_ptr()] = storage
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        words = max(load.words, 1)
        text = torch.zeros(1, words, config.text_config.get_text_config().hidden_size)
        output = model(text, torch.ones(1, words), **batch)
    del output
    return sum(storage.nbytes() for storage in kept.values())


def estimate(
    arguments: ModelArguments, text_config: PreTrainedConfig, load: Load, double_quantization: bool = True
) -> dict[str, Any]:
    """Everything as one record; see `render` for how it reads.

    Args:
        arguments: how the model is built.
        text_config: of the language model.
        load: the batch.
        double_quantization: quantize the scales of 4-bit weights as well.
    """
    model = meta_model(arguments, text_config)
    dtype, batch, shape = model.language_model.dtype, load.batch, text_shape(text_config)
    parameters, weights, adapters = parameters_by_part(model), weight_bytes(model), adapters_of(model)
    trainable = sum(counts["trainable"] for counts in parameters.values())
    total = sum(counts["total"] for counts in parameters.values())
    gradients = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    ours = batch.samples * egmf_activations(model.config, load, arguments.num_frames)
    eager = arguments.attn_implementation == "eager"
    cache = batch.samples * batch.length * cache_per_token(shape, dtype.itemsize)
    kept = {
        name: training_activations(shape, adapters, batch, dtype.itemsize, checkpointing, eager)
        for name, checkpointing in (("plain", False), ("checkpointed", True))
    }
    name = str(dtype).removeprefix("torch.")
    four_bit_weights = sum(weights.values()) - saved_in_four_bit(model, double_quantization)
    # Each matrix is unpacked when it is its turn.
    widest = max(layer.weight.numel() * dtype.itemsize for layer in quantized_layers(model))
    peaks: dict[str, dict[str, Any]] = {"training": {}, "answering": {}}
    for stored, base, unpacked in ((name, sum(weights.values()), 0), ("4-bit", four_bit_weights, widest)):
        base += unpacked + CONTEXT_BYTES
        for way, activations in kept.items():
            needs = base + gradients * (1 + ADAM_STATES) + activations + ours
            peaks["training"][f"{stored}, {way}"] = {"bytes": needs, "card_gb": smallest_card(needs)}
        needs = base + cache + answering_activations(shape, batch, dtype.itemsize, eager)
        peaks["answering"][stored] = {"bytes": needs, "card_gb": smallest_card(needs)}
    return {
        "batch": {**batch._asdict(), "seconds": load.seconds, "words": load.words},
        "dtype": name,
        "parameters": parameters,
        "trainable_share": trainable / total,
        "bytes": {
            "weights": weights,
            "weights_4_bit": four_bit_weights,
            "gradients": gradients,
            "optimizer": ADAM_STATES * gradients,
            "activations": {**kept, "encoders_and_fusion": ours},
            "cache_per_token": cache_per_token(shape, dtype.itemsize),
            "cache": cache,
            "context": CONTEXT_BYTES,
        },
        "peaks": peaks,
        "versions": versions(),
    }


def _gigabytes(count: float) -> str:
    return f"{count / 2**30:9.3f} GiB"


def render(record: dict[str, Any]) -> str:
    """The record as a table for people."""
    batch, sizes = record["batch"], record["bytes"]
    lines = [f"{record['backbone']}, language model in {record['dtype']}, LoRA and all that is ours in float32", ""]
    lines += [f"{'parameters':<24}{'all':>16}{'trained':>14}{'weights':>16}"]
    for part, counts in record["parameters"].items():
        lines.append(
            f"  {part:<22}{counts['total']:>16,}{counts['trainable']:>14,}{_gigabytes(sizes['weights'][part]):>16}"
        )
    both = [sum(counts[key] for counts in record["parameters"].values()) for key in ("total", "trainable")]
    lines.append(f"  {'together':<22}{both[0]:>16,}{both[1]:>14,}{_gigabytes(sum(sizes['weights'].values())):>16}")
    lines += [f"  trained: {100 * record['trainable_share']:.3f} % of all", ""]
    lines.append(
        f"a batch of {batch['samples']} samples of {batch['length']} tokens ({batch['logit_tokens']} with logits), "
        f"{batch['seconds']:g} seconds each"
    )
    rows = {
        "weights in 4 bit": sizes["weights_4_bit"],
        "gradients": sizes["gradients"],
        "optimizer (AdamW)": sizes["optimizer"],
        "activations": sizes["activations"]["plain"],
        "  with checkpointing": sizes["activations"]["checkpointed"],
        "  encoders and fusion": sizes["activations"]["encoders_and_fusion"],
        f"cache, {sizes['cache_per_token']:,} bytes a token": sizes["cache"],
    }
    lines += [f"  {name:<36}{_gigabytes(value):>16}" for name, value in rows.items()]
    lines += [
        "",
        f"{'at the peak, with ' + _gigabytes(sizes['context']).strip() + ' of CUDA':<38}{'':>16}  fits a card of",
    ]
    for work, settings in record["peaks"].items():
        for setting, peak in settings.items():
            card = f"{peak['card_gb']} GB" if peak["card_gb"] else "none of these"
            lines.append(f"  {work + ', ' + setting:<36}{_gigabytes(peak['bytes']):>16}  {card}")
    lines += ["", f"A card counts with {100 * USABLE_SHARE:.0f} % of its memory. Formulas: memory_formulas.py."]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog="Every model option of training/arguments.py is taken as well.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--backbone", required=True, help=f"{', '.join(backbone_names())}; a YAML file; or a folder with a config.json"
    )
    parser.add_argument("--batch_size", type=int, default=8, help="samples on one card")
    parser.add_argument("--length", type=int, default=128, help="tokens of a sample: prompt, padding and answer")
    parser.add_argument("--answer_tokens", type=int, default=5, help="of the longest answer, its end included")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each clip")
    parser.add_argument("--words", type=int, default=32, help="tokens of each transcript")
    parser.add_argument(
        "--double_quantization", action=argparse.BooleanOptionalAction, default=True, help="of 4-bit weights' scales"
    )
    parser.add_argument("--json", action="store_true", help="print the record instead of the table")
    parser.add_argument("--output", type=output_file, help="also write the record here, as JSON")
    own, rest = parser.parse_known_args(argv)
    try:
        options = HfArgumentParser(ModelArguments, allow_abbrev=False)
        known = {field.name for field in fields(ModelArguments)}
        settings = backbone_settings(own.backbone)
        options.set_defaults(**{name: value for name, value in settings.items() if name in known})
        (arguments,) = options.parse_args_into_dataclasses(rest, look_for_args_file=False)
        for name in ("batch_size", "length", "answer_tokens"):
            if getattr(own, name) < 1:
                raise ValueError(f"--{name} is {getattr(own, name)}; it must be at least 1.")
        batch = Batch(own.batch_size, own.length, min(own.answer_tokens + 1, own.length))
        text_config = backbone_config(own.backbone)
        record = estimate(arguments, text_config, Load(batch, own.seconds, own.words), own.double_quantization)
    except ValueError as error:
        sys.exit(f"memory: {error}")
    record = {"backbone": own.backbone, **record}
    print(json.dumps(record, indent=1) if own.json else render(record))
    if own.output is not None:
        write_json(own.output, record)


if __name__ == "__main__":
    main()
