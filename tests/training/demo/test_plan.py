"""The plan of the corpus: reproducible, clean splits, cues as reliable as stated."""

import itertools

import numpy as np
import pytest

from training.demo.phrases import EMOTIONS, SPLITS, phrase_bank, read_phrases
from training.demo.plan import RELIABILITIES, plan_corpus, plan_emotion
from training.records import digest_of_json


def test_plan_depends_only_on_the_seed(snippets):
    counts = {"train": 14, "validation": 4, "test": 6}
    plan = plan_corpus(0, counts, snippets)
    assert plan == plan_corpus(0, counts, snippets)
    assert plan.examples != plan_corpus(1, counts, snippets).examples


def test_the_usual_corpus_stays_the_same(snippets):
    """Bit for bit: runs and published figures refer to it."""
    examples = plan_corpus(0, {"train": 70, "validation": 14, "test": 28}, snippets).examples
    assert digest_of_json(examples).startswith("e149face62b926a4")


def test_plan_of_languages_has_one_task():
    examples = plan_corpus(0, {"train": 140, "validation": 7, "test": 7}, (), ("zh", "es")).examples
    assert {example["task"] for example in examples} == {"emotion"}
    spanish = [example["language"] for example in examples].count("es")
    assert 50 < spanish < 104
    assert len({example["language"] for example in examples}) == 2


def test_a_larger_validation_split_leaves_the_other_clips_as_they_are():
    snippets = [
        (score / 10, f"This is rated sentence number {i} {score}.") for i in range(4) for score in range(-40, 41)
    ]
    small = plan_corpus(0, {"train": 70, "validation": 200, "test": 30}, snippets)
    large = plan_corpus(0, {"train": 70, "validation": 250, "test": 30}, snippets)
    assert large.examples[: len(small.examples)] == small.examples
    late = large.examples[len(small.examples) :]
    assert [example["id"] for example in late] == [f"validation_{i:04d}" for i in range(200, 250)]
    assert [example["task"] for example in late].count("emotion") == 30
    texts = [example["text"] for example in large.examples if example["task"] == "sentiment"]
    assert len(texts) == len(set(texts)) == sum(map(len, large.snippets.values()))
    languages = plan_corpus(0, {"train": 7, "validation": 210, "test": 7}, (), ("en",)).examples
    assert len(languages) == 224


def test_clips_of_another_seed_may_have_the_same_phrases(snippets):
    counts = {"train": 140, "validation": 7, "test": 7}
    usual, new = [plan_corpus(seed, counts, snippets, phrase_seed=0).examples for seed in (0, 3)]
    assert usual == plan_corpus(0, counts, snippets).examples
    assert new != usual
    phrases = {phrase.text for phrase in phrase_bank(0)}
    assert {example["text"] for example in new if example["task"] == "emotion"} <= phrases


def test_speakers_and_snippets_do_not_cross_splits(snippets):
    examples = plan_corpus(0, {"train": 70, "validation": 14, "test": 28}, snippets).examples
    sentiment = [example for example in examples if example["task"] == "sentiment"]
    for key, members in (("speaker", examples), ("text", sentiment)):
        values = {split: {example[key] for example in members if example["split"] == split} for split in SPLITS}
        for first, second in itertools.combinations(SPLITS, 2):
            assert not values[first] & values[second]
    texts = [example["text"] for example in sentiment]
    assert len(texts) == len(set(texts))


def test_cues_follow_the_stated_reliabilities():
    rng = np.random.default_rng(0)
    bank = phrase_bank(0)
    examples = [plan_emotion(label, bank, rng) for label in range(7) for _ in range(400)]
    for modality, reliabilities in RELIABILITIES.items():
        for emotion, reliability in zip(EMOTIONS, reliabilities, strict=True):
            hits = [example["cues"][modality] == emotion for example in examples if example["answer"] == emotion]
            assert np.mean(hits) == pytest.approx(reliability, abs=0.1)
    emotions_of = {phrase.text: phrase.emotions for phrase in read_phrases()}
    assert all(example["cues"]["text"] in emotions_of[example["text"]] for example in examples)
