"""The phrase bank: enough phrases of every kind, and equal ambiguity in every half and language."""

from collections import Counter

import numpy as np
import pytest

from training.demo.ceilings import SUBSETS, emotion_ceilings
from training.demo.phrases import EMOTIONS, LANGUAGES, PHRASES_FILE, corpus_phrases, phrase_bank, read_phrases


@pytest.fixture(scope="module")
def phrases():
    return read_phrases()


def test_file_has_three_columns_and_known_emotions(phrases):
    lines = PHRASES_FILE.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "language\temotions\ttext"
    assert all(line.count("\t") == 2 for line in lines)
    assert all(set(phrase.emotions) <= set(EMOTIONS) for phrase in phrases)


def test_no_phrase_occurs_twice(phrases):
    texts = [phrase.text for phrase in phrases]
    assert len(texts) == len(set(texts)) == 564
    assert len({phrase.text for phrase in read_phrases(LANGUAGES)}) == 752


@pytest.mark.parametrize(("language", "min_clear", "min_ambiguous"), [("en", 40, 60), ("zh", 20, 30), ("es", 20, 30)])
def test_every_emotion_has_clear_and_ambiguous_phrases(language, min_clear, min_ambiguous):
    emotions = [phrase.emotions for phrase in read_phrases([language])]
    for emotion in EMOTIONS:
        assert emotions.count((emotion,)) >= min_clear
    assert sum(len(fitting) > 1 for fitting in emotions) >= min_ambiguous


def test_bank_is_half_of_the_phrases_and_depends_on_the_seed(phrases):
    bank = phrase_bank(3)
    assert len(phrases) / 2 <= len(bank) <= len(phrases) / 2 + 40  # odd blocks are rounded up
    assert bank == phrase_bank(3)
    assert bank != phrase_bank(4)


def test_phrases_of_a_corpus_follow_its_settings():
    assert corpus_phrases({"seed": 3}) == phrase_bank(3)
    assert corpus_phrases({"seed": 3, "phrase_seed": 4}) == phrase_bank(4)
    assert corpus_phrases({"seed": 3, "languages": ["es"]}) == phrase_bank(3, ["es"])


def test_ambiguity_is_the_same_whichever_half_is_used(phrases):
    ceilings = [emotion_ceilings(bank) for bank in (phrase_bank(3), phrase_bank(4), phrases)]
    values = [[each[subset] for subset in SUBSETS] for each in ceilings]
    assert np.ptp(values, axis=0).max() < 0.015


def test_languages_share_a_bank_equally():
    bank = phrase_bank(3, LANGUAGES)
    assert len(bank) == len(phrase_bank(3))
    emotions = [Counter(phrase.emotions for phrase in bank if phrase.language == language) for language in LANGUAGES]
    assert emotions[0] == emotions[1] == emotions[2]
    assert emotions[0]["joy",] == 10
    one_language = emotion_ceilings([phrase for phrase in bank if phrase.language == "es"])
    assert one_language == pytest.approx(emotion_ceilings(bank))
