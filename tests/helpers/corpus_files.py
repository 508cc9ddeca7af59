"""Write a tiny corpus with real clips, and a tiny language model's folder: what the training tests run on.

`write_corpus(folder)` -> 12 examples of two tasks, 6 train, 4 validation, 2 test.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModel, AutoModelForCausalLM, LlamaConfig, WhisperFeatureExtractor

from tests.helpers.backbone_configs import AUDIO_BACKBONES
from tests.helpers.media_files import gray_frames, sine, write_video


EMOTIONS = ("joy", "anger", "sadness", "fear", "neutral", "surprise")
SPLITS = ["train"] * 6 + ["validation"] * 4 + ["test"] * 2


def write_corpus(folder: Path, seconds: float = 0.24) -> Path:
    """mp4 files with both streams and `metadata.jsonl`; emotion and sentiment take turns."""
    (folder / "clips").mkdir(parents=True)
    lines = []
    for i, split in enumerate(SPLITS):
        example = make_example(i, split)
        frames = gray_frames(3, 16, 16)
        if i % 2:
            frames = np.flip(frames, axis=0)
        write_video(folder / example["video"], frames, audio=sine(200 + 50 * i, seconds, 16_000))
        lines.append(json.dumps(example, ensure_ascii=False) + "\n")
    (folder / "metadata.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


def make_example(i: int, split: str) -> dict[str, Any]:
    """The metadata of a clip; one clip has no text, another has an earlier turn."""
    is_emotion = i % 2 == 0
    example: dict[str, Any] = {
        "id": f"c{i}",
        "split": split,
        "task": "emotion" if is_emotion else "sentiment",
        "video": f"clips/{i}.mp4",
        "answer": EMOTIONS[i // 2] if is_emotion else round(-3 + 0.5 * i, 1),
    }
    if i != 3:
        example["text"] = f"word {i}"
    if i == 4:
        example["context"] = [["Ann", "Hi."]]
    return example


def write_language_model(folder: Path, model, tokenizer) -> Path:
    """An ordinary `transformers` folder that `AutoModelForCausalLM` and `AutoTokenizer` load."""
    model.config._name_or_path = ""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_whisper(folder: Path) -> Path:
    """A tiny random Whisper and its feature extractor."""
    torch.manual_seed(0)
    AutoModel.from_config(AUDIO_BACKBONES["whisper"]).save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=8, chunk_length=1, hop_length=400).save_pretrained(folder)
    return folder


def tiny_llama(tokenizer, seed: int = 0):
    """A two-layer random Llama over the tokenizer's vocabulary, float32."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.2,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32)
