"""The full shape of a backbone on one GPU, with random weights: how fast EGMF trains and answers beside its bare LLM.

    python -m training.benchmarks.cost.gpu --output gpu.json                        # GLM3-6B in bfloat16, on the first GPU
    python -m training.benchmarks.cost.gpu --shape tiny --device cpu --dtype float32     # the same script in seconds

Needs torch, transformers and peft alone: no data, no weights, no tokenizer. The bare language model is the one inside
EGMF, with the same LoRA, given the same tokens, so that one copy of the weights lies on the card. Both are timed by
turns: training steps with AdamW, `score_answers` over seven labels beside one plain prefill. Random weights are as
fast as trained ones; what the model says is not looked at.

Model FLOP utilisation counts what has to be computed once (no recomputation under gradient checkpointing), with n
parameters in the frozen matrices, r in LoRA, S tokens of a sample and K with logits:

    a token      2 n forward, 2 n backward for its input (a frozen matrix needs no gradient), 6 r
    attention    4 S A d forward and 8 S A d backward a layer and token, not halved for the causal mask
    logits       2 D V forward and 2 D V backward for each of the K
"""

# B batch  S tokens of a sample  K tokens with logits  P pseudo tokens  D width  V vocabulary  A heads  d head size

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig

from modeling_egmf import EGMFConfig, EGMFEncoderConfig, EGMFForConditionalGeneration

from ...cli import output_file
from ...model.backbones import backbone_config, backbone_names
from ...records import versions, write_json
from .memory_formulas import text_shape
from .timing import timed


# Dense bfloat16 matrix products with float32 sums, in 10**12 operations a second, from the makers' data sheets.
PEAK_TFLOPS = {
    "H200": 989.4,
    "H100": 989.4,
    "A100": 312.0,
    "L40S": 362.0,
    "RTX 4090": 165.2,
    "A10": 125.0,
    "L4": 121.0,
}
ANSWERING_BATCHES = (1, 8, 32)
LABELS = 7
CARD_BYTES = 24e9


def tiny_config() -> PreTrainedConfig:
    """GLM3's architecture in a size for a CPU."""
    small = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    return backbone_config("glm3-6b", **small, num_key_value_heads=2, head_dim=16, vocab_size=512)


def build(arguments: argparse.Namespace) -> EGMFForConditionalGeneration:
    """EGMF around a language model of random weights, on its device."""
    text_config = tiny_config() if arguments.shape == "tiny" else backbone_config(arguments.shape)
    dtype = getattr(torch, arguments.dtype)
    text_config.dtype = dtype
    tiny = arguments.shape == "tiny"
    encoder = {"hidden_size": 16, "conv_channels": (8, 16)} if tiny else {"hidden_size": 128}
    raw = arguments.media == "raw"
    config = EGMFConfig(
        text_config=AutoConfig.for_model(**text_config.to_dict()),
        audio_config=EGMFEncoderConfig(input_type="waveform" if raw else "features", feature_size=64, **encoder),
        video_config=EGMFEncoderConfig(input_type="frames" if raw else "features", feature_size=64, **encoder),
        fusion_hidden_size=32 if tiny else 256,
        placeholder_token_id=text_config.vocab_size,
        lora={"r": arguments.lora_r, "lora_alpha": 2 * arguments.lora_r, "target_modules": ["q_proj", "v_proj"]},
    )
    torch.manual_seed(0)
    with torch.device(arguments.device):
        language_model = AutoModelForCausalLM.from_config(text_config, dtype=dtype)
        model = EGMFForConditionalGeneration(config, language_model)
    if arguments.gradient_checkpointing:
        model.language_model.gradient_checkpointing_enable({"use_reentrant": False})
        model.language_model.enable_input_require_grads()
    return model.to(arguments.device)


def make_batch(
    model: EGMFForConditionalGeneration, size: int, arguments: argparse.Namespace, answered: bool
) -> dict[str, torch.Tensor]:
    """What the processor would return for clips of 2.5 seconds: every prompt `length` tokens, without padding.

    Features come in the shapes of MELD's: 157 vectors of sound and 32 of video a clip.
    """
    generator = torch.Generator().manual_seed(size)
    length, config = arguments.length, model.config
    pseudo, vocabulary = config.num_pseudo_tokens, config.text_config.vocab_size
    ids = torch.randint(3, vocabulary, (size, length), generator=generator)
    ids[:, 4 : 4 + pseudo] = config.placeholder_token_id
    spoken = torch.zeros(size, length, dtype=torch.long)
    spoken[:, 4 + pseudo : 4 + pseudo + arguments.words] = 1
    shapes = {"audio": (157, 64), "video": (32, 64)}
    if arguments.media == "raw":
        frame = (3, config.video_config.frame_height, config.video_config.frame_width)
        shapes = {"audio": (round(2.5 * config.audio_config.sampling_rate),), "video": (8, *frame)}
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "utterance_mask": spoken}
    for name, shape in shapes.items():
        batch[f"{name}_values"] = torch.randn(size, *shape, generator=generator) * 0.1
        batch[f"{name}_mask"] = torch.ones(size, shape[0], dtype=torch.bool)
    if answered:
        batch["labels"] = ids.clone().index_fill_(1, torch.arange(length - arguments.answer_tokens), -100)
    else:
        answers = torch.randint(3, vocabulary, (LABELS, arguments.answer_tokens), generator=generator)
        answers[:, 0] = torch.arange(3, 3 + LABELS)
        answers[LABELS // 2 :, 1:] = -1  # some labels are one token, some several
        batch["answer_ids"] = answers.expand(size, -1, -1)
    return {name: value.to(arguments.device) for name, value in batch.items()}


def training_flops(model: EGMFForConditionalGeneration, size: int, length: int, logit_tokens: int) -> int:
    """Floating-point operations of one training step of the language model with LoRA."""
    shape, output = text_shape(model.config.text_config), model.get_output_embeddings()
    linear = {n: m.weight.numel() for n, m in model.language_model.named_modules() if isinstance(m, nn.Linear)}
    lora = sum(count for name, count in linear.items() if "lora_" in name)
    frozen = sum(linear.values()) - lora - output.weight.numel()
    attention = 12 * length * shape.layers * shape.heads * shape.head_size
    return size * (length * (4 * frozen + 6 * lora + attention) + 4 * logit_tokens * output.weight.numel())


def matmul_tflops(arguments: argparse.Namespace) -> float:
    """What one large product of two square matrices reaches here, in 10**12 operations a second."""
    device, side = torch.device(arguments.device), 8192 if arguments.device.startswith("cuda") else 512
    left = torch.randn(side, side, device=device, dtype=getattr(torch, arguments.dtype))
    seconds = timed({"matmul": lambda: left @ left}, 5, device)["matmul"]["median_s"]
    return 2 * side**3 / seconds / 1e12


def peak_bytes(call: Callable[[], None], device: torch.device) -> int | None:
    """Most memory allocated on the GPU while it runs, what lies there already included; None on a CPU."""
    if device.type != "cuda":
        call()
        return None
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    call()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device)


def compare(
    calls: dict[str, Callable[[], None]], size: int, tokens: int, repeats: int, device: torch.device
) -> dict[str, Any]:
    """Peak memory and rates of each call; `{"out_of_memory": True}` where one of them does not fit."""
    try:
        peaks = {name: peak_bytes(call, device) for name, call in calls.items()}
        times = timed(calls, repeats, device)
    except torch.OutOfMemoryError:
        return {"out_of_memory": True}
    return {
        name: {
            **times[name],
            "calls_per_s": 1 / times[name]["median_s"],
            "samples_per_s": size / times[name]["median_s"],
            "tokens_per_s": size * tokens / times[name]["median_s"],
            "peak_bytes": peaks[name],
        }
        for name in calls
    }


def measure_training(model: EGMFForConditionalGeneration, arguments: argparse.Namespace) -> dict[str, Any]:
    """Steps of EGMF and of the bare language model on the same tokens."""
    device, kept = torch.device(arguments.device), arguments.answer_tokens + 1
    batch = make_batch(model, arguments.batch_size, arguments, answered=True)
    bare_batch = bare_inputs(model, batch)
    last = torch.arange(arguments.length - kept, arguments.length, device=device)
    trained = {
        "egmf": [p for p in model.parameters() if p.requires_grad],
        "language_model": [p for p in model.language_model.parameters() if p.requires_grad],
    }
    optimizers = {name: torch.optim.AdamW(parameters, lr=1e-5) for name, parameters in trained.items()}
    model.train()

    def step(name: str) -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=arguments.autocast):
            if name == "egmf":
                loss = model(**batch).loss
            else:
                logits = model.language_model(**bare_batch, use_cache=False, logits_to_keep=last).logits
                targets = batch["labels"][:, -kept + 1 :]
                loss = nn.functional.cross_entropy(logits[:, :-1].float().flatten(0, 1), targets.flatten())
        loss.backward()
        optimizers[name].step()
        optimizers[name].zero_grad()

    calls = {name: lambda name=name: step(name) for name in trained}
    found = compare(calls, arguments.batch_size, arguments.length, arguments.repeats, device)
    if "out_of_memory" not in found:
        flops = training_flops(model, arguments.batch_size, arguments.length, kept)
        reached = flops * found["egmf"]["calls_per_s"] / 1e12
        found |= {"flops_per_step": flops, "tflops": reached}
        found["tokens_per_s_ratio"] = found["egmf"]["tokens_per_s"] / found["language_model"]["tokens_per_s"]
    return found


def bare_inputs(model: EGMFForConditionalGeneration, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same tokens for the language model alone, an ordinary one in each placeholder's slot."""
    ids = batch["input_ids"]
    return {
        "input_ids": ids.masked_fill(ids == model.config.placeholder_token_id, 3),
        "attention_mask": batch["attention_mask"],
        "position_ids": torch.arange(ids.shape[1], device=ids.device).expand_as(ids),
    }


@torch.no_grad()
def measure_answering(model: EGMFForConditionalGeneration, size: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """`score_answers` over seven labels, beside one prefill of the bare language model."""
    device, batch = torch.device(arguments.device), make_batch(model, size, arguments, answered=False)
    bare_batch = bare_inputs(model, batch)
    last = torch.tensor([arguments.length - 1], device=device)
    model.eval()

    def run(name: str) -> None:
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=arguments.autocast):
            if name == "score_answers":
                model.score_answers(**batch)
            else:
                model.language_model(**bare_batch, use_cache=False, logits_to_keep=last)

    calls = {name: lambda name=name: run(name) for name in ("score_answers", "prefill")}
    found = compare(calls, size, arguments.length, arguments.repeats, device)
    if "out_of_memory" not in found:
        found["seconds_ratio"] = found["score_answers"]["median_s"] / found["prefill"]["median_s"]
    return found


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything as one record."""
    device = torch.device(arguments.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    sheet = next((value for card, value in PEAK_TFLOPS.items() if card in name), None)
    peak = arguments.peak_tflops or (sheet if arguments.dtype == "bfloat16" else None)
    matmul = matmul_tflops(arguments)
    model = build(arguments)
    record: dict[str, Any] = {
        "settings": {key: str(value) if isinstance(value, Path) else value for key, value in vars(arguments).items()},
        "device": name,
        "parameters": {
            "all": sum(p.numel() for p in model.parameters()),
            "trained": sum(p.numel() for p in model.parameters() if p.requires_grad),
        },
        "training": measure_training(model, arguments),
        "answering": {str(size): measure_answering(model, size, arguments) for size in ANSWERING_BATCHES},
        "matmul_tflops": matmul,
        "peak_tflops": peak,
        "versions": versions(),
    }
    if "tflops" in record["training"]:
        record["training"]["utilisation_of_matmul"] = record["training"]["tflops"] / matmul
        record["training"]["model_flop_utilisation"] = record["training"]["tflops"] / peak if peak else None
    del record["settings"]["output"]
    return {**record, "targets": None if arguments.shape == "tiny" else targets_reached(record)}


def targets_reached(record: dict[str, Any]) -> dict[str, bool | None]:
    """Whether a full shape is as fast and as small as it must be; None for what could not be measured."""
    training, most = record["training"], record["answering"][str(ANSWERING_BATCHES[-1])]
    ratio, seconds = training.get("tokens_per_s_ratio"), most.get("seconds_ratio")
    peak = training["egmf"]["peak_bytes"] if "egmf" in training else None
    return {
        "training_within_10_percent": None if ratio is None else ratio >= 0.9,
        "below_24_gb": None if peak is None else peak < CARD_BYTES,
        "answers_within_1.2": None if seconds is None else seconds <= 1.2,
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", default="glm3-6b", choices=(*backbone_names(), "tiny"))
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N, or cpu for the tiny shape")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float16", "float32"))
    parser.add_argument("--autocast", action=argparse.BooleanOptionalAction, help="default: with bfloat16")
    parser.add_argument("--media", default="features", choices=("features", "raw"))
    parser.add_argument("--batch_size", type=int, default=8, help="of a training step")
    parser.add_argument("--length", type=int, default=128, help="tokens of a sample")
    parser.add_argument("--words", type=int, default=32, help="of them, tokens of the transcript")
    parser.add_argument("--answer_tokens", type=int, default=3, help="of the longest answer")
    parser.add_argument("--lora_r", type=int, default=8)
    parser.add_argument("--gradient_checkpointing", action="store_true")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--peak_tflops", type=float, help="of the card; default: its data sheet's, where known")
    parser.add_argument("--output", type=output_file, help="also write the record here, as JSON")
    arguments = parser.parse_args(argv)
    cuda = arguments.device.startswith("cuda")
    if cuda and not torch.cuda.is_available():
        sys.exit("gpu: there is no CUDA device here. Without one, try the script: --shape tiny --device cpu.")
    if not cuda and arguments.shape != "tiny":
        sys.exit(f"gpu: the shape {arguments.shape} is for a GPU; on {arguments.device} give --shape tiny.")
    for name in ("batch_size", "answer_tokens", "lora_r", "repeats"):
        if getattr(arguments, name) < 1:
            sys.exit(f"gpu: --{name} is {getattr(arguments, name)}; it must be at least 1.")
    if arguments.length < arguments.words + arguments.answer_tokens + 16:
        sys.exit(f"gpu: --length {arguments.length} is too short for {arguments.words} words, prompt and answer.")
    arguments.autocast = arguments.dtype == "bfloat16" if arguments.autocast is None else arguments.autocast
    record = measure(arguments)
    print(json.dumps(record, indent=1))
    if arguments.output is not None:
        write_json(arguments.output, record)


if __name__ == "__main__":
    main()
