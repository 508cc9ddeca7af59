"""Write a tiny corpus with real clips, and a tiny language model's folder: what the training tests run on.

`write_corpus(folder)` -> 12 rows of two tasks, 6 train, 4 validation, 2 test.
"""

import json
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from tests.helpers.media_files import gray_frames, sine, write_video


EMOTIONS = ("joy", "anger", "sadness", "fear", "neutral", "surprise")
SPLITS = ["train"] * 6 + ["validation"] * 4 + ["test"] * 2


def write_corpus(folder: Path, seconds: float = 0.24) -> Path:
    """mp4 files with both streams and `metadata.jsonl`; emotion and sentiment take turns."""
    (folder / "clips").mkdir(parents=True)
    rows = []
    for i, split in enumerate(SPLITS):
        frames = np.flip(gray_frames(3, 16, 16), axis=0) if i % 2 else gray_frames(3, 16, 16)
        write_video(folder / f"clips/{i}.mp4", frames, audio=sine(200 + 50 * i, seconds, 16_000))
        task = ("emotion", "sentiment")[i % 2]
        answer = EMOTIONS[i // 2] if task == "emotion" else round(-3 + 0.5 * i, 1)
        row = {"id": f"c{i}", "split": split, "task": task, "video": f"clips/{i}.mp4", "answer": answer}
        rows.append(
            row | ({"text": f"word {i}"} if i != 3 else {}) | ({"context": [["Ann", "Hi."]]} if i == 4 else {})
        )
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def write_language_model(folder: Path, model, tokenizer) -> Path:
    """An ordinary `transformers` folder that `AutoModelForCausalLM` and `AutoTokenizer` load."""
    model.config._name_or_path = ""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
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
