"""What `--encoder_cache` gains: seconds of an epoch with a frozen encoder run each time, and with its outputs kept.

    python -m training.benchmarks.cost.encoder_cache --width 256 --layers 6

A Wav2Vec2 of random weights listens to made-up sound of 2.5 seconds a clip. The language model is a tiny one, so that
what is compared is the encoder's share: with a large one a step gains the same seconds, and the ratio is smaller. The
filling of the cache is timed apart.
"""

import argparse
import json
import tempfile
import time
import wave
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader
from transformers import AutoTokenizer, Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

from modeling_egmf import EGMFConfig, EGMFEncoderConfig, EGMFForConditionalGeneration
from processing_egmf import EGMFProcessor

from ...cli import output_file
from ...data.collator import EGMFDataCollator
from ...data.dataset import EGMFDataset
from ...data.encoder_cache import EncoderCache
from ...model.backbones import backbone_config
from ...records import versions, write_json
from .timing import timed


def write_clips(folder: Path, count: int, seconds: float = 2.5, rate: int = 16_000) -> list[dict]:
    """Noise in wav files, as rows."""
    rng = np.random.default_rng(0)
    for number in range(count):
        with wave.open(str(folder / f"{number}.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(rate)
            file.writeframes(rng.integers(-3000, 3000, round(seconds * rate), dtype=np.int16).tobytes())
    return [{"id": str(i), "text": "oh", "answer": "joy", "audio": str(folder / f"{i}.wav")} for i in range(count)]


def make_model(arguments: argparse.Namespace, tokenizer) -> tuple[EGMFForConditionalGeneration, EGMFProcessor]:
    """A frozen encoder of the wanted size in front of a tiny language model."""
    torch.manual_seed(0)
    width = arguments.width
    tower = Wav2Vec2Config(
        hidden_size=width,
        num_hidden_layers=arguments.layers,
        num_attention_heads=width // 32,
        intermediate_size=4 * width,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        num_conv_pos_embedding_groups=16,
    )
    frontend = Wav2Vec2FeatureExtractor(return_attention_mask=True)
    processor = EGMFProcessor(tokenizer, audio_frontend=frontend.to_dict(), video_input=None)
    small = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = backbone_config("smollm2-135m", **small, num_key_value_heads=2, vocab_size=len(tokenizer))
    audio = EGMFEncoderConfig(input_type="waveform", backbone_config=tower)
    config = EGMFConfig(
        text_config=text,
        audio_config=audio,
        lora={"r": 4, "target_modules": ["q_proj", "v_proj"]},
        placeholder_token_id=processor.placeholder_token_id,
    )
    return EGMFForConditionalGeneration(config, audio_backbone=Wav2Vec2Model(tower)), processor


def measure(arguments: argparse.Namespace) -> dict:
    tokenizer = AutoTokenizer.from_pretrained(arguments.text_model_name_or_path)
    with tempfile.TemporaryDirectory() as place:
        rows = write_clips(Path(place), arguments.clips)
        plain, processor = make_model(arguments, tokenizer)
        cached, _ = make_model(arguments, tokenizer)
        encoder_cache = EncoderCache(Path(place) / "encoder_cache", cached, processor)
        sets = {
            "computed": EGMFDataset(rows, processor, with_labels=True),
            "kept": EGMFDataset(rows, processor, with_labels=True, encoder_cache=encoder_cache),
        }
        started = time.perf_counter()
        encoder_cache.fill((sets["kept"],), "cpu")
        filling = time.perf_counter() - started
        models = {"computed": plain.train(), "kept": cached.train()}

        def epoch(name: str) -> None:
            loader = DataLoader(sets[name], arguments.batch_size, collate_fn=EGMFDataCollator(processor))
            for batch in loader:
                models[name](**batch).loss.backward()
                models[name].zero_grad()

        times = timed({name: lambda name=name: epoch(name) for name in sets}, arguments.repeats, torch.device("cpu"))
        stored = sum(path.stat().st_size for path in (Path(place) / "encoder_cache").rglob("*.safetensors"))
    return {
        "settings": {key: value for key, value in vars(arguments).items() if key != "output"},
        "encoder_parameters": sum(p.numel() for p in plain.egmf.audio_visual_encoder.audio.stem.backbone.parameters()),
        "epoch": times,
        "filling_s": filling,
        "bytes_per_clip": stored / arguments.clips,
        "ratio": times["computed"]["median_s"] / times["kept"]["median_s"],
        "versions": versions(),
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--text_model_name_or_path", default=".cache/assets/SmolLM2-135M-Instruct", help="its tokenizer is used"
    )
    parser.add_argument("--width", type=int, default=256, help="of the encoder; a multiple of 32")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--clips", type=int, default=16)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=output_file, help="also write the record here, as JSON")
    arguments = parser.parse_args(argv)
    record = measure(arguments)
    print(json.dumps(record, indent=1))
    if arguments.output is not None:
        write_json(arguments.output, record)


if __name__ == "__main__":
    main()
