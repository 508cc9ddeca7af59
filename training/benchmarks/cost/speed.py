"""What EGMF costs on top of its language model, as ratios of things timed side by side in one process.

    python -m training.benchmarks.cost.speed --text_model_name_or_path .cache/assets/SmolLM2-135M-Instruct

Timed by turns, so that a busy machine slows both alike: a training step of EGMF (encoders, fusion, experts, LoRA) and
of the same language model with the same LoRA on the same tokens; `score_answers` and one plain prefill of the same
prompts. Both sides compute logits only where they are needed. Prints JSON, and writes it with --output.
"""

import argparse
import json
import resource
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from modeling_egmf.checkpoints_egmf import inject_lora

from ...arguments import ModelArguments
from ...cli import output_file
from ...model.builder import build
from ...records import versions, write_json
from .timing import timed


WORDS = [
    "i",
    "you",
    "know",
    "it",
    "was",
    "not",
    "what",
    "to",
    "do",
    "about",
    "this",
    "that",
    "we",
    "were",
    "going",
    "so",
    "well",
    "now",
    "and",
    "then",
    "she",
    "said",
    "no",
]
MELD_MEAN_WORDS, MELD_LONGEST = 8.0, 69  # of its utterances, as published


def utterances(count: int, rng: np.random.Generator) -> list[str]:
    """Made-up utterances whose numbers of words are spread as MELD's: log-normal, mean 8, at most 69."""
    spread = 0.75
    lengths = rng.lognormal(np.log(MELD_MEAN_WORDS) - spread**2 / 2, spread, count).round().clip(1, MELD_LONGEST)
    return [" ".join(rng.choice(WORDS, int(length))) for length in lengths]


def measure(arguments: argparse.Namespace) -> dict:
    """Build both models, time them, and return everything as one record."""
    torch.manual_seed(0)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    rng = np.random.default_rng(0)
    features = arguments.media == "features"
    model_args = ModelArguments(
        text_model_name_or_path=arguments.text_model_name_or_path,
        text_model_dtype=arguments.dtype,
        audio="features" if features else "waveform",
        video="features" if features else "frames",
        audio_feature_size=64 if features else None,
        video_feature_size=64 if features else None,
        frame_size=48,
        conv_channels=[32, 48, 64],
        encoder_hidden_size=96,
        fusion_hidden_size=128,
    )
    model, processor = build(model_args)
    model.to(device)
    bare = AutoModelForCausalLM.from_pretrained(arguments.text_model_name_or_path, dtype=arguments.dtype)
    bare.requires_grad_(False)
    inject_lora(bare, model.config.lora)
    bare.to(device)
    size = arguments.batch_size
    texts = utterances(size, rng)
    if features:  # the shapes of MELD as the nearest published code ships it
        media = {
            "audio_features": [rng.standard_normal((157, 64), dtype=np.float32) for _ in range(size)],
            "video_features": [rng.standard_normal((32, 64), dtype=np.float32) for _ in range(size)],
        }
    else:  # 2.5 seconds of sound and its frames
        media = {
            "audio": [rng.standard_normal(40000, dtype=np.float32) * 0.1 for _ in range(size)],
            "video": [rng.integers(0, 255, (8, 48, 48, 3), dtype=np.uint8) for _ in range(size)],
            "sampling_rate": processor.sampling_rate,
        }
    labels = list(processor.task_objects["emotion"].labels)
    answered = processor(text=texts, task=["emotion"] * size, answer=[labels[i % 7] for i in range(size)], **media)
    asked = processor(text=texts, task=["emotion"] * size, **media)
    answered, asked = answered.to(device), asked.to(device)

    def plain(inputs: dict) -> dict:
        slots = inputs["input_ids"] == model.config.placeholder_token_id
        mask = inputs["attention_mask"]
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
        return {
            "input_ids": inputs["input_ids"].masked_fill(slots, 0),
            "attention_mask": mask,
            "position_ids": positions,
        }

    trained = {
        name: [p for p in m.parameters() if p.requires_grad] for name, m in (("egmf", model), ("language_model", bare))
    }
    optimizers = {name: torch.optim.AdamW(parameters, lr=1e-5) for name, parameters in trained.items()}
    plain_answered, plain_asked = plain(answered), plain(asked)
    first = int(torch.where((answered["labels"] != -100).any(dim=0))[0][0])
    kept = answered["labels"].shape[1] - first + 1

    def last(count: int, inputs: dict = answered) -> torch.Tensor:
        length = inputs["input_ids"].shape[1]
        return torch.arange(length - count, length, device=device)

    def step(name: str) -> None:
        if name == "egmf":
            loss = model(**answered).loss
        else:
            logits = bare(**plain_answered, use_cache=False, logits_to_keep=last(kept)).logits
            loss = bare.loss_function(logits=logits, labels=answered["labels"][:, -kept:], vocab_size=logits.shape[-1])
        loss.backward()
        optimizers[name].step()
        optimizers[name].zero_grad()

    model.train()
    bare.train()
    training = timed(
        {"egmf": lambda: step("egmf"), "language_model": lambda: step("language_model")}, arguments.repeats, device
    )
    model.eval()
    bare.eval()

    def prefill() -> None:
        with torch.no_grad():
            bare(**plain_asked, use_cache=False, logits_to_keep=last(1, asked))

    answering = timed(
        {"score_answers": lambda: model.score_answers(**asked), "prefill": prefill}, arguments.repeats, device
    )
    record = {
        "settings": {key: str(value) if isinstance(value, Path) else value for key, value in vars(arguments).items()},
        "threads": torch.get_num_threads(),
        "tokens": {"per_sequence": int(answered["input_ids"].shape[1]), "real": int(answered["attention_mask"].sum())},
        "parameters": {name: sum(p.numel() for p in parameters) for name, parameters in trained.items()},
        "answers": len(labels),
        "training_step": training,
        "answering": answering,
        "ratios": {
            "training_step": training["egmf"]["median_s"] / training["language_model"]["median_s"],
            "score_answers": answering["score_answers"]["median_s"] / answering["prefill"]["median_s"],
        },
        "answering_s_per_sample": answering["score_answers"]["median_s"] / size,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "versions": versions(),
    }
    del record["settings"]["output"]
    return record


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text_model_name_or_path", required=True, help="language model: a folder or a Hub id")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--media", default="raw", choices=("raw", "features"))
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves torch's choice")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=output_file, help="also write the record here")
    arguments = parser.parse_args(argv)
    record = measure(arguments)
    print(json.dumps(record, indent=1))
    if arguments.output is not None:
        write_json(arguments.output, record)


if __name__ == "__main__":
    main()
