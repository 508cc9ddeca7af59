"""Speed of a full-size backbone with random weights on one GPU: EGMF compared with its bare language model.

    python -m training.benchmarks.cost.gpu --output gpu.json          # GLM3-6B in bfloat16, on the first GPU
    python -m training.benchmarks.cost.gpu --shape tiny --device cpu --dtype float32     # the same script in seconds

Needs only torch, transformers and peft: no data, no weights, no tokenizer. The bare language model is the one inside
EGMF, with the same LoRA and the same tokens, so that the GPU holds one copy of the weights. Both are timed in turn:
training steps with AdamW, and `score_answers` over seven labels against one plain prefill. Random weights are as fast
as trained ones; the answers themselves are ignored.

Next: `gpu_work.py` builds the model and the batches, and counts the floating-point operations.
"""

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from modeling_egmf import EGMFForConditionalGeneration

from ...cli import CommandParser, command_errors, output_file
from ...model.backbones import backbone_names
from ...records import print_record, versions
from ..option_ranges import COUNT, check_ranges
from .gpu_work import bare_inputs, build_model, make_batch, training_flops
from .timing import check_device, timed


# Dense bfloat16 matrix products with float32 accumulation, in 10**12 operations per second, from the data sheets.
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
# Targets of a full-size backbone.
MIN_TOKENS_RATIO = 0.9
MAX_SECONDS_RATIO = 1.2
MAX_BYTES = 24e9
OTHER_TOKENS = 16  # tokens of a prompt besides transcript and answer
RANGES = {
    "batch_size": COUNT,
    "length": COUNT,
    "words": COUNT,
    "answer_tokens": COUNT,
    "lora_r": COUNT,
    "repeats": COUNT,
    "peak_tflops": (0.001, 1e6),
}


def matmul_tflops(device: torch.device, dtype: torch.dtype) -> float:
    """Measured speed of one large product of two square matrices, in 10**12 operations per second."""
    size = 8192 if device.type == "cuda" else 512
    matrix = torch.randn(size, size, device=device, dtype=dtype)
    seconds = timed({"matmul": lambda: matrix @ matrix}, 5, device)["matmul"]["median_s"]
    return 2 * size**3 / seconds / 1e12


def peak_bytes(call: Callable[[], None], device: torch.device) -> int | None:
    """Peak memory allocated on the GPU during a call, including earlier allocations; None on a CPU."""
    if device.type != "cuda":
        call()
        return None
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    call()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device)


def compare(
    calls: dict[str, Callable[[], None]], batch_size: int, length: int, repeats: int, device: torch.device
) -> dict[str, Any]:
    """Peak memory and rates of each call, or `{"out_of_memory": True}` if one of them does not fit.

    Args:
        calls: name -> function that processes one batch.
        batch_size: samples in a batch.
        length: tokens of a sample.
        repeats: measured rounds.
        device: where the calls run.
    """
    try:
        peaks = {name: peak_bytes(call, device) for name, call in calls.items()}
        times = timed(calls, repeats, device)
    except torch.OutOfMemoryError:
        return {"out_of_memory": True}
    rates = {}
    for name in calls:
        seconds = times[name]["median_s"]
        rates[name] = {
            **times[name],
            "calls_per_s": 1 / seconds,
            "samples_per_s": batch_size / seconds,
            "tokens_per_s": batch_size * length / seconds,
            "peak_bytes": peaks[name],
        }
    return rates


def measure_training(model: EGMFForConditionalGeneration, arguments: argparse.Namespace) -> dict[str, Any]:
    """Training steps of EGMF and of the bare language model on the same tokens."""
    device = torch.device(arguments.device)
    num_logits = arguments.answer_tokens + 1
    batch = make_batch(model, arguments.batch_size, arguments, labeled=True)
    bare_batch = bare_inputs(model, batch)
    targets = batch["labels"][:, -arguments.answer_tokens :].flatten()
    positions = torch.arange(arguments.length - num_logits, arguments.length, device=device)
    egmf_optimizer = make_optimizer(model)
    bare_optimizer = make_optimizer(model.language_model)

    def egmf_step() -> None:
        with autocast(arguments):
            loss = model(**batch).loss
        loss.backward()
        egmf_optimizer.step()
        egmf_optimizer.zero_grad()

    def bare_step() -> None:
        with autocast(arguments):
            logits = model.language_model(**bare_batch, use_cache=False, logits_to_keep=positions).logits
            loss = nn.functional.cross_entropy(logits[:, :-1].float().flatten(0, 1), targets)
        loss.backward()
        bare_optimizer.step()
        bare_optimizer.zero_grad()

    model.train()
    calls = {"egmf": egmf_step, "language_model": bare_step}
    record = compare(calls, arguments.batch_size, arguments.length, arguments.repeats, device)
    if "out_of_memory" not in record:
        flops = training_flops(model, arguments.batch_size, arguments.length, num_logits)
        record["flops_per_step"] = flops
        record["tflops"] = flops * record["egmf"]["calls_per_s"] / 1e12
        record["tokens_per_s_ratio"] = record["egmf"]["tokens_per_s"] / record["language_model"]["tokens_per_s"]
    return record


def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW([parameter for parameter in model.parameters() if parameter.requires_grad], lr=1e-5)


def autocast(arguments: argparse.Namespace) -> torch.autocast:
    device = torch.device(arguments.device)
    return torch.autocast(device.type, torch.bfloat16, enabled=arguments.autocast)


def measure_answering(model: EGMFForConditionalGeneration, size: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """`score_answers` over seven labels, compared with one prefill of the bare language model."""
    device = torch.device(arguments.device)
    batch = make_batch(model, size, arguments, labeled=False)
    bare_batch = bare_inputs(model, batch)
    last = torch.tensor([arguments.length - 1], device=device)

    def score_answers() -> None:
        with torch.no_grad(), autocast(arguments):
            model.score_answers(**batch)

    def prefill() -> None:
        with torch.no_grad(), autocast(arguments):
            model.language_model(**bare_batch, use_cache=False, logits_to_keep=last)

    model.eval()
    calls = {"score_answers": score_answers, "prefill": prefill}
    record = compare(calls, size, arguments.length, arguments.repeats, device)
    if "out_of_memory" not in record:
        record["seconds_ratio"] = record["score_answers"]["median_s"] / record["prefill"]["median_s"]
    return record


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run all measurements and return them as one record."""
    device = torch.device(arguments.device)
    device_name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    peak = arguments.peak_tflops
    if peak is None and arguments.dtype == "bfloat16":
        peak = next((value for name, value in PEAK_TFLOPS.items() if name in device_name), None)
    matmul = matmul_tflops(device, getattr(torch, arguments.dtype))
    model = build_model(arguments)
    training = measure_training(model, arguments)
    if "tflops" in training:
        training["utilization_of_matmul"] = training["tflops"] / matmul
        training["model_flop_utilization"] = training["tflops"] / peak if peak else None
    record: dict[str, Any] = {
        "settings": {name: value for name, value in vars(arguments).items() if name != "output"},
        "device": device_name,
        "parameters": {
            "all": sum(parameter.numel() for parameter in model.parameters()),
            "trained": sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        },
        "training": training,
        "answering": {str(size): measure_answering(model, size, arguments) for size in ANSWERING_BATCHES},
        "matmul_tflops": matmul,
        "peak_tflops": peak,
        "versions": versions(),
    }
    record["targets"] = None if arguments.shape == "tiny" else targets_reached(record)
    return record


def targets_reached(record: dict[str, Any]) -> dict[str, bool | None]:
    """Whether a full-size backbone meets each target of speed and memory; None if it could not be measured."""
    training = record["training"]
    tokens_ratio = training.get("tokens_per_s_ratio")
    peak = training["egmf"]["peak_bytes"] if "egmf" in training else None
    seconds_ratio = record["answering"][str(ANSWERING_BATCHES[-1])].get("seconds_ratio")
    return {
        "training_within_10_percent": None if tokens_ratio is None else tokens_ratio >= MIN_TOKENS_RATIO,
        "below_24_gb": None if peak is None else peak < MAX_BYTES,
        "answers_within_1.2": None if seconds_ratio is None else seconds_ratio <= MAX_SECONDS_RATIO,
    }


def make_parser() -> CommandParser:
    parser = CommandParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", default="glm3-6b", choices=(*backbone_names(), "tiny"))
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N, or cpu for the tiny shape")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float16", "float32"))
    parser.add_argument(
        "--autocast",
        action=argparse.BooleanOptionalAction,
        help="use bfloat16 autocast (default: if --dtype is bfloat16)",
    )
    parser.add_argument("--media", default="features", choices=("features", "raw"))
    parser.add_argument("--batch_size", type=int, default=8, help="samples per training step")
    parser.add_argument("--length", type=int, default=128, help="tokens per sample")
    parser.add_argument("--words", type=int, default=32, help="tokens of the transcript, out of --length")
    parser.add_argument("--answer_tokens", type=int, default=3, help="tokens of the longest answer")
    parser.add_argument("--lora_r", type=int, default=8)
    parser.add_argument("--gradient_checkpointing", action="store_true")
    parser.add_argument("--repeats", type=int, default=10, help="measured rounds")
    parser.add_argument("--peak_tflops", type=float, help="peak of the GPU (default: its data sheet's, if known)")
    parser.add_argument("--output", type=output_file, help="also write the record to this JSON file")
    return parser


def check_arguments(arguments: argparse.Namespace) -> None:
    """Refuse settings that cannot be measured.

    Raises:
        ValueError: the device does not exist, the shape is not for this device, or a number is out of range.
    """
    is_cuda = arguments.device.startswith("cuda")
    if is_cuda and not torch.cuda.is_available():
        raise ValueError("No CUDA device is available. To try the script without one: --shape tiny --device cpu.")
    if not is_cuda and arguments.shape != "tiny":
        raise ValueError(f"The shape {arguments.shape} is for a GPU; on {arguments.device} use --shape tiny.")
    check_device(arguments.device)
    check_ranges(arguments, RANGES)
    if arguments.length < arguments.words + arguments.answer_tokens + OTHER_TOKENS:
        raise ValueError(
            f"--length {arguments.length} is too short for a transcript of {arguments.words} tokens, the prompt and "
            "the answer."
        )


def main(argv: Sequence[str] | None = None) -> None:
    with command_errors():
        arguments = make_parser().parse_args(argv)
        check_arguments(arguments)
        if arguments.autocast is None:
            arguments.autocast = arguments.dtype == "bfloat16"
        record = measure(arguments)
        print_record(record, arguments.output)


if __name__ == "__main__":
    main()
