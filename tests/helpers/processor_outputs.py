"""Comparisons for tests of the processor: batches, prompts without padding, decoded prompts, reloaded processors."""

from itertools import combinations

import numpy as np
import torch

from processing_egmf import MODALITIES, EGMFProcessor


PROMPT_KEYS = ("input_ids", "attention_mask", "utterance_mask", "text_mask")
MEDIA_KEYS = ("audio_values", "audio_mask", "video_values", "video_mask")
CONTEXT = ["He left.", ("Ann", "Hi.")]
SUBSETS = [subset for size in (1, 2, 3) for subset in combinations(MODALITIES, size)]


def sample_with_everything():
    """Arguments of `prepare` for a sample with text, audio, video, context and answer."""
    rng = np.random.default_rng(0)
    return {
        "text": "I'm fine.",
        "audio_features": rng.normal(size=(3, 6)).astype(np.float32),
        "video_features": rng.normal(size=(2, 5)).astype(np.float32),
        "context": CONTEXT,
        "task": "mosei",
        "answer": 0.5,
        "name": "clip 7",
    }


def decode(processor, ids):
    return processor.tokenizer.decode(ids, clean_up_tokenization_spaces=False)


def assert_same(left, right):
    assert set(left) == set(right)
    for name in left:
        torch.testing.assert_close(left[name], right[name], rtol=0, atol=0, msg=name)


def assert_same_media(left, right):
    left_media = {name: left[name] for name in MEDIA_KEYS if name in left}
    right_media = {name: right[name] for name in MEDIA_KEYS if name in right}
    assert_same(left_media, right_media)


def unpadded_prompt(batch, i):
    """One sample of a batch without the padding of its prompt."""
    real = batch["input_ids"].shape[1] - first_real_token(batch, i)
    return {name: batch[name][i, -real:] for name in (*PROMPT_KEYS, "labels") if name in batch}


def first_real_token(batch, i):
    """Where the left padding of row i ends: the tokenizer begins every text with <s> (0)."""
    return int(torch.where(batch["input_ids"][i] == 0)[0][0])


def reloaded(processor, folder):
    processor.save_pretrained(folder)
    return EGMFProcessor.from_pretrained(folder)
