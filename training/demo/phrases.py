"""The phrase bank of the demo corpus: what a speaker says when the text shows an emotion.

`phrases.tsv` has one phrase per line: its language, the emotions that it fits, and the text. Every phrase was written
for this project. Most fit one emotion; some fit two or three by design ("I can't believe it" may be surprise, joy or
anger, and only voice and face can tell). Lines with the same language and emotions form a block.

    phrases.tsv  ->  blocks (emotions, language)  ->  half of each block, chosen by the seed  ->  bank

There are twice as many phrases in English as in Chinese and Spanish. A corpus of named languages takes equally many of
each.

Next: `plan.py` draws from the bank, `ceilings.py` computes the best possible accuracy.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


EMOTIONS = ("neutral", "surprise", "fear", "sadness", "joy", "disgust", "anger")
SPLITS = ("train", "validation", "test")
LANGUAGES = ("en", "zh", "es")
DEFAULT_LANGUAGES = ("en", "zh")
PHRASES_FILE = Path(__file__).with_name("phrases.tsv")


class Phrase(NamedTuple):
    """A sentence and the emotions that its words may express."""

    text: str
    language: str
    emotions: tuple[str, ...]


def read_phrases(languages: Sequence[str] = DEFAULT_LANGUAGES) -> list[Phrase]:
    """Read the phrases of some languages, in the order of the file."""
    lines = PHRASES_FILE.read_text(encoding="utf-8").splitlines()
    phrases = []
    for line in lines[1:]:  # the first line names the columns
        language, emotions, text = line.split("\t")
        if language in languages:
            phrases.append(Phrase(text, language, tuple(emotions.split("+"))))
    return phrases


def phrase_bank(seed: int = 0, languages: Sequence[str] | None = None) -> list[Phrase]:
    """Choose the half of the phrases that a corpus uses, with the same share of every block.

    All splits share one bank: speakers and clips are held out of training, phrases are not. With only half of the
    phrases, each occurs in training often enough to be learned from noisy labels.

    Args:
        seed: decides which phrases are used.
        languages: any of LANGUAGES, each with the same number of phrases for every combination of emotions; None for
            English and Chinese with half of the phrases of each.

    Returns:
        The chosen phrases, in the order of the file.
    """
    rng = np.random.default_rng([seed, 7_001])
    phrases = read_phrases(languages or DEFAULT_LANGUAGES)
    blocks: dict[tuple[tuple[str, ...], str], list[int]] = {}
    for index, phrase in enumerate(phrases):
        blocks.setdefault((phrase.emotions, phrase.language), []).append(index)
    halves = {block: (len(indices) + 1) // 2 for block, indices in blocks.items()}
    if languages is not None:
        halves = {block: _smallest_half(halves, emotions=block[0]) for block in blocks}
    chosen: set[int] = set()
    for block, indices in blocks.items():
        chosen.update(rng.permutation(indices)[: halves[block]].tolist())
    return [phrase for index, phrase in enumerate(phrases) if index in chosen]


def corpus_phrases(settings: Mapping[str, Any]) -> list[Phrase]:
    """The phrases of a corpus, by the settings in its `build.json`."""
    return phrase_bank(settings.get("phrase_seed", settings["seed"]), settings.get("languages"))


def _smallest_half(halves: dict[tuple[tuple[str, ...], str], int], emotions: tuple[str, ...]) -> int:
    """The smallest size over the languages of a combination of emotions."""
    return min(size for block, size in halves.items() if block[0] == emotions)
