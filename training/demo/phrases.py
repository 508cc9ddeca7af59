"""The phrase bank of the demo corpus: what a speaker says when the text shows an emotion.

`phrases.tsv` has one phrase per line: its language, the emotions that it fits, and the text. Every phrase was written
for this project. Most fit one emotion; some fit two or three by design ("I can't believe it" may be surprise, joy or
anger, and only voice and face can tell). Lines with the same language and emotions form a block.

    phrases.tsv  ->  blocks (emotions, language)  ->  half of each block, chosen by the seed  ->  bank

Next: `plan.py` draws from the bank, `ceilings.py` computes the best possible accuracy.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np


EMOTIONS = ("neutral", "surprise", "fear", "sadness", "joy", "disgust", "anger")
SPLITS = ("train", "validation", "test")
PHRASES_FILE = Path(__file__).with_name("phrases.tsv")


class Phrase(NamedTuple):
    """A sentence and the emotions that its words may express."""

    text: str
    language: str
    emotions: tuple[str, ...]


def read_phrases() -> list[Phrase]:
    """Read every phrase, in the order of the file."""
    lines = PHRASES_FILE.read_text(encoding="utf-8").splitlines()
    phrases = []
    for line in lines[1:]:  # the first line names the columns
        language, emotions, text = line.split("\t")
        phrases.append(Phrase(text, language, tuple(emotions.split("+"))))
    return phrases


def phrase_bank(seed: int = 0) -> list[Phrase]:
    """Choose the half of the phrases that a corpus uses, with the same share of every block.

    All splits share one bank: speakers and clips are held out of training, phrases are not. With only half of the
    phrases, each occurs in training often enough to be learned from noisy labels.

    Args:
        seed: decides which phrases are used.

    Returns:
        The chosen phrases, in the order of the file.
    """
    rng = np.random.default_rng([seed, 7_001])
    phrases = read_phrases()
    blocks: dict[tuple[tuple[str, ...], str], list[int]] = {}
    for index, phrase in enumerate(phrases):
        blocks.setdefault((phrase.emotions, phrase.language), []).append(index)
    chosen: set[int] = set()
    for indices in blocks.values():
        half = (len(indices) + 1) // 2
        chosen.update(rng.permutation(indices)[:half].tolist())
    return [phrase for index, phrase in enumerate(phrases) if index in chosen]
