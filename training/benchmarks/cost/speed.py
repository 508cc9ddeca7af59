"""Cost of EGMF on top of its language model, as ratios of calls timed side by side in one process.

    python -m training.benchmarks.cost.speed --text_model_name_or_path .cache/assets/SmolLM2-135M-Instruct

Compared are a training step of EGMF (encoders, fusion, experts, LoRA) with one of the same language model with the
same LoRA on the same tokens, and `score_answers` with one plain prefill of the same prompts. The calls alternate, so
that a busy machine slows them equally, and compute logits only where they are needed. Prints JSON, and writes it with
--output.
"""

import argparse
import resource
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoModelForCausalLM, BatchFeature

from modeling_egmf import EGMFForConditionalGeneration
from modeling_egmf.adapters_egmf import add_adapter, new_adapter_config
from processing_egmf import EGMFProcessor

from ...cli import CommandParser, command_errors, output_file
from ...model.builder import build
from ...options import ModelArguments
from ...records import print_record, versions
from ..option_ranges import COUNT, check_ranges
from .timing import check_device, timed
from .utterances import make_utterances


FEATURE_SIZE = 64
IGNORED = -100  # label of the tokens that are not learned


def build_models(arguments: argparse.Namespace) -> tuple[EGMFForConditionalGeneration, EGMFProcessor, nn.Module]:
    """EGMF, its processor, and the bare language model with the same LoRA."""
    is_features = arguments.media == "features"
    model_arguments = ModelArguments(
        text_model_name_or_path=arguments.text_model_name_or_path,
        text_model_dtype=arguments.dtype,
        audio="features" if is_features else "waveform",
        video="features" if is_features else "frames",
        audio_feature_size=FEATURE_SIZE if is_features else None,
        video_feature_size=FEATURE_SIZE if is_features else None,
        frame_size=48,
        conv_channels=[32, 48, 64],
        encoder_hidden_size=96,
        fusion_hidden_size=128,
    )
    model, processor = build(model_arguments)
    bare = AutoModelForCausalLM.from_pretrained(arguments.text_model_name_or_path, dtype=arguments.dtype)
    bare.requires_grad_(False)
    add_adapter(bare, new_adapter_config(bare, model.config.lora), "default")
    return model.to(arguments.device), processor, bare.to(arguments.device)


def make_media(media: str, count: int, sampling_rate: int, rng: np.random.Generator) -> dict[str, Any]:
    """Arguments of the processor for clips of 2.5 seconds.

    Args:
        media: `features`, in the shapes of MELD's published features, or `raw`.
        count: number of clips.
        sampling_rate: sampling rate of raw audio.
        rng: source of the values.
    """
    if media == "features":
        return {
            "audio_features": [rng.standard_normal((157, FEATURE_SIZE), dtype=np.float32) for _ in range(count)],
            "video_features": [rng.standard_normal((32, FEATURE_SIZE), dtype=np.float32) for _ in range(count)],
        }
    return {
        "audio": [rng.standard_normal(40000, dtype=np.float32) * 0.1 for _ in range(count)],
        "video": [rng.integers(0, 255, (8, 48, 48, 3), dtype=np.uint8) for _ in range(count)],
        "sampling_rate": sampling_rate,
    }


def make_batches(processor: EGMFProcessor, arguments: argparse.Namespace) -> tuple[BatchFeature, BatchFeature]:
    """The same clips with labels, for training, and without, for prediction."""
    rng = np.random.default_rng(0)
    size = arguments.batch_size
    texts = make_utterances(size, rng)
    media = make_media(arguments.media, size, processor.sampling_rate, rng)
    labels = list(processor.task_objects["emotion"].labels)
    answers = [labels[i % len(labels)] for i in range(size)]
    tasks = ["emotion"] * size
    labeled = processor(text=texts, task=tasks, answer=answers, **media)
    unlabeled = processor(text=texts, task=tasks, **media)
    return labeled.to(arguments.device), unlabeled.to(arguments.device)


def bare_inputs(model: EGMFForConditionalGeneration, inputs: BatchFeature) -> dict[str, torch.Tensor]:
    """The same tokens for the bare language model, with an ordinary token at each placeholder."""
    is_placeholder = inputs["input_ids"] == model.config.placeholder_token_id
    mask = inputs["attention_mask"]
    return {
        "input_ids": inputs["input_ids"].masked_fill(is_placeholder, 0),
        "attention_mask": mask,
        "position_ids": (mask.cumsum(dim=1) - 1).clamp(min=0),
    }


def last_positions(count: int, inputs: BatchFeature) -> torch.Tensor:
    """Indices of the last tokens of the sequences, (count,)."""
    ids = inputs["input_ids"]
    return torch.arange(ids.shape[1] - count, ids.shape[1], device=ids.device)


def trained_parameters(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def measure_training(
    model: EGMFForConditionalGeneration, bare: nn.Module, inputs: BatchFeature, repeats: int
) -> dict[str, dict[str, float]]:
    """Times of a training step of EGMF and of the bare language model."""
    labels = inputs["labels"]
    first_label = int(torch.where((labels != IGNORED).any(dim=0))[0][0])
    num_logits = labels.shape[1] - first_label + 1
    plain_inputs = bare_inputs(model, inputs)
    positions = last_positions(num_logits, inputs)
    egmf_optimizer = torch.optim.AdamW(trained_parameters(model), lr=1e-5)
    bare_optimizer = torch.optim.AdamW(trained_parameters(bare), lr=1e-5)

    def egmf_step() -> None:
        model(**inputs).loss.backward()
        egmf_optimizer.step()
        egmf_optimizer.zero_grad()

    def bare_step() -> None:
        logits = bare(**plain_inputs, use_cache=False, logits_to_keep=positions).logits
        loss = bare.loss_function(logits=logits, labels=labels[:, -num_logits:], vocab_size=logits.shape[-1])
        loss.backward()
        bare_optimizer.step()
        bare_optimizer.zero_grad()

    model.train()
    bare.train()
    return timed({"egmf": egmf_step, "language_model": bare_step}, repeats, model.device)


def measure_answering(
    model: EGMFForConditionalGeneration, bare: nn.Module, inputs: BatchFeature, repeats: int
) -> dict[str, dict[str, float]]:
    """Times of `score_answers` and of one prefill of the bare language model."""
    plain_inputs = bare_inputs(model, inputs)
    positions = last_positions(1, inputs)

    def score_answers() -> None:
        model.score_answers(**inputs)

    def prefill() -> None:
        with torch.no_grad():
            bare(**plain_inputs, use_cache=False, logits_to_keep=positions)

    model.eval()
    bare.eval()
    return timed({"score_answers": score_answers, "prefill": prefill}, repeats, model.device)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Build both models, time them, and return everything as one record."""
    torch.manual_seed(0)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    model, processor, bare = build_models(arguments)
    labeled, unlabeled = make_batches(processor, arguments)
    training = measure_training(model, bare, labeled, arguments.repeats)
    answering = measure_answering(model, bare, unlabeled, arguments.repeats)
    seconds = answering["score_answers"]["median_s"]
    return {
        "settings": {name: value for name, value in vars(arguments).items() if name != "output"},
        "threads": torch.get_num_threads(),
        "tokens": {"per_sequence": labeled["input_ids"].shape[1], "real": int(labeled["attention_mask"].sum())},
        "parameters": {
            "egmf": sum(parameter.numel() for parameter in trained_parameters(model)),
            "language_model": sum(parameter.numel() for parameter in trained_parameters(bare)),
        },
        "answers": len(processor.task_objects["emotion"].labels),
        "training_step": training,
        "answering": answering,
        "ratios": {
            "training_step": training["egmf"]["median_s"] / training["language_model"]["median_s"],
            "score_answers": seconds / answering["prefill"]["median_s"],
        },
        "answering_s_per_sample": seconds / arguments.batch_size,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "versions": versions(),
    }


def make_parser() -> CommandParser:
    parser = CommandParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text_model_name_or_path", required=True, help="language model: a folder or a Hub id")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--media", default="raw", choices=("raw", "features"))
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=8, help="measured rounds")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 for torch's default")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=output_file, help="also write the record to this JSON file")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    with command_errors():
        arguments = make_parser().parse_args(argv)
        check_ranges(arguments, {"batch_size": COUNT, "repeats": COUNT, "threads": (0, 1024)})
        check_device(arguments.device)
        record = measure(arguments)
        print_record(record, arguments.output)


if __name__ == "__main__":
    main()
