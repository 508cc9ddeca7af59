"""Savings of `--encoder_cache`: seconds per epoch with a frozen encoder that runs every time, or with its cache.

    python -m training.benchmarks.cost.encoder_cache --width 256 --layers 6

A Wav2Vec2 with random weights encodes synthetic audio of 2.5 seconds per clip. The language model is tiny, so that the
encoder dominates: with a large one, a step saves the same number of seconds but a smaller share. Filling the cache is
timed separately.
"""

import argparse
import tempfile
import time
import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from transformers import (
    AutoTokenizer,
    PreTrainedTokenizerBase,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
)

from modeling_egmf import EGMFConfig, EGMFEncoderConfig, EGMFForConditionalGeneration
from processing_egmf import EGMFProcessor

from ...cli import CommandParser, command_errors, output_file
from ...data.collator import SampleCollator
from ...data.dataset import EGMFDataset
from ...data.encoder_cache import EncoderCache
from ...model.backbones import backbone_config
from ...records import print_record, versions
from ..option_ranges import COUNT, check_ranges
from .timing import timed


CLIP_SECONDS = 2.5
SAMPLING_RATE = 16_000
CPU = torch.device("cpu")


def write_clips(folder: Path, count: int) -> list[dict[str, str]]:
    """Write noise into WAV files and return the examples."""
    rng = np.random.default_rng(0)
    num_samples = round(CLIP_SECONDS * SAMPLING_RATE)
    examples = []
    for number in range(count):
        path = folder / f"{number}.wav"
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(SAMPLING_RATE)
            file.writeframes(rng.integers(-3000, 3000, num_samples, dtype=np.int16).tobytes())
        examples.append({"id": str(number), "text": "oh", "answer": "joy", "audio": str(path)})
    return examples


def encoder_config(width: int, num_layers: int) -> Wav2Vec2Config:
    return Wav2Vec2Config(
        hidden_size=width,
        num_hidden_layers=num_layers,
        num_attention_heads=width // 32,
        intermediate_size=4 * width,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        num_conv_pos_embedding_groups=16,
    )


def make_model(
    encoder: Wav2Vec2Config, tokenizer: PreTrainedTokenizerBase
) -> tuple[EGMFForConditionalGeneration, EGMFProcessor]:
    """A frozen encoder in front of a tiny language model."""
    torch.manual_seed(0)
    processor = EGMFProcessor(tokenizer, Wav2Vec2FeatureExtractor(return_attention_mask=True), video_input=None)
    text_config = backbone_config(
        "smollm2-135m",
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=len(tokenizer),
    )
    config = EGMFConfig(
        text_config=text_config,
        audio_config=EGMFEncoderConfig(input_type="waveform", backbone_config=encoder),
        lora={"r": 4, "target_modules": ["q_proj", "v_proj"]},
        placeholder_token_id=processor.placeholder_token_id,
    )
    return EGMFForConditionalGeneration(config, audio_backbone=Wav2Vec2Model(encoder)), processor


def run_epoch(model: EGMFForConditionalGeneration, dataset: EGMFDataset, batch_size: int) -> None:
    """Forward and backward over every example."""
    loader = DataLoader(dataset, batch_size, collate_fn=SampleCollator(dataset.processor))
    for batch in loader:
        model(**batch).loss.backward()
        model.zero_grad()


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Time both ways on the same clips and return everything as one record."""
    tokenizer = AutoTokenizer.from_pretrained(arguments.text_model_name_or_path)
    encoder = encoder_config(arguments.width, arguments.layers)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        examples = write_clips(folder, arguments.clips)
        computing_model, processor = make_model(encoder, tokenizer)
        caching_model, _ = make_model(encoder, tokenizer)
        cache = EncoderCache(folder / "encoder_cache", caching_model, processor)
        computed = EGMFDataset(examples, processor, with_labels=True)
        cached = EGMFDataset(examples, processor, with_labels=True, encoder_cache=cache)
        started = time.perf_counter()
        cache.fill((cached,), "cpu")
        filling_seconds = time.perf_counter() - started
        computing_model.train()
        caching_model.train()
        calls = {
            "computed": lambda: run_epoch(computing_model, computed, arguments.batch_size),
            "kept": lambda: run_epoch(caching_model, cached, arguments.batch_size),
        }
        times = timed(calls, arguments.repeats, CPU)
        stored_bytes = sum(path.stat().st_size for path in (folder / "encoder_cache").rglob("*.safetensors"))
    backbone = computing_model.egmf.audio_visual_encoder.audio.stem.backbone
    return {
        "settings": {name: value for name, value in vars(arguments).items() if name != "output"},
        "encoder_parameters": sum(parameter.numel() for parameter in backbone.parameters()),
        "epoch": times,
        "filling_s": filling_seconds,
        "bytes_per_clip": stored_bytes / arguments.clips,
        "ratio": times["computed"]["median_s"] / times["kept"]["median_s"],
        "versions": versions(),
    }


def make_parser() -> CommandParser:
    parser = CommandParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--text_model_name_or_path",
        default=".cache/assets/SmolLM2-135M-Instruct",
        help="folder or Hub id; only its tokenizer is used",
    )
    parser.add_argument("--width", type=int, default=256, help="width of the encoder, a multiple of 32")
    parser.add_argument("--layers", type=int, default=6, help="layers of the encoder")
    parser.add_argument("--clips", type=int, default=16, help="examples per epoch")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3, help="measured rounds")
    parser.add_argument("--output", type=output_file, help="also write the record to this JSON file")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    with command_errors():
        arguments = make_parser().parse_args(argv)
        ranges = {"width": (32, 8192), "layers": (1, 256), "clips": COUNT, "batch_size": COUNT, "repeats": COUNT}
        check_ranges(arguments, ranges)
        if arguments.width % 32 != 0:
            raise ValueError(f"--width is {arguments.width}; it must be a multiple of 32.")
        record = measure(arguments)
        print_record(record, arguments.output)


if __name__ == "__main__":
    main()
