"""Speed of Whisper over a clip's own length, as a multiple of its 30 seconds of padding.

    python -m training.benchmarks.cost.clip_length --seconds 4

One clip, with the same random weights of Whisper base: `padded` is Whisper's own feature extractor and encoder, which
take 30 seconds only; `own_length` is `encode_waveform` and `EGMFPretrainedStem`. `padded_encoder` and
`own_length_encoder` are the encoders alone.
"""

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import WhisperConfig, WhisperFeatureExtractor

from modeling_egmf import EGMFEncoderConfig
from modeling_egmf.backbones_egmf import EGMFPretrainedStem
from processing_egmf.frontends_egmf import encode_waveform

from ...cli import CommandParser, command_errors, output_file
from ...records import commit, print_record, versions
from ..option_ranges import COUNT, check_ranges
from .timing import timed


SAMPLING_RATE = 16_000
WHISPER_BASE = {
    "d_model": 512,
    "encoder_layers": 6,
    "encoder_attention_heads": 8,
    "encoder_ffn_dim": 2048,
    "decoder_layers": 1,  # not used, like its heads
    "decoder_attention_heads": 8,
}


@torch.no_grad()
def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Time both ways in turn and return everything as one record."""
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    config = WhisperConfig(**WHISPER_BASE)
    encoder_config = EGMFEncoderConfig(input_type="waveform", backbone_config=config, backbone_layers="weighted")
    stem = EGMFPretrainedStem(encoder_config).eval()
    extractor = WhisperFeatureExtractor()
    num_samples = round(arguments.seconds * SAMPLING_RATE)
    waveform = np.random.default_rng(0).uniform(-0.1, 0.1, num_samples).astype(np.float32)

    def extract_padded() -> torch.Tensor:
        return extractor(waveform, sampling_rate=SAMPLING_RATE, return_tensors="pt").input_features

    def extract_own_length() -> tuple[torch.Tensor, torch.Tensor]:
        inputs = encode_waveform(waveform, SAMPLING_RATE, extractor)
        return inputs["audio_values"][None], inputs["audio_mask"][None]

    padded = extract_padded()
    own_length = extract_own_length()
    calls = {
        "padded": lambda: stem.backbone(extract_padded()),
        "own_length": lambda: stem.run_backbone(*extract_own_length()),
        "padded_encoder": lambda: stem.backbone(padded),
        "own_length_encoder": lambda: stem.run_backbone(*own_length),
    }
    times = timed(calls, arguments.repeats, torch.device("cpu"))
    medians = {name: figures["median_s"] for name, figures in times.items()}
    return {
        "settings": {name: value for name, value in vars(arguments).items() if name != "output"},
        "times": times,
        "ratio": medians["padded"] / medians["own_length"],
        "encoder_ratio": medians["padded_encoder"] / medians["own_length_encoder"],
        "versions": versions(),
        "commit": commit(),
    }


def make_parser() -> CommandParser:
    parser = CommandParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=4.0, help="length of the clip, at most 30")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5, help="measured rounds")
    parser.add_argument("--output", type=output_file, help="also write the record to this JSON file")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    with command_errors():
        arguments = make_parser().parse_args(argv)
        check_ranges(arguments, {"seconds": (0.1, 30), "threads": (1, 256), "repeats": COUNT})
        record = measure(arguments)
        print_record(record, arguments.output)


if __name__ == "__main__":
    main()
